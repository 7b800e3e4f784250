//! Convolutions with windows of any size over one or two axes.
//!
//! The rows of the input under a row of windows are kept in a ring, with padding beside them, so that each row of a
//! window is a run of neighbouring bytes. Two windows that are side by side are unpacked into a patch, row by row; rows
//! above and below the input are left out, and so are their weights. A row that is in the ring is not read again: the
//! result may overwrite it.

use super::DSP;
use super::pointwise::channels_last;
use super::products::{
    ADDITION_BYTES, Addition, Blocks, COLUMN, FREE, PATCH, PATCH_END, PUSHED, Patches, Rows, Unpack, Y, steps,
};
use crate::kernels::LayerBuilder;
use crate::ops::QuantOp;
use crate::ops::conv::QConv;
use crate::plan::{Layer, Plan, View, Work};
use crate::program::{Assembly, Elem};

// The frame behind what the products use: first what the constants begin with, in their order.
const NEGATIVE: u32 = FREE;
const FOURS: u32 = FREE + 4;
const ENTRY: u32 = FREE + 8;
const REST: u32 = FREE + 12;
/// Bytes of a row that are copied, and pixels where channels come first.
const COPY: u32 = FREE + 16;
/// Distance of rows in the input.
const PITCH: u32 = FREE + 20;
const RING_END: u32 = FREE + 24;
/// Distance of rows in the ring.
const SLOT: u32 = FREE + 28;
/// Bytes of padding in front of a row.
const MARGIN: u32 = FREE + 32;
/// Rows of a window, and rows from window to window.
const KERNEL: u32 = FREE + 36;
const STRIDE: u32 = FREE + 40;
/// Bytes from window to window in a row.
const STEP: u32 = FREE + 44;
/// Bytes of a row of a window in a patch, and in the weights of four channels.
const RUN: u32 = FREE + 48;
/// Images that are left.
const BATCH: u32 = FREE + 52;
const HEIGHT: u32 = FREE + 56;
// Rows of the result follow, at FREE + 60.
/// The first row of the first window; negative in the padding.
const FIRST: u32 = FREE + 64;
const OUT_WIDTH: u32 = FREE + 68;
/// Channels and the distance of their planes, where they come first.
const CHANNELS: u32 = FREE + 72;
const PLANE: u32 = FREE + 76;
const CONSTANTS: usize = 20;
// Then what changes.
const RING: u32 = FREE + 80;
/// The next row of the input, the place for it in the ring, the place of the first row of the windows.
const X: u32 = FREE + 84;
const FETCH: u32 = FREE + 88;
const WINDOW: u32 = FREE + 92;
/// Rows that are left, of the input and of the result.
const ROWS_IN: u32 = FREE + 96;
const ROWS_OUT: u32 = FREE + 100;
/// First row of the windows.
const TOP: u32 = FREE + 104;
/// Offset of the window in its row, distance to the second one, windows that are left.
const AT: u32 = FREE + 108;
const SECOND: u32 = FREE + 112;
const LEFT: u32 = FREE + 116;
/// Weights that are left out for rows above and below the input, and the rows that remain.
const ABOVE: u32 = FREE + 120;
const BELOW: u32 = FREE + 124;
const RUNS: u32 = FREE + 128;
const WIDE: u32 = FREE + 132;
const FRAME: u32 = FREE + 136;

/// A convolution as the text computes it; one spatial axis is a single row.
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
    /// Rows and columns of a window, of the stride, of the padding in front.
    kernel: [usize; 2],
    stride: [usize; 2],
    pad: [usize; 2],
    /// Whether the channels of the input come first, each a plane.
    planes: bool,
}

impl Shape<'_> {
    fn of<'a>(layer: &'a Layer, plan: &Plan) -> Option<Shape<'a>> {
        let Work::Operator(QuantOp::Conv(conv)) = &layer.work else { return None };
        let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
        let window = &conv.window;
        let undilated =
            window.dilation.iter().zip(&window.kernel).all(|(&dilation, &kernel)| dilation == 1 || kernel == 1);
        if conv.groups != 1 || !undilated || !channels_last(y) {
            return None;
        }
        let planes = match channels_last(x) {
            true => false,
            false if x.view == View::row_major(&x.ty.shape) => true,
            false => return None,
        };
        let plane = |dims: &[usize], first: usize| match *dims {
            [width] => Some([first, width]),
            [height, width] => Some([height, width]),
            _ => None,
        };
        let (input, output) = (x.ty.shape.dims(), y.ty.shape.dims());
        let [height, width] = plane(&input[2..], 1)?;
        let [out_height, out_width] = plane(&output[2..], 1)?;
        let kernel = plane(&window.kernel, 1)?;
        let channels = input[1];
        let order = |row: &[i8]| {
            let taps = kernel[0] * kernel[1];
            (0..taps).flat_map(|tap| (0..channels).map(move |channel| row[channel * taps + tap])).collect()
        };
        let shape = Shape {
            conv,
            rows: Rows::new(&conv.weighted, order)?,
            addition: Addition::of(layer, FRAME)?,
            batch: input[0],
            channels,
            height,
            width,
            outputs: output[1],
            out_height,
            out_width,
            kernel,
            stride: plane(&window.stride, 1)?,
            pad: plane(&window.pad_begin, 0)?,
            planes,
        };
        // Each window has a row inside of the input.
        (0..out_height).all(|row| !shape.taps(row).is_empty()).then_some(shape)
    }

    /// The rows of a window that are inside of the input.
    fn taps(&self, row: usize) -> std::ops::Range<usize> {
        let start = row * self.stride[0];
        let first = self.pad[0].saturating_sub(start);
        first..self.kernel[0].min((self.height + self.pad[0]).saturating_sub(start)).max(first)
    }

    /// Rows of the input that have been fetched when a row of the result is computed.
    fn fetched(&self, row: usize) -> usize {
        (row * self.stride[0] + self.kernel[0]).saturating_sub(self.pad[0]).min(self.height)
    }

    /// Columns of the ring.
    fn columns(&self) -> usize {
        (self.out_width - 1) * self.stride[1] + self.kernel[1]
    }

    /// Columns that are copied.
    fn copied(&self) -> usize {
        self.width.min(self.columns().saturating_sub(self.pad[1]))
    }

    fn slot(&self) -> usize {
        (self.columns() * self.channels).next_multiple_of(4)
    }

    fn run(&self) -> usize {
        self.kernel[1] * self.channels
    }

    fn run_steps(&self) -> usize {
        steps(self.run()).len()
    }

    fn pairs(&self) -> u64 {
        (self.batch * self.out_width.div_ceil(2)) as u64
    }

    /// Bytes of the frame; an addition has its words behind the others.
    fn frame(&self) -> u32 {
        if self.addition.is_some() { FRAME + ADDITION_BYTES } else { FRAME }
    }

    fn blocks(&self) -> Blocks<'_> {
        let patches = |rows: usize, times: usize| Patches {
            steps: rows * self.run_steps(),
            pairs: (times * self.batch * (self.out_width / 2)) as u64,
            alone: (times * self.batch * (self.out_width % 2)) as u64,
        };
        // A row of weights has all steps, even if no window does.
        let whole = patches(self.kernel[0], 0);
        let patches = (0..self.out_height).map(|row| patches(self.taps(row).len(), 1)).chain([whole]).collect();
        Blocks {
            channels: self.outputs,
            style: self.rows.style(),
            patches,
            skips: Some((ABOVE, BELOW)),
            addition: self.addition,
        }
    }

    fn unpack(&self) -> Unpack {
        let runs: usize = (0..self.out_height).map(|row| self.taps(row).len()).sum();
        Unpack { run: self.run(), runs: runs as u64 * self.pairs() }
    }

    fn sizes(&self) -> Vec<i64> {
        let zero = self.conv.weighted.input_zero;
        let copy = self.copied() * if self.planes { 1 } else { self.channels };
        let pitch = self.width * if self.planes { 1 } else { self.channels };
        let constants = [
            copy,
            pitch,
            self.kernel[0] * self.slot(),
            self.slot(),
            self.pad[1] * self.channels,
            self.kernel[0],
            self.stride[0],
            self.stride[1] * self.channels,
            8 * self.run_steps(),
            self.batch,
            self.height,
            self.out_height,
        ];
        let mut data: Vec<i64> = self.addition.iter().flat_map(|addition| addition.head()).collect();
        data.push(self.outputs as i64);
        data.extend(self.rows.head());
        data.extend(self.blocks().head());
        data.extend(self.unpack().head(zero));
        data.extend(constants.map(|constant| constant as i64));
        data.push(-(self.pad[0] as i64));
        data.extend([self.out_width, self.channels, self.height * self.width].map(|constant| constant as i64));
        data.push(i64::from(i32::from_le_bytes([zero as i8 as u8; 4])));
        data
    }

    /// The packed rows, which are the same for every band of rows of a layer.
    fn weights(&self) -> Vec<i64> {
        let run = steps(self.run());
        let all: Vec<[Option<usize>; 2]> = (0..self.kernel[0])
            .flat_map(|row| run.iter().map(move |step| step.map(|index| index.map(|index| row * self.run() + index))))
            .collect();
        self.rows.packed(4, &all)
    }

    fn assembly(&self) -> Assembly {
        let doc = [
            "Convolution. Rows of the input lie in a ring behind the patch, with padding beside them. Of two windows,",
            "those rows that are inside of the input are unpacked into the patch, then multiplied with the weights of",
            "four output channels at a time. weights: biases, weights and multipliers by block.",
        ];
        let (blocks, unpack) = (self.blocks(), self.unpack());
        let kind = if self.planes { "conv_planes" } else { "conv" };
        let doc = doc.into_iter().map(str::to_owned).collect();
        let mut assembly = Assembly::new(format!("{kind}{}", blocks.suffix()), doc, DSP);
        let a = &mut assembly;
        a.ops(&format!("push {{r4-r11, lr}}\n sub sp, #{}", self.frame()));
        if let Some(addition) = &self.addition {
            addition.prologue(a, self.frame());
        }
        blocks.prologue(a);
        a.ops(&format!("str r0, [sp, #{X}]\n str r4, [sp, #{WIDE}]\n add r12, sp, #{FREE}"));
        for words in [8, 8, CONSTANTS - 16] {
            a.ops(&format!("ldm r3!, {{r4-r{0}}}\n stm r12!, {{r4-r{0}}}", 3 + words));
        }
        a.comment("The ring, filled with padding.");
        a.ops(&format!("ldr r0, [sp, #{ENTRY}]"));
        unpack.loop_address(a, "r1");
        a.ops(&format!(
            "add r0, r1
             str r0, [sp, #{ENTRY}]
             ldr r0, [sp, #{PATCH_END}]
             ldr r1, [sp, #{RING_END}]
             str r0, [sp, #{RING}]
             add r1, r0
             str r1, [sp, #{RING_END}]
             ldr r4, [r3], #4"
        ));
        a.label(2);
        a.passes((self.kernel[0] * self.slot() / 4) as u64, |a| a.ops("str r4, [r0], #4\n cmp r0, r1\n bne 2b"));
        let parameter = self.frame() + PUSHED + if self.addition.is_some() { 4 } else { 0 };
        a.op(format!("ldr r3, [sp, #{parameter}]"));
        blocks.begin_rows(a);
        a.label(3);
        a.passes(self.batch as u64, |a| {
            a.ops(&format!(
                "ldr r4, [sp, #{RING}]
                 str r4, [sp, #{FETCH}]
                 str r4, [sp, #{WINDOW}]
                 ldrd r4, r5, [sp, #{HEIGHT}]
                 strd r4, r5, [sp, #{ROWS_IN}]
                 ldr r4, [sp, #{FIRST}]
                 str r4, [sp, #{TOP}]"
            ));
            self.image(a, &blocks, unpack);
            a.comment("The next image.");
            a.ops(&format!(
                "ldr r4, [sp, #{X}]
                 ldr r5, [sp, #{ROWS_IN}]
                 ldr r6, [sp, #{PITCH}]
                 mla r4, r5, r6, r4"
            ));
            if self.planes {
                a.ops(&format!(
                    "ldr r5, [sp, #{PLANE}]\n ldr r6, [sp, #{CHANNELS}]\n subs r6, #1\n mla r4, r5, r6, r4"
                ));
            }
            a.ops(&format!(
                "str r4, [sp, #{X}]
                 ldr r4, [sp, #{BATCH}]
                 subs r4, #1
                 str r4, [sp, #{BATCH}]
                 bne 3b"
            ));
        });
        a.ops(&format!("add sp, #{}\n pop {{r4-r11, pc}}", self.frame()));
        assembly
    }

    fn image(&self, a: &mut Assembly, blocks: &Blocks, unpack: Unpack) {
        let rows = (self.batch * self.out_height) as u64;
        let fetched = (self.batch * self.fetched(self.out_height - 1)) as u64;
        a.comment("Rows of windows. First the rows of the input that they need are fetched.");
        a.label(4);
        a.passes(self.out_height as u64, |a| {
            a.label(5);
            a.total(rows + fetched, |a| {
                a.ops(&format!(
                    "ldr r4, [sp, #{TOP}]
                     ldr r5, [sp, #{KERNEL}]
                     ldr r6, [sp, #{HEIGHT}]
                     add r4, r5
                     cmp r4, r6
                     it gt
                     movgt r4, r6
                     ldr r7, [sp, #{ROWS_IN}]
                     subs r6, r6, r7
                     cmp r6, r4
                     bge 7f"
                ));
            });
            a.total(fetched, |a| {
                self.fetch(a, fetched);
                a.ops(&format!(
                    "ldrd r4, r5, [sp, #{X}]
                     ldr r6, [sp, #{PITCH}]
                     ldr r7, [sp, #{SLOT}]
                     ldr r8, [sp, #{RING_END}]
                     ldr r9, [sp, #{ROWS_IN}]
                     add r4, r6
                     add r5, r7
                     cmp r5, r8
                     it hs
                     ldrhs r5, [sp, #{RING}]
                     strd r4, r5, [sp, #{X}]
                     subs r9, #1
                     str r9, [sp, #{ROWS_IN}]
                     b 5b"
                ));
            });
            a.label(7);
            a.comment("r5 rows of the window above the input, r6 where it ends, r8 rows inside.");
            a.ops(&format!(
                "ldr r4, [sp, #{TOP}]
                 ldr r6, [sp, #{KERNEL}]
                 ldr r7, [sp, #{HEIGHT}]
                 rsbs r5, r4, #0
                 it mi
                 movmi r5, #0
                 subs r7, r7, r4
                 mov r10, r6
                 cmp r6, r7
                 it gt
                 movgt r6, r7
                 sub r8, r6, r5
                 str r8, [sp, #{RUNS}]
                 ldr r9, [sp, #{RUN}]
                 sub r10, r10, r6
                 mul r5, r9, r5
                 mul r10, r9, r10
                 strd r5, r10, [sp, #{ABOVE}]
                 mul r4, r9, r8"
            ));
            blocks.resize(a);
            a.ops(&format!(
                "movs r4, #0
                 ldr r5, [sp, #{STEP}]
                 ldr r6, [sp, #{OUT_WIDTH}]
                 ldr r7, [sp, #{WIDE}]
                 strd r4, r5, [sp, #{AT}]
                 str r6, [sp, #{LEFT}]
                 str r7, [sp, #{COLUMN}]"
            ));
            self.windows(a, blocks, unpack);
            self.next_row(a, rows);
        });
    }

    /// Copies a row of the input into the ring.
    fn fetch(&self, a: &mut Assembly, rows: u64) {
        a.ops(&format!(
            "ldrd r9, r10, [sp, #{X}]
             ldr r4, [sp, #{MARGIN}]
             ldr r2, [sp, #{COPY}]
             add r10, r4"
        ));
        if self.planes {
            self.fetch_planes(a, rows);
            return;
        }
        copy_text(a, rows, (self.copied() * self.channels) as u64);
    }

    /// The same where each channel is a plane.
    fn fetch_planes(&self, a: &mut Assembly, rows: u64) {
        let planes = rows * self.channels as u64;
        let pixels = self.copied() as u64;
        a.ops(&format!("ldr r3, [sp, #{CHANNELS}]\n ldr r11, [sp, #{PLANE}]\n mov r8, r3"));
        a.label(10);
        a.total(planes, |a| {
            a.ops(&format!("mov r0, r9\n mov r1, r10\n ldr r2, [sp, #{COPY}]\n subs r2, #4\n bmi 12f"))
        });
        a.label(11);
        a.total(planes * (pixels / 4), |a| {
            a.ops(
                "ldr r4, [r0], #4
                 add.w r12, r1, r3
                 lsrs r5, r4, #8
                 lsrs r6, r4, #16
                 lsrs r7, r4, #24
                 strb r4, [r1]
                 strb r5, [r1, r3]
                 strb.w r6, [r1, r3, lsl #1]
                 strb.w r7, [r12, r3, lsl #1]
                 add.w r1, r1, r3, lsl #2
                 subs r2, #4
                 bpl 11b",
            );
        });
        a.label(12);
        a.total(planes, |a| a.ops("adds r2, #4\n beq 14f"));
        a.label(13);
        a.total(planes * (pixels % 4), |a| {
            a.ops("ldrb r4, [r0], #1\n strb r4, [r1]\n add r1, r3\n subs r2, #1\n bne 13b");
        });
        a.label(14);
        a.total(planes, |a| a.ops("add r9, r11\n add r10, r10, #1\n subs r8, #1\n bne 10b"));
    }

    /// A row of windows, two at a time.
    fn windows(&self, a: &mut Assembly, blocks: &Blocks, unpack: Unpack) {
        a.comment("Pairs of windows. A last window alone is both.");
        a.label(8);
        a.passes(self.out_width.div_ceil(2) as u64, |a| {
            a.ops(&format!("ldr r4, [sp, #{LEFT}]\n subs r4, #2\n str r4, [sp, #{LEFT}]\n bpl 9f"));
            let alone = if self.out_width % 2 == 1 { self.batch * self.out_height } else { 0 };
            a.total(alone as u64, |a| {
                a.ops(&format!("movs r4, #0\n str r4, [sp, #{SECOND}]\n str r4, [sp, #{COLUMN}]"));
            });
            a.label(9);
            a.comment("r0, r1 rows of both windows, r2 patch, r11 row in the ring, lr rows that are left.");
            a.ops(&format!(
                "ldr r11, [sp, #{WINDOW}]
                 ldr lr, [sp, #{RUNS}]
                 ldr r2, [sp, #{PATCH}]
                 ldr r3, [sp, #{NEGATIVE}]"
            ));
            a.label(6);
            a.total(unpack.runs, |a| {
                a.ops(&format!(
                    "ldrd r0, r1, [sp, #{AT}]
                     ldr r10, [sp, #{FOURS}]
                     add r0, r11
                     add r1, r0
                     add r10, r2"
                ));
                // The text counts for each of its runs.
                unpack.text(a, ENTRY, REST);
                a.ops(&format!(
                    "ldr r4, [sp, #{SLOT}]
                     ldr r5, [sp, #{RING_END}]
                     add r11, r4
                     cmp r11, r5
                     it hs
                     ldrhs r11, [sp, #{RING}]
                     subs lr, #1
                     bne 6b"
                ));
            });
            blocks.text(a);
            a.ops(&format!(
                "ldrd r4, r5, [sp, #{Y}]
                 add r4, r5
                 str r4, [sp, #{Y}]
                 ldr r5, [sp, #{AT}]
                 ldr r6, [sp, #{STEP}]
                 ldr r4, [sp, #{LEFT}]
                 add.w r5, r5, r6, lsl #1
                 str r5, [sp, #{AT}]
                 cmp r4, #0
                 bgt 8b"
            ));
        });
    }

    /// Moves the windows on.
    fn next_row(&self, a: &mut Assembly, rows: u64) {
        let moved = |row: usize| {
            let inside = |row: usize| (row * self.stride[0]).saturating_sub(self.pad[0]);
            inside(row + 1) - inside(row)
        };
        let slots = (self.batch * (0..self.out_height).map(moved).sum::<usize>()) as u64;
        a.comment("The next row of windows begins r5 rows further inside of the input.");
        a.ops(&format!(
            "ldr r4, [sp, #{TOP}]
             ldr r5, [sp, #{STRIDE}]
             ldr r6, [sp, #{WINDOW}]
             ldr r7, [sp, #{SLOT}]
             ldr r8, [sp, #{RING_END}]
             add r5, r4
             str r5, [sp, #{TOP}]
             bic r4, r4, r4, asr #31
             bic r5, r5, r5, asr #31
             subs r5, r5, r4
             b 17f"
        ));
        a.label(16);
        a.total(slots, |a| {
            a.ops(&format!(
                "add r6, r7
                 cmp r6, r8
                 it hs
                 ldrhs r6, [sp, #{RING}]
                 subs r5, #1"
            ));
        });
        a.label(17);
        a.total(slots + rows, |a| a.op("bne 16b"));
        a.ops(&format!(
            "str r6, [sp, #{WINDOW}]
             ldr r4, [sp, #{ROWS_OUT}]
             subs r4, #1
             str r4, [sp, #{ROWS_OUT}]
             bne 4b"
        ));
    }
}

/// Copies r2 bytes from r9 to r10, in `rows` runs of `bytes`. Destroys r4 to r7.
pub fn copy_text(a: &mut Assembly, rows: u64, bytes: u64) {
    a.ops("subs r2, #16\n blo 11f");
    a.label(10);
    a.total(rows * (bytes / 16), |a| {
        a.ops(
            "ldr r4, [r9], #4
             ldr r5, [r9], #4
             ldr r6, [r9], #4
             ldr r7, [r9], #4
             str r4, [r10], #4
             str r5, [r10], #4
             str r6, [r10], #4
             str r7, [r10], #4
             subs r2, #16
             bhs 10b",
        );
    });
    a.label(11);
    a.ops("adds r2, #12\n bmi 13f");
    a.label(12);
    a.total(rows * (bytes % 16 / 4), |a| a.ops("ldr r4, [r9], #4\n str r4, [r10], #4\n subs r2, #4\n bpl 12b"));
    a.label(13);
    a.ops("adds r2, #4\n beq 15f");
    a.label(14);
    a.total(rows * (bytes % 4), |a| a.ops("ldrb r4, [r9], #1\n strb r4, [r10], #1\n subs r2, #1\n bne 14b"));
    a.label(15);
}

/// Windows over one or two axes, all input channels; channels last, or planes as input.
pub fn accepts(layer: &Layer, plan: &Plan) -> bool {
    Shape::of(layer, plan).is_some()
}

/// What the text executes.
pub fn instructions(layer: &Layer, plan: &Plan) -> u64 {
    Shape::of(layer, plan).map_or(0, |shape| shape.assembly().instructions())
}

/// A patch of two windows, and the ring.
pub fn scratch(layer: &Layer, plan: &Plan) -> usize {
    Shape::of(layer, plan).map_or(0, |shape| 8 * shape.blocks().steps() + shape.kernel[0] * shape.slot())
}

/// Before the first rows are fetched for a row of windows, the rows of windows above are written.
pub fn lead(layer: &Layer, plan: &Plan) -> Option<usize> {
    let shape = Shape::of(layer, plan).filter(|shape| shape.batch == 1 && !shape.planes)?;
    let leads = (1..shape.out_height).filter(|&row| shape.fetched(row) > shape.fetched(row - 1)).map(|row| {
        let written = row * shape.out_width * shape.outputs;
        written.saturating_sub(shape.fetched(row - 1) * shape.width * shape.channels)
    });
    Some(leads.max().unwrap_or(0))
}

/// Builds the function.
pub fn build(b: &mut LayerBuilder) {
    let Some(shape) = Shape::of(b.layer, b.plan) else { return };
    b.pass("sizes", "Sizes, distances, zero points.", Elem::I32, shape.sizes());
    b.pass("weights", "For each block of channels biases, weights and multipliers.", Elem::I32, shape.weights());
    b.assemble(shape.assembly());
}
