//! Drops quantizations that the model prescribes and that change nothing: of a tensor that is quantized alike already,
//! and before a clamp whose result is quantized alike, since rounding keeps the order of numbers.

use super::{absorb_producer, sole_operand};
use crate::ir::{Float, Graph, NodeId};
use crate::ops::FloatOp;
use crate::ops::requantize::{Requantize, quantization_of};

/// Runs the pass.
pub fn run(graph: &mut Graph<Float>) -> bool {
    let mut changed = false;
    for id in graph.topological() {
        if graph.contains(id) {
            changed |= drop_repeated(graph, id) || drop_before_clamp(graph, id).is_some();
        }
    }
    changed
}

fn requantize(graph: &Graph<Float>, id: NodeId) -> Option<&Requantize> {
    match &graph.node(id).op {
        FloatOp::Requantize(requantize) => Some(requantize),
        _ => None,
    }
}

/// `id` quantizes what is quantized alike, or what another node quantizes alike.
fn drop_repeated(graph: &mut Graph<Float>, id: NodeId) -> bool {
    let Some(own) = requantize(graph, id) else { return false };
    let operand = graph.operands(id)[0];
    let same = match quantization_of(graph, operand) == Some(own) {
        true => Some(operand),
        false => {
            graph.consumers(operand).into_iter().find(|&other| other < id && requantize(graph, other) == Some(own))
        }
    };
    // An output that would be another output keeps its node: somebody has to copy.
    let Some(same) = same.filter(|&same| !(graph.is_output(id) && graph.is_output(same))) else { return false };
    graph.replace_uses(id, same);
    graph.remove(id);
    true
}

/// `id` clamps what is quantized like its own result.
fn drop_before_clamp(graph: &mut Graph<Float>, id: NodeId) -> Option<()> {
    let FloatOp::Unary(unary) = &graph.node(id).op else { return None };
    unary.as_clamp()?;
    let before = sole_operand(graph, id)?;
    let behind = graph.sole_consumer(id)?;
    // Else nothing would be won, and the tensor before would have no parameters.
    let producer = sole_operand(graph, before)?;
    graph.node(producer).op.clone().clamp_mut()?;
    let same = requantize(graph, before)? == requantize(graph, behind)?;
    same.then(|| absorb_producer(graph, before, id))
}
