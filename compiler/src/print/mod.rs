//! Printers: programs as source text. They print loops; they do not know what a convolution is.

pub mod c;

use std::collections::BTreeMap;

/// The emitted files: name and text. Somebody else writes them to disk.
pub type Bundle = BTreeMap<String, String>;

/// Who owns the working memory of the emitted code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArenaMode {
    /// A static buffer in the emitted code.
    Static,
    /// The caller passes a buffer.
    Caller,
}

impl ArenaMode {
    /// As it stands on the command line and in the report.
    pub fn name(self) -> &'static str {
        match self {
            ArenaMode::Static => "static",
            ArenaMode::Caller => "caller",
        }
    }
}

/// An input or output as the emitted code documents it.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// Name in the ONNX model.
    pub onnx_name: String,
    /// Shape, ONNX's axis order.
    pub dims: Vec<usize>,
    /// Real value of a step; `None` where elements are positions.
    pub scale: Option<f32>,
    /// The integer that stands for 0.
    pub zero_point: i32,
}

/// What the emitted files say beside the program.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// Where the files come from: lines of a comment.
    pub provenance: Vec<String>,
    /// Computed facts: lines of a comment.
    pub facts: Vec<String>,
    /// The model's inputs.
    pub inputs: Vec<TensorInfo>,
    /// The model's outputs.
    pub outputs: Vec<TensorInfo>,
    /// Who owns the working memory.
    pub arena: ArenaMode,
}
