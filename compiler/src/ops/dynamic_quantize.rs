//! A tensor of 16 bits in 8, with the scale that the inference itself has found: ONNX's `DynamicQuantizeLinear` without a
//! zero point and without floats.

use super::{Operand, QuantOperator};
use crate::ir::{QuantType, Shape};

/// `x * 127 / m`, rounded: `(x * ((127 << 23) / m) + 2^22) >> 23`. The first operand has 16 bits and the zero point 0, the
/// second is its [`Magnitude`](super::magnitude::Magnitude).
#[derive(Debug, Clone)]
pub struct DynamicQuantize;

impl DynamicQuantize {
    /// Largest magnitude of a result.
    pub const MOST: i32 = i8::MAX as i32;
    /// Fractional bits of the reciprocal.
    pub const SHIFT: u32 = 23;

    /// What `x` is multiplied with where the largest magnitude is `m`.
    pub fn reciprocal(m: i32) -> i64 {
        i64::from((DynamicQuantize::MOST << DynamicQuantize::SHIFT) / m)
    }
}

impl QuantOperator for DynamicQuantize {
    fn kind(&self) -> &'static str {
        "DynamicQuantize"
    }

    fn arity(&self) -> Option<usize> {
        Some(2)
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        expect_magnitude(operands[1])?;
        Ok(operands[0].clone())
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn evaluate(&self, operands: &[Operand], _result: &QuantType) -> Vec<i32> {
        let reciprocal = DynamicQuantize::reciprocal(operands[1].data[0]);
        let half = 1 << (DynamicQuantize::SHIFT - 1);
        let most = i64::from(DynamicQuantize::MOST);
        let quantized = |&x: &i32| {
            let steps = (i64::from(x) * reciprocal + half) >> DynamicQuantize::SHIFT;
            steps.clamp(-most, most) as i32
        };
        operands[0].data.iter().map(quantized).collect()
    }

    fn formula(&self) -> String {
        format!("y = (x * ((127 << {0}) / m) + 2^{1}) >> {0}", DynamicQuantize::SHIFT, DynamicQuantize::SHIFT - 1)
    }
}

/// Checks that an operand is a single number.
pub(super) fn expect_magnitude(operand: &Shape) -> Result<(), String> {
    if operand.len() == 1 { Ok(()) } else { Err(format!("the magnitude has shape {operand}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Params};

    /// Against exact quotients: the nearest integer, or one of the two around a tie that the reciprocal cannot see.
    #[test]
    fn results_are_the_rounded_quotients() {
        let ty = QuantType::real(Shape::new([1]), DType::I16, Params::integers());
        for m in (1..=i32::from(i16::MAX)).step_by(97) {
            for x in (-m..=m).step_by((m as usize / 500).max(1)).chain([-m, m, 0, m / 2]) {
                let [x_data, m_data] = [[x], [m]];
                let [y] = DynamicQuantize.evaluate(&[&x_data, &m_data].map(|data| Operand { ty: &ty, data }), &ty)[..]
                else {
                    panic!()
                };
                let exact = 127.0 * f64::from(x) / f64::from(m);
                assert!((f64::from(y) - exact).abs() <= 0.5 + 0.005, "{x} / {m}: {y} for {exact}");
            }
        }
    }
}
