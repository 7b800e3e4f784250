//! Random models: program and evaluator agree in every bit, both are close to the float model, and for windows and
//! products a second implementation, written from ONNX's definition, returns the same integers.

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use ptqc::ir::Multiplier;
use ptqc::ops::QuantOp;
use ptqc::ops::weighted::Weighted;
use ptqc_tests::cases::{Case, Compiled};
use ptqc_tests::onnx::{Attr, Onnx, numbers};

/// Steps between a rounded result and the real one: half a step, and another half at an end of the range, which may lie
/// between two steps.
const ROUNDING: f64 = 1.01;

/// Runs a property over random values; the same ones every time.
fn check<S: Strategy>(cases: u32, strategy: S, property: impl Fn(S::Value)) {
    let config = ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Default::default()
    };
    let run = |value| {
        property(value);
        Ok(())
    };
    TestRunner::new(config).run(&strategy, run).unwrap_or_else(|error| panic!("{error}"));
}

/// Ends of the samples: zero points in the middle and at both ends, scales over all magnitudes.
fn sample_ranges() -> impl Strategy<Value = (f32, f32)> {
    let ends = prop_oneof![Just((-1.0, 1.0)), Just((0.0, 1.0)), Just((-1.0, 0.0)), Just((0.5, 2.0)), Just((-3.0, 0.1))];
    let magnitude = prop_oneof![4 => Just(1.0f32), 1 => Just(1e-12), 1 => Just(1e12)];
    (ends, magnitude).prop_map(|((lo, hi), magnitude)| (lo * magnitude, hi * magnitude))
}

/// With a mix of precisions for every other one.
fn compile(model: Onnx, range: (f32, f32), seed: u64) -> Compiled {
    let mix = Some(seed / 2).filter(|_| seed.is_multiple_of(2));
    let case = Case::new("property", model).between(range.0, range.1).mixed(mix);
    let compiled = case.compile().unwrap_or_else(|error| panic!("{:?}", error.downcast::<ptqc::diag::Diagnostics>()));
    compiled.check_program().unwrap_or_else(|error| panic!("{error:#}"));
    compiled
}

/// `floor(acc * m + 1/2)` with `m` the value that the multiplier stands for.
fn requantized(acc: i128, multiplier: Multiplier) -> i128 {
    ((acc << multiplier.left_shift()) * i128::from(multiplier.mantissa()) + (1 << 30)).div_euclid(1 << 31)
}

fn finish(weighted: &Weighted, channel_idx: usize, sum: i128) -> i32 {
    let channel = weighted.channels[channel_idx];
    let y = i128::from(weighted.output_zero) + requantized(sum + i128::from(channel.bias), channel.multiplier);
    y.clamp(weighted.clamp.lo.into(), weighted.clamp.hi.into()) as i32
}

/// How far a layer of `taps` products may be from the float model: weights are off by half a step each.
fn steps_of_weights(weighted: &Weighted, compiled: &Compiled, taps: usize) -> f64 {
    let step = weighted.channels.iter().map(|channel| f64::from(channel.weight_scale)).fold(0.0, f64::max);
    let samples = compiled.samples.iter().flatten().flatten();
    let largest = samples.fold(0.0, |largest: f64, x| largest.max(f64::from(x.abs())));
    let output = compiled.build.quant.outputs()[0].node;
    let output_step = compiled.build.quant.node(output).value.params().unwrap().scale.get();
    ROUNDING + taps as f64 * 0.5 * step * largest / output_step
}

/// `steps` are those of 8 bits: a result of 16 bits that has been computed from tensors or weights of 8 is no better than
/// they are.
fn assert_close(compiled: &Compiled, steps: f64) {
    let quant = &compiled.build.quant;
    let bits = |id| quant.node(id).value.dtype.bits();
    let tensors = quant.topological();
    let weights: Vec<u32> =
        tensors.iter().filter_map(|&id| Some(quant.node(id).op.weighted()?.weight_type.bits())).collect();
    let widest = tensors.iter().map(|&id| bits(id)).max();
    let narrowest = tensors.iter().map(|&id| bits(id)).chain(weights.iter().copied()).min();
    let finer = if narrowest == widest { 1.0 } else { 256.0 };
    let clipped = weights.iter().any(|&bits| bits < 8);
    // Weights of 4 bits are clipped for the sake of the others.
    if clipped {
        return;
    }
    let steps = steps * finer;
    let deviation = compiled.deviation().unwrap_or_else(|error| panic!("{error:#}"));
    assert!(deviation <= steps, "{deviation} steps, {steps} allowed");
}

/// One axis of a window.
#[derive(Debug, Clone, Copy)]
struct Axis {
    input: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    begin: usize,
    end: usize,
}

impl Axis {
    fn outputs(self) -> usize {
        (self.input + self.begin + self.end - (self.kernel - 1) * self.dilation - 1) / self.stride + 1
    }

    /// Where a tap of an output lies in the input; `None` in the padding.
    fn position(self, output: usize, tap: usize) -> Option<usize> {
        (output * self.stride + tap * self.dilation).checked_sub(self.begin).filter(|&at| at < self.input)
    }
}

/// `pads` limits the padding to less than the kernel, as pooling needs it.
fn axis() -> impl Strategy<Value = Axis> {
    (1usize..=4, 1usize..=3, 1usize..=3, 0usize..=3, 0usize..=3, 0usize..=7).prop_map(
        |(kernel, stride, dilation, begin, end, more)| {
            let (begin, end) = (begin.min(kernel - 1), end.min(kernel - 1));
            // Every window reaches the input.
            let span = (kernel - 1) * dilation + 1;
            Axis {
                input: (span + more).saturating_sub(begin + end).max(begin.max(end) * dilation + 1),
                kernel,
                stride,
                dilation,
                begin,
                end,
            }
        },
    )
}

fn window_attributes(axes: &[Axis]) -> Vec<(&'static str, Attr)> {
    let list = |f: &dyn Fn(&Axis) -> usize| axes.iter().map(|axis| f(axis) as i64).collect::<Vec<i64>>();
    let pads = [list(&|axis| axis.begin), list(&|axis| axis.end)].concat();
    vec![("strides", list(&|a| a.stride).into()), ("dilations", list(&|a| a.dilation).into()), ("pads", pads.into())]
}

/// Positions of all taps of an output in the plane of a channel, in the order of the kernel.
fn taps(axes: &[Axis], outputs: &[usize]) -> Vec<Option<usize>> {
    let kernel: usize = axes.iter().map(|axis| axis.kernel).product();
    let mut all = vec![];
    for mut tap in 0..kernel {
        let mut index = vec![0; axes.len()];
        for (i, axis) in axes.iter().enumerate().rev() {
            index[i] = tap % axis.kernel;
            tap /= axis.kernel;
        }
        let at = axes.iter().enumerate().map(|(i, axis)| Some((axis.position(outputs[i], index[i])?, axis.input)));
        all.push(
            at.collect::<Option<Vec<_>>>().map(|at| at.iter().fold(0, |flat, (position, size)| flat * size + position)),
        );
    }
    all
}

/// Calls `f` with every position of the result's spatial axes, in row-major order.
fn each_output(axes: &[Axis], mut f: impl FnMut(&[usize])) {
    let count: usize = axes.iter().map(|axis| axis.outputs()).product();
    for mut flat in 0..count {
        let mut index = vec![0; axes.len()];
        for (i, axis) in axes.iter().enumerate().rev() {
            index[i] = flat % axis.outputs();
            flat /= axis.outputs();
        }
        f(&index);
    }
}

fn dims(batch: usize, channels: usize, axes: &[Axis]) -> Vec<i64> {
    [batch, channels].into_iter().chain(axes.iter().map(|axis| axis.input)).map(|size| size as i64).collect()
}

#[test]
fn convolutions() {
    let channels = prop_oneof![3 => (1usize..=3, 1usize..=4, 1usize..=4), 1 => (1usize..=1, 1usize..=67, 1usize..=9), 1 => (1usize..=67, Just(1), 1usize..=2)];
    let strategy =
        (proptest::collection::vec(axis(), 1..=3), channels, 1usize..=2, sample_ranges(), any::<u64>(), any::<bool>());
    check(200, strategy, |(axes, (groups, inputs, outputs), batch, range, seed, relu)| {
        let kernel: Vec<i64> = axes.iter().map(|axis| axis.kernel as i64).collect();
        let taps_len = axes.iter().map(|axis| axis.kernel).product::<usize>();
        let weight_dims = [vec![(groups * outputs) as i64, inputs as i64], kernel].concat();
        let magnitude = range.0.abs().max(range.1.abs());
        let bias: Vec<f32> = numbers(seed ^ 1, groups * outputs).iter().map(|b| b * magnitude).collect();
        let mut attributes = window_attributes(&axes);
        attributes.push(("group", (groups as i64).into()));
        let model = Onnx::new(13)
            .input("x", &dims(batch, groups * inputs, &axes))
            .weights("w", &weight_dims, &numbers(seed, groups * outputs * inputs * taps_len))
            .weights("b", &[bias.len() as i64], &bias)
            .node_with("Conv", &["x", "w", "b"], &["c"], &attributes);
        let model = if relu { model.node("Relu", &["c"], &["y"]) } else { model.node("Identity", &["c"], &["y"]) };
        let compiled = compile(model.output("y"), range, seed);
        let output = compiled.build.quant.outputs()[0].node;
        // A result that is 0 in all samples is no convolution any more.
        let QuantOp::Conv(conv) = &compiled.build.quant.node(output).op else { return };
        for (sample, result) in compiled.inputs.iter().zip(&compiled.outputs) {
            assert_eq!(result[0], naive_conv(&conv.weighted, &sample[0], &axes, (batch, groups, inputs, outputs)));
        }
        assert_close(&compiled, steps_of_weights(&conv.weighted, &compiled, inputs * taps_len));
    });
}

fn naive_conv(
    weighted: &Weighted,
    x: &[i32],
    axes: &[Axis],
    (batch, groups, inputs, outputs): (usize, usize, usize, usize),
) -> Vec<i32> {
    let plane: usize = axes.iter().map(|axis| axis.input).product();
    let mut y = vec![];
    for n in 0..batch {
        for o in 0..groups * outputs {
            each_output(axes, |index| {
                let taps = taps(axes, index);
                let mut sum = 0i128;
                for i in 0..inputs {
                    let channel = n * groups * inputs + o / outputs * inputs + i;
                    for (tap, position) in taps.iter().enumerate() {
                        let Some(position) = position else { continue };
                        let w = weighted.row(o)[i * taps.len() + tap];
                        sum += i128::from(w) * i128::from(x[channel * plane + position] - weighted.input_zero);
                    }
                }
                y.push(finish(weighted, o, sum));
            });
        }
    }
    y
}

#[test]
fn linear_layers() {
    let strategy =
        (proptest::collection::vec(1usize..=3, 0..=3), 1usize..=67, 1usize..=20, sample_ranges(), any::<u64>());
    check(120, strategy, |(batch, k, n, range, seed)| {
        let x_dims: Vec<i64> = batch.iter().chain([&k]).map(|&size| size as i64).collect();
        let magnitude = range.0.abs().max(range.1.abs());
        let bias: Vec<f32> = numbers(seed ^ 1, n).iter().map(|b| b * magnitude).collect();
        let model = Onnx::new(13)
            .input("x", &x_dims)
            .weights("w", &[k as i64, n as i64], &numbers(seed, k * n))
            .weights("b", &[n as i64], &bias)
            .node("MatMul", &["x", "w"], &["p"])
            .node("Add", &["p", "b"], &["y"])
            .output("y");
        let compiled = compile(model, range, seed);
        let weighted =
            compiled.build.quant.topological().into_iter().find_map(|id| match &compiled.build.quant.node(id).op {
                QuantOp::Linear(linear) => Some(linear.weighted.clone()),
                _ => None,
            });
        let weighted = weighted.expect("a product is a Linear");
        for (sample, result) in compiled.inputs.iter().zip(&compiled.outputs) {
            let row = |x: &[i32], n: usize| {
                let products =
                    weighted.row(n).iter().zip(x).map(|(&w, &x)| i128::from(w) * i128::from(x - weighted.input_zero));
                finish(&weighted, n, products.sum())
            };
            let expected: Vec<i32> =
                sample[0].chunks(k).flat_map(|x| (0..n).map(move |n| row(x, n)).collect::<Vec<_>>()).collect();
            assert_eq!(result[0], expected);
        }
        assert_close(&compiled, steps_of_weights(&weighted, &compiled, k));
    });
}

/// Sums of so many products with 16-bit elements need more than 32 bits.
#[test]
fn wide_accumulators() {
    let (k, n) = (3000, 3);
    let weights: Vec<f32> = numbers(5, k * n).iter().map(|w| w.signum()).collect();
    let model = Onnx::new(13)
        .input("x", &[2, k as i64])
        .weights("w", &[k as i64, n as i64], &weights)
        .node("MatMul", &["x", "w"], &["y"])
        .output("y");
    let compiled = compile(model, (-1.0, 1.0), 0);
    let quant = &compiled.build.quant;
    let weighted = quant.topological().into_iter().find_map(|id| quant.node(id).op.weighted().cloned());
    let weighted = weighted.expect("a product has weights");
    assert!(weighted.is_wide());
    for (sample, result) in compiled.inputs.iter().zip(&compiled.outputs) {
        let sum = |x: &[i32], n: usize| {
            let products = weighted.row(n).iter().zip(x).map(|(&w, &x)| i128::from(w) * i128::from(x));
            finish(&weighted, n, products.sum())
        };
        let expected: Vec<i32> =
            sample[0].chunks(k).flat_map(|x| (0..n).map(|n| sum(x, n)).collect::<Vec<_>>()).collect();
        assert_eq!(result[0], expected);
    }
}

#[test]
fn pools() {
    let strategy = (
        proptest::collection::vec(axis(), 1..=3),
        1usize..=67,
        1usize..=2,
        sample_ranges(),
        any::<bool>(),
        any::<bool>(),
        any::<u64>(),
    );
    check(120, strategy, |(axes, channels, batch, range, average, include_pad, seed)| {
        // Averages with distant taps came with operator set 19.
        let kernel: Vec<i64> = axes.iter().map(|axis| axis.kernel as i64).collect();
        let mut attributes = window_attributes(&axes);
        attributes.push(("kernel_shape", kernel.into()));
        if average {
            attributes.push(("count_include_pad", i64::from(include_pad).into()));
        }
        let op = if average { "AveragePool" } else { "MaxPool" };
        let model = Onnx::new(19)
            .input("x", &dims(batch, channels, &axes))
            .node_with(op, &["x"], &["y"], &attributes)
            .output("y");
        let compiled = compile(model, range, seed);
        let output = compiled.build.quant.node(compiled.build.quant.outputs()[0].node);
        let plane: usize = axes.iter().map(|axis| axis.input).product();
        let reduce = |x: &[i32], taps: &[Option<usize>]| match &output.op {
            QuantOp::AveragePool(pool) => {
                let count = if include_pad { taps.len() } else { taps.iter().flatten().count() };
                let sum: i128 = taps.iter().flatten().map(|&at| i128::from(x[at] - pool.input_zero)).sum();
                let (lo, hi) = (output.value.dtype.min(), output.value.dtype.max());
                let mean = i128::from(pool.output_zero) + requantized(sum, pool.multipliers[&count]);
                mean.clamp(lo.into(), hi.into()) as i32
            }
            _ => taps.iter().flatten().map(|&at| x[at]).max().expect("every window reaches the input"),
        };
        for (sample, result) in compiled.inputs.iter().zip(&compiled.outputs) {
            let mut expected = vec![];
            for x in sample[0].chunks(plane) {
                each_output(&axes, |index| expected.push(reduce(x, &taps(&axes, index))));
            }
            assert_eq!(result[0], expected);
        }
        assert_close(&compiled, ROUNDING);
    });
}

/// An operator without weights, chosen by numbers of which each operator takes what it needs.
#[derive(Debug, Clone, Copy)]
struct Step {
    kind: usize,
    axis: usize,
    a: usize,
    b: usize,
}

/// A model under construction: the tensors so far with their shapes.
struct Chain {
    onnx: Onnx,
    tensors: Vec<(String, Vec<i64>)>,
}

impl Chain {
    fn new(dims: Vec<i64>) -> Chain {
        Chain { onnx: Onnx::new(18).input("x", &dims), tensors: vec![("x".to_owned(), dims)] }
    }

    fn last(&self) -> (String, Vec<i64>) {
        self.tensors[self.tensors.len() - 1].clone()
    }

    fn push(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attr)], dims: Vec<i64>) {
        let name = format!("t{}", self.tensors.len());
        self.onnx = std::mem::take(&mut self.onnx).node_with(op, inputs, &[&name], attributes);
        self.tensors.push((name, dims));
    }

    fn ints(&mut self, suffix: &str, values: &[i64]) -> String {
        let name = format!("{suffix}{}", self.tensors.len());
        self.onnx = std::mem::take(&mut self.onnx).ints(&name, &[values.len() as i64], values);
        name
    }

    fn step(&mut self, step: Step) {
        let (x, dims) = self.last();
        let (rank, axis) = (dims.len(), step.axis % dims.len());
        let size = dims[axis];
        let (a, b) = (step.a as i64, step.b as i64);
        let with = |size: i64| {
            let mut dims = dims.clone();
            dims[axis] = size;
            dims
        };
        match step.kind {
            0 => self.push(["Relu", "Tanh", "Sigmoid", "LeakyRelu", "HardSwish"][step.a % 5], &[&x], &[], dims),
            1 => {
                let mut pads = vec![0; 2 * rank];
                (pads[axis], pads[rank + axis]) = (a % size.max(1), b % size.max(1));
                let padded = with(size + pads[axis] + pads[rank + axis]);
                let pads = self.ints("p", &pads);
                let mode = ["constant", "reflect", "edge"][(step.a + step.b) % 3];
                self.push("Pad", &[&x, &pads], &[("mode", mode.into())], padded);
            }
            2 => {
                let start = a % size;
                let step = 1 + b % 3;
                let values = [[start], [i64::MAX], [axis as i64], [step]];
                let backwards = [[size - 1 - start], [i64::MIN], [axis as i64], [-step]];
                let values = if b % 2 == 0 { values } else { backwards };
                let [s, e, x_axis, t] = ["s", "e", "a", "u"].map(|name| name.to_owned());
                let names: Vec<String> =
                    [s, e, x_axis, t].iter().zip(values).map(|(name, value)| self.ints(name, &value)).collect();
                let inputs: Vec<&str> = std::iter::once(x.as_str()).chain(names.iter().map(String::as_str)).collect();
                self.push("Slice", &inputs, &[], with((size - start - 1) / step + 1));
            }
            3 => {
                let (other, other_dims) = self.tensors[step.a % self.tensors.len()].clone();
                let fits = other_dims.len() == rank && (0..rank).all(|i| i == axis || other_dims[i] == dims[i]);
                let (other, more) = if fits { (other, other_dims[axis]) } else { (x.clone(), size) };
                self.push("Concat", &[&x, &other], &[("axis", (axis as i64).into())], with(size + more));
            }
            4 => {
                let (other, other_dims) = self.tensors[step.a % self.tensors.len()].clone();
                let other = if other_dims == dims { other } else { x.clone() };
                self.push(["Add", "Mul"][step.b % 2], &[&x, &other], &[], dims);
            }
            5 => {
                let shape: Vec<i64> = (0..rank).map(|i| if (step.a >> i) & 1 == 1 { dims[i] } else { 1 }).collect();
                let name = format!("c{}", self.tensors.len());
                self.onnx = std::mem::take(&mut self.onnx).random(&name, &shape);
                let inputs = if step.b.is_multiple_of(2) { [x.as_str(), &name] } else { [&name, x.as_str()] };
                self.push(["Add", "Mul", "Sub"][step.b % 3], &inputs, &[], dims);
            }
            6 => {
                let axes = self.ints("m", &[axis as i64]);
                self.push("ReduceMean", &[&x, &axes], &[], with(1));
            }
            7 => {
                let mut order: Vec<usize> = (0..rank).collect();
                order.swap(axis, step.a % rank);
                order.rotate_left(step.b % rank);
                let moved = order.iter().map(|&i| dims[i]).collect();
                let order: Vec<i64> = order.iter().map(|&i| i as i64).collect();
                self.push("Transpose", &[&x], &[("perm", order.into())], moved);
            }
            8 => {
                let mut flat = dims.clone();
                if axis + 1 < rank {
                    flat[axis] *= flat.remove(axis + 1);
                } else {
                    flat.insert(step.a % (rank + 1), 1);
                }
                let shape = self.ints("r", &flat);
                self.push("Reshape", &[&x, &shape], &[], flat);
            }
            9 => self.push("Softmax", &[&x], &[("axis", (axis as i64).into())], dims),
            10 => {
                let axes = self.ints("m", &[axis as i64]);
                let op = ["ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2"][step.a % 5];
                self.push(op, &[&x, &axes], &[], with(1));
            }
            11 => {
                let (other, other_dims) = self.tensors[step.a % self.tensors.len()].clone();
                let other = if other_dims == dims { other } else { x.clone() };
                match step.b % 3 {
                    // The smaller of both, in two ways.
                    0 => {
                        let (condition, dims) = (format!("less{}", self.tensors.len()), dims.clone());
                        self.onnx = std::mem::take(&mut self.onnx).node("Less", &[&x, &other], &[&condition]);
                        self.push("Where", &[&condition, &x, &other], &[], dims);
                    }
                    1 => self.push("Min", &[&x, &other], &[], dims),
                    _ => self.push("Max", &[&x, &other], &[], dims),
                }
            }
            12 => {
                let wanted = with(1 + a % 7);
                let sizes = self.ints("z", &wanted);
                let mode = ["nearest", "linear"][step.b % 2];
                self.push("Resize", &[&x, "", "", &sizes], &[("mode", mode.into())], wanted);
            }
            13 => {
                let mut repeats = vec![1; rank];
                repeats[axis] = 1 + a % 2;
                let wanted = with(size * repeats[axis]);
                let repeats = self.ints("tile", &repeats);
                self.push("Tile", &[&x, &repeats], &[], wanted);
            }
            _ => self.push(["Abs", "Neg", "Softsign", "Erf", "Elu"][step.a % 5], &[&x], &[], dims),
        }
    }
}

#[test]
fn chains() {
    let step = (0usize..15, 0usize..6, 0usize..16, 0usize..12).prop_map(|(kind, axis, a, b)| Step { kind, axis, a, b });
    let strategy = (
        proptest::collection::vec(1i64..=5, 1..=5),
        proptest::collection::vec(step, 1..=7),
        any::<bool>(),
        any::<u64>(),
    );
    check(600, strategy, |(dims, steps, convolve, seed)| {
        let mut chain = Chain::new(dims.clone());
        // Channels last in memory make moves less trivial.
        if convolve && dims.len() >= 3 {
            let weights = [vec![4, dims[1]], vec![1; dims.len() - 2]].concat();
            chain.onnx = std::mem::take(&mut chain.onnx).random("w", &weights);
            chain.push("Conv", &["x", "w"], &[], [vec![dims[0], 4], dims[2..].to_vec()].concat());
        }
        for &step in &steps {
            chain.step(step);
        }
        let middle = chain.tensors[1 + chain.tensors.len() / 2 - 1].0.clone();
        let (last, _) = chain.last();
        let mut onnx = chain.onnx.output(&last);
        if middle != last {
            onnx = onnx.output(&middle);
        }
        let compiled = compile(onnx, (-1.0, 1.0), seed);
        // Errors of earlier layers grow where a later one narrows the range.
        assert_close(&compiled, 8.0 + 8.0 * steps.len() as f64);
    });
}
