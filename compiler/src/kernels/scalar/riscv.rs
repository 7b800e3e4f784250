//! Convolutions and linear layers in RV32IM: two products with one multiplication, as on Cortex-M0+.

use super::pack::{self, Bytes, Row};
use super::shape::{Census, Patches, Product, window};
use crate::ir::Clamp;
use crate::program::{Assembly, Dialect};

/// Condition of the C preprocessor under which the text assembles.
const RV32M: &str = "defined(__riscv) && defined(__riscv_mul) && __riscv_xlen == 32";

/// Rows that are computed together.
pub const QUAD: usize = 4;

/// Channels that are computed together.
const CHANNELS_OF_BLOCK: usize = 4;

/// Steps of the inner loop that are written out.
const UNROLLED: usize = 4;

/// Bytes in which preserved registers are saved.
const SAVED: usize = 52;

// Frame of `quads`, offsets from the stack pointer.
const NEXT: usize = 0;
const WORDS: usize = 4;
const RESULTS: [usize; 4] = [8, 12, 16, 20];
const BLOCKS_END: usize = 24;
const ROWS: usize = 28;
const PATCH: usize = 32;
const BASE: usize = 36;
const COLUMN: usize = 40;
const LINE: usize = 44;
const ORIGIN: usize = 48;
const COLUMNS: usize = 52;
const END: usize = 56;
// A copy of the header.
const K: usize = 60;
const CHANNELS: usize = 64;
const LEFT: usize = 68;
const ROW_BYTES: usize = 72;
const CORRECTION: usize = 76;
const LOWEST: usize = 80;
const BLOCK_BYTES: usize = 84;
const ALL_BYTES: usize = 88;
const HEADER_WORDS: usize = 8;
const WINDOW: usize = K + 4 * HEADER_WORDS;

/// An empty function.
pub fn function(kernel: &str, doc: Vec<String>) -> Assembly {
    let mut a = Assembly::new(kernel, doc, RV32M);
    a.dialect = Dialect::RiscV;
    a
}

fn row_bytes(product: &Product) -> usize {
    product.k.next_multiple_of(UNROLLED)
}

/// Words in front of the rows of weights. `zero` is the result's.
pub fn header(product: &Product, zero: i32) -> Vec<i64> {
    let bytes = row_bytes(product);
    let channel = bytes + 8;
    let whole = product.channels / CHANNELS_OF_BLOCK * CHANNELS_OF_BLOCK;
    let words = [product.k, product.channels, product.pixels, bytes, (bytes / 2) << 15];
    let sizes = [whole * channel, product.channels * channel];
    let number = |value: &usize| *value as i64;
    words.iter().map(number).chain([lowest(zero, product.clamp)]).chain(sizes.iter().map(number)).collect()
}

/// The smallest result less the zero point.
pub fn lowest(zero: i32, clamp: Clamp) -> i64 {
    i64::from(clamp.lo - zero)
}

/// The channels.
pub fn blocks(rows: &[Row], bytes: &mut Bytes) {
    pack::paired(rows, CHANNELS_OF_BLOCK, UNROLLED, |row, bytes| bytes.word(row.bias), bytes);
}

/// Bytes of working memory: four rows as words, and four windows as they lie in memory.
pub fn scratch(product: &Product) -> usize {
    let patches = if product.patches.is_some() { QUAD * product.k } else { 0 };
    8 * row_bytes(product) + patches
}

/// Saves what has to be preserved and makes room on the stack.
pub fn enter(a: &mut Assembly, frame: usize) {
    let size = stack(frame);
    a.op(format!("addi sp, sp, -{size}"));
    preserved().enumerate().for_each(|(i, register)| a.op(format!("sw {register}, {}(sp)", size - 4 - 4 * i)));
}

/// The opposite of [`enter`], and returns.
pub fn leave(a: &mut Assembly, frame: usize) {
    let size = stack(frame);
    preserved().enumerate().for_each(|(i, register)| a.op(format!("lw {register}, {}(sp)", size - 4 - 4 * i)));
    a.ops(&format!("addi sp, sp, {size}\n ret"));
}

fn stack(frame: usize) -> usize {
    (frame + SAVED).next_multiple_of(16)
}

fn preserved() -> impl Iterator<Item = String> {
    std::iter::once("ra".to_owned()).chain((0..12).map(|i| format!("s{i}")))
}

/// Copies `words` words from `from` into the frame; `from` is then behind them. Uses t0, t1, t2.
pub fn copy_header(a: &mut Assembly, from: &str, at: usize, words: usize) {
    a.ops(&format!("addi t0, sp, {at}\n addi t1, {from}, {}", 4 * words));
    a.passes(words as u64, |a| {
        a.label(9);
        a.ops(&format!(
            "lw t2, 0({from})\n sw t2, 0(t0)\n addi {from}, {from}, 4\n addi t0, t0, 4\n bne {from}, t1, 9b"
        ));
    });
}

/// Four rows of the operand at a time, four channels at a time.
pub fn quads(product: &Product) -> Assembly {
    let Product { pixels, channels, .. } = *product;
    let mut a = function(if product.patches.is_some() { "conv" } else { "pointwise" }, doc(product));
    let window_words = if product.patches.is_some() { window::WORDS } else { 0 };
    let frame = WINDOW + 4 * window_words;
    enter(&mut a, frame);
    copy_header(&mut a, "a3", K, HEADER_WORDS + window_words);
    a.ops(&format!(
        "sw a3, {ROWS}(sp)
         lw t0, {BLOCK_BYTES}(sp)
         add t0, t0, a3
         sw t0, {BLOCKS_END}(sp)
         lw t0, {ALL_BYTES}(sp)
         add t0, t0, a3
         sw t0, {END}(sp)
         sw a2, {WORDS}(sp)
         sw a1, {}(sp)",
        RESULTS[3]
    ));
    match &product.patches {
        None => a.op(format!("sw a0, {NEXT}(sp)")),
        Some(_) => a.ops(&format!(
            "lw t0, {ROW_BYTES}(sp)
             slli t0, t0, 3
             add t0, t0, a2
             sw t0, {PATCH}(sp)
             lw t0, {}(sp)
             add t0, t0, a0
             sw t0, {BASE}(sp)
             sw t0, {ORIGIN}(sp)
             lw t0, {}(sp)
             sw t0, {COLUMN}(sp)
             lw t0, {}(sp)
             sw t0, {LINE}(sp)
             lw t0, {}(sp)
             sw t0, {COLUMNS}(sp)",
            WINDOW + window::START,
            WINDOW + window::FIRST_COLUMN,
            WINDOW + window::FIRST_LINE,
            WINDOW + window::OUTPUT_COLUMNS,
        )),
    }
    a.passes(pixels.div_ceil(QUAD) as u64, |a| {
        a.label(2);
        match product.patches.is_some() {
            true => gather_quad(a, pixels),
            false => a.op(format!("lw a0, {NEXT}(sp)")),
        }
        four_rows(a, pixels, product.patches.is_some());
        pack(a, product.k);
        a.op(format!("lw a1, {ROWS}(sp)"));
        if channels >= CHANNELS_OF_BLOCK {
            a.passes((channels / CHANNELS_OF_BLOCK) as u64, |a| {
                channels_by_rows(a, product, CHANNELS_OF_BLOCK, [20, 21], BLOCKS_END);
            });
        }
        if !channels.is_multiple_of(CHANNELS_OF_BLOCK) {
            let rest = channels % CHANNELS_OF_BLOCK;
            a.passes(rest as u64, |a| channels_by_rows(a, product, 1, [22, 23], END));
        }
        a.ops(&format!("lw t0, {LEFT}(sp)\n addi t0, t0, -4\n sw t0, {LEFT}(sp)\n bgtz t0, 2b"));
    });
    leave(&mut a, frame);
    if let Some(patches) = &product.patches {
        gather(&mut a, patches);
    }
    a
}

fn doc(product: &Product) -> Vec<String> {
    let mut lines = vec![
        "Sums of products with constant weights, requantized: four rows of the operand by four channels.".to_owned(),
        "A word holds an element of two rows, b * 2^16 + a; one product with a weight is two. Sums of two products keep \
         the halves apart; with 2^15 added, the upper half is exact."
            .to_owned(),
        "For four channels: biases, weights of two elements for each channel, multipliers; then single channels."
            .to_owned(),
        "a0 rows as words, a1 constants, a2 their end; a3-a6 elements, t0, t1 weights, t2, t3 products, t4 2^15; for \
         each channel and two rows the sum of everything and that of the upper halves."
            .to_owned(),
    ];
    if product.patches.is_some() {
        lines.push("Windows are copied into working memory; outside of the input is its zero point.".to_owned());
    }
    lines
}

/// The next four rows in a0-a3, and addresses of their results in the frame. Where fewer are left, the last is repeated.
fn four_rows(a: &mut Assembly, pixels: usize, gathered: bool) {
    a.ops(&format!("lw t0, {K}(sp)\n add a1, a0, t0\n add a2, a1, t0\n add a3, a2, t0"));
    if !gathered {
        a.ops(&format!("add t0, a3, t0\n sw t0, {NEXT}(sp)"));
    }
    a.ops(&format!(
        "lw a4, {}(sp)
         lw t0, {CHANNELS}(sp)
         add a5, a4, t0
         add a6, a5, t0
         add a7, a6, t0
         lw t1, {LEFT}(sp)
         li t2, 4
         bgeu t1, t2, 3f",
        RESULTS[3]
    ));
    let rest = pixels % QUAD;
    a.total(u64::from(rest > 0), |a| a.ops("mv a3, a2\n mv a7, a6\n li t2, 3\n bgeu t1, t2, 3f"));
    a.total(u64::from(rest == 1 || rest == 2), |a| {
        a.ops("mv a2, a1\n mv a3, a1\n mv a6, a5\n mv a7, a5\n li t2, 2\n bgeu t1, t2, 3f");
    });
    a.total(u64::from(rest == 1), |a| {
        a.ops("mv a1, a0\n mv a2, a0\n mv a3, a0\n mv a5, a4\n mv a6, a4\n mv a7, a4");
    });
    a.label(3);
    RESULTS.iter().enumerate().for_each(|(i, slot)| a.op(format!("sw a{}, {slot}(sp)", 4 + i)));
}

/// Writes four rows as words of two.
fn pack(a: &mut Assembly, k: usize) {
    let element = |a: &mut Assembly, at: usize| {
        for (pair, [low, high]) in [["a0", "a1"], ["a2", "a3"]].into_iter().enumerate() {
            a.ops(&format!(
                "lb t0, {at}({high})
                 slli t0, t0, 16
                 lb t1, {at}({low})
                 add t0, t0, t1
                 sw t0, {}(a4)",
                8 * at + 4 * pair
            ));
        }
    };
    let step = |a: &mut Assembly, elements: usize, label: u32| {
        a.label(label);
        (0..elements).for_each(|at| element(a, at));
        (0..4).for_each(|row| a.op(format!("addi a{row}, a{row}, {elements}")));
        a.ops(&format!("addi a4, a4, {}\n bne a4, a5, {label}b", 8 * elements));
    };
    a.ops(&format!("lw a4, {WORDS}(sp)\n lw a5, {K}(sp)"));
    if k >= UNROLLED {
        a.ops(&format!("andi t0, a5, -{UNROLLED}\n slli t0, t0, 3\n add a5, a4, t0"));
        a.passes((k / UNROLLED) as u64, |a| step(a, UNROLLED, 4));
    }
    if !k.is_multiple_of(UNROLLED) {
        a.ops(&format!("lw a5, {K}(sp)\n slli a5, a5, 3\n lw t0, {WORDS}(sp)\n add a5, a5, t0"));
        a.passes((k % UNROLLED) as u64, |a| step(a, 1, 5));
    }
}

/// For each channel and pair of rows: the sum of everything, and that of the upper halves.
const SUMS: [[[&str; 2]; 2]; 4] = [
    [["s0", "s1"], ["s2", "s3"]],
    [["s4", "s5"], ["s6", "s7"]],
    [["s8", "s9"], ["s10", "s11"]],
    [["t5", "t6"], ["a7", "ra"]],
];

fn channels_by_rows(a: &mut Assembly, product: &Product, channels: usize, labels: [u32; 2], end: usize) {
    let sums = &SUMS[..channels];
    let [block, inner] = labels;
    a.label(block);
    a.op(format!("lw t2, {CORRECTION}(sp)"));
    for (c, [[all, upper], [all2, upper2]]) in sums.iter().enumerate() {
        a.ops(&format!(
            "lw {upper}, {}(a1)
             mv {upper2}, {upper}
             slli t1, {upper}, 16
             add t1, t1, {upper}
             sub {all}, t1, t2
             mv {all2}, {all}",
            4 * c
        ));
    }
    a.ops(&format!("addi a1, a1, {}\n lw a0, {WORDS}(sp)\n lw a2, {ROW_BYTES}(sp)", 4 * channels));
    if channels > 1 {
        a.op(format!("slli a2, a2, {}", channels.trailing_zeros()));
    }
    a.ops("add a2, a2, a1\n lui t4, 8");
    a.passes((row_bytes(product) / UNROLLED) as u64, |a| {
        a.label(inner);
        for group in 0..UNROLLED / 2 {
            (0..4).for_each(|i| a.op(format!("lw a{}, {}(a0)", 3 + i, 16 * group + 4 * i)));
            for (c, pairs) in sums.iter().enumerate() {
                let at = 2 * channels * group + 2 * c;
                a.ops(&format!("lb t0, {at}(a1)\n lb t1, {}(a1)", at + 1));
                for (pair, [all, upper]) in pairs.iter().enumerate() {
                    a.ops(&format!(
                        "mul t2, t0, a{}
                         mul t3, t1, a{}
                         add t2, t2, t3
                         add t2, t2, t4
                         add {all}, {all}, t2
                         srai t2, t2, 16
                         add {upper}, {upper}, t2",
                        3 + pair,
                        5 + pair
                    ));
                }
            }
        }
        a.ops(&format!(
            "addi a0, a0, {}
             addi a1, a1, {}
             bne a1, a2, {inner}b",
            8 * UNROLLED,
            channels * UNROLLED
        ));
    });
    let rows = ["a0", "a2", "a3", "a4"];
    rows.iter().zip(RESULTS).for_each(|(row, slot)| a.op(format!("lw {row}, {slot}(sp)")));
    a.ops(&format!("lw t1, {LOWEST}(sp)\n li t2, {}", product.clamp.lo - product.clamp.hi));
    for (c, pairs) in sums.iter().enumerate() {
        a.op(format!("lw t0, {}(a1)", 4 * c));
        // From the last to the first: where rows are repeated, the first of them is the right one.
        for row in (0..QUAD).rev() {
            let [all, upper] = pairs[row / 2];
            let sum = match row % 2 {
                1 => upper,
                _ => {
                    a.ops(&format!("slli a5, {upper}, 16\n sub a5, {all}, a5"));
                    "a5"
                }
            };
            requantize(a, sum, ["a6", "t3", "t0", "t1", "t2"], product.clamp);
            a.op(format!("sb a6, {c}({})", rows[row]));
        }
    }
    for (row, slot) in rows.iter().zip(RESULTS) {
        a.ops(&format!("addi {row}, {row}, {channels}\n sw {row}, {slot}(sp)"));
    }
    a.ops(&format!("addi a1, a1, {}\n lw t0, {end}(sp)\n bne a1, t0, {block}b", 4 * channels));
}

/// `value = clamp(zero + ((sum * factor + 2^31) >> 32))`. Computed as its distance below the smallest result, then as its
/// distance above the largest: so a mask by the sign is a bound. `lowest` is the smallest result less the zero point,
/// `span` the smallest less the largest. `low` is overwritten.
pub fn requantize(a: &mut Assembly, sum: &str, [value, low, factor, lowest, span]: [&str; 5], clamp: Clamp) {
    a.ops(&format!(
        "mulh {value}, {sum}, {factor}
         mul {low}, {sum}, {factor}
         srli {low}, {low}, 31
         sub {value}, {lowest}, {value}
         sub {value}, {value}, {low}
         srai {low}, {value}, 31
         and {value}, {value}, {low}
         sub {value}, {span}, {value}
         srai {low}, {value}, 31
         and {value}, {value}, {low}
         addi {value}, {value}, {}",
        clamp.hi
    ));
}

/// Copies up to four windows, one behind the other; a0 is the first.
fn gather_quad(a: &mut Assembly, pixels: usize) {
    a.ops(&format!("lw a2, {PATCH}(sp)\n lw s3, {LEFT}(sp)\n li t1, 4\n bleu s3, t1, 6f"));
    a.total(((pixels - 1) / QUAD) as u64, |a| a.op("mv s3, t1"));
    a.label(6);
    a.total(pixels as u64, |a| {
        a.label(7);
        a.ops("jal t0, 90f\n addi s3, s3, -1\n bnez s3, 7b");
    });
    a.op(format!("lw a0, {PATCH}(sp)"));
}

/// A subroutine: copies the window to a2 and steps to the next. Returns to t0, keeps s3.
fn gather(a: &mut Assembly, patches: &Patches) {
    let clips = patches.clips();
    let windows = (patches.outputs[0] * patches.outputs[1]) as u64;
    let planes = windows * patches.planes as u64;
    let runs = planes * patches.kernel[0] as u64;
    let census = patches.census(true);
    let slot = |word: usize| format!("{}(sp)", WINDOW + word);
    a.total(windows, |a| {
        a.label(90);
        a.comment("A window: a0 its planes, a3 bytes to fill, t1 to copy, a4 to fill; a7 row, t3 rows, t4 line.");
        a.ops(&format!("lw a0, {BASE}(sp)\n lw t1, {}", slot(window::RUN)));
        if clips {
            a.ops(&format!(
                "lw a1, {COLUMN}(sp)
                 lw t2, {}
                 neg a3, a1
                 srai t3, a3, 31
                 not t3, t3
                 and a3, a3, t3
                 mul a3, a3, t2
                 lw t3, {}
                 sub a4, a1, t3
                 srai t3, a4, 31
                 not t3, t3
                 and a4, a4, t3
                 mul a4, a4, t2
                 sub t1, t1, a3
                 sub t1, t1, a4
                 add a0, a0, a3
                 lw a5, {}
                 lw t5, {}",
                slot(window::STEP),
                slot(window::ROOM),
                slot(window::FILL),
                slot(window::HEIGHT)
            ));
        }
        a.ops(&format!("lw a6, {}\n lw s2, {}", slot(window::PLANES), slot(window::NEXT_ROW)));
    });
    a.total(planes, |a| {
        a.label(91);
        a.ops(&format!("mv a7, a0\n lw t3, {}", slot(window::KERNEL_ROWS)));
        if clips {
            a.op(format!("lw t4, {LINE}(sp)"));
        }
    });
    a.label(92);
    if clips {
        a.total(runs, |a| a.op("bgeu t4, t5, 82f"));
        a.total(census.inside, |a| a.ops("mv s1, a3\n beqz s1, 72f"));
        fill(a, 71, census.left_bytes);
        a.label(72);
    }
    copy(a, patches, &census);
    if clips {
        a.total(census.inside, |a| a.ops("mv s1, a4\n beqz s1, 84f"));
        fill(a, 79, census.right_bytes);
        a.total(census.right, |a| a.op("j 84f"));
        a.label(82);
        a.total(census.outside, |a| a.op(format!("lw s1, {}", slot(window::RUN))));
        fill(a, 83, census.outside * patches.run() as u64);
        a.label(84);
        a.total(runs, |a| a.ops(&format!("lw t2, {}\n add t4, t4, t2", slot(window::DILATION))));
    }
    a.total(runs, |a| a.ops("add a7, a7, s2\n addi t3, t3, -1\n bnez t3, 92b"));
    a.total(planes, |a| {
        a.ops(&format!("lw t2, {}\n add a0, a0, t2\n addi a6, a6, -1\n bnez a6, 91b", slot(window::PLANE_STRIDE)));
    });
    step_window(a, patches, windows);
}

/// Writes s1 bytes of a5.
fn fill(a: &mut Assembly, label: u32, bytes: u64) {
    a.total(bytes, |a| {
        a.label(label);
        a.ops(&format!("sb a5, 0(a2)\n addi a2, a2, 1\n addi s1, s1, -1\n bnez s1, {label}b"));
    });
}

/// Copies t1 bytes from a7, four at a time.
fn copy(a: &mut Assembly, patches: &Patches, census: &Census) {
    a.total(census.inside, |a| a.ops("mv s0, a7\n addi s1, t1, -4\n bltz s1, 74f"));
    a.total(2 * census.eights + census.fours, |a| {
        a.label(73);
        match patches.aligned {
            true => a.ops("lw t2, 0(s0)\n sw t2, 0(a2)"),
            false => (0..4).for_each(|i| a.ops(&format!("lb t2, {i}(s0)\n sb t2, {i}(a2)"))),
        }
        a.ops("addi s0, s0, 4\n addi a2, a2, 4\n addi s1, s1, -4\n bgez s1, 73b");
    });
    a.label(74);
    a.total(census.inside, |a| a.ops("addi s1, s1, 4\n beqz s1, 77f"));
    a.total(census.bytes, |a| {
        a.label(76);
        a.ops("lb t2, 0(s0)\n sb t2, 0(a2)\n addi s0, s0, 1\n addi a2, a2, 1\n addi s1, s1, -1\n bnez s1, 76b");
    });
    a.label(77);
}

fn step_window(a: &mut Assembly, patches: &Patches, windows: u64) {
    let lines = patches.outputs[0] as u64;
    let slot = |word: usize| format!("{}(sp)", WINDOW + word);
    a.total(windows, |a| a.ops(&format!("lw t1, {COLUMNS}(sp)\n addi t1, t1, -1\n bnez t1, 86f")));
    a.total(lines, |a| {
        a.ops(&format!(
            "lw t2, {ORIGIN}(sp)
             lw t3, {}
             add t2, t2, t3
             sw t2, {ORIGIN}(sp)
             lw t4, {LINE}(sp)
             lw t3, {}
             add t4, t4, t3
             sw t4, {LINE}(sp)
             lw t4, {}
             lw t1, {}
             j 87f",
            slot(window::STEP_Y),
            slot(window::STRIDE_Y),
            slot(window::FIRST_COLUMN),
            slot(window::OUTPUT_COLUMNS)
        ));
    });
    a.total(windows - lines, |a| {
        a.label(86);
        a.ops(&format!(
            "lw t2, {BASE}(sp)
             lw t3, {}
             add t2, t2, t3
             lw t4, {COLUMN}(sp)
             lw t3, {}
             add t4, t4, t3",
            slot(window::STEP_X),
            slot(window::STRIDE_X)
        ));
    });
    a.total(windows, |a| {
        a.label(87);
        a.ops(&format!("sw t2, {BASE}(sp)\n sw t4, {COLUMN}(sp)\n sw t1, {COLUMNS}(sp)\n jr t0"));
    });
}

/// Channels of a block of [`rows`].
pub const ROW_CHANNELS: usize = 8;

/// Steps of the inner loop of [`rows`] that are written out.
const ROW_UNROLLED: usize = 8;

/// Words in front of the weights of [`rows`].
pub fn row_header(product: &Product, zero: i32) -> Vec<i64> {
    let (k, channels) = (product.k, product.channels);
    let words = [k, k / ROW_UNROLLED * ROW_UNROLLED, product.pixels, channels / ROW_CHANNELS, channels % ROW_CHANNELS];
    words.iter().map(|&word| word as i64).chain([lowest(zero, product.clamp)]).collect()
}

/// One row of the operand at a time, eight channels at a time: for few rows.
pub fn rows(product: &Product) -> Assembly {
    let Product { pixels, channels, .. } = *product;
    let doc = vec![
        "Sums of products with constant weights, requantized: a row of the operand by eight channels.".to_owned(),
        "For eight channels: 8 biases, 8 weights for each element of a row, 8 multipliers; then single channels."
            .to_owned(),
        "a0 row, a1 result, a2 constants, a3 rows left, a4 blocks, s0-s7 sums, t0 element, t1 weight, t2 product."
            .to_owned(),
    ];
    let mut a = function("linear", doc);
    enter(&mut a, 0);
    a.ops(&format!(
        "lw s8, 0(a2)
         lw s9, 4(a2)
         lw a3, 8(a2)
         lw s10, 12(a2)
         lw s11, 16(a2)
         lw a6, 20(a2)
         addi ra, a2, 24
         li a7, {}",
        product.clamp.lo - product.clamp.hi
    ));
    let (blocks, tails) = (channels / ROW_CHANNELS, channels % ROW_CHANNELS);
    a.passes(pixels as u64, |a| {
        a.label(2);
        a.op("mv a2, ra");
        if blocks > 0 {
            a.op("mv a4, s10");
            a.passes(blocks as u64, |a| channels_of_a_row(a, product, ROW_CHANNELS, [3, 4, 5]));
        }
        if tails > 0 {
            a.op("mv a4, s11");
            a.passes(tails as u64, |a| channels_of_a_row(a, product, 1, [6, 7, 8]));
        }
        a.ops("add a0, a0, s8\n addi a3, a3, -1\n bnez a3, 2b");
    });
    leave(&mut a, 0);
    a
}

fn channels_of_a_row(a: &mut Assembly, product: &Product, channels: usize, [block, main, rest]: [u32; 3]) {
    let k = product.k;
    let sums: Vec<String> = (0..channels).map(|i| format!("s{i}")).collect();
    a.label(block);
    sums.iter().enumerate().for_each(|(i, sum)| a.op(format!("lw {sum}, {}(a2)", 4 * i)));
    a.ops(&format!("addi a2, a2, {}\n mv a5, a0", 4 * channels));
    let step = |a: &mut Assembly, at: usize| {
        a.op(format!("lb t0, {at}(a5)"));
        for (i, sum) in sums.iter().enumerate() {
            a.ops(&format!("lb t1, {}(a2)\n mul t2, t0, t1\n add {sum}, {sum}, t2", at * channels + i));
        }
    };
    let ends = |a: &mut Assembly, steps: usize, label: u32| {
        a.ops(&format!("addi a5, a5, {steps}\n addi a2, a2, {}\n bne a5, t3, {label}b", steps * channels));
    };
    if k >= ROW_UNROLLED {
        a.op("add t3, a0, s9");
        a.passes((k / ROW_UNROLLED) as u64, |a| {
            a.label(main);
            (0..ROW_UNROLLED).for_each(|at| step(a, at));
            ends(a, ROW_UNROLLED, main);
        });
    }
    if !k.is_multiple_of(ROW_UNROLLED) {
        a.op("add t3, a0, s8");
        a.passes((k % ROW_UNROLLED) as u64, |a| {
            a.label(rest);
            step(a, 0);
            ends(a, 1, rest);
        });
    }
    if channels == 1 {
        // The weights of a single channel may end anywhere.
        a.ops("addi a2, a2, 3\n andi a2, a2, -4");
    }
    for (i, sum) in sums.iter().enumerate() {
        a.op(format!("lw t0, {}(a2)", 4 * i));
        requantize(a, sum, ["t1", "t2", "t0", "a6", "a7"], product.clamp);
        a.op(format!("sb t1, {i}(a1)"));
    }
    a.ops(&format!("addi a1, a1, {channels}\n addi a2, a2, {}\n addi a4, a4, -1\n bnez a4, {block}b", 4 * channels));
}
