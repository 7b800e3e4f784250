//! Comparisons of two tensors, element by element (ONNX `Equal`, `Less`, `Greater` and the like; `Xor`).
//!
//! The result is exact: it is what comparing the real values of both integers would give.

use super::extreme::{evaluate_broadcast_all, infer_broadcast_all};
use super::import::{NodeImport, Value};
use super::unary::{Relation, Unary, UnaryFn, uniform};
use super::{FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{Params, QuantType, Scale, Shape};

/// 1 where the relation holds between the operands, else 0.
#[derive(Debug, Clone)]
pub struct Compare {
    /// The relation.
    pub relation: Relation,
}

/// `relation(a * factors[0] + b * factors[1] + offset, 0)` in 64 bits.
#[derive(Debug, Clone)]
pub struct QCompare {
    /// The relation; not `Greater` or `GreaterOrEqual`, which are written the other way round.
    pub relation: Relation,
    /// The first is positive, the second negative.
    pub factors: [i64; 2],
    /// Addend.
    pub offset: i64,
}

/// Scales this many powers of two apart are as good as any further apart: one step of the coarser operand is then more
/// than the finer operand's whole range, at 16 bits too.
const MOST_APART: i32 = 20;

/// Imports any of them.
pub fn import(cx: &mut NodeImport, relation: Relation) -> diag::Result<()> {
    let (number, x, relation) = match (cx.input(0)?, cx.input(1)?) {
        (_, Value::Constant(_)) => (uniform(cx, 1)?, 0, relation),
        (Value::Constant(_), _) => (uniform(cx, 0)?, 1, relation.swapped()),
        _ => (None, 0, relation),
    };
    if let Some((value, shape)) = number {
        let x = cx.activation(x)?;
        let x = super::resample::broadcast_to(cx, x, &shape)?;
        return cx.finish(0, Unary::new(UnaryFn::Compare { relation, value }), &[x]).map(drop);
    }
    let operands = [cx.activation(x)?, cx.activation(1 - x)?];
    cx.finish(0, Compare { relation }, &operands).map(drop)
}

/// Imports `Xor`.
pub fn import_xor(cx: &mut NodeImport) -> diag::Result<()> {
    import(cx, Relation::NotEqual)
}

/// A scale as an integer of 24 bits and a power of two.
fn parts(scale: Scale) -> (i64, i32) {
    let bits = scale.as_f32().to_bits();
    (i64::from(bits & 0x007f_ffff | 0x0080_0000), (bits >> 23) as i32)
}

impl FloatOperator for Compare {
    fn kind(&self) -> &'static str {
        "Compare"
    }

    fn arity(&self) -> Option<usize> {
        Some(2)
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_broadcast_all(operands)
    }

    fn params_rule(&self) -> ParamsRule {
        ParamsRule::Fixed(Params::integers())
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let (a, b) = (site.operand_params(0)?, site.operand_params(1)?);
        let ((a_mantissa, a_power), (b_mantissa, b_power)) = (parts(a.scale), parts(b.scale));
        let apart = (a_power - b_power).clamp(-MOST_APART, MOST_APART);
        let mut factors = [a_mantissa << apart.max(0), -(b_mantissa << (-apart).max(0))];
        let relation = match self.relation {
            relation @ (Relation::Greater | Relation::GreaterOrEqual) => {
                factors = factors.map(|factor| -factor);
                relation.swapped()
            }
            relation => relation,
        };
        let offset = -(factors[0] * i64::from(a.zero_point) + factors[1] * i64::from(b.zero_point));
        Ok(QCompare { relation, factors, offset }.into())
    }

    fn describe(&self) -> String {
        format!("a {} b", self.relation.symbol())
    }
}

impl QuantOperator for QCompare {
    fn kind(&self) -> &'static str {
        "Compare"
    }

    fn arity(&self) -> Option<usize> {
        Some(2)
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_broadcast_all(operands)
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        evaluate_broadcast_all(operands, &result.shape, |values| {
            let [a, b] = [0, 1].map(|port| i64::from(values[port]) * self.factors[port]);
            i32::from(self.relation.holds(&(a + b + self.offset), &0))
        })
    }

    fn describe(&self) -> String {
        let [a, b] = self.factors;
        format!("a*{a} + b*{b} {:+} {} 0 in 64 bits", self.offset, self.relation.symbol())
    }
}
