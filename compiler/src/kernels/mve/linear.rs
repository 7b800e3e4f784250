//! Products of rows of weights with a vector: eight output channels at a time, one sum in each even register.
//!
//! Several vectors are the positions of a convolution with windows of one tap.

use super::conv::Pointwise;
use super::frame::Frame;
use super::geometry::Geometry;
use super::{VECTOR, Words, folded_bias, function, shifts};
use crate::ir::DType;
use crate::kernels::LayerBuilder;
use crate::ops::QuantOp;
use crate::ops::linear::QLinear;
use crate::plan::{Layer, Plan, Work, row_offsets};
use crate::program::{Assembly, Elem};

/// Output channels that are computed together.
const CHANNELS: usize = 8;

/// Registers of the sums.
const SUMS: [&str; CHANNELS] = ["r0", "r2", "r4", "r6", "r8", "r10", "r12", "lr"];

/// Vectors of inputs that are written out.
const UNROLLED: usize = 8;

const HEADER: &[&str] = &["passes", "groups", "zero"];

#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
enum Kernel {
    One(Rows),
    Many(Pointwise),
}

/// One vector times rows of weights.
#[derive(Debug, Clone, Copy)]
struct Rows {
    inputs: usize,
    outputs: usize,
    /// Whether sums are shifted to the left before they are multiplied.
    shifts: bool,
}

fn linear(layer: &Layer) -> Option<&QLinear> {
    match &layer.work {
        Work::Operator(QuantOp::Linear(linear)) => Some(linear),
        _ => None,
    }
}

impl Kernel {
    fn of(layer: &Layer, plan: &Plan) -> Option<Kernel> {
        let linear = linear(layer)?;
        let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
        let (inputs, outputs) = (linear.row_len(), linear.weighted.channels.len());
        let bytes = [x.ty.dtype, y.ty.dtype].iter().all(|&dtype| dtype == DType::I8);
        if !bytes || inputs >= 4096 {
            return None;
        }
        // The elements of a row lie together, in any order.
        let is_together = |tensor: &crate::plan::PlannedTensor, in_order: bool| {
            let offsets = row_offsets(&tensor.view, &tensor.ty.shape)?;
            let mut sorted = offsets.clone();
            sorted.sort_unstable();
            let together = sorted.last().is_none_or(|&last| last + 1 == sorted.len());
            (together && (!in_order || sorted == offsets)).then_some(())
        };
        is_together(x, false)?;
        is_together(y, true)?;
        let positions = y.ty.shape.len() / outputs;
        if positions == 1 {
            let rows = Rows { inputs, outputs, shifts: shifts(&linear.weighted) };
            return layer.added.is_none().then_some(Kernel::One(rows));
        }
        // Rows follow each other like those of the result.
        let last = x.ty.shape.rank() - 1;
        let rows = crate::plan::nest(&[&x.view.without(last), &y.view.without(last)])?;
        let [ref row] = crate::plan::joined(rows)[..] else { return None };
        if row.strides != [inputs as isize, outputs as isize] {
            return None;
        }
        Some(Kernel::Many(Pointwise::new(Geometry::positions(inputs, outputs, positions), layer, &linear.weighted)?))
    }
}

/// Layers that the kernel computes.
pub fn accepts(layer: &Layer, plan: &Plan) -> bool {
    Kernel::of(layer, plan).is_some()
}

/// As the text says.
pub fn instructions(layer: &Layer, plan: &Plan) -> u64 {
    match Kernel::of(layer, plan) {
        Some(Kernel::One(rows)) => rows.assembly().instructions(),
        Some(Kernel::Many(pointwise)) => pointwise.assembly().instructions(),
        None => u64::MAX,
    }
}

/// Text and constants.
pub fn build(b: &mut LayerBuilder) {
    let (Some(kernel), Some(linear)) = (Kernel::of(b.layer, b.plan), linear(b.layer)) else { return };
    let x = b.operand(0);
    let Some(offsets) = row_offsets(&x.view, &x.ty.shape) else { return };
    let mut order: Vec<usize> = (0..offsets.len()).collect();
    order.sort_by_key(|&k| offsets[k]);
    // Weights in the order in which the inputs lie in memory.
    let row = |channel_idx: usize| {
        let row = linear.weighted.row(channel_idx);
        order.iter().map(|&k| row[k]).collect::<Vec<i8>>()
    };
    match kernel {
        Kernel::Many(pointwise) => pointwise.build(b, &linear.weighted, row),
        Kernel::One(rows) => rows.build(b, linear, row),
    }
}

impl Rows {
    fn vectors(self) -> usize {
        self.inputs / VECTOR
    }

    fn tail(self) -> usize {
        self.inputs % VECTOR
    }

    /// Vectors in front of the loop, vectors of a pass, passes.
    fn passes(self) -> (usize, usize, usize) {
        let vectors = self.vectors();
        let pass = (UNROLLED / 2 + 1..=UNROLLED).rev().find(|&pass| vectors.is_multiple_of(pass)).unwrap_or(UNROLLED);
        if vectors < UNROLLED { (vectors, 0, 0) } else { (vectors % pass, pass, vectors / pass) }
    }

    /// Bytes of weights of some channels up to the next word.
    fn padding(self, channels: usize) -> usize {
        (channels * self.inputs).next_multiple_of(4) - channels * self.inputs
    }

    fn build(self, b: &mut LayerBuilder, linear: &QLinear, row: impl Fn(usize) -> Vec<i8>) {
        let weighted = &linear.weighted;
        let mut words = Words::default();
        words.size(self.passes().2);
        words.size(self.outputs / CHANNELS);
        words.word(weighted.output_zero);
        words.size(0);
        words.word(weighted.clamp.lo);
        words.word(weighted.clamp.hi);
        for first in (0..self.outputs).step_by(CHANNELS) {
            let channels: Vec<usize> = (first..(first + CHANNELS).min(self.outputs)).collect();
            channels.iter().for_each(|&c| words.word(folded_bias(weighted, c)));
            let rows: Vec<Vec<i8>> = channels.iter().map(|&c| row(c)).collect();
            for start in (0..self.inputs).step_by(VECTOR) {
                let end = (start + VECTOR).min(self.inputs);
                rows.iter().for_each(|row| words.weights(row[start..end].iter().copied()));
            }
            words.pad(4);
            for group in channels.chunks(4) {
                let multipliers = || group.iter().map(|&c| weighted.channels[c].multiplier);
                if self.shifts {
                    multipliers().for_each(|m| words.word(m.left_shift()));
                    (group.len()..4).for_each(|_| words.word(0));
                }
                multipliers().for_each(|m| words.word(m.mantissa()));
                (group.len()..4).for_each(|_| words.word(0));
            }
        }
        let doc = "Sizes; then for each eight output channels biases (less the input's zero point times the sum of the \
                   weights), weights and multipliers.";
        b.pass("constants", doc, Elem::U32, words.finish());
        b.assemble(self.assembly());
    }

    fn assembly(self) -> Assembly {
        let f = Frame::new(0, HEADER, &[]);
        let mut a = function(
            "mve_linear",
            &[
                "Products of rows of weights with a vector: eight rows at a time, one sum in each even register.",
                "Called with x, y, constants.",
            ],
        );
        f.enter(&mut a, "r2");
        a.ops("mov r9, r2\n mov r5, r1\n mov r1, r0\n ldrd r4, r6, [r9], #8\n vdup.32 q6, r4\n vdup.32 q7, r6");
        f.ops(&mut a, "ldr r7, {zero}");
        if self.tail() > 0 {
            a.op(format!("mov r4, #{}", self.tail()));
            a.op("vctp.8 r4");
        }
        let groups = self.outputs / CHANNELS;
        if groups > 0 {
            f.ops(&mut a, "ldr r11, {groups}");
            a.passes(groups as u64, |a| {
                a.label(3);
                a.ops("ldrd r4, r6, [r9, #8]\n ldrd r8, r10, [r9, #16]\n ldrd r12, lr, [r9, #24]\n ldrd r0, r2, [r9], #32");
                self.sums(a, &f, CHANNELS);
                self.finish(a, CHANNELS);
                a.ops("subs r11, #1\n bne 3b");
            });
        }
        let rest = self.outputs % CHANNELS;
        if rest > 0 {
            a.comment("The last, incomplete group.");
            SUMS[..rest].iter().for_each(|sum| a.op(format!("ldr {sum}, [r9], #4")));
            self.sums(&mut a, &f, rest);
            self.finish(&mut a, rest);
        }
        f.leave(&mut a);
        a
    }

    /// Adds all products of some channels. r1 walks over the inputs, r9 over the weights.
    fn sums(self, a: &mut Assembly, f: &Frame, channels: usize) {
        let (first, pass, passes) = self.passes();
        a.repeat(first as u32, |a| vector(a, channels, VECTOR));
        if passes > 0 {
            f.ops(a, "ldr r3, {passes}");
            a.passes(passes as u64, |a| {
                a.label(4);
                a.repeat(pass as u32, |a| vector(a, channels, VECTOR));
                a.ops("subs r3, #1\n bne 4b");
            });
        }
        if self.tail() > 0 {
            vector(a, channels, self.tail());
        }
        if self.vectors() > 0 {
            a.op(format!("sub r1, r1, #{}", self.vectors() * VECTOR));
        }
        match self.padding(channels) {
            0 => {}
            bytes => a.op(format!("add r9, #{bytes}")),
        }
    }

    /// From sums to results at r5.
    fn finish(self, a: &mut Assembly, channels: usize) {
        let vectors = [("q4", 0), ("q5", 4)];
        for (q, first) in vectors.into_iter().filter(|&(_, first)| first < channels) {
            a.op(format!("vmov {q}[2], {q}[0], {}, {}", SUMS[first], SUMS[first + 2]));
            a.op(format!("vmov {q}[3], {q}[1], {}, {}", SUMS[first + 1], SUMS[first + 3]));
            if self.shifts {
                a.op("vldrw.u32 q0, [r9], #16");
                a.op(format!("vshl.s32 {q}, {q}, q0"));
            }
            a.op("vldrw.u32 q0, [r9], #16");
            a.op(format!("vqrdmlash.s32 {q}, q0, r7"));
            a.op(format!("vmax.s32 {q}, {q}, q6"));
            a.op(format!("vmin.s32 {q}, {q}, q7"));
            match channels - first {
                1..4 => {
                    a.op(format!("mov r0, #{}", channels - first));
                    a.ops("vctp.32 r0\n vpst");
                    a.op(format!("vstrbt.32 {q}, [r5]"));
                }
                _ => a.op(format!("vstrb.32 {q}, [r5], #4")),
            }
        }
    }
}

/// A vector of inputs times one of each channel.
fn vector(a: &mut Assembly, channels: usize, bytes: usize) {
    match bytes {
        VECTOR => a.op("vldrb.u8 q0, [r1], #16"),
        _ => a.ops("vpst\n vldrbt.u8 q0, [r1]"),
    }
    for (i, sum) in SUMS[..channels].iter().enumerate() {
        let weights = if i % 2 == 0 { "q1" } else { "q2" };
        a.op(format!("vldrb.u8 {weights}, [r9], #{bytes}"));
        a.op(format!("vmladava.s8 {sum}, {weights}, q0"));
    }
}
