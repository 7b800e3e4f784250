//! Convolutions and matrix products: patches of the input times rows of weights, a tile of pixels and channels at a time.
//!
//! The input is copied into working memory first ([`super::stage`]), so that the taps of a window are runs of unsigned
//! elements, without borders. A step takes four neighbours of a run, for every pixel of the tile, and multiplies them
//! with the weights of many channels.

use super::geometry::Geometry;
use super::isa::{Isa, immediate, load, op, store, vector};
use super::requantize::{self, Lanes, Requantize, bytes_of_lanes};
use super::stage::Stage;
use crate::kernels::LayerBuilder;
use crate::plan::{Layer, Plan};
use crate::program::{Affine, Buffer, Elem, Expr, FunctionBuilder, Reg, Type};

/// Channels of a block of packed weights, whatever the width of vectors: all levels read the same constants.
const BLOCK: usize = 16;

/// Neighbours of a run that are multiplied in a step.
const STEP: usize = 4;

/// Whether a layer can be computed like this.
pub fn accepts(layer: &Layer, plan: &Plan) -> bool {
    let Some(g) = Geometry::of(layer, plan) else { return false };
    let channels = g.weighted.channels.iter().map(|channel| (channel.multiplier, channel.bound));
    layer.added.is_none() && requantize::accepts(channels)
}

/// Estimate.
pub fn instructions(layer: &Layer, plan: &Plan, isa: &Isa) -> u64 {
    let Some(g) = Geometry::of(layer, plan) else { return u64::MAX };
    let plane = (g.batch.0 * g.rows.output * g.columns.output) as u64;
    let blocks = (g.groups * g.outputs.div_ceil(isa.lanes())) as u64;
    let steps = Patch::of(&g, isa).steps() as u64;
    let dots = if isa.vnni { 1 } else { 5 };
    plane * blocks * (steps * dots + 12) + plane * (g.groups * g.outputs) as u64 / 8
}

/// Working memory.
pub fn scratch(layer: &Layer, plan: &Plan, isa: &Isa) -> usize {
    Geometry::of(layer, plan).map_or(0, |g| Patch::of(&g, isa).stage.bytes())
}

/// Builds the function.
pub fn build(b: &mut LayerBuilder, isa: &'static Isa) {
    let (layer, plan) = (b.layer, b.plan);
    let (Some(g), Some(scratch)) = (Geometry::of(layer, plan), b.scratch()) else { return };
    let patch = Patch::of(&g, isa);
    let kernel = Kernel::new(b, isa, &g, &patch, scratch);
    let x = b.x(0);
    b.f.vectors(&isa.unit);
    b.f.each("n", g.batch.0, |f, n| {
        patch.stage.fill(f, isa, &g, (x, n.clone() * g.batch.1 as i64), scratch);
        f.each("g", g.groups, |f, group| kernel.channels(f, group.clone(), n * g.batch.2 as i64));
    });
}

/// The elements under a window: runs of neighbours.
struct Patch {
    stage: Stage,
    /// Loops around a run: name, number of iterations, distance in the stage.
    loops: [(&'static str, usize, usize); 2],
    /// Elements of a run.
    run: usize,
    /// Whether the loops are over channels and rows, not over rows and columns.
    planes: bool,
}

impl Patch {
    fn of(g: &Geometry, isa: &Isa) -> Patch {
        let size = if isa.vnni { 1 } else { 2 };
        let (rows, columns) = (g.rows, g.columns);
        let dense_columns = columns.dilation == 1;
        let planes = Stage::planes(g, size);
        let in_planes = Patch {
            loops: [("c", g.inputs, planes.channel), ("ky", rows.kernel, rows.dilation * planes.row)],
            run: columns.kernel,
            stage: planes,
            planes: true,
        };
        let stage = Stage::interleaved(g, 1, size);
        let row_loop = ("ky", rows.kernel, rows.dilation * stage.row);
        let interleaved = if dense_columns && g.groups == 1 {
            Patch { loops: [row_loop, ("kx", 1, 0)], run: columns.kernel * g.inputs, stage, planes: false }
        } else {
            let column_loop = ("kx", columns.kernel, columns.dilation * stage.column);
            Patch { loops: [row_loop, column_loop], run: g.inputs, stage, planes: false }
        };
        // Planes as they are, where the input has them and its few channels make short runs anyway.
        let has_planes = g.channel != 1 && columns.x == 1 && g.groups == 1 && dense_columns;
        if has_planes && in_planes.steps() <= interleaved.steps() + interleaved.steps() / 2 {
            in_planes
        } else {
            interleaved
        }
    }

    fn steps_of_run(&self) -> usize {
        self.run.div_ceil(STEP)
    }

    fn steps(&self) -> usize {
        self.loops[0].1 * self.loops[1].1 * self.steps_of_run()
    }

    /// The weight of an element of a run; 0 behind its end.
    fn weight(&self, g: &Geometry, output: usize, (outer, inner): (usize, usize), element: usize) -> i64 {
        if element >= self.run {
            return 0;
        }
        match (self.planes, self.run == g.inputs) {
            (true, _) => g.weight(output, outer, inner, element),
            (false, true) => g.weight(output, element, outer, inner),
            (false, false) => g.weight(output, element % g.inputs, outer, element / g.inputs),
        }
    }

    /// Weights of all groups: blocks of channels, in each the steps of the window, in each the channels.
    fn packed(&self, g: &Geometry) -> Vec<i64> {
        let mut packed = vec![];
        for block in blocks(g) {
            for outer in 0..self.loops[0].1 {
                for inner in 0..self.loops[1].1 {
                    for step in 0..self.steps_of_run() {
                        packed.extend(block.iter().flat_map(|channel| {
                            (0..STEP).map(move |i| {
                                channel.map_or(0, |output| self.weight(g, output, (outer, inner), step * STEP + i))
                            })
                        }));
                    }
                }
            }
        }
        packed
    }
}

/// The output channels in blocks, group by group; `None` fills up the last block of a group.
fn blocks(g: &Geometry) -> Vec<Vec<Option<usize>>> {
    let block = |group: usize, block: usize| -> Vec<Option<usize>> {
        let channel = |lane: usize| block * BLOCK + lane;
        (0..BLOCK).map(|lane| (channel(lane) < g.outputs).then(|| group * g.outputs + channel(lane))).collect()
    };
    (0..g.groups).flat_map(|group| (0..g.outputs.div_ceil(BLOCK)).map(move |index| block(group, index))).collect()
}

/// Pixels and vectors of channels of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    pixels: usize,
    blocks: usize,
}

impl Tile {
    /// The tile that takes fewest cycles, for a number of pixels and channels.
    fn best(isa: &Isa, pixels: usize, channels: usize) -> Tile {
        let blocks = channels.div_ceil(isa.lanes());
        let (most, most_blocks) = if isa.vnni { (24, 8) } else { (6, 1) };
        let tiles = (1..=most_blocks.min(blocks))
            .flat_map(|blocks| (1..=(most / blocks).min(pixels).min(16)).map(move |pixels| Tile { pixels, blocks }));
        let cost = |tile: &Tile| {
            let split = |total: usize, part: usize| {
                [(total / part, part), (usize::from(!total.is_multiple_of(part)), total % part)]
            };
            let mut cost = 0;
            let mut variants = 0;
            for (n_blocks, blocks) in split(blocks, tile.blocks) {
                for (n_pixels, pixels) in split(pixels, tile.pixels) {
                    // In tenths of a cycle: products, or loads, or the latency of a product.
                    let step = (10 * pixels * blocks).max(6 * (pixels + blocks)).max(50) + 10;
                    cost += n_blocks * n_pixels * step;
                    variants += usize::from(n_blocks * n_pixels > 0);
                }
            }
            (cost + cost * (variants.max(1) - 1) / 50, tile.pixels * tile.blocks)
        };
        tiles.min_by_key(cost).unwrap_or(Tile { pixels: 1, blocks: 1 })
    }
}

/// What the loops refer to.
struct Kernel<'a> {
    isa: &'static Isa,
    g: &'a Geometry<'a>,
    patch: &'a Patch,
    tile: Tile,
    y: Buffer,
    scratch: Buffer,
    weights: Buffer,
    bias: Buffer,
    requantize: Requantize,
}

/// Where a tile is.
#[derive(Clone)]
struct Place {
    /// The first pixel's patch, in elements of the stage.
    stage: Affine,
    /// The first pixel's first channel in the result.
    y: Affine,
    /// The block of weights, in bytes.
    weights: Affine,
    /// The first channel, counted through the blocks.
    channel: Affine,
}

impl<'a> Kernel<'a> {
    fn new(b: &mut LayerBuilder, isa: &'static Isa, g: &'a Geometry, patch: &'a Patch, scratch: Buffer) -> Kernel<'a> {
        let doc =
            format!("Weights: blocks of {BLOCK} output channels, in each {STEP} neighbours of a channel together.");
        let weights = b.blob("weights", doc, Elem::I8, patch.packed(g));
        let lanes: Vec<Option<usize>> = blocks(g).concat();
        let biases = lanes.iter().map(|lane| lane.map_or(0, |output| g.bias(output))).collect();
        let bias = b.blob("bias", "Biases, for inputs that are larger by 128.", Elem::I32, biases);
        let multipliers: Vec<_> =
            lanes.iter().map(|lane| lane.map(|output| g.weighted.channels[output].multiplier)).collect();
        let requantize = Requantize::new(b, &multipliers, g.weighted.output_zero, g.weighted.clamp);
        let tile = Tile::best(isa, g.columns.output, g.outputs);
        Kernel { isa, g, patch, tile, y: b.y(), scratch, weights, bias, requantize }
    }

    /// Loops over the channels of a group.
    fn channels(&self, f: &mut FunctionBuilder, group: Affine, y: Affine) {
        let (outputs, lanes) = (self.g.outputs, self.isa.lanes());
        let per_group = outputs.div_ceil(BLOCK);
        let place = |channel: Affine, part: Affine| Place {
            stage: group.clone() * self.g.inputs as i64,
            y: y.clone() + group.clone() * outputs as i64 + channel.clone() + part.clone(),
            weights: group.clone() * (per_group * self.block_bytes()) as i64
                + channel.clone() * (self.block_bytes() / BLOCK) as i64
                + part.clone() * STEP as i64,
            channel: group.clone() * (per_group * BLOCK) as i64 + channel + part,
        };
        // A stretch of the channels that a tile takes: whole blocks, or parts of one.
        let whole = if lanes == BLOCK { self.tile.blocks * BLOCK } else { BLOCK };
        let parts = |f: &mut FunctionBuilder, channel: Affine, count: usize| match lanes == BLOCK {
            true => self.rows(f, place(channel, 0.into()), count),
            false => {
                f.each("part", count / lanes, |f, part| {
                    self.rows(f, place(channel.clone(), part * lanes as i64), lanes)
                });
                if !count.is_multiple_of(lanes) {
                    let part = Affine::from((count - count % lanes) as i64);
                    self.rows(f, place(channel, part), count % lanes);
                }
            }
        };
        f.each("c", outputs / whole, |f, c| parts(f, c * whole as i64, whole));
        if !outputs.is_multiple_of(whole) {
            parts(f, Affine::from((outputs - outputs % whole) as i64), outputs % whole);
        }
    }

    /// Bytes of the weights of a block.
    fn block_bytes(&self) -> usize {
        self.patch.steps() * BLOCK * STEP
    }

    /// Loops over the pixels.
    fn rows(&self, f: &mut FunctionBuilder, at: Place, channels: usize) {
        let (rows, columns, stage) = (self.g.rows, self.g.columns, &self.patch.stage);
        f.each("oy", rows.output, |f, oy| {
            let step = |at: &Place, row: Affine, column: Affine| Place {
                stage: at.stage.clone()
                    + row.clone() * (rows.stride * stage.row) as i64
                    + column.clone() * (columns.stride * stage.column) as i64,
                y: at.y.clone() + row * rows.y as i64 + column * columns.y as i64,
                ..at.clone()
            };
            let pixels = self.tile.pixels;
            f.each("ox", columns.output / pixels, |f, ox| {
                self.tile(f, &step(&at, oy.clone(), ox * pixels as i64), pixels, channels);
            });
            let rest = columns.output % pixels;
            if rest > 0 {
                let first = Affine::from((columns.output - rest) as i64);
                self.tile(f, &step(&at, oy, first), rest, channels);
            }
        });
    }

    /// A tile: sums of products, then results.
    fn tile(&self, f: &mut FunctionBuilder, at: &Place, pixels: usize, channels: usize) {
        let (isa, bits) = (self.isa, self.isa.bits);
        let blocks = channels.div_ceil(isa.lanes());
        // Without VNNI a lane of 32 bits sums two products only: a channel has two.
        let vectors = if isa.vnni { 1 } else { 2 };
        let lane = |block: usize| (block * isa.lanes()) as i64;
        let mut accs: Vec<Vec<Vec<Reg>>> = vec![vec![vec![]; blocks]; pixels];
        for block in 0..blocks {
            let init = match isa.vnni {
                true => {
                    let bias = load(f, self.bias, at.channel.clone() + lane(block), bits / 8, 4);
                    isa.bind(f, &format!("bias{block}"), bits, bias)
                }
                false => op(bits, &format!("setzero_si{bits}"), vec![]),
            };
            for (pixel, accs) in accs.iter_mut().enumerate() {
                for v in 0..vectors {
                    let name = if isa.vnni { format!("acc{pixel}_{block}") } else { format!("acc{pixel}_{v}") };
                    accs[block].push(isa.mutable(f, &name, bits, init.clone()));
                }
            }
        }
        self.window(f, at, &mut |f, stage, weights| {
            let mut ws: Vec<Vec<Expr>> = vec![vec![]; blocks];
            for (block, ws) in ws.iter_mut().enumerate() {
                for v in 0..vectors {
                    let w = self.load_weights(f, weights.clone(), block, v);
                    ws.push(isa.bind(f, &format!("w{}", block + v), bits, w));
                }
            }
            for (pixel, accs) in accs.iter().enumerate() {
                let distance = (pixel * self.g.columns.stride * self.patch.stage.column) as i64;
                let x = self.load_neighbours(f, stage.clone() + distance);
                let x = isa.bind(f, &format!("x{pixel}"), bits, x);
                for (&acc, w) in accs.iter().flatten().zip(ws.iter().flatten()) {
                    let sum = match isa.vnni {
                        true => op(bits, "dpbusd_epi32", vec![Expr::Reg(acc), x.clone(), w.clone()]),
                        false => {
                            let products = op(bits, "madd_epi16", vec![x.clone(), w.clone()]);
                            op(bits, "add_epi32", vec![Expr::Reg(acc), products])
                        }
                    };
                    f.set(acc, sum);
                }
            }
        });
        for block in 0..blocks {
            let lanes = self.requantize.lanes(f, isa, bits, &(at.channel.clone() + lane(block)));
            let live = (channels - block * isa.lanes()).min(isa.lanes());
            for (pixel, accs) in accs.iter().enumerate() {
                let y = at.y.clone() + lane(block) + (pixel * self.g.columns.y) as i64;
                let acc = self.sum(f, &accs[block], at.channel.clone() + lane(block));
                self.finish(f, &lanes, acc, y, live);
            }
        }
    }

    /// Loops over the steps of a window; `body` gets the position in the stage and that of the weights.
    fn window(&self, f: &mut FunctionBuilder, at: &Place, body: &mut dyn FnMut(&mut FunctionBuilder, Affine, Affine)) {
        let [outer, inner] = self.patch.loops;
        let run = self.patch.steps_of_run();
        let bytes = (BLOCK * STEP) as i64;
        f.each(outer.0, outer.1, |f, i| {
            f.each(inner.0, inner.1, |f, j| {
                f.each("k", run, |f, k| {
                    let stage = at.stage.clone() + i.clone() * outer.2 as i64 + j.clone() * inner.2 as i64;
                    let step = i * (inner.1 * run) as i64 + j * run as i64 + k.clone();
                    body(f, stage + k * STEP as i64, at.weights.clone() + step * bytes);
                });
            });
        });
    }

    /// A vector of the weights of a block.
    fn load_weights(&self, f: &FunctionBuilder, at: Affine, block: usize, v: usize) -> Expr {
        let bits = self.isa.bits;
        match self.isa.vnni {
            true => load(f, self.weights, at + (block * self.block_bytes()) as i64, bits / 8, 1),
            false => {
                let narrow = load(f, self.weights, at + (v * bits / 16) as i64, bits / 16, 1);
                op(bits, "cvtepi8_epi16", vec![narrow])
            }
        }
    }

    /// Four neighbours in every lane, or every pair of lanes.
    fn load_neighbours(&self, f: &FunctionBuilder, at: Affine) -> Expr {
        let bits = self.isa.bits;
        match (self.isa.vnni, bits) {
            (true, _) => op(bits, "broadcastd_epi32", vec![load(f, self.scratch, at, 4, 1)]),
            (false, 128) => op(128, "shuffle_epi32", vec![load(f, self.scratch, at * 2, 8, 1), immediate(0x44)]),
            (false, _) => op(bits, "broadcastq_epi64", vec![load(f, self.scratch, at * 2, 8, 1)]),
        }
    }

    /// One sum for each channel.
    fn sum(&self, f: &mut FunctionBuilder, accs: &[Reg], channel: Affine) -> Expr {
        let bits = self.isa.bits;
        let &[low, high] = accs else { return Expr::Reg(accs[0]) };
        let sums = op(bits, "hadd_epi32", vec![Expr::Reg(low), Expr::Reg(high)]);
        let sums = match bits {
            256 => op(256, "permute4x64_epi64", vec![sums, immediate(0xd8)]),
            _ => sums,
        };
        let sums = f.bind("sums", vector(bits), sums);
        let bias = load(f, self.bias, channel, bits / 8, 4);
        f.bind("acc", vector(bits), op(bits, "add_epi32", vec![sums, bias]))
    }

    /// Requantizes and stores the first `live` lanes.
    fn finish(&self, f: &mut FunctionBuilder, lanes: &Lanes, acc: Expr, y: Affine, live: usize) {
        let (isa, bits) = (self.isa, self.isa.bits);
        let q = lanes.apply(f, isa, acc);
        let bytes = bytes_of_lanes(f, isa, bits, q);
        let bytes = self.requantize.clamped(128, bytes);
        store_part(f, isa, (self.y, y), (self.scratch, self.patch.stage.spill()), bytes, (live, isa.lanes()));
    }
}

/// Stores the first `live` of `whole` bytes of a vector: with a mask, or one by one through working memory.
pub fn store_part(
    f: &mut FunctionBuilder,
    isa: &Isa,
    (y, at): (Buffer, Affine),
    (scratch, spill): (Buffer, usize),
    bytes: Expr,
    (live, whole): (usize, usize),
) {
    if live == whole {
        return store(f, y, at, whole, bytes);
    }
    if isa.vnni {
        let (name, pointee) = match whole {
            64 => ("_mm512_mask_storeu_epi8", "void"),
            32 => ("_mm256_mask_storeu_epi8", "void"),
            _ => ("_mm_mask_storeu_epi8", "void"),
        };
        let mask = (1i64 << live) - 1;
        let mask = if whole == 64 { Expr::Const(Type::U64, mask) } else { Expr::i32(mask) };
        return f.call(name, vec![f.target(y, at, live, pointee), mask, bytes]);
    }
    store(f, scratch, Affine::from(spill as i64), whole, bytes);
    f.each("i", live, |f, i| {
        let byte = f.load(scratch, i.clone() + spill as i64);
        f.store(y, at + i, byte);
    });
}
