//! Where the innermost loops find the input: in place, or in working memory, where a band of rows is laid out with its
//! padding, with channels as neighbours and with room behind the last element.

use super::geometry::Geometry;
use super::vector::{I8X16, i8x16, load_16, store_16};
use crate::program::{Affine, Buffer, Expr, FunctionBuilder};

/// Working memory that a band of several rows may take; a single row takes what it needs.
const BAND_BYTES: usize = 8192;

/// Bytes behind the last element that loads may touch.
const SLACK: usize = 16;

/// Rows of the input in working memory.
#[derive(Debug, Clone, Copy)]
pub struct Band {
    /// Rows of the result that are computed from it.
    results: usize,
    /// Its own rows.
    rows: usize,
    /// Its columns.
    columns: usize,
}

/// Where a row of the result finds its input.
#[derive(Debug, Clone)]
pub struct Source {
    /// The memory.
    pub buffer: Buffer,
    /// The first element of the first window.
    pub at: Affine,
    /// Distance of rows.
    pub row: usize,
    /// Distance of columns.
    pub column: usize,
}

/// The buffers of a layer.
#[derive(Debug, Clone, Copy)]
pub struct Buffers {
    /// The input.
    pub x: Buffer,
    /// The result.
    pub y: Buffer,
    /// Working memory.
    pub scratch: Option<Buffer>,
}

impl Band {
    /// A band for as many rows of the result as fit, a divisor of all.
    pub fn of(geometry: &Geometry) -> Band {
        let reach = |outputs: usize, axis: usize| {
            (outputs - 1) * geometry.stride[axis] + (geometry.kernel[axis] - 1) * geometry.dilation[axis] + 1
        };
        let columns = reach(geometry.output[1], 1);
        let band = |results: usize| Band { results, rows: reach(results, 0), columns };
        let fits = |results: &usize| {
            geometry.output[0].is_multiple_of(*results) && band(*results).bytes(geometry) <= BAND_BYTES
        };
        band((1..=geometry.output[0]).rev().find(fits).unwrap_or(1))
    }

    /// Its size.
    pub fn bytes(&self, geometry: &Geometry) -> usize {
        (self.rows * self.columns * geometry.channels + SLACK).next_multiple_of(16)
    }

    /// Estimated instructions that fill all bands.
    pub fn instructions(&self, geometry: &Geometry) -> u64 {
        let bands = geometry.images * geometry.output[0] / self.results;
        let bytes = bands * self.rows * self.columns * geometry.channels;
        (if geometry.packed() { bytes / 4 } else { 4 * bytes }) as u64
    }
}

/// Loops over the rows of the result. The body gets the input of a row and the index of the row's first result.
pub fn each_row(
    f: &mut FunctionBuilder,
    geometry: &Geometry,
    band: Option<Band>,
    buffers: Buffers,
    body: &mut dyn FnMut(&mut FunctionBuilder, &Source, Affine),
) {
    f.each("n", geometry.images, |f, image| {
        let x_at = image.clone() * geometry.x[0] as i64;
        let y_at = image * geometry.y[0] as i64;
        match (band, buffers.scratch) {
            (Some(band), Some(scratch)) => {
                let staging = Staging { geometry, band, x: buffers.x, scratch };
                staging.each_row(f, &x_at, &y_at, body);
            }
            _ => f.each("oy", geometry.output[0], |f, row| {
                let at = x_at + row.clone() * (geometry.stride[0] * geometry.x[1]) as i64;
                let source = Source { buffer: buffers.x, at, row: geometry.x[1], column: geometry.x[2] };
                body(f, &source, y_at + row * geometry.y[1] as i64);
            }),
        }
    });
}

struct Staging<'a> {
    geometry: &'a Geometry<'a>,
    band: Band,
    x: Buffer,
    scratch: Buffer,
}

impl Staging<'_> {
    fn each_row(
        &self,
        f: &mut FunctionBuilder,
        x_at: &Affine,
        y_at: &Affine,
        body: &mut dyn FnMut(&mut FunctionBuilder, &Source, Affine),
    ) {
        let Staging { geometry, band, .. } = self;
        let pitch = band.columns * geometry.channels;
        if geometry.pads {
            f.comment("Padding holds the zero point.");
            self.fill(f, Affine::default(), band.bytes(geometry));
        }
        f.each("band", geometry.output[0] / band.results, |f, at_band| {
            self.copy(f, x_at, &at_band);
            f.each("oy", band.results, |f, row| {
                let at = row.clone() * (geometry.stride[0] * pitch) as i64;
                let source = Source { buffer: self.scratch, at, row: pitch, column: geometry.channels };
                let y_row = at_band * band.results as i64 + row;
                body(f, &source, y_at.clone() + y_row * geometry.y[1] as i64);
            });
        });
    }

    /// Fills the band with the rows of the input that belong there, and those behind the input with the zero point.
    fn copy(&self, f: &mut FunctionBuilder, x_at: &Affine, at_band: &Affine) {
        let Staging { geometry, band, .. } = self;
        let (pitch, pad) = (band.columns * geometry.channels, geometry.pad);
        let columns = geometry.input[1].min(band.columns.saturating_sub(pad[1]));
        if columns == 0 {
            return;
        }
        let left = pad[1] * geometry.channels;
        let first = at_band.clone() * (band.results * geometry.stride[0]) as i64 + -(pad[0] as i64);
        let bands = geometry.output[0] / band.results;
        let end = (bands - 1) * band.results * geometry.stride[0] + band.rows;
        let below = end.saturating_sub(pad[0] + geometry.input[0]);
        let copy = |f: &mut FunctionBuilder, row: Affine, iy: Affine| {
            let to = row * pitch as i64 + left as i64;
            let from = x_at.clone() + iy * geometry.x[1] as i64;
            self.copy_row(f, from, to, columns);
        };
        if pad[0] == 0 && below == 0 {
            f.each("row", band.rows, |f, row| copy(f, row.clone(), first.clone() + row));
        } else {
            f.taps(("row", "iy"), first.clone(), band.rows, 1, geometry.input[0], copy);
        }
        if bands > 1 && below > 0 {
            let first = first + -(geometry.input[0] as i64);
            f.taps(("row", "below"), first, band.rows, 1, below, |f, row, _| {
                self.fill(f, row * pitch as i64 + left as i64, columns * geometry.channels);
            });
        }
    }

    fn copy_row(&self, f: &mut FunctionBuilder, from: Affine, to: Affine, columns: usize) {
        let (channels, [_, _, x_column, x_channel]) = (self.geometry.channels, self.geometry.x);
        if self.geometry.packed() {
            return in_pieces(f, columns * channels, &mut |f, at, wide| {
                let (from, to) = (from.clone() + at.clone(), to.clone() + at);
                if wide {
                    let value = load_16(f, self.x, from);
                    store_16(f, self.scratch, to, value);
                } else {
                    f.store(self.scratch, to, f.load(self.x, from));
                }
            });
        }
        f.each("c", channels, |f, c| {
            f.each("ix", columns, |f, column| {
                let value = f.load(self.x, from + column.clone() * x_column as i64 + c.clone() * x_channel as i64);
                f.store(self.scratch, to + column * channels as i64 + c, value);
            });
        });
    }

    fn fill(&self, f: &mut FunctionBuilder, at: Affine, bytes: usize) {
        let zero = Expr::i32(i64::from(self.geometry.weighted.input_zero));
        let zeros = f.bind("padding", I8X16, i8x16("vdupq_n_s8", vec![zero.clone()]));
        in_pieces(f, bytes, &mut |f, offset, wide| match wide {
            true => store_16(f, self.scratch, at.clone() + offset, zeros.clone()),
            false => f.store(self.scratch, at.clone() + offset, zero.clone()),
        });
    }
}

/// Visits bytes in pieces of 16, or one by one where there are fewer. The last piece may overlap the one before.
fn in_pieces(f: &mut FunctionBuilder, bytes: usize, visit: &mut dyn FnMut(&mut FunctionBuilder, Affine, bool)) {
    if bytes < 16 {
        return f.each("i", bytes, |f, i| visit(f, i, false));
    }
    f.each("i", bytes / 16, |f, i| visit(f, i * 16, true));
    if !bytes.is_multiple_of(16) {
        visit(f, Affine::from((bytes - 16) as i64), true);
    }
}
