//! What the tests and the benchmark commands share: small models built in code, real models with their data where
//! they are present, and the compilers and emulators of every target.

pub mod batch;
pub mod case;
pub mod cases;
pub mod figures;
pub mod image;
pub mod node_tests;
pub mod onnx;
pub mod projects;
pub mod qdq;
pub mod quant;
pub mod real;
pub mod rust;
pub mod toolchain;
