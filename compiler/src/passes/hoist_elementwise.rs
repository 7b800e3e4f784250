//! Exchanges a transpose or reshape with the elementwise operator behind it, so that the latter meets the
//! convolution or product it can be fused into. Exporters like to put axes changes in between.

use super::sole_operand;
use crate::ir::{Float, Graph, NodeId, Shape};
use crate::ops::FloatOp;

/// Runs the pass.
pub fn run(graph: &mut Graph<Float>) -> bool {
    let ids = graph.topological();
    ids.into_iter().filter(|&id| hoist(graph, id).is_some()).count() > 0
}

fn hoist(graph: &mut Graph<Float>, id: NodeId) -> Option<()> {
    let moving = sole_operand(graph, id)?;
    let source = sole_operand(graph, moving)?;
    if matches!(graph.node(source).op, FloatOp::Input(_) | FloatOp::Constant(_)) {
        return None;
    }
    let hoisted =
        hoisted(&graph.node(id).op, &graph.node(moving).op, &graph.node(source).value, &graph.node(id).value)?;
    let (move_op, shape) = (graph.node(moving).op.clone(), graph.node(source).value.clone());
    let behind = graph.node_mut(id);
    behind.op = move_op;
    let (name, observed) = (behind.name.clone(), behind.observed.clone());
    let origin = std::mem::take(&mut behind.origin);
    let ahead = graph.node_mut(moving);
    ahead.op = hoisted;
    ahead.value = shape;
    ahead.name = format!("{name}#moved");
    ahead.observed = observed;
    let moved_origin = std::mem::replace(&mut ahead.origin, origin);
    graph.node_mut(id).origin = moved_origin;
    Some(())
}

/// The elementwise operator as it is before the move; `None` if they do not commute.
fn hoisted(op: &FloatOp, moving: &FloatOp, source: &Shape, result: &Shape) -> Option<FloatOp> {
    match (op, moving) {
        (FloatOp::Unary(unary), FloatOp::Transpose(_) | FloatOp::Reshape(_)) => Some(unary.clone().into()),
        (FloatOp::Affine(affine), FloatOp::Transpose(transpose)) => {
            let mut affine = affine.clone();
            affine.axis = transpose.order[affine.axis];
            Some(affine.into())
        }
        (FloatOp::Affine(affine), FloatOp::Reshape(_)) => {
            let mut affine = affine.clone();
            let inner = |shape: &Shape, axis: usize| shape.dims()[axis + 1..].iter().product::<usize>();
            let wanted = (result.dims()[affine.axis], inner(result, affine.axis));
            affine.axis = (0..source.rank()).find(|&axis| (source.dims()[axis], inner(source, axis)) == wanted)?;
            Some(affine.into())
        }
        _ => None,
    }
}
