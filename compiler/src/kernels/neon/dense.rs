//! Convolutions and products with weights that sum over input channels: each lane of an accumulator is an output channel.
//!
//! The innermost step takes four neighbouring elements of the input, the same for all lanes, and 16 weights: four of
//! each of four output channels. With the dot product that is one instruction. Without, products of pairs are summed in
//! 16 bits, which is exact because weights are at least -127, and then added to the accumulators.

use super::super::LayerBuilder;
use super::Unit;
use super::geometry::Geometry;
use super::requantize::{Requantize, can_add};
use super::rows::{Band, Buffers, Source, each_row};
use super::vector::{
    I8X8, I8X16, I16X8, I32X4, U8X16, i8x8, i8x16, i16x4, i16x8, i32x4, load_8, load_16, load_i32, u8x16,
};
use crate::plan::{Layer, Plan};
use crate::program::{Affine, Buffer, Elem, Expr, FunctionBuilder, Reg};

/// Output channels of an accumulator.
const LANES: usize = 4;

/// Whether the layer is such a sum, with weights whose products can be added in pairs.
pub fn accepts(layer: &Layer, plan: &Plan) -> bool {
    Geometry::of(layer, plan)
        .is_some_and(|geometry| geometry.weighted.weights.iter().all(|&w| w > i8::MIN) && can_add(layer))
}

/// Working memory for rows with padding, or for elements that loads would read behind the input.
pub fn scratch(layer: &Layer, plan: &Plan) -> usize {
    Geometry::of(layer, plan).map_or(0, |geometry| band(&geometry).map_or(0, |band| band.bytes(&geometry)))
}

/// Estimated instructions.
pub fn instructions(unit: Unit, layer: &Layer, plan: &Plan) -> u64 {
    let Some(geometry) = Geometry::of(layer, plan) else { return u64::MAX };
    let shape = Shape::of(unit, &geometry);
    let steps = geometry.results().div_ceil(LANES) * shape.taps_in_loops() * shape.steps();
    let copies = band(&geometry).map_or(0, |band| band.instructions(&geometry));
    let tenths = match unit {
        Unit::DotProduct => 15,
        Unit::AArch64 => 45,
        Unit::Armv7 => 60,
    };
    steps as u64 * tenths / 10 + 3 * geometry.results() as u64 + copies
}

/// Builds the loops.
pub fn build(b: &mut LayerBuilder, unit: Unit) {
    let Some(geometry) = Geometry::of(b.layer, b.plan) else { return };
    let buffers = Buffers { x: b.x(0), y: b.y(), scratch: b.scratch() };
    let dense = Dense::new(b, unit, &geometry, buffers.y);
    b.f.vectors(unit.declared());
    let selectors = dense.selectors(&mut b.f);
    each_row(&mut b.f, &geometry, band(&geometry), buffers, &mut |f, source, y_at| {
        dense.row(f, source, &y_at, &selectors);
    });
}

/// Rows are copied where windows reach outside of the input, where channels are no neighbours, and where the loads of
/// a window would reach behind it.
fn band(geometry: &Geometry) -> Option<Band> {
    let shape = Shape::of(Unit::Armv7, geometry);
    let direct = geometry.packed() && !geometry.pads && shape.run.is_multiple_of(8);
    (!direct).then(|| Band::of(geometry))
}

/// How the layer is cut.
struct Shape {
    /// Loops over the taps of a window, each with the axis that it walks: 0 rows, 1 columns.
    taps: Vec<(usize, usize)>,
    /// Neighbouring elements of the input at each tap.
    run: usize,
    /// Accumulators for each pixel.
    vectors: usize,
    /// Pixels of a block.
    pixels: usize,
}

impl Shape {
    fn of(unit: Unit, geometry: &Geometry) -> Shape {
        let [rows, columns] = geometry.kernel;
        // The taps of a row are neighbours, unless there is something between them.
        let joined = geometry.groups == 1 && (geometry.dilation[1] == 1 || columns == 1);
        let (taps, run) = match joined {
            true => (vec![(rows, 0)], columns * geometry.group_inputs()),
            false => (vec![(rows, 0), (columns, 1)], geometry.group_inputs()),
        };
        let wanted = geometry.group_outputs().div_ceil(LANES);
        let columns = geometry.output[1];
        let (vectors, pixels) = match unit {
            Unit::DotProduct if columns < 8 && wanted > 2 => (4, 4),
            Unit::DotProduct => (2, 8),
            Unit::AArch64 if wanted <= 2 => (2, 4),
            Unit::AArch64 => (4, 2),
            Unit::Armv7 if columns < 3 => (4, 1),
            Unit::Armv7 => (2, 3),
        };
        Shape { taps, run, vectors: vectors.min(wanted), pixels: pixels.min(columns) }
    }

    /// How often a run is multiplied for one result.
    fn taps_in_loops(&self) -> usize {
        self.taps.iter().map(|(count, _)| count).product()
    }

    /// Groups of four elements in a run.
    fn steps(&self) -> usize {
        self.run.div_ceil(4)
    }
}

struct Dense<'a> {
    geometry: &'a Geometry<'a>,
    unit: Unit,
    shape: Shape,
    weights: Buffer,
    biases: Buffer,
    requantize: Requantize,
    y: Buffer,
}

/// A block of output channels: the first, in the layer and as constants are counted, and how many.
#[derive(Clone)]
struct Channels {
    first: Affine,
    padded: Affine,
    weights: Affine,
    vectors: usize,
    count: usize,
}

impl<'a> Dense<'a> {
    fn new(b: &mut LayerBuilder, unit: Unit, geometry: &'a Geometry, y: Buffer) -> Dense<'a> {
        let shape = Shape::of(unit, geometry);
        let packed = packed_weights(geometry, &shape, unit);
        let doc = "Weights: for each block of output channels and each four inputs, four of each channel.";
        let weights = b.blob("weights", doc, Elem::I8, packed);
        // Lanes without a channel compute what nobody stores.
        let channels = || lanes(geometry).map(|channel| channel.filter(|&c| c < geometry.weighted.channels.len()));
        let bias = channels().map(|channel| channel.map_or(0, |c| geometry.bias(c))).collect();
        let biases =
            b.blob("bias", "Biases, less the input's zero point times the sum of the weights.", Elem::I32, bias);
        let scale = |channel: Option<usize>| {
            let multiplier = channel.map(|c| geometry.weighted.channels[c].multiplier);
            multiplier.map_or((0, 0), |multiplier| (multiplier.mantissa(), multiplier.left_shift()))
        };
        let scales: Vec<(i32, u32)> = channels().map(scale).collect();
        let requantize = Requantize::new(b, unit, &scales, (geometry.weighted.output_zero, geometry.weighted.clamp));
        Dense { geometry, unit, shape, weights, biases, requantize, y }
    }

    /// Registers that choose two neighbours out of 8 bytes, and repeat them: the first half of the result has one pair,
    /// the second half the next.
    fn selectors(&self, f: &mut FunctionBuilder) -> Vec<Expr> {
        if self.unit != Unit::AArch64 {
            return vec![];
        }
        let pairs = |pair: i64| i16x4("vdup_n_s16", vec![Expr::i32(0x0100 + 0x0202 * pair)]);
        f.comment("Which bytes of the input each lane multiplies.");
        (0..self.shape.steps().min(2) as i64)
            .map(|step| {
                let both = i16x8("vcombine_s16", vec![pairs(2 * step), pairs(2 * step + 1)]);
                f.bind("selector", U8X16, u8x16("vreinterpretq_u8_s16", vec![both]))
            })
            .collect()
    }

    /// One row of the result.
    fn row(&self, f: &mut FunctionBuilder, source: &Source, y_at: &Affine, selectors: &[Expr]) {
        let (inputs, outputs) = (self.geometry.group_inputs(), self.geometry.group_outputs());
        let padded = outputs.next_multiple_of(LANES);
        let step = self.shape.vectors * LANES;
        let bytes = self.bytes_of_vector();
        f.each("g", self.geometry.groups, |f, group| {
            let source = Source { at: source.at.clone() + group.clone() * inputs as i64, ..source.clone() };
            let block = |start: Affine, vectors: usize, count: usize| Channels {
                first: group.clone() * outputs as i64 + start.clone(),
                padded: group.clone() * padded as i64 + start.clone(),
                weights: (group.clone() * (padded / LANES) as i64) * bytes + start * (bytes / LANES as i64),
                vectors,
                count,
            };
            if outputs >= step {
                f.each("block", outputs / step, |f, at| {
                    let channels = block(at * step as i64, self.shape.vectors, step);
                    self.columns(f, &source, y_at, &channels, selectors);
                });
            }
            let rest = outputs % step;
            if rest > 0 {
                let channels = block(Affine::from((outputs - rest) as i64), rest.div_ceil(LANES), rest);
                self.columns(f, &source, y_at, &channels, selectors);
            }
        });
    }

    /// Bytes of weights for four output channels.
    fn bytes_of_vector(&self) -> i64 {
        (self.shape.taps_in_loops() * self.shape.steps() * 16) as i64
    }

    /// All columns of a row, for a block of output channels.
    fn columns(
        &self,
        f: &mut FunctionBuilder,
        source: &Source,
        y_at: &Affine,
        channels: &Channels,
        selectors: &[Expr],
    ) {
        let (columns, pixels) = (self.geometry.output[1], self.shape.pixels);
        let block = |f: &mut FunctionBuilder, first: Affine, pixels: usize| {
            let x_step = (self.geometry.stride[1] * source.column) as i64;
            let y_step = self.geometry.y[2] as i64;
            let source = Source { at: source.at.clone() + first.clone() * x_step, ..source.clone() };
            let y_at = y_at.clone() + first * y_step + channels.first.clone();
            self.block(f, &source, &y_at, channels, pixels, selectors);
        };
        f.each("ox", columns / pixels, |f, at| block(f, at * pixels as i64, pixels));
        if columns % pixels > 0 {
            block(f, Affine::from((columns - columns % pixels) as i64), columns % pixels);
        }
    }

    fn block(
        &self,
        f: &mut FunctionBuilder,
        source: &Source,
        y_at: &Affine,
        channels: &Channels,
        pixels: usize,
        selectors: &[Expr],
    ) {
        let bias =
            |f: &FunctionBuilder, j: usize| load_i32(f, self.biases, channels.padded.clone() + (LANES * j) as i64);
        let mut sums: Vec<Vec<Reg>> = vec![vec![]; pixels];
        for j in 0..channels.vectors {
            let first = f.mutable("sum", I32X4, bias(f, j));
            sums[0].push(first);
            for sums in &mut sums[1..] {
                sums.push(f.mutable("sum", I32X4, Expr::Reg(first)));
            }
        }
        let block = Block { dense: self, sums, vectors: channels.vectors, selectors };
        block.taps(f, source, channels.weights.clone(), 0);
        let scales = self.requantize.load(f, &channels.padded, channels.vectors);
        for (pixel, sums) in block.sums.iter().enumerate() {
            let sums: Vec<Expr> = sums.iter().map(|&sum| Expr::Reg(sum)).collect();
            let at = y_at.clone() + (pixel * self.geometry.y[2]) as i64;
            self.requantize.store(f, &sums, &scales, (self.y, &at), channels.count);
        }
    }
}

/// Some pixels and output channels, whose sums are in registers.
struct Block<'a> {
    dense: &'a Dense<'a>,
    /// For each pixel, a sum for each four channels.
    sums: Vec<Vec<Reg>>,
    vectors: usize,
    selectors: &'a [Expr],
}

impl Block<'_> {
    /// Loops over the taps, from loop `depth` on.
    fn taps(&self, f: &mut FunctionBuilder, source: &Source, weights: Affine, depth: usize) {
        let shape = &self.dense.shape;
        let Some(&(count, axis)) = shape.taps.get(depth) else { return self.run(f, source, weights) };
        let inner: usize = shape.taps[depth + 1..].iter().map(|(count, _)| count).product();
        let distance = if axis == 0 { source.row } else { source.column } * self.dense.geometry.dilation[axis];
        f.each(["ky", "kx"][axis], count, |f, tap| {
            let source = Source { at: source.at.clone() + tap.clone() * distance as i64, ..source.clone() };
            self.taps(f, &source, weights + tap * (inner * shape.steps() * 16 * self.vectors) as i64, depth + 1);
        });
    }

    /// The neighbouring elements of one tap.
    fn run(&self, f: &mut FunctionBuilder, source: &Source, weights: Affine) {
        let steps = self.dense.shape.steps();
        let wide = if self.dense.unit == Unit::DotProduct { 4 } else { 2 };
        let bytes = |steps: usize| (steps * 16 * self.vectors) as i64;
        if steps >= wide {
            f.each("k", steps / wide, |f, k| {
                let x_at = source.at.clone() + k.clone() * (4 * wide) as i64;
                self.steps(f, source, &x_at, weights.clone() + k * bytes(wide), wide);
            });
        }
        let mut done = steps / wide * wide;
        while done < steps {
            let count = (steps - done).min(2);
            let x_at = source.at.clone() + (4 * done) as i64;
            self.steps(f, source, &x_at, weights.clone() + bytes(done), count);
            done += count;
        }
    }

    /// `count` groups of four elements: 16 bytes of the input are loaded for four of them, 8 for fewer.
    fn steps(&self, f: &mut FunctionBuilder, source: &Source, x_at: &Affine, weights: Affine, count: usize) {
        let geometry = self.dense.geometry;
        let pixel = |f: &mut FunctionBuilder, pixel: usize| {
            let at = x_at.clone() + (pixel * geometry.stride[1] * source.column) as i64;
            match count {
                4 => {
                    let value = load_16(f, source.buffer, at);
                    f.bind("x", I8X16, value)
                }
                _ => {
                    let value = load_8(f, source.buffer, at);
                    f.bind("x", I8X8, value)
                }
            }
        };
        let x: Vec<Expr> = (0..self.sums.len()).map(|i| pixel(f, i)).collect();
        for step in 0..count {
            let weight = |f: &mut FunctionBuilder, j: usize| {
                let at = weights.clone() + (16 * (step * self.vectors + j)) as i64;
                let value = load_16(f, self.dense.weights, at);
                f.bind("w", I8X16, value)
            };
            let w: Vec<Expr> = (0..self.vectors).map(|j| weight(f, j)).collect();
            for (x, sums) in x.iter().zip(&self.sums) {
                self.products(f, sums, &w, x, (step, count));
            }
        }
    }

    /// Adds the products of one group of four elements to the sums of one pixel.
    fn products(&self, f: &mut FunctionBuilder, sums: &[Reg], w: &[Expr], x: &Expr, (step, count): (usize, usize)) {
        let lane = |lane: usize| Expr::i32(lane as i64);
        let repeated = |f: &mut FunctionBuilder, pair: usize| {
            let pairs = i16x4("vreinterpret_s16_s8", vec![x.clone()]);
            let both = i8x8("vreinterpret_s8_s16", vec![i16x4("vdup_lane_s16", vec![pairs, lane(pair)])]);
            f.bind("pair", I8X8, both)
        };
        let half = |half: &str, value: &Expr| i8x8(half, vec![value.clone()]);
        match self.dense.unit {
            Unit::DotProduct => {
                let intrinsic = if count == 4 { "vdotq_laneq_s32" } else { "vdotq_lane_s32" };
                for (&sum, w) in sums.iter().zip(w) {
                    f.set(sum, i32x4(intrinsic, vec![Expr::Reg(sum), w.clone(), x.clone(), lane(step)]));
                }
            }
            Unit::AArch64 => {
                let nothing = i8x8("vdup_n_s8", vec![Expr::i32(0)]);
                let table = i8x16("vcombine_s8", vec![x.clone(), nothing]);
                let value = i8x16("vqtbl1q_s8", vec![table, self.selectors[step].clone()]);
                let pairs = f.bind("pairs", I8X16, value);
                for (&sum, w) in sums.iter().zip(w) {
                    let low = i16x8("vmull_s8", vec![half("vget_low_s8", w), half("vget_low_s8", &pairs)]);
                    let products = i16x8("vmlal_high_s8", vec![low, w.clone(), pairs.clone()]);
                    self.add_pairs(f, sum, products);
                }
            }
            Unit::Armv7 => {
                let (first, second) = (repeated(f, 2 * step), repeated(f, 2 * step + 1));
                for (&sum, w) in sums.iter().zip(w) {
                    let low = i16x8("vmull_s8", vec![half("vget_low_s8", w), first.clone()]);
                    let products = i16x8("vmlal_s8", vec![low, half("vget_high_s8", w), second.clone()]);
                    self.add_pairs(f, sum, products);
                }
            }
        }
    }

    fn add_pairs(&self, f: &mut FunctionBuilder, sum: Reg, products: Expr) {
        let products = f.bind("products", I16X8, products);
        f.set(sum, i32x4("vpadalq_s16", vec![Expr::Reg(sum), products]));
    }
}

/// The output channel of each lane, group by group; `None` in the lanes that fill the last vector of a group.
fn lanes(geometry: &Geometry) -> impl Iterator<Item = Option<usize>> {
    let outputs = geometry.group_outputs();
    (0..geometry.groups).flat_map(move |group| {
        let lanes = 0..outputs.next_multiple_of(LANES);
        lanes.map(move |lane| (lane < outputs).then_some(group * outputs + lane))
    })
}

/// The weights as [`Block::steps`] reads them.
fn packed_weights(geometry: &Geometry, shape: &Shape, unit: Unit) -> Vec<i64> {
    let (inputs, outputs) = (geometry.group_inputs(), geometry.group_outputs());
    let taps = shape.taps_in_loops();
    let columns = geometry.taps() / taps;
    let weight = |group: usize, channel: usize, tap: usize, k: usize| match channel < outputs && k < shape.run {
        true => geometry.weight(group * outputs + channel, tap * columns + k / inputs, k % inputs),
        false => 0,
    };
    let mut packed = vec![];
    for group in 0..geometry.groups {
        for block in (0..outputs).step_by(shape.vectors * LANES) {
            let vectors = (outputs - block).div_ceil(LANES).min(shape.vectors);
            for (tap, step) in (0..taps).flat_map(|tap| (0..shape.steps()).map(move |step| (tap, step))) {
                for vector in 0..vectors {
                    packed.extend((0..16).map(|byte| {
                        let (lane, k) = place(byte, unit);
                        weight(group, block + vector * LANES + lane, tap, 4 * step + k)
                    }));
                }
            }
        }
    }
    packed
}

/// Output channel and input of a byte of weights.
fn place(byte: usize, unit: Unit) -> (usize, usize) {
    match unit {
        Unit::DotProduct => (byte / 4, byte % 4),
        // Pairs, those of the first two inputs before the others.
        Unit::AArch64 | Unit::Armv7 => (byte % 8 / 2, byte / 8 * 2 + byte % 2),
    }
}
