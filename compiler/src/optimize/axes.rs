//! How the axes of an operator's result are related to those of its operands: which parts of them can only go together.

use std::ops::Range;

use crate::ir::Shape;
use crate::ops::QuantOp;

/// An axis of an operand and one of the result whose indices stay or go together, pair by pair. An index of the operand
/// that is in no pair is one that the operator does not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The operand.
    pub port: usize,
    /// Its axis.
    pub operand_axis: usize,
    /// The axis of the result.
    pub result_axis: usize,
    /// Index along the operand's axis, index along the result's.
    pub pairs: Vec<(usize, usize)>,
}

/// Axes between which every output channel is a sum over input channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixing {
    /// The axis of the operand.
    pub operand_axis: usize,
    /// The axis of the result.
    pub result_axis: usize,
    /// For each output channel, whether it reads each input channel.
    pub reads: Vec<Vec<bool>>,
}

/// What relates operands and result. Axes that are not mentioned stay whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relations {
    /// Axes that go together.
    pub links: Vec<Link>,
    /// Axes of Conv and Linear.
    pub mixing: Option<Mixing>,
}

impl Relations {
    /// Whether nothing is said about an axis of an operand.
    pub fn pins_operand(&self, port: usize, axis: usize) -> bool {
        let linked = self.links.iter().any(|link| (link.port, link.operand_axis) == (port, axis));
        !linked && self.mixing.as_ref().is_none_or(|mixing| mixing.operand_axis != axis)
    }

    /// Whether nothing is said about an axis of the result.
    pub fn pins_result(&self, axis: usize) -> bool {
        let linked = self.links.iter().any(|link| link.result_axis == axis);
        !linked && self.mixing.as_ref().is_none_or(|mixing| mixing.result_axis != axis)
    }
}

/// The relations of an operator. `removable` counts the indices of an axis of its first operand that may go: a reshape
/// that joins axes can follow only one of them.
pub fn relations(op: &QuantOp, operands: &[&Shape], result: &Shape, removable: impl Fn(usize) -> usize) -> Relations {
    match op {
        QuantOp::Conv(conv) if conv.groups == 1 => {
            let links = vec![same(operands[0], 0, 0)];
            Relations { links, mixing: Some(mixing(op, (1, 1), conv.window.taps())) }
        }
        QuantOp::Conv(conv) => {
            let (inputs, outputs) = (conv.group_inputs(), conv.group_outputs());
            let group = |g: usize| {
                let outputs = g * outputs..(g + 1) * outputs;
                (g * inputs..(g + 1) * inputs).flat_map(move |i| outputs.clone().map(move |o| (i, o)))
            };
            let pairs = (0..conv.groups).flat_map(group).collect();
            let groups = Link { port: 0, operand_axis: 1, result_axis: 1, pairs };
            linked(vec![same(operands[0], 0, 0), groups])
        }
        QuantOp::Linear(_) => {
            let last = result.rank() - 1;
            let links = (0..last).map(|axis| same(operands[0], axis, axis)).collect();
            Relations { links, mixing: Some(mixing(op, (last, last), 1)) }
        }
        QuantOp::Affine(_) | QuantOp::Table(_) | QuantOp::Curve(_) | QuantOp::Rescale(_) => {
            linked(sames(operands[0], |_| true))
        }
        QuantOp::Softmax(softmax) => linked(sames(operands[0], |axis| axis != softmax.axis)),
        QuantOp::Add(_) | QuantOp::Mul(_) => linked(broadcast(operands, result)),
        QuantOp::MaxPool(_) | QuantOp::AveragePool(_) => linked(sames(operands[0], |axis| axis < 2)),
        QuantOp::Mean(mean) => linked(reduced(operands[0], &mean.axes, mean.keep_dims)),
        QuantOp::ArgMax(max) => linked(reduced(operands[0], &[max.axis], max.keep_dims)),
        QuantOp::Concat(concat) => linked(joined(operands, concat.axis)),
        QuantOp::Slice(slice) => {
            // Parts of an axis that is read with gaps would no longer be at regular distances.
            let axes = (0..result.rank()).filter(|&axis| slice.step[axis].abs() == 1);
            let at = |axis: usize, i: usize| (slice.start[axis] as isize + i as isize * slice.step[axis]) as usize;
            let pairs = |axis: usize| (0..slice.size[axis]).map(|i| (at(axis, i), i)).collect();
            let link = |axis| Link { port: 0, operand_axis: axis, result_axis: axis, pairs: pairs(axis) };
            linked(axes.map(link).collect())
        }
        QuantOp::Pad(pad) => linked(sames(operands[0], |axis| pad.before[axis] + pad.after[axis] == 0)),
        QuantOp::Transpose(transpose) => {
            let axes = transpose.order.iter().enumerate();
            linked(axes.map(|(to, &from)| same(operands[0], from, to)).collect())
        }
        QuantOp::Reshape(_) => linked(reshaped(operands[0], result, removable)),
        // All axes stay whole.
        _ => Relations::default(),
    }
}

fn linked(links: Vec<Link>) -> Relations {
    Relations { links, mixing: None }
}

fn same(operand: &Shape, operand_axis: usize, result_axis: usize) -> Link {
    let pairs = (0..operand.dims()[operand_axis]).map(|index| (index, index)).collect();
    Link { port: 0, operand_axis, result_axis, pairs }
}

fn sames(operand: &Shape, which: impl Fn(usize) -> bool) -> Vec<Link> {
    (0..operand.rank()).filter(|&axis| which(axis)).map(|axis| same(operand, axis, axis)).collect()
}

fn mixing(op: &QuantOp, (operand_axis, result_axis): (usize, usize), taps: usize) -> Mixing {
    let weighted = op.weighted();
    let reads = |row: Vec<i32>| row.chunks(taps).map(|taps| taps.iter().any(|&w| w != 0)).collect();
    let rows = weighted.map_or(0, |weighted| weighted.channels.len());
    let reads = (0..rows).filter_map(|row| Some(reads(weighted?.factors(row).collect()))).collect();
    Mixing { operand_axis, result_axis, reads }
}

fn broadcast(operands: &[&Shape], result: &Shape) -> Vec<Link> {
    let of_port = |(port, operand): (usize, &&Shape)| {
        let missing = result.rank() - operand.rank();
        let axes: Vec<usize> =
            (0..operand.rank()).filter(|&axis| operand.dims()[axis] == result.dims()[axis + missing]).collect();
        axes.into_iter().map(|axis| Link { port, ..same(operand, axis, axis + missing) }).collect::<Vec<_>>()
    };
    operands.iter().enumerate().flat_map(of_port).collect()
}

fn reduced(operand: &Shape, axes: &[usize], keep_dims: bool) -> Vec<Link> {
    let kept = (0..operand.rank()).filter(|axis| !axes.contains(axis));
    let place = |axis: usize| if keep_dims { axis } else { axis - axes.iter().filter(|&&other| other < axis).count() };
    kept.map(|axis| same(operand, axis, place(axis))).collect()
}

fn joined(operands: &[&Shape], along: usize) -> Vec<Link> {
    let mut start = 0;
    let mut links = vec![];
    for (port, operand) in operands.iter().enumerate() {
        for mut link in sames(operand, |_| true) {
            link.port = port;
            if link.operand_axis == along {
                link.pairs.iter_mut().for_each(|(_, to)| *to += start);
            }
            links.push(link);
        }
        start += operand.dims()[along];
    }
    links
}

/// Elements keep their order, so whole steps of one axis on either side can go: of several operand axes that become one
/// the axis from which most can go, of several that one axis becomes the longest.
fn reshaped(operand: &Shape, result: &Shape, removable: impl Fn(usize) -> usize) -> Vec<Link> {
    let link = |(from, to): (Range<usize>, Range<usize>)| {
        let operand_axis = from.clone().rev().max_by_key(|&axis| removable(axis))?;
        let result_axis = to.clone().rev().max_by_key(|&axis| result.dims()[axis])?;
        let (old, new) = (part(operand, &from), part(result, &to));
        let pair =
            |flat: usize| (old.unravel(flat)[operand_axis - from.start], new.unravel(flat)[result_axis - to.start]);
        let mut pairs: Vec<(usize, usize)> = (0..old.len()).map(pair).collect();
        pairs.sort_unstable();
        pairs.dedup();
        Some(Link { port: 0, operand_axis, result_axis, pairs })
    };
    groups(operand, result).into_iter().filter_map(link).collect()
}

/// The axes of a reshape in groups, as many as there are: the axes of a group on one side hold the same elements as those
/// on the other, in the same order.
pub fn groups(operand: &Shape, result: &Shape) -> Vec<(Range<usize>, Range<usize>)> {
    let (old, new) = (operand.dims(), result.dims());
    let (mut i, mut j) = (0, 0);
    let mut groups = vec![];
    while i < old.len() || j < new.len() {
        let start = (i, j);
        let (mut before, mut after) = (1, 1);
        loop {
            match (old.get(i), new.get(j)) {
                (Some(size), _) if before < after || i == start.0 => {
                    before *= size;
                    i += 1;
                }
                (_, Some(size)) if after < before || j == start.1 => {
                    after *= size;
                    j += 1;
                }
                _ => break,
            }
            if before == after && (i > start.0 || i == old.len()) && (j > start.1 || j == new.len()) {
                break;
            }
        }
        groups.push((start.0..i, start.1..j));
    }
    groups
}

/// Some neighbouring axes of a shape.
pub fn part(shape: &Shape, axes: &Range<usize>) -> Shape {
    Shape::new(&shape.dims()[axes.clone()])
}
