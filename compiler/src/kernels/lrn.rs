//! Local response normalisation. The formula stands at `QLrn`.

use super::common::{clamped, less, loops, search};
use super::{LayerBuilder, strides};
use crate::ops::QuantOp;
use crate::plan::{Dim, joined};
use crate::program::{Elem, Expr, Type};

/// Builds the loops: the squares of the channels around each element, the factor for their sum, the product.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::Lrn(lrn)) = b.op() else { return };
    let data = lrn.thresholds.iter().map(|&threshold| i64::from(threshold)).collect();
    let thresholds = b.blob("threshold", "Sums of squares at which the factor changes.", Elem::I32, data);
    let data = lrn.factors.iter().map(|&factor| i64::from(factor)).collect();
    let factors = b.blob("factor", format!("Factors between thresholds, 2^{} is one.", lrn.shift), Elem::I32, data);
    let dims = b.result().ty.shape.dims();
    let (x_strides, y_strides) = (strides(&b.operand(0).view), strides(&b.result().view));
    let rows = (0..dims.len())
        .filter(|&axis| axis != 1)
        .map(|axis| Dim { extent: dims[axis], strides: vec![x_strides[axis] as isize, y_strides[axis] as isize] });
    let rows = joined(rows.collect());
    let (x, y, channels) = (b.x(0), b.y(), dims[1]);
    let (x_stride, y_stride) = (x_strides[1] as i64, y_strides[1] as i64);
    loops(&mut b.f, &rows, 2, &mut |f, at| {
        f.each("c", channels, |f, c| {
            let sum = f.mutable("sum", Type::I32, Expr::i32(0));
            let start = c.clone() + -(((lrn.size - 1) / 2) as i64);
            f.taps(("k", "i"), start, lrn.size, 1, channels, |f, _, i| {
                let value = f.bind("value", Type::I32, less(f.load(x, at[0].clone() + i * x_stride), lrn.input_zero));
                f.accumulate(sum, value.clone().mul(value));
            });
            let reached = search(f, thresholds, &Expr::Reg(sum));
            let factor = f.lookup(factors, reached).cast(Type::I64);
            let value = less(f.load(x, at[0].clone() + c.clone() * x_stride), lrn.input_zero).cast(Type::I64);
            let steps = value.mul(factor).add(Expr::i64(1 << (lrn.shift - 1))).shr(lrn.shift);
            let value = clamped(steps.add(Expr::i64(i64::from(lrn.output_zero))), Type::I64, lrn.clamp);
            f.store(y, at[1].clone() + c * y_stride, value.cast(Type::I32));
        });
    });
}
