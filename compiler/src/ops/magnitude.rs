//! The largest magnitude of a tensor: the scale of a dynamic layer's input, found anew in every inference.

use super::{Operand, QuantOperator};
use crate::ir::{QuantType, Shape};

/// `max |x|`, between 1 and [`Magnitude::MOST`]; one element. The operand has 16 bits and the zero point 0.
#[derive(Debug, Clone)]
pub struct Magnitude;

impl Magnitude {
    /// The largest result. The smallest number of 16 bits counts as this, too.
    pub const MOST: i32 = i16::MAX as i32;
}

impl QuantOperator for Magnitude {
    fn kind(&self) -> &'static str {
        "Magnitude"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        Ok(Shape::new(vec![1; operands[0].rank()]))
    }

    fn evaluate(&self, operands: &[Operand], _result: &QuantType) -> Vec<i32> {
        let most = operands[0].data.iter().map(|x| x.abs()).max().unwrap_or(0);
        vec![most.clamp(1, Magnitude::MOST)]
    }

    fn formula(&self) -> String {
        format!("m = clamp(max |x|, 1, {})", Magnitude::MOST)
    }
}
