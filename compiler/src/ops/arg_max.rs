//! Position of the largest or smallest element along an axis. The result holds positions (int32), not reals.

use super::export::Export;
use super::import::{Attribute, NodeImport};
use super::mean::infer_reduction;
use super::{ExportSite, FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{QuantType, Shape};

/// The index of the maximum along `axis`.
#[derive(Debug, Clone)]
pub struct ArgMax {
    /// The axis.
    pub axis: usize,
    /// Whether the axis stays, with size 1.
    pub keep_dims: bool,
    /// Whether the last of several equal maxima counts instead of the first.
    pub last: bool,
    /// Whether the smallest element is wanted instead of the largest.
    pub smallest: bool,
}

/// On integers the same, since quantization keeps the order.
pub type QArgMax = ArgMax;

/// Imports `ArgMax`.
pub fn import_max(cx: &mut NodeImport) -> diag::Result<()> {
    import(cx, false)
}

/// Imports `ArgMin`.
pub fn import_min(cx: &mut NodeImport) -> diag::Result<()> {
    import(cx, true)
}

fn import(cx: &mut NodeImport, smallest: bool) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let axis = cx.axis(cx.int_or("axis", 0)?, cx.shape(x).rank())?;
    let keep_dims = cx.int_or("keepdims", 1)? != 0;
    let last = cx.int_or("select_last_index", 0)? != 0;
    cx.finish(0, ArgMax { axis, keep_dims, last, smallest }, &[x]).map(drop)
}

impl FloatOperator for ArgMax {
    fn kind(&self) -> &'static str {
        if self.smallest { "ArgMin" } else { "ArgMax" }
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_reduction(operands[0], &[self.axis], self.keep_dims)
    }

    fn params_rule(&self) -> ParamsRule {
        ParamsRule::Index
    }

    fn quantize(&self, _site: &Site) -> Result<QuantOp, Problem> {
        Ok(self.clone().into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        let attributes = [
            ("axis", Attribute::Int(self.axis as i64)),
            ("keepdims", Attribute::Int(self.keep_dims.into())),
            ("select_last_index", Attribute::Int(self.last.into())),
        ];
        let op_type = if self.smallest { "ArgMin" } else { "ArgMax" };
        Ok(export.node(op_type, &[site.x()], &attributes))
    }

    fn describe(&self) -> String {
        format!("axis {}{}", self.axis, if self.last { ", last" } else { "" })
    }
}

impl QuantOperator for ArgMax {
    fn kind(&self) -> &'static str {
        FloatOperator::kind(self)
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_reduction(operands[0], &[self.axis], self.keep_dims)
    }

    fn evaluate(&self, operands: &[Operand], _result: &QuantType) -> Vec<i32> {
        let dims = operands[0].ty.shape.dims();
        let (terms, inner) = (dims[self.axis], dims[self.axis + 1..].iter().product::<usize>());
        let starts = (0..operands[0].data.len()).filter(|flat| flat / inner % terms == 0);
        starts
            .map(|start| {
                let sign = if self.smallest { -1 } else { 1 };
                let at = |i: usize| sign * operands[0].data[start + i * inner];
                let better = |best: usize, i: usize| if self.last { at(i) >= at(best) } else { at(i) > at(best) };
                (1..terms).fold(0, |best, i| if better(best, i) { i } else { best }) as i32
            })
            .collect()
    }

    fn describe(&self) -> String {
        FloatOperator::describe(self)
    }
}
