//! Convolutions with windows of one tap: each pixel by itself.

use super::DSP;
use super::products::{ADDITION_BYTES, Addition, Blocks, COLUMN, FREE, PATCH, Patches, Rows, Unpack, Y, steps};
use crate::kernels::LayerBuilder;
use crate::ops::QuantOp;
use crate::ops::conv::QConv;
use crate::plan::{Layer, Plan, PlannedTensor, View, Work};
use crate::program::{Assembly, Elem};

/// The frame behind what the products use.
const NEGATIVE: u32 = FREE;
const FOURS: u32 = FREE + 4;
const ENTRY: u32 = FREE + 8;
const REST: u32 = FREE + 12;
/// Pixels of a row, rows that are left.
const WIDTH: u32 = FREE + 16;
const HEIGHT: u32 = FREE + 20;
/// Distances of pixels and of rows of the input.
const STEP: u32 = FREE + 24;
const ROW_STEP: u32 = FREE + 28;
/// The next pixel, the next row, pixels that are left in this one.
const X: u32 = FREE + 32;
const ROW: u32 = FREE + 36;
const LEFT: u32 = FREE + 40;
/// Distance of two pixels of the result.
const WIDE: u32 = FREE + 44;
const FRAME: u32 = FREE + 48;

struct Shape<'a> {
    conv: &'a QConv,
    rows: Rows,
    addition: Option<Addition<'a>>,
    inputs: usize,
    outputs: usize,
    /// Rows of pixels that are evenly spaced.
    height: usize,
    width: usize,
    /// Bytes from pixel to pixel and from row to row in the input.
    step: usize,
    row_step: usize,
}

/// Whether the elements lie one behind the other, channels last.
pub fn channels_last(tensor: &PlannedTensor) -> bool {
    let shape = &tensor.ty.shape;
    let order: Vec<usize> = [0].into_iter().chain(2..shape.rank()).chain([1]).collect();
    tensor.view == View::dense(shape, &order)
}

impl Shape<'_> {
    fn of<'a>(layer: &'a Layer, plan: &Plan) -> Option<Shape<'a>> {
        let Work::Operator(QuantOp::Conv(conv)) = &layer.work else { return None };
        let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
        let (input, output) = (x.ty.shape.dims(), y.ty.shape.dims());
        let window = &conv.window;
        let plain = conv.groups == 1 && window.taps() == 1 && !window.pads(&input[2..]);
        if !plain || !channels_last(x) || !channels_last(y) {
            return None;
        }
        let (inputs, outputs) = (input[1], output[1]);
        let pixels = output[0] * output[2..].iter().product::<usize>();
        let dense = window.stride.iter().all(|&stride| stride == 1);
        let (height, width, step, row_step) = match (&window.stride[..], input) {
            _ if dense => (1, pixels, inputs, 0),
            (&[stride], &[1, ..]) => (1, pixels, stride * inputs, 0),
            (&[vertical, horizontal], &[1, _, _, width]) => {
                (output[2], output[3], horizontal * inputs, vertical * width * inputs)
            }
            _ => return None,
        };
        let rows = Rows::new(&conv.weighted, <[i8]>::to_vec)?;
        let addition = Addition::of(layer, FRAME)?;
        Some(Shape { conv, rows, addition, inputs, outputs, height, width, step, row_step })
    }

    /// Pairs of pixels; the second of the last pair of a row may be missing.
    fn passes(&self) -> u64 {
        (self.height * self.width.div_ceil(2)) as u64
    }

    /// Bytes of the frame; an addition has its words behind the others.
    fn frame(&self) -> u32 {
        if self.addition.is_some() { FRAME + ADDITION_BYTES } else { FRAME }
    }

    fn blocks(&self) -> Blocks<'_> {
        let patches = Patches {
            steps: steps(self.inputs).len(),
            pairs: (self.height * (self.width / 2)) as u64,
            alone: (self.height * (self.width % 2)) as u64,
        };
        Blocks {
            channels: self.outputs,
            style: self.rows.style(),
            patches: vec![patches],
            skips: None,
            addition: self.addition,
        }
    }

    fn unpack(&self) -> Unpack {
        Unpack { run: self.inputs, runs: self.passes() }
    }

    fn data(&self) -> Vec<i64> {
        let sizes = [self.width, self.height, self.step, self.row_step].map(|size| size as i64);
        let mut data: Vec<i64> = self.addition.iter().flat_map(|addition| addition.head()).collect();
        data.push(self.outputs as i64);
        data.extend(self.rows.head());
        data.extend(self.blocks().head());
        data.extend(self.unpack().head(self.conv.weighted.input_zero));
        data.extend(sizes);
        data.extend(self.rows.packed(4, &steps(self.inputs)));
        data
    }

    fn assembly(&self) -> Assembly {
        let doc = vec![
            "Convolution with windows of one tap, channels last: two pixels are unpacked, then multiplied with the"
                .to_owned(),
            "weights of four output channels at a time. data: sizes, then biases, weights and multipliers by block."
                .to_owned(),
        ];
        let (blocks, unpack) = (self.blocks(), self.unpack());
        let mut a = Assembly::new(format!("pointwise{}", blocks.suffix()), doc, DSP);
        a.ops(&format!("push {{r4-r11, lr}}\n sub sp, #{}", self.frame()));
        if let Some(addition) = &self.addition {
            addition.prologue(&mut a, self.frame());
        }
        blocks.prologue(&mut a);
        a.ops(&format!("str r4, [sp, #{WIDE}]\n ldm r3!, {{r4-r11}}"));
        unpack.loop_address(&mut a, "r12");
        a.ops(&format!(
            "add r6, r12
             add r5, r2
             strd r4, r5, [sp, #{NEGATIVE}]
             strd r6, r7, [sp, #{ENTRY}]
             strd r8, r9, [sp, #{WIDTH}]
             strd r10, r11, [sp, #{STEP}]
             str r0, [sp, #{ROW}]"
        ));
        blocks.begin_rows(&mut a);
        a.comment("Rows of pixels.");
        a.label(2);
        a.passes(self.height as u64, |a| {
            a.ops(&format!(
                "ldr r0, [sp, #{ROW}]
                 ldr r1, [sp, #{ROW_STEP}]
                 ldr r4, [sp, #{WIDTH}]
                 str r0, [sp, #{X}]
                 add r0, r1
                 strd r0, r4, [sp, #{ROW}]
                 ldr r4, [sp, #{WIDE}]
                 str r4, [sp, #{COLUMN}]"
            ));
            self.passes_text(a, &blocks, unpack);
            a.ops(&format!(
                "ldr r4, [sp, #{HEIGHT}]
                 subs r4, #1
                 str r4, [sp, #{HEIGHT}]
                 bne 2b"
            ));
        });
        a.ops(&format!("add sp, #{}\n pop {{r4-r11, pc}}", self.frame()));
        a
    }

    fn passes_text(&self, a: &mut Assembly, blocks: &Blocks, unpack: Unpack) {
        a.comment("Pairs of pixels: r0 the first, r1 the second, r2 the patch. A last pixel alone is both.");
        a.label(3);
        a.passes(self.width.div_ceil(2) as u64, |a| {
            a.ops(&format!(
                "ldr r0, [sp, #{X}]
                 ldr r1, [sp, #{STEP}]
                 ldr r4, [sp, #{LEFT}]
                 add.w r5, r0, r1, lsl #1
                 str r5, [sp, #{X}]
                 subs r4, #2
                 str r4, [sp, #{LEFT}]
                 bpl 4f"
            ));
            let alone = if self.width % 2 == 1 { self.height as u64 } else { 0 };
            a.total(alone, |a| a.ops(&format!("movs r1, #0\n str r1, [sp, #{COLUMN}]")));
            a.label(4);
            a.ops(&format!(
                "add r1, r0
                 ldr r2, [sp, #{PATCH}]
                 ldr r3, [sp, #{NEGATIVE}]
                 ldr r10, [sp, #{FOURS}]"
            ));
            unpack.text(a, ENTRY, REST);
            blocks.text(a);
            a.ops(&format!(
                "ldrd r4, r5, [sp, #{Y}]
                 add r4, r5
                 str r4, [sp, #{Y}]
                 ldr r4, [sp, #{LEFT}]
                 cmp r4, #0
                 bgt 3b"
            ));
        });
    }
}

/// Windows of one tap without padding, channels last.
pub fn accepts(layer: &Layer, plan: &Plan) -> bool {
    Shape::of(layer, plan).is_some()
}

/// What the text executes.
pub fn instructions(layer: &Layer, plan: &Plan) -> u64 {
    Shape::of(layer, plan).map_or(0, |shape| shape.assembly().instructions())
}

/// A patch of two columns.
pub fn scratch(layer: &Layer, plan: &Plan) -> usize {
    Shape::of(layer, plan).map_or(0, |shape| 8 * shape.blocks().steps())
}

/// A pair of pixels is read before its results are written.
pub fn lead(layer: &Layer, plan: &Plan) -> Option<usize> {
    let shape = Shape::of(layer, plan)?;
    let starts = (0..shape.height).flat_map(|row| (0..shape.width).step_by(2).map(move |pixel| (row, pixel)));
    let leads = starts.skip(1).map(|(row, pixel)| {
        let written = (row * shape.width + pixel) * shape.outputs;
        written.saturating_sub(row * shape.row_step + pixel * shape.step)
    });
    Some(leads.max().unwrap_or(0))
}

/// Builds the function.
pub fn build(b: &mut LayerBuilder) {
    let Some(shape) = Shape::of(b.layer, b.plan) else { return };
    b.pass("data", "Sizes, then for each block biases, weights and multipliers.", Elem::I32, shape.data());
    b.assemble(shape.assembly());
}
