//! Reductions over whole axes: extremes, and functions of sums.

use super::common::{loops, search, thresholds};
use super::{LayerBuilder, strides};
use crate::ops::QuantOp;
use crate::ops::fits_i32;
use crate::ops::reduce::{Fold, SumFold};
use crate::plan::{Dim, joined};
use crate::program::{Affine, Elem, Expr, FunctionBuilder, Type};

/// The loops of a reduction: over what is kept, with strides of operand and result, and over what is reduced.
pub fn reduction_loops(b: &LayerBuilder, axes: &[usize], keep_dims: bool) -> (Vec<Dim>, Vec<Dim>) {
    let input = &b.operand(0).ty.shape;
    let (x_strides, y_strides) = (strides(&b.operand(0).view), strides(&b.result().view));
    let is_reduced = |axis: &usize| axes.contains(axis);
    let dim = |axis: usize, more: Vec<isize>| Dim {
        extent: input.dims()[axis],
        strides: [vec![x_strides[axis] as isize], more].concat(),
    };
    let y_axis = |axis: usize| if keep_dims { axis } else { axis - axes.iter().filter(|&&r| r < axis).count() };
    let kept = (0..input.rank())
        .filter(|axis| !is_reduced(axis))
        .map(|axis| dim(axis, vec![y_strides[y_axis(axis)] as isize]));
    let reduced = (0..input.rank()).filter(is_reduced).map(|axis| dim(axis, vec![]));
    (joined(kept.collect()), joined(reduced.collect()))
}

/// Builds the loops.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::Reduce(reduce)) = b.op() else { return };
    let (kept, reduced) = reduction_loops(b, &reduce.axes, reduce.keep_dims);
    match &reduce.fold {
        Fold::Max => extreme(b, &kept, &reduced, Expr::max),
        Fold::Min => extreme(b, &kept, &reduced, Expr::min),
        Fold::Sum(fold) => sum(b, &kept, &reduced, fold),
    }
}

fn extreme(b: &mut LayerBuilder, kept: &[Dim], reduced: &[Dim], join: fn(Expr, Expr) -> Expr) {
    let (x, y) = (b.x(0), b.y());
    loops(&mut b.f, kept, 2, &mut |f, at| {
        // The first element counts twice, which changes nothing.
        let best = f.mutable("best", Type::I32, f.load(x, at[0].clone()));
        loops(f, reduced, 1, &mut |f, inner| {
            let value = f.load(x, at[0].clone() + inner[0].clone());
            f.set(best, join(Expr::Reg(best), value));
        });
        f.store(y, at[1].clone(), Expr::Reg(best));
    });
}

fn sum(b: &mut LayerBuilder, kept: &[Dim], reduced: &[Dim], fold: &SumFold) {
    let ty = if fits_i32(fold.bound) { Type::I32 } else { Type::I64 };
    let terms = fold.terms.iter().map(|&term| i64::from(term)).collect();
    let terms = b.blob("term", "What an element adds to the sum, for -128 to 127.", Elem::I32, terms);
    let thresholds = thresholds(b, &fold.steps, ty);
    let (x, y, lowest) = (b.x(0), b.y(), i64::from(fold.steps.lowest));
    let body = &mut |f: &mut FunctionBuilder, at: &[Affine]| {
        let sum = f.mutable("sum", ty, Expr::Const(ty, 0));
        loops(f, reduced, 1, &mut |f, inner| {
            let index = f.load(x, at[0].clone() + inner[0].clone()).add(Expr::i32(128));
            let term = f.lookup(terms, index).cast_to(ty);
            f.accumulate(sum, term);
        });
        let reached = search(f, thresholds, &Expr::Reg(sum));
        let value = reached.add(Expr::i32(lowest));
        // The last steps are not reached where the result has no room for them.
        let value = value.min(Expr::i32(127));
        f.store(y, at[1].clone(), value);
    };
    loops(&mut b.f, kept, 2, body);
}
