//! Puts tensors between each other: the parts of a transposed convolution become its result.

use super::{FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site};
use crate::ir::{QuantType, Shape};

/// Operand `i` holds the elements of the result at `starts[i][axis] + position * steps[axis]`. All operands and the result
/// share scale and zero point.
#[derive(Debug, Clone)]
pub struct Interleave {
    /// Shape of the result.
    pub shape: Shape,
    /// Distance of an operand's elements along each axis of the result.
    pub steps: Vec<usize>,
    /// For each operand, where it starts along each axis.
    pub starts: Vec<Vec<usize>>,
}

/// On integers the same.
pub type QInterleave = Interleave;

impl Interleave {
    /// Shape of an operand: as many elements along an axis as there are places for it.
    pub fn part(&self, port: usize) -> Shape {
        let places = |axis: usize| (self.shape.dims()[axis] - self.starts[port][axis]).div_ceil(self.steps[axis]);
        Shape::new((0..self.shape.rank()).map(places).collect::<Vec<_>>())
    }

    fn check(&self, operands: &[&Shape]) -> Result<Shape, String> {
        if operands.len() != self.starts.len() {
            return Err(format!("{} operands for {} places", operands.len(), self.starts.len()));
        }
        let elements: usize = operands.iter().map(|operand| operand.len()).sum();
        match operands.iter().enumerate().find(|(port, operand)| self.part(*port) != ***operand) {
            Some((port, operand)) => Err(format!("operand {port} of shape {operand} should be {}", self.part(port))),
            None if elements != self.shape.len() => {
                Err(format!("{elements} elements do not fill a result of shape {}", self.shape))
            }
            None => Ok(self.shape.clone()),
        }
    }
}

impl FloatOperator for Interleave {
    fn kind(&self) -> &'static str {
        "Interleave"
    }

    fn arity(&self) -> Option<usize> {
        Some(self.starts.len())
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        self.check(operands)
    }

    fn shares_params(&self, _port: usize) -> bool {
        true
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn quantize(&self, _site: &Site) -> Result<QuantOp, Problem> {
        Ok(self.clone().into())
    }

    fn describe(&self) -> String {
        format!("steps {:?}", self.steps)
    }
}

impl QuantOperator for Interleave {
    fn kind(&self) -> &'static str {
        "Interleave"
    }

    fn arity(&self) -> Option<usize> {
        Some(self.starts.len())
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        self.check(operands)
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let strides = result.shape.strides();
        let mut y = vec![0; result.shape.len()];
        for (operand, start) in operands.iter().zip(&self.starts) {
            for (flat, &q) in operand.data.iter().enumerate() {
                let index = operand.ty.shape.unravel(flat);
                let at = |axis: usize| (start[axis] + index[axis] * self.steps[axis]) * strides[axis];
                y[(0..strides.len()).map(at).sum::<usize>()] = q;
            }
        }
        y
    }

    fn describe(&self) -> String {
        FloatOperator::describe(self)
    }
}
