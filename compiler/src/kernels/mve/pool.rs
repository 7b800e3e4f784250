//! Largest elements and means under windows, and means over whole axes: vectors of neighbouring channels.

use super::frame::Frame;
use super::geometry::is_channels_last;
use super::{Words, function};
use crate::ir::{Clamp, DType, Multiplier, Window};
use crate::kernels::LayerBuilder;
use crate::ops::QuantOp;
use crate::plan::{Dim, Layer, Plan, Work, joined};
use crate::program::{Assembly, Elem};

const HEADER: &[&str] = &[
    "rows",
    "row_step",
    "columns",
    "column_step",
    "channels",
    "tap_rows",
    "tap_row",
    "taps",
    "tap",
    "zero",
    "bias",
    "unused",
];
const LOCALS: &[&str] = &["x", "left"];

/// What is computed of the elements under a window.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Max,
    Mean { multiplier: Multiplier, input_zero: i32, output_zero: i32, clamp: Clamp },
}

/// A loop over equally spaced elements.
#[derive(Debug, Clone, Copy)]
struct Steps {
    count: usize,
    step: usize,
}

/// Loops over the positions of the result and over the elements under a window.
#[derive(Debug, Clone, Copy)]
struct Pool {
    kind: Kind,
    positions: [Steps; 2],
    taps: [Steps; 2],
    channels: usize,
    clip: Option<[Clip; 2]>,
}

/// How windows reach out of an axis.
#[derive(Debug, Clone, Copy)]
struct Clip {
    pad: usize,
    size: usize,
    stride: usize,
}

impl Clip {
    /// Number of taps of a window inside the axis.
    fn inside(self, position: usize, taps: usize) -> usize {
        let start = position * self.stride;
        (start + taps).min(self.pad + self.size) - start.max(self.pad).min(self.pad + self.size)
    }
}

/// Words of the header for windows that reach out of the input: for each axis where the first window starts, the size, the
/// step, the taps.
const CLIP_HEADER: &[&str] = &["row", "height", "stride_y", "taps_y", "first_column", "width", "stride_x", "taps_x"];
const CLIP_LOCALS: &[&str] = &["row_start", "column"];

impl Pool {
    fn of(layer: &Layer, plan: &Plan) -> Option<Pool> {
        let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
        if [x, y].iter().any(|tensor| tensor.ty.dtype != DType::I8) {
            return None;
        }
        match &layer.work {
            Work::Operator(QuantOp::MaxPool(pool)) => Pool::windows(layer, plan, &pool.window, Kind::Max),
            Work::Operator(QuantOp::AveragePool(pool)) => {
                let [multiplier] = pool.multipliers.values().copied().collect::<Vec<_>>()[..] else { return None };
                let (input_zero, output_zero, clamp) = (pool.input_zero, pool.output_zero, pool.clamp);
                Pool::windows(layer, plan, &pool.window, Kind::Mean { multiplier, input_zero, output_zero, clamp })
            }
            Work::Operator(QuantOp::Mean(mean)) => {
                let (input, x_strides, y_strides) = (x.ty.shape.dims(), x.view.strides()?, y.view.strides()?);
                let kept_axis = |axis: usize| match mean.keep_dims {
                    true => axis,
                    false => axis - mean.axes.iter().filter(|&&reduced| reduced < axis).count(),
                };
                let (reduced, kept): (Vec<usize>, Vec<usize>) =
                    (0..input.len()).partition(|axis| mean.axes.contains(axis));
                let dim = |axis: usize, more: &[usize]| {
                    let strides = [x_strides[axis]].iter().chain(more).map(|&stride| stride as isize).collect();
                    Dim { extent: input[axis], strides }
                };
                let taps = joined(reduced.iter().map(|&axis| dim(axis, &[])).collect());
                let kept = joined(kept.iter().map(|&axis| dim(axis, &[y_strides[kept_axis(axis)]])).collect());
                let (channels, rows) = match &kept[..] {
                    [] => (1, None),
                    [inner] if inner.strides == [1, 1] => (inner.extent, None),
                    [outer, inner] if inner.strides == [1, 1] && outer.strides[1] == inner.extent as isize => {
                        (inner.extent, Some(outer))
                    }
                    _ => return None,
                };
                let steps = |dim: Option<&Dim>| {
                    dim.map_or(Steps { count: 1, step: 0 }, |dim| Steps {
                        count: dim.extent,
                        step: dim.strides[0] as usize,
                    })
                };
                let taps = match &taps[..] {
                    [] => [steps(None); 2],
                    [one] => [steps(None), steps(Some(one))],
                    [outer, inner] => [steps(Some(outer)), steps(Some(inner))],
                    _ => return None,
                };
                let (multiplier, clamp) = (mean.multiplier, mean.clamp);
                let kind = Kind::Mean { multiplier, input_zero: mean.input_zero, output_zero: mean.output_zero, clamp };
                Pool { kind, positions: [steps(None), steps(rows)], taps, channels, clip: None }.checked()
            }
            _ => None,
        }
    }

    fn windows(layer: &Layer, plan: &Plan, window: &Window, kind: Kind) -> Option<Pool> {
        let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
        let (input, result) = (x.ty.shape.dims(), y.ty.shape.dims());
        let dense = is_channels_last(&x.view, input) && is_channels_last(&y.view, result);
        if !dense || input[0] != 1 || !(1..=2).contains(&window.rank()) {
            return None;
        }
        let clips = window.pads(&input[2..]);
        // The number of elements under a window only matters to a mean.
        if clips && (!matches!(kind, Kind::Max) || window.dilation.iter().any(|&d| d != 1)) {
            return None;
        }
        let channels = input[1];
        let pair = |values: &[usize]| match *values {
            [only] => [1, only],
            _ => [values[0], values[1]],
        };
        let (size, outputs) = (pair(&input[2..]), pair(&result[2..]));
        let (kernel, stride, dilation) = (pair(&window.kernel), pair(&window.stride), pair(&window.dilation));
        let along = |axis: usize, elements: usize| elements * if axis == 0 { size[1] } else { 1 } * channels;
        let positions = [0, 1].map(|axis| Steps { count: outputs[axis], step: along(axis, stride[axis]) });
        let mut taps = [0, 1].map(|axis| Steps { count: kernel[axis], step: along(axis, dilation[axis]) });
        if !clips && taps[0].step == taps[1].count * taps[1].step {
            // Rows of taps that follow each other are one.
            taps = [Steps { count: 1, step: 0 }, Steps { count: kernel[0] * kernel[1], step: taps[1].step }];
        }
        let pad = match window.pad_begin[..] {
            [only] => [0, only],
            _ => [window.pad_begin[0], window.pad_begin[1]],
        };
        let clip = clips.then(|| [0, 1].map(|axis| Clip { pad: pad[axis], size: size[axis], stride: stride[axis] }));
        // Every window has an element: a last one that starts in the padding has been dropped.
        let clip_fits = clip.is_none_or(|clip| {
            [0, 1].iter().all(|&axis| (0..outputs[axis]).all(|o| clip[axis].inside(o, kernel[axis]) > 0))
        });
        if !clip_fits {
            return None;
        }
        Pool { kind, positions, taps, channels, clip }.checked()
    }

    fn checked(self) -> Option<Pool> {
        let fits = match self.kind {
            Kind::Max => true,
            Kind::Mean { multiplier, .. } => multiplier.left_shift() == 0,
        };
        fits.then_some(self)
    }

    fn count(&self) -> usize {
        self.taps[0].count * self.taps[1].count
    }

    /// Bits and number of lanes: sums of bytes need more than 8.
    fn lanes(&self) -> (usize, usize) {
        match self.kind {
            Kind::Max => (8, 16),
            Kind::Mean { .. } if self.count() < 256 => (16, 8),
            Kind::Mean { .. } => (32, 4),
        }
    }

    fn assembly(&self) -> Assembly {
        let f = match self.clip {
            None => Frame::new(0, HEADER, LOCALS),
            Some(_) => Frame::new(0, &[HEADER, CLIP_HEADER].concat(), &[LOCALS, CLIP_LOCALS].concat()),
        };
        let (bits, lanes) = self.lanes();
        let (name, what) = match self.kind {
            Kind::Max => ("mve_max", "Largest elements"),
            Kind::Mean { .. } => ("mve_mean", "Means"),
        };
        let doc =
            format!("{what} under windows, {lanes} neighbouring channels at a time. Called with x, y, constants.");
        let mut a = function(name, &[&doc]);
        f.enter(&mut a, "r2");
        if let Kind::Mean { .. } = self.kind {
            a.ops("ldrd r4, r6, [r2], #8\n vdup.32 q6, r4\n vdup.32 q7, r6\n ldr r4, [r2]\n vdup.32 q4, r4");
        }
        f.ops(&mut a, "mov r5, r1\n str r0, {x}\n ldr r9, {taps}\n ldr r12, {tap}\n ldr r4, {tap_row}");
        a.passes(self.positions[0].count as u64, |a| {
            a.label(8);
            match self.clip {
                None => f.ops(a, "ldr r10, {x}"),
                Some(_) => clip_rows(a, &f),
            }
            f.ops(a, "ldr r0, {columns}");
            a.passes(self.positions[1].count as u64, |a| {
                a.label(5);
                f.ops(a, "str r0, {left}");
                if self.clip.is_some() {
                    clip_columns(a, &f);
                }
                f.ops(a, "mov r6, r10\n ldr r11, {channels}");
                a.passes(self.channels.div_ceil(lanes) as u64, |a| {
                    a.label(6);
                    a.comment("A vector of channels at r6.");
                    self.window(a, &f, bits, lanes);
                    a.op(format!("add r6, #{lanes}"));
                    a.op(format!("subs r11, #{lanes}"));
                    a.op("bgt 6b");
                });
                if !self.channels.is_multiple_of(lanes) {
                    a.op(format!("sub r5, #{}", self.channels.next_multiple_of(lanes) - self.channels));
                }
                f.ops(a, "ldr r0, {left}\n ldr r1, {column_step}\n add r10, r1\n subs r0, #1\n bne 5b");
            });
            f.ops(
                a,
                "ldrd r0, r1, {rows}\n ldr r2, {x}\n add r2, r1\n str r2, {x}\n subs r0, #1\n str r0, {rows}\n bne 8b",
            );
        });
        f.leave(&mut a);
        a
    }

    /// Passes of the loops over the rows of windows and over taps, in all.
    fn passes(&self, lanes: usize) -> (u64, u64) {
        let inside = |axis: usize| -> usize {
            let taps = self.taps[axis].count;
            let one = |position: usize| self.clip.map_or(taps, |clip| clip[axis].inside(position, taps));
            (0..self.positions[axis].count).map(one).sum()
        };
        let vectors = self.channels.div_ceil(lanes);
        let rows = inside(0) * vectors;
        ((rows * self.positions[1].count) as u64, (rows * inside(1)) as u64)
    }

    fn window(&self, a: &mut Assembly, f: &Frame, bits: usize, lanes: usize) {
        let then = if self.channels.is_multiple_of(lanes) { "" } else { "t" };
        if !then.is_empty() {
            a.op(format!("vctp.{bits} r11"));
        }
        a.op(match self.kind {
            Kind::Max => "vmov.i8 q0, #128",
            Kind::Mean { .. } => "vmov.i32 q0, #0",
        });
        f.ops(a, "mov r3, r6\n ldr r8, {tap_rows}");
        let (rows, taps) = self.passes(lanes);
        a.total(rows, |a| {
            a.label(7);
            a.ops("mov r2, r3\n dls lr, r9");
            a.total(taps, |a| {
                a.label(2);
                if !then.is_empty() {
                    a.op("vpst");
                }
                let sign = if bits == 8 { "u" } else { "s" };
                a.op(format!("vldrb{then}.{sign}{bits} q1, [r2]"));
                a.op("add r2, r12");
                a.op(match self.kind {
                    Kind::Max => "vmax.s8 q0, q0, q1".to_owned(),
                    Kind::Mean { .. } => format!("vadd.i{bits} q0, q0, q1"),
                });
                a.op("le lr, 2b");
            });
            a.ops("add r3, r4\n subs r8, #1\n bne 7b");
        });
        if let Kind::Mean { .. } = self.kind {
            f.ops(a, "ldrd r0, r1, {zero}");
            if bits == 16 {
                a.ops("vmovlt.s16 q1, q0\n vmovlb.s16 q0, q0");
                requantize(a, "q0");
                requantize(a, "q1");
                a.op("vmovnt.i32 q0, q1");
            } else {
                requantize(a, "q0");
            }
        }
        if !then.is_empty() {
            a.op("vpst");
        }
        a.op(format!("vstrb{then}.{bits} q0, [r5], #{lanes}"));
    }
}

/// The rows of the windows of a row of results that lie inside the input: the first goes to `row_start`, their number to
/// `tap_rows`.
fn clip_rows(a: &mut Assembly, f: &Frame) {
    f.ops(a, "ldrd r0, r2, {row}\n rsbs r1, r0, #0\n it mi\n movmi r1, #0\n subs r2, r2, r0\n ldrd r3, r6, {stride_y}");
    f.ops(a, "cmp r2, r6\n it gt\n movgt r2, r6\n subs r2, r2, r1\n str r2, {tap_rows}\n add r1, r0\n add r0, r3");
    f.ops(a, "str r0, {row}\n ldr r2, {x}\n mla r1, r1, r4, r2\n str r1, {row_start}\n ldr r0, {first_column}\n str r0, {column}");
}

/// The columns of a window that lie inside the input: the first goes to r10, their number to r9.
fn clip_columns(a: &mut Assembly, f: &Frame) {
    f.ops(a, "ldr r0, {column}\n ldr r2, {width}\n rsbs r1, r0, #0\n it mi\n movmi r1, #0\n subs r2, r2, r0");
    f.ops(a, "ldrd r3, r6, {stride_x}\n cmp r2, r6\n it gt\n movgt r2, r6\n sub r9, r2, r1\n add r1, r0\n add r0, r3");
    f.ops(a, "str r0, {column}\n ldr r2, {row_start}\n mla r10, r1, r12, r2");
}

/// From sums to means: r0 is the zero point of the result, r1 the bias.
fn requantize(a: &mut Assembly, q: &str) {
    a.op(format!("vadd.i32 {q}, {q}, r1"));
    a.op(format!("vqrdmlash.s32 {q}, q4, r0"));
    a.op(format!("vmax.s32 {q}, {q}, q6"));
    a.op(format!("vmin.s32 {q}, {q}, q7"));
}

/// Layers that the kernel computes.
pub fn accepts(layer: &Layer, plan: &Plan) -> bool {
    Pool::of(layer, plan).is_some()
}

/// As the text says.
pub fn instructions(layer: &Layer, plan: &Plan) -> u64 {
    Pool::of(layer, plan).map_or(u64::MAX, |pool| pool.assembly().instructions())
}

/// Text and constants.
pub fn build(b: &mut LayerBuilder) {
    let Some(pool) = Pool::of(b.layer, b.plan) else { return };
    let mut words = Words::default();
    let [rows, columns] = pool.positions;
    words.size(rows.count);
    // Where windows are clipped, rows are counted from the start of the input.
    words.size(if pool.clip.is_some() { 0 } else { rows.step });
    words.size(columns.count);
    words.size(columns.step);
    words.size(pool.channels);
    for Steps { count, step } in pool.taps {
        words.size(count);
        words.size(step);
    }
    match pool.kind {
        Kind::Max => {
            (0..3).for_each(|_| words.size(0));
            for (clip, taps) in pool.clip.iter().flatten().zip(pool.taps) {
                words.word(-(clip.pad as i64));
                words.size(clip.size);
                words.size(clip.stride);
                words.size(taps.count);
            }
        }
        Kind::Mean { multiplier, input_zero, output_zero, clamp } => {
            words.word(output_zero);
            words.word(-(pool.count() as i64) * i64::from(input_zero));
            words.size(0);
            words.word(clamp.lo);
            words.word(clamp.hi);
            words.word(multiplier.mantissa());
        }
    }
    b.pass("constants", "Counts and steps of the loops; zero points, bounds, multiplier.", Elem::U32, words.finish());
    b.assemble(pool.assembly());
}
