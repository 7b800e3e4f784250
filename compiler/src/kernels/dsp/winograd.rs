//! Convolutions with windows of 3x3 and a stride of one by Winograd's F(2x2, 3x3): four results of a channel from 16
//! products instead of 36.
//!
//! Of a tile of 4x4 inputs `d` and a window of weights `g`, the 2x2 results are `A' ((G g G') . (B' d B)) A`, with
//! `A' = [1 1 1 0; 0 1 -1 -1]`, `B' = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1]` and `G = [1 0 0; 1/2 1/2 1/2;
//! 1/2 -1/2 1/2; 0 0 1]` (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015). With `2 G` everything
//! is an integer and the results are four times too large, exactly: transformed inputs have 11 bits, transformed weights
//! 12. Sums may leave 32 bits on the way, because addition wraps; what counts is that four times the result fits. The
//! factor goes into the requantization.
//!
//! Transformed weights take two bytes for each of 16 products instead of one for each of nine, so this is for those who
//! ask for speed.

use super::DSP;
use super::conv::copy_text;
use super::pointwise::channels_last;
use super::products::{ADDITION_BYTES, Addition, Row, Rows};
use crate::kernels::LayerBuilder;
use crate::ops::QuantOp;
use crate::ops::conv::QConv;
use crate::plan::{Layer, Plan, Work};
use crate::program::{Assembly, Elem};

/// The largest sum of a channel: four times as much fits 32 bits.
const LIMIT: i128 = 1 << 29;

/// Copies of a step in the loop over input channels, and bytes of code of each.
const COPIES: u64 = 8;
const STEP_BYTES: u64 = 11 * 4;

/// Rows and columns of transformed tiles, in the order in which they are multiplied. Products are summed up over the first
/// two of each column, and over the last two. The weights' sums, with which the bias goes, are in the very first.
const ORDER: [usize; 4] = [1, 0, 2, 3];

/// Bytes of the sums of a block of four channels for two tiles, and of each product's among them.
const SUMS_BYTES: usize = 16 * SUM_BYTES;
const SUM_BYTES: usize = 32;

// The frame, offsets from the stack pointer: first what changes.
/// The next result. Behind it the distance to the row below; 0 if there is none.
const Y: u32 = 0;
/// Distance of columns in the first tile, and in the second; 0 if there is no second column.
const COLUMN: u32 = 8;
const COLUMN1: u32 = 12;
/// Distance from the first tile to the second; 0 if there is none.
const TILE: u32 = 16;
/// Where the products of an element of the tiles end, and where their sums go.
const END: u32 = 20;
const SUMS: u32 = 24;
/// Bytes of the transformed inputs of an element. Follows `SUMS`.
const SIZE: u32 = 28;
/// The rows of the tiles in the ring: two and two.
const FIRST: u32 = 32;
const SECOND: u32 = 36;
/// The next inputs of the tiles in these rows, and the next transformed ones.
const AT: u32 = 40;
const INTO: u32 = 48;
/// Columns of the row, and channels, that are left.
const LEFT: u32 = 52;
const CHANNELS_LEFT: u32 = 56;
/// The end of the sums of a block's channels.
const STOP: u32 = 60;
/// The next row of the input, and its number; negative in the padding.
const X: u32 = 64;
const ROW_IN: u32 = 68;
/// The row of results; rows that are left.
const Y_ROW: u32 = 72;
const ROWS_LEFT: u32 = 76;
/// Whether the image has just begun: then two rows more have to be fetched.
const FRESH: u32 = 80;
/// Eight zeros, where sums begin.
const ZEROS: u32 = 84;
// Then what the constants begin with, in their order.
const HEAD: u32 = 116;
const LO: u32 = HEAD;
const HI: u32 = HEAD + 4;
/// Zero point of the result, as [`Style::requantize_shifted`](super::products::Style::requantize_shifted) wants it.
const ZERO: u32 = HEAD + 8;
/// Where the loops over input channels are entered: offsets, then addresses.
const ENTER: u32 = HEAD + 12;
const ENTER1: u32 = HEAD + 16;
/// Distance of rows in the ring. Behind it that of pixels.
const SLOT: u32 = HEAD + 20;
/// The end of the first element's transformed inputs; of the sums; both offsets, then addresses.
const V_END: u32 = HEAD + 28;
const SUMS_START: u32 = HEAD + 32;
const SUMS_END: u32 = HEAD + 36;
/// The end of the transformed inputs of the last four channels.
const INTO_END: u32 = HEAD + 40;
/// From the last inputs of two tiles to the next two tiles; likewise for the results.
const NEXT: u32 = HEAD + 44;
const NEXT_Y: u32 = HEAD + 48;
const OUTPUTS: u32 = HEAD + 52;
const OUT_WIDTH: u32 = HEAD + 56;
/// Bytes of a row of the result, of a row of the input, of what is copied of it, of the padding in front of that.
const WIDE: u32 = HEAD + 60;
const PITCH: u32 = HEAD + 64;
const COPY: u32 = HEAD + 68;
const MARGIN: u32 = HEAD + 72;
const HEIGHT: u32 = HEAD + 76;
const OUT_HEIGHT: u32 = HEAD + 80;
/// Number of the first row: minus the padding.
const TOP: u32 = HEAD + 84;
/// Images that are left.
const BATCH: u32 = HEAD + 88;
/// Four elements of padding.
const FILL: u32 = HEAD + 92;
/// The start of the ring.
const RING: u32 = HEAD + 96;
const CONSTANTS: usize = 25;
/// The transformed inputs, the packed weights.
const V: u32 = HEAD + 100;
const WEIGHTS: u32 = HEAD + 104;
const FRAME: u32 = HEAD + 108;

/// Bytes of the transformed columns of four channels, on the stack below the frame.
const COLUMNS_BYTES: u32 = 6 * 32;

struct Shape<'a> {
    conv: &'a QConv,
    rows: Rows,
    addition: Option<Addition<'a>>,
    batch: usize,
    channels: usize,
    height: usize,
    width: usize,
    outputs: usize,
    out_height: usize,
    out_width: usize,
    pad: [usize; 2],
}

impl Shape<'_> {
    fn of<'a>(layer: &'a Layer, plan: &Plan) -> Option<Shape<'a>> {
        let Work::Operator(QuantOp::Conv(conv)) = &layer.work else { return None };
        let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
        let window = &conv.window;
        let plain = window.kernel == [3, 3] && window.stride == [1, 1] && window.dilation == [1, 1];
        if conv.groups != 1 || !plain || !channels_last(x) || !channels_last(y) {
            return None;
        }
        let fits = conv.weighted.channels.iter().all(|channel| channel.bound.lo > -LIMIT && channel.bound.hi < LIMIT);
        let (&[batch, channels, height, width], &[_, outputs, out_height, out_width]) =
            (x.ty.shape.dims(), y.ty.shape.dims())
        else {
            return None;
        };
        let shape = Shape {
            conv,
            rows: Rows::single(&conv.weighted, <[i8]>::to_vec).filter(|_| fits)?,
            addition: Addition::of(layer, FRAME)?,
            batch,
            channels,
            height,
            width,
            outputs,
            out_height,
            out_width,
            pad: [window.pad_begin[0], window.pad_begin[1]],
        };
        // Beyond that, windows would see nothing of the input.
        (shape.pad[0] <= 2 && shape.pad[1] <= 2).then_some(shape)
    }

    /// Rows of tiles.
    fn tile_rows(&self) -> usize {
        self.out_height.div_ceil(2)
    }

    /// Pairs of tiles in a row.
    fn pairs(&self) -> usize {
        self.out_width.div_ceil(4)
    }

    /// Input channels in fours.
    fn groups(&self) -> usize {
        self.channels.div_ceil(4)
    }

    /// Steps of the loop over input channels, two of them each.
    fn steps(&self) -> usize {
        2 * self.groups()
    }

    /// Bytes of an element of two transformed tiles: all channels.
    fn size(&self) -> usize {
        8 * self.steps()
    }

    fn blocks(&self) -> usize {
        self.outputs.div_ceil(4)
    }

    /// Columns of the ring.
    fn columns(&self) -> usize {
        4 * self.pairs() + 2
    }

    fn copied(&self) -> usize {
        self.width.min(self.columns() - self.pad[1])
    }

    /// Bytes of a row in the ring.
    fn slot(&self) -> usize {
        (self.columns() * self.channels).next_multiple_of(4)
    }

    /// Rows of the input that have been fetched when a row of tiles is computed.
    fn fetched(&self, tile_row: usize) -> usize {
        (2 * tile_row + 4).saturating_sub(self.pad[0]).min(self.height)
    }

    /// Bytes of the transformed inputs, the sums, and the ring; of the last pixel, whole words are read.
    fn scratch(&self) -> usize {
        16 * self.size() + SUMS_BYTES + 4 * self.slot() + 4
    }

    fn frame(&self) -> u32 {
        if self.addition.is_some() { FRAME + ADDITION_BYTES } else { FRAME }
    }

    fn suffix(&self) -> String {
        format!("{}{}", self.rows.style().suffix(), self.addition.map_or(String::new(), |addition| addition.suffix()))
    }

    fn data(&self) -> Vec<i64> {
        let (zero, bounds) = self.rows.bounds();
        let shift = self.rows.style().fourfold_shift();
        let steps = self.steps() as u64;
        let enter = ((COPIES - 1 - (steps + COPIES - 1) % COPIES) * STEP_BYTES + 1) as i64;
        let sizes = |sizes: &[usize]| sizes.iter().map(|&size| size as i64).collect::<Vec<_>>();
        let mut data: Vec<i64> = self.addition.iter().flat_map(|addition| addition.head()).collect();
        data.extend(bounds);
        data.extend([(zero << shift) + (1 << (shift - 1)), enter, enter]);
        data.extend(sizes(&[
            self.slot(),
            self.channels,
            self.size(),
            16 * self.size(),
            16 * self.size() + SUMS_BYTES,
            self.size(),
            4 * self.channels,
        ]));
        // The inputs have moved on by whole fours of channels.
        let last = data.len() - 1;
        data[last] -= 4 * self.groups() as i64;
        data.extend(sizes(&[
            3 * self.outputs,
            self.outputs,
            self.out_width,
            self.out_width * self.outputs,
            self.width * self.channels,
            self.copied() * self.channels,
            self.pad[1] * self.channels,
            self.height,
            self.out_height,
        ]));
        data.push(-(self.pad[0] as i64));
        data.push(self.batch as i64);
        data.push(i64::from(i32::from_le_bytes([self.conv.weighted.input_zero as i8 as u8; 4])));
        data.push((16 * self.size() + SUMS_BYTES) as i64);
        data.extend(self.rows.channels().chunks(4).flat_map(|block| self.packed(block)));
        data
    }

    /// Biases, transformed weights and multipliers of four channels.
    fn packed(&self, block: &[Row]) -> Vec<i64> {
        let transformed: Vec<Vec<[[i64; 4]; 4]>> =
            block.iter().map(|row| row.weights.chunks_exact(9).map(transformed).collect()).collect();
        let bias = |(row, windows): (&Row, &Vec<[[i64; 4]; 4]>)| {
            // The zero point is not subtracted from the inputs; only in this element does it not cancel out.
            let sum: i64 = windows.iter().map(|window| window[1][1]).sum();
            4 * row.bias - 4 * i64::from(self.conv.weighted.input_zero) * sum
        };
        let mut words: Vec<i64> = block.iter().zip(&transformed).map(bias).collect();
        words.resize(4, 0);
        let elements = ORDER.iter().flat_map(|&column| ORDER.iter().map(move |&row| (row, column)));
        for (row, column) in elements {
            let steps =
                (0..self.groups()).flat_map(|group| [[4 * group, 4 * group + 2], [4 * group + 1, 4 * group + 3]]);
            for pair in steps {
                let half = |channel: usize, input: usize| {
                    let window = transformed.get(channel).and_then(|windows| windows.get(input));
                    window.map_or(0, |window| window[row][column]) & 0xffff
                };
                words.extend((0..4).map(|channel| half(channel, pair[0]) | half(channel, pair[1]) << 16));
            }
        }
        words.extend((0..4).map(|channel| block.get(channel).map_or(0, |row| self.rows.multiplier(row))));
        words.into_iter().map(|word| i64::from(word as i32)).collect()
    }

    fn assembly(&self) -> Assembly {
        let doc = [
            "Convolution with windows of 3x3 by Winograd's F(2x2, 3x3). Rows of the input lie in a ring, with padding",
            "beside them. Two tiles of 4x4 inputs are transformed, all channels, then multiplied with the transformed",
            "weights of four output channels at a time, whose sums are transformed back to 2x2 results for each tile,",
            "four times too large. data: sizes, then biases, weights and multipliers by block.",
        ];
        let doc = doc.into_iter().map(str::to_owned).collect();
        let mut assembly = Assembly::new(format!("winograd{}", self.suffix()), doc, DSP);
        let a = &mut assembly;
        self.prologue(a);
        a.comment("The ring, filled with padding.");
        a.ops(&format!(
            "ldr r0, [sp, #{RING}]\n ldr r1, [sp, #{SLOT}]\n add r1, r0, r1, lsl #2\n ldr r4, [sp, #{FILL}]"
        ));
        a.label(2);
        a.passes(self.slot() as u64, |a| a.ops("str r4, [r0], #4\n cmp r0, r1\n bne 2b"));
        a.label(3);
        a.passes(self.batch as u64, |a| {
            a.comment("An image. Rows of tiles: two rows more of the input, at first four.");
            a.ops(&format!(
                "ldr r4, [sp, #{TOP}]
                 ldr r5, [sp, #{OUT_HEIGHT}]
                 movs r6, #1
                 str r4, [sp, #{ROW_IN}]
                 strd r5, r6, [sp, #{ROWS_LEFT}]"
            ));
            self.image(a);
            a.ops(&format!(
                "ldr r4, [sp, #{BATCH}]
                 subs r4, #1
                 str r4, [sp, #{BATCH}]
                 bne 3b"
            ));
        });
        a.ops(&format!("add sp, #{}\n pop {{r4-r11, pc}}", self.frame()));
        assembly
    }

    /// Fills the frame.
    fn prologue(&self, a: &mut Assembly) {
        a.ops(&format!("push {{r4-r11, lr}}\n sub sp, #{}", self.frame()));
        if let Some(addition) = &self.addition {
            addition.prologue(a, self.frame());
        }
        a.ops(&format!(
            "str r0, [sp, #{X}]
             str r1, [sp, #{Y_ROW}]
             str r2, [sp, #{V}]
             add r12, sp, #{HEAD}"
        ));
        for words in [8, 8, 8, CONSTANTS - 24] {
            match words {
                1 => a.ops("ldr r4, [r3], #4\n str r4, [r12], #4"),
                _ => a.ops("ldm r3!, {r4-r11}\n stm r12!, {r4-r11}"),
            }
        }
        a.ops(&format!(
            "str r3, [sp, #{WEIGHTS}]
             ldr r3, [sp, #{V_END}]
             str r3, [sp, #{SIZE}]
             adr.w r4, 31f
             adr.w r5, 32f
             ldrd r6, r7, [sp, #{ENTER}]
             add r6, r4
             add r7, r5
             strd r6, r7, [sp, #{ENTER}]
             ldrd r4, r5, [sp, #{V_END}]
             ldrd r6, r7, [sp, #{SUMS_END}]
             ldr r8, [sp, #{RING}]
             add r4, r2
             add r5, r2
             add r6, r2
             add r7, r2
             add r8, r2
             strd r4, r5, [sp, #{V_END}]
             strd r6, r7, [sp, #{SUMS_END}]
             str r8, [sp, #{RING}]
             ldr r4, [sp, #{SLOT}]
             add r4, r8, r4, lsl #1
             strd r4, r8, [sp, #{FIRST}]
             movs r4, #0
             movs r5, #0
             strd r4, r5, [sp, #{ZEROS}]
             strd r4, r5, [sp, #{}]
             strd r4, r5, [sp, #{}]
             strd r4, r5, [sp, #{}]",
            ZEROS + 8,
            ZEROS + 16,
            ZEROS + 24
        ));
    }

    fn image(&self, a: &mut Assembly) {
        let tile_rows = self.tile_rows() as u64;
        let fetches = self.batch as u64 * (tile_rows + 1);
        a.label(4);
        a.total(fetches, |a| {
            a.ops(&format!("ldrd r4, r5, [sp, #{FIRST}]\n strd r5, r4, [sp, #{FIRST}]\n mov r10, r4"));
            self.fetch(a, 5);
            a.ops(&format!("ldr r10, [sp, #{SECOND}]\n ldr r4, [sp, #{SLOT}]\n add r10, r4"));
            self.fetch(a, 6);
            a.ops(&format!("ldr r4, [sp, #{FRESH}]\n cmp r4, #0\n beq 7f"));
        });
        a.ops(&format!("movs r4, #0\n str r4, [sp, #{FRESH}]\n b 4b"));
        a.label(7);
        a.passes(tile_rows, |a| {
            a.ops(&format!(
                "ldrd r4, r5, [sp, #{Y_ROW}]
                 ldr r6, [sp, #{WIDE}]
                 ldr r7, [sp, #{OUT_WIDTH}]
                 ldrd r8, r9, [sp, #{FIRST}]
                 subs r10, r5, #2
                 it mi
                 movmi r6, #0
                 strd r4, r6, [sp, #{Y}]
                 add r4, r4, r6
                 ldr r6, [sp, #{WIDE}]
                 add r4, r4, r6
                 strd r4, r10, [sp, #{Y_ROW}]
                 str r7, [sp, #{LEFT}]
                 strd r8, r9, [sp, #{AT}]"
            ));
            self.pairs_of_tiles(a);
            a.ops(&format!("ldr r4, [sp, #{ROWS_LEFT}]\n cmp r4, #0\n bgt 4b"));
        });
        a.comment("Rows of the input that no window reaches are left out.");
        let rest = self.height.saturating_sub(self.fetched(self.tile_rows() - 1));
        a.ops(&format!(
            "ldrd r4, r5, [sp, #{X}]
             ldr r6, [sp, #{HEIGHT}]
             ldr r7, [sp, #{PITCH}]
             subs r6, r6, r5
             ble 9f"
        ));
        a.total(if rest > 0 { self.batch as u64 } else { 0 }, |a| {
            a.ops(&format!("mla r4, r6, r7, r4\n str r4, [sp, #{X}]"));
        });
        a.label(9);
    }

    /// Copies a row of the input to r10 in the ring, or fills that with padding. `label` is the row's own.
    fn fetch(&self, a: &mut Assembly, label: u32) {
        // Which rows of all are copied: this one of each two.
        let parity = label as usize % 2;
        let rows = 2 * (self.tile_rows() + 1);
        let is_copied = |row: &usize| *row >= self.pad[0] && *row - self.pad[0] < self.height;
        let copied = (self.batch * (0..rows).filter(|row| row % 2 != parity).filter(is_copied).count()) as u64;
        let filled = (self.batch * rows / 2) as u64 - copied;
        let (outside, done) = (60 + label, 70 + label);
        a.ops(&format!(
            "ldrd r9, r4, [sp, #{X}]
             adds r5, r4, #1
             str r5, [sp, #{ROW_IN}]
             ldr r5, [sp, #{HEIGHT}]
             cmp r4, r5
             bhs {outside}f"
        ));
        a.total(copied, |a| {
            a.ops(&format!(
                "ldr r4, [sp, #{PITCH}]
                 ldr r5, [sp, #{MARGIN}]
                 ldr r2, [sp, #{COPY}]
                 add r4, r9
                 str r4, [sp, #{X}]
                 add r10, r5"
            ));
        });
        let bytes = (self.copied() * self.channels) as u64;
        copy_text(a, copied, bytes);
        a.total(copied, |a| a.op(format!("b {done}f")));
        a.label(outside);
        a.total(filled, |a| a.ops(&format!("ldr r2, [sp, #{SLOT}]\n ldr r4, [sp, #{FILL}]")));
        a.label(16);
        a.total(filled * (self.slot() / 4) as u64, |a| a.ops("str r4, [r10], #4\n subs r2, #4\n bne 16b"));
        a.label(done);
    }

    /// A row of tiles, two at a time.
    fn pairs_of_tiles(&self, a: &mut Assembly) {
        a.comment("Pairs of tiles. How far apart their results are.");
        a.label(8);
        a.passes(self.pairs() as u64, |a| {
            a.ops(&format!(
                "ldr r4, [sp, #{LEFT}]
                 ldr r5, [sp, #{OUTPUTS}]
                 subs r6, r4, #4
                 str r6, [sp, #{LEFT}]
                 cmp r4, #2
                 ite hs
                 movhs r6, r5
                 movlo r6, #0
                 cmp r4, #3
                 ite hs
                 lslhs r8, r5, #1
                 movlo r8, #0
                 cmp r4, #4
                 ite hs
                 movhs r7, r5
                 movlo r7, #0
                 strd r6, r7, [sp, #{COLUMN}]
                 str r8, [sp, #{TILE}]
                 ldr r6, [sp, #{V}]
                 str r6, [sp, #{INTO}]"
            ));
            self.transform_inputs(a);
            a.ops(&format!(
                "ldrd r4, r5, [sp, #{AT}]
                 ldr r6, [sp, #{NEXT}]
                 ldr r7, [sp, #{OUTPUTS}]
                 ldr r1, [sp, #{WEIGHTS}]
                 add r4, r6
                 add r5, r6
                 strd r4, r5, [sp, #{AT}]
                 str r7, [sp, #{CHANNELS_LEFT}]"
            ));
            a.label(12);
            a.passes(self.blocks() as u64, |a| {
                self.multiply(a);
                self.transform_sums(a);
                a.ops(&format!("ldr r4, [sp, #{CHANNELS_LEFT}]\n cmp r4, #0\n bgt 12b"));
            });
            a.ops(&format!(
                "ldr r4, [sp, #{Y}]
                 ldr r5, [sp, #{NEXT_Y}]
                 ldr r6, [sp, #{LEFT}]
                 add r4, r5
                 str r4, [sp, #{Y}]
                 cmp r6, #0
                 bgt 8b"
            ));
        });
    }

    /// Transforms the inputs of two tiles that are side by side, four channels at a time: columns first, which the two
    /// share, then rows.
    fn transform_inputs(&self, a: &mut Assembly) {
        a.comment("Inputs of both tiles, four channels at a time. Columns: r0 and r2 rows, r1 distance of rows.");
        a.label(20);
        a.passes(self.groups() as u64, |a| {
            a.ops(&format!(
                "ldrd r0, r2, [sp, #{AT}]
                 ldrd r1, r12, [sp, #{SLOT}]
                 adds r4, r0, #4
                 adds r5, r2, #4
                 strd r4, r5, [sp, #{AT}]"
            ));
            a.repeat(6, |a| {
                a.ops(
                    "ldr r5, [r0]
                     ldr.w lr, [r0, r1]
                     ldr.w r9, [r2]
                     ldr.w r11, [r2, r1]
                     add r0, r12
                     add r2, r12
                     sxtb16 r4, r5
                     sxtb16 r5, r5, ror #8
                     sxtb16 r3, lr
                     sxtb16 lr, lr, ror #8
                     sxtb16 r8, r9
                     sxtb16 r9, r9, ror #8
                     sxtb16 r10, r11
                     sxtb16 r11, r11, ror #8
                     ssub16 r4, r4, r8
                     ssub16 r5, r5, r9
                     sadd16 r6, r3, r8
                     sadd16 r7, lr, r9
                     ssub16 r10, r3, r10
                     ssub16 r11, lr, r11
                     ssub16 r8, r8, r3
                     ssub16 r9, r9, lr
                     push {r4-r11}",
                );
            });
            a.comment("Rows: r1 to r12 six columns, two words each.");
            a.ops(&format!("ldr r0, [sp, #{}]\n ldr lr, [sp, #{}]", INTO + COLUMNS_BYTES, SIZE + COLUMNS_BYTES));
            a.op("add r0, r0, lr, lsl #2");
            for (index, row) in ORDER.into_iter().enumerate() {
                transform_row(a, row as u32);
                if index < 3 {
                    a.ops("sub r0, r0, r2, lsl #1\n add r0, r0, r2, lsr #2");
                }
            }
            a.ops(&format!(
                "add sp, #{COLUMNS_BYTES}
                 ldr r4, [sp, #{INTO}]
                 ldr r5, [sp, #{INTO_END}]
                 adds r4, #16
                 str r4, [sp, #{INTO}]
                 cmp r4, r5
                 bne 20b"
            ));
        });
    }

    /// Products of two tiles with the weights of four channels: r2, r4, r6, r8 of the first tile, r3, r5, r7, r9 of the
    /// second. r0 transformed inputs, r1 weights.
    fn multiply(&self, a: &mut Assembly) {
        let (chains, steps) = (8 * self.all_blocks(), self.steps() as u64);
        a.comment("Blocks of four channels. Sums: r2, r4, r6, r8 of the first tile, r3, r5, r7, r9 of the second.");
        a.ops(&format!(
            "ldr r0, [sp, #{V}]
             ldrd r10, r11, [sp, #{V_END}]
             strd r10, r11, [sp, #{END}]
             ldm r1!, {{r2, r4, r6, r8}}
             mov r3, r2
             mov r5, r4
             mov r7, r6
             mov r9, r8
             ldr pc, [sp, #{ENTER}]"
        ));
        a.label(30);
        a.total(chains - self.all_blocks(), |a| {
            a.ops(&format!("add r12, sp, #{ZEROS}\n ldm r12, {{r2-r9}}\n ldr pc, [sp, #{ENTER}]"));
        });
        for label in [31, 32] {
            a.label(label);
            a.copies(COPIES as u32, chains * steps, step);
            a.total(chains * steps.div_ceil(COPIES), |a| {
                a.ops(&format!("ldr r10, [sp, #{END}]\n cmp r0, r10\n bne {label}b"));
            });
            a.total(chains, |a| {
                a.ops(&format!(
                    "ldrd r11, r12, [sp, #{SUMS}]
                     stm r11!, {{r2-r9}}
                     add r10, r12
                     strd r10, r11, [sp, #{END}]"
                ));
                match label {
                    31 => a.op(format!("ldr pc, [sp, #{ENTER1}]")),
                    _ => a.ops(&format!("ldr r12, [sp, #{SUMS_END}]\n cmp r11, r12\n bne 30b")),
                }
            });
        }
    }

    /// Transforms the sums of a block back, and stores the results.
    fn transform_sums(&self, a: &mut Assembly) {
        a.comment("Sums of a channel to results: r2, r3 above, r6, r7 below. r0 sums, r12 multiplier.");
        a.ops(&format!(
            "ldr r0, [sp, #{SUMS_START}]
             ldr r4, [sp, #{CHANNELS_LEFT}]
             subs r5, r4, #4
             str r5, [sp, #{CHANNELS_LEFT}]
             it ge
             movge r4, #4
             add r4, r0, r4, lsl #3
             str r4, [sp, #{STOP}]
             ldr lr, [sp, #{ZERO}]"
        ));
        let rows = (self.batch * self.tile_rows() * self.outputs) as u64;
        let second = rows * ((self.out_width + 1) / 4) as u64;
        a.label(40);
        a.total(rows * self.pairs() as u64, |a| {
            a.ops(&format!("ldr r12, [r1], #4\n ldr r10, [sp, #{TILE}]\n cmp r10, #0\n beq 41f"));
        });
        a.total(second, |a| {
            self.results(a, 4);
            a.ops(&format!("ldrd r11, r5, [sp, #{COLUMN1}]\n add r10, r5"));
            self.store(a, "[r10]");
        });
        a.label(41);
        a.total(rows * self.pairs() as u64, |a| {
            self.results(a, 0);
            a.op(format!("ldr r11, [sp, #{COLUMN}]"));
            self.store(a, "[r10], #1");
            a.ops(&format!(
                "str r10, [sp, #{Y}]
                 ldr r4, [sp, #{STOP}]
                 adds r0, #8
                 cmp r0, r4
                 bne 40b"
            ));
        });
    }

    /// Results of a tile, whose sums are `offset` bytes behind r0, in r2, r3, r6 and r7; r10 becomes the address of the
    /// first tile's result and r4 the distance of rows.
    fn results(&self, a: &mut Assembly, offset: usize) {
        for (index, column) in ORDER.into_iter().enumerate() {
            let at = |sum: usize| offset + (4 * index + sum) * SUM_BYTES;
            let (above, below) = (format!("r{}", 2 + column), format!("r{}", 6 + column));
            a.ops(&format!(
                "ldr {below}, [r0, #{}]
                 ldr {above}, [r0, #{}]
                 ldr r10, [r0, #{}]
                 ldr r11, [r0, #{}]
                 add {above}, {above}, r10
                 sub {below}, {below}, r11",
                at(0),
                at(1),
                at(2),
                at(3),
            ));
        }
        for [zero, one, two, three] in [["r2", "r3", "r4", "r5"], ["r6", "r7", "r8", "r9"]] {
            a.ops(&format!(
                "add {zero}, {zero}, {one}
                 sub {one}, {one}, {two}
                 add {zero}, {zero}, {two}
                 sub {one}, {one}, {three}"
            ));
        }
        let style = self.rows.style();
        style.requantize_shifted(a, &["r2", "r3", "r6", "r7"], "r12", style.fourfold_shift(), "r4", [LO, HI]);
        a.op(format!("ldrd r10, r4, [sp, #{Y}]"));
    }

    /// Stores the results of a tile at r10. r11 is the distance of columns and r4 of rows; where one is missing, what
    /// belongs there is overwritten by what is stored later.
    fn store(&self, a: &mut Assembly, first: &str) {
        if let Some(addition) = &self.addition {
            let sums = ["r2", "r3", "r6", "r7"];
            addition.begin(a, &sums, ["r8", "r9"]);
            addition.other(a, ["r8", "r9"], "r10");
            for (index, sum) in sums.into_iter().enumerate() {
                if index == 2 {
                    a.op("add r9, r4");
                }
                let address = ["[r9]", "[r9, r11]"][index % 2];
                a.ops(&format!("ldrsb r5, {address}\n mla {sum}, r5, r8, {sum}"));
            }
            addition.end(a, &sums, "r5");
        }
        a.ops(&format!(
            "add r4, r10
             strb r7, [r4, r11]
             strb r6, [r4]
             strb r3, [r10, r11]
             strb r2, {first}"
        ));
    }

    /// Blocks of channels that are multiplied in the whole call.
    fn all_blocks(&self) -> u64 {
        (self.batch * self.tile_rows() * self.pairs() * self.blocks()) as u64
    }
}

/// `(2 G) g (2 G)'` for a window of weights.
fn transformed(window: &[i8]) -> [[i64; 4]; 4] {
    let line = |[x, y, z]: [i64; 3]| [2 * x, x + y + z, x - y + z, 2 * z];
    let weight = |row: usize, column: usize| window.get(3 * row + column).map_or(0, |&weight| i64::from(weight));
    let rows: [[i64; 4]; 3] = std::array::from_fn(|row| line(std::array::from_fn(|column| weight(row, column))));
    let columns: [[i64; 4]; 4] = std::array::from_fn(|column| line(rows.map(|row| row[column])));
    std::array::from_fn(|row| std::array::from_fn(|column| columns[column][row]))
}

/// A row of two transformed tiles: r0 is the place of the element in column 0. Leaves the distance of columns in r2.
fn transform_row(a: &mut Assembly, row: u32) {
    for column in 0..6 {
        let (register, place) = (1 + 2 * column, (5 - column) * 32 + 8 * row);
        a.op(format!("ldrd r{register}, r{}, [sp, #{place}]", register + 1));
    }
    let column = |index: usize, word: usize| format!("r{}", 1 + 2 * index + word);
    // For each column: how it is computed from two, of which tile, and how to get from its place to the next one.
    let columns = [
        ("ssub16", [0, 2], "sub r0, r2"),
        ("sadd16", [1, 2], "add r0, r0, r2, lsl #1"),
        ("ssub16", [2, 1], "add r0, r2"),
        ("ssub16", [1, 3], ""),
    ];
    for (index, (op, [x, y], next)) in columns.into_iter().enumerate() {
        for word in 0..2 {
            // Column 0 is free behind its only use.
            let free = if index == 0 { column(0, word) } else { "r1".to_owned() };
            a.ops(&format!(
                "{op} {free}, {}, {}
                 {op} lr, {}, {}
                 strd {free}, lr, [r0, #{}]",
                column(x, word),
                column(y, word),
                column(x + 2, word),
                column(y + 2, word),
                8 * word,
            ));
        }
        if index == 0 {
            a.ops(&format!("ldr r2, [sp, #{}]\n lsls r2, r2, #2", SIZE + COLUMNS_BYTES));
        }
        if !next.is_empty() {
            a.op(next);
        }
    }
}

/// Two input channels of two tiles, four output channels.
fn step(a: &mut Assembly) {
    a.ops(
        "ldrd r10, r11, [r1], #8
         ldrd r12, lr, [r0], #8
         smlad r2, r10, r12, r2
         smlad r3, r10, lr, r3
         smlad r4, r11, r12, r4
         smlad r5, r11, lr, r5
         ldrd r10, r11, [r1], #8
         smlad r6, r10, r12, r6
         smlad r7, r10, lr, r7
         smlad r8, r11, r12, r8
         smlad r9, r11, lr, r9",
    );
}

/// Windows of 3x3 with a stride of one, all input channels, channels last.
pub fn accepts(layer: &Layer, plan: &Plan) -> bool {
    Shape::of(layer, plan).is_some()
}

/// What the text executes.
pub fn instructions(layer: &Layer, plan: &Plan) -> u64 {
    Shape::of(layer, plan).map_or(0, |shape| shape.assembly().instructions())
}

/// Two transformed tiles, their sums, and the ring.
pub fn scratch(layer: &Layer, plan: &Plan) -> usize {
    Shape::of(layer, plan).map_or(0, |shape| shape.scratch())
}

/// Before rows are fetched for a row of tiles, the rows of tiles above are written.
pub fn lead(layer: &Layer, plan: &Plan) -> Option<usize> {
    let shape = Shape::of(layer, plan).filter(|shape| shape.batch == 1)?;
    let later = (1..shape.tile_rows()).filter(|&row| shape.fetched(row) > shape.fetched(row - 1));
    let leads = later.map(|row| {
        let written = 2 * row * shape.out_width * shape.outputs;
        written.saturating_sub(shape.fetched(row - 1) * shape.width * shape.channels)
    });
    Some(leads.max().unwrap_or(0))
}

/// Builds the function.
pub fn build(b: &mut LayerBuilder) {
    let Some(shape) = Shape::of(b.layer, b.plan) else { return };
    b.pass("data", "Sizes, then for each block biases, weights and multipliers.", Elem::I32, shape.data());
    b.assemble(shape.assembly());
}
