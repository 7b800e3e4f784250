//! Places buffers in one arena, so that each is as far from the others as it has to be.

use super::liveness::Distances;

/// Where the buffers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Offset of each buffer.
    pub offsets: Vec<usize>,
    /// Size of the arena.
    pub bytes: usize,
    /// Whether it has been proven that no placement is smaller.
    pub optimal: bool,
}

/// Every offset is a multiple of this, so that kernels may load words.
pub const ALIGNMENT: usize = 8;

/// Work of the exact search and of the search by changes, in examined pairs of buffers: some ten milliseconds.
const EXACT_WORK: usize = 1_500_000;
const SEARCH_WORK: usize = 6_000_000;

/// The part of the arena that the search by changes may lose at first: one in so many.
const LARGEST_LOSS: usize = 8;

/// More buffers than this in use together are bounded by pairs.
const EXACT_SET: usize = 9;

/// Sizes, and how far apart the buffers have to be; everything a multiple of [`ALIGNMENT`].
#[derive(Debug, Clone)]
pub struct Problem {
    sizes: Vec<isize>,
    /// See [`Distances`].
    behind: Vec<Vec<Option<isize>>>,
    same: Vec<Vec<bool>>,
}

impl Problem {
    /// Buffers of these sizes.
    pub fn new(sizes: Vec<usize>, distances: &Distances) -> Problem {
        let aligned = |distance: &Option<isize>| distance.map(next_multiple);
        let row = |row: &Vec<Option<isize>>| row.iter().map(aligned).collect();
        Problem {
            sizes: sizes.into_iter().map(|bytes| next_multiple(bytes as isize)).collect(),
            behind: distances.behind.iter().map(row).collect(),
            same: distances.same.clone(),
        }
    }

    /// What no placement of buffers that are in use together can do without.
    pub fn lower_bound(&self, together: &[usize]) -> usize {
        if together.len() <= EXACT_SET {
            let mut search = Exact::new(self, together, isize::MAX, EXACT_WORK / 10);
            search.run();
            if let (true, Some((bytes, _))) = (search.complete(), search.best) {
                return bytes as usize;
            }
        }
        let pair = |a: usize, b: usize| {
            let behind = |a: usize, b: usize| self.behind[a][b].map(|distance| distance + self.sizes[b]);
            Some(behind(a, b)?.min(behind(b, a)?).max(self.sizes[a]).max(self.sizes[b]))
        };
        let pairs = together.iter().flat_map(|&a| together.iter().filter_map(move |&b| pair(a, b)));
        let pairs = pairs.chain(together.iter().map(|&a| self.sizes[a])).max().unwrap_or(0);
        // In the order of their offsets, each buffer keeps at least its smallest distance from the next.
        let apart = |a: usize| {
            let others = together.iter().filter(|&&b| b != a);
            others.map(|&b| self.least_distance(a, b)).min().unwrap_or(0).min(self.sizes[a])
        };
        pairs.max(together.iter().map(|&a| apart(a)).sum()) as usize
    }

    /// How far the start of `b` is behind that of `a`, at least, wherever it is behind it.
    fn least_distance(&self, a: usize, b: usize) -> isize {
        let may_begin_before = self.behind[b][a].is_none_or(|before| before <= 0);
        match self.behind[a][b] {
            Some(behind) if !may_begin_before && !self.same[a][b] => behind.max(0),
            _ => 0,
        }
    }

    /// The lowest offset from `floor` on where a buffer may lie beside those that are placed.
    fn lowest(&self, buffer: usize, placed: &[(usize, isize)], floor: isize) -> isize {
        let mut offset = floor;
        loop {
            let blocking = placed.iter().find_map(|&(other, at)| {
                let (behind, before) = (self.behind[other][buffer]?, self.behind[buffer][other]?);
                let distance = offset - at;
                let allowed = distance >= behind || -distance >= before || (distance == 0 && self.same[other][buffer]);
                // A buffer that may begin at the same byte is also worth a try there.
                let next = if distance < 0 && self.same[other][buffer] { at } else { at + behind };
                (!allowed).then_some(next)
            });
            match blocking {
                Some(next) => offset = next,
                None => return offset,
            }
        }
    }

    fn first_fit(&self, order: &[usize]) -> Placement {
        let mut placed: Vec<(usize, isize)> = vec![];
        for &buffer in order {
            let offset = self.lowest(buffer, &placed, 0);
            placed.push((buffer, offset));
        }
        self.placement(&placed)
    }

    fn placement(&self, placed: &[(usize, isize)]) -> Placement {
        let mut offsets = vec![0; self.sizes.len()];
        let mut bytes = 0;
        for &(buffer, offset) in placed {
            offsets[buffer] = offset as usize;
            bytes = bytes.max(offset + self.sizes[buffer]);
        }
        Placement { offsets, bytes: bytes as usize, optimal: false }
    }
}

fn next_multiple(value: isize) -> isize {
    -(-value).div_euclid(ALIGNMENT as isize) * ALIGNMENT as isize
}

/// Places all buffers: first fit in several orders, then the exact search, then a search by changes, until the lower bound
/// is met or there has been enough work. The same on every machine.
pub fn place(problem: &Problem, lower_bound: usize) -> Placement {
    let n = problem.sizes.len();
    let mut order: Vec<usize> = (0..n).collect();
    let mut best = (problem.first_fit(&order), order.clone());
    order.reverse();
    keep_better(&mut best, problem.first_fit(&order), &order);
    order.sort_by_key(|&buffer| (-problem.sizes[buffer], buffer));
    keep_better(&mut best, problem.first_fit(&order), &order);
    if best.0.bytes > lower_bound {
        let all: Vec<usize> = (0..n).collect();
        let mut search = Exact::new(problem, &all, best.0.bytes as isize, EXACT_WORK);
        search.run();
        // Buffers that may only lie exactly at the same place are not moved to lower places one by one.
        let ordinary = problem.same.iter().zip(&problem.behind).all(|(same, behind)| {
            same.iter().zip(behind).all(|(same, behind)| !same || behind.is_none_or(|least| least <= 0))
        });
        let optimal = search.complete() && ordinary;
        if let Some((_, placed)) = search.best {
            best.0 = problem.placement(&placed);
            best.1 = placed.into_iter().map(|(buffer, _)| buffer).collect();
        }
        best.0.optimal = optimal;
        if !optimal {
            search_by_changes(problem, lower_bound, &mut best);
        }
    }
    best.0.optimal |= best.0.bytes <= lower_bound;
    best.0
}

/// Moves buffers to other places in the order of first fit, the topmost more often than the others. A little is lost on the
/// way, less and less, so that the search leaves places from which no single move helps.
fn search_by_changes(problem: &Problem, lower_bound: usize, best: &mut (Placement, Vec<usize>)) {
    let n = problem.sizes.len();
    let rounds = SEARCH_WORK / (n * n).max(1000);
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut current = best.clone();
    for round in 0..rounds {
        if best.0.bytes <= lower_bound {
            return;
        }
        let mut order = current.1.clone();
        let moved = match next(&mut random) % 2 {
            0 => topmost(problem, &current),
            _ => next(&mut random) % n,
        };
        let buffer = order.remove(moved);
        order.insert(next(&mut random) % n, buffer);
        let placement = problem.first_fit(&order);
        let loss = best.0.bytes / LARGEST_LOSS * (rounds - round) / rounds;
        if placement.bytes <= best.0.bytes + loss {
            current = (placement.clone(), order.clone());
        }
        if placement.bytes <= best.0.bytes {
            *best = (placement, order);
        }
    }
}

/// Where in the order the buffer is that ends last.
fn topmost(problem: &Problem, (placement, order): &(Placement, Vec<usize>)) -> usize {
    let end = |index: &usize| placement.offsets[order[*index]] as isize + problem.sizes[order[*index]];
    (0..order.len()).max_by_key(end).unwrap_or(0)
}

fn keep_better(best: &mut (Placement, Vec<usize>), placement: Placement, order: &[usize]) {
    if placement.bytes <= best.0.bytes {
        *best = (placement, order.to_vec());
    }
}

/// Branch and bound: buffers are placed in the order of their offsets, each as low as possible. In a placement of least
/// size, every buffer can be moved down to where this search would place it.
struct Exact<'a> {
    problem: &'a Problem,
    buffers: &'a [usize],
    /// For each buffer, the largest distance that any other needs behind it.
    reach: Vec<isize>,
    best_bytes: isize,
    best: Option<(isize, Vec<(usize, isize)>)>,
    work: usize,
}

impl<'a> Exact<'a> {
    fn new(problem: &'a Problem, buffers: &'a [usize], best_bytes: isize, work: usize) -> Exact<'a> {
        let reach = |a: usize| buffers.iter().filter_map(|&b| problem.behind[a][b]).max().unwrap_or(0).max(0);
        let reach = (0..problem.sizes.len()).map(reach).collect();
        Exact { problem, buffers, reach, best_bytes, best: None, work }
    }

    fn run(&mut self) {
        self.extend(&mut vec![], 0, 0);
    }

    /// Whether every placement has been considered.
    fn complete(&self) -> bool {
        self.work > 0
    }

    fn extend(&mut self, placed: &mut Vec<(usize, isize)>, floor: isize, bytes: isize) {
        let cost = self.buffers.len() * (placed.len() + 1);
        self.work = self.work.saturating_sub(cost);
        if self.work == 0 || bytes >= self.best_bytes {
            return;
        }
        if placed.len() == self.buffers.len() {
            self.best_bytes = bytes;
            self.best = Some((bytes, placed.clone()));
            return;
        }
        let is_placed = |buffer: usize| placed.iter().any(|&(other, _)| other == buffer);
        let open = self.buffers.iter().copied().filter(|&buffer| !is_placed(buffer));
        let mut open: Vec<(isize, isize, usize)> = open
            .map(|buffer| (self.problem.lowest(buffer, placed, floor), -self.problem.sizes[buffer], buffer))
            .collect();
        if open.iter().any(|(offset, size, _)| offset - size >= self.best_bytes) {
            return;
        }
        open.sort_unstable();
        // Where a buffer would leave room for another below it, the other comes first.
        let end = open.iter().map(|&(offset, _, buffer)| offset + self.reach[buffer].max(1)).min();
        for (offset, size, buffer) in open {
            if end.is_some_and(|end| offset >= end) {
                break;
            }
            placed.push((buffer, offset));
            self.extend(placed, offset, bytes.max(offset - size));
            placed.pop();
        }
    }
}

/// A small generator (xorshift): the search has to be the same on every machine.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 33) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Buffers with random sizes and lifetimes; some results may begin before their operands.
    fn problem(random: &mut u64) -> (Problem, Vec<(usize, usize)>) {
        let n = 1 + next(random) % 12;
        let sizes: Vec<usize> = (0..n).map(|_| 8 * (1 + next(random) % 40)).collect();
        let lives: Vec<(usize, usize)> = (0..n).map(|first| (first, first + 1 + next(random) % 3)).collect();
        let mut behind = vec![vec![None; n]; n];
        for a in 0..n {
            for b in 0..n {
                let together = a != b && lives[a].0 <= lives[b].1 && lives[b].0 <= lives[a].1;
                behind[a][b] = together.then_some(sizes[a] as isize);
                if together && lives[b].1 == lives[a].0 && next(random).is_multiple_of(2) {
                    behind[a][b] = Some(sizes[a].min(next(random) % 100) as isize);
                }
            }
        }
        let same = vec![vec![false; n]; n];
        (Problem::new(sizes, &Distances { behind, same }), lives)
    }

    #[test]
    fn placements_keep_all_distances_and_are_not_below_the_bound() {
        let mut random = 1;
        let mut optimal = 0;
        for _ in 0..500 {
            let (problem, lives) = problem(&mut random);
            let n = problem.sizes.len();
            let live = |at: usize| (0..n).filter(|&i| (lives[i].0..=lives[i].1).contains(&at)).collect::<Vec<_>>();
            let bound = (0..n + 3).map(|at| problem.lower_bound(&live(at))).max().unwrap();
            let placement = place(&problem, bound);
            assert!(placement.bytes >= bound, "{} is below the bound {bound}", placement.bytes);
            optimal += usize::from(placement.optimal);
            for a in 0..n {
                assert!(placement.offsets[a] + problem.sizes[a] as usize <= placement.bytes);
                for b in 0..n {
                    let distance = placement.offsets[b] as isize - placement.offsets[a] as isize;
                    let (Some(behind), Some(before)) = (problem.behind[a][b], problem.behind[b][a]) else { continue };
                    assert!(distance >= behind || -distance >= before, "{a} and {b} are {distance} bytes apart");
                }
            }
        }
        assert!(optimal >= 400, "only {optimal} of 500 placements are proven to be optimal");
    }

    /// Without permitted overlaps, the exact search finds what trying all orders finds.
    #[test]
    fn the_exact_search_is_exact() {
        let mut random = 7;
        for _ in 0..200 {
            let (problem, _) = problem(&mut random);
            let n = problem.sizes.len();
            if n > 6 {
                continue;
            }
            let placement = place(&problem, 0);
            assert!(placement.optimal);
            let mut best = usize::MAX;
            permutations(&mut (0..n).collect(), 0, &mut |order| best = best.min(problem.first_fit(order).bytes));
            assert!(placement.bytes <= best, "{} instead of {best}", placement.bytes);
        }
    }

    fn permutations(order: &mut Vec<usize>, fixed: usize, visit: &mut dyn FnMut(&[usize])) {
        if fixed == order.len() {
            return visit(order);
        }
        for index in fixed..order.len() {
            order.swap(fixed, index);
            permutations(order, fixed + 1, visit);
            order.swap(fixed, index);
        }
    }
}
