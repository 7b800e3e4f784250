//! The convolutions that the kernels compute, as numbers.

use crate::ir::DType;
use crate::ops::QuantOp;
use crate::ops::conv::QConv;
use crate::plan::{Layer, Plan, View, Work};

/// A convolution over two spatial axes.
#[derive(Debug, Clone)]
pub struct Geometry {
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the result.
    pub outputs: usize,
    /// Rows and columns of the input.
    pub size: [usize; 2],
    /// Rows and columns of the result.
    pub result: [usize; 2],
    /// Taps along each axis.
    pub kernel: [usize; 2],
    /// Steps along each axis.
    pub stride: [usize; 2],
    /// Padding before each axis.
    pub pad: [usize; 2],
    /// Whether a window reaches into the padding.
    pub padded: bool,
    /// Whether the channels of the input are planes that follow each other; else they are neighbours.
    pub planar: bool,
    /// Whether the axes have been exchanged: rows of weights run the other way.
    pub transposed: bool,
}

/// The convolution of a layer.
pub fn conv(layer: &Layer) -> Option<&QConv> {
    match &layer.work {
        Work::Operator(QuantOp::Conv(conv)) => Some(conv),
        _ => None,
    }
}

impl Geometry {
    /// The geometry of a layer's convolution; `None` if it is not one that these kernels know: batches, dilation, three
    /// axes, a result whose channels are no neighbours.
    pub fn of(layer: &Layer, plan: &Plan) -> Option<Geometry> {
        let conv = conv(layer)?;
        let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
        let (input, result, window) = (x.ty.shape.dims(), y.ty.shape.dims(), &conv.window);
        let bytes = [x.ty.dtype, y.ty.dtype].iter().all(|&dtype| dtype == DType::I8);
        if !bytes || input[0] != 1 || !(1..=2).contains(&window.rank()) || window.dilation.iter().any(|&d| d != 1) {
            return None;
        }
        let planar = !is_channels_last(&x.view, input);
        if !is_channels_last(&y.view, result) || planar && !is_planar(&x.view, input) {
            return None;
        }
        let pair = |values: &[usize], missing: usize| match *values {
            [only] => [missing, only],
            [first, second] => [first, second],
            _ => [missing; 2],
        };
        let mut geometry = Geometry {
            inputs: input[1],
            outputs: result[1],
            size: pair(&input[2..], 1),
            result: pair(&result[2..], 1),
            kernel: pair(&window.kernel, 1),
            stride: pair(&window.stride, 1),
            pad: pair(&window.pad_begin, 0),
            padded: window.pads(&input[2..]),
            planar,
            transposed: false,
        };
        // A single column is a row.
        if geometry.size[1] == 1 && geometry.result[1] == 1 && geometry.kernel[1] == 1 {
            geometry.transpose();
        }
        Some(geometry)
    }

    /// Windows of one tap at some positions in a row.
    pub fn positions(inputs: usize, outputs: usize, positions: usize) -> Geometry {
        Geometry {
            inputs,
            outputs,
            size: [1, positions],
            result: [1, positions],
            kernel: [1; 2],
            stride: [1; 2],
            pad: [0; 2],
            padded: false,
            planar: false,
            transposed: false,
        }
    }

    /// Exchanges the axes.
    pub fn transpose(&mut self) {
        for axes in [&mut self.size, &mut self.result, &mut self.kernel, &mut self.stride, &mut self.pad] {
            axes.swap(0, 1);
        }
        self.transposed = !self.transposed;
    }

    /// Taps of a window.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Position of a tap in a row of ONNX's weights, less its channel's.
    pub fn tap(&self, row: usize, column: usize) -> usize {
        match self.transposed {
            false => row * self.kernel[1] + column,
            true => column * self.kernel[0] + row,
        }
    }

    /// Distances of neighbouring columns and rows, in elements, of a tensor with channels last.
    pub fn steps(&self, size: [usize; 2], channels: usize) -> (usize, usize) {
        match self.transposed {
            false => (channels, size[1] * channels),
            true => (size[0] * channels, channels),
        }
    }

    /// Rows that are loaded: how many are rows of the input, how many are padding.
    pub fn loads(&self) -> (usize, usize) {
        let total = self.kernel[0] + (self.result[0] - 1) * self.stride[0];
        let inside = total.saturating_sub(self.pad[0]).min(self.size[0]);
        (inside, total - inside)
    }

    /// How far results run ahead of the inputs that are still to be read, if a row of results is written when all rows
    /// under it have been copied.
    pub fn lead_by_rows(&self) -> Option<usize> {
        let rows = (0..self.result[0]).map(|oy| {
            let unread = (oy * self.stride[0] + self.kernel[0]).saturating_sub(self.pad[0]).min(self.size[0]);
            let written = (oy + 1) * self.result[1] * self.outputs;
            if unread == self.size[0] { 0 } else { written.saturating_sub(unread * self.size[1] * self.inputs) }
        });
        rows.max()
    }

    /// Columns of the padded input that windows reach.
    pub fn columns(&self) -> usize {
        (self.result[1] - 1) * self.stride[1] + self.kernel[1]
    }
}

/// Whether the channels of an element are neighbours, and the positions follow each other without gaps.
pub fn is_channels_last(view: &View, dims: &[usize]) -> bool {
    let order: Vec<usize> = [0].into_iter().chain(2..dims.len()).chain([1]).collect();
    is_dense(view, dims, &order)
}

fn is_planar(view: &View, dims: &[usize]) -> bool {
    is_dense(view, dims, &(0..dims.len()).collect::<Vec<_>>())
}

fn is_dense(view: &View, dims: &[usize], order: &[usize]) -> bool {
    let Some(strides) = view.strides() else { return false };
    let mut step = 1;
    order.iter().rev().all(|&axis| {
        let fits = dims[axis] == 1 || strides[axis] == step;
        step *= dims[axis];
        fits
    })
}
