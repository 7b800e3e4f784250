//! Position of the largest or smallest element along an axis.

use super::common::loops;
use super::{LayerBuilder, strides};
use crate::ir::Interval;
use crate::ops::QuantOp;
use crate::plan::{Dim, joined};
use crate::program::{Cmp, Expr, Type};

/// Builds the loops.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::ArgMax(arg_max)) = b.op() else { return };
    let input = b.operand(0).ty.shape.dims();
    let (x_strides, y_strides) = (strides(&b.operand(0).view), strides(&b.result().view));
    let y_axis = |axis: usize| if arg_max.keep_dims || axis < arg_max.axis { axis } else { axis - 1 };
    let rows = (0..input.len()).filter(|&axis| axis != arg_max.axis).map(|axis| Dim {
        extent: input[axis],
        strides: vec![x_strides[axis] as isize, y_strides[y_axis(axis)] as isize],
    });
    let rows = joined(rows.collect());
    let (x, y, terms, stride) = (b.x(0), b.y(), input[arg_max.axis], x_strides[arg_max.axis] as i64);
    let smallest = arg_max.smallest;
    let cmp = if arg_max.last { Cmp::Le } else { Cmp::Lt };
    loops(&mut b.f, &rows, 2, &mut |f, at| {
        let best = f.mutable("best", Type::I32, f.load(x, at[0].clone()));
        let index = f.bounded("index", Type::I32, Expr::i32(0), Some(Interval::new(0, terms as i128 - 1)));
        f.each("i", terms, |f, i| {
            let value = f.bind("value", Type::I32, f.load(x, at[0].clone() + i.clone() * stride));
            let (a, b) = if smallest { (value.clone(), Expr::Reg(best)) } else { (Expr::Reg(best), value.clone()) };
            f.set(index, Expr::select(cmp, a, b, Expr::Index(i), Expr::Reg(index)));
            f.set(best, if smallest { Expr::Reg(best).min(value) } else { Expr::Reg(best).max(value) });
        });
        f.store(y, at[1].clone(), Expr::Reg(index));
    });
}
