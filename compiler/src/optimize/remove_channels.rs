//! Removes what no output depends on: channels, the weights that make them and the weights that would read them.

use std::collections::BTreeMap;

use super::liveness::{self, Kept, is_joined};
use crate::ir::{Graph, NodeId, Quant, Shape};
use crate::ops::QuantOp;

/// Removes everything at once.
pub fn run(graph: &mut Graph<Quant>) -> bool {
    let kept = liveness::analyse(graph);
    let order = graph.topological();
    let whole = |id: &NodeId| kept.get(id).is_some_and(|axes| axes.iter().flatten().all(|&kept| kept));
    if order.iter().all(whole) {
        return false;
    }
    let needed: Vec<NodeId> = order.into_iter().filter(|id| kept.contains_key(id)).collect();
    needed.iter().for_each(|&id| cut(graph, id, &kept));
    // Last, so that until here every node has the operands that the analysis saw.
    needed.iter().for_each(|&id| leave_out(graph, id, &kept));
    graph.remove_unused();
    true
}

fn cut(graph: &mut Graph<Quant>, id: NodeId, kept: &BTreeMap<NodeId, Kept>) {
    let operands = graph.operands(id);
    let node = graph.node_mut(id);
    let result = &kept[&id];
    let shape = Shape::new(result.iter().map(|axis| count(axis)).collect::<Vec<_>>());
    match &mut node.op {
        QuantOp::Constant(constant) => {
            let stays = |flat: usize| node.value.shape.unravel(flat).iter().zip(result).all(|(&i, axis)| axis[i]);
            constant.data =
                (0..constant.data.len()).filter(|&flat| stays(flat)).map(|flat| constant.data[flat]).collect();
            constant.shape = shape.clone();
        }
        QuantOp::Conv(conv) => {
            let inputs = &kept[&operands[0]][1];
            let (group_inputs, taps) = (conv.group_inputs(), conv.window.taps());
            let columns: Vec<bool> = match conv.groups {
                1 => inputs.iter().flat_map(|&kept| std::iter::repeat_n(kept, taps)).collect(),
                _ => vec![true; group_inputs * taps],
            };
            if conv.groups > 1 {
                conv.groups = count(inputs) / group_inputs;
            }
            conv.weighted.retain(&result[1], &columns);
        }
        QuantOp::Linear(linear) => {
            let last = result.len() - 1;
            linear.weighted.retain(&result[last], &kept[&operands[0]][last]);
        }
        QuantOp::Affine(affine) => {
            let mut stays = result[affine.axis].iter();
            affine.channels.retain(|_| stays.next() == Some(&true));
        }
        QuantOp::Slice(slice) => {
            for (axis, stays) in result.iter().enumerate() {
                let first = stays.iter().position(|&kept| kept).unwrap_or(0);
                let start = (slice.start[axis] as isize + first as isize * slice.step[axis]) as usize;
                slice.start[axis] = count(&kept[&operands[0]][axis][..start]);
                slice.size[axis] = count(stays);
            }
        }
        QuantOp::Reshape(reshape) => reshape.shape = shape.clone(),
        // They hold nothing that goes with a channel, or their axes stay whole.
        _ => {}
    }
    node.value.shape = shape;
}

/// Leaves out the operands of a Concat that have nothing left to join.
fn leave_out(graph: &mut Graph<Quant>, id: NodeId, kept: &BTreeMap<NodeId, Kept>) {
    let QuantOp::Concat(concat) = &graph.node(id).op else { return };
    let axis = concat.axis;
    let joined = |id: &NodeId| kept.get(id).is_some_and(|kept| is_joined(kept, axis));
    let (mut operands, before) = (graph.operands(id), graph.operands(id).len());
    operands.retain(joined);
    match operands[..] {
        _ if operands.len() == before => {}
        [only] => graph.replace_uses(id, only),
        _ => graph.set_operands(id, &operands),
    }
}

fn count(kept: &[bool]) -> usize {
    kept.iter().filter(|&&kept| kept).count()
}
