//! Models that are quantized already: every placement and every type against another runtime's reading of the same file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ptqc::calibrate::{Method, Origin, Ranges};
use ptqc::diag::Code;
use ptqc::driver::{self, Frontend};
use ptqc::evaluate::{dequantize, evaluate, quantize_input};
use ptqc::export;
use ptqc::ir::{Checked, Graph, NodeId, Quant};
use ptqc::ops::QuantOp;
use ptqc::quantize::Settings;
use ptqc_tests::cases::Compiled;
use ptqc_tests::onnx::{Attr, Onnx, numbers};
use ptqc_tests::qdq::{self, Agreement, Job};
use ptqc_tests::toolchain;

/// Scale and zero point of a result, and its integers.
type Ours = (ptqc::ir::Params, Vec<i32>);

use super::operators;

/// ONNX's numbers of element types.
const FLOAT: i32 = 1;
const U8: i32 = 2;
const I8: i32 = 3;
const I16: i32 = 5;
const I32: i32 = 6;
const U4: i32 = 21;
const I4: i32 = 22;

/// Samples of each model.
const SAMPLES: usize = 16;

/// A model and what is to be expected of it.
struct Case {
    name: &'static str,
    model: Onnx,
    /// Element type of the inputs.
    input: i32,
    /// Element type of the output.
    output: i32,
    /// The share of elements that have to be equal; the others differ by one step.
    equal: f64,
}

impl Case {
    /// A case with weights that the model stores as reals (rounded here, not elsewhere), or with ties that 32-bit floats
    /// blur.
    fn rounded(self) -> Case {
        Case { equal: 0.7, ..self }
    }
}

fn case(name: &'static str, model: Onnx) -> Case {
    Case { name, model: model.output("y"), input: FLOAT, output: FLOAT, equal: 0.98 }
}

/// Scale and zero point, and the pair of operators around a tensor.
trait Quantized: Sized {
    /// Initializers `{name}_s` and `{name}_z`.
    fn params(self, name: &str, scale: f32, zero: i64, element: i32) -> Self;
    /// `{x}_q` and `{x}_d`, with parameters of this name.
    fn pair(self, x: &str, params: &str) -> Self;
    /// Integers `{name}_q` with scales along an axis, and their reals `{name}`.
    fn stored(self, name: &str, dims: &[i64], weights: &Weights) -> Self;
}

/// How weights are stored.
struct Weights {
    element: i32,
    scales: Vec<f32>,
    zeros: Vec<i64>,
    axis: i64,
}

impl Weights {
    fn per_tensor(element: i32, zero: i64) -> Weights {
        Weights { element, scales: vec![0.013], zeros: vec![zero], axis: 0 }
    }

    fn per_channel(element: i32, count: usize, zero: i64, axis: i64) -> Weights {
        let scales = (0..count).map(|i| 0.004 + 0.003 * i as f32).collect();
        let zeros = (0..count as i64).map(|i| if zero == 0 { 0 } else { zero - 3 * i }).collect();
        Weights { element, scales, zeros, axis }
    }
}

fn bounds(element: i32) -> (i64, i64) {
    match element {
        U4 => (0, 15),
        I4 => (-8, 7),
        U8 => (0, 255),
        _ => (-128, 127),
    }
}

/// Little-endian bytes of integers.
fn integers(element: i32, values: &[i64]) -> Vec<u8> {
    match element {
        U4 | I4 => values.chunks(2).map(|pair| (pair[0] & 15 | (pair.get(1).unwrap_or(&0) & 15) << 4) as u8).collect(),
        I16 => values.iter().flat_map(|&value| (value as i16).to_le_bytes()).collect(),
        I32 => values.iter().flat_map(|&value| (value as i32).to_le_bytes()).collect(),
        _ => values.iter().map(|&value| value as u8).collect(),
    }
}

impl Quantized for Onnx {
    fn params(self, name: &str, scale: f32, zero: i64, element: i32) -> Onnx {
        self.weights(&format!("{name}_s"), &[], &[scale]).initializer(
            &format!("{name}_z"),
            element,
            &[],
            integers(element, &[zero]),
        )
    }

    fn pair(self, x: &str, params: &str) -> Onnx {
        let [q, d, s, z] = [format!("{x}_q"), format!("{x}_d"), format!("{params}_s"), format!("{params}_z")];
        self.node("QuantizeLinear", &[x, &s, &z], &[&q]).node("DequantizeLinear", &[&q, &s, &z], &[&d])
    }

    fn stored(self, name: &str, dims: &[i64], weights: &Weights) -> Onnx {
        let [q, s, z] = ["q", "s", "z"].map(|suffix| format!("{name}_{suffix}"));
        let (lo, hi) = bounds(weights.element);
        let mut random = fastrand::Rng::with_seed(name.len() as u64 + dims.iter().sum::<i64>() as u64);
        let data: Vec<i64> = (0..dims.iter().product()).map(|_| random.i64(lo..=hi)).collect();
        let shape: Vec<i64> = if weights.scales.len() == 1 { vec![] } else { vec![weights.scales.len() as i64] };
        let element = weights.element;
        self.initializer(&q, element, dims, integers(element, &data))
            .weights(&s, &shape, &weights.scales)
            .initializer(&z, element, &shape, integers(element, &weights.zeros))
            .node_with("DequantizeLinear", &[&q, &s, &z], &[name], &[("axis", weights.axis.into())])
    }
}

fn image() -> Onnx {
    Onnx::new(13).input("x", &[1, 2, 6, 6]).params("x", 0.02, 3, I8).params("y", 0.05, -7, I8)
}

fn conv(weights: &Weights) -> Onnx {
    image()
        .stored("w", &[4, 2, 3, 3], weights)
        .pair("x", "x")
        .node_with("Conv", &["x_d", "w"], &["r"], &[("pads", [1, 1, 1, 1].into())])
        .pair("r", "y")
        .node("Identity", &["r_d"], &["y"])
}

fn dense(op_type: &str, dims: &[i64], weights: &Weights, attributes: &[(&str, Attr)]) -> Onnx {
    Onnx::new(13)
        .input("x", &[3, 5])
        .params("x", 0.02, 131, U8)
        .params("y", 0.07, 120, U8)
        .stored("w", dims, weights)
        .pair("x", "x")
        .node_with(op_type, &["x_d", "w"], &["r"], attributes)
        .pair("r", "y")
        .node("Identity", &["r_d"], &["y"])
}

fn weights_of_every_kind() -> Vec<Case> {
    let opset_21 = |mut model: Onnx| {
        model.proto.opset_import[0].version = 21;
        model.proto.ir_version = 10;
        model
    };
    vec![
        case("per_tensor", conv(&Weights::per_tensor(I8, 0))),
        case("per_channel", conv(&Weights::per_channel(I8, 4, 0, 0))),
        case("per_input_channel", conv(&Weights::per_channel(I8, 2, 0, 1))).rounded(),
        case("zero_point", conv(&Weights::per_tensor(I8, 20))),
        case("uint8_middle", conv(&Weights::per_tensor(U8, 128))),
        case("uint8_asymmetric", conv(&Weights::per_tensor(U8, 77))),
        case("uint8_from_zero", conv(&Weights::per_tensor(U8, 0))),
        case("uint8_per_channel", conv(&Weights::per_channel(U8, 4, 140, 0))),
        // The integers of the other runtime are 16 bits wide between input and result.
        case("int16", {
            let model = image().params("x16", 0.00004, 0, I16).params("r16", 0.0002, 0, I16).pair("x", "x16");
            let model = model.stored("w", &[4, 2, 3, 3], &Weights::per_channel(I8, 4, 0, 0));
            let model = model.node("Conv", &["x_d", "w"], &["r"]).pair("r", "r16").node("Relu", &["r_d"], &["p"]);
            opset_21(model.pair("p", "y").node("Identity", &["p_d"], &["y"]))
        }),
        case("int4", opset_21(conv(&Weights::per_channel(I4, 4, 0, 0)))),
        case("uint4", opset_21(conv(&Weights::per_tensor(U4, 8)))),
        case("gemm_columns", dense("Gemm", &[5, 4], &Weights::per_channel(I8, 4, 0, 1), &[])),
        case("gemm_rows", dense("Gemm", &[4, 5], &Weights::per_channel(I8, 4, 0, 0), &[("transB", 1.into())])),
        case("gemm_alpha", dense("Gemm", &[5, 4], &Weights::per_tensor(I8, 0), &[("alpha", 0.5.into())])),
        case("matmul_columns", dense("MatMul", &[5, 4], &Weights::per_channel(I8, 4, 0, -1), &[])),
        case("transposed_weights", {
            let model = Onnx::new(13).input("x", &[3, 5]).params("x", 0.02, 3, I8).params("y", 0.07, 0, I8);
            model
                .stored("w", &[4, 5], &Weights::per_channel(I8, 4, 0, 0))
                .node_with("Transpose", &["w"], &["t"], &[("perm", [1, 0].into())])
                .pair("x", "x")
                .node("MatMul", &["x_d", "t"], &["r"])
                .pair("r", "y")
                .node("Identity", &["r_d"], &["y"])
        }),
        case("quantized_from_floats", {
            let model = image().random("f", &[4, 2, 3, 3]).params("f", 0.008, 0, I8).pair("f", "f").pair("x", "x");
            model.node("Conv", &["x_d", "f_d"], &["r"]).pair("r", "y").node("Identity", &["r_d"], &["y"])
        }),
        case("float_weights", {
            let model = image().random("w", &[4, 2, 3, 3]).pair("x", "x");
            model.node("Conv", &["x_d", "w"], &["r"]).pair("r", "y").node("Identity", &["r_d"], &["y"])
        })
        .rounded(),
        case("bias", {
            let bias: Vec<i64> = vec![900, -4000, 77, 2500];
            let scales: Vec<f32> = Weights::per_channel(I8, 4, 0, 0).scales.iter().map(|s| s * 0.02).collect();
            let model = image().stored("w", &[4, 2, 3, 3], &Weights::per_channel(I8, 4, 0, 0)).pair("x", "x");
            model
                .initializer("b_q", I32, &[4], integers(I32, &bias))
                .weights("b_s", &[4], &scales)
                .node_with("DequantizeLinear", &["b_q", "b_s"], &["b"], &[("axis", 0.into())])
                .node("Conv", &["x_d", "w", "b"], &["r"])
                .node("Relu", &["r"], &["p"])
                .pair("p", "y")
                .node("Identity", &["p_d"], &["y"])
        }),
    ]
}

/// Where pairs can stand.
fn every_placement() -> Vec<Case> {
    let model = || image().pair("x", "x");
    let tail = |model: Onnx, x: &str| model.pair(x, "y").node("Identity", &[&format!("{x}_d")], &["y"]);
    vec![
        case("no_zero_point", {
            let model = Onnx::new(13).input("x", &[1, 4]).weights("s", &[], &[0.02]).weights("t", &[], &[0.03]);
            let model = model.node("QuantizeLinear", &["x", "s"], &["q"]).node("DequantizeLinear", &["q", "s"], &["d"]);
            let model = model.node("LeakyRelu", &["d"], &["l"]).node("QuantizeLinear", &["l", "t"], &["p"]);
            model.node("DequantizeLinear", &["p", "t"], &["y"])
        }),
        case("clamp_between_equal_pairs", tail(model().node("Relu", &["x_d"], &["r"]).pair("r", "x"), "r_d")),
        case("activation_behind_a_pair", {
            let model = model().random("w", &[4, 2, 3, 3]).node("Conv", &["x_d", "w"], &["c"]).pair("c", "y");
            model.node("Relu", &["c_d"], &["r"]).pair("r", "y").node("Identity", &["r_d"], &["y"])
        })
        .rounded(),
        case("repeated", {
            let model = model().node("Identity", &["x_d"], &["i"]).pair("i", "x").pair("i_d", "x");
            tail(model.node("Sigmoid", &["i_d_d"], &["g"]).node("Mul", &["i_d", "g"], &["r"]), "r")
        }),
        case("shared", {
            let model = model().node("QuantizeLinear", &["x", "x_s", "x_z"], &["x_q2"]);
            let model = model.node("DequantizeLinear", &["x_q2", "x_s", "x_z"], &["x_d2"]);
            tail(model.node("Add", &["x_d", "x_d2"], &["r"]), "r")
        }),
        case("two_scales_of_one_tensor", {
            let model = model().params("v", 0.011, 0, I8).node("QuantizeLinear", &["x", "v_s", "v_z"], &["v_q"]);
            let model = model.node("DequantizeLinear", &["v_q", "v_s", "v_z"], &["v_d"]);
            tail(model.node("Sub", &["x_d", "v_d"], &["r"]), "r")
        }),
        case("moved_integers", {
            let model = image().node("QuantizeLinear", &["x", "x_s", "x_z"], &["q"]);
            let model = model.node_with("Transpose", &["q"], &["t"], &[("perm", [0, 2, 3, 1].into())]);
            let model = model.ints("shape", &[2], &[1, -1]).node("Reshape", &["t", "shape"], &["f"]);
            model.node("DequantizeLinear", &["f", "x_s", "x_z"], &["y"])
        }),
        case("pooled_integers", {
            let model = image().node("QuantizeLinear", &["x", "x_s", "x_z"], &["q"]);
            let pool: &[(&str, Attr)] = &[("kernel_shape", [2, 2].into()), ("strides", [2, 2].into())];
            let model = model.node_with("MaxPool", &["q"], &["p"], pool);
            tail(model.node("DequantizeLinear", &["p", "x_s", "x_z"], &["d"]).node("Tanh", &["d"], &["r"]), "r")
        }),
        case("concat", {
            let model = model().params("t", 0.0078125, 0, I8).node("Tanh", &["x_d"], &["t"]).pair("t", "t");
            tail(model.node_with("Concat", &["x_d", "t_d"], &["r"], &[("axis", 1.into())]), "r")
        }),
        case("means", {
            let model = model().node("GlobalAveragePool", &["x_d"], &["g"]).pair("g", "x");
            tail(model.node("Softmax", &["g_d"], &["r"]), "r")
        }),
        case("average_pool_with_ties", {
            let pool: &[(&str, Attr)] = &[("kernel_shape", [2, 2].into()), ("strides", [2, 2].into())];
            let model = model().node_with("AveragePool", &["x_d"], &["p"], pool).pair("p", "x");
            model.node("Identity", &["p_d"], &["y"])
        })
        .rounded(),
        case("clip_and_pad", {
            let model = model().weights("lo", &[], &[-0.3]).weights("hi", &[], &[0.9]);
            let model = model.node("Clip", &["x_d", "lo", "hi"], &["c"]).pair("c", "x");
            let model = model.ints("pads", &[8], &[0, 0, 1, 0, 0, 0, 0, 2]);
            tail(model.node("Pad", &["c_d", "pads"], &["r"]), "r")
        }),
        case("another_meaning", {
            // Dequantized with another scale than it was quantized with.
            let model = image().params("v", 0.03, -5, I8).node("QuantizeLinear", &["x", "x_s", "x_z"], &["q"]);
            tail(model.node("DequantizeLinear", &["q", "v_s", "v_z"], &["d"]).node("Sigmoid", &["d"], &["r"]), "r")
        }),
        case("constant_operand", {
            let stored = Weights { element: I8, scales: vec![0.01], zeros: vec![4], axis: 0 };
            tail(model().stored("k", &[1, 2, 6, 6], &stored).node("Add", &["x_d", "k"], &["r"]), "r")
        }),
    ]
}

/// Inputs and outputs that are integers.
fn integers_outside() -> Vec<Case> {
    let model = |element: i32| {
        Onnx::new(13)
            .typed_input("x", element, &["1", "2", "6", "6"])
            .params("x", 0.02, 30, element)
            .params("y", 0.05, 7, element)
            .node("DequantizeLinear", &["x", "x_s", "x_z"], &["d"])
            .stored("w", &[4, 2, 3, 3], &Weights::per_channel(I8, 4, 0, 0))
            .node("Conv", &["d", "w"], &["r"])
            .node("QuantizeLinear", &["r", "y_s", "y_z"], &["y"])
    };
    let moved = Onnx::new(13)
        .typed_input("x", I8, &["1", "6", "6", "2"])
        .params("x", 0.02, 30, I8)
        .node_with("Transpose", &["x"], &["t"], &[("perm", [0, 3, 1, 2].into())])
        .node("DequantizeLinear", &["t", "x_s", "x_z"], &["d"])
        .node("Relu", &["d"], &["r"])
        .node("QuantizeLinear", &["r", "x_s", "x_z"], &["q"])
        .ints("shape", &[2], &[1, -1])
        .node("Reshape", &["q", "shape"], &["y"]);
    let case = |name, model: Onnx, element| Case {
        name,
        model: model.typed_output("y", element),
        input: element,
        output: element,
        equal: 0.98,
    };
    vec![case("int8", model(I8), I8), case("uint8", model(U8), U8), case("moved", moved, I8)]
}

/// Operators that compute on quantized tensors.
fn quantized_operators() -> Vec<Case> {
    let head = || {
        let model = Onnx::new(13).input("x", &[1, 2, 6, 6]).params("x", 0.02, 131, U8).params("y", 0.05, 119, U8);
        model.params("t", 0.01, 100, U8).node("QuantizeLinear", &["x", "x_s", "x_z"], &["q"])
    };
    let tail = |model: Onnx| model.node("DequantizeLinear", &["p", "y_s", "y_z"], &["y"]);
    let microsoft = |op_type: &'static str, inputs: &[&str], attributes: &[(&str, Attr)]| {
        tail(head().node_with(op_type, inputs, &["p"], attributes).in_domain("com.microsoft"))
    };
    let one: &[&str] = &["q", "x_s", "x_z", "y_s", "y_z"];
    let two = |model: Onnx, op_type: &'static str| {
        let model = model.node("QuantizeLinear", &["x", "t_s", "t_z"], &["q2"]);
        let inputs = ["q", "x_s", "x_z", "q2", "t_s", "t_z", "y_s", "y_z"];
        tail(model.node_with(op_type, &inputs, &["p"], &[]).in_domain("com.microsoft"))
    };
    let weights = |model: Onnx, dims: &[i64], weights: &Weights| {
        let mut model = model.stored("w", dims, weights);
        model.graph().node.pop();
        model
    };
    let pool: &[(&str, Attr)] = &[("kernel_shape", [3, 2].into()), ("pads", [1, 0, 1, 1].into())];
    vec![
        case("qlinear_conv", {
            let model = weights(head(), &[4, 2, 3, 3], &Weights::per_channel(I8, 4, 0, 0));
            let model = model.initializer("b", I32, &[4], integers(I32, &[500, -3000, 40, 9]));
            let inputs = ["q", "x_s", "x_z", "w_q", "w_s", "w_z", "y_s", "y_z", "b"];
            tail(model.node_with("QLinearConv", &inputs, &["p"], &[("strides", [2, 1].into())]))
        }),
        case("qlinear_matmul", {
            let model = weights(head(), &[6, 5], &Weights::per_tensor(U8, 121));
            tail(model.node("QLinearMatMul", &["q", "x_s", "x_z", "w_q", "w_s", "w_z", "y_s", "y_z"], &["p"]))
        }),
        case("qgemm", {
            let model = weights(head(), &[5, 72], &Weights::per_channel(I8, 5, 0, 0)).ints("shape", &[2], &[1, 72]);
            let model = model.initializer("b", I32, &[5], integers(I32, &[500, -3000, 40, 9, -7]));
            let model = model.node("Reshape", &["q", "shape"], &["f"]);
            let inputs = ["f", "x_s", "x_z", "w_q", "w_s", "w_z", "b", "y_s", "y_z"];
            tail(model.node_with("QGemm", &inputs, &["p"], &[("transB", 1.into())]).in_domain("com.microsoft"))
        }),
        case("qlinear_add", two(head(), "QLinearAdd")),
        case("qlinear_mul", two(head(), "QLinearMul")),
        case("qlinear_concat", {
            let model = head().node("QuantizeLinear", &["x", "t_s", "t_z"], &["q2"]);
            let inputs = ["y_s", "y_z", "q", "x_s", "x_z", "q2", "t_s", "t_z"];
            tail(model.node_with("QLinearConcat", &inputs, &["p"], &[("axis", 1.into())]).in_domain("com.microsoft"))
        }),
        case("qlinear_average_pool", microsoft("QLinearAveragePool", one, pool)),
        case("qlinear_global_average_pool", microsoft("QLinearGlobalAveragePool", one, &[])),
        case("qlinear_sigmoid", microsoft("QLinearSigmoid", one, &[])),
        case("qlinear_leaky_relu", microsoft("QLinearLeakyRelu", one, &[("alpha", 0.2.into())])),
        case("qlinear_softmax", microsoft("QLinearSoftmax", one, &[("axis", Attr::Int(-1)), ("opset", 13.into())])),
        case("conv_integer_of_a_static_tensor", {
            let model =
                weights(head(), &[4, 2, 3, 3], &Weights::per_tensor(U8, 121)).weights("k", &[], &[0.02 * 0.013]);
            let model = model.node("ConvInteger", &["q", "w_q", "x_z", "w_z"], &["a"]);
            let model = model.node_with("Cast", &["a"], &["f"], &[("to", 1.into())]).node("Mul", &["f", "k"], &["r"]);
            tail(model.node("QuantizeLinear", &["r", "y_s", "y_z"], &["p"]))
        }),
    ]
}

fn python() -> Option<PathBuf> {
    let python = toolchain::python();
    if python.is_none() {
        assert!(!toolchain::must_not_skip(), "python with onnxruntime is missing");
        println!("skipped: python with onnxruntime is missing");
    }
    python
}

fn loaded(name: &str, model: &Onnx) -> Frontend {
    let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    driver::load(&model.bytes(), &no_files, &BTreeMap::new()).unwrap_or_else(|problem| panic!("{name}: {problem:?}"))
}

/// Integers for the input, and the bytes that the other runtime takes for them.
fn sample(random: &mut fastrand::Rng, graph: &Checked<Graph<Quant>>, input: i32) -> (Vec<Vec<i32>>, Vec<u8>) {
    let mut bytes = vec![];
    let inputs = graph.inputs().iter().map(|&id| {
        let ty = &graph.node(id).value;
        let params = ty.params().expect("inputs are reals");
        let values: Vec<i32> = (0..ty.shape.len()).map(|_| random.i32(ty.dtype.min()..=ty.dtype.max())).collect();
        for &q in &values {
            match input {
                U8 => bytes.push((q + 128) as u8),
                I8 => bytes.push(q as i8 as u8),
                _ => bytes.extend((params.dequantize(q) as f32).to_le_bytes()),
            }
        }
        values
    });
    (inputs.collect(), bytes)
}

/// Our results and the other runtime's, in steps of the result.
fn compared(cases: &[Case], python: &std::path::Path) -> Vec<Agreement> {
    let mut random = fastrand::Rng::with_seed(6);
    let mut jobs = vec![];
    let mut ours = vec![];
    for case in cases {
        let frontend = loaded(case.name, &case.model);
        let (graph, _) = driver::quantize(&frontend, &Ranges::default(), &Settings::default())
            .unwrap_or_else(|problem| panic!("{}: {problem:?}", case.name));
        let (mut results, mut inputs) = (vec![], vec![]);
        for _ in 0..SAMPLES {
            let (sample, bytes) = sample(&mut random, &graph, case.input);
            inputs.extend(bytes);
            results.extend(evaluate(&graph, &sample).swap_remove(0));
        }
        jobs.push(Job { name: case.name.to_owned(), model: case.model.bytes(), inputs });
        ours.push((graph.node(graph.outputs()[0].node).value.params().expect("outputs are reals"), results));
    }
    let theirs = qdq::run(&jobs, python).unwrap();
    let compare = |((case, (params, ours)), theirs): ((&Case, &Ours), &Result<Vec<u8>, String>)| {
        let bytes = theirs.as_ref().unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let words = bytes.as_chunks::<4>().0;
        assert_eq!(words.len(), ours.len(), "{}", case.name);
        let mut agreement = Agreement::default();
        for (&q, &word) in ours.iter().zip(words) {
            let theirs = match case.output {
                U8 => i32::from_le_bytes(word) - 128,
                I8 => i32::from_le_bytes(word),
                _ => (f64::from(f32::from_le_bytes(word)) / params.scale.get()).round() as i32 + params.zero_point,
            };
            agreement.add(q, theirs);
        }
        agreement
    };
    cases.iter().zip(&ours).zip(&theirs).map(compare).collect()
}

/// Requires at most one step everywhere, and equality of nearly all elements.
fn check(cases: &[Case]) {
    let Some(python) = python() else { return };
    let mut failures = vec![];
    for (case, agreement) in cases.iter().zip(compared(cases, &python)) {
        println!("{}: {:.4} equal, at most {} steps", case.name, agreement.share(), agreement.worst);
        if agreement.worst > 1 || agreement.share() < case.equal {
            failures.push(format!("{}: {:.4} equal, {} steps", case.name, agreement.share(), agreement.worst));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn weights_keep_their_integers() {
    check(&weights_of_every_kind());
}

#[test]
fn pairs_stand_anywhere() {
    check(&every_placement());
}

#[test]
fn interfaces_of_integers() {
    check(&integers_outside());
}

#[test]
fn operators_on_quantized_tensors() {
    check(&quantized_operators());
}

/// Small models that have been compiled: name, written model, graph, integers of their inputs.
fn written() -> Vec<(&'static Compiled, Vec<u8>)> {
    let write = |case: &'static Compiled| match export::to_onnx(&case.frontend.fused, &case.build.quant) {
        Ok(bytes) => Some((case, bytes)),
        Err(problems) => {
            println!("{}: {:?}", case.name, problems.iter().next().map(|problem| problem.message.clone()));
            None
        }
    };
    operators::compiled().into_iter().filter_map(write).collect()
}

#[test]
fn written_models_read_back_as_the_same_integers() {
    let mut failures = vec![];
    let written = written();
    assert!(written.len() > 40, "only {} models can be written", written.len());
    for (case, bytes) in written {
        let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        let mut frontend = match driver::load(&bytes, &no_files, &BTreeMap::new()) {
            Ok(frontend) => frontend,
            // A result that does not depend on the input is a constant in the written model.
            Err(problems) if problems.iter().all(|problem| problem.code == Code::ConstantTensor) => continue,
            Err(problems) => panic!("{}: {problems:?}", case.name),
        };
        frontend.numerics = case.frontend.numerics;
        let (graph, _) = driver::quantize(&frontend, &Ranges::default(), &Settings::default())
            .unwrap_or_else(|problem| panic!("{}: {problem:?}", case.name));
        // The states of recurrent layers have 16 bits inside, whose ranges are calibrated and no part of the model.
        let mut ops = graph.topological().into_iter().map(|id| &graph.node(id).op);
        if ops.any(|op| matches!(op, QuantOp::Recurrent(_))) {
            continue;
        }
        for inputs in &case.inputs {
            if evaluate(&graph, inputs) != evaluate(&case.build.quant, inputs) {
                failures.push(format!("{}:\n{}\n{}", case.name, *graph, *case.build.quant));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{} differ\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn written_models_run_elsewhere() {
    let Some(python) = python() else { return };
    // Where a difference vanishes, 32-bit floats are not exact enough to say what is right.
    let written: Vec<_> = written().into_iter().filter(|(case, _)| case.steps.is_finite()).collect();
    let job = |(case, bytes): &(&Compiled, Vec<u8>)| {
        let graph = &case.build.quant;
        let reals = |(&id, values): (&NodeId, &Vec<i32>)| dequantize(graph, id, values);
        let inputs = case.inputs.iter().flat_map(|sample| graph.inputs().iter().zip(sample).flat_map(reals));
        let inputs = inputs.flat_map(f32::to_le_bytes).collect();
        Job { name: case.name.clone(), model: bytes.clone(), inputs }
    };
    let results = qdq::run(&written.iter().map(job).collect::<Vec<_>>(), &python).unwrap();
    let mut total = Agreement::default();
    for ((case, _), result) in written.iter().zip(results) {
        let bytes = result.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let mut words = bytes.as_chunks::<4>().0.iter();
        let mut agreement = Agreement::default();
        for inputs in &case.inputs {
            let outputs = case.build.quant.outputs().iter().zip(evaluate(&case.build.quant, inputs));
            for (output, values) in outputs {
                let params = case.build.quant.node(output.node).value.params();
                for q in values {
                    let word = *words.next().expect("as many results");
                    let theirs = match params {
                        Some(params) => {
                            (f64::from(f32::from_le_bytes(word)) / params.scale.get()).round() as i32
                                + params.zero_point
                        }
                        None => i32::from_le_bytes(word),
                    };
                    agreement.add(q, theirs);
                }
            }
        }
        if agreement.share() < 0.98 || agreement.worst > 2 {
            println!("{}: {:.4} equal, at most {} steps", case.name, agreement.share(), agreement.worst);
        }
        total = total.merge(agreement);
    }
    println!("{} elements, {:.5} equal, at most {} steps", total.elements, total.share(), total.worst);
    assert!(total.share() > 0.995, "{total:?}");
}

/// Ranges of 16 random samples.
fn calibrated(frontend: &Frontend) -> Ranges {
    let len: usize = frontend.model.inputs[0].shape.len();
    let samples = (0..16).map(|seed| Ok(vec![numbers(seed, len)]));
    let (calibrator, _) = driver::calibrate(&frontend.model, samples, &|| {}).unwrap();
    calibrator.finish(Method::MinMax, Origin::default()).unwrap()
}

/// The largest distance of the integer model from the executed one, in steps of the result.
fn worst_distance(frontend: &Frontend, graph: &Checked<Graph<Quant>>) -> f64 {
    let len: usize = frontend.model.inputs[0].shape.len();
    let output = graph.outputs()[0].node;
    let step = graph.node(output).value.params().expect("outputs are reals").scale.get();
    let mut state = frontend.model.runner().unwrap().state().unwrap();
    let distance = |seed| {
        let sample = numbers(seed, len);
        let float = state.run(std::slice::from_ref(&sample)).unwrap().swap_remove(0);
        let inputs = vec![quantize_input(graph, graph.inputs()[0], &sample)];
        let ours = dequantize(graph, output, &evaluate(graph, &inputs)[0]);
        let distances = ours.iter().zip(&float).map(|(a, b)| f64::from((a - b).abs()) / step);
        distances.fold(0.0, f64::max)
    };
    (0..16).map(distance).fold(0.0, f64::max)
}

#[test]
fn what_the_model_leaves_real_is_calibrated() {
    let model = image().pair("x", "x").stored("w", &[4, 2, 3, 3], &Weights::per_channel(I8, 4, 0, 0));
    let model = model.node("Conv", &["x_d", "w"], &["c"]).node("Relu", &["c"], &["t"]).random("v", &[3, 4, 1, 1]);
    let frontend = loaded("partly", &model.node("Conv", &["t", "v"], &["y"]).output("y"));
    let ranges = calibrated(&frontend);
    assert!(ranges.get("x_q").is_none(), "integers have no range of reals");
    let (graph, _) = driver::quantize(&frontend, &ranges, &Settings::default()).unwrap();
    let input = graph.node(graph.inputs()[0]).value.params().expect("inputs are reals");
    assert_eq!((input.scale.as_f32(), input.zero_point), (0.02, 3), "calibration leaves alone what is given");
    assert!(worst_distance(&frontend, &graph) <= 2.0);
}

#[test]
fn dynamic_models_keep_their_weights() {
    let weights = Weights::per_tensor(U8, 121);
    let mut model = Onnx::new(13).input("x", &[1, 2, 6, 6]).stored("w", &[4, 2, 3, 3], &weights);
    let stored: Vec<i32> = model.graph().initializer[0].raw_data.iter().map(|&w| i32::from(w) - 121).collect();
    model.graph().node.pop();
    let model = model
        .node("DynamicQuantizeLinear", &["x"], &["q", "s", "z"])
        .node("ConvInteger", &["q", "w_q", "z", "w_z"], &["a"])
        .node_with("Cast", &["a"], &["f"], &[("to", 1.into())])
        .node("Mul", &["s", "w_s"], &["k"])
        .node("Mul", &["f", "k"], &["y"])
        .output("y");
    let frontend = loaded("dynamic", &model);
    let (graph, _) = driver::quantize(&frontend, &calibrated(&frontend), &Settings::default()).unwrap();
    let mut convs = graph.topological().into_iter().filter_map(|id| match &graph.node(id).op {
        QuantOp::Conv(conv) => Some(conv.weighted.clone()),
        _ => None,
    });
    let conv = convs.next_back().expect("a convolution");
    let factors: Vec<i32> = (0..4).flat_map(|channel_idx| conv.factors(channel_idx).collect::<Vec<_>>()).collect();
    assert_eq!(factors, stored);
    assert!(worst_distance(&frontend, &graph) <= 2.0);
}
