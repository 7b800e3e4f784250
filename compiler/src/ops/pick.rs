//! Elements in any order that is known at compile time (ONNX `GatherElements` and `GatherND` with constant indices).

use super::import::NodeImport;
use super::{FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{QuantType, Shape};

/// Element `i` of the result, row-major, is element `sources[i]` of the operand, row-major.
#[derive(Debug, Clone)]
pub struct Pick {
    /// Shape of the result.
    pub shape: Shape,
    /// Where its elements come from.
    pub sources: Vec<usize>,
    /// Shape of the operand.
    pub operand: Shape,
}

/// On integers the same.
pub type QPick = Pick;

/// Imports `GatherElements` with constant indices.
pub fn import_gather_elements(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let (shape, indices, result) = (cx.shape(x), cx.int_constant(1)?, cx.constant_shape(1)?);
    let axis = cx.axis(cx.int_or("axis", 0)?, shape.rank())?;
    let fits = result.rank() == shape.rank()
        && (0..shape.rank()).all(|other| other == axis || result.dims()[other] <= shape.dims()[other]);
    if !fits {
        return Err(cx.invalid(format!("indices of shape {result} do not fit {shape}")));
    }
    let strides = shape.strides();
    let mut sources = vec![];
    for (flat, &index) in indices.iter().enumerate() {
        let mut at = result.unravel(flat);
        at[axis] = position(cx, index, shape.dims()[axis])?;
        sources.push(at.iter().zip(&strides).map(|(i, stride)| i * stride).sum());
    }
    cx.finish(0, Pick { shape: result, sources, operand: shape }, &[x]).map(drop)
}

/// Imports `GatherND` with constant indices.
pub fn import_gather_nd(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let (shape, indices, index_shape) = (cx.shape(x), cx.int_constant(1)?, cx.constant_shape(1)?);
    let batch = cx.usize_or("batch_dims", 0)?;
    let depth = index_shape.dims().last().copied().unwrap_or(0);
    let fits = batch < index_shape.rank()
        && batch + depth <= shape.rank()
        && index_shape.dims()[..batch] == shape.dims()[..batch]
        && depth > 0;
    if !fits {
        return Err(cx.invalid(format!("indices of shape {index_shape} do not fit {shape}")));
    }
    let strides = shape.strides();
    let inner: usize = shape.dims()[batch + depth..].iter().product();
    let per_batch: usize = index_shape.dims()[batch..index_shape.rank() - 1].iter().product();
    let batch_len: usize = shape.dims()[batch..].iter().product();
    let mut sources = vec![];
    for (number, tuple) in indices.chunks(depth).enumerate() {
        let mut start = number / per_batch * batch_len;
        for (axis, &index) in tuple.iter().enumerate() {
            start += position(cx, index, shape.dims()[batch + axis])? * strides[batch + axis];
        }
        sources.extend(start..start + inner);
    }
    let dims = [&index_shape.dims()[..index_shape.rank() - 1], &shape.dims()[batch + depth..]].concat();
    cx.finish(0, Pick { shape: Shape::new(dims), sources, operand: shape }, &[x]).map(drop)
}

fn position(cx: &NodeImport, index: i64, size: usize) -> diag::Result<usize> {
    let from_start = if index < 0 { index.saturating_add(size as i64) } else { index };
    let position = usize::try_from(from_start).ok().filter(|&position| position < size);
    position.ok_or_else(|| cx.invalid(format!("index {index} is outside of an axis of {size} elements")))
}

impl Pick {
    fn check(&self, operand: &Shape) -> Result<Shape, String> {
        let inside = self.sources.iter().all(|&source| source < operand.len());
        if !inside || self.sources.len() != self.shape.len() || *operand != self.operand {
            return Err(format!("{} elements of {operand} for a result of shape {}", self.sources.len(), self.shape));
        }
        Ok(self.shape.clone())
    }
}

impl FloatOperator for Pick {
    fn kind(&self) -> &'static str {
        "Pick"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        self.check(operands[0])
    }

    fn params_rule(&self) -> ParamsRule {
        ParamsRule::SameAsOperand
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn quantize(&self, _site: &Site) -> Result<QuantOp, Problem> {
        Ok(self.clone().into())
    }

    fn describe(&self) -> String {
        format!("{} elements", self.sources.len())
    }
}

impl QuantOperator for Pick {
    fn kind(&self) -> &'static str {
        "Pick"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        self.check(operands[0])
    }

    fn evaluate(&self, operands: &[Operand], _result: &QuantType) -> Vec<i32> {
        self.sources.iter().map(|&source| operands[0].data[source]).collect()
    }

    fn describe(&self) -> String {
        FloatOperator::describe(self)
    }
}
