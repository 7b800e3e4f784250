//! Sliding windows of convolution and pooling, any number of spatial axes.

use std::fmt;

/// Geometry of a sliding window over the spatial axes. All vectors have one entry for each axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Taps along each axis.
    pub kernel: Vec<usize>,
    /// Distance between two outputs, in input elements.
    pub stride: Vec<usize>,
    /// Distance between two taps, in input elements.
    pub dilation: Vec<usize>,
    /// Elements added before each axis.
    pub pad_begin: Vec<usize>,
    /// Elements added after each axis.
    pub pad_end: Vec<usize>,
    /// Whether a last window that hangs over the padded input counts (pooling's `ceil_mode`).
    pub ceil: bool,
}

/// The taps of one output position that fall inside the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taps {
    /// First tap inside.
    pub first: usize,
    /// One past the last tap inside.
    pub end: usize,
    /// Input position of tap 0; may be negative.
    pub start: isize,
}

impl Window {
    /// A window of one tap with stride 1 on each of `rank` axes.
    pub fn unit(rank: usize) -> Window {
        Window {
            kernel: vec![1; rank],
            stride: vec![1; rank],
            dilation: vec![1; rank],
            pad_begin: vec![0; rank],
            pad_end: vec![0; rank],
            ceil: false,
        }
    }

    /// Number of spatial axes.
    pub fn rank(&self) -> usize {
        self.kernel.len()
    }

    /// Taps of a whole window.
    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Whether a window can reach outside of an input of these sizes.
    pub fn pads(&self, input: &[usize]) -> bool {
        (0..self.rank()).any(|axis| {
            let Some(outputs) = self.output_size(axis, input[axis]) else { return true };
            (0..outputs).any(|o| self.taps_at(axis, o, input[axis]) != self.whole(axis, o))
        })
    }

    /// Input elements that a window covers along an axis, first to last tap.
    pub fn span(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilation[axis] + 1
    }

    /// Number of outputs along an axis of `input` elements; `None` if the window does not fit once.
    /// Source: ONNX, Conv and MaxPool. With `ceil`, a last window that would start in the padding behind
    /// the input is dropped, as all runtimes do.
    pub fn output_size(&self, axis: usize, input: usize) -> Option<usize> {
        let padded = input + self.pad_begin[axis] + self.pad_end[axis];
        let room = padded.checked_sub(self.span(axis))?;
        let outputs = room / self.stride[axis] + 1;
        if !self.ceil || room % self.stride[axis] == 0 {
            return Some(outputs);
        }
        let starts_inside = outputs * self.stride[axis] < input + self.pad_begin[axis];
        Some(outputs + usize::from(starts_inside))
    }

    /// The taps of output `output` that fall inside an axis of `input` elements.
    pub fn taps_at(&self, axis: usize, output: usize, input: usize) -> Taps {
        let start = (output * self.stride[axis]) as isize - self.pad_begin[axis] as isize;
        let inside = |tap: usize| {
            let at = start + (tap * self.dilation[axis]) as isize;
            at >= 0 && (at as usize) < input
        };
        let first = (0..self.kernel[axis]).find(|&tap| inside(tap)).unwrap_or(0);
        let count = (first..self.kernel[axis]).take_while(|&tap| inside(tap)).count();
        Taps { first, end: first + count, start }
    }

    /// Taps of output `output` that fall inside the input or its explicit padding (not the overhang of `ceil`).
    pub fn padded_taps(&self, axis: usize, output: usize, input: usize) -> usize {
        let start = output * self.stride[axis];
        let padded = input + self.pad_begin[axis] + self.pad_end[axis];
        (0..self.kernel[axis]).take_while(|tap| start + tap * self.dilation[axis] < padded).count()
    }

    fn whole(&self, axis: usize, output: usize) -> Taps {
        let start = (output * self.stride[axis]) as isize - self.pad_begin[axis] as isize;
        Taps { first: 0, end: self.kernel[axis], start }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |values: &[usize]| values.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        write!(f, "kernel {}", join(&self.kernel))?;
        if self.stride.iter().any(|&s| s != 1) {
            write!(f, " stride {}", join(&self.stride))?;
        }
        if self.dilation.iter().any(|&d| d != 1) {
            write!(f, " dilation {}", join(&self.dilation))?;
        }
        if self.pad_begin.iter().chain(&self.pad_end).any(|&p| p != 0) {
            write!(f, " pad {}..{}", join(&self.pad_begin), join(&self.pad_end))?;
        }
        if self.ceil {
            f.write_str(" ceil")?;
        }
        Ok(())
    }
}
