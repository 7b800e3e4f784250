//! The test suite: one program, because each links the whole compiler.

mod arithmetic;
mod build_script;
mod commands;
mod diagnostics;
mod examples;
mod memory;
mod operators;
mod process;
mod properties;
mod qdq;
mod readme;
mod real_models;
mod report;
mod robustness;
mod rust_output;
mod stages;
