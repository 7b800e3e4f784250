//! Depthwise convolutions: each lane is a channel.
//!
//! Products of several taps are summed in 16 bits before they go to the accumulators: always two, since weights are at
//! least -127, and as many more as the sizes of the weights allow in every channel.

use std::collections::BTreeMap;

use super::super::LayerBuilder;
use super::Unit;
use super::geometry::Geometry;
use super::requantize::{Requantize, Scales};
use super::rows::{Band, Buffers, Source, each_row};
use super::vector::{
    I8X8, I8X16, I16X8, I32X4, NARROW, channel_blocks, i8x8, i16x4, i16x8, i32x4, load_8, load_16, load_i32,
};
use crate::plan::{Layer, Plan};
use crate::program::{Affine, Buffer, Elem, Expr, FunctionBuilder, Reg};

/// Taps that are written out; of larger windows each row.
const UNROLLED: usize = 32;

/// Taps whose weights stay in registers for a whole row of results.
const HELD: usize = 10;

/// The sum of products of that many units of weight fits 16 bits, whatever the input is.
const WEIGHT_OF_A_SUM: i64 = 255;

/// Whether the layer is a convolution with a filter for each channel, of weights whose products can be added in pairs.
pub fn accepts(layer: &Layer, plan: &Plan) -> bool {
    layer.added.is_none()
        && Geometry::of(layer, plan).is_some_and(|geometry| {
            geometry.group_inputs() == 1
                && geometry.group_outputs() == 1
                && geometry.weighted.weights.iter().all(|&w| w > i8::MIN)
        })
}

/// Working memory for rows with padding, or for elements that loads would read behind the input.
pub fn scratch(layer: &Layer, plan: &Plan) -> usize {
    Geometry::of(layer, plan).map_or(0, |geometry| band(&geometry).map_or(0, |band| band.bytes(&geometry)))
}

/// Estimated instructions.
pub fn instructions(unit: Unit, layer: &Layer, plan: &Plan) -> u64 {
    let Some(geometry) = Geometry::of(layer, plan) else { return u64::MAX };
    let copies = band(&geometry).map_or(0, |band| band.instructions(&geometry));
    let results = geometry.results() / geometry.channels * geometry.channels.next_multiple_of(NARROW);
    let tenths = if unit == Unit::Armv7 { 6 } else { 4 };
    (results * geometry.taps()) as u64 * tenths / 10 + 2 * results as u64 + copies
}

/// Builds the loops.
pub fn build(b: &mut LayerBuilder, unit: Unit) {
    let Some(geometry) = Geometry::of(b.layer, b.plan) else { return };
    let buffers = Buffers { x: b.x(0), y: b.y(), scratch: b.scratch() };
    let depthwise = Depthwise::new(b, unit, &geometry, buffers.y);
    b.f.vectors(unit.declared());
    each_row(&mut b.f, &geometry, band(&geometry), buffers, &mut |f, source, y_at| {
        depthwise.row(f, source, &y_at);
    });
}

fn band(geometry: &Geometry) -> Option<Band> {
    let direct = geometry.packed() && !geometry.pads && geometry.channels >= NARROW;
    (!direct).then(|| Band::of(geometry))
}

struct Depthwise<'a> {
    geometry: &'a Geometry<'a>,
    unit: Unit,
    /// Taps of one pass whose products are summed in 16 bits, as row and column of the window.
    sums: Vec<Vec<[usize; 2]>>,
    /// Passes over the rows of the window: 1 if all taps are written out.
    passes: usize,
    /// Channels that the constants have.
    channels: usize,
    weights: Buffer,
    biases: Buffer,
    requantize: Requantize,
    y: Buffer,
}

/// Neighbouring channels, with their constants in registers.
struct Channels {
    first: Affine,
    /// 8 or 16.
    width: usize,
    biases: Vec<Expr>,
    scales: Scales,
    /// For each tap of a pass, if the weights are held.
    weights: BTreeMap<[usize; 2], Expr>,
}

impl<'a> Depthwise<'a> {
    fn new(b: &mut LayerBuilder, unit: Unit, geometry: &'a Geometry, y: Buffer) -> Depthwise<'a> {
        let passes = if geometry.taps() <= UNROLLED { 1 } else { geometry.kernel[0] };
        let channels = geometry.channels.max(NARROW);
        // Lanes without a channel compute what nobody stores.
        let each = || (0..channels).map(|c| (c < geometry.channels).then_some(c));
        let of_tap = |tap: usize| each().map(move |c| c.map_or(0, |c| geometry.weight(c, tap, 0)));
        let weights = (0..geometry.taps()).flat_map(of_tap).collect();
        let weights = b.blob("weights", "Weights, one row for each tap, channels innermost.", Elem::I8, weights);
        let bias = each().map(|c| c.map_or(0, |c| geometry.bias(c))).collect();
        let biases =
            b.blob("bias", "Biases, less the input's zero point times the sum of the weights.", Elem::I32, bias);
        let scale = |c: Option<usize>| {
            let multiplier = c.map(|c| geometry.weighted.channels[c].multiplier);
            multiplier.map_or((0, 0), |multiplier| (multiplier.mantissa(), multiplier.left_shift()))
        };
        let scales: Vec<(i32, u32)> = each().map(scale).collect();
        let requantize = Requantize::new(b, unit, &scales, (geometry.weighted.output_zero, geometry.weighted.clamp));
        let sums = sums(geometry, passes);
        Depthwise { geometry, unit, sums, passes, channels, weights, biases, requantize, y }
    }

    /// One row of the result.
    fn row(&self, f: &mut FunctionBuilder, source: &Source, y_at: &Affine) {
        let wide = if self.unit == Unit::Armv7 { NARROW } else { 2 * NARROW };
        for (first, count, width) in channel_blocks(self.channels, wide) {
            f.each("block", count, |f, block| {
                let channels = self.channels(f, block * width as i64 + first as i64, width);
                self.columns(f, source, y_at, &channels);
            });
        }
    }

    /// Loads the constants of some channels.
    fn channels(&self, f: &mut FunctionBuilder, first: Affine, width: usize) -> Channels {
        let vectors = width / 4;
        let bias = |f: &mut FunctionBuilder, j: usize| {
            let value = load_i32(f, self.biases, first.clone() + 4 * j as i64);
            f.bind("bias", I32X4, value)
        };
        let biases = (0..vectors).map(|j| bias(f, j)).collect();
        let scales = self.requantize.load(f, &first, vectors);
        let mut weights = BTreeMap::new();
        if self.geometry.taps() <= HELD {
            for &tap in self.sums.iter().flatten() {
                weights.insert(tap, self.weight(f, tap, &Affine::default(), &first, width));
            }
        }
        Channels { first, width, biases, scales, weights }
    }

    /// The weights of a tap.
    fn weight(&self, f: &mut FunctionBuilder, tap: [usize; 2], pass: &Affine, first: &Affine, width: usize) -> Expr {
        let columns = self.geometry.kernel[1];
        let at = pass.clone() * (columns * self.channels) as i64 + first.clone();
        let at = at + ((tap[0] * columns + tap[1]) * self.channels) as i64;
        bytes(f, "w", self.weights, at, width)
    }

    /// All columns of a row.
    fn columns(&self, f: &mut FunctionBuilder, source: &Source, y_at: &Affine, channels: &Channels) {
        let columns = self.geometry.output[1];
        let pixels = if self.geometry.taps() <= HELD { columns.min(2) } else { 1 };
        let block = |f: &mut FunctionBuilder, first: Affine, pixels: usize| {
            let x_at = source.at.clone() + channels.first.clone();
            let x_at = x_at + first.clone() * (self.geometry.stride[1] * source.column) as i64;
            let source = Source { at: x_at, ..source.clone() };
            let y_at = y_at.clone() + first * self.geometry.y[2] as i64 + channels.first.clone();
            self.block(f, &source, &y_at, channels, pixels);
        };
        f.each("ox", columns / pixels, |f, at| block(f, at * pixels as i64, pixels));
        if !columns.is_multiple_of(pixels) {
            block(f, Affine::from((columns - columns % pixels) as i64), columns % pixels);
        }
    }

    /// Some neighbouring results of a row.
    fn block(&self, f: &mut FunctionBuilder, source: &Source, y_at: &Affine, channels: &Channels, pixels: usize) {
        let sum = |f: &mut FunctionBuilder, bias: &Expr| f.mutable("sum", I32X4, bias.clone());
        let sums: Vec<Vec<Reg>> =
            (0..pixels).map(|_| channels.biases.iter().map(|bias| sum(f, bias)).collect()).collect();
        f.each("ky", self.passes, |f, pass| {
            let at = source.at.clone() + pass.clone() * (self.geometry.dilation[0] * source.row) as i64;
            let source = Source { at, ..source.clone() };
            self.pass(f, &source, &pass, channels, &sums);
        });
        for (pixel, sums) in sums.iter().enumerate() {
            let sums: Vec<Expr> = sums.iter().map(|&sum| Expr::Reg(sum)).collect();
            let at = y_at.clone() + (pixel * self.geometry.y[2]) as i64;
            let count = channels.width.min(self.geometry.channels);
            self.requantize.store(f, &sums, &channels.scales, (self.y, &at), count);
        }
    }

    /// The taps of one pass. Pixels share what they both read.
    fn pass(&self, f: &mut FunctionBuilder, source: &Source, pass: &Affine, channels: &Channels, sums: &[Vec<Reg>]) {
        let Geometry { dilation, stride, .. } = self.geometry;
        let mut loaded: BTreeMap<usize, Expr> = BTreeMap::new();
        for taps in &self.sums {
            let weights: Vec<Expr> = taps
                .iter()
                .map(|&tap| match channels.weights.get(&tap) {
                    Some(weights) => weights.clone(),
                    None => self.weight(f, tap, pass, &channels.first, channels.width),
                })
                .collect();
            for (pixel, sums) in sums.iter().enumerate() {
                let mut element = |tap: &[usize; 2]| {
                    let row = tap[0] * dilation[0] * source.row;
                    let offset = row + (tap[1] * dilation[1] + pixel * stride[1]) * source.column;
                    let load = || bytes(f, "x", source.buffer, source.at.clone() + offset as i64, channels.width);
                    loaded.entry(offset).or_insert_with(load).clone()
                };
                let elements: Vec<Expr> = taps.iter().map(&mut element).collect();
                self.add(f, &elements, &weights, channels.width, sums);
            }
        }
    }

    /// Adds the sum of some products to the accumulators.
    fn add(&self, f: &mut FunctionBuilder, x: &[Expr], w: &[Expr], width: usize, sums: &[Reg]) {
        for part in 0..width / NARROW {
            let half = |value: &Expr| match width {
                NARROW => value.clone(),
                _ => i8x8("vget_low_s8", vec![value.clone()]),
            };
            let mut products: Option<Expr> = None;
            for (x, w) in x.iter().zip(w) {
                // Both halves of a vector of 16 bytes, or a vector of 8 bytes.
                let (suffix, factors) = match part {
                    0 => ("", vec![half(x), half(w)]),
                    _ => ("_high", vec![x.clone(), w.clone()]),
                };
                let product = match products.take() {
                    None => i16x8(&format!("vmull{suffix}_s8"), factors),
                    Some(sum) => i16x8(&format!("vmlal{suffix}_s8"), [vec![sum], factors].concat()),
                };
                products = Some(f.bind("products", I16X8, product));
            }
            let Some(products) = products else { continue };
            let [low, high] = [sums[2 * part], sums[2 * part + 1]];
            let lower = i16x4("vget_low_s16", vec![products.clone()]);
            f.set(low, i32x4("vaddw_s16", vec![Expr::Reg(low), lower]));
            f.set(
                high,
                match self.unit {
                    Unit::Armv7 => i32x4("vaddw_s16", vec![Expr::Reg(high), i16x4("vget_high_s16", vec![products])]),
                    _ => i32x4("vaddw_high_s16", vec![Expr::Reg(high), products]),
                },
            );
        }
    }
}

fn bytes(f: &mut FunctionBuilder, name: &str, buffer: Buffer, at: Affine, width: usize) -> Expr {
    let (ty, value) = match width {
        NARROW => (I8X8, load_8(f, buffer, at)),
        _ => (I8X16, load_16(f, buffer, at)),
    };
    f.bind(name, ty, value)
}

/// Cuts the taps of a pass into sums that fit 16 bits in every channel and every pass.
fn sums(geometry: &Geometry, passes: usize) -> Vec<Vec<[usize; 2]>> {
    let [rows, columns] = geometry.kernel;
    let mut sums: Vec<Vec<[usize; 2]>> = vec![];
    let size = |taps: &[[usize; 2]]| {
        let of = |channel: usize, pass: usize| -> i64 {
            let weight = |tap: &[usize; 2]| geometry.weight(channel, (pass + tap[0]) * columns + tap[1], 0).abs();
            taps.iter().map(weight).sum()
        };
        (0..geometry.channels).flat_map(|channel| (0..passes).map(move |pass| of(channel, pass))).max()
    };
    for tap in (0..rows / passes).flat_map(|row| (0..columns).map(move |column| [row, column])) {
        let longer = sums.last().map(|taps| [&taps[..], &[tap]].concat());
        match (longer.filter(|taps| size(taps).is_some_and(|size| size <= WEIGHT_OF_A_SUM)), sums.last_mut()) {
            (Some(longer), Some(last)) => *last = longer,
            _ => sums.push(vec![tap]),
        }
    }
    sums
}
