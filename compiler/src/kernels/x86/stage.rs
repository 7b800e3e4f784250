//! The input as the kernels read it: padded, and larger by 128, so that all elements are unsigned.

use super::geometry::{Axis, Geometry};
use super::isa::{Isa, splat, store};
use crate::program::{Affine, Buffer, FunctionBuilder};

/// Bytes behind the image: vectors may reach beyond it.
const SLACK: usize = 128;

/// How an image lies in the working memory, in elements.
#[derive(Debug, Clone, Copy)]
pub struct Stage {
    /// Distance of rows.
    pub row: usize,
    /// Distance of columns.
    pub column: usize,
    /// Distance of channels.
    pub channel: usize,
    /// Number of elements.
    len: usize,
    /// Bytes of an element.
    size: usize,
}

impl Stage {
    /// Channels next to each other, filled up to a multiple of `align`. Elements have `size` bytes.
    pub fn interleaved(g: &Geometry, align: usize, size: usize) -> Stage {
        let channels = g.channels().next_multiple_of(align);
        let (rows, columns) = (positions(&g.rows), positions(&g.columns));
        let row = columns * channels;
        Stage { row, column: channels, channel: 1, len: rows * row, size }
    }

    /// A plane for each channel.
    pub fn planes(g: &Geometry, size: usize) -> Stage {
        let (rows, columns) = (positions(&g.rows), positions(&g.columns));
        let len = g.channels() * rows * columns;
        Stage { row: columns, column: 1, channel: rows * columns, len, size }
    }

    /// Bytes of working memory.
    pub fn bytes(&self) -> usize {
        (self.len * self.size).next_multiple_of(64) + SLACK
    }

    /// Where 64 bytes are free after the image has been read.
    pub fn spill(&self) -> usize {
        self.bytes() - 64
    }

    /// Copies an image that begins at `from`.
    pub fn fill(&self, f: &mut FunctionBuilder, isa: &Isa, g: &Geometry, (x, from): (Buffer, Affine), scratch: Buffer) {
        let (rows, columns) = (g.rows, g.columns);
        let copied = |axis: &Axis| axis.input.min(positions(axis).saturating_sub(axis.pad));
        let (n_rows, n_columns) = (copied(&rows), copied(&columns));
        let complete = |axis: &Axis| copied(axis) == positions(axis);
        if !(complete(&rows) && complete(&columns)) {
            f.comment("What is outside of the image stands for 0.");
            self.blank(f, isa, g, scratch);
        }
        if n_rows == 0 || n_columns == 0 {
            return;
        }
        f.comment("The image, with 128 added to each element.");
        let start = (rows.pad * self.row + columns.pad * self.column) as i64;
        let (size, wide) = (self.size as i64, self.size == 2);
        let planes = self.channel != 1;
        let (inner, outer) = match planes {
            true => (1, g.channels()),
            false => (g.channels(), 1),
        };
        // A run is what lies without gaps on both sides.
        let columns_join = columns.x == inner && self.column == inner && (planes || g.channel == 1);
        let rows_join =
            columns_join && rows.x == columns.input * columns.x && complete(&columns) && n_columns == columns.input;
        f.each("c", outer, |f, c| {
            let (from, to) = (from + c.clone() * g.channel as i64, c * self.channel as i64 + start);
            if rows_join || n_rows == 1 && columns_join {
                return isa.copy_unsigned(f, (x, from), (scratch, to * size), n_rows * n_columns * inner, wide);
            }
            f.each("iy", n_rows, |f, iy| {
                let (from, to) = (from + iy.clone() * rows.x as i64, to + iy * self.row as i64);
                if columns_join {
                    return isa.copy_unsigned(f, (x, from), (scratch, to * size), n_columns * inner, wide);
                }
                f.each("ix", n_columns, |f, ix| {
                    let (from, to) = (from + ix.clone() * columns.x as i64, to + ix * self.column as i64);
                    if planes || g.channel == 1 {
                        return isa.copy_unsigned(f, (x, from), (scratch, to * size), inner, wide);
                    }
                    f.each("c", inner, |f, c| {
                        let (from, to) = (from + c.clone() * g.channel as i64, to + c);
                        isa.copy_unsigned(f, (x, from), (scratch, to * size), 1, wide);
                    });
                });
            });
        });
    }

    /// Stores what stands for 0 everywhere.
    fn blank(&self, f: &mut FunctionBuilder, isa: &Isa, g: &Geometry, scratch: Buffer) {
        let zero = i64::from(g.weighted.input_zero) + 128;
        let lane = 8 * self.size;
        // As a signed lane.
        let lane_value = if lane == 8 && zero > 127 { zero - 256 } else { zero };
        let value = isa.bind(f, "zero", isa.bits, splat(isa.bits, lane, lane_value));
        let count = (self.len * self.size).div_ceil(isa.bytes());
        f.each("i", count, |f, i| store(f, scratch, i * isa.bytes() as i64, isa.bytes(), value.clone()));
    }
}

/// Positions of an axis: those that windows reach, or the whole input where nothing is added to it.
fn positions(axis: &Axis) -> usize {
    if axis.pad == 0 { axis.reach().max(axis.input) } else { axis.reach() }
}
