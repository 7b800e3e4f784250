//! Largest and smallest of several tensors, element by element, with broadcasting (ONNX `Max`, `Min`; also `And`, `Or`).

use super::import::{NodeImport, Value};
use super::unary::{Unary, UnaryFn, uniform};
use super::{FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{NodeId, Params, QuantType, RealClamp, Shape};

/// The largest or smallest of the operands. Operands and result share scale and zero point.
#[derive(Debug, Clone)]
pub struct Extreme {
    /// Whether the largest is wanted.
    pub largest: bool,
    /// Whether the operands are truth values.
    pub is_logical: bool,
}

/// On integers the same, since quantization keeps the order.
pub type QExtreme = Extreme;

/// Imports `Max`.
pub fn import_max(cx: &mut NodeImport) -> diag::Result<()> {
    import(cx, true)
}

/// Imports `Min`.
pub fn import_min(cx: &mut NodeImport) -> diag::Result<()> {
    import(cx, false)
}

/// Imports `And`: the smaller of two truth values.
pub fn import_and(cx: &mut NodeImport) -> diag::Result<()> {
    import_logical(cx, false)
}

/// Imports `Or`: the larger of two truth values.
pub fn import_or(cx: &mut NodeImport) -> diag::Result<()> {
    import_logical(cx, true)
}

fn import_logical(cx: &mut NodeImport, largest: bool) -> diag::Result<()> {
    let operands = [cx.activation(0)?, cx.activation(1)?];
    cx.finish(0, Extreme { largest, is_logical: true }, &operands).map(drop)
}

/// Constants that are one number become a clamp of the rest.
fn import(cx: &mut NodeImport, largest: bool) -> diag::Result<()> {
    let mut clamp = RealClamp::NONE;
    let mut operands: Vec<NodeId> = vec![];
    let mut shape = Shape::default();
    for port in 0..cx.input_count() {
        let number = match cx.input(port)? {
            Value::Constant(_) => uniform(cx, port)?,
            Value::Node(_) => None,
        };
        let Some((value, constant)) = number else {
            operands.push(cx.activation(port)?);
            continue;
        };
        let bound = if largest { &mut clamp.lo } else { &mut clamp.hi };
        *bound = if largest { bound.max(value) } else { bound.min(value) };
        shape = shape.broadcast(&constant).ok_or_else(|| cx.shape_mismatch("operands cannot be broadcast together"))?;
    }
    let Some((&first, more)) = operands.split_first() else {
        return Err(cx.invalid("it has no inputs"));
    };
    let joined = if more.is_empty() { first } else { cx.emit(Extreme { largest, is_logical: false }, &operands)? };
    let spread = super::resample::broadcast_to(cx, joined, &shape)?;
    match clamp {
        RealClamp::NONE => cx.define(0, spread),
        _ => cx.finish(0, Unary::new(UnaryFn::Clamp(clamp)), &[spread]).map(drop)?,
    }
    Ok(())
}

/// Shape of an elementwise operation on any number of tensors.
pub fn infer_broadcast_all(operands: &[&Shape]) -> Result<Shape, String> {
    let first = operands.first().ok_or("it has no operands")?;
    operands[1..].iter().try_fold((*first).clone(), |shape, next| {
        shape.broadcast(next).ok_or_else(|| format!("shapes {shape} and {next} cannot be broadcast together"))
    })
}

/// `f` of the operands' elements for every element of the result, with broadcasting.
pub fn evaluate_broadcast_all(operands: &[Operand], result: &Shape, mut f: impl FnMut(&[i32]) -> i32) -> Vec<i32> {
    let strides: Vec<Vec<usize>> = operands.iter().map(|operand| operand.ty.shape.broadcast_strides(result)).collect();
    let mut values = vec![0; operands.len()];
    (0..result.len())
        .map(|flat| {
            let index = result.unravel(flat);
            for ((value, operand), strides) in values.iter_mut().zip(operands).zip(&strides) {
                *value = operand.data[index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>()];
            }
            f(&values)
        })
        .collect()
}

impl FloatOperator for Extreme {
    fn kind(&self) -> &'static str {
        if self.largest { "Max" } else { "Min" }
    }

    fn arity(&self) -> Option<usize> {
        None
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_broadcast_all(operands)
    }

    fn params_rule(&self) -> ParamsRule {
        if self.is_logical { ParamsRule::Fixed(Params::integers()) } else { ParamsRule::Own }
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
}

impl QuantOperator for Extreme {
    fn kind(&self) -> &'static str {
        FloatOperator::kind(self)
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
        evaluate_broadcast_all(operands, &result.shape, |values| {
            let values = values.iter().copied();
            let chosen = if self.largest { values.max() } else { values.min() };
            chosen.unwrap_or(0)
        })
    }
}
