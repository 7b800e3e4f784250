//! Every element of the result is a weighted sum of few elements of the operand, with other elements and weights for each
//! position of an axis and no relation between axes: what ONNX `Resize`, `Tile` and `Expand` are.

use super::export::Export;
use super::import::{Attribute, NodeImport};
use super::reshape::Reshape;
use super::{ExportSite, FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site, mul, weighted};
use crate::diag;
use crate::ir::{Clamp, Interval, Multiplier, NodeId, QuantType, Rounding, Shape, round_half_even};

/// Which elements of an axis make up each position of the result, with real weights.
#[derive(Debug, Clone, PartialEq)]
pub struct AxisTaps {
    /// Elements of the operand's axis.
    pub size: usize,
    /// For each position of the result, indices and weights.
    pub positions: Vec<Vec<(usize, f64)>>,
}

/// The sums, along any number of axes.
#[derive(Debug, Clone)]
pub struct Resample {
    /// One for each axis; `None` where the axis stays as it is.
    pub axes: Vec<Option<AxisTaps>>,
    /// The whole of an ONNX `Resize`: its attributes and its scales, to write it again.
    pub resize: Option<Resize>,
}

/// Attributes of an ONNX `Resize` that are not their defaults, and its scale for each axis.
pub type Resize = (Vec<(String, Attribute)>, Vec<f32>);

/// The same on integers: `clamp(y_zero + multiplier(sum of products of weights * (x - x_zero)))`, or only copies.
#[derive(Debug, Clone)]
pub struct QResample {
    /// One for each axis; `None` where the axis stays as it is.
    pub axes: Vec<Option<QAxisTaps>>,
    /// From sum to result; `None` if elements are only copied.
    pub requantize: Option<ResampleSum>,
}

/// Which elements of an axis make up each position of the result, equally many for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QAxisTaps {
    /// Elements of the operand's axis.
    pub size: usize,
    /// Taps of each position.
    pub taps: usize,
    /// Indices, `taps` for each position of the result.
    pub indices: Vec<usize>,
    /// Weights, as many, with [`ResampleSum::bits`] fractional bits; `None` if all are 1 without any.
    pub weights: Option<Vec<i32>>,
}

/// From a sum with weights to the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResampleSum {
    /// Fractional bits of the weights of each axis that has some.
    pub bits: u32,
    /// Largest magnitude of the finished sum.
    pub reach: i32,
    /// From the sum to the result.
    pub multiplier: Multiplier,
    /// The integer that stands for 0 in the operand.
    pub input_zero: i32,
    /// The integer that stands for 0 in the result.
    pub output_zero: i32,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// Most fractional bits of a weight.
const MAX_BITS: u32 = 14;

/// Axes with weights that one sum takes; with more there would be too few bits for each.
pub const WEIGHTED_AXES: usize = 2;

impl AxisTaps {
    /// Copies of single elements.
    pub fn copies(size: usize, sources: impl IntoIterator<Item = usize>) -> AxisTaps {
        AxisTaps { size, positions: sources.into_iter().map(|source| vec![(source, 1.0)]).collect() }
    }

    /// Whether every position is a copy of one element.
    pub fn only_copies(&self) -> bool {
        self.positions.iter().all(|taps| matches!(taps[..], [(_, 1.0)]))
    }

    /// Whether every position lies between elements, or between elements and 0.
    fn is_convex(&self) -> bool {
        self.positions.iter().all(|taps| {
            let sum: f64 = taps.iter().map(|(_, weight)| weight).sum();
            taps.iter().all(|(_, weight)| *weight >= 0.0) && sum <= 1.0 + 1e-9
        })
    }

    /// Largest sum of the weights' absolute values.
    fn gain(&self) -> f64 {
        let gains = self.positions.iter().map(|taps| taps.iter().map(|(_, weight)| weight.abs()).sum::<f64>());
        gains.fold(0.0, f64::max)
    }

    fn quantize(&self, bits: u32) -> QAxisTaps {
        let taps = self.positions.iter().map(Vec::len).max().unwrap_or(1).max(1);
        let (mut indices, mut weights) = (vec![], vec![]);
        for position in &self.positions {
            let last = position.last().map_or(0, |(index, _)| *index);
            let given = position.iter().map(|(index, _)| *index);
            indices.extend(given.chain(std::iter::repeat(last)).take(taps));
            weights.extend(rounded(position, bits).into_iter().chain(std::iter::repeat(0)).take(taps));
        }
        QAxisTaps { size: self.size, taps, indices, weights: (!self.only_copies()).then_some(weights) }
    }
}

/// Weights with fractional bits whose sum is rounded like a single number: what belongs to the rest goes to the largest.
fn rounded(taps: &[(usize, f64)], bits: u32) -> Vec<i32> {
    let one = f64::from(1u32 << bits);
    let fixed = |weight: f64| round_half_even(weight * one) as i32;
    let mut weights: Vec<i32> = taps.iter().map(|(_, weight)| fixed(*weight)).collect();
    let rest = fixed(taps.iter().map(|(_, weight)| weight).sum()) - weights.iter().sum::<i32>();
    if let Some(largest) = weights.iter_mut().max_by_key(|weight| weight.abs()) {
        *largest += rest;
    }
    weights
}

/// Imports `Tile`.
pub fn import_tile(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let shape = cx.shape(x);
    let repeats = cx.int_constant(1)?;
    if repeats.len() != shape.rank() || repeats.iter().any(|&repeats| repeats < 1) {
        return Err(cx.invalid(format!("it repeats {shape} {repeats:?} times")));
    }
    let sizes: Vec<usize> =
        shape.dims().iter().zip(&repeats).map(|(&size, &repeats)| size.saturating_mul(repeats as usize)).collect();
    let y = repeated(cx, x, &sizes)?;
    cx.define(0, y);
    Ok(())
}

/// Imports `Expand`.
pub fn import_expand(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let wanted = cx.int_constant(1)?;
    let dims = wanted.iter().map(|&size| usize::try_from(size).ok().filter(|&size| size > 0));
    let Some(dims) = dims.collect::<Option<Vec<usize>>>() else {
        return Err(cx.invalid(format!("it expands to {wanted:?}")));
    };
    let y = broadcast_to(cx, x, &Shape::new(dims))?;
    cx.define(0, y);
    Ok(())
}

/// `x` broadcast together with `shape`; `x` itself if that changes nothing.
pub fn broadcast_to(cx: &mut NodeImport, x: NodeId, shape: &Shape) -> diag::Result<NodeId> {
    let own = cx.shape(x);
    let wanted = own.broadcast(shape).ok_or_else(|| cx.shape_mismatch("operands cannot be broadcast together"))?;
    if !wanted.is_reasonable() {
        return Err(cx.unsupported(format!("its result has shape {wanted}"), "make the model smaller"));
    }
    let missing = wanted.rank() - own.rank();
    let dims: Vec<usize> = std::iter::repeat_n(1, missing).chain(own.dims().iter().copied()).collect();
    let aligned = cx.emit_unless_same(Reshape { shape: Shape::new(dims) }, x)?;
    repeated(cx, aligned, wanted.dims())
}

/// `x` repeated along its axes up to these sizes.
fn repeated(cx: &mut NodeImport, x: NodeId, sizes: &[usize]) -> diag::Result<NodeId> {
    let shape = cx.shape(x);
    if shape.dims() == sizes {
        return Ok(x);
    }
    if !Shape::new(sizes).is_reasonable() {
        return Err(cx.unsupported(format!("its result has shape {}", Shape::new(sizes)), "make the model smaller"));
    }
    let axis = |(&own, &wanted): (&usize, &usize)| {
        (own != wanted).then(|| AxisTaps::copies(own, (0..wanted).map(|position| position % own)))
    };
    cx.emit(Resample { axes: shape.dims().iter().zip(sizes).map(axis).collect(), resize: None }, &[x])
}

fn infer<'a>(operand: &Shape, axes: impl Iterator<Item = Option<(usize, usize)>> + 'a) -> Result<Shape, String> {
    let axes: Vec<Option<(usize, usize)>> = axes.collect();
    if axes.len() != operand.rank() {
        return Err(format!("{} axes for {operand}", axes.len()));
    }
    let size = |(&own, axis): (&usize, &Option<(usize, usize)>)| match *axis {
        None => Ok(own),
        Some((size, result)) if size == own => Ok(result),
        Some((size, _)) => Err(format!("an axis of {operand} should have {size} elements")),
    };
    operand.dims().iter().zip(&axes).map(size).collect::<Result<Vec<_>, String>>().map(Shape::new)
}

impl FloatOperator for Resample {
    fn kind(&self) -> &'static str {
        "Resample"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        let sizes = |axis: &Option<AxisTaps>| axis.as_ref().map(|taps| (taps.size, taps.positions.len()));
        infer(operands[0], self.axes.iter().map(sizes))
    }

    fn params_rule(&self) -> ParamsRule {
        let convex = self.axes.iter().flatten().all(AxisTaps::is_convex);
        if convex { ParamsRule::SameAsOperand } else { ParamsRule::Own }
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let weighted: Vec<&AxisTaps> = self.axes.iter().flatten().filter(|taps| !taps.only_copies()).collect();
        let quantize = |bits| self.axes.iter().map(|axis| axis.as_ref().map(|taps| taps.quantize(bits))).collect();
        if weighted.is_empty() {
            return Ok(QResample { axes: quantize(0), requantize: None }.into());
        }
        site.expect_int8(self.kind())?;
        let (x, y) = (site.operand_params(0)?, site.result_params());
        let gain: f64 = weighted.iter().map(|taps| taps.gain()).product();
        let count = weighted.len() as u32;
        // A little less than what 31 bits hold, for the rounding of the weights.
        let fits = |bits: &u32| 255.0 * gain * f64::from(bits * count).exp2() < 0.98 * f64::from(i32::MAX);
        let bits = (1..=MAX_BITS).rev().find(fits).ok_or_else(weighted::too_narrow)?;
        let axes: Vec<Option<QAxisTaps>> = quantize(bits);
        let most: i64 = axes.iter().flatten().map(QAxisTaps::most).product();
        let reach = i32::try_from(255 * most).map_err(|_| weighted::too_narrow())?;
        let bound = Interval::new(-reach, reach);
        let factor = x.scale.get() / y.scale.get() / f64::from(bits * count).exp2();
        let multiplier = mul::multipliers(&[factor], (bound, site.result.dtype), site.numerics)?[0];
        let requantize = ResampleSum {
            bits,
            reach,
            multiplier,
            input_zero: x.zero_point,
            output_zero: y.zero_point,
            clamp: Clamp::full(site.result.dtype),
        };
        Ok(QResample { axes, requantize: Some(requantize) }.into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        if let Some((attributes, scales)) = &self.resize {
            let scales = export.floats(&[scales.len()], scales.clone());
            let attributes: Vec<(&str, Attribute)> =
                attributes.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            return Ok(export.node("Resize", &[site.x(), "", &scales], &attributes));
        }
        let mut y = site.x().to_owned();
        for (axis, taps) in self.axes.iter().enumerate().filter_map(|(axis, taps)| Some((axis, taps.as_ref()?))) {
            if !taps.only_copies() {
                return Err(Problem::unsupported("this `Resize` has no form in operator set 17")
                    .help("`ptqc build` compiles it; write it without antialiasing, along at most two axes"));
            }
            let indices = export.ints(taps.positions.iter().map(|taps| taps[0].0 as i64).collect());
            y = export.node("Gather", &[&y, &indices], &[("axis", Attribute::Int(axis as i64))]);
        }
        Ok(y)
    }

    fn describe(&self) -> String {
        let axis = |(axis, taps): (usize, &Option<AxisTaps>)| {
            let taps = taps.as_ref()?;
            Some(format!("axis {axis} from {} to {}", taps.size, taps.positions.len()))
        };
        self.axes.iter().enumerate().filter_map(axis).collect::<Vec<_>>().join(", ")
    }
}

impl QAxisTaps {
    /// Positions of the result.
    pub fn positions(&self) -> usize {
        self.indices.len() / self.taps
    }

    /// Largest sum of the weights' absolute values; 1 without weights.
    pub fn most(&self) -> i64 {
        let Some(weights) = &self.weights else { return 1 };
        let sums = weights.chunks(self.taps).map(|taps| taps.iter().map(|&weight| i64::from(weight.abs())).sum());
        sums.max().unwrap_or(1)
    }

    fn taps_at(&self, position: usize) -> impl Iterator<Item = (usize, i64)> {
        (position * self.taps..(position + 1) * self.taps).map(|at| {
            let weight = self.weights.as_ref().map_or(1, |weights| i64::from(weights[at]));
            (self.indices[at], weight)
        })
    }
}

impl QResample {
    /// The weighted sum for the result at `index`, with `zero` taken from every element.
    fn sum(&self, operand: &Operand, strides: &[usize], index: &[usize], zero: i32) -> i64 {
        let mut products = vec![(0usize, 1i64)];
        for (axis, &position) in index.iter().enumerate() {
            let taps: Vec<(usize, i64)> = match &self.axes[axis] {
                Some(taps) => taps.taps_at(position).collect(),
                None => vec![(position, 1)],
            };
            let along = |(at, product): (usize, i64)| {
                taps.iter().map(move |(source, weight)| (at + source * strides[axis], product * weight))
            };
            products = products.into_iter().flat_map(along).collect();
        }
        products.into_iter().map(|(at, weight)| weight * i64::from(operand.data[at] - zero)).sum()
    }
}

impl QuantOperator for QResample {
    fn kind(&self) -> &'static str {
        "Resample"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        let sizes = |axis: &Option<QAxisTaps>| axis.as_ref().map(|taps| (taps.size, taps.positions()));
        infer(operands[0], self.axes.iter().map(sizes))
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let strides = operands[0].ty.shape.strides();
        let element = |flat: usize| {
            let index = result.shape.unravel(flat);
            match &self.requantize {
                None => self.sum(&operands[0], &strides, &index, 0) as i32,
                Some(sum) => {
                    // The bound is within 32 bits.
                    let acc = self.sum(&operands[0], &strides, &index, sum.input_zero) as i32;
                    sum.clamp.apply(sum.output_zero + sum.multiplier.apply(acc))
                }
            }
        };
        (0..result.shape.len()).map(element).collect()
    }

    fn describe(&self) -> String {
        let axis = |(axis, taps): (usize, &Option<QAxisTaps>)| {
            let taps = taps.as_ref()?;
            Some(format!("axis {axis} from {} to {} with {} taps", taps.size, taps.positions(), taps.taps))
        };
        let axes = self.axes.iter().enumerate().filter_map(axis).collect::<Vec<_>>().join(", ");
        match &self.requantize {
            None => axes,
            Some(sum) => format!(
                "{axes}; weights with {} bits, x{:+}, {}, y{:+} clamp {}",
                sum.bits, -sum.input_zero, sum.multiplier, sum.output_zero, sum.clamp
            ),
        }
    }

    fn is_unusual(&self) -> bool {
        self.requantize.is_some_and(|sum| sum.multiplier.rounding() != Rounding::NATIVE)
    }

    fn accumulator(&self) -> Option<Interval> {
        self.requantize.map(|sum| Interval::new(-sum.reach, sum.reach))
    }
}
