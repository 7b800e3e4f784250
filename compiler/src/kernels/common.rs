//! What kernels share: loop nests, requantization.

use super::LayerBuilder;
use crate::ir::{Clamp, Interval, Multiplier, Rounding};
use crate::ops::fits_i32;
use crate::ops::steps::{Steps, THRESHOLDS};
use crate::plan::Dim;
use crate::program::{Affine, Buffer, Cmp, Elem, Expr, FunctionBuilder, Type};

/// Loops over `dims`; the body gets one index for each tensor.
pub fn loops(
    f: &mut FunctionBuilder,
    dims: &[Dim],
    tensors: usize,
    body: &mut dyn FnMut(&mut FunctionBuilder, &[Affine]),
) {
    nested(f, dims, 0, vec![Affine::default(); tensors], body);
}

fn nested(
    f: &mut FunctionBuilder,
    dims: &[Dim],
    depth: usize,
    indices: Vec<Affine>,
    body: &mut dyn FnMut(&mut FunctionBuilder, &[Affine]),
) {
    let Some((dim, inner)) = dims.split_first() else { return body(f, &indices) };
    const NAMES: [&str; 8] = ["i", "j", "k", "l", "m", "n", "o", "p"];
    f.each(NAMES[depth % NAMES.len()], dim.extent, |f, var| {
        let step = |(index, &stride): (Affine, &isize)| index + var.clone() * stride as i64;
        nested(f, inner, depth + 1, indices.into_iter().zip(&dim.strides).map(step).collect(), body);
    });
}

/// The sum of `position * stride` over some axes.
pub fn address(positions: &[Affine], strides: &[usize]) -> Affine {
    positions.iter().zip(strides).fold(Affine::default(), |sum, (at, &stride)| sum + at.clone() * stride as i64)
}

/// From accumulator to result.
#[derive(Debug, Clone, Copy)]
pub struct Requantize {
    /// All values of the accumulator.
    pub bound: Interval,
    /// The largest multiplier: mantissa with its shift applied.
    pub largest: i128,
    /// How products become integers.
    pub rounding: Rounding,
    /// The integer that stands for 0 in the result.
    pub output_zero: i32,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// Multipliers as constant data: 32 bits unless one of them needs a shift to the left.
pub fn multiplier_blob(b: &mut LayerBuilder, multipliers: &[Multiplier]) -> Buffer {
    let factors: Vec<i64> = multipliers.iter().map(|multiplier| multiplier.factor()).collect();
    let wide = factors.iter().any(|&factor| i32::try_from(factor).is_err());
    let shift = multipliers.first().map_or(31, |multiplier| multiplier.rounding().shift);
    let doc = format!("Requantization multipliers, 2^{shift} is one.");
    b.blob("multiplier", &doc, if wide { Elem::I64 } else { Elem::I32 }, factors)
}

impl Requantize {
    /// From accumulators within `bound`, by some of `multipliers`, which round alike.
    pub fn new(bound: Interval, multipliers: &[Multiplier], output_zero: i32, clamp: Clamp) -> Requantize {
        let largest = multipliers.iter().map(|multiplier| i128::from(multiplier.factor())).max().unwrap_or(0);
        let rounding = multipliers.first().map_or(Rounding::NATIVE, |multiplier| multiplier.rounding());
        Requantize { bound, largest, rounding, output_zero, clamp }
    }

    /// Whether accumulator times multiplier fits 64 bits.
    fn fits_product(self) -> bool {
        self.bound.lo.abs().max(self.bound.hi.abs()) * self.largest < i128::from(i64::MAX / 2)
    }

    /// `clamp(output_zero + round(acc * multiplier / 2^shift))`; both are of any signed type.
    pub fn apply(self, f: &mut FunctionBuilder, acc: Expr, multiplier: Expr) -> Expr {
        let multiplier = match multiplier {
            Expr::Const(Type::I64, _) => multiplier,
            other => other.cast(Type::I64),
        };
        let Rounding { shift, even, single } = self.rounding;
        let half = 1i64 << (shift - 1);
        let steps = match (even, self.fits_product()) {
            (true, _) if single => half_even_single(f, acc.cast(Type::I64).mul(multiplier), shift),
            (true, _) => half_even(f, acc.cast(Type::I64).mul(multiplier), shift),
            (false, true) => acc.cast(Type::I64).mul(multiplier).add(Expr::i64(half)).shr(shift),
            (false, false) => in_two_parts(f, acc, multiplier),
        };
        let reach = |acc: i128| ((acc * self.largest + i128::from(half)) >> shift) + i128::from(self.output_zero);
        let (lo, hi) = (reach(self.bound.lo).min(reach(0)), reach(self.bound.hi).max(reach(0)));
        // With a large multiplier the clamp has to come before the narrowing.
        let narrow = fits_i32(Interval::new(lo - 256, hi + 256));
        let ty = if narrow { Type::I32 } else { Type::I64 };
        let steps = f.bind("scaled", ty, if narrow { steps.cast(Type::I32) } else { steps });
        let shifted = match self.output_zero {
            0 => steps,
            zero => steps.add(Expr::Const(ty, i64::from(zero))),
        };
        let result = clamped(shifted, ty, self.clamp);
        if narrow { result } else { result.cast(Type::I32) }
    }
}

/// The integer nearest to `product / 2^shift`, ties to even: one less than a half is added, unless the integer below is
/// odd.
pub fn half_even(f: &mut FunctionBuilder, product: Expr, shift: u32) -> Expr {
    let product = f.bind("product", Type::I64, product);
    let below = f.bind("below", Type::I64, product.clone().shr(shift));
    let odd = below.clone().sub(below.shr(1).mul(Expr::i64(2)));
    let odd = odd.max(Expr::i64(0)).min(Expr::i64(1));
    product.add(odd).add(Expr::i64((1 << (shift - 1)) - 1)).shr(shift)
}

/// The same of a product that is rounded to 24 bits first; see [`Rounding::single`]. `power` is the power of two above the
/// integer's magnitude.
fn half_even_single(f: &mut FunctionBuilder, product: Expr, shift: u32) -> Expr {
    let product = f.bind("product", Type::I64, product);
    let below = f.bind("below", Type::I64, product.clone().shr(shift));
    let odd = below.clone().sub(below.clone().shr(1).mul(Expr::i64(2)));
    let odd = f.bind("odd", Type::I64, odd.max(Expr::i64(0)).min(Expr::i64(1)));
    let magnitude = below.clone().max(Expr::i64(-1).sub(below)).max(Expr::i64(0)).min(Expr::i64(255));
    let magnitude = f.bind("magnitude", Type::I64, magnitude);
    let bit = |bit: u32| {
        let value = Expr::i64(1 << bit);
        Expr::select(Cmp::Lt, magnitude.clone(), value.clone(), Expr::i64(0), value)
    };
    let power = f.bind("power", Type::I64, (0..8).map(bit).fold(Expr::i64(1), Expr::add));
    let close = match shift.checked_sub(25) {
        Some(left) => power.mul(Expr::i64(1 << left)),
        None => power.shr(25 - shift),
    };
    let close = f.bind("close", Type::I64, close);
    let rounded = odd.mul(close.clone().mul(Expr::i64(2)).add(Expr::i64(1))).sub(close);
    product.add(rounded).add(Expr::i64((1 << (shift - 1)) - 1)).shr(shift)
}

/// `(acc * multiplier + 2^30) >> 31` where the product has more than 64 bits; see
/// [`Multiplier::accepts`].
fn in_two_parts(f: &mut FunctionBuilder, acc: Expr, multiplier: Expr) -> Expr {
    let multiplier = f.bind("factor", Type::I64, multiplier);
    let high = f.bind("high", Type::I64, acc.clone().cast(Type::I64).shr(16));
    // Always within the bounds; they let the checker see it.
    let low = acc.cast(Type::I64).sub(high.clone().mul(Expr::i64(1 << 16)));
    let low = clamped(low, Type::I64, Clamp { lo: 0, hi: 0xffff });
    let low = low.mul(multiplier.clone()).add(Expr::i64(1 << 30)).shr(16);
    high.mul(multiplier).add(low).shr(15)
}

/// `value` within `clamp`.
pub fn clamped(value: Expr, ty: Type, clamp: Clamp) -> Expr {
    value.max(Expr::Const(ty, i64::from(clamp.lo))).min(Expr::Const(ty, i64::from(clamp.hi)))
}

/// `value - zero`.
pub fn less(value: Expr, zero: i32) -> Expr {
    if zero == 0 { value } else { value.sub(Expr::i32(i64::from(zero))) }
}

/// The thresholds of a rising function, as constant data of the accumulator's type.
pub fn thresholds(b: &mut LayerBuilder, steps: &Steps, ty: Type) -> Buffer {
    let elem = if ty == Type::I64 { Elem::I64 } else { Elem::I32 };
    let (lo, hi) = (elem.interval().lo as i64, elem.interval().hi as i64);
    let data = steps.thresholds.iter().map(|&threshold| threshold.clamp(lo, hi)).collect();
    b.blob("threshold", "Accumulators at which the result takes a step.", elem, data)
}

/// Number of thresholds that are not greater than `acc`: a binary search that takes the same steps for all values.
pub fn search(f: &mut FunctionBuilder, thresholds: Buffer, acc: &Expr) -> Expr {
    let mut reached = Expr::i32(0);
    let mut half = (THRESHOLDS as i64 + 1) / 2;
    while half > 0 {
        let next = f.lookup(thresholds, reached.clone().add(Expr::i32(half - 1)));
        let more = Expr::select(Cmp::Le, next, acc.clone(), Expr::i32(half), Expr::i32(0));
        reached = f.bind("reached", Type::I32, reached.add(more));
        half /= 2;
    }
    reached
}
