//! Operators that compute each element by itself: tables, per-channel affine maps, sums, products.

use super::common::{Requantize, clamped, half_even, less, loops};
use super::{LayerBuilder, elem};
use crate::ir::Clamp;
use crate::ops::QuantOp;
use crate::ops::fixed_sum::Precision;
use crate::ops::mul::reach;
use crate::plan::{Added, Dim, View, nest};
use crate::program::{Elem, Expr, FunctionBuilder, Type};

/// `entries[q + 128]`.
pub fn build_table(b: &mut LayerBuilder) {
    let Some(QuantOp::Table(table)) = b.op() else { return };
    let entries = table.entries.iter().map(|&entry| i64::from(entry)).collect();
    let entries = b.blob("table", "Results for -128 to 127.", elem(&b.result().ty), entries);
    let dims = common_loops(b, &[]);
    let (x, y) = (b.x(0), b.y());
    loops(&mut b.f, &dims, 2, &mut |f, at| {
        let index = f.load(x, at[0].clone()).add(Expr::i32(128));
        f.store(y, at[1].clone(), f.lookup(entries, index));
    });
}

/// Interpolation between the entries of a table. The formula stands at `Curve`.
pub fn build_curve(b: &mut LayerBuilder) {
    let Some(QuantOp::Curve(curve)) = b.op() else { return };
    let entries = curve.entries.iter().map(|&entry| i64::from(entry)).collect();
    let doc = format!("Values every {} steps, from -32768 on.", 1 << curve.segment_bits);
    let entries = b.blob("curve", doc, Elem::I16, entries);
    let dims = common_loops(b, &[]);
    let (x, y, length) = (b.x(0), b.y(), 1i64 << curve.segment_bits);
    let shift = curve.segment_bits + curve.fraction_bits;
    let (lo, hi) = curve.reach();
    loops(&mut b.f, &dims, 2, &mut |f, at| {
        let position = f.bind("position", Type::I32, f.load(x, at[0].clone()).add(Expr::i32(32768)));
        let i = f.bind("i", Type::I32, position.clone().shr(curve.segment_bits));
        // Always within the bounds; they let the checker see it.
        let rest = position.sub(i.clone().mul(Expr::i32(length)));
        let rest = clamped(rest, Type::I32, Clamp { lo: 0, hi: length as i32 - 1 });
        let start = f.bind("start", Type::I32, f.lookup(entries, i.clone()));
        let rise = f.lookup(entries, i.add(Expr::i32(1))).sub(start.clone());
        let sum = start.mul(Expr::i32(length)).add(rise.mul(rest)).add(Expr::i32(1 << (shift - 1)));
        f.store(y, at[1].clone(), clamped(sum.shr(shift), Type::I32, Clamp { lo, hi }));
    });
}

/// `clamp((q * factor + offset) >> shift)`.
pub fn build_rescale(b: &mut LayerBuilder) {
    let Some(QuantOp::Rescale(rescale)) = b.op() else { return };
    let dims = common_loops(b, &[]);
    let (x, y, ty) = (b.x(0), b.y(), sum_type(rescale.precision));
    loops(&mut b.f, &dims, 2, &mut |f, at| {
        let product = f.load(x, at[0].clone()).cast_to(ty).mul(Expr::Const(ty, i64::from(rescale.sum.factors[0])));
        let sum = product.add(Expr::Const(ty, rescale.sum.offset));
        let value = finish_sum(f, sum, rescale.precision, rescale.clamp);
        f.store(y, at[1].clone(), value);
    });
}

/// `clamp((q * factor[c] + offset[c]) >> shift)`.
pub fn build_affine(b: &mut LayerBuilder) {
    let Some(QuantOp::Affine(affine)) = b.op() else { return };
    let (factors, offsets) = affine.channels.iter().map(|c| (i64::from(c.factors[0]), c.offset)).unzip();
    let factors = b.blob("factor", "Factors, one for each channel.", Elem::I32, factors);
    let elem = if affine.precision.wide { Elem::I64 } else { Elem::I32 };
    let offsets = b.blob("offset", "Addends, one for each channel: zero points and rounding included.", elem, offsets);
    let channel = View::along(b.result().ty.shape.rank(), affine.axis, affine.channels.len());
    let dims = common_loops(b, &[channel]);
    let (x, y, ty) = (b.x(0), b.y(), sum_type(affine.precision));
    loops(&mut b.f, &dims, 3, &mut |f, at| {
        let product = f.load(x, at[0].clone()).cast_to(ty).mul(f.load(factors, at[1].clone()).cast_to(ty));
        let sum = product.add(f.load(offsets, at[1].clone()));
        let value = finish_sum(f, sum, affine.precision, affine.clamp);
        f.store(y, at[2].clone(), value);
    });
}

/// `clamp((a * factors[0] + b * factors[1] + offset) >> shift)`.
pub fn build_add(b: &mut LayerBuilder) {
    let Some(QuantOp::Add(add)) = b.op() else { return };
    let dims = common_loops(b, &[]);
    let (x0, x1, y, ty) = (b.x(0), b.x(1), b.y(), sum_type(add.precision));
    loops(&mut b.f, &dims, 3, &mut |f, at| {
        let term = |buffer, port: usize| {
            let value = f.load(buffer, at[port].clone()).cast_to(ty);
            value.mul(Expr::Const(ty, i64::from(add.sum.factors[port])))
        };
        let sum = term(x0, 0).add(term(x1, 1)).add(Expr::Const(ty, add.sum.offset));
        let value = finish_sum(f, sum, add.precision, add.clamp);
        f.store(y, at[2].clone(), value);
    });
}

/// The sum of a layer's result with an element of another tensor.
pub fn added_to(f: &mut FunctionBuilder, added: &Added, term: Expr, other: Expr) -> Expr {
    let (add, ty) = (&added.add, sum_type(added.add.precision));
    let product = |value: Expr, port: usize| value.cast_to(ty).mul(Expr::Const(ty, i64::from(add.sum.factors[port])));
    let sum = product(term, added.port).add(product(other, 1 - added.port)).add(Expr::Const(ty, add.sum.offset));
    finish_sum(f, sum, add.precision, add.clamp)
}

/// `clamp(y_zero + multiplier((a - a_zero) * (b - b_zero)))`.
pub fn build_mul(b: &mut LayerBuilder) {
    let Some(QuantOp::Mul(mul)) = b.op() else { return };
    let dims = common_loops(b, &[]);
    let requantize = Requantize::new(reach(mul.types), &[mul.multiplier], mul.output_zero, mul.clamp);
    let (x0, x1, y) = (b.x(0), b.x(1), b.y());
    loops(&mut b.f, &dims, 3, &mut |f, at| {
        let a = less(f.load(x0, at[0].clone()), mul.zeros[0]);
        let product = a.mul(less(f.load(x1, at[1].clone()), mul.zeros[1]));
        let value = requantize.apply(f, product, Expr::i64(mul.multiplier.factor()));
        f.store(y, at[2].clone(), value);
    });
}

/// Loops over all operands, the views in `between`, and the result.
pub fn common_loops(b: &LayerBuilder, between: &[View]) -> Vec<Dim> {
    let result = &b.result().view;
    let rank = b.result().ty.shape.rank();
    let operands: Vec<View> = (0..b.layer.operands.len()).map(|port| b.operand(port).view.extended(rank)).collect();
    let views: Vec<&View> = operands.iter().chain(between).chain([result]).collect();
    nest(&views).expect("the plan copies operands that share no loops with the result")
}

/// The type that a sum is computed in.
pub fn sum_type(precision: Precision) -> Type {
    if precision.wide { Type::I64 } else { Type::I32 }
}

/// From a sum to the result.
pub fn finish_sum(f: &mut FunctionBuilder, sum: Expr, precision: Precision, clamp: Clamp) -> Expr {
    let steps = match precision.even {
        // The sum holds one half already.
        true => half_even(f, sum.sub(Expr::i64(1 << (precision.shift - 1))), precision.shift),
        false => sum.shr(precision.shift),
    };
    let result = clamped(steps, sum_type(precision), clamp);
    if precision.wide { result.cast(Type::I32) } else { result }
}
