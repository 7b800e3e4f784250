//! Broken models, arrays and ranges: whatever a file holds, ptqc answers with a result or a diagnostic that blames the
//! file. Never with a panic, never with a fault of its own, never with much time or memory.
//!
//! The seeds are fixed, so a failure repeats; it prints the seed and what was done to the model.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use fastrand::Rng;
use prost::Message as _;
use ptqc::calibrate::{Entry, Ranges};
use ptqc::cli::data::{InputSpec, SampleSet, npy_bytes, read_labels};
use ptqc::diag::Diagnostics;
use ptqc::driver::{self, Frontend, Options};
use ptqc::evaluate::evaluate;
use ptqc::front::{REGISTRY, pb};
use ptqc::ir::Range;
use ptqc::print::{ArenaMode, Language};
use ptqc_target_runtimes::TARGETS;
use ptqc_tests::onnx::{Attr, Onnx, numbers};
use rayon::prelude::*;

use crate::process::{Folder, conv_relu, gemm, npz, samples, two_inputs};

/// No small file may keep ptqc busy for so long, even on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(10);

/// Larger graphs are built, but not evaluated.
const EVALUATED: usize = 1 << 14;

/// The whole pipeline over a model, with ranges from `random`. The text is what went wrong in ptqc.
fn survive(bytes: &[u8], random: &mut Rng) -> Result<(), String> {
    let start = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| pipeline(bytes, random)));
    match outcome {
        Err(_) => Err("a panic".to_owned()),
        Ok(Err(problems)) if problems.has_bugs() => Err(problems.to_string()),
        Ok(Err(problems)) if !problems.has_errors() => Err("an error without a problem".to_owned()),
        Ok(_) if start.elapsed() > PATIENCE => Err(format!("{:?}", start.elapsed())),
        Ok(_) => Ok(()),
    }
}

fn pipeline(bytes: &[u8], random: &mut Rng) -> Result<(), Diagnostics> {
    let frontend = driver::load(bytes, &|_| Err(std::io::ErrorKind::NotFound.into()), &BTreeMap::new())?;
    let target = random.choice(TARGETS).unwrap();
    let options = Options {
        settings: Default::default(),
        name: "m".to_owned(),
        target,
        language: Language::default(),
        arena: ArenaMode::Caller,
        goal: ptqc::plan::Goal::default(),
        weights: Default::default(),
        states: vec![],
        float_helpers: false,
        command: String::new(),
        model_sha256: String::new(),
    };
    let build = driver::build(&frontend, &ranges(&frontend, random), &options)?;
    let graph = &build.quant;
    if graph.topological().into_iter().all(|id| graph.node(id).value.shape.len() < EVALUATED) {
        let inputs = graph.inputs().iter().map(|&id| vec![random.i32(-128..=127); graph.node(id).value.shape.len()]);
        evaluate(graph, &inputs.collect::<Vec<_>>());
    }
    Ok(())
}

/// A range for every tensor; mostly sensible ones.
fn ranges(frontend: &Frontend, random: &mut Rng) -> Ranges {
    let ends = [0.0, 1.0, 1.0, 6.0, 6.0, 255.0, 1e-20, 1e-33, 1e10, 3e38];
    let mut ranges = Ranges::new();
    for id in frontend.fused.topological() {
        if let Some(name) = &frontend.fused.node(id).observed {
            let (min, max) = if random.u8(..) < 230 {
                (1.0, 1.0)
            } else {
                (*random.choice(&ends).unwrap(), *random.choice(&ends).unwrap())
            };
            ranges.insert(name, Entry { range: Range::new(-min, max).unwrap(), observed: None });
        }
    }
    ranges
}

/// `PTQC_FUZZ=100` asks for a hundred times as many.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let factor = std::env::var("PTQC_FUZZ").ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(1);
    0..count * factor
}

fn check(failures: Vec<String>) {
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// Pooling, a residual sum, padding, shape operators, tables, a matrix.
fn residual() -> Onnx {
    Onnx::default()
        .input("x", &[1, 2, 6, 6])
        .weights("w", &[2, 1, 3, 3], &numbers(5, 18))
        .weights("v", &[18, 4], &numbers(6, 72))
        .weights("scale", &[2], &[1.0, -0.5])
        .weights("variance", &[2], &[1.0, 0.25])
        .ints("pads", &[8], &[0, 0, 1, 1, 0, 0, 1, 1])
        .ints("flat", &[2], &[1, -1])
        .node("Pad", &["x", "pads"], &["p"])
        .node_with("Conv", &["p", "w"], &["c"], &[("group", Attr::Int(2)), ("kernel_shape", Attr::from([3, 3]))])
        .node_with(
            "BatchNormalization",
            &["c", "scale", "scale", "scale", "variance"],
            &["n"],
            &[("epsilon", Attr::Float(1e-5))],
        )
        .node("Add", &["n", "x"], &["a"])
        .node_with("LeakyRelu", &["a"], &["l"], &[("alpha", Attr::Float(0.1))])
        .node_with("MaxPool", &["l"], &["m"], &[("kernel_shape", Attr::from([2, 2])), ("strides", Attr::from([2, 2]))])
        .node_with(
            "AveragePool",
            &["l"],
            &["g"],
            &[("kernel_shape", Attr::from([2, 2])), ("strides", Attr::from([2, 2]))],
        )
        .node_with("Concat", &["m", "g"], &["k"], &[("axis", Attr::Int(1))])
        .node_with("Transpose", &["m"], &["t"], &[("perm", Attr::from([0, 2, 3, 1]))])
        .node("Reshape", &["t", "flat"], &["r"])
        .node_with("Gemm", &["r", "v"], &["h"], &[("alpha", Attr::Float(0.5))])
        .node_with("Softmax", &["h"], &["s"], &[("axis", Attr::Int(-1))])
        .node_with("ReduceMean", &["k"], &["q"], &[("axes", Attr::from([2, 3])), ("keepdims", Attr::Int(0))])
        .output("s")
        .output("q")
}

/// Shapes computed from shapes, as exporters write them.
fn shape_arithmetic() -> Onnx {
    Onnx::default()
        .input("x", &[1, 3, 4, 4])
        .ints("start", &[1], &[0])
        .ints("end", &[1], &[2])
        .ints("minus", &[1], &[-1])
        .ints("axis", &[1], &[2])
        .ints("steps", &[1], &[1])
        .ints("parts", &[2], &[1, 2])
        .node("Shape", &["x"], &["a"])
        .node_with("Gather", &["a", "start"], &["b"], &[("axis", Attr::Int(0))])
        .node_with("Concat", &["b", "minus"], &["c"], &[("axis", Attr::Int(0))])
        .node("Slice", &["x", "start", "end", "axis", "steps"], &["d"])
        .node_with("Split", &["d", "parts"], &["e", "f"], &[("axis", Attr::Int(1))])
        .node("Reshape", &["f", "c"], &["g"])
        .node("Sigmoid", &["g"], &["h"])
        .node_with("ConstantOfShape", &["a"], &["i"], &[])
        .node_with("Unsqueeze", &["h", "axis"], &["j"], &[])
        .node_with("ArgMax", &["e"], &["k"], &[("axis", Attr::Int(3))])
        .output("j")
        .output("k")
}

fn models() -> Vec<Onnx> {
    vec![conv_relu(), gemm(), two_inputs(), residual(), shape_arithmetic()]
}

#[test]
fn whole_models_are_compiled() {
    for model in models() {
        pipeline(&model.bytes(), &mut Rng::with_seed(1)).unwrap();
    }
}

#[test]
fn every_prefix_of_a_model_is_diagnosed() {
    let bytes = conv_relu().bytes();
    check(
        (0..bytes.len())
            .into_par_iter()
            .filter_map(|length| {
                let failure = survive(&bytes[..length], &mut Rng::with_seed(length as u64)).err();
                failure.map(|failure| format!("first {length} bytes: {failure}"))
            })
            .collect(),
    );
}

#[test]
fn damaged_bytes_are_survived() {
    let models: Vec<Vec<u8>> = models().iter().map(Onnx::bytes).collect();
    check(
        seeds(1500)
            .into_par_iter()
            .filter_map(|seed| {
                let mut random = Rng::with_seed(seed);
                let bytes = damaged(random.choice(&models).unwrap().clone(), &mut random);
                survive(&bytes, &mut random).err().map(|failure| format!("seed {seed}: {failure}"))
            })
            .collect(),
    );
}

/// Changes, removes or repeats some bytes.
fn damaged(mut bytes: Vec<u8>, random: &mut Rng) -> Vec<u8> {
    for _ in 0..random.usize(1..4) {
        let at = random.usize(..bytes.len());
        match random.u8(..4) {
            0 => bytes[at] = random.u8(..),
            1 => bytes[at] ^= 1 << random.u8(..8),
            2 => drop(bytes.remove(at)),
            _ => bytes.insert(at, bytes[at]),
        }
    }
    bytes
}

#[test]
fn changed_models_are_survived() {
    let models = models();
    check(
        seeds(4000)
            .into_par_iter()
            .filter_map(|seed| {
                let mut random = Rng::with_seed(seed);
                let mut model = random.choice(&models).unwrap().proto.clone();
                let changes: Vec<String> = (0..random.usize(1..4)).map(|_| change(&mut model, &mut random)).collect();
                survive(&model.encode_to_vec(), &mut random)
                    .err()
                    .map(|failure| format!("seed {seed}, {changes:?}: {failure}"))
            })
            .collect(),
    );
}

const INTEGERS: [i64; 16] = [0, 1, 2, 3, 4, 5, 7, -1, -2, -3, 255, 65_536, 1 << 31, 1 << 40, i64::MAX, i64::MIN];
const REALS: [f32; 10] = [0.0, -0.0, 1.0, -1.0, 1e-30, 1e-40, 3e38, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

fn integer(random: &mut Rng) -> i64 {
    // Mostly small ones: they come further.
    let among = if random.bool() { 9 } else { INTEGERS.len() };
    INTEGERS[random.usize(..among)]
}

/// Changes one thing and says which.
fn change(model: &mut pb::ModelProto, random: &mut Rng) -> String {
    let graph = model.graph.as_mut().unwrap();
    match random.u8(..8) {
        0 => change_input(graph, random),
        1 | 2 => change_initializer(graph, random),
        3 => {
            model.opset_import[0].version = random.i64(7..=24);
            format!("operator set {}", model.opset_import[0].version)
        }
        4 => change_wiring(graph, random),
        _ => change_node(graph, random),
    }
}

fn change_input(graph: &mut pb::GraphProto, random: &mut Rng) -> String {
    use pb::tensor_shape_proto::{Dimension, dimension::Value};
    let Some(info) = random.choice(graph.input.iter_mut()) else { return "no input".to_owned() };
    let Some(pb::type_proto::Value::TensorType(tensor)) = info.r#type.as_mut().and_then(|ty| ty.value.as_mut()) else {
        return "no type".to_owned();
    };
    let dimension =
        |random: &mut Rng| Dimension { value: Some(Value::DimValue(integer(random))), ..Default::default() };
    match random.u8(..5) {
        0 => tensor.elem_type = random.i32(0..24),
        1 => tensor.shape = None,
        2 => tensor.shape.get_or_insert_default().dim.push(dimension(random)),
        3 => drop(tensor.shape.get_or_insert_default().dim.pop()),
        _ => {
            if let Some(dim) = random.choice(tensor.shape.get_or_insert_default().dim.iter_mut()) {
                *dim = dimension(random);
            }
        }
    }
    format!("input {:?}", tensor)
}

fn change_initializer(graph: &mut pb::GraphProto, random: &mut Rng) -> String {
    let Some(tensor) = random.choice(graph.initializer.iter_mut()) else { return "no initializer".to_owned() };
    match random.u8(..6) {
        0 => tensor.data_type = random.i32(0..18),
        1 => tensor.dims = vec![tensor.dims.iter().product()],
        2 => tensor.dims.reverse(),
        3 => tensor.dims.insert(0, 1),
        4 => {
            tensor.dims = vec![0];
            tensor.raw_data.clear();
        }
        _ => {
            let at = random.usize(..(tensor.raw_data.len() / 8).max(1)) * 8;
            let value: Vec<u8> = match tensor.data_type {
                7 => integer(random).to_le_bytes().to_vec(),
                _ => random.choice(&REALS).unwrap().to_le_bytes().to_vec(),
            };
            if let Some(slot) = tensor.raw_data.get_mut(at..at + value.len()) {
                slot.copy_from_slice(&value);
            }
        }
    }
    format!("initializer {} type {} {:?}", tensor.name, tensor.data_type, tensor.dims)
}

fn change_wiring(graph: &mut pb::GraphProto, random: &mut Rng) -> String {
    let count = graph.node.len();
    if count == 0 {
        return "no node".to_owned();
    }
    let at = random.usize(..count);
    match random.u8(..5) {
        0 => {
            let node = graph.node.remove(at);
            format!("without {}", node.name)
        }
        1 => {
            let other = random.usize(..count);
            graph.node.swap(at, other);
            format!("{at} and {other} change places")
        }
        2 => {
            let node = graph.node[at].clone();
            graph.node.push(node);
            format!("{at} twice")
        }
        3 => {
            let tensors: Vec<&String> = graph.node.iter().flat_map(|node| &node.output).collect();
            let tensor = (*random.choice(&tensors).unwrap()).clone();
            graph.output.push(pb::ValueInfoProto { name: tensor.clone(), ..Default::default() });
            format!("output {tensor}")
        }
        _ => {
            graph.output.pop();
            "an output less".to_owned()
        }
    }
}

fn change_node(graph: &mut pb::GraphProto, random: &mut Rng) -> String {
    let names: Vec<String> =
        graph.node.iter().flat_map(|node| node.input.iter().chain(&node.output).cloned()).collect();
    let body = graph.clone();
    let Some(node) = random.choice(graph.node.iter_mut()) else { return "no node".to_owned() };
    match random.u8(..9) {
        0 => {
            let others = ["If", "Loop", "Scan", "Conv7", "", "Einsum", "QuantizeLinear"];
            let op_types: Vec<&str> = REGISTRY.iter().map(|row| row.op_type).chain(others).collect();
            node.op_type = (*random.choice(&op_types).unwrap()).to_owned();
            if node.op_type == "If" || node.op_type == "Loop" {
                let names = ["then_branch", "else_branch", "body"];
                node.attribute.extend(names.map(|name| pb::AttributeProto {
                    name: name.to_owned(),
                    r#type: pb::attribute_proto::AttributeType::Graph as i32,
                    g: Some(body.clone()),
                    ..Default::default()
                }));
            }
        }
        1 => drop(node.input.pop()),
        2 => node.input.push(random.choice(&names).unwrap().clone()),
        3 => {
            if let Some(input) = random.choice(node.input.iter_mut()) {
                *input = if random.u8(..4) == 0 { String::new() } else { random.choice(&names).unwrap().clone() };
            }
        }
        4 => {
            if let Some(output) = random.choice(node.output.iter_mut()) {
                *output = if random.bool() { String::new() } else { "other".to_owned() };
            }
        }
        _ => change_attribute(node, random),
    }
    let attributes: Vec<String> =
        node.attribute.iter().map(|a| format!("{} {} {} {} {:?}", a.name, a.r#type, a.i, a.f, a.ints)).collect();
    format!("{} {:?} -> {:?} {attributes:?}", node.op_type, node.input, node.output)
}

fn change_attribute(node: &mut pb::NodeProto, random: &mut Rng) {
    const NAMES: [&str; 18] = [
        "axis",
        "axes",
        "pads",
        "strides",
        "dilations",
        "kernel_shape",
        "group",
        "auto_pad",
        "ceil_mode",
        "alpha",
        "beta",
        "perm",
        "keepdims",
        "epsilon",
        "count_include_pad",
        "transB",
        "allowzero",
        "value",
    ];
    if node.attribute.is_empty() || random.bool() {
        let name = (*random.choice(&NAMES).unwrap()).to_owned();
        node.attribute.retain(|attribute| attribute.name != name);
        node.attribute.push(pb::AttributeProto { name, ..Default::default() });
    }
    let Some(attribute) = random.choice(node.attribute.iter_mut()) else { return };
    attribute.i = integer(random);
    attribute.f = *random.choice(&REALS).unwrap();
    attribute.s = random.choice(["SAME_UPPER", "SAME_LOWER", "VALID", "reflect", "edge", ""]).unwrap().into();
    attribute.ints = (0..random.usize(..5)).map(|_| integer(random)).collect();
    let plausible = match attribute.name.as_str() {
        "axes" | "pads" | "strides" | "dilations" | "kernel_shape" | "perm" => 7,
        "alpha" | "beta" | "epsilon" => 1,
        "auto_pad" => 3,
        _ => 2,
    };
    attribute.r#type = if random.u8(..8) == 0 { random.i32(0..12) } else { plausible };
}

#[test]
fn damaged_arrays_are_survived() {
    let inputs = [InputSpec { name: "x".to_owned(), dims: vec![1, 4] }];
    let arrays = [samples(8, &[4]), npy_bytes::<i8>(&[4], &[1, 2, 3, 4]), npz(&[("x", samples(8, &[4]))])];
    let folder = Folder::with(vec![]);
    check(
        seeds(1500)
            .filter_map(|seed| {
                let mut random = Rng::with_seed(seed);
                let mut bytes = damaged(random.choice(&arrays).unwrap().clone(), &mut random);
                if random.u8(..4) == 0 {
                    bytes.truncate(random.usize(..bytes.len()));
                }
                folder.write("x.npy", &bytes);
                let read = || -> Result<(), Diagnostics> {
                    let _ = read_labels(&folder.path("x.npy"));
                    let set = SampleSet::open(&folder.path("x.npy"), &inputs, Default::default())?;
                    set.samples().try_for_each(|sample| sample.map(drop))
                };
                match catch_unwind(AssertUnwindSafe(read)) {
                    Err(_) => Some(format!("seed {seed}: a panic")),
                    Ok(Err(problems)) if problems.has_bugs() => Some(format!("seed {seed}: {problems}")),
                    Ok(_) => None,
                }
            })
            .collect(),
    );
}

#[test]
fn damaged_ranges_are_survived() {
    let folder = Folder::with(vec![("m.onnx", gemm().bytes()), ("x.npy", samples(16, &[4]))]);
    folder.ok("calibrate m.onnx --calib x.npy");
    let text = folder.read("m.ranges.toml");
    check(
        seeds(3000)
            .into_par_iter()
            .filter_map(|seed| {
                let mut random = Rng::with_seed(seed);
                let damaged = damaged(text.clone(), &mut random);
                let text = String::from_utf8_lossy(&damaged).into_owned();
                match catch_unwind(|| Ranges::from_toml(&text).map(|ranges| ranges.to_toml())) {
                    Err(_) => Some(format!("seed {seed}: a panic")),
                    Ok(Err(problems)) if problems.has_bugs() => Some(format!("seed {seed}: {problems}")),
                    Ok(Ok(again)) if Ranges::from_toml(&again).is_err() => {
                        Some(format!("seed {seed}: cannot be read again"))
                    }
                    Ok(_) => None,
                }
            })
            .collect(),
    );
}
