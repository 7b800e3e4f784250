//! Transposed convolution (ONNX `ConvTranspose`). It is fused like a convolution; then the pass `split_transposed` makes
//! it convolutions, one for each phase of the stride, so that there are no products with inserted zeros.

use super::conv::Conv;
use super::import::NodeImport;
use super::{FloatOperator, Problem, QuantOp, Site};
use crate::diag;
use crate::ir::{FloatTensor, RealClamp, Shape, Window};

/// A transposed convolution of real numbers. Input `N x C x spatial`, result `N x O x spatial`.
#[derive(Debug, Clone)]
pub struct ConvTranspose {
    /// Shape `O x C/groups x kernel`, as a convolution has it.
    pub weights: FloatTensor,
    /// One for each output channel.
    pub bias: Vec<f32>,
    /// Distance of two inputs, in elements of the result.
    pub stride: Vec<usize>,
    /// Distance of two taps, in elements of the result.
    pub dilation: Vec<usize>,
    /// Elements cut off before each axis of the result; negative if some are added.
    pub cut: Vec<isize>,
    /// Spatial sizes of the result.
    pub sizes: Vec<usize>,
    /// Number of independent groups of channels.
    pub groups: usize,
    /// Fused activation.
    pub clamp: RealClamp,
}

/// How a phase of the result along one axis is computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phase {
    /// The first element of the result that belongs to it.
    pub start: usize,
    /// Number of elements.
    pub count: usize,
    /// Taps of the kernel that reach it, in the order of rising positions in the input.
    pub taps: Vec<usize>,
    /// Distance of two taps in the input.
    pub dilation: usize,
    /// Position in the input of the first tap for the first element; may lie before the input.
    pub first: isize,
}

/// The largest size, stride and padding that is taken seriously.
const MAX_STEP: i64 = 1 << 24;

/// Imports `ConvTranspose`.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let (spatial, weights) = (cx.spatial(x)?, cx.float_constant(1)?);
    let (rank, groups) = (spatial.len(), cx.usize_or("group", 1)?);
    let fits = weights.shape.rank() == rank + 2 && weights.shape.dims()[0] == cx.shape(x).dims()[1] && groups > 0;
    if !fits || !weights.shape.dims()[0].is_multiple_of(groups) {
        return Err(cx.invalid(format!(
            "weights of shape {} in {groups} groups do not fit an input of shape {}",
            weights.shape,
            cx.shape(x)
        )));
    }
    let weights = by_output_channel(&weights, groups);
    let kernel = weights.shape.dims()[2..].to_vec();
    if let Some(declared) = cx.usizes("kernel_shape")?.filter(|declared| *declared != kernel) {
        return Err(cx.invalid(format!("attribute kernel_shape {declared:?} and weights of {kernel:?} disagree")));
    }
    let bias = match cx.optional(2) {
        Some(_) => cx.float_constant(2)?.data,
        None => vec![0.0; weights.shape.dims()[0]],
    };
    if bias.len() != weights.shape.dims()[0] {
        return Err(cx.invalid(format!("{} biases for {} output channels", bias.len(), weights.shape.dims()[0])));
    }
    let (stride, dilation) = (list(cx, "strides", rank, 1)?, list(cx, "dilations", rank, 1)?);
    if stride.contains(&0) || dilation.contains(&0) || kernel.contains(&0) {
        return Err(cx.invalid("a stride, dilation or kernel is 0"));
    }
    let full = |axis: usize| (stride[axis] * (spatial[axis] - 1) + (kernel[axis] - 1) * dilation[axis] + 1) as isize;
    let full: Vec<isize> = (0..rank).map(full).collect();
    let (cut, sizes) = extents(cx, &spatial, &stride, &full)?;
    let clamp = RealClamp::NONE;
    let op = ConvTranspose { weights, bias, stride, dilation, cut, sizes, groups, clamp };
    cx.finish(0, op, &[x]).map(drop)
}

fn list(cx: &NodeImport, name: &str, len: usize, default: usize) -> diag::Result<Vec<usize>> {
    let values = cx.usizes(name)?.unwrap_or_else(|| vec![default; len]);
    if values.len() != len {
        return Err(cx.invalid(format!("attribute {name} has {} numbers instead of {len}", values.len())));
    }
    if values.iter().any(|&value| value as i64 > MAX_STEP) {
        return Err(cx.unsupported(format!("attribute {name} is {values:?}"), "give smaller numbers"));
    }
    Ok(values)
}

/// What is cut off before the result, and the result's sizes; `full` are the sizes with nothing cut off.
fn extents(
    cx: &NodeImport,
    spatial: &[usize],
    stride: &[usize],
    full: &[isize],
) -> diag::Result<(Vec<isize>, Vec<usize>)> {
    let rank = full.len();
    let extra = list(cx, "output_padding", rank, 0)?;
    let auto_pad = cx.string_or("auto_pad", "NOTSET")?;
    let same = matches!(auto_pad.as_str(), "SAME_UPPER" | "SAME_LOWER");
    let wanted = match cx.usizes("output_shape")? {
        // Some exporters write all axes.
        Some(shape) if shape.len() == rank + 2 => Some(shape[2..].to_vec()),
        Some(shape) if shape.len() == rank => Some(shape),
        Some(shape) => return Err(cx.invalid(format!("attribute output_shape is {shape:?}"))),
        None if same => Some((0..rank).map(|axis| spatial[axis] * stride[axis]).collect()),
        None => None,
    };
    let (cut, sizes): (Vec<isize>, Vec<isize>) = match wanted {
        Some(sizes) => {
            let sizes: Vec<isize> = sizes.into_iter().map(|size| size as isize).collect();
            let total = |axis: usize| (full[axis] + extra[axis] as isize - sizes[axis]).max(0);
            let begin = |total: isize| if auto_pad == "SAME_UPPER" { total / 2 } else { total - total / 2 };
            ((0..rank).map(|axis| begin(total(axis))).collect(), sizes)
        }
        None => {
            let pads = match auto_pad.as_str() {
                "VALID" => vec![0; 2 * rank],
                _ => list(cx, "pads", 2 * rank, 0)?,
            };
            let size = |axis: usize| full[axis] + extra[axis] as isize - (pads[axis] + pads[rank + axis]) as isize;
            (pads[..rank].iter().map(|&pad| pad as isize).collect(), (0..rank).map(size).collect())
        }
    };
    match sizes.iter().all(|&size| size > 0 && size as i64 <= MAX_STEP) {
        true => Ok((cut, sizes.into_iter().map(|size| size as usize).collect())),
        false => Err(cx.invalid(format!("its result would have spatial sizes {sizes:?}"))),
    }
}

/// From ONNX's `C x O/groups x kernel` to `O x C/groups x kernel`.
fn by_output_channel(weights: &FloatTensor, groups: usize) -> FloatTensor {
    let dims = weights.shape.dims();
    let (inputs, outputs, taps) = (dims[0] / groups, dims[1], dims[2..].iter().product::<usize>());
    let mut data = Vec::with_capacity(weights.data.len());
    for group in 0..groups {
        for output in 0..outputs {
            for input in 0..inputs {
                let start = ((group * inputs + input) * outputs + output) * taps;
                data.extend(&weights.data[start..start + taps]);
            }
        }
    }
    let shape = [&[groups * outputs, inputs], &dims[2..]].concat();
    FloatTensor::new(Shape::new(shape), data)
}

impl ConvTranspose {
    /// The phases of one axis with an element, in the order of their first elements. Element `o` of the result is a sum over
    /// the taps `k` for which `o + cut - k * dilation` is a multiple of the stride: the positions in the input.
    pub fn phases(&self, axis: usize) -> Vec<Phase> {
        let (stride, dilation) = (self.stride[axis] as isize, self.dilation[axis] as isize);
        let phases = self.stride[axis].min(self.sizes[axis]);
        let phase = |start: usize| {
            let origin = start as isize + self.cut[axis];
            let reaches = |&tap: &usize| (origin - tap as isize * dilation).rem_euclid(stride) == 0;
            let taps: Vec<usize> = (0..self.weights.shape.dims()[axis + 2]).filter(reaches).rev().collect();
            let position = |tap: usize| (origin - tap as isize * dilation).div_euclid(stride);
            let first = taps.first().map_or(0, |&tap| position(tap));
            let dilation = match taps[..] {
                [a, b, ..] => (position(b) - position(a)) as usize,
                _ => 1,
            };
            let count = (self.sizes[axis] - start).div_ceil(self.stride[axis]);
            Phase { start, count, taps, dilation, first }
        };
        (0..phases).map(phase).collect()
    }

    /// The convolution that computes one combination of phases from an input that begins at `first` of each phase (cut or
    /// padded before it by as much); `None` if no tap reaches it. `spatial` are the sizes of that input.
    pub fn convolution(&self, phases: &[&Phase], pads: &[(usize, usize)]) -> Option<Conv> {
        if phases.iter().any(|phase| phase.taps.is_empty()) {
            return None;
        }
        let kernel: Vec<usize> = phases.iter().map(|phase| phase.taps.len()).collect();
        let taps = Shape::new(kernel.clone());
        let own = Shape::new(&self.weights.shape.dims()[2..]).strides();
        let source = |flat: usize| -> usize {
            taps.unravel(flat).iter().zip(phases).zip(&own).map(|((&i, phase), stride)| phase.taps[i] * stride).sum()
        };
        let sources: Vec<usize> = (0..taps.len()).map(source).collect();
        let all: usize = self.weights.shape.dims()[2..].iter().product();
        let data = self.weights.data.chunks(all).flat_map(|row| sources.iter().map(|&at| row[at]));
        let shape = [&self.weights.shape.dims()[..2], &kernel].concat();
        Some(Conv {
            // Rows of output channels stay rows.
            weights: FloatTensor::new(Shape::new(shape), data.collect()).with_steps(self.weights.steps.clone()),
            bias: self.bias.clone(),
            window: Window {
                dilation: phases.iter().map(|phase| phase.dilation).collect(),
                pad_begin: pads.iter().map(|pad| pad.0).collect(),
                pad_end: pads.iter().map(|pad| pad.1).collect(),
                kernel,
                ..Window::unit(phases.len())
            },
            groups: self.groups,
            clamp: self.clamp,
        })
    }
}

impl FloatOperator for ConvTranspose {
    fn kind(&self) -> &'static str {
        "ConvTranspose"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        let inputs = self.weights.shape.dims()[1] * self.groups;
        match *operands[0].dims() {
            [batch, channels, ref spatial @ ..] if channels == inputs && spatial.len() == self.sizes.len() => {
                Ok(Shape::new([&[batch, self.bias.len()], &self.sizes[..]].concat()))
            }
            _ => Err(format!("input {} does not fit weights of shape {}", operands[0], self.weights.shape)),
        }
    }

    fn quantize(&self, _site: &Site) -> Result<QuantOp, Problem> {
        Err(Problem::unsupported("a transposed convolution has not been split into convolutions"))
    }

    fn describe(&self) -> String {
        format!(
            "weights {}, stride {:?}, dilation {:?}, cut {:?}, groups {}, clamp {}",
            self.weights.shape, self.stride, self.dilation, self.cut, self.groups, self.clamp
        )
    }

    fn clamp_mut(&mut self) -> Option<&mut RealClamp> {
        Some(&mut self.clamp)
    }
}
