//! What kernels share: loop nests, requantization.

use super::LayerBuilder;
use crate::ir::{Clamp, Interval, Multiplier};
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
    /// The integer that stands for 0 in the result.
    pub output_zero: i32,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// A mantissa with its left shift applied: `((acc << k) * m + 2^30) >> 31` is `(acc * (m << k) + 2^30) >> 31`.
pub fn factor(multiplier: Multiplier) -> i64 {
    i64::from(multiplier.mantissa()) << multiplier.left_shift()
}

/// Multipliers as constant data: 32 bits unless one of them needs a shift to the left.
pub fn multiplier_blob(b: &mut LayerBuilder, multipliers: &[Multiplier]) -> Buffer {
    let factors: Vec<i64> = multipliers.iter().copied().map(factor).collect();
    let wide = factors.iter().any(|&factor| i32::try_from(factor).is_err());
    b.blob("multiplier", "Requantization multipliers, 2^31 is one.", if wide { Elem::I64 } else { Elem::I32 }, factors)
}

impl Requantize {
    /// Whether accumulator times multiplier fits 64 bits.
    fn fits_product(self) -> bool {
        self.bound.lo.abs().max(self.bound.hi.abs()) * self.largest < i128::from(i64::MAX / 2)
    }

    /// `clamp(output_zero + ((acc * multiplier + 2^30) >> 31))`; both are of any signed type.
    pub fn apply(self, f: &mut FunctionBuilder, acc: Expr, multiplier: Expr) -> Expr {
        let multiplier = match multiplier {
            Expr::Const(Type::I64, _) => multiplier,
            other => other.cast(Type::I64),
        };
        let steps = match self.fits_product() {
            true => acc.cast(Type::I64).mul(multiplier).add(Expr::i64(1 << 30)).shr(31),
            false => in_two_parts(f, acc, multiplier),
        };
        let reach = |acc: i128| ((acc * self.largest + (1 << 30)) >> 31) + i128::from(self.output_zero);
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
