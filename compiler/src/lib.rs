//! `ptqc` compiles ONNX models to integer-only, dependency-free source code for small processors.
//!
//! The core is a pure function: bytes in, text out. Files, terminal and environment belong to the command line
//! (`cli`) and to build scripts ([`Build`]). `driver` shows the whole pipeline; `ARCHITECTURE.md` explains it.

pub mod analyze;
mod build_script;
pub mod calibrate;
#[cfg(feature = "cli")]
pub mod cli;
pub mod diag;
pub mod driver;
pub mod estimate;
pub mod evaluate;
pub mod export;
pub mod figures;
pub mod files;
pub mod front;
pub mod ir;
pub mod kernels;
pub mod lower;
#[cfg(feature = "cli")]
pub mod measure;
pub mod names;
pub mod ops;
pub mod optimize;
#[cfg(feature = "cli")]
pub mod page;
pub mod passes;
pub mod plan;
pub mod print;
pub mod program;
pub mod quantize;
pub mod recipe;
pub mod render;
pub mod report;
pub mod states;

pub use build_script::{Build, Generated};
pub use calibrate::Method;
#[cfg(feature = "samples")]
pub use files::data::Preprocess;
pub use ir::{DType, Numerics};
pub use plan::Goal;
pub use print::{ArenaMode, Language};
