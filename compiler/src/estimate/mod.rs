//! What code will cost, without a compiler, in milliseconds: operations are counted and weighed with the target's costs.
//! `ptqc estimate` prints it, and tools that search for architectures call [`estimate`].
//!
//! Counts are exact, because a program has counted loops only. The costs are fitted to measurements of the usual compiler
//! at `-O2`; `ptqc bench` measures.

mod operations;

use std::collections::BTreeSet;

use ptqc_target_runtimes::Target;

use crate::driver::Build;
use crate::figures::{Figures, LayerCost, Method};
use crate::print::Language;
use crate::program::{Body, Function, Program};

pub use operations::{Operations, executed, written};

/// What a build will cost on the target it is for.
pub fn estimate(build: &Build, target: &Target) -> Figures {
    let program = build.lowered.program.program();
    // Functions that compute rows are called for each of them.
    let calls = build.report.layers.iter().map(|layer| layer.calls as u64).chain(std::iter::repeat(1));
    let cost =
        |(f, calls): (&Function, u64)| (Some(calls * instructions(program, f, target)), code_bytes(program, f, target));
    let layers: Vec<LayerCost> = program.functions.iter().zip(calls).map(cost).collect();
    let total = layers.iter().filter_map(|(instructions, _)| *instructions).sum();
    let mut figures = Figures::new(build, Method::Estimated, &layers);
    figures.flash.code = code(build, &layers);
    figures.ram.stack = target.cost.stack;
    figures.with_instructions(total, target.cost.cycles_per_instruction)
}

/// Bytes of all functions; a text that several layers share counts once.
fn code(build: &Build, layers: &[LayerCost]) -> u64 {
    let names = Language::default().kernel_names(build.lowered.program.program());
    let mut seen = BTreeSet::new();
    let is_new = |name: &Option<String>| name.as_ref().is_none_or(|name| seen.insert(name.clone()));
    names.iter().map(is_new).zip(layers).filter(|(is_new, _)| *is_new).map(|(_, (_, code))| code).sum()
}

/// Instructions that a call of a function executes.
pub fn instructions(program: &Program, function: &Function, target: &Target) -> u64 {
    match &function.body {
        Body::Assembly(assembly) => assembly.instructions(),
        Body::Loops(_) => executed(program, function).cost(&target.cost.instructions).round() as u64,
    }
}

/// Bytes of machine code of a function.
pub fn code_bytes(program: &Program, function: &Function, target: &Target) -> u64 {
    let bytes = match &function.body {
        Body::Assembly(assembly) => assembly.length() as f64 * BYTES_PER_ASSEMBLY_INSTRUCTION,
        Body::Loops(_) => written(program, function).cost(&target.cost.code),
    };
    bytes.round() as u64
}

/// Instructions of assembly kernels have 2 or 4 bytes; those that multiply have 4.
const BYTES_PER_ASSEMBLY_INSTRUCTION: f64 = 3.6;
