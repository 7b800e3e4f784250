//! Measures what models cost on each target and renews `tests/figures`: `cargo bench -p ptqc-tests --bench figures`.
//! Arguments restrict it to targets and models of these names; `--fit` also fits the costs behind `ptqc estimate` to what
//! is measured, over all targets and models, and prints them for `target-runtimes/src/cost.rs`.

use std::collections::BTreeMap;

use anyhow::Result;
use ptqc::driver::Build;
use ptqc::estimate::{Operations, estimate, executed, written};
use ptqc::figures::Figures;
use ptqc_target_runtimes::{Operation, TARGETS, Target};
use ptqc_tests::figures::{self, File, Kept, MODELS, Subject};
use ptqc_tests::{real, toolchain};
use rayon::prelude::*;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.iter().any(|argument| argument == "--fit") {
        return fit();
    }
    let is_wanted = |name: &str, all: &[&str]| {
        let mut named = arguments.iter().filter(|argument| all.contains(&argument.as_str())).peekable();
        named.peek().is_none() || named.any(|argument| argument == name)
    };
    let names: Vec<&str> = figures::targets().map(|target| target.name).collect();
    let subjects = load(&MODELS.into_iter().filter(|name| is_wanted(name, &MODELS)).collect::<Vec<_>>())?;
    for target in figures::targets().filter(|target| is_wanted(target.name, &names)) {
        let Some(compiler) = figures::compiler(target)? else {
            println!("{}: the compiler or the emulator is not installed", target.name);
            continue;
        };
        renew(target, compiler, &subjects)?;
    }
    Ok(())
}

fn load(names: &[&str]) -> Result<Vec<Subject>> {
    let mut subjects = vec![];
    for name in names {
        match Subject::load(name)? {
            Some(subject) => subjects.push(subject),
            None => println!("{name}: the model is absent, its figures stay as they are"),
        }
    }
    Ok(subjects)
}

/// Renews the file of a target, and says what has changed.
fn renew(target: &Target, compiler: String, subjects: &[Subject]) -> Result<()> {
    let measure = |subject: &Subject| -> Result<(String, Kept, f64)> {
        let build = subject.build(target)?;
        let measured = subject.measure(&build, target)?;
        let estimated = estimate(&build, target).instructions.unwrap_or(0) as f64;
        let kept = Kept::of(&measured);
        Ok((subject.name.clone(), kept, estimated / kept.instructions as f64 - 1.0))
    };
    let measured: Vec<(String, Kept, f64)> = subjects.par_iter().map(measure).collect::<Result<_>>()?;
    let mut file = File::read(target)?.unwrap_or(File { compiler: String::new(), models: BTreeMap::new() });
    file.compiler = compiler;
    println!("{} ({})", target.name, file.compiler);
    for (name, kept, error) in measured {
        let before = file.models.insert(name.clone(), kept).unwrap_or(kept);
        let change = |(name, is): (&str, u64), (_, was): (&str, u64)| match is == was {
            true => format!("{name} {is}"),
            false => format!("{name} {was} -> {is} ({:+.1} %)", 100.0 * (is as f64 / was.max(1) as f64 - 1.0)),
        };
        let changes: Vec<String> =
            kept.numbers().into_iter().zip(before.numbers()).map(|(a, b)| change(a, b)).collect();
        println!("  {name}: {}; estimate {:+.1} %", changes.join(", "), 100.0 * error);
    }
    file.write(target)
}

/// A measured number, and the counts of what it is made of.
struct Row {
    counts: [f64; Operation::COUNT],
    measured: f64,
    weight: f64,
}

/// Fits the costs of every target whose programs can be run and counted here.
fn fit() -> Result<()> {
    let names: Vec<&str> = ["digits"].into_iter().chain(real::MODELS.iter().map(|model| model.name)).collect();
    let subjects = load(&names)?;
    for target in TARGETS {
        if !toolchain::missing(target, &target.compilers[0]).is_empty() {
            println!("{}: the compiler or the emulator is not installed", target.name);
            continue;
        }
        // Without features, every layer gets its portable kernel: most loops are in these.
        let portable = Target { features: &[], ..*target };
        let measure = |(target, subject): (&Target, &Subject)| -> Result<(Build, Figures)> {
            let build = subject.build(target)?;
            let figures = subject.measure(&build, target)?;
            Ok((build, figures))
        };
        let pairs: Vec<_> =
            [&portable, target].into_iter().flat_map(|target| subjects.iter().map(move |s| (target, s))).collect();
        let measured: Vec<(Build, Figures)> = pairs.into_par_iter().map(measure).collect::<Result<_>>()?;
        fit_target(target, &measured);
    }
    Ok(())
}

fn fit_target(target: &Target, measured: &[(Build, Figures)]) {
    let (mut rows, mut code) = (vec![], vec![]);
    for (build, figures) in measured {
        let program = build.lowered.program.program();
        let (mut counts, mut total) = (Operations::default(), 0);
        for (function, layer) in program.functions.iter().zip(&figures.layers) {
            let (Some(instructions), None) = (layer.instructions, function.assembly()) else { continue };
            let executed = executed(program, function);
            rows.push(Row { counts: numbers(&executed), measured: instructions as f64, weight: 1.0 });
            let written = numbers(&written(program, function));
            code.push(Row { counts: written, measured: layer.code as f64, weight: 1.0 });
            counts += executed;
            total += instructions;
        }
        rows.push(Row { counts: numbers(&counts), measured: total as f64, weight: 10.0 });
    }
    rows.retain(|row| row.measured > 0.0);
    code.retain(|row| row.measured > 0.0);
    if rows.is_empty() {
        return println!("{}: no instructions were counted", target.name);
    }
    let costs = non_negative_least_squares(&rows, 1.0);
    let worst = rows.iter().filter(|row| row.weight > 1.0).map(|row| row.error(&costs).abs()).fold(0.0, f64::max);
    println!(
        "{}: the loops of a model within {:.1} %\n    instructions: {costs:.2?},\n    code: {:.1?},\n    stack: {},",
        target.name,
        100.0 * worst,
        non_negative_least_squares(&code, 4.0),
        measured.iter().map(|(_, figures)| figures.ram.stack).max().unwrap_or(0),
    );
}

fn numbers(operations: &Operations) -> [f64; Operation::COUNT] {
    Operation::ALL.map(|operation| operations.of(operation) as f64)
}

impl Row {
    /// Estimate less measurement, in parts of the measurement.
    fn error(&self, costs: &[f64; Operation::COUNT]) -> f64 {
        self.counts.iter().zip(costs).map(|(count, cost)| count * cost).sum::<f64>() / self.measured - 1.0
    }
}

/// Costs that are not negative and give the smallest sum of weighted squares of errors, by descent along each coordinate.
fn non_negative_least_squares(rows: &[Row], guess: f64) -> [f64; Operation::COUNT] {
    const ROUNDS: usize = 20_000;
    // Of an operation that nothing uses, the first guess stays: an instruction, or its bytes.
    let mut costs = [guess; Operation::COUNT];
    for _ in 0..ROUNDS {
        for operation in 0..Operation::COUNT {
            let (mut gradient, mut curvature) = (0.0, 1e-9);
            for row in rows {
                let slope = row.counts[operation] / row.measured;
                gradient += row.weight * slope * row.error(&costs);
                curvature += row.weight * slope * slope;
            }
            costs[operation] = (costs[operation] - gradient / curvature).max(0.0);
        }
    }
    costs
}
