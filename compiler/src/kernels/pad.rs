//! Adds elements around a tensor.

use super::common::loops;
use super::{LayerBuilder, strides};
use crate::ops::QuantOp;
use crate::ops::pad::{PadMode, QPad};
use crate::plan::{Dim, joined};
use crate::program::{Affine, Elem, Expr, FunctionBuilder};

/// Builds the loops.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::Pad(pad)) = b.op() else { return };
    match pad.mode {
        PadMode::Constant(value) => constant(b, pad, value),
        PadMode::Reflect | PadMode::Edge | PadMode::Wrap => mirrored(b, pad),
    }
}

/// Fills the result, then copies the operand into its middle.
fn constant(b: &mut LayerBuilder, pad: &QPad, value: i32) {
    let (x, y) = (b.operand(0), b.result());
    let (x_buffer, y_buffer, len) = (b.x(0), b.y(), y.ty.shape.len());
    b.f.each("i", len, |f, i| f.store(y_buffer, i, Expr::i32(i64::from(value))));
    let (x_strides, y_strides) = (strides(&x.view), strides(&y.view));
    let start: usize = pad.before.iter().zip(&y_strides).map(|(before, stride)| before * stride).sum();
    let dims = (0..x.ty.shape.rank()).map(|axis| Dim {
        extent: x.ty.shape.dims()[axis],
        strides: vec![x_strides[axis] as isize, y_strides[axis] as isize],
    });
    let dims = joined(dims.collect());
    loops(&mut b.f, &dims, 2, &mut |f, at| {
        let value = f.load(x_buffer, at[0].clone());
        f.store(y_buffer, at[1].clone() + Affine::from(start as i64), value);
    });
}

/// For each padded axis a table of source positions.
fn mirrored(b: &mut LayerBuilder, pad: &QPad) {
    let (x, y) = (b.operand(0), b.result());
    let x_strides = strides(&x.view);
    let tables = (0..x.ty.shape.rank()).map(|axis| {
        let size = x.ty.shape.dims()[axis];
        let source = |at: usize| pad.mode.source(at as isize - pad.before[axis] as isize, size).unwrap_or(0);
        let data: Vec<i64> = (0..y.ty.shape.dims()[axis]).map(|at| (source(at) * x_strides[axis]) as i64).collect();
        (data, pad.before[axis] + pad.after[axis] > 0)
    });
    let tables: Vec<(Vec<i64>, bool)> = tables.collect();
    let sources: Vec<_> = tables
        .into_iter()
        .enumerate()
        .map(|(axis, (data, padded))| {
            let doc = format!("Where the elements along axis {axis} come from.");
            padded.then(|| b.blob(&format!("source{axis}"), doc, Elem::I32, data))
        })
        .collect();
    let (y_strides, order) = (strides(&y.view), y.view.order());
    let (x_buffer, y_buffer) = (b.x(0), b.y());
    let copy = |f: &mut FunctionBuilder, at: &[Affine]| {
        let mut plain = Affine::default();
        let mut looked_up = vec![];
        for (axis, position) in at.iter().enumerate() {
            match sources[axis] {
                Some(table) => looked_up.push(f.load(table, position.clone())),
                None => plain = plain + position.clone() * x_strides[axis] as i64,
            }
        }
        let index = looked_up.into_iter().fold(Expr::Index(plain), Expr::add);
        let y_index = super::common::address(at, &y_strides);
        f.store(y_buffer, y_index, f.lookup(x_buffer, index));
    };
    super::resample::nested(&mut b.f, &order, y.ty.shape.dims(), &mut vec![Affine::default(); order.len()], &copy);
}
