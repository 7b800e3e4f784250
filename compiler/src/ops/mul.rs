//! Product of two tensors, with broadcasting (ONNX `Mul`).

use super::add::{evaluate_broadcast, infer_broadcast, scale_by_constant};
use super::import::{NodeImport, Value};
use super::{FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site, weighted};
use crate::diag;
use crate::ir::{Clamp, Interval, Multiplier, QuantType, RealClamp, Shape};

/// `a * b`.
#[derive(Debug, Clone)]
pub struct Mul {
    /// Fused activation.
    pub clamp: RealClamp,
}

/// `clamp(y_zero + multiplier((a - a_zero) * (b - b_zero)))`.
#[derive(Debug, Clone)]
pub struct QMul {
    /// Zero points of the operands.
    pub zeros: [i32; 2],
    /// From product to result.
    pub multiplier: Multiplier,
    /// The integer that stands for 0 in the result.
    pub output_zero: i32,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// Imports `Mul`.
pub fn import_mul(cx: &mut NodeImport) -> diag::Result<()> {
    let product = match (cx.input(0)?, cx.input(1)?) {
        (_, Value::Constant(_)) => {
            let (x, c) = (cx.activation(0)?, cx.float_constant(1)?);
            scale_by_constant(cx, x, c)?
        }
        (Value::Constant(_), _) => {
            let (c, x) = (cx.float_constant(0)?, cx.activation(1)?);
            scale_by_constant(cx, x, c)?
        }
        _ => {
            let (a, b) = (cx.activation(0)?, cx.activation(1)?);
            cx.emit(Mul { clamp: RealClamp::NONE }, &[a, b])?
        }
    };
    cx.define(0, product);
    Ok(())
}

impl FloatOperator for Mul {
    fn kind(&self) -> &'static str {
        "Mul"
    }

    fn arity(&self) -> Option<usize> {
        Some(2)
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_broadcast(operands)
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let (a, b, y) = (site.operand_params(0)?, site.operand_params(1)?, site.result_params());
        let factor = a.scale.get() * b.scale.get() / y.scale.get();
        let multiplier = Multiplier::new(factor)
            .filter(|multiplier| multiplier.accepts(Interval::new(-255 * 255, 255 * 255)))
            .ok_or_else(weighted::too_narrow)?;
        let clamp = self.clamp.quantize(y, site.result.dtype);
        Ok(QMul { zeros: [a.zero_point, b.zero_point], multiplier, output_zero: y.zero_point, clamp }.into())
    }

    fn describe(&self) -> String {
        format!("clamp {}", self.clamp)
    }

    fn clamp_mut(&mut self) -> Option<&mut RealClamp> {
        Some(&mut self.clamp)
    }
}

impl QuantOperator for QMul {
    fn kind(&self) -> &'static str {
        "Mul"
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
            let product = (a - self.zeros[0]) * (b - self.zeros[1]);
            self.clamp.apply(self.output_zero + self.multiplier.apply(product))
        })
    }

    fn describe(&self) -> String {
        let [a, b] = self.zeros.map(|zero| -zero);
        format!("(a{a:+})*(b{b:+}) * {}, y{:+} clamp {}", self.multiplier, self.output_zero, self.clamp)
    }

    fn accumulator(&self) -> Option<Interval> {
        let reach = |zero: i32| (-128 - zero, 127 - zero);
        let ((a_lo, a_hi), (b_lo, b_hi)) = (reach(self.zeros[0]), reach(self.zeros[1]));
        let products = [a_lo * b_lo, a_lo * b_hi, a_hi * b_lo, a_hi * b_hi];
        products.into_iter().map(Interval::point).reduce(Interval::hull)
    }
}
