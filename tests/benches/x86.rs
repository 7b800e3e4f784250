//! Time of an inference on this machine, one thread, beside LiteRT (XNNPACK) and onnxruntime with int8 models, in the same
//! process and in turns: `cargo bench -p ptqc-tests --bench x86`. Arguments restrict it to models of these names, or choose a
//! target instead of the one with most of this machine's instructions. The C compiler gets `-O2`, or what `PTQC_CFLAGS` says.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use ptqc_target_runtimes::{Feature, Runner, TARGETS, Target};
use ptqc_tests::figures::Subject;
use ptqc_tests::real::MODELS;
use ptqc_tests::toolchain;
use serde::Deserialize;

/// The models of MLPerf Tiny.
const COMPARED: [&str; 5] = ["resnet8_cifar10", "dscnn_kws", "mobilenetv1_vww", "autoencoder_ad", "sww"];

/// The others.
const ENGINES: [&str; 2] = ["litert", "onnxruntime"];

/// What the script prints for a model.
#[derive(Deserialize)]
struct Times {
    model: String,
    median_us: BTreeMap<String, f64>,
    absent: BTreeMap<String, String>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some(python) = toolchain::python() else {
        println!("skipped: Python with onnxruntime is not installed; tests/run.sh installs it in target/python");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let mut script = Command::new(python);
    script.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/x86/compare.py")).arg(folder.path());
    let target = arguments.iter().find_map(|argument| Target::find(argument)).unwrap_or(best_target()?);
    println!("code for {}", target.name);
    let named: Vec<&String> = arguments.iter().filter(|argument| COMPARED.contains(&argument.as_str())).collect();
    for name in COMPARED.iter().filter(|name| named.is_empty() || named.iter().any(|wanted| wanted == *name)) {
        let model = MODELS.iter().find(|model| model.name == *name).context("a known model")?;
        let (Some(file), Some(subject)) = (model.model(), Subject::load(name)?) else {
            println!("{name}: the model is absent");
            continue;
        };
        compile(&subject, target, folder.path())?;
        script.arg(format!("{name}={}={}", file.display(), model.data(model.calib)?.display()));
    }
    let results: Vec<Times> = serde_json::from_slice(&toolchain::run(&mut script, Path::new("."))?)?;
    println!("| model | ptqc, us | LiteRT, us | ratio | onnxruntime, us | ratio |\n|---|---:|---:|---:|---:|---:|");
    for times in &results {
        let ours = times.median_us["ptqc"];
        let cells = ENGINES.map(|engine| match times.median_us.get(engine) {
            Some(theirs) => format!("{theirs:.1} | {:.2}", ours / theirs),
            None => "absent | ".to_owned(),
        });
        println!("| {} | {ours:.1} | {} |", times.model, cells.join(" | "));
    }
    if results.iter().any(|times| times.absent.contains_key("litert")) {
        println!("LiteRT: `target/python/bin/pip install -r tests/requirements-benches.txt`");
    }
    Ok(())
}

/// The target with most of the instructions that this machine has.
fn best_target() -> Result<&'static Target> {
    let has = |feature: &Feature| match feature {
        Feature::Sse41 => std::is_x86_feature_detected!("sse4.1"),
        Feature::Avx2 => std::is_x86_feature_detected!("avx2"),
        Feature::Avx512Vnni => {
            std::is_x86_feature_detected!("avx512vnni")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512vl")
        }
        _ => true,
    };
    let runs = TARGETS.iter().filter(|target| matches!(target.runner, Runner::User { native: "x86_64", .. }));
    let runs = runs.filter(|target| target.name.starts_with("x86") && target.features.iter().all(has));
    runs.max_by_key(|target| target.features.len()).context("this is no machine with x86-64")
}

/// Compiles a model to `NAME.so`.
fn compile(subject: &Subject, target: &Target, folder: &Path) -> Result<()> {
    let build = subject.build(target)?;
    for (name, text) in &build.bundle {
        std::fs::write(folder.join(name), text)?;
    }
    let name = &subject.name;
    let flags = std::env::var("PTQC_CFLAGS").unwrap_or_else(|_| "-O2".to_owned());
    let mut command = Command::new(target.compilers[0].program);
    command.args(["-std=c99", "-shared", "-fPIC"]).args(flags.split_whitespace());
    command.args([format!("{name}.c"), format!("{name}_weights.c"), "-o".to_owned(), format!("{name}.so")]);
    toolchain::run(&mut command, folder).map(drop)
}
