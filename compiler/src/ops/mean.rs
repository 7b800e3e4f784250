//! Mean and sum over whole axes (ONNX `ReduceMean`, `GlobalAveragePool`).

use super::average_pool::sum_reach;
use super::export::Export;
use super::import::{Attribute, NodeImport};
use super::mul::multipliers;
use super::{ExportSite, FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{Clamp, DType, Interval, Multiplier, NodeId, QuantType, RealClamp, Rounding, Shape};

/// The mean over `axes`.
#[derive(Debug, Clone)]
pub struct Mean {
    /// In ascending order, without repetition.
    pub axes: Vec<usize>,
    /// Whether the axes stay, with size 1.
    pub keep_dims: bool,
    /// Whether the sum is wanted instead of the mean.
    pub is_sum: bool,
    /// Fused activation.
    pub clamp: RealClamp,
}

/// `clamp(y_zero + multiplier(sum of (x - x_zero)))`.
#[derive(Debug, Clone)]
pub struct QMean {
    /// In ascending order, without repetition.
    pub axes: Vec<usize>,
    /// Whether the axes stay, with size 1.
    pub keep_dims: bool,
    /// Whether the result is the sum instead of the mean.
    pub is_sum: bool,
    /// Number of elements of each sum.
    pub count: usize,
    /// From sum to result; includes the division by `count`.
    pub multiplier: Multiplier,
    /// Type of the input.
    pub input_type: DType,
    /// The integer that stands for 0 in the input.
    pub input_zero: i32,
    /// The integer that stands for 0 in the result.
    pub output_zero: i32,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// Imports `ReduceMean`.
pub fn import_reduce_mean(cx: &mut NodeImport) -> diag::Result<()> {
    import_reduction(cx, false)
}

/// Imports `ReduceSum`.
pub fn import_reduce_sum(cx: &mut NodeImport) -> diag::Result<()> {
    import_reduction(cx, true)
}

fn import_reduction(cx: &mut NodeImport, is_sum: bool) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let Some(axes) = reduced_axes(cx, x)? else {
        cx.alias(0, x);
        return Ok(());
    };
    let keep_dims = cx.int_or("keepdims", 1)? != 0;
    cx.finish(0, Mean { axes, keep_dims, is_sum, clamp: RealClamp::NONE }, &[x]).map(drop)
}

/// The axes of a reduction: an attribute or an input, depending on operator and opset; all of them without either.
/// `None` where that is to mean that nothing is reduced.
pub fn reduced_axes(cx: &NodeImport, x: NodeId) -> diag::Result<Option<Vec<usize>>> {
    let rank = cx.shape(x).rank();
    let axes = match cx.optional(1) {
        Some(_) => Some(cx.int_constant(1)?),
        None => cx.ints("axes")?,
    };
    let no_op = cx.int_or("noop_with_empty_axes", 0)? != 0;
    match axes.filter(|axes| !axes.is_empty()) {
        Some(axes) => cx.axes(&axes, rank).map(Some),
        None if no_op => Ok(None),
        None => Ok(Some((0..rank).collect())),
    }
}

/// Imports `GlobalAveragePool`.
pub fn import_global(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let axes = (2..2 + cx.spatial(x)?.len()).collect();
    cx.finish(0, Mean { axes, keep_dims: true, is_sum: false, clamp: RealClamp::NONE }, &[x]).map(drop)
}

/// Shape after a reduction over `axes`.
pub fn infer_reduction(input: &Shape, axes: &[usize], keep_dims: bool) -> Result<Shape, String> {
    if axes.iter().any(|&axis| axis >= input.rank()) {
        return Err(format!("axes {axes:?} are not all axes of {input}"));
    }
    let kept = (0..input.rank()).filter(|axis| keep_dims || !axes.contains(axis));
    Ok(Shape::new(kept.map(|axis| if axes.contains(&axis) { 1 } else { input.dims()[axis] }).collect::<Vec<_>>()))
}

fn count(input: &Shape, axes: &[usize]) -> usize {
    axes.iter().map(|&axis| input.dims()[axis]).product()
}

impl FloatOperator for Mean {
    fn kind(&self) -> &'static str {
        if self.is_sum { "Sum" } else { "Mean" }
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_reduction(operands[0], &self.axes, self.keep_dims)
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let (x, y) = (site.operand_params(0)?, site.result_params());
        let count = count(&site.operands[0].shape, &self.axes);
        let factor = x.scale.get() / y.scale.get() / if self.is_sum { 1.0 } else { count as f64 };
        Ok(QMean {
            axes: self.axes.clone(),
            keep_dims: self.keep_dims,
            is_sum: self.is_sum,
            count,
            multiplier: multipliers(
                &[factor],
                (sum_reach(count, site.operands[0].dtype), site.result.dtype),
                site.numerics,
            )?[0],
            input_type: site.operands[0].dtype,
            input_zero: x.zero_point,
            output_zero: y.zero_point,
            clamp: self.clamp.quantize(y, site.result.dtype),
        }
        .into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        let keep_dims = ("keepdims", Attribute::Int(self.keep_dims.into()));
        if self.is_sum {
            // Its axes are an input since operator set 13.
            let axes = export.ints(self.axes.iter().map(|&axis| axis as i64).collect());
            return Ok(export.node("ReduceSum", &[site.x(), &axes], &[keep_dims]));
        }
        Ok(export.mean(site.x(), &self.axes, self.keep_dims))
    }

    fn describe(&self) -> String {
        format!("axes {:?}, clamp {}", self.axes, self.clamp)
    }

    fn clamp_mut(&mut self) -> Option<&mut RealClamp> {
        Some(&mut self.clamp)
    }
}

impl QuantOperator for QMean {
    fn kind(&self) -> &'static str {
        if self.is_sum { "Sum" } else { "Mean" }
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_reduction(operands[0], &self.axes, self.keep_dims)
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let x = operands[0];
        let kept = infer_reduction(&x.ty.shape, &self.axes, true).unwrap_or_default();
        let strides = kept.broadcast_strides(&x.ty.shape);
        let mut sums = vec![0i64; result.shape.len()];
        for (flat, &q) in x.data.iter().enumerate() {
            let index = x.ty.shape.unravel(flat);
            let at: usize = index.iter().zip(&strides).map(|(i, stride)| i * stride).sum();
            sums[at] += i64::from(q - self.input_zero);
        }
        let finish = |sum: i64| self.clamp.apply_wide(i64::from(self.output_zero) + self.multiplier.apply_wide(sum));
        sums.into_iter().map(finish).collect()
    }

    fn describe(&self) -> String {
        format!(
            "axes {:?}, x{:+}, /{}: {}, y{:+} clamp {}",
            self.axes, -self.input_zero, self.count, self.multiplier, self.output_zero, self.clamp
        )
    }

    fn is_unusual(&self) -> bool {
        self.multiplier.rounding() != Rounding::NATIVE
    }

    fn accumulator(&self) -> Option<Interval> {
        let (count, zero) = (self.count as i128, i128::from(self.input_zero));
        let Interval { lo, hi } = self.input_type.interval();
        Some(Interval::new(count * (lo - zero), count * (hi - zero)))
    }
}
