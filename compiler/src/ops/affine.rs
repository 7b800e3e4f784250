//! A factor and an addend for each channel: BatchNormalization, and arithmetic with a constant along one axis.

use super::export::Export;
use super::fixed_sum::{FixedSum, Precision, RealSum};
use super::import::NodeImport;
use super::{ExportSite, FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{Clamp, QuantType, RealClamp, Shape};

/// `y = scale[c] * x + shift[c]` with `c` the index along `axis`.
#[derive(Debug, Clone)]
pub struct Affine {
    /// Factors.
    pub scale: Vec<f32>,
    /// Addends; as many.
    pub shift: Vec<f32>,
    /// The axis they run along.
    pub axis: usize,
    /// Fused activation.
    pub clamp: RealClamp,
}

/// `clamp((q * factor[c] + offset[c]) >> shift)`.
#[derive(Debug, Clone)]
pub struct QAffine {
    /// One for each channel, with one factor.
    pub channels: Vec<FixedSum>,
    /// The axis they run along.
    pub axis: usize,
    /// Fractional bits, width of the sum.
    pub precision: Precision,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// Imports `BatchNormalization` (inference): `scale * (x - mean) / sqrt(var + epsilon) + B`.
pub fn import_batch_normalization(cx: &mut NodeImport) -> diag::Result<()> {
    if cx.int_or("training_mode", 0)? != 0 {
        return Err(cx.unsupported("training_mode is 1", "export the model for inference (`model.eval()`)"));
    }
    let epsilon = f64::from(cx.float_or("epsilon", 1e-5)?);
    let x = cx.activation(0)?;
    let [gamma, beta, mean, var] = [1, 2, 3, 4].map(|port| cx.float_constant(port));
    let (gamma, beta, mean, var) = (gamma?.data, beta?.data, mean?.data, var?.data);
    let rank = cx.shape(x).rank();
    if rank < 2 || [&gamma, &beta, &mean, &var].iter().any(|c| c.len() != cx.shape(x).dims()[1]) {
        return Err(cx.invalid(format!("its parameters do not have one element for each channel of {}", cx.shape(x))));
    }
    let factor = |c: usize| f64::from(gamma[c]) / (f64::from(var[c]) + epsilon).sqrt();
    let scale: Vec<f32> = (0..gamma.len()).map(|c| factor(c) as f32).collect();
    let shift: Vec<f32> =
        (0..gamma.len()).map(|c| (f64::from(beta[c]) - f64::from(mean[c]) * factor(c)) as f32).collect();
    if scale.iter().chain(&shift).any(|value| !value.is_finite()) {
        return Err(cx.non_finite("its variance gives a factor that is not finite"));
    }
    cx.finish(0, Affine { scale, shift, axis: 1, clamp: RealClamp::NONE }, &[x]).map(drop)
}

fn infer(operand: &Shape, axis: usize, channels: usize) -> Result<Shape, String> {
    if operand.dims().get(axis) != Some(&channels) {
        return Err(format!("axis {axis} of {operand} does not have {channels} elements"));
    }
    Ok(operand.clone())
}

impl FloatOperator for Affine {
    fn kind(&self) -> &'static str {
        "Affine"
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands[0], self.axis, self.scale.len())
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let (x, y) = (site.operand_params(0)?, site.result_params());
        let s_out = y.scale.get();
        let sums: Vec<RealSum> = self
            .scale
            .iter()
            .zip(&self.shift)
            .map(|(&scale, &shift)| RealSum {
                terms: vec![(f64::from(scale) * x.scale.get() / s_out, x.zero_point)],
                extra: f64::from(shift) / s_out,
            })
            .collect();
        let precision = Precision::choose(&sums, &site.operands, site.result, site.numerics)?;
        let channels = sums.iter().filter_map(|sum| FixedSum::new(sum, y.zero_point, precision.shift)).collect();
        let clamp = self.clamp.quantize(y, site.result.dtype);
        Ok(QAffine { channels, axis: self.axis, precision, clamp }.into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        let mut dims = vec![1; site.result.shape.rank()];
        dims[self.axis] = self.scale.len();
        let (scale, shift) = (export.floats(&dims, self.scale.clone()), export.floats(&dims, self.shift.clone()));
        let product = export.node("Mul", &[site.x(), &scale], &[]);
        Ok(export.node("Add", &[&product, &shift], &[]))
    }

    fn describe(&self) -> String {
        format!("{} channels on axis {}, clamp {}", self.scale.len(), self.axis, self.clamp)
    }

    fn clamp_mut(&mut self) -> Option<&mut RealClamp> {
        Some(&mut self.clamp)
    }
}

impl QuantOperator for QAffine {
    fn kind(&self) -> &'static str {
        "Affine"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands[0], self.axis, self.channels.len())
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let inner: usize = result.shape.dims()[self.axis + 1..].iter().product();
        let channel = |flat: usize| &self.channels[flat / inner % self.channels.len()];
        let data = operands[0].data.iter().enumerate();
        data.map(|(flat, &q)| channel(flat).apply(&[q], self.precision, self.clamp)).collect()
    }

    fn is_unusual(&self) -> bool {
        self.precision.even
    }

    fn formula(&self) -> String {
        let (Precision { shift, wide, .. }, Clamp { lo, hi }) = (self.precision, self.clamp);
        let bits = if wide { 64 } else { 32 };
        format!(
            "y = clamp((x * factor[c] + offset[c]) >> {shift}, {lo}, {hi}) in {bits} bits, c along axis {}",
            self.axis
        )
    }

    fn describe(&self) -> String {
        let first = self.channels.first().map_or(String::new(), |c| format!("{} {:+}", c.factors[0], c.offset));
        let bits = if self.precision.wide { 64 } else { 32 };
        format!(
            "{} channels on axis {} (first: {first}) >> {} in {bits} bits, clamp {}",
            self.channels.len(),
            self.axis,
            self.precision.shift,
            self.clamp
        )
    }
}
