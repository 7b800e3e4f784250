//! Recognises `x * f(x)` (SiLU, HardSwish and the like written out) as one function of `x`.

use crate::ir::{Float, Graph, NodeId, RealClamp};
use crate::ops::FloatOp;
use crate::ops::unary::{Unary, UnaryFn};

/// Runs the pass.
pub fn run(graph: &mut Graph<Float>) -> bool {
    let ids = graph.topological();
    ids.into_iter().filter(|&id| graph.contains(id) && fuse(graph, id).is_some()).count() > 0
}

fn fuse(graph: &mut Graph<Float>, id: NodeId) -> Option<()> {
    let FloatOp::Mul(product) = &graph.node(id).op else { return None };
    let clamp = product.clamp;
    let [a, b] = graph.operands(id)[..] else { return None };
    let (x, gate) = [(a, b), (b, a)].into_iter().find(|&(x, gate)| {
        matches!(graph.node(gate).op, FloatOp::Unary(_))
            && graph.operands(gate) == [x]
            && graph.sole_consumer(gate) == Some(id)
    })?;
    let FloatOp::Unary(function) = graph.node(gate).op.clone() else { return None };
    let mut chain = vec![UnaryFn::Gated(function.chain)];
    if clamp != RealClamp::NONE {
        chain.push(UnaryFn::Clamp(clamp));
    }
    let origin = graph.node(gate).origin.clone();
    graph.set_operands(id, &[x]);
    graph.remove(gate);
    let node = graph.node_mut(id);
    node.op = Unary { chain }.into();
    node.origin = super::joined(origin, std::mem::take(&mut node.origin));
    Some(())
}
