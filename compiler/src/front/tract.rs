//! The tract side: decoding, shape inference, constant folding, execution on real numbers.
//!
//! tract's internals are not a stable API; its version is pinned exactly. Its mistakes on odd files (panics
//! included) become diagnostics here.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};

use tract_onnx::pb;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::tract_core::ops::array::StridedSlice;

use super::{ModelInput, forms, pads, reals};
use crate::diag::{self, Code, Diagnostic};
use crate::ir::Shape;
use crate::ops::import::{Constant, ConstantData};

/// The model after shape inference.
#[derive(Debug)]
pub struct Analysed {
    model: InferenceModel,
    outlets: BTreeMap<String, OutletId>,
    outputs: Vec<String>,
    contradiction: Option<Diagnostic>,
    objections: Vec<Diagnostic>,
}

/// A model that can be made to run.
#[derive(Debug)]
pub struct Executable(Analysed);

/// Runs the model on real numbers and returns some of its tensors.
#[derive(Debug, Clone)]
pub struct FloatRunner {
    names: Vec<String>,
    inputs: Vec<(Shape, DatumType)>,
    plan: Arc<TypedRunnableModel>,
}

/// The buffers of one execution; one for each thread.
#[derive(Debug)]
pub struct FloatState {
    state: TypedSimpleState,
    inputs: Vec<(Shape, DatumType)>,
}

/// Parses the protobuf.
pub fn decode(bytes: &[u8]) -> diag::Result<pb::ModelProto> {
    let looks_like = |text: &[u8]| bytes.starts_with(text);
    let hint = match () {
        () if bytes.is_empty() => Some("the file is empty"),
        () if looks_like(b"\x89HDF") => Some("it looks like a Keras HDF5 file: convert it with tf2onnx"),
        () if bytes.get(4..8) == Some(b"TFL3") => {
            Some("it looks like a .tflite file: give the ONNX model it was made from")
        }
        () if looks_like(b"PK\x03\x04") => {
            Some("it looks like a PyTorch or zip file: export it with torch.onnx.export")
        }
        () if looks_like(b"version https://git-lfs") => Some("it is a Git LFS pointer: run `git lfs pull`"),
        () => None,
    };
    let not_onnx = |help: &str| Diagnostic::error(Code::NotOnnx, "this is not an ONNX model").help(help);
    if let Some(hint) = hint {
        return Err(not_onnx(hint).into());
    }
    let decoded = guarded(|| tract_onnx::onnx().proto_model_for_read(&mut &bytes[..]));
    match decoded {
        Ok(proto) if proto.graph.as_ref().is_some_and(|graph| !graph.output.is_empty() || !graph.node.is_empty()) => {
            Ok(proto)
        }
        _ if !begins_like_a_model(bytes) => {
            Err(not_onnx("give a file that `torch.onnx.export`, `tf2onnx` or `onnx.save` has written").into())
        }
        Ok(_) => Err(damaged("it holds no graph").into()),
        Err(problem) => Err(damaged(&format!("the decoder says: {problem}")).into()),
    }
}

/// Exporters write the version of the format first: field 1, a number below 128.
fn begins_like_a_model(bytes: &[u8]) -> bool {
    matches!(bytes, [0x08, 1..=0x7f, ..])
}

fn damaged(what: &str) -> Diagnostic {
    Diagnostic::error(Code::CorruptModel, "the model is damaged or cut off")
        .note(what)
        .help("export it again, or copy it again and compare the sizes of both files")
}

/// Infers all shapes and folds all constants. `proto` has passed the preflight, except for operators that nothing can
/// be done about: those that compute the tensors `refused`.
pub fn analyse(proto: &pb::ModelProto, inputs: &[ModelInput], refused: &BTreeSet<String>) -> diag::Result<Analysed> {
    let mut named = forms::rewritten(pads::rewritten(reals::rewritten(with_unique_names(proto))));
    for node in nodes_mut(&mut named).filter(|node| node.output.iter().any(|output| refused.contains(output))) {
        hide(node);
    }
    let mut objections = vec![];
    loop {
        match guarded(|| analyse_named(&named, inputs)) {
            Ok(analysed) => return Ok(Analysed { objections, ..analysed }),
            Err(problem) => {
                let culprit = culprit(&named, inputs, &problem).and_then(|at| nodes_mut(&mut named).nth(at));
                let Some(node) = culprit.filter(|_| objections.len() < MAX_OBJECTIONS) else {
                    return Err(unreadable(&problem).into());
                };
                objections.push(objection(proto, &node.name, &problem));
                hide(node);
            }
        }
    }
}

/// A type that tract does not know. It passes such nodes by.
const HIDDEN: &str = "ptqc.hidden";

/// So many operators that cannot be read are named; each costs another attempt.
const MAX_OBJECTIONS: usize = 16;

fn nodes_mut(proto: &mut pb::ModelProto) -> impl Iterator<Item = &mut pb::NodeProto> {
    proto.graph.iter_mut().flat_map(|graph| &mut graph.node)
}

fn hide(node: &mut pb::NodeProto) {
    HIDDEN.clone_into(&mut node.op_type);
    node.attribute.clear();
}

/// Position of the node that `problem` is about: the one that the message names, or else, where tract has panicked, the
/// first without which (and without all behind it) the model can be read.
fn culprit(named: &pb::ModelProto, inputs: &[ModelInput], problem: &str) -> Option<usize> {
    let nodes = &named.graph.as_ref()?.node;
    if let Some(at) = nodes.iter().position(|node| is_about(problem, node)) {
        return Some(at).filter(|&at| nodes[at].op_type != HIDDEN);
    }
    let readable = |kept: usize| {
        let mut model = named.clone();
        nodes_mut(&mut model).skip(kept).for_each(hide);
        guarded(|| analyse_named(&model, inputs)).is_ok()
    };
    let positions: Vec<usize> = (1..=nodes.len()).collect();
    let at = positions.partition_point(|&kept| readable(kept));
    (at < nodes.len() && readable(at) && nodes[at].op_type != HIDDEN).then_some(at)
}

/// tract begins its message with the node that it is building.
fn is_about(problem: &str, node: &pb::NodeProto) -> bool {
    problem.starts_with(&format!("Building node {} (", node.name))
}

fn unreadable(problem: &str) -> Diagnostic {
    Diagnostic::error(Code::InvalidGraph, "the model cannot be read")
        .note(without_node_ids(problem))
        .help("check it with `onnx.checker.check_model(model, full_check=True)`")
}

/// What is wrong with the node whose first output is `tensor`.
fn objection(proto: &pb::ModelProto, tensor: &str, problem: &str) -> Diagnostic {
    let detail = problem.split_once("): ").map_or(problem, |(_, detail)| detail);
    let nodes = proto.graph.iter().flat_map(|graph| &graph.node);
    let node = nodes.into_iter().find(|node| node.output.first().is_some_and(|output| output == tensor));
    let (name, op_type) =
        node.map_or_else(Default::default, |node| (super::proto::node_name(node), node.op_type.clone()));
    Diagnostic::error(Code::InvalidGraph, format!("this `{op_type}` cannot be read"))
        .node(name)
        .tensor(tensor)
        .note(without_node_ids(detail))
        .help("check the model with `onnx.checker.check_model(model, full_check=True)`")
}

fn analyse_named(named: &pb::ModelProto, inputs: &[ModelInput]) -> TractResult<Analysed> {
    let mut onnx =
        tract_onnx::onnx().with_ignore_value_info(true).with_ignore_output_shapes(true).with_ignore_output_types(true);
    super::recurrent::register(&mut onnx);
    super::one_hot::register(&mut onnx);
    super::forms::register(&mut onnx);
    let parsed = onnx.parse(named, None)?;
    let mut model = parsed.model;
    let outlets: BTreeMap<String, OutletId> = parsed.outlets_by_name.into_iter().collect();
    let sources = inputs
        .iter()
        .map(|input| {
            outlets.get(&input.name).copied().ok_or_else(|| TractError::msg(format!("input `{}` is lost", input.name)))
        })
        .collect::<TractResult<Vec<_>>>()?;
    model.set_input_outlets(&sources)?;
    for (port, input) in inputs.iter().enumerate() {
        model.set_input_fact(port, InferenceFact::dt_shape(datum_type(input.elem_type), input.shape.dims()))?;
    }
    // Goes on after an error, so that the importers can examine the rest of the model and name the operator.
    let contradiction = model.analyse(true).err().map(|error| contradiction_at(named, &one_line(&error)));
    let outputs = named.graph.iter().flat_map(|graph| &graph.output).map(|output| output.name.clone()).collect();
    Ok(Analysed { model, outlets, outputs, contradiction, objections: vec![] })
}

/// An element type of ONNX, of those that inputs may have.
fn datum_type(elem_type: i32) -> DatumType {
    match elem_type {
        2 => u8::datum_type(),
        3 => i8::datum_type(),
        4 => u16::datum_type(),
        5 => i16::datum_type(),
        6 => i32::datum_type(),
        7 => i64::datum_type(),
        9 => bool::datum_type(),
        12 => u32::datum_type(),
        13 => u64::datum_type(),
        _ => f32::datum_type(),
    }
}

/// What shape inference objects to. The text begins with the node, which bears the name of its first output here.
fn contradiction_at(proto: &pb::ModelProto, text: &str) -> Diagnostic {
    let diagnostic = Diagnostic::error(Code::ShapeMismatch, "the shapes of the model contradict each other")
        .help("check the model with `onnx.checker.check_model(model, full_check=True)`; check sizes given with --dim");
    let first_name = text.split('"').nth(1).unwrap_or_default();
    let nodes = proto.graph.iter().flat_map(|graph| &graph.node);
    let detail = without_node_ids(text.split_once(": ").map_or(text, |(_, detail)| detail));
    match nodes.into_iter().find(|node| node.output.first().is_some_and(|output| output == first_name)) {
        Some(node) => {
            Diagnostic { message: format!("the shapes at this `{}` contradict each other", node.op_type), ..diagnostic }
                .node(super::proto::node_name(node))
                .tensor(first_name)
                .note(detail)
        }
        None => diagnostic.note(detail),
    }
}

/// tract counts nodes; the user knows only their names.
fn without_node_ids(text: &str) -> String {
    let is_id =
        |word: &str| word.strip_prefix('#').is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()));
    text.split(' ').filter(|word| !is_id(word)).collect::<Vec<_>>().join(" ")
}

/// ONNX allows nodes to share a name, tract does not; outputs are unique.
fn with_unique_names(proto: &pb::ModelProto) -> pb::ModelProto {
    let mut proto = proto.clone();
    for node in proto.graph.iter_mut().flat_map(|graph| &mut graph.node) {
        node.name = node.output.first().cloned().unwrap_or_default();
    }
    proto
}

impl Analysed {
    /// Shape of a tensor, if it is known.
    pub fn shape(&self, tensor: &str) -> Option<Shape> {
        let fact = self.model.outlet_fact(*self.outlets.get(tensor)?).ok()?;
        let dims = fact.shape.as_concrete_finite().ok()??;
        Some(Shape::new(dims.to_vec()))
    }

    /// Value of a tensor, if it is a constant of numbers.
    pub fn constant(&self, tensor: &str) -> Option<Constant> {
        let fact = self.model.outlet_fact(*self.outlets.get(tensor)?).ok()?;
        let value = fact.value.concretize()?;
        let shape = Shape::new(value.shape());
        let data = match value.datum_type() {
            dt if dt.is_float() => ConstantData::Float(elements::<f32>(&value)?),
            dt if dt.is_integer() || dt.is_tdim() || dt == bool::datum_type() => {
                ConstantData::Int(elements::<i64>(&value)?)
            }
            _ => return None,
        };
        Some(Constant { shape, data, steps: None })
    }

    /// Whether a tensor holds reals. Of any width: what stands behind a `ConstantOfShape` without value is 64 bits wide
    /// in tract, 32 in ONNX.
    pub fn is_float(&self, tensor: &str) -> bool {
        let fact = self.outlets.get(tensor).and_then(|&outlet| self.model.outlet_fact(outlet).ok());
        fact.and_then(|fact| fact.datum_type.concretize()).is_some_and(|datum_type| datum_type.is_float())
    }

    /// Whether a tensor holds integers or truth values.
    pub fn is_integer(&self, tensor: &str) -> bool {
        let fact = self.outlets.get(tensor).and_then(|&outlet| self.model.outlet_fact(outlet).ok());
        fact.and_then(|fact| fact.datum_type.concretize()).is_some_and(|datum_type| !datum_type.is_float())
    }

    /// Nodes that tract cannot read. Where an importer of ours has found the reason, that is the better message.
    pub fn objections(&self) -> &[Diagnostic] {
        &self.objections
    }

    /// What shape inference objects to, if anything.
    pub fn contradiction(&self) -> Option<&Diagnostic> {
        self.contradiction.as_ref()
    }

    /// The model as something that runs.
    pub fn into_executable(self) -> Executable {
        Executable(self)
    }
}

impl Executable {
    /// Names of the model's outputs.
    pub fn outputs(&self) -> Vec<String> {
        self.0.outputs.clone()
    }

    /// Names of all tensors of reals that depend on an input.
    pub fn taps(&self) -> Vec<String> {
        let inputs = &self.0.model.inputs;
        let is_input = |name: &str| self.0.outlets.get(name).is_some_and(|outlet| inputs.contains(outlet));
        let is_number = |name: &str| !reals::is_step(name) && self.0.is_float(name) || is_input(name);
        let computed = |name: &&String| is_number(name) && self.0.constant(name).is_none();
        self.0.outlets.keys().filter(computed).cloned().collect()
    }

    /// Optimizes the model for this machine. Result `i` of a run is tensor `names[i]`.
    pub fn runner(&self, names: Vec<String>) -> diag::Result<FloatRunner> {
        let Analysed { model, outlets, .. } = &self.0;
        guarded(|| {
            let taps: Vec<OutletId> = names.iter().filter_map(|name| outlets.get(name).copied()).collect();
            let mut model = model.clone();
            let inputs = (0..model.input_outlets()?.len())
                .map(|port| {
                    let fact = model.input_fact(port)?;
                    let shape = Shape::new(fact.shape.as_concrete_finite()?.unwrap_or_default().to_vec());
                    Ok((shape, fact.datum_type.concretize().unwrap_or(f32::datum_type())))
                })
                .collect::<TractResult<Vec<_>>>()?;
            model.select_output_outlets(&taps)?;
            Ok(FloatRunner { names, inputs, plan: runnable(model.into_typed()?)? })
        })
        .map_err(|problem| {
            Diagnostic::error(Code::UnsupportedOp, "the float model cannot be executed").note(problem).into()
        })
    }
}

/// tract's rewrites move slices with steps to places where they change the result, and fail on some legal models.
/// Without rewrites it is only slower.
fn runnable(model: TypedModel) -> TractResult<Arc<TypedRunnableModel>> {
    if !model.nodes().iter().any(|node| has_steps(&model, node))
        && let Ok(plan) = guarded(|| model.clone().into_optimized()?.into_runnable())
    {
        return Ok(plan);
    }
    model.into_runnable()
}

fn has_steps(model: &TypedModel, node: &TypedNode) -> bool {
    let port = node.op_as::<StridedSlice>().and_then(|slice| slice.optional_steps_input);
    let steps = port.and_then(|port| model.outlet_fact(node.inputs[port]).ok()?.konst.clone());
    steps.and_then(|steps| elements::<i64>(&steps)).is_some_and(|steps| steps.iter().any(|&step| step != 1))
}

impl FloatRunner {
    /// Names of the tensors that a run returns.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Buffers for one thread.
    pub fn state(&self) -> diag::Result<FloatState> {
        let state = guarded(|| self.plan.spawn()).map_err(execution_failed)?;
        Ok(FloatState { state, inputs: self.inputs.clone() })
    }
}

impl FloatState {
    /// Runs one sample (an array for each input, row-major); the results come in the order of the runner's names.
    /// Results that are not real numbers (positions from ArgMax) are converted.
    pub fn run(&mut self, inputs: &[Vec<f32>]) -> diag::Result<Vec<Vec<f32>>> {
        guarded(|| {
            let tensors = inputs
                .iter()
                .zip(&self.inputs)
                .map(|(data, (shape, datum_type))| {
                    let tensor = Tensor::from_shape(shape.dims(), data)?;
                    Ok(tensor.cast_to_dt(*datum_type)?.into_owned().into_tvalue())
                })
                .collect::<TractResult<TVec<TValue>>>()?;
            let results = self.state.run(tensors)?;
            results
                .iter()
                .map(|tensor| elements::<f32>(tensor).ok_or_else(|| TractError::msg("a result is not numeric")))
                .collect()
        })
        .map_err(execution_failed)
    }
}

fn execution_failed(problem: String) -> diag::Diagnostics {
    Diagnostic::error(Code::UnsupportedOp, "the float model failed while running").note(problem).into()
}

fn elements<T: Datum + Copy>(tensor: &Tensor) -> Option<Vec<T>> {
    let cast = tensor.cast_to::<T>().ok()?;
    Some(cast.try_as_plain_ram().ok()?.as_slice::<T>().ok()?.to_vec())
}

/// Runs tract code; an error or a panic becomes a text of one line.
fn guarded<T>(code: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    silence_guarded_panics();
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(code));
    GUARDED.set(outer);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(one_line(&error)),
        Err(panic) => Err(panic_text(panic.as_ref())),
    }
}

fn one_line(error: &TractError) -> String {
    format!("{error:#}").replace('\n', " ")
}

thread_local! {
    /// Whether this thread runs tract code whose panics are caught.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Lets the panic hook skip panics that are caught and become diagnostics. The hook belongs to the whole process, so
/// it is replaced once and asks the thread; replacing it around every call would race.
fn silence_guarded_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                previous(info);
            }
        }));
    });
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("the model confuses tract").replace('\n', " ")
}
