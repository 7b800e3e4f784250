//! Layers that only move elements: joins of two, parts, other layouts.

use super::{VECTOR, Words, function};
use crate::ir::DType;
use crate::kernels::LayerBuilder;
use crate::ops::QuantOp;
use crate::plan::{Dim, Layer, Plan, Work, joined, nest};
use crate::program::{Assembly, Elem};

/// Loops around the innermost.
const LOOPS: usize = 3;

/// Elements of a vector where they are not neighbours.
const LANES: usize = 8;

/// One nest of loops that copies.
#[derive(Debug)]
struct Move {
    port: usize,
    x_start: usize,
    y_start: usize,
    outer: [Dim; LOOPS],
    inner: Dim,
}

/// Moves of a layer, all of them with neighbours in the innermost loop or none.
#[derive(Debug)]
struct Moves {
    moves: Vec<Move>,
    neighbours: bool,
    operands: usize,
}

impl Moves {
    fn of(layer: &Layer, plan: &Plan) -> Option<Moves> {
        let tensors: Vec<_> = layer.operands.iter().chain([&layer.result]).map(|&id| plan.tensor(id)).collect();
        let distinct = layer.operands.len() == 1 || layer.operands[0] != layer.operands[1];
        if layer.operands.len() > 2 || !distinct || tensors.iter().any(|tensor| tensor.ty.dtype != DType::I8) {
            return None;
        }
        let y = plan.tensor(layer.result);
        let mut moves = vec![];
        match &layer.work {
            Work::Copy => moves.push(Move::new(0, nest(&[&tensors[0].view, &y.view])?, 0, 0)?),
            Work::Operator(QuantOp::Slice(slice)) => {
                let (x_strides, y_strides) = (tensors[0].view.strides()?, y.view.strides()?);
                let dims = (0..slice.size.len()).map(|axis| Dim {
                    extent: slice.size[axis],
                    strides: vec![x_strides[axis] as isize * slice.step[axis], y_strides[axis] as isize],
                });
                let start = slice.start.iter().zip(&x_strides).map(|(start, stride)| start * stride).sum();
                moves.push(Move::new(0, joined(dims.collect()), start, 0)?);
            }
            Work::Operator(QuantOp::Concat(concat)) => {
                let y_strides = y.view.strides()?;
                let mut start = 0;
                for (port, &id) in layer.operands.iter().enumerate() {
                    let x = plan.tensor(id);
                    let (x_strides, extents) = (x.view.strides()?, x.ty.shape.dims());
                    let dims = (0..extents.len()).map(|axis| Dim {
                        extent: extents[axis],
                        strides: vec![x_strides[axis] as isize, y_strides[axis] as isize],
                    });
                    moves.push(Move::new(port, joined(dims.collect()), 0, start * y_strides[concat.axis])?);
                    start += extents[concat.axis];
                }
            }
            Work::Operator(_) => return None,
        }
        let neighbours = moves[0].has_neighbours();
        let alike = moves.iter().all(|part| part.has_neighbours() == neighbours && (neighbours || part.reaches()));
        alike.then_some(Moves { moves, neighbours, operands: layer.operands.len() })
    }

    fn lanes(&self) -> usize {
        if self.neighbours { VECTOR } else { LANES }
    }

    fn assembly(&self) -> Assembly {
        let how = if self.neighbours { "neighbours" } else { "elements at distances" };
        let doc = format!("Copies {how} in a nest of loops. Called with the operands, y, constants.");
        let mut a = function("mve_move", &[&doc]);
        a.op("push {r4-r11, lr}");
        match self.operands {
            1 => a.ops("sub sp, #20\n mov r9, r2"),
            _ => a.ops("sub sp, #20\n mov r9, r3"),
        }
        a.comment("Addresses of the operands and the result at sp, the number of nests behind them.");
        match self.operands {
            1 => a.ops("strd r0, r0, [sp]\n str r1, [sp, #8]"),
            _ => a.ops("strd r0, r1, [sp]\n str r2, [sp, #8]"),
        }
        a.ops("ldr r0, [r9], #4\n str r0, [sp, #12]");
        a.label(7);
        let passes = self.moves.len() as u64;
        a.passes(passes, |a| {
            a.comment("A nest: offset of its operand's address, starts, counts.");
            a.ops("ldm r9!, {r2, r3, r4}\n add r2, sp\n ldr r0, [r2]\n ldr r1, [sp, #8]\n add r0, r3\n add r1, r4");
            a.ops("ldm r9!, {r3, r4, r8, r12}");
            if !self.neighbours {
                a.ops("mov r6, #0\n vidup.u16 q1, r6, #1\n vmov q2, q1");
                a.ops("ldrd r10, r11, [r9], #8\n vmul.i16 q1, q1, r10\n vmul.i16 q2, q2, r11");
                a.ops("lsl r10, r10, #3\n lsl r11, r11, #3");
            }
        });
        // The number of passes differs between nests: what follows is counted for all together.
        let total = |count: &dyn Fn(&Move) -> usize| self.moves.iter().map(|part| count(part) as u64).sum::<u64>();
        let extents = |part: &Move, loops: usize| part.outer[..loops].iter().map(|dim| dim.extent).product::<usize>();
        a.total(total(&|part| extents(part, 1)), |a| {
            a.label(3);
            a.op("mov r5, r4");
            a.total(total(&|part| extents(part, 2)), |a| {
                a.label(4);
                a.op("mov r6, r8");
                a.total(total(&|part| extents(part, 3)), |a| {
                    a.label(5);
                    a.op(if self.neighbours { "dlstp.8 lr, r12" } else { "dlstp.16 lr, r12" });
                    let vectors = |part: &Move| extents(part, 3) * part.inner.extent.div_ceil(self.lanes());
                    a.total(total(&vectors), |a| {
                        a.label(2);
                        match self.neighbours {
                            true => a.ops("vldrb.u8 q0, [r0], #16\n vstrb.8 q0, [r1], #16\n letp lr, 2b"),
                            false => {
                                a.ops("vldrb.u16 q0, [r0, q1]\n vstrb.16 q0, [r1, q2]\n add r0, r10\n add r1, r11\n letp lr, 2b");
                            }
                        }
                    });
                    a.ops("ldrd r2, r7, [r9]\n add r0, r2\n add r1, r7\n subs r6, #1\n bne 5b");
                });
                a.ops("ldrd r2, r7, [r9, #8]\n add r0, r2\n add r1, r7\n subs r5, #1\n bne 4b");
            });
            a.ops("ldrd r2, r7, [r9, #16]\n add r0, r2\n add r1, r7\n subs r3, #1\n bne 3b");
        });
        a.passes(passes, |a| a.ops("add r9, #24\n ldr r0, [sp, #12]\n subs r0, #1\n str r0, [sp, #12]\n bne 7b"));
        a.ops("add sp, #20\n pop {r4-r11, pc}");
        a
    }
}

impl Move {
    fn new(port: usize, mut dims: Vec<Dim>, x_start: usize, y_start: usize) -> Option<Move> {
        let unit = Dim { extent: 1, strides: vec![0, 0] };
        let inner = dims.pop().unwrap_or(Dim { extent: 1, strides: vec![1, 1] });
        while dims.len() < LOOPS {
            dims.insert(0, unit.clone());
        }
        let outer = <[Dim; LOOPS]>::try_from(dims).ok()?;
        let steps = outer.iter().chain([&inner]).flat_map(|dim| &dim.strides);
        let forward = steps.into_iter().all(|&stride| stride >= 0);
        forward.then_some(Move { port, x_start, y_start, outer, inner })
    }

    fn has_neighbours(&self) -> bool {
        self.inner.strides == [1, 1]
    }

    /// Whether 16 bits hold the offsets of a vector's elements.
    fn reaches(&self) -> bool {
        self.inner.strides.iter().all(|&stride| stride * (LANES as isize - 1) < 1 << 16)
    }

    /// Starts, counts, and what both addresses have to move on by behind each loop.
    fn describe(&self, words: &mut Words, lanes: usize) {
        words.size(4 * self.port);
        words.size(self.x_start);
        words.size(self.y_start);
        self.outer.iter().for_each(|dim| words.size(dim.extent));
        words.size(self.inner.extent);
        if !self.has_neighbours() {
            self.inner.strides.iter().for_each(|&stride| words.word(stride as i64));
        }
        // The innermost loop ends behind its last, whole vector.
        let mut walked = [0, 1].map(|i| self.inner.extent.next_multiple_of(lanes) as isize * self.inner.strides[i]);
        for dim in self.outer.iter().rev() {
            for (walked, &stride) in walked.iter_mut().zip(&dim.strides) {
                words.word((stride - *walked) as i64);
                *walked = stride * dim.extent as isize;
            }
        }
    }
}

/// Layers that the kernel computes.
pub fn accepts(layer: &Layer, plan: &Plan) -> bool {
    Moves::of(layer, plan).is_some()
}

/// As the text says.
pub fn instructions(layer: &Layer, plan: &Plan) -> u64 {
    Moves::of(layer, plan).map_or(u64::MAX, |moves| moves.assembly().instructions())
}

/// Text and constants.
pub fn build(b: &mut LayerBuilder) {
    let Some(moves) = Moves::of(b.layer, b.plan) else { return };
    let mut words = Words::default();
    words.size(moves.moves.len());
    moves.moves.iter().for_each(|part| part.describe(&mut words, moves.lanes()));
    b.pass("constants", "Number of nests; starts, counts and steps of each.", Elem::U32, words.finish());
    b.assemble(moves.assembly());
}
