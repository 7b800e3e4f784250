//! The largest or smallest elements along an axis, in order, or their positions (ONNX `TopK`).

use super::import::NodeImport;
use super::{FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{QuantType, Shape};

/// The `count` first elements of an axis after sorting; of equal ones, that with the lower position comes first.
#[derive(Debug, Clone)]
pub struct TopK {
    /// The axis.
    pub axis: usize,
    /// How many elements.
    pub count: usize,
    /// Whether the largest come first, or the smallest.
    pub largest: bool,
    /// Whether the positions are wanted instead of the elements.
    pub positions: bool,
}

/// On integers the same, since quantization keeps the order.
pub type QTopK = TopK;

/// Imports `TopK`: the number is an attribute before opset 10, an input since. Unsorted results are sorted, too.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let axis = cx.axis(cx.int_or("axis", -1)?, cx.shape(x).rank())?;
    let count = match cx.optional(1) {
        Some(_) => cx.int_constant(1)?.first().copied(),
        None => Some(cx.int_or("k", 0)?),
    };
    let size = cx.shape(x).dims()[axis];
    let count = count.and_then(|count| usize::try_from(count).ok()).filter(|count| (1..=size).contains(count));
    let Some(count) = count else {
        return Err(cx.invalid(format!("it does not take 1 to {size} elements")));
    };
    let largest = cx.int_or("largest", 1)? != 0;
    for (port, positions) in [false, true].into_iter().enumerate() {
        if cx.output_used(port) {
            cx.finish(port, TopK { axis, count, largest, positions }, &[x])?;
        }
    }
    Ok(())
}

impl TopK {
    fn shape(&self, operand: &Shape) -> Result<Shape, String> {
        let mut dims = operand.dims().to_vec();
        match dims.get_mut(self.axis) {
            Some(size) if *size >= self.count => *size = self.count,
            _ => return Err(format!("axis {} of {operand} does not have {} elements", self.axis, self.count)),
        }
        Ok(Shape::new(dims))
    }
}

impl FloatOperator for TopK {
    fn kind(&self) -> &'static str {
        "TopK"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        self.shape(operands[0])
    }

    fn params_rule(&self) -> ParamsRule {
        if self.positions { ParamsRule::Index } else { ParamsRule::SameAsOperand }
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn quantize(&self, _site: &Site) -> Result<QuantOp, Problem> {
        Ok(self.clone().into())
    }

    fn describe(&self) -> String {
        let what = if self.positions { "positions of the" } else { "the" };
        let which = if self.largest { "largest" } else { "smallest" };
        format!("{what} {} {which} along axis {}", self.count, self.axis)
    }
}

impl QuantOperator for TopK {
    fn kind(&self) -> &'static str {
        "TopK"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        self.shape(operands[0])
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let dims = operands[0].ty.shape.dims();
        let (terms, inner) = (dims[self.axis], dims[self.axis + 1..].iter().product::<usize>());
        let mut y = vec![0; result.shape.len()];
        let rows = (0..operands[0].data.len()).filter(|flat| flat / inner % terms == 0);
        for start in rows {
            let at = |i: usize| operands[0].data[start + i * inner];
            let mut order: Vec<usize> = (0..terms).collect();
            // Stable, so equal elements stay in the order of their positions.
            order.sort_by_key(|&i| if self.largest { -i64::from(at(i)) } else { i64::from(at(i)) });
            let first = start / (inner * terms) * inner * self.count + start % inner;
            for (rank, &i) in order.iter().take(self.count).enumerate() {
                y[first + rank * inner] = if self.positions { i as i32 } else { at(i) };
            }
        }
        y
    }

    fn describe(&self) -> String {
        FloatOperator::describe(self)
    }
}
