//! Softmax over one axis.

use super::export::Export;
use super::import::{Attribute, NodeImport};
use super::reshape::Reshape;
use super::{ExportSite, FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{Params, QuantType, Shape, round_half_even};

/// `exp(x) / sum of exp(x)` over `axis`.
#[derive(Debug, Clone)]
pub struct Softmax {
    /// The axis.
    pub axis: usize,
}

/// Softmax in integers. With `d = max - x` in 0..=255 and `e = exponentials[d]`:
///
/// ```text
/// reciprocal = floor(2^(31 + bits) / sum of e)
/// y = min(127, ((e * reciprocal + 2^(22 + bits)) >> (23 + bits)) - 128)
/// ```
///
/// `e * reciprocal / 2^(31 + bits)` is the probability, 256 of it a step. All values are unsigned; the largest
/// exponential is `2^bits`, so the sum is at least that and the reciprocal at most `2^31`.
#[derive(Debug, Clone)]
pub struct QSoftmax {
    /// The axis.
    pub axis: usize,
    /// `round(2^bits * exp(-scale * d))`.
    pub exponentials: Vec<u32>,
    /// Fractional bits of the exponentials: the most with which a sum stays below 2^31.
    pub bits: u32,
}

/// Most fractional bits of an exponential.
const MAX_BITS: u32 = 24;

/// Imports `Softmax`: over one axis since opset 13, over all axes from `axis` on before.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let shape = cx.shape(x);
    let flattens = cx.opset() < 13;
    let axis = cx.axis(cx.int_or("axis", if flattens { 1 } else { -1 })?, shape.rank())?;
    let inner: usize = shape.dims()[axis..].iter().product();
    if !flattens || inner == shape.dims()[axis] {
        return cx.finish(0, Softmax { axis }, &[x]).map(drop);
    }
    let flat = cx.emit(Reshape { shape: Shape::new([shape.len() / inner, inner]) }, &[x])?;
    let y = cx.emit(Softmax { axis: 1 }, &[flat])?;
    cx.finish(0, Reshape { shape }, &[y]).map(drop)
}

impl FloatOperator for Softmax {
    fn kind(&self) -> &'static str {
        "Softmax"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands[0], self.axis)
    }

    fn params_rule(&self) -> ParamsRule {
        ParamsRule::Fixed(Params::unit_interval())
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let scale = site.operand_params(0)?.scale.get();
        let terms = site.operands[0].shape.dims()[self.axis];
        Ok(QSoftmax::new(self.axis, scale, terms)?.into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        Ok(export.node("Softmax", &[site.x()], &[("axis", Attribute::Int(self.axis as i64))]))
    }

    fn describe(&self) -> String {
        format!("axis {}", self.axis)
    }
}

fn infer(input: &Shape, axis: usize) -> Result<Shape, String> {
    if axis >= input.rank() {
        return Err(format!("{input} has no axis {axis}"));
    }
    Ok(input.clone())
}

impl QSoftmax {
    /// For inputs of this scale and sums of so many terms.
    pub fn new(axis: usize, scale: f64, terms: usize) -> Result<QSoftmax, Problem> {
        let bits = terms.next_power_of_two().ilog2();
        let bits = 30u32.checked_sub(bits).filter(|&bits| bits >= 12).map(|bits| bits.min(MAX_BITS));
        let bits = bits.ok_or_else(|| Problem::unsupported(format!("a Softmax over {terms} elements is too long")))?;
        let one = f64::from(1u32 << bits);
        let exponentials = (0..256).map(|d| round_half_even(one * (-scale * f64::from(d)).exp()) as u32).collect();
        Ok(QSoftmax { axis, exponentials, bits })
    }

    /// One row.
    pub fn row(&self, x: &[i32]) -> Vec<i32> {
        let max = x.iter().copied().max().unwrap_or(0);
        let e: Vec<u64> = x.iter().map(|&x| u64::from(self.exponentials[(max - x) as usize])).collect();
        let reciprocal = (1u64 << (31 + self.bits)) / e.iter().sum::<u64>();
        let half = 1u64 << (22 + self.bits);
        e.iter().map(|&e| (((e * reciprocal + half) >> (23 + self.bits)) as i32 - 128).min(127)).collect()
    }
}

impl QuantOperator for QSoftmax {
    fn kind(&self) -> &'static str {
        "Softmax"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands[0], self.axis)
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let dims = result.shape.dims();
        let (terms, inner) = (dims[self.axis], dims[self.axis + 1..].iter().product::<usize>());
        let mut y = vec![0; result.shape.len()];
        for start in (0..result.shape.len()).filter(|flat| flat / inner % terms == 0) {
            let x: Vec<i32> = (0..terms).map(|i| operands[0].data[start + i * inner]).collect();
            for (i, value) in self.row(&x).into_iter().enumerate() {
                y[start + i * inner] = value;
            }
        }
        y
    }

    fn describe(&self) -> String {
        format!("axis {}, {} fractional bits, exp(-1 step) = {}", self.axis, self.bits, self.exponentials[1])
    }
}
