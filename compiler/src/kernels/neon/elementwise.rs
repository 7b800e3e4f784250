//! Operators that compute each element by itself, 8 or 16 neighbours at a time.

use super::super::LayerBuilder;
use super::super::common::loops;
use super::Unit;
use super::requantize::sum_of_two;
use super::vector::{I8X16, U8X16, i8x16, load_16, load_up_to_8, store_8, store_16, u8x16};
use crate::ops::QuantOp;
use crate::plan::{Dim, Layer, Plan, Work, nest};
use crate::program::{Affine, Elem, Expr, FunctionBuilder, Type};

/// Elements that a table is applied to at once.
const TABLE_WIDTH: usize = 16;

/// Loops over the elements of a layer that lie in the same order in all its tensors: the outer ones, and the number of
/// neighbours.
fn runs(layer: &Layer, plan: &Plan) -> Option<(Vec<Dim>, usize)> {
    let result = plan.tensor(layer.result);
    let rank = result.ty.shape.rank();
    let operands: Vec<_> = layer.operands.iter().map(|&id| plan.tensor(id).view.extended(rank)).collect();
    let views: Vec<_> = operands.iter().chain([&result.view]).collect();
    let mut dims = nest(&views)?;
    let last = dims.pop()?;
    (last.extent >= 8 && last.strides.iter().all(|&stride| stride == 1)).then_some((dims, last.extent))
}

/// Whether the layer is a sum in 32 bits of elements in the same order.
pub fn accepts_add(layer: &Layer, plan: &Plan) -> bool {
    matches!(&layer.work, Work::Operator(QuantOp::Add(add)) if !add.precision.wide) && runs(layer, plan).is_some()
}

/// Whether the layer is a table for elements in the same order.
pub fn accepts_table(layer: &Layer, plan: &Plan) -> bool {
    matches!(layer.work, Work::Operator(QuantOp::Table(_)))
        && runs(layer, plan).is_some_and(|(_, len)| len >= TABLE_WIDTH)
}

/// Estimated instructions.
pub fn instructions(layer: &Layer, plan: &Plan) -> u64 {
    3 * plan.tensor(layer.result).ty.shape.len() as u64
}

/// `clamp((a * factors[0] + b * factors[1] + offset) >> shift)`.
pub fn build_add(b: &mut LayerBuilder, unit: Unit) {
    let (Some(QuantOp::Add(add)), Some((dims, len))) = (b.op(), runs(b.layer, b.plan)) else { return };
    let (x, y) = ([b.x(0), b.x(1)], b.y());
    b.f.vectors(unit.declared());
    loops(&mut b.f, &dims, 3, &mut |f, at| {
        let part = |f: &mut FunctionBuilder, offset: Affine, count: usize| {
            let operand = |port: usize| load_up_to_8(f, x[port], at[port].clone() + offset.clone(), count);
            let operands = [operand(0), operand(1)];
            let sum = sum_of_two(f, unit, add, operands);
            store_8(f, y, at[2].clone() + offset, count, sum);
        };
        f.each("i", len / 8, |f, i| part(f, i * 8, 8));
        if len % 8 > 0 {
            part(f, Affine::from((len - len % 8) as i64), len % 8);
        }
    });
}

/// `entries[q + 128]`: each of four instructions looks 64 entries up and leaves the lanes that have others.
pub fn build_table(b: &mut LayerBuilder) {
    let (Some(QuantOp::Table(table)), Some((dims, len))) = (b.op(), runs(b.layer, b.plan)) else { return };
    let entries = table.entries.iter().map(|&entry| i64::from(entry)).collect();
    let entries = b.blob("table", "Results for -128 to 127.", Elem::I8, entries);
    let (x, y) = (b.x(0), b.y());
    let f = &mut b.f;
    f.vectors(Unit::AArch64.declared());
    let number = |value: i64| u8x16("vdupq_n_u8", vec![Expr::i32(value)]);
    let tables = Type::Vector("int8x16x4_t");
    let parts: Vec<Expr> = (0..4)
        .map(|part| {
            let source = f.source(entries, part * 64, 64, "int8_t");
            f.bind("entries", tables, Expr::vector("vld1q_s8_x4", tables, vec![source]))
        })
        .collect();
    loops(f, &dims, 2, &mut |f, at| {
        f.each("i", len / TABLE_WIDTH, |f, i| {
            let x = u8x16("vreinterpretq_u8_s8", vec![load_16(f, x, at[0].clone() + i.clone() * TABLE_WIDTH as i64)]);
            let index = f.bind("index", U8X16, u8x16("veorq_u8", vec![x, number(128)]));
            let mut value = i8x16("vqtbl4q_s8", vec![parts[0].clone(), index.clone()]);
            for (part, entries) in parts.iter().enumerate().skip(1) {
                let index = u8x16("vsubq_u8", vec![index.clone(), number(64 * part as i64)]);
                let before = f.bind("value", I8X16, value);
                value = i8x16("vqtbx4q_s8", vec![before, entries.clone(), index]);
            }
            store_16(f, y, at[1].clone() + i * TABLE_WIDTH as i64, value);
        });
        if len % TABLE_WIDTH > 0 {
            f.each("rest", len % TABLE_WIDTH, |f, i| {
                let i = i + (len - len % TABLE_WIDTH) as i64;
                let index = f.load(x, at[0].clone() + i.clone()).add(Expr::i32(128));
                f.store(y, at[1].clone() + i, f.lookup(entries, index));
            });
        }
    });
}
