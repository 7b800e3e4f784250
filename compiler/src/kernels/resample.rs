//! Weighted sums of a few elements, with indices and weights from tables for each axis.

use super::common::{Requantize, address};
use super::{LayerBuilder, strides};
use crate::ir::Interval;
use crate::ops::QuantOp;
use crate::ops::resample::{QAxisTaps, ResampleSum};
use crate::program::{Affine, Buffer, Elem, Expr, FunctionBuilder, Type};

/// Builds the loops.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::Resample(resample)) = b.op() else { return };
    let x_strides = strides(&b.operand(0).view);
    let axes: Vec<Axis> = resample
        .axes
        .iter()
        .enumerate()
        .map(|(axis, taps)| Axis::new(b, axis, taps.as_ref(), x_strides[axis]))
        .collect();
    let y = b.result();
    let (y_strides, order, dims) = (strides(&y.view), y.view.order(), y.ty.shape.dims());
    let sums = Sums { axes: &axes, x: b.x(0), zero: resample.requantize.map_or(0, |sum| sum.input_zero) };
    let y = b.y();
    let body = |f: &mut FunctionBuilder, at: &[Affine]| {
        let index = address(at, &y_strides);
        let value = match resample.requantize {
            None => {
                let source = sums.copied(f, at);
                f.lookup(sums.x, source)
            }
            Some(sum) => finish(f, sum, |f| sums.weighted(f, at)),
        };
        f.store(y, index, value);
    };
    nested(&mut b.f, &order, dims, &mut vec![Affine::default(); order.len()], &body);
}

fn finish(f: &mut FunctionBuilder, sum: ResampleSum, acc: impl FnOnce(&mut FunctionBuilder) -> Expr) -> Expr {
    let bound = Interval::new(-sum.reach, sum.reach);
    let requantize = Requantize::new(bound, &[sum.multiplier], sum.output_zero, sum.clamp);
    let acc = acc(f);
    requantize.apply(f, acc, Expr::i64(sum.multiplier.factor()))
}

/// Loops over the axes of the result as they lie in memory.
pub fn nested(
    f: &mut FunctionBuilder,
    order: &[usize],
    dims: &[usize],
    at: &mut Vec<Affine>,
    body: &dyn Fn(&mut FunctionBuilder, &[Affine]),
) {
    let Some((&axis, inner)) = order.split_first() else { return body(f, at) };
    f.each(&format!("i{axis}"), dims[axis], |f, position| {
        at[axis] = position;
        nested(f, inner, dims, at, body);
    });
}

/// How positions of the result along one axis are computed.
struct Axis {
    stride: usize,
    /// Where the taps are (`taps` for each position), and their weights; `None` where the axis stays as it is.
    taps: Option<(usize, Buffer)>,
    weights: Option<Buffer>,
    /// Largest sum of the weights' absolute values.
    most: i64,
}

impl Axis {
    fn new(b: &mut LayerBuilder, axis: usize, taps: Option<&QAxisTaps>, stride: usize) -> Axis {
        let Some(taps) = taps else { return Axis { stride, taps: None, weights: None, most: 1 } };
        let sources = taps.indices.iter().map(|&index| (index * stride) as i64).collect();
        let doc = match taps.taps {
            1 => format!("Where the elements along axis {axis} come from."),
            count => format!("Where the elements along axis {axis} come from, {count} for each position."),
        };
        let sources = b.blob(&format!("source{axis}"), doc, Elem::I32, sources);
        let weights = taps.weights.as_ref().map(|weights| {
            let data = weights.iter().map(|&weight| i64::from(weight)).collect();
            b.blob(&format!("weight{axis}"), format!("Their weights along axis {axis}."), Elem::I16, data)
        });
        Axis { stride, taps: Some((taps.taps, sources)), weights, most: taps.most() }
    }
}

struct Sums<'a> {
    axes: &'a [Axis],
    x: Buffer,
    zero: i32,
}

impl Sums<'_> {
    /// Where the only element is.
    fn copied(&self, f: &FunctionBuilder, at: &[Affine]) -> Expr {
        place(f, self.axes.iter().zip(at))
    }

    /// The sum over the taps of all axes with weights, the copies' places known.
    fn weighted(&self, f: &mut FunctionBuilder, at: &[Affine]) -> Expr {
        let axes = || self.axes.iter().zip(at);
        let weighted = axes().filter_map(|(axis, position)| {
            let ((taps, sources), weights) = (axis.taps?, axis.weights?);
            Some((axis, taps, sources, weights, position))
        });
        let weighted: Vec<_> = weighted.collect();
        let start = place(f, axes().filter(|(axis, _)| axis.taps.is_none() || axis.weights.is_none()));
        let start = f.bind("start", Type::I32, start);
        self.sum(f, &weighted, start)
    }

    /// The sum over the taps of the first of `axes`, each a sum over those of the others.
    fn sum(&self, f: &mut FunctionBuilder, axes: &[(&Axis, usize, Buffer, Buffer, &Affine)], start: Expr) -> Expr {
        let Some((&(_, taps, sources, weights, position), inner)) = axes.split_first() else {
            return super::common::less(f.lookup(self.x, start), self.zero);
        };
        let most = axes.iter().map(|(axis, ..)| i128::from(axis.most)).product::<i128>();
        let bound = Interval::new(-255 * most, 255 * most);
        let acc = f.bounded("acc", Type::I32, Expr::i32(0), Some(bound));
        f.each("t", taps, |f, tap| {
            let index = position.clone() * taps as i64 + tap;
            let source = start.clone().add(f.load(sources, index.clone()));
            let source = f.bind("source", Type::I32, source);
            let value = self.sum(f, inner, source);
            let product = value.mul(f.load(weights, index));
            f.accumulate(acc, product);
        });
        Expr::Reg(acc)
    }
}

/// Where elements are copied from along some axes: looked up, or as far as the result's.
fn place<'a>(f: &FunctionBuilder, axes: impl Iterator<Item = (&'a Axis, &'a Affine)>) -> Expr {
    let mut plain = Affine::default();
    let mut looked_up = vec![];
    for (axis, position) in axes {
        match axis.taps {
            Some((_, sources)) => looked_up.push(f.load(sources, position.clone())),
            None => plain = plain + position.clone() * axis.stride as i64,
        }
    }
    looked_up.into_iter().fold(Expr::Index(plain), Expr::add)
}
