//! Softmax: a table of exponentials, their sum, one reciprocal for each row. The formula stands at `QSoftmax`.

use super::common::loops;
use super::{LayerBuilder, strides};
use crate::ops::QuantOp;
use crate::plan::{Dim, joined};
use crate::program::{Affine, Cmp, Elem, Expr, FunctionBuilder, Reg, Type};

/// Builds the loops.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::Softmax(softmax)) = b.op() else { return };
    let data = softmax.exponentials.iter().map(|&e| i64::from(e)).collect();
    let doc = format!("exp(-scale * d) for d from 0 to 255, 2^{} is one.", softmax.bits);
    let exponentials = b.blob("exp", doc, Elem::U32, data);
    let mask = softmax.mask.as_ref().map(|mask| {
        let data = mask.keep.iter().map(|&keep| i64::from(keep)).collect();
        b.blob("mask", "1 for what takes part.", Elem::I8, data)
    });
    let shape = &b.result().ty.shape;
    let (dims, axis, bits) = (shape.dims(), softmax.axis, softmax.bits);
    let (x_strides, y_strides) = (strides(&b.operand(0).view), strides(&b.result().view));
    let mask_strides = softmax.mask.as_ref().map_or(vec![0; dims.len()], |mask| mask.shape.broadcast_strides(shape));
    let rows = (0..dims.len()).filter(|&other| other != axis).map(|axis| {
        let strides = [x_strides[axis], mask_strides[axis], y_strides[axis]].map(|stride| stride as isize);
        Dim { extent: dims[axis], strides: strides.to_vec() }
    });
    let rows = joined(rows.collect());
    let (x, y, terms) = (b.x(0), b.y(), dims[axis]);
    let step = |at: &Affine, i: Affine, stride: usize| at.clone() + i * stride as i64;
    // Never negative; the comparison lets the checker, and compilers, see that the table has an entry for it.
    let distance = |max: Reg, value: Expr| Expr::Reg(max).sub(value).max(Expr::i32(0));
    loops(&mut b.f, &rows, 3, &mut |f, at| {
        // `value`, or `absent` where the mask says so.
        let masked = |f: &mut FunctionBuilder, i: &Affine, value: Expr, absent: Expr| match mask {
            Some(mask) => {
                let keep = f.load(mask, step(&at[1], i.clone(), mask_strides[axis]));
                Expr::select(Cmp::Eq, keep, Expr::i32(0), absent, value)
            }
            None => value,
        };
        let max = f.mutable("max", Type::I32, Expr::i32(-128));
        f.each("i", terms, |f, i| {
            let value = f.load(x, step(&at[0], i.clone(), x_strides[axis]));
            let value = masked(f, &i, value, Expr::i32(-128));
            f.set(max, Expr::Reg(max).max(value));
        });
        let sum = f.bounded("sum", Type::U32, Expr::Const(Type::U32, 0), None);
        f.each("i", terms, |f, i| {
            let value = f.load(x, step(&at[0], i.clone(), x_strides[axis]));
            let e = f.lookup(exponentials, distance(max, value));
            let e = masked(f, &i, e, Expr::Const(Type::U32, 0));
            f.accumulate(sum, e);
        });
        // The largest element adds 2^bits, so the sum is at least that.
        let total = Expr::Reg(sum).cast(Type::U64).max(Expr::Const(Type::U64, 1 << bits));
        let total = f.bind("total", Type::U64, total);
        let reciprocal = f.bind("reciprocal", Type::U64, Expr::Const(Type::U64, 1 << (31 + bits)).div(total));
        f.each("i", terms, |f, i| {
            let value = f.load(x, step(&at[0], i.clone(), x_strides[axis]));
            let e = f.lookup(exponentials, distance(max, value));
            let e = masked(f, &i, e, Expr::Const(Type::U32, 0)).cast(Type::U64);
            let e = f.bind("e", Type::U64, e);
            let steps = e.mul(reciprocal.clone()).add(Expr::Const(Type::U64, 1 << (22 + bits))).shr(23 + bits);
            let scaled = f.bind("scaled", Type::I32, steps.cast(Type::I32));
            let value = scaled.sub(Expr::i32(128)).min(Expr::i32(127));
            f.store(y, step(&at[2], i, y_strides[axis]), value);
        });
    });
}
