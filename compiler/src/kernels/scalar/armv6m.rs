//! Convolutions and linear layers in Thumb-1 (Cortex-M0, M0+): two products with one multiplication.
//!
//! A word holds an element of two rows of the operand, `b * 2^16 + a`. Its product with a weight holds both products, and
//! sums of two such products keep them apart: each half is less than 2^15 in magnitude. With 2^15 added, the upper half
//! of a sum is exactly the second row's; what the lower halves add up to follows from the sum of everything.

use super::shape::{Patches, Product, window};
use crate::ir::Clamp;
use crate::program::Assembly;

/// Condition of the C preprocessor under which Thumb-1 assembles.
pub const THUMB: &str = "defined(__thumb__)";

/// Rows that are computed together.
pub const QUAD: usize = 4;

// Frame of `quads`, offsets from the stack pointer.
const NEXT: usize = 0;
const WORDS: usize = 4;
const OFFSETS: [usize; 4] = [0, 8, 12, 16];
const Y: usize = 20;
const AT: usize = 24;
const END: usize = 28;
const ROWS: usize = 32;
const PATCH: usize = 36;
const TODO: usize = 40;
const BASE: usize = 44;
const COLUMN: usize = 48;
const LINE: usize = 52;
const ORIGIN: usize = 56;
const COLUMNS: usize = 60;
const RETURN: usize = 64;
// A copy of the header.
const K: usize = 72;
const CHANNELS: usize = 76;
const LEFT: usize = 80;
const ROW_BYTES: usize = 84;
const CORRECTION: usize = 88;
const ROUND: usize = 92;
const BYTES: usize = 96;
const MINUS_K: usize = 100;
const WORD_BYTES: usize = 104;
const HEADER_WORDS: usize = 9;
/// The words that describe windows follow.
const WINDOW: usize = K + 4 * HEADER_WORDS;

/// Weights of a channel with what fills them up to whole words.
fn row_bytes(product: &Product) -> usize {
    product.k.next_multiple_of(4)
}

/// Words in front of the rows of weights. `zero` is the result's.
pub fn header(product: &Product, zero: i32) -> Vec<i64> {
    let (k, bytes) = (product.k as i64, row_bytes(product) as i64);
    vec![
        k,
        product.channels as i64,
        product.pixels as i64,
        bytes,
        // Each sum of two products has 2^15 added.
        (bytes / 2) << 15,
        rounding(zero, product.clamp),
        product.channels as i64 * (bytes + 8),
        -k,
        8 * bytes,
    ]
}

/// What is added in front of the last shift: one half, and the zero point counted from the smallest result.
pub fn rounding(zero: i32, clamp: Clamp) -> i64 {
    (1 << 15) + (i64::from(zero - clamp.lo) << 16)
}

/// Bytes of working memory: four rows as words, and four windows as they lie in memory.
pub fn scratch(product: &Product) -> usize {
    let patches = if product.patches.is_some() { QUAD * product.k } else { 0 };
    8 * row_bytes(product) + patches
}

/// Four rows of the operand at a time, one channel at a time.
pub fn quads(product: &Product) -> Assembly {
    let Product { pixels, channels, .. } = *product;
    let kind = if product.patches.is_some() { "conv" } else { "pointwise" };
    let mut a = Assembly::new(kind, doc(product), THUMB);
    let window_words = if product.patches.is_some() { window::WORDS } else { 0 };
    let frame = WINDOW + 4 * window_words;
    enter(&mut a, frame);
    a.op(format!("add r4, sp, #{K}"));
    a.repeat(((HEADER_WORDS + window_words) / 3) as u32, |a| a.ops("ldmia r3!, {r5-r7}\n stmia r4!, {r5-r7}"));
    a.ops(&format!(
        "str r3, [sp, #{ROWS}]
         ldr r4, [sp, #{BYTES}]
         adds r4, r3
         str r4, [sp, #{END}]
         str r2, [sp, #{WORDS}]
         str r1, [sp, #{Y}]
         movs r4, #1
         lsls r4, #15
         mov r12, r4
         ldr r4, [sp, #{CHANNELS}]
         str r4, [sp, #{}]
         adds r5, r4, r4
         str r5, [sp, #{}]
         adds r5, r4
         str r5, [sp, #{}]",
        OFFSETS[1], OFFSETS[2], OFFSETS[3]
    ));
    match &product.patches {
        None => a.op(format!("str r0, [sp, #{NEXT}]")),
        Some(_) => a.ops(&format!(
            "ldr r4, [sp, #{WORD_BYTES}]
             adds r4, r2
             str r4, [sp, #{PATCH}]
             ldr r4, [sp, #{}]
             adds r4, r0
             str r4, [sp, #{BASE}]
             str r4, [sp, #{ORIGIN}]
             ldr r4, [sp, #{}]
             str r4, [sp, #{COLUMN}]
             ldr r4, [sp, #{}]
             str r4, [sp, #{LINE}]
             ldr r4, [sp, #{}]
             str r4, [sp, #{COLUMNS}]",
            WINDOW + window::START,
            WINDOW + window::FIRST_COLUMN,
            WINDOW + window::FIRST_LINE,
            WINDOW + window::OUTPUT_COLUMNS,
        )),
    }
    a.passes(pixels.div_ceil(QUAD) as u64, |a| {
        a.label(2);
        if product.patches.is_some() {
            gather_quad(a, pixels);
        } else {
            a.op(format!("ldr r0, [sp, #{NEXT}]"));
        }
        four_rows(a, pixels, product.patches.is_some());
        pack(a, product.k);
        a.op(format!("ldr r1, [sp, #{ROWS}]"));
        a.passes(channels as u64, |a| channel(a, product));
        a.ops(&format!(
            "ldr r7, [sp, #{Y}]
             ldr r4, [sp, #{}]
             adds r7, r4
             str r7, [sp, #{Y}]
             ldr r4, [sp, #{LEFT}]
             subs r4, #4
             str r4, [sp, #{LEFT}]
             ble 3f",
            OFFSETS[3]
        ));
    });
    // The last pass leaves the loop.
    a.total(pixels.div_ceil(QUAD) as u64 - 1, |a| a.op("b 2b"));
    a.label(3);
    leave(&mut a, frame);
    if let Some(patches) = &product.patches {
        gather(&mut a, patches);
    }
    a
}

/// Saves what has to be preserved and makes room on the stack.
pub fn enter(a: &mut Assembly, frame: usize) {
    a.ops(&format!(
        "push {{r4-r7, lr}}
         mov r4, r8
         mov r5, r9
         mov r6, r10
         mov r7, r11
         push {{r4-r7}}
         sub sp, #{frame}"
    ));
}

/// The opposite of [`enter`], and returns.
pub fn leave(a: &mut Assembly, frame: usize) {
    a.ops(&format!(
        "add sp, #{frame}
         pop {{r4-r7}}
         mov r8, r4
         mov r9, r5
         mov r10, r6
         mov r11, r7
         pop {{r4-r7, pc}}"
    ));
}

fn doc(product: &Product) -> Vec<String> {
    let mut lines = vec![
        "Sums of products with constant weights, requantized: four rows of the operand by one channel.".to_owned(),
        "A word holds an element of two rows, b * 2^16 + a; one product with a weight is two. Sums of two products keep \
         the halves apart; with 2^15 added, the upper half is exact."
            .to_owned(),
        "For each channel: bias, weights, multiplier.".to_owned(),
        "r0 rows as words, r1 constants, r2, r3 weights, r4-r7 products; r8, r10 sums of everything, r9, r11 of upper \
         halves, r12 2^15, lr end of the weights."
            .to_owned(),
    ];
    if product.patches.is_some() {
        lines.push("Windows are copied into working memory; outside of the input is its zero point.".to_owned());
    }
    lines
}

/// Ends of four rows in r0-r3. Where fewer are left, the last is repeated.
fn four_rows(a: &mut Assembly, pixels: usize, gathered: bool) {
    a.ops(&format!(
        "ldr r5, [sp, #{K}]
         ldr r6, [sp, #{LEFT}]
         adds r0, r5
         adds r1, r0, r5
         adds r2, r1, r5
         adds r3, r2, r5"
    ));
    if !gathered {
        a.op(format!("str r3, [sp, #{NEXT}]"));
    }
    a.ops("cmp r6, #4\n bhs 4f");
    let rest = pixels % QUAD;
    a.total(u64::from(rest > 0), |a| {
        a.ops(&format!(
            "movs r3, r2
             ldr r4, [sp, #{}]
             str r4, [sp, #{}]
             cmp r6, #3
             bhs 4f",
            OFFSETS[2], OFFSETS[3]
        ));
    });
    a.total(u64::from(rest == 1 || rest == 2), |a| {
        a.ops(&format!(
            "movs r2, r1
             movs r3, r1
             ldr r4, [sp, #{}]
             str r4, [sp, #{}]
             str r4, [sp, #{}]
             cmp r6, #2
             bhs 4f",
            OFFSETS[1], OFFSETS[2], OFFSETS[3]
        ));
    });
    a.total(u64::from(rest == 1), |a| {
        a.ops(&format!(
            "movs r1, r0
             movs r2, r0
             movs r3, r0
             movs r4, #0
             str r4, [sp, #{}]
             str r4, [sp, #{}]
             str r4, [sp, #{}]",
            OFFSETS[1], OFFSETS[2], OFFSETS[3]
        ));
    });
    a.label(4);
}

/// Writes four rows as words of two.
fn pack(a: &mut Assembly, k: usize) {
    a.ops(&format!("ldr r4, [sp, #{MINUS_K}]\n ldr r7, [sp, #{WORDS}]"));
    a.passes(k as u64, |a| {
        a.label(5);
        for [low, high] in [["r0", "r1"], ["r2", "r3"]] {
            a.ops(&format!(
                "ldrsb r5, [{high}, r4]
                 lsls r5, #16
                 ldrsb r6, [{low}, r4]
                 adds r5, r6
                 stmia r7!, {{r5}}"
            ));
        }
        a.ops("adds r4, #1\n bne 5b");
    });
}

fn channel(a: &mut Assembly, product: &Product) {
    let words = row_bytes(product) / 4;
    // Loops of eight steps where they come out even.
    let unrolled = if words.is_multiple_of(2) { 2 } else { 1 };
    a.label(6);
    a.ops(&format!(
        "ldmia r1!, {{r2}}
         mov r9, r2
         mov r11, r2
         lsls r3, r2, #16
         adds r3, r2
         ldr r4, [sp, #{CORRECTION}]
         subs r3, r4
         mov r8, r3
         mov r10, r3
         ldr r0, [sp, #{WORDS}]
         ldr r4, [sp, #{ROW_BYTES}]
         adds r4, r1
         mov lr, r4"
    ));
    a.passes((words / unrolled) as u64, |a| {
        a.label(7);
        a.repeat(unrolled as u32, four_steps);
        a.ops("cmp r1, lr\n bne 7b");
    });
    a.ops(&format!(
        "ldmia r1!, {{r3}}
         str r1, [sp, #{AT}]
         uxth r2, r3
         lsrs r3, r3, #16
         movs r5, #{}
         ldr r6, [sp, #{ROUND}]
         ldr r7, [sp, #{Y}]",
        product.clamp.hi - product.clamp.lo
    ));
    // From the last to the first: where rows are repeated, the first of them is the right one.
    for row in (0..QUAD).rev() {
        let [all, upper] = if row < 2 { ["r8", "r9"] } else { ["r10", "r11"] };
        match row % 2 {
            1 => a.op(format!("mov r0, {upper}")),
            _ => a.ops(&format!("mov r1, {upper}\n lsls r1, #16\n mov r0, {all}\n subs r0, r1")),
        }
        requantize(a, product.clamp);
        match row {
            0 => a.op("strb r0, [r7]"),
            _ => a.ops(&format!("ldr r1, [sp, #{}]\n strb r0, [r7, r1]", OFFSETS[row])),
        }
    }
    a.ops(&format!(
        "adds r7, #1
         str r7, [sp, #{Y}]
         ldr r1, [sp, #{AT}]
         ldr r4, [sp, #{END}]
         cmp r1, r4
         beq 8f"
    ));
    a.total((product.pixels.div_ceil(QUAD) * (product.channels - 1)) as u64, |a| a.op("b 6b"));
    a.label(8);
}

/// Four weights by four rows.
fn four_steps(a: &mut Assembly) {
    a.op("ldmia r1!, {r2}");
    for half in 0..2 {
        a.ops(
            "sxtb r3, r2
             ldmia r0!, {r6, r7}
             muls r6, r3
             muls r7, r3
             asrs r2, #8
             ldmia r0!, {r4, r5}",
        );
        match half {
            0 => a.ops("sxtb r3, r2\n asrs r2, #8\n muls r4, r3\n muls r5, r3"),
            _ => a.ops("muls r4, r2\n muls r5, r2"),
        }
        a.ops(
            "adds r6, r4
             adds r7, r5
             add r6, r12
             add r7, r12
             add r8, r6
             asrs r6, #16
             add r9, r6
             add r10, r7
             asrs r7, #16
             add r11, r7",
        );
    }
}

/// The sum in r0 becomes the result: the upper half of its product with the doubled multiplier (r2 lower, r3 upper half
/// word), rounded by r6, between the bounds that r5 is the distance of. Uses r1, r4.
pub fn requantize(a: &mut Assembly, clamp: Clamp) {
    a.ops(
        "uxth r1, r0
         asrs r0, #16
         movs r4, r1
         muls r4, r2
         lsrs r4, #16
         muls r1, r3
         adds r4, r1
         movs r1, r0
         muls r1, r2
         adds r4, r1
         adds r4, r6
         asrs r4, #16
         muls r0, r3
         adds r0, r4
         asrs r1, r0, #31
         bics r0, r1",
    );
    if clamp.hi - clamp.lo == 255 {
        // All ones, of which the lower byte is stored.
        a.ops("cmp r5, r0\n sbcs r1, r1\n orrs r0, r1");
    } else {
        a.ops("subs r1, r5, r0\n asrs r4, r1, #31\n ands r1, r4\n adds r0, r1");
    }
    match clamp.lo {
        0 => {}
        lo if lo < 0 => a.op(format!("subs r0, #{}", -lo)),
        lo => a.op(format!("adds r0, #{lo}")),
    }
}

/// Copies up to four windows, one behind the other; r0 is the first.
fn gather_quad(a: &mut Assembly, pixels: usize) {
    a.ops(&format!("ldr r2, [sp, #{PATCH}]\n movs r5, #4\n ldr r4, [sp, #{LEFT}]\n cmp r4, r5\n bhs 20f"));
    a.total(u64::from(!pixels.is_multiple_of(QUAD)), |a| a.op("movs r5, r4"));
    a.label(20);
    a.op(format!("str r5, [sp, #{TODO}]"));
    a.total(pixels as u64, |a| {
        a.label(21);
        a.ops(&format!("bl 90f\n ldr r4, [sp, #{TODO}]\n subs r4, #1\n str r4, [sp, #{TODO}]\n bne 21b"));
    });
    a.op(format!("ldr r0, [sp, #{PATCH}]"));
}

/// A subroutine: copies the window to r2 and steps to the next.
fn gather(a: &mut Assembly, patches: &Patches) {
    let clips = patches.clips();
    let windows = (patches.outputs[0] * patches.outputs[1]) as u64;
    let planes = windows * patches.planes as u64;
    let runs = planes * patches.kernel[0] as u64;
    let census = patches.census(true);
    a.total(windows, |a| {
        a.label(90);
        a.comment("A window: r1 its planes, r3 bytes to fill, r5 to copy, r6 to fill; r8 rows, r9 line, r10 row.");
        a.ops(&format!("mov r4, lr\n str r4, [sp, #{RETURN}]\n ldr r1, [sp, #{BASE}]\n ldr r5, {}", slot(window::RUN)));
        if clips {
            clip(a);
        }
        a.ops(&format!("ldr r4, {}\n mov r11, r4", slot(window::PLANES)));
    });
    a.total(planes, |a| {
        a.label(91);
        a.ops(&format!("mov r10, r1\n ldr r4, {}\n mov r8, r4", slot(window::KERNEL_ROWS)));
        if clips {
            a.ops(&format!("ldr r4, [sp, #{LINE}]\n mov r9, r4"));
        }
    });
    a.total(runs, |a| {
        a.label(92);
        if clips {
            a.ops(&format!("mov r4, r9\n ldr r7, {}\n cmp r4, r7\n bhs 82f", slot(window::HEIGHT)));
        }
    });
    a.total(census.inside, |a| a.op("mov r0, r10"));
    if clips {
        a.total(census.inside, |a| a.ops("movs r4, r3\n beq 72f"));
        a.total(census.left, |a| a.op(format!("ldr r7, {}", slot(window::FILL))));
        fill(a, 71, census.left_bytes);
        a.label(72);
    }
    copy(a, patches, &census);
    if clips {
        a.total(census.inside, |a| a.ops("movs r4, r6\n beq 84f"));
        a.total(census.right, |a| a.op(format!("ldr r7, {}", slot(window::FILL))));
        fill(a, 79, census.right_bytes);
        a.total(census.right, |a| a.op("b 84f"));
        a.label(82);
        a.total(census.outside, |a| a.ops(&format!("ldr r4, {}\n ldr r7, {}", slot(window::RUN), slot(window::FILL))));
        fill(a, 83, census.outside * patches.run() as u64);
        a.label(84);
        a.total(runs, |a| {
            a.ops(&format!("mov r4, r9\n ldr r7, {}\n adds r4, r7\n mov r9, r4", slot(window::DILATION)))
        });
    }
    next_run(a, runs, planes);
    step_window(a, patches, windows);
}

/// The address of a word that describes the window.
fn slot(word: usize) -> String {
    format!("[sp, #{}]", WINDOW + word)
}

/// Bytes of a run that hang over the left (r3) and the right border (r6).
fn clip(a: &mut Assembly) {
    a.ops(&format!(
        "ldr r4, [sp, #{COLUMN}]
         ldr r7, {}
         rsbs r3, r4, #0
         asrs r6, r3, #31
         bics r3, r6
         muls r3, r7
         ldr r6, {}
         subs r6, r4, r6
         asrs r4, r6, #31
         bics r6, r4
         muls r6, r7
         subs r5, r3
         subs r5, r6
         adds r1, r3",
        slot(window::STEP),
        slot(window::ROOM)
    ));
}

/// The next row of the window, then the next plane.
fn next_run(a: &mut Assembly, runs: u64, planes: u64) {
    a.total(runs, |a| {
        a.ops(&format!(
            "mov r4, r10
             ldr r7, {}
             adds r4, r7
             mov r10, r4
             mov r4, r8
             subs r4, #1
             mov r8, r4
             bne 92b",
            slot(window::NEXT_ROW)
        ));
    });
    a.total(planes, |a| {
        a.ops(&format!(
            "ldr r4, {}
             adds r1, r4
             mov r4, r11
             subs r4, #1
             mov r11, r4
             bne 91b",
            slot(window::PLANE_STRIDE)
        ));
    });
}

/// Writes r4 bytes of r7.
fn fill(a: &mut Assembly, label: u32, bytes: u64) {
    a.total(bytes, |a| {
        a.label(label);
        a.ops(&format!("strb r7, [r2]\n adds r2, #1\n subs r4, #1\n bne {label}b"));
    });
}

/// Copies r5 bytes from r0, four at a time.
fn copy(a: &mut Assembly, patches: &Patches, census: &super::shape::Census) {
    a.total(census.inside, |a| a.ops("subs r4, r5, #4\n blo 74f"));
    let fours = 2 * census.eights + census.fours;
    a.total(fours, |a| {
        a.label(73);
        match patches.aligned {
            true => a.ops("ldmia r0!, {r7}\n stmia r2!, {r7}"),
            false => {
                (0..4).for_each(|i| a.ops(&format!("ldrb r7, [r0, #{i}]\n strb r7, [r2, #{i}]")));
                a.ops("adds r0, #4\n adds r2, #4");
            }
        }
        a.ops("subs r4, #4\n bhs 73b");
    });
    a.label(74);
    a.total(census.inside, |a| a.ops("adds r4, #4\n beq 77f"));
    a.total(census.bytes, |a| {
        a.label(76);
        a.ops("ldrb r7, [r0]\n strb r7, [r2]\n adds r0, #1\n adds r2, #1\n subs r4, #1\n bne 76b");
    });
    a.label(77);
}

fn step_window(a: &mut Assembly, patches: &Patches, windows: u64) {
    let lines = patches.outputs[0] as u64;
    let slot = |word: usize| format!("[sp, #{}]", WINDOW + word);
    a.total(windows, |a| a.ops(&format!("ldr r3, [sp, #{COLUMNS}]\n subs r3, #1\n bne 86f")));
    a.total(lines, |a| {
        a.ops(&format!(
            "ldr r1, [sp, #{ORIGIN}]
             ldr r4, {}
             adds r1, r4
             str r1, [sp, #{ORIGIN}]
             ldr r5, [sp, #{LINE}]
             ldr r4, {}
             adds r5, r4
             str r5, [sp, #{LINE}]
             ldr r4, {}
             ldr r3, {}
             b 87f",
            slot(window::STEP_Y),
            slot(window::STRIDE_Y),
            slot(window::FIRST_COLUMN),
            slot(window::OUTPUT_COLUMNS)
        ));
    });
    a.total(windows - lines, |a| {
        a.label(86);
        a.ops(&format!(
            "ldr r1, [sp, #{BASE}]
             ldr r4, {}
             adds r1, r4
             ldr r4, [sp, #{COLUMN}]
             ldr r5, {}
             adds r4, r5",
            slot(window::STEP_X),
            slot(window::STRIDE_X)
        ));
    });
    a.total(windows, |a| {
        a.label(87);
        a.ops(&format!(
            "str r1, [sp, #{BASE}]
             str r4, [sp, #{COLUMN}]
             str r3, [sp, #{COLUMNS}]
             ldr r4, [sp, #{RETURN}]
             bx r4"
        ));
    });
}

// Frame of `rows`.
const R_X: usize = 0;
const R_Y: usize = 4;
const R_BLOCKS: usize = 8;
const R_ROWS: usize = 12;
const R_TAIL: usize = 16;
// A copy of the header, in which addresses follow.
const R_K: usize = 20;
const R_MINUS_K: usize = 24;
const R_LEFT: usize = 28;
const R_TAILS: usize = 32;
const R_ROUND: usize = 36;
const R_BYTES: usize = 40;
const R_FRAME: usize = 44;

/// Channels of a block of [`rows`].
pub const ROW_CHANNELS: usize = 4;

/// Words in front of the weights of [`rows`].
pub fn row_header(product: &Product, zero: i32) -> Vec<i64> {
    let (k, channels) = (product.k as i64, product.channels as i64);
    let block = ROW_CHANNELS as i64;
    let bytes = channels / block * block * (k + 8);
    vec![k, -k, product.pixels as i64, channels % block, rounding(zero, product.clamp), bytes]
}

/// One row of the operand at a time, four channels at a time: for few rows.
pub fn rows(product: &Product) -> Assembly {
    let Product { pixels, channels, .. } = *product;
    let doc = vec![
        "Sums of products with constant weights, requantized: a row of the operand by four channels.".to_owned(),
        "For four channels: 4 biases, a word of 4 weights for each element, 4 multipliers; then single channels."
            .to_owned(),
        "r0 end of the row, r5 element counted from there, r1 constants, r2 weights, r3 product, r4 element, r8-r11 sums."
            .to_owned(),
    ];
    let mut a = Assembly::new("linear", doc, THUMB);
    enter(&mut a, R_FRAME);
    a.op(format!("add r4, sp, #{R_K}"));
    a.repeat(2, |a| a.ops("ldmia r2!, {r5-r7}\n stmia r4!, {r5-r7}"));
    a.ops(&format!(
        "str r1, [sp, #{R_Y}]
         str r2, [sp, #{R_ROWS}]
         ldr r4, [sp, #{R_BYTES}]
         adds r4, r2
         str r4, [sp, #{R_BLOCKS}]
         str r0, [sp, #{R_X}]"
    ));
    let (blocks, tails) = (channels / ROW_CHANNELS, channels % ROW_CHANNELS);
    a.passes(pixels as u64, |a| {
        a.label(2);
        a.ops(&format!(
            "ldr r0, [sp, #{R_X}]
             ldr r4, [sp, #{R_K}]
             adds r0, r4
             str r0, [sp, #{R_X}]
             ldr r1, [sp, #{R_ROWS}]"
        ));
        if blocks > 0 {
            a.passes(blocks as u64, |a| four_channels(a, product));
        }
        if tails > 0 {
            a.ops(&format!("ldr r4, [sp, #{R_TAILS}]\n str r4, [sp, #{R_TAIL}]"));
            a.passes(tails as u64, |a| one_channel(a, product));
        }
        a.ops(&format!("ldr r4, [sp, #{R_LEFT}]\n subs r4, #1\n str r4, [sp, #{R_LEFT}]\n beq 3f"));
    });
    a.total(pixels as u64 - 1, |a| a.op("b 2b"));
    a.label(3);
    leave(&mut a, R_FRAME);
    a
}

fn four_channels(a: &mut Assembly, product: &Product) {
    let k = product.k;
    let unrolled = [4, 2, 1].into_iter().find(|&steps| k.is_multiple_of(steps)).unwrap_or(1);
    let sums = ["r8", "r9", "r10", "r11"];
    a.label(4);
    a.ops("ldmia r1!, {r2-r5}\n mov r8, r2\n mov r9, r3\n mov r10, r4\n mov r11, r5");
    a.op(format!("ldr r5, [sp, #{R_MINUS_K}]"));
    a.passes((k / unrolled) as u64, |a| {
        a.label(5);
        a.repeat(unrolled as u32, |a| {
            a.ops("ldmia r1!, {r2}\n ldrsb r4, [r0, r5]");
            for sum in &sums[..3] {
                a.ops(&format!("sxtb r3, r2\n muls r3, r4\n add {sum}, r3\n asrs r2, #8"));
            }
            a.ops("muls r2, r4\n add r11, r2\n adds r5, #1");
        });
        // The index has become 0 at the end of the row.
        a.op("bne 5b");
    });
    a.ops(&format!(
        "mov lr, r1
         movs r5, #{}
         ldr r6, [sp, #{R_ROUND}]
         ldr r7, [sp, #{R_Y}]",
        product.clamp.hi - product.clamp.lo
    ));
    for sum in sums {
        a.ops(&format!("mov r1, lr\n ldmia r1!, {{r3}}\n mov lr, r1\n uxth r2, r3\n lsrs r3, r3, #16\n mov r0, {sum}"));
        requantize(a, product.clamp);
        a.ops("strb r0, [r7]\n adds r7, #1");
    }
    a.ops(&format!(
        "str r7, [sp, #{R_Y}]
         ldr r0, [sp, #{R_X}]
         mov r1, lr
         ldr r4, [sp, #{R_BLOCKS}]
         cmp r1, r4
         beq 6f"
    ));
    a.total((product.pixels * (product.channels / ROW_CHANNELS - 1)) as u64, |a| a.op("b 4b"));
    a.label(6);
}

fn one_channel(a: &mut Assembly, product: &Product) {
    a.label(7);
    a.ops(&format!(
        "ldmia r1!, {{r2}}
         ldr r4, [sp, #{R_K}]
         adds r1, r4
         ldr r5, [sp, #{R_MINUS_K}]"
    ));
    a.passes(product.k as u64, |a| {
        a.label(8);
        a.ops("ldrsb r3, [r1, r5]\n ldrsb r4, [r0, r5]\n muls r3, r4\n adds r2, r3\n adds r5, #1\n bne 8b");
    });
    a.ops(&format!(
        "movs r4, #3
         adds r1, #3
         bics r1, r4
         ldmia r1!, {{r3}}
         mov lr, r1
         mov r0, r2
         uxth r2, r3
         lsrs r3, r3, #16
         movs r5, #{}
         ldr r6, [sp, #{R_ROUND}]
         ldr r7, [sp, #{R_Y}]",
        product.clamp.hi - product.clamp.lo
    ));
    requantize(a, product.clamp);
    a.ops(&format!(
        "strb r0, [r7]
         adds r7, #1
         str r7, [sp, #{R_Y}]
         ldr r0, [sp, #{R_X}]
         mov r1, lr
         ldr r4, [sp, #{R_TAIL}]
         subs r4, #1
         str r4, [sp, #{R_TAIL}]
         bne 7b"
    ));
}
