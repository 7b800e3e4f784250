//! Joins neighbouring functions of one number: together they are one table.

use super::{absorb_producer, sole_operand};
use crate::ir::{Float, Graph, NodeId};
use crate::ops::FloatOp;
use crate::ops::unary::Unary;

/// Runs the pass.
pub fn run(graph: &mut Graph<Float>) -> bool {
    let ids = graph.topological();
    ids.into_iter().filter(|&id| graph.contains(id) && merge(graph, id).is_some()).count() > 0
}

fn merge(graph: &mut Graph<Float>, id: NodeId) -> Option<()> {
    let before = sole_operand(graph, id)?;
    let (FloatOp::Unary(first), FloatOp::Unary(second)) = (&graph.node(before).op, &graph.node(id).op) else {
        return None;
    };
    let chain = first.chain.iter().chain(&second.chain).cloned().collect();
    graph.node_mut(id).op = Unary { chain }.into();
    absorb_producer(graph, before, id);
    Some(())
}
