//! Depthwise convolutions: each channel by itself.
//!
//! Neighbours along a line of one channel have to lie side by side for instructions that multiply two of them. So of
//! four channels at a time, the lines under a band of results are taken apart into planes of bytes, with padding around
//! them. Lines run along either axis of the image, whichever is cheaper. Channel by channel, the results of a band are
//! computed and stored where they belong. Results never overwrite an element of their channel that is still to be
//! fetched, so the layer may work in place.

use super::DSP;
use super::pointwise::channels_last;
use super::products::{Rows, Style};
use crate::kernels::LayerBuilder;
use crate::ops::QuantOp;
use crate::ops::conv::QConv;
use crate::plan::{Layer, Plan, Work};
use crate::program::{Assembly, Elem};

/// Channels that are taken apart at once.
const GROUP: usize = 4;

/// Bytes of the planes that are worth while to have more than one line of results in a band.
const BAND_BYTES: usize = 1024;

/// Copies of the step of two results, and of one, in their loops.
const PAIR_COPIES: u64 = 4;
const SINGLE_COPIES: u64 = 4;
const PAIR_BYTES: u64 = 29 * 4;
const SINGLE_BYTES: u64 = 20 * 4;

// The frame: first what the constants begin with, in their order.
const ZERO: u32 = 0;
const LO: u32 = 4;
const HI: u32 = 8;
/// Distance of pixels in a line, of lines, of images in the input.
const PIXEL: u32 = 12;
const LINE: u32 = 16;
const IMAGE: u32 = 20;
/// The same of the result.
const OUT_PIXEL: u32 = 24;
const OUT_LINE: u32 = 28;
const OUT_IMAGE: u32 = 32;
/// Pixels of a line, lines of the input.
const WIDTH: u32 = 36;
const HEIGHT: u32 = 40;
const OUT_HEIGHT: u32 = 44;
/// Rows of the window, and rows from window to window behind it; the first row of the first window.
const KERNEL: u32 = 48;
const FIRST: u32 = 56;
/// Padding in front of a line.
const MARGIN: u32 = 60;
/// Distance of planes, of lines in the planes (four times that), and from line to line of results.
const PLANE: u32 = 64;
const SLOT: u32 = 68;
const STEP: u32 = 72;
/// Lines of results in a band.
const BAND: u32 = 76;
/// Bytes of the input that pairs of results advance over, and pairs and single ones.
const PAIRS: u32 = 80;
/// Entries of both loops.
const ENTER: u32 = 88;
const CHANNELS: u32 = 96;
const BATCH: u32 = 100;
/// Padding, four times, and the bytes of the planes behind it.
const PADDING: u32 = 104;
/// Bytes of a channel's constants.
const CHANNEL_BYTES: u32 = 112;
/// Where unpacked weights lie behind the planes; words of a row of them, and the bytes.
const WEIGHTS: u32 = 116;
const WORDS: u32 = 120;
const WORDS_BYTES: u32 = 124;
/// Rows of a window, weights of a row, stride along a line.
const TAPS: u32 = 128;
const SHIFT: u32 = 136;
/// From behind a row of a window to the next.
const ROW_SKIP: u32 = 140;
const CONSTANTS: usize = 36;
// Then what changes.
/// The multiplier of a channel and the zero point of the result behind it.
const MULTIPLIER: u32 = 144;
/// Line of a plane and its place in the result.
const AT: u32 = 152;
/// Where in a line pairs end, and all.
const ENDS: u32 = 160;
const PLANES: u32 = 168;
/// The image, and its result behind it.
const X: u32 = 172;
const ROWS: u32 = 180;
/// Constants of the next channel.
const NEXT: u32 = 184;
/// First channel of the group, channels of it that are known already.
const CHANNEL: u32 = 188;
const KNOWN: u32 = 192;
/// The next line to fetch, its number, lines in the planes.
const FETCH: u32 = 196;
const NUMBER: u32 = 200;
const HELD: u32 = 204;
/// Results: of the band, lines of it, lines that are left behind it.
const OUT: u32 = 208;
const LINES: u32 = 212;
const ROWS_LEFT: u32 = 216;
const LEFT: u32 = 220;
/// Lines of the band that are left for a channel.
const KEPT: u32 = 224;
/// Bias of a channel, end of its weights, a row of them as bytes.
const BIAS: u32 = 228;
const WEIGHTS_END: u32 = 232;
const BYTES: u32 = 236;
const FRAME: u32 = 240;

/// How the windows of a line are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// 3 x 3 weights in registers.
    Square,
    /// One row of so many words of weights.
    Row(usize),
    /// Any number of rows.
    Rows,
}

/// Most words of weights of a window of one row.
const ROW_WORDS: usize = 4;

/// Copies of a word of weights in the loop over a row of a window, and bytes of code.
const WORD_COPIES: u64 = 4;
const WORD_BYTES: u64 = 8 * 4;

struct Shape<'a> {
    conv: &'a QConv,
    rows: Rows,
    batch: usize,
    channels: usize,
    /// Lines, and pixels of a line.
    size: [usize; 2],
    out: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    pad: [usize; 2],
    /// Whether lines run along the first spatial axis.
    turned: bool,
}

impl Shape<'_> {
    /// The cheaper of both directions.
    fn of<'a>(layer: &'a Layer, plan: &Plan) -> Option<Shape<'a>> {
        let along = [false, true].into_iter().filter_map(|turned| Shape::turned(layer, plan, turned));
        along.min_by_key(|shape| shape.assembly().instructions())
    }

    fn turned<'a>(layer: &'a Layer, plan: &Plan, turned: bool) -> Option<Shape<'a>> {
        let Work::Operator(QuantOp::Conv(conv)) = &layer.work else { return None };
        let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
        let window = &conv.window;
        let depthwise = conv.group_inputs() == 1 && conv.group_outputs() == 1;
        let undilated =
            window.dilation.iter().zip(&window.kernel).all(|(&dilation, &kernel)| dilation == 1 || kernel == 1);
        if !depthwise || !undilated || layer.added.is_some() || !channels_last(x) || !channels_last(y) {
            return None;
        }
        let plane = |dims: &[usize], first: usize| match *dims {
            [width] if turned => Some([width, first]),
            [width] => Some([first, width]),
            [height, width] if turned => Some([width, height]),
            [height, width] => Some([height, width]),
            _ => None,
        };
        let (input, output) = (x.ty.shape.dims(), y.ty.shape.dims());
        let kernel = plane(&window.kernel, 1)?;
        let order = |row: &[i8]| match turned {
            false => row.to_vec(),
            true => {
                let [rows, columns] = kernel;
                (0..rows).flat_map(|i| (0..columns).map(move |j| row[j * rows + i])).collect()
            }
        };
        let shape = Shape {
            conv,
            rows: Rows::single(&conv.weighted, order)?,
            batch: input[0],
            channels: input[1],
            size: plane(&input[2..], 1)?,
            out: plane(&output[2..], 1)?,
            kernel,
            stride: plane(&window.stride, 1)?,
            pad: plane(&window.pad_begin, 0)?,
            turned,
        };
        // A single result is not worth the effort.
        let fits = shape.stride[0] <= shape.kernel[0] && shape.stride[1] <= 4 && shape.out != [1, 1];
        (fits && shape.channels >= GROUP).then_some(shape)
    }

    fn method(&self) -> Method {
        match self.kernel {
            [3, 3] if self.stride[1] <= 2 => Method::Square,
            [1, _] if self.words() <= ROW_WORDS => Method::Row(self.words()),
            _ => Method::Rows,
        }
    }

    /// Whether the result is one line, so that no loop over lines is needed.
    fn single_line(&self) -> bool {
        self.out[0] == 1 && matches!(self.method(), Method::Row(_))
    }

    /// Words of a line under a row of two neighbouring windows.
    fn words(&self) -> usize {
        (self.kernel[1] + self.stride[1]).div_ceil(4)
    }

    /// Results of a line that are computed in pairs, and by themselves.
    fn pairs(&self) -> u64 {
        if self.stride[1] == 1 { self.out[1] as u64 / 2 } else { 0 }
    }

    fn singles(&self) -> u64 {
        self.out[1] as u64 - 2 * self.pairs()
    }

    /// Pixels of a line that are fetched.
    fn fetched(&self) -> usize {
        let used = (self.out[1] - 1) * self.stride[1] + self.kernel[1];
        self.size[1].min(used.saturating_sub(self.pad[1]))
    }

    /// Bytes of a line in a plane. Every window is read in whole words.
    fn plane(&self) -> usize {
        let used = match self.method() {
            Method::Square => (self.out[1] - 1) * self.stride[1] + self.kernel[1].next_multiple_of(4),
            Method::Row(_) | Method::Rows => 2 * self.stride[1] * (self.out[1].div_ceil(2) - 1) + 4 * self.words(),
        };
        used.max(self.pad[1] + self.fetched()).next_multiple_of(8)
    }

    fn slot(&self) -> usize {
        GROUP * self.plane()
    }

    /// Lines of results in a band.
    fn band(&self) -> usize {
        let lines = (BAND_BYTES / self.slot()).max(self.kernel[0]);
        ((lines - self.kernel[0]) / self.stride[0] + 1).min(self.out[0])
    }

    fn planes_bytes(&self) -> usize {
        ((self.band() - 1) * self.stride[0] + self.kernel[0]) * self.slot()
    }

    /// Bytes of a row of weights with zeros around them.
    fn row_bytes(&self) -> usize {
        (4 * self.words() + 4).next_multiple_of(8)
    }

    fn scratch(&self) -> usize {
        let weights = match self.method() {
            Method::Square => 0,
            Method::Row(words) => 16 * words,
            Method::Rows => self.row_bytes() + 16 * self.kernel[0] * self.words(),
        };
        self.planes_bytes() + weights
    }

    /// Bytes of a channel's constants.
    fn channel_bytes(&self) -> usize {
        8 + match self.method() {
            Method::Square => 12,
            Method::Row(words) => 4 * words + 4,
            Method::Rows => (self.kernel[0] * self.kernel[1]).next_multiple_of(4),
        }
    }

    fn groups(&self) -> u64 {
        (self.batch * self.channels.div_ceil(GROUP)) as u64
    }

    fn data(&self) -> Vec<i64> {
        let (line, pixel) = if self.turned { (1, self.size[0]) } else { (self.size[1], 1) };
        let (out_line, out_pixel) = if self.turned { (1, self.out[0]) } else { (self.out[1], 1) };
        let entry = |steps: u64, copies: u64, bytes: u64| match steps {
            0 => copies * bytes + 1,
            _ => (copies - 1 - (steps + copies - 1) % copies) * bytes + 1,
        };
        let c = self.channels;
        let unsigned = [
            pixel * c,
            line * c,
            self.size[0] * self.size[1] * c,
            out_pixel * c,
            out_line * c,
            self.out[0] * self.out[1] * c,
            self.fetched(),
            self.size[0],
            self.out[0],
            self.kernel[0],
            self.stride[0],
        ];
        let [zero, _, lo, hi] = self.rows.head();
        let mut data = vec![zero, lo, hi];
        data.extend(unsigned.map(|value| value as i64));
        data.push(-(self.pad[0] as i64));
        let more = [self.pad[1], self.plane(), self.slot(), self.stride[0] * self.slot(), self.band()]
            .map(|value| value as i64);
        data.extend(more);
        let (pairs, both) = (self.pairs(), self.pairs() + self.singles());
        let rows_bytes = self.planes_bytes() + if self.method() == Method::Rows { self.row_bytes() } else { 0 };
        let words = self.words();
        let results = self.out[1] as u64;
        let twice = 2 * self.stride[1] as u64;
        let steps = match self.method() {
            // Both kinds of steps advance by two.
            Method::Square => [
                2 * pairs,
                2 * both,
                entry(pairs, PAIR_COPIES, self.pair_bytes()),
                entry(self.singles(), SINGLE_COPIES, self.single_bytes()),
            ],
            Method::Row(_) => [results / 2 * twice, results.div_ceil(2) * twice, 1, 1],
            Method::Rows => {
                [results / 2 * twice, results.div_ceil(2) * twice, entry(words as u64, WORD_COPIES, WORD_BYTES), 1]
            }
        };
        data.extend(steps.map(|step| step as i64));
        data.extend([c as i64, self.batch as i64]);
        data.push(i64::from(i32::from_le_bytes([self.conv.weighted.input_zero as i8 as u8; 4])));
        let last = [
            self.planes_bytes(),
            self.channel_bytes(),
            rows_bytes,
            words,
            16 * words,
            self.kernel[0],
            self.kernel[1],
            self.stride[1],
            self.slot() - (4 * words).min(self.slot()),
        ];
        data.extend(last.map(|value| value as i64));
        let zero = self.conv.weighted.input_zero;
        data.extend(match self.method() {
            Method::Square => self.rows.packed_single(3, 4, 0, zero),
            Method::Row(words) => self.rows.packed_single(self.kernel[1], 4 * words + 4, self.stride[1], zero),
            Method::Rows => {
                let taps = self.kernel[0] * self.kernel[1];
                self.rows.packed_single(taps, taps.next_multiple_of(4), 0, zero)
            }
        });
        data
    }

    fn style(&self) -> Style {
        self.rows.style()
    }

    fn pair_bytes(&self) -> u64 {
        PAIR_BYTES + self.style().extra_bytes(2)
    }

    fn single_bytes(&self) -> u64 {
        SINGLE_BYTES + self.style().extra_bytes(1)
    }

    fn assembly(&self) -> Assembly {
        let windows = match self.method() {
            Method::Square => "windows of 3 x 3",
            Method::Row(_) => "windows of one row",
            Method::Rows => "windows of any size",
        };
        let doc = vec![
            format!(
                "Depthwise convolution, {windows}. The lines under a band of results are taken apart into planes, four"
            ),
            "channels at once; then each channel by itself, two neighbouring results at a time where that is possible."
                .to_owned(),
            "data: sizes, then weights, bias and multiplier of each channel.".to_owned(),
        ];
        let name = match self.method() {
            Method::Square => "depthwise_3x3".to_owned(),
            Method::Row(_) if self.single_line() => format!("depthwise_line_{}", self.stride[1]),
            Method::Row(_) => format!("depthwise_row_{}", self.stride[1]),
            Method::Rows => "depthwise".to_owned(),
        };
        let mut assembly = Assembly::new(format!("{name}{}", self.style().suffix()), doc, DSP);
        let a = &mut assembly;
        a.ops(&format!(
            "push {{r4-r11, lr}}\n sub sp, #{FRAME}\n strd r0, r1, [sp, #{X}]\n str r2, [sp, #{PLANES}]\n mov r12, sp"
        ));
        let mut left = CONSTANTS;
        while left > 0 {
            let words = left.min(8);
            a.ops(&format!("ldm r3!, {{r4-r{0}}}\n stm r12!, {{r4-r{0}}}", 3 + words));
            left -= words;
        }
        self.enter(a);
        a.ops(&format!(
            "str r3, [sp, #{ROWS}]
             ldr r4, [sp, #{ZERO}]
             str r4, [sp, #{}]",
            MULTIPLIER + 4
        ));
        self.clear_row(a);
        a.comment("Padding in all planes.");
        a.ops(&format!("ldrd r4, r5, [sp, #{PADDING}]\n mov r6, r4\n add r5, r2"));
        a.label(2);
        a.passes((self.planes_bytes() / 8) as u64, |a| a.ops("strd r4, r6, [r2], #8\n cmp r2, r5\n bne 2b"));
        a.comment("SEL shall take the even bytes of its first operand.");
        a.ops("mov r4, #0x00ff00ff\n uadd8 r4, r4, r4");
        a.label(3);
        a.passes(self.batch as u64, |a| {
            a.ops(&format!("ldr r4, [sp, #{ROWS}]\n movs r5, #0\n strd r4, r5, [sp, #{NEXT}]"));
            self.groups_text(a);
            a.ops(&format!(
                "ldrd r4, r5, [sp, #{X}]
                 ldr r6, [sp, #{IMAGE}]
                 ldr r7, [sp, #{OUT_IMAGE}]
                 add r4, r6
                 add r5, r7
                 strd r4, r5, [sp, #{X}]
                 ldr r4, [sp, #{BATCH}]
                 subs r4, #1
                 str r4, [sp, #{BATCH}]
                 bne 3b"
            ));
        });
        a.ops(&format!("add sp, #{FRAME}\n pop {{r4-r11, pc}}"));
        assembly
    }

    fn groups_text(&self, a: &mut Assembly) {
        let groups = self.channels.div_ceil(GROUP) as u64;
        a.comment("Groups of four channels. The last one goes back to have four, and leaves out what is known.");
        a.label(4);
        a.passes(groups, |a| {
            a.ops(&format!(
                "ldr r4, [sp, #{CHANNEL}]
                 ldr r5, [sp, #{CHANNELS}]
                 movs r6, #0
                 subs r5, #{GROUP}
                 subs r5, r4, r5
                 ble 5f"
            ));
            let short = if self.channels.is_multiple_of(GROUP) { 0 } else { self.batch as u64 };
            a.total(short, |a| a.ops("mov r6, r5\n subs r4, r4, r5"));
            a.label(5);
            a.ops(&format!(
                "ldrd r8, r9, [sp, #{X}]
                 str r6, [sp, #{KNOWN}]
                 add r8, r4
                 add r9, r4
                 ldr r10, [sp, #{FIRST}]
                 movs r11, #0
                 strd r8, r10, [sp, #{FETCH}]
                 strd r11, r9, [sp, #{HELD}]
                 ldr r4, [sp, #{OUT_HEIGHT}]
                 str r4, [sp, #{ROWS_LEFT}]"
            ));
            self.bands(a);
            a.ops(&format!(
                "ldr r4, [sp, #{CHANNEL}]
                 ldr r5, [sp, #{CHANNELS}]
                 add.w r4, r4, #{GROUP}
                 str r4, [sp, #{CHANNEL}]
                 cmp r4, r5
                 blo 4b"
            ));
        });
    }

    fn bands(&self, a: &mut Assembly) {
        let bands = self.out[0].div_ceil(self.band()) as u64;
        let all_bands = bands * self.groups();
        // Lines beyond the input are fetched, too, as padding.
        let lines = (self.out[0] - 1) * self.stride[0] + self.kernel[0];
        let inside = (lines - self.pad[0].min(lines)).min(self.size[0]) as u64 * self.groups();
        let lines = lines as u64 * self.groups();
        a.label(6);
        a.passes(bands, |a| {
            a.comment("A band: fetch the lines that its windows need and that are not there yet.");
            a.ops(&format!(
                "ldr r4, [sp, #{ROWS_LEFT}]
                 ldr r5, [sp, #{BAND}]
                 cmp r5, r4
                 it gt
                 movgt r5, r4
                 subs r4, r4, r5
                 strd r5, r4, [sp, #{LINES}]
                 ldrd r6, r7, [sp, #{KERNEL}]
                 subs r5, #1
                 mla r6, r5, r7, r6
                 ldr r4, [sp, #{HELD}]
                 ldr r7, [sp, #{SLOT}]
                 ldr r8, [sp, #{PLANES}]
                 mla r8, r4, r7, r8
                 subs r6, r6, r4
                 str r6, [sp, #{LEFT}]"
            ));
            a.label(7);
            a.total(lines, |a| {
                a.ops(&format!(
                    "ldr r3, [sp, #{PLANE}]
                     ldrd r0, r4, [sp, #{FETCH}]
                     ldr r5, [sp, #{HEIGHT}]
                     mov r1, r8
                     cmp r4, r5
                     add.w r4, r4, #1
                     str r4, [sp, #{NUMBER}]
                     bhs 11f"
                ));
            });
            a.total(inside, |a| {
                self.fetch(a, inside);
                a.op("b 13f");
            });
            self.pad_text(a, lines - inside);
            a.label(13);
            a.total(lines, |a| {
                a.ops(&format!(
                    "add.w r8, r8, r3, lsl #2
                     ldr r4, [sp, #{LEFT}]
                     subs r4, #1
                     str r4, [sp, #{LEFT}]
                     bne 7b"
                ));
            });
            self.channels_text(a);
            self.slide(a, all_bands);
        });
    }

    /// Takes a line of four channels at r0 apart into planes at r1, r3 bytes apart. r8 stays.
    fn fetch(&self, a: &mut Assembly, lines: u64) {
        let pixels = self.fetched() as u64;
        a.ops(&format!(
            "ldr r4, [sp, #{LINE}]
             ldr r11, [sp, #{WIDTH}]
             add r4, r0
             str r4, [sp, #{FETCH}]
             ldr r4, [sp, #{MARGIN}]
             ldr r2, [sp, #{PIXEL}]
             add r1, r4
             add.w lr, r2, r2, lsl #1
             add.w r10, r3, r3, lsl #1
             add r10, r1
             subs r11, #4
             bmi 9f"
        ));
        a.label(8);
        a.comment("Four pixels a, b, c, d. Halves first: a0 a1 c0 c1 and b0 b1 d0 d1, then bytes in turns.");
        a.total(lines * (pixels / 4), |a| {
            a.ops(
                "ldr r4, [r0]
                 ldr r5, [r0, r2]
                 ldr.w r6, [r0, r2, lsl #1]
                 ldr.w r7, [r0, lr]
                 add.w r0, r0, r2, lsl #2
                 pkhbt r12, r4, r6, lsl #16
                 pkhtb r4, r6, r4, asr #16
                 pkhbt r9, r5, r7, lsl #16
                 pkhtb r5, r7, r5, asr #16
                 lsl.w r6, r9, #8
                 sel r6, r12, r6
                 lsr.w r12, r12, #8
                 sel r12, r12, r9
                 lsl.w r7, r5, #8
                 sel r7, r4, r7
                 lsr.w r4, r4, #8
                 sel r4, r4, r5
                 str.w r12, [r1, r3]
                 str.w r7, [r1, r3, lsl #1]
                 str r6, [r1], #4
                 str r4, [r10], #4
                 subs r11, #4
                 bpl 8b",
            );
        });
        a.label(9);
        a.ops("adds r11, #4\n beq 10f");
        a.label(12);
        a.total(lines * (pixels % 4), |a| {
            a.ops(
                "ldr r4, [r0]
                 add r0, r2
                 lsrs r5, r4, #8
                 lsrs r6, r4, #16
                 lsrs r7, r4, #24
                 strb r5, [r1, r3]
                 strb.w r6, [r1, r3, lsl #1]
                 strb r4, [r1], #1
                 strb r7, [r10], #1
                 subs r11, #1
                 bne 12b",
            );
        });
        a.label(10);
    }

    /// A line above or below the input.
    fn pad_text(&self, a: &mut Assembly, lines: u64) {
        a.label(11);
        a.total(lines, |a| a.ops(&format!("ldr r4, [sp, #{PADDING}]\n add.w r5, r1, r3, lsl #2\n mov r6, r4")));
        a.label(14);
        a.total(lines * (self.slot() / 8) as u64, |a| a.ops("strd r4, r6, [r1], #8\n cmp r1, r5\n bne 14b"));
    }

    fn channels_text(&self, a: &mut Assembly) {
        let channels = (self.batch * self.channels * self.out[0].div_ceil(self.band())) as u64;
        let lines = (self.batch * self.channels * self.out[0]) as u64;
        a.comment(
            "Channel by channel. r4 to r6 outer weights of each row, r7 middle ones of two rows, r8 of the third,",
        );
        a.comment("r9 bias, r0 line in the plane, r1 distance of lines, r2 result, r3 distance of pixels.");
        a.ops(&format!(
            "ldr r4, [sp, #{KNOWN}]
             ldr r5, [sp, #{CHANNEL}]
             ldr r6, [sp, #{ROWS}]
             ldr r7, [sp, #{CHANNEL_BYTES}]
             mla r6, r5, r7, r6
             str r6, [sp, #{NEXT}]
             str r4, [sp, #{LEFT}]"
        ));
        a.label(15);
        a.total(channels, |a| {
            match self.method() {
                Method::Square => self.square_weights(a),
                Method::Row(_) | Method::Rows => self.row_weights(a, channels),
            }
            a.ops(&format!(
                "str r12, [sp, #{NEXT}]
                 str r11, [sp, #{MULTIPLIER}]
                 ldr r10, [sp, #{LEFT}]
                 ldr r0, [sp, #{PLANES}]
                 ldr r1, [sp, #{PLANE}]
                 ldr r2, [sp, #{OUT}]
                 mla r0, r10, r1, r0
                 add r2, r10
                 add r10, r10, #1
                 str r10, [sp, #{LEFT}]"
            ));
            if !self.single_line() {
                a.ops(&format!("ldr r11, [sp, #{LINES}]\n str r11, [sp, #{KEPT}]"));
            }
            if self.method() == Method::Square {
                a.ops(&format!("ldr r1, [sp, #{SLOT}]\n ldr r3, [sp, #{OUT_PIXEL}]"));
            }
        });
        a.label(16);
        a.total(lines, |a| {
            a.ops(&format!(
                "ldrd r10, r11, [sp, #{PAIRS}]
                 add r10, r0
                 add r11, r0
                 strd r10, r11, [sp, #{ENDS}]"
            ));
            if !self.single_line() {
                a.op(format!("strd r0, r2, [sp, #{AT}]"));
            }
        });
        match self.method() {
            Method::Square => self.square_line(a, lines),
            Method::Row(words) => self.row_line(a, lines, words),
            Method::Rows => self.rows_line(a, lines),
        }
        if !self.single_line() {
            a.total(lines, |a| {
                a.ops(&format!(
                    "ldrd r0, r2, [sp, #{AT}]
                 ldr r10, [sp, #{STEP}]
                 ldr r11, [sp, #{OUT_LINE}]
                 ldr r12, [sp, #{KEPT}]
                 add r0, r10
                 add r2, r11
                 subs r12, #1
                 str r12, [sp, #{KEPT}]
                 bne 16b"
                ));
            });
        }
        a.total(channels, |a| a.ops(&format!("ldr r10, [sp, #{LEFT}]\n cmp r10, #{GROUP}\n bne 15b")));
    }

    /// Addresses of the entries of loops.
    fn enter(&self, a: &mut Assembly) {
        match self.method() {
            Method::Square => a.ops(&format!(
                "ldrd r4, r5, [sp, #{ENTER}]
                 adr.w r6, 20f
                 add r4, r6
                 adr.w r6, 22f
                 add r5, r6
                 strd r4, r5, [sp, #{ENTER}]"
            )),
            Method::Rows => a.ops(&format!(
                "ldr r4, [sp, #{ENTER}]
                 adr.w r6, 22f
                 add r4, r6
                 str r4, [sp, #{ENTER}]"
            )),
            // The loop for this number of words.
            Method::Row(words) => {
                a.ops(&format!("ldr r5, [sp, #{WORDS}]\n adr.w r4, 22f"));
                for (count, label) in [(2, 23), (3, 24), (4, 25)] {
                    a.ops(&format!("cmp r5, #{count}\n bne 26f"));
                    a.total(u64::from(count == words), |a| a.op(format!("adr.w r4, {label}f")));
                    a.label(26);
                }
                a.ops(&format!("add.w r4, r4, #1\n str r4, [sp, #{ENTER}]"));
            }
        }
    }

    /// Zeros for what is around a row of weights.
    fn clear_row(&self, a: &mut Assembly) {
        match self.method() {
            Method::Square => {}
            Method::Row(_) => a.ops(&format!("ldr r0, [sp, #{WEIGHTS}]\n add r0, r2\n str r0, [sp, #{WEIGHTS}]")),
            Method::Rows => {
                a.ops(&format!(
                    "ldr r0, [sp, #{WEIGHTS}]
                     ldr r1, [sp, #{}]
                     add r0, r2
                     add r1, r2
                     str r0, [sp, #{WEIGHTS}]
                     str r1, [sp, #{BYTES}]
                     movs r4, #0
                     mov r5, r4",
                    PADDING + 4
                ));
                a.label(51);
                a.passes((self.row_bytes() / 8) as u64, |a| a.ops("strd r4, r5, [r1], #8\n cmp r1, r0\n bne 51b"));
            }
        }
    }

    /// Constants of a channel at r12: bias in r9, multiplier in r11, weights in r4 to r8.
    fn square_weights(&self, a: &mut Assembly) {
        a.ops(&format!(
            "ldr r12, [sp, #{NEXT}]
             ldm r12!, {{r4-r6, r9, r11}}
             sxtb16 r7, r4, ror #8
             sxtb16 r8, r5, ror #8
             pkhbt r7, r7, r8, lsl #16
             sxtb16 r8, r6, ror #8
             sxtb16 r4, r4
             sxtb16 r5, r5
             sxtb16 r6, r6"
        ));
    }

    /// Weights of a channel, unpacked for two neighbouring windows over the same bytes: those of the first window, and
    /// those of the second, which begins further on. Multiplier in r11.
    fn row_weights(&self, a: &mut Assembly, channels: u64) {
        let (rows, taps, words) = (self.kernel[0] as u64, self.kernel[1] as u64, self.words() as u64);
        let many = self.method() == Method::Rows;
        a.ops(&format!(
            "ldr r12, [sp, #{NEXT}]
             ldr r1, [sp, #{WEIGHTS}]
             ldr r3, [sp, #{SHIFT}]"
        ));
        if many {
            a.ops(&format!("ldr r2, [sp, #{TAPS}]"));
            a.label(52);
            a.total(channels * rows, |a| {
                a.ops(&format!("ldr r0, [sp, #{BYTES}]\n ldr r6, [sp, #{}]\n add r4, r0, r3", TAPS + 4));
            });
            a.label(53);
            a.total(channels * rows * taps, |a| {
                a.ops("ldrb r7, [r12], #1\n strb r7, [r4], #1\n subs r6, #1\n bne 53b");
            });
        } else {
            a.op("mov r0, r12");
        }
        a.total(channels * rows, |a| a.ops(&format!("ldr r6, [sp, #{WORDS}]\n add r5, r0, r3")));
        a.label(54);
        a.total(channels * rows * words, |a| {
            a.ops(
                "ldr r7, [r5], #4
                 ldr r8, [r0], #4
                 sxtb16 r9, r7
                 sxtb16 r10, r7, ror #8
                 sxtb16 r11, r8
                 sxtb16 lr, r8, ror #8
                 stm r1!, {r9-r11, lr}
                 subs r6, #1
                 bne 54b",
            );
        });
        if many {
            a.total(channels * rows, |a| a.ops("subs r2, #1\n bne 52b"));
            a.ops(&format!(
                "add r12, r12, #3
                 bic r12, r12, #3
                 str r1, [sp, #{WEIGHTS_END}]"
            ));
        } else {
            a.op("add.w r12, r0, #4");
        }
        match many {
            true => a.ops(&format!("ldm r12!, {{r9, r11}}\n str r9, [sp, #{BIAS}]")),
            false => a.op("ldm r12!, {r8, r11}"),
        }
    }

    /// A line of results, windows of one row: r9 weights, r8 bias.
    fn row_line(&self, a: &mut Assembly, lines: u64, words: usize) {
        let results = self.out[1] as u64;
        let alone = if results % 2 == 1 { lines } else { 0 };
        a.total(lines, |a| {
            a.ops(&format!(
                "ldr r3, [sp, #{OUT_PIXEL}]
                 ldr r9, [sp, #{WEIGHTS}]
                 cmp r0, r10
                 beq 27f"
            ));
        });
        a.label(20);
        a.total(lines * (results / 2).min(1) + alone, |a| a.op(format!("ldr pc, [sp, #{ENTER}]")));
        for (count, label) in [(1, 22), (2, 23), (3, 24), (4, 25)] {
            let runs = if count == words { lines * results.div_ceil(2) } else { 0 };
            a.label(label);
            a.total(runs, |a| {
                a.op("mov r1, r9");
                for word in 0..count {
                    let load = match word + 1 == count {
                        false => format!("ldr r12, [r0, #{}]", 4 * word),
                        true if word == 0 => format!("ldr r12, [r0], #{}", 2 * self.stride[1]),
                        true => format!("ldr r12, [r0, #{}]\n add.w r0, r0, #{}", 4 * word, 2 * self.stride[1]),
                    };
                    let sums = if word == 0 { ["r8", "r8"] } else { ["r10", "r11"] };
                    a.ops(&format!(
                        "{load}
                         ldm r1!, {{r4-r7}}
                         sxtb16 lr, r12
                         sxtb16 r12, r12, ror #8
                         smlad r10, lr, r4, {}
                         smlad r11, lr, r6, {}
                         smlad r10, r12, r5, r10
                         smlad r11, r12, r7, r11",
                        sums[0], sums[1]
                    ));
                }
                self.store_pair(a);
                a.ops(&format!("ldr r12, [sp, #{ENDS}]\n cmp r0, r12\n bne {label}b"));
            });
            // What ends a line is behind the last loop.
            if count < ROW_WORDS {
                let ends = if count == words { lines * (results / 2).min(1) + alone } else { 0 };
                a.total(ends, |a| a.op("b 27f"));
            }
        }
        self.last_alone(a, lines, alone, "r0");
    }

    /// A line of results, windows of several rows: r8 the windows, r1 weights.
    fn rows_line(&self, a: &mut Assembly, lines: u64) {
        let results = self.out[1] as u64;
        let alone = if results % 2 == 1 { lines } else { 0 };
        let (pairs, rows, words) = (lines * results.div_ceil(2), self.kernel[0] as u64, self.words() as u64);
        a.total(lines, |a| a.ops(&format!("ldr r3, [sp, #{OUT_PIXEL}]\n mov r8, r0\n cmp r8, r10\n beq 27f")));
        a.label(20);
        a.total(pairs, |a| {
            a.ops(&format!("ldr r1, [sp, #{WEIGHTS}]\n ldr r10, [sp, #{BIAS}]\n mov r0, r8\n mov r11, r10"));
        });
        a.label(21);
        a.total(pairs * rows, |a| {
            a.ops(&format!("ldr r12, [sp, #{WORDS_BYTES}]\n add.w r9, r1, r12\n ldr pc, [sp, #{ENTER}]"));
        });
        a.label(22);
        a.copies(WORD_COPIES as u32, pairs * rows * words, |a| {
            a.ops(
                "ldr.w r12, [r0], #4
                 ldm.w r1!, {r4-r7}
                 sxtb16 lr, r12
                 sxtb16 r12, r12, ror #8
                 smlad r10, lr, r4, r10
                 smlad r11, lr, r6, r11
                 smlad r10, r12, r5, r10
                 smlad r11, r12, r7, r11",
            );
        });
        a.total(pairs * rows * words.div_ceil(WORD_COPIES), |a| a.ops("cmp r1, r9\n bne 22b"));
        a.total(pairs * rows, |a| {
            a.ops(&format!(
                "ldr r12, [sp, #{ROW_SKIP}]
                 ldr lr, [sp, #{WEIGHTS_END}]
                 add r0, r12
                 cmp r1, lr
                 bne 21b"
            ));
        });
        a.total(pairs, |a| {
            self.store_pair(a);
            a.ops(&format!(
                "ldr r12, [sp, #{SHIFT}]
                 ldr lr, [sp, #{ENDS}]
                 add.w r8, r8, r12, lsl #1
                 cmp r8, lr
                 bne 20b"
            ));
        });
        self.last_alone(a, lines, alone, "r8");
    }

    /// Two results; the second first, because both have the same place where there is only one.
    fn store_pair(&self, a: &mut Assembly) {
        a.op(format!("ldrd r12, lr, [sp, #{MULTIPLIER}]"));
        self.style().requantize_single(a, &["r10", "r11"], [LO, HI]);
        a.ops("strb.w r11, [r2, r3]\n strb.w r10, [r2]\n add.w r2, r2, r3, lsl #1");
    }

    /// Once more for a last result alone; `window` is where the windows are.
    fn last_alone(&self, a: &mut Assembly, lines: u64, alone: u64, window: &str) {
        a.label(27);
        a.total(lines + alone, |a| {
            a.ops(&format!("ldr r12, [sp, #{}]\n cmp {window}, r12\n beq 28f", ENDS + 4));
        });
        a.total(alone, |a| a.ops(&format!("str r12, [sp, #{ENDS}]\n movs r3, #0\n b 20b")));
        a.label(28);
    }

    /// A line of results.
    fn square_line(&self, a: &mut Assembly, lines: u64) {
        let style = self.style();
        a.total(lines, |a| a.op(format!("ldr pc, [sp, #{ENTER}]")));
        a.label(20);
        a.copies(PAIR_COPIES as u32, lines * self.pairs(), |a| {
            let mut row = |load: &str, outer: &str, middle: &str, sums: [&str; 2]| {
                let (first, second) = (format!("smlab{middle} r10, lr"), format!("smlat{middle} r11, r12"));
                let weights = if outer == "r6" { "r8" } else { "r7" };
                a.ops(&format!(
                    "{load}
                     sxtb16 r12, lr
                     sxtb16 lr, lr, ror #8
                     smlad r10, r12, {outer}, {}
                     smlad r11, lr, {outer}, {}
                     {first}, {weights}, r10
                     {second}, {weights}, r11",
                    sums[0], sums[1]
                ));
            };
            row("ldr.w lr, [r0, r1, lsl #1]", "r6", "b", ["r9", "r9"]);
            row("ldr.w lr, [r0, r1]", "r5", "t", ["r10", "r11"]);
            row("ldr lr, [r0], #2", "r4", "b", ["r10", "r11"]);
            a.op(format!("ldrd r12, lr, [sp, #{MULTIPLIER}]"));
            style.requantize_single(a, &["r10", "r11"], [LO, HI]);
            a.ops("strb.w r10, [r2]\n strb.w r11, [r2, r3]\n add.w r2, r2, r3, lsl #1");
        });
        a.total(lines * self.pairs().div_ceil(PAIR_COPIES).max(1), |a| {
            a.ops(&format!("ldr r10, [sp, #{ENDS}]\n cmp r0, r10\n bne 20b"));
        });
        a.total(lines, |a| a.op(format!("ldr pc, [sp, #{}]", ENTER + 4)));
        a.label(22);
        a.copies(SINGLE_COPIES as u32, lines * self.singles(), |a| {
            let mut row = |load: &str, outer: &str, middle: &str, sum: &str| {
                let weights = if outer == "r6" { "r8" } else { "r7" };
                a.ops(&format!(
                    "{load}
                     sxtb16 r12, lr
                     sxtb16 lr, lr, ror #8
                     smlad r10, r12, {outer}, {sum}
                     smlab{middle} r10, lr, {weights}, r10"
                ));
            };
            row("ldr.w lr, [r0, r1, lsl #1]", "r6", "b", "r9");
            row("ldr.w lr, [r0, r1]", "r5", "t", "r10");
            row("ldr lr, [r0], #2", "r4", "b", "r10");
            a.op(format!("ldrd r12, lr, [sp, #{MULTIPLIER}]"));
            style.requantize_single(a, &["r10"], [LO, HI]);
            a.ops("strb.w r10, [r2]\n add.w r2, r2, r3");
        });
        a.total(lines * self.singles().div_ceil(SINGLE_COPIES).max(1), |a| {
            a.ops(&format!("ldr r10, [sp, #{}]\n cmp r0, r10\n bne 22b", ENDS + 4));
        });
    }

    /// Moves the lines that the next band needs, too, to the front.
    fn slide(&self, a: &mut Assembly, bands: u64) {
        let kept = self.kernel[0].saturating_sub(self.stride[0]);
        a.comment("The next band. Lines that it needs, too, move to the front.");
        a.ops(&format!(
            "ldrd r5, r4, [sp, #{LINES}]
             ldr r6, [sp, #{OUT}]
             ldr r7, [sp, #{OUT_LINE}]
             mla r6, r5, r7, r6
             str r6, [sp, #{OUT}]
             ldr r7, [sp, #{STEP}]
             ldr r0, [sp, #{PLANES}]
             mla r1, r5, r7, r0
             ldrd r8, r9, [sp, #{KERNEL}]
             ldr r10, [sp, #{SLOT}]
             subs r8, r8, r9
             str r8, [sp, #{HELD}]
             mla r10, r8, r10, r0
             cmp r8, #0
             beq 19f"
        ));
        a.label(18);
        a.total(bands * (kept * self.slot() / 16) as u64, |a| {
            a.ops("ldm r1!, {r4-r7}\n stm r0!, {r4-r7}\n cmp r0, r10\n bne 18b");
        });
        a.label(19);
        a.ops(&format!("ldr r4, [sp, #{ROWS_LEFT}]\n cmp r4, #0\n bne 6b"));
    }
}

/// Windows over one or two axes, channels last.
pub fn accepts(layer: &Layer, plan: &Plan) -> bool {
    Shape::of(layer, plan).is_some()
}

/// What the text executes.
pub fn instructions(layer: &Layer, plan: &Plan) -> u64 {
    Shape::of(layer, plan).map_or(0, |shape| shape.assembly().instructions())
}

/// The planes.
pub fn scratch(layer: &Layer, plan: &Plan) -> usize {
    Shape::of(layer, plan).map_or(0, |shape| shape.scratch())
}

/// Results lie in the channel they are computed from. Those of a band must not lie in lines that are fetched later.
pub fn replaces(layer: &Layer, plan: &Plan) -> bool {
    let Some(shape) = Shape::of(layer, plan) else { return false };
    let [lines, pixels] = shape.out;
    let is_fetched = |line: usize, pixel: usize| {
        let (at, line_of): (usize, fn(usize, usize) -> usize) = match shape.turned {
            false => (line * pixels + pixel, |at, width| at / width),
            true => (pixel * lines + line, |at, width| at % width),
        };
        let width = if shape.turned { shape.size[0] } else { shape.size[1] };
        let last = (line / shape.band() + 1) * shape.band() - 1;
        let fetched = (last.min(lines - 1) * shape.stride[0] + shape.kernel[0]).saturating_sub(shape.pad[0]);
        line_of(at, width) < fetched
    };
    shape.batch == 1 && (0..lines).all(|line| (0..pixels).all(|pixel| is_fetched(line, pixel)))
}

/// Builds the function.
pub fn build(b: &mut LayerBuilder) {
    let Some(shape) = Shape::of(b.layer, b.plan) else { return };
    b.pass("data", "Sizes, then for each channel weights, bias and multiplier.", Elem::I32, shape.data());
    b.assemble(shape.assembly());
}
