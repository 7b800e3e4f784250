//! Layers that only move elements: joins, parts, other layouts.

use super::common::loops;
use super::{LayerBuilder, strides};
use crate::ops::QuantOp;
use crate::plan::{Dim, joined, nest};
use crate::program::Affine;

/// All operands one after the other.
pub fn build_concat(b: &mut LayerBuilder) {
    let Some(QuantOp::Concat(concat)) = b.op() else { return };
    let y_strides = strides(&b.result().view);
    let mut start = 0;
    for port in 0..b.layer.operands.len() {
        let x = b.operand(port);
        let x_strides = strides(&x.view);
        let dims = (0..x.ty.shape.rank()).map(|axis| Dim {
            extent: x.ty.shape.dims()[axis],
            strides: vec![x_strides[axis] as isize, y_strides[axis] as isize],
        });
        copy(b, port, &joined(dims.collect()), 0, start * y_strides[concat.axis] as i64);
        start += x.ty.shape.dims()[concat.axis] as i64;
    }
}

/// Each operand between the others.
pub fn build_interleave(b: &mut LayerBuilder) {
    let Some(QuantOp::Interleave(interleave)) = b.op() else { return };
    let y_strides = strides(&b.result().view);
    for (port, starts) in interleave.starts.iter().enumerate() {
        let x = b.operand(port);
        let x_strides = strides(&x.view);
        let dims = (0..x.ty.shape.rank()).map(|axis| Dim {
            extent: x.ty.shape.dims()[axis],
            strides: vec![x_strides[axis] as isize, (y_strides[axis] * interleave.steps[axis]) as isize],
        });
        let start: usize = starts.iter().zip(&y_strides).map(|(start, stride)| start * stride).sum();
        copy(b, port, &joined(dims.collect()), 0, start as i64);
    }
}

/// Elements at regular distances.
pub fn build_slice(b: &mut LayerBuilder) {
    let Some(QuantOp::Slice(slice)) = b.op() else { return };
    let (x_strides, y_strides) = (strides(&b.operand(0).view), strides(&b.result().view));
    let dims = (0..slice.size.len()).map(|axis| Dim {
        extent: slice.size[axis],
        strides: vec![x_strides[axis] as isize * slice.step[axis], y_strides[axis] as isize],
    });
    let start: usize = slice.start.iter().zip(&x_strides).map(|(start, stride)| start * stride).sum();
    copy(b, 0, &joined(dims.collect()), start as i64, 0);
}

/// The same elements in another layout.
pub fn build_copy(b: &mut LayerBuilder) {
    let dims = nest(&[&b.operand(0).view, &b.result().view]).expect("a copy is evenly spaced on one side");
    copy(b, 0, &dims, 0, 0);
}

fn copy(b: &mut LayerBuilder, port: usize, dims: &[Dim], x_start: i64, y_start: i64) {
    let (x, y) = (b.x(port), b.y());
    loops(&mut b.f, dims, 2, &mut |f, at| {
        let value = f.load(x, at[0].clone() + Affine::from(x_start));
        f.store(y, at[1].clone() + Affine::from(y_start), value);
    });
}
