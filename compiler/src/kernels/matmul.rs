//! Product of two tensors: for each row of the first and each column of the second, the sum of products.

use super::common::{Requantize, less, loops};
use super::{LayerBuilder, strides};
use crate::ops::QuantOp;
use crate::plan::{Dim, joined};
use crate::program::{Expr, Type};

/// Builds the loops. Any strides will do, so that transposed operands cost nothing.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::MatMul(product)) = b.op() else { return };
    let result = &b.result().ty.shape;
    let rank = result.rank();
    let y_strides = strides(&b.result().view);
    let operands = [0, 1].map(|port| {
        let missing = rank - b.operand(port).ty.shape.rank();
        // Axes of one element have stride 0, so they are repeated.
        [vec![0; missing], strides(&b.operand(port).view)].concat()
    });
    let dim = |axis: usize| {
        let own = |port: usize| operands[port][axis] as isize;
        // The rows of the result come from the first operand, the columns from the second.
        let (a, b) = match rank - axis {
            1 => (0, own(1)),
            2 => (own(0), 0),
            _ => (own(0), own(1)),
        };
        Dim { extent: result.dims()[axis], strides: vec![a, b, y_strides[axis] as isize] }
    };
    let dims = joined((0..rank).map(dim).collect());
    let (a_step, b_step) = (operands[0][rank - 1] as i64, operands[1][rank - 2] as i64);
    let requantize = Requantize::new(product.bound, &[product.multiplier], product.output_zero, product.clamp);
    let (a, x, y) = (b.x(0), b.x(1), b.y());
    loops(&mut b.f, &dims, 3, &mut |f, at| {
        let acc = f.mutable("acc", Type::I32, Expr::i32(0));
        f.each("t", product.terms, |f, t| {
            let left = less(f.load(a, at[0].clone() + t.clone() * a_step), product.zeros[0]);
            let right = less(f.load(x, at[1].clone() + t * b_step), product.zeros[1]);
            f.accumulate(acc, left.mul(right));
        });
        let value = requantize.apply(f, Expr::Reg(acc), Expr::i64(product.multiplier.factor()));
        f.store(y, at[2].clone(), value);
    });
}
