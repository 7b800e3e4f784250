//! Products of a vector with rows of weights: fully connected layers.

use super::DSP;
use super::products::{Rows, Style, steps};
use crate::kernels::LayerBuilder;
use crate::ops::QuantOp;
use crate::ops::linear::QLinear;
use crate::plan::{Layer, Plan, View, Work, row_offsets};
use crate::program::{Assembly, Elem};

/// Output channels of a block.
const WIDEST: usize = 8;

/// Copies of a step of four inputs in the loops of eight channels and of two, and the bytes of their code.
const EIGHT_COPIES: u64 = 8;
const TWO_COPIES: u64 = 4;
/// Without the loads of the vector.
const EIGHT_BYTES: u64 = 28 * 4;
const TWO_BYTES: u64 = 7 * 4;

// The frame: what the constants begin with.
const ZERO: u32 = 0;
const LO: u32 = 8;
const HI: u32 = 12;
/// Where the loops are entered.
const ENTER: u32 = 16;
/// Ends of the blocks of eight, of all, of all if the last channel is alone.
const EIGHTS_END: u32 = 24;
const ROWS_END: u32 = 28;
const ODD_END: u32 = 32;
/// Minus the input's zero point, twice; whole fours of inputs, the rest; vectors.
const NEGATIVE: u32 = 36;
const REST: u32 = 44;
const VECTORS: u32 = 48;
const CONSTANTS: usize = 13;
// Then what changes.
const X: u32 = 52;
const Y: u32 = 56;
const SCRATCH: u32 = 60;
const SCRATCH_END: u32 = 64;
const ROWS: u32 = 68;
const FRAME: u32 = 72;

struct Shape<'a> {
    linear: &'a QLinear,
    rows: Rows,
    inputs: usize,
    outputs: usize,
    vectors: usize,
    /// Whether the vector is unpacked once, into working memory, or for every block of channels, which needs none.
    unpacked_once: bool,
}

impl Shape<'_> {
    fn of<'a>(layer: &'a Layer, plan: &Plan, unpacked_once: bool) -> Option<Shape<'a>> {
        let Work::Operator(QuantOp::Linear(linear)) = &layer.work else { return None };
        let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
        let (inputs, outputs) = (linear.weighted.row(0).len(), linear.weighted.channels.len());
        let vectors = y.ty.shape.len() / outputs.max(1);
        let offsets = row_offsets(&x.view, &x.ty.shape)?;
        // The elements of a vector may be in another order, but must be neighbours; vectors follow each other.
        let neighbours = offsets.iter().max() == Some(&(inputs - 1));
        let rows_follow = vectors == 1 || x.view == View::row_major(&x.ty.shape);
        // A word is unpacked at a time: what is beside the vector must not be touched.
        let whole_words = unpacked_once || inputs.is_multiple_of(4);
        if layer.added.is_some()
            || !whole_words
            || !neighbours
            || !rows_follow
            || y.view != View::row_major(&y.ty.shape)
        {
            return None;
        }
        let mut order: Vec<usize> = (0..inputs).collect();
        order.sort_by_key(|&k| offsets[k]);
        let rows = Rows::new(&linear.weighted, |row| order.iter().map(|&k| row[k]).collect())?;
        let rows = if unpacked_once { rows } else { rows.with_zero_in_bias(linear.weighted.input_zero) };
        Some(Shape { linear, rows, inputs, outputs, vectors, unpacked_once })
    }

    fn eights(&self) -> u64 {
        (self.outputs / WIDEST) as u64
    }

    fn twos(&self) -> u64 {
        (self.outputs % WIDEST).div_ceil(2) as u64
    }

    /// Steps of four inputs.
    fn fours(&self) -> u64 {
        self.inputs.div_ceil(4) as u64
    }

    fn style(&self) -> Style {
        self.rows.style()
    }

    fn data(&self) -> Vec<i64> {
        let mut products = steps(self.inputs);
        products.resize(2 * self.fours() as usize, [None, None]);
        let words = 2 * self.fours();
        let eights_end = self.eights() * (16 + 4 * words) * 4;
        let end = eights_end + self.twos() * (4 + words) * 4;
        let odd = if self.outputs % 2 == 1 { end } else { 1 };
        let entry = |copies: u64, bytes: u64| (copies - 1 - (self.fours() + copies - 1) % copies) * bytes + 1;
        let negative = i64::from(-self.linear.weighted.input_zero) & 0xffff;
        let mut data = self.rows.head().to_vec();
        let load = if self.unpacked_once { 4 } else { 12 };
        let (eight, two) = (entry(EIGHT_COPIES, EIGHT_BYTES + load), entry(TWO_COPIES, TWO_BYTES + load));
        let unsigned = [eight, two, eights_end, end, odd];
        data.extend(unsigned.map(|word| word as i64));
        data.push(i64::from((negative | negative << 16) as i32));
        data.extend([self.inputs / 4, self.inputs % 4, self.vectors].map(|word| word as i64));
        data.extend(self.rows.packed(WIDEST, &products));
        data
    }

    fn assembly(&self) -> Assembly {
        let (name, unpacking) = match self.unpacked_once {
            true => ("linear", "The vector is unpacked once to 16 bits, then multiplied with the"),
            false => ("linear_in_place", "The vector is unpacked to 16 bits as it is multiplied with the"),
        };
        let doc = vec![
            format!("Products of a vector with rows of weights. {unpacking}"),
            "weights of eight output channels at a time; two channels share their bytes as in convolutions. data: sizes,"
                .to_owned(),
            "then biases, weights and multipliers by block.".to_owned(),
        ];
        let mut assembly = Assembly::new(format!("{name}{}", self.style().suffix()), doc, DSP);
        let a = &mut assembly;
        a.ops(&format!("push {{r4-r11, lr}}\n sub sp, #{FRAME}\n strd r0, r1, [sp, #{X}]"));
        a.op(if self.unpacked_once { format!("str r2, [sp, #{SCRATCH}]") } else { "mov r3, r2".to_owned() });
        a.op("mov r12, sp");
        let mut left = CONSTANTS;
        while left > 0 {
            let words = left.min(8);
            a.ops(&format!("ldm r3!, {{r4-r{0}}}\n stm r12!, {{r4-r{0}}}", 3 + words));
            left -= words;
        }
        a.ops(&format!(
            "str r3, [sp, #{ROWS}]
             ldrd r4, r5, [sp, #{ENTER}]
             adr.w r6, 31f
             add r4, r6
             adr.w r6, 41f
             add r5, r6
             strd r4, r5, [sp, #{ENTER}]
             ldrd r4, r5, [sp, #{EIGHTS_END}]
             ldr r6, [sp, #{ODD_END}]
             add r4, r3
             add r5, r3
             add r6, r3
             strd r4, r5, [sp, #{EIGHTS_END}]
             str r6, [sp, #{ODD_END}]"
        ));
        a.label(2);
        a.passes(self.vectors as u64, |a| {
            if self.unpacked_once {
                self.unpack(a)
            } else {
                self.point(a)
            }
            self.eights_text(a);
            self.twos_text(a);
            a.ops(&format!(
                "ldr r4, [sp, #{VECTORS}]
                 subs r4, #1
                 str r4, [sp, #{VECTORS}]
                 bne 2b"
            ));
        });
        a.ops(&format!("add sp, #{FRAME}\n pop {{r4-r11, pc}}"));
        assembly
    }

    fn unpack(&self, a: &mut Assembly) {
        let vectors = self.vectors as u64;
        a.comment("Unpack a vector: of four neighbours first the even ones.");
        a.ops(&format!(
            "ldr r0, [sp, #{X}]
             ldr r2, [sp, #{SCRATCH}]
             ldrd r3, r10, [sp, #{NEGATIVE}]
             ldr r11, [sp, #{REST}]
             subs r10, #2
             blo 4f"
        ));
        a.label(3);
        a.total(vectors * (self.inputs / 8) as u64, |a| {
            a.ops(
                "ldr r4, [r0], #4
                 ldr r5, [r0], #4
                 sxtab16 r6, r3, r4
                 sxtab16 r7, r3, r4, ror #8
                 sxtab16 r8, r3, r5
                 sxtab16 r9, r3, r5, ror #8
                 stm r2!, {r6-r9}
                 subs r10, #2
                 bhs 3b",
            );
        });
        a.label(4);
        a.ops("adds r10, #2\n beq 5f");
        a.total(if self.inputs / 4 % 2 == 1 { vectors } else { 0 }, |a| {
            a.ops(
                "ldr r4, [r0], #4
                 sxtab16 r6, r3, r4
                 sxtab16 r7, r3, r4, ror #8
                 strd r6, r7, [r2], #8",
            );
        });
        a.label(5);
        a.ops("lsls r11, r11, #31\n bcc 6f");
        a.total(if self.inputs % 4 >= 2 { vectors } else { 0 }, |a| {
            a.ops(
                "ldrsb r4, [r0], #1
                 ldrsb r5, [r0], #1
                 pkhbt r4, r4, r5, lsl #16
                 sadd16 r4, r4, r3
                 str r4, [r2], #4",
            );
        });
        a.label(6);
        a.op("bpl 7f");
        a.total(if self.inputs % 2 == 1 { vectors } else { 0 }, |a| {
            a.ops("ldrsb r4, [r0], #1\n sadd16 r4, r4, r3\n str r4, [r2], #4");
        });
        a.label(7);
        a.comment("A last word without weights stays as it is: the steps take two words.");
        a.ops(&format!(
            "str r0, [sp, #{X}]
             ldr r4, [sp, #{SCRATCH}]
             subs r2, r2, r4
             adds r2, #4
             bic r2, r2, #7
             add r2, r4
             str r2, [sp, #{SCRATCH_END}]"
        ));
    }

    fn point(&self, a: &mut Assembly) {
        a.comment("The vector stays where it is.");
        a.ops(&format!(
            "ldr r0, [sp, #{X}]
             ldr r4, [sp, #{}]
             str r0, [sp, #{SCRATCH}]
             add r0, r0, r4, lsl #2
             str r0, [sp, #{SCRATCH_END}]
             str r0, [sp, #{X}]",
            NEGATIVE + 4
        ));
    }

    /// The next four inputs, the even ones in r10 and the others in r11.
    fn load(&self, a: &mut Assembly) {
        a.ops(match self.unpacked_once {
            true => "ldrd r10, r11, [r0], #8",
            false => "ldr r11, [r0], #4\n sxtb16 r10, r11\n sxtb16 r11, r11, ror #8",
        });
    }

    fn eights_text(&self, a: &mut Assembly) {
        let vectors = self.vectors as u64;
        let eights = vectors * self.eights();
        a.comment("Blocks of eight channels: r2 acc0, r3 256 acc1 + acc0, and so on to r9. r0 vector, r1 weights.");
        a.ops(&format!("ldr r1, [sp, #{ROWS}]\n b 33f"));
        a.label(30);
        a.total(eights, |a| {
            a.ops(&format!("ldm r1!, {{r2-r9}}\n ldr r0, [sp, #{SCRATCH}]\n ldr pc, [sp, #{ENTER}]"));
        });
        a.label(31);
        a.copies(EIGHT_COPIES as u32, eights * self.fours(), |a| {
            self.load(a);
            for x in ["r10", "r11"] {
                for [a0, a1, b0, b1] in [["r2", "r3", "r4", "r5"], ["r6", "r7", "r8", "r9"]] {
                    a.ops(&format!(
                        "ldrd r12, lr, [r1], #8
                         smlad {a1}, r12, {x}, {a1}
                         smlad {b1}, lr, {x}, {b1}
                         sxtb16 r12, r12
                         sxtb16 lr, lr
                         smlad {a0}, r12, {x}, {a0}
                         smlad {b0}, lr, {x}, {b0}"
                    ));
                }
            }
        });
        a.total(eights * self.fours().div_ceil(EIGHT_COPIES), |a| {
            a.ops(&format!("ldr r10, [sp, #{SCRATCH_END}]\n cmp r0, r10\n bne 31b"));
        });
        a.total(eights, |a| {
            a.ops(&format!("ldrd r12, lr, [sp, #{ZERO}]\n ldr r10, [sp, #{Y}]"));
            for [low, high] in [["r2", "r3"], ["r4", "r5"], ["r6", "r7"], ["r8", "r9"]] {
                a.ops(&format!("sub {high}, {high}, {low}\n ldm r1!, {{r0, r11}}"));
                self.style().requantize(a, false, &[low], "r0", [LO, HI]);
                self.style().requantize(a, true, &[high], "r11", [LO, HI]);
                a.ops(&format!("strb {low}, [r10], #1\n strb {high}, [r10], #1"));
            }
            a.op(format!("str r10, [sp, #{Y}]"));
        });
        a.label(33);
        a.total(eights + vectors, |a| a.ops(&format!("ldr r10, [sp, #{EIGHTS_END}]\n cmp r1, r10\n bne 30b")));
    }

    fn twos_text(&self, a: &mut Assembly) {
        let vectors = self.vectors as u64;
        let twos = vectors * self.twos();
        a.comment("Blocks of two channels for the rest; the second may be missing.");
        a.op("b 43f");
        a.label(40);
        a.total(twos, |a| {
            a.ops(&format!("ldm r1!, {{r2, r3}}\n ldr r0, [sp, #{SCRATCH}]\n ldr pc, [sp, #{}]", ENTER + 4));
        });
        a.label(41);
        a.copies(TWO_COPIES as u32, twos * self.fours(), |a| {
            self.load(a);
            a.ops(
                "ldrd r12, lr, [r1], #8
                 smlad r3, r12, r10, r3
                 sxtb16 r12, r12
                 smlad r3, lr, r11, r3
                 sxtb16 lr, lr
                 smlad r2, r12, r10, r2
                 smlad r2, lr, r11, r2",
            );
        });
        a.total(twos * self.fours().div_ceil(TWO_COPIES), |a| {
            a.ops(&format!("ldr r10, [sp, #{SCRATCH_END}]\n cmp r0, r10\n bne 41b"));
        });
        a.total(twos, |a| {
            a.ops(&format!(
                "ldrd r12, lr, [sp, #{ZERO}]
                 ldr r10, [sp, #{Y}]
                 sub r3, r3, r2
                 ldm r1!, {{r0, r11}}"
            ));
            self.style().requantize(a, false, &["r2"], "r0", [LO, HI]);
            a.ops(&format!("strb r2, [r10], #1\n ldr r0, [sp, #{ODD_END}]\n cmp r1, r0\n beq 42f"));
        });
        a.total(twos - if self.outputs % 2 == 1 { vectors } else { 0 }, |a| {
            self.style().requantize(a, true, &["r3"], "r11", [LO, HI]);
            a.op("strb r3, [r10], #1");
        });
        a.label(42);
        a.total(twos, |a| a.op(format!("str r10, [sp, #{Y}]")));
        a.label(43);
        a.total(twos + vectors, |a| a.ops(&format!("ldr r10, [sp, #{ROWS_END}]\n cmp r1, r10\n bne 40b")));
    }
}

/// Vectors whose elements are neighbours.
pub fn accepts(layer: &Layer, plan: &Plan) -> bool {
    Shape::of(layer, plan, true).is_some()
}

/// The same, whole words of them.
pub fn accepts_in_place(layer: &Layer, plan: &Plan) -> bool {
    Shape::of(layer, plan, false).is_some()
}

/// What the text executes.
pub fn instructions(layer: &Layer, plan: &Plan) -> u64 {
    Shape::of(layer, plan, true).map_or(0, |shape| shape.assembly().instructions())
}

/// What the text executes that leaves the vector where it is.
pub fn instructions_in_place(layer: &Layer, plan: &Plan) -> u64 {
    Shape::of(layer, plan, false).map_or(0, |shape| shape.assembly().instructions())
}

/// The unpacked vector.
pub fn scratch(layer: &Layer, plan: &Plan) -> usize {
    Shape::of(layer, plan, true).map_or(0, |shape| 8 * shape.fours() as usize)
}

/// A vector is read before its results are written.
pub fn lead(layer: &Layer, plan: &Plan) -> Option<usize> {
    let shape = Shape::of(layer, plan, true)?;
    Some((shape.vectors - 1) * shape.outputs.saturating_sub(shape.inputs))
}

/// Builds the function.
pub fn build(b: &mut LayerBuilder) {
    build_with(b, true);
}

/// Builds the function that needs no working memory.
pub fn build_in_place(b: &mut LayerBuilder) {
    build_with(b, false);
}

fn build_with(b: &mut LayerBuilder, unpacked_once: bool) {
    let Some(shape) = Shape::of(b.layer, b.plan, unpacked_once) else { return };
    b.pass("data", "Sizes, then for each block biases, weights and multipliers.", Elem::I32, shape.data());
    b.assemble(shape.assembly());
}
