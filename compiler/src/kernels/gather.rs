//! Elements at computed or constant positions: look-ups, sorted elements, one-hot rows.

use super::common::loops;
use super::{LayerBuilder, strides};
use crate::ir::Interval;
use crate::ops::QuantOp;
use crate::plan::{Dim, joined};
use crate::program::{Affine, Buffer, Cmp, Elem, Expr, FunctionBuilder, Type};

/// A position that may count from the end, within an axis of `size` elements.
fn wrapped(f: &mut FunctionBuilder, position: Expr, size: usize) -> Expr {
    let size = size as i64;
    let inside = position.max(Expr::i32(-size)).min(Expr::i32(size - 1));
    let inside = f.bind("inside", Type::I32, inside);
    let from_end = inside.clone().add(Expr::i32(size));
    // The comparison lets the checker, and compilers, see that it is inside.
    let wrapped = Expr::select(Cmp::Lt, inside.clone(), Expr::i32(0), from_end, inside);
    wrapped.max(Expr::i32(0)).min(Expr::i32(size - 1))
}

fn positions_table(b: &mut LayerBuilder, positions: Option<&Vec<i32>>) -> Option<Buffer> {
    let data = positions?.iter().map(|&position| i64::from(position)).collect();
    Some(b.blob("position", "Positions that -128 to 127 stand for.", Elem::I32, data))
}

/// Elements of an axis at the positions that the second operand holds.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::Gather(gather)) = b.op() else { return };
    let table = positions_table(b, gather.positions.as_ref());
    let (data, index) = (b.operand(0), b.operand(1));
    let (x_strides, i_strides, y_strides) = (strides(&data.view), strides(&index.view), strides(&b.result().view));
    let (dims, axis, rank) = (data.ty.shape.dims(), gather.axis, index.ty.shape.rank());
    let dim = |extent: usize, strides: [usize; 3]| Dim { extent, strides: strides.map(|s| s as isize).to_vec() };
    let outer = (0..axis).map(|a| dim(dims[a], [0, x_strides[a], y_strides[a]]));
    let looked_up = (0..rank).map(|a| dim(index.ty.shape.dims()[a], [i_strides[a], 0, y_strides[axis + a]]));
    let inner = (axis + 1..dims.len()).map(|a| dim(dims[a], [0, x_strides[a], y_strides[rank + a - 1]]));
    let (outer, inner) = (joined(outer.chain(looked_up).collect()), joined(inner.collect()));
    let (x, positions, y) = (b.x(0), b.x(1), b.y());
    let (size, stride) = (dims[axis], x_strides[axis] as i64);
    loops(&mut b.f, &outer, 3, &mut |f, at| {
        let position = f.load(positions, at[0].clone());
        let position = match table {
            Some(table) => f.lookup(table, position.add(Expr::i32(128))),
            None => wrapped(f, position, size),
        };
        let start = position.mul(Expr::i32(stride)).add(Expr::Index(at[1].clone()));
        let start = f.bind("start", Type::I32, start);
        loops(f, &inner, 3, &mut |f, more| {
            let value = f.lookup(x, start.clone().add(Expr::Index(more[1].clone())));
            f.store(y, at[2].clone() + more[2].clone(), value);
        });
    });
}

/// Elements in an order that is known.
pub fn build_pick(b: &mut LayerBuilder) {
    let Some(QuantOp::Pick(pick)) = b.op() else { return };
    let (x_strides, y_strides) = (strides(&b.operand(0).view), strides(&b.result().view));
    let place = |source: usize| -> usize {
        pick.operand.unravel(source).iter().zip(&x_strides).map(|(i, stride)| i * stride).sum()
    };
    let sources = pick.sources.iter().map(|&source| place(source) as i64).collect();
    let sources = b.blob("source", "Where the elements come from.", Elem::I32, sources);
    let own = pick.shape.strides();
    let dims = (0..pick.shape.rank())
        .map(|a| Dim { extent: pick.shape.dims()[a], strides: vec![own[a] as isize, y_strides[a] as isize] });
    let (dims, x, y) = (joined(dims.collect()), b.x(0), b.y());
    loops(&mut b.f, &dims, 2, &mut |f, at| {
        let source = f.load(sources, at[0].clone());
        f.store(y, at[1].clone(), f.lookup(x, source));
    });
}

/// One selection after the other: each takes the best of the elements that come behind the last one taken.
pub fn build_top_k(b: &mut LayerBuilder) {
    let Some(QuantOp::TopK(top)) = b.op() else { return };
    let input = b.operand(0).ty.shape.dims();
    let (x_strides, y_strides) = (strides(&b.operand(0).view), strides(&b.result().view));
    let rows = (0..input.len())
        .filter(|&axis| axis != top.axis)
        .map(|axis| Dim { extent: input[axis], strides: vec![x_strides[axis] as isize, y_strides[axis] as isize] });
    let rows = joined(rows.collect());
    let (x, y, terms) = (b.x(0), b.y(), input[top.axis]);
    let (x_stride, y_stride) = (x_strides[top.axis] as i64, y_strides[top.axis] as i64);
    let (count, positions) = (top.count, top.positions);
    // Elements are compared by their negation where the smallest are wanted; no element has this key.
    let sign = if top.largest { 1 } else { -1 };
    let limit = 1 << 20;
    let key = move |f: &FunctionBuilder, at: Affine| f.load(x, at).mul(Expr::i32(sign));
    loops(&mut b.f, &rows, 2, &mut |f, at| {
        let last = f.bounded("last", Type::I32, Expr::i32(limit), Some(Interval::new(-limit, limit)));
        let taken = f.bounded("taken", Type::I32, Expr::i32(-1), Some(Interval::new(-1, terms as i64 - 1)));
        f.each("k", count, |f, k| {
            let best = f.bounded("best", Type::I32, Expr::i32(-limit), Some(Interval::new(-limit, limit)));
            let place = f.bounded("place", Type::I32, Expr::i32(0), Some(Interval::new(0, terms as i64 - 1)));
            f.each("i", terms, |f, i| {
                let value = f.bind("value", Type::I32, key(f, at[0].clone() + i.clone() * x_stride));
                // Behind the last one: smaller, or equal and at a later position.
                let later =
                    Expr::select(Cmp::Lt, Expr::Reg(taken), Expr::Index(i.clone()), value.clone(), Expr::i32(-limit));
                let smaller = Expr::select(Cmp::Lt, value.clone(), Expr::Reg(last), value.clone(), Expr::i32(-limit));
                let candidate = Expr::select(Cmp::Eq, value, Expr::Reg(last), later, smaller);
                let candidate = f.bind("candidate", Type::I32, candidate);
                let position =
                    Expr::select(Cmp::Lt, Expr::Reg(best), candidate.clone(), Expr::Index(i), Expr::Reg(place));
                f.set(place, position);
                f.set(best, Expr::Reg(best).max(candidate));
            });
            f.set(last, Expr::Reg(best));
            f.set(taken, Expr::Reg(place));
            let value = match positions {
                true => Expr::Reg(place),
                false => {
                    let source = Expr::Index(at[0].clone()).add(Expr::Reg(place).mul(Expr::i32(x_stride)));
                    f.lookup(x, source)
                }
            };
            f.store(y, at[1].clone() + k * y_stride, value);
        });
    });
}

/// Rows of two values.
pub fn build_one_hot(b: &mut LayerBuilder) {
    let Some(QuantOp::OneHot(hot)) = b.op() else { return };
    let table = positions_table(b, hot.positions.as_ref());
    let (x_strides, y_strides) = (strides(&b.operand(0).view), strides(&b.result().view));
    let dims = b.operand(0).ty.shape.dims();
    let (x, y, depth) = (b.x(0), b.y(), hot.depth);
    let (on, off) = (Expr::i32(i64::from(hot.on)), Expr::i32(i64::from(hot.off)));
    let y_axis = |axis: usize| if axis < hot.axis { axis } else { axis + 1 };
    let rows = (0..dims.len()).map(|axis| Dim {
        extent: dims[axis],
        strides: vec![x_strides[axis] as isize, y_strides[y_axis(axis)] as isize],
    });
    let rows = joined(rows.collect());
    let step = y_strides[hot.axis] as i64;
    loops(&mut b.f, &rows, 2, &mut |f, at| {
        let position = f.load(x, at[0].clone());
        let position = match table {
            Some(table) => f.lookup(table, position.add(Expr::i32(128))),
            // What lies outside of both limits equals no position after the shift.
            None => position.max(Expr::i32(-(depth as i64) - 1)).min(Expr::i32(depth as i64)),
        };
        let position = f.bind("position", Type::I32, position);
        f.each("d", depth, |f, d| {
            let here = Expr::Index(d.clone());
            let from_end = here.clone().sub(Expr::i32(depth as i64));
            let negative = match table {
                Some(_) => off.clone(),
                None => Expr::select(Cmp::Eq, position.clone(), from_end, on.clone(), off.clone()),
            };
            let value = Expr::select(Cmp::Eq, position.clone(), here, on.clone(), negative);
            f.store(y, at[1].clone() + d * step, value);
        });
    });
}
