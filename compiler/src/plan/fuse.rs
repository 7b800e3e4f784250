//! Fuses additions: a sum is computed where one of its terms is, before that term is stored.

use ptqc_target_runtimes::Target;

use super::{Added, Goal, Layer, Place, Plan, TensorId, Work};
use crate::kernels;
use crate::ops::QuantOp;

/// Merges every addition into the layer that computes one of its terms, where the term is used for nothing else, both
/// terms lie in memory as the sum does, and a kernel can do both for what the two layers cost.
///
/// All layers have their kernels.
pub fn fuse_additions(plan: &mut Plan, target: &Target, goal: Goal) {
    let mut add_idx = 0;
    while add_idx < plan.layers.len() {
        match fused(plan, add_idx, target, goal) {
            Some((term_idx, layer)) => {
                // The other term is there when the addition is, so the layer takes the addition's place.
                plan.layers[add_idx] = layer;
                plan.layers.remove(term_idx);
            }
            None => add_idx += 1,
        }
    }
}

/// The layer that replaces an addition and the layer, the first of the result, that computes one of its terms.
fn fused(plan: &Plan, add_idx: usize, target: &Target, goal: Goal) -> Option<(usize, Layer)> {
    let Work::Operator(QuantOp::Add(_)) = &plan.layers[add_idx].work else { return None };
    let candidates = (0..2).filter_map(|port| Some((producer(plan, add_idx, port)?, port)));
    // Of two, the later: what is between it and the addition does not have to wait.
    candidates.max().and_then(|(term_idx, port)| {
        let layer = merged(plan, term_idx, add_idx, port, target, goal)?;
        Some((term_idx, layer))
    })
}

/// The layer that computes a term of a sum, if it is one that weights its operand and the term has no other use.
fn producer(plan: &Plan, add_idx: usize, port: usize) -> Option<usize> {
    let term = plan.layers[add_idx].operands[port];
    let term_idx = plan.layers[..add_idx].iter().rposition(|layer| layer.result == term)?;
    let layer = &plan.layers[term_idx];
    let weighted = matches!(layer.work, Work::Operator(QuantOp::Conv(_) | QuantOp::Linear(_)));
    let buffer = plan.tensor(term).buffer;
    let in_buffer = |id: &TensorId| plan.tensor(*id).buffer == buffer;
    // Where the sum takes over the term's memory, what follows reads the sum.
    let end = match plan.tensor(plan.layers[add_idx].result).buffer == buffer {
        true => add_idx + 1,
        false => plan.layers.len(),
    };
    let later = &plan.layers[term_idx + 1..end];
    let uses = later.iter().flat_map(|layer| &layer.operands).filter(|id| in_buffer(id)).count();
    let alone = uses == 1 && !plan.outputs.iter().any(|(_, id)| *id == term);
    (weighted && layer.added.is_none() && alone).then_some(term_idx)
}

fn merged(plan: &Plan, term_idx: usize, add_idx: usize, port: usize, target: &Target, goal: Goal) -> Option<Layer> {
    let (term, sum) = (&plan.layers[term_idx], &plan.layers[add_idx]);
    let Work::Operator(QuantOp::Add(add)) = &sum.work else { return None };
    let other = sum.operands[1 - port];
    let (addend, result) = (plan.tensor(other), plan.tensor(sum.result));
    let alike = [addend, plan.tensor(term.result)]
        .iter()
        .all(|tensor| tensor.ty.shape == result.ty.shape && tensor.ty.dtype == result.ty.dtype);
    let constant = matches!(plan.buffers[addend.buffer].place, Place::Constant(_));
    if !alike || constant || addend.view != result.view {
        return None;
    }
    let mut layer = Layer {
        name: sum.name.clone(),
        origin: term.origin.iter().chain(&sum.origin).cloned().collect(),
        work: term.work.clone(),
        operands: term.operands.iter().copied().chain([other]).collect(),
        result: sum.result,
        added: Some(Added { add: add.clone(), port }),
        kernel: kernels::UNDECIDED,
        scratch: None,
        overlaps: vec![],
        source: sum.source,
        rows: None,
    };
    layer.kernel = kernels::choose(&layer, plan, target, goal)?;
    let cost = |layer: &Layer| (layer.kernel.instructions)(layer, plan);
    (cost(&layer) <= cost(term) + cost(sum)).then_some(layer)
}
