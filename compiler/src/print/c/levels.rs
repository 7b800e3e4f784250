//! Variants of a program in one file of C: which of them are compiled, and which of those runs.
//!
//! A level is a set of vector instructions; level 0 is the program itself. What the compiler's flags promise is used as
//! it is, and the levels below it are left out. The levels above it are compiled with an attribute where the compiler
//! has that, and the processor decides when the code runs.

use std::collections::BTreeSet;

use ptqc_codegen_templates::c as templates;

use super::super::common::KernelNames;
use super::{c_type, print_step};
use crate::program::{Arg, Call, Memory, Program, Step, VectorUnit, calls};

/// The levels of a program, the best first; empty if there is only level 0.
pub fn levels(program: &Program, names: &KernelNames, uses_arena: bool) -> Vec<templates::Level> {
    let count = program.variants.len();
    let level = |(index, variant): (usize, &crate::program::Variant)| templates::Level {
        number: count - index,
        promised: variant.unit.c_promised,
        supported: supported(variant.unit),
        symbol: format!("{}_run_{}", program.name, variant.name),
        attribute: attribute(variant.unit),
        parameters: parameters(program, uses_arena).join(", "),
        arguments: arguments(program, uses_arena).join(", "),
        unused: unused(program, &variant.steps, uses_arena),
        steps: variant.steps.iter().map(|step| print_step(program, step, names)).collect(),
    };
    program.variants.iter().enumerate().map(level).collect()
}

/// The condition under which a function is needed; empty if it always is.
pub fn guard(program: &Program, is_called: impl Fn(&Call) -> bool) -> String {
    let count = program.variants.len();
    let uses = |steps: &[Step]| calls(steps).any(&is_called);
    let mut levels: BTreeSet<usize> =
        program.variants.iter().enumerate().filter(|(_, v)| uses(&v.steps)).map(|(index, _)| count - index).collect();
    if uses(&program.steps) {
        levels.insert(0);
    }
    if levels.len() == count + 1 {
        return String::new();
    }
    let upper = program.name.to_uppercase();
    let compiled = |&level: &usize| match level {
        0 => format!("{upper}_PROMISED == 0"),
        _ if levels.len() == 1 => format!("{upper}_PROMISED <= {level} && {level} <= {upper}_COMPILED"),
        _ => format!("({upper}_PROMISED <= {level} && {level} <= {upper}_COMPILED)"),
    };
    levels.iter().map(compiled).collect::<Vec<_>>().join(" || ")
}

/// The attribute of functions that use the instructions, with a line end; empty where every function can.
pub fn attribute(unit: &VectorUnit) -> String {
    match unit.c_features {
        "" => String::new(),
        features => format!("__attribute__((target(\"{features}\")))\n"),
    }
}

/// Parameters that a list of steps does not need.
pub fn unused(program: &Program, steps: &[Step], uses_arena: bool) -> Vec<String> {
    let is_used = |wanted: &dyn Fn(&Arg) -> bool| calls(steps).any(|call| call.args.iter().any(wanted));
    let arena = (uses_arena && !is_used(&|arg| arg.memory == Memory::Arena)).then(|| "arena".to_owned());
    let inputs = program.inputs.iter().enumerate();
    let inputs = inputs.filter(|(index, _)| !is_used(&|arg| arg.memory == Memory::Input(*index)));
    arena.into_iter().chain(inputs.map(|(_, input)| input.name.clone())).collect()
}

fn supported(unit: &VectorUnit) -> String {
    let features = unit.c_features.split(',').map(|feature| format!("__builtin_cpu_supports(\"{feature}\")"));
    features.collect::<Vec<_>>().join(" && ")
}

fn parameters(program: &Program, uses_arena: bool) -> Vec<String> {
    let arena = uses_arena.then(|| "uint8_t *arena".to_owned());
    let inputs = program.inputs.iter().map(|s| format!("const {} *{}", c_type(s.elem), s.name));
    let outputs = program.outputs.iter().map(|s| format!("{} *{}", c_type(s.elem), s.name));
    arena.into_iter().chain(inputs).chain(outputs).collect()
}

fn arguments(program: &Program, uses_arena: bool) -> Vec<String> {
    let buffers = program.inputs.iter().chain(&program.outputs).map(|s| s.name.clone());
    uses_arena.then(|| "arena".to_owned()).into_iter().chain(buffers).collect()
}
