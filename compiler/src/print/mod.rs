//! Printers: programs as source text. They print loops; they do not know what a convolution is.

pub mod c;
mod common;
pub mod rust;

use std::collections::BTreeMap;

use ptqc_target_runtimes::Target;

use crate::program::{CheckedProgram, Program};
use crate::states::State;
use common::KernelNames;

/// The emitted files: name and text. Somebody else writes them to disk.
pub type Bundle = BTreeMap<String, String>;

/// The language of the emitted code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Language {
    /// C99.
    #[default]
    C,
    /// Rust 2021, `no_std`.
    Rust,
}

impl Language {
    /// As it stands on the command line and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Language::C => "c",
            Language::Rust => "rust",
        }
    }

    /// The target, with what this language can express of it.
    pub fn able(self, target: &Target) -> Target {
        match self {
            Language::C => *target,
            Language::Rust => target.in_rust(),
        }
    }

    /// The name of the function that computes a layer.
    pub fn function_name(self, program: &Program, function: &str) -> String {
        match self {
            Language::C => format!("{}_{function}", program.name),
            Language::Rust => rust::function_name(function),
        }
    }

    /// For each function of a program, the name of its text if that is assembly: functions may share it.
    pub fn kernel_names(self, program: &Program) -> Vec<Option<String>> {
        let names = KernelNames::of(program);
        let name = |kernel: &str| match self {
            Language::C => format!("{}_{kernel}", program.name),
            Language::Rust => kernel.to_owned(),
        };
        (0..program.functions.len()).map(|function| names.name(function).map(name)).collect()
    }

    /// The files of a program.
    pub fn print(self, program: &CheckedProgram, interface: &Interface) -> Bundle {
        match self {
            Language::C => c::print(program, interface),
            Language::Rust => rust::print(program, interface),
        }
    }
}

/// Who owns the working memory of the emitted code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArenaMode {
    /// A static buffer in the emitted code.
    Static,
    /// The caller passes a buffer.
    Caller,
}

impl ArenaMode {
    /// As it stands on the command line and in the report.
    pub fn name(self) -> &'static str {
        match self {
            ArenaMode::Static => "static",
            ArenaMode::Caller => "caller",
        }
    }
}

/// Where the emitted code places its constants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Weights {
    /// The memory.
    pub memory: WeightsMemory,
    /// The linker's section; by default the compiler's choice.
    pub section: Option<String>,
}

/// The memory of constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightsMemory {
    /// Where constants are: with the code, in flash.
    #[default]
    Flash,
    /// With initialised variables: start-up code copies them to RAM.
    Ram,
}

impl WeightsMemory {
    /// As it stands on the command line.
    pub fn name(self) -> &'static str {
        match self {
            WeightsMemory::Flash => "flash",
            WeightsMemory::Ram => "ram",
        }
    }
}

impl Weights {
    /// The section to be named in Rust, where a variable that never changes would be a constant.
    pub fn rust_section(&self) -> Option<&str> {
        match self.memory {
            WeightsMemory::Flash => self.section.as_deref(),
            WeightsMemory::Ram => Some(self.section.as_deref().unwrap_or(".data.weights")),
        }
    }
}

/// An input or output as the emitted code documents it.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// Name in the ONNX model.
    pub onnx_name: String,
    /// Shape, ONNX's axis order.
    pub dims: Vec<usize>,
    /// Real value of a step; `None` where elements are positions.
    pub scale: Option<f32>,
    /// The integer that stands for 0.
    pub zero_point: i32,
}

/// What the emitted files say beside the program.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// Where the files come from: lines of a comment.
    pub provenance: Vec<String>,
    /// Computed facts: lines of a comment.
    pub facts: Vec<String>,
    /// The model's inputs.
    pub inputs: Vec<TensorInfo>,
    /// The model's outputs.
    pub outputs: Vec<TensorInfo>,
    /// Inputs that are outputs of the inference before.
    pub states: Vec<State>,
    /// Who owns the working memory.
    pub arena: ArenaMode,
    /// Where constants are.
    pub weights: Weights,
    /// Whether Rust code has functions that convert between real numbers and the model's integers.
    pub float_helpers: bool,
}

impl Interface {
    /// Whether an input is kept between inferences.
    pub fn keeps_input(&self, index: usize) -> bool {
        self.states.iter().any(|state| state.input == index)
    }

    /// Whether an output is kept between inferences.
    pub fn keeps_output(&self, index: usize) -> bool {
        self.states.iter().any(|state| state.output == index)
    }

    /// Who made the files: the first line of their provenance.
    pub fn generator(&self) -> String {
        self.provenance.first().cloned().unwrap_or_default()
    }
}
