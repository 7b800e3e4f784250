//! Moves a Pad into the window of the convolution or pooling behind it.

use super::{absorb_producer, sole_operand};
use crate::ir::{Float, Graph, NodeId, Window};
use crate::ops::FloatOp;
use crate::ops::pad::{Pad, PadMode};

/// Runs the pass.
pub fn run(graph: &mut Graph<Float>) -> bool {
    let mut changed = false;
    for id in graph.topological() {
        let Some(before) = sole_operand(graph, id) else { continue };
        let FloatOp::Pad(pad) = graph.node(before).op.clone() else { continue };
        let fused = fused(graph, id, &pad, before);
        if let Some(op) = fused {
            graph.node_mut(id).op = op;
            absorb_producer(graph, before, id);
            changed = true;
        }
    }
    changed
}

fn fused(graph: &Graph<Float>, id: NodeId, pad: &Pad, pad_id: NodeId) -> Option<FloatOp> {
    let PadMode::Constant(value) = pad.mode else { return None };
    if pad.before.len() < 3 || pad.before[..2] != [0, 0] || pad.after[..2] != [0, 0] {
        return None;
    }
    match &graph.node(id).op {
        FloatOp::Conv(conv) if value == 0.0 => {
            let mut conv = conv.clone();
            widen(&mut conv.window, pad);
            Some(conv.into())
        }
        FloatOp::AveragePool(pool) if value == 0.0 && !pool.window.ceil => {
            let unpadded = pool.window.pad_begin.iter().chain(&pool.window.pad_end).all(|&n| n == 0);
            let mut pool = pool.clone();
            widen(&mut pool.window, pad);
            (unpadded || pool.include_pad).then(|| {
                pool.include_pad = true;
                pool.into()
            })
        }
        FloatOp::MaxPool(pool) if never_wins(graph, pad_id, value) => {
            let mut pool = pool.clone();
            widen(&mut pool.window, pad);
            let outputs = graph.node(id).value.dims()[2..].iter().enumerate();
            let input = &graph.node(graph.operands(pad_id)[0]).value;
            // A window of padding alone would have no element left.
            let mut taps = outputs.flat_map(|(axis, &n)| (0..n).map(move |o| (axis, o)));
            taps.all(|(axis, o)| {
                let taps = pool.window.taps_at(axis, o, input.dims()[axis + 2]);
                taps.first < taps.end
            })
            .then(|| pool.into())
        }
        _ => None,
    }
}

fn widen(window: &mut Window, pad: &Pad) {
    for axis in 0..window.rank() {
        window.pad_begin[axis] += pad.before[axis + 2];
        window.pad_end[axis] += pad.after[axis + 2];
    }
}

/// Whether no element of the padded tensor is below the padding.
fn never_wins(graph: &Graph<Float>, pad_id: NodeId, value: f32) -> bool {
    let mut operand = graph.node(graph.operands(pad_id)[0]).op.clone();
    let lowest = match &mut operand {
        FloatOp::Unary(unary) => unary.as_clamp().map(|clamp| clamp.lo),
        other => other.clamp_mut().map(|clamp| clamp.lo),
    };
    value <= f32::MIN || lowest.is_some_and(|lowest| value <= lowest)
}
