//! Depthwise convolutions in Thumb-1 (Cortex-M0, M0+).

use super::armv6m::{self, requantize};
use super::shape::{Blocks, Depthwise, plane};
use crate::program::Assembly;

/// Results that are computed together, at most.
const WIDEST: usize = 4;

/// Longest text of a block that is still written out, and the farthest byte that an instruction reaches.
const LONGEST: usize = 250;
const FARTHEST: usize = 31;

/// What is added to elements in the plane: bytes without a sign are loaded with fewer instructions.
pub const SHIFT: i32 = 128;

// Frame, offsets from the stack pointer.
const X: usize = 0;
const Y: usize = 4;
const BIAS: usize = 8;
const FACTOR_LOW: usize = 12;
const FACTOR_HIGH: usize = 16;
const PLANE: usize = 20;
const Y_ROW: usize = 24;
const SOURCE: usize = 28;
const LINES: usize = 32;
const CONSTANTS: usize = 36;
const AHEAD: usize = 40;
const BACK: usize = 44;
const NOW: usize = 48;
const RESULT: usize = 52;
const LEFT: usize = 56;
// A copy of the header; the weights of a channel follow, a word each.
const HEADER: usize = 60;
const WEIGHTS: usize = HEADER + 4 * plane::WORDS;

/// The way of cutting lines that needs fewest instructions; `None` if the text would be too long.
pub fn blocks(layer: &Depthwise) -> Option<Blocks> {
    let candidates = (1..=WIDEST.min(layer.outputs[1])).map(|width| layer.blocks(width));
    let fits = |blocks: &Blocks| {
        let [lines, taps] = layer.kernel;
        lines * (taps * (1 + 3 * blocks.width) + 1) <= LONGEST
            && (blocks.width - 1) * layer.stride[1] + taps - 1 <= FARTHEST
    };
    candidates.filter(fits).min_by_key(|&blocks| text(layer, blocks).instructions())
}

/// The function. `None` as with [`blocks`].
pub fn depthwise(layer: &Depthwise) -> Option<Assembly> {
    blocks(layer).map(|blocks| text(layer, blocks))
}

/// Bytes of a channel's weights, whole words.
pub fn weight_bytes(layer: &Depthwise) -> usize {
    (layer.kernel[0] * layer.kernel[1]).next_multiple_of(4)
}

fn slot(word: usize) -> String {
    format!("[sp, #{}]", HEADER + word)
}

fn text(layer: &Depthwise, blocks: Blocks) -> Assembly {
    let doc = vec![
        "Depthwise convolution. Each channel is copied into working memory as a plane with its padding, 128 added to each"
            .to_owned(),
        format!("element, then computed {} results of a line at a time.", blocks.width),
        "r0 plane, r1 weight, r2 element, r3 bytes between lines, r4-r7 sums; the weights are on the stack.".to_owned(),
    ];
    let mut a = Assembly::new("depthwise", doc, armv6m::THUMB);
    let taps = layer.kernel[0] * layer.kernel[1];
    let frame = WEIGHTS + 4 * taps;
    armv6m::enter(&mut a, frame);
    a.op(format!("add r4, sp, #{HEADER}"));
    a.repeat((plane::WORDS / 3) as u32, |a| a.ops("ldmia r3!, {r5-r7}\n stmia r4!, {r5-r7}"));
    a.ops(&format!(
        "str r0, [sp, #{X}]
         str r1, [sp, #{Y}]
         str r2, [sp, #{PLANE}]
         str r3, [sp, #{CONSTANTS}]
         ldr r4, {}
         mov r12, r4
         ldr r4, {}
         ldr r5, {}",
        slot(plane::TO_COLUMN),
        slot(plane::FILL),
        slot(plane::PLANE_WORDS)
    ));
    a.passes((layer.plane_bytes() / 4) as u64, |a| {
        a.label(2);
        a.ops("stmia r2!, {r4}\n subs r5, #1\n bne 2b");
    });
    a.passes(layer.channels as u64, |a| {
        a.label(3);
        copy_plane(a, layer);
        channel_constants(a, layer);
        a.passes(layer.outputs[0] as u64, |a| line(a, layer, blocks));
        a.ops(&format!(
            "ldr r0, [sp, #{X}]
             ldr r4, {}
             adds r0, r4
             str r0, [sp, #{X}]
             ldr r1, [sp, #{Y}]
             ldr r4, {}
             adds r1, r4
             str r1, [sp, #{Y}]
             ldr r4, {2}
             subs r4, #1
             str r4, {2}
             beq 4f",
            slot(plane::FROM_CHANNEL),
            slot(plane::TO_CHANNEL),
            slot(plane::CHANNELS)
        ));
    });
    a.total(layer.channels as u64 - 1, |a| a.op("b 3b"));
    a.label(4);
    armv6m::leave(&mut a, frame);
    a
}

fn copy_plane(a: &mut Assembly, layer: &Depthwise) {
    let [lines, columns] = layer.covered();
    a.ops(&format!(
        "ldr r0, [sp, #{X}]
         ldr r3, [sp, #{PLANE}]
         ldr r4, {}
         adds r3, r4
         ldr r2, {}
         ldr r6, {}",
        slot(plane::START),
        slot(plane::IN_LINES),
        slot(plane::FROM_COLUMN)
    ));
    let element = |a: &mut Assembly, at: usize| {
        a.ops(&format!("ldrb r7, [r0, r5]\n adds r7, #{SHIFT}\n strb r7, [r1, #{at}]\n adds r5, r6"));
    };
    a.passes(lines as u64, |a| {
        a.label(5);
        a.ops("movs r1, r3\n movs r5, #0");
        if columns >= 4 {
            a.op(format!("ldr r4, {}", slot(plane::FOURS)));
            a.passes((columns / 4) as u64, |a| {
                a.label(6);
                (0..4).for_each(|i| element(a, i));
                a.ops("adds r1, #4\n subs r4, #1\n bne 6b");
            });
        }
        (0..columns % 4).for_each(|i| element(a, i));
        a.ops(&format!(
            "ldr r7, {}
             adds r0, r7
             ldr r7, {}
             adds r3, r7
             subs r2, #1
             bne 5b",
            slot(plane::FROM_LINE),
            slot(plane::LINE_PITCH)
        ));
    });
}

/// Spreads the weights of a channel on the stack.
fn channel_constants(a: &mut Assembly, layer: &Depthwise) {
    let taps = layer.kernel[0] * layer.kernel[1];
    a.ops(&format!(
        "ldr r2, [sp, #{CONSTANTS}]
         ldmia r2!, {{r4, r5}}
         str r4, [sp, #{BIAS}]
         uxth r4, r5
         lsrs r5, r5, #16
         str r4, [sp, #{FACTOR_LOW}]
         str r5, [sp, #{FACTOR_HIGH}]
         add r6, sp, #{WEIGHTS}
         movs r4, #0"
    ));
    a.passes(taps as u64, |a| {
        a.label(7);
        a.ops(&format!("ldrsb r5, [r2, r4]\n stmia r6!, {{r5}}\n adds r4, #1\n cmp r4, #{taps}\n bne 7b"));
    });
    a.ops(&format!(
        "adds r2, #{}
         str r2, [sp, #{CONSTANTS}]
         ldr r4, [sp, #{Y}]
         str r4, [sp, #{Y_ROW}]
         ldr r4, [sp, #{PLANE}]
         str r4, [sp, #{SOURCE}]
         ldr r4, {}
         str r4, [sp, #{LINES}]",
        weight_bytes(layer),
        slot(plane::OUT_LINES)
    ));
}

fn line(a: &mut Assembly, layer: &Depthwise, blocks: Blocks) {
    a.label(8);
    a.ops(&format!(
        "ldr r0, [sp, #{SOURCE}]
         ldr r4, {}
         adds r4, r0
         str r4, [sp, #{SOURCE}]
         ldr r4, [sp, #{Y_ROW}]
         str r4, [sp, #{RESULT}]
         ldr r5, {}
         adds r4, r5
         str r4, [sp, #{Y_ROW}]
         ldr r4, {}
         str r4, [sp, #{LEFT}]",
        slot(plane::NEXT_LINE),
        slot(plane::TO_LINE),
        slot(plane::BLOCK_COUNT)
    ));
    if blocks.overlap > 0 {
        a.ops(&format!(
            "ldr r4, {}
             str r4, [sp, #{AHEAD}]
             ldr r4, {}
             str r4, [sp, #{BACK}]",
            slot(plane::FIRST_BLOCK),
            slot(plane::SHARED)
        ));
    }
    a.passes(blocks.count as u64, |a| block(a, layer, blocks));
    let lines = (layer.channels * layer.outputs[0]) as u64;
    a.total(lines * (blocks.count as u64 - 1), |a| a.op("b 9b"));
    a.label(20);
    a.ops(&format!("ldr r4, [sp, #{LINES}]\n subs r4, #1\n str r4, [sp, #{LINES}]\n beq 21f"));
    a.total(lines - layer.channels as u64, |a| a.op("b 8b"));
    a.label(21);
}

fn block(a: &mut Assembly, layer: &Depthwise, blocks: Blocks) {
    let (lines, taps) = (layer.kernel[0], layer.kernel[1]);
    let sums = &["r4", "r5", "r6", "r7"][..blocks.width];
    let kept = &["r8", "r9", "r10", "r11"][..blocks.width];
    a.label(9);
    a.ops(&format!("ldr r4, [sp, #{BIAS}]\n ldr r3, {}", slot(plane::PITCH)));
    sums[1..].iter().for_each(|sum| a.op(format!("movs {sum}, r4")));
    for line in 0..lines {
        if line > 0 {
            a.op("adds r0, r3");
        }
        for tap in 0..taps {
            a.op(format!("ldr r1, [sp, #{}]", WEIGHTS + 4 * (line * taps + tap)));
            for (i, sum) in sums.iter().enumerate() {
                a.ops(&format!("ldrb r2, [r0, #{}]\n muls r2, r1\n adds {sum}, r2", tap + i * layer.stride[1]));
            }
        }
    }
    a.op(format!("str r0, [sp, #{NOW}]"));
    kept.iter().zip(sums).for_each(|(kept, sum)| a.op(format!("mov {kept}, {sum}")));
    a.ops(&format!(
        "ldr r2, [sp, #{FACTOR_LOW}]
         ldr r3, [sp, #{FACTOR_HIGH}]
         movs r5, #{}
         ldr r6, {}
         ldr r7, [sp, #{RESULT}]",
        layer.clamp.hi - layer.clamp.lo,
        slot(plane::RESULT)
    ));
    for sum in kept {
        a.op(format!("mov r0, {sum}"));
        requantize(a, layer.clamp);
        a.ops("strb r0, [r7]\n add r7, r12");
    }
    match blocks.overlap {
        0 => a.ops(&format!("ldr r0, [sp, #{NOW}]\n ldr r4, {}\n adds r0, r4", slot(plane::NEXT_BLOCK))),
        // Only the second block overlaps the one before.
        _ => a.ops(&format!(
            "ldr r0, [sp, #{NOW}]
             ldr r4, [sp, #{AHEAD}]
             adds r0, r4
             ldr r4, {}
             str r4, [sp, #{AHEAD}]
             ldr r4, [sp, #{BACK}]
             subs r7, r4
             movs r4, #0
             str r4, [sp, #{BACK}]",
            slot(plane::NEXT_BLOCK)
        )),
    }
    a.ops(&format!(
        "str r7, [sp, #{RESULT}]
         ldr r4, [sp, #{LEFT}]
         subs r4, #1
         str r4, [sp, #{LEFT}]
         beq 20f"
    ));
}
