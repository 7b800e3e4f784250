//! Mean over whole axes.

use super::common::{Requantize, loops};
use super::{LayerBuilder, strides};
use crate::ir::Interval;
use crate::ops::QuantOp;
use crate::plan::{Dim, joined};
use crate::program::{Expr, Type};

/// Builds the loops: for each element of the result, the sum over the reduced axes. The zero point is subtracted
/// once for the whole sum.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::Mean(mean)) = b.op() else { return };
    let input = &b.operand(0).ty.shape;
    let (x_strides, y_strides) = (strides(&b.operand(0).view), strides(&b.result().view));
    let is_reduced = |axis: &usize| mean.axes.contains(axis);
    let dim = |axis: usize, more: Vec<isize>| Dim {
        extent: input.dims()[axis],
        strides: [vec![x_strides[axis] as isize], more].concat(),
    };
    let y_axis =
        |axis: usize| if mean.keep_dims { axis } else { axis - mean.axes.iter().filter(|&&r| r < axis).count() };
    let kept = (0..input.rank())
        .filter(|axis| !is_reduced(axis))
        .map(|axis| dim(axis, vec![y_strides[y_axis(axis)] as isize]));
    let reduced = (0..input.rank()).filter(is_reduced).map(|axis| dim(axis, vec![]));
    let (kept, reduced) = (joined(kept.collect()), joined(reduced.collect()));
    let count = mean.count as i128;
    let bound = Interval::new(-255 * count, 255 * count);
    let requantize = Requantize::new(bound, &[mean.multiplier], mean.output_zero, mean.clamp);
    let start = -(mean.count as i64) * i64::from(mean.input_zero);
    let (x, y) = (b.x(0), b.y());
    loops(&mut b.f, &kept, 2, &mut |f, at| {
        let sum = f.mutable("sum", Type::I32, Expr::i32(start));
        loops(f, &reduced, 1, &mut |f, inner| {
            let value = f.load(x, at[0].clone() + inner[0].clone());
            f.accumulate(sum, value);
        });
        let value = requantize.apply(f, Expr::Reg(sum), Expr::i64(mean.multiplier.factor()));
        f.store(y, at[1].clone(), value);
    });
}
