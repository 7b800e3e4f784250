//! Convolutions and linear layers in Thumb-2 without the DSP extension (Cortex-M3): MLA on single bytes.

use super::shape::window::{
    self, DILATION, FILL, FIRST_COLUMN, FIRST_LINE, HEIGHT, KERNEL_ROWS, NEXT_ROW, OUTPUT_COLUMNS, PLANE_STRIDE,
    PLANES, ROOM, RUN, START, STEP, STEP_X, STEP_Y, STRIDE_X, STRIDE_Y,
};
use super::shape::{Patches, Product};
use crate::ir::Clamp;
use crate::kernels::thumb::THUMB2;
use crate::program::Assembly;

/// Steps of the inner loop that are written out.
pub const UNROLLED: usize = 8;

/// Channels of a block of [`pairs`].
pub const PAIR_CHANNELS: usize = 4;

/// Channels of a block of [`rows`].
pub const ROW_CHANNELS: usize = 8;

// Frame of `pairs`, offsets from the stack pointer.
const X0: usize = 0;
const Y0: usize = 8;
const Y1: usize = 12;
const END: usize = 16;
const LAST: usize = 20;
const ZERO: usize = 24;
const BLOCKS: usize = 28;
const LEFT: usize = 32;
const ROWS: usize = 36;
const K: usize = 40;
const CHANNELS: usize = 44;
const TAIL: usize = 48;
const TAILS: usize = 52;
const MAIN: usize = 56;
const NEXT: usize = 60;
// Where windows are gathered, by any kernel:
pub const HEAD: usize = 64;
pub const BASE: usize = 68;
pub const COLUMN: usize = 72;
pub const LINE: usize = 76;
pub const ORIGIN: usize = 80;
pub const COLUMNS: usize = 84;
const RETURN: usize = 88;

/// Words in front of the rows of weights that both kernels read.
pub fn header(product: &Product, block: usize, zero: i32) -> Vec<i64> {
    let Product { k, channels, pixels, .. } = *product;
    let block_bytes = 8 * block + block * k;
    let words = [k, channels, k / UNROLLED * UNROLLED, channels / block * block_bytes, channels % block, pixels];
    words.iter().map(|&word| word as i64).chain([i64::from(zero)]).collect()
}

/// Bytes of working memory: two patches.
pub fn scratch(product: &Product) -> usize {
    if product.patches.is_some() { 2 * product.k.next_multiple_of(4) } else { 0 }
}

/// Two rows of the operand at a time, four channels at a time.
pub fn pairs(product: &Product) -> Assembly {
    let Product { pixels, k, channels, .. } = *product;
    let pair_count = pixels.div_ceil(2) as u64;
    let kind = if product.patches.is_some() { "conv" } else { "pointwise" };
    let mut a = Assembly::new(kind, doc(product), THUMB2);
    let has = Loops::new(k, channels, PAIR_CHANNELS);
    let frame = if product.patches.is_some() { WINDOW_FRAME } else { 64 };
    let blob = if product.patches.is_some() { "r3" } else { "r2" };
    a.ops(&format!(
        "push {{r4-r11, lr}}
         sub sp, #{frame}
         ldmia {blob}!, {{r4-r10}}
         strd r4, r5, [sp, #{K}]
         str r6, [sp, #{MAIN}]
         str r8, [sp, #{TAILS}]
         str r10, [sp, #{ZERO}]
         str r1, [sp, #{Y1}]"
    ));
    match &product.patches {
        None => a.ops(&format!("str r0, [sp, #{NEXT}]")),
        Some(_) => a.ops(&format!(
            "add r6, r2
             add r10, r2, r4
             strd r6, r10, [sp, #{END}]
             add r4, #3
             bic r4, #3
             add r4, r2
             strd r2, r4, [sp, #{X0}]"
        )),
    }
    if product.patches.is_some() {
        start_windows(&mut a);
    }
    a.ops(&format!("add r7, {blob}\n strd r7, r9, [sp, #{BLOCKS}]\n str {blob}, [sp, #{ROWS}]"));
    a.passes(pair_count, |a| {
        a.label(2);
        match &product.patches {
            None => dense_pair(a, has),
            Some(_) => gathered_pair(a, pixels),
        }
        a.op(format!("ldr r2, [sp, #{ROWS}]"));
        if has.tail_channels {
            a.ops(&format!("ldr r5, [sp, #{TAILS}]\n str r5, [sp, #{TAIL}]"));
        }
        if has.blocks {
            a.passes((channels / PAIR_CHANNELS) as u64, |a| four_channels(a, product, has));
        }
        if has.tail_channels {
            a.passes((channels % PAIR_CHANNELS) as u64, |a| one_channel(a, product, has));
        }
        a.ops(&format!("ldr r6, [sp, #{LEFT}]\n cmp r6, #0\n bgt 2b"));
    });
    a.ops(&format!("add sp, #{frame}\n pop {{r4-r11, pc}}"));
    if let Some(patches) = &product.patches {
        gather(&mut a, patches);
    }
    a
}

/// Bytes of the frame of a kernel that gathers windows.
pub const WINDOW_FRAME: usize = 92;

/// Reads the words that describe windows at r3, which is then behind them. r0 is the operand. Uses r12.
pub fn start_windows(a: &mut Assembly) {
    a.ops(&format!(
        "str r3, [sp, #{HEAD}]
         ldr r12, [r3, #{START}]
         add r12, r0
         str r12, [sp, #{BASE}]
         str r12, [sp, #{ORIGIN}]
         ldr r12, [r3, #{FIRST_COLUMN}]
         str r12, [sp, #{COLUMN}]
         ldr r12, [r3, #{FIRST_LINE}]
         str r12, [sp, #{LINE}]
         ldr r12, [r3, #{OUTPUT_COLUMNS}]
         str r12, [sp, #{COLUMNS}]
         add r3, #{}",
        4 * window::WORDS
    ));
}

/// Which loops a text has: a loop without passes is left out.
#[derive(Debug, Clone, Copy)]
struct Loops {
    main: bool,
    rest: bool,
    blocks: bool,
    tail_channels: bool,
}

impl Loops {
    fn new(k: usize, channels: usize, block: usize) -> Loops {
        Loops {
            main: k >= UNROLLED,
            rest: !k.is_multiple_of(UNROLLED),
            blocks: channels >= block,
            tail_channels: !channels.is_multiple_of(block),
        }
    }
}

fn doc(product: &Product) -> Vec<String> {
    let rows = match product.patches {
        None => "The rows of the operand lie one behind the other.",
        Some(_) => "The windows are copied into working memory, two at a time; outside of the input is its zero point.",
    };
    let mut lines = vec![
        "Sums of products with constant weights, requantized: two rows of the operand by four channels.".to_owned(),
        rows.to_owned(),
        "Weights: for four channels 4 biases, 4 weights for each element of a row, 4 multipliers; then single channels."
            .to_owned(),
        "r0, r1 rows of x; r2 constants; r3, r4 elements; r5 weight; r6-r9 and r10-r12, lr sums.".to_owned(),
    ];
    if product.clamp != FULL {
        lines.push(format!("Results are between {} and {}.", product.clamp.lo, product.clamp.hi));
    }
    lines
}

const FULL: Clamp = Clamp { lo: -128, hi: 127 };

/// Addresses of the next two rows and their results; the last row may be alone, then it is computed twice.
fn dense_pair(a: &mut Assembly, has: Loops) {
    a.ops(&format!(
        "ldr r0, [sp, #{NEXT}]
         ldrd r3, r4, [sp, #{K}]
         ldr r5, [sp, #{Y1}]
         ldr r6, [sp, #{LEFT}]
         add r1, r0, r3
         add r7, r5, r4
         subs r6, #2
         itt mi
         movmi r1, r0
         movmi r7, r5
         str r6, [sp, #{LEFT}]
         strd r0, r1, [sp, #{X0}]
         strd r5, r7, [sp, #{Y0}]
         add r6, r1, r3
         str r6, [sp, #{NEXT}]"
    ));
    if has.main {
        a.ops(&format!("ldr r4, [sp, #{MAIN}]\n add r4, r0\n str r4, [sp, #{END}]"));
    }
    if has.rest {
        a.ops(&format!("add r3, r0\n str r3, [sp, #{LAST}]"));
    }
}

/// Gathers the next two windows. If there is only one, the second result is overwritten by the first.
fn gathered_pair(a: &mut Assembly, pixels: usize) {
    a.ops(&format!(
        "ldr r2, [sp, #{X0}]
         bl 90f
         ldr r6, [sp, #{LEFT}]
         ldr r5, [sp, #{Y1}]
         ldr r4, [sp, #{CHANNELS}]
         add r7, r5, r4
         subs r6, #2
         str r6, [sp, #{LEFT}]
         it mi
         movmi r7, r5
         strd r5, r7, [sp, #{Y0}]
         bmi 9f"
    ));
    a.total((pixels / 2) as u64, |a| a.ops(&format!("ldr r2, [sp, #{}]\n bl 90f", X0 + 4)));
    a.label(9);
}

fn four_channels(a: &mut Assembly, product: &Product, has: Loops) {
    let sums = [["r6", "r10"], ["r7", "r11"], ["r8", "r12"], ["r9", "lr"]];
    a.label(3);
    a.ops(&format!("ldmia r2!, {{r6-r9}}\n ldrd r0, r1, [sp, #{X0}]"));
    sums.iter().for_each(|[first, second]| a.op(format!("mov {second}, {first}")));
    let step = |a: &mut Assembly, x: [String; 2], weights: [String; 4]| {
        a.ops(&format!("ldrsb r3, {}\n ldrsb r4, {}", x[0], x[1]));
        for (weight, [first, second]) in weights.iter().zip(sums) {
            a.ops(&format!("ldrsb r5, {weight}\n mla {first}, r3, r5, {first}\n mla {second}, r4, r5, {second}"));
        }
    };
    if has.main {
        a.passes((product.k / UNROLLED) as u64, |a| {
            a.label(4);
            for i in 0..UNROLLED {
                let at = |register: &str, offset: usize, size: usize| match offset {
                    0 => format!("[{register}], #{size}"),
                    _ => format!("[{register}, #-{}]", size - offset),
                };
                let weights = [0, 1, 2, 3].map(|c| at("r2", 4 * i + c, 4 * UNROLLED));
                step(a, [at("r0", i, UNROLLED), at("r1", i, UNROLLED)], weights);
            }
            a.ops(&format!("ldr r5, [sp, #{END}]\n cmp r0, r5\n bne 4b"));
        });
    }
    if has.rest {
        a.passes((product.k % UNROLLED) as u64, |a| {
            a.label(5);
            let weights = [0, 1, 2, 3].map(|_| "[r2], #1".to_owned());
            step(a, ["[r0], #1".to_owned(), "[r1], #1".to_owned()], weights);
            a.ops(&format!("ldr r5, [sp, #{LAST}]\n cmp r0, r5\n bne 5b"));
        });
    }
    a.ops(&format!("ldrd r3, r4, [sp, #{Y0}]\n ldr r1, [sp, #{ZERO}]"));
    for [first, second] in sums {
        a.op("ldr r0, [r2], #4");
        requantize(a, [second, "r5", "r0", "r1"], product.clamp);
        a.op(format!("strb {second}, [r4], #1"));
        requantize(a, [first, "r5", "r0", "r1"], product.clamp);
        a.op(format!("strb {first}, [r3], #1"));
    }
    a.ops(&format!("strd r3, r4, [sp, #{Y0}]\n ldr r5, [sp, #{BLOCKS}]\n cmp r2, r5\n bne 3b"));
}

fn one_channel(a: &mut Assembly, product: &Product, has: Loops) {
    a.label(6);
    a.ops(&format!("ldr r6, [r2], #4\n ldrd r0, r1, [sp, #{X0}]\n mov r7, r6"));
    let step = |a: &mut Assembly| {
        a.ops(
            "ldrsb r3, [r0], #1
             ldrsb r4, [r1], #1
             ldrsb r5, [r2], #1
             mla r6, r3, r5, r6
             mla r7, r4, r5, r7",
        );
    };
    if has.main {
        a.op(format!("ldr r8, [sp, #{END}]"));
        a.passes((product.k / UNROLLED) as u64, |a| {
            a.label(7);
            a.repeat(UNROLLED as u32, step);
            a.ops("cmp r0, r8\n bne 7b");
        });
    }
    if has.rest {
        a.op(format!("ldr r8, [sp, #{LAST}]"));
        a.passes((product.k % UNROLLED) as u64, |a| {
            a.label(8);
            step(a);
            a.ops("cmp r0, r8\n bne 8b");
        });
    }
    a.ops(&format!("ldrd r3, r4, [sp, #{Y0}]\n ldr r1, [sp, #{ZERO}]\n ldr r0, [r2], #4"));
    requantize(a, ["r7", "r5", "r0", "r1"], product.clamp);
    a.op("strb r7, [r4], #1");
    requantize(a, ["r6", "r5", "r0", "r1"], product.clamp);
    a.ops(&format!(
        "strb r6, [r3], #1
         strd r3, r4, [sp, #{Y0}]
         ldr r5, [sp, #{TAIL}]
         subs r5, #1
         str r5, [sp, #{TAIL}]
         bne 6b"
    ));
}

/// `sum = clamp(zero + ((sum * 2M + 2^31) >> 32))`: the carry of the shift is the bit that rounds up.
pub fn requantize(a: &mut Assembly, [sum, low, multiplier, zero]: [&str; 4], clamp: Clamp) {
    a.ops(&format!("smull {low}, {sum}, {sum}, {multiplier}\n lsls {low}, {low}, #1\n adc {sum}, {sum}, {zero}"));
    if clamp == FULL {
        return a.op(format!("ssat {sum}, #8, {sum}"));
    }
    let Clamp { lo, hi } = clamp;
    a.ops(&format!("cmp {sum}, #{lo}\n it lt\n movlt {sum}, #{lo}\n cmp {sum}, #{hi}\n it gt\n movgt {sum}, #{hi}"));
}

/// Longest run whose copy is written out.
const LONGEST_RUN: usize = 64;

/// A subroutine: copies the window to r2 and steps to the next.
pub fn gather(a: &mut Assembly, patches: &Patches) {
    let clips = patches.clips();
    let windows = (patches.outputs[0] * patches.outputs[1]) as u64;
    let written_out = patches.run() <= LONGEST_RUN && patches.interior() > 0;
    a.total(windows, |a| {
        a.label(90);
        a.comment("A window: r1 its planes, r3 bytes to fill, r5 to copy, r6 to fill; r12 rows, r9 lines.");
        a.ops(&format!(
            "str lr, [sp, #{RETURN}]
             ldr r0, [sp, #{HEAD}]
             ldr r1, [sp, #{BASE}]
             ldr r11, [r0, #{PLANES}]"
        ));
        if clips {
            a.ops(&format!(
                "ldr r4, [sp, #{COLUMN}]
                 ldr r6, [r0, #{ROOM}]
                 rsb r3, r4, #0
                 bic r3, r3, r3, asr #31
                 sub r6, r4, r6
                 bic r6, r6, r6, asr #31"
            ));
        }
    });
    if written_out {
        inner_window(a, patches, clips);
    }
    if clips || !written_out {
        any_window(a, patches, clips, !written_out);
    }
    a.label(85);
    step_window(a, patches, windows);
}

/// A window inside of the input, its runs written out.
fn inner_window(a: &mut Assembly, patches: &Patches, clips: bool) {
    let windows = (patches.outputs[0] * patches.outputs[1]) as u64;
    if clips {
        let in_columns = windows - patches.clipped_columns() * patches.outputs[0] as u64;
        a.total(windows, |a| a.ops("orrs r4, r3, r6\n bne 70f"));
        a.total(in_columns, |a| {
            a.ops(&format!("ldr r9, [sp, #{LINE}]\n ldr r4, [r0, #{HEIGHT}]"));
            a.ops(&format!("sub r4, #{}\n cmp r9, r4\n bhs 70f", (patches.kernel[0] - 1) * patches.dilation));
        });
    }
    let interior = patches.interior();
    a.total(interior, |a| a.op(format!("ldr r4, [r0, #{NEXT_ROW}]")));
    a.total(interior * patches.planes as u64, |a| {
        a.label(68);
        a.ops(&format!("mov r12, r1\n ldr r10, [r0, #{KERNEL_ROWS}]"));
    });
    a.total(interior * (patches.planes * patches.kernel[0]) as u64, |a| {
        a.label(69);
        let run = patches.run();
        (0..run / 4).for_each(|i| a.ops(&format!("ldr r7, [r12, #{}]\n str r7, [r2], #4", 4 * i)));
        (run / 4 * 4..run).for_each(|i| a.ops(&format!("ldrb r7, [r12, #{i}]\n strb r7, [r2], #1")));
        a.ops("add r12, r4\n subs r10, #1\n bne 69b");
    });
    a.total(interior * patches.planes as u64, |a| {
        a.ops(&format!("ldr r5, [r0, #{PLANE_STRIDE}]\n add r1, r5\n subs r11, #1\n bne 68b"));
    });
    if clips {
        a.total(interior, |a| a.op("b 85f"));
    }
}

/// A window that may reach outside of the input. `interior` tells that all windows come here.
fn any_window(a: &mut Assembly, patches: &Patches, clips: bool, interior: bool) {
    let census = patches.census(interior);
    let runs = census.inside + census.outside;
    let planes = census.windows * patches.planes as u64;
    a.label(70);
    a.total(census.windows, |a| {
        a.op(format!("ldr r5, [r0, #{RUN}]"));
        if clips {
            a.ops(&format!(
                "ldr r7, [r0, #{STEP}]
                 mul r3, r3, r7
                 mul r6, r6, r7
                 sub r5, r5, r3
                 sub r5, r5, r6
                 add r1, r1, r3
                 ldr r8, [r0, #{FILL}]"
            ));
        }
    });
    a.total(planes, |a| {
        a.label(91);
        a.ops(&format!("mov r12, r1\n ldr r10, [r0, #{KERNEL_ROWS}]"));
        if clips {
            a.op(format!("ldr r9, [sp, #{LINE}]"));
        }
    });
    a.label(92);
    if clips {
        a.total(runs, |a| a.ops(&format!("ldr r4, [r0, #{HEIGHT}]\n cmp r9, r4\n bhs 82f")));
        a.total(census.inside, |a| a.ops("movs r4, r3\n beq 72f"));
        fill(a, 71, census.left_bytes);
        a.label(72);
    }
    copy(a, &census);
    if clips {
        a.total(census.inside, |a| a.ops("movs r4, r6\n beq 84f"));
        fill(a, 79, census.right_bytes);
        a.total(census.right, |a| a.op("b 84f"));
        a.label(82);
        a.total(census.outside, |a| a.op(format!("ldr r4, [r0, #{RUN}]")));
        fill(a, 83, census.outside * patches.run() as u64);
        a.label(84);
        a.total(runs, |a| a.ops(&format!("ldr r4, [r0, #{DILATION}]\n add r9, r4")));
    }
    a.total(runs, |a| a.ops(&format!("ldr r4, [r0, #{NEXT_ROW}]\n add r12, r4\n subs r10, #1\n bne 92b")));
    a.total(planes, |a| {
        a.ops(&format!("ldr r4, [r0, #{PLANE_STRIDE}]\n add r1, r4\n subs r11, #1\n bne 91b"));
    });
}

/// Writes r4 bytes of r8.
fn fill(a: &mut Assembly, label: u32, bytes: u64) {
    a.total(bytes, |a| {
        a.label(label);
        a.ops(&format!("strb r8, [r2], #1\n subs r4, #1\n bne {label}b"));
    });
}

/// Copies r5 bytes from r12: by words, then by bytes.
fn copy(a: &mut Assembly, census: &super::shape::Census) {
    a.total(census.inside, |a| a.ops("mov lr, r12\n subs r4, r5, #8\n blo 74f"));
    a.total(census.eights, |a| {
        a.label(73);
        a.ops(
            "ldr r7, [lr], #4
             str r7, [r2], #4
             ldr r7, [lr], #4
             str r7, [r2], #4
             subs r4, #8
             bhs 73b",
        );
    });
    a.label(74);
    a.total(census.inside, |a| a.ops("tst r4, #4\n beq 75f"));
    a.total(census.fours, |a| a.ops("ldr r7, [lr], #4\n str r7, [r2], #4"));
    a.label(75);
    a.total(census.inside, |a| a.ops("ands r4, #3\n beq 77f"));
    a.total(census.bytes, |a| {
        a.label(76);
        a.ops("ldrb r7, [lr], #1\n strb r7, [r2], #1\n subs r4, #1\n bne 76b");
    });
    a.label(77);
}

fn step_window(a: &mut Assembly, patches: &Patches, windows: u64) {
    let lines = patches.outputs[0] as u64;
    a.total(windows, |a| a.ops(&format!("ldr r3, [sp, #{COLUMNS}]\n subs r3, #1\n bne 86f")));
    a.total(lines, |a| {
        a.ops(&format!(
            "ldr r1, [sp, #{ORIGIN}]
             ldr r4, [r0, #{STEP_Y}]
             add r1, r4
             str r1, [sp, #{ORIGIN}]
             ldr r5, [sp, #{LINE}]
             ldr r4, [r0, #{STRIDE_Y}]
             add r5, r4
             str r5, [sp, #{LINE}]
             ldr r4, [r0, #{FIRST_COLUMN}]
             ldr r3, [r0, #{OUTPUT_COLUMNS}]
             b 87f"
        ));
    });
    a.total(windows - lines, |a| {
        a.label(86);
        a.ops(&format!(
            "ldr r1, [sp, #{BASE}]
             ldr r4, [r0, #{STEP_X}]
             add r1, r4
             ldr r4, [sp, #{COLUMN}]
             ldr r5, [r0, #{STRIDE_X}]
             add r4, r5"
        ));
    });
    a.total(windows, |a| {
        a.label(87);
        a.ops(&format!("strd r1, r4, [sp, #{BASE}]\n str r3, [sp, #{COLUMNS}]\n ldr pc, [sp, #{RETURN}]"));
    });
}

// Frame of `rows`.
const R_X: usize = 0;
const R_Y: usize = 4;
const R_MAIN: usize = 8;
const R_LAST: usize = 12;
const R_ZERO: usize = 16;
const R_BLOCKS: usize = 20;
const R_LEFT: usize = 24;
const R_ROWS: usize = 28;
const R_K: usize = 32;
const R_TAIL: usize = 36;
const R_TAILS: usize = 40;

/// One row of the operand at a time, eight channels at a time: for few rows.
pub fn rows(product: &Product) -> Assembly {
    let Product { pixels, k, channels, .. } = *product;
    let has = Loops::new(k, channels, ROW_CHANNELS);
    let doc = vec![
        "Sums of products with constant weights, requantized: a row of the operand by eight channels.".to_owned(),
        "Weights: for eight channels 8 biases, 8 weights for each element of a row, 8 multipliers; then single channels."
            .to_owned(),
        "r0 row of x, r1 its end, r2 constants, r3 element, r4, r5 weights, r6-r12 and lr sums.".to_owned(),
    ];
    let mut a = Assembly::new("linear", doc, THUMB2);
    a.ops(&format!(
        "push {{r4-r11, lr}}
         sub sp, #44
         strd r0, r1, [sp, #{R_X}]
         ldmia r2!, {{r4-r10}}
         str r4, [sp, #{R_K}]
         str r6, [sp, #{R_MAIN}]
         str r8, [sp, #{R_TAILS}]
         str r9, [sp, #{R_LEFT}]
         str r10, [sp, #{R_ZERO}]
         add r7, r2
         str r7, [sp, #{R_BLOCKS}]
         str r2, [sp, #{R_ROWS}]"
    ));
    a.passes(pixels as u64, |a| {
        a.label(2);
        a.ops(&format!("ldr r2, [sp, #{R_ROWS}]\n ldr r5, [sp, #{R_TAILS}]\n str r5, [sp, #{R_TAIL}]"));
        if has.blocks {
            a.passes((channels / ROW_CHANNELS) as u64, |a| eight_channels(a, product, has));
        }
        if has.tail_channels {
            a.passes((channels % ROW_CHANNELS) as u64, |a| one_channel_of_a_row(a, product, has));
        }
        a.ops(&format!(
            "ldr r0, [sp, #{R_X}]
             ldr r1, [sp, #{R_K}]
             add r0, r1
             str r0, [sp, #{R_X}]
             ldr r5, [sp, #{R_LEFT}]
             subs r5, #1
             str r5, [sp, #{R_LEFT}]
             bne 2b"
        ));
    });
    a.ops("add sp, #44\n pop {r4-r11, pc}");
    a
}

/// r0 the row, r1 where the main loop ends.
fn start_row(a: &mut Assembly, has: Loops) {
    let slot = if has.main { R_MAIN } else { R_K };
    a.ops(&format!("ldr r0, [sp, #{R_X}]\n ldr r1, [sp, #{slot}]\n add r1, r0"));
    if has.main && has.rest {
        a.ops(&format!("ldr r3, [sp, #{R_K}]\n add r3, r0\n str r3, [sp, #{R_LAST}]"));
    }
}

/// The loops over a row; `step(i)` gets `None` where all pointers advance by themselves.
fn row_loops(a: &mut Assembly, k: usize, has: Loops, labels: [u32; 2], step: &dyn Fn(&mut Assembly, Option<usize>)) {
    if has.main {
        a.passes((k / UNROLLED) as u64, |a| {
            a.label(labels[0]);
            (0..UNROLLED).for_each(|i| step(a, Some(i)));
            a.ops(&format!("cmp r0, r1\n bne {}b", labels[0]));
        });
    }
    if has.main && has.rest {
        a.op(format!("ldr r1, [sp, #{R_LAST}]"));
    }
    if has.rest {
        a.passes((k % UNROLLED) as u64, |a| {
            a.label(labels[1]);
            step(a, None);
            a.ops(&format!("cmp r0, r1\n bne {}b", labels[1]));
        });
    }
}

fn eight_channels(a: &mut Assembly, product: &Product, has: Loops) {
    let sums = ["r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr"];
    a.label(3);
    start_row(a, has);
    a.op("ldmia r2!, {r6-r12, lr}");
    row_loops(a, product.k, has, [4, 5], &|a, i| {
        a.op("ldrsb r3, [r0], #1");
        let weight = |c: usize| match i {
            None => "[r2], #1".to_owned(),
            Some(0) if c == 0 => format!("[r2], #{}", 8 * UNROLLED),
            Some(i) => format!("[r2, #-{}]", 8 * UNROLLED - 8 * i - c),
        };
        for c in (0..8).step_by(2) {
            a.ops(&format!("ldrsb r4, {}\n ldrsb r5, {}", weight(c), weight(c + 1)));
            a.ops(&format!("mla {0}, r3, r4, {0}\n mla {1}, r3, r5, {1}", sums[c], sums[c + 1]));
        }
    });
    a.ops(&format!("ldr r0, [sp, #{R_Y}]\n ldr r1, [sp, #{R_ZERO}]"));
    for sum in sums {
        a.op("ldr r3, [r2], #4");
        requantize(a, [sum, "r4", "r3", "r1"], product.clamp);
        a.op(format!("strb {sum}, [r0], #1"));
    }
    a.ops(&format!("str r0, [sp, #{R_Y}]\n ldr r5, [sp, #{R_BLOCKS}]\n cmp r2, r5\n bne 3b"));
}

fn one_channel_of_a_row(a: &mut Assembly, product: &Product, has: Loops) {
    a.label(6);
    start_row(a, has);
    a.op("ldr r6, [r2], #4");
    row_loops(a, product.k, has, [7, 8], &|a, _| {
        a.ops("ldrsb r3, [r0], #1\n ldrsb r4, [r2], #1\n mla r6, r3, r4, r6");
    });
    a.ops(&format!("ldr r0, [sp, #{R_Y}]\n ldr r1, [sp, #{R_ZERO}]\n ldr r3, [r2], #4"));
    requantize(a, ["r6", "r4", "r3", "r1"], product.clamp);
    a.ops(&format!(
        "strb r6, [r0], #1
         str r0, [sp, #{R_Y}]
         ldr r5, [sp, #{R_TAIL}]
         subs r5, #1
         str r5, [sp, #{R_TAIL}]
         bne 6b"
    ));
}
