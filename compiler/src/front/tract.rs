//! The tract side: decoding, shape inference, constant folding, execution on real numbers.
//!
//! tract's internals are not a stable API; its version is pinned exactly. Its mistakes on odd files (panics
//! included) become diagnostics here.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tract_onnx::pb;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid;

use super::ModelInput;
use crate::diag::{self, Code, Diagnostic};
use crate::ir::Shape;
use crate::ops::import::{Constant, ConstantData};

/// The model after shape inference.
#[derive(Debug)]
pub struct Analysed {
    model: InferenceModel,
    outlets: BTreeMap<String, OutletId>,
    outputs: Vec<String>,
}

/// A model that can be made to run.
#[derive(Debug)]
pub struct Executable(Analysed);

/// Runs the model on real numbers and returns some of its tensors.
#[derive(Debug, Clone)]
pub struct FloatRunner {
    names: Vec<String>,
    input_shapes: Vec<Shape>,
    plan: Arc<TypedRunnableModel>,
}

/// The buffers of one execution; one for each thread.
#[derive(Debug)]
pub struct FloatState {
    state: TypedSimpleState,
    input_shapes: Vec<Shape>,
}

/// Parses the protobuf.
pub fn decode(bytes: &[u8]) -> diag::Result<pb::ModelProto> {
    let looks_like = |text: &[u8]| bytes.starts_with(text);
    let hint = match () {
        () if bytes.is_empty() => Some("the file is empty"),
        () if looks_like(b"\x89HDF") => Some("it looks like a Keras HDF5 file: convert it with tf2onnx"),
        () if bytes.get(4..8) == Some(b"TFL3") => Some("it looks like a .tflite file: give the ONNX model it was made from"),
        () if looks_like(b"PK\x03\x04") => Some("it looks like a PyTorch or zip file: export it with torch.onnx.export"),
        () if looks_like(b"version https://git-lfs") => Some("it is a Git LFS pointer: run `git lfs pull`"),
        () => None,
    };
    let not_onnx = |help: &str| Diagnostic::error(Code::NotOnnx, "this is not an ONNX model").help(help);
    if let Some(hint) = hint {
        return Err(not_onnx(hint).into());
    }
    let decoded = guarded(|| tract_onnx::onnx().proto_model_for_read(&mut &bytes[..]));
    let proto = decoded.map_err(|problem| not_onnx("export the model again, or fetch the file again: it may be cut off").note(problem))?;
    match &proto.graph {
        Some(graph) if !graph.output.is_empty() || !graph.node.is_empty() => Ok(proto),
        _ => Err(not_onnx("the file decodes, but holds no graph; export the model again").into()),
    }
}

/// Infers all shapes and folds all constants. `proto` has passed the preflight.
pub fn analyse(proto: &pb::ModelProto, inputs: &[ModelInput]) -> diag::Result<Analysed> {
    guarded(|| {
        let onnx = tract_onnx::onnx().with_ignore_value_info(true).with_ignore_output_shapes(true).with_ignore_output_types(true);
        let parsed = onnx.parse(&with_unique_names(proto), None)?;
        let mut model = parsed.model;
        let outlets: BTreeMap<String, OutletId> = parsed.outlets_by_name.into_iter().collect();
        let sources = inputs
            .iter()
            .map(|input| outlets.get(&input.name).copied().ok_or_else(|| TractError::msg(format!("input `{}` is lost", input.name))))
            .collect::<TractResult<Vec<_>>>()?;
        model.set_input_outlets(&sources)?;
        for (port, input) in inputs.iter().enumerate() {
            model.set_input_fact(port, InferenceFact::dt_shape(f32::datum_type(), input.shape.dims()))?;
        }
        model.analyse(false)?;
        let outputs = proto.graph.iter().flat_map(|graph| &graph.output).map(|output| output.name.clone()).collect();
        Ok(Analysed { model, outlets, outputs })
    })
    .map_err(|problem| {
        Diagnostic::error(Code::InvalidGraph, "the shapes of the model cannot be worked out")
            .note(problem)
            .help("check the model with `onnx.checker.check_model(model, full_check=True)`; pin free dimensions with --dim NAME=N")
            .into()
    })
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
            dt if dt.is_integer() || dt.is_tdim() || dt == bool::datum_type() => ConstantData::Int(elements::<i64>(&value)?),
            _ => return None,
        };
        Some(Constant { shape, data })
    }

    /// Whether a tensor holds 32-bit reals.
    pub fn is_float(&self, tensor: &str) -> bool {
        let fact = self.outlets.get(tensor).and_then(|&outlet| self.model.outlet_fact(outlet).ok());
        fact.and_then(|fact| fact.datum_type.concretize()) == Some(f32::datum_type())
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
        let computed = |name: &&String| self.0.is_float(name) && self.0.constant(name).is_none();
        self.0.outlets.keys().filter(computed).cloned().collect()
    }

    /// Optimizes the model for this machine. Result `i` of a run is tensor `names[i]`.
    pub fn runner(&self, names: Vec<String>) -> diag::Result<FloatRunner> {
        let Analysed { model, outlets, .. } = &self.0;
        guarded(|| {
            let taps: Vec<OutletId> = names.iter().filter_map(|name| outlets.get(name).copied()).collect();
            let mut model = model.clone();
            let input_shapes = (0..model.input_outlets()?.len())
                .map(|port| Ok(Shape::new(model.input_fact(port)?.shape.as_concrete_finite()?.unwrap_or_default().to_vec())))
                .collect::<TractResult<Vec<_>>>()?;
            model.select_output_outlets(&taps)?;
            let plan = model.into_optimized()?.into_runnable()?;
            Ok(FloatRunner { names, input_shapes, plan })
        })
        .map_err(|problem| {
            Diagnostic::error(Code::UnsupportedOp, "the float model cannot be executed").note(problem).into()
        })
    }
}

impl FloatRunner {
    /// Names of the tensors that a run returns.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Buffers for one thread.
    pub fn state(&self) -> diag::Result<FloatState> {
        let state = guarded(|| self.plan.spawn()).map_err(execution_failed)?;
        Ok(FloatState { state, input_shapes: self.input_shapes.clone() })
    }
}

impl FloatState {
    /// Runs one sample (an array for each input, row-major); the results come in the order of the runner's names.
    /// Results that are not real numbers (positions from ArgMax) are converted.
    pub fn run(&mut self, inputs: &[Vec<f32>]) -> diag::Result<Vec<Vec<f32>>> {
        guarded(|| {
            let tensors = inputs
                .iter()
                .zip(&self.input_shapes)
                .map(|(data, shape)| Ok(Tensor::from_shape(shape.dims(), data)?.into_tvalue()))
                .collect::<TractResult<TVec<TValue>>>()?;
            let results = self.state.run(tensors)?;
            results.iter().map(|tensor| elements::<f32>(tensor).ok_or_else(|| TractError::msg("a result is not numeric"))).collect()
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
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(code));
    std::panic::set_hook(hook);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(format!("{error:#}").replace('\n', " ")),
        Err(panic) => Err(panic_text(panic.as_ref())),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("the model confuses tract").replace('\n', " ")
}
