//! The test suite: one program, because each links the whole compiler.

mod analysis;
mod arithmetic;
mod bench;
mod build_script;
mod commands;
mod diagnostics;
mod examples;
mod figures;
mod kernels;
mod memory;
mod node_tests;
mod operators;
mod optimize;
mod process;
mod properties;
mod qdq;
mod quantized;
mod readme;
mod real_models;
mod recurrent;
mod report;
mod robustness;
mod rust_output;
mod stages;
mod streaming;
mod transformers;
