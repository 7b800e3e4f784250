//! ONNX `CumSum`, a product with a triangle of ones, and `Trilu`, which keeps a triangle.

use super::constant::Constant;
use super::import::NodeImport;
use super::linear::Linear;
use super::select::Select;
use super::transpose::Transpose;
use crate::diag;
use crate::ir::{FloatTensor, Shape};

/// The longest axis that sums run along: the weights are its square.
const MAX_AXIS: usize = 1024;

/// Imports `CumSum` with a constant axis.
pub fn import_cum_sum(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let shape = cx.shape(x);
    let Some(&axis) = cx.int_constant(1)?.first() else { return Err(cx.invalid("it has no axis")) };
    let axis = cx.axis(axis, shape.rank())?;
    let size = shape.dims()[axis];
    if size > MAX_AXIS {
        let help = "take the sums of parts, and add the last sum of each part to the next";
        return Err(cx.unsupported(format!("its axis has {size} elements, more than {MAX_AXIS}"), help));
    }
    let (exclusive, reverse) = (cx.int_or("exclusive", 0)? != 0, cx.int_or("reverse", 0)? != 0);
    let counts = |result: usize, term: usize| {
        let (first, last) = if reverse { (result, term) } else { (term, result) };
        first < last || first == last && !exclusive
    };
    let ones = (0..size * size).map(|flat| f32::from(u8::from(counts(flat / size, flat % size))));
    let weights = FloatTensor::new(Shape::new([size, size]), ones.collect());
    let mut order: Vec<usize> = (0..shape.rank()).collect();
    order.swap(axis, shape.rank() - 1);
    let is_last = axis + 1 == shape.rank();
    let moved = if is_last { x } else { cx.emit(Transpose { order: order.clone() }, &[x])? };
    let sums = cx.emit(Linear::new(weights), &[moved])?;
    let y = if is_last { sums } else { cx.emit(Transpose { order }, &[sums])? };
    cx.define(0, y);
    Ok(())
}

/// Imports `Trilu` with a constant diagonal.
pub fn import_trilu(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let shape = cx.shape(x);
    let &[.., rows, columns] = shape.dims() else {
        return Err(cx.invalid(format!("its input {shape} has no rows and columns")));
    };
    let diagonal = match cx.optional(1) {
        Some(_) => cx.int_constant(1)?.first().copied().unwrap_or(0),
        None => 0,
    };
    let upper = cx.int_or("upper", 1)? != 0;
    let stays = |flat: usize| {
        let offset = (flat % columns) as i64 - (flat / columns) as i64;
        if upper { offset >= diagonal } else { offset <= diagonal }
    };
    let mask = (0..rows * columns).map(|flat| f32::from(u8::from(stays(flat)))).collect();
    let mask = cx.emit(Constant { tensor: FloatTensor::new(Shape::new([rows, columns]), mask) }, &[])?;
    let zero = cx.emit(Constant { tensor: FloatTensor::new(Shape::default(), vec![0.0]) }, &[])?;
    cx.finish(0, Select, &[mask, x, zero]).map(drop)
}
