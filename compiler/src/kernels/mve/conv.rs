//! Convolution without groups.
//!
//! Windows of one tap are read where they are. For larger ones the rows under the window are copied into working memory,
//! with padding around them, and each row of a window is a stretch of bytes there. Where these stretches are short, they
//! are put together first.

use super::frame::Frame;
use super::geometry::{Geometry, conv};
use super::products::{HALF, Products, SUM_HEADER, SUM_LOCALS, Sum};
use super::{VECTOR, Words, function, shifts};
use crate::kernels::LayerBuilder;
use crate::ops::weighted::Weighted;
use crate::plan::{Layer, Plan};
use crate::program::{Assembly, Elem};

/// Where the stretches of inputs lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// In the operand.
    Operand,
    /// In a ring of padded rows.
    Rows,
    /// In two patches, put together from a ring of padded rows.
    Patches,
}

/// What the text and the constants are made from.
#[derive(Debug)]
struct Kernel {
    geometry: Geometry,
    source: Source,
    products: Products,
    frame: Frame,
    addend: Option<Addend>,
}

/// The other tensor of an addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Addend {
    /// The second parameter.
    Other,
    /// The operand itself.
    Operand,
}

/// Largest immediate offset of a load of bytes.
const REACH: usize = 127;

const OPERAND_HEADER: &[&str] = &["zero", "rows", "row_step", "width", "left", "step", "outputs", "limit"];
const RING_HEADER: &[&str] = &[
    "zero",
    "rows",
    "load",
    "width",
    "left",
    "step",
    "outputs",
    "row",
    "height",
    "pitch",
    "ring_bytes",
    "fill",
    "line",
    "line_pitch",
    "line_step",
    "pad_bytes",
    "advance",
    "next_load",
    "patch_0",
    "patch_1",
];
const OPERAND_LOCALS: &[&str] = &["stream", "x", "end"];
const RING_LOCALS: &[&str] = &["stream", "x", "end", "slot", "ring", "ring_end", "y"];

impl Kernel {
    fn of(layer: &Layer, plan: &Plan) -> Option<Kernel> {
        let geometry = Geometry::of(layer, plan)?;
        let conv = conv(layer)?;
        if conv.groups != 1 {
            return None;
        }
        let g = &geometry;
        if g.taps() == 1 && !g.padded && !g.planar {
            return Kernel::pointwise(geometry)?.finishing(layer, &conv.weighted);
        }
        if g.stride[0] > g.kernel[0] {
            return None;
        }
        let patches = Products::new(1, g.taps() * g.inputs, g.outputs).filter(|p| p.held && g.gathers());
        let rows = Products::new(g.kernel[0], g.kernel[1] * g.inputs, g.outputs).filter(|_| !g.planar);
        let rows = rows.map(Products::with_table);
        let rows = rows.map(|rows| if g.stride[1] == 1 { rows.slide(g.inputs) } else { rows });
        let ways = [(Source::Rows, rows), (Source::Patches, patches)];
        let kernels = ways.into_iter().filter_map(|(source, products)| {
            Kernel::new(geometry.clone(), source, products?).finishing(layer, &conv.weighted)
        });
        kernels.min_by_key(|kernel| kernel.assembly().instructions())
    }

    fn new(geometry: Geometry, source: Source, products: Products) -> Kernel {
        let table = if source == Source::Patches { geometry.runs() } else { products.table_words() };
        let (header, locals) = match source {
            Source::Operand => (OPERAND_HEADER, OPERAND_LOCALS),
            _ => (RING_HEADER, RING_LOCALS),
        };
        let (header, locals) = match products.sum {
            Some(_) => ([header, SUM_HEADER].concat(), [locals, SUM_LOCALS].concat()),
            None => (header.to_vec(), locals.to_vec()),
        };
        Kernel { geometry, source, frame: Frame::new(table, &header, &locals), products, addend: None }
    }

    fn pointwise(geometry: Geometry) -> Option<Kernel> {
        let products = Products::new(1, geometry.inputs, geometry.outputs)?;
        Some(Kernel::new(geometry, Source::Operand, products))
    }

    /// The same with what the layer's results need: shifts, an addition.
    fn finishing(mut self, layer: &Layer, weighted: &Weighted) -> Option<Kernel> {
        self.products.shifts = shifts(weighted);
        let Some(added) = &layer.added else { return Some(self) };
        self.products.sum = Some(Sum::new(added, weighted.clamp)?);
        let twice = layer.operands[..layer.operands.len() - 1].contains(layer.operands.last()?);
        let addend = Some(if twice { Addend::Operand } else { Addend::Other });
        Some(Kernel { addend, ..Kernel::new(self.geometry, self.source, self.products) })
    }

    /// The bytes of a stretch in the order in which the products are added.
    fn order(&self) -> Vec<usize> {
        let Some((vectors, columns)) = self.products.sliding else { return (0..self.geometry.run_bytes()).collect() };
        let vector = |at: usize| (at % columns * vectors + at / columns) * VECTOR;
        (0..vectors * columns).flat_map(|at| vector(at)..vector(at) + VECTOR).collect()
    }

    fn is_ring(&self) -> bool {
        self.source != Source::Operand
    }

    fn patch_bytes(&self) -> usize {
        match self.source {
            Source::Patches => (self.geometry.taps() * self.geometry.inputs).next_multiple_of(VECTOR) + VECTOR,
            _ => 0,
        }
    }

    fn scratch(&self) -> usize {
        if !self.is_ring() {
            return 0;
        }
        // Behind the ring: the position beside the last, and the rest of its last vector.
        2 * self.patch_bytes()
            + self.geometry.ring_bytes()
            + self.geometry.stride[1] * self.geometry.unit()
            + 2 * VECTOR
    }
}

impl Geometry {
    /// Bytes between columns of a stretch.
    fn unit(&self) -> usize {
        if self.planar { 1 } else { self.inputs }
    }

    /// Lines of a row: planes if there are planes.
    fn lines(&self) -> usize {
        if self.planar { self.inputs } else { 1 }
    }

    /// Stretches of a window.
    fn runs(&self) -> usize {
        self.kernel[0] * self.lines()
    }

    fn run_bytes(&self) -> usize {
        self.kernel[1] * self.unit()
    }

    fn line_pitch(&self) -> usize {
        self.columns() * self.unit()
    }

    fn pitch(&self) -> usize {
        self.lines() * self.line_pitch()
    }

    fn ring_bytes(&self) -> usize {
        self.kernel[0] * self.pitch()
    }

    /// Bytes of a line of the input that windows reach.
    fn line_bytes(&self) -> usize {
        self.size[1].min(self.columns() - self.pad[1]) * self.unit()
    }

    /// Whether the stretches of two positions can be put together with immediate offsets.
    fn gathers(&self) -> bool {
        let vectors = self.run_bytes().div_ceil(VECTOR) - 1;
        self.stride[1] * self.unit() + vectors * VECTOR <= REACH
            && (self.runs() - 1) * self.run_bytes() + vectors * VECTOR <= REACH
    }

    /// Position of a byte of a window in ONNX's row of weights.
    fn weight(&self, run: usize, byte: usize) -> usize {
        let (row, line) = (run / self.lines(), run % self.lines());
        let (column, channel) = if self.planar { (byte, line) } else { (byte / self.inputs, byte % self.inputs) };
        channel * self.taps() + self.tap(row, column)
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

/// The ring of rows, and the patches.
pub fn scratch(layer: &Layer, plan: &Plan) -> usize {
    Kernel::of(layer, plan).map_or(0, |kernel| kernel.scratch())
}

/// How far results run ahead of the inputs that are still to be read.
pub fn lead(layer: &Layer, plan: &Plan) -> Option<usize> {
    let Kernel { geometry: g, source, .. } = Kernel::of(layer, plan)?;
    if g.planar {
        return None;
    }
    let row_bytes = g.size[1] * g.inputs;
    let ahead = |written: usize, unread: usize| written.saturating_sub(unread);
    if source != Source::Operand {
        return g.lead_by_rows();
    }
    let positions = (0..g.result[0] * g.result[1]).map(|position| {
        let (oy, ox) = (position / g.result[1], position % g.result[1]);
        let read = oy * g.stride[0] * row_bytes + ox * g.stride[1] * g.inputs;
        ahead((position + 2) * g.outputs, read)
    });
    positions.max()
}

/// Text and constants.
pub fn build(b: &mut LayerBuilder) {
    let (Some(kernel), Some(conv)) = (Kernel::of(b.layer, b.plan), conv(b.layer)) else { return };
    let (g, weighted) = (&kernel.geometry, &conv.weighted);
    kernel.build(b, weighted, |channel_idx| {
        let row = weighted.row(channel_idx);
        let order = kernel.order();
        let byte = |run: usize, at: usize| row[g.weight(run, at)];
        (0..g.runs()).flat_map(|run| order.iter().map(move |&at| byte(run, at))).collect()
    });
}

/// Windows of one tap, for other operators that are made of them.
#[derive(Debug)]
pub struct Pointwise(Kernel);

impl Pointwise {
    /// The kernel; `None` if the sums are too long.
    pub fn new(geometry: Geometry, layer: &Layer, weighted: &Weighted) -> Option<Pointwise> {
        Kernel::pointwise(geometry)?.finishing(layer, weighted).map(Pointwise)
    }

    /// The text.
    pub fn assembly(&self) -> Assembly {
        self.0.assembly()
    }

    /// Text and constants. `row` gives the weights of a channel.
    pub fn build(&self, b: &mut LayerBuilder, weighted: &Weighted, row: impl Fn(usize) -> Vec<i8>) {
        self.0.build(b, weighted, row);
    }
}

impl Kernel {
    fn build(&self, b: &mut LayerBuilder, weighted: &Weighted, row: impl Fn(usize) -> Vec<i8>) {
        let mut words = Words::default();
        self.header(&mut words, weighted.output_zero, weighted.input_zero);
        words.word(weighted.clamp.lo);
        words.word(weighted.clamp.hi);
        self.products.pack(&mut words, weighted, row);
        let doc = "Sizes; then for each four output channels biases (less the input's zero point times the sum of the \
                   weights), weights and multipliers.";
        b.pass("constants", doc, Elem::U32, words.finish());
        b.assemble(self.assembly());
    }

    fn header(&self, words: &mut Words, output_zero: i32, input_zero: i32) {
        let g = &self.geometry;
        let start = words.bytes.len();
        words.word(output_zero);
        if self.source == Source::Operand {
            let joined = g.stride == [1, 1];
            let (rows, width) = if joined { (1, g.result[0] * g.result[1]) } else { (g.result[0], g.result[1]) };
            words.size(rows);
            words.size(g.stride[0] * g.size[1] * g.inputs);
            words.size(width);
            words.size(0);
            words.size(g.stride[1] * g.inputs);
            words.size(g.outputs);
        } else {
            let fill = u32::from(input_zero as u8) * 0x0101_0101;
            words.size(g.result[0]);
            words.size(g.kernel[0]);
            words.size(g.result[1]);
            words.size(0);
            words.size(g.stride[1] * g.unit());
            words.size(g.outputs);
            words.word(-(g.pad[0] as i64));
            words.size(g.size[0]);
            words.size(g.pitch());
            words.size(g.ring_bytes());
            words.word(i64::from(fill));
            words.size(g.line_bytes());
            words.size(g.line_pitch());
            words.size(g.size[0] * g.size[1] * g.unit());
            words.size(g.pad[1] * g.unit());
            words.size(g.size[1] * g.unit());
            words.size(g.stride[0]);
            words.size(0);
            words.size(self.patch_bytes());
        }
        words.bytes.resize((words.bytes.len() - start).next_multiple_of(VECTOR) + start, 0);
        if let Some(sum) = &self.products.sum {
            sum.header(words);
        }
    }

    /// Makes the frame; moves the parameters: x to r0, y to r1, working memory to r2, constants to r9.
    fn enter(&self, a: &mut Assembly) {
        let shifted = self.addend == Some(Addend::Other);
        let constants = match (self.is_ring(), shifted) {
            (false, false) => "r2",
            (true, true) => {
                a.op("ldr r12, [sp]");
                "r12"
            }
            _ => "r3",
        };
        self.frame.enter(a, constants);
        a.op(format!("mov r9, {constants}"));
        match self.addend {
            None => return,
            Some(Addend::Operand) => a.op("sub r4, r0, r1"),
            Some(Addend::Other) => a.ops("sub r4, r1, r2\n mov r1, r2\n mov r2, r3"),
        }
        Sum::prepare(a, &self.frame);
    }

    fn assembly(&self) -> Assembly {
        match self.source {
            Source::Operand => self.positions(),
            Source::Rows | Source::Patches => self.windows(),
        }
    }

    /// Windows of one tap.
    fn positions(&self) -> Assembly {
        let (g, p, f) = (&self.geometry, &self.products, &self.frame);
        let joined = g.stride == [1, 1];
        let (rows, width) = if joined { (1, g.result[0] * g.result[1]) } else { (g.result[0], g.result[1]) };
        let mut a = function(
            "mve_pointwise",
            &[
                "Convolution with windows of one tap: two positions at a time, read where they are.",
                &format!("Sums of {} products. Called with x, y, constants.", g.inputs),
            ],
        );
        self.enter(&mut a);
        a.ops("mov r5, r1\n mov r1, r0");
        p.prepare(&mut a);
        f.ops(&mut a, "str r9, {stream}");
        a.passes(rows as u64, |a| {
            a.label(6);
            f.ops(a, "str r1, {x}\n ldr r0, {width}");
            a.passes(width.div_ceil(2) as u64, |a| {
                a.label(5);
                a.comment(
                    "Inputs of the two positions at r1 and r3, results at r5 and r7; a missing one is the other.",
                );
                f.ops(a, "str r0, {left}\n ldrd r2, r11, {step}\n ldr r9, {stream}");
                a.ops("add r3, r1, r2\n add r7, r5, r11\n cmp r0, #1\n itt eq\n moveq r3, r1\n moveq r7, r5");
                self.addresses(a);
                p.emit(a, f);
                self.results(a);
                if p.held {
                    f.ops(a, "ldrd r0, r2, {left}\n add r1, r3, r2");
                } else {
                    f.ops(a, "ldrd r0, r2, {left}");
                    a.op(format!("ldr r3, [sp, #{}]", 8 * (p.parts - 1) + 4));
                    a.op("add r1, r3, r2");
                }
                a.ops("subs r0, #2\n bgt 5b");
            });
            f.ops(a, "ldr r1, {x}\n ldrd r0, r2, {rows}\n add r1, r2\n subs r0, #1\n str r0, {rows}\n bne 6b");
        });
        f.leave(&mut a);
        a
    }

    /// Writes the table of addresses of the stretches that r1 and r3 are the start of.
    fn addresses(&self, a: &mut Assembly) {
        let p = &self.products;
        if p.held {
            return;
        }
        a.op(format!("strd r1, r3, [sp, #{}]", 8 * (p.parts - 1)));
        for part in 1..p.parts {
            let offset = part * p.part_bytes();
            a.op(format!("add r0, r1, #{offset}"));
            a.op(format!("add r2, r3, #{offset}"));
            a.op(format!("strd r0, r2, [sp, #{}]", 8 * (p.parts - 1 - part)));
        }
    }

    /// After the channels of two positions: the next position's results go to r5.
    fn results(&self, a: &mut Assembly) {
        match self.products.overshoot() {
            0 => a.op("mov r5, r7"),
            bytes => a.op(format!("sub r5, r7, #{bytes}")),
        }
    }

    /// Windows of several taps.
    fn windows(&self) -> Assembly {
        let (g, p, f) = (&self.geometry, &self.products, &self.frame);
        let (name, how) = match self.source {
            Source::Patches => ("mve_conv_patches", "put together from"),
            _ => ("mve_conv_rows", "read from"),
        };
        let mut a = function(
            name,
            &[
                &format!("Convolution, two positions at a time, whose windows are {how} a ring of padded rows."),
                &format!(
                    "Sums of {} stretches of {} bytes. Called with x, y, scratch, constants.",
                    g.runs(),
                    g.run_bytes()
                ),
            ],
        );
        self.enter(&mut a);
        p.prepare(&mut a);
        f.ops(&mut a, "str r9, {stream}\n str r0, {x}\n str r1, {y}");
        self.start(&mut a);
        a.passes(g.result[0] as u64, |a| {
            a.label(8);
            self.load(a);
            self.row(a);
            f.ops(a, "ldrd r0, r1, {rows}\n ldr r1, {next_load}\n subs r0, #1\n strd r0, r1, {rows}\n bne 8b");
        });
        f.leave(&mut a);
        a
    }

    /// Lays out the working memory, fills the ring with the input's zero point. r2 is its start.
    fn start(&self, a: &mut Assembly) {
        let f = &self.frame;
        if self.source == Source::Patches {
            f.ops(a, "ldr r4, {patch_1}\n add r3, r2, r4\n strd r2, r3, {patch_0}\n add r2, r3, r4");
        }
        f.ops(a, "ldrd r4, r6, {ring_bytes}\n add r3, r2, r4\n str r2, {slot}\n strd r2, r3, {ring}\n vdup.32 q0, r6");
        // The loop stores whole vectors; there is room behind the ring.
        a.ops("add r4, #15\n lsr r4, r4, #4\n dls lr, r4");
        a.passes(self.geometry.ring_bytes().div_ceil(VECTOR) as u64, |a| {
            a.label(2);
            a.ops("vstrb.8 q0, [r2], #16\n le lr, 2b");
        });
    }

    /// Copies the next rows of the input into the ring; rows in the padding are filled.
    fn load(&self, a: &mut Assembly) {
        let (g, f) = (&self.geometry, &self.frame);
        let (copied, filled) = g.loads();
        let vectors = g.line_bytes().div_ceil(VECTOR) as u64;
        f.ops(a, "ldr r11, {load}");
        a.total((copied + filled) as u64, |a| {
            a.label(7);
            f.ops(a, "ldrd r0, r1, {row}\n ldr r2, {slot}\n ldr r4, {pad_bytes}\n ldr r10, {line}");
            f.ops(a, "add r4, r2\n add r3, r0, #1\n str r3, {row}\n cmp r0, r1\n bhs 9f");
            a.total(copied as u64, |a| {
                a.comment("A row of the input: from x to r4.");
                f.ops(a, "ldr r6, {x}");
                let line = |a: &mut Assembly, to: &str| {
                    a.op("dlstp.8 lr, r10");
                    a.passes(vectors, |a| {
                        a.label(2);
                        a.op("vldrb.u8 q0, [r6], #16");
                        a.op(format!("vstrb.8 q0, [{to}], #16"));
                        a.op("letp lr, 2b");
                    });
                };
                if g.lines() == 1 {
                    line(a, "r4");
                } else {
                    a.op(format!("mov r1, #{}", g.lines()));
                    a.passes(g.lines() as u64, |a| {
                        a.label(6);
                        a.ops("mov r8, r4\n mov r12, r6");
                        line(a, "r8");
                        f.ops(a, "ldrd r3, r6, {line_pitch}\n add r4, r3\n add r6, r12\n subs r1, #1\n bne 6b");
                    });
                }
                f.ops(a, "ldr r6, {x}\n ldr r8, {advance}\n add r6, r8\n str r6, {x}\n b 12f");
            });
            a.label(9);
            a.total(filled as u64, |a| {
                a.comment("A row of padding.");
                f.ops(a, "ldr r6, {fill}\n ldr r10, {pitch}\n vdup.32 q0, r6\n dlstp.8 lr, r10");
                a.passes(g.pitch().div_ceil(VECTOR) as u64, |a| {
                    a.label(2);
                    a.ops("vstrb.8 q0, [r2], #16\n letp lr, 2b");
                });
            });
            a.label(12);
            f.ops(a, "ldr r2, {slot}\n ldr r3, {pitch}\n ldrd r4, r6, {ring}\n add r2, r3");
            f.ops(a, "cmp r2, r6\n it eq\n moveq r2, r4\n str r2, {slot}\n subs r11, #1\n bne 7b");
        });
    }

    /// A row of results.
    fn row(&self, a: &mut Assembly) {
        let (g, p, f) = (&self.geometry, &self.products, &self.frame);
        a.comment("Addresses of the stretches under the first window; the oldest row of the ring is the first.");
        f.ops(a, "ldr r2, {slot}\n ldr r8, {pitch}\n ldrd r10, r12, {ring}");
        match p.sliding {
            Some(_) => a.op(format!("mov r4, #{HALF}")),
            None => f.ops(a, "ldr r4, {step}"),
        }
        match self.source {
            Source::Rows => a.op(format!("add r6, sp, #{}", 8 * (p.parts - 1))),
            _ => f.ops(a, "mov r6, sp\n ldr r0, {line_pitch}"),
        }
        a.op(format!("mov r1, #{}", g.kernel[0]));
        a.op("dls lr, r1");
        a.passes(g.kernel[0] as u64, |a| {
            a.label(2);
            match self.source {
                Source::Rows => self.stretches(a),
                _ if g.lines() == 1 => a.op("str r2, [r6], #4"),
                _ => {
                    a.op("mov r3, r2");
                    a.repeat(g.lines() as u32, |a| a.ops("str r3, [r6], #4\n add r3, r0"));
                }
            }
            a.ops("add r2, r8\n cmp r2, r12\n it eq\n moveq r2, r10\n le lr, 2b");
        });
        f.ops(a, "ldr r0, {width}\n ldr r5, {y}");
        a.passes(g.result[1].div_ceil(2) as u64, |a| {
            a.label(5);
            a.comment("Results of the two positions at r5 and r7; a missing one is the other.");
            f.ops(a, "str r0, {left}\n ldr r11, {outputs}\n ldr r9, {stream}");
            a.ops("add r7, r5, r11\n cmp r0, #1\n it eq\n moveq r7, r5");
            if self.source == Source::Patches {
                self.gather(a);
            }
            p.emit(a, f);
            self.results(a);
            f.ops(a, "ldrd r0, r2, {left}\n add r2, r2");
            let words = if self.source == Source::Rows { p.table_words() } else { g.runs() };
            for i in 0..words.div_ceil(4) {
                a.op(format!("vldrw.u32 q0, [sp, #{}]", 16 * i));
                a.op("vadd.i32 q0, q0, r2");
                a.op(format!("vstrw.32 q0, [sp, #{}]", 16 * i));
            }
            a.ops("subs r0, #2\n bgt 5b");
        });
        f.ops(a, "str r5, {y}");
    }

    /// Addresses of a row of a window in two positions: r2, and r4 behind it.
    fn stretches(&self, a: &mut Assembly) {
        let p = &self.products;
        a.ops("add r3, r2, r4\n strd r2, r3, [r6], #-8");
        for piece in 1..p.parts / self.geometry.kernel[0] {
            let offset = piece * p.part_bytes();
            a.op(format!("add r0, r2, #{offset}"));
            a.op(format!("add r1, r3, #{offset}"));
            a.op("strd r0, r1, [r6], #-8");
        }
    }

    /// Puts two windows together, to where r1 and r3 then point. Vectors are longer than stretches; the next one
    /// overwrites what is too much.
    fn gather(&self, a: &mut Assembly) {
        let (g, f) = (&self.geometry, &self.frame);
        let step = g.stride[1] * g.unit();
        f.ops(a, "ldrd r1, r3, {patch_0}");
        for run in 0..g.runs() {
            a.op(format!("ldr r2, [sp, #{}]", 4 * run));
            for vector in (0..g.run_bytes()).step_by(VECTOR) {
                let to = run * g.run_bytes() + vector;
                a.op(format!("vldrb.u8 q0, [r2, #{vector}]"));
                a.op(format!("vldrb.u8 q1, [r2, #{}]", step + vector));
                a.op(format!("vstrb.8 q0, [r1, #{to}]"));
                a.op(format!("vstrb.8 q1, [r3, #{to}]"));
            }
        }
    }
}
