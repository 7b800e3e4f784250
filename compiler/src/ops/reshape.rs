//! The same elements in row-major order under another shape (ONNX `Reshape`, `Flatten`, `Squeeze`, `Unsqueeze`).

use super::export::Export;
use super::import::NodeImport;
use super::{ExportSite, FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{QuantType, Shape};

/// The elements under `shape`.
#[derive(Debug, Clone)]
pub struct Reshape {
    /// The new shape; as many elements as before.
    pub shape: Shape,
}

/// On integers the same.
pub type QReshape = Reshape;

/// Imports `Reshape`, `Flatten`, `Squeeze` and `Unsqueeze`: the front end has already worked out the shape.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let shape = cx.output_shape(0)?;
    let y = cx.emit_unless_same(Reshape { shape }, x)?;
    cx.define(0, y);
    Ok(())
}

impl Reshape {
    fn check(&self, operand: &Shape) -> Result<Shape, String> {
        if operand.len() != self.shape.len() {
            return Err(format!("{operand} does not have the {} elements of {}", self.shape.len(), self.shape));
        }
        Ok(self.shape.clone())
    }
}

impl FloatOperator for Reshape {
    fn kind(&self) -> &'static str {
        "Reshape"
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        self.check(operands[0])
    }

    fn params_rule(&self) -> ParamsRule {
        ParamsRule::SameAsOperand
    }

    fn quantize(&self, _site: &Site) -> Result<QuantOp, Problem> {
        Ok(self.clone().into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        let shape = export.ints(self.shape.dims().iter().map(|&size| size as i64).collect());
        Ok(export.node("Reshape", &[site.x(), &shape], &[]))
    }
}

impl QuantOperator for Reshape {
    fn kind(&self) -> &'static str {
        "Reshape"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        self.check(operands[0])
    }

    fn evaluate(&self, operands: &[Operand], _result: &QuantType) -> Vec<i32> {
        operands[0].data.to_vec()
    }
}
