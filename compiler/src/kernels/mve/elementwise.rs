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
    words.weights(op.entries[128..].iter().chain(&op.entries[..128]).copied());
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
