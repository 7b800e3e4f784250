//! The ONNX project's own operator tests: every one whose operator ptqc is to know goes through the whole compiler.
//!
//! The float engine has to return what the test expects; the integers have to be as close to the float engine as their
//! scales allow; and program, emitted C and evaluator have to agree in every bit.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use ptqc::ops::QuantOp;
use ptqc::ops::weighted::Weighted;
use ptqc_tests::batch::{self, Member};
use ptqc_tests::cases::Compiled;
use ptqc_tests::node_tests::{self, NodeTest};
use ptqc_tests::toolchain::{self, STRICT};
use rayon::prelude::*;

/// The operators of float models whose tests have to pass. Those of quantized models are compared exactly elsewhere.
const OPERATORS: &[&str] = &[
    "Abs",
    "Add",
    "And",
    "ArgMax",
    "ArgMin",
    "Attention",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Cos",
    "CumSum",
    "DepthToSpace",
    "Div",
    "Dropout",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "If",
    "LRN",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "Loop",
    "LpNormalization",
    "LpPool",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mish",
    "Mul",
    "Neg",
    "Not",
    "OneHot",
    "Or",
    "PRelu",
    "Pad",
    "Pow",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Resize",
    "Round",
    "Scan",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Slice",
    "Softmax",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Swish",
    "Tanh",
    "ThresholdedRelu",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Upsample",
    "Where",
    "Xor",
];

/// Tests that are out of scope for a reason of their own.
const OUT_OF_SCOPE: &[(&str, &str)] = &[
    ("test_batchnorm_example_training_mode", TRAINING),
    ("test_batchnorm_epsilon_training_mode", TRAINING),
    ("test_training_dropout", TRAINING),
    ("test_training_dropout_default", TRAINING),
    ("test_training_dropout_default_mask", TRAINING),
    ("test_training_dropout_mask", TRAINING),
    ("test_training_dropout_zero_ratio_mask", TRAINING),
    ("test_logsoftmax_large_number", "numbers too large for 8 bits and one step"),
    ("test_where_long_example", "integers of 64 bits"),
    ("test_dropout_default_mask", TRAINING),
    ("test_dropout_default_mask_ratio", TRAINING),
    ("test_not_2d", OLD),
    ("test_not_3d", OLD),
    ("test_not_4d", OLD),
    ("test_maxpool_with_argmax_2d_precomputed_pads", MASK),
    ("test_maxpool_with_argmax_2d_precomputed_strides", MASK),
    ("test_spacetodepth_crd_mode_example", "the float engine does not know this mode"),
    ("test_lppool_1d_default", NORM),
    ("test_lppool_2d_default", NORM),
    ("test_lppool_2d_pads", NORM),
    ("test_lppool_2d_same_lower", NORM),
    ("test_lppool_3d_default", NORM),
    ("test_scan_sum", "operator set 8, in which Scan has a batch axis"),
    ("test_attention_causal_boolmask_nan_robustness", NO_KEYS),
    ("test_attention_23_boolmask_fullymasked_row_nan_robustness", NO_KEYS),
    ("test_attention_4d_causal_nonpad_negative_offset_structural_empty", NO_KEYS),
    ("test_attention_local_window_gqa_rank4_mask", NO_KEYS),
    ("test_attention_23_fullymasked_qk_matmul_output_mode3_zero", NO_KEYS),
    ("test_attention_24_fullymasked_qk_matmul_output_mode3_zero", NO_KEYS),
    ("test_pow", POWER),
    ("test_pow_bcast_array", POWER),
    ("test_pow_example", POWER),
    ("test_pow_types_float32_int32", POWER),
    ("test_pow_types_float32_int64", POWER),
];

const TRAINING: &str = "for training";
const OLD: &str = "operator set 1";
const MASK: &str = "positions of maxima, which only training needs";
const NORM: &str = "norms other than of 1 and 2";
const NO_KEYS: &str = "queries that may see no key";
const POWER: &str = "exponents that differ from element to element";

/// A test on its way.
struct Result {
    test: NodeTest,
    outcome: Outcome,
}

enum Outcome {
    OutOfScope(String),
    Compiled(Box<Compiled>),
    Failed(String),
}

static RESULTS: LazyLock<Vec<Result>> = LazyLock::new(|| {
    let Some(python) = toolchain::python() else { return vec![] };
    let tests = node_tests::collect(OPERATORS, &python).unwrap();
    tests.into_par_iter().map(|test| Result { outcome: outcome(&test), test }).collect()
});

fn outcome(test: &NodeTest) -> Outcome {
    if let Some((_, why)) = OUT_OF_SCOPE.iter().find(|(name, _)| *name == test.name) {
        return Outcome::OutOfScope((*why).to_owned());
    }
    let case = match &test.case {
        Ok(case) => case,
        Err(why) => return Outcome::OutOfScope(why.clone()),
    };
    match case.compile() {
        Ok(compiled) => Outcome::Compiled(Box::new(compiled)),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

fn compiled() -> impl Iterator<Item = (&'static NodeTest, &'static Compiled)> {
    RESULTS.iter().filter_map(|result| match &result.outcome {
        Outcome::Compiled(compiled) => Some((&result.test, &**compiled)),
        Outcome::OutOfScope(_) | Outcome::Failed(_) => None,
    })
}

fn skipped() -> bool {
    if RESULTS.is_empty() {
        assert!(!toolchain::must_not_skip(), "python with onnx is missing");
        println!("skipped: python with onnx is missing");
    }
    RESULTS.is_empty()
}

fn assert_none(failures: Vec<String>) {
    assert!(failures.is_empty(), "{} tests fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_test_in_scope_compiles() {
    if skipped() {
        return;
    }
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut failures = vec![];
    for Result { test, outcome } in &*RESULTS {
        match outcome {
            Outcome::OutOfScope(why) => reasons.entry(why).or_default().push(&test.name),
            Outcome::Failed(why) => failures.push(format!("{} ({}): {why}", test.name, test.op_type)),
            Outcome::Compiled(_) => {}
        }
    }
    println!("{} tests, {} in scope", RESULTS.len(), compiled().count() + failures.len());
    for (why, names) in reasons {
        println!("out of scope, {why}: {}", names.join(" "));
    }
    assert_none(failures);
}

#[test]
fn the_float_engine_returns_what_is_expected() {
    if skipped() {
        return;
    }
    let failures = compiled().filter_map(|(test, case)| {
        let run = || -> anyhow::Result<Vec<f32>> {
            let sample = &test.case.as_ref().expect("it is compiled").given[0];
            Ok(case.frontend.model.runner()?.state()?.run(sample)?.concat())
        };
        let actual = match run() {
            Ok(actual) => actual,
            Err(error) => return Some(format!("{}: {error:#}", test.name)),
        };
        let largest = test.expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        // Some of the tests state only four digits.
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 2e-4 * largest;
        let equal = actual.len() == test.expected.len() && actual.iter().zip(&test.expected).all(close);
        (!equal).then(|| format!("{}:\n  {actual:?}\n  {:?}", test.name, test.expected))
    });
    assert_none(failures.collect());
}

/// How far the result may be from that of the float engine, in steps of the result: a step for each layer, and for
/// weights the most that their rounding can change a sum.
fn allowed(case: &Compiled) -> f64 {
    let graph = &case.build.quant;
    let layer = |id| {
        let weighted: &Weighted = match &graph.node(id).op {
            QuantOp::Input(_) | QuantOp::Constant(_) => return 0.0,
            QuantOp::Conv(conv) => &conv.weighted,
            QuantOp::Linear(linear) => &linear.weighted,
            _ => return 1.0,
        };
        let row_len = weighted.weights.len() / weighted.channels.len();
        let reach = f64::from((127 - weighted.input_zero).max(weighted.input_zero + 128));
        let rounding = |multiplier: ptqc::ir::Multiplier| {
            let factor = f64::from(multiplier.mantissa()) / f64::from(31 - multiplier.left_shift()).exp2();
            0.5 * row_len as f64 * reach * factor
        };
        1.0 + weighted.channels.iter().map(|channel| rounding(channel.multiplier)).fold(0.0, f64::max)
    };
    graph.topological().into_iter().map(layer).sum()
}

#[test]
fn integers_are_as_close_as_their_scales_allow() {
    if skipped() {
        return;
    }
    let failures = compiled().filter_map(|(test, case)| match case.deviation_within_range() {
        Ok(steps) if steps <= allowed(case) => None,
        Ok(steps) => Some(format!("{}: {steps:.2} steps, {:.2} are allowed", test.name, allowed(case))),
        Err(error) => Some(format!("{}: {error:#}", test.name)),
    });
    assert_none(failures.collect());
}

#[test]
fn program_and_evaluator_agree() {
    let cases: Vec<&Compiled> = compiled().map(|(_, case)| case).collect();
    let failures =
        cases.into_par_iter().filter_map(|case| case.check_program().err()).map(|error| format!("{error:#}"));
    assert_none(failures.collect());
}

#[test]
fn emitted_c_and_evaluator_agree() {
    if skipped() || !toolchain::is_installed("gcc") {
        assert!(!toolchain::must_not_skip(), "gcc is missing");
        return;
    }
    let cases: Vec<&Compiled> = compiled().map(|(_, case)| case).collect();
    let member = |case: &&'static Compiled| Member {
        program: case.build.lowered.program.program(),
        bundle: &case.build.bundle,
        samples: case.inputs.clone(),
    };
    let members: Vec<Member> = cases.iter().map(member).collect();
    let results = batch::run(&members, "gcc", &[STRICT, &["-O1"]].concat()).unwrap();
    let failures = cases.iter().zip(results).filter(|(case, bytes)| case.expected_bytes() != *bytes);
    assert_none(failures.map(|(case, _)| case.name.clone()).collect());
}
