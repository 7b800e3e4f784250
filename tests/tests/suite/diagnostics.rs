//! One bad file or command line for each diagnostic, and what the user then reads.

use std::collections::BTreeSet;

use ptqc::cli::data::npy_bytes;
use ptqc::diag::Code;
use ptqc::front::pb;
use ptqc_tests::onnx::{Attr, Onnx, numbers};
use ptqc_tests::real::MODELS;

use crate::process::{Folder, Outcome, conv_relu, gemm, npz, samples, two_inputs};

/// Files, a command line, and the diagnostic it has to end with.
struct Case {
    code: Code,
    name: &'static str,
    exit: i32,
    files: fn() -> Vec<(&'static str, Vec<u8>)>,
    line: &'static str,
}

type Files = Vec<(&'static str, Vec<u8>)>;

const fn error(code: Code, name: &'static str, line: &'static str, files: fn() -> Files) -> Case {
    Case { code, name, exit: 1, files, line }
}

const fn warning(code: Code, name: &'static str, line: &'static str, files: fn() -> Files) -> Case {
    Case { code, name, exit: 0, files, line }
}

const BUILD: &str = "build m.onnx --calib x.npy -o out";
const RECIPE: &str = "build m.onnx --calib x.npy --recipe m.recipe.toml -o out";
const FLOAT: &str = "inspect m.onnx --stage float";
const FROM_RANGES: &str = "build m.onnx --ranges m.ranges.toml -o out";

const CASES: &[Case] = &[
    error(Code::Io, "model_missing", BUILD, Vec::new),
    error(Code::Io, "samples_missing", BUILD, || vec![("m.onnx", gemm().bytes())]),
    error(Code::Io, "samples_cut_off", BUILD, || {
        let mut bytes = samples(8, &[4]);
        bytes.truncate(bytes.len() - 6);
        vec![("m.onnx", gemm().bytes()), ("x.npy", bytes)]
    }),
    error(Code::Io, "archive_damaged", "build m.onnx --calib x.npz -o out", || {
        let bytes = npz(&[("x", samples(8, &[4]))]);
        vec![("m.onnx", gemm().bytes()), ("x.npz", bytes[..bytes.len() / 2].to_vec())]
    }),
    error(Code::NotOnnx, "text", FLOAT, || vec![("m.onnx", b"import torch\n".to_vec())]),
    error(Code::NotOnnx, "empty", FLOAT, || vec![("m.onnx", vec![])]),
    error(Code::NotOnnx, "tflite", FLOAT, || vec![("m.onnx", b"\x1c\0\0\0TFL3\x14\0".to_vec())]),
    error(Code::CorruptModel, "cut_off", FLOAT, || {
        let bytes = conv_relu().bytes();
        vec![("m.onnx", bytes[..bytes.len() / 2].to_vec())]
    }),
    error(Code::CorruptModel, "weights_too_short", FLOAT, || {
        let mut model = conv_relu();
        model.graph().initializer[0].raw_data.truncate(100);
        model.graph().initializer[1].dims = vec![4];
        vec![("m.onnx", model.bytes())]
    }),
    error(Code::ExternalData, "missing", FLOAT, || vec![("m.onnx", external("weights.bin").bytes())]),
    error(Code::ExternalData, "outside_the_folder", FLOAT, || vec![("m.onnx", external("../../weights.bin").bytes())]),
    error(Code::ExternalData, "too_short", FLOAT, || {
        vec![("m.onnx", external("weights.bin").bytes()), ("weights.bin", vec![0; 100])]
    }),
    error(Code::UnsupportedOp, "three_nodes", FLOAT, || {
        let model = Onnx::default().input("x", &[1, 4]).node("Det", &["x"], &["a"]).node("Det", &["a"], &["b"]);
        vec![("m.onnx", model.node("Det", &["b"], &["y"]).output("y").bytes())]
    }),
    error(Code::UnsupportedOp, "misspelt", FLOAT, || {
        vec![("m.onnx", Onnx::default().input("x", &[1, 4]).node("Relu7", &["x"], &["y"]).output("y").bytes())]
    }),
    error(Code::UnsupportedOp, "does_not_hide_other_problems", FLOAT, || {
        let model = conv_relu()
            .ints("pads", &[8], &[0, 0, 1, 1, 0, 0, 1, 1])
            .node_with("Pad", &["y", "pads"], &["p"], &[("mode", Attr::from("sideways"))])
            .node("Det", &["y"], &["d"])
            .weights("v", &[5, 2], &numbers(4, 10))
            .node("MatMul", &["y", "v"], &["q"])
            .node("Relu", &["d"], &["r"]);
        vec![("m.onnx", model.output("p").output("r").output("q").bytes())]
    }),
    error(Code::UnsupportedDomain, "contrib", FLOAT, || {
        let mut model = Onnx::default().input("x", &[1, 4]).node("BiasGelu", &["x"], &["y"]).output("y");
        model.graph().node[0].domain = "com.microsoft".to_owned();
        vec![("m.onnx", model.bytes())]
    }),
    error(Code::UnsupportedOpset, "future", FLOAT, || vec![("m.onnx", relu(Onnx::new(99)).bytes())]),
    error(Code::UnsupportedOpset, "absent", FLOAT, || {
        let mut model = relu(Onnx::default());
        model.proto.opset_import.clear();
        vec![("m.onnx", model.bytes())]
    }),
    error(Code::UnsupportedAttribute, "training", FLOAT, || {
        let model = Onnx::default().input("x", &[1, 2, 4]).weights("one", &[2], &[1.0, 1.0]);
        let inputs = ["x", "one", "one", "one", "one"];
        let model = model.node_with("BatchNormalization", &inputs, &["y"], &[("training_mode", Attr::Int(1))]);
        vec![("m.onnx", model.output("y").bytes())]
    }),
    error(Code::UnsupportedAttribute, "vendor_extensions", FLOAT, || {
        let model = Onnx::default().input("x", &[1, 1, 8]).weights("w", &[1, 1, 3], &[1.0; 3]);
        let model = model
            .node_with("Conv", &["x", "w"], &["y"], &[("fused_activation", Attr::from("Relu"))])
            .node_with("Relu", &["y"], &["z"], &[("threshold", Attr::Float(0.5))]);
        vec![("m.onnx", model.output("z").bytes())]
    }),
    error(Code::UnsupportedAttribute, "negative_pads", FLOAT, || {
        let model = Onnx::default().input("x", &[1, 1, 8]).weights("w", &[1, 1, 3], &[1.0; 3]);
        let model = model.node_with("Conv", &["x", "w"], &["y"], &[("pads", Attr::from([-1, 0]))]);
        vec![("m.onnx", model.output("y").bytes())]
    }),
    error(Code::UnsupportedAttribute, "text_input", FLOAT, || {
        vec![("m.onnx", relu_of(Onnx::default().typed_input("x", 8, &["1", "4"])).bytes())]
    }),
    error(Code::UnknownDimension, "height_and_width", FLOAT, || {
        vec![("m.onnx", relu_of(Onnx::default().typed_input("x", 1, &["batch", "3", "height", "width"])).bytes())]
    }),
    error(Code::UnknownDimension, "misspelt", "inspect m.onnx --stage float --dim hieght=8", || {
        vec![("m.onnx", relu_of(Onnx::default().typed_input("x", 1, &["batch", "3", "height"])).bytes())]
    }),
    error(Code::InvalidGraph, "cycle", FLOAT, || {
        let model = Onnx::default().input("x", &[1, 4]).node("Add", &["x", "b"], &["a"]).node("Relu", &["a"], &["b"]);
        vec![("m.onnx", model.output("b").bytes())]
    }),
    error(Code::InvalidGraph, "names_and_outputs", FLOAT, || {
        let model = relu(Onnx::default()).node("Sigmoid", &["x"], &["y"]).node("Tanh", &["z"], &["t"]);
        vec![("m.onnx", model.output("missing").bytes())]
    }),
    error(Code::ShapeMismatch, "channels", FLOAT, || {
        let mut model = conv_relu();
        model.graph().input.clear();
        vec![("m.onnx", model.input("x", &[1, 5, 4, 4]).bytes())]
    }),
    error(Code::ShapeMismatch, "two_layers", FLOAT, || {
        let model = Onnx::default()
            .input("x", &[1, 4])
            .weights("w", &[5, 3], &numbers(1, 15))
            .weights("v", &[7, 3], &numbers(1, 21))
            .node("MatMul", &["x", "w"], &["a"])
            .node("MatMul", &["x", "v"], &["b"]);
        vec![("m.onnx", model.output("a").output("b").bytes())]
    }),
    error(Code::DynamicOperand, "computed_weights", FLOAT, || {
        let model = Onnx::default().input("x", &[1, 2, 4, 4]).input("w", &[2, 2, 3, 3]);
        vec![("m.onnx", model.node("Conv", &["x", "w"], &["y"]).output("y").bytes())]
    }),
    error(Code::DynamicOperand, "computed_factors", FLOAT, || {
        let model = Onnx::default().input("x", &[1, 4]);
        vec![("m.onnx", model.node("ReduceProd", &["x"], &["y"]).output("y").bytes())]
    }),
    error(Code::CalibrationShape, "channels_last", BUILD, || {
        vec![("m.onnx", conv_relu().bytes()), ("x.npy", samples(8, &[4, 4, 2]))]
    }),
    error(Code::CalibrationShape, "several_inputs_in_one_array", BUILD, || {
        vec![("m.onnx", two_inputs().bytes()), ("x.npy", samples(8, &[4]))]
    }),
    error(Code::CalibrationShape, "names_in_the_archive", "build m.onnx --calib x.npz -o out", || {
        vec![("m.onnx", two_inputs().bytes()), ("x.npz", npz(&[("a", samples(8, &[4])), ("B", samples(8, &[4]))]))]
    }),
    error(Code::CalibrationShape, "every_file_of_a_folder", "build m.onnx --calib data -o out", || {
        vec![
            ("m.onnx", gemm().bytes()),
            ("data/0.npy", samples(8, &[5])),
            ("data/1.npy", samples(8, &[4])),
            ("data/2.npy", samples(1, &[3])),
        ]
    }),
    error(Code::CalibrationType, "complex", BUILD, || {
        let text = "{'descr': '<c8', 'fortran_order': False, 'shape': (1, 4), }\n";
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.extend([0; 32]);
        vec![("m.onnx", gemm().bytes()), ("x.npy", bytes)]
    }),
    error(Code::CalibrationType, "not_numpy", "calibrate m.onnx --calib x.csv", || {
        vec![("m.onnx", gemm().bytes()), ("x.csv", b"1,2,3,4\n".to_vec())]
    }),
    error(Code::CalibrationEmpty, "no_sample", BUILD, || vec![("m.onnx", gemm().bytes()), ("x.npy", samples(0, &[4]))]),
    error(Code::CalibrationEmpty, "folder", "build m.onnx --calib data -o out", || {
        vec![("m.onnx", gemm().bytes()), ("data/0.png", vec![]), ("data/1.png", vec![])]
    }),
    error(Code::NonFinite, "samples", BUILD, || {
        let mut values = numbers(7, 12);
        values[6] = f32::NAN;
        vec![("m.onnx", gemm().bytes()), ("x.npy", npy_bytes(&[3, 4], &values))]
    }),
    error(Code::NonFinite, "weights", FLOAT, || {
        let model = Onnx::default().input("x", &[1, 2]).weights("w", &[2, 2], &[1.0, f32::INFINITY, 0.0, 1.0]);
        let model = model.weights("v", &[2, 2], &[f32::NAN; 4]);
        let model = model.node("MatMul", &["x", "w"], &["h"]).node("MatMul", &["x", "v"], &["y"]);
        vec![("m.onnx", model.output("h").output("y").bytes())]
    }),
    error(Code::NonFinite, "activations", BUILD, || {
        let model =
            Onnx::default().input("x", &[1, 2]).weights("w", &[2, 2], &[3e38; 4]).node("MatMul", &["x", "w"], &["y"]);
        vec![("m.onnx", model.output("y").bytes()), ("x.npy", npy_bytes(&[1, 2], &[1.0_f32, 1.0]))]
    }),
    error(Code::ConstantTensor, "input", BUILD, || {
        vec![("m.onnx", gemm().bytes()), ("x.npy", npy_bytes(&[2, 4], &[0.0_f32; 8]))]
    }),
    error(Code::ConstantTensor, "output", FLOAT, || {
        let model = gemm().node("Relu", &["w"], &["k"]);
        vec![("m.onnx", model.output("k").bytes())]
    }),
    warning(Code::ConstantTensor, "inner", BUILD, || {
        let model = Onnx::default().input("x", &[1, 2]).weights("w", &[2, 2], &[-1.0; 4]);
        let model = model.node("MatMul", &["x", "w"], &["h"]).node("Relu", &["h"], &["dead"]).node(
            "Add",
            &["dead", "x"],
            &["y"],
        );
        vec![("m.onnx", model.output("y").bytes()), ("x.npy", npy_bytes(&[2, 2], &[1.0_f32, 2.0, 3.0, 4.0]))]
    }),
    warning(Code::DegenerateRange, "vanishing_activations", BUILD, || {
        let model =
            Onnx::default().input("x", &[1, 2]).weights("w", &[2, 2], &[1e-35; 4]).node("MatMul", &["x", "w"], &["y"]);
        vec![("m.onnx", model.output("y").bytes()), ("x.npy", samples(4, &[2]))]
    }),
    error(Code::DegenerateRange, "vanishing_input", BUILD, || {
        vec![("m.onnx", gemm().bytes()), ("x.npy", npy_bytes(&[2, 4], &[1e-36_f32; 8]))]
    }),
    error(Code::MissingRange, "of_another_model", FROM_RANGES, || {
        vec![("m.onnx", conv_relu().bytes()), ("m.ranges.toml", b"[ranges]\nq = { min = 0.0, max = 1.0 }\n".to_vec())]
    }),
    error(Code::MissingRange, "not_quantized", "build m.onnx -o out", || vec![("m.onnx", gemm().bytes())]),
    error(Code::MissingRange, "partly_quantized", "build m.onnx -o out", || {
        let model = pair(&[0.1], &[0]).random("w", &[4, 3]).node("MatMul", &["d", "w"], &["y"]);
        vec![("m.onnx", model.output("y").bytes())]
    }),
    error(Code::UnsupportedAttribute, "scale_for_each_channel", FLOAT, || {
        let model = pair(&[0.1, 0.2, 0.3, 0.4], &[0, 0, 0, 0]).node("Relu", &["d"], &["y"]);
        vec![("m.onnx", model.output("y").bytes())]
    }),
    error(Code::InvalidGraph, "scale_of_zero", FLOAT, || {
        vec![("m.onnx", pair(&[0.0], &[0]).node("Relu", &["d"], &["y"]).output("y").bytes())]
    }),
    error(Code::UnsupportedAttribute, "computes_with_integers", FLOAT, || {
        let model = pair(&[0.1], &[5]).node("Relu", &["q"], &["r"]).node("DequantizeLinear", &["r", "s", "z"], &["y"]);
        vec![("m.onnx", model.output("y").bytes())]
    }),
    error(Code::UnsupportedAttribute, "scale_found_at_run_time", FLOAT, || {
        let model = Onnx::default().input("x", &[1, 4]).node("DynamicQuantizeLinear", &["x"], &["q", "s", "z"]);
        let model = model.node_with("Cast", &["q"], &["f"], &[("to", 1.into())]).node("Add", &["f", "s"], &["y"]);
        vec![("m.onnx", model.output("y").bytes())]
    }),
    error(Code::MissingRange, "for_a_stage", "inspect m.onnx --stage quant", || vec![("m.onnx", gemm().bytes())]),
    error(Code::InvalidRange, "far_too_narrow", FROM_RANGES, || {
        let text = "[ranges]\nx = { min = -1.0, max = 1.0 }\ny = { min = -1e-12, max = 1e-12 }\n";
        vec![("m.onnx", gemm().bytes()), ("m.ranges.toml", text.into())]
    }),
    error(Code::AccumulatorOverflow, "long_sum", FROM_RANGES, || {
        let model = Onnx::default().input("x", &[1, 70_000]).weights("w", &[70_000, 1], &[1.0; 70_000]);
        let text = "[ranges]\nx = { min = -1.0, max = 1.0 }\ny = { min = -9.0, max = 9.0 }\n";
        vec![("m.onnx", model.node("MatMul", &["x", "w"], &["y"]).output("y").bytes()), ("m.ranges.toml", text.into())]
    }),
    error(Code::OutputUnwritable, "folder_is_a_file", BUILD, || {
        vec![("m.onnx", gemm().bytes()), ("x.npy", samples(8, &[4])), ("out", b"a file".to_vec())]
    }),
    error(Code::OutputNotOurs, "foreign_files", BUILD, || {
        vec![
            ("m.onnx", gemm().bytes()),
            ("x.npy", samples(8, &[4])),
            ("out/m.c", b"int main;".to_vec()),
            ("out/m.h", b"".to_vec()),
        ]
    }),
    error(Code::OutputNotOurs, "results", "run m.onnx --calib x.npy --input x.npy", || {
        vec![("m.onnx", gemm().bytes()), ("x.npy", samples(8, &[4])), ("output_0.npy", samples(1, &[1]))]
    }),
    error(Code::OutOfDate, "missing_and_different", "build m.onnx --calib x.npy -o out --check", || {
        vec![("m.onnx", gemm().bytes()), ("x.npy", samples(8, &[4])), ("out/m.c", b"/* Generated by ptqc */".to_vec())]
    }),
    error(Code::UnknownTarget, "misspelt", "build m.onnx --calib x.npy -t cortex-m44", || {
        vec![("m.onnx", gemm().bytes())]
    }),
    error(Code::UnknownMethod, "misspelt", "calibrate m.onnx --calib x.npy --method kl", || {
        vec![("m.onnx", gemm().bytes())]
    }),
    error(Code::UnknownMethod, "percentage", "build m.onnx --calib x.npy --method percentile:200", || {
        vec![("m.onnx", gemm().bytes())]
    }),
    error(Code::InvalidName, "digit", "build m.onnx --calib x.npy --name 7seg", || vec![("m.onnx", gemm().bytes())]),
    error(
        Code::InvalidOption,
        "bench_unknown_compiler",
        "bench m.onnx --calib x.npy -t cortex-m4 --compiler icc",
        || vec![("m.onnx", gemm().bytes()), ("x.npy", samples(8, &[4]))],
    ),
    error(Code::InvalidOption, "dot", "inspect m.onnx --stage plan --dot", || vec![("m.onnx", gemm().bytes())]),
    error(Code::InvalidOption, "output_index", "eval m.onnx --calib x.npy --data x.npy --output-index 1", || {
        vec![("m.onnx", gemm().bytes()), ("x.npy", samples(8, &[4]))]
    }),
    error(Code::InvalidOption, "score", "eval m.onnx --calib x.npy --data x.npy --metric auc --score 3", || {
        vec![("m.onnx", gemm().bytes()), ("x.npy", samples(8, &[4]))]
    }),
    error(Code::InvalidOption, "data_scale", "calibrate m.onnx --calib x.npy --data-scale 0", || {
        vec![("m.onnx", gemm().bytes()), ("x.npy", samples(8, &[4]))]
    }),
    error(Code::Labels, "count", "eval m.onnx --calib x.npy --data x.npy --labels y.npy", || {
        vec![("m.onnx", gemm().bytes()), ("x.npy", samples(8, &[4])), ("y.npy", npy_bytes(&[2], &[0_i32, 1]))]
    }),
    error(Code::Labels, "class", "eval m.onnx --calib x.npy --data x.npy --labels y.npy", || {
        vec![("m.onnx", gemm().bytes()), ("x.npy", samples(2, &[4])), ("y.npy", npy_bytes(&[2], &[0_i32, 3]))]
    }),
    error(Code::Labels, "one_hot", "eval m.onnx --calib x.npy --data x.npy --labels y.npy", || {
        vec![
            ("m.onnx", gemm().bytes()),
            ("x.npy", samples(2, &[4])),
            ("y.npy", npy_bytes(&[2, 3], &[1_i32, 0, 0, 0, 1, 0])),
        ]
    }),
    error(Code::RangesFile, "every_line", FROM_RANGES, || {
        let text = "[ranges]\nx = { min = 2.0, max = 1.0 }\ny = { min = nan, max = 1.0 }\n";
        vec![("m.onnx", gemm().bytes()), ("m.ranges.toml", text.into())]
    }),
    error(Code::RangesFile, "samples_given_instead", "build m.onnx --ranges x.npy -o out", || {
        vec![("m.onnx", gemm().bytes()), ("x.npy", samples(8, &[4]))]
    }),
    warning(Code::RangesFile, "of_another_file", FROM_RANGES, || {
        let text = "[origin]\ntool = \"ptqc\"\nmodel = \"old.onnx\"\nmodel-sha256 = \"00\"\nmethod = \"mse\"\ndata = []\nsamples = 1\n\
                    [ranges]\nx = { min = -1.0, max = 1.0 }\ny = { min = -1.0, max = 1.0 }\n";
        vec![("m.onnx", gemm().bytes()), ("m.ranges.toml", text.into())]
    }),
    warning(Code::LowResolution, "units", BUILD, || {
        let features =
            (0..20).flat_map(|i| [0.001 * i as f32, 0.01 * (i % 7) as f32, 900.0 + 10.0 * i as f32, (i % 3) as f32]);
        vec![("m.onnx", gemm().bytes()), ("x.npy", npy_bytes(&[20, 4], &features.collect::<Vec<f32>>()))]
    }),
    warning(Code::Accuracy, "clipped", "build m.onnx --calib x.npy -o out --method percentile:50", || {
        vec![("m.onnx", gemm().bytes()), ("x.npy", samples(8, &[4]))]
    }),
    error(Code::Budget, "out_of_reach", "search m.onnx --calib x.npy --max-flash 10 --front out/front.json", || {
        vec![("m.onnx", gemm().bytes()), ("x.npy", samples(8, &[4]))]
    }),
    error(Code::RecipeFile, "of_bits", RECIPE, || with_recipe("weight_bits = 5\n")),
    error(Code::RecipeFile, "of_keys", RECIPE, || with_recipe("activations = \"int8\"\n\n[layers.fc]\nbits = 4\n")),
    error(Code::RecipeFile, "of_unknown_names", RECIPE, || {
        with_recipe("[layers.\"/yy\"]\nweight_bits = 4\n\n[tensors.yy]\nactivations = \"int16\"\n")
    }),
    error(Code::RecipeFile, "of_a_layer_without_weights", RECIPE, || {
        let model = relu(Onnx::default());
        let recipe = "[layers.\"/y\"]\nweight_bits = 4\n";
        vec![("m.onnx", model.bytes()), ("x.npy", samples(8, &[4])), ("m.recipe.toml", recipe.into())]
    }),
    error(Code::RecipeFile, "dynamic_without_weights", RECIPE, || {
        let recipe = "[layers.\"/y\"]\ndynamic = true\n";
        vec![("m.onnx", relu(Onnx::default()).bytes()), ("x.npy", samples(8, &[4])), ("m.recipe.toml", recipe.into())]
    }),
    error(Code::RecipeFile, "of_two_minds", RECIPE, || {
        let model = Onnx::default()
            .input("x", &[1, 4])
            .ints("shape", &[2], &[2, 2])
            .node("Reshape", &["x", "shape"], &["r"])
            .node("Relu", &["r"], &["y"])
            .output("y");
        let recipe = "[tensors.x]\nactivations = \"int8\"\n\n[tensors.r]\nactivations = \"int16\"\n";
        vec![("m.onnx", model.bytes()), ("x.npy", samples(8, &[4])), ("m.recipe.toml", recipe.into())]
    }),
    warning(Code::LayoutCopy, "transpose", BUILD, || {
        let model = Onnx::default()
            .input("x", &[1, 4, 6])
            .node_with("Transpose", &["x"], &["t"], &[("perm", Attr::from([0, 2, 1]))])
            .ints("flat", &[2], &[1, 24])
            .node("Reshape", &["t", "flat"], &["r"])
            .node("Softmax", &["r"], &["y"]);
        vec![("m.onnx", model.output("y").bytes()), ("x.npy", samples(8, &[4, 6]))]
    }),
];

/// `x`, quantized with the scales and zero points given, and dequantized.
fn pair(scales: &[f32], zeros: &[u8]) -> Onnx {
    let dims: &[i64] = if scales.len() == 1 { &[] } else { &[scales.len() as i64] };
    Onnx::default()
        .input("x", &[1, 4])
        .weights("s", dims, scales)
        .initializer("z", 3, dims, zeros.to_vec())
        .node("QuantizeLinear", &["x", "s", "z"], &["q"])
        .node("DequantizeLinear", &["q", "s", "z"], &["d"])
}

fn with_recipe(text: &str) -> Files {
    vec![("m.onnx", gemm().bytes()), ("x.npy", samples(8, &[4])), ("m.recipe.toml", text.into())]
}

fn relu(model: Onnx) -> Onnx {
    relu_of(model.input("x", &[1, 4]))
}

fn relu_of(model: Onnx) -> Onnx {
    model.node("Relu", &["x"], &["y"]).output("y")
}

/// A model with its first weights in another file.
fn external(location: &str) -> Onnx {
    let mut model = conv_relu();
    let tensor = &mut model.graph().initializer[0];
    tensor.raw_data.clear();
    tensor.data_location = Some(1);
    let entry = |key: &str, value: &str| pb::StringStringEntryProto { key: key.to_owned(), value: value.to_owned() };
    tensor.external_data = vec![entry("location", location), entry("offset", "0"), entry("length", "216")];
    model
}

/// One has features in very different units, and gets more bits for them.
#[test]
fn no_real_model_is_too_coarse() {
    for model in MODELS.iter().filter(|model| model.model().is_some()) {
        let folder = Folder::with(vec![]);
        let (path, calib) = (model.model().unwrap(), model.data(model.calib).unwrap());
        let outcome = folder.run(&format!("build {} --calib {}", path.display(), calib.display()));
        let input =
            if model.name.starts_with("tabular_mlp") { "const int32_t *input_0" } else { "const int8_t *input_0" };
        let check = |outcome: &Outcome| {
            assert!(!outcome.stderr.contains("[low-resolution]"), "{}: {}", model.name, outcome.stderr);
            let header = std::fs::read_to_string(folder.path(&format!("{}.h", model.name))).unwrap();
            assert!(header.contains(input), "{}: {header}", model.name);
        };
        check(&outcome);
        // The ranges file carries what it takes.
        folder.ok(&format!("calibrate {} --calib {} -o r.toml", path.display(), calib.display()));
        check(&folder.run(&format!("build {} --ranges r.toml --force", path.display())));
    }
}

#[test]
fn every_code_has_a_case() {
    let shown: BTreeSet<Code> = CASES.iter().map(|case| case.code).collect();
    // No line of these shows them: one is our own mistake, the others are shown by the tests of build scripts and benches.
    let elsewhere = [Code::Internal, Code::BuildScript, Code::Toolchain];
    let missing: Vec<&Code> =
        Code::ALL.iter().filter(|code| !elsewhere.contains(code) && !shown.contains(code)).collect();
    assert_eq!(missing, Vec::<&Code>::new());
}

#[test]
fn every_case_reads_well() {
    let mut failures = vec![];
    for case in CASES {
        let folder = Folder::with((case.files)());
        let before = folder.list(".");
        let outcome = folder.run(case.line);
        if outcome.code != case.exit || !outcome.stderr.contains(&format!("[{}]", case.code)) {
            failures.push(format!("{} {}: {outcome:?}", case.code, case.name));
            continue;
        }
        if case.exit != 0 {
            assert_eq!(folder.list("."), before, "{} {}: an error leaves no file behind", case.code, case.name);
            assert_eq!(outcome.stdout, "");
        }
        let shown = format!("$ ptqc {}\nexit code {}\n\n{}", case.line, outcome.code, outcome.stderr);
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(format!("diagnostics__{}__{}", case.code, case.name), shown);
        });
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
