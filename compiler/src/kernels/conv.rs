//! Convolution, direct: for each output position and channel, the products under the window.

use super::common::{Requantize, address, less, loops, multiplier_blob};
use super::elementwise::added_to;
use super::{LayerBuilder, strides};
use crate::ir::{DType, Interval};
use crate::ops::QuantOp;
use crate::ops::conv::QConv;
use crate::ops::fits_i32;
use crate::ops::weighted::Weighted;
use crate::plan::{Added, Dim, joined};
use crate::program::{Affine, Buffer, Elem, Expr, FunctionBuilder, Reg, Type};

/// Builds the loops.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::Conv(conv)) = b.op() else { return };
    let input = &b.operand(0).ty.shape;
    let folded = !conv.window.pads(&input.dims()[2..]);
    let data = Data::new(b, &conv.weighted, packed(conv), folded);
    let (x_strides, y_strides) = (strides(&b.operand(0).view), strides(&b.result().view));
    let shape = Loops { conv, input: input.dims().to_vec(), x_strides, y_strides, x: b.x(0), y: b.y(), data: &data };
    let window = &conv.window;
    let pointwise = window.taps() == 1 && window.stride.iter().all(|&stride| stride == 1) && folded;
    if pointwise {
        let axes = (0..input.rank()).filter(|&axis| axis != 1);
        let dims = axes.map(|axis| Dim {
            extent: b.result().ty.shape.dims()[axis],
            strides: vec![shape.x_strides[axis] as isize, shape.y_strides[axis] as isize],
        });
        let dims = joined(dims.collect());
        loops(&mut b.f, &dims, 2, &mut |f, at| shape.pointwise(f, &at[0], &at[1]));
    } else {
        let outputs = b.result().ty.shape.dims().to_vec();
        b.f.each("n", outputs[0], |f, n| shape.positions(f, &outputs[2..], n, &mut vec![]));
    }
}

/// Weights with the input channels innermost: one row for each output channel, `kernel x inputs`.
fn packed(conv: &QConv) -> Vec<i64> {
    let (inputs, taps) = (conv.group_inputs(), conv.window.taps());
    let mut packed = Vec::with_capacity(conv.weighted.weights.len());
    for channel_idx in 0..conv.weighted.channels.len() {
        let row: Vec<i32> = conv.weighted.factors(channel_idx).collect();
        let at = (0..taps).flat_map(|tap| (0..inputs).map(move |i| i * taps + tap));
        packed.extend(at.map(|at| i64::from(row[at])));
    }
    packed
}

/// Constants of a weighted layer and what a row of products does with them.
#[derive(Debug)]
pub struct Data<'a> {
    weights: Buffer,
    bias: Buffer,
    multiplier: Result<Buffer, i64>,
    requantize: Requantize,
    /// The input's zero point that has to be subtracted; 0 if it is folded into the biases.
    input_zero: i32,
    channels: usize,
    /// Type of the accumulator.
    sum: Type,
    /// All values of the accumulator, where the checker would not find them by itself.
    bound: Option<Interval>,
    /// Whether two weights share a byte.
    pairs: bool,
    /// What is added to each result, and the other tensor.
    added: Option<(&'a Added, Buffer)>,
}

impl<'a> Data<'a> {
    /// Adds the constants. `folded` tells that every product of a row is computed, so that the input's zero point
    /// can go into the bias.
    pub fn new(b: &mut LayerBuilder<'a>, weighted: &Weighted, packed: Vec<i64>, folded: bool) -> Data<'a> {
        let zero = i64::from(weighted.input_zero);
        let bias = |channel_idx: usize| {
            let sum: i64 = weighted.factors(channel_idx).map(i64::from).sum();
            i64::from(weighted.channels[channel_idx].bias) - if folded { zero * sum } else { 0 }
        };
        let biases: Vec<i64> = (0..weighted.channels.len()).map(bias).collect();
        let input_zero = if folded { 0 } else { weighted.input_zero };
        // Bounds of 16-bit operands are needed as tight as they are. Their zero point is 0, so nothing has been folded.
        let exact = weighted.accumulator().filter(|_| weighted.input_type.bits() > 8);
        let bound = exact.unwrap_or_else(|| provable_bound(&packed, &biases, input_zero));
        let pairs = weighted.weight_type == DType::I4;
        let multipliers: Vec<_> = weighted.channels.iter().map(|channel| channel.multiplier).collect();
        let doc = match pairs {
            true => "Weights, two in a byte, one row for each output channel, input channels innermost.",
            false => "Weights, one row for each output channel, input channels innermost.",
        };
        let elem = match packed.iter().all(|&w| i8::try_from(w).is_ok()) {
            _ if pairs => Elem::I4,
            true => Elem::I8,
            false => Elem::I16,
        };
        let weights = b.blob("weights", doc, elem, packed);
        let doc = if folded { "Biases, less the input's zero point times the sum of the weights." } else { "Biases." };
        let bias = b.blob("bias", doc, Elem::I32, biases);
        let uniform = multipliers.iter().all(|&multiplier| multiplier == multipliers[0]);
        let multiplier = if uniform { Err(multipliers[0].factor()) } else { Ok(multiplier_blob(b, &multipliers)) };
        let requantize = Requantize::new(bound, &multipliers, weighted.output_zero, weighted.clamp);
        let added = b.layer.added.as_ref().map(|added| (added, b.x(b.layer.operands.len() - 1)));
        let (channels, sum) = (weighted.channels.len(), if fits_i32(bound) { Type::I32 } else { Type::I64 });
        Data { weights, bias, multiplier, requantize, input_zero, channels, sum, bound: exact, pairs, added }
    }

    /// Declares the accumulator of an output channel.
    pub fn accumulator(&self, f: &mut FunctionBuilder, channel: &Affine) -> Reg {
        // Until the last product, the sum is not within the bound of the finished one: the checker takes its own.
        f.bounded("acc", self.sum, f.load(self.bias, channel.clone()).cast_to(self.sum), self.bound)
    }

    /// Adds `count` neighbouring products.
    pub fn accumulate(
        &self,
        f: &mut FunctionBuilder,
        acc: Reg,
        count: usize,
        x: (Buffer, Affine, usize),
        weight: Affine,
    ) {
        let (buffer, start, stride) = x;
        let product = |f: &mut FunctionBuilder, i: Affine| {
            let value = less(f.load(buffer, start.clone() + i.clone() * stride as i64), self.input_zero);
            let product = value.mul(f.load(self.weights, weight.clone() + i));
            f.accumulate(acc, product.cast_to(self.sum));
        };
        // Both weights of a byte in one pass, so that it is clear where each is.
        let whole_bytes = self.pairs && weight.is_multiple_of(2);
        let pairs = if whole_bytes { count / 2 } else { 0 };
        f.each("i", pairs, |f, i| {
            product(f, i.clone() * 2);
            product(f, i * 2 + 1);
        });
        f.each("i", count - 2 * pairs, |f, i| product(f, i + 2 * pairs as i64));
    }

    /// Stores the finished result, or its sum with the element of the other tensor at the same index.
    pub fn finish(&self, f: &mut FunctionBuilder, acc: Reg, channel: &Affine, y: (Buffer, Affine)) {
        let multiplier = match self.multiplier {
            Ok(buffer) => f.load(buffer, channel.clone()),
            Err(factor) => Expr::i64(factor),
        };
        let mut value = self.requantize.apply(f, Expr::Reg(acc), multiplier);
        if let Some((added, addend)) = self.added {
            let term = f.bind("term", Type::I32, value);
            value = added_to(f, added, term, f.load(addend, y.1.clone()));
        }
        f.store(y.0, y.1, value);
    }

    /// Number of output channels.
    pub fn channels(&self) -> usize {
        self.channels
    }
}

/// What the checker can prove of the accumulator: it knows each table by its smallest and largest value. The exact bound
/// is tighter, but narrowing has to be right in the checker's eyes too.
fn provable_bound(weights: &[i64], biases: &[i64], input_zero: i32) -> Interval {
    let hull = |values: &[i64]| {
        values.iter().copied().map(Interval::point).reduce(Interval::hull).unwrap_or(Interval::point(0))
    };
    let (bias, weight) = (hull(biases), hull(weights));
    let products = i128::from((weights.len() / biases.len().max(1)) as u32);
    let values = [-128 - i128::from(input_zero), 127 - i128::from(input_zero)];
    let corners = values.into_iter().flat_map(|x| [weight.lo * x, weight.hi * x]);
    let product = corners.map(Interval::point).reduce(Interval::hull).unwrap_or(Interval::point(0));
    Interval::new(bias.lo + (product.lo * products).min(0), bias.hi + (product.hi * products).max(0))
}

struct Loops<'a> {
    conv: &'a QConv,
    input: Vec<usize>,
    x_strides: Vec<usize>,
    y_strides: Vec<usize>,
    x: Buffer,
    y: Buffer,
    data: &'a Data<'a>,
}

impl Loops<'_> {
    fn pointwise(&self, f: &mut FunctionBuilder, x_at: &Affine, y_at: &Affine) {
        self.channels(f, y_at.clone(), &mut |f, acc, channel, input| {
            let inputs = self.conv.group_inputs();
            let start = x_at.clone() + input * self.x_strides[1] as i64;
            self.data.accumulate(f, acc, inputs, (self.x, start, self.x_strides[1]), channel * inputs as i64);
        });
    }

    /// Loops over the spatial axes of the result.
    fn positions(&self, f: &mut FunctionBuilder, outputs: &[usize], n: Affine, at: &mut Vec<Affine>) {
        let Some(&extent) = outputs.get(at.len()) else {
            let y_at = n.clone() * self.y_strides[0] as i64 + address(at, &self.y_strides[2..]);
            let x_at = n * self.x_strides[0] as i64;
            return self.channels(f, y_at, &mut |f, acc, channel, input| {
                let start = x_at.clone() + input * self.x_strides[1] as i64;
                self.taps(f, acc, at, start, channel * self.conv.window.taps() as i64, 0);
            });
        };
        let name = axis_name("o", at.len(), outputs.len());
        f.each(&name, extent, |f, position| {
            at.push(position);
            self.positions(f, outputs, n, at);
            at.pop();
        });
    }

    /// Loops over groups and the output channels of each; `body` gets the output channel and the group's first input channel.
    fn channels(
        &self,
        f: &mut FunctionBuilder,
        y_at: Affine,
        body: &mut dyn FnMut(&mut FunctionBuilder, Reg, Affine, Affine),
    ) {
        let (inputs, outputs) = (self.conv.group_inputs(), self.conv.group_outputs());
        f.each(if outputs == 1 { "c" } else { "g" }, self.conv.groups, |f, group| {
            f.each("c", outputs, |f, c| {
                let channel = group.clone() * outputs as i64 + c;
                let acc = self.data.accumulator(f, &channel);
                body(f, acc, channel.clone(), group.clone() * inputs as i64);
                let y_index = y_at.clone() + channel.clone() * self.y_strides[1] as i64;
                self.data.finish(f, acc, &channel, (self.y, y_index));
            });
        });
    }

    /// Loops over the taps of axis `axis` and the following. `x_at` and `tap_at` grow with every axis.
    fn taps(&self, f: &mut FunctionBuilder, acc: Reg, at: &[Affine], x_at: Affine, tap_at: Affine, axis: usize) {
        let window = &self.conv.window;
        if axis == window.rank() {
            let inputs = self.conv.group_inputs();
            let x = (self.x, x_at, self.x_strides[1]);
            return self.data.accumulate(f, acc, inputs, x, tap_at * inputs as i64);
        }
        let start = at[axis].clone() * window.stride[axis] as i64 + -(window.pad_begin[axis] as i64);
        let stride = self.x_strides[axis + 2] as i64;
        // Positions of the taps in a row of weights: the axes behind this one count faster.
        let inner: usize = window.kernel[axis + 1..].iter().product();
        let single = self.conv.group_inputs() == 1;
        window_axis(f, (window, axis, self.input[axis + 2]), start, single, &mut |f, tap, position| {
            self.taps(f, acc, at, x_at.clone() + position * stride, tap_at.clone() + tap * inner as i64, axis + 1);
        });
    }
}

/// Taps of an axis up to which a window that always lies inside the input is written out where each tap is a single
/// element: shorter than a loop, and loops of so few iterations have been seen to confuse vectorising compilers.
const UNROLLED: usize = 4;

/// Loops over the taps of one axis, only over those inside the input where some are not. The body gets tap and position.
/// `single` tells that a tap is one element, so that short windows may be written out.
pub fn window_axis(
    f: &mut FunctionBuilder,
    (window, axis, extent): (&crate::ir::Window, usize, usize),
    start: Affine,
    single: bool,
    body: &mut dyn FnMut(&mut FunctionBuilder, Affine, Affine),
) {
    let (kernel, dilation) = (window.kernel[axis], window.dilation[axis]);
    let names = (axis_name("k", axis, window.rank()), axis_name("i", axis, window.rank()));
    if axis_clips(window, axis, extent) {
        f.taps((&names.0, &names.1), start, kernel, dilation, extent, body);
    } else if single && kernel <= UNROLLED {
        (0..kernel).for_each(|tap| body(f, Affine::from(tap as i64), start.clone() + (tap * dilation) as i64));
    } else {
        f.each(&names.0, kernel, |f, tap| {
            let position = start + tap.clone() * dilation as i64;
            body(f, tap, position);
        });
    }
}

/// Whether some window reaches outside of an axis.
pub fn axis_clips(window: &crate::ir::Window, axis: usize, extent: usize) -> bool {
    let outputs = window.output_size(axis, extent).unwrap_or(0);
    (0..outputs).any(|o| {
        let taps = window.taps_at(axis, o, extent);
        taps.first != 0 || taps.end != window.kernel[axis]
    })
}

/// `oy`, `kx`, ...: the last of `rank` spatial axes is x, before it y and z.
pub fn axis_name(prefix: &str, axis: usize, rank: usize) -> String {
    match rank - axis {
        1 => format!("{prefix}x"),
        2 => format!("{prefix}y"),
        3 => format!("{prefix}z"),
        _ => format!("{prefix}{axis}"),
    }
}
