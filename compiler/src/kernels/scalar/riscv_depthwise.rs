//! Depthwise convolutions in RV32IM.

use super::riscv::{copy_header, enter, function, leave, requantize};
use super::shape::{Blocks, Depthwise, plane};
use crate::program::Assembly;

/// Results that are computed together, at most.
const WIDEST: usize = 8;

/// Longest text of a block that is still written out.
const LONGEST: usize = 400;

/// Taps of a line up to which its weights stay in registers.
const HELD: usize = 3;

// Frame: the rest is in registers.
const X: usize = 0;
const Y: usize = 4;
const PLANE: usize = 8;
const CHANNELS_LEFT: usize = 12;
const SHARED: usize = 16;
const HEADER: usize = 20;
const FRAME: usize = HEADER + 4 * plane::WORDS;

/// The way of cutting lines that needs fewest instructions; `None` if the text would be too long.
pub fn blocks(layer: &Depthwise) -> Option<Blocks> {
    let candidates = (1..=WIDEST.min(layer.outputs[1])).map(|width| layer.blocks(width));
    let short = |blocks: &Blocks| layer.kernel[0] * layer.kernel[1] * (1 + 3 * blocks.width) <= LONGEST;
    candidates.filter(short).min_by_key(|&blocks| text(layer, blocks).instructions())
}

/// The function. `None` as with [`blocks`].
pub fn depthwise(layer: &Depthwise) -> Option<Assembly> {
    blocks(layer).map(|blocks| text(layer, blocks))
}

fn slot(word: usize) -> String {
    format!("{}(sp)", HEADER + word)
}

fn text(layer: &Depthwise, blocks: Blocks) -> Assembly {
    let doc = vec![
        "Depthwise convolution. Each channel is copied into working memory as a plane with its padding, then computed"
            .to_owned(),
        format!("{} results of a line at a time.", blocks.width),
        "a0 plane, a1 result, a2 constants, a3 bytes between lines, a4 blocks left, s0-s7 sums, t0-t2 weights, t3 element, t5 product."
            .to_owned(),
    ];
    let mut a = function("depthwise", doc);
    enter(&mut a, FRAME);
    copy_header(&mut a, "a3", HEADER, plane::WORDS);
    a.ops(&format!(
        "sw a0, {X}(sp)
         sw a1, {Y}(sp)
         sw a2, {PLANE}(sp)
         mv ra, a3
         lw t0, {}
         sw t0, {CHANNELS_LEFT}(sp)
         lw t0, {}
         lw t1, {}",
        slot(plane::CHANNELS),
        slot(plane::FILL),
        slot(plane::PLANE_WORDS)
    ));
    a.passes((layer.plane_bytes() / 4) as u64, |a| {
        a.label(2);
        a.ops("sw t0, 0(a2)\n addi a2, a2, 4\n addi t1, t1, -1\n bnez t1, 2b");
    });
    a.passes(layer.channels as u64, |a| {
        a.label(3);
        copy_plane(a, layer);
        let weights = (layer.kernel[0] * layer.kernel[1]).next_multiple_of(4);
        a.ops(&format!(
            "lw s11, 0(ra)
             lw s10, 4(ra)
             addi a2, ra, 8
             addi ra, a2, {weights}
             lw a5, {PLANE}(sp)
             lw a6, {Y}(sp)
             lw a3, {}
             lw s8, {}
             lw s9, {}
             lw t6, {}
             li a7, {}",
            slot(plane::PITCH),
            slot(plane::RESULT),
            slot(plane::TO_COLUMN),
            slot(plane::OUT_LINES),
            layer.clamp.lo - layer.clamp.hi
        ));
        a.passes(layer.outputs[0] as u64, |a| line(a, layer, blocks));
        a.ops(&format!(
            "lw t0, {X}(sp)
             lw t1, {}
             add t0, t0, t1
             sw t0, {X}(sp)
             lw t0, {Y}(sp)
             lw t1, {}
             add t0, t0, t1
             sw t0, {Y}(sp)
             lw t0, {CHANNELS_LEFT}(sp)
             addi t0, t0, -1
             sw t0, {CHANNELS_LEFT}(sp)
             bnez t0, 3b",
            slot(plane::FROM_CHANNEL),
            slot(plane::TO_CHANNEL)
        ));
    });
    leave(&mut a, FRAME);
    a
}

fn copy_plane(a: &mut Assembly, layer: &Depthwise) {
    let [lines, columns] = layer.covered();
    a.ops(&format!(
        "lw a0, {X}(sp)
         lw a1, {PLANE}(sp)
         lw t0, {}
         add a1, a1, t0
         lw a2, {}
         lw a3, {}
         lw a4, {}
         lw a5, {}",
        slot(plane::START),
        slot(plane::IN_LINES),
        slot(plane::FROM_COLUMN),
        slot(plane::FROM_LINE),
        slot(plane::LINE_PITCH)
    ));
    let element = |a: &mut Assembly, at: usize| a.ops(&format!("lb t3, 0(t0)\n add t0, t0, a3\n sb t3, {at}(t1)"));
    a.passes(lines as u64, |a| {
        a.label(4);
        a.ops("mv t0, a0\n mv t1, a1");
        if columns >= 4 {
            a.op(format!("lw t2, {}", slot(plane::FOURS)));
            a.passes((columns / 4) as u64, |a| {
                a.label(5);
                (0..4).for_each(|i| element(a, i));
                a.ops("addi t1, t1, 4\n addi t2, t2, -1\n bnez t2, 5b");
            });
        }
        (0..columns % 4).for_each(|i| element(a, i));
        a.ops("add a0, a0, a4\n add a1, a1, a5\n addi a2, a2, -1\n bnez a2, 4b");
    });
}

fn line(a: &mut Assembly, layer: &Depthwise, blocks: Blocks) {
    a.label(6);
    a.ops(&format!("mv a0, a5\n mv a1, a6\n lw a4, {}", slot(plane::BLOCK_COUNT)));
    if blocks.overlap > 0 {
        a.ops(&format!("lw t4, {}\n lw t0, {}\n sw t0, {SHARED}(sp)", slot(plane::FIRST_BLOCK), slot(plane::SHARED)));
    } else {
        a.op(format!("lw t4, {}", slot(plane::NEXT_BLOCK)));
    }
    a.passes(blocks.count as u64, |a| block(a, layer, blocks));
    a.ops(&format!(
        "lw t0, {}
         add a5, a5, t0
         lw t0, {}
         add a6, a6, t0
         addi t6, t6, -1
         bnez t6, 6b",
        slot(plane::NEXT_LINE),
        slot(plane::TO_LINE)
    ));
}

fn block(a: &mut Assembly, layer: &Depthwise, blocks: Blocks) {
    let [lines, taps] = layer.kernel;
    let sums: Vec<String> = (0..blocks.width).map(|i| format!("s{i}")).collect();
    a.label(7);
    sums.iter().for_each(|sum| a.op(format!("mv {sum}, s11")));
    for line in 0..lines {
        if line > 0 {
            a.op("add a0, a0, a3");
        }
        match taps <= HELD {
            true => sliding_line(a, layer, &sums, line * taps),
            false => long_line(a, layer, &sums, line * taps),
        }
    }
    for sum in &sums {
        requantize(a, sum, ["t0", "t1", "s10", "s8", "a7"], layer.clamp);
        a.ops("sb t0, 0(a1)\n add a1, a1, s9");
    }
    a.op("add a0, a0, t4");
    if blocks.overlap > 0 {
        // Only the second block overlaps the one before.
        a.ops(&format!(
            "lw t0, {SHARED}(sp)\n sub a1, a1, t0\n sw zero, {SHARED}(sp)\n lw t4, {}",
            slot(plane::NEXT_BLOCK)
        ));
    }
    a.ops("addi a4, a4, -1\n bnez a4, 7b");
}

/// The weights of a line in registers; each element is loaded once for all the sums that it is a part of.
fn sliding_line(a: &mut Assembly, layer: &Depthwise, sums: &[String], first: usize) {
    let (taps, stride) = (layer.kernel[1], layer.stride[1]);
    (0..taps).for_each(|tap| a.op(format!("lb t{tap}, {}(a2)", first + tap)));
    for column in 0..(sums.len() - 1) * stride + taps {
        let parts = |(i, sum)| Some((sum, column.checked_sub(i * stride).filter(|&tap| tap < taps)?));
        let uses: Vec<(&String, usize)> = sums.iter().enumerate().filter_map(parts).collect();
        let Some(&(last, last_tap)) = uses.last() else { continue };
        a.op(format!("lb t3, {column}(a0)"));
        for (sum, tap) in &uses[..uses.len() - 1] {
            a.ops(&format!("mul t5, t3, t{tap}\n add {sum}, {sum}, t5"));
        }
        a.ops(&format!("mul t3, t3, t{last_tap}\n add {last}, {last}, t3"));
    }
}

fn long_line(a: &mut Assembly, layer: &Depthwise, sums: &[String], first: usize) {
    for tap in 0..layer.kernel[1] {
        a.op(format!("lb t0, {}(a2)", first + tap));
        for (i, sum) in sums.iter().enumerate() {
            a.ops(&format!("lb t3, {}(a0)\n mul t3, t3, t0\n add {sum}, {sum}, t3", tap + i * layer.stride[1]));
        }
    }
}
