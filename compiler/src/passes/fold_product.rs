//! Folds factors into products of two tensors, before and behind them, and factors and addends into normalizations.

use super::fold_affine::Map;
use super::{absorb_consumer, sole_operand};
use crate::ir::{Float, Graph, NodeId, RealClamp};
use crate::ops::FloatOp;

/// Runs the pass.
pub fn run(graph: &mut Graph<Float>) -> bool {
    let mut changed = false;
    for id in graph.topological() {
        if graph.contains(id) {
            changed |= into_producer(graph, id).is_some() || into_consumer(graph, id).is_some();
        }
    }
    changed
}

/// What follows a product or normalization.
fn into_producer(graph: &mut Graph<Float>, id: NodeId) -> Option<()> {
    let map = Map::of(&graph.node(id).op)?;
    let producer = sole_operand(graph, id)?;
    let op: FloatOp = match &graph.node(producer).op {
        FloatOp::MatMul(product) if product.clamp == RealClamp::NONE => {
            let mut product = product.clone();
            product.factor *= factor(&map)?;
            product.into()
        }
        FloatOp::Normalize(norm) => {
            let mut norm = norm.then_affine(map.axis, &map.scale, &map.shift)?;
            norm.clamp = map.clamp;
            norm.into()
        }
        _ => return None,
    };
    graph.node_mut(producer).op = op;
    absorb_consumer(graph, producer, id);
    Some(())
}

/// A factor before a product.
fn into_consumer(graph: &mut Graph<Float>, id: NodeId) -> Option<()> {
    let FloatOp::MatMul(product) = &graph.node(id).op else { return None };
    let mut product = product.clone();
    let mut operands = graph.operands(id);
    let scaled = operands.iter().position(|&operand| {
        let map = Map::of(&graph.node(operand).op);
        graph.sole_consumer(operand) == Some(id) && map.is_some_and(|map| factor(&map).is_some())
    })?;
    let before = operands[scaled];
    product.factor *= factor(&Map::of(&graph.node(before).op)?)?;
    operands[scaled] = graph.operands(before)[0];
    let origin = graph.node(before).origin.clone();
    graph.set_operands(id, &operands);
    graph.remove(before);
    let node = graph.node_mut(id);
    node.op = product.into();
    node.origin = super::joined(origin, std::mem::take(&mut node.origin));
    Some(())
}

/// A single positive factor, and nothing else.
fn factor(map: &Map) -> Option<f32> {
    let plain = map.axis.is_none() && map.shift == [0.0] && map.clamp == RealClamp::NONE;
    map.scale.first().copied().filter(|&scale| plain && scale > 0.0)
}
