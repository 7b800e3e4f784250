//! What transformers are made of: products of two tensors, normalizations, GELU, masked attention. The cases run through
//! all checks of `operators`.

use ptqc::ir::Float;
use ptqc_tests::cases::Case;
use ptqc_tests::onnx::{Attr, Onnx};

type Attrs<'a> = &'a [(&'a str, Attr)];

/// A model with one input `x` and one output `y`.
fn model(opset: i64, dims: &[i64], body: impl FnOnce(Onnx) -> Onnx) -> Onnx {
    body(Onnx::new(opset).input("x", dims)).output("y")
}

fn product_case(name: &str, a: &[i64], b: &[i64]) -> Case {
    Case::new(name, Onnx::new(13).input("a", a).input("b", b).node("MatMul", &["a", "b"], &["y"]).output("y"))
}

fn products() -> Vec<Case> {
    let shapes: [(&str, &[i64], &[i64]); 8] = [
        ("product", &[3, 6], &[6, 4]),
        ("product_batched", &[2, 3, 6], &[2, 6, 4]),
        ("product_repeated_left", &[3, 6], &[2, 6, 4]),
        ("product_repeated_right", &[2, 5, 3, 6], &[5, 6, 4]),
        ("product_repeated_both", &[2, 1, 3, 6], &[1, 4, 6, 2]),
        ("product_row", &[6], &[2, 6, 4]),
        ("product_column", &[2, 3, 6], &[6]),
        ("product_one_term", &[3, 1], &[1, 4]),
    ];
    let mut cases: Vec<Case> = shapes.into_iter().map(|(name, a, b)| product_case(name, a, b)).collect();
    let two = |opset| Onnx::new(opset).input("a", &[2, 4, 3, 8]).input("b", &[2, 4, 5, 8]);
    let transposed = |m: Onnx| m.node_with("Transpose", &["b"], &["t"], &[("perm", [0, 1, 3, 2].into())]);
    cases.push(Case::new(
        "product_scaled_behind",
        transposed(two(13))
            .weights("s", &[], &[0.353_553_4])
            .node("MatMul", &["a", "t"], &["p"])
            .node("Mul", &["p", "s"], &["y"])
            .output("y"),
    ));
    cases.push(Case::new(
        "product_scaled_before",
        transposed(two(13))
            .weights("s", &[], &[0.594_603_6])
            .node("Mul", &["a", "s"], &["q"])
            .node("Mul", &["t", "s"], &["k"])
            .node("MatMul", &["q", "k"], &["y"])
            .output("y"),
    ));
    cases.push(Case::new(
        "product_scaled_negative",
        transposed(two(13))
            .weights("s", &[], &[-2.0])
            .node("MatMul", &["a", "t"], &["p"])
            .node("Mul", &["p", "s"], &["y"])
            .output("y"),
    ));
    cases.push(Case::new(
        "product_with_itself",
        model(13, &[2, 3, 6], |m| {
            m.node_with("Transpose", &["x"], &["t"], &[("perm", [0, 2, 1].into())])
                .node("MatMul", &["x", "t"], &["p"])
                .node("Relu", &["p"], &["y"])
        }),
    ));
    let gemm = |name: &str, a: &[i64], b: &[i64], c: &[i64], attrs: Attrs| {
        let inputs = Onnx::new(13).input("a", a).input("b", b).input("c", c);
        Case::new(name, inputs.node_with("Gemm", &["a", "b", "c"], &["y"], attrs).output("y"))
    };
    cases.push(gemm("gemm_of_inputs", &[3, 6], &[6, 4], &[4], &[]));
    let attrs: Attrs =
        &[("transA", 1.into()), ("transB", 1.into()), ("alpha", 0.25f32.into()), ("beta", (-0.5f32).into())];
    cases.push(gemm("gemm_of_inputs_transposed", &[6, 3], &[4, 6], &[3, 1], attrs));
    cases
}

/// Steps and forms of `x - mean(x)` over `axes`, divided by its deviation.
fn written_out(m: Onnx, form: &str) -> Onnx {
    let reduce = |m: Onnx, x: &str, y: &str| m.node_with("ReduceMean", &[x], &[y], &[("axes", [-1].into())]);
    let m = m.weights("two", &[], &[2.0]).weights("epsilon", &[], &[1e-3]).weights("root", &[], &[-0.5]);
    let m = match form {
        "rms" => m.node("Identity", &["x"], &["d"]),
        _ => reduce(m, "x", "mean").node("Sub", &["x", "mean"], &["d"]),
    };
    let m = match form {
        "product" | "rms" => m.node("Mul", &["d", "d"], &["square"]),
        _ => m.node("Pow", &["d", "two"], &["square"]),
    };
    let m = reduce(m, "square", "variance").node("Add", &["variance", "epsilon"], &["v"]);
    match form {
        "power" => m.node("Pow", &["v", "root"], &["r"]).node("Mul", &["r", "d"], &["n"]),
        "product" | "rms" => {
            m.node("Sqrt", &["v"], &["s"]).node("Reciprocal", &["s"], &["r"]).node("Mul", &["d", "r"], &["n"])
        }
        _ => m.node("Sqrt", &["v"], &["s"]).node("Div", &["d", "s"], &["n"]),
    }
}

fn normalizations() -> Vec<Case> {
    let layer = |name: &str, dims: &[i64], parameters: &[i64], attrs: Attrs| {
        let norm = |m: Onnx| m.random("g", parameters).random("b", parameters);
        Case::new(name, model(17, dims, |m| norm(m).node_with("LayerNormalization", &["x", "g", "b"], &["y"], attrs)))
    };
    let mut cases = vec![
        layer("layer_norm", &[2, 5, 16], &[16], &[]),
        layer("layer_norm_axis", &[2, 3, 4, 5], &[3, 4, 5], &[("axis", 1.into())]),
        layer("layer_norm_scale_repeated", &[2, 3, 4, 5], &[5], &[("axis", (-3).into())]),
        layer("layer_norm_epsilon", &[4, 16], &[16], &[("epsilon", 0.5f32.into())]),
        layer("layer_norm_one_row", &[7], &[7], &[]),
        layer("layer_norm_long", &[2, 3000], &[3000], &[]),
        Case::new(
            "layer_norm_no_bias",
            model(17, &[3, 9], |m| m.random("g", &[9]).node("LayerNormalization", &["x", "g"], &["y"])),
        ),
        Case::new(
            "rms_norm",
            model(23, &[2, 5, 16], |m| m.random("g", &[16]).node("RMSNormalization", &["x", "g"], &["y"])),
        ),
        Case::new(
            "instance_norm",
            model(17, &[2, 3, 5, 4], |m| {
                m.random("g", &[3]).random("b", &[3]).node("InstanceNormalization", &["x", "g", "b"], &["y"])
            }),
        ),
        Case::new(
            "instance_norm_behind_conv",
            model(17, &[1, 3, 20], |m| {
                m.random("w", &[4, 3, 3])
                    .random("g", &[4])
                    .random("b", &[4])
                    .node("Conv", &["x", "w"], &["c"])
                    .node("InstanceNormalization", &["c", "g", "b"], &["n"])
                    .node("Relu", &["n"], &["y"])
            }),
        )
        .steps(4.0),
        Case::new(
            "group_norm_21",
            model(21, &[2, 6, 5, 3], |m| {
                m.random("g", &[6]).random("b", &[6]).node_with(
                    "GroupNormalization",
                    &["x", "g", "b"],
                    &["y"],
                    &[("num_groups", 2.into())],
                )
            }),
        ),
        Case::new(
            "mean_variance_norm",
            model(13, &[2, 3, 5, 4], |m| m.node("MeanVarianceNormalization", &["x"], &["y"])),
        ),
        Case::new(
            "mean_variance_norm_axes",
            model(13, &[2, 3, 5, 4], |m| {
                m.node_with("MeanVarianceNormalization", &["x"], &["y"], &[("axes", [1, 3].into())])
            }),
        ),
    ];
    for form in ["quotient", "product", "power", "rms"] {
        let body = |m: Onnx| {
            written_out(m, form).random("g", &[16]).random("b", &[16]).node("Mul", &["n", "g"], &["h"]).node(
                "Add",
                &["b", "h"],
                &["y"],
            )
        };
        cases.push(Case::new(&format!("norm_written_{form}"), model(13, &[2, 5, 16], body)));
    }
    cases
}

fn gelus() -> Vec<Case> {
    let exact = |m: Onnx| {
        m.weights("sqrt2", &[], &[std::f32::consts::SQRT_2])
            .weights("one", &[], &[1.0])
            .weights("half", &[], &[0.5])
            .node("Div", &["x", "sqrt2"], &["d"])
            .node("Erf", &["d"], &["e"])
            .node("Add", &["e", "one"], &["s"])
    };
    let tanh = |m: Onnx| {
        m.weights("three", &[], &[3.0])
            .weights("c", &[], &[0.044_715])
            .weights("k", &[], &[0.797_884_6])
            .weights("one", &[], &[1.0])
            .weights("half", &[], &[0.5])
            .node("Pow", &["x", "three"], &["p"])
            .node("Mul", &["p", "c"], &["q"])
            .node("Add", &["x", "q"], &["r"])
            .node("Mul", &["r", "k"], &["u"])
            .node("Tanh", &["u"], &["t"])
            .node("Add", &["t", "one"], &["s"])
            .node("Mul", &["x", "half"], &["h"])
            .node("Mul", &["h", "s"], &["y"])
    };
    let dims = [2, 40];
    let cases = [
        ("gelu", model(20, &dims, |m| m.node("Gelu", &["x"], &["y"]))),
        ("gelu_tanh_op", model(20, &dims, |m| m.node_with("Gelu", &["x"], &["y"], &[("approximate", "tanh".into())]))),
        (
            "gelu_written",
            model(13, &dims, |m| exact(m).node("Mul", &["x", "s"], &["p"]).node("Mul", &["p", "half"], &["y"])),
        ),
        (
            "gelu_written_halved_first",
            model(13, &dims, |m| exact(m).node("Mul", &["half", "s"], &["p"]).node("Mul", &["x", "p"], &["y"])),
        ),
        ("gelu_tanh_written", model(13, &dims, tanh)),
        ("square", model(13, &dims, |m| m.node("Mul", &["x", "x"], &["y"]))),
        ("power", model(13, &dims, |m| m.weights("e", &[], &[3.0]).node("Pow", &["x", "e"], &["y"]))),
        ("erf", model(13, &dims, |m| m.node("Erf", &["x"], &["y"]))),
        (
            "function_of_itself",
            model(13, &dims, |m| m.node("Sigmoid", &["x"], &["s"]).node("Sub", &["s", "x"], &["y"])),
        ),
    ];
    let case = |(name, model): (&str, Onnx)| Case::new(name, model).magnitude(4.0);
    cases.into_iter().map(case).collect()
}

/// A causal mask for scores of 5 by 5.
fn causal(absent: f32) -> Vec<f32> {
    (0..25).map(|i| if i % 5 <= i / 5 { 0.0 } else { absent }).collect()
}

fn masked(name: &str, body: impl FnOnce(Onnx) -> Onnx) -> Case {
    let scores = |m: Onnx| body(m).node_with("Softmax", &["m"], &["y"], &[("axis", (-1).into())]);
    Case::new(name, model(13, &[2, 5, 5], scores)).magnitude(6.0)
}

fn masks() -> Vec<Case> {
    let bools = |value: fn(usize) -> bool| (0..25).map(|i| u8::from(value(i))).collect::<Vec<u8>>();
    let lower = |i: usize| i % 5 <= i / 5;
    let upper = |i: usize| i % 5 > i / 5;
    vec![
        masked("mask_added", |m| m.weights("c", &[5, 5], &causal(-1e9)).node("Add", &["x", "c"], &["m"])),
        masked("mask_endless", |m| {
            m.weights("c", &[1, 5, 5], &causal(f32::NEG_INFINITY)).node("Add", &["c", "x"], &["m"])
        }),
        masked("mask_lowest", |m| m.weights("c", &[5, 5], &causal(f32::MIN)).node("Add", &["x", "c"], &["m"])),
        masked("mask_of_columns", |m| {
            m.weights("c", &[5], &[0.0, 0.0, 0.5, -1e4, -1e4]).node("Add", &["x", "c"], &["m"])
        }),
        masked("mask_with_bias", |m| {
            let bias: Vec<f32> =
                causal(f32::NEG_INFINITY).iter().enumerate().map(|(i, c)| c + i as f32 * 0.1).collect();
            m.weights("c", &[5, 5], &bias).node("Add", &["x", "c"], &["m"])
        })
        .steps(5.0),
        masked("mask_chosen", |m| {
            m.initializer("c", 9, &[5, 5], bools(lower)).weights("n", &[], &[f32::NEG_INFINITY]).node(
                "Where",
                &["c", "x", "n"],
                &["m"],
            )
        }),
        masked("mask_chosen_inverse", |m| {
            m.initializer("c", 9, &[5, 5], bools(upper)).weights("n", &[], &[f32::MIN]).node(
                "Where",
                &["c", "n", "x"],
                &["m"],
            )
        }),
        masked("mask_whole_row", |m| {
            m.weights("c", &[5, 1], &[0.0, -2e3, 0.0, 0.0, 0.0]).node("Add", &["x", "c"], &["m"])
        }),
    ]
}

/// One block of a small transformer with packed query, key and value.
fn block() -> Case {
    let split = |m: Onnx| {
        m.ints("parts", &[3], &[1, 1, 1])
            .ints("zero", &[1], &[0])
            .node_with("Split", &["u", "parts"], &["q3", "k3", "v3"], &[("axis", 0.into())])
            .node("Squeeze", &["q3", "zero"], &["q"])
            .node("Squeeze", &["k3", "zero"], &["k"])
            .node("Squeeze", &["v3", "zero"], &["v"])
    };
    let body = |m: Onnx| {
        let m = m
            .random("g", &[8])
            .random("b", &[8])
            .random("w", &[8, 24])
            .random("wb", &[24])
            .random("o", &[8, 8])
            .ints("heads", &[5], &[1, 5, 3, 2, 4])
            .ints("flat", &[3], &[1, 5, 8])
            .weights("c", &[5, 5], &causal(f32::NEG_INFINITY))
            .weights("half", &[], &[0.5])
            .node("LayerNormalization", &["x", "g", "b"], &["n"])
            .node("MatMul", &["n", "w"], &["p"])
            .node("Add", &["wb", "p"], &["pb"])
            .node("Reshape", &["pb", "heads"], &["h"])
            .node_with("Transpose", &["h"], &["u"], &[("perm", [2, 0, 3, 1, 4].into())]);
        split(m)
            .node_with("Transpose", &["k"], &["t"], &[("perm", [0, 1, 3, 2].into())])
            .node("MatMul", &["q", "t"], &["s"])
            .node("Mul", &["s", "half"], &["ss"])
            .node("Add", &["ss", "c"], &["m"])
            .node_with("Softmax", &["m"], &["a"], &[("axis", (-1).into())])
            .node("MatMul", &["a", "v"], &["av"])
            .node_with("Transpose", &["av"], &["avt"], &[("perm", [0, 2, 1, 3].into())])
            .node("Reshape", &["avt", "flat"], &["f"])
            .node("MatMul", &["f", "o"], &["of"])
            .node("Add", &["x", "of"], &["y"])
    };
    Case::new("attention", model(17, &[1, 5, 8], body)).steps(6.0)
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [products(), normalizations(), gelus(), masks(), vec![block()]].concat()
}

/// The operators of the fused float graph of a case.
fn fused(case: &Case) -> Vec<String> {
    let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    let frontend = ptqc::driver::load(&case.model.bytes(), &no_files, &case.pinned).unwrap();
    let graph: &ptqc::ir::Graph<Float> = &frontend.fused;
    let kinds = graph.topological().into_iter().map(|id| graph.node(id).op.kind().to_owned());
    kinds.filter(|kind| kind != "Input").collect()
}

#[test]
fn what_is_written_out_becomes_one_operator() {
    let one = |prefix: &str, kind: &str| {
        for case in cases().iter().filter(|case| case.name.starts_with(prefix)) {
            assert_eq!(fused(case), [kind], "{}", case.name);
        }
    };
    one("norm_written", "Normalize");
    one("gelu", "Unary");
    for case in masks().iter().filter(|case| !matches!(case.name.as_str(), "mask_of_columns" | "mask_with_bias")) {
        assert_eq!(fused(case), ["Softmax"], "{}", case.name);
    }
}

#[test]
fn a_mask_without_softmax_is_refused_with_advice() {
    let mask = |m: Onnx| m.weights("c", &[5], &[0.0, 0.0, 0.0, 0.0, f32::NEG_INFINITY]);
    let case =
        Case::new("mask", model(13, &[5], |m| mask(m).node("Add", &["x", "c"], &["m"]).node("Relu", &["m"], &["y"])));
    let case = match case.compile() {
        Err(error) => error.downcast::<ptqc::diag::Diagnostics>().unwrap(),
        Ok(_) => panic!("it compiles"),
    };
    assert!(case.iter().all(|problem| !problem.is_bug() && problem.help.is_some()), "{case}");
}
