//! Which bytes of every buffer are in use when, and from that how far apart the buffers have to be.

use super::{Overlap, Place, Plan, Run};

/// When a buffer of the arena is in use, counted in executions of layers, and which of its bytes.
#[derive(Debug, Clone)]
pub struct Life {
    first: usize,
    /// For every execution from the first to the last: the first byte that is still to be read, or is written now, and
    /// the byte behind the last that has been written.
    spans: Vec<(isize, isize)>,
}

impl Life {
    /// Whether the buffer is in use at an execution.
    pub fn is_live(&self, event: usize) -> bool {
        self.span(event).is_some()
    }

    /// `None` where nothing is written and nothing is still to be read: working memory is free between two calls.
    fn span(&self, event: usize) -> Option<(isize, isize)> {
        let span = self.spans.get(event.checked_sub(self.first)?);
        span.copied().filter(|(lo, _)| *lo < isize::MAX)
    }

    /// The first byte that is read after an execution; `None` if nothing is.
    fn read_after(&self, event: usize) -> Option<isize> {
        self.span(event + 1).map(|(lo, _)| lo)
    }
}

/// A buffer of the arena for as long as it is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryUse {
    /// The tensors that lie in it; the layer, if it is working memory.
    pub names: Vec<String>,
    /// Its first byte in the arena.
    pub offset: usize,
    /// Its size.
    pub bytes: usize,
    /// The first call of a layer during which it is in use, counted from 0.
    pub first: usize,
    /// The last.
    pub last: usize,
}

/// An access to a buffer.
struct Access {
    event: usize,
    start: isize,
    end: isize,
    writes: bool,
}

impl Plan {
    /// When which part of the arena is in use.
    pub fn memory_uses(&self) -> Vec<MemoryUse> {
        let lives = self.lives().into_iter().enumerate();
        lives.filter_map(|(buffer, life)| Some(self.memory_use(buffer, &life?))).collect()
    }

    fn memory_use(&self, buffer: usize, life: &Life) -> MemoryUse {
        let tensors = self.tensors.iter().filter(|tensor| tensor.buffer == buffer).map(|tensor| tensor.name.clone());
        let working = self.layers.iter().filter(|layer| layer.scratch == Some(buffer));
        let working = working.map(|layer| format!("working memory of {}", self.tensor(layer.result).name));
        let offset = match self.buffers[buffer].place {
            Place::Arena(offset) => offset,
            Place::Input(_) | Place::Output(_) | Place::Constant(_) => 0,
        };
        MemoryUse {
            names: tensors.chain(working).collect(),
            offset,
            bytes: self.buffers[buffer].bytes,
            first: life.first,
            last: life.first + life.spans.len() - 1,
        }
    }

    /// The life of every buffer in the arena that is used; `None` for the others.
    pub(super) fn lives(&self) -> Vec<Option<Life>> {
        let mut accesses: Vec<Vec<Access>> = (0..self.buffers.len()).map(|_| vec![]).collect();
        for (event, (run, pass)) in self.executions().enumerate() {
            let layer = &self.layers[run.layer];
            for (index, (id, at)) in self.tensors_of(layer).zip(&run.at).enumerate() {
                let start = at.at(pass) as isize;
                let (end, writes) = (start + self.extent(id) as isize, index == layer.operands.len());
                accesses[self.tensor(id).buffer].push(Access { event, start, end, writes });
            }
            if let Some(scratch) = layer.scratch {
                let end = self.buffers[scratch].bytes as isize;
                accesses[scratch].push(Access { event, start: 0, end, writes: true });
            }
        }
        let in_arena = |buffer: usize| matches!(self.buffers[buffer].place, Place::Arena(_));
        accesses.iter().enumerate().map(|(buffer, all)| in_arena(buffer).then(|| life(all)).flatten()).collect()
    }
}

fn life(accesses: &[Access]) -> Option<Life> {
    let (first, last) = (accesses.first()?.event, accesses.last()?.event);
    let mut spans = vec![(isize::MAX, 0); last - first + 1];
    for access in accesses {
        let (lo, hi) = &mut spans[access.event - first];
        *lo = (*lo).min(access.start);
        if access.writes {
            *hi = (*hi).max(access.end);
        }
    }
    for index in 1..spans.len() {
        spans[index].1 = spans[index].1.max(spans[index - 1].1);
    }
    // What is written later is not in use yet, what is read later is.
    let mut to_come = isize::MAX;
    let mut reads = accesses.iter().rev().filter(|access| !access.writes).peekable();
    for (index, span) in spans.iter_mut().enumerate().rev() {
        while let Some(access) = reads.next_if(|access| access.event >= first + index) {
            to_come = to_come.min(access.start);
        }
        span.0 = span.0.min(to_come);
    }
    Some(Life { first, spans })
}

/// How far apart buffers have to be.
#[derive(Debug, Clone)]
pub struct Distances {
    /// For each pair, by how much the second has to begin behind the first, at least, if it lies behind it; `None` if they
    /// are never in use together.
    pub behind: Vec<Vec<Option<isize>>>,
    /// For each pair, whether the two may begin at the same byte in any case.
    pub same: Vec<Vec<bool>>,
}

impl Distances {
    /// Whether `a` may begin so many bytes behind `b`.
    pub fn allow(&self, a: usize, b: usize, distance: isize) -> bool {
        let (Some(behind), Some(before)) = (self.behind[b][a], self.behind[a][b]) else { return true };
        distance >= behind || -distance >= before || (distance == 0 && self.same[a][b])
    }
}

/// The distances between the buffers in `placed`.
pub fn distances(plan: &Plan, lives: &[Option<Life>], placed: &[usize]) -> Distances {
    let n = placed.len();
    let mut behind = vec![vec![None; n]; n];
    let mut same = vec![vec![None; n]; n];
    let aligned = aligned_operands(plan);
    for (event, (run, pass)) in plan.executions().enumerate() {
        let live: Vec<(usize, usize, &Life)> = (0..n)
            .filter_map(|index| Some((index, placed[index], lives[placed[index]].as_ref()?)))
            .filter(|(_, _, life)| life.is_live(event))
            .collect();
        for &(i, a, a_life) in &live {
            for &(j, b, b_life) in &live {
                let (Some((_, hi)), Some((lo, _))) = (a_life.span(event), b_life.span(event)) else { continue };
                if i == j {
                    continue;
                }
                let met = meeting(plan, (run, pass), &aligned, (a, b));
                let later = b_life.read_after(event).map_or(isize::MIN, |lo| hi - lo);
                let (apart, together) = (met.behind.map(|least| least.max(later)), met.same.then_some(later.max(0)));
                raise(&mut behind[i][j], apart.unwrap_or(hi - lo));
                raise(&mut same[i][j], together.unwrap_or(hi - lo));
            }
        }
    }
    let may_meet = |i: usize, j: usize| same[i][j].is_some_and(|distance| distance <= 0);
    let same = (0..n).map(|i| (0..n).map(|j| may_meet(i, j) || may_meet(j, i)).collect()).collect();
    Distances { behind, same }
}

fn raise(value: &mut Option<isize>, least: isize) {
    *value = Some(value.map_or(least, |known| known.max(least)));
}

/// What a run allows to its result, in buffer `a`, and one of its operands, in buffer `b`.
#[derive(Default)]
struct Meeting {
    /// The smallest distance from the start of `a` to the start of `b`.
    behind: Option<isize>,
    /// Whether they may begin at the same byte.
    same: bool,
}

/// For each operand of each layer, whether it begins where the result does, counted in their buffers, with every run: a
/// function cannot be in place with some of its calls only.
fn aligned_operands(plan: &Plan) -> Vec<Vec<bool>> {
    let mut aligned: Vec<Vec<bool>> = plan.layers.iter().map(|layer| vec![true; layer.operands.len()]).collect();
    for (run, pass) in plan.executions() {
        let Some((result, operands)) = run.at.split_last() else { continue };
        for (aligned, operand) in aligned[run.layer].iter_mut().zip(operands) {
            *aligned &= operand.at(pass) == result.at(pass);
        }
    }
    aligned
}

fn meeting(plan: &Plan, (run, pass): (&Run, usize), aligned: &[Vec<bool>], (a, b): (usize, usize)) -> Meeting {
    let layer = &plan.layers[run.layer];
    if plan.tensor(layer.result).buffer != a {
        return Meeting::default();
    }
    let mut ports = (0..layer.operands.len()).filter(|&port| plan.tensor(layer.operands[port]).buffer == b);
    let (Some(port), None) = (ports.next(), ports.next()) else { return Meeting::default() };
    let (x, y) = (run.at[port].at(pass) as isize, run.at[layer.operands.len()].at(pass) as isize);
    match layer.overlaps[port] {
        Overlap::Never => Meeting::default(),
        Overlap::Same => Meeting { behind: None, same: aligned[run.layer][port] },
        Overlap::Behind(lead) => {
            let same = lead == 0 && aligned[run.layer][port];
            Meeting { behind: Some(y + lead as isize - x), same }
        }
    }
}

/// The sets of buffers (indices into `placed`) that are in use together, each with a layer where that is so.
pub fn live_together(plan: &Plan, lives: &[Option<Life>], placed: &[usize]) -> Vec<(usize, Vec<usize>)> {
    let mut sets: Vec<(usize, Vec<usize>)> = vec![];
    for (event, (run, _)) in plan.executions().enumerate() {
        let is_live = |index: &usize| lives[placed[*index]].as_ref().is_some_and(|life| life.is_live(event));
        let set: Vec<usize> = (0..placed.len()).filter(is_live).collect();
        if sets.iter().all(|(_, known)| *known != set) {
            sets.push((run.layer, set));
        }
    }
    sets
}
