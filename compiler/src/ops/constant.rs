//! A tensor that is known at compile time and used as an operand of an elementwise or moving operator.

use super::{FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site};
use crate::ir::{FloatTensor, QuantType, Shape};

/// A constant of real numbers.
#[derive(Debug, Clone)]
pub struct Constant {
    /// Its values.
    pub tensor: FloatTensor,
}

/// A constant of integers.
#[derive(Debug, Clone)]
pub struct QConstant {
    /// Its shape.
    pub shape: Shape,
    /// Its values, row-major.
    pub data: Vec<i32>,
}

impl FloatOperator for Constant {
    fn kind(&self) -> &'static str {
        "Constant"
    }

    fn arity(&self) -> Option<usize> {
        Some(0)
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, _operands: &[&Shape]) -> Result<Shape, String> {
        Ok(self.tensor.shape.clone())
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let params = site.result_params();
        let quantize = |&value: &f32| params.quantize(f64::from(value), site.result.dtype);
        let data = self.tensor.data.iter().map(quantize).collect();
        Ok(QConstant { shape: self.tensor.shape.clone(), data }.into())
    }
}

impl QuantOperator for QConstant {
    fn kind(&self) -> &'static str {
        "Constant"
    }

    fn arity(&self) -> Option<usize> {
        Some(0)
    }

    fn infer(&self, _operands: &[&Shape]) -> Result<Shape, String> {
        Ok(self.shape.clone())
    }

    fn evaluate(&self, _operands: &[Operand], _result: &QuantType) -> Vec<i32> {
        self.data.clone()
    }
}
