//! Measuring: compiles emitted code, runs it, and says what it costs. `ptqc bench` prints it.
//!
//! Instructions are counted in QEMU and are exact; time is taken where the machine runs the code itself. The code that is
//! measured is the code that is emitted, byte for byte.

pub mod binary;
pub mod counter;
pub mod harness;
pub mod rustc;
pub mod toolchain;

use std::collections::BTreeSet;
use std::path::Path;

use ptqc_target_runtimes::{Compiler, Target, package};

use crate::diag::{self, Code, Diagnostic};
use crate::driver::Build;
use crate::evaluate::evaluate;
use crate::figures::{Figures, Flash, LayerCost, Method, Time};
use crate::print::{ArenaMode, Language};
use binary::{Binary, Sections};
use counter::{Counts, Names, Parts};
use harness::{Harness, Meter};
use rustc::{Profile, Rustc};
use toolchain::{Executable, Failure};

/// What is measured, and with what.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The build.
    pub build: &'a Build,
    /// What it is for.
    pub target: &'a Target,
    /// What compiles emitted C, and everything around the model.
    pub compiler: &'a Compiler,
    /// What compiles emitted Rust; `None` measures C.
    pub rustc: Option<&'a Rustc>,
    /// Flags for the emitted code, as a C compiler takes them: `-O2`.
    pub flags: &'a [String],
    /// One sample, quantized.
    pub sample: &'a [Vec<i32>],
}

/// Builds, runs and measures.
pub fn measure(setup: &Setup) -> diag::Result<Figures> {
    check_installed(setup)?;
    let folder = tempfile::tempdir().map_err(Failure::from)?;
    let bench = Bench::new(folder.path(), setup)?;
    let objects = bench.compile()?;
    let executable = bench.link(&objects, Meter::Stack)?;
    let parts = bench.parts(&objects)?;
    let (flash, variables) = bench.sizes(&objects)?;
    let is_native = toolchain::emulator(setup.target).is_empty();
    let counts = match is_native {
        false => Some(bench.count(&executable, &parts)?),
        true => bench.count_native(executable, &parts)?,
    };
    let stack = bench.stack()?;
    let time = if is_native { Some(bench.time(&objects)?) } else { None };
    let code = parts.code_bytes.iter().enumerate();
    let layers: Vec<LayerCost> =
        code.map(|(layer, &code)| (counts.as_ref().map(|counts| counts.layers[layer]), code)).collect();
    let mut figures = Figures::new(setup.build, Method::Measured, &layers);
    figures.compiler = Some(bench.compiler.clone());
    figures.flags = setup.flags.to_vec();
    figures.verified_samples = 1;
    figures.time = time;
    figures.flash = flash;
    figures.ram.variables = variables.saturating_sub(bench.static_arena());
    figures.ram.stack = stack;
    Ok(match counts {
        Some(counts) => figures.with_instructions(counts.total(), setup.target.cost.cycles_per_instruction),
        None => figures,
    })
}

/// Names everything that is not installed, and what to install.
fn check_installed(setup: &Setup) -> diag::Result<()> {
    let missing = toolchain::missing(setup.target, setup.compiler);
    if missing.is_empty() {
        return Ok(());
    }
    let packages: BTreeSet<&str> = missing.iter().filter_map(|program| package(program)).collect();
    let message = format!("measuring for {} needs {}", setup.target.name, diag::list_names(&missing, 8));
    let install = packages.into_iter().collect::<Vec<_>>().join(" ");
    Err(Diagnostic::error(Code::Toolchain, message)
        .note("these programs are not on the path")
        .help(format!("Debian and Ubuntu: `apt-get install {install}`; `ptqc estimate` needs no compiler"))
        .into())
}

struct Bench<'a> {
    folder: &'a Path,
    setup: &'a Setup<'a>,
    harness: Harness,
    inputs: Vec<u8>,
    expected: Vec<u8>,
    /// Program and version.
    compiler: String,
}

impl<'a> Bench<'a> {
    fn new(folder: &'a Path, setup: &'a Setup<'a>) -> Result<Bench<'a>, Failure> {
        let Setup { build, sample, .. } = setup;
        for (name, text) in &build.bundle {
            std::fs::write(folder.join(name), text)?;
        }
        let harness = Harness::new(build.lowered.program.program(), build.interface.arena);
        let program = setup.rustc.map_or(Path::new(setup.compiler.program), |rustc| &rustc.program);
        Ok(Bench {
            folder,
            setup,
            inputs: harness.encode_inputs(&[sample.to_vec()]),
            expected: harness.encode_outputs(&[evaluate(&build.quant, sample)]),
            compiler: toolchain::version(program)?,
            harness,
        })
    }

    /// The objects of the model, with debug information: it tells which layer an address belongs to.
    fn compile(&self) -> diag::Result<Vec<String>> {
        if let Some(rustc) = self.setup.rustc {
            let flags = self.setup.flags.join(" ");
            let profile = Profile::from_flag(&flags).ok_or_else(|| {
                Diagnostic::error(Code::InvalidOption, format!("rustc has no optimisation `{flags}`"))
                    .help("one of -O1, -O2, -O3, -Os, -Oz; RUSTFLAGS takes other flags")
            })?;
            let rustc = rustc.with_flag("-g");
            return Ok(vec![rustc::compile(self.folder, &self.harness, &rustc, profile)?]);
        }
        let flags: Vec<&str> =
            ["-std=c99", "-g"].into_iter().chain(self.setup.flags.iter().map(String::as_str)).collect();
        let sources = self.harness.sources();
        let compile = |source: &String| toolchain::compile(self.folder, source, self.setup.compiler, &flags);
        Ok(sources.iter().map(compile).collect::<Result<_, _>>()?)
    }

    fn link(&self, objects: &[String], meter: Meter) -> Result<Executable, Failure> {
        let harness = Harness { meter: Some(meter), ..self.harness.clone() };
        toolchain::finish(self.folder, &harness, self.setup.target, self.setup.compiler, &[], objects.to_vec())
    }

    fn parts(&self, objects: &[String]) -> Result<Parts, Failure> {
        let support = toolchain::support(self.setup.target);
        let support: Vec<String> = support.iter().map(|(source, _)| toolchain::object_name(source)).collect();
        let entry_point = format!("{}_run", self.harness.name);
        let Setup { build, rustc, .. } = self.setup;
        let layers: Vec<String> = build.report.layers.iter().map(|layer| layer.function.clone()).collect();
        let language = if rustc.is_some() { Language::Rust } else { Language::C };
        let kernels = language.kernel_names(build.lowered.program.program());
        // In Rust, the entry point is a method behind a wrapper.
        let names = Names { entry_points: &[&entry_point, "run"], layers: &layers, kernels: &kernels };
        Parts::new(self.folder, (objects, &support), &names)
    }

    fn count(&self, executable: &Executable, parts: &Parts) -> diag::Result<Counts> {
        let (outputs, counts) = counter::count(self.folder, executable, &self.inputs, parts)?;
        self.verify(&outputs)?;
        Ok(counts)
    }

    /// Counts what the machine runs itself, if there is an emulator that knows all of its instructions.
    fn count_native(&self, executable: Executable, parts: &Parts) -> diag::Result<Option<Counts>> {
        self.verify(&executable.run(&self.inputs)?)?;
        let emulator = toolchain::spare_emulator(self.setup.target);
        if emulator.is_empty() {
            return Ok(None);
        }
        Ok(self.count(&executable.emulated(emulator), parts).ok())
    }

    fn verify(&self, outputs: &[u8]) -> diag::Result<()> {
        if outputs == self.expected {
            return Ok(());
        }
        let what = format!("compiled by {}, the code does not compute what the evaluator computes", self.compiler);
        Err(Diagnostic::internal(what).into())
    }

    /// The depth of the stack in the last run.
    fn stack(&self) -> Result<u64, Failure> {
        let depth = std::fs::read(self.folder.join("stack.bin"))?;
        Ok(depth.first_chunk().map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes))))
    }

    /// Flash, and bytes of variables with the arena.
    fn sizes(&self, objects: &[String]) -> Result<(Flash, u64), Failure> {
        let read = |file: &String| Binary::read(&self.folder.join(file));
        let objects: Vec<Binary> = objects.iter().map(read).collect::<Result<_, _>>()?;
        let (mut sizes, mut own, mut used) = (Sections::default(), BTreeSet::new(), BTreeSet::new());
        for object in &objects {
            sizes += object.sections()?;
            own.extend(object.functions()?.into_iter().map(|function| function.symbol));
            used.extend(object.undefined()?);
        }
        let program = read(&toolchain::PROGRAM.to_owned())?.functions()?;
        let called =
            program.iter().filter(|function| used.contains(&function.symbol) && !own.contains(&function.symbol));
        let library = called.map(|function| function.addresses.end - function.addresses.start).sum();
        Ok((Flash { code: sizes.code, library, weights: sizes.constants }, sizes.variables))
    }

    /// Bytes of the arena, if it is among the variables.
    fn static_arena(&self) -> u64 {
        match self.harness.arena {
            ArenaMode::Static => self.harness.arena_bytes as u64,
            ArenaMode::Caller => 0,
        }
    }

    fn time(&self, objects: &[String]) -> diag::Result<Time> {
        let executable = self.link(objects, Meter::Time)?;
        self.verify(&executable.run(&self.inputs)?)?;
        let bytes = std::fs::read(self.folder.join("times.bin")).map_err(Failure::from)?;
        let mut times: Vec<f64> = bytes.as_chunks().0.iter().map(|bytes| f64::from_ne_bytes(*bytes) / 1000.0).collect();
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
        Ok(Time { runs: times.len(), median_us: at(0.5), low_us: at(0.1), high_us: at(0.9) })
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
