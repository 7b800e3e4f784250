//! Means of neighbouring positions, channel by channel: pools without padding, and means over the spatial axes.

use super::isa::{Isa, load, op, splat, store, vector};
use super::requantize::{self, Requantize, bytes_of_lanes};
use crate::ir::{Clamp, Interval, Multiplier};
use crate::kernels::LayerBuilder;
use crate::ops::QuantOp;
use crate::plan::{Layer, Plan, Work};
use crate::program::{Affine, Expr, FunctionBuilder, Reg};

/// Positions of the result, and the positions of the input behind each.
struct Mean {
    /// Axes of the result: number, distance in the input, distance in the result.
    outputs: Vec<(usize, usize, usize)>,
    /// Axes of a window: number, distance.
    window: Vec<(usize, usize)>,
    channels: usize,
    multiplier: Multiplier,
    zeros: (i32, i32),
    clamp: Clamp,
}

impl Mean {
    fn of(layer: &Layer, plan: &Plan) -> Option<Mean> {
        let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
        let (x_strides, y_strides) = (x.view.strides()?, y.view.strides()?);
        let (x_dims, y_dims) = (x.ty.shape.dims(), y.ty.shape.dims());
        let dense = |x_axis: usize, y_axis: usize| x_strides[x_axis] == 1 && y_strides[y_axis] == 1;
        match &layer.work {
            Work::Operator(QuantOp::AveragePool(pool)) => {
                let &[multiplier] = &pool.multipliers.values().collect::<Vec<_>>()[..] else { return None };
                let window = &pool.window;
                let spatial =
                    |axis: usize| (y_dims[axis + 2], x_strides[axis + 2] * window.stride[axis], y_strides[axis + 2]);
                let taps = |axis: usize| (window.kernel[axis], x_strides[axis + 2] * window.dilation[axis]);
                (dense(1, 1) && !window.pads(&x_dims[2..])).then(|| Mean {
                    outputs: [(y_dims[0], x_strides[0], y_strides[0])]
                        .into_iter()
                        .chain((0..window.rank()).map(spatial))
                        .collect(),
                    window: (0..window.rank()).map(taps).collect(),
                    channels: x_dims[1],
                    multiplier: *multiplier,
                    zeros: (pool.input_zero, pool.output_zero),
                    clamp: pool.clamp,
                })
            }
            Work::Operator(QuantOp::Mean(mean)) => {
                let y_axis = |axis: usize| match mean.keep_dims {
                    true => axis,
                    false => axis - mean.axes.iter().filter(|&&reduced| reduced < axis).count(),
                };
                let kept = (0..x_dims.len()).filter(|axis| !mean.axes.contains(axis));
                let (channel, outer): (Vec<usize>, Vec<usize>) = kept.partition(|&axis| dense(axis, y_axis(axis)));
                let &[channel] = &channel[..] else { return None };
                Some(Mean {
                    outputs: outer.iter().map(|&a| (x_dims[a], x_strides[a], y_strides[y_axis(a)])).collect(),
                    window: mean.axes.iter().map(|&axis| (x_dims[axis], x_strides[axis])).collect(),
                    channels: x_dims[channel],
                    multiplier: mean.multiplier,
                    zeros: (mean.input_zero, mean.output_zero),
                    clamp: mean.clamp,
                })
            }
            _ => None,
        }
    }

    fn count(&self) -> usize {
        self.window.iter().map(|(count, _)| count).product()
    }
}

/// Whether a layer can be computed like this: not for fewer channels than a vector has lanes.
pub fn accepts(layer: &Layer, plan: &Plan, isa: &Isa) -> bool {
    Mean::of(layer, plan).is_some_and(|mean| {
        let most = 255 * mean.count() as i128;
        mean.channels >= isa.lanes()
            && layer.added.is_none()
            && requantize::accepts([(mean.multiplier, Interval::new(-most, most))].into_iter())
    })
}

/// Estimate.
pub fn instructions(layer: &Layer, plan: &Plan, isa: &Isa) -> u64 {
    let Some(mean) = Mean::of(layer, plan) else { return u64::MAX };
    let outputs: usize = mean.outputs.iter().map(|(count, _, _)| count).product();
    (outputs * mean.channels.div_ceil(isa.lanes()) * (2 * mean.count() + 16)) as u64
}

/// No working memory.
pub fn scratch(_: &Layer, _: &Plan, _: &Isa) -> usize {
    0
}

/// Builds the function.
pub fn build(b: &mut LayerBuilder, isa: &'static Isa) {
    let (layer, plan) = (b.layer, b.plan);
    let Some(mean) = Mean::of(layer, plan) else { return };
    let (x, y) = (b.x(0), b.y());
    let (bits, lanes) = (isa.bits, isa.lanes());
    let requantize = Requantize::uniform(mean.multiplier, mean.zeros.1, mean.clamp);
    b.f.vectors(&isa.unit);
    each_output(&mut b.f, &mean.outputs, (Affine::default(), Affine::default()), &mut |f, from, to| {
        let factors = requantize.lanes(f, isa, bits, &Affine::default());
        let part = |f: &mut FunctionBuilder, channel: Affine| {
            let start = splat(bits, 32, -(mean.count() as i64) * i64::from(mean.zeros.0));
            let sum: Reg = f.mutable("sum", vector(bits), start);
            each_tap(f, &mean.window, from.clone() + channel.clone(), &mut |f, at| {
                let value = op(bits, "cvtepi8_epi32", vec![load(f, x, at, lanes, 1)]);
                f.set(sum, op(bits, "add_epi32", vec![Expr::Reg(sum), value]));
            });
            let q = factors.apply(f, isa, Expr::Reg(sum));
            let bytes = bytes_of_lanes(f, isa, bits, q);
            let bytes = requantize.clamped(128, bytes);
            store(f, y, to.clone() + channel, lanes, bytes);
        };
        f.each("c", mean.channels / lanes, |f, c| part(f, c * lanes as i64));
        if !mean.channels.is_multiple_of(lanes) {
            f.comment("The last channels, some of them once more.");
            part(f, Affine::from((mean.channels - lanes) as i64));
        }
    });
}

fn each_output(
    f: &mut FunctionBuilder,
    axes: &[(usize, usize, usize)],
    at: (Affine, Affine),
    body: &mut dyn FnMut(&mut FunctionBuilder, &Affine, &Affine),
) {
    let Some((&(count, from, to), inner)) = axes.split_first() else { return body(f, &at.0, &at.1) };
    f.each("o", count, |f, o| {
        each_output(f, inner, (at.0 + o.clone() * from as i64, at.1 + o * to as i64), body);
    });
}

fn each_tap(
    f: &mut FunctionBuilder,
    axes: &[(usize, usize)],
    at: Affine,
    body: &mut dyn FnMut(&mut FunctionBuilder, Affine),
) {
    let Some((&(count, step), inner)) = axes.split_first() else { return body(f, at) };
    f.each("k", count, |f, k| each_tap(f, inner, at + k * step as i64, body));
}
