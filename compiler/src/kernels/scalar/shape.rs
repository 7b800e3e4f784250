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
}

/// How often the parts of gathering run, for all patches together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Rows inside of the input.
    pub inside: u64,
    /// Rows outside.
    pub outside: u64,
    /// Rows inside with a part to fill on the left, and bytes of these parts.
    pub left: u64,
    /// Bytes of the parts on the left.
    pub left_bytes: u64,
    /// Rows inside with a part to fill on the right.
    pub right: u64,
    /// Bytes of the parts on the right.
    pub right_bytes: u64,
    /// Steps of 8 bytes in copying rows.
    pub eights: u64,
    /// Rows of 8 bytes and more.
    pub with_eights: u64,
    /// Rows with a step of 4 bytes.
    pub fours: u64,
    /// Rows with less than 4 bytes left.
    pub with_bytes: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// All bytes copied.
    pub copied: u64,
    /// Rows with bytes to copy.
    pub with_copied: u64,
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

    /// Counts the steps.
    pub fn census(&self) -> Census {
        let mut rows = [0u64; 2];
        for oy in 0..self.outputs[0] {
            for ky in 0..self.kernel[0] {
                let iy = (oy * self.stride[0] + ky * self.dilation) as isize - self.pad[0] as isize;
                rows[usize::from(iy < 0 || iy >= self.height as isize)] += self.planes as u64;
            }
        }
        let mut census = Census { outside: rows[1] * self.outputs[1] as u64, ..Census::default() };
        for ox in 0..self.outputs[1] {
            let (left, right) = self.outside(ox);
            let (left, right) = ((left * self.step) as u64, (right * self.step) as u64);
            let middle = self.run() as u64 - left - right;
            census.inside += rows[0];
            census.left += rows[0] * u64::from(left > 0);
            census.left_bytes += rows[0] * left;
            census.right += rows[0] * u64::from(right > 0);
            census.right_bytes += rows[0] * right;
            census.eights += rows[0] * (middle / 8);
            census.with_eights += rows[0] * u64::from(middle >= 8);
            census.fours += rows[0] * (middle / 4 % 2);
            census.with_bytes += rows[0] * u64::from(middle % 4 > 0);
            census.bytes += rows[0] * (middle % 4);
            census.copied += rows[0] * middle;
            census.with_copied += rows[0] * u64::from(middle > 0);
        }
        census
    }
}
