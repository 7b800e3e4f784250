//! `ptqc bench` and `ptqc estimate`: what they print, and that the numbers are what they are called.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use ptqc::driver::Build;
use ptqc::estimate::{estimate, executed};
use ptqc::figures::Figures;
use ptqc::measure::{self, Setup, counter};
use ptqc::print::ArenaMode;
use ptqc_target_runtimes::{Operation, Target};
use ptqc_tests::case;
use ptqc_tests::figures::{self, File, MODELS, Subject};
use ptqc_tests::onnx::{Onnx, numbers};
use ptqc_tests::toolchain::{is_installed, missing, must_not_skip};
use serde_json::Value;

use crate::process::{Folder, conv_relu, gemm, samples};
use crate::report::fields;

/// The largest error of an estimate for a model, where loops are compiled as they are written.
const SCALAR_ERROR: f64 = 0.25;

/// The same where compilers vectorise loops.
const VECTOR_ERROR: f64 = 0.6;

fn target(name: &str) -> &'static Target {
    Target::find(name).unwrap()
}

/// Whether code for a target can be measured here; says so if not.
fn can_measure(target: &Target) -> bool {
    let missing = missing(target, &target.compilers[0]);
    assert!(missing.is_empty() || !must_not_skip(), "{} is not installed", missing.join(", "));
    if !missing.is_empty() {
        println!("skipped: {} is not installed", missing.join(", "));
    }
    missing.is_empty()
}

/// A folder with a model and samples; commands in it keep measurements in it.
fn folder() -> Folder {
    Folder::with(vec![("m.onnx", conv_relu().bytes()), ("x.npy", samples(8, &[2, 4, 4]))])
}

fn run(folder: &Folder, line: &str) -> (i32, String, String) {
    let mut command = folder.command(line);
    let output = command.env("XDG_CACHE_HOME", folder.path("cache")).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn json(folder: &Folder, line: &str) -> Value {
    let (code, stdout, stderr) = run(folder, line);
    assert_eq!(code, 0, "ptqc {line}\n{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// Builds a model for a target, and measures it on its first sample.
fn measured(model: &Onnx, dims: &[usize], target: &Target) -> Result<(Build, Figures)> {
    let frontend = case::load(&model.bytes())?;
    let values = numbers(5, dims.iter().product());
    let ranges = case::calibrate(&frontend, [Ok(vec![values.clone()])].into_iter())?;
    let build = case::build(&frontend, &ranges, "m", target, ArenaMode::Static)?;
    let sample = case::quantize_samples(&build.quant, &[vec![values]]).remove(0);
    let compiler = &target.compilers[0];
    let setup = Setup { build: &build, target, compiler, rustc: None, flags: &["-O2".to_owned()], sample: &sample };
    let figures = measure::measure(&setup)?;
    Ok((build, figures))
}

#[test]
fn what_is_missing_is_named_with_its_packages() {
    let folder = folder();
    let mut command = folder.command("bench m.onnx --calib x.npy --target cortex-m4");
    let output = command.env("PATH", folder.path("nothing")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!("nothing_is_installed", String::from_utf8(output.stderr).unwrap());
    let packages: BTreeSet<&str> = ["arm-none-eabi-gcc", "qemu-system-arm"].into_iter().collect();
    assert!(packages.iter().all(|program| ptqc_target_runtimes::package(program).is_some()));
}

#[test]
fn a_measurement_repeats_exactly_and_estimates_know_it() {
    if !can_measure(target("cortex-m4")) {
        return;
    }
    let folder = folder();
    let options = "m.onnx --calib x.npy --target cortex-m4 --json";
    assert_eq!(json(&folder, &format!("estimate {options}")).get("last_bench"), None);
    let bench = json(&folder, &format!("bench {options}"));
    assert_eq!(bench, json(&folder, &format!("bench {options}")));
    assert_eq!((&bench["method"], &bench["verified_samples"]), (&Value::from("measured"), &Value::from(1)));
    let total = bench["instructions"].as_u64().unwrap();
    let layers: u64 = bench["layers"].as_array().unwrap().iter().map(|l| l["instructions"].as_u64().unwrap()).sum();
    // What is left is the entry point.
    assert!((1..100).contains(&(total - layers)), "{layers} of {total}");
    let estimate = json(&folder, &format!("estimate {options}"));
    assert_eq!(estimate["method"], "estimated");
    assert_eq!(estimate["last_bench"]["instructions"]["measured"], bench["instructions"]);
    let error = estimate["last_bench"]["instructions"]["error"].as_f64().unwrap();
    assert!((error - (estimate["instructions"].as_f64().unwrap() / total as f64 - 1.0)).abs() < 1e-9);
    // Another language is another measurement.
    assert_eq!(json(&folder, &format!("estimate {options} --lang rust")).get("last_bench"), None);
    let (_, table, _) = run(&folder, "estimate m.onnx --calib x.npy --target cortex-m4");
    assert!(table.contains(&format!("measured instructions {total}")), "{table}");
    let (_, table, _) = run(&folder, "bench m.onnx --calib x.npy --target cortex-m4");
    assert!(table.contains(&total.to_string()) && table.contains("equals the evaluator's"), "{table}");
}

#[test]
fn without_samples_random_numbers_are_measured() {
    if !can_measure(target("cortex-m4")) {
        return;
    }
    let folder = folder();
    folder.ok("calibrate m.onnx --calib x.npy");
    let bench = json(&folder, "bench m.onnx --ranges m.ranges.toml --target cortex-m4 --json");
    assert!(bench["instructions"].as_u64().unwrap() > 1000);
}

#[test]
fn this_machine_takes_the_time() {
    for language in ["c", "rust"] {
        let compiler = if language == "c" { "gcc" } else { "rustc" };
        if !is_installed(compiler) {
            println!("skipped: {compiler} is not installed");
            continue;
        }
        let folder = Folder::with(vec![("m.onnx", gemm().bytes()), ("x.npy", samples(8, &[4]))]);
        let bench = json(&folder, &format!("bench m.onnx --calib x.npy --lang {language} --json"));
        let time = |field: &str| bench["time"][field].as_f64().unwrap();
        assert!(time("runs") >= 11.0 && time("low_us") > 0.0);
        assert!(time("low_us") <= time("median_us") && time("median_us") <= time("high_us"));
        assert!(bench["compiler"].as_str().unwrap().contains(compiler), "{bench}");
    }
}

#[test]
fn every_field_is_documented_and_every_documented_field_exists() {
    if !can_measure(target("cortex-m4")) || !can_measure(target("generic")) {
        return;
    }
    let folder = folder();
    let mut found = BTreeSet::new();
    fields(&json(&folder, "bench m.onnx --calib x.npy --json"), "", &mut found);
    fields(&json(&folder, "bench m.onnx --calib x.npy --target cortex-m4 --json"), "", &mut found);
    fields(&json(&folder, "estimate m.onnx --calib x.npy --target cortex-m4 --json"), "", &mut found);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("compiler/BENCH.md");
    let text = std::fs::read_to_string(path).unwrap();
    let documented = text.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()));
    assert_eq!(found, documented.collect());
}

/// Two layers that differ in size only: the second is far larger.
fn two_tables() -> Onnx {
    Onnx::default()
        .input("x", &[1, 64])
        .weights("w", &[64, 640], &numbers(3, 64 * 640))
        .node("Sigmoid", &["x"], &["a"])
        .node("MatMul", &["a", "w"], &["b"])
        .node("Sigmoid", &["b"], &["y"])
        .output("y")
}

/// The counter is exact: it agrees with what functions in assembly say of themselves, also where layers share one.
#[test]
fn assembly_executes_the_instructions_that_it_says() -> Result<()> {
    let target = target("cortex-m4");
    if !can_measure(target) {
        return Ok(());
    }
    let (build, figures) = measured(&two_tables(), &[64], target)?;
    let functions = &build.lowered.program.program().functions;
    let pairs = functions.iter().zip(&figures.layers);
    let assembly: Vec<(u64, u64)> =
        pairs.filter_map(|(f, layer)| Some((f.assembly()?.instructions(), layer.instructions?))).collect();
    assert!(assembly.len() >= 2 && assembly[0] != assembly[1], "{figures:?}");
    for (said, counted) in assembly {
        assert_eq!(said, counted);
    }
    Ok(())
}

#[test]
fn operations_are_counted_where_windows_are_cut_off() -> Result<()> {
    let frontend = case::load(&conv_relu().bytes())?;
    let ranges = case::calibrate(&frontend, [Ok(vec![numbers(5, 32)])].into_iter())?;
    let build = case::build(&frontend, &ranges, "m", target("generic"), ArenaMode::Static)?;
    let program = build.lowered.program.program();
    let products: u64 =
        program.functions.iter().map(|function| executed(program, function).of(Operation::MultiplyAccumulate)).sum();
    // Of the 3 taps of an axis, 2, 3, 3 and 2 are inside the 4 positions of the input.
    assert_eq!(products, 10 * 10 * 2 * 3);
    Ok(())
}

/// Estimates of all models for all targets, against the figures that are kept.
#[test]
fn estimates_are_near_measurements() -> Result<()> {
    let mut problems = vec![];
    for name in MODELS {
        let Some(subject) = Subject::load(name)? else {
            println!("skipped: the model {name} is absent");
            continue;
        };
        for target in figures::targets() {
            let kept = File::read(target)?.and_then(|file| file.models.get(name).copied());
            let (Some(kept), build) = (kept, subject.build(target)?) else { continue };
            let estimated = estimate(&build, target).instructions.unwrap_or(0);
            let error = estimated as f64 / kept.instructions as f64 - 1.0;
            let allowed = if target.has(ptqc_target_runtimes::Feature::Neon) { VECTOR_ERROR } else { SCALAR_ERROR };
            if error.abs() > allowed {
                problems.push(format!("{name} on {}: {estimated} is off by {:+.1} %", target.name, 100.0 * error));
            }
        }
    }
    assert!(
        problems.is_empty(),
        "{}\n`cargo bench -p ptqc-tests --bench figures -- --fit` fits the costs again",
        problems.join("\n")
    );
    Ok(())
}

#[test]
fn the_counter_is_c_without_warnings() -> Result<()> {
    if !is_installed("gcc") {
        println!("skipped: gcc is not installed");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    Ok(counter::compile(folder.path(), &["-Wall", "-Wextra", "-Werror"]).map(drop)?)
}
