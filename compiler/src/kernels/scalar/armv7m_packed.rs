//! Convolutions and linear layers in Thumb-2 without the DSP extension (Cortex-M3): two products with one MLA.

use super::armv7m::{WINDOW_FRAME, gather, requantize, start_windows};
use super::pack::{self, Bytes, Row};
use super::shape::Product;
use crate::kernels::thumb::THUMB2;
use crate::program::Assembly;

/// Channels that are computed together.
const BLOCK: usize = 3;

/// Steps of the inner loop that are written out; rows are filled up to a multiple of half of it.
const UNROLLED: usize = 8;
const FILLED: usize = 4;

// Frame, offsets from the stack pointer. From 64 on it is that of gathering.
const WORDS: usize = 0;
const PATCH: usize = 4;
const Y0: usize = 8;
const Y1: usize = 12;
const ZERO: usize = 16;
const BLOCKS: usize = 20;
const ALL: usize = 24;
const LEFT: usize = 28;
const ROWS: usize = 32;
// The number of channels follows.
const K: usize = 36;
const NEXT: usize = 44;
const MAIN: usize = 48;
const END: usize = 52;
const FRAME: usize = 56;

fn filled(product: &Product) -> usize {
    product.k.next_multiple_of(FILLED)
}

/// Words in front of the channels.
pub fn header(product: &Product, zero: i32) -> Vec<i64> {
    let Product { pixels, k, channels, .. } = *product;
    let channel = 12 + filled(product);
    let sizes = [channels / BLOCK * BLOCK * channel, channels * channel, pixels];
    let words = [4 * (filled(product) / UNROLLED * UNROLLED), 4 * filled(product)];
    let number = |value: &usize| *value as i64;
    let front = [k, channels].iter().map(number).chain([i64::from(zero)]).collect::<Vec<_>>();
    [front, sizes.iter().chain(&words).map(number).collect()].concat()
}

/// The channels: what the sum of everything and that of the upper halves start with, weights, multiplier.
pub fn blocks(rows: &[Row], bytes: &mut Bytes) {
    let start = |row: &Row, bytes: &mut Bytes| {
        // Each sum of two products has 2^15 added.
        let correction = (row.weights.len().next_multiple_of(FILLED) as i64 / 2) << 15;
        bytes.word(row.bias + (row.bias << 16) - correction);
        bytes.word(row.bias);
    };
    pack::paired(rows, BLOCK, FILLED, start, bytes);
}

/// Bytes of working memory: two rows as words, and two windows as they lie in memory.
pub fn scratch(product: &Product) -> usize {
    let patches = if product.patches.is_some() { 2 * product.k } else { 0 };
    4 * filled(product) + patches
}

/// Two rows of the operand at a time, three channels at a time.
pub fn pairs(product: &Product) -> Assembly {
    let Product { pixels, channels, .. } = *product;
    let kind = if product.patches.is_some() { "conv" } else { "pointwise" };
    let mut a = Assembly::new(kind, doc(product), THUMB2);
    let frame = if product.patches.is_some() { WINDOW_FRAME } else { FRAME };
    a.ops(&format!(
        "push {{r4-r11, lr}}
         sub sp, #{frame}
         ldmia r3!, {{r4-r11}}
         strd r4, r5, [sp, #{K}]
         strd r1, r6, [sp, #{Y1}]
         add r10, r2
         strd r10, r11, [sp, #{MAIN}]
         add r11, r2
         str r11, [sp, #{END}]
         strd r2, r11, [sp, #{WORDS}]"
    ));
    match product.patches {
        None => a.op(format!("str r0, [sp, #{NEXT}]")),
        Some(_) => start_windows(&mut a),
    }
    a.ops(&format!(
        "add r7, r3
         add r8, r3
         strd r7, r8, [sp, #{BLOCKS}]
         strd r9, r3, [sp, #{LEFT}]"
    ));
    a.passes(pixels.div_ceil(2) as u64, |a| {
        a.label(2);
        match product.patches {
            None => a.op(format!("ldr r0, [sp, #{NEXT}]")),
            Some(_) => {
                a.ops(&format!(
                    "ldr r2, [sp, #{PATCH}]
                     bl 90f
                     ldr r6, [sp, #{LEFT}]
                     cmp r6, #1
                     beq 9f"
                ));
                a.total((pixels / 2) as u64, |a| a.op("bl 90f"));
                a.label(9);
                a.op(format!("ldr r0, [sp, #{PATCH}]"));
            }
        }
        start_pair(a, product.patches.is_some());
        pack(a, product.k);
        a.ops(&format!("ldr r2, [sp, #{ROWS}]\n mov lr, #0x8000"));
        if channels >= BLOCK {
            a.passes((channels / BLOCK) as u64, |a| block(a, product, BLOCK, [20, 21, 22], BLOCKS));
        }
        if !channels.is_multiple_of(BLOCK) {
            a.passes((channels % BLOCK) as u64, |a| block(a, product, 1, [23, 24, 25], ALL));
        }
        a.ops(&format!("ldr r6, [sp, #{LEFT}]\n cmp r6, #0\n bgt 2b"));
    });
    a.ops(&format!("add sp, #{frame}\n pop {{r4-r11, pc}}"));
    if let Some(patches) = &product.patches {
        gather(&mut a, patches);
    }
    a
}

fn doc(product: &Product) -> Vec<String> {
    let mut lines = vec![
        "Sums of products with constant weights, requantized: two rows of the operand by three channels.".to_owned(),
        "A word holds an element of two rows, b * 2^16 + a; one product with a weight is two. Sums of two products keep \
         the halves apart; with 2^15 added, the upper half is exact."
            .to_owned(),
        "For three channels: what both sums start with, weights of two elements for each channel, multipliers; then \
         single channels."
            .to_owned(),
        "r0 rows as words, r2 constants; r3, r4 elements; r1, r5 weights; r12 product; lr 2^15; r6, r8, r10 sums of \
         everything; r7, r9, r11 of upper halves."
            .to_owned(),
    ];
    if product.patches.is_some() {
        lines.push("Windows are copied into working memory; outside of the input is its zero point.".to_owned());
    }
    lines
}

/// The next two rows in r0, r1, and addresses of their results. The last row may be alone: in memory it is repeated, and
/// of a window that is not there the result is overwritten.
fn start_pair(a: &mut Assembly, gathered: bool) {
    a.ops(&format!(
        "ldrd r3, r4, [sp, #{K}]
         ldr r5, [sp, #{Y1}]
         ldr r6, [sp, #{LEFT}]
         add r1, r0, r3
         add r7, r5, r4
         subs r6, #2
         itt mi
         movmi r1, r0
         movmi r7, r5
         str r6, [sp, #{LEFT}]
         strd r5, r7, [sp, #{Y0}]"
    ));
    if !gathered {
        a.ops(&format!("add r6, r1, r3\n str r6, [sp, #{NEXT}]"));
    }
}

/// Writes the rows at r0 and r1, of r3 elements, as words of two.
fn pack(a: &mut Assembly, k: usize) {
    let element = |a: &mut Assembly| {
        a.ops("ldrsb r4, [r0], #1\n ldrsb r5, [r1], #1\n add r4, r4, r5, lsl #16\n str r4, [r2], #4");
    };
    a.op(format!("ldr r2, [sp, #{WORDS}]"));
    if k >= FILLED {
        a.op("lsrs r6, r3, #2");
        a.passes((k / FILLED) as u64, |a| {
            a.label(3);
            a.repeat(FILLED as u32, element);
            a.ops("subs r6, #1\n bne 3b");
        });
    }
    if !k.is_multiple_of(FILLED) {
        a.op("and r6, r3, #3");
        a.passes((k % FILLED) as u64, |a| {
            a.label(4);
            element(a);
            a.ops("subs r6, #1\n bne 4b");
        });
    }
}

fn block(a: &mut Assembly, product: &Product, channels: usize, labels: [u32; 3], end: usize) {
    let sums = &[["r6", "r7"], ["r8", "r9"], ["r10", "r11"]][..channels];
    let filled = filled(product);
    a.label(labels[0]);
    a.ops(&format!("ldr r0, [sp, #{WORDS}]\n ldmia r2!, {{r6-r{}}}", 5 + 2 * channels));
    let loops = [(UNROLLED, filled / UNROLLED, labels[1], MAIN), (FILLED, filled / FILLED % 2, labels[2], END)];
    for (unrolled, passes, label, slot) in loops.into_iter().filter(|each| each.1 > 0) {
        a.passes(passes as u64, |a| {
            a.label(label);
            (0..unrolled).step_by(2).for_each(|at| two_steps(a, sums, at, unrolled));
            a.ops(&format!("ldr r12, [sp, #{slot}]\n cmp r0, r12\n bne {label}b"));
        });
    }
    a.ops(&format!("ldrd r3, r4, [sp, #{Y0}]\n ldr r1, [sp, #{ZERO}]"));
    for [all, upper] in sums {
        a.ops(&format!("ldr r5, [r2], #4\n sub {all}, {all}, {upper}, lsl #16"));
        requantize(a, [upper, "r12", "r5", "r1"], product.clamp);
        a.op(format!("strb {upper}, [r4], #1"));
        requantize(a, [all, "r12", "r5", "r1"], product.clamp);
        a.op(format!("strb {all}, [r3], #1"));
    }
    a.ops(&format!("strd r3, r4, [sp, #{Y0}]\n ldr r5, [sp, #{end}]\n cmp r2, r5\n bne {}b", labels[0]));
}

/// Two elements of the rows by two weights of each channel. The first load moves the pointer to the weights ahead.
fn two_steps(a: &mut Assembly, sums: &[[&str; 2]], at: usize, unrolled: usize) {
    let size = unrolled * sums.len();
    let weight = |offset: usize| match offset {
        0 => format!("[r2], #{size}"),
        _ => format!("[r2, #-{}]", size - offset),
    };
    a.op("ldrd r3, r4, [r0], #8");
    for (c, [all, upper]) in sums.iter().enumerate() {
        let offset = at * sums.len() + 2 * c;
        a.ops(&format!(
            "ldrsb r1, {}
             ldrsb r5, {}
             mla r12, r3, r1, lr
             mla r12, r4, r5, r12
             add {all}, r12
             add {upper}, {upper}, r12, asr #16",
            weight(offset),
            weight(offset + 1)
        ));
    }
}
