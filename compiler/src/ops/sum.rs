//! Sum and mean of any number of tensors, element by element, with broadcasting (ONNX `Sum`, `Mean`).

use super::add::import_add;
use super::extreme::{evaluate_broadcast_all, infer_broadcast_all};
use super::fixed_sum::{FixedSum, Precision, RealSum};
use super::import::NodeImport;
use super::{FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{Clamp, QuantType, RealClamp, Shape};

/// `factor * (sum of the operands)`.
#[derive(Debug, Clone)]
pub struct Sum {
    /// 1, or one by the number of operands.
    pub factor: f64,
    /// Fused activation.
    pub clamp: RealClamp,
}

/// `clamp((sum of q[i] * factors[i] + offset) >> shift)`.
#[derive(Debug, Clone)]
pub struct QSum {
    /// A factor for each operand, and the offset.
    pub sum: FixedSum,
    /// Fractional bits, width of the sum.
    pub precision: Precision,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// Imports `Sum`.
pub fn import_sum(cx: &mut NodeImport) -> diag::Result<()> {
    if cx.input_count() == 2 {
        return import_add(cx);
    }
    import(cx, 1.0)
}

/// Imports `Mean`.
pub fn import_mean(cx: &mut NodeImport) -> diag::Result<()> {
    let count = cx.input_count().max(1);
    import(cx, 1.0 / count as f64)
}

fn import(cx: &mut NodeImport, factor: f64) -> diag::Result<()> {
    let operands = (0..cx.input_count()).map(|port| cx.activation(port)).collect::<diag::Result<Vec<_>>>()?;
    match operands[..] {
        [] => Err(cx.invalid("it has no inputs")),
        [only] => {
            cx.define(0, only);
            Ok(())
        }
        _ => cx.finish(0, Sum { factor, clamp: RealClamp::NONE }, &operands).map(drop),
    }
}

impl FloatOperator for Sum {
    fn kind(&self) -> &'static str {
        "Sum"
    }

    fn arity(&self) -> Option<usize> {
        None
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_broadcast_all(operands)
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let y = site.result_params();
        let term = |port: usize| {
            let x = site.operand_params(port)?;
            Ok((self.factor * x.scale.get() / y.scale.get(), x.zero_point))
        };
        let terms = (0..site.operands.len()).map(term).collect::<Result<Vec<_>, Problem>>()?;
        let sum = RealSum { terms, extra: 0.0 };
        let precision = Precision::choose(std::slice::from_ref(&sum), &site.operands, site.result, site.numerics)?;
        let sum = FixedSum::new(&sum, y.zero_point, precision.shift).ok_or_else(super::weighted::too_narrow)?;
        Ok(QSum { sum, precision, clamp: self.clamp.quantize(y, site.result.dtype) }.into())
    }

    fn describe(&self) -> String {
        format!("*{:?}, clamp {}", self.factor, self.clamp)
    }

    fn clamp_mut(&mut self) -> Option<&mut RealClamp> {
        Some(&mut self.clamp)
    }
}

impl QuantOperator for QSum {
    fn kind(&self) -> &'static str {
        "Sum"
    }

    fn arity(&self) -> Option<usize> {
        None
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_broadcast_all(operands)
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        evaluate_broadcast_all(operands, &result.shape, |values| self.sum.apply(values, self.precision, self.clamp))
    }

    fn describe(&self) -> String {
        let factors: Vec<String> =
            self.sum.factors.iter().enumerate().map(|(i, factor)| format!("x{i}*{factor}")).collect();
        let bits = if self.precision.wide { 64 } else { 32 };
        format!(
            "({} {:+}) >> {} in {bits} bits, clamp {}",
            factors.join(" + "),
            self.sum.offset,
            self.precision.shift,
            self.clamp
        )
    }
}
