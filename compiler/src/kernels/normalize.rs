//! Normalization: sum and sum of squares of each part, one reciprocal root, one product for each element. The formulas
//! stand at `QNormalize` and `ReciprocalRoot`.

use super::common::{clamped, less, loops};
use super::{LayerBuilder, strides};
use crate::ir::Interval;
use crate::ops::QuantOp;
use crate::ops::fits_i32;
use crate::ops::normalize::{FRACTION, QNormalize};
use crate::ops::reciprocal_root::{LEAST, MOST, ONE, ReciprocalRoot, TABLE_START, table};
use crate::plan::{Dim, joined};
use crate::program::{Buffer, Cmp, Elem, Expr, FunctionBuilder, Type};

/// Builds the loops.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::Normalize(norm)) = b.op() else { return };
    let entries = table().into_iter().map(i64::from).collect();
    let root = b.blob("root", "1 / sqrt(i / 64) from i = 16.5 in steps of 1, 2^30 is one.", Elem::U32, entries);
    let (factors, offsets) = norm.channels.iter().map(|c| (i64::from(c.factor), c.offset)).unzip();
    let factors = b.blob("factor", "Factors of the normalized numbers.", Elem::I32, factors);
    let offsets = b.blob("offset", "Addends: zero point and rounding included.", Elem::I64, offsets);
    let shape = &b.result().ty.shape;
    let (x_strides, y_strides) = (strides(&b.operand(0).view), strides(&b.result().view));
    let channel_strides = norm.channel_shape.broadcast_strides(shape);
    let dims = |inside: bool| {
        let axes = (0..shape.rank()).filter(|axis| norm.axes.contains(axis) == inside);
        let strides = |axis: usize| [x_strides[axis], channel_strides[axis], y_strides[axis]].map(|s| s as isize);
        joined(axes.map(|axis| Dim { extent: shape.dims()[axis], strides: strides(axis).to_vec() }).collect())
    };
    let (parts, elements) = (dims(false), dims(true));
    let (x, y) = (b.x(0), b.y());
    loops(&mut b.f, &parts, 3, &mut |f, part| {
        let (sum, w) = moments(f, norm, |f, body| {
            loops(f, &elements, 3, &mut |f, at| {
                let value = less(f.load(x, part[0].clone() + at[0].clone()), norm.input_zero);
                body(f, value);
            });
        });
        let r = reciprocal_root(f, &norm.root, root, w.cast(Type::U64));
        let r = f.bind("r", Type::I64, r.cast(Type::I64));
        let bits = norm.root.fraction() - FRACTION;
        loops(f, &elements, 3, &mut |f, at| {
            let value = less(f.load(x, part[0].clone() + at[0].clone()), norm.input_zero);
            let distance = value.cast(Type::I64).mul(Expr::i64(norm.count as i64)).sub(sum.clone());
            let t = distance.mul(r.clone()).add(Expr::i64(1 << (bits - 1))).shr(bits);
            // Never beyond; the comparison lets the checker see it.
            let t = f.bind("t", Type::I64, t.max(Expr::i64(-norm.limit())).min(Expr::i64(norm.limit())));
            let channel = part[1].clone() + at[1].clone();
            let product = t.mul(f.load(factors, channel.clone()).cast(Type::I64));
            let scaled = product.add(f.load(offsets, channel)).shr(norm.shift);
            f.store(y, part[2].clone() + at[2].clone(), clamped(scaled, Type::I64, norm.clamp).cast(Type::I32));
        });
    });
}

/// The sum of a part (0 if it is not centered), and the number whose root is taken. `each` runs a body for each element.
fn moments(
    f: &mut FunctionBuilder,
    norm: &QNormalize,
    each: impl Fn(&mut FunctionBuilder, &mut dyn FnMut(&mut FunctionBuilder, Expr)),
) -> (Expr, Expr) {
    let squares = norm.count as i128 * i128::from(norm.reach) * i128::from(norm.reach);
    let ty = if fits_i32(Interval::new(-squares, squares)) { Type::I32 } else { Type::I64 };
    let sum = norm.center.then(|| f.mutable("sum", ty, Expr::Const(ty, 0)));
    let square = f.mutable("square", ty, Expr::Const(ty, 0));
    each(f, &mut |f, value| {
        let value = f.bind("value", ty, value.cast_to(ty));
        if let Some(sum) = sum {
            f.accumulate(sum, value.clone());
        }
        f.accumulate(square, value.clone().mul(value));
    });
    let wide = |value: Expr| if ty == Type::I64 { value } else { value.cast(Type::I64) };
    let sum = match sum {
        Some(sum) => f.bind("total", Type::I64, wide(Expr::Reg(sum))),
        None => Expr::i64(0),
    };
    let product = wide(Expr::Reg(square)).mul(Expr::i64(norm.count as i64));
    let variance = if norm.center { product.sub(sum.clone().mul(sum.clone())) } else { product };
    let variance = f.bind("variance", Type::I64, variance.max(Expr::i64(0)).min(Expr::i64(norm.most)));
    (sum, variance.add(Expr::i64(norm.epsilon)))
}

/// `2^fraction / sqrt(w)`, of type `U64`.
pub fn reciprocal_root(f: &mut FunctionBuilder, root: &ReciprocalRoot, table: Buffer, w: Expr) -> Expr {
    let u64 = |value: u64| Expr::Const(Type::U64, value as i64);
    let first = match root.up {
        up if up >= 0 => w.mul(u64(1 << up)),
        up => w.shr(up.unsigned_abs()),
    };
    let mut w = f.bind("w", Type::U64, first);
    let mut halves = vec![];
    for (step, threshold) in root.thresholds() {
        halves.push((step / 2, threshold, w.clone()));
        let shifted = Expr::select(Cmp::Le, u64(threshold), w.clone(), w.clone().shr(step), w);
        w = f.bind("w", Type::U64, shifted);
    }
    let m = f.bind("m", Type::U64, w.max(u64(LEAST)).min(u64(MOST)));
    let index = m.clone().shr(26).cast(Type::I32).sub(Expr::i32(TABLE_START as i64));
    let mut y = f.bind("y", Type::U64, f.lookup(table, index).cast(Type::U64));
    for _ in 0..2 {
        let square = y.clone().mul(y.clone()).shr(ONE);
        let product = m.clone().mul(square).shr(32).min(u64(3 << ONE));
        let next = y.mul(u64(3 << ONE).sub(product)).shr(ONE + 1).min(u64(1 << (ONE + 1)));
        y = f.bind("y", Type::U64, next);
    }
    let mut result = f.bind("r", Type::U64, y.mul(u64(1 << root.guard())));
    for (half, threshold, w) in halves {
        let shifted = Expr::select(Cmp::Le, u64(threshold), w, result.clone().shr(half), result);
        result = f.bind("r", Type::U64, shifted);
    }
    result
}
