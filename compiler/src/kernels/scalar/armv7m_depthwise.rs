//! Depthwise convolutions in Thumb-2 without the DSP extension (Cortex-M3).

use super::armv7m::requantize;
use super::shape::{Blocks, Depthwise, plane};
use crate::kernels::thumb::THUMB2;
use crate::program::Assembly;

/// Results that are computed together, at most.
const WIDEST: usize = 6;

/// Taps of a line up to which its weights stay in registers.
const HELD: usize = 3;

/// Longest text of a block that is still written out.
const LONGEST: usize = 200;

// Frame, offsets from the stack pointer.
const X: usize = 0;
const Y: usize = 4;
// The bias follows.
const WEIGHTS: usize = 8;
const FACTOR: usize = 16;
const ZERO: usize = 20;
const PLANE: usize = 24;
const Y_ROW: usize = 28;
const SOURCE: usize = 32;
const LINES: usize = 36;
const CONSTANTS: usize = 40;
const AHEAD: usize = 44;
const LEFT: usize = 52;
// A copy of the header.
const HEADER: usize = 56;
const CHANNELS: usize = HEADER + plane::CHANNELS;
const OUT_LINES: usize = HEADER + plane::OUT_LINES;
const BLOCK_COUNT: usize = HEADER + plane::BLOCK_COUNT;
const PITCH: usize = HEADER + plane::PITCH;
const NEXT_LINE: usize = HEADER + plane::NEXT_LINE;
const NEXT_BLOCK: usize = HEADER + plane::NEXT_BLOCK;
const FIRST_BLOCK: usize = HEADER + plane::FIRST_BLOCK;
const SHARED: usize = HEADER + plane::SHARED;
const TO_LINE: usize = HEADER + plane::TO_LINE;
const TO_COLUMN: usize = HEADER + plane::TO_COLUMN;
const TO_CHANNEL: usize = HEADER + plane::TO_CHANNEL;
const FROM_LINE: usize = HEADER + plane::FROM_LINE;
const FROM_COLUMN: usize = HEADER + plane::FROM_COLUMN;
const FROM_CHANNEL: usize = HEADER + plane::FROM_CHANNEL;
const IN_LINES: usize = HEADER + plane::IN_LINES;
const FOURS: usize = HEADER + plane::FOURS;
const START: usize = HEADER + plane::START;
const LINE_PITCH: usize = HEADER + plane::LINE_PITCH;
const RESULT_ZERO: usize = HEADER + plane::RESULT;
const PLANE_WORDS: usize = HEADER + plane::PLANE_WORDS;
const FILL: usize = HEADER + plane::FILL;
const FRAME: usize = HEADER + 4 * plane::WORDS;

/// The way of cutting lines that needs fewest instructions; `None` if the text would be too long.
pub fn blocks(layer: &Depthwise) -> Option<Blocks> {
    let candidates = (1..=WIDEST.min(layer.outputs[1])).map(|width| layer.blocks(width));
    let short = candidates.filter(|blocks| layer.kernel[0] * line_length(layer, blocks.width) <= LONGEST);
    short.min_by_key(|&blocks| text(layer, blocks).instructions())
}

/// Instructions for a line of a window.
fn line_length(layer: &Depthwise, width: usize) -> usize {
    let taps = layer.kernel[1];
    match taps <= HELD {
        true => taps + (width - 1) * layer.stride[1] + taps + width * taps,
        false => taps * (1 + 2 * width),
    }
}

/// The function. `None` as with [`blocks`].
pub fn depthwise(layer: &Depthwise) -> Option<Assembly> {
    blocks(layer).map(|blocks| text(layer, blocks))
}

fn text(layer: &Depthwise, blocks: Blocks) -> Assembly {
    let doc = vec![
        "Depthwise convolution. Each channel is copied into working memory as a plane with its padding, then computed"
            .to_owned(),
        format!("{} results of a line at a time.", blocks.width),
        "r0 plane, r1 result, r2 weights, r3 bytes between lines, r4-r7, r12, lr sums, r8-r10 weights, r11 element."
            .to_owned(),
    ];
    let mut a = Assembly::new("depthwise", doc, THUMB2);
    a.ops(&format!("push {{r4-r11, lr}}\n sub sp, #{FRAME}\n add r12, sp, #{CHANNELS}"));
    a.repeat((plane::WORDS / 7) as u32, |a| a.ops("ldmia r3!, {r4-r10}\n stmia r12!, {r4-r10}"));
    a.ops(&format!(
        "strd r0, r1, [sp, #{X}]
         str r2, [sp, #{PLANE}]
         str r3, [sp, #{CONSTANTS}]
         ldr r4, [sp, #{RESULT_ZERO}]
         str r4, [sp, #{ZERO}]
         ldr r4, [sp, #{FILL}]
         ldr r5, [sp, #{PLANE_WORDS}]"
    ));
    a.passes((layer.plane_bytes() / 4) as u64, |a| {
        a.label(2);
        a.ops("str r4, [r2], #4\n subs r5, #1\n bne 2b");
    });
    a.passes(layer.channels as u64, |a| {
        a.label(3);
        copy_plane(a, layer);
        a.ops(&format!(
            "ldr r2, [sp, #{CONSTANTS}]
             ldr r4, [r2], #4
             ldr r5, [r2], #4
             strd r2, r4, [sp, #{WEIGHTS}]
             str r5, [sp, #{FACTOR}]
             add r2, #{}
             str r2, [sp, #{CONSTANTS}]
             ldr r1, [sp, #{Y}]
             ldr r0, [sp, #{PLANE}]
             ldr r4, [sp, #{OUT_LINES}]
             str r1, [sp, #{Y_ROW}]
             strd r0, r4, [sp, #{SOURCE}]
             ldr r3, [sp, #{PITCH}]",
            layer.kernel[0] * layer.kernel[1]
        ));
        a.passes(layer.outputs[0] as u64, |a| line(a, layer, blocks));
        a.ops(&format!(
            "ldrd r0, r1, [sp, #{X}]
             ldr r4, [sp, #{FROM_CHANNEL}]
             ldr r5, [sp, #{TO_CHANNEL}]
             add r0, r4
             add r1, r5
             strd r0, r1, [sp, #{X}]
             ldr r4, [sp, #{CHANNELS}]
             subs r4, #1
             str r4, [sp, #{CHANNELS}]
             bne 3b"
        ));
    });
    a.ops(&format!("add sp, #{FRAME}\n pop {{r4-r11, pc}}"));
    a
}

fn copy_plane(a: &mut Assembly, layer: &Depthwise) {
    let [lines, columns] = layer.covered();
    a.ops(&format!(
        "ldr r0, [sp, #{X}]
         ldr r1, [sp, #{PLANE}]
         ldr r4, [sp, #{START}]
         add r1, r4
         ldr r2, [sp, #{IN_LINES}]
         ldr r5, [sp, #{FROM_COLUMN}]
         add r6, r5, r5, lsl #1"
    ));
    a.passes(lines as u64, |a| {
        a.label(4);
        a.ops("mov r3, r0\n mov r4, r1");
        if columns >= 4 {
            a.op(format!("ldr r12, [sp, #{FOURS}]"));
            a.passes((columns / 4) as u64, |a| {
                a.label(5);
                a.ops(
                    "ldrb r7, [r3]
                     ldrb r8, [r3, r5]
                     ldrb r9, [r3, r5, lsl #1]
                     ldrb r10, [r3, r6]
                     add r3, r3, r5, lsl #2
                     strb r7, [r4], #1
                     strb r8, [r4], #1
                     strb r9, [r4], #1
                     strb r10, [r4], #1
                     subs r12, #1
                     bne 5b",
                );
            });
        }
        a.repeat((columns % 4) as u32, |a| a.ops("ldrb r7, [r3]\n add r3, r5\n strb r7, [r4], #1"));
        a.ops(&format!(
            "ldr r7, [sp, #{FROM_LINE}]
             add r0, r7
             ldr r7, [sp, #{LINE_PITCH}]
             add r1, r7
             subs r2, #1
             bne 4b"
        ));
    });
}

fn line(a: &mut Assembly, layer: &Depthwise, blocks: Blocks) {
    a.label(6);
    a.ops(&format!("ldr r0, [sp, #{SOURCE}]\n ldr r1, [sp, #{Y_ROW}]\n ldr lr, [sp, #{BLOCK_COUNT}]"));
    if blocks.width == WIDEST {
        a.op(format!("str lr, [sp, #{LEFT}]"));
    }
    if blocks.overlap > 0 {
        a.ops(&format!(
            "ldr r4, [sp, #{FIRST_BLOCK}]
             ldr r5, [sp, #{SHARED}]
             strd r4, r5, [sp, #{AHEAD}]"
        ));
    }
    a.passes(blocks.count as u64, |a| block(a, layer, blocks));
    a.ops(&format!(
        "ldr r0, [sp, #{SOURCE}]
         ldr r4, [sp, #{NEXT_LINE}]
         add r0, r4
         str r0, [sp, #{SOURCE}]
         ldr r1, [sp, #{Y_ROW}]
         ldr r4, [sp, #{TO_LINE}]
         add r1, r4
         str r1, [sp, #{Y_ROW}]
         ldr r4, [sp, #{LINES}]
         subs r4, #1
         str r4, [sp, #{LINES}]
         bne 6b"
    ));
}

fn block(a: &mut Assembly, layer: &Depthwise, blocks: Blocks) {
    let sums = &["r4", "r5", "r6", "r7", "r12", "lr"][..blocks.width];
    a.label(7);
    a.op(format!("ldrd r2, r4, [sp, #{WEIGHTS}]"));
    sums[1..].iter().for_each(|sum| a.op(format!("mov {sum}, r4")));
    for line in 0..layer.kernel[0] {
        if line > 0 {
            a.op("add r0, r3");
        }
        match layer.kernel[1] <= HELD {
            true => sliding_line(a, layer, sums),
            false => long_line(a, layer, sums),
        }
    }
    a.ops(&format!("ldrd r8, r9, [sp, #{FACTOR}]\n ldr r11, [sp, #{TO_COLUMN}]"));
    for (column, sum) in sums.iter().enumerate() {
        requantize(a, [sum, "r10", "r8", "r9"], layer.clamp);
        match (column % 2, column + 1 == sums.len()) {
            (0, false) => a.op(format!("strb {sum}, [r1]")),
            (0, true) => a.ops(&format!("strb {sum}, [r1]\n add r1, r11")),
            _ => a.ops(&format!("strb {sum}, [r1, r11]\n add r1, r1, r11, lsl #1")),
        }
    }
    match blocks.overlap {
        0 => a.ops(&format!("ldr r10, [sp, #{NEXT_BLOCK}]\n add r0, r10")),
        // Only the second block overlaps the one before.
        _ => a.ops(&format!(
            "ldrd r8, r9, [sp, #{AHEAD}]
             add r0, r8
             sub r1, r9
             ldr r8, [sp, #{NEXT_BLOCK}]
             mov r9, #0
             strd r8, r9, [sp, #{AHEAD}]"
        )),
    }
    // The widest block has a sum where the others count.
    match blocks.width {
        WIDEST => a.ops(&format!("ldr r8, [sp, #{LEFT}]\n subs r8, #1\n str r8, [sp, #{LEFT}]\n bne 7b")),
        _ => a.ops("subs lr, #1\n bne 7b"),
    }
}

/// The weights of a line in registers; each element is loaded once for all the sums that it is a part of.
fn sliding_line(a: &mut Assembly, layer: &Depthwise, sums: &[&str]) {
    let (taps, stride) = (layer.kernel[1], layer.stride[1]);
    let weights = &["r8", "r9", "r10"][..taps];
    weights.iter().for_each(|weight| a.op(format!("ldrsb {weight}, [r2], #1")));
    for column in 0..(sums.len() - 1) * stride + taps {
        let uses: Vec<(usize, usize)> = (0..sums.len())
            .filter_map(|i| Some((i, column.checked_sub(i * stride)?)))
            .filter(|use_| use_.1 < taps)
            .collect();
        if uses.is_empty() {
            continue;
        }
        a.op(format!("ldrsb r11, [r0, #{column}]"));
        uses.iter().for_each(|&(i, tap)| a.op(format!("mla {0}, r11, {1}, {0}", sums[i], weights[tap])));
    }
}

fn long_line(a: &mut Assembly, layer: &Depthwise, sums: &[&str]) {
    for tap in 0..layer.kernel[1] {
        a.op("ldrsb r8, [r2], #1");
        for (i, sum) in sums.iter().enumerate() {
            a.ops(&format!("ldrsb r11, [r0, #{}]\n mla {sum}, r11, r8, {sum}", tap + i * layer.stride[1]));
        }
    }
}
