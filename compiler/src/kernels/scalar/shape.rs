//! What assembly has to know of a layer: sizes and strides, no tensors.

use crate::ir::Clamp;

/// A product with constant weights: for each of `pixels` rows of `k` elements, `channels` sums of products.
#[derive(Debug, Clone)]
pub struct Product {
    /// Rows of the operand, each of which makes a row of the result.
    pub pixels: usize,
    /// Elements of a row.
    pub k: usize,
    /// Elements of a row of the result.
    pub channels: usize,
    /// How rows are gathered from a tensor; `None` if they lie in memory one behind the other.
    pub patches: Option<Patches>,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// The windows of a convolution, as rows of bytes. A patch has `planes * kh` runs, and each run is `kw` positions of
/// `step` bytes that lie one behind the other: with the channels innermost there is one plane and a position is all
/// channels; with planes of channels a position is one byte.
#[derive(Debug, Clone)]
pub struct Patches {
    /// Number of planes.
    pub planes: usize,
    /// Bytes from a plane to the next.
    pub plane_stride: usize,
    /// Bytes of a position.
    pub step: usize,
    /// Bytes from a row of the input to the next.
    pub pitch: usize,
    /// Rows of the input.
    pub height: usize,
    /// Positions in a row of the input.
    pub width: usize,
    /// Along the rows, one entry for y and one for x: taps, strides, elements of padding before.
    pub kernel: [usize; 2],
    /// Distance of two windows.
    pub stride: [usize; 2],
    /// Padding before.
    pub pad: [usize; 2],
    /// Distance of two rows of a window.
    pub dilation: usize,
    /// Windows along y and x.
    pub outputs: [usize; 2],
    /// Whether every run starts on a multiple of 4 bytes and has whole words, also where it is cut off.
    pub aligned: bool,
}

/// How often the parts of gathering run, for all windows together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Windows.
    pub windows: u64,
    /// Their rows inside of the input.
    pub inside: u64,
    /// Their rows outside.
    pub outside: u64,
    /// Rows inside with a part to fill on the left.
    pub left: u64,
    /// Bytes of these parts.
    pub left_bytes: u64,
    /// Rows inside with a part to fill on the right.
    pub right: u64,
    /// Bytes of these parts.
    pub right_bytes: u64,
    /// Steps of 8 bytes in copying rows.
    pub eights: u64,
    /// Steps of 4 bytes behind them.
    pub fours: u64,
    /// Bytes behind these.
    pub bytes: u64,
}

impl Patches {
    /// Bytes of a run.
    pub fn run(&self) -> usize {
        self.kernel[1] * self.step
    }

    /// Whether a window reaches outside of the input.
    pub fn clips(&self) -> bool {
        let reaches = |axis: usize, extent: usize, span: usize| {
            self.pad[axis] > 0 || (self.outputs[axis] - 1) * self.stride[axis] + span > extent
        };
        reaches(0, self.height, (self.kernel[0] - 1) * self.dilation + 1) || reaches(1, self.width, self.kernel[1])
    }

    /// Positions of a run outside of the input: on the left and on the right.
    fn outside(&self, ox: usize) -> (usize, usize) {
        let start = (ox * self.stride[1]) as isize - self.pad[1] as isize;
        let end = start + self.kernel[1] as isize;
        ((-start).max(0) as usize, (end - self.width as isize).max(0) as usize)
    }

    /// Whether each window has a column inside, so that the parts of a run never overlap.
    pub fn meets(&self) -> bool {
        (0..self.outputs[1]).all(|ox| {
            let (left, right) = self.outside(ox);
            left + right < self.kernel[1]
        })
    }

    /// Address of the first element that windows of output row `oy` read, relative to the operand; channels innermost.
    pub fn first_read(&self, oy: usize) -> usize {
        (oy * self.stride[0]).saturating_sub(self.pad[0]) * self.pitch
    }

    /// Windows that lie inside of the input.
    pub fn interior(&self) -> u64 {
        let lines = (0..self.outputs[0]).filter(|&oy| self.lines_outside(oy) == 0).count();
        let columns = (0..self.outputs[1]).filter(|&ox| self.outside(ox) == (0, 0)).count();
        (lines * columns) as u64
    }

    /// Output columns whose windows reach outside of the input on the left or on the right.
    pub fn clipped_columns(&self) -> u64 {
        (0..self.outputs[1]).filter(|&ox| self.outside(ox) != (0, 0)).count() as u64
    }

    /// Rows of the windows of an output line outside of the input.
    fn lines_outside(&self, oy: usize) -> usize {
        let line = |ky: usize| (oy * self.stride[0] + ky * self.dilation) as isize - self.pad[0] as isize;
        (0..self.kernel[0]).filter(|&ky| line(ky) < 0 || line(ky) >= self.height as isize).count()
    }

    /// Counts the steps; without those of windows that lie inside of the input, if `interior` is false.
    pub fn census(&self, interior: bool) -> Census {
        let mut census = Census::default();
        for ox in 0..self.outputs[1] {
            let (left, right) = self.outside(ox);
            let counts = |oy: &usize| interior || (left, right) != (0, 0) || self.lines_outside(*oy) > 0;
            let lines: Vec<usize> = (0..self.outputs[0]).filter(counts).map(|oy| self.lines_outside(oy)).collect();
            let outside = (lines.iter().sum::<usize>() * self.planes) as u64;
            let inside = (lines.len() * self.kernel[0] * self.planes) as u64 - outside;
            let (left, right) = ((left * self.step) as u64, (right * self.step) as u64);
            let middle = self.run() as u64 - left - right;
            census.windows += lines.len() as u64;
            census.outside += outside;
            census.inside += inside;
            census.left += inside * u64::from(left > 0);
            census.left_bytes += inside * left;
            census.right += inside * u64::from(right > 0);
            census.right_bytes += inside * right;
            census.eights += inside * (middle / 8);
            census.fours += inside * (middle / 4 % 2);
            census.bytes += inside * (middle % 4);
        }
        census
    }
}

impl Product {
    /// By how many bytes the operand has to lie behind the result, so that nothing is overwritten that is still to be
    /// read. Rows are read `rows` at a time; `copied` tells that they are copied before their results are written, as
    /// windows always are.
    pub fn lead(&self, rows: usize, copied: bool) -> Option<usize> {
        let written = |group: usize| (group + 1).saturating_mul(rows).min(self.pixels) * self.channels;
        // Address of what is read after a group's results have been written.
        let next = |group: usize| match &self.patches {
            None if copied => (group + 1) * rows * self.k,
            None => group * rows * self.k,
            Some(patches) => patches.first_read((group + 1) * rows / patches.outputs[1]),
        };
        if self.patches.as_ref().is_some_and(|patches| patches.planes > 1) {
            return None;
        }
        let copied = copied || self.patches.is_some();
        let groups = (0..self.pixels.div_ceil(rows)).filter(|group| !copied || (group + 1) * rows < self.pixels);
        Some(groups.map(|group| written(group).saturating_sub(next(group))).max().unwrap_or(0))
    }
}

/// Words that describe windows to the assembly that gathers them.
pub mod window {
    use super::Patches;

    /// Number of the words.
    pub const WORDS: usize = 18;

    // Offsets in bytes.
    /// Rows of a window.
    pub const KERNEL_ROWS: usize = 0;
    /// Bytes of a run.
    pub const RUN: usize = 4;
    /// Bytes from a row of a window to the next.
    pub const NEXT_ROW: usize = 8;
    /// The same in lines.
    pub const DILATION: usize = 12;
    /// Planes.
    pub const PLANES: usize = 16;
    /// Bytes between planes.
    pub const PLANE_STRIDE: usize = 20;
    /// Lines of the input.
    pub const HEIGHT: usize = 24;
    /// The last column at which a window is inside.
    pub const ROOM: usize = 28;
    /// Bytes of a column.
    pub const STEP: usize = 32;
    /// The input's zero point.
    pub const FILL: usize = 36;
    /// Bytes between windows of a line, and columns.
    pub const STEP_X: usize = 40;
    /// The same in columns.
    pub const STRIDE_X: usize = 44;
    /// Bytes between lines of windows.
    pub const STEP_Y: usize = 48;
    /// The same in lines.
    pub const STRIDE_Y: usize = 52;
    /// Windows of a line.
    pub const OUTPUT_COLUMNS: usize = 56;
    /// Column of the first window.
    pub const FIRST_COLUMN: usize = 60;
    /// Line of the first window.
    pub const FIRST_LINE: usize = 64;
    /// Bytes from the operand to the first window, which may start before it.
    pub const START: usize = 68;

    /// The words; `fill` is the input's zero point.
    pub fn words(patches: &Patches, fill: i32) -> Vec<i64> {
        let p = patches;
        let (lines, columns) = (p.pad[0] as i64, p.pad[1] as i64);
        vec![
            p.kernel[0] as i64,
            p.run() as i64,
            (p.dilation * p.pitch) as i64,
            p.dilation as i64,
            p.planes as i64,
            p.plane_stride as i64,
            p.height as i64,
            p.width as i64 - p.kernel[1] as i64,
            p.step as i64,
            i64::from(fill),
            (p.stride[1] * p.step) as i64,
            p.stride[1] as i64,
            (p.stride[0] * p.pitch) as i64,
            p.stride[0] as i64,
            p.outputs[1] as i64,
            -columns,
            -lines,
            -(lines * p.pitch as i64 + columns * p.step as i64),
        ]
    }
}

/// A depthwise convolution of one sample: each channel by itself, over lines and columns.
#[derive(Debug, Clone)]
pub struct Depthwise {
    /// Number of channels.
    pub channels: usize,
    /// Lines and columns of the input.
    pub size: [usize; 2],
    /// Bytes between lines, columns and channels of the input.
    pub from: [usize; 3],
    /// The same of the result.
    pub to: [usize; 3],
    /// Taps.
    pub kernel: [usize; 2],
    /// Distance of two windows.
    pub stride: [usize; 2],
    /// Distance of two lines of a window.
    pub dilation: usize,
    /// Padding before.
    pub pad: [usize; 2],
    /// Lines and columns of the result.
    pub outputs: [usize; 2],
    /// Bounds of the result.
    pub clamp: Clamp,
}

impl Depthwise {
    /// Lines and columns that the windows of a channel cover, padding included.
    pub fn plane(&self) -> [usize; 2] {
        let span = |axis: usize, dilation: usize| {
            (self.outputs[axis] - 1) * self.stride[axis] + (self.kernel[axis] - 1) * dilation + 1
        };
        [span(0, self.dilation), span(1, 1)]
    }

    /// Lines and columns of the input that windows cover.
    pub fn covered(&self) -> [usize; 2] {
        let plane = self.plane();
        [0, 1].map(|axis| self.size[axis].min(plane[axis].saturating_sub(self.pad[axis])))
    }

    /// Working memory for a plane, in whole words.
    pub fn plane_bytes(&self) -> usize {
        let [lines, columns] = self.plane();
        (lines * columns).next_multiple_of(4)
    }

    /// How a line of results is computed `width` at a time.
    pub fn blocks(&self, width: usize) -> Blocks {
        let columns = self.outputs[1];
        let count = columns.div_ceil(width);
        Blocks { width, count, overlap: count * width - columns }
    }
}

/// Parts of equal width that cover a line. The second part begins `overlap` columns before the end of the first: what
/// does not come out even is computed twice.
#[derive(Debug, Clone, Copy)]
pub struct Blocks {
    /// Columns of a part.
    pub width: usize,
    /// Number of parts.
    pub count: usize,
    /// Columns that the first two parts share.
    pub overlap: usize,
}

/// Words that describe a depthwise convolution to its assembly.
pub mod plane {
    use super::{Blocks, Depthwise};

    /// Number of the words.
    pub const WORDS: usize = 21;

    // Offsets in bytes.
    /// Channels.
    pub const CHANNELS: usize = 0;
    /// Lines of results.
    pub const OUT_LINES: usize = 4;
    /// Blocks of a line.
    pub const BLOCK_COUNT: usize = 8;
    /// Bytes between lines of a window.
    pub const PITCH: usize = 12;
    /// Bytes between lines of windows.
    pub const NEXT_LINE: usize = 16;
    /// Bytes from the last line of a block to the next block.
    pub const NEXT_BLOCK: usize = 20;
    /// The same for the first block.
    pub const FIRST_BLOCK: usize = 24;
    /// Bytes of results that the second block repeats.
    pub const SHARED: usize = 28;
    /// Bytes between lines of results.
    pub const TO_LINE: usize = 32;
    /// Bytes between results of a line.
    pub const TO_COLUMN: usize = 36;
    /// Bytes between channels of results.
    pub const TO_CHANNEL: usize = 40;
    /// Bytes between lines of the input.
    pub const FROM_LINE: usize = 44;
    /// Bytes between columns of the input.
    pub const FROM_COLUMN: usize = 48;
    /// Bytes between channels of the input.
    pub const FROM_CHANNEL: usize = 52;
    /// Lines to copy.
    pub const IN_LINES: usize = 56;
    /// Groups of four columns to copy.
    pub const FOURS: usize = 60;
    /// Bytes from the plane to the first element inside.
    pub const START: usize = 64;
    /// Bytes between lines of the plane.
    pub const LINE_PITCH: usize = 68;
    /// What the kernel adds to results.
    pub const RESULT: usize = 72;
    /// Words of the plane.
    pub const PLANE_WORDS: usize = 76;
    /// The padding, in all four bytes.
    pub const FILL: usize = 80;

    /// The words. `fill` is what the padding holds, `result` what the kernel adds to results.
    pub fn words(layer: &Depthwise, blocks: Blocks, fill: i32, result: i64) -> Vec<i64> {
        let [_, pitch] = layer.plane();
        let line = (layer.dilation * pitch) as i64;
        let window = (layer.kernel[0] as i64 - 1) * line;
        let step = |columns: usize| (columns * layer.stride[1]) as i64 - window;
        let [in_lines, in_columns] = layer.covered();
        let number = |value: usize| value as i64;
        vec![
            number(layer.channels),
            number(layer.outputs[0]),
            number(blocks.count),
            line,
            number(layer.stride[0] * pitch),
            step(blocks.width),
            step(blocks.width - blocks.overlap),
            number(blocks.overlap * layer.to[1]),
            number(layer.to[0]),
            number(layer.to[1]),
            number(layer.to[2]),
            number(layer.from[0]),
            number(layer.from[1]),
            number(layer.from[2]),
            number(in_lines),
            number(in_columns / 4),
            number(layer.pad[0] * pitch + layer.pad[1]),
            number(pitch),
            result,
            number(layer.plane_bytes() / 4),
            i64::from(fill as u8) * 0x0101_0101,
        ]
    }
}
