//! Tables and sums, on elements that lie one behind the other.

use super::{Words, function};
use crate::ir::DType;
use crate::kernels::LayerBuilder;
use crate::ops::QuantOp;
use crate::plan::{Layer, Plan, Work, nest};
use crate::program::{Assembly, Elem};

/// Elements of a pass of the loop over sums.
const PASS: usize = 8;

/// Whether all tensors of a layer hold bytes and lie alike without gaps.
fn lies_alike(layer: &Layer, plan: &Plan) -> bool {
    let tensors: Vec<_> = layer.operands.iter().chain([&layer.result]).map(|&id| plan.tensor(id)).collect();
    let shape = &plan.tensor(layer.result).ty.shape;
    let views: Vec<_> = tensors.iter().map(|tensor| &tensor.view).collect();
    tensors.iter().all(|tensor| tensor.ty.dtype == DType::I8 && tensor.ty.shape == *shape)
        && nest(&views).is_some_and(|dims| dims.iter().all(|dim| dim.strides.iter().all(|&stride| stride == 1)))
}

fn elements(layer: &Layer, plan: &Plan) -> usize {
    plan.tensor(layer.result).ty.shape.len()
}

/// Tables whose operand and result lie alike.
pub fn accepts_table(layer: &Layer, plan: &Plan) -> bool {
    matches!(layer.work, Work::Operator(QuantOp::Table(_))) && lies_alike(layer, plan)
}

/// As the text says.
pub fn table_instructions(layer: &Layer, plan: &Plan) -> u64 {
    table(elements(layer, plan)).instructions()
}

/// `y[i] = table[x[i] + 128]`.
pub fn build_table(b: &mut LayerBuilder) {
    let Some(QuantOp::Table(op)) = b.op() else { return };
    let elements = b.result().ty.shape.len();
    let mut words = Words::default();
    words.size(elements);
    // In the order of the bytes without sign.
    // Results are of 8 bits.
    words.weights(op.entries[128..].iter().chain(&op.entries[..128]).map(|&entry| entry as i8));
    b.pass("constants", "Number of elements; results for 0 to 127, then for -128 to -1.", Elem::U32, words.finish());
    b.assemble(table(elements));
}

fn table(elements: usize) -> Assembly {
    let mut a = function("mve_table", &["Results of a table. Called with x, y, constants."]);
    a.ops("push {r7, lr}\n ldr r3, [r2], #4\n dlstp.8 lr, r3");
    a.passes(elements.div_ceil(16) as u64, |a| {
        a.label(2);
        a.ops("vldrb.u8 q0, [r0], #16\n vldrb.u8 q1, [r2, q0]\n vstrb.8 q1, [r1], #16\n letp lr, 2b");
    });
    a.op("pop {r7, pc}");
    a
}

/// Sums of two tensors that lie like the result, in 32 bits.
pub fn accepts_add(layer: &Layer, plan: &Plan) -> bool {
    let Work::Operator(QuantOp::Add(add)) = &layer.work else { return false };
    !add.precision.wide && layer.operands[0] != layer.operands[1] && lies_alike(layer, plan)
}

/// As the text says.
pub fn add_instructions(layer: &Layer, plan: &Plan) -> u64 {
    add(elements(layer, plan)).instructions()
}

/// `y[i] = clamp((a[i] * f0 + b[i] * f1 + offset) >> shift)`.
pub fn build_add(b: &mut LayerBuilder) {
    let Some(QuantOp::Add(op)) = b.op() else { return };
    let elements = b.result().ty.shape.len();
    let mut words = Words::default();
    words.size(elements / PASS);
    words.size(elements % PASS);
    words.word(op.sum.factors[0]);
    words.word(op.sum.factors[1]);
    words.word(op.sum.offset);
    words.word(-i64::from(op.precision.shift));
    words.word(op.clamp.lo);
    words.word(op.clamp.hi);
    let doc = "Passes, elements that are left over, factors, offset, shift, bounds.";
    b.pass("constants", doc, Elem::U32, words.finish());
    b.assemble(add(elements));
}

fn add(elements: usize) -> Assembly {
    let doc = ["Sums of two tensors: clamp((a * f0 + b * f1 + offset) >> shift). Called with a, b, y, constants."];
    let mut a = function("mve_add", &doc);
    a.ops("push {r4-r10, lr}\n vpush {d8-d13}\n ldm r3!, {r4-r9}\n vdup.32 q4, r6");
    a.ops("ldrd r6, r10, [r3]\n vdup.32 q5, r6\n vdup.32 q6, r10\n wls lr, r4, 3f");
    a.passes((elements / PASS) as u64, |a| {
        a.label(2);
        a.ops("vldrb.s32 q0, [r0], #4\n vldrb.s32 q1, [r0], #4\n vldrb.s32 q2, [r1], #4\n vldrb.s32 q3, [r1], #4");
        a.ops("vmlas.s32 q0, q4, r8\n vmlas.s32 q1, q4, r8\n vmla.s32 q0, q2, r7\n vmla.s32 q1, q3, r7");
        a.ops("vshl.s32 q0, r9\n vshl.s32 q1, r9\n vmax.s32 q0, q0, q5\n vmax.s32 q1, q1, q5");
        a.ops("vmin.s32 q0, q0, q6\n vmin.s32 q1, q1, q6\n vstrb.32 q0, [r2], #4\n vstrb.32 q1, [r2], #4\n le lr, 2b");
    });
    a.label(3);
    a.op("wlstp.32 lr, r5, 3f");
    a.passes((elements % PASS).div_ceil(4) as u64, |a| {
        a.label(2);
        a.ops("vldrb.s32 q0, [r0], #4\n vldrb.s32 q2, [r1], #4\n vmlas.s32 q0, q4, r8\n vmla.s32 q0, q2, r7");
        a.ops("vshl.s32 q0, r9\n vmax.s32 q0, q0, q5\n vmin.s32 q0, q0, q6\n vstrb.32 q0, [r2], #4\n letp lr, 2b");
    });
    a.label(3);
    a.ops("vpop {d8-d13}\n pop {r4-r10, pc}");
    a
}

/// The loops of a product: along neighbours, and around that.
#[derive(Debug)]
struct Nest {
    outer: usize,
    inner: usize,
    /// What each tensor has to move on by after the inner loop.
    steps: [isize; 3],
}

/// Loops in which all three tensors step through neighbours, or repeat a row of them.
fn product_nest(layer: &Layer, plan: &Plan) -> Option<Nest> {
    let Work::Operator(QuantOp::Mul(mul)) = &layer.work else { return None };
    let tensors: Vec<_> = layer.operands.iter().chain([&layer.result]).map(|&id| plan.tensor(id)).collect();
    let bytes = tensors.iter().all(|tensor| tensor.ty.dtype == DType::I8);
    if !bytes || mul.multiplier.left_shift() > 0 || layer.operands[0] == layer.operands[1] {
        return None;
    }
    let rank = plan.tensor(layer.result).ty.shape.rank();
    let views: Vec<_> = tensors.iter().map(|tensor| tensor.view.extended(rank)).collect();
    let dims = nest(&views.iter().collect::<Vec<_>>())?;
    let (outer, inner) = match &dims[..] {
        [] => return Some(Nest { outer: 1, inner: 1, steps: [0; 3] }),
        [inner] => (None, inner),
        [outer, inner] => (Some(outer), inner),
        _ => return None,
    };
    // The inner loop ends behind its last, whole vector.
    let walked = inner.extent.next_multiple_of(4) as isize;
    let steps = outer.map_or([0; 3], |outer| [0, 1, 2].map(|i| outer.strides[i] - walked));
    let fits = inner.strides.iter().all(|&stride| stride == 1);
    fits.then_some(Nest { outer: outer.map_or(1, |outer| outer.extent), inner: inner.extent, steps })
}

/// Products of tensors whose neighbours lie alike.
pub fn accepts_mul(layer: &Layer, plan: &Plan) -> bool {
    product_nest(layer, plan).is_some()
}

/// As the text says.
pub fn mul_instructions(layer: &Layer, plan: &Plan) -> u64 {
    product_nest(layer, plan).map_or(u64::MAX, |nest| mul(&nest).instructions())
}

/// `y[i] = clamp(y_zero + multiplier((a[i] - a_zero) * (b[i] - b_zero)))`.
pub fn build_mul(b: &mut LayerBuilder) {
    let (Some(QuantOp::Mul(op)), Some(nest)) = (b.op(), product_nest(b.layer, b.plan)) else { return };
    let mut words = Words::default();
    words.size(nest.outer);
    words.size(nest.inner);
    nest.steps.iter().for_each(|&step| words.word(step as i64));
    op.zeros.iter().for_each(|&zero| words.word(-zero));
    words.word(op.output_zero);
    words.word(op.clamp.lo);
    words.word(op.clamp.hi);
    words.word(op.multiplier.mantissa());
    b.pass("constants", "Counts and steps of the loops, zero points, bounds, multiplier.", Elem::U32, words.finish());
    b.assemble(mul(&nest));
}

fn mul(nest: &Nest) -> Assembly {
    let doc = ["Products of two tensors: clamp(zero + multiplier(a * b)). Called with a, b, y, constants."];
    let mut a = function("mve_mul", &doc);
    a.ops("push {r4-r11, lr}\n vpush {d8-d13}\n ldm r3!, {r4-r11}\n ldrd r12, lr, [r3], #8");
    a.ops("vdup.32 q5, r12\n vdup.32 q6, lr\n ldr r12, [r3]\n vdup.32 q4, r12");
    a.passes(nest.outer as u64, |a| {
        a.label(3);
        a.op("dlstp.32 lr, r5");
        a.passes(nest.inner.div_ceil(4) as u64, |a| {
            a.label(2);
            a.ops("vldrb.s32 q0, [r0], #4\n vldrb.s32 q1, [r1], #4\n vadd.i32 q0, q0, r9\n vadd.i32 q1, q1, r10");
            a.ops("vmul.i32 q0, q0, q1\n vqrdmlash.s32 q0, q4, r11\n vmax.s32 q0, q0, q5\n vmin.s32 q0, q0, q6");
            a.ops("vstrb.32 q0, [r2], #4\n letp lr, 2b");
        });
        a.ops("add r0, r6\n add r1, r7\n add r2, r8\n subs r4, #1\n bne 3b");
    });
    a.ops("vpop {d8-d13}\n pop {r4-r11, pc}");
    a
}

/// Positions and channels of a map with a factor for each channel; the channels of an element are neighbours.
fn affine_nest(layer: &Layer, plan: &Plan) -> Option<(usize, usize)> {
    let Work::Operator(QuantOp::Affine(affine)) = &layer.work else { return None };
    let channels = affine.channels.len();
    let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
    if affine.precision.wide || !lies_alike(layer, plan) {
        return None;
    }
    let neighbours =
        [x, y].iter().all(|tensor| tensor.view.strides().is_some_and(|s| channels == 1 || s[affine.axis] == 1));
    neighbours.then_some((y.ty.shape.len() / channels, channels))
}

/// Maps with a factor and an addend for each channel, in 32 bits.
pub fn accepts_affine(layer: &Layer, plan: &Plan) -> bool {
    affine_nest(layer, plan).is_some()
}

/// As the text says.
pub fn affine_instructions(layer: &Layer, plan: &Plan) -> u64 {
    affine_nest(layer, plan).map_or(u64::MAX, |(positions, channels)| affine(positions, channels).instructions())
}

/// `y[i] = clamp((x[i] * factor[c] + offset[c]) >> shift)`.
pub fn build_affine(b: &mut LayerBuilder) {
    let (Some(QuantOp::Affine(op)), Some((positions, channels))) = (b.op(), affine_nest(b.layer, b.plan)) else {
        return;
    };
    let mut words = Words::default();
    words.size(positions);
    words.size(channels);
    words.word(-i64::from(op.precision.shift));
    words.word(op.clamp.lo);
    words.word(op.clamp.hi);
    op.channels.iter().for_each(|channel| words.word(channel.factors[0]));
    op.channels.iter().for_each(|channel| words.word(channel.offset));
    let doc = "Counts, shift, bounds; factors; addends: zero points and rounding included.";
    b.pass("constants", doc, Elem::U32, words.finish());
    b.assemble(affine(positions, channels));
}

fn affine(positions: usize, channels: usize) -> Assembly {
    let doc = ["A factor and an addend for each channel. Called with x, y, constants."];
    let mut a = function("mve_affine", &doc);
    a.ops("push {r4-r10, lr}\n ldm r2!, {r4-r6}\n ldrd r7, r8, [r2], #8\n vdup.32 q2, r7\n vdup.32 q3, r8");
    a.comment("r9: how far the loop over channels walks beyond the last.");
    a.ops("add r9, r5, #3\n bic r9, r9, #3\n sub r9, r9, r5\n add r3, r2, r5, lsl #2");
    a.passes(positions as u64, |a| {
        a.label(3);
        a.ops("mov r7, r2\n mov r8, r3\n dlstp.32 lr, r5");
        a.passes(channels.div_ceil(4) as u64, |a| {
            a.label(2);
            a.ops("vldrb.s32 q0, [r0], #4\n vldrw.u32 q1, [r7], #16\n vmul.i32 q0, q0, q1\n vldrw.u32 q1, [r8], #16");
            a.ops("vadd.i32 q0, q0, q1\n vshl.s32 q0, r6\n vmax.s32 q0, q0, q2\n vmin.s32 q0, q0, q3\n vstrb.32 q0, [r1], #4");
            a.op("letp lr, 2b");
        });
        a.ops("sub r0, r9\n sub r1, r9\n subs r4, #1\n bne 3b");
    });
    a.op("pop {r4-r10, pc}");
    a
}
