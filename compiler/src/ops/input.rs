//! An input of the model.

use super::{FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site};
use crate::ir::{Params, QuantType, Shape};

/// A tensor that the caller gives.
#[derive(Debug, Clone)]
pub struct Input {
    /// Its shape.
    pub shape: Shape,
    /// What it holds.
    pub element: Element,
}

/// What the elements of an input are in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// Real numbers.
    Real,
    /// Integers of more than 8 bits: positions, or numbers like others.
    Integer,
    /// Integers from 0 to 255.
    Byte,
    /// Integers from -128 to 127.
    SignedByte,
    /// Truth values, 0 or 1.
    Truth,
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

    /// Integers of 8 bits stay what they are.
    fn params_rule(&self) -> ParamsRule {
        match self.element {
            Element::Real | Element::Integer => ParamsRule::Own,
            Element::Byte => ParamsRule::Fixed(Params { zero_point: -128, ..Params::integers() }),
            Element::SignedByte | Element::Truth => ParamsRule::Fixed(Params::integers()),
        }
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
