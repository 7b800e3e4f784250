//! Measuring: compiles emitted code, runs it, and says what it costs. `ptqc bench` prints it.
//!
//! Instructions are counted in QEMU and are exact; time is taken where the machine runs the code itself. The code that is
//! measured is the code that is emitted, byte for byte.

pub mod binary;
pub mod counter;
pub mod harness;
pub mod toolchain;

use std::collections::BTreeSet;
use std::path::Path;

use ptqc_target_runtimes::{Compiler, Target};
use serde::{Deserialize, Serialize};

use crate::diag::{self, Code, Diagnostic};
use crate::driver::Build;
use crate::evaluate::evaluate;
use crate::print::ArenaMode;
use binary::{Binary, Sections};
use counter::{Counts, Subject};
use harness::{Harness, Meter};
use toolchain::{Executable, Failure};

/// Version of the schema of [`Figures`]: grows when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

/// What is measured, and with what.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The build.
    pub build: &'a Build,
    /// What it is for.
    pub target: &'a Target,
    /// What compiles it, or what it is linked with.
    pub compiler: &'a Compiler,
    /// Flags for the emitted code: optimisation.
    pub flags: &'a [String],
    /// One sample, quantized.
    pub sample: &'a [Vec<i32>],
}

/// What a model costs, as `ptqc bench --json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Version of this schema.
    pub schema: u32,
    /// Prefix of the model's symbols.
    pub name: String,
    /// SHA-256 of the model file.
    pub model_sha256: String,
    /// Target.
    pub target: String,
    /// Language of the code.
    pub language: String,
    /// Program and version of the compiler.
    pub compiler: String,
    /// Its flags.
    pub flags: Vec<String>,
    /// Multiply-accumulate operations of an inference.
    pub macs: u64,
    /// Executed instructions of an inference; absent where the machine runs the code itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<u64>,
    /// Time of an inference; absent where the code runs in an emulator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// Read-only memory.
    pub flash: Flash,
    /// Memory that is written.
    pub ram: Ram,
    /// One entry for each function, in the order of execution.
    pub layers: Vec<LayerFigures>,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flash {
    /// Machine code of the model.
    pub code: u64,
    /// Library functions that the code calls.
    pub library: u64,
    /// Weights and other constants.
    pub weights: u64,
}

/// Memory that is written, in bytes. Inputs and outputs belong to the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// Builds, runs and measures.
pub fn measure(setup: &Setup) -> diag::Result<Figures> {
    let missing = toolchain::missing(setup.target, setup.compiler);
    if !missing.is_empty() {
        return Err(Diagnostic::error(Code::Toolchain, format!("{} is not installed", missing.join(", "))).into());
    }
    let folder = tempfile::tempdir().map_err(Failure::from)?;
    let folder = folder.path();
    let bench = Bench::new(folder, setup)?;
    let emulated = !toolchain::emulator(setup.target).is_empty();
    let stack_of = |outputs: &[u8]| -> diag::Result<u64> {
        bench.verify(outputs)?;
        let depth = std::fs::read(folder.join("stack.bin")).map_err(Failure::from)?;
        Ok(depth.first_chunk().map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes))))
    };
    let (executable, objects) = bench.build(Meter::Stack)?;
    let (counts, stack) = if emulated {
        let (outputs, counts) = bench.count(&executable, &objects)?;
        (Some(counts), stack_of(&outputs)?)
    } else {
        (None, stack_of(&executable.run(&bench.inputs)?)?)
    };
    let (flash, variables) = bench.sizes(&objects)?;
    let time = if emulated { None } else { Some(bench.time()?) };
    Ok(bench.figures(counts.as_ref(), time, flash, (variables, stack)))
}

struct Bench<'a> {
    folder: &'a Path,
    setup: &'a Setup<'a>,
    harness: Harness,
    inputs: Vec<u8>,
    expected: Vec<u8>,
    compiler: String,
}

impl<'a> Bench<'a> {
    fn new(folder: &'a Path, setup: &'a Setup<'a>) -> Result<Bench<'a>, Failure> {
        let Setup { build, sample, .. } = setup;
        for (name, text) in &build.bundle {
            std::fs::write(folder.join(name), text)?;
        }
        let harness = Harness::new(build.lowered.program.program(), build.interface.arena);
        let inputs = harness.encode_inputs(&[sample.to_vec()]);
        let expected = harness.encode_outputs(&[evaluate(&build.quant, sample)]);
        let version = toolchain::run(std::process::Command::new(setup.compiler.program).arg("--version"), folder)?;
        let version = String::from_utf8_lossy(&version).lines().next().unwrap_or_default().to_owned();
        Ok(Bench { folder, setup, harness, inputs, expected, compiler: version })
    }

    /// The program, and the objects of the model.
    fn build(&self, meter: Meter) -> Result<(Executable, Vec<String>), Failure> {
        let Setup { target, compiler, flags, .. } = self.setup;
        let harness = Harness { meter: Some(meter), ..self.harness.clone() };
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(["-std=c99", "-g"]).collect();
        let sources = harness.sources();
        let compile = |source: &String| toolchain::compile(self.folder, source, compiler, &flags);
        let objects: Vec<String> = sources.iter().map(compile).collect::<Result<_, _>>()?;
        Ok((toolchain::finish(self.folder, &harness, target, compiler, &flags, objects.clone())?, objects))
    }

    /// Source names of the layers' functions.
    fn functions(&self) -> Vec<String> {
        self.setup.build.report.layers.iter().map(|layer| layer.function.clone()).collect()
    }

    fn count(&self, executable: &Executable, objects: &[String]) -> diag::Result<(Vec<u8>, Counts)> {
        let support = toolchain::support(self.setup.target);
        let support: Vec<String> = support.iter().map(|(source, _)| toolchain::object_name(source)).collect();
        let entry = format!("{}_run", self.harness.name);
        let subject =
            Subject { entry_points: &[&entry, "run"], functions: &self.functions(), model: objects, support: &support };
        counter::count(self.folder, executable, &self.inputs, &subject)
    }

    fn verify(&self, outputs: &[u8]) -> diag::Result<()> {
        if outputs == self.expected {
            return Ok(());
        }
        let what = format!("compiled by {}, the code does not compute what the evaluator computes", self.compiler);
        Err(Diagnostic::internal(what).into())
    }

    /// Flash, and bytes of variables with the arena.
    fn sizes(&self, objects: &[String]) -> Result<(Flash, u64), Failure> {
        let read = |file: &String| Binary::read(&self.folder.join(file));
        let objects: Vec<Binary> = objects.iter().map(read).collect::<Result<_, _>>()?;
        let (mut sizes, mut own, mut used) = (Sections::default(), BTreeSet::new(), BTreeSet::new());
        for object in &objects {
            sizes += object.sections()?;
            own.extend(object.functions()?.into_iter().map(|function| function.name));
            used.extend(object.undefined()?);
        }
        let program = read(&toolchain::PROGRAM.to_owned())?.functions()?;
        let called = program.iter().filter(|function| used.contains(&function.name) && !own.contains(&function.name));
        let library = called.map(|function| function.addresses.end - function.addresses.start).sum();
        Ok((Flash { code: sizes.code, library, weights: sizes.constants }, sizes.variables))
    }

    fn time(&self) -> diag::Result<Time> {
        let (executable, _) = self.build(Meter::Time)?;
        self.verify(&executable.run(&self.inputs)?)?;
        let bytes = std::fs::read(self.folder.join("times.bin")).map_err(Failure::from)?;
        let mut times: Vec<f64> = bytes.as_chunks().0.iter().map(|bytes| f64::from_ne_bytes(*bytes) / 1000.0).collect();
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
        Ok(Time { runs: times.len(), median_us: at(0.5), low_us: at(0.1), high_us: at(0.9) })
    }

    fn figures(
        &self,
        counts: Option<&Counts>,
        time: Option<Time>,
        flash: Flash,
        (variables, stack): (u64, u64),
    ) -> Figures {
        let Setup { build, target, flags, .. } = self.setup;
        let report = &build.report;
        let arena = report.arena.bytes as u64;
        let in_code = if build.interface.arena == ArenaMode::Static { arena } else { 0 };
        let layers = report.layers.iter().enumerate().map(|(index, layer)| LayerFigures {
            function: layer.function.clone(),
            kind: layer.kind.clone(),
            kernel: layer.kernel.to_owned(),
            macs: layer.macs,
            instructions: counts.map(|counts| counts.functions[index]),
        });
        Figures {
            schema: SCHEMA,
            name: report.name.clone(),
            model_sha256: report.model_sha256.clone(),
            target: target.name.to_owned(),
            language: report.language.to_owned(),
            compiler: self.compiler.clone(),
            flags: flags.to_vec(),
            macs: report.macs,
            instructions: counts.map(Counts::total),
            time,
            flash,
            ram: Ram { arena, variables: variables.saturating_sub(in_code), stack },
            layers: layers.collect(),
        }
    }
}

/// The compiler of a target that a user means by `gcc` or `clang`; the usual one without a name.
pub fn find_compiler(target: &'static Target, name: Option<&str>) -> diag::Result<&'static Compiler> {
    let named = |compiler: &&Compiler| name.is_none_or(|name| names_compiler(compiler.program, name));
    target.compilers.iter().find(named).ok_or_else(|| {
        let known: Vec<&str> = target.compilers.iter().map(|compiler| compiler.program).collect();
        let message = format!("no compiler `{}` is known for {}", name.unwrap_or_default(), target.name);
        Diagnostic::error(Code::InvalidOption, message).help(format!("known: {}", diag::list_names(&known, 8))).into()
    })
}

/// `gcc` names `arm-none-eabi-gcc`, and `clang` names `clang-19`.
fn names_compiler(program: &str, name: &str) -> bool {
    let kind = |program: &str| program.split('-').find(|part| ["gcc", "clang"].contains(part)).map(str::to_owned);
    program == name || kind(program).as_deref() == Some(name)
}
