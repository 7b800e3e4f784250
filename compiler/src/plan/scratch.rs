//! Kernels that need much working memory are not worth a larger arena: where they would be, others take their place.

use std::collections::BTreeSet;

use ptqc_target_runtimes::Target;

use super::{Goal, Place, Plan};
use crate::kernels;

/// Arranges the plan, with other kernels at the layers that need most memory while the arena is larger than the tensors
/// that are in use together. With [`Goal::Ram`] any smaller arena is worth a slower kernel; without it, under an operating
/// system, none is.
pub fn settle(plan: Plan, target: &Target, goal: Goal) -> Plan {
    let limit = if goal == Goal::Ram { 0 } else { tensors_in_use(&plan) };
    let mut plan = plan.arranged();
    if target.is_hosted() && goal != Goal::Ram {
        return plan;
    }
    while plan.arena.bytes > limit {
        let Some(better) = with_other_kernel(&plan, limit, target, goal) else { break };
        plan = better;
    }
    plan
}

/// The plan with another kernel at the layer that needs most, if there is one with which the arena is smaller: of those
/// that keep to the limit the fastest, or else the one with the smallest arena.
fn with_other_kernel(plan: &Plan, limit: usize, target: &Target, goal: Goal) -> Option<Plan> {
    let peak = plan.arena.peak_layer;
    let layer = plan.layers.get(peak)?;
    let others = kernels::usable(layer, plan, target, goal).filter(|kernel| kernel.name != layer.kernel.name);
    let plans = others.map(|kernel| {
        let mut other = plan.clone();
        other.layers[peak].kernel = kernel;
        other.find_overlaps_of(peak);
        let other = other.arranged();
        let instructions = (kernel.instructions)(&other.layers[peak], &other);
        ((other.arena.bytes.max(limit), instructions), other)
    });
    let smaller = plans.filter(|(_, other)| other.arena.bytes < plan.arena.bytes);
    smaller.min_by_key(|(cost, _)| *cost).map(|(_, other)| other)
}

/// The most bytes of tensors that are in use at one layer, the caller's among them, without working memory and as if
/// nothing overlapped.
fn tensors_in_use(plan: &Plan) -> usize {
    let mut plain = plan.clone();
    plain.execute_in_order();
    let lives = plain.lives();
    let in_use = |event: usize| {
        let live = lives.iter().enumerate().filter(|(_, life)| life.as_ref().is_some_and(|life| life.is_live(event)));
        let layer = &plain.layers[event];
        let tensors = layer.operands.iter().chain([&layer.result]).map(|id| plain.tensor(*id).buffer);
        let callers = |buffer: &usize| matches!(plain.buffers[*buffer].place, Place::Input(_) | Place::Output(_));
        let callers: BTreeSet<usize> = tensors.filter(callers).collect();
        live.map(|(buffer, _)| buffer).chain(callers).map(|buffer| plain.buffers[buffer].bytes).sum::<usize>()
    };
    (0..plain.layers.len()).map(in_use).max().unwrap_or(0)
}
