//! The order of the layers: of all orders that their operands allow, one in which little memory is in use at any time.

use std::collections::BTreeMap;

use super::{Overlap, Place, Plan};

/// Sets of executed layers that are followed at the same time. Where there are never more, the order is the best there is;
/// otherwise those that look best go on.
const WIDTH: usize = 1000;

/// What is known of a set of executed layers.
#[derive(Debug, Clone)]
struct Reached {
    /// The most that was in use on the way.
    peak: usize,
    /// What is in use now.
    live: usize,
    order: Vec<usize>,
}

/// Changes the order of the layers if another needs less memory.
pub fn shorten_lives(plan: &mut Plan) {
    let graph = Dependencies::of(plan);
    let n = plan.layers.len();
    let present = (0..n).fold(graph.nothing(), |reached, layer| graph.after(&reached, layer));
    let mut states = BTreeMap::from([(vec![false; n], graph.nothing())]);
    for _ in 0..n {
        let mut next: BTreeMap<Vec<bool>, Reached> = BTreeMap::new();
        for (done, reached) in &states {
            for layer in (0..n).filter(|&layer| graph.is_ready(done, layer)) {
                let mut done = done.clone();
                done[layer] = true;
                let after = graph.after(reached, layer);
                // Of two ways of equal need, the one that stays closer to the model's order.
                let better = |known: &Reached| (after.peak, &after.order) < (known.peak, &known.order);
                if next.get(&done).is_none_or(better) {
                    next.insert(done, after);
                }
            }
        }
        if next.len() > WIDTH {
            let mut ranked: Vec<(Vec<bool>, Reached)> = next.into_iter().collect();
            ranked.sort_by(|(_, a), (_, b)| (a.peak, a.live, &a.order).cmp(&(b.peak, b.live, &b.order)));
            ranked.truncate(WIDTH);
            next = ranked.into_iter().collect();
        }
        states = next;
    }
    let Some(best) = states.into_values().next().filter(|best| best.peak < present.peak) else { return };
    let layers = best.order.iter().map(|&layer| plan.layers[layer].clone()).collect();
    plan.layers = layers;
    plan.layers.iter_mut().enumerate().for_each(|(source, layer)| layer.source = source);
}

/// Which layer needs which, and how much memory.
struct Dependencies<'a> {
    plan: &'a Plan,
    /// For each layer, the layers whose results it reads.
    producers: Vec<Vec<usize>>,
    /// For each buffer of the arena, the layers that read it.
    readers: BTreeMap<usize, Vec<usize>>,
}

impl Dependencies<'_> {
    fn of(plan: &Plan) -> Dependencies<'_> {
        let buffer_of = |id: &super::TensorId| plan.tensor(*id).buffer;
        let mut producers = vec![];
        let mut readers: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (layer_idx, layer) in plan.layers.iter().enumerate() {
            let operands: Vec<usize> = layer.operands.iter().map(buffer_of).collect();
            let writes = |other: &super::Layer| operands.contains(&buffer_of(&other.result));
            producers.push((0..plan.layers.len()).filter(|&other| writes(&plan.layers[other])).collect());
            let in_arena = |buffer: &usize| matches!(plan.buffers[*buffer].place, Place::Arena(_));
            for buffer in operands.into_iter().filter(in_arena) {
                let readers = readers.entry(buffer).or_default();
                if !readers.contains(&layer_idx) {
                    readers.push(layer_idx);
                }
            }
        }
        Dependencies { plan, producers, readers }
    }

    fn nothing(&self) -> Reached {
        Reached { peak: 0, live: 0, order: vec![] }
    }

    fn is_ready(&self, done: &[bool], layer: usize) -> bool {
        !done[layer] && self.producers[layer].iter().all(|&producer| done[producer])
    }

    fn after(&self, reached: &Reached, layer_idx: usize) -> Reached {
        let plan = self.plan;
        let layer = &plan.layers[layer_idx];
        let bytes = |buffer: usize| plan.buffers[buffer].bytes;
        let result = plan.tensor(layer.result).buffer;
        let in_arena = matches!(plan.buffers[result].place, Place::Arena(_));
        let result_bytes = if in_arena { bytes(result) } else { 0 };
        let executed = |other: &usize| *other == layer_idx || reached.order.contains(other);
        let mut dying: Vec<usize> = layer.operands.iter().map(|id| plan.tensor(*id).buffer).collect();
        dying.sort_unstable();
        dying.dedup();
        dying.retain(|buffer| self.readers.get(buffer).is_some_and(|readers| readers.iter().all(executed)));
        // What the result saves by sharing memory with an operand that ends here.
        let saved = layer.operands.iter().zip(&layer.overlaps).filter(|_| in_arena).map(|(id, overlap)| {
            let operand = plan.tensor(*id).buffer;
            let lead = match overlap {
                Overlap::Behind(lead) if dying.contains(&operand) => *lead,
                Overlap::Same if dying.contains(&operand) => 0,
                _ => return 0,
            };
            (result_bytes + bytes(operand)).saturating_sub(result_bytes.max(lead + bytes(operand)))
        });
        let scratch = (layer.kernel.scratch)(layer, plan);
        let now = reached.live + result_bytes + scratch - saved.max().unwrap_or(0);
        let freed: usize = dying.into_iter().map(bytes).sum();
        // A result that nobody reads is not kept.
        let kept = if self.readers.contains_key(&result) { result_bytes } else { 0 };
        let order = reached.order.iter().copied().chain([layer_idx]).collect();
        Reached { peak: reached.peak.max(now), live: reached.live + kept - freed, order }
    }
}
