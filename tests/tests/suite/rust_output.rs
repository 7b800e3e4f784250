//! Emitted Rust: the same bytes as the evaluator, no path to a panic, no floats, and text that rustfmt and clippy
//! leave alone.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use anyhow::{Context as _, Result, ensure};
use ptqc::calibrate::{Entry, Ranges};
use ptqc::driver::Build;
use ptqc::ir::Range;
use ptqc::print::{ArenaMode, Bundle, Interface, Language, TensorInfo};
use ptqc::program::{
    Access, Arg, Call, CheckedProgram, Elem, Expr, FunctionBuilder, Program, Signature, Step, Type, interpret,
};
use ptqc_target_runtimes::{TARGETS, Target};
use ptqc_tests::case::{
    Tensors, build_in, calibrate, evaluate_all, load, open_samples, quantize_samples, run_rust_and_compare,
};
use ptqc_tests::cases::Compiled;
use ptqc_tests::onnx::{Onnx, numbers};
use ptqc_tests::real;
use ptqc_tests::rust::{self, Batch, Profile, Rustc, float_instructions, undefined_symbols};
use ptqc_tests::toolchain::{self, is_installed, must_not_skip};
use rayon::prelude::*;

/// Samples of a real model on an emulated target.
const SAMPLE: usize = 2;

/// All operator cases as Rust; that each compiles is `operators`' business.
static CASES: LazyLock<Vec<Compiled>> = LazyLock::new(|| {
    super::operators::cases().par_iter().filter_map(|case| case.compile_to(Language::Rust).ok()).collect()
});

/// A real model as Rust, with quantized samples and what the evaluator makes of them.
struct Real {
    build: Build,
    inputs: Vec<Tensors>,
    expected: Vec<Tensors>,
}

/// The real models that are present; with at most `count` samples.
fn real_models(count: usize) -> Result<Vec<Real>> {
    let mut all = vec![];
    for model in real::all() {
        let Some(path) = model.model() else {
            println!("skipped: the model {} is absent", model.name);
            continue;
        };
        let frontend = load(&std::fs::read(path)?)?;
        let calib = open_samples(&frontend, &model.data(model.calib)?, Default::default())?;
        let ranges = calibrate(&frontend, calib.samples())?;
        let build = build_in(Language::Rust, &frontend, &ranges, model.name, &TARGETS[0], ArenaMode::Static)?;
        let eval = open_samples(&frontend, &model.data(model.eval)?, model.convert.preprocess())?;
        let samples = eval.samples().take(count).collect::<ptqc::diag::Result<Vec<_>>>()?;
        let inputs = quantize_samples(&build.quant, &samples);
        let expected = evaluate_all(&build.quant, &inputs);
        all.push(Real { build, inputs, expected });
    }
    Ok(all)
}

fn skipped(what: &str) {
    println!("skipped: {what}");
    assert!(!must_not_skip(), "nothing may be skipped here: {what}");
}

/// Targets that Rust can be compiled and run for on this machine.
fn usable() -> Vec<(&'static Target, Rustc)> {
    let mut usable = vec![];
    // Without a processor named, the host is the same target once more.
    for target in TARGETS.iter().filter(|target| !target.name.starts_with("x86-64")) {
        let missing = toolchain::missing(target, &target.compilers[0]);
        match rust::find(target) {
            Ok(rustc) if missing.is_empty() => usable.push((target, rustc)),
            Ok(_) => skipped(&format!("{}: not installed: {}", target.name, missing.join(", "))),
            Err(error) => skipped(&format!("{}: {error:#}", target.name)),
        }
    }
    usable
}

fn run_all(checks: Vec<Box<dyn Fn() -> Result<()> + Send + Sync + '_>>) {
    let failures: Vec<String> =
        checks.par_iter().filter_map(|check| check().err().map(|error| format!("{error:#}"))).collect();
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), checks.len(), failures.join("\n"));
}

fn members(cases: &[Compiled]) -> Vec<(&Program, &Bundle, &[Tensors])> {
    cases.iter().map(|case| (case.build.lowered.program.program(), &case.build.bundle, &case.inputs[..])).collect()
}

fn check_cases(flags: &[&str]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let results = Batch { members: &members(&CASES) }.run(folder.path(), flags)?;
    let wrong: Vec<&str> = CASES
        .iter()
        .zip(results)
        .filter(|(case, bytes)| case.expected_bytes() != *bytes)
        .map(|(case, _)| case.name.as_str())
        .collect();
    ensure!(wrong.is_empty(), "emitted Rust and evaluator differ: {}", wrong.join(", "));
    Ok(())
}

#[test]
fn every_operator_returns_the_evaluators_bytes() -> Result<()> {
    check_cases(&["-Copt-level=2"])
}

/// Nothing overflows, no index is outside, and no debug assertion fails.
#[test]
fn every_operator_passes_the_checks_of_debug_builds() -> Result<()> {
    check_cases(&["-Copt-level=0", "-Cdebug-assertions=on", "-Coverflow-checks=on"])
}

#[test]
fn the_host_returns_the_evaluators_bytes_on_whole_evaluation_sets() -> Result<()> {
    let host = &TARGETS[0];
    let rustc = rust::find(host)?;
    for real in real_models(usize::MAX)? {
        let samples = (&real.inputs[..], &real.expected[..]);
        run_rust_and_compare(
            &real.build,
            ArenaMode::Static,
            (host, &host.compilers[0]),
            (&rustc, Profile::Release("3")),
            samples,
        )?;
    }
    Ok(())
}

#[test]
fn every_target_returns_the_evaluators_bytes() -> Result<()> {
    let (models, usable) = (real_models(SAMPLE)?, usable());
    let mut checks: Vec<Box<dyn Fn() -> Result<()> + Send + Sync + '_>> = vec![];
    for Real { build, inputs, expected, .. } in &models {
        for (target, rustc) in &usable {
            let profiles = match target.name == TARGETS[0].name {
                true => vec![Profile::Debug, Profile::Release("s")],
                false => vec![Profile::Release("2")],
            };
            for profile in profiles {
                checks.push(Box::new(move || {
                    let on = (*target, &target.compilers[0]);
                    run_rust_and_compare(build, ArenaMode::Static, on, (rustc, profile), (inputs, expected))
                }));
            }
        }
    }
    run_all(checks);
    Ok(())
}

/// No path to a panic, and no float: an object of all models together refers to nothing but memory functions and
/// wide integer arithmetic. That it needs nothing else of the core library is also why the harness, which is C, can
/// link it without one.
#[test]
fn optimised_code_cannot_panic_and_has_no_floats() -> Result<()> {
    let real = real_models(1)?;
    let real: Vec<(&Program, &Bundle, &[Tensors])> =
        real.iter().map(|real| (real.build.lowered.program.program(), &real.build.bundle, &real.inputs[..])).collect();
    let all = [members(&CASES), real.clone()].concat();
    // For size, LLVM proves less: there the real models are examined, not every odd form of an operator.
    check_objects(&all, &["2", "3"])?;
    if real.is_empty() { Ok(()) } else { check_objects(&real, &["s"]) }
}

fn check_objects(members: &[(&Program, &Bundle, &[Tensors])], levels: &[&'static str]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    Batch { members }.write(folder.path())?;
    for (target, objdump) in [("generic", "objdump"), ("cortex-m4", "arm-none-eabi-objdump")] {
        let target = Target::find(target).context("a target of the table")?;
        let rustc = match rust::find(target) {
            Ok(rustc) if is_installed(objdump) => rustc,
            Ok(_) => {
                skipped(&format!("{objdump} is missing"));
                continue;
            }
            Err(error) => {
                skipped(&format!("{}: {error:#}", target.name));
                continue;
            }
        };
        for level in levels {
            rustc.compile(folder.path(), "models.rs", "models.o", Profile::Release(level))?;
            check_object(folder.path(), objdump).with_context(|| format!("{} at level {level}", target.name))?;
        }
    }
    Ok(())
}

fn check_object(folder: &Path, objdump: &str) -> Result<()> {
    let memory = ["memcpy", "memset", "memmove"];
    let allowed = |symbol: &String| {
        let name = symbol.trim_start_matches("__aeabi_").trim_end_matches(['4', '8']);
        memory.contains(&name) || ["memclr", "uldivmod", "lmul", "uidiv", "llsl", "llsr", "lasr"].contains(&name)
    };
    let unexpected: Vec<String> =
        undefined_symbols(folder, "models.o")?.into_iter().filter(|symbol| !allowed(symbol)).collect();
    ensure!(unexpected.is_empty(), "the object needs {}", unexpected.join(", "));
    let floats = float_instructions(folder, "models.o", objdump)?;
    ensure!(floats.is_empty(), "the object computes with floats: {}", floats.join(", "));
    Ok(())
}

#[test]
fn rustfmt_changes_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let real = real_models(0)?;
    let bundles = CASES.iter().map(|case| &case.build.bundle).chain(real.iter().map(|real| &real.build.bundle));
    let mut files = vec![];
    for (name, text) in bundles.flatten().filter(|(name, _)| name.ends_with(".rs")) {
        std::fs::write(folder.path().join(name), text)?;
        files.push(name.as_str());
    }
    let mut rustfmt = Command::new("rustfmt");
    rustfmt.args(["--edition=2021", "--check", "--color=never"]).args(files);
    toolchain::run(&mut rustfmt, folder.path()).map(drop)
}

#[test]
fn clippy_finds_nothing() -> Result<()> {
    if !is_installed("clippy-driver") {
        skipped("clippy-driver is missing");
        return Ok(());
    }
    let real = real_models(0)?;
    let mut members = members(&CASES);
    members
        .extend(real.iter().map(|real| (real.build.lowered.program.program(), &real.build.bundle, &real.inputs[..])));
    let folder = tempfile::tempdir()?;
    Batch { members: &members }.write(folder.path())?;
    let mut clippy = Command::new("clippy-driver");
    clippy.args([
        "--edition=2021",
        "--crate-type=lib",
        "--emit=metadata",
        "-Wclippy::all",
        "-Wclippy::pedantic",
        // Formulas have short names.
        "-Aclippy::many_single_char_names",
        "models.rs",
    ]);
    toolchain::run(&mut clippy, folder.path()).map(drop)
}

/// A build script puts files into a folder of its own and the crate includes them; two models in one crate.
#[test]
fn files_can_be_included_from_another_folder() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("out");
    std::fs::create_dir_all(&out)?;
    let named: Vec<&Compiled> =
        CASES.iter().filter(|case| ["conv_3x3", "gemm"].contains(&case.name.as_str())).collect();
    for (name, text) in named.iter().flat_map(|case| &case.build.bundle) {
        std::fs::write(out.join(name), text)?;
    }
    let mut text = "#![no_std]\n#![forbid(unsafe_code)]\n#![deny(warnings)]\n".to_owned();
    for case in &named {
        text += &format!("mod {0} {{ include!(concat!(env!(\"OUT_DIR\"), \"/{0}.rs\")); }}\n", case.name);
        text += &format!("pub use {0}::Model as Model{0};\n", case.name);
    }
    std::fs::write(
        folder.path().join("lib.rs"),
        text.replace("#![deny(warnings)]", "#![deny(warnings)]\n#![allow(non_camel_case_types)]"),
    )?;
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2021", "--crate-type=lib", "--emit=metadata", "lib.rs"]).env("OUT_DIR", &out);
    toolchain::run(&mut rustc, folder.path()).map(drop)
}

/// A test program that quantizes with the emitted helper.
#[test]
fn float_helpers_quantize_as_the_compiler_does() -> Result<()> {
    let case = CASES.iter().find(|case| case.name == "gemm").context("a case")?;
    let folder = tempfile::tempdir()?;
    Batch { members: &members(std::slice::from_ref(case)) }.write(folder.path())?;
    let input = case.build.quant.inputs()[0];
    let params = case.build.quant.node(input).value.params().context("inputs are real")?;
    let scale = params.scale.as_f32();
    // Halves, beyond both ends, no number.
    let special = [0.5, -0.5, 1.5, -1.5, 2.5, 1e9, -1e9, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.49, -0.51];
    let len = case.build.quant.node(input).value.shape.len();
    let reals: Vec<f32> = (0..len).map(|i| special.get(i).map_or(i as f32 * 0.37 - 4.0, |x| x * scale)).collect();
    let bits: Vec<String> = reals.iter().map(|x| format!("{}", x.to_bits())).collect();
    let main = format!(
        "mod gemm;\nfn main() {{\n    let bits = [{}];\n    let mut q = [0; gemm::INPUT_0_LEN];\n    \
         gemm::quantize_input_0(&bits.map(f32::from_bits), &mut q);\n    println!(\"{{q:?}}\");\n    \
         let mut real = [0.0; gemm::OUTPUT_0_LEN];\n    gemm::dequantize_output_0(&[7; gemm::OUTPUT_0_LEN], &mut real);\n    \
         println!(\"{{}}\", real[0].to_bits());\n}}\n",
        bits.join(", ")
    );
    std::fs::write(folder.path().join("main.rs"), main)?;
    toolchain::run(Command::new("rustc").args(["--edition=2021", "main.rs", "-o", "program"]), folder.path())?;
    let output = toolchain::run(&mut Command::new(folder.path().join("program")), folder.path())?;
    let expected: Vec<i32> = ptqc::evaluate::quantize_input(&case.build.quant, input, &reals);
    let node = case.build.quant.outputs()[0].node;
    let real = ptqc::evaluate::dequantize(&case.build.quant, node, &[7])[0];
    assert_eq!(String::from_utf8_lossy(&output), format!("{expected:?}\n{}\n", real.to_bits()));
    Ok(())
}

/// Wider integers in the arena of bytes: `y = x * 300` in 16 bits, `z = y * 1000 - y` in 32 bits beside it, and the
/// result out of both.
fn wide_program() -> CheckedProgram {
    let signature = |name: &str, elem| Signature { name: name.to_owned(), elem, len: 5 };
    let mut functions = vec![];
    let mut f = FunctionBuilder::new("00_widen", vec!["x * 300".to_owned()]);
    let (x, y) = (f.param("x", Elem::I8, 5, Access::Read), f.param("y", Elem::I16, 5, Access::Write));
    f.each("i", 5, |f, i| f.store(y, i.clone(), f.load(x, i).mul(Expr::i32(200))));
    functions.push(f.finish());
    let mut f = FunctionBuilder::new("01_more", vec!["y * 1000".to_owned()]);
    let (y, z) = (f.param("y", Elem::I16, 5, Access::Read), f.param("z", Elem::I32, 5, Access::Write));
    f.each("i", 5, |f, i| f.store(z, i.clone(), f.load(y, i.clone()).mul(Expr::i32(1000)).sub(Expr::Index(i))));
    functions.push(f.finish());
    let mut f = FunctionBuilder::new("02_both", vec!["z >> 4 plus y".to_owned()]);
    let (y, z) = (f.param("y", Elem::I16, 5, Access::Read), f.param("z", Elem::I32, 5, Access::Read));
    let out = f.param("out", Elem::I32, 5, Access::Write);
    f.each("i", 5, |f, i| {
        let sum = f.load(z, i.clone()).cast(Type::I64).shr(4).add(f.load(y, i.clone()).cast(Type::I64));
        f.store(out, i, sum.cast(Type::I32));
    });
    functions.push(f.finish());
    let call = |function, args| Call { function, args };
    CheckedProgram::new(Program {
        name: "wide".to_owned(),
        inputs: vec![signature("input_0", Elem::I8)],
        outputs: vec![signature("output_0", Elem::I32)],
        arena_bytes: 36,
        blobs: vec![],
        variants: vec![],
        functions,
        steps: vec![Step {
            times: 1,
            calls: vec![
                call(0, vec![Arg::input(0), Arg::arena(24)]),
                call(1, vec![Arg::arena(24), Arg::arena(0)]),
                call(2, vec![Arg::arena(24), Arg::arena(0), Arg::output(0)]),
            ],
        }],
    })
    .unwrap()
}

#[test]
fn wide_integers_live_in_an_arena_of_bytes() -> Result<()> {
    let program = wide_program();
    let info = |name: &str| TensorInfo { onnx_name: name.to_owned(), dims: vec![5], scale: None, zero_point: 0 };
    let interface = Interface {
        provenance: vec![],
        facts: vec![],
        inputs: vec![info("x")],
        outputs: vec![info("out")],
        arena: ArenaMode::Caller,
        weights: Default::default(),
        states: vec![],
        float_helpers: false,
    };
    let bundle = Language::Rust.print(&program, &interface);
    insta::assert_snapshot!("rust_wide_integers", bundle["wide.rs"]);
    let samples = [vec![vec![-128, -1, 0, 1, 127]]];
    for flags in [&["-Copt-level=0"][..], &["-Copt-level=3"]] {
        let folder = tempfile::tempdir()?;
        let bytes = Batch { members: &[(program.program(), &bundle, &samples)] }.run(folder.path(), flags)?;
        let expected = interpret(&program, &[vec![-128, -1, 0, 1, 127]])?;
        let expected: Vec<u8> = expected[0].iter().flat_map(|&q| (q as i32).to_le_bytes()).collect();
        assert_eq!(bytes[0], expected);
    }
    Ok(())
}

/// Listings, with literal ranges so that nothing depends on the machine.
#[test]
fn listings() -> Result<()> {
    let classifier = Onnx::default()
        .input("x", &[1, 3, 9, 7])
        .weights("w", &[4, 3, 3, 2], &numbers(1, 72))
        .weights("v", &[4, 3], &numbers(2, 12))
        .node_with("Conv", &["x", "w"], &["conv"], &[("dilations", [2, 3].into()), ("pads", [2, 1, 2, 2].into())])
        .node("Relu", &["conv"], &["relu"])
        .node("GlobalAveragePool", &["relu"], &["mean"])
        .node("Flatten", &["mean"], &["flat"])
        .node("MatMul", &["flat", "v"], &["logits"])
        .node("Softmax", &["logits"], &["y"])
        .output("y");
    let reflected = Onnx::default()
        .input("x", &[1, 2, 4, 4])
        .ints("pads", &[8], &[0, 0, 1, 0, 0, 0, 1, 2])
        .node_with("Pad", &["x", "pads"], &["y"], &[("mode", "reflect".into())])
        .output("y");
    for (name, model) in [("classifier", classifier), ("reflected", reflected)] {
        let frontend = load(&model.bytes())?;
        let mut ranges = Ranges::new();
        for tensor in frontend.model.tapped_runner()?.names() {
            ranges.insert(tensor, Entry { range: Range::new(-2.0, 2.0).context("a range")?, observed: None });
        }
        let built = build_in(Language::Rust, &frontend, &ranges, name, &TARGETS[0], ArenaMode::Static)?;
        let hash = ptqc::driver::sha256(ranges.to_toml().as_bytes());
        insta::assert_snapshot!(format!("rust_{name}"), built.bundle[&format!("{name}.rs")].replace(&hash, "RANGES"));
    }
    Ok(())
}
