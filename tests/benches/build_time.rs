//! Time and memory of `ptqc build` with calibration, beside onnxruntime's static quantizer on the same model and data:
//! `cargo bench -p ptqc-tests --bench build_time`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ptqc_tests::real::{MODELS, RealModel};
use ptqc_tests::toolchain;
use wait4::Wait4 as _;

/// Runs of each command; the median is printed.
const RUNS: usize = 3;

/// Quantizes as ptqc does by default: int8, weights per channel, the same samples.
const ONNXRUNTIME: &str = "
import sys, numpy, onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
onnxruntime.set_default_logger_severity(3)
model, data, result = sys.argv[1:]
name = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider']).get_inputs()[0].name
class Samples(CalibrationDataReader):
    def __init__(self): self.rows = iter(numpy.load(data).astype(numpy.float32))
    def get_next(self):
        row = next(self.rows, None)
        return None if row is None else {name: row[None]}
quantize_static(model, result, Samples(), per_channel=True, activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax)
";

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let python = toolchain::python();
    println!("| model | samples' file | ptqc build | peak memory | onnxruntime quantize_static | peak memory |");
    println!("|---|---|---:|---:|---:|---:|");
    for model in &MODELS {
        let Some(file) = model.model() else {
            println!("| {} | absent: put the real models beside the repository, or set PTQC_SHARED |", model.name);
            continue;
        };
        let ours = median(|| ptqc_build(model, &file, folder.path()))?;
        let theirs = match &python {
            Some(python) => show(median(|| onnxruntime(python, model, &file, folder.path()))?),
            None => "not installed | ".to_owned(),
        };
        println!("| {} | {} | {} | {theirs} |", model.name, model.calib, show(ours));
    }
    Ok(())
}

fn ptqc_build(model: &RealModel, file: &Path, folder: &Path) -> Result<Command> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ptqc-under-test"));
    command.arg("build").arg(file).arg("--calib").arg(model.data(model.calib)?);
    command.args(["--target", "cortex-m4", "-o"]).arg(folder.join("c"));
    Ok(command)
}

fn onnxruntime(python: &Path, model: &RealModel, file: &Path, folder: &Path) -> Result<Command> {
    let mut command = Command::new(python);
    command.args(["-c", ONNXRUNTIME]).arg(file).arg(model.data(model.calib)?).arg(folder.join("quantized.onnx"));
    Ok(command)
}

/// Wall time and peak resident memory of the run with the median time.
fn median(command: impl Fn() -> Result<Command>) -> Result<(Duration, u64)> {
    let mut runs = (0..RUNS).map(|_| measure(&mut command()?)).collect::<Result<Vec<_>>>()?;
    runs.sort();
    Ok(runs[RUNS / 2])
}

fn measure(command: &mut Command) -> Result<(Duration, u64)> {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("does not start")?;
    let result = child.wait4()?;
    ensure!(result.status.success(), "{command:?} failed");
    Ok((start.elapsed(), result.rusage.maxrss))
}

fn show((time, bytes): (Duration, u64)) -> String {
    format!("{:.2} s | {} MB", time.as_secs_f64(), bytes / 1_000_000)
}
