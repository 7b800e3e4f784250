//! Which parts of each tensor the outputs of the model depend on.
//!
//! Going backwards from the outputs, an index of an axis is kept if something reads it, or if it can only go together with
//! one that is kept. The inputs of the model, and all axes that operators need whole, are kept as they are.

use std::collections::{BTreeMap, BTreeSet};

use super::axes::{Relations, relations};
use crate::ir::{Graph, NodeId, Quant, Shape};
use crate::ops::QuantOp;

/// For each axis of a tensor and each index along it, whether it is kept.
pub type Kept = Vec<Vec<bool>>;

/// What is kept of every tensor that is needed.
pub fn analyse(graph: &Graph<Quant>) -> BTreeMap<NodeId, Kept> {
    let mut liveness = Liveness::new(graph);
    for id in graph.topological() {
        if !matches!(graph.node(id).op, QuantOp::Reshape(_)) {
            liveness.relate(id);
        }
    }
    liveness.propagate();
    // A reshape follows the axis from which most can go, so it comes when that is known.
    for id in graph.topological() {
        if matches!(graph.node(id).op, QuantOp::Reshape(_)) {
            liveness.relate(id);
            liveness.propagate();
        }
    }
    while liveness.keep_one_index() {
        liveness.propagate();
    }
    let Liveness { needed, kept, .. } = liveness;
    kept.into_iter().filter(|(id, _)| needed.contains(id)).collect()
}

/// Whether a Concat has any use for an operand.
pub fn is_joined(kept: &Kept, axis: usize) -> bool {
    kept[axis].contains(&true)
}

struct Liveness<'a> {
    graph: &'a Graph<Quant>,
    order: Vec<NodeId>,
    relations: BTreeMap<NodeId, Relations>,
    kept: BTreeMap<NodeId, Kept>,
    needed: BTreeSet<NodeId>,
    changed: bool,
}

impl Liveness<'_> {
    fn new(graph: &Graph<Quant>) -> Liveness<'_> {
        let whole = |id: NodeId| graph.is_output(id) || graph.inputs().contains(&id);
        let kept = |id: NodeId| graph.node(id).value.shape.dims().iter().map(|&size| vec![whole(id); size]).collect();
        let mut order = graph.topological();
        order.reverse();
        Liveness {
            graph,
            relations: BTreeMap::new(),
            kept: order.iter().map(|&id| (id, kept(id))).collect(),
            needed: order.iter().copied().filter(|&id| whole(id)).collect(),
            order,
            changed: false,
        }
    }

    fn relate(&mut self, id: NodeId) {
        let operands = self.graph.operands(id);
        let node = self.graph.node(id);
        let shapes: Vec<&Shape> = operands.iter().map(|&id| &self.graph.node(id).value.shape).collect();
        let removable = |axis: usize| self.kept[&operands[0]][axis].iter().filter(|&&kept| !kept).count();
        let relations = relations(&node.op, &shapes, &node.value.shape, removable);
        self.relations.insert(id, relations);
    }

    /// Applies all relations until nothing changes.
    fn propagate(&mut self) {
        let relations = std::mem::take(&mut self.relations);
        loop {
            self.changed = false;
            for id in self.order.clone() {
                if self.needed.contains(&id) {
                    self.need_operands(id);
                    relations.get(&id).into_iter().for_each(|relations| self.apply(id, relations));
                }
            }
            if !self.changed {
                break;
            }
        }
        self.relations = relations;
    }

    fn need_operands(&mut self, id: NodeId) {
        for operand in self.graph.operands(id) {
            let unread = match &self.graph.node(id).op {
                QuantOp::Concat(concat) => !is_joined(&self.kept[&operand], concat.axis),
                _ => false,
            };
            self.changed |= !unread && self.needed.insert(operand);
        }
    }

    fn apply(&mut self, id: NodeId, relations: &Relations) {
        let operands = self.graph.operands(id);
        for link in &relations.links {
            let operand = operands[link.port];
            for &(from, to) in &link.pairs {
                if self.is_kept(operand, link.operand_axis, from) || self.is_kept(id, link.result_axis, to) {
                    self.keep(operand, link.operand_axis, from);
                    self.keep(id, link.result_axis, to);
                }
            }
        }
        if let Some(mixing) = &relations.mixing {
            for (output, reads) in mixing.reads.iter().enumerate() {
                if self.is_kept(id, mixing.result_axis, output) {
                    let read = (0..reads.len()).filter(|&input| reads[input]);
                    read.for_each(|input| self.keep(operands[0], mixing.operand_axis, input));
                }
            }
        }
        for (port, &operand) in operands.iter().enumerate() {
            self.keep_axes(operand, |axis| relations.pins_operand(port, axis));
        }
        if !operands.is_empty() {
            self.keep_axes(id, |axis| relations.pins_result(axis));
        }
    }

    fn is_kept(&self, id: NodeId, axis: usize, index: usize) -> bool {
        self.kept[&id][axis][index]
    }

    fn keep(&mut self, id: NodeId, axis: usize, index: usize) {
        if let Some(kept) = self.kept.get_mut(&id) {
            self.changed |= !kept[axis][index];
            kept[axis][index] = true;
        }
    }

    fn keep_axes(&mut self, id: NodeId, which: impl Fn(usize) -> bool) {
        let dims = self.graph.node(id).value.shape.dims();
        for axis in (0..dims.len()).filter(|&axis| which(axis)) {
            (0..dims[axis]).for_each(|index| self.keep(id, axis, index));
        }
    }

    /// A tensor that is needed has at least one element. Returns whether that made a difference.
    fn keep_one_index(&mut self) -> bool {
        let empty = |id: NodeId| self.kept[&id].iter().position(|axis| !axis.contains(&true)).map(|axis| (id, axis));
        let found = self.order.iter().filter(|id| self.needed.contains(id)).find_map(|&id| empty(id));
        if let Some((id, axis)) = found {
            self.keep(id, axis, 0);
        }
        found.is_some()
    }
}
