//! The shapes that the kernels of this folder know: windows over two axes, with the input's strides.

use crate::ops::QuantOp;
use crate::ops::weighted::Weighted;
use crate::plan::{Dim, Layer, Plan, View, Work, joined, nest, row_offsets};

/// A spatial axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    /// Length in the input.
    pub input: usize,
    /// Length in the result.
    pub output: usize,
    /// Taps of the window.
    pub kernel: usize,
    /// Distance between windows.
    pub stride: usize,
    /// Distance between taps.
    pub dilation: usize,
    /// Elements added in front.
    pub pad: usize,
    /// Distance of neighbours in the input.
    pub x: usize,
    /// Distance of neighbours in the result.
    pub y: usize,
}

/// A window over two axes that moves over a batch of images.
#[derive(Debug, Clone)]
pub struct Geometry<'a> {
    /// Weights in ONNX's order, channels, zero points.
    pub weighted: &'a Weighted,
    /// Number of images, and their distance in input and result.
    pub batch: (usize, usize, usize),
    /// Independent groups of channels.
    pub groups: usize,
    /// Input channels of a group.
    pub inputs: usize,
    /// Output channels of a group.
    pub outputs: usize,
    /// Distance of neighbouring input channels.
    pub channel: usize,
    /// The outer axis.
    pub rows: Axis,
    /// The inner axis.
    pub columns: Axis,
    /// For a product with a matrix: the position in a row of weights of each element, as they lie in memory.
    pub order: Option<Vec<usize>>,
}

impl Axis {
    /// A number of positions that have nothing to do with each other.
    fn positions(count: usize, x: usize, y: usize) -> Axis {
        Axis { input: count, output: count, kernel: 1, stride: 1, dilation: 1, pad: 0, x, y }
    }

    /// Positions that windows reach, padding included.
    pub fn reach(&self) -> usize {
        (self.output - 1) * self.stride + (self.kernel - 1) * self.dilation + 1
    }

    fn is_positions(&self) -> bool {
        (self.kernel, self.stride, self.pad) == (1, 1, 0) && self.input == self.output
    }
}

impl<'a> Geometry<'a> {
    /// The shape of a convolution or matrix product; `None` if it is another layer, has more axes, or does not write
    /// its channels next to each other.
    pub fn of(layer: &'a Layer, plan: &'a Plan) -> Option<Geometry<'a>> {
        let geometry = match &layer.work {
            Work::Operator(QuantOp::Conv(_)) => Geometry::of_conv(layer, plan)?,
            Work::Operator(QuantOp::Linear(_)) => Geometry::of_linear(layer, plan)?,
            _ => return None,
        };
        Some(geometry.flattened())
    }

    fn of_conv(layer: &'a Layer, plan: &'a Plan) -> Option<Geometry<'a>> {
        let Work::Operator(QuantOp::Conv(conv)) = &layer.work else { return None };
        let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
        let (x_strides, y_strides) = (x.view.strides()?, y.view.strides()?);
        let (x_dims, y_dims) = (x.ty.shape.dims(), y.ty.shape.dims());
        let window = &conv.window;
        let axis = |axis: usize| Axis {
            input: x_dims[axis + 2],
            output: y_dims[axis + 2],
            kernel: window.kernel[axis],
            stride: window.stride[axis],
            dilation: window.dilation[axis],
            pad: window.pad_begin[axis],
            x: x_strides[axis + 2],
            y: y_strides[axis + 2],
        };
        let (rows, columns) = match window.rank() {
            1 => (Axis::positions(1, 0, 0), axis(0)),
            2 => (axis(0), axis(1)),
            _ => return None,
        };
        let dense = y_dims[1] == 1 || y_strides[1] == 1;
        dense.then(|| Geometry {
            weighted: &conv.weighted,
            batch: (x_dims[0], x_strides[0], y_strides[0]),
            groups: conv.groups,
            inputs: conv.group_inputs(),
            outputs: conv.group_outputs(),
            channel: if x_dims[1] == 1 { 1 } else { x_strides[1] },
            rows,
            columns,
            order: None,
        })
    }

    fn of_linear(layer: &'a Layer, plan: &'a Plan) -> Option<Geometry<'a>> {
        let Work::Operator(QuantOp::Linear(linear)) = &layer.work else { return None };
        let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
        let last = x.ty.shape.rank() - 1;
        let offsets = row_offsets(&x.view, &x.ty.shape)?;
        let mut order: Vec<usize> = (0..offsets.len()).collect();
        order.sort_by_key(|&k| offsets[k]);
        let channel = if order.len() > 1 { offsets[order[1]] } else { 1 };
        let y_step = y.view.strides()?[last];
        let dims: Vec<Dim> = joined(nest(&[&x.view.without(last), &y.view.without(last)])?);
        let columns = match &dims[..] {
            [] => Axis::positions(1, 0, 0),
            [dim] => Axis::positions(
                dim.extent,
                usize::try_from(dim.strides[0]).ok()?,
                usize::try_from(dim.strides[1]).ok()?,
            ),
            _ => return None,
        };
        let outputs = linear.weighted.channels.len();
        (outputs == 1 || y_step == 1).then_some(Geometry {
            weighted: &linear.weighted,
            batch: (1, 0, 0),
            groups: 1,
            inputs: order.len(),
            outputs,
            channel,
            rows: Axis::positions(1, 0, 0),
            columns,
            order: Some(order),
        })
    }

    /// Rows that follow each other without a gap are one long row, where windows are single elements.
    fn flattened(mut self) -> Self {
        let (rows, columns) = (self.rows, self.columns);
        let joins =
            |outer: usize, inner: usize| rows.input == 1 || columns.input == 1 || outer == inner * columns.input;
        if rows.is_positions() && columns.is_positions() && joins(rows.x, columns.x) && joins(rows.y, columns.y) {
            let (x, y) = if columns.input == 1 { (rows.x, rows.y) } else { (columns.x, columns.y) };
            self.columns = Axis::positions(rows.input * columns.input, x, y);
            self.rows = Axis::positions(1, 0, 0);
        }
        self
    }

    /// Whether every output channel has an input channel of its own.
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.inputs == 1 && self.outputs == 1
    }

    /// Input channels of all groups.
    pub fn channels(&self) -> usize {
        self.groups * self.inputs
    }

    /// A weight, by output channel, input channel of its group, and tap.
    pub fn weight(&self, output: usize, input: usize, row: usize, column: usize) -> i64 {
        let weights = self.weighted.row(output);
        let index = match &self.order {
            Some(order) => order[input],
            None => (input * self.rows.kernel + row) * self.columns.kernel + column,
        };
        i64::from(weights[index])
    }

    /// The bias of an output channel for inputs that are larger by 128.
    pub fn bias(&self, output: usize) -> i64 {
        let sum: i64 = self.weighted.row(output).iter().map(|&w| i64::from(w)).sum();
        i64::from(self.weighted.channels[output].bias) - (i64::from(self.weighted.input_zero) + 128) * sum
    }
}

/// Whether a view has its elements without gaps in the order of another.
pub fn alike(views: &[&View]) -> bool {
    nest(views).is_some_and(|dims| dims.iter().all(|dim| dim.strides.iter().all(|&stride| stride == 1)))
}
