//! Convolution over any number of spatial axes, with groups (ONNX `Conv`).

use super::export::{Export, list};
use super::import::{Attribute, NodeImport};
use super::weighted::Weighted;
use super::{ExportSite, FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{FloatTensor, Interval, QuantType, RealClamp, Shape, Window};

/// A convolution of real numbers. Input `N x C x spatial`, result `N x O x spatial`.
#[derive(Debug, Clone)]
pub struct Conv {
    /// Shape `O x C/groups x kernel`.
    pub weights: FloatTensor,
    /// One for each output channel.
    pub bias: Vec<f32>,
    /// Geometry of the spatial axes.
    pub window: Window,
    /// Number of independent groups of channels.
    pub groups: usize,
    /// Fused activation.
    pub clamp: RealClamp,
}

/// A convolution of integers: `clamp(y_zero + multiplier[o](bias[o] + sum w * (x - x_zero)))`; the sum runs over
/// the taps inside the input.
#[derive(Debug, Clone)]
pub struct QConv {
    /// Weights in rows of `C/groups x kernel`, channels, zero points.
    pub weighted: Weighted,
    /// Geometry of the spatial axes.
    pub window: Window,
    /// Number of independent groups of channels.
    pub groups: usize,
}

impl QConv {
    /// Number of input channels that each output channel sees.
    pub fn group_inputs(&self) -> usize {
        self.weighted.weights.len() / self.weighted.channels.len().max(1) / self.window.taps()
    }

    /// Number of output channels of a group.
    pub fn group_outputs(&self) -> usize {
        self.weighted.channels.len() / self.groups
    }
}

/// Imports `Conv`.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let weights = cx.float_constant(1)?;
    let out_channels = weights.shape.dims().first().copied().unwrap_or(0);
    let rank = weights.shape.rank().saturating_sub(2);
    if cx.shape(x).rank() != rank + 2 || rank == 0 {
        return Err(cx.invalid(format!(
            "weights of shape {} do not fit an input of shape {}",
            weights.shape,
            cx.shape(x)
        )));
    }
    let bias = match cx.optional(2) {
        Some(_) => cx.float_constant(2)?.data,
        None => vec![0.0; out_channels],
    };
    let kernel = weights.shape.dims()[2..].to_vec();
    if let Some(declared) = cx.usizes("kernel_shape")?.filter(|declared| *declared != kernel) {
        return Err(
            cx.invalid(format!("attribute kernel_shape {declared:?} and weights of shape {} disagree", weights.shape))
        );
    }
    let spatial = cx.shape(x).dims()[2..].to_vec();
    let window = cx.window(kernel, &spatial)?;
    let groups = cx.usize_or("group", 1)?;
    let conv = Conv { weights, bias, window, groups, clamp: RealClamp::NONE };
    cx.finish(0, conv, &[x]).map(drop)
}

fn infer(
    input: &Shape,
    out_channels: usize,
    group_inputs: usize,
    groups: usize,
    window: &Window,
) -> Result<Shape, String> {
    let &[batch, channels, ref spatial @ ..] = input.dims() else {
        return Err(format!("input {input} has no channel axis"));
    };
    if spatial.len() != window.rank() {
        return Err(format!("input {input} does not have {} spatial axes", window.rank()));
    }
    if groups == 0 || channels != group_inputs * groups || !out_channels.is_multiple_of(groups) {
        return Err(format!(
            "{channels} input and {out_channels} output channels do not form {groups} groups of {group_inputs}"
        ));
    }
    let mut dims = vec![batch, out_channels];
    for (axis, &size) in spatial.iter().enumerate() {
        dims.push(
            window
                .output_size(axis, size)
                .ok_or_else(|| format!("the window ({window}) is larger than the padded input {input}"))?,
        );
    }
    Ok(Shape::new(dims))
}

impl FloatOperator for Conv {
    fn kind(&self) -> &'static str {
        "Conv"
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        let &[out_channels, group_inputs, ref kernel @ ..] = self.weights.shape.dims() else {
            return Err(format!("weights have shape {}", self.weights.shape));
        };
        if kernel != self.window.kernel || self.bias.len() != out_channels {
            return Err(format!(
                "weights {}, {} biases and window ({}) disagree",
                self.weights.shape,
                self.bias.len(),
                self.window
            ));
        }
        infer(operands[0], out_channels, group_inputs, self.groups, &self.window)
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let clamp = self.clamp.quantize(site.result_params(), site.result.dtype);
        let weighted = Weighted::quantize(&self.weights, &self.bias, clamp, site)?;
        Ok(QConv { weighted, window: self.window.clone(), groups: self.groups }.into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        let QuantOp::Conv(conv) = site.op else { return Err(Problem::unsupported("its result is a constant")) };
        let (input, output) = site.params()?;
        let [w, b] = export.weighted(&conv.weighted, self.weights.shape.dims(), input, output);
        let attributes =
            [&window_attributes(&self.window)[..], &[("group", Attribute::Int(self.groups as i64))]].concat();
        Ok(export.node("Conv", &[site.x(), &w, &b], &attributes))
    }

    fn describe(&self) -> String {
        format!("{}, groups {}, clamp {}", self.window, self.groups, self.clamp)
    }

    fn clamp_mut(&mut self) -> Option<&mut RealClamp> {
        Some(&mut self.clamp)
    }
}

impl QuantOperator for QConv {
    fn kind(&self) -> &'static str {
        "Conv"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands[0], self.weighted.channels.len(), self.group_inputs(), self.groups, &self.window)
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let x = operands[0];
        let channels = 0..self.weighted.channels.len();
        // Weights and zero points are int8 values.
        let weights: Vec<i16> = channels.flat_map(|o| self.weighted.factors(o).map(|w| w as i16)).collect();
        let outputs: usize = result.shape.dims()[2..].iter().product();
        let out_channels = self.weighted.channels.len();
        let row_len = self.group_inputs() * self.window.taps();
        let spatial = Shape::new(&x.ty.shape.dims()[2..]);
        let mut y = vec![0; result.shape.len()];
        let mut patch = vec![0i16; row_len];
        for batch in 0..result.shape.dims()[0] {
            for at in 0..outputs {
                let taps = self.positions(&spatial, &Shape::new(&result.shape.dims()[2..]).unravel(at));
                for group in 0..self.groups {
                    self.gather(x, &taps, batch, group, &mut patch);
                    for o in group * self.group_outputs()..(group + 1) * self.group_outputs() {
                        let bias = i64::from(self.weighted.channels[o].bias);
                        let acc = bias + dot(&patch, &weights[o * row_len..][..row_len]);
                        y[(batch * out_channels + o) * outputs + at] = self.weighted.finish(o, acc);
                    }
                }
            }
        }
        y
    }

    fn describe(&self) -> String {
        format!("{}, groups {}, {}", self.window, self.groups, self.weighted.describe())
    }

    fn formula(&self) -> String {
        format!("{}, groups {}; {}", self.window, self.groups, self.weighted.formula())
    }

    fn is_unusual(&self) -> bool {
        self.weighted.is_unusual()
    }

    fn accumulator(&self) -> Option<Interval> {
        self.weighted.accumulator()
    }

    fn macs(&self, result: &Shape) -> u64 {
        (result.len() * self.group_inputs() * self.window.taps()) as u64
    }
}

impl QConv {
    /// `x - x_zero` at these positions, 0 outside of the input, in the order of a row of weights.
    fn gather(&self, x: Operand, taps: &[Option<usize>], batch: usize, group: usize, patch: &mut [i16]) {
        let dims = x.ty.shape.dims();
        let plane_len: usize = dims[2..].iter().product();
        for (c, row) in patch.chunks_exact_mut(taps.len()).enumerate() {
            let plane = &x.data[(batch * dims[1] + group * self.group_inputs() + c) * plane_len..][..plane_len];
            for (value, position) in row.iter_mut().zip(taps) {
                // A difference of two int8 values fits 16 bits, and the zero point of int16 is 0.
                *value = position.map_or(0, |position| plane[position] - self.weighted.input_zero) as i16;
            }
        }
    }

    /// Input position of every tap of one output position; `None` in the padding.
    fn positions(&self, spatial: &Shape, output: &[usize]) -> Vec<Option<usize>> {
        let kernel = Shape::new(self.window.kernel.clone());
        (0..kernel.len()).map(|tap| self.position(spatial, output, &kernel.unravel(tap))).collect()
    }

    fn position(&self, spatial: &Shape, output: &[usize], tap: &[usize]) -> Option<usize> {
        let window = &self.window;
        let mut flat = 0;
        for (axis, &size) in spatial.dims().iter().enumerate() {
            let at = (output[axis] * window.stride[axis] + tap[axis] * window.dilation[axis])
                .checked_sub(window.pad_begin[axis])?;
            if at >= size {
                return None;
            }
            flat = flat * size + at;
        }
        Some(flat)
    }
}

/// The attributes of a window without `ceil_mode`.
pub(super) fn window_attributes(window: &Window) -> Vec<(&'static str, Attribute)> {
    vec![
        ("kernel_shape", list(&window.kernel)),
        ("strides", list(&window.stride)),
        ("dilations", list(&window.dilation)),
        ("pads", list(&[&window.pad_begin[..], &window.pad_end].concat())),
    ]
}

/// Sum of products of which one factor is a weight. So many of them fit 32 bits; wrapping lets the host use its vector
/// unit.
pub(super) fn dot(a: &[i16], weights: &[i16]) -> i64 {
    const FIT: usize = 256;
    let sum = |(a, b): (&[i16], &[i16])| {
        a.iter().zip(b).fold(0i32, |acc, (&a, &b)| acc.wrapping_add(i32::from(a).wrapping_mul(i32::from(b))))
    };
    a.chunks(FIT).zip(weights.chunks(FIT)).map(|pair| i64::from(sum(pair))).sum()
}
