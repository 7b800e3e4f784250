//! Inputs for which 8 bits with one scale are too coarse get 16, and a warning.
//!
//! The typical case is a vector of features in different units: the step follows from the largest, and the smallest
//! hardly ever leave the integer they start at. Only inputs are examined. Inside the model weights have a scale for
//! each channel, and what the layers lose shows in `ptqc eval`; nothing can undo what the input has lost.

use std::collections::BTreeMap;

use super::params::Assignment;
use crate::calibrate::Ranges;
use crate::diag::{Code, Diagnostic, Diagnostics};
use crate::ir::{DType, Float, Graph, Node, NodeId, Params, Range};
use crate::ops::FloatOp;

/// An element that stays within so many steps is known to less than two bits.
const FEW_STEPS: f64 = 4.0;

/// Whether a node is an input of which a quarter of the elements would use only a few steps of 8 bits.
pub fn is_wide(node: &Node<Float>, range: Range, ranges: &Ranges) -> bool {
    let is_input = matches!(node.op, FloatOp::Input(_));
    let params = Params::asymmetric_int8(range).filter(|_| is_input);
    params.zip(spread(ranges, &node.name)).is_some_and(|(params, spread)| is_coarse(spread, params))
}

/// The spread of a quarter of the elements over the samples, at most.
fn spread(ranges: &Ranges, name: &str) -> Option<f32> {
    ranges.entry(name)?.observed?.spread()
}

fn is_coarse(spread: f32, params: Params) -> bool {
    f64::from(spread) / params.scale.get() < FEW_STEPS
}

/// Adds a warning for every input of which a quarter of the elements use only a few steps, or would with 8 bits.
pub fn check(
    graph: &Graph<Float>,
    ranges: &Ranges,
    assignment: &BTreeMap<NodeId, Assignment>,
    problems: &mut Diagnostics,
) {
    for &id in graph.inputs() {
        let name = &graph.node(id).name;
        let spread = spread(ranges, name);
        if let (Some(spread), Some(&Assignment::Params(dtype, params))) = (spread, assignment.get(&id)) {
            if is_coarse(spread, params) {
                problems.push(too_coarse(name, dtype, spread, params.scale.as_f32()));
            }
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
