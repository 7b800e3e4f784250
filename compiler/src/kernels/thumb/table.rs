//! Tables of 256 entries, on elements that lie one behind the other.

use super::THUMB2;
use crate::kernels::LayerBuilder;
use crate::ops::QuantOp;
use crate::plan::{Layer, Plan, Work, nest};
use crate::program::{Assembly, Elem};

/// Elements of a pass of the loop.
const UNROLLED: usize = 4;

/// Tables whose operand and result lie alike and without gaps.
pub fn accepts(layer: &Layer, plan: &Plan) -> bool {
    let Work::Operator(QuantOp::Table(_)) = layer.work else { return false };
    let views = [&plan.tensor(layer.operands[0]).view, &plan.tensor(layer.result).view];
    nest(&views).is_some_and(|dims| dims.iter().all(|dim| dim.strides == [1, 1]))
}

/// Three instructions for an element, two for a pass.
pub fn instructions(layer: &Layer, plan: &Plan) -> u64 {
    let elements = plan.tensor(layer.result).ty.shape.len() as u64;
    3 * elements + 2 * elements.div_ceil(UNROLLED as u64) + 4
}

/// `y[i] = table[x[i] + 128]`.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::Table(table)) = b.op() else { return };
    let entries = table.entries.iter().map(|&entry| i64::from(entry)).collect();
    b.pass("table", "Results for -128 to 127.", Elem::I8, entries);
    let elements = b.result().ty.shape.len();
    let (passes, rest) = (elements / UNROLLED, elements % UNROLLED);
    let doc = vec![format!("y[i] = table[x[i] + 128] for {elements} elements.")];
    let mut a = Assembly::new("table", doc, THUMB2);
    let element = |a: &mut Assembly| a.ops("ldrsb r3, [r0], #1\n ldrb r3, [r2, r3]\n strb r3, [r1], #1");
    a.op("adds r2, #128");
    if passes > 0 {
        a.ops(&format!("movw r12, #{}\n movt r12, #{}", passes & 0xffff, passes >> 16));
        a.passes(passes as u64, |a| {
            a.label(2);
            a.repeat(UNROLLED as u32, element);
            a.ops("subs r12, #1\n bne 2b");
        });
    }
    a.repeat(rest as u32, element);
    a.op("bx lr");
    b.assemble(a);
}
