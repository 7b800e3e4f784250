//! Listings of every stage for small models. Ranges are literal, so nothing depends on the machine.
//!
//! A snapshot is a listing, not a proof: the same models also run through `operators` as compiled code.

use std::fmt::Write as _;

use ptqc::calibrate::{Entry, Ranges};
use ptqc::driver::{self, Options};
use ptqc::ir::Range;
use ptqc::plan::Goal;
use ptqc::print::{ArenaMode, Language};
use ptqc_target_runtimes::TARGETS;
use ptqc_tests::case::load;
use ptqc_tests::onnx::{Attr, Onnx, numbers};

/// Tensors that a case does not name have this range.
const RANGE: (f32, f32) = (-2.0, 2.0);

fn check(name: &str, model: &Onnx, ranges: &[(&str, f32, f32)]) {
    check_for(Goal::default(), name, model, ranges);
}

fn check_for(goal: Goal, name: &str, model: &Onnx, ranges: &[(&str, f32, f32)]) {
    let frontend = load(&model.bytes()).unwrap();
    let options = Options {
        settings: Default::default(),
        name: name.to_owned(),
        target: &TARGETS[0],
        language: Language::C,
        arena: ArenaMode::Static,
        goal,
        weights: Default::default(),
        states: vec![],
        float_helpers: false,
        command: format!("ptqc build {name}.onnx --ranges {name}.ranges.toml"),
        model_sha256: "0".repeat(64),
    };
    let mut all = Ranges::new();
    let tensors = frontend.model.tapped_runner().unwrap();
    for tensor in tensors.names() {
        let given = ranges.iter().find(|(name, ..)| name == tensor).map(|&(_, min, max)| (min, max));
        let (min, max) = given.unwrap_or(RANGE);
        all.insert(tensor, Entry { range: Range::new(min, max).unwrap(), observed: None });
    }
    let built = driver::build(&frontend, &all, &options).unwrap();
    let mut text = String::new();
    let mut section = |title: &str, body: &str| writeln!(text, "==== {title}\n{}\n", body.trim_end()).unwrap();
    section("float", &frontend.model.graph.to_string());
    section("fused", &frontend.fused.to_string());
    section("quant", &built.quant.to_string());
    section("plan", &built.plan.to_string());
    section("program", &built.lowered.program.program().to_string());
    for (file, contents) in &built.bundle {
        match file.as_str() {
            // The same for every model.
            "CMakeLists.txt" => {}
            file if file.ends_with("_weights.c") => section(file, &shortened(contents)),
            file => section(file, contents),
        }
    }
    for warning in &built.warnings {
        section("warning", &warning.to_string());
    }
    insta::assert_snapshot!(name, text.replace(&driver::sha256(all.to_toml().as_bytes()), "RANGES"));
}

/// Tables of numbers by their first line only.
fn shortened(weights: &str) -> String {
    let is_number =
        |line: &str| line.trim_start().starts_with(|c: char| c == '-' || c == '(' || c.is_ascii_digit() || c == 'U');
    let mut lines: Vec<&str> = vec![];
    for line in weights.lines() {
        let follows = lines.last().is_some_and(|last| is_number(last) || *last == "  ...");
        match (is_number(line), follows) {
            (true, true) if *lines.last().unwrap_or(&"") == "  ..." => {}
            (true, true) => lines.push("  ..."),
            _ => lines.push(line),
        }
    }
    lines.join("\n")
}

fn floats(values: [f32; 4]) -> Vec<f32> {
    values.to_vec()
}

#[test]
fn conv_bn_relu_pool() {
    let model = Onnx::default()
        .input("x", &[1, 2, 5, 5])
        .weights("w", &[4, 2, 3, 3], &numbers(1, 72))
        .weights("gamma", &[4], &floats([1.0, 0.5, -0.5, 2.0]))
        .weights("beta", &[4], &floats([0.0, 0.1, 0.2, 0.3]))
        .weights("mean", &[4], &floats([0.0, 0.5, 0.0, -0.5]))
        .weights("var", &[4], &floats([1.0, 1.0, 0.25, 4.0]))
        .node_with("Conv", &["x", "w"], &["conv"], &[("pads", Attr::from([1, 1, 1, 1]))])
        .node("BatchNormalization", &["conv", "gamma", "beta", "mean", "var"], &["bn"])
        .node("Relu", &["bn"], &["relu"])
        .node_with(
            "MaxPool",
            &["relu"],
            &["y"],
            &[("kernel_shape", Attr::from([2, 2])), ("strides", Attr::from([2, 2]))],
        )
        .output("y");
    check("conv_bn_relu_pool", &model, &[("relu", 0.0, 4.0), ("y", 0.0, 4.0)]);
}

#[test]
fn residual_block_with_classifier() {
    let model = Onnx::default()
        .input("x", &[1, 4, 3, 3])
        .weights("w", &[4, 4, 1, 1], &numbers(2, 16))
        .weights("b", &[4], &numbers(3, 4))
        .weights("fc", &[3, 4], &numbers(4, 12))
        .weights("fcb", &[3], &numbers(5, 3))
        .node("Conv", &["x", "w", "b"], &["conv"])
        .node("Add", &["conv", "x"], &["sum"])
        .node("Relu", &["sum"], &["relu"])
        .node("GlobalAveragePool", &["relu"], &["mean"])
        .node("Flatten", &["mean"], &["flat"])
        .node_with("Gemm", &["flat", "fc", "fcb"], &["logits"], &[("transB", Attr::Int(1))])
        .node("Softmax", &["logits"], &["y"])
        .output("y");
    check("residual_block_with_classifier", &model, &[("relu", 0.0, 3.0), ("mean", 0.0, 1.0), ("flat", 0.0, 1.0)]);
}

#[test]
fn depthwise_separable_1d() {
    let model = Onnx::new(11)
        .input("x", &[1, 3, 8])
        .weights("dw", &[3, 1, 3], &numbers(6, 9))
        .weights("pw", &[2, 3, 1], &numbers(7, 6))
        .weights("six", &[], &[6.0])
        .weights("zero", &[], &[0.0])
        .node_with(
            "Conv",
            &["x", "dw"],
            &["d"],
            &[("group", Attr::Int(3)), ("auto_pad", "SAME_UPPER".into()), ("strides", Attr::from([2]))],
        )
        .node("Clip", &["d", "zero", "six"], &["relu6"])
        .node("Conv", &["relu6", "pw"], &["y"])
        .output("y");
    check("depthwise_separable_1d", &model, &[("relu6", 0.0, 6.0)]);
}

/// As exporters from frameworks with channels last write it: the transposes cost nothing, a last one would.
#[test]
fn channels_last_model() {
    let model = Onnx::default()
        .input("x", &[1, 4, 4, 2])
        .weights("w", &[3, 2, 3, 3], &numbers(8, 54))
        .weights("b", &[3], &numbers(9, 3))
        .node_with("Transpose", &["x"], &["nchw"], &[("perm", Attr::from([0, 3, 1, 2]))])
        .node("Conv", &["nchw", "w"], &["conv"])
        .node_with("Transpose", &["conv"], &["nhwc"], &[("perm", Attr::from([0, 2, 3, 1]))])
        .node("Add", &["nhwc", "b"], &["biased"])
        .node("Relu", &["biased"], &["relu"])
        .node_with("Transpose", &["relu"], &["y"], &[("perm", Attr::from([0, 2, 1, 3]))])
        .output("relu")
        .output("y");
    check("channels_last_model", &model, &[("relu", 0.0, 2.0), ("y", 0.0, 2.0)]);
}

#[test]
fn tables_gates_and_concat() {
    let model = Onnx::default()
        .input("x", &[1, 6])
        .input("z", &[1, 2])
        .node("Sigmoid", &["x"], &["gate"])
        .node("Mul", &["x", "gate"], &["silu"])
        .node_with("LeakyRelu", &["silu"], &["leaky"], &[("alpha", Attr::Float(0.1))])
        .node("Tanh", &["leaky"], &["tanh"])
        .node_with("Concat", &["tanh", "z"], &["joined"], &[("axis", Attr::Int(1))])
        .node_with("ArgMax", &["joined"], &["best"], &[("axis", Attr::Int(1)), ("keepdims", Attr::Int(0))])
        .output("joined")
        .output("best");
    check("tables_gates_and_concat", &model, &[("joined", -2.0, 3.0), ("z", -2.0, 3.0)]);
}

#[test]
fn moves_and_padding() {
    let model = Onnx::default()
        .input("x", &[1, 2, 4, 4])
        .ints("pads", &[8], &[0, 0, 1, 0, 0, 0, 1, 2])
        .ints("starts", &[1], &[-1])
        .ints("ends", &[1], &[-10])
        .ints("axes", &[1], &[3])
        .ints("steps", &[1], &[-2])
        .ints("shape", &[2], &[1, -1])
        .node_with("Pad", &["x", "pads"], &["padded"], &[("mode", "reflect".into())])
        .node("Slice", &["padded", "starts", "ends", "axes", "steps"], &["part"])
        .node_with(
            "AveragePool",
            &["part"],
            &["mean"],
            &[("kernel_shape", Attr::from([3, 3])), ("pads", Attr::from([1, 1, 1, 1]))],
        )
        .node("Reshape", &["mean", "shape"], &["y"])
        .output("y");
    check("moves_and_padding", &model, &[]);
}

#[test]
fn residual_block_row_by_row() {
    let pads = || [("pads", Attr::from([1, 1, 1, 1]))];
    let weights = |seed: u64, shape: [i64; 4]| numbers(seed, shape.iter().product::<i64>() as usize);
    let model = Onnx::new(14)
        .input("x", &[1, 1, 8, 4])
        .weights("v", &[2, 1, 3, 3], &weights(1, [2, 1, 3, 3]))
        .weights("w", &[2, 2, 3, 3], &weights(2, [2, 2, 3, 3]))
        .node_with("Conv", &["x", "v"], &["a"], &pads())
        .node_with("Conv", &["a", "w"], &["b"], &pads())
        .node("Relu", &["b"], &["c"])
        .node_with("Conv", &["c", "w"], &["d"], &pads())
        .node("Add", &["d", "a"], &["s"])
        .node("GlobalAveragePool", &["s"], &["y"])
        .output("y");
    check_for(Goal::Ram, "residual_block_row_by_row", &model, &[]);
}
