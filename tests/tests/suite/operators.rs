//! Every operator that a float model can contain, in its odd forms: the integers are close to the float model, and
//! program, emitted C and evaluator agree in every bit.

use std::sync::LazyLock;

use ptqc::plan::Goal;
use ptqc_tests::batch::{self, Member};
use ptqc_tests::cases::{Case, Compiled};
use ptqc_tests::onnx::{Attr, Onnx};
use ptqc_tests::toolchain::{STRICT, is_installed, must_not_skip};
use rayon::prelude::*;

type Attrs<'a> = &'a [(&'a str, Attr)];

/// A model with one input `x` and one output `y`.
fn model(opset: i64, dims: &[i64], body: impl FnOnce(Onnx) -> Onnx) -> Onnx {
    body(Onnx::new(opset).input("x", dims)).output("y")
}

/// One node with one input.
fn one(opset: i64, dims: &[i64], op: &str, attrs: Attrs) -> Onnx {
    model(opset, dims, |m| m.node_with(op, &["x"], &["y"], attrs))
}

fn conv_case(name: &str, dims: &[i64], weights: &[i64], attrs: Attrs) -> Case {
    let model = model(17, dims, |m| {
        m.random("w", weights).random("b", &weights[..1]).node_with("Conv", &["x", "w", "b"], &["y"], attrs)
    });
    Case::new(name, model)
}

fn convolutions() -> Vec<Case> {
    let image = [1, 3, 9, 7];
    vec![
        conv_case("conv_1x1", &image, &[5, 3, 1, 1], &[]),
        conv_case("conv_1x1_stride", &image, &[5, 3, 1, 1], &[("strides", [2, 3].into())]),
        conv_case("conv_1x1_padded", &image, &[5, 3, 1, 1], &[("pads", [1, 0, 2, 1].into())]),
        conv_case("conv_3x3", &image, &[4, 3, 3, 3], &[]),
        conv_case("conv_even_kernel", &image, &[4, 3, 2, 4], &[("pads", [0, 1, 1, 2].into())]),
        conv_case(
            "conv_dilated",
            &image,
            &[4, 3, 3, 2],
            &[("dilations", [2, 3].into()), ("pads", [2, 1, 2, 2].into())],
        ),
        conv_case(
            "conv_stride_uneven",
            &image,
            &[4, 3, 3, 3],
            &[("strides", [3, 2].into()), ("pads", [1, 2, 0, 1].into())],
        ),
        conv_case("conv_pad_beyond_kernel", &[1, 1, 3, 3], &[2, 1, 2, 2], &[("pads", [3, 3, 3, 3].into())]),
        conv_case("conv_whole_image", &image, &[6, 3, 9, 7], &[]),
        conv_case("conv_larger_than_image", &[1, 2, 3, 3], &[3, 2, 5, 5], &[("pads", [2, 2, 2, 2].into())]),
        conv_case("conv_batch", &[2, 3, 5, 5], &[4, 3, 3, 3], &[("pads", [1, 1, 1, 1].into())]),
        conv_case("conv_groups", &[1, 6, 5, 5], &[4, 3, 3, 3], &[("group", 2.into())]),
        conv_case(
            "conv_depthwise",
            &[1, 5, 7, 7],
            &[5, 1, 3, 3],
            &[("group", 5.into()), ("pads", [1, 1, 1, 1].into())],
        ),
        conv_case(
            "conv_depthwise_multiplier",
            &[1, 3, 6, 6],
            &[6, 1, 3, 3],
            &[("group", 3.into()), ("strides", [2, 2].into())],
        ),
        conv_case("conv_one_channel", &[1, 1, 4, 4], &[1, 1, 3, 3], &[]),
        conv_case(
            "conv_same_upper",
            &image,
            &[4, 3, 4, 2],
            &[("auto_pad", "SAME_UPPER".into()), ("strides", [2, 2].into())],
        ),
        conv_case(
            "conv_same_lower",
            &image,
            &[4, 3, 4, 2],
            &[("auto_pad", "SAME_LOWER".into()), ("strides", [2, 2].into())],
        ),
        conv_case("conv_same_lower_dense", &image, &[4, 3, 2, 4], &[("auto_pad", "SAME_LOWER".into())]),
        conv_case(
            "conv_same_dilated",
            &image,
            &[4, 3, 3, 2],
            &[("auto_pad", "SAME_UPPER".into()), ("dilations", [2, 2].into())],
        ),
        conv_case("conv_valid", &image, &[4, 3, 3, 3], &[("auto_pad", "VALID".into()), ("strides", [2, 1].into())]),
        conv_case("conv_1d", &[1, 4, 11], &[3, 4, 3], &[("pads", [2, 0].into()), ("strides", [2].into())]),
        conv_case("conv_1d_same_lower", &[1, 4, 11], &[3, 4, 4], &[("auto_pad", "SAME_LOWER".into())]),
        conv_case("conv_1d_groups", &[1, 4, 9], &[6, 2, 3], &[("group", 2.into()), ("dilations", [2].into())]),
        conv_case(
            "conv_3d",
            &[1, 2, 4, 5, 3],
            &[3, 2, 2, 3, 2],
            &[("pads", [1, 0, 1, 0, 1, 0].into()), ("strides", [2, 1, 1].into())],
        ),
        Case::new(
            "conv_no_bias",
            model(11, &image, |m| m.random("w", &[2, 3, 3, 3]).node("Conv", &["x", "w"], &["y"])),
        ),
        Case::new(
            "conv_relu6",
            model(13, &image, |m| {
                m.random("w", &[4, 3, 3, 3])
                    .weights("six", &[], &[6.0])
                    .weights("zero", &[], &[0.0])
                    .node("Conv", &["x", "w"], &["c"])
                    .node("Clip", &["c", "zero", "six"], &["y"])
            }),
        ),
        Case::new(
            "conv_twice",
            model(13, &image, |m| {
                m.random("w", &[8, 3, 3, 3])
                    .random("v", &[4, 8, 1, 1])
                    .node("Conv", &["x", "w"], &["c"])
                    .node("Relu", &["c"], &["r"])
                    .node("Conv", &["r", "v"], &["y"])
            }),
        ),
    ]
}

fn batch_norm(m: Onnx, x: &str, y: &str, channels: i64) -> Onnx {
    let name = |part: &str| format!("{y}_{part}");
    let positive: Vec<f32> = (0..channels).map(|c| 0.25 + c as f32 * 0.5).collect();
    let inputs = [x.to_owned(), name("gamma"), name("beta"), name("mean"), name("var")];
    m.random(&inputs[1], &[channels])
        .random(&inputs[2], &[channels])
        .random(&inputs[3], &[channels])
        .weights(&inputs[4], &[channels], &positive)
        .node("BatchNormalization", &inputs.iter().map(String::as_str).collect::<Vec<_>>(), &[y])
}

fn batch_normalizations() -> Vec<Case> {
    vec![
        Case::new("bn_input", model(15, &[1, 3, 4, 4], |m| batch_norm(m, "x", "y", 3))),
        Case::new("bn_rank_2", model(15, &[2, 5], |m| batch_norm(m, "x", "y", 5))),
        Case::new("bn_rank_3", model(9, &[1, 4, 6], |m| batch_norm(m, "x", "y", 4))),
        Case::new("bn_rank_5", model(9, &[1, 3, 2, 3, 2], |m| batch_norm(m, "x", "y", 3))),
        Case::new(
            "bn_behind_pool",
            model(15, &[1, 3, 6, 6], |m| {
                batch_norm(m.node_with("MaxPool", &["x"], &["p"], &[("kernel_shape", [2, 2].into())]), "p", "y", 3)
            }),
        ),
        Case::new(
            "bn_conv_bn_relu",
            model(15, &[1, 3, 5, 5], |m| {
                let m = batch_norm(m, "x", "a", 3).random("w", &[4, 3, 3, 3]).node("Conv", &["a", "w"], &["c"]);
                batch_norm(m, "c", "b", 4).node("Relu", &["b"], &["y"])
            }),
        )
        .steps(4.0),
        Case::new(
            "bn_padded_conv",
            model(15, &[1, 3, 5, 5], |m| {
                batch_norm(m, "x", "a", 3).random("w", &[4, 3, 3, 3]).node_with(
                    "Conv",
                    &["a", "w"],
                    &["y"],
                    &[("pads", [1, 1, 1, 1].into())],
                )
            }),
        ),
        Case::new(
            "bn_relu_bn",
            model(15, &[1, 3, 5, 5], |m| {
                let m = batch_norm(m, "x", "a", 3).node("Relu", &["a"], &["r"]);
                batch_norm(m, "r", "y", 3)
            }),
        ),
        Case::new(
            "bn_negative_behind_relu_conv",
            model(15, &[1, 3, 5, 5], |m| {
                let m = m.random("w", &[4, 3, 3, 3]).node("Conv", &["x", "w"], &["c"]).node("Relu", &["c"], &["r"]);
                batch_norm(m, "r", "b", 4).node("Relu", &["b"], &["y"])
            }),
        )
        .steps(6.0),
        Case::new(
            "bn_linear",
            model(15, &[2, 6], |m| {
                let m = m.random("w", &[6, 4]).random("c", &[4]).node("Gemm", &["x", "w", "c"], &["g"]);
                batch_norm(m, "g", "y", 4)
            }),
        ),
        Case::new(
            "bn_linear_rank_3",
            model(15, &[1, 5, 6], |m| {
                let m = m.random("w", &[6, 4]).node("MatMul", &["x", "w"], &["g"]);
                batch_norm(m, "g", "y", 5)
            }),
        ),
        Case::new(
            "bn_then_linear",
            model(15, &[2, 6], |m| batch_norm(m, "x", "b", 6).random("w", &[6, 4]).node("MatMul", &["b", "w"], &["y"])),
        ),
    ]
}

fn gemm_case(name: &str, a: &[i64], b: &[i64], c: Option<&[i64]>, attrs: Attrs) -> Case {
    let model = model(13, a, |m| match c {
        Some(c) => m.random("w", b).random("c", c).node_with("Gemm", &["x", "w", "c"], &["y"], attrs),
        None => m.random("w", b).node_with("Gemm", &["x", "w"], &["y"], attrs),
    });
    Case::new(name, model)
}

fn products() -> Vec<Case> {
    let mut cases = vec![
        gemm_case("gemm", &[3, 8], &[8, 5], None, &[]),
        gemm_case("gemm_trans_b", &[3, 8], &[5, 8], Some(&[5]), &[("transB", 1.into())]),
        gemm_case("gemm_trans_a", &[8, 3], &[8, 5], Some(&[5]), &[("transA", 1.into())]),
        gemm_case("gemm_trans_both", &[8, 3], &[5, 8], Some(&[1, 5]), &[("transA", 1.into()), ("transB", 1.into())]),
        gemm_case(
            "gemm_alpha_beta",
            &[3, 8],
            &[8, 5],
            Some(&[5]),
            &[("alpha", 0.5f32.into()), ("beta", (-2.0f32).into())],
        ),
        gemm_case("gemm_beta_0", &[3, 8], &[8, 5], Some(&[5]), &[("beta", 0.0f32.into())]),
        gemm_case("gemm_c_scalar", &[3, 8], &[8, 5], Some(&[]), &[]),
        gemm_case("gemm_c_one", &[3, 8], &[8, 5], Some(&[1]), &[]),
        gemm_case("gemm_c_row", &[3, 8], &[8, 5], Some(&[1, 5]), &[]),
        gemm_case("gemm_c_column", &[3, 8], &[8, 5], Some(&[3, 1]), &[]),
        gemm_case("gemm_c_full", &[3, 8], &[8, 5], Some(&[3, 5]), &[]),
        gemm_case("gemm_c_full_one_row", &[1, 8], &[8, 5], Some(&[1, 5]), &[]),
        gemm_case("gemm_one_output", &[1, 8], &[8, 1], Some(&[1]), &[]),
        gemm_case("gemm_one_input", &[3, 1], &[1, 5], Some(&[5]), &[]),
    ];
    for (name, attrs, x, w) in [
        ("gemm_constant_left", vec![], [4, 3], [5, 4]),
        ("gemm_constant_left_trans", vec![("transA", 1.into()), ("transB", 1.into())], [3, 4], [4, 5]),
    ] {
        for (suffix, c) in
            [("", None), ("_row", Some(vec![3])), ("_column", Some(vec![5, 1])), ("_full", Some(vec![5, 3]))]
        {
            let model = model(13, &x, |m| match &c {
                Some(c) => m.random("w", &w).random("c", c).node_with("Gemm", &["w", "x", "c"], &["y"], &attrs),
                None => m.random("w", &w).node_with("Gemm", &["w", "x"], &["y"], &attrs),
            });
            cases.push(Case::new(&format!("{name}{suffix}"), model));
        }
    }
    let right: [(&str, &[i64], &[i64]); 11] = [
        ("matmul_rank_1", &[6], &[6, 4]),
        ("matmul_vector", &[3, 6], &[6]),
        ("matmul_rank_3", &[2, 3, 6], &[6, 4]),
        ("matmul_rank_4", &[1, 2, 3, 6], &[6, 4]),
        ("matmul_unit_batch", &[3, 6], &[1, 6, 4]),
        ("matmul_batched", &[2, 3, 6], &[2, 6, 4]),
        ("matmul_batched_4", &[1, 2, 3, 6], &[1, 2, 6, 4]),
        ("matmul_batch_repeated", &[3, 6], &[2, 6, 4]),
        ("matmul_batch_mixed", &[2, 3, 1, 4, 6], &[3, 5, 6, 2]),
        ("matmul_batch_mixed_both", &[2, 1, 3, 2, 6], &[2, 4, 1, 6, 5]),
        ("matmul_batch_vector", &[6], &[2, 6, 4]),
    ];
    for (name, x, w) in right {
        cases.push(Case::new(name, model(13, x, |m| m.random("w", w).node("MatMul", &["x", "w"], &["y"]))));
    }
    let left: [(&str, &[i64], &[i64]); 5] = [
        ("matmul_left", &[6, 4], &[3, 6]),
        ("matmul_left_rank_3", &[2, 6, 4], &[3, 6]),
        ("matmul_left_vector", &[6, 4], &[6]),
        ("matmul_left_vector_right", &[6], &[3, 6]),
        ("matmul_left_batched", &[2, 6, 4], &[2, 3, 6]),
    ];
    for (name, x, w) in left {
        cases.push(Case::new(name, model(13, x, |m| m.random("w", w).node("MatMul", &["w", "x"], &["y"]))));
    }
    cases.push(Case::new(
        "matmul_add_relu",
        model(13, &[2, 3, 6], |m| {
            m.random("w", &[6, 4])
                .random("b", &[4])
                .node("MatMul", &["x", "w"], &["p"])
                .node("Add", &["b", "p"], &["s"])
                .node("Relu", &["s"], &["y"])
        }),
    ));
    cases
}

/// `op` of the input with constants of every shape, on either side.
fn constants(op: &str) -> Vec<Case> {
    let shapes: [(&str, &[i64]); 9] = [
        ("scalar", &[]),
        ("one", &[1]),
        ("last", &[4]),
        ("channel", &[3, 1, 1]),
        ("channel_4", &[1, 3, 1, 1]),
        ("row", &[1, 1, 5, 1]),
        ("plane", &[5, 4]),
        ("full", &[1, 3, 5, 4]),
        ("enlarging", &[2, 1, 5, 1]),
    ];
    let mut cases = vec![];
    for (name, shape) in shapes {
        for side in ["right", "left"] {
            if op == "Div" && side == "left" {
                continue;
            }
            let operands = if side == "right" { ["x", "c"] } else { ["c", "x"] };
            let model = model(14, &[1, 3, 5, 4], |m| m.random("c", shape).node(op, &operands, &["y"]));
            // Quotients have steep gradients where the divisor is close to 0.
            cases.push(Case::new(&format!("{}_{name}_{side}", op.to_lowercase()), model));
        }
    }
    let rank = |name: &str, dims: &[i64], c: &[i64]| {
        Case::new(
            &format!("{}_{name}", op.to_lowercase()),
            model(7, dims, |m| m.random("c", c).node(op, &["x", "c"], &["y"])),
        )
    };
    cases.push(rank("rank_1", &[7], &[7]));
    cases.push(rank("rank_up", &[4], &[2, 3, 1]));
    cases.push(rank("rank_6", &[1, 2, 1, 3, 2, 2], &[3, 1, 1]));
    cases
}

fn two(opset: i64, op: &str, a: &[i64], b: &[i64]) -> Onnx {
    Onnx::new(opset).input("a", a).input("b", b).node(op, &["a", "b"], &["y"]).output("y")
}

fn elementwise() -> Vec<Case> {
    let mut cases: Vec<Case> = ["Add", "Sub", "Mul", "Div"].iter().flat_map(|op| constants(op)).collect();
    let pairs: [(&str, &[i64], &[i64]); 6] = [
        ("same", &[1, 3, 4], &[1, 3, 4]),
        ("channel", &[1, 3, 4, 4], &[1, 3, 1, 1]),
        ("gate_left", &[1, 3, 1, 1], &[1, 3, 4, 4]),
        ("both_grow", &[3, 1, 2], &[1, 4, 2]),
        ("rank", &[2, 3, 4], &[4]),
        ("scalar", &[2, 3], &[1]),
    ];
    for op in ["Add", "Sub", "Mul"] {
        for (name, a, b) in pairs {
            cases.push(Case::new(&format!("{}_two_{name}", op.to_lowercase()), two(14, op, a, b)));
        }
        cases.push(Case::new(
            &format!("{}_self", op.to_lowercase()),
            model(14, &[2, 3], |m| {
                m.node("Tanh", &["x"], &["t"]).node(op, &["t", "t"], &["s"]).random("c", &[3]).node(
                    "Add",
                    &["s", "c"],
                    &["y"],
                )
            }),
        ));
    }
    cases.extend([
        Case::new(
            "add_residual_relu",
            model(14, &[1, 4, 5, 5], |m| {
                m.random("w", &[4, 4, 3, 3])
                    .node_with("Conv", &["x", "w"], &["c"], &[("pads", [1, 1, 1, 1].into())])
                    .node("Add", &["x", "c"], &["s"])
                    .node("Relu", &["s"], &["y"])
            }),
        ),
        Case::new(
            "sub_then_clip",
            model(14, &[1, 4, 5], |m| {
                m.random("c", &[4, 1]).node("Sub", &["c", "x"], &["s"]).weights("lo", &[], &[-0.5]).node(
                    "Clip",
                    &["s", "lo"],
                    &["y"],
                )
            }),
        ),
        Case::new(
            "div_by_channel",
            model(14, &[1, 4, 5], |m| {
                m.weights("c", &[4, 1], &[0.5, -2.0, 30.0, 255.0]).node("Div", &["x", "c"], &["y"])
            }),
        ),
        Case::new(
            "scale_chain",
            model(14, &[1, 4, 5], |m| {
                m.weights("c", &[], &[255.0])
                    .weights("m", &[4, 1], &[0.1, 0.2, 0.3, 0.4])
                    .weights("s", &[4, 1], &[0.5, -0.25, 0.5, 0.3])
                    .node("Div", &["x", "c"], &["d"])
                    .node("Sub", &["d", "m"], &["e"])
                    .node("Div", &["e", "s"], &["y"])
            })
            .clone(),
        )
        .magnitude(255.0),
        Case::new(
            "affine_clip_affine",
            model(13, &[1, 3, 4], |m| {
                m.random("w", &[5, 3, 1])
                    .weights("k", &[], &[-1.5])
                    .weights("lo", &[], &[-0.2])
                    .weights("hi", &[], &[0.3])
                    .node("Conv", &["x", "w"], &["c"])
                    .node("Clip", &["c", "lo", "hi"], &["d"])
                    .node("Mul", &["d", "k"], &["e"])
                    .node("Relu", &["e"], &["y"])
            }),
        )
        .steps(8.0),
        Case::new(
            "negate_relu_negate",
            model(13, &[1, 3, 4], |m| {
                m.random("w", &[5, 3, 1])
                    .weights("k", &[], &[-1.0])
                    .node("Conv", &["x", "w"], &["c"])
                    .node("Mul", &["c", "k"], &["d"])
                    .node("Relu", &["d"], &["e"])
                    .node("Mul", &["e", "k"], &["y"])
            }),
        ),
        Case::new(
            "broadcast_of_views",
            Onnx::new(13)
                .input("a", &[1, 2, 3, 4])
                .input("b", &[1, 2, 4, 3])
                .ints("s", &[2], &[2, 12])
                .random("w", &[2, 2, 1, 1])
                .node("Conv", &["a", "w"], &["ca"])
                .node("Conv", &["b", "w"], &["cb"])
                .node_with("Transpose", &["ca"], &["ta"], &[("perm", [0, 1, 3, 2].into())])
                .node_with("Transpose", &["cb"], &["tb"], &[("perm", [0, 1, 3, 2].into())])
                .node("Reshape", &["ta", "s"], &["ra"])
                .node("Reshape", &["tb", "s"], &["rb"])
                .node("Add", &["ra", "rb"], &["y"])
                .output("y"),
        ),
    ]);
    cases
}

fn unary_case(name: &str, opset: i64, op: &str, attrs: Attrs) -> Case {
    Case::new(name, one(opset, &[2, 3, 5], op, attrs)).magnitude(6.0)
}

fn clip_case(name: &str, lo: Option<f32>, hi: Option<f32>) -> Case {
    let model = model(13, &[2, 3, 5], |m| {
        let m = lo.into_iter().fold(m, |m, lo| m.weights("lo", &[], &[lo]));
        let m = hi.into_iter().fold(m, |m, hi| m.weights("hi", &[], &[hi]));
        let inputs = ["x", if lo.is_some() { "lo" } else { "" }, if hi.is_some() { "hi" } else { "" }];
        m.node("Clip", if hi.is_some() { &inputs } else { &inputs[..2] }, &["y"])
    });
    Case::new(name, model).magnitude(6.0)
}

fn functions() -> Vec<Case> {
    vec![
        unary_case("relu", 7, "Relu", &[]),
        unary_case("leaky_relu", 7, "LeakyRelu", &[]),
        unary_case("leaky_relu_negative", 16, "LeakyRelu", &[("alpha", (-0.5f32).into())]),
        unary_case("sigmoid", 13, "Sigmoid", &[]),
        unary_case("tanh", 13, "Tanh", &[]),
        unary_case("hard_sigmoid", 7, "HardSigmoid", &[]),
        unary_case(
            "hard_sigmoid_attributes",
            7,
            "HardSigmoid",
            &[("alpha", 0.7f32.into()), ("beta", (-0.1f32).into())],
        ),
        unary_case("hard_swish", 14, "HardSwish", &[]),
        unary_case("celu_alpha", 12, "Celu", &[("alpha", 0.4f32.into())]),
        unary_case("swish_alpha", 24, "Swish", &[("alpha", 1.7f32.into())]),
        unary_case("clip_attributes", 7, "Clip", &[("min", (-1.0f32).into()), ("max", 2.5f32.into())]),
        unary_case("clip_attribute_max", 10, "Clip", &[("max", 2.5f32.into())]),
        clip_case("clip_min", Some(-1.0), None),
        clip_case("clip_max", None, Some(2.0)),
        clip_case("clip_both", Some(0.5), Some(2.0)),
        clip_case("clip_negative", Some(-3.0), Some(-1.0)),
        clip_case("clip_crossed", Some(2.0), Some(1.0)),
        Case::new(
            "conv_clip_crossed",
            model(13, &[1, 2, 4], |m| {
                m.random("w", &[3, 2, 1])
                    .weights("lo", &[], &[0.5])
                    .weights("hi", &[], &[-0.25])
                    .node("Conv", &["x", "w"], &["c"])
                    .node("Clip", &["c", "lo", "hi"], &["y"])
            }),
        ),
        Case::new("silu", model(13, &[2, 5], |m| m.node("Sigmoid", &["x"], &["s"]).node("Mul", &["x", "s"], &["y"])))
            .magnitude(6.0),
        Case::new(
            "silu_behind_conv",
            model(13, &[1, 3, 5], |m| {
                m.random("w", &[4, 3, 1]).node("Conv", &["x", "w"], &["c"]).node("Sigmoid", &["c"], &["s"]).node(
                    "Mul",
                    &["s", "c"],
                    &["y"],
                )
            }),
        ),
        Case::new(
            "hard_swish_written_out",
            model(13, &[2, 5], |m| {
                m.weights("three", &[], &[3.0])
                    .weights("zero", &[], &[0.0])
                    .weights("six", &[], &[6.0])
                    .node("Add", &["x", "three"], &["a"])
                    .node("Clip", &["a", "zero", "six"], &["c"])
                    .node("Mul", &["x", "c"], &["m"])
                    .node("Div", &["m", "six"], &["y"])
            }),
        )
        .magnitude(6.0),
        Case::new(
            "chain",
            model(13, &[2, 5], |m| {
                m.node("Tanh", &["x"], &["a"]).node("Relu", &["a"], &["b"]).node("Sigmoid", &["b"], &["c"]).node(
                    "LeakyRelu",
                    &["c"],
                    &["y"],
                )
            }),
        )
        .magnitude(3.0),
        Case::new(
            "chain_with_output_inside",
            model(13, &[2, 5], |m| {
                m.node("Tanh", &["x"], &["a"]).output("a").node("Relu", &["a"], &["b"]).node("Sigmoid", &["b"], &["y"])
            }),
        )
        .magnitude(3.0),
        Case::new(
            "softmax_of_sigmoid",
            model(13, &[2, 5], |m| m.node("Sigmoid", &["x"], &["s"]).node("Softmax", &["s"], &["y"])),
        ),
    ]
}

fn pool_case(name: &str, op: &str, dims: &[i64], attrs: Attrs) -> Case {
    Case::new(name, one(22.min(if attrs.iter().any(|a| a.0 == "dilations") { 19 } else { 12 }), dims, op, attrs))
}

fn pools() -> Vec<Case> {
    let image = [1, 3, 9, 8];
    let k = |sizes: [i64; 2]| ("kernel_shape", Attr::from(sizes));
    let mut cases = vec![];
    for (prefix, op) in [("max_pool", "MaxPool"), ("average_pool", "AveragePool")] {
        let mut add = |name: &str, dims: &[i64], attrs: Attrs| {
            cases.push(pool_case(&format!("{prefix}_{name}"), op, dims, attrs))
        };
        add("2x2", &image, &[k([2, 2]), ("strides", [2, 2].into())]);
        add("overlapping", &image, &[k([3, 3])]);
        add("padded", &image, &[k([3, 3]), ("strides", [2, 2].into()), ("pads", [1, 1, 1, 1].into())]);
        add("padded_unevenly", &image, &[k([3, 2]), ("pads", [2, 0, 1, 1].into())]);
        add("ceil", &image, &[k([2, 3]), ("strides", [2, 2].into()), ("ceil_mode", 1.into())]);
        add(
            "ceil_padded",
            &[1, 2, 6, 7],
            &[k([3, 3]), ("strides", [2, 2].into()), ("pads", [1, 1, 1, 1].into()), ("ceil_mode", 1.into())],
        );
        add(
            "ceil_dropped",
            &[1, 2, 4, 4],
            &[k([1, 2]), ("strides", [3, 3].into()), ("pads", [0, 0, 0, 1].into()), ("ceil_mode", 1.into())],
        );
        add("dilated", &image, &[k([2, 3]), ("dilations", [3, 2].into())]);
        add("same_upper", &image, &[k([2, 3]), ("strides", [2, 2].into()), ("auto_pad", "SAME_UPPER".into())]);
        add("same_lower", &image, &[k([2, 3]), ("strides", [2, 2].into()), ("auto_pad", "SAME_LOWER".into())]);
        add("valid", &image, &[k([2, 3]), ("strides", [3, 3].into()), ("auto_pad", "VALID".into())]);
        add("1d", &[1, 3, 9], &[("kernel_shape", [3].into()), ("strides", [2].into()), ("pads", [1, 1].into())]);
        add("3d", &[1, 2, 4, 4, 4], &[("kernel_shape", [2, 3, 2].into()), ("strides", [2, 1, 2].into())]);
        add("batch", &[2, 3, 4, 4], &[k([2, 2])]);
        add("global_window", &image, &[k([9, 8])]);
    }
    let counting = |extra: (&'static str, Attr)| {
        vec![
            k([3, 3]),
            ("strides", [2, 2].into()),
            ("pads", [1, 1, 1, 1].into()),
            ("count_include_pad", 1.into()),
            extra,
        ]
    };
    cases.extend([
        pool_case("average_pool_counting", "AveragePool", &image, &counting(("ceil_mode", 0.into()))),
        pool_case(
            "average_pool_counting_same",
            "AveragePool",
            &image,
            &[k([4, 4]), ("auto_pad", "SAME_LOWER".into()), ("count_include_pad", 1.into())],
        ),
        Case::new(
            "average_pool_counting_ceil",
            one(19, &[1, 2, 6, 7], "AveragePool", &counting(("ceil_mode", 1.into()))),
        ),
        Case::new(
            "average_pool_relu",
            model(12, &image, |m| {
                m.node_with("AveragePool", &["x"], &["p"], &[k([2, 2])]).node("Relu", &["p"], &["y"])
            }),
        ),
        pool_case("global_max_pool", "GlobalMaxPool", &image, &[]),
        pool_case("global_max_pool_1d", "GlobalMaxPool", &[2, 3, 7], &[]),
        pool_case("global_average_pool", "GlobalAveragePool", &image, &[]),
        pool_case("global_average_pool_3d", "GlobalAveragePool", &[1, 2, 3, 2, 4], &[]),
    ]);
    cases
}

fn reductions() -> Vec<Case> {
    let mut cases = vec![];
    let axes: [(&str, &[i64]); 5] =
        [("first", &[0]), ("last", &[-1]), ("two", &[2, -3]), ("inner", &[1]), ("all", &[0, 1, 2, 3])];
    for (name, axes) in axes {
        for keep in [0, 1] {
            let attrs = [("axes", axes.into()), ("keepdims", keep.into())];
            cases.push(Case::new(&format!("mean_{name}_{keep}"), one(13, &[2, 3, 4, 5], "ReduceMean", &attrs)));
        }
        let model = model(18, &[2, 3, 4, 5], |m| {
            m.ints("axes", &[axes.len() as i64], axes).node("ReduceMean", &["x", "axes"], &["y"])
        });
        cases.push(Case::new(&format!("mean_{name}_18"), model));
    }
    cases.push(Case::new("mean_default", one(11, &[2, 3], "ReduceMean", &[])));
    cases.push(Case::new("mean_default_18", one(18, &[2, 3], "ReduceMean", &[("keepdims", 0.into())])));
    cases.push(Case::new(
        "mean_no_op",
        model(18, &[2, 3], |m| {
            m.node_with("ReduceMean", &["x"], &["r"], &[("noop_with_empty_axes", 1.into())]).node(
                "Relu",
                &["r"],
                &["y"],
            )
        }),
    ));
    for axis in [0, 1, 2, -1] {
        let name = axis.to_string().replace('-', "minus_");
        for opset in [11, 13] {
            let case = Case::new(
                &format!("softmax_{name}_{opset}"),
                one(opset, &[2, 3, 4], "Softmax", &[("axis", axis.into())]),
            );
            cases.push(case.magnitude(4.0));
        }
        cases.push(
            Case::new(&format!("arg_max_{name}"), one(13, &[2, 3, 4], "ArgMax", &[("axis", axis.into())])).steps(0.0),
        );
    }
    cases.extend([
        Case::new("softmax_default_11", one(11, &[2, 3, 4], "Softmax", &[])),
        Case::new("softmax_default_13", one(13, &[2, 3, 4], "Softmax", &[])).magnitude(40.0),
        Case::new("softmax_one", one(13, &[3, 1], "Softmax", &[])),
        Case::new(
            "softmax_behind_conv",
            model(13, &[1, 3, 2, 2], |m| {
                m.random("w", &[5, 3, 1, 1]).node("Conv", &["x", "w"], &["c"]).node_with(
                    "Softmax",
                    &["c"],
                    &["y"],
                    &[("axis", 1.into())],
                )
            }),
        ),
        Case::new(
            "arg_max_drop_last",
            one(
                13,
                &[2, 3, 4],
                "ArgMax",
                &[("axis", 2.into()), ("keepdims", 0.into()), ("select_last_index", 1.into())],
            ),
        )
        .steps(0.0),
        Case::new("arg_max_rank_1", one(13, &[7], "ArgMax", &[("keepdims", 0.into())])).steps(0.0),
        Case::new(
            "arg_max_reshaped",
            model(13, &[2, 3, 4], |m| {
                m.ints("s", &[2], &[4, 2]).node_with("ArgMax", &["x"], &["a"], &[("axis", 1.into())]).node(
                    "Reshape",
                    &["a", "s"],
                    &["y"],
                )
            }),
        )
        .steps(0.0),
        Case::new(
            "arg_max_and_scores",
            model(13, &[2, 3], |m| {
                m.node("Softmax", &["x"], &["y"]).node_with("ArgMax", &["y"], &["a"], &[("axis", 1.into())]).output("a")
            }),
        )
        .steps(1.0)
        .magnitude(4.0),
        Case::new(
            "arg_max_concat",
            Onnx::new(13)
                .input("a", &[2, 3])
                .input("b", &[2, 4])
                .node_with("ArgMax", &["a"], &["p"], &[("axis", 1.into())])
                .node_with("ArgMax", &["b"], &["q"], &[("axis", 1.into())])
                .node_with("Concat", &["p", "q"], &["y"], &[("axis", 1.into())])
                .output("y"),
        )
        .steps(0.0),
    ]);
    cases
}

fn pad_case(name: &str, mode: &'static str, pads: &[i64], value: Option<f32>) -> Case {
    let model = model(13, &[1, 2, 4, 5], |m| {
        let m = m.ints("p", &[8], pads);
        let m = value.into_iter().fold(m, |m, value| m.weights("v", &[], &[value]));
        m.node_with(
            "Pad",
            if value.is_some() { &["x", "p", "v"] } else { &["x", "p"] },
            &["y"],
            &[("mode", mode.into())],
        )
    });
    Case::new(name, model)
}

fn slice_case(name: &str, starts: &[i64], ends: &[i64], axes: Option<&[i64]>, steps: Option<&[i64]>) -> Case {
    let model = model(13, &[2, 5, 6], |m| {
        let n = starts.len() as i64;
        let m = m.ints("s", &[n], starts).ints("e", &[n], ends);
        let m = axes.into_iter().fold(m, |m, axes| m.ints("a", &[n], axes));
        let m = steps.into_iter().fold(m, |m, steps| m.ints("t", &[n], steps));
        let inputs = ["x", "s", "e", if axes.is_some() { "a" } else { "" }, if steps.is_some() { "t" } else { "" }];
        m.node(
            "Slice",
            &inputs[..if steps.is_some() {
                5
            } else if axes.is_some() {
                4
            } else {
                3
            }],
            &["y"],
        )
    });
    Case::new(name, model)
}

fn moves() -> Vec<Case> {
    let max = i64::MAX;
    vec![
        pad_case("pad_constant", "constant", &[0, 1, 2, 0, 0, 0, 1, 3], None),
        pad_case("pad_value", "constant", &[0, 0, 1, 1, 0, 0, 1, 1], Some(3.0)),
        pad_case("pad_small_value", "constant", &[0, 0, 1, 1, 0, 0, 1, 1], Some(-0.3)),
        pad_case("pad_reflect", "reflect", &[0, 1, 3, 2, 0, 1, 1, 4], None),
        pad_case("pad_edge", "edge", &[1, 0, 3, 2, 0, 1, 1, 7], None),
        Case::new(
            "pad_wrap",
            model(19, &[1, 2, 4], |m| {
                m.ints("p", &[6], &[0, 1, 3, 0, 0, 2]).node_with("Pad", &["x", "p"], &["y"], &[("mode", "wrap".into())])
            }),
        ),
        pad_case("pad_negative", "constant", &[0, 0, -1, 1, 0, -1, 2, -2], None),
        pad_case("pad_negative_only", "constant", &[0, 0, -1, 0, 0, -1, 0, -2], None),
        pad_case("pad_nothing", "constant", &[0; 8], None),
        Case::new(
            "pad_axes",
            model(18, &[2, 3, 4], |m| {
                m.ints("p", &[4], &[1, 2, 0, 1]).ints("a", &[2], &[-1, 0]).node("Pad", &["x", "p", "", "a"], &["y"])
            }),
        ),
        Case::new(
            "pad_attribute",
            one(7, &[1, 2, 3, 3], "Pad", &[("pads", [0, 0, 1, 1, 0, 0, 1, 1].into()), ("value", 0.5f32.into())]),
        ),
        Case::new(
            "pad_conv",
            model(13, &[1, 2, 5, 5], |m| {
                m.ints("p", &[8], &[0, 0, 1, 2, 0, 0, 0, 1])
                    .random("w", &[3, 2, 3, 3])
                    .node("Pad", &["x", "p"], &["q"])
                    .node("Conv", &["q", "w"], &["y"])
            }),
        ),
        Case::new(
            "pad_value_conv",
            model(13, &[1, 2, 5, 5], |m| {
                m.ints("p", &[8], &[0, 0, 1, 2, 0, 0, 0, 1])
                    .weights("v", &[], &[0.5])
                    .random("w", &[3, 2, 3, 3])
                    .node("Pad", &["x", "p", "v"], &["q"])
                    .node("Conv", &["q", "w"], &["y"])
            }),
        ),
        Case::new(
            "pad_average_pool",
            model(13, &[1, 2, 5, 5], |m| {
                m.ints("p", &[8], &[0, 0, 1, 1, 0, 0, 1, 1]).node("Pad", &["x", "p"], &["q"]).node_with(
                    "AveragePool",
                    &["q"],
                    &["y"],
                    &[("kernel_shape", [3, 3].into()), ("strides", [2, 2].into())],
                )
            }),
        ),
        Case::new(
            "pad_relu_max_pool",
            model(13, &[1, 2, 5, 5], |m| {
                m.ints("p", &[8], &[0, 0, 1, 1, 0, 0, 1, 1])
                    .node("Relu", &["x"], &["r"])
                    .node("Pad", &["r", "p"], &["q"])
                    .node_with(
                        "MaxPool",
                        &["q"],
                        &["y"],
                        &[("kernel_shape", [3, 3].into()), ("strides", [2, 2].into())],
                    )
            }),
        ),
        Case::new(
            "pad_max_pool",
            model(13, &[1, 2, 5, 5], |m| {
                m.ints("p", &[8], &[0, 0, 1, 1, 0, 0, 1, 1]).node("Pad", &["x", "p"], &["q"]).node_with(
                    "MaxPool",
                    &["q"],
                    &["y"],
                    &[("kernel_shape", [2, 2].into())],
                )
            }),
        ),
        Case::new(
            "pad_infinite_max_pool",
            model(13, &[1, 2, 5, 5], |m| {
                m.ints("p", &[8], &[0, 0, 1, 1, 0, 0, 1, 1])
                    .weights("v", &[], &[f32::NEG_INFINITY])
                    .node("Pad", &["x", "p", "v"], &["q"])
                    .node_with(
                        "MaxPool",
                        &["q"],
                        &["y"],
                        &[("kernel_shape", [3, 3].into()), ("strides", [2, 2].into())],
                    )
            }),
        ),
        slice_case("slice", &[0, 1], &[1, 4], None, None),
        slice_case("slice_axes", &[1, 2], &[max, -1], Some(&[-1, 1]), None),
        slice_case("slice_steps", &[0, 1], &[max, max], Some(&[1, 2]), Some(&[2, 3])),
        slice_case("slice_backwards", &[-1, 4], &[-max, 0], Some(&[2, 1]), Some(&[-1, -2])),
        slice_case("slice_backwards_all", &[5], &[i64::MIN], Some(&[2]), Some(&[-1])),
        Case::new(
            "slice_backwards_one",
            model(13, &[1, 2], |m| {
                m.ints("s", &[1], &[1])
                    .ints("e", &[1], &[i64::MIN])
                    .ints("a", &[1], &[1])
                    .ints("t", &[1], &[-2])
                    .node("Softmax", &["x"], &["p"])
                    .node("Slice", &["p", "s", "e", "a", "t"], &["q"])
                    .node("Relu", &["q"], &["y"])
            }),
        ),
        slice_case("slice_everything", &[0], &[max], Some(&[0]), None),
        Case::new(
            "slice_attributes",
            one(
                9,
                &[2, 5, 6],
                "Slice",
                &[("starts", [1, -3].into()), ("ends", [4, 1000].into()), ("axes", [1, 2].into())],
            ),
        ),
        Case::new(
            "slice_behind_conv",
            model(13, &[1, 3, 4, 4], |m| {
                m.random("w", &[6, 3, 1, 1])
                    .ints("s", &[1], &[1])
                    .ints("e", &[1], &[5])
                    .ints("a", &[1], &[1])
                    .ints("t", &[1], &[2])
                    .node("Conv", &["x", "w"], &["c"])
                    .node("Slice", &["c", "s", "e", "a", "t"], &["y"])
            }),
        ),
        Case::new(
            "split",
            Onnx::new(13)
                .input("x", &[2, 7])
                .ints("s", &[3], &[1, 4, 2])
                .node_with("Split", &["x", "s"], &["a", "b", "c"], &[("axis", 1.into())])
                .output("a")
                .output("b")
                .output("c"),
        ),
        Case::new(
            "split_unused",
            Onnx::new(11)
                .input("x", &[2, 6, 2])
                .node_with("Split", &["x"], &["a", "b", "c"], &[("axis", 1.into()), ("split", [1, 3, 2].into())])
                .node("Add", &["a", "a"], &["y"])
                .output("y")
                .output("c"),
        ),
        Case::new(
            "split_equal",
            Onnx::new(13)
                .input("x", &[2, 6])
                .node_with("Split", &["x"], &["a", "b"], &[("axis", (-1).into())])
                .node("Mul", &["a", "b"], &["y"])
                .output("y"),
        ),
        Case::new(
            "split_num_outputs",
            Onnx::new(18)
                .input("x", &[7, 2])
                .node_with("Split", &["x"], &["a", "b"], &[("num_outputs", 2.into())])
                .output("a")
                .output("b"),
        ),
        Case::new(
            "gather_scalar",
            model(13, &[2, 5, 3], |m| {
                m.ints("i", &[], &[-2]).node_with("Gather", &["x", "i"], &["y"], &[("axis", 1.into())])
            }),
        ),
        Case::new(
            "gather_list",
            model(13, &[2, 5, 3], |m| {
                m.ints("i", &[4], &[4, 0, 1, 1]).node_with("Gather", &["x", "i"], &["y"], &[("axis", 1.into())])
            }),
        ),
        Case::new(
            "gather_matrix",
            model(13, &[5, 3], |m| m.ints("i", &[2, 2], &[0, -1, 3, 2]).node("Gather", &["x", "i"], &["y"])),
        ),
        Case::new(
            "gather_everything",
            model(13, &[3, 2], |m| {
                m.ints("i", &[3], &[0, 1, 2]).node("Gather", &["x", "i"], &["g"]).node("Relu", &["g"], &["y"])
            }),
        ),
        Case::new("transpose_default", one(13, &[2, 3, 4], "Transpose", &[])),
        Case::new(
            "transpose_nhwc",
            model(13, &[1, 3, 4, 4], |m| {
                m.random("w", &[5, 3, 3, 3]).node("Conv", &["x", "w"], &["c"]).node_with(
                    "Transpose",
                    &["c"],
                    &["y"],
                    &[("perm", [0, 2, 3, 1].into())],
                )
            }),
        ),
        Case::new(
            "transpose_from_nhwc",
            model(13, &[1, 4, 5, 3], |m| {
                m.random("w", &[6, 3, 3, 3])
                    .node_with("Transpose", &["x"], &["t"], &[("perm", [0, 3, 1, 2].into())])
                    .node("Conv", &["t", "w"], &["c"])
                    .node("Relu", &["c"], &["y"])
            }),
        ),
        Case::new(
            "transpose_rank_6",
            one(13, &[1, 2, 3, 2, 2, 2], "Transpose", &[("perm", [5, 0, 3, 1, 4, 2].into())]),
        ),
        Case::new(
            "transpose_elementwise",
            model(13, &[2, 3, 4], |m| {
                m.random("c", &[3])
                    .random("k", &[1, 2, 1])
                    .node_with("Transpose", &["x"], &["t"], &[("perm", [2, 0, 1].into())])
                    .node("Mul", &["t", "c"], &["m"])
                    .node("Add", &["m", "k"], &["y"])
            }),
        ),
        Case::new(
            "reshape_flatten_linear",
            model(13, &[1, 3, 4, 4], |m| {
                m.random("w", &[2, 3, 3, 3])
                    .random("v", &[8, 5])
                    .node("Conv", &["x", "w"], &["c"])
                    .node("Flatten", &["c"], &["f"])
                    .node("MatMul", &["f", "v"], &["y"])
            }),
        ),
        Case::new(
            "reshape_then_relu",
            model(13, &[1, 3, 4], |m| {
                m.random("w", &[4, 3, 1])
                    .ints("s", &[3], &[0, -1, 2])
                    .node("Conv", &["x", "w"], &["c"])
                    .node("Reshape", &["c", "s"], &["r"])
                    .node("Relu", &["r"], &["y"])
            }),
        ),
        Case::new(
            "reshape_affine",
            model(13, &[1, 4, 6], |m| {
                m.random("w", &[4, 4, 1])
                    .random("k", &[4, 1, 1])
                    .ints("s", &[4], &[1, 4, 2, 3])
                    .node("Conv", &["x", "w"], &["c"])
                    .node("Reshape", &["c", "s"], &["r"])
                    .node("Mul", &["r", "k"], &["y"])
            }),
        ),
        Case::new(
            "channel_shuffle",
            model(13, &[1, 6, 2, 2], |m| {
                m.random("w", &[6, 6, 1, 1])
                    .ints("s", &[5], &[1, 2, 3, 2, 2])
                    .ints("t", &[4], &[1, 6, 2, 2])
                    .node("Conv", &["x", "w"], &["c"])
                    .node("Reshape", &["c", "s"], &["r"])
                    .node_with("Transpose", &["r"], &["u"], &[("perm", [0, 2, 1, 3, 4].into())])
                    .node("Reshape", &["u", "t"], &["v"])
                    .node("Relu", &["v"], &["z"])
                    .node("Conv", &["z", "w"], &["y"])
            }),
        ),
        Case::new(
            "squeeze_unsqueeze",
            model(13, &[1, 3, 1, 4], |m| {
                m.ints("a", &[1], &[2])
                    .ints("b", &[2], &[0, -1])
                    .node("Squeeze", &["x", "a"], &["s"])
                    .node("Tanh", &["s"], &["t"])
                    .node("Unsqueeze", &["t", "b"], &["y"])
            }),
        ),
        Case::new(
            "squeeze_attributes",
            model(11, &[1, 3, 1, 4], |m| {
                m.node_with("Squeeze", &["x"], &["s"], &[("axes", [0, 2].into())])
                    .node("Tanh", &["s"], &["t"])
                    .node_with("Unsqueeze", &["t"], &["y"], &[("axes", [1].into())])
            }),
        ),
        Case::new("flatten_axis_0", one(13, &[2, 3, 4], "Flatten", &[("axis", 0.into())])),
        Case::new("flatten_axis_negative", one(13, &[2, 3, 4], "Flatten", &[("axis", (-1).into())])),
        Case::new(
            "reshape_allowzero",
            model(14, &[2, 3], |m| {
                m.ints("s", &[1], &[6]).node_with("Reshape", &["x", "s"], &["y"], &[("allowzero", 1.into())])
            }),
        ),
    ]
}

fn joins() -> Vec<Case> {
    let join = |axis: i64| -> [(&'static str, Attr); 1] { [("axis", axis.into())] };
    let mut cases = vec![];
    for axis in [0, 1, 2, -1] {
        let name = axis.to_string().replace('-', "minus_");
        cases.push(Case::new(
            &format!("concat_{name}"),
            model(13, &[2, 3, 4], |m| {
                m.random("w", &[4, 4]).node("MatMul", &["x", "w"], &["p"]).node_with(
                    "Concat",
                    &["x", "p"],
                    &["y"],
                    &join(axis),
                )
            }),
        ));
    }
    cases.extend([
        Case::new(
            "concat_self",
            model(13, &[1, 3, 4], |m| {
                m.node("Relu", &["x"], &["r"]).node_with("Concat", &["r", "x", "r"], &["y"], &join(1))
            }),
        ),
        Case::new(
            "concat_one",
            model(13, &[1, 3], |m| m.node("Tanh", &["x"], &["t"]).node_with("Concat", &["t"], &["y"], &join(1))),
        ),
        Case::new(
            "concat_nested",
            model(13, &[1, 3, 4], |m| {
                m.random("w", &[2, 3, 1])
                    .node("Conv", &["x", "w"], &["c"])
                    .node_with("Concat", &["x", "c"], &["j"], &join(1))
                    .random("v", &[2, 5, 1])
                    .node("Conv", &["j", "v"], &["d"])
                    .node_with("Concat", &["j", "d"], &["k"], &join(1))
                    .node_with("Concat", &["k", "c", "j"], &["y"], &join(1))
            }),
        ),
        Case::new(
            "concat_constant",
            model(13, &[1, 3, 4], |m| m.random("c", &[1, 2, 4]).node_with("Concat", &["c", "x"], &["y"], &join(1))),
        ),
        Case::new(
            "concat_fixed_ranges",
            model(13, &[2, 5], |m| {
                m.node("Sigmoid", &["x"], &["s"])
                    .node("Tanh", &["x"], &["t"])
                    .node("Softmax", &["x"], &["u"])
                    .node("HardSigmoid", &["x"], &["h"])
                    .node_with("Concat", &["s", "t", "u", "h"], &["y"], &join(1))
            }),
        ),
        Case::new(
            "concat_probabilities",
            model(13, &[1, 5], |m| {
                m.node("Sigmoid", &["x"], &["s"]).node("Softmax", &["x"], &["u"]).node_with(
                    "Concat",
                    &["s", "u"],
                    &["y"],
                    &join(1),
                )
            }),
        ),
        Case::new(
            "concat_sigmoid_also_used",
            model(13, &[1, 5], |m| {
                m.node("Sigmoid", &["x"], &["s"])
                    .node("Mul", &["x", "x"], &["q"])
                    .node_with("Concat", &["s", "q"], &["j"], &join(1))
                    .output("j")
                    .node("Mul", &["s", "x"], &["y"])
            }),
        )
        .magnitude(4.0),
        Case::new(
            "concat_pool_conv",
            model(13, &[1, 3, 6, 6], |m| {
                m.random("w", &[4, 3, 2, 2])
                    .node_with("Conv", &["x", "w"], &["c"], &[("strides", [2, 2].into())])
                    .node_with(
                        "MaxPool",
                        &["x"],
                        &["p"],
                        &[("kernel_shape", [2, 2].into()), ("strides", [2, 2].into())],
                    )
                    .node_with("Concat", &["c", "p"], &["j"], &join(1))
                    .node("Relu", &["j"], &["y"])
            }),
        ),
        Case::new(
            "concat_pad_sigmoid",
            model(13, &[1, 2, 4], |m| {
                m.ints("p", &[6], &[0, 0, 1, 0, 0, 1]).weights("v", &[], &[2.0]).node("Sigmoid", &["x"], &["s"]).node(
                    "Pad",
                    &["s", "p", "v"],
                    &["y"],
                )
            }),
        ),
        Case::new(
            "concat_two_inputs",
            Onnx::new(13)
                .input("a", &[1, 2])
                .input("b", &[1, 3])
                .node_with("Concat", &["a", "b"], &["y"], &join(1))
                .output("y"),
        ),
        Case::new(
            "concat_slices",
            model(13, &[1, 6, 2], |m| {
                m.node_with("Split", &["x"], &["a", "b"], &join(1)).node("Relu", &["a"], &["r"]).node_with(
                    "Concat",
                    &["b", "r"],
                    &["y"],
                    &join(1),
                )
            }),
        ),
    ]);
    cases
}

fn graphs() -> Vec<Case> {
    vec![
        Case::new(
            "input_is_output",
            Onnx::new(13)
                .input("x", &[1, 3])
                .node("Identity", &["x"], &["y"])
                .output("y")
                .node("Relu", &["x"], &["z"])
                .output("z"),
        ),
        Case::new(
            "input_itself_is_output",
            Onnx::new(13).input("x", &[1, 3]).node("Relu", &["x"], &["z"]).output("z").output("x"),
        ),
        Case::new(
            "input_reshaped_is_output",
            model(13, &[2, 3], |m| m.ints("s", &[1], &[6]).node("Reshape", &["x", "s"], &["y"])),
        ),
        Case::new("input_transposed_is_output", one(13, &[2, 3], "Transpose", &[])),
        Case::new(
            "two_outputs_of_one_tensor",
            model(13, &[1, 3, 4], |m| {
                m.random("w", &[5, 3, 1]).node("Conv", &["x", "w"], &["y"]).node("Identity", &["y"], &["z"]).output("z")
            }),
        ),
        Case::new(
            "intermediate_output",
            model(13, &[1, 3, 4], |m| {
                m.random("w", &[3, 3, 1])
                    .node("Conv", &["x", "w"], &["c"])
                    .output("c")
                    .node("Relu", &["c"], &["r"])
                    .node("Conv", &["r", "w"], &["y"])
            }),
        )
        .steps(3.0),
        Case::new(
            "intermediate_output_in_place",
            model(13, &[1, 3, 4], |m| {
                m.node("Tanh", &["x"], &["t"])
                    .output("t")
                    .node("Sigmoid", &["t"], &["s"])
                    .node("Add", &["s", "t"], &["u"])
                    .node("Mul", &["u", "s"], &["y"])
                    .output("s")
            }),
        )
        .steps(3.0),
        Case::new(
            "alias_after_in_place",
            model(13, &[2, 6], |m| {
                m.ints("s", &[2], &[3, 4])
                    .random("w", &[6, 6])
                    .node("MatMul", &["x", "w"], &["t"])
                    .node("Reshape", &["t", "s"], &["r"])
                    .node("Sigmoid", &["t"], &["a"])
                    .node("Tanh", &["r"], &["b"])
                    .node("Reshape", &["a", "s"], &["c"])
                    .node("Add", &["b", "c"], &["y"])
            }),
        ),
        Case::new(
            "reshaped_output_and_use",
            model(13, &[2, 6], |m| {
                m.ints("s", &[2], &[3, 4])
                    .node("Tanh", &["x"], &["t"])
                    .node("Reshape", &["t", "s"], &["y"])
                    .node("Transpose", &["t"], &["u"])
                    .output("u")
                    .node("Sigmoid", &["t"], &["v"])
                    .output("v")
                    .output("t")
            }),
        ),
        Case::new(
            "several_inputs_and_outputs",
            Onnx::new(13)
                .input("a", &[1, 4])
                .input("b", &[4, 1])
                .input("c", &[1])
                .node("Add", &["a", "b"], &["s"])
                .node("Mul", &["s", "c"], &["p"])
                .node("Sub", &["p", "a"], &["d"])
                .output("d")
                .output("s"),
        ),
        Case::new(
            "shape_arithmetic",
            Onnx::new(13)
                .typed_input("x", 1, &["batch", "3", "4", "4"])
                .random("w", &[2, 3, 3, 3])
                .ints("zero", &[], &[0])
                .ints("axes", &[1], &[0])
                .ints("minus", &[1], &[-1])
                .node("Conv", &["x", "w"], &["c"])
                .node("Shape", &["c"], &["s"])
                .node("Gather", &["s", "zero"], &["g"])
                .node("Unsqueeze", &["g", "axes"], &["u"])
                .node_with("Concat", &["u", "minus"], &["t"], &[("axis", 0.into())])
                .node_with("Cast", &["t"], &["i"], &[("to", 7.into())])
                .node("Reshape", &["c", "i"], &["r"])
                .node("Relu", &["r"], &["y"])
                .output("y"),
        ),
        Case::new(
            "pinned_batch",
            Onnx::new(13)
                .typed_input("x", 1, &["batch", "3"])
                .random("w", &[3, 2])
                .node("MatMul", &["x", "w"], &["y"])
                .output("y"),
        )
        .pin("batch", 3),
        Case::new(
            "constant_of_shape",
            model(13, &[1, 3], |m| {
                m.ints("s", &[2], &[1, 3])
                    .node("ConstantOfShape", &["s"], &["c"])
                    .node("Add", &["x", "c"], &["a"])
                    .node_with("Constant", &[], &["k"], &[("value_float", 0.5f32.into())])
                    .node("Mul", &["a", "k"], &["y"])
            }),
        ),
        Case::new(
            "cast_dropout",
            model(13, &[1, 3], |m| {
                m.node_with("Cast", &["x"], &["c"], &[("to", 1.into())]).node("Dropout", &["c"], &["d"]).node(
                    "Relu",
                    &["d"],
                    &["y"],
                )
            }),
        ),
        Case::new("rank_1", model(13, &[7], |m| m.node("Tanh", &["x"], &["t"]).node("Add", &["t", "x"], &["y"]))),
        Case::new("one_element", model(13, &[1], |m| m.node("Tanh", &["x"], &["y"]))),
        Case::new(
            "squeeze_excite",
            model(13, &[1, 4, 5, 5], |m| {
                m.random("w", &[2, 4, 1, 1])
                    .random("v", &[4, 2, 1, 1])
                    .node("GlobalAveragePool", &["x"], &["p"])
                    .node("Conv", &["p", "w"], &["a"])
                    .node("Relu", &["a"], &["b"])
                    .node("Conv", &["b", "v"], &["c"])
                    .node("HardSigmoid", &["c"], &["d"])
                    .node("Mul", &["x", "d"], &["y"])
            }),
        ),
        Case::new("opset_22", one(22, &[1, 2, 6, 6], "MaxPool", &[("kernel_shape", [2, 2].into())])),
        Case::new("opset_21_linear", model(21, &[1, 6], |m| m.random("w", &[6, 4]).node("Gemm", &["x", "w"], &["y"]))),
    ]
}

/// Numbers at the ends of what 32-bit floats hold.
fn extremes() -> Vec<Case> {
    let conv = |name: &str, weights: &[f32], bias: &[f32]| {
        Case::new(
            name,
            model(13, &[1, 2, 4], |m| {
                m.weights("w", &[3, 2, 1], weights).weights("b", &[3], bias).node("Conv", &["x", "w", "b"], &["y"])
            }),
        )
    };
    vec![
        conv("tiny_channel", &[1.0, -0.5, 1e-30, -1e-30, 0.3, 0.2], &[0.1, 0.7, 0.0]),
        conv("denormal_channel", &[1.0, -0.5, 1e-42, -1e-41, 0.3, 0.2], &[0.1, -0.7, 0.0]),
        conv("zero_channel", &[0.0, 0.0, 1.0, 1.0, 0.0, 0.0], &[0.5, 0.0, 0.0]),
        conv("all_constant", &[0.0; 6], &[0.5, 0.25, -1.0]),
        conv("huge_weights", &[1e20, -1e20, 3e19, 2e20, 1e18, 1e20], &[0.0, 1e20, 0.0]),
        conv("small_weights", &[1e-20, -1e-20, 3e-19, 2e-20, 1e-18, 1e-20], &[0.0, 1e-19, 0.0]),
        conv("large_bias", &[1e-4, -1e-4, 1e-3, 1e-4, 1e-5, 1e-4], &[100.0, -100.0, 50.0]).steps(2.0),
        Case::new(
            "affine_spread",
            model(13, &[1, 3, 4], |m| m.weights("k", &[3, 1], &[1e-6, 1.0, 1e3]).node("Mul", &["x", "k"], &["y"])),
        ),
        Case::new(
            "affine_spread_conv",
            model(13, &[1, 3, 4], |m| {
                m.weights("k", &[3, 1], &[1e-6, 1.0, 1e3])
                    .random("w", &[2, 3, 1])
                    .node("Mul", &["x", "k"], &["z"])
                    .node("Conv", &["z", "w"], &["y"])
            }),
        ),
        Case::new(
            "add_of_unequal",
            model(13, &[1, 6], |m| {
                m.weights("k", &[], &[1e-7]).node("Tanh", &["x"], &["t"]).node("Mul", &["x", "k"], &["s"]).node(
                    "Add",
                    &["t", "s"],
                    &["y"],
                )
            }),
        ),
        Case::new(
            "difference_vanishes",
            model(13, &[1, 6], |m| {
                m.weights("k", &[6, 6], &identity(6, 1.000_001)).node("MatMul", &["x", "k"], &["s"]).node(
                    "Sub",
                    &["s", "x"],
                    &["y"],
                )
            }),
        )
        .steps(f64::INFINITY),
        Case::new(
            "product_vanishes",
            Onnx::new(13)
                .input("a", &[1, 6])
                .weights("lo", &[], &[0.0])
                .weights("hi", &[], &[1e-9])
                .node("Clip", &["a", "lo", "hi"], &["c"])
                .node("Mul", &["c", "a"], &["y"])
                .output("y"),
        ),
        Case::new(
            "huge_inputs",
            model(13, &[1, 3, 4], |m| m.random("w", &[2, 3, 1]).node("Conv", &["x", "w"], &["y"])),
        )
        .magnitude(1e30),
        Case::new(
            "tiny_inputs",
            model(13, &[1, 3, 4], |m| m.random("w", &[2, 3, 1]).node("Conv", &["x", "w"], &["y"])),
        )
        .magnitude(1e-25),
        Case::new(
            "relu_of_negative",
            model(13, &[1, 3], |m| {
                m.weights("c", &[], &[-5.0]).node("Add", &["x", "c"], &["s"]).node("Relu", &["s"], &["r"]).node(
                    "Add",
                    &["r", "x"],
                    &["y"],
                )
            }),
        ),
        Case::new(
            "constant_result",
            model(13, &[1, 3], |m| {
                m.weights("c", &[], &[0.0]).node("Mul", &["x", "c"], &["s"]).node("Add", &["s", "x"], &["y"])
            }),
        ),
    ]
}

/// Sums that the layer of one term computes, in all the ways in which that may not be possible.
fn fused_sums() -> Vec<Case> {
    let conv = |m: Onnx, x: &str, y: &str| {
        m.random(&format!("w_{y}"), &[4, 4, 3, 3]).node_with(
            "Conv",
            &[x, &format!("w_{y}")],
            &[y],
            &[("pads", [1, 1, 1, 1].into())],
        )
    };
    let dims = [1, 4, 5, 6];
    let case = |name: &str, body: &dyn Fn(Onnx) -> Onnx| Case::new(name, model(14, &dims, body)).steps(4.0);
    vec![
        case("sum_of_two_convolutions", &|m| {
            conv(conv(m, "x", "a"), "x", "b").node("Add", &["a", "b"], &["s"]).node("Relu", &["s"], &["y"])
        }),
        case("difference_of_two_convolutions", &|m| conv(conv(m, "x", "a"), "a", "b").node("Sub", &["a", "b"], &["y"])),
        case("sum_in_place_of_a_later_use", &|m| {
            let m = conv(conv(conv(m, "x", "a"), "a", "b"), "b", "c");
            conv(m.node("Add", &["c", "a"], &["s"]), "s", "d").node("Add", &["d", "a"], &["y"])
        }),
        case("sum_of_a_convolution_and_its_operand", &|m| {
            let m = conv(m, "x", "a").random("p", &[4, 4, 1, 1]).node("Conv", &["a", "p"], &["b"]);
            conv(m.node("Add", &["b", "a"], &["s"]), "s", "y")
        }),
        case("sum_with_a_term_that_is_an_output", &|m| {
            conv(conv(m, "x", "a"), "a", "b").output("b").node("Add", &["b", "a"], &["y"])
        }),
        case("sum_of_a_convolution_and_itself", &|m| conv(m, "x", "a").node("Add", &["a", "a"], &["y"])),
        case("sum_with_broadcasting", &|m| {
            let m = conv(conv(m, "x", "a"), "x", "b");
            m.node("GlobalAveragePool", &["b"], &["g"]).node("Add", &["a", "g"], &["y"])
        }),
        Case::new(
            "sum_of_products",
            model(14, &[3, 6], |m| {
                m.random("v", &[6, 6])
                    .random("w", &[6, 6])
                    .node("MatMul", &["x", "v"], &["a"])
                    .node("Relu", &["a"], &["r"])
                    .node("MatMul", &["r", "w"], &["b"])
                    .node("Add", &["b", "r"], &["s"])
                    .node("Sigmoid", &["s"], &["y"])
            }),
        ),
    ]
}

/// Functions of one number, each where it is interesting.
fn tables() -> Vec<Case> {
    let plain = |op: &str, lo: f32, hi: f32| {
        Case::new(&format!("table_{}", op.to_lowercase()), one(20, &[2, 30], op, &[])).between(lo, hi)
    };
    let with = |name: &str, op: &str, attrs: Attrs| Case::new(name, one(24, &[2, 30], op, attrs)).magnitude(3.0);
    let power = |name: &str, exponent: f32, lo: f32| {
        let m = model(15, &[2, 30], |m| m.weights("e", &[], &[exponent]).node("Pow", &["x", "e"], &["y"]));
        Case::new(name, m).between(lo, 3.0)
    };
    vec![
        plain("Abs", -2.0, 1.0),
        plain("Acos", -0.9, 0.9),
        plain("Acosh", 1.5, 4.0),
        plain("Asin", -0.9, 0.9),
        plain("Asinh", -4.0, 4.0),
        plain("Atan", -4.0, 4.0),
        plain("Atanh", -0.8, 0.8),
        plain("Ceil", -4.0, 4.0),
        plain("Cos", -7.0, 7.0),
        plain("Cosh", -3.0, 3.0),
        plain("Erf", -3.0, 3.0),
        plain("Exp", -3.0, 2.0),
        plain("Floor", -4.0, 4.0),
        plain("Log", 0.5, 9.0),
        plain("Mish", -4.0, 4.0),
        plain("Neg", -4.0, 4.0),
        plain("Reciprocal", 0.5, 4.0),
        plain("Round", -4.0, 4.0),
        plain("Sign", -1.0, 1.0),
        plain("Sin", -7.0, 7.0),
        plain("Sinh", -3.0, 3.0),
        plain("Softplus", -6.0, 6.0),
        plain("Softsign", -6.0, 6.0),
        plain("Sqrt", 0.1, 9.0),
        plain("Tan", -1.2, 1.2),
        with("elu", "Elu", &[("alpha", 1.5f32.into())]),
        with("selu", "Selu", &[]),
        with("selu_attributes", "Selu", &[("alpha", 2.0f32.into()), ("gamma", 0.5f32.into())]),
        with("thresholded_relu", "ThresholdedRelu", &[("alpha", 0.7f32.into())]),
        with("shrink_soft", "Shrink", &[("lambd", 0.5f32.into()), ("bias", 0.5f32.into())]),
        with("gelu_exact", "Gelu", &[]),
        with("gelu_tanh", "Gelu", &[("approximate", "tanh".into())]),
        power("pow_square", 2.0, -2.0),
        power("pow_cube", 3.0, -2.0),
        power("pow_root", 0.5, 0.1),
        power("pow_reciprocal", -1.0, 0.5),
        Case::new(
            "pow_of_constant",
            model(15, &[2, 30], |m| m.weights("b", &[], &[2.0]).node("Pow", &["b", "x"], &["y"])),
        )
        .magnitude(3.0),
        Case::new(
            "log_of_mean_square",
            model(13, &[4, 16], |m| {
                m.node("Mul", &["x", "x"], &["s"])
                    .weights("floor", &[], &[0.1])
                    .node_with("ReduceMean", &["s"], &["m"], &[("axes", [1].into())])
                    .node("Add", &["m", "floor"], &["a"])
                    .node("Log", &["a"], &["y"])
            }),
        ),
    ]
}

/// Reductions other than the mean, over any axes.
fn more_reductions() -> Vec<Case> {
    let dims = [2, 3, 4, 5];
    let case = |name: &str, op: &str, axes: &[i64], keep: i64| {
        let m = model(18, &dims, |m| {
            m.ints("axes", &[axes.len() as i64], axes).node_with(
                op,
                &["x", "axes"],
                &["y"],
                &[("keepdims", keep.into())],
            )
        });
        Case::new(name, m)
    };
    let old = |name: &str, op: &str, attrs: Attrs| Case::new(name, one(11, &dims, op, attrs));
    vec![
        case("reduce_max_channels", "ReduceMax", &[1], 1),
        case("reduce_max_all", "ReduceMax", &[0, 1, 2, 3], 0),
        case("reduce_min_outer", "ReduceMin", &[0, -1], 0),
        case("reduce_sum_inner", "ReduceSum", &[3], 0),
        case("reduce_sum_spatial", "ReduceSum", &[2, 3], 1),
        case("reduce_l1", "ReduceL1", &[1, 3], 1),
        case("reduce_l2", "ReduceL2", &[-1], 0),
        case("reduce_l2_all", "ReduceL2", &[0, 1, 2, 3], 1),
        case("reduce_sum_square", "ReduceSumSquare", &[2], 1),
        case("reduce_log_sum", "ReduceLogSum", &[1, 2], 0).between(0.5, 2.0),
        case("reduce_log_sum_exp", "ReduceLogSumExp", &[1], 1).magnitude(3.0),
        case("reduce_log_sum_exp_outer", "ReduceLogSumExp", &[0, 2], 0).magnitude(3.0),
        old("reduce_max_attribute", "ReduceMax", &[("axes", [2, 3].into()), ("keepdims", 0.into())]),
        old("reduce_l2_no_axes", "ReduceL2", &[]),
        Case::new(
            "reduce_max_behind_conv",
            model(13, &[1, 3, 6, 6], |m| {
                m.random("w", &[4, 3, 3, 3]).node("Conv", &["x", "w"], &["c"]).node_with(
                    "ReduceMax",
                    &["c"],
                    &["y"],
                    &[("axes", [2, 3].into()), ("keepdims", 0.into())],
                )
            }),
        ),
        Case::new(
            "reduce_sum_square_long",
            model(13, &[1, 40000], |m| m.node_with("ReduceSumSquare", &["x"], &["y"], &[("axes", [1].into())])),
        ),
        Case::new("log_softmax_last", one(13, &[3, 10], "LogSoftmax", &[])).magnitude(3.0),
        Case::new("log_softmax_channels", one(13, &[2, 4, 3, 2], "LogSoftmax", &[("axis", 1.into())])).magnitude(3.0),
        Case::new("log_softmax_flattened", one(11, &[2, 4, 3], "LogSoftmax", &[("axis", 1.into())])).magnitude(3.0),
        Case::new("log_softmax_single", one(13, &[2, 1], "LogSoftmax", &[])),
        Case::new("lrn_odd", one(13, &[1, 7, 3, 4], "LRN", &[("size", 3.into()), ("alpha", 0.5f32.into())])),
        Case::new(
            "lrn_even",
            one(13, &[2, 5, 3, 4], "LRN", &[("size", 4.into()), ("bias", 2.0f32.into()), ("beta", 0.5f32.into())]),
        ),
        Case::new("lrn_defaults", one(13, &[1, 3, 8], "LRN", &[("size", 5.into())])),
    ]
}

fn resize_case(name: &str, dims: &[i64], scales: &[f32], attrs: Attrs) -> Case {
    let m = model(19, dims, |m| {
        m.weights("s", &[scales.len() as i64], scales).node_with("Resize", &["x", "", "s"], &["y"], attrs)
    });
    Case::new(name, m)
}

fn resize_to(name: &str, dims: &[i64], sizes: &[i64], attrs: Attrs) -> Case {
    let m = model(19, dims, |m| {
        m.ints("s", &[sizes.len() as i64], sizes).node_with("Resize", &["x", "", "", "s"], &["y"], attrs)
    });
    Case::new(name, m)
}

fn resizing() -> Vec<Case> {
    let image = [1, 3, 4, 5];
    let mut cases = vec![
        resize_case("resize_twice_nearest", &image, &[1.0, 1.0, 2.0, 2.0], &[("mode", "nearest".into())]),
        resize_case("resize_half_linear", &image, &[1.0, 1.0, 0.5, 0.6], &[("mode", "linear".into())]),
        resize_to("resize_one_axis", &image, &[1, 3, 4, 11], &[("mode", "linear".into())]),
        resize_to("resize_channels", &image, &[1, 5, 4, 5], &[("mode", "linear".into())]),
        resize_to("resize_three_axes", &[1, 1, 3, 4, 5], &[1, 1, 5, 6, 7], &[("mode", "linear".into())]),
        resize_to("resize_to_one", &image, &[1, 3, 1, 1], &[("mode", "linear".into())]),
        resize_to("resize_from_one", &[1, 2, 1, 1], &[1, 2, 3, 4], &[("mode", "cubic".into())]),
        resize_to("resize_1d", &[2, 3, 7], &[2, 3, 12], &[("mode", "cubic".into())]),
        resize_to("resize_axes", &image, &[7, 3], &[("mode", "linear".into()), ("axes", [3, 2].into())]),
        resize_to(
            "resize_not_larger",
            &image,
            &[9, 6],
            &[("mode", "nearest".into()), ("axes", [2, 3].into()), ("keep_aspect_ratio_policy", "not_larger".into())],
        ),
        resize_to(
            "resize_not_smaller",
            &image,
            &[9, 6],
            &[("mode", "linear".into()), ("axes", [2, 3].into()), ("keep_aspect_ratio_policy", "not_smaller".into())],
        ),
        resize_to(
            "resize_antialias_linear",
            &[1, 2, 9, 8],
            &[1, 2, 4, 3],
            &[("mode", "linear".into()), ("antialias", 1.into())],
        ),
        resize_to(
            "resize_antialias_cubic",
            &[1, 2, 9, 8],
            &[1, 2, 4, 3],
            &[("mode", "cubic".into()), ("antialias", 1.into())],
        ),
        resize_to(
            "resize_cubic_exclude",
            &image,
            &[1, 3, 7, 9],
            &[("mode", "cubic".into()), ("exclude_outside", 1.into()), ("cubic_coeff_a", (-0.5f32).into())],
        ),
        Case::new(
            "resize_behind_conv",
            model(13, &[1, 3, 6, 6], |m| {
                m.random("w", &[4, 3, 3, 3])
                    .weights("s", &[4], &[1.0, 1.0, 2.0, 2.0])
                    .node("Conv", &["x", "w"], &["c"])
                    .node_with("Resize", &["c", "", "s"], &["r"], &[("mode", "linear".into())])
                    .random("v", &[2, 4, 3, 3])
                    .node_with("Conv", &["r", "v"], &["y"], &[("pads", [1, 1, 1, 1].into())])
            }),
        )
        .steps(4.0),
        Case::new("tile", model(13, &[2, 3, 4], |m| m.ints("r", &[3], &[2, 1, 3]).node("Tile", &["x", "r"], &["y"]))),
        Case::new("expand", model(13, &[3, 1], |m| m.ints("s", &[3], &[2, 1, 6]).node("Expand", &["x", "s"], &["y"]))),
    ];
    for mode in ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"] {
        for (kind, sizes) in [("linear", [1, 3, 7, 3]), ("cubic", [1, 3, 3, 8]), ("nearest", [1, 3, 6, 4])] {
            let attrs = [("mode", kind.into()), ("coordinate_transformation_mode", mode.into())];
            cases.push(resize_to(&format!("resize_{mode}_{kind}"), &image, &sizes, &attrs));
        }
    }
    for nearest in ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"] {
        let attrs = [
            ("mode", "nearest".into()),
            ("nearest_mode", nearest.into()),
            ("coordinate_transformation_mode", "asymmetric".into()),
        ];
        cases.push(resize_case(&format!("resize_nearest_{nearest}"), &image, &[1.0, 1.0, 1.5, 0.6], &attrs));
    }
    cases
}

fn transposed_case(name: &str, dims: &[i64], weights: &[i64], attrs: Attrs) -> Case {
    let groups = attrs.iter().find(|(name, _)| *name == "group").map_or(1, |(_, value)| match value {
        Attr::Int(groups) => *groups,
        _ => 1,
    });
    let model = model(11, dims, |m| {
        m.random("w", weights).random("b", &[weights[1] * groups]).node_with(
            "ConvTranspose",
            &["x", "w", "b"],
            &["y"],
            attrs,
        )
    });
    Case::new(name, model).steps(3.0)
}

fn transposed_convolutions() -> Vec<Case> {
    let image = [1, 3, 5, 4];
    let twice: (&str, Attr) = ("strides", [2, 2].into());
    vec![
        transposed_case("deconv_dense", &image, &[3, 4, 3, 3], &[]),
        transposed_case("deconv_2x2_stride_2", &image, &[3, 4, 2, 2], std::slice::from_ref(&twice)),
        transposed_case("deconv_3x3_stride_2", &image, &[3, 4, 3, 3], std::slice::from_ref(&twice)),
        transposed_case("deconv_4x4_padded", &image, &[3, 4, 4, 4], &[twice.clone(), ("pads", [1, 1, 1, 1].into())]),
        transposed_case(
            "deconv_output_padding",
            &image,
            &[3, 4, 3, 3],
            &[twice.clone(), ("pads", [1, 1, 1, 1].into()), ("output_padding", [1, 1].into())],
        ),
        transposed_case("deconv_kernel_below_stride", &image, &[3, 2, 1, 2], &[("strides", [3, 2].into())]),
        transposed_case(
            "deconv_uneven",
            &image,
            &[3, 2, 5, 3],
            &[("strides", [3, 2].into()), ("pads", [2, 0, 1, 1].into())],
        ),
        transposed_case("deconv_dilated", &image, &[3, 2, 3, 2], &[twice.clone(), ("dilations", [2, 3].into())]),
        transposed_case("deconv_cut_deep", &image, &[3, 2, 3, 3], &[("pads", [3, 3, 2, 2].into()), twice.clone()]),
        transposed_case("deconv_groups", &[1, 4, 5, 4], &[4, 3, 3, 3], &[("group", 2.into()), twice.clone()]),
        transposed_case("deconv_depthwise", &[1, 4, 5, 4], &[4, 1, 4, 4], &[("group", 4.into()), twice.clone()]),
        transposed_case(
            "deconv_same_upper",
            &image,
            &[3, 2, 3, 3],
            &[("auto_pad", "SAME_UPPER".into()), twice.clone()],
        ),
        transposed_case(
            "deconv_output_shape",
            &image,
            &[3, 2, 3, 3],
            &[("output_shape", [8, 6].into()), ("kernel_shape", [3, 3].into()), twice.clone()],
        ),
        transposed_case("deconv_1d", &[2, 3, 7], &[3, 4, 4], &[("strides", [3].into()), ("pads", [1, 0].into())]),
        transposed_case("deconv_3d", &[1, 2, 3, 2, 3], &[2, 2, 2, 3, 2], &[("strides", [2, 1, 2].into())]),
        Case::new(
            "deconv_bn_relu",
            model(13, &image, |m| {
                let m = m.random("w", &[3, 4, 4, 4]);
                let attrs = [("strides", [2, 2].into()), ("pads", [1, 1, 1, 1].into())];
                let m = m.node_with("ConvTranspose", &["x", "w"], &["c"], &attrs);
                batch_norm(m, "c", "b", 4).node("Relu", &["b"], &["y"])
            }),
        )
        .steps(4.0),
        Case::new("depth_to_space", one(13, &[1, 8, 2, 3], "DepthToSpace", &[("blocksize", 2.into())])),
        Case::new(
            "depth_to_space_crd",
            one(13, &[2, 9, 2, 3], "DepthToSpace", &[("blocksize", 3.into()), ("mode", "CRD".into())]),
        ),
        Case::new("space_to_depth", one(13, &[1, 2, 4, 6], "SpaceToDepth", &[("blocksize", 2.into())])),
    ]
}

/// Operators on several tensors: extremes, sums, quotients, comparisons, choices.
fn several_operands() -> Vec<Case> {
    let pair = |name: &str, op: &str, a: &[i64], b: &[i64]| {
        let model = Onnx::new(13).input("a", a).input("b", b).node(op, &["a", "b"], &["y"]).output("y");
        Case::new(name, model)
    };
    let triple = |name: &str, op: &str| {
        let model = Onnx::new(13).input("a", &[2, 3, 4]).input("b", &[3, 1]).input("c", &[1, 4]);
        Case::new(name, model.node(op, &["a", "b", "c"], &["y"]).output("y"))
    };
    let chosen = |name: &str, relation: &str| {
        let model = Onnx::new(16).input("a", &[2, 3, 4]).input("b", &[3, 1]);
        let model = model.node(relation, &["a", "b"], &["c"]).node("Where", &["c", "a", "b"], &["y"]);
        Case::new(name, model.output("y"))
    };
    vec![
        pair("max_of_two", "Max", &[2, 3, 4], &[3, 1]),
        pair("min_of_two", "Min", &[4], &[2, 3, 1]),
        triple("max_of_three", "Max"),
        triple("sum_of_three", "Sum"),
        triple("mean_of_three", "Mean"),
        pair("sum_of_two", "Sum", &[2, 3], &[3]),
        pair("div_of_two", "Div", &[2, 3, 4], &[3, 1]).between(0.5, 2.0),
        pair("div_negative", "Div", &[2, 3, 4], &[4]).between(-2.0, -0.5),
        Case::new(
            "div_of_constant",
            model(13, &[3, 4], |m| m.weights("c", &[], &[2.0]).node("Div", &["c", "x"], &["y"])),
        )
        .between(0.5, 2.0),
        Case::new("div_of_constants", model(13, &[3, 4], |m| m.random("c", &[3, 1]).node("Div", &["c", "x"], &["y"])))
            .between(0.5, 2.0),
        Case::new(
            "max_with_number",
            model(13, &[3, 4], |m| m.weights("c", &[], &[0.25]).node("Max", &["x", "c"], &["y"])),
        ),
        Case::new(
            "min_with_tensor",
            model(13, &[3, 4], |m| m.random("c", &[2, 1, 4]).node("Min", &["x", "c"], &["y"])),
        ),
        Case::new(
            "prelu_channels",
            model(16, &[1, 3, 4, 4], |m| m.random("s", &[3, 1, 1]).node("PRelu", &["x", "s"], &["y"])),
        ),
        Case::new(
            "prelu_one",
            model(16, &[1, 3, 4, 4], |m| m.weights("s", &[1], &[0.2]).node("PRelu", &["x", "s"], &["y"])),
        ),
        Case::new("prelu_all", model(16, &[2, 3, 4], |m| m.random("s", &[3, 4]).node("PRelu", &["x", "s"], &["y"])))
            .between(-3.0, 1.0),
        Case::new(
            "prelu_behind_conv",
            model(16, &[1, 3, 6, 6], |m| {
                m.random("w", &[4, 3, 3, 3]).random("s", &[4, 1, 1]).node("Conv", &["x", "w"], &["c"]).node(
                    "PRelu",
                    &["c", "s"],
                    &["y"],
                )
            }),
        ),
        chosen("where_less", "Less"),
        chosen("where_greater_or_equal", "GreaterOrEqual"),
        Case::new(
            "where_constant_mask",
            model(16, &[2, 4], |m| {
                m.initializer("c", 9, &[2, 4], vec![1, 0, 0, 1, 0, 1, 1, 0]).weights("z", &[], &[0.5]).node(
                    "Where",
                    &["c", "x", "z"],
                    &["y"],
                )
            }),
        ),
        Case::new(
            "logic",
            model(16, &[3, 5], |m| {
                m.weights("lo", &[], &[-0.5])
                    .weights("hi", &[], &[0.5])
                    .node("Greater", &["x", "lo"], &["a"])
                    .node("Less", &["x", "hi"], &["b"])
                    .node("And", &["a", "b"], &["c"])
                    .node("Not", &["c"], &["n"])
                    .node("Xor", &["n", "a"], &["o"])
                    .node_with("Cast", &["o"], &["f"], &[("to", 1.into())])
                    .node("Mul", &["f", "x"], &["y"])
            }),
        ),
        Case::new("trilu_lower", one(14, &[2, 4, 5], "Trilu", &[("upper", 0.into())])),
        Case::new(
            "cum_sum",
            model(14, &[2, 5, 3], |m| {
                m.ints("a", &[], &[1]).node_with("CumSum", &["x", "a"], &["y"], &[("reverse", 1.into())])
            }),
        )
        .steps(3.0),
    ]
}

/// Operators whose result or operand are positions.
fn positions() -> Vec<Case> {
    let table = |name: &str, indices: &[i64], axis: i64| {
        let dims: Vec<String> = indices.iter().map(i64::to_string).collect();
        let dims: Vec<&str> = dims.iter().map(String::as_str).collect();
        let model = Onnx::new(13).typed_input("i", 7, &dims).random("t", &[6, 4]);
        let model = model.node_with("Gather", &["t", "i"], &["y"], &[("axis", axis.into())]).output("y");
        Case::new(name, model).between(-4.0, 3.9)
    };
    let top = |name: &str, dims: &[i64], k: i64, attrs: Attrs| {
        let m = Onnx::new(11).input("x", dims).ints("k", &[1], &[k]);
        Case::new(name, m.node_with("TopK", &["x", "k"], &["y", "i"], attrs).output("y").output("i"))
    };
    vec![
        table("embedding", &[2, 5], 0),
        table("embedding_columns", &[3], 1),
        top("top_k", &[3, 9], 4, &[]),
        top("top_k_smallest", &[3, 9], 2, &[("largest", 0.into())]),
        top("top_k_channels", &[2, 6, 3], 6, &[("axis", 1.into())]),
        Case::new("arg_min", one(13, &[3, 7], "ArgMin", &[("axis", 1.into())])),
        Case::new(
            "arg_min_last",
            one(13, &[3, 7, 2], "ArgMin", &[("axis", 1.into()), ("select_last_index", 1.into())]),
        ),
        Case::new(
            "one_hot_of_arg_max",
            model(13, &[3, 6], |m| {
                m.node_with("ArgMax", &["x"], &["i"], &[("axis", 1.into()), ("keepdims", 0.into())])
                    .ints("d", &[], &[6])
                    .weights("v", &[2], &[0.0, 1.0])
                    .node("OneHot", &["i", "d", "v"], &["y"])
            }),
        ),
        Case::new("if_of_shapes", {
            // The condition is known once the shape of its tensor is.
            let then = Onnx::new(13).node("Relu", &["x"], &["t"]).output("t");
            let otherwise = Onnx::new(13).node("Neg", &["x"], &["t"]).output("t");
            let branches = [("then_branch", then.into()), ("else_branch", otherwise.into())];
            let model = Onnx::new(13).input("x", &[2, 3]).node("Shape", &["x"], &["s"]).ints("z", &[], &[1]);
            let model = model.ints("three", &[], &[3]).node("Gather", &["s", "z"], &["n"]);
            let model = model.node("Equal", &["n", "three"], &["c"]).node_with("If", &["c"], &["r"], &branches);
            model.node("Tanh", &["r"], &["y"]).output("y")
        }),
        Case::new("loop_of_layers", {
            let mut body = Onnx::new(13).node("Identity", &["c"], &["d"]).node("Mul", &["v", "k"], &["u"]);
            body = body.node("Tanh", &["u"], &["w"]).node("Identity", &["w"], &["e"]);
            let body = body.typed_input("i", 7, &[]).typed_input("c", 9, &[]).typed_input("v", 1, &["2", "3"]);
            let body = ["d", "w", "e"].into_iter().fold(body, Onnx::output);
            let model = Onnx::new(13).input("x", &[2, 3]).weights("k", &[], &[1.5]).ints("n", &[], &[3]);
            let model = model.node_with("Loop", &["n", "", "x"], &["f", "all"], &[("body", body.into())]);
            model.output("f").output("all")
        })
        .steps(6.0),
        Case::new("upsample", {
            let scales = [1.0, 1.0, 2.0, 3.0];
            let model = Onnx::new(9).input("x", &[1, 2, 3, 2]).weights("s", &[4], &scales);
            model.node_with("Upsample", &["x", "s"], &["y"], &[("mode", "nearest".into())]).output("y")
        }),
        Case::new("one_hot_of_tokens", {
            let model = Onnx::new(13).typed_input("x", 7, &["2", "4"]).ints("d", &[], &[5]);
            let attributes = [("axis", 1.into())];
            model
                .weights("v", &[2], &[-1.0, 2.0])
                .node_with("OneHot", &["x", "d", "v"], &["y"], &attributes)
                .output("y")
        })
        .between(-7.0, 7.0),
        Case::new(
            "bytes",
            Onnx::new(13)
                .typed_input("x", 2, &["1", "8"])
                .weights("s", &[], &[0.5])
                .node_with("Cast", &["x"], &["f"], &[("to", 1.into())])
                .node("Mul", &["f", "s"], &["y"])
                .output("y"),
        )
        .between(0.0, 255.0),
        Case::new(
            "gather_elements",
            model(13, &[3, 4], |m| {
                m.ints("i", &[2, 4], &[0, 2, -1, 1, 1, 1, 0, 2]).node_with(
                    "GatherElements",
                    &["x", "i"],
                    &["y"],
                    &[("axis", 0.into())],
                )
            }),
        ),
        Case::new(
            "gather_nd",
            model(13, &[2, 3, 4], |m| {
                m.ints("i", &[2, 1, 1], &[2, 0]).node_with("GatherND", &["x", "i"], &["y"], &[("batch_dims", 1.into())])
            }),
        ),
    ]
}

/// Networks whose layers are executed row by row where little memory is wanted.
fn row_by_row() -> Vec<Case> {
    let case = |name: &str, dims: &[i64], body: &dyn Fn(Net) -> Net| {
        let net = body(Net::new(dims));
        Case::new(name, net.model.output(&net.last)).steps(8.0).optimized(Goal::Ram)
    };
    vec![
        case("rows_residual", &[1, 3, 12, 12], &|net| {
            let net = net.conv(8, 3, 1, 1);
            let skip = net.last.clone();
            net.conv(8, 3, 1, 1).conv(8, 3, 1, 1).plus(&skip).conv(8, 3, 2, 1).pooled()
        }),
        case("rows_downsampling_block", &[1, 8, 12, 12], &|net| {
            let net = net.conv(8, 3, 1, 1);
            let start = net.last.clone();
            let net = net.conv(16, 3, 2, 1).conv(16, 3, 1, 1);
            let main = net.last.clone();
            net.from(&start, 8).conv(16, 1, 2, 1).plus(&main).pooled()
        }),
        case("rows_expanded_and_back", &[1, 4, 10, 7], &|net| {
            let net = net.conv(4, 3, 1, 1);
            let skip = net.last.clone();
            net.conv(24, 1, 1, 1).conv(24, 3, 1, 24).conv(4, 1, 1, 1).plus(&skip).conv(24, 1, 1, 1).conv(24, 3, 2, 24)
        }),
        case("rows_large_window", &[1, 1, 20, 6], &|net| {
            net.conv(4, 5, 2, 1).conv(8, 5, 1, 1).conv(8, 3, 1, 8).pooled()
        }),
        case("rows_pools", &[1, 3, 13, 9], &|net| {
            net.conv(6, 3, 1, 1).pool("MaxPool", 3, 2).conv(12, 3, 1, 1).pool("AveragePool", 2, 1).pooled()
        }),
        case("rows_functions", &[1, 4, 9, 9], &|net| {
            net.conv(12, 3, 1, 1).unary("Tanh").conv(12, 3, 1, 12).unary("Sigmoid").conv(4, 3, 2, 1)
        }),
        case("rows_of_an_output", &[1, 4, 9, 9], &|net| {
            let mut net = net.conv(12, 3, 1, 1).unary("Tanh");
            net.model = net.model.output(&net.last);
            net.conv(12, 3, 1, 12).conv(2, 3, 1, 1)
        }),
    ]
}

/// A chain of layers under construction, with names for everything.
struct Net {
    model: Onnx,
    last: String,
    channels: i64,
    count: usize,
}

impl Net {
    fn new(dims: &[i64]) -> Net {
        Net { model: Onnx::new(14).input("x", dims), last: "x".to_owned(), channels: dims[1], count: 0 }
    }

    fn add(mut self, op: &str, more: &[&str], attrs: Attrs) -> Net {
        self.count += 1;
        let name = format!("t{}", self.count);
        let inputs = [&[self.last.as_str()], more].concat();
        self.model = self.model.node_with(op, &inputs, &[&name], attrs);
        Net { last: name, ..self }
    }

    /// A convolution with padding that keeps the size, then Relu.
    fn conv(mut self, outputs: i64, kernel: i64, stride: i64, groups: i64) -> Net {
        let weights = format!("w{}", self.count);
        self.model = self.model.random(&weights, &[outputs, self.channels / groups, kernel, kernel]);
        let attrs: [(&str, Attr); 3] =
            [("pads", [kernel / 2; 4].into()), ("strides", [stride; 2].into()), ("group", groups.into())];
        Net { channels: outputs, ..self.add("Conv", &[&weights], &attrs) }.unary("Relu")
    }

    fn pool(self, op: &str, kernel: i64, stride: i64) -> Net {
        let attrs: [(&str, Attr); 3] = [
            ("kernel_shape", [kernel; 2].into()),
            ("strides", [stride; 2].into()),
            ("pads", [kernel / 2, kernel / 2, 0, 0].into()),
        ];
        self.add(op, &[], &attrs)
    }

    fn unary(self, op: &str) -> Net {
        self.add(op, &[], &[])
    }

    fn plus(self, other: &str) -> Net {
        self.add("Add", &[other], &[])
    }

    fn pooled(self) -> Net {
        self.add("GlobalAveragePool", &[], &[])
    }

    /// Goes on from an earlier tensor.
    fn from(self, tensor: &str, channels: i64) -> Net {
        Net { last: tensor.to_owned(), channels, ..self }
    }
}

fn identity(n: usize, value: f32) -> Vec<f32> {
    (0..n * n).map(|i| if i % (n + 1) == 0 { value } else { 0.0 }).collect()
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [
        convolutions(),
        batch_normalizations(),
        products(),
        elementwise(),
        functions(),
        pools(),
        reductions(),
        moves(),
        joins(),
        graphs(),
        extremes(),
        fused_sums(),
        row_by_row(),
        tables(),
        more_reductions(),
        resizing(),
        transposed_convolutions(),
        several_operands(),
        positions(),
        super::transformers::cases(),
        super::recurrent::cases(),
    ]
    .concat()
}

/// All cases, compiled once for all tests.
static RESULTS: LazyLock<Vec<(String, anyhow::Result<Compiled>)>> = LazyLock::new(|| {
    // A thread that waits for the parts of one case takes up another case on the same stack, and so on.
    let pool = rayon::ThreadPoolBuilder::new().stack_size(STACK).build().unwrap();
    pool.install(|| cases().par_iter().map(|case| (case.name.clone(), case.compile())).collect())
});

/// Enough for all cases on one stack.
const STACK: usize = 512 << 20;

/// The cases that compile.
pub fn compiled() -> Vec<&'static Compiled> {
    RESULTS.iter().filter_map(|(_, result)| result.as_ref().ok()).collect()
}

fn assert_none(failures: Vec<String>) {
    assert!(failures.is_empty(), "{} cases fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn names_are_unique() {
    let mut names = std::collections::BTreeSet::new();
    let twice: Vec<String> =
        cases().into_iter().map(|case| case.name).filter(|name| !names.insert(name.clone())).collect();
    assert_eq!(twice, Vec::<String>::new());
}

#[test]
fn every_case_compiles() {
    let failures = RESULTS.iter().filter_map(|(name, result)| Some(format!("{name}: {:#}", result.as_ref().err()?)));
    assert_none(failures.collect());
}

#[test]
fn integers_are_close_to_the_float_model() {
    let failures = compiled().into_par_iter().filter_map(|case| match case.deviation() {
        Ok(steps) if steps <= case.steps => None,
        Ok(steps) => Some(format!("{}: {steps:.2} steps", case.name)),
        Err(error) => Some(format!("{}: {error:#}", case.name)),
    });
    assert_none(failures.collect());
}

#[test]
fn program_and_evaluator_agree() {
    let failures =
        compiled().into_par_iter().filter_map(|case| case.check_program().err()).map(|error| format!("{error:#}"));
    assert_none(failures.collect());
}

fn members() -> Vec<Member<'static>> {
    let member = |case: &'static Compiled| Member {
        program: case.build.lowered.program.program(),
        bundle: &case.build.bundle,
        samples: case.inputs.clone(),
    };
    compiled().into_iter().map(member).collect()
}

fn check_code(compiler: &str, flags: &[&str]) {
    if !is_installed(compiler) {
        assert!(!must_not_skip(), "{compiler} is missing");
        println!("skipped: {compiler} is missing");
        return;
    }
    let results = batch::run(&members(), compiler, flags).unwrap();
    let failures = compiled().into_iter().zip(results).filter(|(case, bytes)| case.expected_bytes() != *bytes);
    assert_none(failures.map(|(case, _)| format!("{}: emitted code and evaluator differ", case.name)).collect());
}

#[test]
fn emitted_c_and_evaluator_agree() {
    check_code("gcc", &[STRICT, &["-O1"]].concat());
}

#[test]
fn emitted_c_has_no_undefined_behaviour() {
    check_code("gcc", &["-std=c99", "-fsanitize=address,undefined", "-fno-sanitize-recover"]);
}

#[test]
fn emitted_c_is_valid_cpp() {
    if !is_installed("g++") {
        assert!(!must_not_skip(), "g++ is missing");
        println!("skipped: g++ is missing");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    batch::compile(&members(), folder.path(), "g++", &["-x", "c++", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"])
        .unwrap();
}

#[test]
fn arithmetic_on_positions_is_refused_with_advice() {
    let model = one(13, &[2, 3], "ArgMax", &[("axis", 1.into())]);
    let cast = model
        .node_with("Cast", &["y"], &["f"], &[("to", 1.into())])
        .random("c", &[1])
        .node("Mul", &["f", "c"], &["z"])
        .output("z");
    let error = Case::new("positions", cast).compile().unwrap_err();
    let problems = error.downcast::<ptqc::diag::Diagnostics>().unwrap();
    let problem = problems.iter().next().unwrap();
    assert_eq!((problem.location.node.as_deref(), problem.is_bug()), (Some("/z"), false), "{problem}");
    assert!(problem.help.is_some(), "{problem}");
}
