//! Inputs for which 8 bits with one scale are too coarse get more, and a warning where that is not enough.
//!
//! The typical case is a vector of features in different units: the step follows from the largest, and the smallest
//! hardly ever leave the integer they start at. Only inputs are examined. Inside the model weights have a scale for
//! each channel, and what the layers lose shows in `ptqc eval`; nothing can undo what the input has lost.

use std::collections::BTreeMap;

use super::params::Assignment;
use crate::calibrate::Ranges;
use crate::diag::{Code, Diagnostic, Diagnostics};
use crate::ir::{DType, Float, Graph, NodeId, Params};
use crate::ops::FloatOp;

/// An element that stays within so many steps is known to less than two bits.
const FEW_STEPS: f64 = 4.0;

/// An element that uses so many steps loses little.
const MANY_STEPS: f64 = 64.0;

/// The type for a node that no type was asked for: `default`, unless it is an input of which a quarter of the elements
/// would use only a few steps. That gets the narrowest type in which these use many; if there is none, the widest that
/// its consumers can read.
pub fn narrowest(graph: &Graph<Float>, id: NodeId, ranges: &Ranges, default: DType) -> DType {
    let node = graph.node(id);
    let spread = spread(ranges, &node.name).filter(|_| matches!(node.op, FloatOp::Input(_)));
    let Some((spread, range)) = spread.zip(ranges.get(&node.name)) else { return default };
    let steps = |dtype| Params::covering(range, dtype).map_or(f64::INFINITY, |params| steps(spread, params));
    if steps(default) >= FEW_STEPS {
        return default;
    }
    let widest = if is_rescaled(graph, id) { DType::I32 } else { DType::I16 };
    let wider = [DType::I16, DType::I32].into_iter().filter(|&dtype| dtype > default && dtype <= widest);
    wider.clone().find(|&dtype| steps(dtype) >= MANY_STEPS).or(wider.max()).unwrap_or(default)
}

/// Whether every use of a tensor is a multiplication with numbers or one number for each channel, as standardisation is:
/// that reads 32 bits.
fn is_rescaled(graph: &Graph<Float>, id: NodeId) -> bool {
    let reads = |&consumer: &NodeId| match &graph.node(consumer).op {
        FloatOp::Affine(_) => true,
        FloatOp::Unary(unary) => unary.as_linear().is_some(),
        FloatOp::Transpose(_) | FloatOp::Reshape(_) | FloatOp::Slice(_) => is_rescaled(graph, consumer),
        _ => false,
    };
    !graph.is_output(id) && graph.consumers(id).iter().all(reads)
}

/// The spread of a quarter of the elements over the samples, at most.
fn spread(ranges: &Ranges, name: &str) -> Option<f32> {
    ranges.entry(name)?.observed?.spread()
}

fn steps(spread: f32, params: Params) -> f64 {
    f64::from(spread) / params.scale.get()
}

/// Adds a warning for every input of which a quarter of the elements use only a few steps, in the type it has.
pub fn check(
    graph: &Graph<Float>,
    ranges: &Ranges,
    assignment: &BTreeMap<NodeId, Assignment>,
    problems: &mut Diagnostics,
) {
    for &id in graph.inputs() {
        let name = &graph.node(id).name;
        let spread = spread(ranges, name);
        if let (Some(spread), Some(&Assignment::Params(dtype, params))) = (spread, assignment.get(&id))
            && steps(spread, params) < FEW_STEPS
        {
            problems.push(too_coarse(name, dtype, spread, params.scale.as_f32()));
        }
    }
}

fn too_coarse(name: &str, dtype: DType, spread: f32, step: f32) -> Diagnostic {
    Diagnostic::warning(
        Code::LowResolution,
        format!("{} bits are too coarse for this input: its elements have very different ranges", dtype.bits()),
    )
    .tensor(name)
    .note(format!(
        "a quarter of its elements vary by no more than {} over the samples, and one step of the integers is {}",
        short(spread),
        short(step)
    ))
    .note("`ptqc eval` tells what that costs")
    .help(
        "bring all elements to a similar range before the model (subtract the mean and divide by the standard \
             deviation of each), calibrate with such samples, and leave out what does the same inside the model",
    )
}

/// Three digits.
fn short(number: f32) -> String {
    let rounded: f32 = format!("{number:.2e}").parse().unwrap_or(number);
    format!("{rounded:?}")
}
