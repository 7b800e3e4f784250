//! Memory: with every goal the program returns what the evaluator does (the interpreter knows which bytes have been
//! written), no plan needs more than is live at its most demanding layer, and real models keep to their budgets.

use std::process::Command;
use std::sync::Mutex;

use anyhow::Result;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use ptqc::driver::{self, Build, Options};
use ptqc::plan::Goal;
use ptqc::print::{ArenaMode, Language, Weights, WeightsMemory};
use ptqc_target_runtimes::TARGETS;
use ptqc_tests::case::{calibrate, evaluate_all, load, open_samples, quantize_samples, run_and_compare};
use ptqc_tests::cases::{Case, Compiled};
use ptqc_tests::onnx::{Attr, Onnx};
use ptqc_tests::real::MODELS;
use ptqc_tests::toolchain::{self, STRICT};
use rayon::prelude::*;

const GOALS: [Goal; 4] = [Goal::Balanced, Goal::Speed, Goal::Size, Goal::Ram];

fn compile(case: Case, goal: Goal) -> Compiled {
    let name = case.name.clone();
    case.optimized(goal).compile().unwrap_or_else(|error| panic!("{name}, {goal:?}: {error:#}"))
}

#[test]
fn every_operator_agrees_with_the_evaluator_in_little_memory() {
    let cases = super::operators::cases();
    let failures: Vec<String> = cases
        .into_par_iter()
        .filter_map(|case| compile(case, Goal::Ram).check_program().err())
        .map(|error| format!("{error:#}"))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A node of a random network: what it does, and which of the tensors before it it reads.
#[derive(Debug, Clone, Copy)]
struct Pick {
    op: usize,
    from: usize,
    with: usize,
    channels: i64,
}

/// A network of convolutions, pools, functions and sums with branches that meet again. Every third or so has a further
/// output in its middle.
fn network(dims: [i64; 3], picks: &[Pick]) -> Onnx {
    let mut model = Onnx::new(14).input("x", &[1, dims[0], dims[1], dims[2]]);
    let mut tensors = vec![("x".to_owned(), dims)];
    for (index, pick) in picks.iter().enumerate() {
        let (from, [channels, height, width]) = tensors[tensors.len() - 1 - pick.from % tensors.len()].clone();
        let name = format!("t{index}");
        let weights = format!("w{index}");
        let strided = |size: i64| (size - 1) / 2 + 1;
        let conv = |model: Onnx, outputs: i64, kernel: i64, stride: i64, groups: i64| {
            let attrs: [(&str, Attr); 3] =
                [("pads", [kernel / 2; 4].into()), ("strides", [stride; 2].into()), ("group", groups.into())];
            let model = model.random(&weights, &[outputs, channels / groups, kernel, kernel]);
            model.node_with("Conv", &[&from, &weights], &[&name], &attrs)
        };
        let shape = match pick.op {
            0 | 1 => {
                model = conv(model, pick.channels, 3, 1, 1);
                [pick.channels, height, width]
            }
            2 => {
                model = conv(model, pick.channels, 1, 1, 1);
                [pick.channels, height, width]
            }
            3 => {
                model = conv(model, channels, 3, 1, channels);
                [channels, height, width]
            }
            4 => {
                model = conv(model, pick.channels, 3, 2, 1);
                [pick.channels, strided(height), strided(width)]
            }
            5 => {
                let attrs: [(&str, Attr); 3] =
                    [("kernel_shape", [3, 3].into()), ("strides", [2, 2].into()), ("pads", [1; 4].into())];
                model = model.node_with("MaxPool", &[&from], &[&name], &attrs);
                [channels, strided(height), strided(width)]
            }
            6 => {
                model = model.node("Tanh", &[&from], &[&name]);
                [channels, height, width]
            }
            _ => {
                let alike: Vec<&String> = tensors
                    .iter()
                    .filter(|(_, dims)| *dims == [channels, height, width])
                    .map(|(name, _)| name)
                    .collect();
                let other = alike[pick.with % alike.len()].clone();
                model = model.node("Add", &[&from, &other], &[&name]);
                [channels, height, width]
            }
        };
        if pick.with % 7 == 3 {
            model = model.output(&name);
        }
        tensors.push((name, shape));
    }
    let (last, _) = &tensors[tensors.len() - 1];
    if picks.last().is_some_and(|pick| pick.with % 7 == 3) { model } else { model.output(last) }
}

#[test]
fn random_networks_agree_with_the_evaluator_for_every_goal() {
    let pick = (0usize..10, 0usize..3, 0usize..50, 1i64..=6).prop_map(|(op, from, with, channels)| Pick {
        op,
        from: if from == 2 { 1 } else { 0 },
        with,
        channels,
    });
    let strategy = ([1i64..=4, 3i64..=9, 2i64..=7], prop::collection::vec(pick, 2..10));
    let config = ProptestConfig {
        cases: 120,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        max_shrink_iters: 100,
        ..Default::default()
    };
    let smaller = Mutex::new(0);
    TestRunner::new(config)
        .run(&strategy, |(dims, picks)| {
            let model = network(dims, &picks);
            let arenas: Vec<usize> = GOALS
                .par_iter()
                .map(|&goal| {
                    let compiled = compile(Case::new("random", model.clone()), goal);
                    compiled.check_program().unwrap_or_else(|error| panic!("{goal:?}: {error:#}"));
                    let arena = compiled.build.plan.arena;
                    assert!(arena.bytes >= arena.lower_bound, "{goal:?}: below the bound");
                    arena.bytes
                })
                .collect();
            assert!(arenas[3] <= arenas[0], "{arenas:?}");
            *smaller.lock().unwrap() += usize::from(arenas[3] < arenas[0]);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    let smaller = *smaller.lock().unwrap();
    assert!(smaller >= 8, "only {smaller} networks need less with the goal Ram");
}

/// Builds a real model, calibrated with its first samples; `None` if it is absent.
pub fn build(model: &ptqc_tests::real::RealModel, target: &str, goal: Goal) -> Result<Option<Build>> {
    let Some(path) = model.model() else {
        println!("skipped: the model {} is absent", model.name);
        return Ok(None);
    };
    let frontend = load(&std::fs::read(path)?)?;
    let samples = open_samples(&frontend, &model.data(model.calib)?, Default::default())?;
    let ranges = calibrate(&frontend, samples.samples().take(4))?;
    let options = Options {
        settings: Default::default(),
        name: "m".to_owned(),
        target: TARGETS.iter().find(|known| known.name == target).unwrap_or(&TARGETS[0]),
        language: Language::C,
        arena: ArenaMode::Static,
        goal,
        weights: Default::default(),
        states: vec![],
        float_helpers: false,
        command: String::new(),
        model_sha256: String::new(),
    };
    Ok(Some(driver::build(&frontend, &ranges, &options)?))
}

/// Constants go where they are wanted, in both languages, and the model computes the same with them.
#[test]
fn constants_go_where_they_are_wanted() -> Result<()> {
    let model = Onnx::new(14).input("x", &[1, 3, 6, 6]).random("w", &[4, 3, 3, 3]).node("Conv", &["x", "w"], &["y"]);
    let frontend = load(&model.output("y").bytes())?;
    let samples: Vec<Vec<Vec<f32>>> = (0..3).map(|seed| vec![ptqc_tests::onnx::numbers(seed, 108)]).collect();
    let ranges = calibrate(&frontend, samples.iter().cloned().map(Ok))?;
    let flash = |section: Option<&str>| Weights { memory: WeightsMemory::Flash, section: section.map(str::to_owned) };
    let ram = |section: Option<&str>| Weights { memory: WeightsMemory::Ram, section: section.map(str::to_owned) };
    let cases = [
        (flash(None), ".rodata", ".rodata"),
        (flash(Some(".weights")), ".weights", ".weights"),
        (ram(None), ".data", ".data.weights"),
        (ram(Some(".itcm")), ".itcm", ".itcm"),
    ];
    let host = (&TARGETS[0], &TARGETS[0].compilers[0]);
    for (weights, in_c, in_rust) in cases {
        let options = |language| Options {
            settings: Default::default(),
            name: "m".to_owned(),
            target: &TARGETS[0],
            language,
            arena: ArenaMode::Static,
            goal: Goal::Balanced,
            weights: weights.clone(),
            states: vec![],
            float_helpers: false,
            command: String::new(),
            model_sha256: String::new(),
        };
        let built = driver::build(&frontend, &ranges, &options(Language::C))?;
        let inputs = quantize_samples(&built.quant, &samples);
        let expected = evaluate_all(&built.quant, &inputs);
        run_and_compare(&built, ArenaMode::Static, host, &["-O2"], (&inputs, &expected))?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("m_weights.c"), &built.bundle["m_weights.c"])?;
        toolchain::run(Command::new("gcc").args(STRICT).args(["-c", "m_weights.c"]), folder.path())?;
        let sections = toolchain::run(Command::new("size").args(["-A", "m_weights.o"]), folder.path())?;
        let sections = String::from_utf8(sections)?;
        let bytes = |name: &str| {
            let line = sections.lines().find(|line| line.split_whitespace().next() == Some(name));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok()).unwrap_or(0)
        };
        assert!(bytes(in_c) >= built.report.weight_bytes, "{weights:?}:\n{sections}");
        let rust = driver::build(&frontend, &ranges, &options(Language::Rust))?;
        let text = &rust.bundle["m_weights.rs"];
        let named = text.contains(&format!("#[link_section = \"{in_rust}\"]"));
        assert_eq!(named, in_rust != ".rodata", "{text}");
    }
    Ok(())
}

/// Bytes of the arena, at most: for no goal in particular what is live at the most demanding layer, and with the goal Ram,
/// of plain loops. Kernels with working memory may need as much more as they say.
const BUDGETS: [(&str, usize, usize); 4] = [
    ("resnet8_cifar10", 49_152, 21_000),
    ("dscnn_kws", 16_000, 10_000),
    ("mobilenetv1_vww", 55_296, 40_000),
    ("autoencoder_ad", 768, 768),
];

#[test]
fn real_models_keep_to_their_budgets() -> Result<()> {
    for (name, usual, least) in BUDGETS {
        let model = MODELS.iter().find(|model| model.name == name).expect("a known model");
        for target in ["generic", "cortex-m4"] {
            for (goal, most) in [(Goal::Balanced, usual), (Goal::Speed, usual), (Goal::Ram, least)] {
                let Some(build) = build(model, target, goal)? else { continue };
                let bytes = build.report.arena.bytes;
                let scratch =
                    build.plan.layers.iter().filter_map(|layer| Some(build.plan.buffers[layer.scratch?].bytes));
                let most = if goal == Goal::Ram { most + scratch.max().unwrap_or(0) } else { most };
                assert!(bytes <= most, "{name} on {target} for {goal:?}: {bytes} bytes, {most} allowed");
            }
        }
    }
    Ok(())
}
