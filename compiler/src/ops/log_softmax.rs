//! Logarithm of Softmax (ONNX `LogSoftmax`), and of a sum of exponentials (ONNX `ReduceLogSumExp`), over one axis.

use super::import::NodeImport;
use super::mean::{infer_reduction, reduced_axes};
use super::reshape::Reshape;
use super::softmax::{self, QSoftmax};
use super::steps::THRESHOLDS;
use super::transpose::Transpose;
use super::{FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site, weighted};
use crate::diag;
use crate::ir::{Clamp, QuantType, Shape, round_half_even};

/// `x - ln(sum of exp(x))`, or that logarithm alone.
#[derive(Debug, Clone)]
pub struct LogSoftmax {
    /// The axis.
    pub axis: usize,
    /// Whether only the logarithm of the sum is wanted; the axis then has size 1.
    pub only_sum: bool,
}

/// In integers, with `d = max - x` in 0..=255 and `e = exponentials[d]`:
///
/// ```text
/// log = logs[number of thresholds that the sum of e reaches]
/// y = clamp((-d * factor - log + offset) >> 16)         LogSoftmax
/// y = clamp((max * factor + log + offset) >> 16)        logarithm of the sum
/// ```
///
/// `factor`, `logs` and `offset` have 16 fractional bits of a step of the result. The thresholds divide the logarithm of the
/// sum evenly, so that it is known to 1/510 of its range.
#[derive(Debug, Clone)]
pub struct QLogSoftmax {
    /// The axis.
    pub axis: usize,
    /// Whether only the logarithm of the sum is wanted.
    pub only_sum: bool,
    /// `round(2^bits * exp(-scale * d))`.
    pub exponentials: Vec<u32>,
    /// Fractional bits of the exponentials.
    pub bits: u32,
    /// Sums at which the logarithm takes a step.
    pub thresholds: Vec<u32>,
    /// The logarithm between two thresholds.
    pub logs: Vec<i32>,
    /// A step of the operand.
    pub factor: i32,
    /// Zero points and one half.
    pub offset: i64,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// Fractional bits of a step of the result.
pub const FRACTION: u32 = 16;

/// Imports `LogSoftmax`.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    softmax::import_over_axis(cx, |axis| LogSoftmax { axis, only_sum: false }.into())
}

/// Imports `ReduceLogSumExp`: the reduced axes become one.
pub fn import_log_sum_exp(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let Some(axes) = reduced_axes(cx, x)? else {
        cx.alias(0, x);
        return Ok(());
    };
    let keep_dims = cx.int_or("keepdims", 1)? != 0;
    let shape = cx.shape(x);
    let result = infer_reduction(&shape, &axes, keep_dims).map_err(|problem| cx.shape_mismatch(&problem))?;
    let kept: Vec<usize> = (0..shape.rank()).filter(|axis| !axes.contains(axis)).collect();
    let order = [&kept[..], &axes].concat();
    let moved = if order.iter().copied().eq(0..shape.rank()) { x } else { cx.emit(Transpose { order }, &[x])? };
    let terms: usize = axes.iter().map(|&axis| shape.dims()[axis]).product();
    let rows = cx.emit_unless_same(Reshape { shape: Shape::new([shape.len() / terms, terms]) }, moved)?;
    let sums = cx.emit(LogSoftmax { axis: 1, only_sum: true }, &[rows])?;
    let y = cx.emit_unless_same(Reshape { shape: result }, sums)?;
    cx.define(0, y);
    Ok(())
}

fn infer(operand: &Shape, axis: usize, only_sum: bool) -> Result<Shape, String> {
    let mut dims = operand.dims().to_vec();
    match dims.get_mut(axis) {
        Some(size) if only_sum => *size = 1,
        Some(_) => {}
        None => return Err(format!("{operand} has no axis {axis}")),
    }
    Ok(Shape::new(dims))
}

impl FloatOperator for LogSoftmax {
    fn kind(&self) -> &'static str {
        if self.only_sum { "LogSumExp" } else { "LogSoftmax" }
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands[0], self.axis, self.only_sum)
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        site.expect_int8(self.kind())?;
        let (x, y) = (site.operand_params(0)?, site.result_params());
        let terms = site.operands[0].shape.dims()[self.axis];
        let QSoftmax { exponentials, bits, .. } = QSoftmax::new(self.axis, x.scale.get(), terms)?;
        let one = f64::from(1u32 << FRACTION);
        let most = (terms as f64).ln();
        let cell = most / THRESHOLDS as f64;
        // The largest element alone adds 2^bits, so the logarithm is between 0 and that of the number of terms.
        let threshold = |i: usize| ((i as f64 * cell).exp() * f64::from(1u32 << bits)).ceil() as u32;
        let logs = (0..=THRESHOLDS).map(|i| ((i as f64 + 0.5) * cell).min(most) / y.scale.get() * one);
        let factor = round_half_even(x.scale.get() / y.scale.get() * one);
        let in_reach = |value: f64| value.abs() < f64::from(1 << 30);
        let logs: Vec<f64> = logs.collect();
        if factor >= 1 << 22 || !logs.iter().copied().all(in_reach) {
            return Err(weighted::too_narrow());
        }
        let shift = |zero: i32| i64::from(zero) << FRACTION;
        let own = if self.only_sum { -factor * i64::from(x.zero_point) } else { 0 };
        Ok(QLogSoftmax {
            axis: self.axis,
            only_sum: self.only_sum,
            exponentials,
            bits,
            thresholds: (1..=THRESHOLDS).map(threshold).collect(),
            logs: logs.into_iter().map(|log| round_half_even(log) as i32).collect(),
            factor: factor as i32,
            offset: own + shift(y.zero_point) + (1 << (FRACTION - 1)),
            clamp: Clamp::full(site.result.dtype),
        }
        .into())
    }

    fn describe(&self) -> String {
        format!("axis {}", self.axis)
    }
}

impl QLogSoftmax {
    /// One row; a single element if only the logarithm of the sum is wanted.
    pub fn row(&self, x: &[i32]) -> Vec<i32> {
        let max = x.iter().copied().max().unwrap_or(0);
        let sum: u32 = x.iter().map(|&x| self.exponentials[(max - x) as usize]).sum();
        let log = i64::from(self.logs[self.thresholds.partition_point(|&threshold| threshold <= sum)]);
        let finish = |steps: i64| {
            let steps = (steps + self.offset) >> FRACTION;
            // The clamp's bounds are `i32`, so the result is.
            steps.clamp(self.clamp.lo.into(), self.clamp.hi.into()) as i32
        };
        let factor = i64::from(self.factor);
        match self.only_sum {
            true => vec![finish(i64::from(max) * factor + log)],
            false => x.iter().map(|&x| finish(i64::from(x - max) * factor - log)).collect(),
        }
    }
}

impl QuantOperator for QLogSoftmax {
    fn kind(&self) -> &'static str {
        if self.only_sum { "LogSumExp" } else { "LogSoftmax" }
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands[0], self.axis, self.only_sum)
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let dims = operands[0].ty.shape.dims();
        let (terms, inner) = (dims[self.axis], dims[self.axis + 1..].iter().product::<usize>());
        let kept = if self.only_sum { 1 } else { terms };
        let mut y = vec![0; result.shape.len()];
        for start in (0..operands[0].data.len()).filter(|flat| flat / inner % terms == 0) {
            let x: Vec<i32> = (0..terms).map(|i| operands[0].data[start + i * inner]).collect();
            let first = start / (inner * terms) * inner * kept + start % inner;
            for (i, value) in self.row(&x).into_iter().enumerate() {
                y[first + i * inner] = value;
            }
        }
        y
    }

    fn describe(&self) -> String {
        format!(
            "axis {}, {} fractional bits, factor {}, logarithms up to {}, offset {}",
            self.axis, self.bits, self.factor, self.logs[THRESHOLDS], self.offset
        )
    }
}
