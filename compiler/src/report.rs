//! `NAME.report.json`: the facts of a build for tools. The schema is versioned; `REPORT.md` beside the manifest describes
//! every field, and a test compares it with a real report. Deliberately absent: time, paths, anything that differs between
//! machines.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ir::{Graph, Node, Numerics, Quant, QuantType};
use crate::lower::{Lowered, operator};
use crate::plan::{CheckedPlan, Layer, Place, Work};
use crate::print::Language;

/// Version of the schema: grows when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

/// The report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of this schema.
    pub schema: u32,
    /// Tool and version.
    pub generator: String,
    /// Prefix of all symbols.
    pub name: String,
    /// Target.
    pub target: String,
    /// Language of the code: `c` or `rust`.
    pub language: &'static str,
    /// Numerics profile.
    pub numerics: &'static str,
    /// Where the arena is: `static` or `caller`.
    pub arena_mode: &'static str,
    /// SHA-256 of the model file.
    pub model_sha256: String,
    /// SHA-256 of the ranges file.
    pub ranges_sha256: String,
    /// The model's inputs.
    pub inputs: Vec<TensorReport>,
    /// The model's outputs.
    pub outputs: Vec<TensorReport>,
    /// Bytes of all constants.
    pub weight_bytes: usize,
    /// Multiply-accumulate operations of an inference.
    pub macs: u64,
    /// The same as the model says, before channels that change no output were removed.
    pub macs_nominal: u64,
    /// Working memory.
    pub arena: ArenaReport,
    /// Copies into another layout that could not be avoided: the tensors.
    pub layout_copies: Vec<String>,
    /// One entry for each function, in the order of execution.
    pub layers: Vec<LayerReport>,
}

/// An input or output.
#[derive(Debug, Clone, Serialize)]
pub struct TensorReport {
    /// Name in the ONNX model.
    pub name: String,
    /// Shape, ONNX's axis order.
    pub dims: Vec<usize>,
    /// Element type.
    pub r#type: String,
    /// Real value of a step; absent where the elements are positions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// The integer that stands for 0; absent where the elements are positions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_point: Option<i32>,
}

/// The arena.
#[derive(Debug, Clone, Serialize)]
pub struct ArenaReport {
    /// Its size.
    pub bytes: usize,
    /// The most that is needed at one layer: no plan can do with less.
    pub lower_bound_bytes: usize,
    /// The layer where that is.
    pub peak_layer: String,
    /// ONNX nodes of that layer.
    pub peak_nodes: Vec<String>,
}

/// A layer.
#[derive(Debug, Clone, Serialize)]
pub struct LayerReport {
    /// Its function.
    pub function: String,
    /// The tensor it computes.
    pub tensor: String,
    /// What it does.
    pub kind: String,
    /// How it does it.
    pub kernel: &'static str,
    /// ONNX nodes merged into it.
    pub nodes: Vec<String>,
    /// Shapes of its operands.
    pub input_shapes: Vec<Vec<usize>>,
    /// Shape of its result.
    pub output_shape: Vec<usize>,
    /// Shape of its result in the model, if channels were removed from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_shape_nominal: Option<Vec<usize>>,
    /// Element type of its result.
    pub output_type: String,
    /// Element type of its weights, if it has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_type: Option<String>,
    /// Multiply-accumulate operations.
    pub macs: u64,
    /// The same as the model says.
    pub macs_nominal: u64,
    /// Bytes of its constants.
    pub weight_bytes: usize,
    /// Smallest and largest value of the accumulator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accumulator: Option<[i64; 2]>,
    /// Bytes of the arena that are in use while it runs.
    pub arena_live_bytes: usize,
    /// Where its result is: `[start, end]` in the arena; absent if it writes an output of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arena_span: Option<[usize; 2]>,
    /// Whether the result takes the place of an operand.
    pub in_place: bool,
    /// How often it is called: more than once where tensors are computed row by row.
    pub calls: usize,
}

/// What the report says that plan and program do not know.
#[derive(Debug, Clone)]
pub struct Provenance {
    /// Target.
    pub target: String,
    /// Language of the code.
    pub language: Language,
    /// How results are rounded.
    pub numerics: Numerics,
    /// `static` or `caller`.
    pub arena_mode: &'static str,
    /// SHA-256 of the model file.
    pub model_sha256: String,
    /// SHA-256 of the ranges file.
    pub ranges_sha256: String,
}

/// Collects the report of a build. `nominal` is the graph as the model says.
pub fn report(nominal: &Graph<Quant>, plan: &CheckedPlan, lowered: &Lowered, provenance: Provenance) -> Report {
    let nodes: BTreeMap<&str, &Node<Quant>> =
        nominal.topological().into_iter().map(|id| (nominal.node(id).name.as_str(), nominal.node(id))).collect();
    let layer = |layer_idx: usize| layer_report(&nodes, plan, lowered, provenance.language, layer_idx);
    let layers: Vec<LayerReport> = (0..plan.layers.len()).map(layer).collect();
    let program = lowered.program.program();
    let tensor = |name: &str, ty: &QuantType| {
        let params = ty.params();
        TensorReport {
            name: name.to_owned(),
            dims: ty.shape.dims().to_vec(),
            r#type: ty.dtype.to_string(),
            scale: params.map(|params| params.scale.as_f32()),
            zero_point: params.map(|params| params.zero_point),
        }
    };
    let peak = layers.get(plan.arena.peak_layer);
    Report {
        schema: SCHEMA,
        generator: generator(),
        name: program.name.clone(),
        target: provenance.target,
        language: provenance.language.name(),
        numerics: provenance.numerics.name(),
        arena_mode: provenance.arena_mode,
        model_sha256: provenance.model_sha256,
        ranges_sha256: provenance.ranges_sha256,
        inputs: plan.inputs.iter().map(|&id| tensor(&plan.tensor(id).name, &plan.tensor(id).ty)).collect(),
        outputs: plan.outputs.iter().map(|(name, id)| tensor(name, &plan.tensor(*id).ty)).collect(),
        weight_bytes: program.blobs.iter().map(crate::program::Blob::bytes).sum(),
        macs: layers.iter().map(|layer| layer.macs).sum(),
        macs_nominal: nodes.values().map(|node| node.op.macs(&node.value.shape)).sum(),
        arena: ArenaReport {
            bytes: program.arena_bytes,
            lower_bound_bytes: plan.arena.lower_bound,
            peak_layer: peak.map_or(String::new(), |layer| layer.function.clone()),
            peak_nodes: peak.map_or(vec![], |layer| layer.nodes.clone()),
        },
        layout_copies: copies(plan),
        layers,
    }
}

/// Tensors that a Copy layer moves into another layout.
pub fn copies(plan: &CheckedPlan) -> Vec<String> {
    let copies = plan.layers.iter().filter(|layer| matches!(layer.work, Work::Copy) && layer.rows.is_none());
    copies.map(|layer| layer.name.clone()).collect()
}

/// Tool and version, as they stand in every emitted file.
pub fn generator() -> String {
    format!("ptqc {}", env!("CARGO_PKG_VERSION"))
}

fn layer_report(
    nominal: &BTreeMap<&str, &Node<Quant>>,
    plan: &CheckedPlan,
    lowered: &Lowered,
    language: Language,
    layer_idx: usize,
) -> LayerReport {
    let (layer, facts) = (&plan.layers[layer_idx], &lowered.layers[layer_idx]);
    let result = plan.tensor(layer.result);
    let op = operator(layer);
    let nominal = nominal.get(layer.name.as_str()).filter(|_| op.is_some());
    let shape_nominal = nominal.map(|node| &node.value.shape).filter(|shape| **shape != result.ty.shape);
    LayerReport {
        function: language.function_name(lowered.program.program(), &facts.function),
        tensor: layer.name.clone(),
        kind: op.map_or("Copy", |op| op.kind()).to_owned(),
        kernel: facts.kernel,
        nodes: merged_nodes(layer),
        input_shapes: layer.operands.iter().map(|&id| plan.tensor(id).ty.shape.dims().to_vec()).collect(),
        output_shape: result.ty.shape.dims().to_vec(),
        output_shape_nominal: shape_nominal.map(|shape| shape.dims().to_vec()),
        output_type: result.ty.dtype.to_string(),
        weight_type: op.and_then(|op| op.weighted()).map(|weighted| weighted.weight_type.to_string()),
        macs: op.map_or(0, |op| op.macs(&result.ty.shape)) * plan.times(layer_idx) as u64,
        macs_nominal: nominal.map_or(0, |node| node.op.macs(&node.value.shape)),
        weight_bytes: facts.constant_bytes,
        // Accumulators have been proven to fit 64 bits.
        accumulator: facts.accumulator.map(|bound| [bound.lo as i64, bound.hi as i64]),
        arena_live_bytes: plan.live_bytes(layer_idx),
        arena_span: match plan.place(layer.result) {
            Place::Arena(offset) => Some([*offset, offset + plan.buffers[result.buffer].bytes]),
            Place::Input(_) | Place::Output(_) | Place::Constant(_) => None,
        },
        in_place: plan.overlaps_result(layer_idx),
        calls: plan.times(layer_idx),
    }
}

/// An ONNX node that became several of ours is named once.
fn merged_nodes(layer: &Layer) -> Vec<String> {
    let mut nodes: Vec<String> = vec![];
    for origin in &layer.origin {
        if !nodes.contains(&origin.node) {
            nodes.push(origin.node.clone());
        }
    }
    nodes
}

impl Report {
    /// The file's text.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report holds only numbers, texts and lists") + "\n"
    }

    /// The number of multiply-accumulates, for people.
    pub fn multiply_accumulates(&self) -> String {
        match (self.macs, self.macs_nominal) {
            (macs, nominal) if macs == nominal => format!("{macs} multiply-accumulates"),
            (macs, nominal) => format!("{macs} multiply-accumulates ({nominal} in the model)"),
        }
    }

    /// The largest accumulator of all layers.
    pub fn largest_accumulator(&self) -> i64 {
        self.layers.iter().filter_map(|layer| layer.accumulator).map(|[lo, hi]| lo.abs().max(hi)).max().unwrap_or(0)
    }
}
