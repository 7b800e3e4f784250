//! Real models: emitted C, compiled by real compilers and executed, against the evaluator.
//!
//! The models are not part of the repository; without them these tests say so and pass.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use ptqc::calibrate::Ranges;
use ptqc::driver::{Frontend, Sample};
use ptqc::print::ArenaMode;
use ptqc_target_runtimes::{Compiler, TARGETS, Target};
use ptqc_tests::case::{build, calibrate, evaluate_all, load, open_samples, quantize_samples, run_and_compare};
use ptqc_tests::real::{self, RealModel};
use ptqc_tests::toolchain::{self, STRICT};
use rayon::prelude::*;

/// Samples that are run where running all would take too long.
const SAMPLE: usize = 3;

struct Loaded {
    model: &'static RealModel,
    frontend: Frontend,
    ranges: Ranges,
}

/// All models that are present, calibrated.
fn loaded() -> Result<Vec<Loaded>> {
    let (present, absent): (Vec<&RealModel>, Vec<&RealModel>) = real::all().partition(|model| model.model().is_some());
    for model in absent {
        println!("skipped: the model {} is absent", model.name);
    }
    present.into_iter().map(load_model).collect()
}

fn load_model(model: &'static RealModel) -> Result<Loaded> {
    let frontend = load(&std::fs::read(model.model().unwrap_or_default())?)?;
    let samples = open_samples(&frontend, &model.data(model.calib)?, Default::default())?;
    let ranges = calibrate(&frontend, samples.samples())?;
    Ok(Loaded { model, frontend, ranges })
}

impl Loaded {
    fn evaluation_samples(&self, count: usize) -> Result<Vec<Sample>> {
        let samples =
            open_samples(&self.frontend, &self.model.data(self.model.eval)?, self.model.convert.preprocess())?;
        Ok(samples.samples().take(count).collect::<ptqc::diag::Result<_>>()?)
    }

    /// Builds for a target, runs evaluation samples, and compares.
    fn check(&self, count: usize, arena: ArenaMode, on: (&Target, &Compiler), flags: &[&str]) -> Result<()> {
        let built = build(&self.frontend, &self.ranges, self.model.name, on.0, arena)?;
        let inputs = quantize_samples(&built.quant, &self.evaluation_samples(count)?);
        let expected = evaluate_all(&built.quant, &inputs);
        run_and_compare(&built, arena, on, flags, (&inputs, &expected))
    }
}

/// Runs all checks and reports every failure.
fn run_all(checks: Vec<Box<dyn Fn() -> Result<()> + Send + Sync + '_>>) {
    let failures: Vec<String> =
        checks.par_iter().filter_map(|check| check().err().map(|error| format!("{error:#}"))).collect();
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), checks.len(), failures.join("\n"));
}

/// Every target with every compiler that this machine has; the others are named.
fn usable() -> Vec<(&'static Target, &'static Compiler)> {
    let all = TARGETS.iter().flat_map(|target| target.compilers.iter().map(move |compiler| (target, compiler)));
    all.filter(|(target, compiler)| {
        let missing = toolchain::missing(target, compiler);
        if !missing.is_empty() {
            println!("skipped: {} with {}: not installed: {}", target.name, compiler.program, missing.join(", "));
            assert!(!toolchain::must_not_skip(), "nothing may be skipped here");
        }
        missing.is_empty()
    })
    .collect()
}

/// Optimisation levels: all on the host; elsewhere one for each compiler.
fn levels((target, compiler): (&Target, &Compiler)) -> &'static [&'static str] {
    match (target.name, compiler.program.starts_with("clang")) {
        ("generic", _) => &["-O0", "-O2", "-O3", "-Os"],
        (_, false) => &["-O2"],
        (_, true) => &["-Os"],
    }
}

fn host() -> Option<(&'static Target, &'static Compiler)> {
    usable().into_iter().find(|(target, _)| target.name == "generic")
}

#[test]
fn the_host_returns_the_evaluators_bytes_on_whole_evaluation_sets() -> Result<()> {
    let Some(host) = host() else { return Ok(()) };
    for loaded in loaded()? {
        loaded.check(usize::MAX, ArenaMode::Static, host, &["-O3"])?;
    }
    Ok(())
}

#[test]
fn every_target_and_compiler_returns_the_evaluators_bytes() -> Result<()> {
    let (models, usable) = (loaded()?, usable());
    let mut checks: Vec<Box<dyn Fn() -> Result<()> + Send + Sync + '_>> = vec![];
    for loaded in &models {
        for &on in &usable {
            for &level in levels(on) {
                checks.push(Box::new(move || loaded.check(SAMPLE, ArenaMode::Static, on, &[level])));
            }
        }
    }
    run_all(checks);
    Ok(())
}

#[test]
fn sanitizers_find_nothing_and_the_callers_arena_gives_the_same_bytes() -> Result<()> {
    let models = loaded()?;
    const SANITIZE: &[&str] = &["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    let mut checks: Vec<Box<dyn Fn() -> Result<()> + Send + Sync + '_>> = vec![];
    for on in usable().into_iter().filter(|(target, _)| target.name == "generic") {
        for loaded in &models {
            checks.push(Box::new(move || loaded.check(SAMPLE, ArenaMode::Static, on, SANITIZE)));
            checks.push(Box::new(move || loaded.check(SAMPLE, ArenaMode::Caller, on, SANITIZE)));
        }
    }
    run_all(checks);
    Ok(())
}

#[test]
fn emitted_c_is_also_cpp() -> Result<()> {
    for loaded in loaded()? {
        let built = build(&loaded.frontend, &loaded.ranges, loaded.model.name, &TARGETS[0], ArenaMode::Caller)?;
        let folder = tempfile::tempdir()?;
        for (name, text) in &built.bundle {
            std::fs::write(folder.path().join(name), text)?;
        }
        let sources = built.bundle.keys().filter(|name| name.ends_with(".c"));
        let mut command = Command::new("g++");
        let flags =
            STRICT.iter().filter(|flag| !matches!(**flag, "-std=c99" | "-Wmissing-prototypes" | "-Wstrict-prototypes"));
        command.args(flags).args(["-std=c++11", "-fsyntax-only", "-x", "c++"]).args(sources);
        toolchain::run(&mut command, folder.path())?;
    }
    Ok(())
}

/// A float operation on a core without FPU would be a call; a constructor or a writable table would be a section.
#[test]
fn objects_hold_integers_only_and_need_nothing() -> Result<()> {
    let Some((target, compiler)) = usable().into_iter().find(|(target, _)| target.name == "cortex-m3") else {
        return Ok(());
    };
    // Memory functions, and the quotient of Softmax. Nothing else may be called.
    let allowed = BTreeSet::from([
        "memcpy",
        "memmove",
        "memset",
        "__aeabi_uldivmod",
        "__aeabi_ldivmod",
        "__aeabi_memcpy",
        "__aeabi_memset",
    ]);
    for loaded in loaded()? {
        let built = build(&loaded.frontend, &loaded.ranges, loaded.model.name, target, ArenaMode::Static)?;
        let folder = tempfile::tempdir()?;
        for (name, text) in &built.bundle {
            std::fs::write(folder.path().join(name), text)?;
        }
        let name = loaded.model.name;
        let mut compile = Command::new(compiler.program);
        compile.args(compiler.flags).args(STRICT).args([
            "-O2",
            "-c",
            &format!("{name}.c"),
            &format!("{name}_weights.c"),
        ]);
        toolchain::run(&mut compile, folder.path())?;
        let mut link = Command::new(compiler.program);
        link.args(compiler.flags).args([
            "-r",
            "-nostdlib",
            "-o",
            "all.o",
            &format!("{name}.o"),
            &format!("{name}_weights.o"),
        ]);
        toolchain::run(&mut link, folder.path())?;
        let undefined = symbols(folder.path(), &["-u", "all.o"])?;
        let stray: Vec<&String> = undefined.iter().filter(|symbol| !allowed.contains(symbol.as_str())).collect();
        ensure!(stray.is_empty(), "{name} calls {stray:?}");
        let defined = symbols(folder.path(), &["-g", "--defined-only", "all.o"])?;
        let foreign: Vec<&String> = defined.iter().filter(|symbol| !symbol.starts_with(&format!("{name}_"))).collect();
        ensure!(foreign.is_empty(), "{name} defines {foreign:?}");
        let sections = toolchain::run(Command::new("arm-none-eabi-size").args(["-A", "all.o"]), folder.path())?;
        let sections = String::from_utf8(sections)?;
        let size = |section: &str| {
            let line = sections.lines().find(|line| line.split_whitespace().next() == Some(section));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok()).unwrap_or(0)
        };
        ensure!(
            size(".data") == 0 && size(".init_array") == 0,
            "{name} has writable data or constructors:\n{sections}"
        );
        ensure!(size(".bss") <= built.report.arena.bytes + 8, "{name} has more memory than its arena:\n{sections}");
    }
    Ok(())
}

fn symbols(folder: &Path, arguments: &[&str]) -> Result<Vec<String>> {
    let listing = toolchain::run(Command::new("arm-none-eabi-nm").args(arguments), folder)?;
    let listing = String::from_utf8(listing)?;
    Ok(listing.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect())
}

#[test]
fn the_same_model_gives_the_same_bytes() -> Result<()> {
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    for loaded in loaded()? {
        let again = one_thread.install(|| load_model(loaded.model))?;
        let files = |loaded: &Loaded| build(&loaded.frontend, &loaded.ranges, "m", &TARGETS[0], ArenaMode::Static);
        ensure!(files(&loaded)?.bundle == files(&again)?.bundle, "{}", loaded.model.name);
    }
    Ok(())
}
