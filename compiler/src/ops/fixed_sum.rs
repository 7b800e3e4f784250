//! Weighted sums of quantized values with one rounding: the arithmetic of Add, Sub and per-channel affine maps.

use super::{Problem, weighted};
use crate::ir::{Clamp, Interval, Numerics, QuantType, Rounding, round_half_even};

/// 32-bit sums with a result of 8 bits keep at least this many fractional bits; otherwise 64 bits are used.
const MIN_SHIFT: u32 = 14;

/// The same for results of 16 bits, whose operands are as wide: 32 bits are hardly ever enough.
const MIN_SHIFT_16: u32 = 20;

/// Most fractional bits.
const MAX_SHIFT: u32 = 30;

/// `clamp((sum of q[i] * factors[i] + offset) >> shift)`. The offset holds the zero points and one half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedSum {
    /// One for each operand, with `shift` fractional bits.
    pub factors: Vec<i32>,
    /// Added once, with `shift` fractional bits.
    pub offset: i64,
}

/// A sum of reals in units of the result's step: `sum of ratio * (q - zero) + extra`.
#[derive(Debug, Clone)]
pub struct RealSum {
    /// Operand step divided by the result's step (negative to subtract), and the operand's zero point.
    pub terms: Vec<(f64, i32)>,
    /// A constant, in steps of the result.
    pub extra: f64,
}

/// Fractional bits, rounding and width of a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// Fractional bits.
    pub shift: u32,
    /// Whether the sum needs 64 bits.
    pub wide: bool,
    /// Whether ties go to even instead of up.
    pub even: bool,
}

impl Precision {
    /// The most fractional bits with which all of `sums` of operands of these types fit 32 bits, with common bounds for
    /// factors and offsets; 64 bits if 32 are not precise enough. As ONNX Runtime rounds: always 64, with ties to even.
    pub fn choose(
        sums: &[RealSum],
        operands: &[&QuantType],
        result: &QuantType,
        numerics: Numerics,
    ) -> Result<Precision, Problem> {
        let output_zero = result.params().map_or(0, |params| params.zero_point);
        let operands: Vec<Interval> = operands.iter().map(|operand| operand.dtype.interval()).collect();
        let fits = |shift: u32, limit: i64| {
            let sums: Option<Vec<FixedSum>> = sums.iter().map(|sum| FixedSum::new(sum, output_zero, shift)).collect();
            sums.is_some_and(|sums| reach(&sums, &operands) <= i128::from(limit))
        };
        let even = numerics == Numerics::Ort;
        let least = if result.dtype.bits() > 8 { MIN_SHIFT_16 } else { MIN_SHIFT };
        let narrow = (least..=MAX_SHIFT).rev().find(|&shift| !even && fits(shift, i64::from(i32::MAX)));
        if let Some(shift) = narrow {
            return Ok(Precision { shift, wide: false, even });
        }
        let lowest = u32::from(even);
        let wide = (lowest..=MAX_SHIFT).rev().find(|&shift| fits(shift, i64::MAX >> 1));
        wide.map(|shift| Precision { shift, wide: true, even }).ok_or_else(weighted::too_narrow)
    }

    /// The integer that a sum, which holds one half, becomes.
    pub fn round(self, sum: i64) -> i64 {
        match self.even {
            true => Rounding::half_even(self.shift).apply(sum - (1 << (self.shift - 1))),
            false => sum >> self.shift,
        }
    }
}

impl FixedSum {
    /// The sum with `shift` fractional bits; `None` if a factor or the offset is out of reach.
    pub fn new(sum: &RealSum, output_zero: i32, shift: u32) -> Option<FixedSum> {
        let one = f64::from(1u32 << shift);
        let half = (1i64 << shift) >> 1;
        let extra = sum.extra * one;
        if extra.abs() > 2f64.powi(60) {
            return None;
        }
        let mut offset = round_half_even(extra) + (i64::from(output_zero) << shift) + half;
        let mut factors = vec![];
        for &(ratio, zero) in &sum.terms {
            let factor = i32::try_from(round_half_even(ratio * one)).ok()?;
            offset -= i64::from(factor) * i64::from(zero);
            factors.push(factor);
        }
        Some(FixedSum { factors, offset })
    }

    /// The result for these operands.
    pub fn apply(&self, operands: &[i32], precision: Precision, clamp: Clamp) -> i32 {
        let products = operands.iter().zip(&self.factors).map(|(&q, &factor)| i64::from(q) * i64::from(factor));
        let steps = precision.round(products.sum::<i64>() + self.offset);
        // The clamp's bounds are `i32`, so the result is.
        steps.clamp(i64::from(clamp.lo), i64::from(clamp.hi)) as i32
    }
}

/// Bound of every partial result of any of the sums.
fn reach(sums: &[FixedSum], operands: &[Interval]) -> i128 {
    let offset = sums.iter().map(|sum| i128::from(sum.offset.abs())).max().unwrap_or(0);
    let factor = |port: usize| sums.iter().map(|sum| i128::from(sum.factors[port]).abs()).max().unwrap_or(0);
    let products = operands.iter().enumerate().map(|(port, q)| factor(port) * q.lo.abs().max(q.hi.abs()));
    offset + products.sum::<i128>()
}
