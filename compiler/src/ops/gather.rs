//! Elements of an axis at positions that are computed at run time (ONNX `Gather`): embedding look-ups.

use super::import::{NodeImport, Value};
use super::{FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site, slice};
use crate::diag;
use crate::ir::{QuantType, Shape};

/// `data[.., positions[..], ..]` along `axis`. Operands are the data and the positions; negative ones count from the end.
#[derive(Debug, Clone)]
pub struct Gather {
    /// The axis of the data.
    pub axis: usize,
}

/// The same on integers. Positions outside of the axis are moved to its nearest end, so that no input whatsoever reads
/// beside the data.
#[derive(Debug, Clone)]
pub struct QGather {
    /// The axis of the data.
    pub axis: usize,
    /// Where positions come as quantized reals: the position that each integer from -128 to 127 stands for.
    pub positions: Option<Vec<i32>>,
}

/// Imports `Gather`.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    if matches!(cx.input(1)?, Value::Constant(_)) {
        return slice::import_gather(cx);
    }
    let operands = [cx.activation(0)?, cx.activation(1)?];
    let axis = cx.axis(cx.int_or("axis", 0)?, cx.shape(operands[0]).rank())?;
    cx.finish(0, Gather { axis }, &operands).map(drop)
}

fn infer(axis: usize, operands: &[&Shape]) -> Result<Shape, String> {
    let [data, positions] = operands else { return Err(format!("{} operands", operands.len())) };
    if axis >= data.rank() {
        return Err(format!("{data} has no axis {axis}"));
    }
    Ok(Shape::new([&data.dims()[..axis], positions.dims(), &data.dims()[axis + 1..]].concat()))
}

/// The element that a position means on an axis of `size` elements.
pub fn wrapped(position: i32, size: usize) -> usize {
    // Axes are shorter than 2^28.
    let size = size as i32;
    let position = position.clamp(-size, size - 1);
    (if position < 0 { position + size } else { position }) as usize
}

impl FloatOperator for Gather {
    fn kind(&self) -> &'static str {
        "Gather"
    }

    fn arity(&self) -> Option<usize> {
        Some(2)
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(self.axis, operands)
    }

    fn params_rule(&self) -> ParamsRule {
        ParamsRule::SameAsOperand
    }

    fn takes_positions(&self, port: usize) -> bool {
        port == 1
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let size = site.operands[0].shape.dims()[self.axis];
        let positions = match site.operands[1].params() {
            None => None,
            Some(params) => {
                site.expect_int8(self.kind())?;
                let position = |q| wrapped(params.dequantize(q).round_ties_even() as i32, size) as i32;
                Some((-128..=127).map(position).collect())
            }
        };
        Ok(QGather { axis: self.axis, positions }.into())
    }

    fn describe(&self) -> String {
        format!("axis {}", self.axis)
    }
}

impl QuantOperator for QGather {
    fn kind(&self) -> &'static str {
        "Gather"
    }

    fn arity(&self) -> Option<usize> {
        Some(2)
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(self.axis, operands)
    }

    fn evaluate(&self, operands: &[Operand], _result: &QuantType) -> Vec<i32> {
        let dims = operands[0].ty.shape.dims();
        let (size, inner) = (dims[self.axis], dims[self.axis + 1..].iter().product::<usize>());
        let outer: usize = dims[..self.axis].iter().product();
        let position = |q: i32| match &self.positions {
            Some(positions) => positions[(q + 128) as usize] as usize,
            None => wrapped(q, size),
        };
        (0..outer)
            .flat_map(|o| {
                operands[1].data.iter().flat_map(move |&q| {
                    let start = (o * size + position(q)) * inner;
                    operands[0].data[start..start + inner].iter().copied()
                })
            })
            .collect()
    }

    fn describe(&self) -> String {
        format!("axis {}{}", self.axis, if self.positions.is_some() { ", positions from a table" } else { "" })
    }
}
