//! What to compute when, and where everything lies: a straight line of layers over an arena.
//!
//! The plan decides; how a layer is computed is the kernels' business. Physical layout first exists here.

mod fuse;
mod layout;
mod memory;
mod view;

use std::fmt;

use ptqc_target_runtimes::Target;

pub use layout::row_offsets;
pub use memory::ALIGNMENT;
pub use view::{Dim, View, joined, nest};

use crate::diag::{self, Diagnostic};
use crate::ir::{Checked, Graph, Origin, Quant, QuantType};
use crate::kernels::Kernel;
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
    /// Fewest bytes of code and constants.
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
    /// The operand in whose buffer the result is written, element by element.
    pub in_place: Option<usize>,
    /// How it is computed.
    pub kernel: &'static Kernel,
    /// Working memory that the kernel needs: an index into [`Plan::buffers`].
    pub scratch: Option<usize>,
}

/// The arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaPlan {
    /// Its size.
    pub bytes: usize,
    /// The most that is needed at one layer: no plan can do with less.
    pub lower_bound: usize,
    /// The layer where that is.
    pub peak_layer: usize,
}

/// The plan.
#[derive(Debug, Clone)]
pub struct Plan {
    /// All tensors.
    pub tensors: Vec<PlannedTensor>,
    /// All buffers.
    pub buffers: Vec<PlannedBuffer>,
    /// The steps, in order.
    pub layers: Vec<Layer>,
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
    assign_memory(&mut plan);
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

    /// Buffers that the layer needs in the arena: bytes of what is live while it runs.
    pub fn live_bytes(&self, layer_idx: usize) -> usize {
        let lifetimes = lifetimes(self);
        let live = lifetimes.iter().flatten().filter(|life| (life.first..=life.last).contains(&layer_idx));
        live.map(|life| life.bytes).sum()
    }
}

/// First and last layer of every buffer of the arena; `None` for the others.
fn lifetimes(plan: &Plan) -> Vec<Option<memory::Lifetime>> {
    let mut lifetimes: Vec<Option<memory::Lifetime>> = vec![None; plan.buffers.len()];
    for (layer_idx, layer) in plan.layers.iter().enumerate() {
        let tensors = layer.operands.iter().chain([&layer.result]).map(|id| plan.tensor(*id).buffer);
        for buffer in tensors.chain(layer.scratch) {
            if !matches!(plan.buffers[buffer].place, Place::Arena(_)) {
                continue;
            }
            let bytes = plan.buffers[buffer].bytes;
            let life = lifetimes[buffer].get_or_insert(memory::Lifetime { bytes, first: layer_idx, last: layer_idx });
            life.last = layer_idx;
        }
    }
    lifetimes
}

fn assign_memory(plan: &mut Plan) {
    let lifetimes = lifetimes(plan);
    let (indices, buffers): (Vec<usize>, Vec<memory::Lifetime>) =
        lifetimes.iter().enumerate().filter_map(|(index, life)| Some((index, (*life)?))).unzip();
    let placement = memory::place(&buffers);
    for (index, offset) in indices.into_iter().zip(placement.offsets) {
        plan.buffers[index].place = Place::Arena(offset);
    }
    let (lower_bound, peak_layer) = memory::lower_bound(&buffers);
    plan.arena = ArenaPlan { bytes: placement.bytes, lower_bound, peak_layer };
}

/// Checks that no two live buffers overlap, that everything is written before it is read, and that everything fits.
pub fn check(plan: Plan) -> Result<CheckedPlan, String> {
    let lifetimes = lifetimes(&plan);
    let spans: Vec<(memory::Lifetime, usize)> = lifetimes
        .iter()
        .enumerate()
        .filter_map(|(index, life)| match plan.buffers[index].place {
            Place::Arena(offset) => Some(((*life)?, offset)),
            Place::Input(_) | Place::Output(_) | Place::Constant(_) => None,
        })
        .collect();
    for (i, (a, a_offset)) in spans.iter().enumerate() {
        if a_offset + a.bytes > plan.arena.bytes {
            return Err(format!("a buffer of {} bytes at {a_offset} leaves the arena", a.bytes));
        }
        for (b, b_offset) in &spans[..i] {
            let together = a.first <= b.last && b.first <= a.last;
            if together && a_offset < &(b_offset + b.bytes) && b_offset < &(a_offset + a.bytes) {
                return Err(format!("buffers at {a_offset} and {b_offset} overlap"));
            }
        }
    }
    check_order(&plan)?;
    Ok(CheckedPlan(plan))
}

fn check_order(plan: &Plan) -> Result<(), String> {
    let mut written: Vec<bool> =
        plan.buffers.iter().map(|buffer| matches!(buffer.place, Place::Input(_) | Place::Constant(_))).collect();
    for layer in &plan.layers {
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
        writeln!(
            f,
            "arena {} bytes, lower bound {} at layer {}",
            self.arena.bytes, self.arena.lower_bound, self.arena.peak_layer
        )?;
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
            let in_place = if layer.in_place.is_some() { " in place" } else { "" };
            writeln!(
                f,
                "{layer_idx:02} {work}{added}{in_place} {} <- {}",
                operand(&layer.result),
                operands.join(", ")
            )?;
        }
        Ok(())
    }
}
