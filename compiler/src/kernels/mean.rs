//! Mean and sum over whole axes.

use super::LayerBuilder;
use super::common::{Requantize, loops};
use super::reduce::reduction_loops;
use crate::ir::Interval;
use crate::ops::QuantOp;
use crate::program::{Expr, Type};

/// Builds the loops: for each element of the result, the sum over the reduced axes. The zero point is subtracted
/// once for the whole sum.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::Mean(mean)) = b.op() else { return };
    let (kept, reduced) = reduction_loops(b, &mean.axes, mean.keep_dims);
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
