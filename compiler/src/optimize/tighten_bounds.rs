//! Gives every accumulator the bounds that follow from what its inputs can be, not from their type.

use super::intervals::{self, Operand};
use super::products::{Factors, sum, weighted_mut};
use crate::ir::{Graph, Interval, Quant};

/// Tightens the bounds of all layers with weights.
pub fn run(graph: &mut Graph<Quant>) -> bool {
    let known = intervals::analyse(graph);
    let mut changed = false;
    for id in graph.topological() {
        let node = graph.node(id);
        let Some(old) = node.op.weighted() else { continue };
        let factors = Factors::new(&node.op, Operand::of(graph, &known, graph.operands(id)[0]));
        let bounds: Vec<Interval> = (0..old.channels.len()).map(|o| sum(old, o, &factors).partial).collect();
        let Some(weighted) = weighted_mut(&mut graph.node_mut(id).op) else { continue };
        for (channel, bound) in weighted.channels.iter_mut().zip(bounds) {
            changed |= channel.bound != bound;
            channel.bound = bound;
        }
    }
    changed
}
