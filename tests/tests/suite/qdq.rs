//! Every layer against ONNX's definition of quantized operators: another runtime dequantizes the operands, computes on
//! reals and quantizes. A difference of one step is a tie that was rounded the other way.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ptqc::calibrate::{Method, Origin};
use ptqc::cli::data::{InputSpec, SampleSet};
use ptqc::driver;
use ptqc::evaluate::quantize_input;
use ptqc_tests::cases::Compiled;
use ptqc_tests::onnx::Onnx;
use ptqc_tests::qdq::{self, Agreement, Job, Layers};
use ptqc_tests::real::MODELS;
use ptqc_tests::toolchain;

use super::operators;

/// The share of elements that have to be equal, for each kind of operator.
const EQUAL: f64 = 0.99;

/// Samples of each real model.
const SAMPLES: usize = 2;

/// The interpreter, unless the test is skipped.
fn python() -> Option<PathBuf> {
    let python = toolchain::python();
    if python.is_none() {
        assert!(!toolchain::must_not_skip(), "python with onnxruntime is missing");
        println!("skipped: python with onnxruntime is missing");
    }
    python
}

/// Compares all layers and requires that none differs by more than one step.
fn check(layers: &[Layers], jobs: &[Job], python: &std::path::Path) {
    let results = qdq::run(jobs, python).unwrap();
    let mut kinds: BTreeMap<&str, Agreement> = BTreeMap::new();
    let mut failures = vec![];
    for ((layers, job), bytes) in layers.iter().zip(jobs).zip(&results) {
        let bytes = bytes.as_ref().unwrap_or_else(|error| panic!("{}: {error}", job.name));
        for (name, kind, agreement) in layers.compare(bytes).unwrap() {
            let sum = kinds.entry(kind).or_default();
            *sum = sum.merge(agreement);
            if agreement.worst > 1 {
                failures.push(format!("{}: {kind} `{name}` differs by {} steps", job.name, agreement.worst));
            }
        }
    }
    for (kind, agreement) in &kinds {
        println!("{kind}: {:.4} % of {} elements equal", 100.0 * agreement.share(), agreement.elements);
        if agreement.share() < EQUAL {
            failures.push(format!("{kind}: only {:.4} % of the elements are equal", 100.0 * agreement.share()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn layers_of_small_models_agree() {
    let Some(python) = python() else { return };
    let export = |case: &'static Compiled| {
        Layers::export(&case.name, &case.build.quant, &case.frontend.fused, &case.inputs).unwrap()
    };
    let cases = operators::compiled();
    // Where a difference vanishes, 32-bit floats are not exact enough to say what is right.
    let cases = cases.iter().filter(|case| case.steps.is_finite());
    let mut layers: Vec<Layers> =
        cases.map(|case| export(case)).filter(|layers| !layers.job.inputs.is_empty()).collect();
    let jobs: Vec<Job> = layers.iter_mut().map(|layers| std::mem::take(&mut layers.job)).collect();
    check(&layers, &jobs, &python);
}

#[test]
fn layers_of_real_models_agree() {
    let Some(python) = python() else { return };
    for model in MODELS {
        let Some((path, data)) = model.model().zip(model.data(model.calib).ok()) else {
            println!("skipped: {} is missing", model.name);
            continue;
        };
        let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        let frontend = driver::load(&std::fs::read(path).unwrap(), &no_files, &BTreeMap::new()).unwrap();
        let inputs =
            frontend.model.inputs.iter().map(|i| InputSpec { name: i.name.clone(), dims: i.shape.dims().to_vec() });
        let set = SampleSet::open(&data, &inputs.collect::<Vec<_>>(), Default::default()).unwrap();
        let (calibrator, _) = driver::calibrate(&frontend.model, set.samples().take(20), &|| {}).unwrap();
        let ranges = calibrator.finish(Method::default(), Origin::default()).unwrap();
        let (quant, _) = driver::quantize(&frontend, &ranges, &Default::default()).unwrap();
        let quantize = |sample: Vec<Vec<f32>>| {
            quant.inputs().iter().zip(&sample).map(|(&id, x)| quantize_input(&quant, id, x)).collect()
        };
        let samples: Vec<Vec<Vec<i32>>> = set.samples().take(SAMPLES).map(|sample| quantize(sample.unwrap())).collect();
        let mut layers = Layers::export(model.name, &quant, &frontend.fused, &samples).unwrap();
        println!("{}:", model.name);
        let job = std::mem::take(&mut layers.job);
        check(&[layers], &[job], &python);
    }
}

/// The executor that calibration relies on, and with it our reading of ONNX, against the other runtime.
#[test]
fn float_models_agree() {
    let Some(python) = python() else { return };
    let models: BTreeMap<String, Onnx> = operators::cases().into_iter().map(|case| (case.name, case.model)).collect();
    let is_fixed = |case: &&Compiled| qdq::has_fixed_inputs(&models[&case.name]);
    let cases: Vec<&Compiled> = operators::compiled().into_iter().filter(is_fixed).collect();
    let job = |case: &&Compiled| Job {
        name: case.name.clone(),
        model: qdq::untyped_outputs(&models[&case.name]),
        inputs: case.samples.iter().flatten().flatten().flat_map(|x| x.to_le_bytes()).collect(),
    };
    let jobs: Vec<Job> = cases.iter().map(job).collect();
    let results = qdq::run(&jobs, &python).unwrap();
    let mut failures = vec![];
    for (case, bytes) in cases.iter().zip(&results) {
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => {
                println!("{}: the other runtime refuses it: {}", case.name, error.lines().next().unwrap_or_default());
                continue;
            }
        };
        let words: Vec<[u8; 4]> = bytes.chunks_exact(4).map(|word| word.try_into().unwrap()).collect();
        if let Err(problem) = case.check_float(&words) {
            failures.push(format!("{}: {problem}", case.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
