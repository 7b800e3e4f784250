//! Softmax over one axis.

use super::export::Export;
use super::import::{Attribute, NodeImport};
use super::mask::Mask;
use super::reshape::Reshape;
use super::{ExportSite, FloatOp, FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{DType, Numerics, Params, QuantType, Shape, round_half_even};

/// `exp(x) / sum of exp(x)` over `axis`.
#[derive(Debug, Clone)]
pub struct Softmax {
    /// The axis.
    pub axis: usize,
    /// What takes part; the probability of the rest is 0. It keeps something of each row.
    pub mask: Option<Mask>,
}

/// Softmax in integers. With `d = max - x` and `e = exponentials[d]`, or for operands of 16 bits
/// `e = (exponentials[d >> 8] * fine[d & 255] + 2^30) >> 31`, and `p` the bits of a probability:
///
/// ```text
/// reciprocal = floor(one / sum of e)
/// y = min(hi, ((e * reciprocal + 2^(30 + bits - p)) >> (31 + bits - p)) + zero)
/// ```
///
/// An element that is masked has `e = 0`.
///
/// `e / sum of e` is the probability; `one` is `2^(31 + bits)` where `2^p` steps are a probability of 1, and less by their
/// ratio where the model has fewer steps. All values but the last sum are unsigned; the largest exponential is `2^bits`, so
/// the sum is at least that and the reciprocal at most `2^31`. A result of 8 bits has `p = 8` and, unless the model says
/// otherwise, 256 steps and the zero point -128; one of 16 bits `p = 15` and the zero point 0.
#[derive(Debug, Clone)]
pub struct QSoftmax {
    /// The axis.
    pub axis: usize,
    /// `round(2^bits * exp(-scale * d))` for the 256 differences of 8 bits; for every 256th of 16 bits.
    pub exponentials: Vec<u32>,
    /// `round(2^31 * exp(-scale * d))` for `d` below 256, where operands have 16 bits; else empty.
    pub fine: Vec<u32>,
    /// Type of the result.
    pub output: DType,
    /// Fractional bits of the exponentials: the most with which a sum stays below 2^31.
    pub bits: u32,
    /// What is divided by the sum; at most `2^(31 + bits)`.
    pub one: u64,
    /// The integer that stands for 0 in the result.
    pub zero: i32,
    /// What takes part.
    pub mask: Option<Mask>,
}

/// Most fractional bits of an exponential.
const MAX_BITS: u32 = 24;

/// Imports `Softmax`.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    import_over_axis(cx, |axis| Softmax { axis, mask: None }.into())
}

/// Imports an operator that makes a distribution: over one axis since opset 13, over all axes from `axis` on before.
pub fn import_over_axis(cx: &mut NodeImport, over: impl Fn(usize) -> FloatOp) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let shape = cx.shape(x);
    let flattens = cx.opset() < 13;
    let axis = cx.axis(cx.int_or("axis", if flattens { 1 } else { -1 })?, shape.rank())?;
    let inner: usize = shape.dims()[axis..].iter().product();
    if !flattens || inner == shape.dims()[axis] {
        return cx.finish(0, over(axis), &[x]).map(drop);
    }
    let flat = cx.emit(Reshape { shape: Shape::new([shape.len() / inner, inner]) }, &[x])?;
    let y = cx.emit(over(1), &[flat])?;
    cx.finish(0, Reshape { shape }, &[y]).map(drop)
}

impl FloatOperator for Softmax {
    fn kind(&self) -> &'static str {
        "Softmax"
    }

    fn is_wide(&self) -> bool {
        true
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
        let (input, output) = ((site.operands[0].dtype, scale), site.result.dtype);
        let softmax = QSoftmax::for_types(self.axis, input, terms, output)?;
        let softmax = softmax.with_steps(site.result_params(), site.numerics);
        Ok(QSoftmax { mask: self.mask.clone(), ..softmax }.into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        if self.mask.is_some() {
            let problem = Problem::unsupported("a Softmax with a mask cannot be written as ONNX yet");
            return Err(problem.help("`ptqc build` compiles it; take the mask out of the model to write it"));
        }
        Ok(export.node("Softmax", &[site.x()], &[("axis", Attribute::Int(self.axis as i64))]))
    }

    fn describe(&self) -> String {
        let masked = if self.mask.is_some() { ", masked" } else { "" };
        format!("axis {}{masked}", self.axis)
    }
}

/// Whether a result of 8 bits with these parameters is computed at once: with more steps than 256 the reciprocal would
/// need another bit.
pub fn accepts(params: Params) -> bool {
    params.scale >= Params::unit_interval().scale
}

fn infer(input: &Shape, axis: usize) -> Result<Shape, String> {
    if axis >= input.rank() {
        return Err(format!("{input} has no axis {axis}"));
    }
    Ok(input.clone())
}

impl QSoftmax {
    /// From int8 to int8, for inputs of this scale and sums of so many terms.
    pub fn new(axis: usize, scale: f64, terms: usize) -> Result<QSoftmax, Problem> {
        QSoftmax::for_types(axis, (DType::I8, scale), terms, DType::I8)
    }

    /// For inputs of this type and scale, sums of so many terms, and results of a type.
    ///
    /// Errors: too many terms.
    pub fn for_types(
        axis: usize,
        (input, scale): (DType, f64),
        terms: usize,
        output: DType,
    ) -> Result<QSoftmax, Problem> {
        let bits = terms.next_power_of_two().ilog2();
        let bits = 30u32.checked_sub(bits).filter(|&bits| bits >= 12).map(|bits| bits.min(MAX_BITS));
        let bits = bits.ok_or_else(|| Problem::unsupported(format!("a Softmax over {terms} elements is too long")))?;
        let one = f64::from(1u32 << bits);
        let table = |one: f64, step: f64| -> Vec<u32> {
            (0..256).map(|d| round_half_even(one * (-step * f64::from(d)).exp()) as u32).collect()
        };
        let (exponentials, fine) = match input {
            DType::I4 | DType::I8 => (table(one, scale), vec![]),
            DType::I16 | DType::I32 => (table(one, scale * 256.0), table(f64::from(1u32 << 31), scale)),
        };
        let one = 1 << (31 + bits);
        let zero = if output.bits() > 8 { 0 } else { DType::I8.min() };
        Ok(QSoftmax { axis, exponentials, fine, output, bits, one, zero, mask: None })
    }

    /// With the steps and the zero point of a result of 8 bits that [`accepts`] them. ONNX Runtime's `QLinearSoftmax`
    /// takes the number of steps for an integer and cuts it off.
    fn with_steps(self, params: Params, numerics: Numerics) -> QSoftmax {
        if self.output.bits() > 8 {
            return self;
        }
        let steps = match numerics {
            Numerics::Native => 1.0 / params.scale.get(),
            Numerics::Ort => f64::from((1.0 / params.scale.as_f32()).floor()),
        };
        let one = ((1u64 << (31 + self.bits)) as f64 * (steps / 256.0).min(1.0)).round() as u64;
        QSoftmax { one, zero: params.zero_point, ..self }
    }

    /// Bits of a probability, and the largest result.
    pub fn result(&self) -> (u32, i32) {
        match self.output {
            DType::I4 | DType::I8 => (8, DType::I8.max()),
            DType::I16 | DType::I32 => (15, DType::I16.max()),
        }
    }

    /// `2^bits` times the exponential of a difference to the largest element.
    fn exponential(&self, d: i32) -> u64 {
        match self.fine.is_empty() {
            true => u64::from(self.exponentials[d as usize]),
            false => {
                let product =
                    u64::from(self.exponentials[(d >> 8) as usize]) * u64::from(self.fine[(d & 255) as usize]);
                (product + (1 << 30)) >> 31
            }
        }
    }

    /// One row: elements, and whether they take part.
    pub fn row(&self, x: &[(i32, bool)]) -> Vec<i32> {
        let max = x.iter().filter(|(_, keep)| *keep).map(|(x, _)| *x).max().unwrap_or(0);
        let e = x.iter().map(|&(x, keep)| if keep { self.exponential(max - x) } else { 0 });
        let e: Vec<u64> = e.collect();
        let reciprocal = self.one / e.iter().sum::<u64>();
        let (probability_bits, hi) = self.result();
        let shift = 31 + self.bits - probability_bits;
        let half = 1u64 << (shift - 1);
        e.iter().map(|&e| (((e * reciprocal + half) >> shift) as i32 + self.zero).min(hi)).collect()
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
        let keep = self.mask.as_ref().map(|mask| mask.spread(&result.shape));
        let mut y = vec![0; result.shape.len()];
        for start in (0..result.shape.len()).filter(|flat| flat / inner % terms == 0) {
            let keep = |at: usize| keep.as_ref().is_none_or(|keep| keep[at]);
            let at = |i: usize| start + i * inner;
            let x: Vec<(i32, bool)> = (0..terms).map(|i| (operands[0].data[at(i)], keep(at(i)))).collect();
            for (i, value) in self.row(&x).into_iter().enumerate() {
                y[start + i * inner] = value;
            }
        }
        y
    }

    fn describe(&self) -> String {
        let masked = if self.mask.is_some() { ", masked" } else { "" };
        let (axis, bits, next) = (self.axis, self.bits, self.exponentials[1]);
        let given = if self.one == 1 << (31 + bits) { String::new() } else { format!(", one = {}", self.one) };
        format!("axis {axis}, {bits} fractional bits, exp(-1 step) = {next}{given}{masked}")
    }
}
