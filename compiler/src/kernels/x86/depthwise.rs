//! Depthwise convolutions: each channel has a window of its own.
//!
//! Four taps of a channel that follow each other along one axis are brought into a lane of 32 bits: interleaving four
//! rows of channels makes such lanes for a whole column, and every window that contains the column uses them.
//!
//! Interleaving works within 128 bits: part `p` of a vector has, in lane `t` of its piece `i` of 128 bits, channel
//! `16 i + 4 p + t`. Packing four parts to bytes puts the channels back in order.

use std::collections::BTreeMap;

use super::conv::store_part;
use super::geometry::{Axis, Geometry};
use super::isa::{Isa, immediate, load, op, splat};
use super::requantize::{self, Requantize};
use super::stage::Stage;
use crate::kernels::LayerBuilder;
use crate::plan::{Layer, Plan};
use crate::program::{Affine, Buffer, Elem, Expr, FunctionBuilder, Reg};

/// Taps of a lane.
const TAPS: usize = 4;

/// Parts of a vector of interleaved channels.
const PARTS: usize = 4;

/// Channels of the shortest vector.
const SHORTEST: usize = 16;

/// Whether a layer can be computed like this.
pub fn accepts(layer: &Layer, plan: &Plan) -> bool {
    let Some(g) = Geometry::of(layer, plan) else { return false };
    let channels = g.weighted.channels.iter().map(|channel| (channel.multiplier, channel.bound));
    g.is_depthwise() && g.order.is_none() && layer.added.is_none() && requantize::accepts(channels)
}

/// Estimate.
pub fn instructions(layer: &Layer, plan: &Plan, isa: &Isa) -> u64 {
    let Some(g) = Geometry::of(layer, plan) else { return u64::MAX };
    let vectors = (g.batch.0 * g.rows.output * g.columns.output * g.groups.div_ceil(isa.bytes())) as u64;
    let (taps, columns) = Shape::axes(&g);
    let steps = (taps.kernel.div_ceil(TAPS) * columns.kernel) as u64;
    vectors * (steps * if isa.vnni { 10 } else { 30 } + 40)
}

/// Working memory.
pub fn scratch(layer: &Layer, plan: &Plan, _: &Isa) -> usize {
    Geometry::of(layer, plan).map_or(0, |g| stage(&g).bytes())
}

fn stage(g: &Geometry) -> Stage {
    Stage::interleaved(g, SHORTEST, 1)
}

/// Builds the function.
pub fn build(b: &mut LayerBuilder, isa: &'static Isa) {
    let (layer, plan) = (b.layer, b.plan);
    let (Some(g), Some(scratch)) = (Geometry::of(layer, plan), b.scratch()) else { return };
    let shapes = Shape::all(isa, &g);
    let kernel = Kernel::new(b, isa, &g, &shapes, scratch);
    let x = b.x(0);
    b.f.vectors(&isa.unit);
    b.f.each("n", g.batch.0, |f, n| {
        kernel.stage.fill(f, isa, &g, (x, n.clone() * g.batch.1 as i64), scratch);
        for shape in &shapes {
            kernel.channels(f, shape, &(n.clone() * g.batch.2 as i64));
        }
    });
}

/// Vectors of one width, and the channels they take.
#[derive(Debug, Clone)]
struct Shape {
    /// The first channel.
    first: usize,
    /// Number of vectors.
    count: usize,
    /// Channels of a vector.
    width: usize,
    /// Neighbouring columns of the result in a vector; more than one where the channels are few.
    columns: usize,
}

impl Shape {
    /// The axis along which taps share a lane, and the other.
    fn axes(g: &Geometry) -> (Axis, Axis) {
        if g.rows.kernel >= g.columns.kernel { (g.rows, g.columns) } else { (g.columns, g.rows) }
    }

    /// The vectors of a layer, wide ones first.
    fn all(isa: &Isa, g: &Geometry) -> Vec<Shape> {
        let channels = g.groups;
        let (_, columns) = Shape::axes(g);
        // Few channels that fill a vector together with those of the columns beside them.
        let joined = isa.bytes() / channels;
        let dense = columns.y == channels && columns.stride == 1 && channels.is_multiple_of(SHORTEST);
        if dense && joined > 1 && isa.bytes().is_multiple_of(channels) && columns.output.is_multiple_of(joined) {
            return vec![Shape { first: 0, count: 1, width: isa.bytes(), columns: joined }];
        }
        let mut shapes = vec![];
        let mut first = 0;
        for width in [64, 32, 16] {
            let left = channels.next_multiple_of(SHORTEST) - first;
            if width <= isa.bytes() && left >= width {
                let count = left / width;
                shapes.push(Shape { first, count, width, columns: 1 });
                first += count * width;
            }
        }
        shapes
    }

    /// Channels of the vectors' lanes, in the order of parts; `None` is a lane without a channel.
    fn lanes(&self, g: &Geometry) -> Vec<Option<usize>> {
        let pieces = self.width / SHORTEST;
        let lane = |vector: usize, part: usize, lane: usize| {
            let at = SHORTEST * (lane / 4) + 4 * part + lane % 4;
            let channel = match self.columns {
                1 => self.first + vector * self.width + at,
                _ => at % g.groups,
            };
            (channel < g.groups).then_some(channel)
        };
        let vector = |v: usize| (0..PARTS).flat_map(move |part| (0..4 * pieces).map(move |l| lane(v, part, l)));
        (0..self.count).flat_map(vector).collect()
    }

    fn bits(&self) -> usize {
        8 * self.width
    }
}

/// What the loops refer to.
struct Kernel<'a> {
    isa: &'static Isa,
    g: &'a Geometry<'a>,
    stage: Stage,
    /// The axis along which taps share a lane, with the distance of its neighbours in the stage.
    taps: (Axis, usize),
    /// The other axis.
    columns: (Axis, usize),
    y: Buffer,
    scratch: Buffer,
    weights: Buffer,
    bias: Buffer,
    requantize: Requantize,
}

impl<'a> Kernel<'a> {
    fn new(b: &mut LayerBuilder, isa: &'static Isa, g: &'a Geometry, shapes: &[Shape], scratch: Buffer) -> Kernel<'a> {
        let stage = stage(g);
        let by_rows = g.rows.kernel >= g.columns.kernel;
        let (rows, columns) = ((g.rows, stage.row), (g.columns, stage.column));
        let (taps, columns) = if by_rows { (rows, columns) } else { (columns, rows) };
        let lanes: Vec<Option<usize>> = shapes.iter().flat_map(|shape| shape.lanes(g)).collect();
        let weight = |channel: Option<usize>, tap: usize, column: usize| match channel {
            Some(channel) if tap < taps.0.kernel => {
                let (row, column) = if by_rows { (tap, column) } else { (column, tap) };
                g.weight(channel, 0, row, column)
            }
            _ => 0,
        };
        let steps = taps.0.kernel.div_ceil(TAPS);
        let mut packed = vec![];
        for shape in shapes {
            for vector in shape.lanes(g).chunks(shape.width) {
                for column in 0..columns.0.kernel {
                    for step in 0..steps {
                        for part in vector.chunks(shape.width / PARTS) {
                            packed.extend(lane_weights(isa, part, |channel, tap| {
                                weight(channel, TAPS * step + tap, column)
                            }));
                        }
                    }
                }
            }
        }
        let (doc, elem) = match isa.vnni {
            true => ("Weights: channels as the kernel interleaves them, in each four taps.", Elem::I8),
            false => (
                "Weights: channels as the kernel interleaves them, in each two of four taps, then the others.",
                Elem::I16,
            ),
        };
        let weights = b.blob("weights", doc, elem, packed);
        let biases = lanes.iter().map(|lane| lane.map_or(0, |channel| g.bias(channel))).collect();
        let bias = b.blob("bias", "Biases, for inputs that are larger by 128.", Elem::I32, biases);
        let multipliers: Vec<_> =
            lanes.iter().map(|lane| lane.map(|channel| g.weighted.channels[channel].multiplier)).collect();
        let requantize = Requantize::new(b, &multipliers, g.weighted.output_zero, g.weighted.clamp);
        Kernel { isa, g, stage, taps, columns, y: b.y(), scratch, weights, bias, requantize }
    }

    /// Loops over the vectors of a shape and the positions of the result.
    fn channels(&self, f: &mut FunctionBuilder, shape: &Shape, y: &Affine) {
        let whole = self.g.groups.min(shape.first + shape.count * shape.width) - shape.first;
        let full = if shape.columns > 1 { 1 } else { whole / shape.width };
        f.each("c", full, |f, c| self.positions(f, shape, &c, y, shape.width));
        if full < shape.count {
            self.positions(f, shape, &Affine::from(full as i64), y, whole % shape.width);
        }
    }

    /// Loops over the positions of the result for a vector of channels, of which `live` exist.
    fn positions(&self, f: &mut FunctionBuilder, shape: &Shape, vector: &Affine, y: &Affine, live: usize) {
        let ((taps, taps_step), (columns, columns_step)) = (self.taps, self.columns);
        let channel = vector.clone() * shape.width as i64 + shape.first as i64;
        let count = columns.output / shape.columns;
        let most = if self.isa.vnni { 4 } else { 2 };
        let pixels = (1..=most.min(count)).rev().find(|&pixels| count.is_multiple_of(pixels) && pixels > 1);
        let pixels = pixels.unwrap_or(most.min(count));
        f.each("o", taps.output, |f, o| {
            let at = |column: Affine| {
                let stage = o.clone() * (taps.stride * taps_step) as i64
                    + column.clone() * (columns.stride * columns_step) as i64
                    + channel.clone();
                (stage, y.clone() + o.clone() * taps.y as i64 + column * columns.y as i64 + channel.clone())
            };
            let width = pixels * shape.columns;
            f.each("p", count / pixels, |f, p| {
                self.tile(f, shape, at(p * width as i64), &channel, pixels, live);
            });
            let rest = count % pixels;
            if rest > 0 {
                let first = Affine::from(((count - rest) * shape.columns) as i64);
                self.tile(f, shape, at(first), &channel, rest, live);
            }
        });
    }

    /// Some neighbouring vectors of the result.
    fn tile(
        &self,
        f: &mut FunctionBuilder,
        shape: &Shape,
        (stage, y): (Affine, Affine),
        channel: &Affine,
        pixels: usize,
        live: usize,
    ) {
        let (isa, bits, part_bytes) = (self.isa, shape.bits(), shape.width / PARTS);
        let (columns, step) = self.columns;
        let part_of = |part: usize| channel.clone() + (part * part_bytes) as i64;
        let mut accs: Vec<Vec<Reg>> = vec![vec![]; pixels];
        for part in 0..PARTS {
            let bias = load(f, self.bias, part_of(part), shape.width, 4);
            let bias = isa.bind(f, &format!("bias{part}"), bits, bias);
            for (pixel, accs) in accs.iter_mut().enumerate() {
                accs.push(isa.mutable(f, &format!("acc{pixel}_{part}"), bits, bias.clone()));
            }
        }
        // Distance in the stage of each column that some window of the tile contains, and by which taps of which pixel.
        let pixel_step = shape.columns * columns.stride * step;
        let mut uses: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
        for pixel in 0..pixels {
            for tap in 0..columns.kernel {
                uses.entry(pixel * pixel_step + tap * columns.dilation * step).or_default().push((pixel, tap));
            }
        }
        for group in 0..self.taps.0.kernel.div_ceil(TAPS) {
            for (distance, users) in &uses {
                let quads = self.interleaved(f, shape, stage.clone() + *distance as i64, group);
                for (part, quad) in quads.into_iter().enumerate() {
                    self.multiply(f, shape, quad, &accs, users, (channel, group, part));
                }
            }
        }
        let lanes: Vec<_> = (0..PARTS).map(|part| self.requantize.lanes(f, isa, bits, &part_of(part))).collect();
        for (pixel, accs) in accs.iter().enumerate() {
            let q: Vec<Expr> =
                lanes.iter().zip(accs).map(|(lanes, acc)| lanes.apply(f, isa, Expr::Reg(*acc))).collect();
            let words = |f: &mut FunctionBuilder, name: &str, a: &Expr, b: &Expr| {
                isa.bind(f, name, bits, op(bits, "packs_epi32", vec![a.clone(), b.clone()]))
            };
            let (low, high) = (words(f, "low", &q[0], &q[1]), words(f, "high", &q[2], &q[3]));
            let bytes = isa.bind(f, "bytes", bits, op(bits, "packs_epi16", vec![low, high]));
            let bytes = self.requantize.clamped(bits, bytes);
            let y = y.clone() + (pixel * shape.columns * columns.y) as i64;
            store_part(f, isa, (self.y, y), (self.scratch, self.stage.spill()), bytes, (live, shape.width));
        }
    }

    /// Four taps of each channel of a column: rows of channels, interleaved.
    fn interleaved(&self, f: &mut FunctionBuilder, shape: &Shape, stage: Affine, group: usize) -> Vec<Expr> {
        let (isa, bits, (taps, step)) = (self.isa, shape.bits(), self.taps);
        let mut rows: Vec<Expr> = vec![];
        for tap in 0..TAPS {
            let at = TAPS * group + tap;
            if at >= taps.kernel {
                // Its weights are 0.
                rows.push(rows[0].clone());
                continue;
            }
            let row = load(f, self.scratch, stage.clone() + (at * taps.dilation * step) as i64, shape.width, 1);
            rows.push(isa.bind(f, &format!("row{tap}"), bits, row));
        }
        let mut unpack = |name: &str, half: &str, lane: usize, a: &Expr, b: &Expr| {
            isa.bind(f, name, bits, op(bits, &format!("unpack{half}_epi{lane}"), vec![a.clone(), b.clone()]))
        };
        let low = [unpack("low01", "lo", 8, &rows[0], &rows[1]), unpack("low23", "lo", 8, &rows[2], &rows[3])];
        let high = [unpack("high01", "hi", 8, &rows[0], &rows[1]), unpack("high23", "hi", 8, &rows[2], &rows[3])];
        let parts = [(&low, "lo"), (&low, "hi"), (&high, "lo"), (&high, "hi")];
        let quad = |(part, (pair, half)): (usize, (&[Expr; 2], &str))| {
            unpack(&format!("quad{part}"), half, 16, &pair[0], &pair[1])
        };
        parts.into_iter().enumerate().map(quad).collect()
    }

    /// Adds the products of a part of a column to the windows that contain it.
    fn multiply(
        &self,
        f: &mut FunctionBuilder,
        shape: &Shape,
        quad: Expr,
        accs: &[Vec<Reg>],
        users: &[(usize, usize)],
        (channel, group, part): (&Affine, usize, usize),
    ) {
        let (isa, bits) = (self.isa, shape.bits());
        let steps = self.taps.0.kernel.div_ceil(TAPS);
        let per_channel = steps * self.columns.0.kernel * TAPS;
        let at = |tap: usize| {
            channel.clone() * per_channel as i64 + (((tap * steps + group) * PARTS + part) * shape.width) as i64
        };
        if isa.vnni {
            for &(pixel, tap) in users {
                let acc = accs[pixel][part];
                let w = load(f, self.weights, at(tap), shape.width, 1);
                f.set(acc, op(bits, "dpbusd_epi32", vec![Expr::Reg(acc), quad.clone(), w]));
            }
            return;
        }
        let even = op(bits, &format!("and_si{bits}"), vec![quad.clone(), splat(bits, 16, 255)]);
        let odd = op(bits, "srli_epi16", vec![quad, immediate(8)]);
        for (half, (name, value)) in [("even", even), ("odd", odd)].into_iter().enumerate() {
            let x = isa.bind(f, name, bits, value);
            for &(pixel, tap) in users {
                let acc = accs[pixel][part];
                let w = load(f, self.weights, at(tap) + (half * shape.width / 2) as i64, shape.width, 2);
                let products = op(bits, "madd_epi16", vec![x.clone(), w]);
                f.set(acc, op(bits, "add_epi32", vec![Expr::Reg(acc), products]));
            }
        }
    }
}

/// The weights of a part of a vector: four taps of each lane, or the even ones of all lanes before the odd ones.
fn lane_weights(isa: &Isa, part: &[Option<usize>], weight: impl Fn(Option<usize>, usize) -> i64) -> Vec<i64> {
    let taps = |order: &'static [usize]| {
        let weight = &weight;
        part.iter().flat_map(move |&channel| order.iter().map(move |&tap| weight(channel, tap)))
    };
    match isa.vnni {
        true => taps(&[0, 1, 2, 3]).collect(),
        false => taps(&[0, 2]).chain(taps(&[1, 3])).collect(),
    }
}
