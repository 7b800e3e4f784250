//! Products of rows of weights with two columns of activations: the inner part of convolutions.
//!
//! The activations have been widened to 16 bits, less their zero point, the two columns word by word in turns: a
//! *patch*. The weights of two output channels share their bytes: a 16-bit half `256 * w1 + w0` stands for one weight of
//! each. Multiplied with the activations, it sums up `256 * acc1 + acc0`. The same half with only its low byte left
//! (SXTB16) sums up `acc0`; the difference is `256 * acc1`, exactly, as long as `acc1` has less than 24 bits. So weights
//! take one byte each, and a pair of them costs no more to unpack than one.

use crate::ir::{Clamp, Interval};
use crate::ops::add::QAdd;
use crate::ops::weighted::{Channel, Weighted};
use crate::plan::{Added, Layer};
use crate::program::Assembly;

/// The largest sum of a channel whose weights are the high bytes.
const HIGH_LIMIT: i128 = 1 << 23;

/// One half as a requantization factor.
const HALF: i64 = 1 << 30;

/// Copies of a step of four channels, of two, and of four channels with one column, in their loops.
const FOUR_COPIES: u64 = 16;
const TWO_COPIES: u64 = 8;
const ALONE_COPIES: u64 = 8;

/// Bytes of code of these steps.
const FOUR_BYTES: u64 = 12 * 4;
const TWO_BYTES: u64 = 7 * 4;
const ALONE_BYTES: u64 = 8 * 4;

/// An output channel: its weights in the order of the patch, and what becomes of the sum.
#[derive(Debug, Clone)]
pub struct Row {
    /// The weights.
    pub weights: Vec<i8>,
    /// Where the sum begins.
    pub bias: i64,
    factor: i64,
}

/// All output channels.
#[derive(Debug, Clone)]
pub struct Rows {
    rows: Vec<Row>,
    output_zero: i32,
    clamp: Clamp,
    style: Style,
}

/// What makes the text of a kernel differ from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Multipliers of one half and more: they do not fit 32 bits when they are doubled, so the sums are.
    doubled: bool,
    /// A clamp that is narrower than eight bits.
    clamped: bool,
}

impl Rows {
    /// The channels of a layer; `order` puts a row of weights into the order of the patch. `None` if a sum or a
    /// multiplier is too large for this way of computing.
    pub fn new(weighted: &Weighted, order: impl Fn(&[i8]) -> Vec<i8>) -> Option<Rows> {
        let rows: Vec<Row> = weighted
            .channels
            .iter()
            .enumerate()
            .map(|(index, channel)| Row::new(channel, order(weighted.row(index))))
            .collect();
        let most = rows.iter().map(|row| row.factor).max()?;
        let doubled = most >= HALF;
        let high = weighted.channels.iter().skip(1).step_by(2);
        let fits = |bound: Interval, limit: i128| bound.lo > -limit && bound.hi < limit;
        let possible = most < 2 * HALF
            && high.into_iter().all(|channel| fits(channel.bound, HIGH_LIMIT))
            && (!doubled || weighted.channels.iter().all(|channel| fits(channel.bound, i128::from(HALF))));
        let clamp = weighted.clamp;
        let clamped = clamp.lo > -128 || clamp.hi < 127;
        possible.then_some(Rows { rows, output_zero: weighted.output_zero, clamp, style: Style { doubled, clamped } })
    }

    /// The channels of a layer whose sums are computed one by one; only a multiplier can be too large.
    pub fn single(weighted: &Weighted, order: impl Fn(&[i8]) -> Vec<i8>) -> Option<Rows> {
        let channels = weighted.channels.iter().enumerate();
        let rows: Vec<Row> = channels.map(|(index, channel)| Row::new(channel, order(weighted.row(index)))).collect();
        let most = rows.iter().map(|row| row.factor).max()?;
        let doubled = most >= HALF;
        let small = |channel: &Channel| channel.bound.lo > -i128::from(HALF) && channel.bound.hi < i128::from(HALF);
        let possible = most < 2 * HALF && (!doubled || weighted.channels.iter().all(small));
        let clamp = weighted.clamp;
        let clamped = clamp.lo > -128 || clamp.hi < 127;
        possible.then_some(Rows { rows, output_zero: weighted.output_zero, clamp, style: Style { doubled, clamped } })
    }

    /// For each channel the weights as bytes, then bias and multiplier. Each run of weights takes so many bytes (whole
    /// words), behind zeros for a shift. The input's zero point goes into the bias.
    pub fn packed_single(&self, run: usize, bytes: usize, shift: usize, input_zero: i32) -> Vec<i64> {
        let channel = |row: &Row| {
            let padded: Vec<u8> = row
                .weights
                .chunks(run)
                .flat_map(|run| {
                    let byte = |at: usize| at.checked_sub(shift).and_then(|at| run.get(at)).map_or(0, |&w| w as u8);
                    (0..bytes).map(byte).collect::<Vec<u8>>()
                })
                .collect();
            let word = |bytes: &[u8]| i64::from(i32::from_le_bytes(std::array::from_fn(|i| bytes[i])));
            let sum: i64 = row.weights.iter().map(|&weight| i64::from(weight)).sum();
            let bias = row.bias - i64::from(input_zero) * sum;
            let ends = [i64::from(bias as i32), self.multiplier(row)];
            padded.chunks_exact(4).map(word).chain(ends).collect::<Vec<_>>()
        };
        self.rows.iter().flat_map(channel).collect()
    }

    /// The same for inputs from which the zero point is not subtracted: it goes into the biases. Sums wrap on the way and
    /// are the same in the end.
    pub fn with_zero_in_bias(mut self, input_zero: i32) -> Rows {
        for row in &mut self.rows {
            let sum: i64 = row.weights.iter().map(|&weight| i64::from(weight)).sum();
            row.bias -= i64::from(input_zero) * sum;
        }
        self
    }

    /// How the text differs.
    pub fn style(&self) -> Style {
        self.style
    }

    /// One for each channel.
    pub fn channels(&self) -> &[Row] {
        &self.rows
    }

    /// What the text multiplies the sums of a channel with.
    pub fn multiplier(&self, row: &Row) -> i64 {
        if self.style.doubled { row.factor } else { 2 * row.factor }
    }

    /// Zero point of the result and the clamp.
    pub fn bounds(&self) -> (i64, [i64; 2]) {
        (self.output_zero.into(), [self.clamp.lo.into(), self.clamp.hi.into()])
    }

    /// Zero point and rounding of both kinds of sums, and the clamp: the first words that the text reads.
    pub fn head(&self) -> [i64; 4] {
        let zero = i64::from(self.output_zero);
        let shift = self.style.high_shift();
        [zero, (zero << shift) + (1 << (shift - 1)), self.clamp.lo.into(), self.clamp.hi.into()]
    }

    /// Biases, weights and multipliers of blocks of `widest` channels, then of two for the rest. `steps` says which two
    /// weights of a row each step multiplies.
    pub fn packed(&self, widest: usize, steps: &[[Option<usize>; 2]]) -> Vec<i64> {
        let whole = self.rows.len() - self.rows.len() % widest;
        let (wide, narrow) = self.rows.split_at(whole);
        wide.chunks(widest).chain(narrow.chunks(2)).flat_map(|block| self.packed_block(block, steps)).collect()
    }

    fn packed_block(&self, block: &[Row], steps: &[[Option<usize>; 2]]) -> Vec<i64> {
        let pairs: Vec<[Option<&Row>; 2]> = block.chunks(2).map(|pair| [pair.first(), pair.get(1)]).collect();
        let bias = |row: Option<&Row>| row.map_or(0, |row| row.bias);
        let mut words: Vec<i64> = pairs.iter().flat_map(|&[lo, hi]| [bias(lo), bias(lo) + (bias(hi) << 8)]).collect();
        let weight = |row: Option<&Row>, index: Option<usize>| {
            row.zip(index).map_or(0, |(row, index)| i64::from(row.weights[index]))
        };
        for &[first, second] in steps {
            words.extend(pairs.iter().map(|&[lo, hi]| {
                let half = |index| ((weight(hi, index) << 8) + weight(lo, index)) & 0xffff;
                half(first) | half(second) << 16
            }));
        }
        words.extend(pairs.iter().flatten().map(|row| row.map_or(0, |row| self.multiplier(row))));
        words.into_iter().map(|word| i64::from(word as i32)).collect()
    }
}

impl Row {
    fn new(channel: &Channel, weights: Vec<i8>) -> Row {
        if channel.bound.lo != channel.bound.hi {
            return Row { weights, bias: channel.bias.into(), factor: channel.multiplier.factor() };
        }
        // One result whatever the input: a multiplier of a quarter gives it, and is not as large as one half. Beyond
        // this bound the result is clamped anyway.
        let steps = i64::from(channel.multiplier.apply(channel.bias).clamp(-512, 512));
        Row { weights: vec![0; weights.len()], bias: 4 * steps, factor: HALF / 2 }
    }
}

impl Style {
    /// By how much the sums of high channels are shifted.
    fn high_shift(self) -> u32 {
        if self.doubled { 7 } else { 8 }
    }

    /// Added to a kernel's name, so that the names of different texts differ.
    pub fn suffix(self) -> &'static str {
        match (self.doubled, self.clamped) {
            (false, false) => "",
            (false, true) => "_clamped",
            (true, false) => "_large",
            (true, true) => "_large_clamped",
        }
    }

    /// By how much sums that are four times too large are shifted by [`Self::requantize_shifted`].
    pub fn fourfold_shift(self) -> u32 {
        if self.doubled { 1 } else { 2 }
    }

    /// Sums of a low or high channel become results. Takes the multiplier in a register, and zero points in r12 (low) and
    /// lr (high); destroys r0. `bounds` are where the frame has the clamp.
    pub fn requantize(self, a: &mut Assembly, high: bool, sums: &[&str], multiplier: &str, bounds: [u32; 2]) {
        if high {
            self.requantize_shifted(a, sums, multiplier, self.high_shift(), "r0", bounds);
            return;
        }
        if self.doubled {
            sums.iter().for_each(|sum| a.op(format!("add.w {sum}, {sum}, {sum}")));
        }
        sums.iter().for_each(|sum| a.op(format!("smmlar {sum}, {sum}, {multiplier}, r12")));
        sums.iter().for_each(|sum| a.op(format!("ssat {sum}, #8, {sum}")));
        self.clamp(a, sums, "r0", bounds);
    }

    /// Sums that are too large by a power of two become results: the product with the multiplier is shifted by `shift`
    /// once its low half has been dropped. lr is the zero point and one half, both shifted to the left as far.
    pub fn requantize_shifted(
        self,
        a: &mut Assembly,
        sums: &[&str],
        multiplier: &str,
        shift: u32,
        free: &str,
        bounds: [u32; 2],
    ) {
        sums.iter().for_each(|sum| a.op(format!("smmla {sum}, {sum}, {multiplier}, lr")));
        sums.iter().for_each(|sum| a.op(format!("ssat {sum}, #8, {sum}, asr #{shift}")));
        self.clamp(a, sums, free, bounds);
    }

    fn clamp(self, a: &mut Assembly, sums: &[&str], free: &str, bounds: [u32; 2]) {
        if self.clamped {
            clamp_text(a, sums, free, bounds);
        }
    }
}

fn clamp_text(a: &mut Assembly, sums: &[&str], free: &str, bounds: [u32; 2]) {
    for (slot, condition) in bounds.into_iter().zip(["lt", "gt"]) {
        a.op(format!("ldr {free}, [sp, #{slot}]"));
        for sum in sums {
            a.ops(&format!("cmp {sum}, {free}\n it {condition}\n mov{condition} {sum}, {free}"));
        }
    }
}

impl Style {
    /// Bytes of code that the style adds to the requantization of this many sums by [`Self::requantize_single`].
    pub fn extra_bytes(self, sums: u64) -> u64 {
        let doubled = if self.doubled { 4 * sums } else { 0 };
        doubled + if self.clamped { 2 * (4 + 6 * sums) } else { 0 }
    }

    /// Sums become results. r12 is the multiplier and lr the zero point; `bounds` are where the frame has the clamp.
    pub fn requantize_single(self, a: &mut Assembly, sums: &[&str], bounds: [u32; 2]) {
        if self.doubled {
            sums.iter().for_each(|sum| a.op(format!("add.w {sum}, {sum}, {sum}")));
        }
        sums.iter().for_each(|sum| a.op(format!("smmlar {sum}, {sum}, r12, lr")));
        sums.iter().for_each(|sum| a.op(format!("ssat {sum}, #8, {sum}")));
        self.clamp(a, sums, "lr", bounds);
    }
}

/// A sum with another tensor that lies as the result does: results become
/// `clamp((result * own + other * factor + offset) >> shift)` before they are stored.
#[derive(Debug, Clone, Copy)]
pub struct Addition<'a> {
    add: &'a QAdd,
    /// Which term is the result.
    port: usize,
    /// Where the frame has its words, [`ADDITION_BYTES`] of them.
    frame: u32,
}

/// Bytes of the registers that functions save above their frame; parameters on the stack follow.
pub const PUSHED: u32 = 36;

/// What an addition needs of a frame: factor of the result, offset, factor of the other tensor, distance from the result
/// to the other tensor, the clamp.
pub const ADDITION_BYTES: u32 = 24;

impl<'a> Addition<'a> {
    /// The addition of a layer, with its words at this offset of the frame. `None` if it cannot be computed like this.
    pub fn of(layer: &'a Layer, frame: u32) -> Option<Option<Addition<'a>>> {
        let Some(Added { add, port }) = &layer.added else { return Some(None) };
        let offset = i32::try_from(add.sum.offset).is_ok();
        let possible = offset && !add.precision.wide && (1..32).contains(&add.precision.shift);
        // Of a tensor that is operand and term at the same time, the function gets one address.
        let apart = layer.operands.first() != layer.operands.last();
        (possible && apart).then_some(Some(Addition { add, port: *port, frame }))
    }

    fn clamped(&self) -> bool {
        self.add.clamp.lo > -128 || self.add.clamp.hi < 127
    }

    /// Added to a kernel's name, so that the names of different texts differ.
    pub fn suffix(&self) -> String {
        format!("_add_{}{}", self.add.precision.shift, if self.clamped() { "_clamped" } else { "" })
    }

    /// The first words of the constants.
    pub fn head(&self) -> [i64; 5] {
        let factors = &self.add.sum.factors;
        let clamp = self.add.clamp;
        let own = factors[self.port].into();
        [own, self.add.sum.offset, factors[1 - self.port].into(), clamp.lo.into(), clamp.hi.into()]
    }

    /// Reads these words. The function's parameters are the operand, the other tensor, the result, the working memory and,
    /// on the stack above its frame and nine registers, the constants. Leaves the parameters in r0 to r3 without the other
    /// tensor.
    pub fn prologue(&self, a: &mut Assembly, frame_bytes: u32) {
        let at = self.frame;
        a.ops(&format!(
            "sub r8, r1, r2
             mov r1, r2
             mov r2, r3
             ldr r3, [sp, #{}]
             ldm r3!, {{r4-r7, r9}}
             strd r4, r5, [sp, #{at}]
             strd r6, r8, [sp, #{}]
             strd r7, r9, [sp, #{}]",
            frame_bytes + PUSHED,
            at + 8,
            at + 16,
        ));
    }

    /// Results become sums without the other tensor. Destroys `free`.
    pub fn begin(&self, a: &mut Assembly, results: &[&str], free: [&str; 2]) {
        let [own, offset] = free;
        a.op(format!("ldrd {own}, {offset}, [sp, #{}]", self.frame));
        results.iter().for_each(|result| a.op(format!("mla {result}, {result}, {own}, {offset}")));
    }

    /// The factor of the other tensor, and its address, where the results are at the address `result`.
    pub fn other(&self, a: &mut Assembly, [factor, address]: [&str; 2], result: &str) {
        a.ops(&format!("ldrd {factor}, {address}, [sp, #{}]\n add {address}, {result}", self.frame + 8));
    }

    /// Sums become results. Destroys `free`.
    pub fn end(&self, a: &mut Assembly, sums: &[&str], free: &str) {
        let shift = self.add.precision.shift;
        sums.iter().for_each(|sum| a.op(format!("ssat {sum}, #8, {sum}, asr #{shift}")));
        if self.clamped() {
            clamp_text(a, sums, free, [self.frame + 16, self.frame + 20]);
        }
    }

    /// Adds to the results of neighbouring channels, each in its columns: one, or the first and the second. r10 is the
    /// address of the first result and r11 the distance of columns; destroys r0, r12 and lr.
    fn text(&self, a: &mut Assembly, channels: &[&[&str]]) {
        let all: Vec<&str> = channels.iter().copied().flatten().copied().collect();
        self.begin(a, &all, ["r12", "lr"]);
        self.other(a, ["r12", "lr"], "r10");
        for &columns in channels {
            for (column, sum) in columns.iter().enumerate().rev() {
                let address = if column == 0 { "[lr], #1" } else { "[lr, r11]" };
                a.ops(&format!("ldrsb r0, {address}\n mla {sum}, r0, r12, {sum}"));
            }
        }
        self.end(a, &all, "r0");
    }
}

/// The frame of a function that uses [`Blocks::text`]: offsets from the stack pointer.
pub const Y: u32 = 0;
/// Distance from an element of the result in the first column to the one in the second. Follows `Y`.
pub const COLUMN: u32 = 4;
/// Zero point of the result for low channels, and for high ones behind it.
pub const ZERO: u32 = 8;
const LO: u32 = 16;
const HI: u32 = 20;
/// The patch.
pub const PATCH: u32 = 24;
/// Its end. Follows `PATCH`.
pub const PATCH_END: u32 = 28;
/// Where the loops are entered: of four channels, of two.
pub const ENTER: u32 = 32;
/// The packed rows, the end of the blocks of four, and the end.
pub const ROWS: u32 = 40;
const FOURS_END: u32 = 44;
const ROWS_END: u32 = 48;
/// The end if the last channel is alone, or an address that is none.
const ODD_END: u32 = 52;
/// Where the loop for a column alone is entered.
const ENTER_ALONE: u32 = 56;
/// The first offset that [`Blocks::text`] does not use.
pub const FREE: u32 = 60;

/// Shape of the work of a function: what is known when the text is written is in its counts only.
#[derive(Debug, Clone)]
pub struct Blocks<'a> {
    /// Output channels.
    pub channels: usize,
    /// Differences of text.
    pub style: Style,
    /// The patches of the whole call, by their size.
    pub patches: Vec<Patches>,
    /// Offsets in the frame of what is added to the address of the weights of four channels before the steps and behind
    /// them, where a patch is shorter than the rows.
    pub skips: Option<(u32, u32)>,
    /// What is added to the results.
    pub addition: Option<Addition<'a>>,
}

/// Patches of one size.
#[derive(Debug, Clone, Copy)]
pub struct Patches {
    /// Steps: products of two weights.
    pub steps: usize,
    /// Patches with two columns.
    pub pairs: u64,
    /// Patches with one.
    pub alone: u64,
}

impl Blocks<'_> {
    /// Steps of the longest patch, that is of a row.
    pub fn steps(&self) -> usize {
        self.patches.iter().map(|patches| patches.steps).max().unwrap_or(0)
    }

    fn pairs(&self) -> u64 {
        self.patches.iter().map(|patches| patches.pairs).sum()
    }

    fn alone(&self) -> u64 {
        self.patches.iter().map(|patches| patches.alone).sum()
    }

    /// Runs of a loop over the steps of patches that is written `copies` times.
    fn loops(&self, copies: u64, count: fn(&Patches) -> u64) -> u64 {
        self.patches.iter().map(|patches| (patches.steps as u64).div_ceil(copies) * count(patches)).sum()
    }

    fn fours(&self) -> u64 {
        self.channels as u64 / 4
    }

    fn twos(&self) -> u64 {
        (self.channels as u64 % 4).div_ceil(2)
    }

    fn is_odd(&self) -> bool {
        self.channels % 2 == 1
    }

    /// Added to a kernel's name, so that the names of different texts differ.
    pub fn suffix(&self) -> String {
        format!("{}{}", self.style.suffix(), self.addition.map_or(String::new(), |addition| addition.suffix()))
    }

    /// Words that [`Self::prologue`] reads: bytes of the patch, entries of the loops, bytes of the rows.
    pub fn head(&self) -> [i64; 7] {
        let steps = self.steps() as u64;
        let fours_end = self.fours() * (8 + 2 * steps) * 4;
        let end = fours_end + self.twos() * (4 + steps) * 4;
        let entry = |copies: u64, bytes: u64| (copies - 1 - (steps + copies - 1) % copies) * bytes + 1;
        let odd = if self.is_odd() { end } else { 1 };
        let words = [
            8 * steps,
            entry(FOUR_COPIES, FOUR_BYTES),
            entry(TWO_COPIES, TWO_BYTES),
            fours_end,
            end,
            odd,
            entry(ALONE_COPIES, ALONE_BYTES),
        ];
        words.map(|word| word as i64)
    }

    /// Fills the frame. The constants begin with [`Rows::head`], behind one word, and [`Blocks::head`]; r3 is their
    /// address, r1 the result's, r2 the patch's. Leaves r0 alone, r3 behind these words, the distance of columns in r4.
    pub fn prologue(&self, a: &mut Assembly) {
        a.ops(&format!(
            "ldm r3!, {{r4-r10}}
             strd r1, r4, [sp, #{Y}]
             strd r5, r6, [sp, #{ZERO}]
             strd r7, r8, [sp, #{LO}]
             add r9, r2
             strd r2, r9, [sp, #{PATCH}]
             adr.w r5, 31f
             add r10, r5
             ldm r3!, {{r5-r8, r11}}
             adr.w r9, 51f
             add r11, r9
             str r11, [sp, #{ENTER_ALONE}]
             adr.w r9, 41f
             add r5, r9
             strd r10, r5, [sp, #{ENTER}]
             strd r6, r7, [sp, #{FOURS_END}]
             str r8, [sp, #{ODD_END}]"
        ));
    }

    /// Sets the addresses of the rows, which begin at r3.
    pub fn begin_rows(&self, a: &mut Assembly) {
        a.ops(&format!(
            "str r3, [sp, #{ROWS}]
             ldrd r5, r6, [sp, #{FOURS_END}]
             ldr r7, [sp, #{ODD_END}]
             add r5, r3
             add r6, r3
             add r7, r3
             strd r5, r6, [sp, #{FOURS_END}]
             str r7, [sp, #{ODD_END}]"
        ));
    }

    /// Multiplies a patch with all rows and stores the results at `Y`, which moves on.
    pub fn text(&self, a: &mut Assembly) {
        let pairs = self.pairs();
        let fours = self.fours() * pairs;
        a.comment("Blocks of four channels. Sums: r2, r3 and r4, r5 of the first column, r6 to r9 of the second;");
        a.comment("r2 acc0, r3 256 acc1 + acc0, r4 acc2, r5 256 acc3 + acc2. r0 patch, r1 weights.");
        a.ops(&format!("ldr r1, [sp, #{ROWS}]\n ldr r10, [sp, #{COLUMN}]\n cmp r10, #0\n bne 33f"));
        self.alone_text(a);
        a.label(30);
        a.total(fours, |a| {
            a.ops("ldm r1, {r6-r9}\n ldm r1!, {r2-r5}");
            self.skip(a, |(before, _)| before, "");
            a.ops(&format!("ldr r0, [sp, #{PATCH}]\n ldr pc, [sp, #{ENTER}]"));
        });
        a.label(31);
        a.copies(FOUR_COPIES as u32, self.fours() * self.loops(1, |patches| patches.pairs), |a| {
            a.ops(
                "ldrd r10, r11, [r1], #8
                 ldrd r12, lr, [r0], #8
                 smlad r3, r10, r12, r3
                 smlad r7, r10, lr, r7
                 sxtb16 r10, r10
                 smlad r5, r11, r12, r5
                 smlad r9, r11, lr, r9
                 sxtb16 r11, r11
                 smlad r2, r10, r12, r2
                 smlad r6, r10, lr, r6
                 smlad r4, r11, r12, r4
                 smlad r8, r11, lr, r8",
            );
        });
        a.total(self.fours() * self.loops(FOUR_COPIES, |patches| patches.pairs), |a| {
            a.ops(&format!("ldr r10, [sp, #{PATCH_END}]\n cmp r0, r10\n bne 31b"));
        });
        a.total(fours, |a| {
            self.skip(a, |(_, behind)| behind, "");
            self.load_places(a);
            a.ops("sub r3, r3, r2\n sub r7, r7, r6\n sub r5, r5, r4\n sub r9, r9, r8");
            match &self.addition {
                None => self.store_fours(a),
                Some(addition) => self.add_fours(a, addition),
            }
            a.op(format!("str r10, [sp, #{Y}]"));
        });
        a.label(33);
        a.total(fours + pairs, |a| a.ops(&format!("ldr r10, [sp, #{FOURS_END}]\n cmp r1, r10\n bne 30b")));
        self.twos_text(a);
    }

    fn store_fours(&self, a: &mut Assembly) {
        // Registers of sums that are stored take the multipliers that follow.
        let channels = [(["r2", "r6"], "r0"), (["r3", "r7"], "r0"), (["r4", "r8"], "r2"), (["r5", "r9"], "r6")];
        for (index, (sums, multiplier)) in channels.into_iter().enumerate() {
            match index {
                0 => a.op("ldr r0, [r1], #4"),
                1 => a.op("ldm r1!, {r0, r2, r6}"),
                _ => {}
            }
            self.style.requantize(a, index % 2 == 1, &sums, multiplier, [LO, HI]);
            store(a, sums);
        }
    }

    fn add_fours(&self, a: &mut Assembly, addition: &Addition) {
        let channels = [["r2", "r6"], ["r3", "r7"], ["r4", "r8"], ["r5", "r9"]];
        for (index, sums) in channels.iter().enumerate() {
            a.op("ldr r0, [r1], #4");
            self.style.requantize(a, index % 2 == 1, sums, "r0", [LO, HI]);
        }
        addition.text(a, &channels.each_ref().map(|sums| &sums[..]));
        channels.into_iter().for_each(|sums| store(a, sums));
    }

    /// Blocks of four channels with one column: r2 acc0, r3 256 acc1 + acc0, r4, r5 likewise.
    fn alone_text(&self, a: &mut Assembly) {
        let (patches, fours) = (self.alone(), self.fours() * self.alone());
        a.comment("A column alone.");
        a.total(patches, |a| a.op("b 53f"));
        a.label(50);
        a.total(fours, |a| {
            a.op("ldm r1!, {r2-r5}");
            self.skip(a, |(before, _)| before, "");
            a.ops(&format!("ldr r0, [sp, #{PATCH}]\n ldr pc, [sp, #{ENTER_ALONE}]"));
        });
        a.label(51);
        a.copies(ALONE_COPIES as u32, self.fours() * self.loops(1, |patches| patches.alone), |a| {
            a.ops(
                "ldrd r10, r11, [r1], #8
                 ldr r12, [r0], #8
                 smlad r3, r10, r12, r3
                 sxtb16 r10, r10
                 smlad r5, r11, r12, r5
                 sxtb16 r11, r11
                 smlad r2, r10, r12, r2
                 smlad r4, r11, r12, r4",
            );
        });
        a.total(self.fours() * self.loops(ALONE_COPIES, |patches| patches.alone), |a| {
            a.ops(&format!("ldr r10, [sp, #{PATCH_END}]\n cmp r0, r10\n bne 51b"));
        });
        a.total(fours, |a| {
            self.skip(a, |(_, behind)| behind, "");
            self.load_places(a);
            a.ops("sub r3, r3, r2\n sub r5, r5, r4\n ldm r1!, {r0, r6-r8}");
            for (high, sum, multiplier) in
                [(false, "r2", "r0"), (true, "r3", "r6"), (false, "r4", "r7"), (true, "r5", "r8")]
            {
                self.style.requantize(a, high, &[sum], multiplier, [LO, HI]);
                if self.addition.is_none() {
                    a.op(format!("strb {sum}, [r10], #1"));
                }
            }
            if let Some(addition) = &self.addition {
                addition.text(a, &[&["r2"], &["r3"], &["r4"], &["r5"]]);
                ["r2", "r3", "r4", "r5"].iter().for_each(|sum| a.op(format!("strb {sum}, [r10], #1")));
            }
            a.op(format!("str r10, [sp, #{Y}]"));
        });
        a.label(53);
        a.total(fours + patches, |a| a.ops(&format!("ldr r10, [sp, #{FOURS_END}]\n cmp r1, r10\n bne 50b")));
        a.total(patches, |a| a.op("b 43f"));
    }

    fn twos_text(&self, a: &mut Assembly) {
        let columns = self.pairs() + self.alone();
        let twos = self.twos() * columns;
        let all = |patches: &Patches| patches.pairs + patches.alone;
        a.comment("Blocks of two channels for the rest; the second may be missing.");
        a.total(self.pairs(), |a| a.op("b 43f"));
        a.label(40);
        a.total(twos, |a| {
            a.ops(&format!(
                "ldm r1!, {{r2, r3}}
                 mov r6, r2
                 mov r7, r3
                 ldr r0, [sp, #{PATCH}]"
            ));
            self.skip(a, |(before, _)| before, ", lsr #1");
            a.op(format!("ldr pc, [sp, #{}]", ENTER + 4));
        });
        a.label(41);
        a.copies(TWO_COPIES as u32, self.twos() * self.loops(1, all), |a| {
            a.ops(
                "ldr r10, [r1], #4
                 ldrd r12, lr, [r0], #8
                 smlad r3, r10, r12, r3
                 smlad r7, r10, lr, r7
                 sxtb16 r10, r10
                 smlad r2, r10, r12, r2
                 smlad r6, r10, lr, r6",
            );
        });
        a.total(self.twos() * self.loops(TWO_COPIES, all), |a| {
            a.ops(&format!("ldr r10, [sp, #{PATCH_END}]\n cmp r0, r10\n bne 41b"));
        });
        a.total(twos, |a| {
            self.skip(a, |(_, behind)| behind, ", lsr #1");
            self.load_places(a);
            a.ops("sub r3, r3, r2\n sub r7, r7, r6\n ldm r1!, {r0, r4}");
            self.style.requantize(a, false, &["r2", "r6"], "r0", [LO, HI]);
            if let Some(addition) = &self.addition {
                addition.text(a, &[&["r2", "r6"]]);
                a.op(format!("ldr.w lr, [sp, #{}]", ZERO + 4));
            }
            store(a, ["r2", "r6"]);
            a.ops(&format!("ldr r0, [sp, #{ODD_END}]\n cmp r1, r0\n beq 42f"));
        });
        a.total(twos - if self.is_odd() { columns } else { 0 }, |a| {
            self.style.requantize(a, true, &["r3", "r7"], "r4", [LO, HI]);
            if let Some(addition) = &self.addition {
                addition.text(a, &[&["r3", "r7"]]);
            }
            store(a, ["r3", "r7"]);
        });
        a.label(42);
        a.total(twos, |a| a.op(format!("str r10, [sp, #{Y}]")));
        a.label(43);
        a.total(twos + columns, |a| a.ops(&format!("ldr r10, [sp, #{ROWS_END}]\n cmp r1, r10\n bne 40b")));
    }

    fn skip(&self, a: &mut Assembly, which: impl Fn((u32, u32)) -> u32, share: &str) {
        if let Some(skips) = self.skips {
            a.ops(&format!("ldr r10, [sp, #{}]\n add.w r1, r1, r10{share}", which(skips)));
        }
    }

    /// Sets the end of the patch and the entries of the loops for a patch of as many bytes as r4 says. Destroys r5 and r6.
    pub fn resize(&self, a: &mut Assembly) {
        a.ops(&format!(
            "ldr r5, [sp, #{PATCH}]
             add r5, r4
             str r5, [sp, #{PATCH_END}]
             rsb r5, r4, #0
             ubfx r5, r5, #3, #{}
             add r5, r5, r5, lsl #1
             adr.w r6, 31f
             add.w r5, r6, r5, lsl #4
             adds r5, #1
             str r5, [sp, #{ENTER}]
             rsb r5, r4, #0
             ubfx r5, r5, #3, #{}
             rsb r5, r5, r5, lsl #3
             adr.w r6, 41f
             add.w r5, r6, r5, lsl #2
             adds r5, #1
             str r5, [sp, #{}]
             rsb r5, r4, #0
             ubfx r5, r5, #3, #{}
             adr.w r6, 51f
             add.w r5, r6, r5, lsl #5
             adds r5, #1
             str r5, [sp, #{ENTER_ALONE}]",
            FOUR_COPIES.ilog2(),
            TWO_COPIES.ilog2(),
            ENTER + 4,
            ALONE_COPIES.ilog2(),
        ));
    }

    /// Address of the result, distance of columns, zero points of low and high channels.
    fn load_places(&self, a: &mut Assembly) {
        a.ops(&format!("ldrd r10, r11, [sp, #{Y}]\n ldrd r12, lr, [sp, #{ZERO}]"));
    }
}

/// The second column first: where there is only one column, both results are the same.
fn store(a: &mut Assembly, [first, second]: [&str; 2]) {
    a.ops(&format!("strb {second}, [r10, r11]\n strb {first}, [r10], #1"));
}

/// Which two elements of a run each step takes: of four neighbours the even and then the odd ones, as SXTB16 unpacks
/// them; the rest in order.
pub fn steps(run: usize) -> Vec<[Option<usize>; 2]> {
    let whole = run - run % 4;
    let fours = (0..whole).step_by(4).flat_map(|i| [[Some(i), Some(i + 2)], [Some(i + 1), Some(i + 3)]]);
    let rest = (whole..run).step_by(2).map(|i| [Some(i), Some(i + 1).filter(|&next| next < run)]);
    fours.chain(rest).collect()
}

/// Copies of the unpacking of four neighbours in its loop, and the bytes of its code.
const UNPACK_COPIES: u64 = 4;
const UNPACK_BYTES: u64 = 7 * 4;

/// Unpacks runs of bytes into a patch.
#[derive(Debug, Clone, Copy)]
pub struct Unpack {
    /// Elements of a run.
    pub run: usize,
    /// Pairs of runs in the whole call.
    pub runs: u64,
}

impl Unpack {
    /// Words for the frame: minus the zero point, twice; bytes of whole fours in the patch; the loop's entry; the rest.
    pub fn head(self, zero: i32) -> [i64; 4] {
        let fours = self.run as u64 / 4;
        let entry = (UNPACK_COPIES - 1 - (fours + UNPACK_COPIES - 1) % UNPACK_COPIES) * UNPACK_BYTES + 1;
        // Without a whole four, the loop is entered at its end.
        let entry = if fours == 0 { UNPACK_COPIES * UNPACK_BYTES + 1 } else { entry };
        let negative = i64::from(-zero) & 0xffff;
        [i64::from((negative | negative << 16) as i32), 16 * fours as i64, entry as i64, (self.run % 4) as i64]
    }

    /// The address of the loop, to which its entry is added.
    pub fn loop_address(self, a: &mut Assembly, register: &str) {
        a.op(format!("adr.w {register}, 20f"));
    }

    /// Unpacks a run at r0 and one at r1 to r2, all of which move on. r3 is minus the zero point, twice; r10 where the
    /// whole fours end in the patch; `entry` and `rest` are offsets in the frame. Destroys r4 to r9 and r12.
    pub fn text(self, a: &mut Assembly, entry: u32, rest: u32) {
        let fours = self.run as u64 / 4;
        a.op(format!("ldr pc, [sp, #{entry}]"));
        a.label(20);
        a.copies(UNPACK_COPIES as u32, self.runs * fours, |a| {
            a.ops(
                "ldr.w r4, [r0], #4
                 ldr.w r5, [r1], #4
                 sxtab16 r6, r3, r4
                 sxtab16 r7, r3, r5
                 sxtab16 r8, r3, r4, ror #8
                 sxtab16 r9, r3, r5, ror #8
                 stm.w r2!, {r6-r9}",
            );
        });
        a.total(self.runs * fours.div_ceil(UNPACK_COPIES).max(1), |a| a.ops("cmp r2, r10\n bne 20b"));
        a.comment("The rest: two neighbours, one.");
        a.ops(&format!("ldr r4, [sp, #{rest}]\n lsls r4, r4, #31\n bcc 21f"));
        a.total(if self.run % 4 >= 2 { self.runs } else { 0 }, |a| {
            a.ops(
                "ldrsb r4, [r0], #1
                 ldrsb r5, [r0], #1
                 ldrsb r6, [r1], #1
                 ldrsb r7, [r1], #1
                 pkhbt r4, r4, r5, lsl #16
                 pkhbt r6, r6, r7, lsl #16
                 sadd16 r4, r4, r3
                 sadd16 r6, r6, r3
                 strd r4, r6, [r2], #8",
            );
        });
        a.label(21);
        a.op("bpl 22f");
        a.total(if self.run % 2 == 1 { self.runs } else { 0 }, |a| {
            a.ops(
                "ldrsb r4, [r0], #1
                 ldrsb r6, [r1], #1
                 sadd16 r4, r4, r3
                 sadd16 r6, r6, r3
                 strd r4, r6, [r2], #8",
            );
        });
        a.label(22);
    }
}
