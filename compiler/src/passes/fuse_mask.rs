//! Moves masks into the Softmax behind them: elements that would be nothing beside the others are left out.

use super::absorb_producer;
use crate::ir::{Float, FloatTensor, Graph, NodeId, RealClamp, Shape};
use crate::ops::FloatOp;
use crate::ops::add::Add;
use crate::ops::constant::Constant;
use crate::ops::mask::Mask;

/// Runs the pass.
pub fn run(graph: &mut Graph<Float>) -> bool {
    let ids = graph.topological();
    ids.into_iter().filter(|&id| graph.contains(id) && fuse(graph, id).is_some()).count() > 0
}

fn fuse(graph: &mut Graph<Float>, id: NodeId) -> Option<()> {
    let FloatOp::Softmax(softmax) = &graph.node(id).op else { return None };
    let mut softmax = softmax.clone();
    let before = super::sole_operand(graph, id)?;
    let (mask, rest) = mask_of(graph, before)?;
    let shape = graph.node(id).value.clone();
    let all = softmax.mask.as_ref().map_or(mask.clone(), |known| known.and(&mask, &shape));
    softmax.mask = Some(all.of_rows(&shape, softmax.axis));
    graph.node_mut(id).op = softmax.into();
    match rest {
        // The rest of what is added.
        Some(op) => {
            let node = graph.node_mut(before);
            node.op = op;
            // What was observed had the mask in it.
            node.observed = None;
        }
        None => {
            let x = graph.operands(before)[0];
            graph.set_operands(before, &[x]);
            absorb_producer(graph, before, id);
        }
    }
    Some(())
}

/// What a node masks, and the operator that does the rest.
fn mask_of(graph: &Graph<Float>, id: NodeId) -> Option<(Mask, Option<FloatOp>)> {
    match &graph.node(id).op {
        FloatOp::Mask(mask) => Some((mask.clone(), None)),
        FloatOp::Affine(affine) if affine.clamp == RealClamp::NONE => {
            let mut dims = vec![1; graph.node(id).value.rank()];
            dims[affine.axis] = affine.shift.len();
            let (mask, rest) = Mask::of_addend(&FloatTensor::new(Shape::new(dims), affine.shift.clone()))?;
            let mut affine = affine.clone();
            affine.shift = rest.data;
            let plain =
                affine.shift.iter().all(|&shift| shift == 0.0) && affine.scale.iter().all(|&scale| scale == 1.0);
            Some((mask, (!plain).then(|| affine.into())))
        }
        FloatOp::Add(Add { subtract: false, clamp }) if *clamp == RealClamp::NONE => {
            let [_, c] = graph.operands(id)[..] else { return None };
            let FloatOp::Constant(Constant { tensor }) = &graph.node(c).op else { return None };
            let (mask, rest) = Mask::of_addend(tensor)?;
            rest.data.iter().all(|&value| value == 0.0).then_some((mask, None))
        }
        _ => None,
    }
}
