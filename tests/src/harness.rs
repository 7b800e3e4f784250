//! The program around an emitted model: reads samples from a file, runs the model, writes its outputs to a file.

use ptqc::print::ArenaMode;
use ptqc::print::c::c_type;
use ptqc::program::{Elem, Program, Signature};

/// The part of the program that is the same for all models.
pub const HARNESS: &str = include_str!("harness.c");

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
    /// Whether some of its functions are in assembly, which safe Rust cannot call.
    pub assembly: bool,
}

impl Harness {
    /// For a program as it was printed.
    pub fn new(program: &Program, arena: ArenaMode) -> Harness {
        Harness {
            name: program.name.clone(),
            inputs: program.inputs.clone(),
            outputs: program.outputs.clone(),
            arena,
            assembly: program.functions.iter().any(|function| function.assembly().is_some()),
        }
    }

    /// Names of the emitted sources.
    pub fn sources(&self) -> Vec<String> {
        vec![format!("{}.c", self.name), format!("{}_weights.c", self.name)]
    }

    /// `model.h` for [`HARNESS`].
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
        format!(
            "#include \"{name}.h\"\n#define INPUTS(X){}\n#define OUTPUTS(X){}\n#define ARENA_BYTES {bytes}\n#define RUN(arena) {name}_run({})\n",
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
