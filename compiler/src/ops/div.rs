//! Quotient of two tensors, with broadcasting (ONNX `Div`).

use super::add::{evaluate_broadcast, infer_broadcast, scale_by_constant};
use super::import::{NodeImport, Value};
use super::unary::{Plain, Unary, UnaryFn, uniform};
use super::{FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{Clamp, FloatTensor, QuantType, RealClamp, Shape, round_half_even};

/// `a / b`.
#[derive(Debug, Clone)]
pub struct Div {
    /// Fused activation.
    pub clamp: RealClamp,
}

/// `clamp(y_zero + (((a - a_zero) * reciprocals[b + 128] + 2^(shift - 1)) >> shift))` in 64 bits.
///
/// The reciprocals hold the scales, with as many fractional bits as 32 bits allow. A divisor that is 0 stands for anything
/// within half a step of it; the quotient by half a step is taken, with the sign that the divisor's range has.
#[derive(Debug, Clone)]
pub struct QDiv {
    /// The integer that stands for 0 in the dividend.
    pub dividend_zero: i32,
    /// For divisors from -128 to 127.
    pub reciprocals: Vec<i32>,
    /// Fractional bits of the reciprocals.
    pub shift: u32,
    /// The integer that stands for 0 in the result.
    pub output_zero: i32,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// Most fractional bits of a reciprocal.
const MAX_SHIFT: u32 = 40;

/// Imports `Div`.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    match (cx.input(0)?, cx.input(1)?) {
        (_, Value::Constant(_)) => import_constant_divisor(cx),
        (Value::Constant(_), _) if let Some((value, shape)) = uniform(cx, 0)? => {
            let x = cx.activation(1)?;
            let x = super::resample::broadcast_to(cx, x, &shape)?;
            let chain = vec![UnaryFn::Plain(Plain::Reciprocal), UnaryFn::Linear { scale: value, shift: 0.0 }];
            cx.finish(0, Unary { chain }, &[x]).map(drop)
        }
        _ => {
            let operands = [cx.activation(0)?, cx.activation(1)?];
            cx.finish(0, Div { clamp: RealClamp::NONE }, &operands).map(drop)
        }
    }
}

fn import_constant_divisor(cx: &mut NodeImport) -> diag::Result<()> {
    let (x, c) = (cx.activation(0)?, cx.float_constant(1)?);
    let reciprocal: Vec<f32> = c.data.iter().map(|&c| (1.0 / f64::from(c)) as f32).collect();
    if reciprocal.iter().any(|value| !value.is_finite()) {
        return Err(cx.non_finite("it divides by a constant that is 0 or too close to it"));
    }
    let quotient = scale_by_constant(cx, x, FloatTensor::new(c.shape, reciprocal))?;
    cx.define(0, quotient);
    Ok(())
}

impl FloatOperator for Div {
    fn kind(&self) -> &'static str {
        "Div"
    }

    fn arity(&self) -> Option<usize> {
        Some(2)
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_broadcast(operands)
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        site.expect_int8(self.kind())?;
        let (a, b, y) = (site.operand_params(0)?, site.operand_params(1)?, site.result_params());
        let ratio = a.scale.get() / b.scale.get() / y.scale.get();
        let half_step = if b.zero_point < 0 { 0.5 } else { -0.5 };
        let real = |q: i32| match q - b.zero_point {
            0 => ratio / half_step,
            steps => ratio / f64::from(steps),
        };
        let largest = 2.0 * ratio;
        let fits = |shift: &u32| largest * f64::from(*shift).exp2() < f64::from(i32::MAX);
        let shift = (1..=MAX_SHIFT).rev().find(fits).unwrap_or(1);
        let limit = i64::from(i32::MAX);
        let fixed = |q| round_half_even(real(q) * f64::from(shift).exp2()).clamp(-limit, limit) as i32;
        Ok(QDiv {
            dividend_zero: a.zero_point,
            reciprocals: (-128..=127).map(fixed).collect(),
            shift,
            output_zero: y.zero_point,
            clamp: self.clamp.quantize(y, site.result.dtype),
        }
        .into())
    }

    fn describe(&self) -> String {
        format!("clamp {}", self.clamp)
    }

    fn clamp_mut(&mut self) -> Option<&mut RealClamp> {
        Some(&mut self.clamp)
    }
}

impl QuantOperator for QDiv {
    fn kind(&self) -> &'static str {
        "Div"
    }

    fn arity(&self) -> Option<usize> {
        Some(2)
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_broadcast(operands)
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        evaluate_broadcast(operands, &result.shape, |a, b| {
            let product = i64::from(a - self.dividend_zero) * i64::from(self.reciprocals[(b + 128) as usize]);
            let steps = (product + (1 << (self.shift - 1))) >> self.shift;
            let Clamp { lo, hi } = self.clamp;
            // The clamp's bounds are `i32`, so the result is.
            (steps + i64::from(self.output_zero)).clamp(lo.into(), hi.into()) as i32
        })
    }

    fn describe(&self) -> String {
        format!(
            "(a{:+}) * reciprocal[b] >> {}, y{:+} clamp {}",
            -self.dividend_zero, self.shift, self.output_zero, self.clamp
        )
    }
}
