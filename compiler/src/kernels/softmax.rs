//! Softmax: a table of exponentials, their sum, one reciprocal for each row. The formula stands at `QSoftmax`.

use super::common::loops;
use super::{LayerBuilder, strides};
use crate::ops::QuantOp;
use crate::plan::{Dim, joined};
use crate::program::{Affine, Elem, Expr, Reg, Type};

/// Builds the loops.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::Softmax(softmax)) = b.op() else { return };
    let data = softmax.exponentials.iter().map(|&e| i64::from(e)).collect();
    let doc = format!("exp(-scale * d) for d from 0 to 255, 2^{} is one.", softmax.bits);
    let exponentials = b.blob("exp", doc, Elem::U32, data);
    let (dims, axis, bits) = (b.result().ty.shape.dims(), softmax.axis, softmax.bits);
    let (x_strides, y_strides) = (strides(&b.operand(0).view), strides(&b.result().view));
    let rows = (0..dims.len())
        .filter(|&other| other != axis)
        .map(|axis| Dim { extent: dims[axis], strides: vec![x_strides[axis] as isize, y_strides[axis] as isize] });
    let rows = joined(rows.collect());
    let (x, y, terms) = (b.x(0), b.y(), dims[axis]);
    let step = |at: &Affine, i: Affine, stride: usize| at.clone() + i * stride as i64;
    // Never negative; the comparison lets the checker, and compilers, see that the table has an entry for it.
    let distance = |max: Reg, value: Expr| Expr::Reg(max).sub(value).max(Expr::i32(0));
    loops(&mut b.f, &rows, 2, &mut |f, at| {
        let max = f.mutable("max", Type::I32, Expr::i32(-128));
        f.each("i", terms, |f, i| {
            let value = f.load(x, step(&at[0], i, x_strides[axis]));
            f.set(max, Expr::Reg(max).max(value));
        });
        let sum = f.bounded("sum", Type::U32, Expr::Const(Type::U32, 0), None);
        f.each("i", terms, |f, i| {
            let value = f.load(x, step(&at[0], i, x_strides[axis]));
            f.accumulate(sum, f.lookup(exponentials, distance(max, value)));
        });
        // The largest element adds 2^bits, so the sum is at least that.
        let total = Expr::Reg(sum).cast(Type::U64).max(Expr::Const(Type::U64, 1 << bits));
        let total = f.bind("total", Type::U64, total);
        let reciprocal = f.bind("reciprocal", Type::U64, Expr::Const(Type::U64, 1 << (31 + bits)).div(total));
        f.each("i", terms, |f, i| {
            let value = f.load(x, step(&at[0], i.clone(), x_strides[axis]));
            let e = f.bind("e", Type::U64, f.lookup(exponentials, distance(max, value)).cast(Type::U64));
            let steps = e.mul(reciprocal.clone()).add(Expr::Const(Type::U64, 1 << (22 + bits))).shr(23 + bits);
            let scaled = f.bind("scaled", Type::I32, steps.cast(Type::I32));
            let value = scaled.sub(Expr::i32(128)).min(Expr::i32(127));
            f.store(y, step(&at[1], i, y_strides[axis]), value);
        });
    });
}
