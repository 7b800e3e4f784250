//! Sums of two tensors, element by element.

use super::DSP;
use crate::kernels::LayerBuilder;
use crate::ops::QuantOp;
use crate::ops::add::QAdd;
use crate::plan::{Layer, Plan, Work, nest};
use crate::program::{Assembly, Elem};

/// Elements of a pass of the loop, and bytes of code for each.
const COPIES: u64 = 8;
const BYTES: u64 = 6 * 4;

struct Shape<'a> {
    add: &'a QAdd,
    elements: u64,
}

impl Shape<'_> {
    fn of<'a>(layer: &'a Layer, plan: &Plan) -> Option<Shape<'a>> {
        let Work::Operator(QuantOp::Add(add)) = &layer.work else { return None };
        let &[a, b] = &layer.operands[..] else { return None };
        let views = [a, b, layer.result].map(|id| &plan.tensor(id).view);
        let alike = nest(&views.each_ref().map(|view| *view))?.iter().all(|dim| dim.strides == [1, 1, 1]);
        let offset = i32::try_from(add.sum.offset).is_ok();
        let possible = alike && offset && !add.precision.wide && (1..32).contains(&add.precision.shift) && a != b;
        possible.then_some(Shape { add, elements: plan.tensor(layer.result).ty.shape.len() as u64 })
    }

    fn clamped(&self) -> bool {
        self.add.clamp.lo > -128 || self.add.clamp.hi < 127
    }

    fn data(&self) -> Vec<i64> {
        let bytes = if self.clamped() { BYTES + 12 } else { BYTES };
        let entry = (COPIES - 1 - (self.elements + COPIES - 1) % COPIES) * bytes + 1;
        let factors = &self.add.sum.factors;
        let clamp = self.add.clamp;
        vec![
            factors[0].into(),
            factors[1].into(),
            self.add.sum.offset,
            clamp.lo.into(),
            clamp.hi.into(),
            self.elements as i64,
            entry as i64,
        ]
    }

    fn assembly(&self) -> Assembly {
        let shift = self.add.precision.shift;
        let doc = vec![format!(
            "y[i] = clamp((a[i] * fa + b[i] * fb + offset) >> {shift}). data: fa, fb, offset, clamp, elements."
        )];
        let suffix = if self.clamped() { "_clamped" } else { "" };
        let mut a = Assembly::new(format!("add_{shift}{suffix}"), doc, DSP);
        a.ops(
            "push {r4-r11}
             ldm r3, {r3-r9}
             add r8, r2
             adr.w r10, 2f
             add r9, r10
             bx r9",
        );
        a.label(2);
        a.copies(COPIES as u32, self.elements, |a| {
            a.ops(&format!(
                "ldrsb r10, [r0], #1
                 ldrsb r11, [r1], #1
                 mla r10, r10, r3, r5
                 mla r10, r11, r4, r10
                 ssat r10, #8, r10, asr #{shift}"
            ));
            if self.clamped() {
                a.ops("cmp r10, r6\n it lt\n movlt r10, r6\n cmp r10, r7\n it gt\n movgt r10, r7");
            }
            a.op("strb r10, [r2], #1");
        });
        a.total(self.elements.div_ceil(COPIES), |a| a.ops("cmp r2, r8\n bne 2b"));
        a.ops("pop {r4-r11}\n bx lr");
        a
    }
}

/// Two different tensors that lie like the result, in 32 bits.
pub fn accepts(layer: &Layer, plan: &Plan) -> bool {
    Shape::of(layer, plan).is_some()
}

/// What the text executes.
pub fn instructions(layer: &Layer, plan: &Plan) -> u64 {
    Shape::of(layer, plan).map_or(0, |shape| shape.assembly().instructions())
}

/// Builds the function.
pub fn build(b: &mut LayerBuilder) {
    let Some(shape) = Shape::of(b.layer, b.plan) else { return };
    b.pass("data", "Factors, offset, clamp, elements, entry of the loop.", Elem::I32, shape.data());
    b.assemble(shape.assembly());
}
