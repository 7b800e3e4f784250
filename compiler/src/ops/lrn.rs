//! Local response normalisation (ONNX `LRN`).

use super::import::NodeImport;
use super::steps::THRESHOLDS;
use super::{FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site, fits_i32, weighted};
use crate::diag;
use crate::ir::{Clamp, Interval, QuantType, Shape, round_half_even};

/// `x / (bias + alpha / size * (sum of squares of `size` neighbouring channels)) ^ beta`.
#[derive(Debug, Clone)]
pub struct Lrn {
    /// Factor of the mean of squares.
    pub alpha: f64,
    /// Exponent.
    pub beta: f64,
    /// Addend.
    pub bias: f64,
    /// Number of channels, the element's own in the middle.
    pub size: usize,
}

/// `clamp(y_zero + ((x - x_zero) * factors[number of thresholds that the sum of squares reaches] + 2^(shift - 1)) >> shift)`
/// in 64 bits.
#[derive(Debug, Clone)]
pub struct QLrn {
    /// Number of channels.
    pub size: usize,
    /// Sums of squares at which the factor changes.
    pub thresholds: Vec<i32>,
    /// Factors between thresholds.
    pub factors: Vec<i32>,
    /// Fractional bits of the factors.
    pub shift: u32,
    /// The integer that stands for 0 in the input.
    pub input_zero: i32,
    /// The integer that stands for 0 in the result.
    pub output_zero: i32,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// Most fractional bits of a factor.
const MAX_SHIFT: u32 = 30;

/// Imports `LRN`.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let size = cx.usize_or("size", 0)?;
    let (alpha, beta, bias) = (cx.float_or("alpha", 1e-4)?, cx.float_or("beta", 0.75)?, cx.float_or("bias", 1.0)?);
    if size == 0 || cx.shape(x).rank() < 2 || alpha < 0.0 || beta < 0.0 || bias <= 0.0 {
        return Err(cx.unsupported(
            format!("size is {size}, alpha {alpha}, beta {beta}, bias {bias}"),
            "size and bias are positive, alpha and beta not negative",
        ));
    }
    let [alpha, beta, bias] = [alpha, beta, bias].map(f64::from);
    cx.finish(0, Lrn { alpha, beta, bias, size }, &[x]).map(drop)
}

/// The channels whose squares count for one of `channels`.
pub fn neighbours(channel: usize, size: usize, channels: usize) -> std::ops::Range<usize> {
    channel.saturating_sub((size - 1) / 2)..(channel + size / 2 + 1).min(channels)
}

impl FloatOperator for Lrn {
    fn kind(&self) -> &'static str {
        "LRN"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        Ok(operands[0].clone())
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        site.expect_int8(self.kind())?;
        let (x, y) = (site.operand_params(0)?, site.result_params());
        let reach = i64::from((127 - x.zero_point).max(x.zero_point + 128));
        let channels = site.operands[0].shape.dims()[1];
        let most = reach * reach * self.size.min(channels) as i64;
        if !fits_i32(Interval::new(0, most)) {
            return Err(Problem::unsupported(format!("a sum over {} channels does not fit 32 bits", self.size)));
        }
        let slope = self.alpha / self.size as f64 * x.scale.get().powi(2);
        let divisor = |sum: f64| self.bias + slope * sum;
        // Factors change by equal ratios: the logarithm of the divisor is divided evenly.
        let cell = (divisor(most as f64) / self.bias).ln() / (THRESHOLDS + 1) as f64;
        let threshold = |i: usize| match slope {
            0.0 => i32::MAX,
            _ => (self.bias * ((i as f64 * cell).exp() - 1.0) / slope).ceil().min(f64::from(i32::MAX)) as i32,
        };
        let ratio = x.scale.get() / y.scale.get();
        let factor = |i: usize| ratio * (self.bias * ((i as f64 + 0.5) * cell).exp()).powf(-self.beta);
        let fits = |shift: &u32| factor(0) * f64::from(*shift).exp2() < f64::from(i32::MAX);
        let shift = (1..=MAX_SHIFT).rev().find(fits).ok_or_else(weighted::too_narrow)?;
        let fixed = |i| round_half_even(factor(i) * f64::from(shift).exp2()) as i32;
        Ok(QLrn {
            size: self.size,
            thresholds: (1..=THRESHOLDS).map(threshold).collect(),
            factors: (0..=THRESHOLDS).map(fixed).collect(),
            shift,
            input_zero: x.zero_point,
            output_zero: y.zero_point,
            clamp: Clamp::full(site.result.dtype),
        }
        .into())
    }

    fn describe(&self) -> String {
        format!("size {}, alpha {:?}, beta {:?}, bias {:?}", self.size, self.alpha, self.beta, self.bias)
    }
}

impl QuantOperator for QLrn {
    fn kind(&self) -> &'static str {
        "LRN"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        Ok(operands[0].clone())
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let dims = result.shape.dims();
        let (channels, inner) = (dims[1], dims[2..].iter().product::<usize>());
        let data = operands[0].data;
        let element = |flat: usize| {
            let (channel, start) =
                (flat / inner % channels, flat / (inner * channels) * inner * channels + flat % inner);
            let square = |c: usize| (data[start + c * inner] - self.input_zero).pow(2);
            let sum: i32 = neighbours(channel, self.size, channels).map(square).sum();
            let factor = self.factors[self.thresholds.partition_point(|&threshold| threshold <= sum)];
            let product = i64::from(data[flat] - self.input_zero) * i64::from(factor);
            let steps = (product + (1 << (self.shift - 1))) >> self.shift;
            let Clamp { lo, hi } = self.clamp;
            // The clamp's bounds are `i32`, so the result is.
            (steps + i64::from(self.output_zero)).clamp(lo.into(), hi.into()) as i32
        };
        (0..result.shape.len()).map(element).collect()
    }

    fn describe(&self) -> String {
        format!(
            "{} channels, x{:+}, factors {}..{} >> {}, y{:+} clamp {}",
            self.size,
            -self.input_zero,
            self.factors[0],
            self.factors[THRESHOLDS],
            self.shift,
            self.output_zero,
            self.clamp
        )
    }
}
