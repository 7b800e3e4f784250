//! The heart of convolutions: four output channels at two positions.
//!
//! Eight sums are kept in the eight even registers. For 16 input values, 2 vectors of inputs and 4 of weights are loaded
//! and 8 instructions add 128 products.

use super::frame::Frame;
use super::{VECTOR, Words, folded_bias};
use crate::ir::Clamp;
use crate::ops::weighted::Weighted;
use crate::plan::Added;
use crate::program::Assembly;

/// Output channels that are computed together.
pub const CHANNELS: usize = 4;

/// Vectors of a sum up to which the products are written out without a loop over parts.
const UNROLLED: usize = 12;

/// Distance of the two addresses of a sliding stretch: what immediate offsets reach.
pub const HALF: usize = 128;

/// Longest part, in vectors, that is written out.
const LONGEST: usize = 24;

/// The shape of a sum of products: `parts` stretches of memory of equal length.
#[derive(Debug, Clone, Copy)]
pub struct Products {
    /// Stretches of inputs.
    pub parts: usize,
    /// Vectors of a stretch, the last one may be short.
    pub blocks: usize,
    /// Bytes of the last vector.
    pub tail: usize,
    /// Whether r1 and r3 hold the addresses of the only part and keep them; else a table on the stack holds them, two
    /// words for each part, the first part last.
    pub held: bool,
    /// Output channels.
    pub channels: usize,
    /// Vectors of a column and columns of a stretch, where the two stretches are a column apart and made of whole vectors:
    /// they then share all loads but one. Weights are in the order vector, column, and r3 is 128 behind r1.
    pub sliding: Option<(usize, usize)>,
    /// Whether sums are shifted to the left before they are multiplied.
    pub shifts: bool,
    /// What is added to the results.
    pub sum: Option<Sum>,
}

/// A sum with a tensor that lies in memory like the result.
#[derive(Debug, Clone, Copy)]
pub struct Sum {
    factors: [i32; 2],
    offset: i64,
    shift: u32,
    clamp: Clamp,
    /// Whether its bounds are not those of the term.
    has_bounds: bool,
}

/// Words of the frame for sums: those of the header, and the offsets of four channels of the other tensor from those of
/// the result.
pub const SUM_HEADER: &[&str] = &[
    "own_0", "own_1", "own_2", "own_3", "other", "shift", "offset", "unused", "low_0", "low_1", "low_2", "low_3",
    "high_0", "high_1", "high_2", "high_3",
];
pub const SUM_LOCALS: &[&str] = &["at_0", "at_1", "at_2", "at_3"];

impl Sum {
    /// The sum of a layer; `None` if it needs more than 32 bits.
    pub fn new(added: &Added, term: Clamp) -> Option<Sum> {
        let add = &added.add;
        let factors = [add.sum.factors[added.port], add.sum.factors[1 - added.port]];
        let (offset, shift, clamp) = (add.sum.offset, add.precision.shift, add.clamp);
        (!add.precision.wide).then_some(Sum { factors, offset, shift, clamp, has_bounds: clamp != term })
    }

    /// The words of `SUM_HEADER`.
    pub fn header(&self, words: &mut Words) {
        (0..4).for_each(|_| words.word(self.factors[0]));
        words.word(self.factors[1]);
        words.word(-i64::from(self.shift));
        words.word(self.offset);
        words.word(0);
        (0..4).for_each(|_| words.word(self.clamp.lo));
        (0..4).for_each(|_| words.word(self.clamp.hi));
    }

    /// Sets the words of `SUM_LOCALS`; r4 is the distance from the result to the other tensor. Uses r6 and q0.
    pub fn prepare(a: &mut Assembly, frame: &Frame) {
        frame.ops(a, "mov r6, #0\n vidup.u32 q0, r6, #1\n vadd.i32 q0, q0, r4\n vstrw.32 q0, {at_0}");
    }
}

impl Products {
    /// Sums over `parts` stretches of `bytes`; `None` if they cannot be written out in reasonable length.
    pub fn new(parts: usize, bytes: usize, channels: usize) -> Option<Products> {
        let (blocks, tail) = (bytes.div_ceil(VECTOR), (bytes - 1) % VECTOR + 1);
        let held = parts == 1 && blocks <= 8;
        if blocks <= LONGEST {
            return Some(Products { parts, blocks, tail, held, channels, sliding: None, shifts: false, sum: None });
        }
        // A long stretch is cut into equal pieces.
        let pieces = (2..blocks).find(|pieces| blocks % pieces == 0 && blocks / pieces <= LONGEST)?;
        (tail == VECTOR).then_some(Products {
            parts: parts * pieces,
            blocks: blocks / pieces,
            tail,
            held: false,
            channels,
            sliding: None,
            shifts: false,
            sum: None,
        })
    }

    /// The same with addresses from the table.
    pub fn with_table(self) -> Products {
        Products { held: false, ..self }
    }

    /// The same for rows of windows that are a column of some bytes apart.
    pub fn slide(self, column: usize) -> Products {
        let bytes = self.part_bytes();
        let fits = column.is_multiple_of(VECTOR) && bytes > column && bytes + column <= 2 * HALF;
        Products { sliding: fits.then(|| (column / VECTOR, bytes / column)), ..self }
    }

    /// Bytes between pieces of a stretch.
    pub fn part_bytes(&self) -> usize {
        (self.blocks - 1) * VECTOR + self.tail
    }

    /// Words of the table.
    pub fn table_words(&self) -> usize {
        if self.held { 0 } else { 2 * self.parts }
    }

    fn is_unrolled(&self) -> bool {
        self.parts * self.blocks <= UNROLLED || self.parts == 1
    }

    fn is_short(&self) -> bool {
        self.tail < VECTOR
    }

    fn has_channel_tail(&self) -> bool {
        !self.channels.is_multiple_of(CHANNELS)
    }

    /// By how much the addresses of results have run past the last channel.
    pub fn overshoot(&self) -> usize {
        self.channels.next_multiple_of(CHANNELS) - self.channels
    }

    /// What has to be done once: q6 and q7 become the bounds of the result, which are the next two words of the constants
    /// at r9; the predicate of short vectors is set.
    pub fn prepare(&self, a: &mut Assembly) {
        a.ops("ldrd r4, r6, [r9], #8\n vdup.32 q6, r4\n vdup.32 q7, r6");
        if self.is_short() && !self.has_channel_tail() {
            a.op(format!("mov r4, #{}", self.tail));
            a.op("vctp.8 r4");
        }
    }

    /// Computes all channels of two positions: r9 is the stream of constants, r5 and r7 are the addresses of the results,
    /// r11 is the number of channels. Uses all other registers but q6 and q7. The frame has words `zero` and, for the
    /// loop over parts, `end`.
    pub fn emit(&self, a: &mut Assembly, frame: &Frame) {
        if !self.is_unrolled() {
            frame.ops(a, "add r11, r5\n str r11, {end}");
        }
        a.comment("Four output channels: sums of position 0 in r0, r2, r4, r6, of position 1 in r8, r10, r12, lr.");
        a.passes(self.channels.div_ceil(CHANNELS) as u64, |a| {
            a.label(3);
            if self.is_short() && self.has_channel_tail() {
                a.op(format!("mov r0, #{}", self.tail));
                a.op("vctp.8 r0");
            }
            a.ops("ldrd r4, r6, [r9, #8]\n ldrd r12, lr, [r9, #8]\n ldrd r0, r2, [r9]\n ldrd r8, r10, [r9], #16");
            self.sums(a);
            self.finish(a, frame);
        });
    }

    fn sums(&self, a: &mut Assembly) {
        if self.is_unrolled() {
            for part in (0..self.parts).rev() {
                if !self.held {
                    a.op(format!("ldrd r1, r3, [sp, #{}]", 8 * part));
                }
                self.part(a);
            }
            return;
        }
        a.op(format!("add r11, sp, #{}", 8 * (self.parts - 1)));
        a.passes(self.parts as u64, |a| {
            a.label(4);
            a.op("ldrd r1, r3, [r11], #-8");
            self.part(a);
            a.ops("cmp sp, r11\n bls 4b");
        });
    }

    fn part(&self, a: &mut Assembly) {
        if let Some((vectors, columns)) = self.sliding {
            return self.slide_over(a, vectors, columns);
        }
        let full = if self.is_short() { self.blocks - 1 } else { self.blocks };
        if self.held {
            (0..full).for_each(|block| vector(a, block * VECTOR, "", VECTOR, false));
        } else {
            a.repeat(full as u32, |a| vector(a, 0, "", VECTOR, true));
        }
        if self.is_short() {
            a.op("vpstt");
            vector(a, if self.held { full * VECTOR } else { 0 }, "t", self.tail, false);
        }
    }

    /// A stretch whose columns are those of the other position, but for the first and the last.
    fn slide_over(&self, a: &mut Assembly, vectors: usize, columns: usize) {
        for vector in 0..vectors {
            let load = |a: &mut Assembly, column: usize| {
                let at = (column * vectors + vector) * VECTOR;
                let (register, offset) = if at < HALF { ("r1", at) } else { ("r3", at - HALF) };
                a.op(format!("vldrb.u8 q{}, [{register}, #{offset}]", column % 2));
            };
            load(a, 0);
            for column in 0..columns {
                load(a, column + 1);
                add_products(a, [column % 2, 1 - column % 2], VECTOR);
            }
        }
    }

    fn finish(&self, a: &mut Assembly, frame: &Frame) {
        a.ops("vmov q4[2], q4[0], r0, r4\n vmov q4[3], q4[1], r2, r6");
        a.ops("vmov q5[2], q5[0], r8, r12\n vmov q5[3], q5[1], r10, lr");
        if self.shifts {
            a.ops("vldrw.u32 q0, [r9], #16\n vshl.s32 q4, q4, q0\n vshl.s32 q5, q5, q0");
        }
        frame.ops(a, "vldrw.u32 q0, [r9], #16\n ldr r0, {zero}");
        a.ops("vqrdmlash.s32 q4, q0, r0\n vqrdmlash.s32 q5, q0, r0");
        a.ops("vmax.s32 q4, q4, q6\n vmax.s32 q5, q5, q6\n vmin.s32 q4, q4, q7\n vmin.s32 q5, q5, q7");
        if self.has_channel_tail() {
            if self.is_unrolled() {
                a.op("vctp.32 r11");
            } else {
                frame.ops(a, "ldr r0, {end}\n sub r0, r5\n vctp.32 r0");
            }
        }
        if let Some(sum) = self.sum {
            self.add(a, frame, sum);
        }
        if self.has_channel_tail() {
            // Where position 1 does not exist, it has the address of position 0, which then is stored last.
            a.ops("vpstt\n vstrbt.32 q5, [r7], #4\n vstrbt.32 q4, [r5], #4");
        } else {
            a.ops("vstrb.32 q5, [r7], #4\n vstrb.32 q4, [r5], #4");
        }
        if self.is_unrolled() {
            a.ops("subs r11, #4\n bgt 3b");
        } else {
            frame.ops(a, "ldr r0, {end}\n cmp r5, r0\n blo 3b");
        }
    }

    /// Adds the other tensor to q4 and q5.
    fn add(&self, a: &mut Assembly, frame: &Frame, sum: Sum) {
        a.comment("The sum with the other tensor.");
        frame.ops(a, "vldrw.u32 q2, {at_0}\n vldrw.u32 q3, {own_0}");
        if self.has_channel_tail() {
            a.ops("vpstt\n vldrbt.s32 q0, [r5, q2]\n vldrbt.s32 q1, [r7, q2]");
        } else {
            a.ops("vldrb.s32 q0, [r5, q2]\n vldrb.s32 q1, [r7, q2]");
        }
        frame.ops(a, "ldrd r0, r2, {other}\n ldr r4, {offset}");
        a.ops("vmlas.s32 q4, q3, r4\n vmlas.s32 q5, q3, r4\n vmla.s32 q4, q0, r0\n vmla.s32 q5, q1, r0");
        a.ops("vshl.s32 q4, r2\n vshl.s32 q5, r2");
        let (low, high) = if sum.has_bounds { ("q2", "q3") } else { ("q6", "q7") };
        if sum.has_bounds {
            frame.ops(a, "vldrw.u32 q2, {low_0}\n vldrw.u32 q3, {high_0}");
        }
        for q in ["q4", "q5"] {
            a.op(format!("vmax.s32 {q}, {q}, {low}"));
            a.op(format!("vmin.s32 {q}, {q}, {high}"));
        }
    }

    /// The stream of constants for `emit`: for each four channels the biases, the weights as the loop reads them, the
    /// shifts if there are any, the multipliers. `row` gives the weights of a channel, part after part.
    pub fn pack(&self, words: &mut Words, weighted: &Weighted, row: impl Fn(usize) -> Vec<i8>) {
        for first in (0..self.channels).step_by(CHANNELS) {
            let channels: Vec<usize> = (first..(first + CHANNELS).min(self.channels)).collect();
            let missing = CHANNELS - channels.len();
            channels.iter().for_each(|&c| words.word(folded_bias(weighted, c)));
            (0..missing).for_each(|_| words.word(0));
            let rows: Vec<Vec<i8>> = channels.iter().map(|&c| row(c)).collect();
            let zeros = vec![0; self.parts * self.part_bytes()];
            for part in 0..self.parts {
                for block in 0..self.blocks {
                    let start = part * self.part_bytes() + block * VECTOR;
                    let bytes = if block + 1 == self.blocks { self.tail } else { VECTOR };
                    for i in 0..CHANNELS {
                        words.weights(rows.get(i).unwrap_or(&zeros)[start..start + bytes].iter().copied());
                    }
                }
            }
            if self.shifts {
                channels.iter().for_each(|&c| words.word(weighted.channels[c].multiplier.left_shift()));
                (0..missing).for_each(|_| words.word(0));
            }
            channels.iter().for_each(|&c| words.word(weighted.channels[c].multiplier.mantissa()));
            (0..missing).for_each(|_| words.word(0));
        }
    }
}

/// One vector of each position times one of each channel. `then` is the predicate of the loads of inputs.
fn vector(a: &mut Assembly, offset: usize, then: &str, bytes: usize, moving: bool) {
    let from = |register: &str| match (moving, offset) {
        (true, _) => format!("[{register}], #16"),
        (false, 0) => format!("[{register}]"),
        (false, offset) => format!("[{register}, #{offset}]"),
    };
    a.op(format!("vldrb{then}.u8 q0, {}", from("r1")));
    a.op(format!("vldrb{then}.u8 q1, {}", from("r3")));
    add_products(a, [0, 1], bytes);
}

/// Vectors of the two positions times one of each channel.
fn add_products(a: &mut Assembly, positions: [usize; 2], bytes: usize) {
    let sums = [("r0", "r8"), ("r2", "r10"), ("r4", "r12"), ("r6", "lr")];
    for (i, (first, second)) in sums.into_iter().enumerate() {
        let weights = if i % 2 == 0 { "q2" } else { "q3" };
        a.op(format!("vldrb.u8 {weights}, [r9], #{bytes}"));
        a.op(format!("vmladava.s8 {first}, {weights}, q{}", positions[0]));
        a.op(format!("vmladava.s8 {second}, {weights}, q{}", positions[1]));
    }
}
