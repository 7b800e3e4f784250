//! What code will cost, without a compiler, in milliseconds: operations are counted and weighed with the target's costs.
//! `ptqc estimate` prints it, and tools that search for architectures call [`estimate`].
//!
//! Counts are exact, because a program has counted loops only. The costs are fitted to measurements of the usual compiler
//! at `-O2`; `ptqc bench` measures.

mod operations;

use ptqc_target_runtimes::{Operation, Target};

use crate::driver::Build;
use crate::figures::{Figures, LayerCost, Method};
use crate::program::{Function, Program};

pub use operations::{Operations, executed, written};

/// What a build will cost on the target it is for.
pub fn estimate(build: &Build, target: &Target) -> Figures {
    let program = build.lowered.program.program();
    let functions = &program.functions;
    let layers: Vec<LayerCost> =
        functions.iter().map(|f| (Some(instructions(program, f, target)), code_bytes(program, f, target))).collect();
    let total = layers.iter().filter_map(|(instructions, _)| *instructions).sum();
    let mut figures = Figures::new(build, Method::Estimated, &layers);
    figures.flash.code = layers.iter().map(|(_, code)| code).sum();
    figures.ram.stack = target.cost.stack;
    figures.with_instructions(total, target.cost.cycles_per_instruction)
}

/// Instructions that a call of a function executes.
pub fn instructions(program: &Program, function: &Function, target: &Target) -> u64 {
    executed(program, function).cost(&target.cost.instructions).round() as u64
}

/// Bytes of machine code of a function.
pub fn code_bytes(program: &Program, function: &Function, target: &Target) -> u64 {
    let instructions = written(program, function).cost(&target.cost.instructions);
    (instructions * target.cost.bytes_per_instruction + target.cost.bytes_per_function).round() as u64
}

/// Multiply-accumulate operations of a call as they are written; for tests.
pub fn multiply_accumulates(program: &Program, function: &Function) -> u64 {
    executed(program, function).of(Operation::MultiplyAccumulate)
}
