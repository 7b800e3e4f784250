//! From a layer of the plan to sizes and strides: which layers are products of rows or depthwise convolutions, and
//! their weights in the order in which they are read.

use super::pack::Row;
use super::shape::{Depthwise, Patches, Product};
use crate::ir::{Multiplier, Window};
use crate::ops::QuantOp;
use crate::ops::conv::QConv;
use crate::ops::linear::QLinear;
use crate::ops::weighted::Weighted;
use crate::plan::{Dim, Layer, Place, Plan, PlannedTensor, Work, joined, nest, row_offsets};

/// A layer as a product, with the parts that its constants are made from.
#[derive(Debug)]
pub struct ProductLayer<'a> {
    /// Sizes and strides.
    pub product: Product,
    /// Output channels.
    pub weighted: &'a Weighted,
    /// Position in a row of weights of each element of a row of the operand.
    order: Vec<usize>,
}

/// The layer as a product; `None` if it is none, or if a multiplier is one half or more.
pub fn product<'a>(layer: &'a Layer, plan: &Plan) -> Option<ProductLayer<'a>> {
    let Work::Operator(op) = &layer.work else { return None };
    let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
    let found = match op {
        QuantOp::Conv(conv) if conv.groups == 1 => pointwise(conv, x, y).or_else(|| windows(conv, x, y, plan)),
        QuantOp::Linear(linear) => rows_of_linear(linear, x, y),
        _ => None,
    };
    found.filter(|found| layer.added.is_none() && narrow(found.weighted))
}

/// Whether twice every multiplier fits a signed word, and so does the sum of the partial products of 16 bits that
/// processors without a long product compute. Constant channels are computed otherwise.
pub fn narrow(weighted: &Weighted) -> bool {
    let fits = |channel_idx: usize| {
        let channel = &weighted.channels[channel_idx];
        let reach = channel.bound.lo.abs().max(channel.bound.hi.abs());
        let partial = |factor: i64| i128::from(factor >> 16) + (reach >> 16);
        is_constant(weighted, channel_idx)
            || doubled(channel.multiplier).is_some_and(|factor| partial(factor) < MOST_PARTIAL)
    };
    (0..weighted.channels.len()).all(fits)
}

/// In units of 2^16: a little below 2^15, for the zero point and what is rounded.
const MOST_PARTIAL: i128 = 32_000;

fn is_constant(weighted: &Weighted, channel_idx: usize) -> bool {
    weighted.row(channel_idx).iter().all(|&weight| weight == 0)
}

fn doubled(multiplier: Multiplier) -> Option<i64> {
    let doubled = 2 * multiplier.factor();
    i32::try_from(doubled).is_ok().then_some(doubled)
}

/// Bias and doubled multiplier of a channel. What a constant channel is multiplied with is free: a quarter.
pub fn channel(weighted: &Weighted, channel_idx: usize) -> (i64, i64) {
    let channel = &weighted.channels[channel_idx];
    match doubled(channel.multiplier) {
        Some(factor) if !is_constant(weighted, channel_idx) => (i64::from(channel.bias), factor),
        _ => (4 * i64::from(weighted.finish(channel_idx, channel.bias.into()) - weighted.output_zero), 1 << 30),
    }
}

impl ProductLayer<'_> {
    /// The output channels, with the input's zero point in the biases.
    pub fn rows(&self) -> Vec<Row> {
        let row = |channel_idx: usize| {
            let row = self.weighted.row(channel_idx);
            let weights: Vec<i8> = self.order.iter().map(|&at| row[at]).collect();
            let (bias, factor) = channel(self.weighted, channel_idx);
            Row::new(bias, factor, weights, self.weighted.input_zero)
        };
        (0..self.weighted.channels.len()).map(row).collect()
    }
}

/// A 1x1 convolution of positions that lie one behind the other.
fn pointwise<'a>(conv: &'a QConv, x: &PlannedTensor, y: &PlannedTensor) -> Option<ProductLayer<'a>> {
    let window = &conv.window;
    let dims = x.ty.shape.dims();
    if window.taps() != 1 || window.stride.iter().any(|&stride| stride != 1) || window.pads(&dims[2..]) {
        return None;
    }
    let (k, channels) = (conv.group_inputs(), conv.weighted.channels.len());
    let (xs, ys) = (x.view.strides()?, y.view.strides()?);
    let positions = (0..dims.len()).filter(|&axis| axis != 1);
    let positions = positions
        .map(|axis| Dim { extent: y.ty.shape.dims()[axis], strides: vec![xs[axis] as isize, ys[axis] as isize] });
    let pixels = dense_rows(joined(positions.collect()), k, channels)?;
    let last = |stride: usize, extent: usize| extent == 1 || stride == 1;
    if !last(xs[1], k) || !last(ys[1], channels) {
        return None;
    }
    let product = Product { pixels, k, channels, patches: None, clamp: conv.weighted.clamp };
    Some(ProductLayer { product, weighted: &conv.weighted, order: (0..k).collect() })
}

/// How many rows there are, if they lie one behind the other in both tensors.
fn dense_rows(dims: Vec<Dim>, k: usize, channels: usize) -> Option<usize> {
    match &dims[..] {
        [] => Some(1),
        [dim] if dim.strides == [k as isize, channels as isize] => Some(dim.extent),
        _ => None,
    }
}

fn rows_of_linear<'a>(linear: &'a QLinear, x: &PlannedTensor, y: &PlannedTensor) -> Option<ProductLayer<'a>> {
    let last = x.ty.shape.rank() - 1;
    let offsets = row_offsets(&x.view, &x.ty.shape)?;
    let mut order: Vec<usize> = (0..offsets.len()).collect();
    order.sort_by_key(|&k| offsets[k]);
    let (k, channels) = (linear.row_len(), linear.weighted.channels.len());
    let step = if order.len() > 1 { offsets[order[1]] } else { 1 };
    let dims = nest(&[&x.view.without(last), &y.view.without(last)])?;
    let pixels = dense_rows(joined(dims), k, channels)?;
    let y_step = y.view.strides()?[last];
    if step != 1 || (channels > 1 && y_step != 1) {
        return None;
    }
    let product = Product { pixels, k, channels, patches: None, clamp: linear.weighted.clamp };
    Some(ProductLayer { product, weighted: &linear.weighted, order })
}

/// A tensor of one sample as lines of columns.
#[derive(Debug, Clone, Copy)]
pub struct Plane {
    /// Lines and columns.
    pub size: [usize; 2],
    /// Bytes between lines and between columns.
    pub strides: [usize; 2],
    /// Number of channels.
    pub channels: usize,
    /// Bytes between channels.
    pub channel_stride: usize,
}

/// A window over lines and columns.
#[derive(Debug, Clone, Copy)]
pub struct PlaneWindow {
    /// Taps.
    pub kernel: [usize; 2],
    /// Distance of two windows.
    pub stride: [usize; 2],
    /// Distance of two taps.
    pub dilation: [usize; 2],
    /// Elements of padding before.
    pub pad: [usize; 2],
}

/// The single sample of a tensor of one or two spatial axes; `swap` exchanges lines and columns.
pub fn plane(tensor: &PlannedTensor, swap: bool) -> Option<Plane> {
    let (dims, strides) = (tensor.ty.shape.dims(), tensor.view.strides()?);
    let (mut size, mut steps) = match dims.len() {
        3 => ([1, dims[2]], [0, strides[2]]),
        4 => ([dims[2], dims[3]], [strides[2], strides[3]]),
        _ => return None,
    };
    if swap {
        size.reverse();
        steps.reverse();
    }
    let plane = Plane { size, strides: steps, channels: dims[1], channel_stride: strides[1] };
    (dims[0] == 1).then_some(plane)
}

/// The window on the axes of [`plane`].
pub fn plane_window(window: &Window, swap: bool) -> Option<PlaneWindow> {
    let pair = |values: &[usize], missing: usize| {
        let mut pair = match *values {
            [x] => [missing, x],
            [y, x] => [y, x],
            _ => return None,
        };
        if swap {
            pair.reverse();
        }
        Some(pair)
    };
    Some(PlaneWindow {
        kernel: pair(&window.kernel, 1)?,
        stride: pair(&window.stride, 1)?,
        dilation: pair(&window.dilation, 1)?,
        pad: pair(&window.pad_begin, 0)?,
    })
}

fn windows<'a>(conv: &'a QConv, x: &PlannedTensor, y: &PlannedTensor, plan: &Plan) -> Option<ProductLayer<'a>> {
    // A dilated window over one axis is read line by line.
    let swap = conv.window.rank() == 1 && conv.window.dilation[0] > 1 && conv.window.kernel[0] > 1;
    let (from, to) = (plane(x, swap)?, plane(y, swap)?);
    let window = plane_window(&conv.window, swap)?;
    let single = |extent: usize, stride: usize, wanted: usize| extent == 1 || stride == wanted;
    let channels = to.channels;
    let result_dense = single(channels, to.channel_stride, 1)
        && single(to.size[1], to.strides[1], channels)
        && single(to.size[0], to.strides[0], channels * to.size[1]);
    if !result_dense || (window.kernel[1] > 1 && window.dilation[1] > 1) {
        return None;
    }
    let inputs = from.channels;
    let last = single(inputs, from.channel_stride, 1) && single(from.size[1], from.strides[1], inputs);
    let (planes, step) = if last { (1, inputs) } else { (inputs, 1) };
    if !last && !single(from.size[1], from.strides[1], 1) {
        return None;
    }
    let in_arena = matches!(plan.buffers[x.buffer].place, Place::Arena(_));
    let patches = Patches {
        aligned: in_arena && planes == 1 && step.is_multiple_of(4) && from.strides[0].is_multiple_of(4),
        planes,
        plane_stride: if planes > 1 { from.channel_stride } else { 0 },
        step,
        pitch: from.strides[0],
        height: from.size[0],
        width: from.size[1],
        kernel: window.kernel,
        stride: window.stride,
        pad: window.pad,
        dilation: window.dilation[0],
        outputs: to.size,
    };
    let taps = conv.window.taps();
    let order = match planes {
        1 => (0..taps).flat_map(|tap| (0..inputs).map(move |i| i * taps + tap)).collect(),
        _ => (0..taps * inputs).collect(),
    };
    let product = Product {
        pixels: to.size[0] * to.size[1],
        k: taps * inputs,
        channels,
        patches: Some(patches.clone()),
        clamp: conv.weighted.clamp,
    };
    patches.meets().then_some(ProductLayer { product, weighted: &conv.weighted, order })
}

/// A layer as a depthwise convolution.
#[derive(Debug)]
pub struct DepthwiseLayer<'a> {
    /// Sizes and strides.
    pub depthwise: Depthwise,
    /// Channels.
    pub weighted: &'a Weighted,
    /// Whether lines and columns are exchanged, and the taps with them.
    swapped: bool,
}

/// The layer as a depthwise convolution; `None` if it is none. The longer axis is along the lines.
pub fn depthwise<'a>(layer: &'a Layer, plan: &Plan) -> Option<DepthwiseLayer<'a>> {
    let Work::Operator(QuantOp::Conv(conv)) = &layer.work else { return None };
    let (x, y) = (plan.tensor(layer.operands[0]), plan.tensor(layer.result));
    let channels = conv.weighted.channels.len();
    let each_by_itself = conv.group_inputs() == 1 && conv.groups == channels;
    if !each_by_itself || layer.added.is_some() || !narrow(&conv.weighted) {
        return None;
    }
    let size = plane(y, false)?.size;
    let dilated = |swap: bool| plane_window(&conv.window, swap).is_some_and(|w| w.kernel[1] > 1 && w.dilation[1] > 1);
    let wanted = size[0] > size[1];
    let swapped = if dilated(wanted) { !wanted } else { wanted };
    let (from, to, window) = (plane(x, swapped)?, plane(y, swapped)?, plane_window(&conv.window, swapped)?);
    let depthwise = Depthwise {
        channels,
        size: from.size,
        from: [from.strides[0], from.strides[1], from.channel_stride],
        to: [to.strides[0], to.strides[1], to.channel_stride],
        kernel: window.kernel,
        stride: window.stride,
        dilation: window.dilation[0],
        pad: window.pad,
        outputs: to.size,
        clamp: conv.weighted.clamp,
    };
    let reaches = depthwise.covered().iter().all(|&extent| extent > 0);
    (reaches && !dilated(swapped)).then_some(DepthwiseLayer { depthwise, weighted: &conv.weighted, swapped })
}

impl DepthwiseLayer<'_> {
    /// The channels, with the input's zero point in the biases. `shift` is what the kernel adds to every element.
    pub fn rows(&self, shift: i32) -> Vec<Row> {
        let [lines, taps] = self.depthwise.kernel;
        let at = |line: usize, tap: usize| if self.swapped { tap * lines + line } else { line * taps + tap };
        let row = |channel_idx: usize| {
            let row = self.weighted.row(channel_idx);
            let weights: Vec<i8> =
                (0..lines).flat_map(|line| (0..taps).map(move |tap| (line, tap))).map(|(l, t)| row[at(l, t)]).collect();
            let (bias, factor) = channel(self.weighted, channel_idx);
            Row::new(bias, factor, weights, self.weighted.input_zero + shift)
        };
        (0..self.weighted.channels.len()).map(row).collect()
    }
}
