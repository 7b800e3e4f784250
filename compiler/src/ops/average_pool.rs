//! Mean under a sliding window (ONNX `AveragePool`).

use std::collections::BTreeMap;

use super::export::Export;
use super::import::{Attribute, NodeImport};
use super::max_pool::{evaluate_pool, infer_pool, pool_attributes};
use super::mul::multipliers;
use super::{ExportSite, FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{Clamp, DType, Interval, Multiplier, Numerics, QuantType, RealClamp, Rounding, Shape, Window};

/// The mean over the taps inside the input, or inside input and padding.
#[derive(Debug, Clone)]
pub struct AveragePool {
    /// Geometry of the spatial axes.
    pub window: Window,
    /// Whether padding counts (as zeros).
    pub include_pad: bool,
    /// Fused activation.
    pub clamp: RealClamp,
}

/// `clamp(y_zero + multiplier[count](sum of (x - x_zero)))`.
#[derive(Debug, Clone)]
pub struct QAveragePool {
    /// Geometry of the spatial axes.
    pub window: Window,
    /// Whether padding counts.
    pub include_pad: bool,
    /// One for each number of taps that a window can have.
    pub multipliers: BTreeMap<usize, Multiplier>,
    /// Type of the input.
    pub input_type: DType,
    /// The integer that stands for 0 in the input.
    pub input_zero: i32,
    /// The integer that stands for 0 in the result.
    pub output_zero: i32,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// Imports `AveragePool`.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let include_pad = cx.int_or("count_include_pad", 0)? != 0;
    let window = cx.pooling_window(x)?;
    cx.finish(0, AveragePool { window, include_pad, clamp: RealClamp::NONE }, &[x]).map(drop)
}

/// Number of elements that the mean at output `index` (spatial axes only) divides by.
pub fn divisor(window: &Window, include_pad: bool, index: &[usize], input: &[usize]) -> usize {
    (0..window.rank())
        .map(|axis| match include_pad {
            true => window.padded_taps(axis, index[axis], input[axis]),
            false => {
                let taps = window.taps_at(axis, index[axis], input[axis]);
                taps.end - taps.first
            }
        })
        .product()
}

/// All divisors that occur.
fn divisors(window: &Window, include_pad: bool, input: &Shape, result: &Shape) -> Vec<usize> {
    let outputs = Shape::new(&result.dims()[2..]);
    let mut all: Vec<usize> = (0..outputs.len())
        .map(|flat| divisor(window, include_pad, &outputs.unravel(flat), &input.dims()[2..]))
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

impl FloatOperator for AveragePool {
    fn kind(&self) -> &'static str {
        "AveragePool"
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        let result = infer_pool(operands[0], &self.window)?;
        if divisors(&self.window, self.include_pad, operands[0], &result).contains(&0) {
            return Err(format!("a window ({}) lies entirely in the padding of {}", self.window, operands[0]));
        }
        Ok(result)
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let (x, y) = (site.operand_params(0)?, site.result_params());
        let counts = divisors(&self.window, self.include_pad, &site.operands[0].shape, &site.result.shape);
        let multipliers = mean_multipliers(
            x.scale.get() / y.scale.get(),
            (&counts, site.operands[0].dtype),
            site.result.dtype,
            site.numerics,
        )?;
        let multipliers: BTreeMap<usize, Multiplier> = counts.into_iter().zip(multipliers).collect();
        Ok(QAveragePool {
            window: self.window.clone(),
            include_pad: self.include_pad,
            multipliers,
            input_type: site.operands[0].dtype,
            input_zero: x.zero_point,
            output_zero: y.zero_point,
            clamp: self.clamp.quantize(y, site.result.dtype),
        }
        .into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        // Dilated means came with operator set 19.
        if self.window.dilation.iter().any(|&dilation| dilation != 1) {
            return Err(Problem::unsupported("`AveragePool` with dilations cannot be written in operator set 17"));
        }
        let mut attributes = pool_attributes(&self.window);
        attributes.retain(|(name, _)| *name != "dilations");
        attributes.push(("count_include_pad", Attribute::Int(self.include_pad.into())));
        Ok(export.node("AveragePool", &[site.x()], &attributes))
    }

    fn describe(&self) -> String {
        format!(
            "{}, {} padding, clamp {}",
            self.window,
            if self.include_pad { "counts" } else { "ignores" },
            self.clamp
        )
    }

    fn clamp_mut(&mut self) -> Option<&mut RealClamp> {
        Some(&mut self.clamp)
    }
}

/// From a sum of `count` differences of elements of a type to their mean for each count, `ratio` being input step by output
/// step.
pub fn mean_multipliers(
    ratio: f64,
    (counts, input): (&[usize], DType),
    result: DType,
    numerics: Numerics,
) -> Result<Vec<Multiplier>, Problem> {
    let factors: Vec<f64> = counts.iter().map(|&count| ratio / count as f64).collect();
    let most = counts.iter().max().copied().unwrap_or(1);
    multipliers(&factors, (sum_reach(most, input), result), numerics)
}

/// All sums of so many differences to the zero point, whatever that is.
pub fn sum_reach(count: usize, input: DType) -> Interval {
    let most = match input {
        DType::I4 | DType::I8 => 255,
        DType::I16 | DType::I32 => -i128::from(input.min()),
    };
    Interval::new(-most * count as i128, most * count as i128)
}

impl QuantOperator for QAveragePool {
    fn kind(&self) -> &'static str {
        "AveragePool"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_pool(operands[0], &self.window)
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let x = operands[0];
        let sizes = &x.ty.shape.dims()[2..];
        evaluate_pool(&self.window, &x.ty.shape, &result.shape, |index, positions| {
            let sum: i64 = positions.iter().map(|&p| i64::from(x.data[p] - self.input_zero)).sum();
            let count = divisor(&self.window, self.include_pad, &index[2..], sizes);
            self.clamp.apply_wide(i64::from(self.output_zero) + self.multipliers[&count].apply_wide(sum))
        })
    }

    fn describe(&self) -> String {
        let by_count: Vec<String> = self.multipliers.iter().map(|(count, m)| format!("/{count}: {m}")).collect();
        format!(
            "{}, x{:+}, {}, y{:+} clamp {}",
            self.window,
            -self.input_zero,
            by_count.join(" "),
            self.output_zero,
            self.clamp
        )
    }

    fn is_unusual(&self) -> bool {
        self.multipliers.values().any(|multiplier| multiplier.rounding() != Rounding::NATIVE)
    }

    fn accumulator(&self) -> Option<Interval> {
        let (taps, zero) = (self.window.taps() as i128, i128::from(self.input_zero));
        let Interval { lo, hi } = self.input_type.interval();
        Some(Interval::new(taps * (lo - zero), taps * (hi - zero)))
    }
}
