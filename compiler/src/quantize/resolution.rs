//! Warns of inputs for which 8 bits with one scale are too coarse.
//!
//! The typical case is a vector of features in different units: the step follows from the largest, and the smallest
//! hardly ever leave the integer they start at. Only inputs are examined. Inside the model weights have a scale for
//! each channel, and what the layers lose shows in `ptqc eval`; nothing can undo what the input has lost.

use std::collections::BTreeMap;

use super::params::Assignment;
use crate::calibrate::Ranges;
use crate::diag::{Code, Diagnostic, Diagnostics};
use crate::ir::{Float, Graph, NodeId};

/// An element that stays within so many steps is known to less than two bits.
const FEW_STEPS: f64 = 4.0;

/// Adds a warning for every input of which a quarter of the elements use only a few steps.
pub fn check(
    graph: &Graph<Float>,
    ranges: &Ranges,
    assignment: &BTreeMap<NodeId, Assignment>,
    problems: &mut Diagnostics,
) {
    for &id in graph.inputs() {
        let name = &graph.node(id).name;
        let spread = ranges.entry(name).and_then(|entry| entry.observed?.spread());
        if let (Some(spread), Some(Assignment::Params(params))) = (spread, assignment.get(&id)) {
            let steps = f64::from(spread) / params.scale.get();
            if steps < FEW_STEPS {
                problems.push(warning(name, spread, params.scale.as_f32()));
            }
        }
    }
}

fn warning(name: &str, spread: f32, step: f32) -> Diagnostic {
    Diagnostic::warning(
        Code::LowResolution,
        "8 bits are too coarse for this input: its elements have very different ranges",
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
