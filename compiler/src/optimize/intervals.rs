//! Interval analysis: which integers a tensor can hold, whatever the inputs of the model are.
//!
//! Operators are followed exactly as far as each operand's elements are independent of each other; where that would be
//! laborious, the bounds are wider than need be, never narrower.

use std::collections::{BTreeMap, BTreeSet};

use super::{axes, products};
use crate::ir::{Clamp, Graph, Interval, Multiplier, NodeId, Quant, QuantType, Shape};
use crate::ops::QuantOp;
use crate::ops::average_pool::{QAveragePool, divisor};
use crate::ops::dynamic_quantize::DynamicQuantize;
use crate::ops::fixed_sum::{FixedSum, Precision};
use crate::ops::magnitude::Magnitude;
use crate::ops::pad::{PadMode, QPad};

/// What is known of the elements of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    all: Interval,
    axes: Vec<Vec<Interval>>,
}

impl Bounds {
    /// For each axis and each index along it, the values of all elements there. `all` holds every element.
    fn new(all: Interval, axes: Vec<Vec<Interval>>) -> Bounds {
        let all = axes.iter().filter_map(|axis| hull(axis)).fold(all, meet);
        let axes = axes.into_iter().map(|axis| axis.into_iter().map(|values| meet(values, all)).collect()).collect();
        Bounds { all, axes }
    }

    /// The same for every element.
    fn uniform(shape: &Shape, values: Interval) -> Bounds {
        Bounds { all: values, axes: shape.dims().iter().map(|&size| vec![values; size]).collect() }
    }

    /// Known along one axis.
    fn along(shape: &Shape, axis: usize, values: Vec<Interval>) -> Bounds {
        let all = hull(&values).expect("no axis is empty");
        let mut bounds = Bounds::uniform(shape, all);
        bounds.axes[axis] = values;
        bounds
    }

    /// Known for each element.
    fn of_elements(shape: &Shape, data: &[i32]) -> Bounds {
        let values: Vec<Interval> = data.iter().map(|&q| Interval::point(q)).collect();
        let all = hull(&values).expect("no tensor is empty");
        let mut axes: Vec<Vec<Option<Interval>>> = shape.dims().iter().map(|&size| vec![None; size]).collect();
        for (flat, &value) in values.iter().enumerate() {
            for (axis, index) in shape.unravel(flat).into_iter().enumerate() {
                join(&mut axes[axis][index], value);
            }
        }
        Bounds::new(
            all,
            axes.into_iter().map(|axis| axis.into_iter().map(|values| values.unwrap_or(all)).collect()).collect(),
        )
    }

    /// Values of all elements.
    pub fn all(&self) -> Interval {
        self.all
    }

    /// Values of all elements at an index of an axis.
    pub fn at(&self, axis: usize, index: usize) -> Interval {
        self.axes[axis][index]
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.axes.len()
    }

    fn map(&self, f: impl Fn(Interval) -> Interval) -> Bounds {
        Bounds::new(f(self.all), self.axes.iter().map(|axis| axis.iter().map(|&values| f(values)).collect()).collect())
    }
}

/// The only value, if there is only one.
pub fn constant(values: Interval) -> Option<i32> {
    (values.lo == values.hi).then(|| to_i32(values.lo))
}

/// Bounds of every tensor.
pub fn analyse(graph: &Graph<Quant>) -> BTreeMap<NodeId, Bounds> {
    let mut known: BTreeMap<NodeId, Bounds> = BTreeMap::new();
    for id in graph.topological() {
        let node = graph.node(id);
        let operands: Vec<Operand> = graph.operands(id).iter().map(|&id| Operand::of(graph, &known, id)).collect();
        let bounds = result(&node.op, &operands, &node.value);
        known.insert(id, bounds);
    }
    known
}

/// A tensor as an operand.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    /// Its type.
    pub ty: &'a QuantType,
    /// What is known of its elements.
    pub bounds: &'a Bounds,
}

impl<'a> Operand<'a> {
    /// The operand that is the result of a node.
    pub fn of(graph: &'a Graph<Quant>, known: &'a BTreeMap<NodeId, Bounds>, id: NodeId) -> Operand<'a> {
        Operand { ty: &graph.node(id).value, bounds: &known[&id] }
    }
}

/// Bounds of an operator's result.
pub fn result(op: &QuantOp, operands: &[Operand], result: &QuantType) -> Bounds {
    let shape = &result.shape;
    let full = Interval::new(result.dtype.min(), result.dtype.max());
    match op {
        QuantOp::Constant(constant) => Bounds::of_elements(shape, &constant.data),
        QuantOp::Conv(_) => Bounds::along(shape, 1, products::results(op, operands[0])),
        QuantOp::Linear(_) => Bounds::along(shape, shape.rank() - 1, products::results(op, operands[0])),
        QuantOp::Affine(affine) => {
            let channel = |(index, sum)| {
                summed(sum, &[operands[0].bounds.at(affine.axis, index)], affine.precision, affine.clamp)
            };
            Bounds::along(shape, affine.axis, affine.channels.iter().enumerate().map(channel).collect())
        }
        QuantOp::Table(table) => operands[0].bounds.map(|x| {
            let entries = &table.entries[(x.lo + 128) as usize..=(x.hi + 128) as usize];
            entries.iter().map(|&entry| Interval::point(entry)).reduce(Interval::hull).unwrap_or(full)
        }),
        QuantOp::Curve(curve) => operands[0].bounds.map(|x| {
            let segment = |q: i128| ((q + 32768) >> curve.segment_bits) as usize;
            // Between the ends of a segment the result is between the results there.
            let ends = &curve.entries[segment(x.lo)..=segment(x.hi) + 1];
            let values = ends.iter().map(|&entry| Interval::point(curve.rounded(entry)));
            values.reduce(Interval::hull).unwrap_or(full)
        }),
        QuantOp::Rescale(rescale) => {
            operands[0].bounds.map(|x| summed(&rescale.sum, &[x], rescale.precision, rescale.clamp))
        }
        QuantOp::Magnitude(_) => Bounds::uniform(shape, Interval::new(1, Magnitude::MOST)),
        QuantOp::DynamicQuantize(_) => {
            Bounds::uniform(shape, Interval::new(-DynamicQuantize::MOST, DynamicQuantize::MOST))
        }
        QuantOp::Add(add) => broadcast(operands, shape, |a, b| summed(&add.sum, &[a, b], add.precision, add.clamp)),
        QuantOp::Mul(mul) => broadcast(operands, shape, |a, b| {
            let (a, b) = (shifted(a, -mul.zeros[0]), shifted(b, -mul.zeros[1]));
            requantized(times(a, b), mul.multiplier, mul.output_zero, mul.clamp)
        }),
        QuantOp::MaxPool(_) => pooled(operands[0], shape, |x| x),
        QuantOp::AveragePool(pool) => {
            let counts = counts(pool, &operands[0].ty.shape, shape);
            pooled(operands[0], shape, |x| averaged(pool, &counts, x).unwrap_or(full))
        }
        QuantOp::Mean(mean) => reduced(operands[0], &mean.axes, mean.keep_dims, |x| {
            let sum = times(shifted(x, -mean.input_zero), Interval::point(mean.count as i64));
            requantized(sum, mean.multiplier, mean.output_zero, mean.clamp)
        }),
        QuantOp::ArgMax(max) => {
            Bounds::uniform(shape, Interval::new(0, operands[0].ty.shape.dims()[max.axis] as i64 - 1))
        }
        QuantOp::Concat(concat) => joined(operands, concat.axis),
        QuantOp::Slice(slice) => {
            let axes = slice.size.iter().enumerate().map(|(axis, &size)| {
                let at = |index: usize| (slice.start[axis] as isize + index as isize * slice.step[axis]) as usize;
                (0..size).map(|index| operands[0].bounds.at(axis, at(index))).collect()
            });
            Bounds::new(operands[0].bounds.all, axes.collect())
        }
        QuantOp::Pad(pad) => padded(pad, operands[0], shape),
        QuantOp::Transpose(transpose) => {
            let axes = transpose.order.iter().map(|&axis| operands[0].bounds.axes[axis].clone());
            Bounds::new(operands[0].bounds.all, axes.collect())
        }
        QuantOp::Reshape(_) => reshaped(operands[0], shape),
        // Anything that the type holds.
        _ => Bounds::uniform(shape, full),
    }
}

/// `clamp(zero + multiplier(acc))`; multipliers are not negative, so the ends go to the ends.
pub fn requantized(acc: Interval, multiplier: Multiplier, zero: i32, clamp: Clamp) -> Interval {
    // Accumulators have been proven to fit 64 bits.
    let end = |acc: i128| i64::from(clamp.apply_wide(multiplier.apply_wide(acc as i64) + i64::from(zero)));
    Interval::new(end(acc.lo), end(acc.hi))
}

fn summed(sum: &FixedSum, operands: &[Interval], precision: Precision, clamp: Clamp) -> Interval {
    let end = |upper: bool| {
        let ends = operands.iter().zip(&sum.factors);
        let ends: Vec<i32> =
            ends.map(|(x, &factor)| to_i32(if (factor >= 0) == upper { x.hi } else { x.lo })).collect();
        sum.apply(&ends, precision, clamp)
    };
    Interval::new(end(false), end(true))
}

fn broadcast(operands: &[Operand], result: &Shape, f: impl Fn(Interval, Interval) -> Interval) -> Bounds {
    let [a, b] = [operands[0], operands[1]];
    let at = |operand: Operand, axis: usize, index: usize| {
        let Some(axis) = axis.checked_sub(result.rank() - operand.ty.shape.rank()) else { return operand.bounds.all };
        operand.bounds.at(axis, if operand.ty.shape.dims()[axis] == 1 { 0 } else { index })
    };
    let axis = |axis: usize| (0..result.dims()[axis]).map(|i| f(at(a, axis, i), at(b, axis, i))).collect();
    Bounds::new(f(a.bounds.all, b.bounds.all), (0..result.rank()).map(axis).collect())
}

/// Elements under a window: what is known along the first two axes stays.
fn pooled(x: Operand, result: &Shape, f: impl Fn(Interval) -> Interval) -> Bounds {
    let all = f(x.bounds.all);
    let axes = (0..result.rank()).map(|axis| match axis {
        0 | 1 => x.bounds.axes[axis].iter().map(|&values| f(values)).collect(),
        _ => vec![all; result.dims()[axis]],
    });
    Bounds::new(all, axes.collect())
}

/// How many taps of a window are inside the input, and what the mean divides by: all pairs that occur.
fn counts(pool: &QAveragePool, input: &Shape, result: &Shape) -> BTreeSet<(usize, usize)> {
    let outputs = Shape::new(&result.dims()[2..]);
    let count = |include_pad, at: &[usize]| divisor(&pool.window, include_pad, at, &input.dims()[2..]);
    (0..outputs.len())
        .map(|flat| outputs.unravel(flat))
        .map(|at| (count(false, &at), count(pool.include_pad, &at)))
        .collect()
}

fn averaged(pool: &QAveragePool, counts: &BTreeSet<(usize, usize)>, x: Interval) -> Option<Interval> {
    let mean = |&(inside, count): &(usize, usize)| {
        let sum = times(shifted(x, -pool.input_zero), Interval::point(inside as i64));
        Some(requantized(sum, *pool.multipliers.get(&count)?, pool.output_zero, pool.clamp))
    };
    counts.iter().filter_map(mean).reduce(Interval::hull)
}

fn reduced(x: Operand, axes: &[usize], keep_dims: bool, f: impl Fn(Interval) -> Interval) -> Bounds {
    let all = f(x.bounds.all);
    let kept = (0..x.ty.shape.rank()).filter(|axis| keep_dims || !axes.contains(axis));
    let axis = |axis: usize| match axes.contains(&axis) {
        true => vec![all],
        false => x.bounds.axes[axis].iter().map(|&values| f(values)).collect(),
    };
    Bounds::new(all, kept.map(axis).collect())
}

fn joined(operands: &[Operand], along: usize) -> Bounds {
    let all = operands.iter().map(|x| x.bounds.all).reduce(Interval::hull).expect("a Concat has operands");
    let axis = |axis: usize| match axis == along {
        true => operands.iter().flat_map(|x| x.bounds.axes[axis].clone()).collect(),
        false => (0..operands[0].ty.shape.dims()[axis])
            .map(|index| operands.iter().map(|x| x.bounds.at(axis, index)).reduce(Interval::hull).unwrap_or(all))
            .collect(),
    };
    Bounds::new(all, (0..operands[0].ty.shape.rank()).map(axis).collect())
}

fn padded(pad: &QPad, x: Operand, result: &Shape) -> Bounds {
    let dims = x.ty.shape.dims();
    let adds = |axis: usize| pad.before[axis] + pad.after[axis] > 0;
    let fill = match pad.mode {
        PadMode::Constant(value) => Some(Interval::point(value)),
        PadMode::Reflect | PadMode::Edge | PadMode::Wrap => None,
    };
    let with_fill = |values: Interval, filled: bool| fill.filter(|_| filled).map_or(values, |fill| fill.hull(values));
    let axis = |axis: usize| {
        let others = (0..dims.len()).any(|other| other != axis && adds(other));
        let at = |index: usize| match (pad.mode.source(index as isize - pad.before[axis] as isize, dims[axis]), fill) {
            (None, Some(fill)) => fill,
            (None, None) => x.bounds.all,
            (Some(source), _) => with_fill(x.bounds.at(axis, source), others),
        };
        (0..result.dims()[axis]).map(at).collect()
    };
    let all = with_fill(x.bounds.all, (0..dims.len()).any(adds));
    Bounds::new(all, (0..dims.len()).map(axis).collect())
}

/// What is known along an axis holds for the axes that it becomes, or becomes part of.
fn reshaped(x: Operand, result: &Shape) -> Bounds {
    let mut axes: Vec<Vec<Option<Interval>>> = result.dims().iter().map(|&size| vec![None; size]).collect();
    for (from, to) in axes::groups(&x.ty.shape, result) {
        let (old, new) = (axes::part(&x.ty.shape, &from), axes::part(result, &to));
        for flat in 0..old.len() {
            let at = old.unravel(flat).into_iter().zip(from.clone());
            let values = at.map(|(index, axis)| x.bounds.at(axis, index)).fold(x.bounds.all, meet);
            for (index, axis) in new.unravel(flat).into_iter().zip(to.clone()) {
                join(&mut axes[axis][index], values);
            }
        }
    }
    let known = |axis: Vec<Option<Interval>>| axis.into_iter().map(|values| values.unwrap_or(x.bounds.all)).collect();
    Bounds::new(x.bounds.all, axes.into_iter().map(known).collect())
}

/// All products of two values.
pub fn times(a: Interval, b: Interval) -> Interval {
    let products = [a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi];
    products.into_iter().map(Interval::point).fold(Interval::point(products[0]), Interval::hull)
}

/// All values plus a number.
pub fn shifted(values: Interval, by: i32) -> Interval {
    Interval::new(values.lo + i128::from(by), values.hi + i128::from(by))
}

fn hull(values: &[Interval]) -> Option<Interval> {
    values.iter().copied().reduce(Interval::hull)
}

/// Values that are in both. There always are some: both hold the same element.
fn meet(a: Interval, b: Interval) -> Interval {
    Interval::new(a.lo.max(b.lo), a.hi.min(b.hi))
}

fn join(known: &mut Option<Interval>, values: Interval) {
    *known = Some(known.map_or(values, |known| known.hull(values)));
}

/// Values of tensors and accumulators have been proven to fit.
fn to_i32(value: i128) -> i32 {
    value.clamp(i32::MIN.into(), i32::MAX.into()) as i32
}
