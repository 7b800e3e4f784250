//! Time of an inference on this machine, one thread, beside LiteRT (XNNPACK) and onnxruntime with int8 models, in the same
//! process and in turns: `cargo bench -p ptqc-tests --bench x86`. Arguments restrict it to models of these names. The C
//! compiler gets `-O2 -march=native`, or what `PTQC_CFLAGS` says.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use ptqc_target_runtimes::Target;
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
    for name in COMPARED.iter().filter(|name| arguments.is_empty() || arguments.iter().any(|wanted| wanted == *name)) {
        let model = MODELS.iter().find(|model| model.name == *name).context("a known model")?;
        let (Some(file), Some(subject)) = (model.model(), Subject::load(name)?) else {
            println!("{name}: the model is absent");
            continue;
        };
        compile(&subject, folder.path())?;
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

/// Compiles a model to `NAME.so`.
fn compile(subject: &Subject, folder: &Path) -> Result<()> {
    let target = Target::find("x86-64").context("the target table has x86-64")?;
    let build = subject.build(target)?;
    for (name, text) in &build.bundle {
        std::fs::write(folder.join(name), text)?;
    }
    let name = &subject.name;
    let flags = std::env::var("PTQC_CFLAGS").unwrap_or_else(|_| "-O2 -march=native".to_owned());
    let mut command = Command::new(target.compilers[0].program);
    command.args(["-std=c99", "-shared", "-fPIC"]).args(flags.split_whitespace());
    command.args([format!("{name}.c"), format!("{name}_weights.c"), "-o".to_owned(), format!("{name}.so")]);
    toolchain::run(&mut command, folder).map(drop)
}
