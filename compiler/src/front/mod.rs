//! From the bytes of an ONNX file to the float graph. The only module that knows tract.
//!
//! tract parses, infers shapes, folds constants and executes; structure (operators, attributes, names) is read
//! from the protobuf itself, because tract's later forms rewrite it. Import reports every problem it finds.

mod graph;
mod preflight;
mod proto;
mod registry;
mod tract;

use std::collections::BTreeMap;

pub use registry::{REGISTRY, Support, find as find_operator};
/// The protobuf types of ONNX, for tests that build models.
pub use tract_onnx::pb;
pub use tract::{FloatRunner, FloatState};

use crate::diag::{self, Diagnostics};
use crate::ir::{Checked, Float, Graph, Shape};

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
    executable: tract::Executable,
}

/// An input of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInput {
    /// Name in the model.
    pub name: String,
    /// Shape, every dimension pinned.
    pub shape: Shape,
}

/// Reads a model. `pinned` gives sizes to symbolic dimensions by name; a symbolic first dimension is 1 by itself.
///
/// Errors: whatever is wrong with the file, all at once.
pub fn load(bytes: &[u8], external: &ExternalFiles, pinned: &BTreeMap<String, usize>) -> diag::Result<Model> {
    let mut proto = tract::decode(bytes)?;
    let mut problems = Diagnostics::default();
    preflight::inline_external_data(&mut proto, external, &mut problems);
    preflight::check(&mut proto, &mut problems);
    let inputs = preflight::pin_inputs(&proto, pinned, &mut problems);
    let inputs = problems.into_result(inputs)?;
    let analysed = tract::analyse(&proto, &inputs)?;
    let (graph, warnings) = graph::build(&proto, &inputs, &analysed)?;
    Ok(Model { graph, inputs, warnings, executable: analysed.into_executable() })
}

impl Model {
    /// A runner that returns the model's outputs.
    pub fn runner(&self) -> diag::Result<FloatRunner> {
        self.executable.runner(self.executable.outputs())
    }

    /// A runner that returns every tensor of real numbers, the inputs included.
    pub fn tapped_runner(&self) -> diag::Result<FloatRunner> {
        self.executable.runner(self.executable.taps())
    }
}
