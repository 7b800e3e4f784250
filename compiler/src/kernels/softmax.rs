//! Softmax: a table of exponentials, their sum, one reciprocal for each row. The formula stands at `QSoftmax`.

use super::common::{less, loops};
use super::{LayerBuilder, strides};
use crate::ops::QuantOp;
use crate::ops::softmax::QSoftmax;
use crate::plan::{Dim, joined};
use crate::program::{Affine, Buffer, Cmp, Elem, Expr, FunctionBuilder, Reg, Type};

/// Builds the loops.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::Softmax(softmax)) = b.op() else { return };
    let exponentials = Exponentials::new(b, softmax);
    let mask = softmax.mask.as_ref().map(|mask| {
        let data = mask.keep.iter().map(|&keep| i64::from(keep)).collect();
        b.blob("mask", "1 for what takes part.", Elem::I8, data)
    });
    let lowest = i64::from(b.operand(0).ty.dtype.min());
    let ((probability_bits, hi), zero) = (softmax.result(), softmax.zero);
    let shift = 31 + softmax.bits - probability_bits;
    let shape = &b.result().ty.shape;
    let (dims, axis, bits, one) = (shape.dims(), softmax.axis, softmax.bits, softmax.one as i64);
    let (x_strides, y_strides) = (strides(&b.operand(0).view), strides(&b.result().view));
    let mask_strides = softmax.mask.as_ref().map_or(vec![0; dims.len()], |mask| mask.shape.broadcast_strides(shape));
    let rows = (0..dims.len()).filter(|&other| other != axis).map(|axis| {
        let strides = [x_strides[axis], mask_strides[axis], y_strides[axis]].map(|stride| stride as isize);
        Dim { extent: dims[axis], strides: strides.to_vec() }
    });
    let rows = joined(rows.collect());
    let (x, y, terms) = (b.x(0), b.y(), dims[axis]);
    let step = |at: &Affine, i: Affine, stride: usize| at.clone() + i * stride as i64;
    loops(&mut b.f, &rows, 3, &mut |f, at| {
        // `value`, or `absent` where the mask says so.
        let masked = |f: &mut FunctionBuilder, i: &Affine, value: Expr, absent: Expr| match mask {
            Some(mask) => {
                let keep = f.load(mask, step(&at[1], i.clone(), mask_strides[axis]));
                Expr::select(Cmp::Eq, keep, Expr::i32(0), absent, value)
            }
            None => value,
        };
        let max = f.mutable("max", Type::I32, Expr::i32(lowest));
        f.each("i", terms, |f, i| {
            let value = f.load(x, step(&at[0], i.clone(), x_strides[axis]));
            let value = masked(f, &i, value, Expr::i32(lowest));
            f.set(max, Expr::Reg(max).max(value));
        });
        let sum = f.bounded("sum", Type::U32, Expr::Const(Type::U32, 0), None);
        f.each("i", terms, |f, i| {
            let value = f.load(x, step(&at[0], i.clone(), x_strides[axis]));
            let e = exponentials.of(f, max, value);
            let e = masked(f, &i, e, Expr::Const(Type::U32, 0));
            f.accumulate(sum, e);
        });
        // The largest element adds 2^bits, so the sum is at least that.
        let total = Expr::Reg(sum).cast(Type::U64).max(Expr::Const(Type::U64, 1 << bits));
        let total = f.bind("total", Type::U64, total);
        let reciprocal = f.bind("reciprocal", Type::U64, Expr::Const(Type::U64, one).div(total));
        f.each("i", terms, |f, i| {
            let value = f.load(x, step(&at[0], i.clone(), x_strides[axis]));
            let e = exponentials.of(f, max, value);
            let e = masked(f, &i, e, Expr::Const(Type::U32, 0));
            let e = f.bind("e", Type::U64, e.cast(Type::U64));
            let steps = e.mul(reciprocal.clone()).add(Expr::Const(Type::U64, 1 << (shift - 1))).shr(shift);
            let scaled = f.bind("scaled", Type::I32, steps.cast(Type::I32));
            let value = less(scaled, -zero);
            let value = value.min(Expr::i32(i64::from(hi)));
            f.store(y, step(&at[2], i, y_strides[axis]), value);
        });
    });
}

/// The tables of exponentials.
struct Exponentials {
    coarse: Buffer,
    /// Of operands of 16 bits: for the last eight bits of a difference.
    fine: Option<Buffer>,
}

impl Exponentials {
    fn new(b: &mut LayerBuilder, softmax: &QSoftmax) -> Exponentials {
        let data = |table: &[u32]| table.iter().map(|&e| i64::from(e)).collect();
        if softmax.fine.is_empty() {
            let doc = format!("exp(-scale * d) for d from 0 to 255, 2^{} is one.", softmax.bits);
            return Exponentials { coarse: b.blob("exp", doc, Elem::U32, data(&softmax.exponentials)), fine: None };
        }
        let doc = format!("exp(-scale * 256 * d) for d from 0 to 255, 2^{} is one.", softmax.bits);
        let coarse = b.blob("exp", doc, Elem::U32, data(&softmax.exponentials));
        let doc = "exp(-scale * d) for d from 0 to 255, 2^31 is one.";
        Exponentials { coarse, fine: Some(b.blob("fine_exp", doc, Elem::U32, data(&softmax.fine))) }
    }

    /// The exponential of an element less the largest, as `U32`.
    fn of(&self, f: &mut FunctionBuilder, max: Reg, value: Expr) -> Expr {
        // Never negative; the comparison lets the checker, and compilers, see that the table has an entry for it.
        let distance = Expr::Reg(max).sub(value).max(Expr::i32(0));
        let Some(fine) = self.fine else { return f.lookup(self.coarse, distance) };
        let distance = f.bind("distance", Type::I32, distance);
        let high = f.bind("high", Type::I32, distance.clone().shr(8));
        let low = distance.sub(high.clone().mul(Expr::i32(256))).max(Expr::i32(0)).min(Expr::i32(255));
        let product = f.lookup(self.coarse, high).cast(Type::U64).mul(f.lookup(fine, low).cast(Type::U64));
        product.add(Expr::Const(Type::U64, 1 << 30)).shr(31).cast(Type::U32)
    }
}
