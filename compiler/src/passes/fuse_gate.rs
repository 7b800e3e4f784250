//! Recognises sums and products of two functions of the same tensor (SiLU, HardSwish, GELU and the like written out) as
//! one function of it.

use crate::ir::{Float, Graph, NodeId, RealClamp};
use crate::ops::FloatOp;
use crate::ops::unary::{Join, Unary, UnaryFn};

/// Runs the pass.
pub fn run(graph: &mut Graph<Float>) -> bool {
    let ids = graph.topological();
    ids.into_iter().filter(|&id| graph.contains(id) && fuse(graph, id).is_some()).count() > 0
}

fn fuse(graph: &mut Graph<Float>, id: NodeId) -> Option<()> {
    let (join, clamp) = match &graph.node(id).op {
        FloatOp::Mul(product) => (Join::Multiply, product.clamp),
        FloatOp::Add(sum) if sum.subtract => (Join::Subtract, sum.clamp),
        FloatOp::Add(sum) => (Join::Add, sum.clamp),
        _ => return None,
    };
    let [a, b] = graph.operands(id)[..] else { return None };
    let (x, a_chain, b_chain) = common_source(graph, id, a, b)?;
    let mut chain = vec![joined(join, a_chain, b_chain)];
    if clamp != RealClamp::NONE {
        chain.push(UnaryFn::Clamp(clamp));
    }
    let mut origin = vec![];
    for operand in [a, b].into_iter().filter(|&operand| operand != x) {
        origin = super::joined(origin, graph.node(operand).origin.clone());
    }
    graph.set_operands(id, &[x]);
    for operand in [a, b] {
        if operand != x && graph.contains(operand) {
            graph.remove(operand);
        }
    }
    let node = graph.node_mut(id);
    node.op = Unary { chain }.into();
    node.origin = super::joined(origin, std::mem::take(&mut node.origin));
    Some(())
}

/// The tensor that both operands are functions of, and the functions: empty chains for the tensor itself.
fn common_source(
    graph: &Graph<Float>,
    id: NodeId,
    a: NodeId,
    b: NodeId,
) -> Option<(NodeId, Vec<UnaryFn>, Vec<UnaryFn>)> {
    let behind = |operand: NodeId| {
        let FloatOp::Unary(unary) = &graph.node(operand).op else { return None };
        let alone = graph.consumers(operand).iter().all(|&consumer| consumer == id) && !graph.is_output(operand);
        alone.then(|| (graph.operands(operand)[0], unary.chain.clone()))
    };
    let mut pairs = vec![(Some((a, vec![])), Some((b, vec![])))];
    pairs.extend([(Some((a, vec![])), behind(b)), (behind(a), Some((b, vec![]))), (behind(a), behind(b))]);
    pairs.into_iter().find_map(|(a, b)| {
        let ((x, a_chain), (y, b_chain)) = (a?, b?);
        let constant = matches!(graph.node(x).op, FloatOp::Constant(_));
        (x == y && !constant).then_some((x, a_chain, b_chain))
    })
}

/// The function, in the form that reads best.
fn joined(join: Join, a: Vec<UnaryFn>, b: Vec<UnaryFn>) -> UnaryFn {
    match (join, a.is_empty(), b.is_empty()) {
        (Join::Multiply, true, true) => UnaryFn::Gated(vec![]),
        (Join::Multiply, true, false) => UnaryFn::Gated(b),
        (Join::Multiply, false, true) => UnaryFn::Gated(a),
        _ => UnaryFn::Joined { join, a, b },
    }
}
