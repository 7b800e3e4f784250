//! The graphs between import and plan: plain types, a checker, a textual form.
//!
//! One node is one operator and one tensor. Both graphs keep ONNX's logical shapes and axis order; physical
//! layout does not exist here. Nothing in this module knows ONNX files, targets or output languages.

mod graph;
mod numbers;
mod shape;
mod tensor;
mod window;

pub use graph::{Checked, Graph, GraphError, GraphOutput, Node, NodeId, Operator, Origin, Stage};
pub use numbers::{Clamp, Multiplier, Numerics, Params, Range, RealClamp, Rounding, Scale, round_half_even};
pub use shape::Shape;
pub use tensor::{DType, Encoding, FloatTensor, QuantType, Steps};
pub use window::{Taps, Window};

pub use crate::program::Interval;

/// The stage after import: real numbers, ONNX's semantics. Its operators are in `ops`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Float;

/// The stage after quantization: integers, the semantics of the numeric contract. Its operators are in `ops`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quant;
