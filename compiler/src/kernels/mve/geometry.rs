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
pub fn conv<'a>(layer: &'a Layer) -> Option<&'a QConv> {
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
