//! Mean and sum over whole axes.

use super::LayerBuilder;
use super::common::{Requantize, loops};
use super::reduce::reduction_loops;
use crate::ops::average_pool::sum_reach;
use crate::ops::{QuantOp, fits_i32};
use crate::program::{Expr, Type};

/// Builds the loops: for each element of the result, the sum over the reduced axes. The zero point is subtracted
/// once for the whole sum.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::Mean(mean)) = b.op() else { return };
    let (kept, reduced) = reduction_loops(b, &mean.axes, mean.keep_dims);
    let bound = sum_reach(mean.count, mean.input_type);
    let sum_type = if fits_i32(bound) { Type::I32 } else { Type::I64 };
    let requantize = Requantize::new(bound, &[mean.multiplier], mean.output_zero, mean.clamp);
    let start = -(mean.count as i64) * i64::from(mean.input_zero);
    let (x, y) = (b.x(0), b.y());
    loops(&mut b.f, &kept, 2, &mut |f, at| {
        let sum = f.mutable("sum", sum_type, Expr::Const(sum_type, start));
        loops(f, &reduced, 1, &mut |f, inner| {
            let value = f.load(x, at[0].clone() + inner[0].clone());
            f.accumulate(sum, value.cast_to(sum_type));
        });
        let value = requantize.apply(f, Expr::Reg(sum), Expr::i64(mean.multiplier.factor()));
        f.store(y, at[1].clone(), value);
    });
}
