//! The program around an emitted model: reads samples from a file, runs the model, writes its outputs to a file.

use ptqc_target_runtimes::{METER_STACK, METER_TIME};

use crate::print::ArenaMode;
use crate::print::c::c_type;
use crate::program::{Elem, Program, Signature};

/// What the program measures beside running the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meter {
    /// The depth of the stack: `stack.bin`, a number of 32 bits.
    Stack,
    /// Time: `times.bin`, nanoseconds of several inferences as numbers of type `double`.
    Time,
}

impl Meter {
    /// Name and text of the header that measures.
    pub fn header(self) -> (&'static str, &'static str) {
        match self {
            Meter::Stack => ("meter_stack.h", METER_STACK),
            Meter::Time => ("meter_time.h", METER_TIME),
        }
    }
}

/// What the harness has to know of a model.
#[derive(Debug, Clone)]
pub struct Harness {
    /// Prefix of the model's symbols.
    pub name: String,
    /// Input buffers.
    pub inputs: Vec<Signature>,
    /// Output buffers.
    pub outputs: Vec<Signature>,
    /// Who owns the working memory.
    pub arena: ArenaMode,
    /// Size of the working memory.
    pub arena_bytes: usize,
    /// What is measured beside the outputs.
    pub meter: Option<Meter>,
    /// Whether its Rust has `unsafe` blocks.
    pub needs_unsafe: bool,
}

impl Harness {
    /// For a program as it was printed.
    pub fn new(program: &Program, arena: ArenaMode) -> Harness {
        Harness {
            name: program.name.clone(),
            inputs: program.inputs.clone(),
            outputs: program.outputs.clone(),
            arena,
            arena_bytes: program.arena_bytes,
            meter: None,
            needs_unsafe: program.needs_unsafe(),
        }
    }

    /// Names of the emitted sources.
    pub fn sources(&self) -> Vec<String> {
        vec![format!("{}.c", self.name), format!("{}_weights.c", self.name)]
    }

    /// `model.h` for the part of the program that is the same for all models.
    pub fn model_header(&self) -> String {
        let name = &self.name;
        let list = |signatures: &[Signature]| -> String {
            signatures.iter().map(|s| format!(" X({}, {}, {})", c_type(s.elem), s.name, s.len)).collect()
        };
        let buffers = self.inputs.iter().chain(&self.outputs).map(|s| format!("{}.data", s.name));
        let (arena, bytes) = match self.arena {
            ArenaMode::Caller => (Some("arena".to_owned()), format!("{}_ARENA_BYTES", name.to_uppercase())),
            ArenaMode::Static => (None, "0".to_owned()),
        };
        let arguments: Vec<String> = arena.into_iter().chain(buffers).collect();
        let meter = self.meter.map(|meter| format!("#define METER_HEADER \"{}\"\n", meter.header().0));
        format!(
            "{}#include \"{name}.h\"\n#define INPUTS(X){}\n#define OUTPUTS(X){}\n#define ARENA_BYTES {bytes}\n#define RUN(arena) {name}_run({})\n",
            meter.unwrap_or_default(),
            list(&self.inputs),
            list(&self.outputs),
            arguments.join(", ")
        )
    }

    /// The bytes of samples as the program reads them: for each sample, all inputs.
    pub fn encode_inputs(&self, samples: &[Vec<Vec<i32>>]) -> Vec<u8> {
        encode(&self.inputs, samples)
    }

    /// The bytes that the program writes for these outputs.
    pub fn encode_outputs(&self, samples: &[Vec<Vec<i32>>]) -> Vec<u8> {
        encode(&self.outputs, samples)
    }
}

fn encode(signatures: &[Signature], samples: &[Vec<Vec<i32>>]) -> Vec<u8> {
    let element = |elem: Elem, value: i32| value.to_le_bytes()[..elem.bytes()].to_vec();
    let tensors = samples.iter().flat_map(|sample| sample.iter().zip(signatures));
    tensors.flat_map(|(tensor, signature)| tensor.iter().flat_map(|&value| element(signature.elem, value))).collect()
}
