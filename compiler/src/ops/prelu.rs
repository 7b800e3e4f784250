//! Rectifier with slopes below 0 (ONNX `PRelu`).

use super::add::infer_broadcast;
use super::fixed_sum::{FixedSum, Precision, RealSum};
use super::import::NodeImport;
use super::unary::{Unary, UnaryFn, uniform};
use super::{FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site, weighted};
use crate::diag;
use crate::ir::{Clamp, FloatTensor, QuantType, Shape};

/// `x` if `x >= 0`, else `slope * x`; the slopes are broadcast to `x`.
#[derive(Debug, Clone)]
pub struct PRelu {
    /// Slopes below 0.
    pub slope: FloatTensor,
}

/// `clamp(((x - x_zero) * factor + offset) >> shift)`; the factor depends on the sign of `x - x_zero`.
#[derive(Debug, Clone)]
pub struct QPRelu {
    /// Factor of what is not negative; the offset is that of all.
    pub positive: FixedSum,
    /// Shape of the factors of what is negative.
    pub shape: Shape,
    /// Factors of what is negative, row-major.
    pub negative: Vec<i32>,
    /// The integer that stands for 0 in the input.
    pub input_zero: i32,
    /// Fractional bits, width of the sum.
    pub precision: Precision,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// Imports `PRelu` with constant slopes.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let slope = cx.float_constant(1)?;
    if let Some((slope, shape)) = uniform(cx, 1)?
        && shape.rank() <= cx.shape(x).rank()
    {
        return cx.finish(0, Unary::new(UnaryFn::LeakyRelu { slope }), &[x]).map(drop);
    }
    cx.finish(0, PRelu { slope }, &[x]).map(drop)
}

fn infer(operand: &Shape, slope: &Shape) -> Result<Shape, String> {
    let shape = infer_broadcast(&[operand, slope])?;
    if shape == *operand { Ok(shape) } else { Err(format!("slopes of shape {slope} do not fit {operand}")) }
}

impl FloatOperator for PRelu {
    fn kind(&self) -> &'static str {
        "PRelu"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands[0], &self.slope.shape)
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let (x, y) = (site.operand_params(0)?, site.result_params());
        let ratio = x.scale.get() / y.scale.get();
        // `x - x_zero` takes twice the values of `x`, which counting the factor twice stands for.
        let sum = |slope: f64| RealSum { terms: vec![(ratio * slope, 0); 2], extra: 0.0 };
        let slopes = self.slope.data.iter().map(|&slope| f64::from(slope));
        let sums: Vec<RealSum> = slopes.chain([1.0]).map(sum).collect();
        let precision = Precision::choose(&sums, &[site.operands[0]; 2], site.result, site.numerics)?;
        let fixed = sums.iter().map(|sum| FixedSum::new(sum, y.zero_point, precision.shift));
        let mut fixed = fixed.collect::<Option<Vec<_>>>().ok_or_else(weighted::too_narrow)?;
        let mut positive = fixed.pop().ok_or_else(weighted::too_narrow)?;
        positive.factors.truncate(1);
        Ok(QPRelu {
            positive,
            shape: self.slope.shape.clone(),
            negative: fixed.iter().map(|sum| sum.factors[0]).collect(),
            input_zero: x.zero_point,
            precision,
            clamp: Clamp::full(site.result.dtype),
        }
        .into())
    }

    fn describe(&self) -> String {
        format!("slopes {}", self.slope.shape)
    }
}

impl QuantOperator for QPRelu {
    fn kind(&self) -> &'static str {
        "PRelu"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands[0], &self.shape)
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let strides = self.shape.broadcast_strides(&result.shape);
        let slope = |flat: usize| {
            let index = result.shape.unravel(flat);
            self.negative[index.iter().zip(&strides).map(|(i, stride)| i * stride).sum::<usize>()]
        };
        let element = |(flat, &q): (usize, &i32)| {
            let x = q - self.input_zero;
            let factor = if x < 0 { slope(flat) } else { self.positive.factors[0] };
            FixedSum { factors: vec![factor], ..self.positive }.apply(&[x], self.precision, self.clamp)
        };
        operands[0].data.iter().enumerate().map(element).collect()
    }

    fn describe(&self) -> String {
        let bits = if self.precision.wide { 64 } else { 32 };
        format!(
            "((x{:+}) * ({} or {} slopes) {:+}) >> {} in {bits} bits, clamp {}",
            -self.input_zero,
            self.positive.factors[0],
            self.negative.len(),
            self.positive.offset,
            self.precision.shift,
            self.clamp
        )
    }
}
