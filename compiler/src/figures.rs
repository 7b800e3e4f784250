//! What a model costs on a target: measured by `measure`, or computed by `estimate`. `BENCH.md` describes every field.

use serde::{Deserialize, Serialize};

use crate::driver::Build;

/// Version of the schema of [`Figures`]: grows when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

/// What a model costs, as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Version of this schema.
    pub schema: u32,
    /// Where the figures come from.
    pub method: Method,
    /// Prefix of the model's symbols.
    pub name: String,
    /// SHA-256 of the model file.
    pub model_sha256: String,
    /// SHA-256 of the ranges file.
    pub ranges_sha256: String,
    /// Target.
    pub target: String,
    /// Language of the code.
    pub language: String,
    /// Program and version of the compiler; absent in an estimate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compiler: Option<String>,
    /// Its flags.
    pub flags: Vec<String>,
    /// Samples whose output was compared with the evaluator's, and is equal.
    pub verified_samples: usize,
    /// Multiply-accumulate operations of an inference.
    pub macs: u64,
    /// Executed instructions of an inference, exact where they are measured; absent if no emulator has counted them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<u64>,
    /// Cycles of an inference by the target's model; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycles: Option<Cycles>,
    /// Time of an inference; absent where the machine does not run the code itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// Read-only memory.
    pub flash: Flash,
    /// Memory that is written.
    pub ram: Ram,
    /// One entry for each function, in the order of execution.
    pub layers: Vec<LayerFigures>,
}

/// Where figures come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The code was compiled and run.
    Measured,
    /// Operations were counted and weighed.
    Estimated,
}

/// Cycles by a model: no emulator knows them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cycles {
    /// Cycles of an inference.
    pub estimate: u64,
    /// The model: cycles for each executed instruction, memory without wait states.
    pub per_instruction: f64,
}

/// Times of one inference in microseconds, one thread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// Number of times that were taken.
    pub runs: usize,
    /// Half of the times are below.
    pub median_us: f64,
    /// A tenth of the times is below.
    pub low_us: f64,
    /// A tenth of the times is above.
    pub high_us: f64,
}

/// Read-only memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flash {
    /// Machine code of the model.
    pub code: u64,
    /// Library functions that the code calls.
    pub library: u64,
    /// Weights and other constants.
    pub weights: u64,
}

/// Memory that is written, in bytes. Inputs and outputs belong to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ram {
    /// Working memory.
    pub arena: u64,
    /// Other variables.
    pub variables: u64,
    /// The deepest stack of an inference.
    pub stack: u64,
}

/// What a layer costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerFigures {
    /// Its function.
    pub function: String,
    /// What it does.
    pub kind: String,
    /// How it does it.
    pub kernel: String,
    /// Multiply-accumulate operations.
    pub macs: u64,
    /// Executed instructions, library code that the layer calls included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<u64>,
    /// Bytes of machine code.
    pub code: u64,
    /// Bytes of constants.
    pub weights: u64,
}

impl Flash {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.code + self.library + self.weights
    }
}

impl Ram {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.arena + self.variables + self.stack
    }
}

/// What a producer of figures knows of a layer: instructions and bytes of code.
pub type LayerCost = (Option<u64>, u64);

impl Figures {
    /// Figures of a build of which everything is known but what it costs: that of the layers is here, the rest is 0.
    pub fn new(build: &Build, method: Method, layers: &[LayerCost]) -> Figures {
        let report = &build.report;
        let layer = |(layer, &(instructions, code)): (&crate::report::LayerReport, &LayerCost)| LayerFigures {
            function: layer.function.clone(),
            kind: layer.kind.clone(),
            kernel: layer.kernel.to_owned(),
            macs: layer.macs,
            instructions,
            code,
            weights: layer.weight_bytes as u64,
        };
        Figures {
            schema: SCHEMA,
            method,
            name: report.name.clone(),
            model_sha256: report.model_sha256.clone(),
            ranges_sha256: report.ranges_sha256.clone(),
            target: report.target.clone(),
            language: report.language.to_owned(),
            compiler: None,
            flags: vec![],
            verified_samples: 0,
            macs: report.macs,
            instructions: None,
            cycles: None,
            time: None,
            flash: Flash { code: 0, library: 0, weights: report.weight_bytes as u64 },
            ram: Ram { arena: report.arena.bytes as u64, variables: 0, stack: 0 },
            layers: report.layers.iter().zip(layers).map(layer).collect(),
        }
    }

    /// Sets the instructions of an inference, and the cycles that follow from them.
    pub fn with_instructions(mut self, instructions: u64, cycles_per_instruction: Option<f64>) -> Figures {
        self.instructions = Some(instructions);
        self.cycles = cycles_per_instruction.map(|per_instruction| Cycles {
            estimate: (instructions as f64 * per_instruction).round() as u64,
            per_instruction,
        });
        self
    }

    /// JSON for people and programs.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("figures hold only numbers, texts and lists")
    }
}
