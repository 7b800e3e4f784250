//! Product with constant weights: for each row of the input and each row of weights, the sum of products.

use super::common::loops;
use super::conv::Data;
use super::{LayerBuilder, strides};
use crate::ops::QuantOp;
use crate::plan::{Dim, joined, nest, row_offsets};

/// Builds the loops. The input's elements are read in the order in which they lie in memory; the weights follow.
pub fn build(b: &mut LayerBuilder) {
    let Some(QuantOp::Linear(linear)) = b.op() else { return };
    let (x, y) = (b.operand(0), b.result());
    let offsets = row_offsets(&x.view, &x.ty.shape).expect("the plan copies rows that are not evenly spaced");
    let mut order: Vec<usize> = (0..offsets.len()).collect();
    order.sort_by_key(|&k| offsets[k]);
    let step = if order.len() > 1 { offsets[order[1]] } else { 1 };
    let rows = (0..linear.weighted.channels.len()).map(|n| linear.weighted.factors(n).collect::<Vec<_>>());
    let packed = rows.flat_map(|row| order.iter().map(|&k| i64::from(row[k])).collect::<Vec<_>>()).collect();
    let data = Data::new(b, &linear.weighted, packed, true);
    let last = x.ty.shape.rank() - 1;
    let dims = match nest(&[&x.view.without(last), &y.view.without(last)]) {
        Some(dims) => dims,
        None => unreachable!("the result has evenly spaced axes and splits like any operand"),
    };
    let dims: Vec<Dim> = joined(dims);
    // An output of the model may have its axes exchanged.
    let y_stride = strides(&y.view)[last] as i64;
    let (x_buffer, y_buffer, row_len) = (b.x(0), b.y(), linear.row_len());
    loops(&mut b.f, &dims, 2, &mut |f, at| {
        f.each("c", data.channels(), |f, c| {
            let acc = data.accumulator(f, &c);
            data.accumulate(f, acc, row_len, (x_buffer, at[0].clone(), step), c.clone() * row_len as i64);
            data.finish(f, acc, &c, (y_buffer, at[1].clone() + c.clone() * y_stride));
        });
    });
}
