//! An input of the model.

use super::{FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site};
use crate::ir::{QuantType, Shape};

/// A tensor that the caller gives.
#[derive(Debug, Clone)]
pub struct Input {
    /// Its shape.
    pub shape: Shape,
}

/// A quantized tensor that the caller gives.
pub type QInput = Input;

impl FloatOperator for Input {
    fn kind(&self) -> &'static str {
        "Input"
    }

    fn arity(&self) -> Option<usize> {
        Some(0)
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, _operands: &[&Shape]) -> Result<Shape, String> {
        Ok(self.shape.clone())
    }

    fn quantize(&self, _site: &Site) -> Result<QuantOp, Problem> {
        Ok(self.clone().into())
    }
}

impl QuantOperator for Input {
    fn kind(&self) -> &'static str {
        "Input"
    }

    fn arity(&self) -> Option<usize> {
        Some(0)
    }

    fn infer(&self, _operands: &[&Shape]) -> Result<Shape, String> {
        Ok(self.shape.clone())
    }

    fn evaluate(&self, _operands: &[Operand], _result: &QuantType) -> Vec<i32> {
        unreachable!("the evaluator takes inputs from its caller")
    }
}
