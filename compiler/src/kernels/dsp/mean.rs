//! Means over all pixels of an image, channels last.

use super::DSP;
use super::pointwise::channels_last;
use crate::ir::{Clamp, Multiplier};
use crate::kernels::LayerBuilder;
use crate::ops::QuantOp;
use crate::plan::{Layer, Plan, View, Work};
use crate::program::{Assembly, Elem};

/// Channels that are summed up at once.
const GROUP: usize = 4;

/// Pixels whose sum fits 16 bits.
const CHUNK: usize = 255;

struct Shape {
    images: usize,
    channels: usize,
    /// Pixels of an image, and how many of them, from the first, are in the mean.
    size: usize,
    pixels: usize,
    multiplier: Multiplier,
    input_zero: i32,
    output_zero: i32,
    clamp: Clamp,
}

impl Shape {
    fn of(layer: &Layer, plan: &Plan) -> Option<Shape> {
        let Work::Operator(op) = &layer.work else { return None };
        let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
        let dims = x.ty.shape.dims();
        let &[images, channels, ref spatial @ ..] = dims else { return None };
        let size: usize = spatial.iter().product();
        let (pixels, multiplier, input_zero, output_zero, clamp) = match op {
            QuantOp::Mean(mean) if mean.axes.iter().copied().eq(2..dims.len()) => {
                (size, mean.multiplier, mean.input_zero, mean.output_zero, mean.clamp)
            }
            // One window over whole rows.
            QuantOp::AveragePool(pool) if pool.window.kernel[1..] == spatial[1..] && !pool.window.pads(spatial) => {
                let pixels = pool.window.taps();
                (pixels, *pool.multipliers.get(&pixels)?, pool.input_zero, pool.output_zero, pool.clamp)
            }
            _ => return None,
        };
        let single = y.ty.shape.len() == images * channels;
        let small = 2 * multiplier.factor() <= i64::from(i32::MAX) && pixels < 1 << 22;
        let lie = channels_last(x) && y.view == View::row_major(&y.ty.shape) && channels >= GROUP;
        (single && small && lie).then_some(Shape {
            images,
            channels,
            size,
            pixels,
            multiplier,
            input_zero,
            output_zero,
            clamp,
        })
    }

    fn data(&self) -> Vec<i64> {
        vec![
            self.images as i64,
            self.channels as i64,
            self.pixels as i64,
            -(self.pixels as i64 * i64::from(self.input_zero)),
            2 * self.multiplier.factor(),
            self.output_zero.into(),
            self.clamp.lo.into(),
            self.clamp.hi.into(),
            (self.size * self.channels) as i64,
        ]
    }

    fn assembly(&self) -> Assembly {
        let groups = (self.images * self.channels.div_ceil(GROUP)) as u64;
        let doc = vec![
            "Means over the pixels of an image, four channels at once; sums of up to 255 pixels in halves of 16 bits."
                .to_owned(),
            "The last group goes back to have four channels. data: images, channels, pixels, first sum, multiplier,"
                .to_owned(),
            "zero point, clamp, bytes of an image.".to_owned(),
        ];
        let mut a = Assembly::new("mean", doc, DSP);
        a.ops("push {r4-r11, lr}\n sub sp, #12\n ldr r10, [r2]\n str r10, [sp, #8]");
        a.label(2);
        a.passes(self.images as u64, |a| {
            a.ops("movs r3, #0\n ldr r10, [r2, #4]");
            a.label(3);
            a.total(groups, |a| {
                a.comment(
                    "r3 first channel, r7 pixel, r9 pixels that are left, r8 of this chunk; sums in r4, r11, r12, lr.",
                );
                a.ops(
                    "str r3, [sp]
                     add r7, r0, r3
                     ldrd r9, r4, [r2, #8]
                     mov r11, r4
                     mov r12, r4
                     mov lr, r4",
                );
            });
            self.sums(a, groups);
            results(a, groups);
            a.ops(
                "ldr r4, [r2, #32]
                 add r0, r4
                 add r1, r10
                 ldr r4, [sp, #8]
                 subs r4, #1
                 str r4, [sp, #8]
                 bne 2b",
            );
        });
        a.ops("add sp, #12\n pop {r4-r11, pc}");
        a
    }

    /// Adds up the pixels, as many at a time as halves of a word hold.
    fn sums(&self, a: &mut Assembly, groups: u64) {
        a.label(4);
        a.total(groups * self.pixels.div_ceil(CHUNK) as u64, |a| {
            a.ops(&format!(
                "movs r5, #0
                 movs r6, #0
                 cmp r9, #{CHUNK}
                 ite lo
                 movlo r8, r9
                 movhs r8, #{CHUNK}
                 subs r9, r9, r8"
            ));
        });
        a.label(5);
        a.total(groups * self.pixels as u64, |a| {
            a.ops(
                "ldr r3, [r7]
                 add r7, r10
                 sxtab16 r5, r5, r3
                 sxtab16 r6, r6, r3, ror #8
                 subs r8, #1
                 bne 5b",
            );
        });
        a.total(groups * self.pixels.div_ceil(CHUNK) as u64, |a| {
            a.ops(
                "sxtah r4, r4, r5
                 add.w r12, r12, r5, asr #16
                 sxtah r11, r11, r6
                 add.w lr, lr, r6, asr #16
                 cmp r9, #0
                 bne 4b",
            );
        });
    }
}

/// Requantizes and stores four channels.
fn results(a: &mut Assembly, groups: u64) {
    a.total(groups, |a| {
        a.ops("ldrd r5, r6, [r2, #16]\n ldrd r7, r8, [r2, #24]\n ldr r3, [sp]\n add r9, r1, r3");
        for sum in ["r4", "r11", "r12", "lr"] {
            a.ops(&format!(
                "smmlar {sum}, {sum}, r5, r6
                 cmp {sum}, r7
                 it lt
                 movlt {sum}, r7
                 cmp {sum}, r8
                 it gt
                 movgt {sum}, r8
                 strb {sum}, [r9], #1"
            ));
        }
        a.comment("The next group, if there is one; not beyond the last four channels.");
        a.ops(&format!(
            "add.w r3, r3, #{GROUP}
             sub.w r5, r10, #{GROUP}
             sub.w r6, r10, r3
             cmp r3, r5
             it gt
             movgt r3, r5
             cmp r6, #0
             bgt 3b"
        ));
    });
}

/// Means over all spatial axes, channels last.
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
    b.pass(
        "data",
        "Images, channels, pixels, first sum, multiplier, zero point, clamp, bytes of an image.",
        Elem::I32,
        shape.data(),
    );
    b.assemble(shape.assembly());
}
