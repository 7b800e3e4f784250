//! Operators on several tensors that compute each element by itself: extremes, sums, choices, comparisons, quotients; and
//! the rectifier with slopes.

use super::LayerBuilder;
use super::common::{clamped, less, loops};
use super::elementwise::{common_loops, finish_sum, sum_type};
use crate::ops::QuantOp;
use crate::ops::unary::Relation;
use crate::plan::View;
use crate::program::{Cmp, Elem, Expr, Type};

/// The largest or smallest of the operands.
pub fn build_extreme(b: &mut LayerBuilder) {
    let Some(QuantOp::Extreme(extreme)) = b.op() else { return };
    let join = if extreme.largest { Expr::max } else { Expr::min };
    let dims = common_loops(b, &[]);
    let operands: Vec<_> = (0..b.layer.operands.len()).map(|port| b.x(port)).collect();
    let y = b.y();
    loops(&mut b.f, &dims, operands.len() + 1, &mut |f, at| {
        let values = operands.iter().zip(at).map(|(&x, at)| f.load(x, at.clone()));
        let value = values.reduce(join).unwrap_or_else(|| Expr::i32(0));
        f.store(y, at[operands.len()].clone(), value);
    });
}

/// `clamp((sum of q[i] * factors[i] + offset) >> shift)`.
pub fn build_sum(b: &mut LayerBuilder) {
    let Some(QuantOp::Sum(sum)) = b.op() else { return };
    let dims = common_loops(b, &[]);
    let operands: Vec<_> = (0..b.layer.operands.len()).map(|port| b.x(port)).collect();
    let (y, ty) = (b.y(), sum_type(sum.precision));
    loops(&mut b.f, &dims, operands.len() + 1, &mut |f, at| {
        let term = |(port, &x): (usize, &_)| {
            let value = f.load(x, at[port].clone()).cast_to(ty);
            value.mul(Expr::Const(ty, i64::from(sum.sum.factors[port])))
        };
        let total = operands.iter().enumerate().map(term).fold(Expr::Const(ty, sum.sum.offset), Expr::add);
        let value = finish_sum(f, total, sum.precision, sum.clamp);
        f.store(y, at[operands.len()].clone(), value);
    });
}

/// The second operand where the first is not 0, else the third.
pub fn build_select(b: &mut LayerBuilder) {
    let Some(QuantOp::Select(select)) = b.op() else { return };
    let dims = common_loops(b, &[]);
    let (condition, then, otherwise, y) = (b.x(0), b.x(1), b.x(2), b.y());
    let zero = Expr::i32(i64::from(select.zero));
    loops(&mut b.f, &dims, 4, &mut |f, at| {
        let (then, otherwise) = (f.load(then, at[1].clone()), f.load(otherwise, at[2].clone()));
        let value = Expr::select(Cmp::Eq, f.load(condition, at[0].clone()), zero.clone(), otherwise, then);
        f.store(y, at[3].clone(), value);
    });
}

/// 1 where a relation holds between a weighted sum of both operands and 0.
pub fn build_compare(b: &mut LayerBuilder) {
    let Some(QuantOp::Compare(compare)) = b.op() else { return };
    let dims = common_loops(b, &[]);
    let (x0, x1, y) = (b.x(0), b.x(1), b.y());
    let (cmp, holds, fails) = match compare.relation {
        Relation::Less | Relation::Greater => (Cmp::Lt, 1, 0),
        Relation::LessOrEqual | Relation::GreaterOrEqual => (Cmp::Le, 1, 0),
        Relation::Equal => (Cmp::Eq, 1, 0),
        Relation::NotEqual => (Cmp::Eq, 0, 1),
    };
    loops(&mut b.f, &dims, 3, &mut |f, at| {
        let term = |x, port: usize| f.load(x, at[port].clone()).cast(Type::I64).mul(Expr::i64(compare.factors[port]));
        let difference = term(x0, 0).add(term(x1, 1)).add(Expr::i64(compare.offset));
        let value = Expr::select(cmp, difference, Expr::i64(0), Expr::i32(holds), Expr::i32(fails));
        f.store(y, at[2].clone(), value);
    });
}

/// `clamp(y_zero + ((a - a_zero) * reciprocals[b + 128] >> shift))`.
pub fn build_div(b: &mut LayerBuilder) {
    let Some(QuantOp::Div(div)) = b.op() else { return };
    let data = div.reciprocals.iter().map(|&value| i64::from(value)).collect();
    let doc = format!("Reciprocals for divisors from -128 to 127, 2^{} is one step of the result.", div.shift);
    let reciprocals = b.blob("reciprocal", doc, Elem::I32, data);
    let dims = common_loops(b, &[]);
    let (x0, x1, y) = (b.x(0), b.x(1), b.y());
    loops(&mut b.f, &dims, 3, &mut |f, at| {
        let a = less(f.load(x0, at[0].clone()), div.dividend_zero).cast(Type::I64);
        let reciprocal = f.lookup(reciprocals, f.load(x1, at[1].clone()).add(Expr::i32(128))).cast(Type::I64);
        let steps = a.mul(reciprocal).add(Expr::i64(1 << (div.shift - 1))).shr(div.shift);
        let value = clamped(steps.add(Expr::i64(i64::from(div.output_zero))), Type::I64, div.clamp);
        f.store(y, at[2].clone(), value.cast(Type::I32));
    });
}

/// `clamp(((x - x_zero) * factor + offset) >> shift)`, the factor depending on the sign.
pub fn build_prelu(b: &mut LayerBuilder) {
    let Some(QuantOp::PRelu(prelu)) = b.op() else { return };
    let data = prelu.negative.iter().map(|&factor| i64::from(factor)).collect();
    let slopes = b.blob("slope", "Factors of what is negative.", Elem::I32, data);
    let rank = b.result().ty.shape.rank();
    let dims = common_loops(b, &[View::row_major(&prelu.shape).extended(rank)]);
    let (x, y, ty) = (b.x(0), b.y(), sum_type(prelu.precision));
    let positive = Expr::i32(i64::from(prelu.positive.factors[0]));
    loops(&mut b.f, &dims, 3, &mut |f, at| {
        let value = f.bind("value", Type::I32, less(f.load(x, at[0].clone()), prelu.input_zero));
        let slope = f.load(slopes, at[1].clone());
        let factor = Expr::select(Cmp::Lt, value.clone(), Expr::i32(0), slope, positive.clone());
        let sum = value.cast_to(ty).mul(factor.cast_to(ty)).add(Expr::Const(ty, prelu.positive.offset));
        let value = finish_sum(f, sum, prelu.precision, prelu.clamp);
        f.store(y, at[2].clone(), value);
    });
}
