//! Layers that scale their input in every inference: as precise for quiet inputs as for loud ones.

use ptqc::calibrate::{Method, Origin};
use ptqc::driver::{self, Frontend, Sample};
use ptqc::evaluate::{dequantize, evaluate, quantize_input};
use ptqc::ir::DType;
use ptqc::quantize::Settings;
use ptqc_tests::case::{dynamic, load};
use ptqc_tests::onnx::{Onnx, numbers};

const INPUTS: usize = 48;

fn product() -> Onnx {
    Onnx::new(13)
        .input("x", &[1, INPUTS as i64])
        .random("w", &[10, INPUTS as i64])
        .random("b", &[10])
        .node_with("Gemm", &["x", "w", "b"], &["y"], &[("transB", 1.into())])
        .output("y")
}

fn convolution() -> Onnx {
    Onnx::new(13)
        .input("x", &[1, 4, 6, 2])
        .random("w", &[6, 2, 3, 3])
        .random("b", &[6])
        .node_with("Conv", &["x", "w", "b"], &["c"], &[("pads", [1, 1, 1, 1].into()), ("group", 2.into())])
        .node("Relu", &["c"], &["y"])
        .output("y")
}

/// Samples of a magnitude.
fn samples(magnitude: f32) -> Vec<Sample> {
    (0..16).map(|seed| vec![numbers(seed, INPUTS).iter().map(|x| x * magnitude).collect()]).collect()
}

/// The error of the results for some samples, as a share of what the results are without the bias: root mean
/// squares. Calibrated with samples up to 1.
fn error(frontend: &Frontend, settings: &Settings, tested: Vec<Sample>) -> f64 {
    let (calibrator, _) = driver::calibrate(&frontend.model, samples(1.0).into_iter().map(Ok), &|| {}).unwrap();
    let ranges = calibrator.finish(Method::MinMax, Origin::default()).unwrap();
    let (graph, _) = driver::quantize(frontend, &ranges, settings).unwrap();
    let (x, y) = (graph.inputs()[0], graph.outputs()[0].node);
    let mut float = frontend.model.runner().unwrap().state().unwrap();
    let silence = float.run(&[vec![0.0; INPUTS]]).unwrap().remove(0);
    let (mut error, mut power) = (0.0, 0.0);
    for sample in tested {
        let expected = float.run(&sample).unwrap().remove(0);
        let integers = evaluate(&graph, &[quantize_input(&graph, x, &sample[0])]).remove(0);
        for ((y, expected), silence) in dequantize(&graph, y, &integers).iter().zip(&expected).zip(&silence) {
            error += f64::from(y - expected).powi(2);
            power += f64::from(expected - silence).powi(2);
        }
    }
    (error / power).sqrt()
}

#[test]
fn quiet_inputs_are_as_precise_as_loud_ones() {
    for model in [product(), convolution()] {
        let frontend = load(&model.bytes()).unwrap();
        let fixed = Settings::default();
        let scaled = dynamic(&frontend, DType::I16);
        // Sums that are quiet against the bias are told from it by 16 bits.
        for magnitude in [1.0, 0.25, 0.0625] {
            let error = error(&frontend, &scaled, samples(magnitude));
            assert!(error < 0.012, "{error} at {magnitude}");
        }
        let (fixed, scaled) = (error(&frontend, &fixed, samples(0.0625)), error(&frontend, &scaled, samples(0.0625)));
        assert!(8.0 * scaled < fixed, "{scaled} with a scale for each inference, {fixed} without");
    }
}

/// Two elements three times as large as any in calibration, and nothing else: the results stay within their range.
fn peaks() -> Vec<Sample> {
    let peak = |seed: usize| {
        let mut x = vec![0.0; INPUTS];
        (x[seed], x[INPUTS - 1 - seed]) = (3.0, -3.0);
        vec![x]
    };
    (0..16).map(peak).collect()
}

#[test]
fn louder_inputs_than_in_calibration_do_not_saturate() {
    let frontend = load(&product().bytes()).unwrap();
    let (scaled, fixed) = (dynamic(&frontend, DType::I16), Settings::default());
    let (scaled, fixed) = (error(&frontend, &scaled, peaks()), error(&frontend, &fixed, peaks()));
    assert!(scaled < 0.012 && fixed > 0.5, "{scaled} with a scale for each inference, {fixed} without");
}
