//! Other parameters or another width for the same reals, and linear functions with bounds: what a chain of Relu, Clip and
//! arithmetic with numbers is on 16 bits. On 8 bits it is a table.

use super::fixed_sum::{FixedSum, Precision, RealSum};
use super::{Operand, Problem, QuantOperator, Site, weighted};
use crate::ir::{Clamp, Numerics, QuantType, RealClamp, Shape};

/// `clamp((q * factor + offset) >> shift)`.
#[derive(Debug, Clone)]
pub struct Rescale {
    /// One factor and the offset.
    pub sum: FixedSum,
    /// Fractional bits, width of the sum.
    pub precision: Precision,
    /// Bounds of the result.
    pub clamp: Clamp,
}

impl Rescale {
    /// `clamp(factor * x + addend)` for real `x`.
    ///
    /// Errors: an operand without params; a factor out of reach.
    pub fn new((factor, addend, clamp): (f64, f64, RealClamp), site: &Site) -> Result<Rescale, Problem> {
        let (x, y) = (site.operand_params(0)?, site.result_params());
        let s_out = y.scale.get();
        let sum = RealSum { terms: vec![(factor * x.scale.get() / s_out, x.zero_point)], extra: addend / s_out };
        let precision = Precision::choose(std::slice::from_ref(&sum), &site.operands, site.result, Numerics::Native)?;
        let sum = FixedSum::new(&sum, y.zero_point, precision.shift).ok_or_else(weighted::too_narrow)?;
        Ok(Rescale { sum, precision, clamp: clamp.quantize(y, site.result.dtype) })
    }
}

impl QuantOperator for Rescale {
    fn kind(&self) -> &'static str {
        "Rescale"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        Ok(operands[0].clone())
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn evaluate(&self, operands: &[Operand], _result: &QuantType) -> Vec<i32> {
        operands[0].data.iter().map(|&q| self.sum.apply(&[q], self.precision, self.clamp)).collect()
    }

    fn describe(&self) -> String {
        let bits = if self.precision.wide { 64 } else { 32 };
        let FixedSum { factors, offset } = &self.sum;
        format!("(x*{} {offset:+}) >> {} in {bits} bits, clamp {}", factors[0], self.precision.shift, self.clamp)
    }
}
