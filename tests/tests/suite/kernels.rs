//! Layers of many shapes on emulated targets: every kernel of every target returns the evaluator's bytes.
//!
//! The shapes are random, but the same on every run. All layers are one program for each target and compiler.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use anyhow::{Context as _, Result};
use ptqc::calibrate::{Entry, Method, Origin, Ranges};
use ptqc::driver::{self, Build, Frontend, Options};
use ptqc::ir::{DType, QuantType, Range};
use ptqc::kernels;
use ptqc::plan::Goal;
use ptqc::print::{ArenaMode, Language};
use ptqc::quantize::Settings;
use ptqc_target_runtimes::{Feature, TARGETS, Target};
use ptqc_tests::batch;
use ptqc_tests::case::{Tensors, dynamic, evaluate_all, load, mixed};
use ptqc_tests::image::{self, Code, Member};
use ptqc_tests::onnx::{Attr, Onnx, numbers};
use ptqc_tests::rust;
use ptqc_tests::toolchain;
use rayon::prelude::*;

/// Samples of every layer.
const SAMPLES: usize = 3;

/// Products of a layer at most, and weights: emulators take their time, and boards have little memory.
const MOST_PRODUCTS: usize = 400_000;
const MOST_WEIGHTS: usize = 12_000;

/// Numbers of channels: one, tails of every block, and what real models have.
const CHANNELS: &[usize] = &[1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 15, 16, 17, 19, 24, 30, 31, 32, 33, 40, 57, 64, 65, 67];

/// How the layer's tensors lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The caller's buffers, channels first.
    ChannelsFirst,
    /// The caller's buffers, channels last.
    ChannelsLast,
    /// The arena: other layers are around it.
    Inner,
}

/// A model of one layer, more or less.
struct Layer {
    name: String,
    frontend: Frontend,
    ranges: Ranges,
    settings: Settings,
}

/// A layer, built for a target.
struct Built {
    build: Build,
    inputs: Vec<Tensors>,
    expected: Vec<Tensors>,
}

/// A model under construction, with what its random parts come from.
struct Draft {
    name: String,
    model: Onnx,
    random: fastrand::Rng,
    /// Values of the inputs.
    range: (f32, f32),
}

impl Draft {
    fn new(name: &str) -> Draft {
        let seed = name.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(131).wrapping_add(byte.into()));
        let mut random = fastrand::Rng::with_seed(seed);
        // Zero points in the middle, at both ends, and somewhere.
        let range = *pick(&mut random, &[(-1.0, 1.0), (0.0, 1.0), (-1.0, 0.0), (-0.2, 1.3)]);
        Draft { name: name.to_owned(), model: Onnx::new(17), random, range }
    }

    fn input(&mut self, name: &str, dims: &[usize]) {
        self.model = self.model.clone().input(name, &signed(dims));
    }

    fn node(&mut self, op: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attr)]) {
        self.model = self.model.clone().node_with(op, inputs, &[output], attributes);
    }

    fn weights(&mut self, name: &str, dims: &[usize], data: &[f32]) {
        self.model = self.model.clone().weights(name, &signed(dims), data);
    }

    /// Weights of `channels` rows: even, sparse, or all as large as they can be; rows of very different size.
    fn rows(&mut self, name: &str, dims: &[usize]) {
        let len = dims.iter().product::<usize>();
        let row = len / dims[0];
        let mut data = numbers(self.random.u64(..), len);
        let kind = self.random.u32(..4);
        for (index, value) in data.iter_mut().enumerate() {
            let scale = [1.0, 0.25, 0.8, 0.02][index / row % 4];
            *value = match kind {
                0 => value.signum(),
                1 => 1.0,
                2 if *value > 0.3 => 0.0,
                _ => *value,
            } * scale;
        }
        self.weights(name, dims, &data);
    }

    /// Small biases, or some that decide the result.
    fn biases(&mut self, name: &str, channels: usize) {
        let size = *pick(&mut self.random, &[0.0, 0.5, 0.5, 40.0]);
        let data: Vec<f32> = numbers(self.random.u64(..), channels).iter().map(|x| x * size).collect();
        self.weights(name, &[channels], &data);
    }

    /// An activation that can be fused.
    fn activation(&mut self, x: &str, y: &str) {
        let bounds = match self.random.u32(..4) {
            0 => return self.node("Relu", &[x], y, &[]),
            1 => [0.0, 0.6],
            2 => [-0.3, 0.4],
            _ => return self.node("Identity", &[x], y, &[]),
        };
        self.weights(&format!("{y}_lo"), &[], &bounds[..1]);
        self.weights(&format!("{y}_hi"), &[], &bounds[1..]);
        self.node("Clip", &[x, &format!("{y}_lo"), &format!("{y}_hi")], y, &[]);
    }

    /// A convolution of `x`, of which it gets the channels.
    fn conv(&mut self, x: &str, y: &str, channels: usize, conv: &Conv) {
        let (w, b, z) = (format!("{y}_w"), format!("{y}_b"), format!("{y}_z"));
        let dims = [&[conv.outputs, channels / conv.groups][..], &conv.kernel].concat();
        self.rows(&w, &dims);
        self.biases(&b, conv.outputs);
        let attributes = [
            ("strides", signed(&conv.stride).into()),
            ("dilations", signed(&conv.dilation).into()),
            ("pads", signed(&conv.pads).into()),
            ("group", (conv.groups as i64).into()),
        ];
        self.node("Conv", &[x, &w, &b], &z, &attributes);
        self.activation(&z, y);
    }

    /// Reads `x` from where it lies; the body gets its name, and names the result.
    fn placed(mut self, place: Place, dims: &[usize], body: impl FnOnce(&mut Draft, &str, &str)) -> Layer {
        let rank = dims.len();
        let last: Vec<i64> = [&[0][..], &(2..rank as i64).collect::<Vec<_>>(), &[1]].concat();
        let first: Vec<i64> = [&[0, rank as i64 - 1][..], &(1..rank as i64 - 1).collect::<Vec<_>>()].concat();
        match place {
            Place::ChannelsFirst => {
                self.input("x", dims);
                body(&mut self, "x", "y");
            }
            Place::ChannelsLast => {
                let moved: Vec<usize> = last.iter().map(|&axis| dims[axis as usize]).collect();
                self.input("x", &moved);
                self.node("Transpose", &["x"], "t", &[("perm", first.into())]);
                body(&mut self, "t", "u");
                self.node("Transpose", &["u"], "y", &[("perm", last.into())]);
            }
            Place::Inner => {
                let unit = |channels| Conv::unit(channels, rank - 2);
                self.input("x", &[&[dims[0], 2][..], &dims[2..]].concat());
                self.conv("x", "before", 2, &unit(dims[1]));
                body(&mut self, "before", "inner");
                let channels = self.output_channels("inner");
                self.conv("inner", "y", channels, &unit(2));
            }
        }
        self.finish()
    }

    /// Channels of a tensor that has been built: those of the weights of its convolution, or else of its operand.
    fn output_channels(&mut self, name: &str) -> usize {
        let graph = self.model.graph();
        let mut name = name.to_owned();
        loop {
            let node = graph.node.iter().find(|node| node.output[0] == name).expect("the node has been added");
            if node.op_type == "Conv" {
                let weights = graph.initializer.iter().find(|tensor| tensor.name == node.input[1]);
                return weights.expect("the weights have been added").dims[0] as usize;
            }
            name.clone_from(&node.input[0]);
        }
    }

    /// Calibrates, then changes some ranges: results that saturate, clamps that are narrower than the element type,
    /// multipliers of one half and more.
    fn finish(mut self) -> Layer {
        let frontend = load(&self.model.clone().output("y").bytes()).expect("the model can be read");
        let (lo, hi) = self.range;
        let sample = |seed: u64| {
            let values = |(i, len): (usize, usize)| -> Vec<f32> {
                let numbers = numbers(seed * 10 + i as u64, len);
                numbers.iter().map(|x| (lo + hi) / 2.0 + x * (hi - lo) / 2.0).collect()
            };
            Ok(frontend.model.inputs.iter().enumerate().map(|(i, x)| values((i, x.shape.len()))).collect())
        };
        let (calibrator, _) = driver::calibrate(&frontend.model, (0..2).map(sample), &|| {}).expect("it runs");
        let found = calibrator.finish(Method::MinMax, Origin::default()).expect("ranges are found");
        let mut ranges = Ranges::new();
        for (name, entry) in found.iter() {
            let (min, max) = (entry.range.min(), entry.range.max());
            let is_input = frontend.model.inputs.iter().any(|input| input.name == name);
            let (min, max) = match self.random.u32(..8) {
                _ if is_input => (min, max),
                0 => (min * 0.3, max * 0.3),
                1 => (min - (max - min) / 2.0, max),
                2 => (min * 0.02, max * 0.02),
                3 => (min, max * 2.0),
                _ => (min, max),
            };
            let range = Range::new(min, max).expect("finite bounds in order");
            ranges.insert(name, Entry { range, observed: None });
        }
        Layer { name: self.name, frontend, ranges, settings: Settings::default() }
    }
}

/// Geometry of a convolution.
#[derive(Debug, Clone)]
struct Conv {
    outputs: usize,
    kernel: Vec<usize>,
    stride: Vec<usize>,
    dilation: Vec<usize>,
    pads: Vec<usize>,
    groups: usize,
}

impl Conv {
    fn unit(outputs: usize, rank: usize) -> Conv {
        Conv {
            outputs,
            kernel: vec![1; rank],
            stride: vec![1; rank],
            dilation: vec![1; rank],
            pads: vec![0; 2 * rank],
            groups: 1,
        }
    }
}

fn signed(values: &[usize]) -> Vec<i64> {
    values.iter().map(|&value| value as i64).collect()
}

fn pick<'a, T>(random: &mut fastrand::Rng, values: &'a [T]) -> &'a T {
    &values[random.usize(..values.len())]
}

/// What a family of random convolutions may be.
struct Family {
    name: &'static str,
    count: usize,
    places: &'static [Place],
    /// Kernels with stride and dilation.
    windows: &'static [(&'static [usize], &'static [usize], &'static [usize])],
    padded: bool,
    inputs: &'static [usize],
    grouping: Grouping,
}

#[derive(Debug, Clone, Copy)]
enum Grouping {
    One,
    Depthwise,
    Some,
}

const ALL: &[Place] = &[Place::ChannelsLast, Place::Inner, Place::ChannelsFirst, Place::Inner];

const FAMILIES: &[Family] = &[
    Family {
        name: "pointwise",
        count: 20,
        places: ALL,
        windows: &[(&[1, 1], &[1, 1], &[1, 1])],
        padded: false,
        inputs: CHANNELS,
        grouping: Grouping::One,
    },
    Family {
        name: "pointwise_stride",
        count: 6,
        places: ALL,
        windows: &[(&[1, 1], &[2, 2], &[1, 1]), (&[1, 1], &[1, 3], &[1, 1])],
        padded: false,
        inputs: CHANNELS,
        grouping: Grouping::One,
    },
    Family {
        name: "pointwise_1d",
        count: 4,
        places: ALL,
        windows: &[(&[1], &[1], &[1])],
        padded: false,
        inputs: CHANNELS,
        grouping: Grouping::One,
    },
    Family {
        name: "conv_3x3",
        count: 12,
        places: ALL,
        windows: &[(&[3, 3], &[1, 1], &[1, 1]), (&[3, 3], &[2, 2], &[1, 1])],
        padded: true,
        inputs: CHANNELS,
        grouping: Grouping::One,
    },
    Family {
        name: "conv_3x3_fours",
        count: 10,
        places: &[Place::ChannelsLast, Place::Inner],
        windows: &[(&[3, 3], &[1, 1], &[1, 1]), (&[3, 3], &[2, 2], &[1, 1])],
        padded: true,
        inputs: &[4, 8, 12, 16, 24, 32],
        grouping: Grouping::One,
    },
    Family {
        name: "conv",
        count: 14,
        places: ALL,
        windows: &[
            (&[5, 5], &[1, 1], &[1, 1]),
            (&[1, 3], &[1, 1], &[1, 1]),
            (&[4, 1], &[1, 1], &[1, 1]),
            (&[2, 2], &[2, 2], &[1, 1]),
            (&[3, 3], &[1, 1], &[2, 2]),
            (&[3, 2], &[2, 1], &[1, 3]),
            (&[3], &[1], &[1]),
            (&[5], &[2], &[2]),
        ],
        padded: true,
        inputs: CHANNELS,
        grouping: Grouping::One,
    },
    Family {
        name: "first",
        count: 12,
        places: &[Place::ChannelsFirst, Place::ChannelsLast],
        windows: &[
            (&[3, 3], &[1, 1], &[1, 1]),
            (&[3, 3], &[2, 2], &[1, 1]),
            (&[10, 4], &[2, 2], &[1, 1]),
            (&[5, 5], &[1, 1], &[1, 1]),
        ],
        padded: true,
        inputs: &[1, 3],
        grouping: Grouping::One,
    },
    Family {
        name: "depthwise_3x3",
        count: 16,
        places: ALL,
        windows: &[(&[3, 3], &[1, 1], &[1, 1]), (&[3, 3], &[2, 2], &[1, 1])],
        padded: true,
        inputs: CHANNELS,
        grouping: Grouping::Depthwise,
    },
    Family {
        name: "depthwise",
        count: 20,
        places: ALL,
        windows: &[
            (&[5, 5], &[1, 1], &[1, 1]),
            (&[5, 5], &[2, 2], &[1, 1]),
            (&[3, 1], &[1, 1], &[1, 1]),
            (&[5, 1], &[1, 1], &[1, 1]),
            (&[10, 1], &[1, 1], &[1, 1]),
            (&[1, 7], &[1, 1], &[1, 1]),
            (&[3, 3], &[1, 1], &[2, 2]),
            (&[2, 4], &[1, 2], &[1, 1]),
            (&[3, 3], &[1, 2], &[1, 1]),
            (&[5], &[1], &[1]),
            (&[3], &[2], &[1]),
        ],
        padded: true,
        inputs: CHANNELS,
        grouping: Grouping::Depthwise,
    },
    Family {
        name: "grouped",
        count: 8,
        places: ALL,
        windows: &[(&[3, 3], &[1, 1], &[1, 1]), (&[1, 1], &[1, 1], &[1, 1])],
        padded: true,
        inputs: &[2, 4, 6, 12, 16, 24, 40],
        grouping: Grouping::Some,
    },
];

impl Family {
    fn layers(&self) -> Vec<Layer> {
        (0..self.count).map(|index| self.layer(index)).collect()
    }

    fn layer(&self, index: usize) -> Layer {
        let draft = Draft::new(&format!("{}_{index}", self.name));
        let random = &mut fastrand::Rng::with_seed(draft.random.clone().u64(..));
        let place = self.places[index % self.places.len()];
        let (kernel, stride, dilation) = self.windows[index % self.windows.len()];
        loop {
            let inputs = *pick(random, self.inputs);
            let (groups, outputs) = match self.grouping {
                Grouping::One => (1, *pick(random, CHANNELS)),
                // Two filters for each channel now and then.
                Grouping::Depthwise => (inputs, inputs * if random.u32(..6) == 0 { 2 } else { 1 }),
                Grouping::Some => (2, 2 * random.usize(1..9)),
            };
            let pads: Vec<usize> = (0..2 * kernel.len())
                .map(|side| if self.padded { random.usize(..=kernel[side % kernel.len()] / 2) } else { 0 })
                .collect();
            let sizes: Vec<usize> = kernel
                .iter()
                .zip(dilation)
                .map(|(k, d)| random.usize((k - 1) * d + 1..(k - 1) * d + if kernel.len() == 1 { 40 } else { 13 }))
                .collect();
            let conv = Conv {
                outputs,
                kernel: kernel.to_vec(),
                stride: stride.to_vec(),
                dilation: dilation.to_vec(),
                pads,
                groups,
            };
            let weights = outputs * inputs / groups * kernel.iter().product::<usize>();
            if weights > MOST_WEIGHTS || weights * sizes.iter().product::<usize>() > MOST_PRODUCTS {
                continue;
            }
            let batch = if random.u32(..6) == 0 { 2 } else { 1 };
            let dims = [&[batch, inputs][..], &sizes].concat();
            return draft.placed(place, &dims, |draft, x, y| draft.conv(x, y, inputs, &conv));
        }
    }
}

/// Fully connected layers.
fn linear(index: usize) -> Layer {
    let mut draft = Draft::new(&format!("linear_{index}"));
    let random = &mut draft.random.clone();
    let rows = [1, 1, 1, 2, 5][index % 5];
    let inputs = *pick(random, &[1, 2, 3, 4, 7, 8, 13, 31, 32, 64, 130, 257]);
    let outputs = *pick(random, &[1, 2, 3, 8, 9, 10, 16, 23, 33]);
    draft.input("x", &[rows, inputs]);
    draft.rows("w", &[outputs, inputs]);
    draft.biases("b", outputs);
    draft.node("Gemm", &["x", "w", "b"], "z", &[("transB", 1.into())]);
    if index.is_multiple_of(3) {
        draft.activation("z", "y");
    } else {
        draft.activation("z", "hidden");
        draft.rows("v", &[7, outputs]);
        draft.biases("c", 7);
        draft.node("Gemm", &["hidden", "v", "c"], "y", &[("transB", 1.into())]);
    }
    draft.finish()
}

/// A convolution's image in a fully connected layer: its elements are in another order than its weights.
fn flattened(index: usize) -> Layer {
    let mut draft = Draft::new(&format!("flattened_{index}"));
    let channels = [3, 8, 5][index % 3];
    draft.input("x", &[1, 2, 4, 3]);
    draft.conv("x", "image", 2, &Conv::unit(channels, 2));
    draft.node("Flatten", &["image"], "flat", &[]);
    draft.rows("w", &[10, channels * 12]);
    draft.biases("b", 10);
    draft.node("Gemm", &["flat", "w", "b"], "y", &[("transB", 1.into())]);
    draft.finish()
}

/// A residual sum: of a convolution's result with its input, with another convolution's, or with another input.
fn residual(index: usize) -> Layer {
    let draft = Draft::new(&format!("residual_{index}"));
    let random = &mut draft.random.clone();
    let channels = *pick(random, &[1, 3, 4, 7, 8, 16, 17, 32]);
    let (height, width) = (random.usize(1..8), random.usize(1..8));
    draft.placed(ALL[index % 4], &[1, channels, height, width], |draft, x, y| {
        let conv = match index % 3 {
            _ if index >= 14 => Conv { kernel: vec![1, 5], pads: vec![0, 2, 0, 2], ..Conv::unit(channels, 2) },
            0 => Conv::unit(channels, 2),
            1 => Conv { kernel: vec![3, 3], pads: vec![1; 4], ..Conv::unit(channels, 2) },
            _ => Conv { kernel: vec![3, 3], pads: vec![1; 4], groups: channels, ..Conv::unit(channels, 2) },
        };
        let other = match index {
            // The sum is of a tensor that the convolution does not read.
            14.. => {
                draft.conv(x, "hidden", channels, &Conv::unit(channels, 2));
                draft.conv("hidden", "branch", channels, &conv);
                x
            }
            _ => {
                draft.conv(x, "branch", channels, &conv);
                if index.is_multiple_of(2) {
                    x
                } else {
                    draft.conv(x, "other", channels, &Conv::unit(channels, 2));
                    "other"
                }
            }
        };
        let operands = if index % 5 < 3 { ["branch", other] } else { [other, "branch"] };
        draft.node(if index % 7 == 6 { "Sub" } else { "Add" }, &operands, "sum", &[]);
        draft.activation("sum", y);
    })
}

/// Other operators on an image.
fn single(index: usize) -> Layer {
    const KINDS: &[&str] = &[
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "Softmax",
        "HardSwish",
        "Mul",
        "Affine",
        "MaxPool",
        "AveragePool",
        "Mean",
        "Sigmoid",
        "Square",
        "Concat",
        "Slice",
        "Pad",
        "Exclude",
    ];
    let kind = KINDS[index % KINDS.len()];
    let draft = Draft::new(&format!("{}_{index}", kind.to_lowercase()));
    let random = &mut draft.random.clone();
    let channels = *pick(random, &[1, 2, 4, 5, 8, 13, 16, 32, 33]);
    let (height, width) = (random.usize(2..9), random.usize(2..9));
    let place = [Place::ChannelsLast, Place::ChannelsFirst, Place::Inner][index / KINDS.len() % 3];
    draft.placed(place, &[1, channels, height, width], |draft, x, y| match kind {
        "MaxPool" | "AveragePool" => {
            let (kernel, stride) = ([2, random.usize(2..=width.min(3))], [random.usize(1..3), 2]);
            let mut attributes = vec![("kernel_shape", signed(&kernel).into()), ("strides", signed(&stride).into())];
            if index.is_multiple_of(2) {
                attributes.push(("pads", [1, 0, 0, 1].into()));
            }
            draft.node(kind, &[x], y, &attributes);
        }
        "GlobalAveragePool" => draft.node(kind, &[x], y, &[]),
        "Mean" => draft.node("ReduceMean", &[x], y, &[("axes", [2].into())]),
        "Softmax" => draft.node(kind, &[x], y, &[("axis", 1.into())]),
        "HardSwish" | "Sigmoid" => draft.node(kind, &[x], y, &[]),
        "Mul" => {
            draft.conv(x, "gate", channels, &Conv::unit(channels, 2));
            draft.node("Mul", &[x, "gate"], y, &[]);
        }
        "Square" => draft.node("Mul", &[x, x], y, &[]),
        "Affine" => {
            draft.rows("factor", &[1, channels, 1, 1]);
            draft.node("Tanh", &[x], "tanh", &[]);
            draft.node("Mul", &["tanh", "factor"], y, &[]);
        }
        "Concat" => {
            draft.conv(x, "more", channels, &Conv::unit(channels, 2));
            draft.node("Relu", &["more"], "relu", &[]);
            draft.node("Add", &["relu", x], "sum", &[]);
            draft.node("Concat", &["sum", "relu"], "both", &[("axis", 2.into())]);
            draft.node("Identity", &["both"], y, &[]);
        }
        "Slice" => {
            let model = draft.model.clone();
            draft.model = model.ints("starts", &[1], &[1]).ints("ends", &[1], &[100]).ints("slice_axes", &[1], &[3]);
            draft.node("Slice", &[x, "starts", "ends", "slice_axes"], y, &[]);
        }
        "Pad" => {
            draft.model = draft.model.clone().ints("pads", &[8], &[0, 0, 1, 2, 0, 0, 0, 1]);
            draft.node("Pad", &[x, "pads"], y, &[]);
        }
        _ => draft.node("Relu", &[x], y, &[]),
    })
}

static LAYERS: LazyLock<Vec<Layer>> = LazyLock::new(|| {
    let mut makers: Vec<Box<dyn Fn() -> Vec<Layer> + Send + Sync>> =
        FAMILIES.iter().map(|family| Box::new(move || family.layers()) as Box<_>).collect();
    makers.push(Box::new(|| (0..15).map(linear).collect()));
    makers.push(Box::new(|| (0..3).map(flattened).collect()));
    makers.push(Box::new(|| (0..26).map(residual).collect()));
    makers.push(Box::new(|| (0..48).map(single).collect()));
    makers.push(Box::new(mixes));
    // While a kernel is being written, the layers whose names begin so are enough.
    let wanted = std::env::var("PTQC_LAYERS").unwrap_or_default();
    let layers = makers.par_iter().flat_map_iter(|maker| maker());
    layers.filter(|layer| layer.name.starts_with(&wanted)).collect()
});

/// Layers of all kinds with other precisions than 8 bits.
fn mixes() -> Vec<Layer> {
    let mut layers: Vec<Layer> = FAMILIES.iter().flat_map(|family| (0..2).map(|index| family.layer(index))).collect();
    layers.extend((0..6).map(linear));
    layers.extend((0..2).map(flattened));
    layers.extend((0..6).map(residual));
    layers.extend((0..32).map(single));
    for (seed, layer) in (0..).zip(&mut layers) {
        layer.name = format!("mixed_{}", layer.name);
        layer.settings = mixed(&layer.frontend, seed);
    }
    layers.extend(dynamic_layers());
    layers.push(wide_sums());
    let count = layers.len();
    // Ranges that are as narrow as 8 bits allow are too narrow for results of 16.
    layers.retain(|layer| !layer.is_refused());
    assert!(10 * layers.len() >= 9 * count, "{} of {count} layers are left", layers.len());
    layers
}

/// Layers whose input is scaled in every inference.
fn dynamic_layers() -> Vec<Layer> {
    let mut layers: Vec<Layer> = FAMILIES.iter().map(|family| family.layer(2)).collect();
    layers.extend((6..9).map(linear));
    layers.extend((6..8).map(residual));
    for (types, layer) in [DType::I8, DType::I16].into_iter().cycle().zip(&mut layers) {
        layer.name = format!("dynamic_{}", layer.name);
        layer.settings = dynamic(&layer.frontend, types);
    }
    layers
}

/// So many products that sums of 16-bit elements need 64 bits.
fn wide_sums() -> Layer {
    let mut draft = Draft::new("mixed_wide_sums");
    draft.input("x", &[1, 3000]);
    let weights: Vec<f32> = numbers(7, 9000).iter().map(|w| w.signum()).collect();
    draft.weights("w", &[3, 3000], &weights);
    draft.biases("b", 3);
    draft.node("Gemm", &["x", "w", "b"], "y", &[("transB", 1.into())]);
    let layer = draft.finish();
    Layer { settings: mixed(&layer.frontend, 0), ..layer }
}

impl Layer {
    /// Whether its range is refused as too narrow.
    fn is_refused(&self) -> bool {
        let quantized = driver::quantize(&self.frontend, &self.ranges, &self.settings);
        quantized.is_err_and(|problems| problems.iter().all(|problem| problem.code == ptqc::diag::Code::InvalidRange))
    }

    fn build(&self, target: &'static Target, language: Language, goal: Goal) -> Result<Build> {
        let options = Options {
            settings: self.settings.clone(),
            name: self.name.clone(),
            target,
            language,
            arena: ArenaMode::Caller,
            weights: Default::default(),
            goal,
            states: vec![],
            float_helpers: false,
            command: String::new(),
            model_sha256: String::new(),
        };
        Ok(driver::build(&self.frontend, &self.ranges, &options)?)
    }

    fn built(&self, target: &'static Target, language: Language, goal: Goal) -> Result<Built> {
        let build = self.build(target, language, goal).with_context(|| self.name.clone())?;
        let mut random = fastrand::Rng::with_seed(self.name.len() as u64);
        let inputs: Vec<Tensors> = (0..SAMPLES)
            .map(|sample| {
                let mut element = |(lo, hi): (i32, i32)| match sample {
                    0 => random.i32(lo..=hi),
                    1 => *pick(&mut random, &[lo, hi]),
                    _ => random.i32(lo..=hi).max(random.i32(lo..=hi)),
                };
                let inputs = build.quant.inputs().iter().map(|&id| &build.quant.node(id).value);
                let mut values =
                    |ty: &QuantType| (0..ty.shape.len()).map(|_| element((ty.dtype.min(), ty.dtype.max()))).collect();
                inputs.map(&mut values).collect()
            })
            .collect();
        let expected = evaluate_all(&build.quant, &inputs);
        Ok(Built { build, inputs, expected })
    }
}

fn built(layers: &[&Layer], target: &'static Target, language: Language, goal: Goal) -> Result<Vec<Built>> {
    layers.par_iter().map(|layer| layer.built(target, language, goal)).collect()
}

fn members(built: &[Built]) -> Vec<Member<'_>> {
    let all = built.iter().map(|Built { build, inputs, expected }| Member {
        program: build.lowered.program.program(),
        bundle: &build.bundle,
        inputs,
        expected,
    });
    all.collect()
}

fn skipped(what: &str) {
    println!("skipped: {what}");
    assert!(!toolchain::must_not_skip(), "nothing may be skipped here: {what}");
}

/// Runs all layers on a target.
fn check(name: &str) -> Result<()> {
    let target = Target::find(name).context("there is no such target")?;
    check_layers(&LAYERS.iter().collect::<Vec<_>>(), target, Goal::default())
}

/// Runs layers on a target: C with every compiler, and Rust.
fn check_layers(layers: &[&Layer], target: &'static Target, goal: Goal) -> Result<()> {
    let name = target.name;
    let built_c = built(layers, target, Language::C, goal)?;
    for compiler in target.compilers {
        let missing = toolchain::missing(target, compiler);
        if !missing.is_empty() {
            skipped(&format!("{name} with {}: not installed: {}", compiler.program, missing.join(", ")));
            continue;
        }
        // A level that the flags promise is used without asking, and those below it are left out.
        let promises: &[&[&str]] = if target.variants.is_empty() { &[] } else { &[&["-O1", "-mavx2"]] };
        for flags in [&["-O2"][..]].iter().chain(promises) {
            let what = || format!("{} {}", compiler.program, flags.join(" "));
            image::check(&members(&built_c), (target, compiler), Code::C(flags)).with_context(what)?;
        }
    }
    let missing = toolchain::missing(target, &target.compilers[0]);
    match rust::find(target) {
        Ok(rustc) if missing.is_empty() => {
            let built = built(layers, target, Language::Rust, goal)?;
            image::check(&members(&built), (target, &target.compilers[0]), Code::Rust(&rustc)).context("rustc")?;
        }
        Ok(_) => skipped(&format!("Rust for {name}: not installed: {}", missing.join(", "))),
        Err(error) => skipped(&format!("Rust for {name}: {error:#}")),
    }
    Ok(())
}

macro_rules! on {
    ($($test:ident: $name:literal),* $(,)?) => {
        $(#[test]
        fn $test() -> Result<()> {
            check($name)
        })*

        /// Targets that have a test above.
        const TESTED: &[&str] = &[$($name),*];
    };
}

on! {
    generic: "generic",
    cortex_m0plus: "cortex-m0plus",
    cortex_m3: "cortex-m3",
    cortex_m4: "cortex-m4",
    cortex_m7: "cortex-m7",
    cortex_m33: "cortex-m33",
    cortex_m55: "cortex-m55",
    riscv32: "riscv32",
    armv7a: "armv7a",
    aarch64: "aarch64",
    aarch64_dotprod: "aarch64-dotprod",
    x86_64: "x86-64",
    x86_64_v2: "x86-64-v2",
    x86_64_v3: "x86-64-v3",
    x86_64_vnni: "x86-64-vnni",
}

/// Layers that get another kernel when it is asked for speed, or for few bytes.
#[test]
fn kernels_that_have_to_be_asked_for() -> Result<()> {
    let asked = |kernel: &str| kernels::all().any(|other| other.name == kernel && other.goal.is_some());
    let mut chosen = BTreeSet::new();
    for name in ["cortex-m0plus", "cortex-m4", "cortex-m33", "x86-64"] {
        let target = Target::find(name).context("there is no such target")?;
        for goal in [Goal::Speed, Goal::Size] {
            let kernels_of = |layer: &&Layer| -> Result<Vec<&'static str>> {
                let build = layer.build(target, Language::C, goal)?;
                Ok(build.lowered.layers.iter().map(|layer| layer.kernel).filter(|kernel| asked(kernel)).collect())
            };
            let kernels = LAYERS.par_iter().map(|layer| kernels_of(&layer)).collect::<Result<Vec<_>>>()?;
            let layers = LAYERS.iter().zip(&kernels).filter(|(_, kernels)| !kernels.is_empty());
            let layers: Vec<&Layer> = layers.map(|(layer, _)| layer).collect();
            if !layers.is_empty() {
                check_layers(&layers, target, goal)?;
            }
            chosen.extend(kernels.into_iter().flatten());
        }
    }
    let untested: Vec<&str> = kernels::all().map(|kernel| kernel.name).filter(|name| asked(name)).collect();
    assert!(untested.iter().all(|name| chosen.contains(name)), "of {untested:?} only {chosen:?} are chosen");
    Ok(())
}

/// Vectors of x86 touch nothing outside of their buffers: every buffer is allocated by itself, and a sanitizer watches.
#[test]
fn vector_kernels_stay_inside_of_their_buffers() -> Result<()> {
    for target in TARGETS.iter().filter(|target| target.has(Feature::Sse41)) {
        let missing = toolchain::missing(target, &target.compilers[0]);
        if !missing.is_empty() {
            skipped(&format!("{}: not here: {}", target.name, missing.join(", ")));
            continue;
        }
        let built = built(&LAYERS.iter().collect::<Vec<_>>(), target, Language::C, Goal::default())?;
        let members: Vec<batch::Member> = built
            .iter()
            .map(|Built { build, inputs, .. }| batch::Member {
                program: build.lowered.program.program(),
                bundle: &build.bundle,
                samples: inputs.clone(),
            })
            .collect();
        let flags = ["-std=c99", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
        let results = batch::run(&members, target.compilers[0].program, &flags).context(target.name)?;
        for (built, bytes) in built.iter().zip(results) {
            let program = built.build.lowered.program.program();
            let encode = |sample: &Tensors| batch::encode(&program.outputs, sample);
            let expected: Vec<u8> = built.expected.iter().flat_map(encode).collect();
            assert!(bytes == expected, "{} on {}", program.name, target.name);
        }
    }
    Ok(())
}

#[test]
fn every_target_runs_all_layers() {
    let untested: Vec<&str> = TARGETS.iter().map(|t| t.name).filter(|name| !TESTED.contains(name)).collect();
    assert!(untested.is_empty(), "{untested:?} have no test in this file");
}

/// A kernel that no layer gets is a kernel that nothing tests.
#[test]
fn every_kernel_is_chosen_for_some_layer() -> Result<()> {
    let mut chosen = BTreeSet::new();
    for target in TARGETS {
        let builds: Vec<Build> =
            LAYERS.par_iter().map(|l| l.build(target, Language::C, Goal::default())).collect::<Result<_>>()?;
        chosen.extend(builds.iter().flat_map(|build| build.lowered.layers.iter().map(|layer| layer.kernel)));
    }
    // What has to be asked for is tested above.
    let usual = kernels::all().filter(|kernel| kernel.goal.is_none() && !kernel.needs.is_empty());
    let untested: Vec<&str> = usual.map(|kernel| kernel.name).filter(|name| !chosen.contains(name)).collect();
    assert!(untested.is_empty(), "{untested:?} are chosen for no layer");
    Ok(())
}
