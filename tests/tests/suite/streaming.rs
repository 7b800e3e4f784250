//! States that are kept between inferences: the emitted code, over several streams, against the evaluator that is given
//! its own outputs.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use ptqc::calibrate::{Method, Origin};
use ptqc::driver::{self, Build, Options};
use ptqc::evaluate::{evaluate, quantize_input};
use ptqc::plan::Goal;
use ptqc::print::{ArenaMode, Language};
use ptqc_target_runtimes::TARGETS;
use ptqc_tests::onnx::{Onnx, numbers};
use ptqc_tests::toolchain::{self, STRICT};

/// Elements of an input, and of a state.
const INPUTS: usize = 3;
const UNITS: usize = 4;

/// Steps of a stream.
const STEPS: usize = 6;

/// One step of a GRU, with its state as input and output, and a second state that only goes round.
fn model() -> Onnx {
    Onnx::new(14)
        .input("x", &[1, 1, INPUTS as i64])
        .input("h", &[1, 1, UNITS as i64])
        .input("last", &[1, 1, INPUTS as i64])
        .random("w", &[1, 12, 3])
        .random("r", &[1, 12, 4])
        .random("v", &[4, 2])
        .node_with("GRU", &["x", "w", "r", "", "", "h"], &["", "h_new"], &[("hidden_size", 4.into())])
        .node("Add", &["x", "last"], &["sum"])
        .node("MatMul", &["h_new", "v"], &["y"])
        .node("Relu", &["x"], &["x_new"])
        .output("y")
        .output("h_new")
        .output("x_new")
        .output("sum")
}

fn states() -> Vec<(String, String)> {
    [("h", "h_new"), ("last", "x_new")].map(|(input, output)| (input.to_owned(), output.to_owned())).to_vec()
}

fn build(language: Language, states: Vec<(String, String)>) -> ptqc::diag::Result<Build> {
    let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    let frontend = driver::load(&model().bytes(), &no_files, &Default::default())?;
    let sample = |seed: u64| [INPUTS, UNITS, INPUTS].iter().map(|&len| numbers(seed, len)).collect();
    let samples = (0..8).map(|seed| Ok(sample(seed)));
    let (calibrator, _) = driver::calibrate(&frontend.model, samples, &|| {})?;
    let ranges = calibrator.finish(Method::MinMax, Origin::default())?;
    let options = Options {
        name: "stream".to_owned(),
        target: &TARGETS[0],
        language,
        goal: Goal::default(),
        arena: ArenaMode::Static,
        weights: Default::default(),
        settings: Default::default(),
        states,
        float_helpers: false,
        command: String::new(),
        model_sha256: String::new(),
    };
    driver::build(&frontend, &ranges, &options)
}

/// Quantized inputs of a stream, and what the evaluator makes of them.
fn expected(build: &Build) -> (Vec<Vec<i32>>, Vec<i32>) {
    let graph = &build.quant;
    let stream: Vec<Vec<i32>> =
        (0..STEPS).map(|step| quantize_input(graph, graph.inputs()[0], &numbers(90 + step as u64, INPUTS))).collect();
    let zeros = |input: usize, len: usize| quantize_input(graph, graph.inputs()[input], &vec![0.0; len]);
    let (mut h, mut last) = (zeros(1, UNITS), zeros(2, INPUTS));
    let mut visible = vec![];
    for x in &stream {
        let outputs = evaluate(graph, &[x.clone(), h, last]);
        visible.extend(outputs[0].iter().chain(&outputs[3]));
        (h, last) = (outputs[1].clone(), outputs[2].clone());
    }
    (stream, visible)
}

fn table(stream: &[Vec<i32>], brackets: [char; 2]) -> String {
    let mut text = String::new();
    for x in stream {
        let _ = write!(
            text,
            "{}{}{},",
            brackets[0],
            x.iter().map(i32::to_string).collect::<Vec<_>>().join(", "),
            brackets[1]
        );
    }
    text
}

/// Writes the files and a program around them, compiles it with `command`, and returns the numbers that it prints.
fn run(build: &Build, (file, main): (&str, &str), command: &mut Command) -> Vec<i32> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in &build.bundle {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    std::fs::write(folder.path().join(file), main).unwrap();
    toolchain::run(command, folder.path()).unwrap();
    let printed = toolchain::run(&mut Command::new(folder.path().join("program")), Path::new(".")).unwrap();
    String::from_utf8(printed).unwrap().split_whitespace().map(|number| number.parse().unwrap()).collect()
}

#[test]
fn emitted_c_keeps_states() {
    let build = build(Language::C, states()).unwrap();
    let (stream, visible) = expected(&build);
    let main = format!(
        "#include <stdio.h>\n#include \"stream.h\"\n\
         static const int8_t x[][{INPUTS}] = {{{}}};\n\
         int main(void) {{\n  static stream_state_t state;\n  int8_t y[2], sum[{INPUTS}];\n\
         for (int pass = 0; pass < 2; pass++) {{\n    stream_reset(&state);\n\
         for (int step = 0; step < {STEPS}; step++) {{\n      stream_step(&state, x[step], y, sum);\n\
         for (int i = 0; i < 2; i++) printf(\"%d \", y[i]);\n\
         for (int i = 0; i < {INPUTS}; i++) printf(\"%d \", sum[i]);\n    }}\n  }}\n  return 0;\n}}\n",
        table(&stream, ['{', '}'])
    );
    let mut gcc = Command::new("gcc");
    gcc.args(STRICT).args(["-O1", "stream.c", "stream_weights.c", "main.c", "-o", "program"]);
    assert_eq!(run(&build, ("main.c", &main), &mut gcc), [&visible[..], &visible].concat());
}

#[test]
fn emitted_rust_keeps_states() {
    let build = build(Language::Rust, states()).unwrap();
    let (stream, visible) = expected(&build);
    let main = format!(
        "#[path = \"stream.rs\"]\nmod stream;\nconst X: [[i8; {INPUTS}]; {STEPS}] = [{}];\n\
         fn main() {{\n    let mut model = stream::Model::new();\n    let mut state = stream::State::new();\n\
         for _ in 0..2 {{\n        state.reset();\n        for x in &X {{\n\
         let (mut y, mut sum) = ([0; 2], [0; {INPUTS}]);\n            model.step(&mut state, x, &mut y, &mut sum);\n\
         for q in y.iter().chain(&sum) {{\n                print!(\"{{q}} \");\n            }}\n        }}\n    }}\n}}\n",
        table(&stream, ['[', ']'])
    );
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2021", "-Dwarnings", "-Adead_code", "main.rs", "-o", "program"]);
    assert_eq!(run(&build, ("main.rs", &main), &mut rustc), [&visible[..], &visible].concat());
}

/// What one inference writes the next one reads: with the same scale and zero point.
#[test]
fn both_sides_of_a_state_have_one_scale() {
    let build = build(Language::C, states()).unwrap();
    let (inputs, outputs) = (build.quant.inputs(), build.quant.outputs());
    for (input, output) in [(1, 1), (2, 2)] {
        let (input, output) = (build.quant.node(inputs[input]), build.quant.node(outputs[output].node));
        assert_eq!(input.value, output.value, "{} and {}", input.name, output.name);
    }
}

#[test]
fn names_that_do_not_fit_are_refused_with_advice() {
    for (input, output) in [("g", "h_new"), ("h", "g"), ("h", "y"), ("x", "h_new")] {
        let problems = build(Language::C, vec![(input.to_owned(), output.to_owned())]).unwrap_err();
        assert!(problems.iter().all(|problem| !problem.is_bug() && problem.help.is_some()), "{problems}");
    }
    let twice = vec![states()[0].clone(), states()[0].clone()];
    assert!(build(Language::C, twice).is_err());
}
