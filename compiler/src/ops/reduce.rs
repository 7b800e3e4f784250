//! Reductions over whole axes other than the mean and the sum (ONNX `ReduceMax`, `ReduceMin`, `ReduceL1`, `ReduceL2`,
//! `ReduceSumSquare`, `ReduceLogSum`).

use super::import::NodeImport;
use super::mean::{infer_reduction, reduced_axes};
use super::steps::Steps;
use super::{FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{DType, Interval, Params, QuantType, Shape};

/// What becomes of the elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// The largest.
    Max,
    /// The smallest.
    Min,
    /// Sum of absolute values.
    L1,
    /// Square root of the sum of squares.
    L2,
    /// Sum of squares.
    SumSquare,
    /// Natural logarithm of the sum.
    LogSum,
}

/// A reduction over `axes`.
#[derive(Debug, Clone)]
pub struct Reduce {
    /// What becomes of the elements.
    pub reduction: Reduction,
    /// In ascending order, without repetition.
    pub axes: Vec<usize>,
    /// Whether the axes stay, with size 1.
    pub keep_dims: bool,
}

/// The same on integers.
#[derive(Debug, Clone)]
pub struct QReduce {
    /// In ascending order, without repetition.
    pub axes: Vec<usize>,
    /// Whether the axes stay, with size 1.
    pub keep_dims: bool,
    /// How elements are joined.
    pub fold: Fold,
}

/// How elements are joined.
#[derive(Debug, Clone)]
pub enum Fold {
    /// The largest; scale and zero point stay.
    Max,
    /// The smallest; scale and zero point stay.
    Min,
    /// A function of a sum.
    Sum(Box<SumFold>),
}

/// `steps(sum of terms[q + 128])`.
#[derive(Debug, Clone)]
pub struct SumFold {
    /// What an element adds, for -128 to 127.
    pub terms: Vec<i32>,
    /// All values of the sum.
    pub bound: Interval,
    /// From sum to result.
    pub steps: Steps,
}

/// Imports any of them.
pub fn import(cx: &mut NodeImport, reduction: Reduction) -> diag::Result<()> {
    let x = cx.activation(0)?;
    // Truth values are 0 and 1, so that the largest tells whether any holds.
    let Some(axes) = reduced_axes(cx, x)? else {
        let unchanged = matches!(reduction, Reduction::Max | Reduction::Min);
        if unchanged {
            cx.alias(0, x);
            return Ok(());
        }
        return cx.finish(0, Reduce { reduction, axes: vec![], keep_dims: true }, &[x]).map(drop);
    };
    let keep_dims = cx.int_or("keepdims", 1)? != 0;
    cx.finish(0, Reduce { reduction, axes, keep_dims }, &[x]).map(drop)
}

impl Reduction {
    /// What an element adds to the sum; `q` is relative to the zero point.
    fn term(self, q: i32) -> i32 {
        match self {
            Reduction::L1 => q.abs(),
            Reduction::L2 | Reduction::SumSquare => q * q,
            Reduction::LogSum | Reduction::Max | Reduction::Min => q,
        }
    }

    /// The real result of a sum of terms, `scale` being the operand's.
    fn finish(self, sum: f64, scale: f64) -> f64 {
        match self {
            Reduction::L1 | Reduction::Max | Reduction::Min => sum * scale,
            Reduction::L2 => sum.sqrt() * scale,
            Reduction::SumSquare => sum * scale * scale,
            Reduction::LogSum if sum <= 0.0 => f64::NEG_INFINITY,
            Reduction::LogSum => (sum * scale).ln(),
        }
    }

    fn fold(self, count: usize, x: Params, y: Params, result: &QuantType) -> Fold {
        if self == Reduction::Max {
            return Fold::Max;
        }
        if self == Reduction::Min {
            return Fold::Min;
        }
        let terms: Vec<i32> = (-128..=127).map(|q| self.term(q - x.zero_point)).collect();
        let hull = terms.iter().copied().map(Interval::point).reduce(Interval::hull).unwrap_or(Interval::point(0));
        let count = count as i128;
        let bound = Interval::new(hull.lo.min(0) * count, hull.hi.max(0) * count);
        let steps = Steps::rounded(bound, result, y, |sum| self.finish(sum, x.scale.get()));
        Fold::Sum(Box::new(SumFold { terms, bound, steps }))
    }
}

impl FloatOperator for Reduce {
    fn kind(&self) -> &'static str {
        "Reduce"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_reduction(operands[0], &self.axes, self.keep_dims)
    }

    fn params_rule(&self) -> ParamsRule {
        match self.reduction {
            Reduction::Max | Reduction::Min => ParamsRule::SameAsOperand,
            Reduction::L1 | Reduction::L2 | Reduction::SumSquare | Reduction::LogSum => ParamsRule::Own,
        }
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let (x, y) = (site.operand_params(0)?, site.result_params());
        let count = self.axes.iter().map(|&axis| site.operands[0].shape.dims()[axis]).product();
        let fold = self.reduction.fold(count, x, y, site.result);
        if matches!(fold, Fold::Sum(_)) {
            site.expect_int8(self.kind())?;
        }
        Ok(QReduce { axes: self.axes.clone(), keep_dims: self.keep_dims, fold }.into())
    }

    fn describe(&self) -> String {
        format!("{:?} over axes {:?}", self.reduction, self.axes)
    }
}

impl Fold {
    /// The accumulator before the first element.
    fn start(&self) -> i64 {
        match self {
            Fold::Max => i64::from(DType::I32.min()),
            Fold::Min => i64::from(DType::I32.max()),
            Fold::Sum(_) => 0,
        }
    }

    fn join(&self, acc: i64, q: i32) -> i64 {
        match self {
            Fold::Max => acc.max(q.into()),
            Fold::Min => acc.min(q.into()),
            Fold::Sum(sum) => acc + i64::from(sum.terms[(q + 128) as usize]),
        }
    }

    fn finish(&self, acc: i64) -> i32 {
        match self {
            // One of the elements.
            Fold::Max | Fold::Min => acc as i32,
            Fold::Sum(sum) => sum.steps.apply(acc),
        }
    }
}

impl QuantOperator for QReduce {
    fn kind(&self) -> &'static str {
        "Reduce"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_reduction(operands[0], &self.axes, self.keep_dims)
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let x = operands[0];
        let kept = infer_reduction(&x.ty.shape, &self.axes, true).unwrap_or_default();
        let strides = kept.broadcast_strides(&x.ty.shape);
        let mut accs = vec![self.fold.start(); result.shape.len()];
        for (flat, &q) in x.data.iter().enumerate() {
            let index = x.ty.shape.unravel(flat);
            let at: usize = index.iter().zip(&strides).map(|(i, stride)| i * stride).sum();
            accs[at] = self.fold.join(accs[at], q);
        }
        accs.into_iter().map(|acc| self.fold.finish(acc)).collect()
    }

    fn describe(&self) -> String {
        match &self.fold {
            Fold::Max => format!("max over axes {:?}", self.axes),
            Fold::Min => format!("min over axes {:?}", self.axes),
            Fold::Sum(sum) => format!(
                "sum over axes {:?} of terms {}..{}, {} + thresholds {}..",
                self.axes, sum.terms[0], sum.terms[255], sum.steps.lowest, sum.steps.thresholds[0]
            ),
        }
    }

    fn formula(&self) -> String {
        match &self.fold {
            Fold::Max | Fold::Min => self.describe(),
            Fold::Sum(sum) => format!(
                "y = {} + number of thresholds that the sum of term[x] over axes {:?} reaches",
                sum.steps.lowest, self.axes
            ),
        }
    }
}
