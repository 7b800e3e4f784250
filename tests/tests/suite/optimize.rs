//! Rewrites of the quantized graph: equal bits for every input, and the work that has to be gone.

use std::collections::BTreeMap;

use fastrand::Rng;
use ptqc::evaluate::{evaluate, evaluate_all};
use ptqc::ir::{Checked, Clamp, DType, Graph, Multiplier, NodeId, Quant, Shape, Window};
use ptqc::ops::affine::QAffine;
use ptqc::ops::average_pool::QAveragePool;
use ptqc::ops::concat::QConcat;
use ptqc::ops::constant::QConstant;
use ptqc::ops::fixed_sum::{FixedSum, Precision};
use ptqc::ops::linear::QLinear;
use ptqc::ops::max_pool::QMaxPool;
use ptqc::ops::mean::QMean;
use ptqc::ops::reshape::QReshape;
use ptqc::ops::slice::QSlice;
use ptqc::ops::transpose::QTranspose;
use ptqc::ops::unary::Table;
use ptqc::ops::{Operand, QuantOp};
use ptqc::optimize::{self, intervals};
use ptqc::print::ArenaMode;
use ptqc::program::interpret;
use ptqc::{lower, plan};
use ptqc_target_runtimes::TARGETS;
use ptqc_tests::case::{Tensors, build, calibrate, load, open_samples, quantize_samples};
use ptqc_tests::quant::{FULL, Net, Rows, random, weighted};
use ptqc_tests::real::MODELS;

/// A bias that no sum of products of these tests makes up for.
const LARGE: i32 = 20_000_000;

/// Random inputs, and the extremes.
fn samples(graph: &Graph<Quant>, seed: u64) -> Vec<Tensors> {
    let mut rng = Rng::with_seed(seed);
    let len = |id: NodeId| graph.node(id).value.shape.len();
    let mut sample = |fill: &mut dyn FnMut(&mut Rng, usize) -> i32| -> Tensors {
        graph.inputs().iter().map(|&id| (0..len(id)).map(|i| fill(&mut rng, i)).collect()).collect()
    };
    let mut samples = vec![
        sample(&mut |_, _| -128),
        sample(&mut |_, _| 127),
        sample(&mut |_, i| if i % 2 == 0 { -128 } else { 127 }),
    ];
    for _ in 0..4 {
        samples.push(sample(&mut |rng, _| rng.i32(-128..=127)));
        samples.push(sample(&mut |rng, _| if rng.bool() { -128 } else { 127 }));
    }
    samples
}

/// The optimized graph, after comparing its outputs, and those of the program made of it.
fn optimized(graph: &Checked<Graph<Quant>>) -> Checked<Graph<Quant>> {
    let optimized = optimize::run(graph.clone()).unwrap();
    let plan = plan::plan(&optimized, &TARGETS[0], plan::Goal::default()).unwrap();
    let lowered = lower::lower(&plan, &[], "net").unwrap();
    for sample in samples(graph, 1) {
        let expected = evaluate(graph, &sample);
        assert_eq!(evaluate(&optimized, &sample), expected, "{}\n{}", **graph, *optimized);
        let inputs: Vec<Vec<i64>> = sample.iter().map(|x| x.iter().map(|&q| q.into()).collect()).collect();
        let outputs = interpret(&lowered.program, &inputs).unwrap();
        let outputs: Tensors = outputs.iter().map(|y| y.iter().map(|&q| q as i32).collect()).collect();
        assert_eq!(outputs, expected, "{}", *optimized);
    }
    optimized
}

/// Shapes of all tensors by name.
fn shapes(graph: &Graph<Quant>) -> BTreeMap<String, Vec<usize>> {
    let shape = |id: NodeId| (graph.node(id).name.clone(), graph.node(id).value.shape.dims().to_vec());
    graph.topological().into_iter().map(shape).collect()
}

/// Optimizes the net and compares the shapes of some tensors; an empty shape stands for a tensor that is gone.
fn expect(net: &Net, wanted: &[(NodeId, &[usize])]) {
    let optimized = optimized(&net.clone().finish());
    let shapes = shapes(&optimized);
    for &(id, dims) in wanted {
        let name = net.name(id);
        assert_eq!(shapes.get(&name).map_or(&[][..], |dims| dims), dims, "{name}\n{}", *optimized);
    }
}

/// Positive rows and a bias for each: 0 leaves the channel alive.
fn rows(biases: &[i32], columns: usize) -> Rows {
    let row = |o: usize| (0..columns).map(|i| [70i8, 50, 30, 110, 20][(3 * o + i) % 5]).collect();
    biases.iter().enumerate().map(|(o, &bias)| (row(o), bias)).collect()
}

fn window(kernel: usize, pad: usize) -> Window {
    Window { kernel: vec![kernel; 2], pad_begin: vec![pad; 2], pad_end: vec![pad; 2], ..Window::unit(2) }
}

/// Results like those of a Relu: the zero point is the smallest.
const RELU: (i32, Clamp) = (-128, FULL);

/// Input and a convolution of which one channel is as given by its bias, and three are alive.
fn producer(net: &mut Net, bias: i32) -> NodeId {
    let x = net.input(&[1, 3, 5, 5], -7);
    net.conv(x, rows(&[0, bias, 0, 0], 3), window(1, 0), 1, RELU)
}

#[test]
fn a_channel_that_is_always_zero_goes_even_before_padding() {
    let mut net = Net::default();
    let dead = producer(&mut net, -LARGE);
    let y = net.conv(dead, rows(&[0, 0], 36), window(3, 1), 1, RELU);
    net.output(y);
    expect(&net, &[(dead, &[1, 3, 5, 5]), (y, &[1, 2, 5, 5])]);
}

#[test]
fn a_saturated_channel_goes_into_the_bias_where_no_padding_is_read() {
    for (kernel, pad, kept) in [(1, 0, 3), (3, 0, 3), (3, 1, 4)] {
        let mut net = Net::default();
        let saturated = producer(&mut net, LARGE);
        let y = net.conv(saturated, rows(&[0, 0], 4 * kernel * kernel), window(kernel, pad), 1, RELU);
        net.output(y);
        expect(&net, &[(saturated, &[1, kept, 5, 5])]);
    }
}

/// The window is padded, but the only tap of the constant channel that counts is never in the padding.
#[test]
fn padding_matters_for_each_tap_by_itself() {
    let mut net = Net::default();
    let saturated = producer(&mut net, LARGE);
    let mut weights = rows(&[0], 36);
    weights[0].0[9..18].copy_from_slice(&[0, 0, 0, 0, 9, 0, 0, 0, 0]);
    let y = net.conv(saturated, weights, window(3, 1), 1, RELU);
    net.output(y);
    expect(&net, &[(saturated, &[1, 3, 5, 5])]);
}

#[test]
fn a_channel_without_weights_in_any_consumer_goes() {
    let mut net = Net::default();
    let x = producer(&mut net, 0);
    let mut first = rows(&[0, 0], 4);
    let mut second = rows(&[0], 4);
    // Channel 0 is read by neither, channel 1 only by the first, channel 2 only by the second.
    first.iter_mut().for_each(|(row, _)| (row[0], row[2]) = (0, 0));
    (second[0].0[0], second[0].0[1]) = (0, 0);
    let a = net.conv(x, first, window(1, 0), 1, RELU);
    let b = net.conv(x, second, window(1, 0), 1, RELU);
    net.output(a);
    net.output(b);
    expect(&net, &[(x, &[1, 3, 5, 5])]);
}

#[test]
fn depthwise_channels_go_with_their_inputs_and_results() {
    let mut net = Net::default();
    let first = producer(&mut net, -LARGE);
    let depthwise = net.conv(first, rows(&[0, 0, -LARGE, 0], 9), window(3, 1), 4, RELU);
    let doubled = net.conv(depthwise, rows(&[0; 8], 1), window(1, 0), 4, RELU);
    let y = net.conv(doubled, rows(&[0, 0], 8), window(1, 0), 1, RELU);
    net.output(y);
    expect(&net, &[(first, &[1, 2, 5, 5]), (depthwise, &[1, 2, 5, 5]), (doubled, &[1, 4, 5, 5])]);
}

/// A channel that has only constants in front of it is constant itself, and so on.
#[test]
fn constants_spread_forwards_and_needs_backwards() {
    let mut net = Net::default();
    let x = net.input(&[1, 3, 4, 4], 0);
    let mut layers = vec![net.conv(x, rows(&[0, 0, -LARGE, -LARGE], 3), window(1, 0), 1, RELU)];
    for _ in 0..3 {
        let mut weights = rows(&[0, 0, 0, 0], 4);
        // Channel 3 reads only the dead channels.
        (weights[3].0[0], weights[3].0[1]) = (0, 0);
        layers.push(net.conv(layers[layers.len() - 1], weights, window(1, 0), 1, RELU));
    }
    let mut last = rows(&[0, 0], 4);
    last.iter_mut().for_each(|(row, _)| row[2] = 0);
    let y = net.conv(layers[3], last, window(1, 0), 1, RELU);
    net.output(y);
    // Two channels of the first layer are dead, so channel 3 of the second is. Of the last, channel 2 is not read.
    let kept = [2, 3, 4, 3];
    for (&layer, kept) in layers.iter().zip(kept) {
        expect(&net, &[(layer, &[1, kept, 4, 4])]);
    }
}

#[test]
fn a_sum_goes_where_both_sides_are_constant() {
    for (other, kept) in [([0, -LARGE, 0, LARGE], 3), ([0, 0, -LARGE, 0], 4)] {
        let mut net = Net::default();
        let x = net.input(&[1, 3, 5, 5], -7);
        let a = net.conv(x, rows(&[0, LARGE, 0, 0], 3), window(1, 0), 1, RELU);
        let b = net.conv(x, rows(&other, 3), window(1, 0), 1, RELU);
        let sum = net.sum(a, b, -128);
        let y = net.conv(sum, rows(&[0], 4), window(1, 0), 1, RELU);
        net.output(y);
        let dims = [1, kept, 5, 5];
        expect(&net, &[(a, &dims), (b, &dims), (sum, &dims)]);
    }
}

#[test]
fn operators_on_each_channel_pass_constants_on() {
    let mut net = Net::default();
    let first = producer(&mut net, LARGE);
    let offsets = [0, 0, 1 << 26, 0].map(|offset| FixedSum { factors: vec![1 << 13], offset });
    let precision = Precision { shift: 14, wide: false, even: false };
    let affine = QAffine { channels: offsets.to_vec(), axis: 1, precision, clamp: FULL };
    let affine = net.add(affine, &[first], -128);
    let table = net.add(Table { entries: (-128..=127).map(|q: i16| q / 2).collect() }, &[affine], 3);
    let max = net.add(QMaxPool { window: window(2, 1) }, &[table], 3);
    let multipliers = [2, 4].map(|count| (count, Multiplier::new(1.0 / count as f64).unwrap()));
    let average = QAveragePool {
        window: window(2, 0),
        include_pad: false,
        multipliers: multipliers.into(),
        input_type: DType::I8,
        input_zero: 3,
        output_zero: 3,
        clamp: FULL,
    };
    let average = net.add(average, &[max], 3);
    let count = net.dims(average)[2..].iter().product();
    let multiplier = Multiplier::new(1.0 / count as f64).unwrap();
    let mean = QMean {
        axes: vec![2, 3],
        keep_dims: false,
        is_sum: false,
        count,
        multiplier,
        input_type: DType::I8,
        input_zero: 3,
        output_zero: 3,
        clamp: FULL,
    };
    let mean = net.add(mean, &[average], 3);
    let y = net.linear(mean, rows(&[0, 0], 4), RELU);
    net.output(y);
    // Channel 1 is constant from the start, channel 2 from the affine map on.
    expect(&net, &[(first, &[1, 2, 5, 5]), (affine, &[1, 2, 5, 5]), (max, &[1, 2, 6, 6]), (mean, &[1, 2])]);
}

#[test]
fn only_whole_groups_go() {
    for (biases, groups, kept) in [([-LARGE, -LARGE, 0, 0], 2, 2), ([-LARGE, 0, 0, 0], 2, 4), ([-LARGE, 0, 0, 0], 4, 3)]
    {
        let mut net = Net::default();
        let x = net.input(&[1, 3, 5, 5], -7);
        let first = net.conv(x, rows(&[0; 4], 3), window(1, 0), 1, RELU);
        let grouped = net.conv(first, rows(&biases, 4 / groups), window(1, 0), groups, RELU);
        let y = net.conv(grouped, rows(&[0], 4), window(1, 0), 1, RELU);
        net.output(y);
        expect(&net, &[(first, &[1, kept, 5, 5]), (grouped, &[1, kept, 5, 5])]);
    }
}

#[test]
fn a_flattened_channel_goes_with_all_its_elements() {
    for channels_last in [false, true] {
        let mut net = Net::default();
        let mut x = producer(&mut net, LARGE);
        let first = x;
        if channels_last {
            x = net.add(QTranspose { order: vec![0, 2, 3, 1] }, &[x], -128);
        }
        let flat = net.add(QReshape { shape: Shape::new([1, 100]) }, &[x], -128);
        let y = net.linear(flat, rows(&[0, 0, 0], 100), RELU);
        net.output(y);
        expect(&net, &[(first, &[1, 3, 5, 5]), (flat, &[1, 75])]);
    }
}

#[test]
fn channels_that_a_shuffle_moves_are_followed() {
    let mut net = Net::default();
    let x = net.input(&[1, 3, 5, 5], -7);
    // Channels 1 and 4 are at the same place of either half.
    let first = net.conv(x, rows(&[0, LARGE, 0, 0, LARGE, 0], 3), window(1, 0), 1, RELU);
    let split = net.add(QReshape { shape: Shape::new([1, 2, 3, 5, 5]) }, &[first], -128);
    let swapped = net.add(QTranspose { order: vec![0, 2, 1, 3, 4] }, &[split], -128);
    let shuffled = net.add(QReshape { shape: Shape::new([1, 6, 5, 5]) }, &[swapped], -128);
    let y = net.conv(shuffled, rows(&[0], 6), window(1, 0), 1, RELU);
    net.output(y);
    expect(&net, &[(first, &[1, 4, 5, 5]), (shuffled, &[1, 4, 5, 5])]);
}

#[test]
fn a_concat_loses_channels_and_operands() {
    let mut net = Net::default();
    let x = net.input(&[1, 3, 5, 5], -7);
    let a = net.conv(x, rows(&[0, LARGE], 3), window(1, 0), 1, RELU);
    let b = net.conv(x, rows(&[-LARGE, LARGE], 3), window(1, 0), 1, RELU);
    let c = net.conv(x, rows(&[0, 0], 3), window(1, 0), 1, RELU);
    let joined = net.add(QConcat { axis: 1 }, &[a, b, c], -128);
    let y = net.conv(joined, rows(&[0, 0], 6), window(1, 0), 1, RELU);
    net.output(y);
    expect(&net, &[(a, &[1, 1, 5, 5]), (b, &[]), (joined, &[1, 3, 5, 5])]);
}

#[test]
fn a_concat_of_one_operand_is_that_operand() {
    let mut net = Net::default();
    let x = net.input(&[1, 3, 5, 5], -7);
    let a = net.conv(x, rows(&[0, 0], 3), window(1, 0), 1, RELU);
    let b = net.conv(x, rows(&[-LARGE], 3), window(1, 0), 1, RELU);
    let joined = net.add(QConcat { axis: 1 }, &[a, b], -128);
    let y = net.conv(joined, rows(&[0, 0], 3), window(1, 0), 1, RELU);
    net.output(y);
    expect(&net, &[(b, &[]), (joined, &[])]);
}

#[test]
fn what_a_slice_leaves_out_is_not_computed() {
    for (start, step, size, kept) in [(1, 1, 2, 2), (3, -1, 3, 3), (0, 2, 2, 4)] {
        let mut net = Net::default();
        let first = producer(&mut net, 0);
        let mut slice = QSlice::whole(&Shape::new([1, 4, 5, 5]));
        (slice.start[1], slice.step[1], slice.size[1]) = (start, step, size);
        let part = net.add(slice, &[first], -128);
        net.output(part);
        expect(&net, &[(first, &[1, kept, 5, 5])]);
    }
}

/// The constant channel is in the middle of what a slice takes, forwards and backwards.
#[test]
fn a_slice_shrinks_with_its_operand() {
    for (start, step) in [(0, 1), (2, -1)] {
        let mut net = Net::default();
        let first = producer(&mut net, LARGE);
        let mut slice = QSlice::whole(&Shape::new([1, 4, 5, 5]));
        (slice.start[1], slice.step[1], slice.size[1]) = (start, step, 3);
        let part = net.add(slice, &[first], -128);
        let y = net.conv(part, rows(&[0], 3), window(1, 0), 1, RELU);
        net.output(y);
        expect(&net, &[(first, &[1, 2, 5, 5]), (part, &[1, 2, 5, 5])]);
    }
}

#[test]
fn constant_operands_shrink_with_the_others() {
    let mut net = Net::default();
    let first = producer(&mut net, LARGE);
    let constant = QConstant { shape: Shape::new([1, 4, 1, 1]), data: vec![1, 2, 3, 4] };
    let constant = net.add(constant, &[], 0);
    let sum = net.sum(first, constant, -128);
    let y = net.conv(sum, rows(&[0], 4), window(1, 0), 1, RELU);
    net.output(y);
    expect(&net, &[(first, &[1, 3, 5, 5]), (constant, &[1, 3, 1, 1]), (sum, &[1, 3, 5, 5])]);
}

#[test]
fn inputs_and_outputs_keep_their_shapes() {
    let mut net = Net::default();
    let x = net.input(&[1, 2, 4, 4], 0);
    let unread = net.input(&[1, 2], 0);
    let mut weights = rows(&[0, LARGE, -LARGE], 2);
    weights.iter_mut().for_each(|(row, _)| row[1] = 0);
    let y = net.conv(x, weights, window(1, 0), 1, RELU);
    net.output(y);
    expect(&net, &[(x, &[1, 2, 4, 4]), (unread, &[1, 2]), (y, &[1, 3, 4, 4])]);
}

#[test]
fn where_everything_is_constant_one_channel_stays() {
    let mut net = Net::default();
    let x = net.input(&[1, 3, 4, 4], 0);
    let a = net.conv(x, rows(&[LARGE; 5], 3), window(1, 0), 1, RELU);
    let b = net.conv(a, rows(&[0; 4], 5), window(1, 0), 1, RELU);
    let y = net.conv(b, rows(&[0, 0], 4), window(1, 0), 1, RELU);
    net.output(y);
    expect(&net, &[(a, &[1, 1, 4, 4]), (b, &[1, 1, 4, 4]), (y, &[1, 2, 4, 4])]);
}

/// Folding would make the bias so large that the sum of what is left is no longer proven to fit.
#[test]
fn sums_stay_within_32_bits() {
    const ALIVE: usize = 1000;
    let products = ((ALIVE + 1) * 127 * 256) as i32;
    for (room, kept) in [(100_000, ALIVE), (1_000, ALIVE + 1)] {
        let mut net = Net::default();
        let x = net.input(&[1, 1], -128);
        let mut biases = vec![0; ALIVE + 1];
        biases[0] = LARGE;
        let first = net.linear(x, rows(&biases, 1), RELU);
        let mut weights = rows(&[i32::MAX - products - room], ALIVE + 1);
        weights[0].0[0] = 127;
        let weighted = weighted(weights, 2f64.powi(-24), (-128, -128), FULL);
        let y = net.add(QLinear { weighted }, &[first], -128);
        net.output(y);
        expect(&net, &[(first, &[1, kept])]);
    }
}

fn clamp_and_bound(graph: &Graph<Quant>) -> (Clamp, [i128; 2]) {
    let QuantOp::Conv(conv) = &graph.node(graph.outputs()[0].node).op else { panic!("the output is a Conv") };
    let bound = conv.weighted.accumulator().unwrap();
    (conv.weighted.clamp, [bound.lo, bound.hi])
}

#[test]
fn clamps_that_nothing_exceeds_are_dropped_and_bounds_follow_the_operands() {
    for (weight, zero, kept) in
        [(64, -28, FULL), (64, -27, Clamp { lo: -128, hi: 100 }), (-64, 0, Clamp { lo: 0, hi: 127 })]
    {
        let mut net = Net::default();
        let x = net.input(&[1, 1, 2, 2], 0);
        // The first layer returns 0 to 127.
        let halved = net.conv(x, vec![(vec![32], 4096)], window(1, 0), 1, (0, Clamp { lo: 0, hi: 127 }));
        let lo = if zero == 0 { 0 } else { zero };
        let y = net.conv(halved, vec![(vec![weight], 64)], window(1, 0), 1, (zero, Clamp { lo, hi: 100 }));
        net.output(y);
        let (clamp, bound) = clamp_and_bound(&optimized(&net.finish()));
        assert_eq!(clamp, kept, "{weight} {zero}");
        let end = 64 + i128::from(weight) * 127;
        assert_eq!(bound, [end.min(64), end.max(64)]);
    }
}

/// No value of any tensor is outside of its interval, along any axis.
fn check_intervals(graph: &Checked<Graph<Quant>>) {
    let known = intervals::analyse(graph);
    for sample in samples(graph, 2) {
        for (id, data) in evaluate_all(graph, &sample) {
            let shape = &graph.node(id).value.shape;
            for (flat, &q) in data.iter().enumerate() {
                let q = i128::from(q);
                let at = shape.unravel(flat).into_iter().enumerate();
                let around = at.map(|(axis, index)| known[&id].at(axis, index)).chain([known[&id].all()]);
                for values in around {
                    assert!(values.lo <= q && q <= values.hi, "{q} is not in {values:?} of {}", graph.node(id).name);
                }
            }
        }
    }
}

/// Sums of some of the products of a layer, chosen at random, are within the bound of its accumulator.
fn check_accumulators(graph: &Checked<Graph<Quant>>) {
    let mut rng = Rng::with_seed(3);
    for sample in samples(graph, 3) {
        let values = evaluate_all(graph, &sample);
        for id in graph.topological() {
            let node = graph.node(id);
            let mut op = node.op.clone();
            let weighted = match &mut op {
                QuantOp::Conv(conv) => &mut conv.weighted,
                QuantOp::Linear(linear) => &mut linear.weighted,
                _ => continue,
            };
            let bounds: Vec<_> = weighted.channels.iter().map(|channel| channel.bound).collect();
            weighted.weights.iter_mut().filter(|_| rng.usize(0..3) == 0).for_each(|w| *w = 0);
            // Half the sum is the result.
            weighted.channels.iter_mut().for_each(|channel| channel.multiplier = Multiplier::half());
            (weighted.output_zero, weighted.clamp) = (0, Clamp { lo: i32::MIN, hi: i32::MAX });
            let axis = if matches!(op, QuantOp::Conv(_)) { 1 } else { node.value.shape.rank() - 1 };
            let operand = graph.operands(id)[0];
            let operand = Operand { ty: &graph.node(operand).value, data: &values[&operand] };
            for (flat, half) in op.evaluate(&[operand], &node.value).into_iter().enumerate() {
                let bound = bounds[node.value.shape.unravel(flat)[axis]];
                let sums = (bound.lo + 1).div_euclid(2)..=(bound.hi + 1).div_euclid(2);
                assert!(sums.contains(&half.into()), "{half} is not in {sums:?} of {}", node.name);
            }
        }
    }
}

#[test]
fn random_graphs_keep_every_bit() {
    let mut elements = [0, 0];
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..1500 {
        let graph = random(seed);
        check_intervals(&graph);
        let optimized = optimized(&graph);
        check_intervals(&optimized);
        check_accumulators(&optimized);
        let (before, after) = (shapes(&graph), shapes(&optimized));
        for id in graph.topological() {
            let node = graph.node(id);
            if after.get(&node.name) != before.get(&node.name) {
                *kinds.entry(node.op.kind()).or_default() += 1;
            }
        }
        for (total, shapes) in elements.iter_mut().zip([before, after]) {
            *total += shapes.values().map(|dims| dims.iter().product::<usize>()).sum::<usize>();
        }
    }
    println!("{elements:?} elements, changed {kinds:?}");
    assert!(elements[1] < elements[0] * 97 / 100, "{elements:?}");
    let all = ["Add", "Affine", "AveragePool", "Concat", "Constant", "Conv", "Linear", "MaxPool", "Mean", "Mul", "Pad"];
    let more = ["Reshape", "Slice", "Softmax", "Table", "Transpose"];
    for kind in all.iter().chain(&more) {
        assert!(kinds.get(kind).is_some_and(|&count| count >= 10), "hardly any {kind} lost anything: {kinds:?}");
    }
}

/// Half of `mobilenetv1_vww` is dead; the others lose nothing.
#[test]
fn real_models_lose_what_is_dead() {
    for model in MODELS.iter() {
        let Some(path) = model.model() else {
            println!("skipped: the model {} is absent", model.name);
            continue;
        };
        let frontend = load(&std::fs::read(path).unwrap()).unwrap();
        let open = |file, convert| open_samples(&frontend, &model.data(file).unwrap(), convert).unwrap();
        let ranges = calibrate(&frontend, open(model.calib, Default::default()).samples()).unwrap();
        let built = build(&frontend, &ranges, model.name, &TARGETS[0], ArenaMode::Static).unwrap();
        let report = &built.report;
        println!("{}: {}", model.name, report.multiply_accumulates());
        let wanted = if model.name == "mobilenetv1_vww" { 3_727_313 } else { report.macs_nominal };
        assert!(report.macs <= wanted, "{}: {} multiply-accumulates", model.name, report.macs);
        let samples = open(model.eval, model.convert.preprocess());
        let samples = samples.samples().take(8).collect::<ptqc::diag::Result<Vec<_>>>().unwrap();
        for sample in quantize_samples(&built.quant, &samples) {
            assert_eq!(evaluate(&built.optimized, &sample), evaluate(&built.quant, &sample), "{}", model.name);
        }
    }
}
