//! Normalization over some axes of each sample: LayerNormalization, InstanceNormalization, GroupNormalization,
//! RMSNormalization, MeanVarianceNormalization, and the same written out (see `passes::recognize_normalization`).

use super::export::Export;
use super::import::{Attribute, NodeImport};
use super::mean::infer_reduction;
use super::reciprocal_root::ReciprocalRoot;
use super::reshape::Reshape;
use super::{ExportSite, FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site, weighted};
use crate::diag;
use crate::ir::{Clamp, FloatTensor, QuantType, RealClamp, Shape, round_half_even};

/// `gamma * (x - mean) / sqrt(variance + epsilon) + beta`, mean and variance over `axes`. Without `center` the mean is
/// taken for 0: `gamma * x / sqrt(mean of x^2 + epsilon) + beta`.
#[derive(Debug, Clone)]
pub struct Normalize {
    /// In ascending order, without repetition.
    pub axes: Vec<usize>,
    /// Whether the mean is subtracted.
    pub center: bool,
    /// Added to the variance.
    pub epsilon: f32,
    /// Factors; as many axes as `x` has, repeated along those of one element.
    pub gamma: FloatTensor,
    /// Addends; of the same shape.
    pub beta: FloatTensor,
    /// Fused activation.
    pub clamp: RealClamp,
}

/// The same on integers. Over the `count` elements `x = q - input_zero` of each part that is normalized, everything up
/// to the root is exact:
///
/// ```text
/// sum = sum of x (0 unless centered)      square = sum of x^2
/// w = count * square - sum^2 + epsilon    (count^2 times the variance, in squares of the input's step)
/// r = 2^f / sqrt(w)                       (see `ReciprocalRoot`)
/// t = ((count * x - sum) * r + 2^(f - 17)) >> (f - 16)
/// y = clamp((t * factor[c] + offset[c]) >> shift)
/// ```
#[derive(Debug, Clone)]
pub struct QNormalize {
    /// In ascending order, without repetition.
    pub axes: Vec<usize>,
    /// Whether the mean is subtracted.
    pub center: bool,
    /// Number of elements of each part.
    pub count: usize,
    /// The integer that stands for 0 in the input.
    pub input_zero: i32,
    /// The largest magnitude of `x`.
    pub reach: i64,
    /// The largest `w` without epsilon.
    pub most: i64,
    /// Epsilon in the unit of `w`.
    pub epsilon: i64,
    /// How the root is computed.
    pub root: ReciprocalRoot,
    /// Shape of the channels: as many axes as the input has.
    pub channel_shape: Shape,
    /// Factors and addends, row-major.
    pub channels: Vec<Gain>,
    /// Fractional bits of the result before the last shift.
    pub shift: u32,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// What makes the result of a normalized number with 16 fractional bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gain {
    /// Gamma.
    pub factor: i32,
    /// Beta, the zero point, and one half.
    pub offset: i64,
}

/// Fractional bits of a normalized number.
pub const FRACTION: u32 = 16;

/// Most fractional bits of a result before the last shift.
const MAX_SHIFT: u32 = 46;

/// Imports `LayerNormalization`: over all axes from `axis` on.
pub fn import_layer(cx: &mut NodeImport) -> diag::Result<()> {
    if (1..cx.output_count()).any(|port| cx.output_used(port)) {
        return Err(cx.unsupported("its outputs Mean or InvStdDev are used", "compute them with ReduceMean"));
    }
    import_trailing(cx, true)
}

/// Imports `RMSNormalization` and `SimplifiedLayerNormalization`.
pub fn import_rms(cx: &mut NodeImport) -> diag::Result<()> {
    import_trailing(cx, false)
}

fn import_trailing(cx: &mut NodeImport, center: bool) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let shape = cx.shape(x);
    let axis = cx.axis(cx.int_or("axis", -1)?, shape.rank())?;
    let gamma = spread(cx, 1, &shape)?;
    let beta = if cx.optional(2).is_some() { Some(spread(cx, 2, &shape)?) } else { None };
    let norm = Normalize::new((axis..shape.rank()).collect(), center, cx.float_or("epsilon", 1e-5)?, gamma, beta);
    let norm = norm.ok_or_else(|| cx.shape_mismatch("scale and bias do not fit"))?;
    cx.finish(0, norm, &[x]).map(drop)
}

/// A constant input with as many axes as `x`.
fn spread(cx: &NodeImport, port: usize, x: &Shape) -> diag::Result<FloatTensor> {
    let constant = cx.float_constant(port)?;
    if constant.shape.broadcast(x).as_ref() != Some(x) {
        return Err(cx.shape_mismatch(&format!("input {port} does not fit {x}")));
    }
    let missing = vec![1; x.rank() - constant.shape.rank()];
    Ok(FloatTensor::new(Shape::new([&missing[..], constant.shape.dims()].concat()), constant.data))
}

/// Imports `InstanceNormalization`: over the spatial axes of each channel.
pub fn import_instance(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let shape = cx.shape(x);
    let spatial = cx.spatial(x)?.len();
    let [gamma, beta] = [per_channel(cx, 1, &shape)?, per_channel(cx, 2, &shape)?];
    let axes = (2..2 + spatial).collect();
    let norm = Normalize::new(axes, true, cx.float_or("epsilon", 1e-5)?, gamma, Some(beta));
    let norm = norm.ok_or_else(|| cx.shape_mismatch("scale and bias do not fit"))?;
    cx.finish(0, norm, &[x]).map(drop)
}

fn per_channel(cx: &NodeImport, port: usize, x: &Shape) -> diag::Result<FloatTensor> {
    let constant = cx.float_constant(port)?;
    if constant.data.len() != x.dims()[1] {
        return Err(cx.shape_mismatch(&format!("input {port} does not have one element for each channel of {x}")));
    }
    let mut dims = vec![1; x.rank()];
    dims[1] = constant.data.len();
    Ok(FloatTensor::new(Shape::new(dims), constant.data))
}

/// Imports `GroupNormalization`: over groups of channels, with a scale for each group before opset 21, for each channel
/// since.
pub fn import_group(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let shape = cx.shape(x);
    let groups = cx.usize_or("num_groups", 0)?;
    let [batch, channels, ref spatial @ ..] = *shape.dims() else {
        return Err(cx.invalid(format!("its input {shape} has no channels")));
    };
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(cx.invalid(format!("{channels} channels do not make {groups} groups")));
    }
    let grouped = Shape::new([&[batch, groups, channels / groups], spatial].concat());
    let parameter = |port: usize| -> diag::Result<FloatTensor> {
        let data = cx.float_constant(port)?.data;
        let mut dims = vec![1; grouped.rank()];
        dims[1] = groups;
        match data.len() {
            len if len == channels => dims[2] = channels / groups,
            len if len == groups => {}
            len => return Err(cx.shape_mismatch(&format!("input {port} has {len} elements"))),
        }
        Ok(FloatTensor::new(Shape::new(dims), data))
    };
    let (gamma, beta) = (parameter(1)?, parameter(2)?);
    let axes = (2..grouped.rank()).collect();
    let norm = Normalize::new(axes, true, cx.float_or("epsilon", 1e-5)?, gamma, Some(beta));
    let norm = norm.ok_or_else(|| cx.shape_mismatch("scale and bias do not fit"))?;
    let apart = cx.emit(Reshape { shape: grouped }, &[x])?;
    let y = cx.emit(norm, &[apart])?;
    cx.finish(0, Reshape { shape }, &[y]).map(drop)
}

/// Imports `MeanVarianceNormalization`.
pub fn import_mean_variance(cx: &mut NodeImport) -> diag::Result<()> {
    /// What ONNX's definition adds to the deviation; squared, it is far below any step.
    const EPSILON: f32 = 1e-9;
    let x = cx.activation(0)?;
    let shape = cx.shape(x);
    let axes = cx.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let axes = cx.axes(&axes, shape.rank())?;
    let gamma = FloatTensor::new(Shape::new(vec![1; shape.rank()]), vec![1.0]);
    let norm = Normalize::new(axes, true, EPSILON * EPSILON, gamma, None);
    let norm = norm.ok_or_else(|| cx.shape_mismatch("its axes do not fit"))?;
    cx.finish(0, norm, &[x]).map(drop)
}

impl Normalize {
    /// With factors and addends that are repeated to a common shape; `None` if there is none.
    pub fn new(
        axes: Vec<usize>,
        center: bool,
        epsilon: f32,
        gamma: FloatTensor,
        beta: Option<FloatTensor>,
    ) -> Option<Normalize> {
        let beta = beta.unwrap_or_else(|| FloatTensor::new(Shape::new(vec![1; gamma.shape.rank()]), vec![0.0]));
        let shape = gamma.shape.broadcast(&beta.shape)?;
        let (gamma, beta) = (repeated(&gamma, &shape), repeated(&beta, &shape));
        Some(Normalize { axes, center, epsilon, gamma, beta, clamp: RealClamp::NONE })
    }

    /// Applies `scale * y + shift` to the result, a number for each index of `axis` of it, or for all. `None` if there is
    /// an activation in between.
    pub fn then_affine(&self, axis: Option<usize>, scale: &[f32], shift: &[f32]) -> Option<Normalize> {
        let rank = self.gamma.shape.rank();
        let mut dims = vec![1; rank];
        if let Some(axis) = axis {
            *dims.get_mut(axis)? = scale.len();
        }
        let shape = self.gamma.shape.broadcast(&Shape::new(dims.clone())).filter(|_| self.clamp == RealClamp::NONE)?;
        let spread = |values: &[f32]| repeated(&FloatTensor::new(Shape::new(dims.clone()), values.to_vec()), &shape);
        let (scale, shift) = (spread(scale).data, spread(shift).data);
        let (mut gamma, mut beta) = (repeated(&self.gamma, &shape), repeated(&self.beta, &shape));
        for (i, (scale, shift)) in scale.iter().zip(&shift).enumerate() {
            gamma.data[i] *= scale;
            beta.data[i] = (f64::from(beta.data[i]) * f64::from(*scale) + f64::from(*shift)) as f32;
        }
        Some(Normalize { gamma, beta, ..self.clone() })
    }

    fn check(&self, x: &Shape) -> Result<Shape, String> {
        infer_reduction(x, &self.axes, true)?;
        let fits = self.gamma.shape.rank() == x.rank() && self.gamma.shape.broadcast(x).as_ref() == Some(x);
        if !fits || self.beta.shape != self.gamma.shape {
            return Err(format!("factors of shape {} do not fit {x}", self.gamma.shape));
        }
        Ok(x.clone())
    }
}

fn repeated(tensor: &FloatTensor, shape: &Shape) -> FloatTensor {
    let strides = tensor.shape.broadcast_strides(shape);
    let at = |flat| shape.unravel(flat).iter().zip(&strides).map(|(i, stride)| i * stride).sum::<usize>();
    FloatTensor::new(shape.clone(), (0..shape.len()).map(|flat| tensor.data[at(flat)]).collect())
}

impl Normalize {
    /// Over the last axes. Factors that differ along the others follow as a product.
    fn export_layer(&self, export: &mut Export, x: &str, axis: usize, shape: &Shape) -> Result<String, Problem> {
        let inner = Shape::new(&shape.dims()[axis..]);
        let is_inner = self.gamma.shape.dims()[..axis].iter().all(|&size| size == 1);
        let spread = |values: &FloatTensor| {
            let own = Shape::new(&values.shape.dims()[axis..]);
            repeated(&FloatTensor::new(own, values.data.clone()), &inner).data
        };
        let attributes = [("axis", Attribute::Int(axis as i64)), ("epsilon", Attribute::Float(self.epsilon))];
        if is_inner {
            let [gamma, beta] = [&self.gamma, &self.beta].map(|values| export.floats(inner.dims(), spread(values)));
            return Ok(export.node("LayerNormalization", &[x, &gamma, &beta], &attributes));
        }
        self.check_gains()?;
        let ones = export.floats(inner.dims(), vec![1.0; inner.len()]);
        let y = export.node("LayerNormalization", &[x, &ones], &attributes);
        Ok(self.export_gains(export, y))
    }

    /// Factors along several axes would be read back as a tensor of their own.
    fn check_gains(&self) -> Result<(), Problem> {
        match self.gamma.shape.dims().iter().filter(|&&size| size != 1).count() {
            0 | 1 => Ok(()),
            _ => Err(Problem::unsupported(
                "a normalization with factors along several axes cannot be written as ONNX yet",
            )),
        }
    }

    /// As arithmetic, without factors and addends.
    fn export_written_out(&self, export: &mut Export, x: &str) -> String {
        let distance = match self.center {
            false => x.to_owned(),
            true => {
                let mean = export.mean(x, &self.axes, true);
                export.node("Sub", &[x, &mean], &[])
            }
        };
        let [two, epsilon] = [2.0, self.epsilon].map(|number| export.floats(&[], vec![number]));
        let square = export.node("Pow", &[&distance, &two], &[]);
        let variance = export.mean(&square, &self.axes, true);
        let sum = export.node("Add", &[&variance, &epsilon], &[]);
        let root = export.node("Sqrt", &[&sum], &[]);
        export.node("Div", &[&distance, &root], &[])
    }

    /// Factors and addends, where they do something.
    fn export_gains(&self, export: &mut Export, y: String) -> String {
        let mut y = y;
        for (op_type, values, nothing) in [("Mul", &self.gamma, 1.0), ("Add", &self.beta, 0.0)] {
            if values.data.iter().any(|&value| value != nothing) {
                let operand = export.floats(values.shape.dims(), values.data.clone());
                y = export.node(op_type, &[&y, &operand], &[]);
            }
        }
        y
    }
}

impl FloatOperator for Normalize {
    fn kind(&self) -> &'static str {
        "Normalize"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        self.check(operands[0])
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        site.expect_int8(FloatOperator::kind(self))?;
        let (x, y) = (site.operand_params(0)?, site.result_params());
        let dtype = site.operands[0].dtype;
        let count: usize = self.axes.iter().map(|&axis| site.operands[0].shape.dims()[axis]).product();
        let reach = i64::from((dtype.max() - x.zero_point).max(x.zero_point - dtype.min()));
        let too_long = || Problem::unsupported(format!("a normalization over {count} elements is too long"));
        let most = most(count, if self.center { i64::from(dtype.max() - dtype.min()) } else { 2 * reach });
        let most = most.ok_or_else(too_long)?;
        let epsilon = f64::from(self.epsilon) * (count as f64 / x.scale.get()).powi(2);
        if epsilon < 0.0 || epsilon + most as f64 >= 2f64.powi(61) {
            return Err(weighted::too_narrow());
        }
        let epsilon = round_half_even(epsilon);
        let root = ReciprocalRoot::new((most + epsilon) as u64);
        // A distance from the mean times the reciprocal root has to fit 63 bits.
        if 2 * count as i128 * i128::from(reach) * i128::from(root.most()) >= 1 << 62 {
            return Err(too_long());
        }
        let (shift, channels) = self.gains(y.scale.get(), y.zero_point, count).ok_or_else(weighted::too_narrow)?;
        let clamp = self.clamp.quantize(y, site.result.dtype);
        let (axes, channel_shape) = (self.axes.clone(), self.gamma.shape.clone());
        let (center, input_zero) = (self.center, x.zero_point);
        let op = QNormalize {
            axes,
            center,
            count,
            input_zero,
            reach,
            most,
            epsilon,
            root,
            channel_shape,
            channels,
            shift,
            clamp,
        };
        Ok(op.into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        let shape = &site.types[0].shape;
        let axis = self.axes.first().copied().unwrap_or(0);
        if self.center && self.axes.iter().copied().eq(axis..shape.rank()) {
            return self.export_layer(export, site.x(), axis, shape);
        }
        self.check_gains()?;
        let y = self.export_written_out(export, site.x());
        Ok(self.export_gains(export, y))
    }

    fn describe(&self) -> String {
        let what = if self.center { "centered" } else { "not centered" };
        format!("axes {:?}, {what}, epsilon {:?}, factors {}", self.axes, self.epsilon, self.gamma.shape)
    }

    fn clamp_mut(&mut self) -> Option<&mut RealClamp> {
        Some(&mut self.clamp)
    }
}

/// The largest `count * square - sum^2` of numbers that lie within `span`: half of them at each end.
fn most(count: usize, span: i64) -> Option<i64> {
    let count = i64::try_from(count).ok().filter(|&count| count < 1 << 24)?;
    count.checked_mul(count)?.checked_mul(span.checked_mul(span)?).map(|most| most / 4).filter(|&most| most < 1 << 60)
}

impl Normalize {
    /// Factors and addends with the most fractional bits for which all sums fit.
    fn gains(&self, scale: f64, zero: i32, count: usize) -> Option<(u32, Vec<Gain>)> {
        let limit = i128::from(normalized_limit(count));
        (1..=MAX_SHIFT).rev().find_map(|shift| {
            let one = 2f64.powi(shift as i32);
            let gain = |(&gamma, &beta): (&f32, &f32)| {
                let factor = f64::from(gamma) / scale * one / f64::from(1u32 << FRACTION);
                let factor = i32::try_from(round_half_even(factor)).ok()?;
                let offset = (f64::from(beta) / scale + f64::from(zero) + 0.5) * one;
                let most = offset.abs() + (limit * i128::from(factor).abs()) as f64;
                (most < 2f64.powi(62)).then(|| Gain { factor, offset: round_half_even(offset) })
            };
            let gains: Option<Vec<Gain>> = self.gamma.data.iter().zip(&self.beta.data).map(gain).collect();
            // The kernel is checked as a whole: any factor with any offset.
            let gains = gains?;
            let factor = gains.iter().map(|gain| i128::from(gain.factor).abs()).max()?;
            let offset = gains.iter().map(|gain| i128::from(gain.offset).abs()).max()?;
            (limit * factor + offset < 1 << 62).then_some((shift, gains))
        })
    }
}

/// The largest magnitude of a normalized number: one element that differs from all others, and the root's error.
fn normalized_limit(count: usize) -> i64 {
    ((count as f64).sqrt() * 1.0001 * f64::from(1u32 << FRACTION)).ceil() as i64 + 2
}

impl QNormalize {
    /// The largest magnitude of a normalized number `t`.
    pub fn limit(&self) -> i64 {
        normalized_limit(self.count)
    }

    /// The elements of one part, each with its channel.
    pub fn part(&self, elements: &[(i32, usize)]) -> Vec<i32> {
        let x = |q: i32| i64::from(q - self.input_zero);
        let sum: i64 = if self.center { elements.iter().map(|&(q, _)| x(q)).sum() } else { 0 };
        let square: i64 = elements.iter().map(|&(q, _)| x(q) * x(q)).sum();
        let count = self.count as i64;
        let r = self.root.apply((count * square - sum * sum + self.epsilon) as u64) as i64;
        let f = self.root.fraction();
        let result = |&(q, channel): &(i32, usize)| {
            let t = ((count * x(q) - sum) * r + (1 << (f - FRACTION - 1))) >> (f - FRACTION);
            let Gain { factor, offset } = self.channels[channel];
            let y = (t * i64::from(factor) + offset) >> self.shift;
            y.clamp(self.clamp.lo.into(), self.clamp.hi.into()) as i32
        };
        elements.iter().map(result).collect()
    }
}

impl QuantOperator for QNormalize {
    fn kind(&self) -> &'static str {
        "Normalize"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_reduction(operands[0], &self.axes, true)?;
        Ok(operands[0].clone())
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let shape = &result.shape;
        let strides = self.channel_shape.broadcast_strides(shape);
        let parts = infer_reduction(shape, &self.axes, true).unwrap_or_else(|_| shape.clone());
        let part_strides = parts.broadcast_strides(shape);
        let mut members = vec![vec![]; parts.len()];
        for flat in 0..shape.len() {
            let index = shape.unravel(flat);
            let at = |strides: &[usize]| index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>();
            members[at(&part_strides)].push((flat, at(&strides)));
        }
        let mut y = vec![0; shape.len()];
        for members in members {
            let elements: Vec<(i32, usize)> =
                members.iter().map(|&(flat, channel)| (operands[0].data[flat], channel)).collect();
            for (value, (flat, _)) in self.part(&elements).into_iter().zip(members) {
                y[flat] = value;
            }
        }
        y
    }

    fn describe(&self) -> String {
        let first = self.channels.first().map_or(String::new(), |c| format!("*{} {:+}", c.factor, c.offset));
        format!(
            "axes {:?} of {}, x{:+}, epsilon {}, root up {} down {:?}, {} channels (first: {first}) >> {}, clamp {}",
            self.axes,
            self.count,
            -self.input_zero,
            self.epsilon,
            self.root.up,
            self.root.steps,
            self.channels.len(),
            self.shift,
            self.clamp
        )
    }

    fn formula(&self) -> String {
        let what = if self.center { "(x - mean) / deviation" } else { "x / root of mean square" };
        format!("y = clamp(({what} * factor[c] + offset[c]) >> {}, {}, {})", self.shift, self.clamp.lo, self.clamp.hi)
    }
}
