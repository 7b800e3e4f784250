//! Permutes axes. Costs nothing where the plan can choose the layout.

use super::export::{Export, list};
use super::import::NodeImport;
use super::{ExportSite, FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{QuantType, Shape};

/// Axis `i` of the result is axis `order[i]` of the operand.
#[derive(Debug, Clone, PartialEq)]
pub struct Transpose {
    /// A permutation of the axes.
    pub order: Vec<usize>,
}

/// On integers the same.
pub type QTranspose = Transpose;

impl Transpose {
    /// Exchanges the last two of `rank` axes.
    pub fn swap_last(rank: usize) -> Transpose {
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(rank - 2, rank - 1);
        Transpose { order }
    }

    fn shape(&self, operand: &Shape) -> Result<Shape, String> {
        let mut sorted = self.order.clone();
        sorted.sort_unstable();
        if sorted != (0..operand.rank()).collect::<Vec<_>>() {
            return Err(format!("{:?} is no permutation of the axes of {operand}", self.order));
        }
        Ok(Shape::new(self.order.iter().map(|&axis| operand.dims()[axis]).collect::<Vec<_>>()))
    }
}

/// Imports `Transpose`.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let rank = cx.shape(x).rank();
    let order = cx.usizes("perm")?.unwrap_or_else(|| (0..rank).rev().collect());
    cx.finish(0, Transpose { order }, &[x]).map(drop)
}

impl FloatOperator for Transpose {
    fn kind(&self) -> &'static str {
        "Transpose"
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        self.shape(operands[0])
    }

    fn params_rule(&self) -> ParamsRule {
        ParamsRule::SameAsOperand
    }

    fn quantize(&self, _site: &Site) -> Result<QuantOp, Problem> {
        Ok(self.clone().into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        Ok(export.node("Transpose", &[site.x()], &[("perm", list(&self.order))]))
    }

    fn describe(&self) -> String {
        format!("order {:?}", self.order)
    }
}

impl QuantOperator for Transpose {
    fn kind(&self) -> &'static str {
        "Transpose"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        self.shape(operands[0])
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let strides = operands[0].ty.shape.strides();
        (0..result.shape.len())
            .map(|flat| {
                let index = result.shape.unravel(flat);
                operands[0].data[index.iter().zip(&self.order).map(|(i, &axis)| i * strides[axis]).sum::<usize>()]
            })
            .collect()
    }

    fn describe(&self) -> String {
        format!("order {:?}", self.order)
    }
}
