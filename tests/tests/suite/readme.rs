//! The README's tables say what the program says.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ptqc::estimate::estimate;
use ptqc::front::{QUANTIZED_OPERATORS, REGISTRY, Support, WRITTEN_OUT};
use ptqc::plan::Goal;
use ptqc_target_runtimes::{TARGETS, Target};
use ptqc_tests::real::MODELS;
use ptqc_tests::toolchain;

fn readme() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests is in the repository")?.join("README.md");
    Ok(std::fs::read_to_string(path)?)
}

/// Cells of all rows of the table whose header begins with these cells.
fn table(readme: &str, header: &[&str]) -> Result<Vec<Vec<String>>> {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let mut lines = readme.lines().skip_while(|line| !line.starts_with('|') || !cells(line).iter().eq(header.iter()));
    lines.next().with_context(|| format!("there is no table {header:?}"))?;
    Ok(lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect())
}

#[test]
fn targets() -> Result<()> {
    let expected: Vec<Vec<String>> =
        TARGETS.iter().map(|target| vec![format!("`{}`", target.name), target.description.to_owned()]).collect();
    assert_eq!(table(&readme()?, &["target", "processors"])?, expected);
    Ok(())
}

#[test]
fn operators() -> Result<()> {
    let names = |wanted: fn(&Support) -> bool| {
        let rows = REGISTRY.iter().filter(|row| wanted(&row.support));
        rows.map(|row| row.op_type).collect::<Vec<_>>().join(", ")
    };
    let quantized = QUANTIZED_OPERATORS.iter().map(|operator| match operator.domain {
        "" => operator.op_type.to_owned(),
        domain => format!("{domain}.{}", operator.op_type),
    });
    let expected = [
        names(|support| matches!(support, Support::Lowered(_))),
        names(|support| matches!(support, Support::PassThrough)),
        names(|support| matches!(support, Support::Folded)),
        quantized.collect::<Vec<_>>().join(", "),
        WRITTEN_OUT.iter().map(|operator| operator.op_type).collect::<Vec<_>>().join(", "),
    ];
    let rows = table(&readme()?, &["operators", "what happens"])?;
    assert_eq!(rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>(), expected);
    Ok(())
}

#[test]
fn operator_sets() -> Result<()> {
    let row = |row: &ptqc::front::Row| {
        let opsets = format!("{} to {}", row.opsets().start(), row.opsets().end());
        [row.op_type, &opsets, row.precisions(), row.restrictions(), row.summary].map(str::to_owned).to_vec()
    };
    let expected: Vec<Vec<String>> = REGISTRY.iter().map(row).collect();
    assert_eq!(
        table(&readme()?, &["operator", "operator sets", "precisions", "restrictions", "what becomes of it"])?,
        expected
    );
    Ok(())
}

#[test]
fn commands() -> Result<()> {
    let help = toolchain::run(Command::new(env!("CARGO_BIN_EXE_ptqc-under-test")).arg("--help"), Path::new("."))?;
    let help = String::from_utf8(help)?;
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.trim().is_empty());
    let listed = listed.filter_map(|line| line.trim().split_once("  ")).filter(|(name, _)| *name != "help");
    let expected: Vec<Vec<String>> =
        listed.map(|(name, text)| vec![format!("`ptqc {name}`"), text.trim().to_owned()]).collect();
    assert_eq!(table(&readme()?, &["command", "what it does"])?, expected);
    Ok(())
}

/// Floats differ a little between machines, so the figures may too. And they must not be worse than others'.
#[test]
fn accuracy() -> Result<()> {
    const TOLERANCE: f64 = 0.004;
    const MARGIN: f64 = 0.003;
    let header =
        ["model", "metric", "float", "ptqc int8", "best int8 of others", "agreement with float", "relative RMSE"];
    let rows = table(&readme()?, &header)?;
    assert_eq!(rows.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), MODELS.map(|model| model.name));
    for (model, row) in MODELS.iter().zip(&rows) {
        let figure = |column: usize| row[column].parse::<f64>();
        assert_eq!(figure(4)?, model.best_of_others, "{}", model.name);
        if model.model().is_none() {
            println!("skipped: the model {} is absent", model.name);
            continue;
        }
        let measured = model.evaluate(Path::new(env!("CARGO_BIN_EXE_ptqc-under-test")), &[])?;
        let wanted = model.wanted_metric(MARGIN);
        ensure!(measured.integer >= wanted, "{}: {} instead of {wanted}", model.name, measured.integer);
        for (column, value) in [(2, measured.float), (3, measured.integer), (6, measured.relative_rmse)] {
            ensure!((figure(column)? - value).abs() < TOLERANCE, "{}: {} is {value}", model.name, header[column]);
        }
    }
    Ok(())
}

/// What the goals cost. Kernels of assembly are counted exactly, so no emulator is needed; but loops that move rows are
/// not.
#[test]
fn goals() -> Result<()> {
    let rows = table(&readme()?, &["`--optimize`", "instructions", "constants", "arena"])?;
    let goals = [Goal::Balanced, Goal::Speed, Goal::Ram];
    assert_eq!(rows.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), goals.map(Goal::name));
    let target = Target::find("cortex-m4").context("there is no such target")?;
    let model = MODELS.iter().find(|model| model.name == "resnet8_cifar10").context("there is no such model")?;
    for (goal, row) in goals.into_iter().zip(&rows) {
        let Some(build) = super::memory::build(model, target.name, goal)? else { continue };
        let instructions = estimate(&build, target).instructions.context("the target has costs")?;
        let measured = [instructions as f64, build.report.weight_bytes as f64, build.report.arena.bytes as f64];
        let tolerances = [if goal == Goal::Ram { 0.1 } else { 0.01 }, 0.01, 0.01];
        for ((cell, value), tolerance) in row[1..].iter().zip(measured).zip(tolerances) {
            let figure = cell.parse::<f64>()?;
            ensure!((figure - value).abs() < tolerance * value, "{}: {cell} is {value}", goal.name());
        }
    }
    Ok(())
}

/// The example that the README begins with.
#[test]
fn the_example_recognises_its_digits() -> Result<()> {
    if !toolchain::is_installed("cc") {
        println!("skipped: cc is not installed");
        return Ok(());
    }
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits").canonicalize()?;
    let out = tempfile::tempdir()?;
    let mut build = Command::new(env!("CARGO_BIN_EXE_ptqc-under-test"));
    build.args(["build", "digits.onnx", "--calib", "calib.npy", "--target", "generic", "-o"]).arg(out.path());
    toolchain::run(&mut build, &example)?;
    let mut compile = Command::new("cc");
    compile
        .args(["-std=c99", "-O2", "-I", ".", "digits.c", "digits_weights.c", "-o", "demo"])
        .arg(example.join("main.c"));
    toolchain::run(&mut compile, out.path())?;
    let printed = String::from_utf8(toolchain::run(&mut Command::new(out.path().join("demo")), out.path())?)?;
    let answers: Vec<&str> = printed.lines().filter(|line| line.starts_with("is a")).collect();
    assert_eq!(answers, ["is a 3", "is a 7", "is a 8"]);
    Ok(())
}
