//! Mean over whole axes.

use super::common::{Requantize, factor, loops};
use super::{LayerBuilder, strides};
use crate::ops::average_pool::sum_reach;
use crate::ops::{QuantOp, fits_i32};
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
    let bound = sum_reach(mean.count, mean.input_type);
    let sum_type = if fits_i32(bound) { Type::I32 } else { Type::I64 };
    let requantize = Requantize {
        bound,
        largest: i128::from(factor(mean.multiplier)),
        output_zero: mean.output_zero,
        clamp: mean.clamp,
    };
    let start = -(mean.count as i64) * i64::from(mean.input_zero);
    let (x, y) = (b.x(0), b.y());
    loops(&mut b.f, &kept, 2, &mut |f, at| {
        let sum = f.mutable("sum", sum_type, Expr::Const(sum_type, start));
        loops(f, &reduced, 1, &mut |f, inner| {
            let value = f.load(x, at[0].clone() + inner[0].clone());
            f.accumulate(sum, value.cast_to(sum_type));
        });
        let value = requantize.apply(f, Expr::Reg(sum), Expr::i64(factor(mean.multiplier)));
        f.store(y, at[1].clone(), value);
    });
}
