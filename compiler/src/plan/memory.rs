//! Places buffers with known lifetimes in one arena.

/// A buffer that is needed from layer `first` to layer `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Size in bytes.
    pub bytes: usize,
    /// The layer that writes it first.
    pub first: usize,
    /// The layer that reads it last.
    pub last: usize,
}

/// Where the buffers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Offset of each buffer.
    pub offsets: Vec<usize>,
    /// Size of the arena.
    pub bytes: usize,
}

/// Every offset is a multiple of this, so that kernels may load words.
pub const ALIGNMENT: usize = 8;

/// Orders tried beyond the obvious ones while the lower bound is not met.
const SEARCH_STEPS: usize = 2000;

/// What buffers are sorted by before they are placed.
type Key = fn(&Lifetime) -> (usize, usize);

impl Lifetime {
    fn overlaps(&self, other: &Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// The most bytes that are needed at one layer, and the layer. No plan without moving buffers can do with less.
pub fn lower_bound(buffers: &[Lifetime]) -> (usize, usize) {
    let layers = buffers.iter().map(|buffer| buffer.last + 1).max().unwrap_or(0);
    let live = |layer: usize| {
        let live = buffers.iter().filter(|buffer| (buffer.first..=buffer.last).contains(&layer));
        live.map(|buffer| buffer.bytes.next_multiple_of(ALIGNMENT)).sum::<usize>()
    };
    (0..layers)
        .map(|layer| (live(layer), layer))
        .max_by_key(|&(bytes, layer)| (bytes, std::cmp::Reverse(layer)))
        .unwrap_or((0, 0))
}

/// Places all buffers: first fit in several orders, then a deterministic search while it is above the lower bound.
pub fn place(buffers: &[Lifetime]) -> Placement {
    let (bound, _) = lower_bound(buffers);
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    let mut best: Option<(Placement, Vec<usize>)> = None;
    let keys: [Key; 3] = [
        |b| (usize::MAX - b.bytes, b.first),
        |b| (usize::MAX - b.bytes * (b.last - b.first + 1), b.first),
        |b| (b.first, usize::MAX - b.bytes),
    ];
    for key in keys {
        order.sort_by_key(|&i| key(&buffers[i]));
        keep_better(&mut best, first_fit(buffers, &order), &order);
    }
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..SEARCH_STEPS {
        let Some((placement, order)) = &best else { break };
        if placement.bytes <= bound || buffers.len() < 3 {
            break;
        }
        let mut order = order.clone();
        let (a, b) = (next(&mut random) % order.len(), next(&mut random) % order.len());
        let moved = order.remove(a);
        order.insert(b, moved);
        keep_better(&mut best, first_fit(buffers, &order), &order);
    }
    best.map(|(placement, _)| placement).unwrap_or(Placement { offsets: vec![], bytes: 0 })
}

fn keep_better(best: &mut Option<(Placement, Vec<usize>)>, placement: Placement, order: &[usize]) {
    if best.as_ref().is_none_or(|(known, _)| placement.bytes <= known.bytes) {
        *best = Some((placement, order.to_vec()));
    }
}

fn first_fit(buffers: &[Lifetime], order: &[usize]) -> Placement {
    let mut offsets = vec![0; buffers.len()];
    let mut placed: Vec<usize> = vec![];
    let mut bytes = 0;
    for &i in order {
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&other| buffers[other].overlaps(&buffers[i]))
            .map(|&other| (offsets[other], offsets[other] + buffers[other].bytes))
            .collect();
        taken.sort_unstable();
        let mut offset = 0usize;
        for (start, end) in taken {
            if offset + buffers[i].bytes <= start {
                break;
            }
            offset = offset.max(end.next_multiple_of(ALIGNMENT));
        }
        offsets[i] = offset;
        bytes = bytes.max(offset + buffers[i].bytes);
        placed.push(i);
    }
    Placement { offsets, bytes: bytes.next_multiple_of(ALIGNMENT) }
}

/// A small generator (xorshift): the search has to be the same on every machine.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 33) as usize
}
