//! Operators on elements that lie alike in all operands.

use super::geometry::alike;
use super::isa::{Isa, immediate, load, op, splat, store};
use super::requantize::bytes_of_lanes;
use crate::kernels::LayerBuilder;
use crate::kernels::common::clamped;
use crate::ops::QuantOp;
use crate::ops::add::QAdd;
use crate::plan::{Layer, Plan, Work};
use crate::program::{Affine, Expr, Type};

/// Sums of operands without broadcasting, in 32 bits.
pub fn accepts_add(layer: &Layer, plan: &Plan) -> bool {
    let Work::Operator(QuantOp::Add(add)) = &layer.work else { return false };
    let views: Vec<_> = layer.operands.iter().chain([&layer.result]).map(|id| &plan.tensor(*id).view).collect();
    let same = layer.operands.iter().all(|id| plan.tensor(*id).ty.shape == plan.tensor(layer.result).ty.shape);
    !add.precision.wide && same && alike(&views) && layer.added.is_none()
}

/// Estimate.
pub fn instructions_add(layer: &Layer, plan: &Plan, isa: &Isa) -> u64 {
    12 * plan.tensor(layer.result).ty.shape.len().div_ceil(isa.lanes()) as u64
}

/// No working memory.
pub fn scratch_add(_: &Layer, _: &Plan, _: &Isa) -> usize {
    0
}

/// `clamp((a * factors[0] + b * factors[1] + offset) >> shift)`.
pub fn build_add(b: &mut LayerBuilder, isa: &'static Isa) {
    let Some(QuantOp::Add(add)) = b.op() else { return };
    let (x, y) = ([b.x(0), b.x(1)], b.y());
    let elements = b.result().ty.shape.len();
    let (bits, lanes) = (isa.bits, isa.lanes());
    b.f.vectors(&isa.unit);
    b.f.each("i", elements / lanes, |f, i| {
        let at = i * lanes as i64;
        let term = |port: usize| {
            let lanes = op(bits, "cvtepi8_epi32", vec![load(f, x[port], at.clone(), lanes, 1)]);
            op(bits, "mullo_epi32", vec![lanes, splat(bits, 32, add.sum.factors[port].into())])
        };
        let (a, b) = (term(0), term(1));
        let a = isa.bind(f, "a_scaled", bits, a);
        let b = isa.bind(f, "b_scaled", bits, b);
        let b = isa.bind(f, "b_offset", bits, op(bits, "add_epi32", vec![b, splat(bits, 32, add.sum.offset)]));
        let sum = isa.bind(f, "sum", bits, op(bits, "add_epi32", vec![a, b]));
        let shift = immediate(add.precision.shift.into());
        let q = isa.bind(f, "q", bits, op(bits, "srai_epi32", vec![sum, shift]));
        let bytes = bytes_of_lanes(f, isa, bits, q);
        let bytes = super::requantize::clamped(128, add.clamp, bytes);
        store(f, y, at, lanes, bytes);
    });
    let rest = elements % lanes;
    b.f.each("i", rest, |f, i| {
        let at: Affine = i + (elements - rest) as i64;
        let term = |port: usize| f.load(x[port], at.clone()).mul(Expr::i32(add.sum.factors[port].into()));
        let sum = term(0).add(term(1)).add(Expr::i32(add.sum.offset));
        f.store(y, at, finished(add, sum));
    });
}

fn finished(add: &QAdd, sum: Expr) -> Expr {
    clamped(sum.shr(add.precision.shift), Type::I32, add.clamp)
}
