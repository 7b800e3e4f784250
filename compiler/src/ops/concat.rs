//! Joins tensors along an axis. All operands and the result share scale and zero point: `quantize` requantizes
//! the operands, in their producers where it can.

use super::export::Export;
use super::import::{Attribute, NodeImport};
use super::{ExportSite, FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{QuantType, Shape};

/// The operands one after the other along `axis`.
#[derive(Debug, Clone)]
pub struct Concat {
    /// The axis.
    pub axis: usize,
}

/// On integers the same.
pub type QConcat = Concat;

/// Imports `Concat`.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    let operands = (0..cx.input_count()).map(|port| cx.activation(port)).collect::<diag::Result<Vec<_>>>()?;
    let Some(&first) = operands.first() else { return Err(cx.invalid("it has no inputs".to_owned())) };
    let axis = cx.axis(cx.int_or("axis", 0)?, cx.shape(first).rank())?;
    cx.finish(0, Concat { axis }, &operands).map(drop)
}

impl Concat {
    fn shape(&self, operands: &[&Shape]) -> Result<Shape, String> {
        let first = operands.first().ok_or("it has no operands")?;
        let mut dims = first.dims().to_vec();
        if self.axis >= dims.len() {
            return Err(format!("{first} has no axis {}", self.axis));
        }
        for other in &operands[1..] {
            let fits = other.rank() == dims.len()
                && (0..dims.len()).all(|axis| axis == self.axis || other.dims()[axis] == dims[axis]);
            if !fits {
                return Err(format!("{first} and {other} differ in more than axis {}", self.axis));
            }
            dims[self.axis] += other.dims()[self.axis];
        }
        Ok(Shape::new(dims))
    }
}

impl FloatOperator for Concat {
    fn kind(&self) -> &'static str {
        "Concat"
    }

    fn arity(&self) -> Option<usize> {
        None
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        self.shape(operands)
    }

    fn shares_params(&self, _port: usize) -> bool {
        true
    }

    fn quantize(&self, _site: &Site) -> Result<QuantOp, Problem> {
        Ok(self.clone().into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        let operands: Vec<&str> = site.operands.iter().map(String::as_str).collect();
        Ok(export.node("Concat", &operands, &[("axis", Attribute::Int(self.axis as i64))]))
    }

    fn describe(&self) -> String {
        format!("axis {}", self.axis)
    }
}

impl QuantOperator for Concat {
    fn kind(&self) -> &'static str {
        "Concat"
    }

    fn arity(&self) -> Option<usize> {
        None
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        self.shape(operands)
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let outer: usize = result.shape.dims()[..self.axis].iter().product();
        let row = |operand: &Operand| operand.ty.shape.len() / outer;
        (0..outer)
            .flat_map(|o| {
                operands.iter().flat_map(move |operand| operand.data[o * row(operand)..][..row(operand)].to_vec())
            })
            .collect()
    }

    fn describe(&self) -> String {
        format!("axis {}", self.axis)
    }
}
