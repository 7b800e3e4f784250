//! Moves what is constant in a sum of products into its bias.
//!
//! A weight whose factor can only be one number contributes a constant, and becomes 0: that is so where an input channel
//! is constant and the tap never falls into the padding, or where the constant is the zero point, which padding stands
//! for too. An output channel that can only have one result needs no weights at all.

use super::intervals::{self, Operand, constant};
use super::products::{Factors, finished, sum, weighted_mut};
use crate::ir::{Graph, Quant};
use crate::ops::weighted::Weighted;

/// Folds in every layer with weights.
pub fn run(graph: &mut Graph<Quant>) -> bool {
    let known = intervals::analyse(graph);
    let mut changed = false;
    for id in graph.topological() {
        let node = graph.node(id);
        let Some(old) = node.op.weighted() else { continue };
        let factors = Factors::new(&node.op, Operand::of(graph, &known, graph.operands(id)[0]));
        if let Some(folded) = folded(old, &factors)
            && let Some(weighted) = weighted_mut(&mut graph.node_mut(id).op)
        {
            *weighted = folded;
            changed = true;
        }
    }
    changed
}

/// The same results with fewer weights; `None` if there is nothing to fold, or if a bias would become so large that the
/// sums can no longer be proven to fit.
fn folded(old: &Weighted, factors: &Factors) -> Option<Weighted> {
    let mut new = old.clone();
    for channel_idx in 0..old.channels.len() {
        // Zero points of weights are int8 values.
        let zero = old.channels[channel_idx].weight_zero as i8;
        let total = sum(old, channel_idx, factors).total;
        let mut bias = i64::from(old.channels[channel_idx].bias);
        if constant(finished(old, channel_idx, total)).is_some() {
            // Any value of the sum has this result. The nearest to the bias keeps the bias small.
            new.row_mut(channel_idx).fill(zero);
            bias = i128::from(bias).clamp(total.lo, total.hi) as i64;
        }
        for (w, factor) in new.row_mut(channel_idx).iter_mut().zip(factors.row(channel_idx)) {
            if let Some(factor) = constant(*factor) {
                bias += (i64::from(*w) - i64::from(zero)) * i64::from(factor);
                *w = zero;
            }
        }
        new.channels[channel_idx].bias = i32::try_from(bias).ok()?;
    }
    (new.weights != old.weights && new.check().is_ok()).then_some(new)
}
