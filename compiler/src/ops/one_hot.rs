//! Positions as rows of two values (ONNX `OneHot`).

use super::gather::wrapped;
use super::import::NodeImport;
use super::{FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{QuantType, Shape};

/// A new axis of `depth` elements: `on` at the position that the operand holds, `off` elsewhere. Negative positions count
/// from the end; at positions outside, all elements are `off`.
#[derive(Debug, Clone)]
pub struct OneHot {
    /// Where the new axis is in the result.
    pub axis: usize,
    /// Its size.
    pub depth: usize,
    /// Value everywhere else.
    pub off: f32,
    /// Value at the position.
    pub on: f32,
}

/// The same on integers.
#[derive(Debug, Clone)]
pub struct QOneHot {
    /// Where the new axis is in the result.
    pub axis: usize,
    /// Its size.
    pub depth: usize,
    /// Value everywhere else.
    pub off: i32,
    /// Value at the position.
    pub on: i32,
    /// Where positions come as quantized reals: the position that each integer from -128 to 127 stands for; -1 for none.
    pub positions: Option<Vec<i32>>,
}

/// Imports `OneHot` with constant depth and values.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let (depth, values) = (cx.float_constant(1)?.data, cx.float_constant(2)?.data);
    let depth = depth.first().copied().filter(|depth| (1.0..=1e9).contains(depth)).map(|depth| depth as usize);
    let (Some(depth), &[off, on]) = (depth, &values[..]) else {
        return Err(cx.invalid("its depth is no positive number, or its values are not two"));
    };
    let axis = cx.axis(cx.int_or("axis", -1)?, cx.shape(x).rank() + 1)?;
    cx.finish(0, OneHot { axis, depth, off, on }, &[x]).map(drop)
}

/// The position that is meant, or -1 if there is none.
fn resolved(position: i32, depth: usize) -> i32 {
    let depth_i32 = depth as i32;
    if (-depth_i32..depth_i32).contains(&position) { wrapped(position, depth) as i32 } else { -1 }
}

fn infer(operand: &Shape, axis: usize, depth: usize) -> Result<Shape, String> {
    if axis > operand.rank() {
        return Err(format!("{operand} gets no axis {axis}"));
    }
    let mut dims = operand.dims().to_vec();
    dims.insert(axis, depth);
    Ok(Shape::new(dims))
}

impl FloatOperator for OneHot {
    fn kind(&self) -> &'static str {
        "OneHot"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands[0], self.axis, self.depth)
    }

    fn takes_positions(&self, _port: usize) -> bool {
        true
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let y = site.result_params();
        let [off, on] = [self.off, self.on].map(|value| y.quantize(f64::from(value), site.result.dtype));
        let positions = match site.operands[0].params() {
            None => None,
            Some(params) => {
                site.expect_int8(self.kind())?;
                let position = |q| resolved(params.dequantize(q).round_ties_even() as i32, self.depth);
                Some((-128..=127).map(position).collect())
            }
        };
        Ok(QOneHot { axis: self.axis, depth: self.depth, off, on, positions }.into())
    }

    fn describe(&self) -> String {
        format!("axis {} of {}, {:?} and {:?}", self.axis, self.depth, self.off, self.on)
    }
}

impl QuantOperator for QOneHot {
    fn kind(&self) -> &'static str {
        "OneHot"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands[0], self.axis, self.depth)
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let inner: usize = result.shape.dims()[self.axis + 1..].iter().product();
        let element = |flat: usize| {
            let (position, rest) = (flat / inner % self.depth, flat / inner / self.depth * inner + flat % inner);
            let q = operands[0].data[rest];
            let wanted = match &self.positions {
                Some(positions) => positions[(q + 128) as usize],
                None => resolved(q, self.depth),
            };
            if wanted == position as i32 { self.on } else { self.off }
        };
        (0..result.shape.len()).map(element).collect()
    }

    fn describe(&self) -> String {
        format!("axis {} of {}, {} and {}", self.axis, self.depth, self.off, self.on)
    }
}
