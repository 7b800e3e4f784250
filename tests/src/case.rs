//! A model on its way through the compiler, with samples: what most tests begin with.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ptqc::calibrate::{Method, Origin, Ranges};
use ptqc::cli::data::{InputSpec, Preprocess, SampleSet};
use ptqc::driver::{self, Build, Frontend, Options, Sample};
use ptqc::evaluate::{evaluate, quantize_input};
use ptqc::ir::{Checked, DType, Graph, Quant};
use ptqc::measure::harness::Harness;
use ptqc::ops::{FloatOp, ParamsRule};
use ptqc::print::{ArenaMode, Language};
use ptqc::quantize::{LayerPrecision, Precisions, Settings};
use ptqc_target_runtimes::{Compiler, Target};
use rayon::prelude::*;

use crate::rust::{self, Profile, Rustc};
use crate::toolchain::{self, Executable};

/// Quantized elements of all inputs, or of all outputs.
pub type Tensors = Vec<Vec<i32>>;

/// Loads a model without external data.
pub fn load(bytes: &[u8]) -> Result<Frontend> {
    Ok(driver::load(bytes, &|_| Err(std::io::ErrorKind::NotFound.into()), &Default::default())?)
}

/// One of many mixes of precisions for a model: 16-bit activations, 4-bit weights, both, or a type for every tensor and
/// every layer by itself.
pub fn mixed(frontend: &Frontend, seed: u64) -> Settings {
    let (int16, int4) = (DType::I16, DType::I4);
    let (activations, weights) = match seed % 6 {
        0 => (int16, DType::I8),
        1 => (DType::I8, int4),
        2 => (int16, int4),
        _ => (DType::I8, DType::I8),
    };
    let mut precisions = Precisions { activations, weights, ..Precisions::default() };
    if seed % 6 < 3 {
        return Settings { precisions };
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let graph = &frontend.fused;
    for node in graph.topological().into_iter().map(|id| graph.node(id)) {
        let computes = node.op.is_wide()
            && node.op.params_rule() != ParamsRule::SameAsOperand
            && !matches!(node.op, FloatOp::Constant(_));
        if computes && random.bool() {
            precisions.tensors.insert(node.name.clone(), int16);
        }
        let weighted = matches!(node.op, FloatOp::Conv(_) | FloatOp::Linear(_));
        if let Some(origin) = node.origin.first().filter(|_| weighted && random.bool()) {
            precisions
                .layers
                .insert(origin.node.clone(), LayerPrecision { weights: Some(int4), ..LayerPrecision::default() });
        }
    }
    Settings { precisions }
}

/// Every layer whose input can have 16 bits is dynamic; results have 8 or 16 bits.
pub fn dynamic(frontend: &Frontend, activations: DType) -> Settings {
    let mut precisions = Precisions { activations, ..Precisions::default() };
    let graph = &frontend.fused;
    for id in graph.topological() {
        let node = graph.node(id);
        if !matches!(node.op, FloatOp::Conv(_) | FloatOp::Linear(_)) {
            continue;
        }
        let input = graph.node(graph.operands(id)[0]);
        if let Some(origin) = node.origin.first().filter(|_| input.op.is_wide()) {
            let layer = LayerPrecision { dynamic: true, ..LayerPrecision::default() };
            precisions.layers.insert(origin.node.clone(), layer);
        }
    }
    Settings { precisions }
}

/// Opens samples for a model.
pub fn open_samples(frontend: &Frontend, path: &Path, preprocess: Preprocess) -> Result<SampleSet> {
    let inputs =
        frontend.model.inputs.iter().map(|i| InputSpec { name: i.name.clone(), dims: i.shape.dims().to_vec() });
    Ok(SampleSet::open(path, &inputs.collect::<Vec<_>>(), preprocess)?)
}

/// Calibrates with the default method.
pub fn calibrate(
    frontend: &Frontend,
    samples: impl Iterator<Item = ptqc::diag::Result<Sample>> + Send,
) -> Result<Ranges> {
    let (calibrator, _) = driver::calibrate(&frontend.model, samples, &|| {})?;
    Ok(calibrator.finish(Method::default(), Origin::default())?)
}

/// Builds C.
pub fn build(frontend: &Frontend, ranges: &Ranges, name: &str, target: &Target, arena: ArenaMode) -> Result<Build> {
    build_in(Language::C, frontend, ranges, name, target, arena)
}

/// Builds in a language.
pub fn build_in(
    language: Language,
    frontend: &Frontend,
    ranges: &Ranges,
    name: &str,
    target: &Target,
    arena: ArenaMode,
) -> Result<Build> {
    let options = Options {
        settings: Default::default(),
        name: name.to_owned(),
        target,
        language,
        arena,
        goal: ptqc::plan::Goal::default(),
        weights: Default::default(),
        states: vec![],
        float_helpers: false,
        command: format!("ptqc build {name}.onnx"),
        model_sha256: "0".repeat(64),
    };
    Ok(driver::build(frontend, ranges, &options)?)
}

/// Quantizes samples for the inputs of a graph.
pub fn quantize_samples(graph: &Checked<Graph<Quant>>, samples: &[Sample]) -> Vec<Tensors> {
    let quantize = |sample: &Sample| {
        graph.inputs().iter().zip(sample).map(|(&id, values)| quantize_input(graph, id, values)).collect()
    };
    samples.iter().map(quantize).collect()
}

/// What the evaluator makes of quantized samples.
pub fn evaluate_all(graph: &Checked<Graph<Quant>>, inputs: &[Tensors]) -> Vec<Tensors> {
    inputs.par_iter().map(|inputs| evaluate(graph, inputs)).collect()
}

/// Compiles the emitted C, runs it on quantized samples, and compares every byte with what is expected.
pub fn run_and_compare(
    build: &Build,
    arena: ArenaMode,
    (target, compiler): (&Target, &Compiler),
    flags: &[&str],
    (inputs, expected): (&[Tensors], &[Tensors]),
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (name, text) in &build.bundle {
        std::fs::write(folder.path().join(name), text)?;
    }
    let harness = Harness::new(build.lowered.program.program(), arena);
    let what = || format!("{} on {} with {} {}", build.report.name, target.name, compiler.program, flags.join(" "));
    let flags = [toolchain::STRICT, flags].concat();
    let executable = toolchain::build(folder.path(), &harness, target, compiler, &flags).with_context(what)?;
    compare(&executable, &harness, (inputs, expected)).with_context(what)
}

/// Compiles the emitted Rust, runs it on quantized samples, and compares every byte with what is expected.
pub fn run_rust_and_compare(
    build: &Build,
    arena: ArenaMode,
    (target, compiler): (&Target, &Compiler),
    (rustc, profile): (&Rustc, Profile),
    (inputs, expected): (&[Tensors], &[Tensors]),
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (name, text) in &build.bundle {
        std::fs::write(folder.path().join(name), text)?;
    }
    let harness = Harness::new(build.lowered.program.program(), arena);
    let what = || format!("Rust of {} on {}, {profile:?}", build.report.name, target.name);
    let on = (target, compiler);
    let executable = rust::build(folder.path(), &harness, on, rustc, profile).with_context(what)?;
    compare(&executable, &harness, (inputs, expected)).with_context(what)
}

fn compare(executable: &Executable, harness: &Harness, (inputs, expected): (&[Tensors], &[Tensors])) -> Result<()> {
    let outputs = executable.run(&harness.encode_inputs(inputs))?;
    let expected = harness.encode_outputs(expected);
    ensure!(outputs.len() == expected.len(), "{} bytes instead of {}", outputs.len(), expected.len());
    let different = outputs.iter().zip(&expected).filter(|(a, b)| a != b).count();
    ensure!(different == 0, "{different} of {} bytes differ from the evaluator's", expected.len());
    Ok(())
}
