//! Convolution in which every channel has a window of its own.
//!
//! There is no product of two vectors in each lane, so the taps of a window have to be neighbours. The rows under the
//! windows are copied into bands, one for each channel, column after column: element (column x, row r) of the padded input
//! lies at `kernel rows * x + r`. A window then is one stretch of bytes, and a vector of inputs holds it whole, often
//! together with the next one. The next row takes the place of the oldest one in the column to the right, so a band
//! moves on by a byte for each row and needs no ring.

use super::frame::Frame;
use super::geometry::{Geometry, conv};
use super::{VECTOR, Words, folded_bias, function, shifts};
use crate::kernels::LayerBuilder;
use crate::plan::{Layer, Plan};
use crate::program::{Assembly, Elem};

/// Channels that are copied together: half a vector, or a whole one.
const HALF: usize = 8;
const WHOLE: usize = 16;

/// Positions that are requantized together.
const LANES: usize = 4;

const HEADER: &[&str] = &[
    "mask_0",
    "mask_1",
    "mask_2",
    "mask_3",
    "row",
    "height",
    "load",
    "rows",
    "x_step",
    "row_step",
    "width",
    "columns",
    "fill",
    "channels",
    "zero",
    "groups",
    "y_step",
    "y_step_4",
    "y_row",
    "band",
    "y_end",
    "next_load",
    "stride",
    "outputs",
    "first_row",
    "first_load",
    "first_rows",
    "unused",
];
const LOCALS: &[&str] = &["stream", "x", "y", "to", "from", "filter", "x_block", "y_block", "bands", "blocks"];

/// What the text and the constants are made from.
#[derive(Debug)]
struct Kernel {
    geometry: Geometry,
    frame: Frame,
    /// Whether sums are shifted to the left before they are multiplied.
    shifts: bool,
}

impl Kernel {
    fn of(layer: &Layer, plan: &Plan) -> Option<Kernel> {
        let mut geometry = Geometry::of(layer, plan)?;
        let conv = conv(layer)?;
        let by_channel = conv.groups == geometry.inputs && geometry.outputs.is_multiple_of(geometry.inputs);
        if !by_channel || geometry.planar && geometry.inputs > 1 || layer.added.is_some() {
            return None;
        }
        // The longer axis is the row: what is done once for each row and channel then is done least often.
        if geometry.result[0] > geometry.result[1] {
            geometry.transpose();
        }
        let kernel = Kernel { frame: Frame::new(0, HEADER, LOCALS), geometry, shifts: shifts(&conv.weighted) };
        let g = &kernel.geometry;
        let fits = g.taps() <= 2 * VECTOR
            && g.stride[0] <= g.kernel[0]
            && kernel.band() * WHOLE < 1 << 16
            && kernel.step() * 2 < 128;
        fits.then_some(kernel)
    }

    /// Bytes between windows of neighbouring results.
    fn step(&self) -> usize {
        self.geometry.kernel[0] * self.geometry.stride[1]
    }

    /// Whether a vector holds two neighbouring windows.
    fn is_paired(&self) -> bool {
        self.geometry.taps() + self.step() <= VECTOR
    }

    fn padded_rows(&self) -> usize {
        (self.geometry.result[0] - 1) * self.geometry.stride[0] + self.geometry.kernel[0]
    }

    /// Bytes of a channel's band.
    fn band(&self) -> usize {
        self.geometry.kernel[0] * (self.geometry.columns() - 1) + self.padded_rows()
    }

    /// Whether a block of channels is finished before the next one begins, so that there are few bands. Of exchanged axes
    /// and of a single row only: otherwise the input is to be read row by row, so that results can take its place.
    fn is_blocked(&self) -> bool {
        let one_by_one = self.geometry.transposed || self.geometry.result[0] == 1;
        one_by_one && self.geometry.inputs.is_multiple_of(WHOLE)
    }

    /// Channels that have bands.
    fn banded(&self) -> usize {
        if self.is_blocked() { WHOLE } else { self.geometry.inputs }
    }

    /// Filters of a channel.
    fn filters(&self) -> usize {
        self.geometry.outputs / self.geometry.inputs
    }

    fn scratch(&self) -> usize {
        // Behind the last band: windows of results that do not exist, and the rest of the last vector.
        self.band() * self.banded() + LANES * self.step() + 2 * VECTOR
    }

    /// Columns of the input that windows reach.
    fn width(&self) -> usize {
        self.geometry.size[1].min(self.geometry.columns() - self.geometry.pad[1])
    }

    fn tail(&self) -> usize {
        self.geometry.result[1] % LANES
    }

    fn weight_bytes(&self) -> usize {
        self.geometry.taps().next_multiple_of(4)
    }
}

/// Convolutions that the kernel computes.
pub fn accepts(layer: &Layer, plan: &Plan) -> bool {
    Kernel::of(layer, plan).is_some()
}

/// As the text says.
pub fn instructions(layer: &Layer, plan: &Plan) -> u64 {
    Kernel::of(layer, plan).map_or(u64::MAX, |kernel| kernel.assembly().instructions())
}

/// The bands.
pub fn scratch(layer: &Layer, plan: &Plan) -> usize {
    Kernel::of(layer, plan).map_or(0, |kernel| kernel.scratch())
}

/// How far results run ahead of the inputs that are still to be read.
pub fn lead(layer: &Layer, plan: &Plan) -> Option<usize> {
    let kernel = Kernel::of(layer, plan)?;
    let by_rows = !kernel.is_blocked() && (!kernel.geometry.transposed || kernel.geometry.result[0] == 1);
    if by_rows { kernel.geometry.lead_by_rows() } else { None }
}

/// Whether results may take the place of the inputs: every row is in the bands before the results of the row are stored,
/// and these lie where the row was. If there is but one row, they lie where elements of their own channel were.
pub fn replaces(layer: &Layer, plan: &Plan) -> bool {
    let Some(kernel) = Kernel::of(layer, plan) else { return false };
    let (g, elements) = (&kernel.geometry, |id| plan.tensor(id).ty.shape.len());
    let row_by_row = g.result == g.size && g.stride == [1, 1];
    let all_at_once = kernel.is_blocked() && g.result[0] == 1 && elements(layer.result) <= elements(layer.operands[0]);
    let single = plan.tensor(layer.result).ty.shape.dims()[0] == 1;
    single && g.outputs == g.inputs && (row_by_row || all_at_once)
}

/// Text and constants.
pub fn build(b: &mut LayerBuilder) {
    let (Some(kernel), Some(conv)) = (Kernel::of(b.layer, b.plan), conv(b.layer)) else { return };
    let (g, weighted) = (&kernel.geometry, &conv.weighted);
    let mut words = Words::default();
    kernel.header(&mut words, weighted.output_zero, weighted.input_zero);
    words.word(weighted.clamp.lo);
    words.word(weighted.clamp.hi);
    for channel_idx in 0..g.outputs {
        let row = weighted.row(channel_idx);
        words.word(folded_bias(weighted, channel_idx));
        words.word(weighted.channels[channel_idx].multiplier.mantissa());
        if kernel.shifts {
            words.word(weighted.channels[channel_idx].multiplier.left_shift());
        }
        words.weights((0..g.taps()).map(|i| row[g.tap(i % g.kernel[0], i / g.kernel[0])]));
        words.pad(4);
    }
    // Weights are loaded as whole vectors.
    (0..VECTOR / 4).for_each(|_| words.word(0));
    let doc = "Sizes; then for each channel its bias (less the input's zero point times the sum of the weights), its \
               multiplier, its weights column by column.";
    b.pass("constants", doc, Elem::U32, words.finish());
    b.assemble(kernel.assembly());
}

impl Kernel {
    fn header(&self, words: &mut Words, output_zero: i32, input_zero: i32) {
        let g = &self.geometry;
        let (x_column, x_row) = g.steps(g.size, g.inputs);
        let (y_column, y_row) = g.steps(g.result, g.outputs);
        let last = (g.taps() - 1) % VECTOR + 1;
        words.weights((0..VECTOR).map(|i| if i < last { -1 } else { 0 }));
        words.word(-(g.pad[0] as i64));
        words.size(g.size[0]);
        words.size(g.kernel[0]);
        words.size(g.result[0]);
        words.size(x_column);
        words.size(x_row);
        words.size(self.width());
        words.size(g.columns());
        words.word(i64::from(u32::from(input_zero as u8) * 0x0001_0001));
        words.size(self.banded());
        words.word(output_zero);
        words.size(g.result[1] / LANES);
        words.size(y_column);
        words.size(y_column * LANES);
        words.size(y_row);
        words.size(self.band());
        words.size(0);
        words.size(g.stride[0]);
        words.size(g.stride[0]);
        words.size(self.banded() * self.filters());
        words.word(-(g.pad[0] as i64));
        words.size(g.kernel[0]);
        words.size(g.result[0]);
        words.size(0);
    }

    fn assembly(&self) -> Assembly {
        let (g, f) = (&self.geometry, &self.frame);
        let [rows, columns] = g.kernel;
        let mut a = function(
            "mve_depthwise",
            &[
                "Convolution of each channel with a window of its own. The rows under the windows are copied into a band",
                "for each channel, column after column, so that a window is a stretch of bytes.",
                &format!("Windows of {rows} x {columns}. Called with x, y, scratch, constants."),
            ],
        );
        f.enter(&mut a, "r3");
        a.ops("ldrd r4, r6, [r3], #8\n vdup.32 q6, r4\n vdup.32 q7, r6");
        f.ops(&mut a, "str r3, {stream}\n strd r0, r1, {x}\n strd r2, r2, {to}");
        a.comment("q5: offsets of four neighbouring results.");
        f.ops(&mut a, "ldr r4, {y_step}\n mov r6, #0\n vidup.u32 q5, r6, #1\n vmul.i32 q5, q5, r4");
        if !self.copies_few() {
            self.set_tail(&mut a);
        }
        let blocks = g.inputs / self.banded();
        if self.is_blocked() {
            a.op(format!("mov r3, #{blocks}"));
            f.ops(&mut a, "strd r0, r1, {x_block}\n strd r2, r3, {bands}");
        }
        a.passes(blocks as u64, |a| {
            a.label(13);
            a.passes(g.result[0] as u64, |a| {
                a.label(8);
                self.load(a);
                self.row(a);
                f.ops(a, "ldrd r0, r1, {load}\n ldr r2, {next_load}\n subs r1, #1\n strd r2, r1, {load}\n bne 8b");
            });
            if self.is_blocked() {
                self.next_block(a);
            }
        });
        f.leave(&mut a);
        a
    }

    /// Channels that are copied together.
    fn chunk(&self) -> usize {
        if self.geometry.inputs < WHOLE { HALF } else { WHOLE }
    }

    /// To the next channels; r9 is behind the constants of the last ones.
    fn next_block(&self, a: &mut Assembly) {
        let f = &self.frame;
        a.comment("The next sixteen channels.");
        f.ops(a, "ldrd r0, r1, {x_block}\n ldrd r2, r3, {bands}\n str r9, {stream}");
        a.op(format!("add r0, #{WHOLE}"));
        a.op(format!("add r1, #{}", WHOLE * self.filters()));
        f.ops(a, "strd r0, r1, {x_block}\n strd r0, r1, {x}\n strd r2, r2, {to}\n ldr r1, {first_row}\n str r1, {row}");
        f.ops(a, "ldrd r0, r1, {first_load}\n strd r0, r1, {load}\n subs r3, #1\n strd r2, r3, {bands}\n bne 13b");
    }

    /// Whether there are fewer channels than that.
    fn copies_few(&self) -> bool {
        self.geometry.inputs < HALF
    }

    /// Sets the predicate of the last, incomplete group of results.
    fn set_tail(&self, a: &mut Assembly) {
        if self.tail() > 0 {
            a.op(format!("mov r4, #{}", self.tail()));
            a.op("vctp.32 r4");
        }
    }

    /// Copies the next rows of the input into the bands.
    fn load(&self, a: &mut Assembly) {
        let (g, f) = (&self.geometry, &self.frame);
        let (copied, filled) = g.loads();
        let chunks = self.banded().div_ceil(self.chunk()) as u64;
        a.comment("Copies rows. q1: offsets of the bands of eight channels, of a whole vector the even ones, q3: of the odd ones;");
        a.comment("q2: padding.");
        f.ops(a, "ldr r4, {band}\n mov r6, #0");
        if self.chunk() == WHOLE {
            a.ops("vidup.u16 q1, r6, #2\n vmul.i16 q1, q1, r4\n vadd.i16 q3, q1, r4");
        } else {
            a.ops("vidup.u16 q1, r6, #1\n vmul.i16 q1, q1, r4");
        }
        f.ops(a, "ldr r4, {fill}\n vdup.32 q2, r4");
        if self.copies_few() {
            a.op(format!("mov r4, #{}", g.inputs));
            a.op("vctp.16 r4");
        }
        f.ops(a, "ldr r11, {load}\n ldr r12, {x_step}");
        a.total((copied + filled) as u64, |a| {
            a.label(7);
            f.ops(a, "ldrd r0, r1, {row}\n ldr r2, {to}\n ldr r8, {channels}\n add r3, r0, #1\n str r3, {row}\n cmp r0, r1\n bhs 9f");
            a.total(copied as u64, |a| {
                f.ops(a, "ldr r3, {x}");
                a.passes(chunks, |a| {
                    a.label(6);
                    a.ops("mov r6, r2\n mov r5, r3");
                    a.repeat(g.pad[1] as u32, |a| self.store(a, "q2"));
                    f.ops(a, "ldr r4, {width}\n dls lr, r4");
                    a.passes(self.width() as u64, |a| {
                        a.label(2);
                        match self.chunk() {
                            WHOLE => a.op("vldrb.u8 q0, [r5]"),
                            _ if self.copies_few() => a.ops("vpst\n vldrbt.u16 q0, [r5]"),
                            _ => a.op("vldrb.u16 q0, [r5]"),
                        }
                        a.op("add r5, r12");
                        self.store(a, "q0");
                        a.op("le lr, 2b");
                    });
                    a.repeat((g.columns() - g.pad[1] - self.width()) as u32, |a| self.store(a, "q2"));
                    self.next_chunk(a, "add r3, r0\n", 6);
                });
                f.ops(a, "ldr r4, {x}\n ldr r6, {row_step}\n add r4, r6\n str r4, {x}\n b 12f");
            });
            a.label(9);
            a.total(filled as u64, |a| {
                a.passes(chunks, |a| {
                    a.label(6);
                    f.ops(a, "mov r6, r2\n ldr r4, {columns}\n dls lr, r4");
                    a.passes(g.columns() as u64, |a| {
                        a.label(2);
                        self.store(a, "q2");
                        a.op("le lr, 2b");
                    });
                    self.next_chunk(a, "", 6);
                });
            });
            a.label(12);
            f.ops(a, "ldr r2, {to}\n add r2, #1\n str r2, {to}\n subs r11, #1\n bne 7b");
        });
        if self.copies_few() {
            self.set_tail(a);
        }
    }

    /// Stores an element of each channel of a chunk.
    fn store(&self, a: &mut Assembly, value: &str) {
        match self.copies_few() {
            true => a.ops(&format!("vpst\n vstrbt.16 {value}, [r6, q1]")),
            false => a.op(format!("vstrb.16 {value}, [r6, q1]")),
        }
        if self.chunk() == WHOLE {
            if value == "q0" {
                a.op("vshr.u16 q0, q0, #8");
            }
            a.op(format!("vstrb.16 {value}, [r6, q3]"));
        }
        a.op(format!("add r6, #{}", self.geometry.kernel[0]));
    }

    /// To the next channels; the last chunk ends at the last one.
    fn next_chunk(&self, a: &mut Assembly, more: &str, label: u32) {
        let chunk = self.chunk();
        if self.banded() <= chunk {
            return;
        }
        a.op(format!("mov r0, #{chunk}"));
        if !self.geometry.inputs.is_multiple_of(chunk) {
            a.op(format!("sub r1, r8, #{chunk}"));
            a.op(format!("cmp r1, #{chunk}"));
            a.ops("it lt\n movlt r0, r1");
        }
        a.ops(more);
        self.frame.ops(a, "ldr r4, {band}\n mla r2, r0, r4, r2");
        a.op(format!("subs r8, #{chunk}"));
        a.op(format!("bgt {label}b"));
    }

    /// A row of results.
    fn row(&self, a: &mut Assembly) {
        let f = &self.frame;
        f.ops(a, "ldr r9, {stream}\n ldr r10, {from}\n ldr r11, {y}\n ldr r7, {zero}\n ldr r8, {y_step_4}");
        f.ops(a, "ldr r0, {outputs}\n add r0, r11\n str r0, {y_end}");
        let filters = self.filters();
        a.passes(self.banded() as u64, |a| {
            a.label(3);
            if filters > 1 {
                a.op(format!("mov r0, #{filters}"));
                f.ops(a, "str r0, {filter}");
            }
            a.passes(filters as u64, |a| self.channel(a, filters));
            f.ops(a, "ldrd r0, r2, {band}\n add r10, r0\n cmp r11, r2\n bne 3b");
        });
        f.ops(a, "ldr r0, {y_row}\n ldr r1, {y}\n ldr r2, {from}\n ldr r3, {stride}\n add r1, r0\n add r2, r3\n str r1, {y}\n str r2, {from}");
    }

    /// A row of results of one channel.
    fn channel(&self, a: &mut Assembly, filters: usize) {
        let (g, f) = (&self.geometry, &self.frame);
        if filters > 1 {
            a.label(4);
        }
        a.comment("A channel: q0, q1 are its weights, q4 its multiplier, r3 its bias.");
        a.ops("ldrd r3, r4, [r9], #8\n vdup.32 q4, r4");
        if self.shifts {
            a.op("ldr r2, [r9], #4");
        }
        f.ops(a, "vldrw.u32 q2, {mask_0}");
        if g.taps() > VECTOR {
            a.op("vldrb.u8 q0, [r9], #16");
            a.op(format!("vldrb.u8 q1, [r9], #{}", self.weight_bytes() - VECTOR));
            a.op("vand q1, q1, q2");
        } else {
            a.op(format!("vldrb.u8 q0, [r9], #{}", self.weight_bytes()));
            a.op("vand q0, q0, q2");
        }
        if self.is_paired() {
            a.ops("mov r12, #0\n vmov q1, q0");
            let mut bits = self.step() * 8;
            while bits > 0 {
                a.op(format!("vshlc q1, r12, #{}", bits.min(32)));
                bits -= bits.min(32);
            }
        }
        if self.shifts {
            a.op("mov r12, r2");
        }
        a.ops("mov r1, r10\n mov r5, r11");
        if g.result[1] >= LANES {
            f.ops(a, "ldr r0, {groups}\n dls lr, r0");
            a.passes((g.result[1] / LANES) as u64, |a| {
                a.label(2);
                self.group(a, LANES, "");
                a.ops("add r5, r8\n le lr, 2b");
            });
        }
        if self.tail() > 0 {
            self.group(a, self.tail(), "t");
        }
        a.op("add r11, #1");
        if filters > 1 {
            f.ops(a, "ldr r0, {filter}\n subs r0, #1\n str r0, {filter}\n bne 4b");
        }
    }

    /// Four neighbouring results, or the last few.
    fn group(&self, a: &mut Assembly, results: usize, then: &str) {
        const SUMS: [&str; LANES] = ["r0", "r2", "r4", "r6"];
        let step = self.step();
        let mut lane = 0;
        while lane < results {
            if self.is_paired() {
                a.op(format!("vldrb.u8 q2, [r1], #{}", 2 * step));
                a.op(format!("vmladav.s8 {}, q2, q0", SUMS[lane]));
                if lane + 1 < results {
                    a.op(format!("vmladav.s8 {}, q2, q1", SUMS[lane + 1]));
                }
                lane += 2;
                continue;
            }
            if self.geometry.taps() > VECTOR {
                a.op("vldrb.u8 q3, [r1, #16]");
            }
            a.op(format!("vldrb.u8 q2, [r1], #{step}"));
            a.op(format!("vmladav.s8 {}, q2, q0", SUMS[lane]));
            if self.geometry.taps() > VECTOR {
                a.op(format!("vmladava.s8 {}, q3, q1", SUMS[lane]));
            }
            lane += 1;
        }
        a.op("vmov q3[2], q3[0], r0, r4");
        if results > 1 {
            a.op("vmov q3[3], q3[1], r2, r6");
        }
        a.op("vadd.i32 q3, q3, r3");
        if self.shifts {
            a.op("vshl.s32 q3, r12");
        }
        a.ops("vqrdmlash.s32 q3, q4, r7\n vmax.s32 q3, q3, q6\n vmin.s32 q3, q3, q7");
        if !then.is_empty() {
            a.op("vpst");
        }
        a.op(format!("vstrb{then}.32 q3, [r5, q5]"));
    }
}
