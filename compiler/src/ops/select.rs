//! Chooses between two tensors, element by element (ONNX `Where`).

use super::extreme::{evaluate_broadcast_all, infer_broadcast_all};
use super::import::NodeImport;
use super::mask;
use super::{FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{QuantType, Shape};

/// `a` where the condition is not 0, else `b`. Operands are the condition, `a` and `b`.
#[derive(Debug, Clone)]
pub struct Select;

/// The same on integers; `a`, `b` and the result share scale and zero point.
#[derive(Debug, Clone)]
pub struct QSelect {
    /// The integer that stands for 0 in the condition.
    pub zero: i32,
}

/// Imports `Where`.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    if let Some((mask, x)) = mask::of_choice(cx)? {
        return cx.finish(0, mask, &[x]).map(drop);
    }
    let operands = [cx.activation(0)?, cx.activation(1)?, cx.activation(2)?];
    cx.finish(0, Select, &operands).map(drop)
}

impl FloatOperator for Select {
    fn kind(&self) -> &'static str {
        "Where"
    }

    fn arity(&self) -> Option<usize> {
        Some(3)
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_broadcast_all(operands)
    }

    fn shares_params(&self, port: usize) -> bool {
        port > 0
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        Ok(QSelect { zero: site.operands[0].params().map_or(0, |params| params.zero_point) }.into())
    }
}

impl QuantOperator for QSelect {
    fn kind(&self) -> &'static str {
        "Where"
    }

    fn arity(&self) -> Option<usize> {
        Some(3)
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_broadcast_all(operands)
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        evaluate_broadcast_all(
            operands,
            &result.shape,
            |values| {
                if values[0] == self.zero { values[2] } else { values[1] }
            },
        )
    }

    fn describe(&self) -> String {
        format!("x0 != {} ? x1 : x2", self.zero)
    }
}
