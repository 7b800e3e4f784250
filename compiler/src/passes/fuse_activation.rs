//! Moves Relu and Clip into the operator before them, where they cost nothing: the result is clamped anyway.

use super::{absorb_consumer, sole_operand};
use crate::ir::{Float, Graph, NodeId};
use crate::ops::FloatOp;

/// Runs the pass.
pub fn run(graph: &mut Graph<Float>) -> bool {
    let ids = graph.topological();
    ids.into_iter().filter(|&id| graph.contains(id) && fuse(graph, id).is_some()).count() > 0
}

fn fuse(graph: &mut Graph<Float>, id: NodeId) -> Option<()> {
    let FloatOp::Unary(unary) = &graph.node(id).op else { return None };
    let next = unary.as_clamp()?;
    let producer = sole_operand(graph, id)?;
    let clamp = graph.node_mut(producer).op.clamp_mut()?;
    *clamp = clamp.then(next);
    absorb_consumer(graph, producer, id);
    Some(())
}
