//! Numbers with rules: ranges, scales, zero points, multipliers, clamps.
//!
//! Everything is computed in `f64` and integers on the host; emitted code only ever sees the integers.

use std::fmt;

use super::{DType, Interval};

/// Smallest and largest real value a tensor takes. Finite, contains 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    min: f32,
    max: f32,
}

impl Range {
    /// The smallest range that contains `min`, `max` and 0; `None` unless both are finite and in order.
    pub fn new(min: f32, max: f32) -> Option<Range> {
        (min.is_finite() && max.is_finite() && min <= max).then(|| Range { min: min.min(0.0), max: max.max(0.0) })
    }

    /// The lower end, at most 0.
    pub fn min(self) -> f32 {
        self.min
    }

    /// The upper end, at least 0.
    pub fn max(self) -> f32 {
        self.max
    }

    /// The smallest range that contains both.
    pub fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// Both ends times `factor`, which is positive; ends that no `f32` holds become the largest.
    pub fn scaled(self, factor: f32) -> Range {
        let end = |end: f32| (end * factor).clamp(f32::MIN, f32::MAX);
        Range { min: end(self.min), max: end(self.max) }
    }

    /// Largest absolute value.
    pub fn magnitude(self) -> f32 {
        self.max.max(-self.min)
    }
}

/// A quantization step: positive, normal, held with 24 bits of precision so that host code and other
/// runtimes, which store scales as `f32`, mean exactly the same number.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Scale(f32);

impl Scale {
    /// `value` rounded to `f32`; `None` unless that is positive, finite and normal.
    pub fn new(value: f64) -> Option<Scale> {
        let value = value as f32;
        (value.is_normal() && value > 0.0).then_some(Scale(value))
    }

    /// The scale as an exact `f64`.
    pub fn get(self) -> f64 {
        f64::from(self.0)
    }

    /// The scale as it is printed.
    pub fn as_f32(self) -> f32 {
        self.0
    }
}

/// Scale and zero point of a tensor: `real = scale * (q - zero_point)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Params {
    /// The step.
    pub scale: Scale,
    /// The integer that stands for 0.
    pub zero_point: i32,
}

impl Params {
    /// Asymmetric 8-bit parameters that cover `range` with 256 values; 0 is exact.
    /// `None` if the range is so narrow that no normal scale exists.
    pub fn asymmetric_int8(range: Range) -> Option<Params> {
        let (min, max) = (f64::from(range.min()), f64::from(range.max()));
        let scale = Scale::new((max - min) / 255.0)?;
        let zero_point = round_half_even(-128.0 - min / scale.get()).clamp(-128, 127) as i32;
        Some(Params { scale, zero_point })
    }

    /// Symmetric parameters: the end of `range` that is farther from 0 becomes the largest value of the type, and the
    /// zero point is 0. `None` if the range is so narrow that no normal scale exists.
    pub fn symmetric(range: Range, dtype: DType) -> Option<Params> {
        let scale = Scale::new(f64::from(range.magnitude()) / f64::from(dtype.max()))?;
        Some(Params { scale, zero_point: 0 })
    }

    /// Parameters with which elements of a type cover `range`: asymmetric with up to 8 bits, symmetric with more.
    pub fn covering(range: Range, dtype: DType) -> Option<Params> {
        match dtype {
            DType::I4 | DType::I8 => Params::asymmetric_int8(range),
            DType::I16 | DType::I32 => Params::symmetric(range, dtype),
        }
    }

    /// What these 8-bit parameters are for elements of a type: with more bits the same reals, symmetric. The reach of a
    /// power of two stays one, so that a result between 0 and 1 has a step of `2^-15`.
    pub fn for_type(self, dtype: DType) -> Params {
        match dtype {
            DType::I4 | DType::I8 => self,
            DType::I16 | DType::I32 => {
                let steps = f64::from((128 - self.zero_point).max(128 + self.zero_point));
                let scale = Scale::new(self.scale.get() * steps / -f64::from(dtype.min())).unwrap_or(self.scale);
                Params { scale, zero_point: 0 }
            }
        }
    }

    /// Parameters of results that lie between 0 and 1, such as Softmax and Sigmoid.
    pub fn unit_interval() -> Params {
        Params { scale: Scale(1.0 / 256.0), zero_point: -128 }
    }

    /// Parameters of results that lie between -1 and 1, such as Tanh.
    pub fn symmetric_unit() -> Params {
        Params { scale: Scale(1.0 / 128.0), zero_point: 0 }
    }

    /// Parameters of results that are integers, such as truth values (0 and 1): the integers themselves.
    pub fn integers() -> Params {
        Params { scale: Scale(1.0), zero_point: 0 }
    }

    /// Parameters of a tensor that is 0 everywhere.
    pub fn zero() -> Params {
        Params { scale: Scale(1.0), zero_point: 0 }
    }

    /// `clamp(round_half_even(real / scale) + zero_point)`.
    pub fn quantize(self, real: f64, dtype: DType) -> i32 {
        let steps = round_half_even(real / self.scale.get());
        let q = steps.saturating_add(i64::from(self.zero_point));
        q.clamp(i64::from(dtype.min()), i64::from(dtype.max())) as i32
    }

    /// `scale * (q - zero_point)`.
    pub fn dequantize(self, q: i32) -> f64 {
        self.scale.get() * f64::from(q - self.zero_point)
    }
}

impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}*(q{:+})", self.scale.as_f32(), -self.zero_point)
    }
}

/// Nearest integer, ties to even; saturates at the bounds of `i64`, NaN gives 0.
pub fn round_half_even(value: f64) -> i64 {
    value.round_ties_even() as i64
}

/// Which arithmetic results follow where the real definition leaves a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Numerics {
    /// Fixed shifts that every processor does in one or two instructions; ties go up. At most one step from the real
    /// result, and that in a few of 100,000 elements.
    #[default]
    Native,
    /// ONNX Runtime's scales, which are products and quotients of 32-bit floats, applied exactly; ties go to even. Where
    /// weights are applied, the product is rounded to a 32-bit float before, as its CPU kernels do.
    Ort,
}

impl Numerics {
    /// All profiles.
    pub const ALL: [Numerics; 2] = [Numerics::Native, Numerics::Ort];

    /// Name on the command line and in emitted files.
    pub fn name(self) -> &'static str {
        match self {
            Numerics::Native => "native",
            Numerics::Ort => "ort",
        }
    }
}

/// The real factor of a requantization as integers.
///
/// `apply` is the definition of requantization. Native profile: with `m` the factor,
/// `mantissa = round(m * 2^(31 - left_shift))` and
/// `apply(acc) = ((acc << left_shift) * mantissa + 2^30) >> 31`,
/// a 64-bit product and an arithmetic shift: rounds to nearest, ties up.
/// `left_shift` is 0 unless `m` rounds to 1 or more.
///
/// Exact form: `mantissa = round(m * 2^shift)` and `apply(acc) = acc * mantissa / 2^shift`, ties to even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Multiplier {
    mantissa: i64,
    left_shift: u32,
    rounding: Rounding,
}

/// How a product with `shift` fractional bits becomes an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rounding {
    /// Fractional bits; at least 1.
    pub shift: u32,
    /// Whether ties go to even instead of up.
    pub even: bool,
    /// With ties to even: whether the product is rounded to the 24 bits of a 32-bit float before, so that what comes
    /// close enough to a tie is one. Meant for results of 8 bits: beyond 255 a tie is as close as it is there.
    pub single: bool,
}

impl Rounding {
    /// The native profile's.
    pub const NATIVE: Rounding = Rounding { shift: 31, even: false, single: false };

    /// The nearest integer, ties to even.
    pub const fn half_even(shift: u32) -> Rounding {
        Rounding { shift, even: true, single: false }
    }

    /// The nearest integer.
    pub fn apply(self, product: i64) -> i64 {
        // The quotient of a number of 64 bits.
        self.apply_wide(product.into()) as i64
    }

    /// The nearest integer to a product of any width.
    pub fn apply_wide(self, product: i128) -> i128 {
        let half = 1i128 << (self.shift - 1);
        match self.even {
            false => (product + half) >> self.shift,
            // Less than a half, unless the integer below is odd.
            true => {
                let (below, close) = (product >> self.shift, self.close(product));
                (product + half - 1 - close + (below & 1) * (2 * close + 1)) >> self.shift
            }
        }
    }

    /// How far from a tie a product may be to become one by rounding to 24 bits: half of the last of them.
    fn close(self, product: i128) -> i128 {
        if !self.single {
            return 0;
        }
        let below = product >> self.shift;
        let above = (below.max(-1 - below).min(255) as u32 + 1).next_power_of_two();
        (i128::from(above) << self.shift) >> 25
    }
}

impl Multiplier {
    /// The multiplier nearest to `factor`; `None` unless `0 < factor < 2^30`.
    pub fn new(factor: f64) -> Option<Multiplier> {
        if !(factor > 0.0 && factor < f64::from(1 << 30)) {
            return None;
        }
        (0..31).find_map(|left_shift| {
            let mantissa = round_half_even(factor * f64::from(1u32 << (31 - left_shift)));
            let mantissa = i32::try_from(mantissa).ok()?;
            Some(Multiplier { mantissa: mantissa.into(), left_shift, rounding: Rounding::NATIVE })
        })
    }

    /// The multiplier in its exact form, with so many fractional bits; `None` if it vanishes, or if its product with the
    /// largest `reach` of an accumulator may not fit 64 bits.
    pub fn exact(factor: f64, shift: u32, reach: i64) -> Option<Multiplier> {
        let mantissa = round_half_even(factor * 2f64.powi(i32::try_from(shift).ok()?));
        let fits = i128::from(mantissa) * i128::from(reach.max(1)) < i128::from(i64::MAX / 4);
        let rounding = Rounding::half_even(shift);
        (mantissa > 0 && fits).then_some(Multiplier { mantissa, left_shift: 0, rounding })
    }

    /// The exact form with the product rounded to the 24 bits of a 32-bit float first.
    pub fn in_single_precision(self) -> Multiplier {
        Multiplier { rounding: Rounding { single: true, ..self.rounding }, ..self }
    }

    /// Fractional bits with which every one of these factors keeps the 24 bits of a 32-bit float.
    pub fn exact_shift(factors: impl Iterator<Item = f64>) -> u32 {
        let smallest = factors.filter(|&factor| factor > 0.0).fold(1.0, f64::min);
        // Beyond this a factor vanishes against any accumulator of 32 bits.
        (23 - smallest.log2().floor() as i32).clamp(1, 56) as u32
    }

    /// One half, exactly.
    pub fn half() -> Multiplier {
        Multiplier { mantissa: 1 << 30, left_shift: 0, rounding: Rounding::NATIVE }
    }

    /// The mantissa of the native form: 31 bits, not negative.
    pub fn mantissa(self) -> i32 {
        self.mantissa as i32
    }

    /// The shift to the left before the multiplication.
    pub fn left_shift(self) -> u32 {
        self.left_shift
    }

    /// What the product becomes an integer by.
    pub fn rounding(self) -> Rounding {
        self.rounding
    }

    /// The mantissa with its left shift applied: `((acc << k) * m + 2^30) >> 31` is `(acc * (m << k) + 2^30) >> 31`.
    pub fn factor(self) -> i64 {
        self.mantissa << self.left_shift
    }

    /// Whether [`Multiplier::apply`], or for accumulators of more than 32 bits [`Multiplier::apply_wide`], can be
    /// computed in 64 bits for every accumulator in `bound`.
    ///
    /// `acc << left_shift` has to stay in 32 bits. A wider accumulator is cut into `high * 2^16 + low`, and its result is
    /// `(high * factor + ((low * factor + 2^30) >> 16)) >> 15` with `factor = mantissa << left_shift`, which is exact.
    pub fn accepts(self, bound: Interval) -> bool {
        let narrow = |acc: i128| i32::try_from(acc).is_ok();
        if narrow(bound.lo) && narrow(bound.hi) {
            return narrow(bound.lo << self.left_shift) && narrow(bound.hi << self.left_shift);
        }
        let factor = i128::from(self.mantissa) << self.left_shift;
        let high = bound.lo.abs().max(bound.hi.abs()) >> 16;
        factor < 1 << 45 && (high + 1) * factor < 1 << 61
    }

    /// The same for results of a type: those of more than 8 bits need not be shifted in 32 bits, because no kernel for
    /// bytes computes them.
    pub fn accepts_for(self, bound: Interval, result: DType) -> bool {
        let factor = i128::from(self.mantissa) << self.left_shift;
        let most = bound.lo.abs().max(bound.hi.abs());
        let fits = most * factor < 1 << 62 || factor < 1 << 45 && ((most >> 16) + 1) * factor < 1 << 61;
        self.accepts(bound) || result.bits() > 8 && fits
    }

    /// Requantizes an accumulator.
    pub fn apply(self, acc: i32) -> i32 {
        let steps = self.rounding.apply((i64::from(acc) << self.left_shift) * self.mantissa);
        steps.clamp(i32::MIN.into(), i32::MAX.into()) as i32
    }

    /// The same for an accumulator of any width; the result can have more than 32 bits until it is clamped.
    pub fn apply_wide(self, acc: i64) -> i64 {
        let product = (i128::from(acc) << self.left_shift) * i128::from(self.mantissa);
        self.rounding.apply_wide(product) as i64
    }
}

impl fmt::Display for Multiplier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let even = if self.rounding.even { " to even" } else { "" };
        write!(f, "{}/2^{}{even}", self.mantissa, self.rounding.shift - self.left_shift)
    }
}

/// Bounds of a quantized result, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clamp {
    /// Smallest result.
    pub lo: i32,
    /// Largest result.
    pub hi: i32,
}

impl Clamp {
    /// The bounds of the element type itself.
    pub fn full(dtype: DType) -> Clamp {
        Clamp { lo: dtype.min(), hi: dtype.max() }
    }

    /// The nearest value within the bounds.
    pub fn apply(self, value: i32) -> i32 {
        value.clamp(self.lo, self.hi)
    }

    /// The nearest value within the bounds.
    pub fn apply_wide(self, value: i64) -> i32 {
        // The bounds are `i32`, so the result is.
        value.clamp(i64::from(self.lo), i64::from(self.hi)) as i32
    }
}

impl fmt::Display for Clamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}]", self.lo, self.hi)
    }
}

/// Bounds of a real result: a fused Relu or Clip. Infinite where there is no bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RealClamp {
    /// Smallest result.
    pub lo: f32,
    /// Largest result.
    pub hi: f32,
}

impl RealClamp {
    /// No bound.
    pub const NONE: RealClamp = RealClamp { lo: f32::NEG_INFINITY, hi: f32::INFINITY };

    /// First `self`, then `next`. Like ONNX Clip, the upper bound wins where they cross.
    pub fn then(self, next: RealClamp) -> RealClamp {
        RealClamp { lo: self.lo.max(next.lo).min(next.hi), hi: self.hi.max(next.lo).min(next.hi) }
    }

    /// The bounds as quantized values.
    pub fn quantize(self, params: Params, dtype: DType) -> Clamp {
        let lo = params.quantize(f64::from(self.lo), dtype);
        Clamp { lo, hi: params.quantize(f64::from(self.hi), dtype).max(lo) }
    }
}

impl fmt::Display for RealClamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?}, {:?}]", self.lo, self.hi)
    }
}
