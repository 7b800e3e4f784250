//! What to compute when, and where everything lies: a straight line of layers over an arena.
//!
//! The plan decides; how a layer is computed is the kernels' business. Physical layout first exists here.

mod fuse;
mod layout;
mod liveness;
mod memory;
mod order;
mod scratch;
mod stream;
mod view;

use std::fmt;

use ptqc_target_runtimes::Target;

pub use layout::row_offsets;
pub use liveness::MemoryUse;
pub use memory::ALIGNMENT;
pub use view::{Dim, View, joined, nest};

use crate::diag::{self, Diagnostic};
use crate::ir::{Checked, Graph, Origin, Quant, QuantType};
use crate::kernels::{self, Kernel};
use crate::ops::QuantOp;
use crate::ops::add::QAdd;

/// Index into [`Plan::tensors`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorId(pub usize);

/// A tensor and how it lies in its buffer.
#[derive(Debug, Clone)]
pub struct PlannedTensor {
    /// Name in the quantized graph.
    pub name: String,
    /// Shape, element type, meaning.
    pub ty: QuantType,
    /// Addresses of its elements.
    pub view: View,
    /// The buffer: an index into [`Plan::buffers`]. Transposes and reshapes share their operand's.
    pub buffer: usize,
}

/// Memory that tensors lie in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedBuffer {
    /// Size.
    pub bytes: usize,
    /// Whose memory it is.
    pub place: Place,
}

/// Whose memory a buffer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The caller's input with this index.
    Input(usize),
    /// The caller's output with this index.
    Output(usize),
    /// The arena, from this byte on.
    Arena(usize),
    /// Constant data: quantized elements in the order of the view.
    Constant(Vec<i32>),
}

/// What a layer computes.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there are few layers, and most of them are operators")]
pub enum Work {
    /// An operator of the quantized graph.
    Operator(QuantOp),
    /// The same elements in another layout.
    Copy,
}

/// A sum with another tensor, computed on each element of a layer's result before it is stored.
#[derive(Debug, Clone)]
pub struct Added {
    /// The sum. The other tensor is the layer's last operand and lies in memory like the result.
    pub add: QAdd,
    /// Which term of the sum is the layer's own result.
    pub port: usize,
}

/// What the code shall be best at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Goal {
    /// Few instructions, as long as code and memory do not pay much for it.
    #[default]
    Balanced,
    /// Fewest instructions.
    Speed,
    /// Few bytes of code and constants. No kernel is chosen for it today: the same as [`Goal::Balanced`].
    Size,
    /// Fewest bytes of working memory.
    Ram,
}

impl Goal {
    /// As it stands on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Goal::Balanced => "balanced",
            Goal::Speed => "speed",
            Goal::Size => "size",
            Goal::Ram => "ram",
        }
    }
}

/// One step of the inference.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Name of the tensor it computes.
    pub name: String,
    /// ONNX nodes it came from.
    pub origin: Vec<Origin>,
    /// What it computes.
    pub work: Work,
    /// What it reads.
    pub operands: Vec<TensorId>,
    /// What it writes.
    pub result: TensorId,
    /// What is added to the result before it is stored.
    pub added: Option<Added>,
    /// How it is computed.
    pub kernel: &'static Kernel,
    /// Working memory that the kernel needs: an index into [`Plan::buffers`].
    pub scratch: Option<usize>,
    /// For each operand, how it may share memory with the result.
    pub overlaps: Vec<Overlap>,
    /// Number of the operator among all of the model. Layers that compute different rows of one tensor have the same.
    pub source: usize,
    /// The rows of the result that it computes, if these are not all.
    pub rows: Option<Rows>,
}

/// How an operand may share memory with the result of its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// Not at all.
    Never,
    /// If it starts where the result starts.
    Same,
    /// If it starts at least so many bytes behind the start of the result.
    Behind(usize),
}

/// Rows of a tensor that a layer computes, one with each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// The first.
    pub first: usize,
    /// The last.
    pub last: usize,
    /// Number of rows of the tensor.
    pub of: usize,
}

/// Layers that are executed one after the other, and all of that `times` times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Number of passes, at least 1.
    pub times: usize,
    /// What a pass executes.
    pub runs: Vec<Run>,
}

/// An execution of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Index into [`Plan::layers`].
    pub layer: usize,
    /// Where in their buffers the operands and, last, the result begin.
    pub at: Vec<Position>,
}

/// A byte of a buffer that advances with every pass of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The byte, in the first pass.
    pub start: usize,
    /// Distance between two passes in bytes.
    pub advance: usize,
}

impl Position {
    /// The byte in a pass.
    pub fn at(self, pass: usize) -> usize {
        self.start + self.advance * pass
    }
}

/// The operands of a layer that overlap its result, as a function of loops sees them: parts of one buffer that begins
/// with the result.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shared {
    /// Operands, and by how many bytes they begin behind the result.
    pub operands: Vec<(usize, usize)>,
    /// Size of result and operands together.
    pub len: usize,
}

impl Shared {
    /// The operands that are buffers of their own: each tensor once, with the first operand that it is.
    pub fn others(&self, layer: &Layer) -> Vec<(usize, TensorId)> {
        let all = layer.operands.iter().copied().enumerate();
        let first = |port: usize, id: TensorId| !layer.operands[..port].contains(&id);
        all.filter(|&(port, id)| first(port, id) && self.operands.iter().all(|&(other, _)| layer.operands[other] != id))
            .collect()
    }

    /// By how many bytes an operand that shares memory begins behind the result.
    pub fn distance(&self, port: usize) -> usize {
        self.operands.iter().find(|(other, _)| *other == port).map_or(0, |(_, distance)| *distance)
    }
}

/// The arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaPlan {
    /// Its size.
    pub bytes: usize,
    /// What no placement of these buffers can do without.
    pub lower_bound: usize,
    /// The layer that needs most by itself.
    pub peak_layer: usize,
}

/// The plan.
#[derive(Debug, Clone)]
pub struct Plan {
    /// All tensors.
    pub tensors: Vec<PlannedTensor>,
    /// All buffers.
    pub buffers: Vec<PlannedBuffer>,
    /// The layers.
    pub layers: Vec<Layer>,
    /// The order in which they are executed.
    pub steps: Vec<Step>,
    /// The model's inputs.
    pub inputs: Vec<TensorId>,
    /// The model's outputs, with their names in the model.
    pub outputs: Vec<(String, TensorId)>,
    /// The arena.
    pub arena: ArenaPlan,
}

/// A plan in which [`check`] found nothing wrong.
#[derive(Debug, Clone)]
pub struct CheckedPlan(Plan);

impl std::ops::Deref for CheckedPlan {
    type Target = Plan;

    fn deref(&self) -> &Plan {
        &self.0
    }
}

/// Plans the execution of a graph on a target.
pub fn plan(graph: &Checked<Graph<Quant>>, target: &Target, goal: Goal) -> diag::Result<CheckedPlan> {
    let mut plan = layout::lay_out(graph, target, goal)?;
    plan.find_overlaps();
    order::shorten_lives(&mut plan);
    let mut plan = scratch::settle(plan, target, goal);
    if goal == Goal::Ram {
        plan = stream::row_by_row(plan, target, goal);
    }
    plan.keep_apart_what_can_be();
    check(plan).map_err(|problem| Diagnostic::internal(format!("plan: {problem}")).into())
}

impl Plan {
    /// A tensor.
    pub fn tensor(&self, id: TensorId) -> &PlannedTensor {
        &self.tensors[id.0]
    }

    /// Where a tensor lies.
    pub fn place(&self, id: TensorId) -> &Place {
        &self.buffers[self.tensor(id).buffer].place
    }

    /// Operands and result of a layer, in the order of [`Run::at`].
    pub fn tensors_of<'a>(&self, layer: &'a Layer) -> impl Iterator<Item = TensorId> + use<'a> {
        layer.operands.iter().copied().chain([layer.result])
    }

    /// Bytes from the first to the last element of a tensor.
    pub fn extent(&self, id: TensorId) -> usize {
        let tensor = self.tensor(id);
        tensor.ty.dtype.bytes(tensor.view.extent())
    }

    /// The bytes of the arena that a layer has in use: everything that is live while it runs.
    pub fn live_bytes(&self, layer_idx: usize) -> usize {
        let mut spans = vec![];
        for (buffer, life) in self.lives().iter().enumerate() {
            let Place::Arena(offset) = self.buffers[buffer].place else { continue };
            let runs = self.executions().enumerate().filter(|(_, (run, _))| run.layer == layer_idx);
            if runs.into_iter().any(|(event, _)| life.as_ref().is_some_and(|life| life.is_live(event))) {
                spans.push((offset, offset + self.buffers[buffer].bytes));
            }
        }
        spans.sort_unstable();
        let (mut bytes, mut reached) = (0, 0);
        for (start, end) in spans {
            bytes += end.saturating_sub(start.max(reached));
            reached = reached.max(end);
        }
        bytes
    }

    /// Number of times that a layer is executed.
    pub fn times(&self, layer_idx: usize) -> usize {
        let runs = |step: &Step| step.runs.iter().filter(|run| run.layer == layer_idx).count();
        self.steps.iter().map(|step| step.times * runs(step)).sum()
    }

    /// The operands of a layer whose memory overlaps that of the result. None for functions of assembly, which get the
    /// addresses of all their buffers.
    pub fn shared(&self, layer_idx: usize) -> Shared {
        let layer = &self.layers[layer_idx];
        let first = self.executions().find(|(run, _)| run.layer == layer_idx);
        match first {
            Some((run, pass)) if !layer.kernel.assembly => self.shared_in(run, pass),
            _ => Shared::default(),
        }
    }

    /// Whether the result of a layer lies where an operand is.
    pub fn overlaps_result(&self, layer_idx: usize) -> bool {
        let first = self.executions().find(|(run, _)| run.layer == layer_idx);
        first.is_some_and(|(run, pass)| !self.shared_in(run, pass).operands.is_empty())
    }

    fn shared_in(&self, run: &Run, pass: usize) -> Shared {
        let layer = &self.layers[run.layer];
        let spans: Vec<Option<(usize, usize)>> = self
            .tensors_of(layer)
            .zip(&run.at)
            .map(|(id, at)| match self.place(id) {
                Place::Arena(offset) => Some((offset + at.at(pass), offset + at.at(pass) + self.extent(id))),
                Place::Input(_) | Place::Output(_) | Place::Constant(_) => None,
            })
            .collect();
        let mut shared = Shared::default();
        let Some((&Some(y), operands)) = spans.split_last() else { return shared };
        let mut end = y.1;
        for (port, x) in operands.iter().enumerate() {
            // The planner lets an operand begin behind the result, never before it.
            if let Some(x) = x.filter(|x| x.0 >= y.0 && x.0 < y.1) {
                shared.operands.push((port, x.0 - y.0));
                end = end.max(x.1);
            }
        }
        if !shared.operands.is_empty() {
            shared.len = end - y.0;
        }
        shared
    }

    /// All executions of layers, in order, each with its pass.
    fn executions(&self) -> impl Iterator<Item = (&Run, usize)> {
        self.steps.iter().flat_map(|step| (0..step.times).flat_map(|pass| step.runs.iter().map(move |run| (run, pass))))
    }

    /// Asks the kernels how operands and results may overlap.
    fn find_overlaps(&mut self) {
        (0..self.layers.len()).for_each(|layer_idx| self.find_overlaps_of(layer_idx));
    }

    fn find_overlaps_of(&mut self, layer_idx: usize) {
        let layer = &self.layers[layer_idx];
        let overlaps = (0..layer.operands.len()).map(|port| match self.place(layer.operands[port]) {
            Place::Arena(_) => kernels::overlap(layer, self, port),
            Place::Input(_) | Place::Output(_) | Place::Constant(_) => Overlap::Never,
        });
        self.layers[layer_idx].overlaps = overlaps.collect();
    }

    /// Gives every layer the working memory that its kernel asks for.
    fn add_scratch(&mut self) {
        for layer_idx in 0..self.layers.len() {
            let layer = &self.layers[layer_idx];
            let bytes = (layer.kernel.scratch)(layer, self);
            self.layers[layer_idx].scratch = (bytes > 0).then(|| {
                self.buffers.push(PlannedBuffer { bytes, place: Place::Arena(0) });
                self.buffers.len() - 1
            });
        }
    }

    /// Executes every layer once, in order.
    fn execute_in_order(&mut self) {
        let run = |layer: usize| Run { layer, at: vec![Position::default(); self.layers[layer].operands.len() + 1] };
        self.steps = vec![Step { times: 1, runs: (0..self.layers.len()).map(run).collect() }];
    }

    /// The plan with everything executed once, in order, and placed.
    fn arranged(mut self) -> Plan {
        self.add_scratch();
        self.execute_in_order();
        self.assign_memory();
        self
    }

    /// Places all buffers of the arena.
    fn assign_memory(&mut self) {
        let packing = Packing::of(self);
        let (lower_bound, peak_layer) = packing.lower_bound();
        let placement = memory::place(&packing.problem, lower_bound);
        for (&buffer, &offset) in packing.placed.iter().zip(&placement.offsets) {
            self.buffers[buffer].place = Place::Arena(offset);
        }
        let lower_bound = if placement.optimal { placement.bytes } else { lower_bound };
        self.arena = ArenaPlan { bytes: placement.bytes, lower_bound, peak_layer };
    }

    /// Takes back overlaps of layers of loops that make the arena no smaller: operands and results with names of their own
    /// are easier to read, and to optimise.
    fn keep_apart_what_can_be(&mut self) {
        for layer_idx in 0..self.layers.len() {
            let layer = &self.layers[layer_idx];
            let replaced = |&(port, distance): &(usize, usize)| {
                distance == 0 && self.extent(layer.operands[port]) == self.extent(layer.result)
            };
            if self.shared(layer_idx).operands.iter().all(replaced) || layer.rows.is_some() {
                continue;
            }
            let mut apart = self.clone();
            apart.layers[layer_idx].overlaps.fill(Overlap::Never);
            if apart.lower_bound() <= self.arena.bytes {
                apart.assign_memory();
                if apart.arena.bytes <= self.arena.bytes {
                    *self = apart;
                }
            }
        }
    }

    /// What no arena can do without.
    fn lower_bound(&self) -> usize {
        Packing::of(self).lower_bound().0
    }
}

/// The buffers of a plan that have to be placed.
struct Packing {
    placed: Vec<usize>,
    problem: memory::Problem,
    /// Buffers that are in use together, and a layer where that is so.
    together: Vec<(usize, Vec<usize>)>,
}

impl Packing {
    fn of(plan: &Plan) -> Packing {
        let lives = plan.lives();
        let placed: Vec<usize> = (0..lives.len()).filter(|&buffer| lives[buffer].is_some()).collect();
        let sizes: Vec<usize> = placed.iter().map(|&buffer| plan.buffers[buffer].bytes).collect();
        let problem = memory::Problem::new(sizes, &liveness::distances(plan, &lives, &placed));
        let together = liveness::live_together(plan, &lives, &placed);
        Packing { placed, problem, together }
    }

    /// The most that is needed at one layer, and the first such layer.
    fn lower_bound(&self) -> (usize, usize) {
        let bounds = self.together.iter().map(|(layer, live)| (self.problem.lower_bound(live), *layer));
        bounds.rev().max_by_key(|(bound, _)| *bound).unwrap_or((0, 0))
    }
}

/// Checks that buffers are as far apart as they have to be, that everything is written before it is read, and that
/// everything fits.
pub fn check(plan: Plan) -> Result<CheckedPlan, String> {
    let lives = plan.lives();
    let placed: Vec<usize> = (0..lives.len()).filter(|&buffer| lives[buffer].is_some()).collect();
    let offset = |buffer: usize| match plan.buffers[buffer].place {
        Place::Arena(offset) => offset,
        Place::Input(_) | Place::Output(_) | Place::Constant(_) => 0,
    };
    let distances = liveness::distances(&plan, &lives, &placed);
    for (i, &a) in placed.iter().enumerate() {
        if offset(a) + plan.buffers[a].bytes > plan.arena.bytes {
            return Err(format!("a buffer of {} bytes at {} leaves the arena", plan.buffers[a].bytes, offset(a)));
        }
        for (j, &b) in placed.iter().enumerate().take(i) {
            if !distances.allow(i, j, offset(a) as isize - offset(b) as isize) {
                return Err(format!("buffers at {} and {} overlap", offset(a), offset(b)));
            }
        }
    }
    check_runs(&plan)?;
    check_order(&plan)?;
    Ok(CheckedPlan(plan))
}

/// Every part lies inside of its buffer, and a function meets the same overlap with every call.
fn check_runs(plan: &Plan) -> Result<(), String> {
    for (run, pass) in plan.executions() {
        let layer = &plan.layers[run.layer];
        for (id, at) in plan.tensors_of(layer).zip(&run.at) {
            if at.at(pass) + plan.extent(id) > plan.buffers[plan.tensor(id).buffer].bytes {
                return Err(format!("layer `{}` leaves the buffer of `{}`", layer.name, plan.tensor(id).name));
            }
        }
        if !layer.kernel.assembly && plan.shared_in(run, pass) != plan.shared(run.layer) {
            return Err(format!("operands of layer `{}` overlap the result in different ways", layer.name));
        }
    }
    Ok(())
}

fn check_order(plan: &Plan) -> Result<(), String> {
    let mut written: Vec<bool> =
        plan.buffers.iter().map(|buffer| matches!(buffer.place, Place::Input(_) | Place::Constant(_))).collect();
    for (run, _) in plan.executions() {
        let layer = &plan.layers[run.layer];
        if let Some(unwritten) = layer.operands.iter().find(|id| !written[plan.tensor(**id).buffer]) {
            return Err(format!(
                "layer `{}` reads `{}` before it is written",
                layer.name,
                plan.tensor(*unwritten).name
            ));
        }
        let result = plan.tensor(layer.result).buffer;
        if matches!(plan.buffers[result].place, Place::Input(_) | Place::Constant(_)) {
            return Err(format!("layer `{}` writes what it must not", layer.name));
        }
        written[result] = true;
    }
    let missing = plan.outputs.iter().find(|(_, id)| !written[plan.tensor(*id).buffer]);
    missing.map_or(Ok(()), |(name, _)| Err(format!("output `{name}` is never written")))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ArenaPlan { bytes, lower_bound, peak_layer } = self.arena;
        writeln!(f, "arena {bytes} bytes, lower bound {lower_bound}, most at layer {peak_layer}")?;
        for (layer_idx, layer) in self.layers.iter().enumerate() {
            let place = |id: &TensorId| match self.place(*id) {
                Place::Input(index) => format!("input_{index}"),
                Place::Output(index) => format!("output_{index}"),
                Place::Arena(offset) => {
                    format!("arena[{offset}..{}]", offset + self.buffers[self.tensor(*id).buffer].bytes)
                }
                Place::Constant(_) => "constant".to_owned(),
            };
            let operand = |id: &TensorId| {
                let tensor = self.tensor(*id);
                format!("{} {} {:?} @ {}", tensor.name, tensor.ty.shape, tensor.view.order(), place(id))
            };
            let work = match &layer.work {
                Work::Operator(op) => op.kind(),
                Work::Copy => "Copy",
            };
            let operands: Vec<String> = layer.operands.iter().map(operand).collect();
            let added = if layer.added.is_some() { " + Add" } else { "" };
            let rows = layer.rows.map_or(String::new(), |rows| format!(" {rows}"));
            writeln!(f, "{layer_idx:02} {work}{added}{rows} {} <- {}", operand(&layer.result), operands.join(", "))?;
            let overlaps = self.shared(layer_idx).operands;
            let overlap = |(port, distance): &(usize, usize)| match distance {
                0 => format!("operand {port} is replaced"),
                distance => format!("operand {port} begins {distance} bytes behind the result"),
            };
            if !overlaps.is_empty() {
                writeln!(f, "   {}", overlaps.iter().map(overlap).collect::<Vec<_>>().join(", "))?;
            }
        }
        if self.steps.len() == 1 {
            return Ok(());
        }
        for step in &self.steps {
            writeln!(f, "{} x:", step.times)?;
            for run in &step.runs {
                let at = run.at.iter().map(|at| match at.advance {
                    0 => format!("{}", at.start),
                    advance => format!("{} + {advance} * pass", at.start),
                });
                writeln!(f, "   {:02} at {}", run.layer, at.collect::<Vec<_>>().join(", "))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "row {} of {}", self.first, self.of),
            false => write!(f, "rows {}..{} of {}", self.first, self.last, self.of),
        }
    }
}
