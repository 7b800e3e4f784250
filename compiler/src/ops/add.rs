//! Sum and difference of two tensors, with broadcasting (ONNX `Add`, `Sub`).

use super::affine::Affine;
use super::constant::Constant;
use super::export::Export;
use super::fixed_sum::{FixedSum, Precision, RealSum};
use super::import::{NodeImport, Value};
use super::mask;
use super::unary::{Unary, UnaryFn};
use super::{ExportSite, FloatOp, FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{Clamp, FloatTensor, NodeId, Numerics, QuantType, RealClamp, Scale, Shape};

/// `a + b`, or `a - b`.
#[derive(Debug, Clone)]
pub struct Add {
    /// Whether the second operand is subtracted.
    pub subtract: bool,
    /// Fused activation.
    pub clamp: RealClamp,
}

/// `clamp((a * factors[0] + b * factors[1] + offset) >> shift)`.
#[derive(Debug, Clone)]
pub struct QAdd {
    /// Two factors and the offset.
    pub sum: FixedSum,
    /// Fractional bits, width of the sum.
    pub precision: Precision,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// Imports `Add`.
pub fn import_add(cx: &mut NodeImport) -> diag::Result<()> {
    let sum = match (cx.input(0)?, cx.input(1)?) {
        (_, Value::Constant(_)) => add_constant_operand(cx, 0, 1)?,
        (Value::Constant(_), _) => add_constant_operand(cx, 1, 0)?,
        _ => {
            let (a, b) = (cx.activation(0)?, cx.activation(1)?);
            cx.emit(Add { subtract: false, clamp: RealClamp::NONE }, &[a, b])?
        }
    };
    cx.define(0, sum);
    Ok(())
}

/// Imports `Sub`.
pub fn import_sub(cx: &mut NodeImport) -> diag::Result<()> {
    let difference = match (cx.input(0)?, cx.input(1)?) {
        (_, Value::Constant(_)) => {
            let (x, c) = (cx.activation(0)?, cx.float_constant(1)?);
            let negated = FloatTensor::new(c.shape, c.data.iter().map(|c| -c).collect());
            add_constant(cx, x, negated)?
        }
        (Value::Constant(_), _) => {
            let (c, x) = (cx.float_constant(0)?, cx.activation(1)?);
            let negated = scale_by_constant(cx, x, FloatTensor::new(Shape::default(), vec![-1.0]))?;
            add_constant(cx, negated, c)?
        }
        _ => {
            let (a, b) = (cx.activation(0)?, cx.activation(1)?);
            cx.emit(Add { subtract: true, clamp: RealClamp::NONE }, &[a, b])?
        }
    };
    cx.define(0, difference);
    Ok(())
}

fn add_constant_operand(cx: &mut NodeImport, x: usize, constant: usize) -> diag::Result<NodeId> {
    let x = cx.activation(x)?;
    let addend = cx.any_float_constant(constant)?;
    if mask::is_endless(&addend) {
        return mask::add_endless(cx, x, addend);
    }
    let addend = cx.float_constant(constant)?;
    add_constant(cx, x, addend)
}

/// `x + c`, in the cheapest form: one number, one number for each channel, or a whole tensor.
pub fn add_constant(cx: &mut NodeImport, x: NodeId, c: FloatTensor) -> diag::Result<NodeId> {
    match along_one_axis(&cx.shape(x), &c.shape) {
        Some(None) => cx.emit(Unary::new(UnaryFn::Linear { scale: 1.0, shift: c.data[0] }), &[x]),
        Some(Some(axis)) => {
            let scale = vec![1.0; c.data.len()];
            cx.emit(Affine { scale, shift: c.data, axis, clamp: RealClamp::NONE }, &[x])
        }
        None => {
            let c = cx.emit(Constant { tensor: c }, &[])?;
            cx.emit(Add { subtract: false, clamp: RealClamp::NONE }, &[x, c])
        }
    }
}

/// `x * c`, in the cheapest form.
pub fn scale_by_constant(cx: &mut NodeImport, x: NodeId, c: FloatTensor) -> diag::Result<NodeId> {
    match along_one_axis(&cx.shape(x), &c.shape) {
        Some(None) => cx.emit(Unary::new(UnaryFn::Linear { scale: c.data[0], shift: 0.0 }), &[x]),
        Some(Some(axis)) => {
            let shift = vec![0.0; c.data.len()];
            cx.emit(Affine { scale: c.data, shift, axis, clamp: RealClamp::NONE }, &[x])
        }
        None => {
            let c = cx.emit(Constant { tensor: c }, &[])?;
            cx.emit(FloatOp::from(super::mul::Mul { clamp: RealClamp::NONE }), &[x, c])
        }
    }
}

/// How a constant meets a tensor whose shape it does not change: `Some(None)` as one number,
/// `Some(Some(axis))` along one axis, `None` otherwise.
fn along_one_axis(x: &Shape, c: &Shape) -> Option<Option<usize>> {
    if x.broadcast(c).as_ref() != Some(x) {
        return None;
    }
    let missing = x.rank() - c.rank();
    let long: Vec<usize> = (0..c.rank()).filter(|&axis| c.dims()[axis] != 1).collect();
    match long[..] {
        [] => Some(None),
        [axis] => Some(Some(axis + missing)),
        _ => None,
    }
}

/// Shape of an elementwise operation on two tensors.
pub fn infer_broadcast(operands: &[&Shape]) -> Result<Shape, String> {
    let [a, b] = operands else { return Err(format!("{} operands", operands.len())) };
    a.broadcast(b).ok_or_else(|| format!("shapes {a} and {b} cannot be broadcast together"))
}

/// `f(a, b)` for every element, with broadcasting.
pub fn evaluate_broadcast(operands: &[Operand], result: &Shape, f: impl Fn(i32, i32) -> i32) -> Vec<i32> {
    let [a, b] = [0, 1].map(|port| (operands[port].data, operands[port].ty.shape.broadcast_strides(result)));
    if operands.iter().all(|operand| operand.ty.shape == *result) {
        return a.0.iter().zip(b.0).map(|(&a, &b)| f(a, b)).collect();
    }
    let at = |(data, strides): &(&[i32], Vec<usize>), index: &[usize]| {
        data[index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>()]
    };
    (0..result.len())
        .map(|flat| {
            let index = result.unravel(flat);
            f(at(&a, &index), at(&b, &index))
        })
        .collect()
}

impl FloatOperator for Add {
    fn kind(&self) -> &'static str {
        if self.subtract { "Sub" } else { "Add" }
    }

    fn arity(&self) -> Option<usize> {
        Some(2)
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_broadcast(operands)
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let (a, b, y) = (site.operand_params(0)?, site.operand_params(1)?, site.result_params());
        let ratio = |scale: Scale| match site.numerics {
            Numerics::Native => scale.get() / y.scale.get(),
            Numerics::Ort => f64::from(scale.as_f32() / y.scale.as_f32()),
        };
        let sign = if self.subtract { -1.0 } else { 1.0 };
        let terms = vec![(ratio(a.scale), a.zero_point), (sign * ratio(b.scale), b.zero_point)];
        let sum = RealSum { terms, extra: 0.0 };
        let precision = Precision::choose(std::slice::from_ref(&sum), &site.operands, site.result, site.numerics)?;
        let sum = FixedSum::new(&sum, y.zero_point, precision.shift).ok_or_else(super::weighted::too_narrow)?;
        Ok(QAdd { sum, precision, clamp: self.clamp.quantize(y, site.result.dtype) }.into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        let op_type = if self.subtract { "Sub" } else { "Add" };
        Ok(export.node(op_type, &[&site.operands[0], &site.operands[1]], &[]))
    }

    fn describe(&self) -> String {
        format!("clamp {}", self.clamp)
    }

    fn clamp_mut(&mut self) -> Option<&mut RealClamp> {
        Some(&mut self.clamp)
    }
}

impl QuantOperator for QAdd {
    fn kind(&self) -> &'static str {
        "Add"
    }

    fn arity(&self) -> Option<usize> {
        Some(2)
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_broadcast(operands)
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        evaluate_broadcast(operands, &result.shape, |a, b| self.sum.apply(&[a, b], self.precision, self.clamp))
    }

    fn is_unusual(&self) -> bool {
        self.precision.even
    }

    fn describe(&self) -> String {
        let bits = if self.precision.wide { 64 } else { 32 };
        let FixedSum { factors, offset } = &self.sum;
        format!(
            "(a*{} + b*{} {offset:+}) >> {} in {bits} bits{}, clamp {}",
            factors[0],
            factors[1],
            self.precision.shift,
            if self.precision.even { ", ties to even" } else { "" },
            self.clamp
        )
    }
}
