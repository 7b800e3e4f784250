//! From the sums of a dynamic layer to its result: times the scale of this inference, plus the bias.

use super::dynamic_quantize::expect_magnitude;
use super::magnitude::Magnitude;
use super::{Operand, Problem, QuantOperator, weighted};
use crate::ir::{Clamp, QuantType, Shape, round_half_even};

/// `clamp((z * m * factor + offset[c]) >> shift)`: `z` are the sums in 16 bits, `m` is the magnitude of the layer's input.
#[derive(Debug, Clone)]
pub struct DynamicDequantize {
    /// With `shift` fractional bits.
    pub factor: i64,
    /// Bias, zero point and one half for each index of `axis`, with `shift` fractional bits.
    pub offsets: Vec<i64>,
    /// The axis of the channels.
    pub axis: usize,
    /// Fractional bits.
    pub shift: u32,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// Most fractional bits: an offset of 18 bits before the point still leaves the sum room in 64.
const MAX_SHIFT: u32 = 44;

/// Factors are below this: `z * m` has 30 bits.
const FACTOR_END: f64 = (1i64 << 31) as f64;

/// Offsets are below this, so that the sum stays within 63 bits.
const OFFSET_END: f64 = (1i64 << 61) as f64;

impl DynamicDequantize {
    /// For results of `ratio * z * m + bias[c] + zero`, all in steps of the result.
    ///
    /// Errors: a ratio or a bias out of reach, because the result's range is far too narrow for what the layer computes.
    pub fn new((ratio, bias, zero): (f64, &[f64], i32), axis: usize, clamp: Clamp) -> Result<Self, Problem> {
        let largest = bias.iter().fold(0.0f64, |most, bias| most.max(bias.abs())) + 256.0;
        let fits = |shift: &u32| {
            let one = f64::from(*shift).exp2();
            ratio * one < FACTOR_END && largest * one < OFFSET_END
        };
        let shift = (1..=MAX_SHIFT).rev().find(fits).ok_or_else(weighted::too_narrow)?;
        let fixed = |value: f64| round_half_even(value * f64::from(shift).exp2());
        let offset = |bias: &f64| fixed(bias + f64::from(zero)) + (1 << (shift - 1));
        Ok(DynamicDequantize { factor: fixed(ratio), offsets: bias.iter().map(offset).collect(), axis, shift, clamp })
    }
}

impl QuantOperator for DynamicDequantize {
    fn kind(&self) -> &'static str {
        "DynamicDequantize"
    }

    fn arity(&self) -> Option<usize> {
        Some(2)
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        expect_magnitude(operands[1])?;
        match operands[0].dims().get(self.axis) {
            Some(&channels) if channels == self.offsets.len() => Ok(operands[0].clone()),
            _ => Err(format!("axis {} of {} does not have {} channels", self.axis, operands[0], self.offsets.len())),
        }
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let inner: usize = result.shape.dims()[self.axis + 1..].iter().product();
        let m = i64::from(operands[1].data[0].clamp(1, Magnitude::MOST));
        let element = |(flat, &z): (usize, &i32)| {
            let offset = self.offsets[flat / inner % self.offsets.len()];
            self.clamp.apply_wide((i64::from(z) * m * self.factor + offset) >> self.shift)
        };
        operands[0].data.iter().enumerate().map(element).collect()
    }

    fn describe(&self) -> String {
        format!("(z*m*{} + offset[c]) >> {}, clamp {}", self.factor, self.shift, self.clamp)
    }
}
