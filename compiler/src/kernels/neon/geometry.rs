//! Convolutions and products with weights as one thing: a window that moves over the rows and columns of images.

use super::super::strides;
use crate::ops::QuantOp;
use crate::ops::conv::QConv;
use crate::ops::linear::QLinear;
use crate::ops::weighted::Weighted;
use crate::plan::{Dim, Layer, Plan, Work, joined, nest, row_offsets};

/// What a layer with weights computes. Pairs are for rows and columns.
#[derive(Debug, Clone)]
pub struct Geometry<'a> {
    /// Weights in rows of `group_inputs x kernel`, channels, zero points.
    pub weighted: &'a Weighted,
    /// The input channels as they lie in memory.
    order: Vec<usize>,
    /// Number of images.
    pub images: usize,
    /// Size of an image.
    pub input: [usize; 2],
    /// Size of a result.
    pub output: [usize; 2],
    /// Distances in the input: of images, rows, columns, channels.
    pub x: [usize; 4],
    /// Distances in the result: of images, rows, columns. Channels are neighbours.
    pub y: [usize; 3],
    /// Size of the window.
    pub kernel: [usize; 2],
    /// Steps of the window.
    pub stride: [usize; 2],
    /// Distances of taps.
    pub dilation: [usize; 2],
    /// Rows above and columns before the input.
    pub pad: [usize; 2],
    /// Whether some window reaches outside of the input.
    pub pads: bool,
    /// Number of input channels.
    pub channels: usize,
    /// Number of groups of channels.
    pub groups: usize,
}

impl<'a> Geometry<'a> {
    /// The geometry of a layer; `None` if it has no weights or another form.
    pub fn of(layer: &'a Layer, plan: &Plan) -> Option<Geometry<'a>> {
        match &layer.work {
            Work::Operator(QuantOp::Conv(conv)) => Geometry::conv(conv, layer, plan),
            Work::Operator(QuantOp::Linear(linear)) => Geometry::linear(linear, layer, plan),
            _ => None,
        }
    }

    fn conv(conv: &'a QConv, layer: &Layer, plan: &Plan) -> Option<Geometry<'a>> {
        let (input, result) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
        let (x, y) = (strides(&input.view), strides(&result.view));
        let (x_dims, y_dims) = (input.ty.shape.dims(), result.ty.shape.dims());
        let window = &conv.window;
        if window.rank() > 2 || window.rank() == 0 || (y[1] != 1 && y_dims[1] > 1) {
            return None;
        }
        // A single spatial axis is the columns of a single row.
        let pair = |values: &[usize], missing: usize| match *values {
            [column] => [missing, column],
            [row, column, ..] => [row, column],
            [] => [missing; 2],
        };
        let geometry = Geometry {
            weighted: &conv.weighted,
            order: (0..conv.group_inputs()).collect(),
            images: x_dims[0],
            input: pair(&x_dims[2..], 1),
            output: pair(&y_dims[2..], 1),
            x: [x[0], pair(&x[2..], 0)[0], pair(&x[2..], 0)[1], x[1]],
            y: [y[0], pair(&y[2..], 0)[0], pair(&y[2..], 0)[1]],
            kernel: pair(&window.kernel, 1),
            stride: pair(&window.stride, 1),
            dilation: pair(&window.dilation, 1),
            pad: pair(&window.pad_begin, 0),
            pads: window.pads(&x_dims[2..]),
            channels: x_dims[1],
            groups: conv.groups,
        };
        Some(geometry.joined())
    }

    fn linear(linear: &'a QLinear, layer: &Layer, plan: &Plan) -> Option<Geometry<'a>> {
        let (input, result) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
        let last = input.ty.shape.rank() - 1;
        let offsets = row_offsets(&input.view, &input.ty.shape)?;
        let outputs = linear.weighted.channels.len();
        let y_channel = *strides(&result.view).last()?;
        let dense = (0..offsets.len()).all(|offset| offsets.contains(&offset));
        if !dense || (y_channel != 1 && outputs > 1) {
            return None;
        }
        let dims = nest(&[&input.view.without(last), &result.view.without(last)])?;
        let mut order: Vec<usize> = (0..offsets.len()).collect();
        order.sort_by_key(|&k| offsets[k]);
        let geometry = Geometry {
            weighted: &linear.weighted,
            channels: order.len(),
            order,
            images: 1,
            input: [1, 1],
            output: [1, 1],
            x: [0, 0, 0, 1],
            y: [0, 0, 0],
            kernel: [1, 1],
            stride: [1, 1],
            dilation: [1, 1],
            pad: [0, 0],
            pads: false,
            groups: 1,
        };
        geometry.with_positions(dims)
    }

    /// The same with images, rows and columns joined as far as they follow each other, if the window is a single element.
    fn joined(self) -> Self {
        if self.kernel != [1, 1] || self.stride != [1, 1] || self.pads {
            return self;
        }
        let dim = |extent: usize, x: usize, y: usize| Dim { extent, strides: vec![x as isize, y as isize] };
        let dims = vec![
            dim(self.images, self.x[0], self.y[0]),
            dim(self.input[0], self.x[1], self.y[1]),
            dim(self.input[1], self.x[2], self.y[2]),
        ];
        self.clone().with_positions(dims).unwrap_or(self)
    }

    /// The same at other positions, for a window of a single element; `None` if they do not form rows of images.
    fn with_positions(mut self, dims: Vec<Dim>) -> Option<Self> {
        let dims = joined(dims);
        let one = Dim { extent: 1, strides: vec![0, 0] };
        let (images, rows, columns) = match &dims[..] {
            [] => (&one, &one, &one),
            [columns] => (&one, &one, columns),
            [rows, columns] => (&one, rows, columns),
            [images, rows, columns] => (images, rows, columns),
            _ => return None,
        };
        let stride = |dim: &Dim, tensor: usize| usize::try_from(dim.strides[tensor]).ok();
        self.images = images.extent;
        self.input = [rows.extent, columns.extent];
        self.output = self.input;
        self.x = [stride(images, 0)?, stride(rows, 0)?, stride(columns, 0)?, self.x[3]];
        self.y = [stride(images, 1)?, stride(rows, 1)?, stride(columns, 1)?];
        Some(self)
    }

    /// Input channels that each output channel sees.
    pub fn group_inputs(&self) -> usize {
        self.channels / self.groups
    }

    /// Output channels of a group.
    pub fn group_outputs(&self) -> usize {
        self.weighted.channels.len() / self.groups
    }

    /// Number of taps of the window.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// The weight for the `input`th channel in memory at a tap.
    pub fn weight(&self, output: usize, tap: usize, input: usize) -> i64 {
        i64::from(self.weighted.row(output)[self.order[input] * self.taps() + tap])
    }

    /// Whether pixels lie one after the other, each with its channels as neighbours.
    pub fn packed(&self) -> bool {
        (self.channels == 1 || self.x[3] == 1) && (self.input[1] == 1 || self.x[2] == self.channels)
    }

    /// The bias of a channel, less what the input's zero point adds to the sum of a whole window.
    pub fn bias(&self, output: usize) -> i64 {
        let sum: i64 = self.weighted.row(output).iter().map(|&w| i64::from(w)).sum();
        i64::from(self.weighted.channels[output].bias) - i64::from(self.weighted.input_zero) * sum
    }

    /// Elements of the result.
    pub fn results(&self) -> usize {
        self.images * self.output[0] * self.output[1] * self.weighted.channels.len()
    }
}
