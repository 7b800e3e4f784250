//! Joins neighbouring transposes and neighbouring reshapes, and drops those that change nothing.

use super::{absorb_producer, sole_operand};
use crate::ir::{Float, Graph, NodeId};
use crate::ops::FloatOp;
use crate::ops::transpose::Transpose;

/// Runs the pass.
pub fn run(graph: &mut Graph<Float>) -> bool {
    let mut changed = false;
    for id in graph.topological() {
        if graph.contains(id) {
            changed |= join(graph, id);
            changed |= drop_identity(graph, id);
        }
    }
    changed
}

fn join(graph: &mut Graph<Float>, id: NodeId) -> bool {
    let Some(before) = sole_operand(graph, id) else { return false };
    let joined = match (&graph.node(before).op, &graph.node(id).op) {
        (FloatOp::Transpose(first), FloatOp::Transpose(second)) => {
            Transpose { order: second.order.iter().map(|&axis| first.order[axis]).collect() }.into()
        }
        (FloatOp::Reshape(_), FloatOp::Reshape(second)) => FloatOp::Reshape(second.clone()),
        _ => return false,
    };
    graph.node_mut(id).op = joined;
    absorb_producer(graph, before, id);
    true
}

fn drop_identity(graph: &mut Graph<Float>, id: NodeId) -> bool {
    let [operand] = graph.operands(id)[..] else { return false };
    let node = graph.node(id);
    let identity = match &node.op {
        FloatOp::Transpose(transpose) => transpose.order.iter().copied().eq(0..transpose.order.len()),
        FloatOp::Reshape(_) => graph.node(operand).value == node.value,
        _ => false,
    };
    // An output that would be an input keeps its node: somebody has to copy.
    if !identity || (graph.is_output(id) && (graph.inputs().contains(&operand) || graph.is_output(operand))) {
        return false;
    }
    graph.replace_uses(id, operand);
    graph.remove(id);
    true
}
