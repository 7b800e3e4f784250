//! Pooling and means, with channels across lanes.

use super::super::LayerBuilder;
use super::super::common::loops;
use super::super::conv::{axis_name, window_axis};
use super::super::strides;
use super::Unit;
use super::requantize::Requantize;
use super::vector::{
    I8X8, I8X16, I16X8, I32X4, NARROW, channel_blocks, i8x8, i8x16, i16x4, i16x8, i32x4, load_8, load_16, store_8,
    store_16,
};
use crate::ir::{Clamp, Multiplier, Window};
use crate::ops::QuantOp;
use crate::plan::{Dim, Layer, Plan, Work, joined};
use crate::program::{Affine, Buffer, Expr, FunctionBuilder, Reg};

/// Elements whose sum, less their zero points, fits 16 bits.
const MOST_IN_16_BITS: usize = 128;

/// Channels that a maximum is taken of at once.
const WIDE: usize = 16;

/// Whether channels are neighbours in operand and result, and enough.
fn across_channels(layer: &Layer, plan: &Plan) -> bool {
    let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
    let channel = |tensor: &crate::plan::PlannedTensor| tensor.view.strides().is_some_and(|strides| strides[1] == 1);
    x.ty.shape.rank() > 2 && x.ty.shape.dims()[1] >= NARROW && channel(x) && channel(y)
}

/// Whether the layer is a maximum under a window.
pub fn accepts_max(layer: &Layer, plan: &Plan) -> bool {
    matches!(layer.work, Work::Operator(QuantOp::MaxPool(_))) && across_channels(layer, plan)
}

/// Whether the layer is a mean under a window that stays inside of the input.
pub fn accepts_average(layer: &Layer, plan: &Plan) -> bool {
    let Work::Operator(QuantOp::AveragePool(pool)) = &layer.work else { return false };
    let input = &plan.tensor(layer.operands[0]).ty.shape.dims()[2..];
    across_channels(layer, plan) && pool.multipliers.len() == 1 && !pool.window.pads(input)
}

/// Whether the layer is a mean for each channel.
pub fn accepts_mean(layer: &Layer, plan: &Plan) -> bool {
    let Work::Operator(QuantOp::Mean(mean)) = &layer.work else { return false };
    let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
    let [kept, _] = mean_dims(&mean.axes, mean.keep_dims, (&strides(&x.view), &strides(&y.view)), x.ty.shape.dims());
    kept.last().is_some_and(|last| last.extent >= NARROW && last.strides == [1, 1])
}

/// Estimated instructions.
pub fn instructions(layer: &Layer, plan: &Plan) -> u64 {
    let result = plan.tensor(layer.result).ty.shape.len();
    let taps = match &layer.work {
        Work::Operator(QuantOp::MaxPool(pool)) => pool.window.taps(),
        Work::Operator(QuantOp::AveragePool(pool)) => pool.window.taps(),
        Work::Operator(QuantOp::Mean(mean)) => mean.count,
        _ => return u64::MAX,
    };
    (result * (taps + 3)) as u64
}

/// The largest element under each window.
pub fn build_max(b: &mut LayerBuilder, unit: Unit) {
    let Some(QuantOp::MaxPool(pool)) = b.op() else { return };
    let lowest = i64::from(b.operand(0).ty.dtype.min());
    let (x, y) = (b.x(0), b.y());
    b.f.vectors(unit.declared());
    positions(b, &pool.window, WIDE, &mut |f, at| {
        let lowest = vec![Expr::i32(lowest)];
        if at.width == WIDE {
            let max = f.mutable("max", I8X16, i8x16("vdupq_n_s8", lowest));
            at.elements(f, &mut |f, index| {
                let value = load_16(f, x, index);
                f.set(max, i8x16("vmaxq_s8", vec![Expr::Reg(max), value]));
            });
            return store_16(f, y, at.y.clone(), Expr::Reg(max));
        }
        let max = f.mutable("max", I8X8, i8x8("vdup_n_s8", lowest));
        at.elements(f, &mut |f, index| {
            let value = load_8(f, x, index);
            f.set(max, i8x8("vmax_s8", vec![Expr::Reg(max), value]));
        });
        store_8(f, y, at.y.clone(), NARROW, Expr::Reg(max));
    });
}

/// The mean under each window.
pub fn build_average(b: &mut LayerBuilder, unit: Unit) {
    let Some(QuantOp::AveragePool(pool)) = b.op() else { return };
    let Some(&multiplier) = pool.multipliers.values().next() else { return };
    let average =
        Average::new(b, unit, pool.window.taps(), multiplier, [pool.input_zero, pool.output_zero], pool.clamp);
    positions(b, &pool.window, NARROW, &mut |f, at| {
        let sums = average.start(f);
        at.elements(f, &mut |f, index| average.add(f, &sums, index));
        average.store(f, &sums, &at.y);
    });
}

/// The mean over whole axes.
pub fn build_mean(b: &mut LayerBuilder, unit: Unit) {
    let Some(QuantOp::Mean(mean)) = b.op() else { return };
    let average = Average::new(b, unit, mean.count, mean.multiplier, [mean.input_zero, mean.output_zero], mean.clamp);
    let strides = (&strides(&b.operand(0).view)[..], &strides(&b.result().view)[..]);
    let [mut kept, reduced] = mean_dims(&mean.axes, mean.keep_dims, strides, b.operand(0).ty.shape.dims());
    let Some(channels) = kept.pop() else { return };
    loops(&mut b.f, &kept, 2, &mut |f, at| {
        for (first, count, width) in channel_blocks(channels.extent, NARROW) {
            f.each("block", count, |f, block| {
                let channel = block * width as i64 + first as i64;
                let sums = average.start(f);
                loops(f, &reduced, 1, &mut |f, inner| {
                    average.add(f, &sums, at[0].clone() + inner[0].clone() + channel.clone());
                });
                average.store(f, &sums, &(at[1].clone() + channel));
            });
        }
    });
}

/// Loops over what is kept, with strides in operand and result, and over what is summed.
fn mean_dims(axes: &[usize], keep_dims: bool, (x, y): (&[usize], &[usize]), input: &[usize]) -> [Vec<Dim>; 2] {
    let y_axis = |axis: usize| if keep_dims { axis } else { axis - axes.iter().filter(|&&r| r < axis).count() };
    let (reduced, kept): (Vec<usize>, Vec<usize>) = (0..input.len()).partition(|axis| axes.contains(axis));
    let kept = kept
        .into_iter()
        .map(|axis| Dim { extent: input[axis], strides: vec![x[axis] as isize, y[y_axis(axis)] as isize] });
    let reduced = reduced.into_iter().map(|axis| Dim { extent: input[axis], strides: vec![x[axis] as isize] });
    [joined(kept.collect()), joined(reduced.collect())]
}

/// Sums of 8 channels and what becomes of them.
struct Average {
    x: Buffer,
    y: Buffer,
    /// The zero points of all elements, negative.
    start: i64,
    /// Whether the sums need 32 bits.
    wide: bool,
    requantize: Requantize,
}

impl Average {
    fn new(
        b: &mut LayerBuilder,
        unit: Unit,
        count: usize,
        multiplier: Multiplier,
        [input_zero, output_zero]: [i32; 2],
        clamp: Clamp,
    ) -> Average {
        b.f.vectors(unit.declared());
        let scale = [(multiplier.mantissa(), multiplier.left_shift())];
        let requantize = Requantize::new(b, unit, &scale, (output_zero, clamp));
        let start = -(count as i64) * i64::from(input_zero);
        Average { x: b.x(0), y: b.y(), start, wide: count > MOST_IN_16_BITS, requantize }
    }

    fn start(&self, f: &mut FunctionBuilder) -> Vec<Reg> {
        let start = vec![Expr::i32(self.start)];
        match self.wide {
            true => (0..2).map(|_| f.mutable("sum", I32X4, i32x4("vdupq_n_s32", start.clone()))).collect(),
            false => vec![f.mutable("sum", I16X8, i16x8("vdupq_n_s16", start))],
        }
    }

    fn add(&self, f: &mut FunctionBuilder, sums: &[Reg], index: Affine) {
        let value = load_8(f, self.x, index);
        if let [sum] = *sums {
            return f.set(sum, i16x8("vaddw_s8", vec![Expr::Reg(sum), value]));
        }
        let value = f.bind("x", I16X8, i16x8("vmovl_s8", vec![value]));
        for (&sum, half) in sums.iter().zip(["vget_low_s16", "vget_high_s16"]) {
            f.set(sum, i32x4("vaddw_s16", vec![Expr::Reg(sum), i16x4(half, vec![value.clone()])]));
        }
    }

    fn store(&self, f: &mut FunctionBuilder, sums: &[Reg], y_at: &Affine) {
        let halves = ["vget_low_s16", "vget_high_s16"];
        let sums: Vec<Expr> = match *sums {
            [sum] => {
                let half = |half: &str| i32x4("vmovl_s16", vec![i16x4(half, vec![Expr::Reg(sum)])]);
                halves.into_iter().map(half).collect()
            }
            _ => sums.iter().map(|&sum| Expr::Reg(sum)).collect(),
        };
        let scales = self.requantize.load(f, &Affine::default(), 2);
        self.requantize.store(f, &sums, &scales, (self.y, y_at), NARROW);
    }
}

/// One position of the result, and some channels.
struct Position<'a> {
    window: &'a Window,
    input: &'a [usize],
    x_strides: &'a [usize],
    /// Index of the first channel's first element.
    x: Affine,
    /// Index in the result.
    y: Affine,
    /// Position on the spatial axes.
    outputs: &'a [Affine],
    /// Number of channels.
    width: usize,
}

/// Loops over batch, spatial axes and blocks of channels of the result.
fn positions(
    b: &mut LayerBuilder,
    window: &Window,
    wide: usize,
    body: &mut dyn FnMut(&mut FunctionBuilder, &Position),
) {
    let (x_strides, y_strides) = (strides(&b.operand(0).view), strides(&b.result().view));
    let (input, output) = (b.operand(0).ty.shape.dims(), b.result().ty.shape.dims());
    b.f.each("n", output[0], |f, n| {
        let x = n.clone() * x_strides[0] as i64;
        spatial(f, &output[2..], &mut vec![], &mut |f, outputs| {
            let y = super::super::common::address(outputs, &y_strides[2..]) + n.clone() * y_strides[0] as i64;
            for (first, count, width) in channel_blocks(output[1], wide) {
                f.each("block", count, |f, block| {
                    let channel = block * width as i64 + first as i64;
                    let (x, y) = (x.clone() + channel.clone(), y.clone() + channel);
                    body(f, &Position { window, input, x_strides: &x_strides, x, y, outputs, width });
                });
            }
        });
    });
}

fn spatial(
    f: &mut FunctionBuilder,
    extents: &[usize],
    at: &mut Vec<Affine>,
    body: &mut dyn FnMut(&mut FunctionBuilder, &[Affine]),
) {
    let Some(&extent) = extents.get(at.len()) else { return body(f, at) };
    f.each(&axis_name("o", at.len(), extents.len()), extent, |f, position| {
        at.push(position);
        spatial(f, extents, at, body);
        at.pop();
    });
}

impl Position<'_> {
    /// Loops over the elements under the window.
    fn elements(&self, f: &mut FunctionBuilder, body: &mut dyn FnMut(&mut FunctionBuilder, Affine)) {
        self.axis(f, 0, self.x.clone(), body);
    }

    fn axis(
        &self,
        f: &mut FunctionBuilder,
        axis: usize,
        index: Affine,
        body: &mut dyn FnMut(&mut FunctionBuilder, Affine),
    ) {
        if axis == self.window.rank() {
            return body(f, index);
        }
        let start =
            self.outputs[axis].clone() * self.window.stride[axis] as i64 + -(self.window.pad_begin[axis] as i64);
        let stride = self.x_strides[axis + 2] as i64;
        window_axis(f, (self.window, axis, self.input[axis + 2]), start, true, &mut |f, _, position| {
            self.axis(f, axis + 1, index.clone() + position * stride, body);
        });
    }
}
