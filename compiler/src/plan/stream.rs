//! Execution row by row: a group of neighbouring layers computes row after row of its last result, and of the tensors
//! between them only the rows are kept that are still needed.
//!
//! A row of a layer is a layer by itself, with one row of result and the few rows of operands under its window, so any
//! kernel can compute it. Rows at the borders have less under their windows and are layers of their own. The kept rows
//! lie in a window: a small buffer whose rows move to its start before further ones are added. Rows of the group's operand
//! that are not needed any more make room for rows of the result, because the planner of memory follows single executions.

use std::collections::BTreeMap;
use std::ops::Range;

use ptqc_target_runtimes::Target;

use super::{
    Goal, Layer, Overlap, Place, Plan, PlannedBuffer, PlannedTensor, Position, Rows, Run, Step, TensorId, View, Work,
    check_runs,
};
use crate::ir::{Shape, Window};
use crate::kernels::{self, UNDECIDED};
use crate::ops::QuantOp;

/// Rows lie along this axis: the first of space.
const ROW_AXIS: usize = 2;

/// Layers in a group, at most.
const LONGEST: usize = 10;

/// Plans with more layers are searched around the layer that needs most only.
const SEARCHED_EVERYWHERE: usize = 24;

/// Calls that a loop has to save to be worth it.
const WORTH_A_LOOP: usize = 3;

/// Calls in a loop, at most.
const LONGEST_PASS: usize = 100;

/// Groups that are examined to the end, of those with the smallest lower bound.
const EXAMINED: usize = 6;

/// Turns groups of layers into layers that are executed row by row, as long as that makes the arena smaller.
pub fn row_by_row(plan: Plan, target: &Target, goal: Goal) -> Plan {
    let base = plan.clone();
    let mut groups: Vec<Range<usize>> = vec![];
    let mut best = plan;
    while let Some((streamed, chosen)) = better(&base, &best, &groups, target, goal) {
        (best, groups) = (streamed, chosen);
    }
    best
}

/// The best plan with one group more, if it needs less memory than `best`.
fn better(
    base: &Plan,
    best: &Plan,
    groups: &[Range<usize>],
    target: &Target,
    goal: Goal,
) -> Option<(Plan, Vec<Range<usize>>)> {
    let n = base.layers.len();
    let peak = best.layers.get(best.arena.peak_layer)?.source;
    let worth = |range: &Range<usize>| n <= SEARCHED_EVERYWHERE || range.contains(&peak);
    let free = |range: &Range<usize>| groups.iter().all(|group| group.end <= range.start || range.end <= group.start);
    let ranges = (0..n).flat_map(|first| (first + 2..=n.min(first + LONGEST)).map(move |end| first..end));
    let candidates = ranges.filter(|range| worth(range) && free(range)).filter_map(|range| {
        let mut chosen = groups.to_vec();
        chosen.push(range);
        chosen.sort_by_key(|range| range.start);
        let streamed = streamed(base, &chosen, target, goal)?;
        let bound = streamed.lower_bound();
        (bound < best.arena.bytes).then_some((bound, streamed, chosen))
    });
    let mut candidates: Vec<(usize, Plan, Vec<Range<usize>>)> = candidates.collect();
    candidates.sort_by_key(|(bound, streamed, _)| (*bound, streamed.executions().count()));
    candidates.truncate(EXAMINED);
    let placed = candidates.into_iter().map(|(_, mut streamed, chosen)| {
        streamed.assign_memory();
        (streamed, chosen)
    });
    let smaller =
        placed.filter(|(streamed, _)| streamed.arena.bytes < best.arena.bytes && check_runs(streamed).is_ok());
    smaller.min_by_key(|(streamed, _)| (streamed.arena.bytes, streamed.executions().count()))
}

/// The plan with these groups row by row, without places in the arena; `None` if a group cannot be.
fn streamed(base: &Plan, groups: &[Range<usize>], target: &Target, goal: Goal) -> Option<Plan> {
    let mut plan = base.clone();
    (plan.layers, plan.steps) = (vec![], vec![]);
    let mut layer_idx = 0;
    while let Some(layer) = base.layers.get(layer_idx) {
        if let Some(group) = groups.iter().find(|group| group.start == layer_idx) {
            plan = Group::new(base, group.clone())?.stream(plan, target, goal)?;
            layer_idx = group.end;
            continue;
        }
        let at = vec![Position::default(); layer.operands.len() + 1];
        plan.layers.push(layer.clone());
        let layer = plan.layers.len() - 1;
        add_once(&mut plan.steps, vec![Run { layer, at }]);
        layer_idx += 1;
    }
    plan.add_scratch();
    Some(plan)
}

/// Adds runs that are executed once.
fn add_once(steps: &mut Vec<Step>, runs: Vec<Run>) {
    match steps.last_mut() {
        Some(step) if step.times == 1 => step.runs.extend(runs),
        _ => steps.push(Step { times: 1, runs }),
    }
}

/// Rows of an operand under the window of a row of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Need {
    first: usize,
    count: usize,
    /// Rows of the window before the first row of the operand and behind the last.
    outside: (usize, usize),
}

/// A layer of a group.
struct Member<'a> {
    layer: &'a Layer,
    /// Rows of its result.
    rows: usize,
    /// For each operand, the member that computes it.
    producers: Vec<Option<usize>>,
    /// Whether its result is needed outside of the group, and so kept as a whole.
    kept: bool,
}

impl Member<'_> {
    fn need(&self, plan: &Plan, port: usize, row: usize) -> Need {
        let extent = plan.tensor(self.layer.operands[port]).ty.shape.dims()[ROW_AXIS];
        match window(&self.layer.work).filter(|_| port == 0) {
            Some(window) => need(window, row, extent),
            None => Need { first: row, count: 1, outside: (0, 0) },
        }
    }
}

/// The window of an operator that has one.
fn window(work: &Work) -> Option<&Window> {
    match work {
        Work::Operator(QuantOp::Conv(conv)) => Some(&conv.window),
        Work::Operator(QuantOp::MaxPool(pool)) => Some(&pool.window),
        Work::Operator(QuantOp::AveragePool(pool)) => Some(&pool.window),
        Work::Operator(_) | Work::Copy => None,
    }
}

fn need(window: &Window, row: usize, extent: usize) -> Need {
    let (start, span) = (row * window.stride[0], window.span(0));
    let before = window.pad_begin[0].saturating_sub(start).min(span);
    let first = start.saturating_sub(window.pad_begin[0]).min(extent);
    let count = (span - before).min(extent - first);
    Need { first, count, outside: (before, span - before - count) }
}

/// The operator on the rows under one window.
fn on_rows(work: &Work, need: Need) -> Work {
    let mut work = work.clone();
    let window = match &mut work {
        Work::Operator(QuantOp::Conv(conv)) => &mut conv.window,
        Work::Operator(QuantOp::MaxPool(pool)) => &mut pool.window,
        Work::Operator(QuantOp::AveragePool(pool)) => &mut pool.window,
        Work::Operator(_) | Work::Copy => return work,
    };
    window.stride[0] = 1;
    (window.pad_begin[0], window.pad_end[0]) = need.outside;
    work
}

/// Whether a layer can be computed row by row.
fn is_streamable(plan: &Plan, layer: &Layer) -> bool {
    let result = plan.tensor(layer.result);
    let elementwise = match &layer.work {
        Work::Operator(QuantOp::Affine(affine)) => affine.axis != ROW_AXIS,
        Work::Operator(op) => op.is_elementwise(),
        Work::Copy => false,
    };
    let alike = |id: &TensorId| plan.tensor(*id).ty.shape == result.ty.shape;
    let fits = match window(&layer.work) {
        Some(window) => {
            is_inside(window, plan.tensor(layer.operands[0]), result) && layer.operands[1..].iter().all(alike)
        }
        None => elementwise && layer.operands.iter().all(alike),
    };
    let constant = |id: &TensorId| matches!(plan.place(*id), Place::Constant(_));
    fits && plan.tensors_of(layer).all(|id| has_rows(plan.tensor(id)) && !constant(&id))
}

/// Whether every window along the rows reaches the operand, and does not hang over its padding.
fn is_inside(window: &Window, operand: &PlannedTensor, result: &PlannedTensor) -> bool {
    if !has_rows(operand) || !has_rows(result) {
        return false;
    }
    let (extent, rows) = (operand.ty.shape.dims()[ROW_AXIS], result.ty.shape.dims()[ROW_AXIS]);
    let padded = extent + window.pad_begin[0] + window.pad_end[0];
    let fits = |row: usize| need(window, row, extent).count > 0 && row * window.stride[0] + window.span(0) <= padded;
    (0..rows).all(fits)
}

/// Whether a tensor is one row behind the other, without gaps.
fn has_rows(tensor: &PlannedTensor) -> bool {
    let dims = tensor.ty.shape.dims();
    let Some(&rows) = dims.get(ROW_AXIS).filter(|&&rows| rows > 1 && dims[0] == 1) else { return false };
    let len = tensor.ty.shape.len();
    let strides = tensor.view.strides();
    tensor.view.extent() == len && strides.is_some_and(|strides| strides[ROW_AXIS] == len / rows)
}

/// Bytes of a row.
fn row_bytes(tensor: &PlannedTensor) -> usize {
    tensor.ty.bytes() / tensor.ty.shape.dims()[ROW_AXIS]
}

/// Neighbouring layers, of which the last computes what the others are for.
struct Group<'a> {
    base: &'a Plan,
    members: Vec<Member<'a>>,
}

impl<'a> Group<'a> {
    /// `None` if the layers cannot be executed row by row together.
    fn new(base: &'a Plan, range: Range<usize>) -> Option<Group<'a>> {
        let layers = &base.layers[range.clone()];
        if !layers.iter().all(|layer| is_streamable(base, layer)) {
            return None;
        }
        let buffer = |id: &TensorId| base.tensor(*id).buffer;
        let mut members: Vec<Member> = vec![];
        for layer in layers {
            let mut producers = vec![];
            for operand in &layer.operands {
                let producer = members.iter().position(|member| buffer(&member.layer.result) == buffer(operand));
                // Another view of the same buffer has other rows.
                if producer.is_some_and(|producer| members[producer].layer.result != *operand) {
                    return None;
                }
                producers.push(producer);
            }
            let outside = base.layers[..range.start].iter().chain(&base.layers[range.end..]);
            let read = outside.flat_map(|layer| &layer.operands).any(|id| buffer(id) == buffer(&layer.result));
            let kept = read || !matches!(base.place(layer.result), Place::Arena(_));
            let rows = base.tensor(layer.result).ty.shape.dims()[ROW_AXIS];
            members.push(Member { layer, rows, producers, kept });
        }
        members.last_mut()?.kept = true;
        let used = |index: usize| members.iter().any(|member| member.producers.contains(&Some(index)));
        (0..members.len() - 1).all(used).then_some(Group { base, members })
    }

    /// Adds the group's layers and their executions to a plan.
    fn stream(self, plan: Plan, target: &Target, goal: Goal) -> Option<Plan> {
        let n = self.members.len();
        let capacities = self.capacities()?;
        let mut windows = vec![];
        let mut plan = plan;
        for (member, capacity) in self.members.iter().zip(capacities) {
            windows.push((!member.kept).then(|| {
                let bytes = capacity * row_bytes(self.base.tensor(member.layer.result));
                plan.buffers.push(PlannedBuffer { bytes, place: Place::Arena(0) });
                Kept { buffer: plan.buffers.len() - 1, first: 0, capacity }
            }));
        }
        let layers = BTreeMap::new();
        let (done, executions) = (vec![0; n], vec![]);
        let mut rows = RowByRow { group: &self, plan, target, goal, windows, done, layers, executions };
        rows.ensure(n - 1, self.members[n - 1].rows)?;
        // Rows that only the layers behind the group need.
        for (index, member) in self.members.iter().enumerate().filter(|(_, member)| member.kept) {
            rows.ensure(index, member.rows)?;
        }
        Some(rows.finish())
    }

    /// The operands of a row that members compute, and the rows that it needs of them: those of which it needs least first,
    /// so that they do not have to wait for the others.
    fn needs(&self, index: usize, row: usize) -> Vec<(usize, Need)> {
        let member = &self.members[index];
        let producers = member.producers.iter().enumerate();
        let need = |(port, producer): (usize, &Option<usize>)| Some(((*producer)?, member.need(self.base, port, row)));
        let mut needs: Vec<(usize, Need)> = producers.filter_map(need).collect();
        needs.sort_by_key(|(_, need)| need.count);
        needs
    }

    /// The first row of a member that is still needed; `None` if none is.
    fn first_needed(&self, index: usize, done: &[usize]) -> Option<usize> {
        let unfinished = (0..self.members.len()).filter(|&consumer| done[consumer] < self.members[consumer].rows);
        let needs = unfinished.flat_map(|consumer| self.needs(consumer, done[consumer]));
        needs.filter(|(producer, _)| *producer == index).map(|(_, need)| need.first).min()
    }

    /// How many rows of each member are needed at the same time, at most.
    fn capacities(&self) -> Option<Vec<usize>> {
        let mut done = vec![0; self.members.len()];
        let mut capacities = vec![0; self.members.len()];
        let last = self.members.len() - 1;
        self.count_rows(last, self.members[last].rows, &mut done, &mut capacities)?;
        Some(capacities)
    }

    fn count_rows(&self, index: usize, rows: usize, done: &mut [usize], capacities: &mut [usize]) -> Option<()> {
        while done[index] < rows {
            let row = done[index];
            for (producer, need) in self.needs(index, row) {
                self.count_rows(producer, need.first + need.count, done, capacities)?;
            }
            if !self.members[index].kept {
                let first = self.first_needed(index, done)?.min(row);
                capacities[index] = capacities[index].max(row + 1 - first);
            }
            done[index] += 1;
        }
        Some(())
    }
}

/// The rows of a tensor that are kept.
#[derive(Debug, Clone, Copy)]
struct Kept {
    buffer: usize,
    /// The row at the start of the buffer.
    first: usize,
    /// Rows that the buffer has to hold.
    capacity: usize,
}

/// What distinguishes layers that compute rows of one member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// Rows of the operands, and how much of the window is outside.
    Compute(usize, Vec<(usize, (usize, usize))>),
    /// Number of rows that are moved, and how far.
    Move(usize, usize, usize),
}

struct RowByRow<'a> {
    group: &'a Group<'a>,
    plan: Plan,
    target: &'a Target,
    goal: Goal,
    /// For each member whose result is not kept as a whole.
    windows: Vec<Option<Kept>>,
    /// Rows of each member that have been computed.
    done: Vec<usize>,
    layers: BTreeMap<Key, usize>,
    executions: Vec<Execution>,
}

impl RowByRow<'_> {
    /// Computes rows of a member, each as soon as what it needs is there.
    fn ensure(&mut self, index: usize, rows: usize) -> Option<()> {
        while self.done[index] < rows {
            let row = self.done[index];
            for (producer, need) in self.group.needs(index, row) {
                self.ensure(producer, need.first + need.count)?;
            }
            self.make_room(index, row)?;
            self.compute(index, row)?;
            self.done[index] += 1;
        }
        Some(())
    }

    /// If a window is full, moves the rows that are still needed to its start.
    fn make_room(&mut self, index: usize, row: usize) -> Option<()> {
        let Some(kept) = self.windows[index].filter(|kept| row - kept.first >= kept.capacity) else { return Some(()) };
        let member = &self.group.members[index];
        let first = self.group.first_needed(index, &self.done)?.min(row);
        let (rows, distance) = (row - first, first - kept.first);
        if rows > 0 {
            let layer = self.moving_layer(index, rows, distance)?;
            let bytes = row_bytes(self.group.base.tensor(member.layer.result));
            self.execute(layer, vec![distance * bytes, 0], (first, first + rows - 1, member.rows));
        }
        self.windows[index] = Some(Kept { first, ..kept });
        Some(())
    }

    fn compute(&mut self, index: usize, row: usize) -> Option<()> {
        let member = &self.group.members[index];
        let needs: Vec<Need> =
            (0..member.layer.operands.len()).map(|port| member.need(self.group.base, port, row)).collect();
        let layer = self.row_layer(index, &needs)?;
        let begin = |member: Option<usize>, id: TensorId, row: usize| {
            let first = member.and_then(|member| self.windows[member]).map_or(0, |kept| kept.first);
            Some(row.checked_sub(first)? * row_bytes(self.group.base.tensor(id)))
        };
        let operands = member.layer.operands.iter().zip(&needs).zip(&member.producers);
        let mut at: Vec<usize> =
            operands.map(|((&id, need), &producer)| begin(producer, id, need.first)).collect::<Option<_>>()?;
        at.push(begin(Some(index), member.layer.result, row)?);
        self.execute(layer, at, (row, row, member.rows));
        Some(())
    }

    fn execute(&mut self, layer: usize, at: Vec<usize>, (first, last, of): (usize, usize, usize)) {
        let rows = self.plan.layers[layer].rows.get_or_insert(Rows { first, last, of });
        (rows.first, rows.last) = (rows.first.min(first), rows.last.max(last));
        self.executions.push((layer, at));
    }

    /// The layer that computes a row of a member from so many rows of its operands.
    fn row_layer(&mut self, index: usize, needs: &[Need]) -> Option<usize> {
        let key = Key::Compute(index, needs.iter().map(|need| (need.count, need.outside)).collect());
        if let Some(&layer) = self.layers.get(&key) {
            return Some(layer);
        }
        let member = &self.group.members[index];
        let operands = member.layer.operands.iter().zip(needs).zip(&member.producers);
        let operands: Vec<(TensorId, usize, Option<usize>)> =
            operands.map(|((&id, need), &producer)| (id, need.count, producer)).collect();
        let operands = operands.into_iter().map(|(id, count, producer)| self.rows_of(id, count, producer)).collect();
        let result = self.rows_of(member.layer.result, 1, Some(index));
        let mut layer = Layer {
            work: on_rows(&member.layer.work, needs[0]),
            operands,
            result,
            scratch: None,
            kernel: UNDECIDED,
            ..member.layer.clone()
        };
        layer.kernel = kernels::choose(&layer, &self.plan, self.target, self.goal)?;
        let replaced = |port: usize| match kernels::may_replace(&layer, &self.plan, port) {
            true => Overlap::Same,
            false => Overlap::Never,
        };
        layer.overlaps = (0..layer.operands.len()).map(replaced).collect();
        Some(self.add_layer(key, layer))
    }

    /// The layer that moves rows of a window to its start.
    fn moving_layer(&mut self, index: usize, rows: usize, distance: usize) -> Option<usize> {
        let key = Key::Move(index, rows, distance);
        if let Some(&layer) = self.layers.get(&key) {
            return Some(layer);
        }
        let member = self.group.members[index].layer;
        let tensor = self.rows_of(member.result, rows, Some(index));
        let mut layer = Layer {
            origin: vec![],
            work: Work::Copy,
            operands: vec![tensor],
            result: tensor,
            added: None,
            scratch: None,
            kernel: UNDECIDED,
            overlaps: vec![Overlap::Never],
            ..member.clone()
        };
        let bytes = distance * row_bytes(self.group.base.tensor(member.result));
        let fits = |kernel: &&'static kernels::Kernel| {
            let layer = Layer { kernel, ..layer.clone() };
            matches!(kernels::overlap(&layer, &self.plan, 0), Overlap::Behind(lead) if lead <= bytes)
        };
        let usable = kernels::usable(&layer, &self.plan, self.target, self.goal).filter(fits);
        layer.kernel = usable.min_by_key(|kernel| (kernel.instructions)(&layer, &self.plan))?;
        Some(self.add_layer(key, layer))
    }

    fn add_layer(&mut self, key: Key, layer: Layer) -> usize {
        self.plan.layers.push(layer);
        let layer = self.plan.layers.len() - 1;
        self.layers.insert(key, layer);
        layer
    }

    /// Some rows of a tensor as a tensor; of a member without kept result, in its window.
    fn rows_of(&mut self, id: TensorId, count: usize, member: Option<usize>) -> TensorId {
        let PlannedTensor { name, ty, view, buffer } = self.group.base.tensor(id).clone();
        let mut ty = ty;
        let dims = ty.shape.dims().iter().enumerate();
        ty.shape = Shape::new(dims.map(|(axis, &dim)| if axis == ROW_AXIS { count } else { dim }).collect::<Vec<_>>());
        // All rows of a tensor lie alike, and a single one has no place in the order.
        let mut order = view.order();
        order.retain(|&axis| axis != ROW_AXIS);
        order.insert(0, ROW_AXIS);
        let view = View::dense(&ty.shape, &order);
        let window = member.and_then(|member| self.windows[member]);
        let buffer = window.map_or(buffer, |kept| kept.buffer);
        self.plan.tensors.push(PlannedTensor { name, ty, view, buffer });
        TensorId(self.plan.tensors.len() - 1)
    }

    fn finish(mut self) -> Plan {
        add_runs(&mut self.plan.steps, &self.executions);
        self.plan
    }
}

/// A layer, and where its tensors begin.
type Execution = (usize, Vec<usize>);

/// Adds executions, those in loops that repeat with constant distances.
fn add_runs(steps: &mut Vec<Step>, executions: &[Execution]) {
    let mut rest = executions;
    while !rest.is_empty() {
        let loops = (1..=LONGEST_PASS.min(rest.len())).map(|len| (len, repetitions(rest, len)));
        let saved = |&(len, times): &(usize, usize)| (len * (times - 1), std::cmp::Reverse(len));
        let (len, times) = loops.max_by_key(saved).unwrap_or((1, 1));
        if len * (times - 1) >= WORTH_A_LOOP {
            steps.push(Step { times, runs: repeated(&rest[..len], &rest[len..2 * len]) });
            rest = &rest[len * times..];
        } else {
            add_once(steps, repeated(&rest[..1], &rest[..1]));
            rest = &rest[1..];
        }
    }
}

/// How often the first `len` executions follow each other with the same distances.
fn repetitions(executions: &[Execution], len: usize) -> usize {
    let pass = |index: usize| executions.get(index * len..(index + 1) * len);
    let step = |index: usize| advances(pass(index)?, pass(index + 1)?);
    let Some(first) = step(0) else { return 1 };
    1 + (0..).take_while(|&index| step(index).as_ref() == Some(&first)).count()
}

/// The executions of a pass, which advance to those of the next.
fn repeated(pass: &[Execution], next: &[Execution]) -> Vec<Run> {
    let mut steps = advances(pass, next).into_iter().flatten();
    let mut position = |&start: &usize| Position { start, advance: steps.next().unwrap_or(0) };
    pass.iter().map(|(layer, at)| Run { layer: *layer, at: at.iter().map(&mut position).collect() }).collect()
}

/// By how much everything begins later in the next pass, if that executes the same layers.
fn advances(pass: &[Execution], next: &[Execution]) -> Option<Vec<usize>> {
    let same = pass.len() == next.len() && pass.iter().zip(next).all(|(a, b)| a.0 == b.0);
    let starts = pass.iter().zip(next).flat_map(|(a, b)| a.1.iter().zip(&b.1));
    if same { starts.map(|(from, to)| to.checked_sub(*from)).collect() } else { None }
}
