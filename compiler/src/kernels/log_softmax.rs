//! Logarithm of Softmax, and of sums of exponentials. The formula stands at `QLogSoftmax`.

use super::common::{clamped, loops, search};
use super::{LayerBuilder, strides};
use crate::ops::QuantOp;
use crate::ops::log_softmax::FRACTION;
use crate::plan::{Dim, joined};
use crate::program::{Affine, Elem, Expr, Reg, Type};

/// Builds the loops.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::LogSoftmax(op)) = b.op() else { return };
    let data = op.exponentials.iter().map(|&e| i64::from(e)).collect();
    let doc = format!("exp(-scale * d) for d from 0 to 255, 2^{} is one.", op.bits);
    let exponentials = b.blob("exp", doc, Elem::U32, data);
    let data = op.thresholds.iter().map(|&threshold| i64::from(threshold)).collect();
    let thresholds = b.blob("threshold", "Sums at which the logarithm takes a step.", Elem::U32, data);
    let data = op.logs.iter().map(|&log| i64::from(log)).collect();
    let logs = b.blob("log", "Logarithms between two thresholds, 2^16 is a step of the result.", Elem::I32, data);
    let (dims, axis) = (b.operand(0).ty.shape.dims(), op.axis);
    let (x_strides, y_strides) = (strides(&b.operand(0).view), strides(&b.result().view));
    let rows = (0..dims.len())
        .filter(|&other| other != axis)
        .map(|axis| Dim { extent: dims[axis], strides: vec![x_strides[axis] as isize, y_strides[axis] as isize] });
    let rows = joined(rows.collect());
    let (x, y, terms) = (b.x(0), b.y(), dims[axis]);
    let step = |at: &Affine, i: Affine, stride: usize| at.clone() + i * stride as i64;
    // Never negative; the comparison lets the checker, and compilers, see that the table has an entry for it.
    let distance = |max: Reg, value: Expr| Expr::Reg(max).sub(value).max(Expr::i32(0));
    let (factor, offset) = (Expr::i64(i64::from(op.factor)), Expr::i64(op.offset));
    let finish = |steps: Expr| clamped(steps.add(offset.clone()).shr(FRACTION), Type::I64, op.clamp).cast(Type::I32);
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
        let reached = search(f, thresholds, &Expr::Reg(sum));
        let log = f.bind("log", Type::I64, f.lookup(logs, reached).cast(Type::I64));
        if op.only_sum {
            let steps = Expr::Reg(max).cast(Type::I64).mul(factor.clone()).add(log);
            f.store(y, at[1].clone(), finish(steps));
            return;
        }
        f.each("i", terms, |f, i| {
            let value = f.load(x, step(&at[0], i.clone(), x_strides[axis]));
            let below = value.sub(Expr::Reg(max)).cast(Type::I64);
            let steps = below.mul(factor.clone()).sub(log.clone());
            f.store(y, step(&at[1], i, y_strides[axis]), finish(steps));
        });
    });
}
