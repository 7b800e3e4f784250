//! From the bytes of an ONNX file to the float graph. The only module that knows tract.
//!
//! tract parses, infers shapes, folds constants and executes; structure (operators, attributes, names) is read
//! from the protobuf itself, because tract's later forms rewrite it. Import reports every problem it finds.

mod encode;
mod forms;
mod graph;
mod inside;
mod one_hot;
mod pads;
mod preflight;
mod proto;
mod qoperators;
mod reals;
mod recurrent;
mod registry;
mod tensors;
mod tract;
mod written_out;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use encode::encode;
pub use inside::Insides;
pub use qoperators::{QUANTIZED_OPERATORS, QuantizedOperator};
pub use registry::{REGISTRY, Row, Support, find as find_operator};
pub use tract::{FloatRunner, FloatState};
/// The protobuf types of ONNX, for tests that build models.
pub use tract_onnx::pb;
pub use written_out::{WRITTEN_OUT, WrittenOut};

use crate::diag::{self, Diagnostic, Diagnostics};
use crate::ir::{Checked, Float, Graph, Shape};
use crate::ops::FloatOp;
use crate::ops::import::Integers;
use crate::ops::input::Element;

/// Gives the contents of a file that the model stores its weights in, by the path the model uses.
pub type ExternalFiles<'a> = dyn Fn(&str) -> std::io::Result<Vec<u8>> + 'a;

/// An ONNX model: its graph, and a way to execute it on real numbers.
#[derive(Debug)]
pub struct Model {
    /// The model as it was written, one node for each operator.
    pub graph: Checked<Graph<Float>>,
    /// The model's inputs.
    pub inputs: Vec<ModelInput>,
    /// Warnings; never errors.
    pub warnings: Diagnostics,
    /// What the model says of integers that stand for reals.
    pub integers: Integers,
    executable: tract::Executable,
}

/// An input of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInput {
    /// Name in the model.
    pub name: String,
    /// Shape, every dimension pinned.
    pub shape: Shape,
    /// ONNX's number of the element type.
    pub elem_type: i32,
}

impl ModelInput {
    /// What its elements are.
    pub fn element(&self) -> Element {
        match self.elem_type {
            2 => Element::Byte,
            3 => Element::SignedByte,
            4..=7 | 12 | 13 => Element::Integer,
            9 => Element::Truth,
            _ => Element::Real,
        }
    }
}

/// Reads a model. `pinned` gives sizes to symbolic dimensions by name; a symbolic first dimension is 1 by itself.
///
/// Errors: whatever is wrong with the file, all at once.
pub fn load(bytes: &[u8], external: &ExternalFiles, pinned: &BTreeMap<String, usize>) -> diag::Result<Model> {
    let mut proto = tract::decode(bytes)?;
    let mut problems = Diagnostics::default();
    preflight::inline_external_data(&mut proto, external, &mut problems);
    let reasons = written_out::write_out(&mut proto, pinned);
    let integers = qoperators::write_out(&mut proto, &mut problems);
    let refused = preflight::check(&mut proto, &reasons, &mut problems);
    let inputs = preflight::pin_inputs(&proto, pinned, &mut problems);
    // Operators that cannot be compiled do not hide the mistakes in the rest of the model; anything else would.
    let readable = problems.iter().filter(|problem| problem.is_error()).count() == refused.problems;
    if !readable {
        return Err(problems);
    }
    let analysed = match tract::analyse(&proto, &inputs, &refused.outputs) {
        Err(_) if problems.has_errors() => return Err(problems),
        analysed => analysed?,
    };
    let built = problems.collect(graph::build(&proto, &inputs, &analysed, &integers, &refused.outputs));
    let reported: BTreeSet<&str> = problems.iter().filter_map(|problem| problem.location.tensor.as_deref()).collect();
    let known =
        |objection: &&Diagnostic| objection.location.tensor.as_deref().is_some_and(|tensor| reported.contains(tensor));
    let news: Diagnostics = analysed.objections().iter().filter(|objection| !known(objection)).cloned().collect();
    problems.extend(news);
    if let (Some(contradiction), false) = (analysed.contradiction(), problems.has_errors()) {
        problems.push(contradiction.clone());
    }
    let built = problems.into_result(built)?;
    let (graph, warnings) = built.ok_or_else(|| Diagnostic::internal("import failed without a problem"))?;
    Ok(Model { graph, inputs, warnings, integers, executable: analysed.into_executable() })
}

impl Model {
    /// Whether the model itself says how some of its tensors are quantized.
    pub fn is_quantized(&self) -> bool {
        self.graph.topological().into_iter().any(|id| matches!(self.graph.node(id).op, FloatOp::Requantize(_)))
    }

    /// A runner that returns the model's outputs.
    pub fn runner(&self) -> diag::Result<FloatRunner> {
        self.executable.runner(self.executable.outputs())
    }

    /// A runner that returns every tensor of real numbers, the inputs included, but not those that are padded or
    /// masked with infinity: their range is that of the tensor without.
    pub fn tapped_runner(&self) -> diag::Result<FloatRunner> {
        let nodes = self.graph.topological().into_iter().map(|id| self.graph.node(id));
        let endless = nodes.filter(|node| match &node.op {
            FloatOp::Pad(pad) => pad.is_endless(),
            FloatOp::Mask(_) => true,
            _ => false,
        });
        let endless: Vec<&str> = endless.filter_map(|node| node.observed.as_deref()).collect();
        let is_real = |tap: &String| !endless.contains(&tap.as_str()) && !self.integers.tensors.contains(tap);
        let taps = self.executable.taps().into_iter().filter(is_real);
        self.executable.runner(taps.collect())
    }
}
