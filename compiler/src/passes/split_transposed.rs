//! Makes transposed convolutions ordinary ones: for each combination of phases of the strides the taps that reach it, and
//! then all results between each other.

use crate::ir::{Float, FloatTensor, Graph, Node, NodeId, Shape};
use crate::ops::FloatOp;
use crate::ops::constant::Constant;
use crate::ops::conv_transpose::{ConvTranspose, Phase};
use crate::ops::interleave::Interleave;
use crate::ops::slice::Slice;

/// Runs the pass.
pub fn run(graph: &mut Graph<Float>) -> bool {
    let mut changed = false;
    for id in graph.topological() {
        if let FloatOp::ConvTranspose(op) = graph.node(id).op.clone() {
            split(graph, id, &op);
            changed = true;
        }
    }
    changed
}

fn split(graph: &mut Graph<Float>, id: NodeId, op: &ConvTranspose) {
    let x = graph.operands(id)[0];
    let shape = graph.node(id).value.clone();
    let axes: Vec<Vec<Phase>> = (0..op.sizes.len()).map(|axis| op.phases(axis)).collect();
    let mut combinations: Vec<Vec<&Phase>> = vec![vec![]];
    for phases in &axes {
        let longer = |before: &Vec<_>| phases.iter().map(|phase| [&before[..], &[phase]].concat()).collect::<Vec<_>>();
        combinations = combinations.iter().flat_map(longer).collect();
    }
    let mut parts = vec![];
    for (number, phases) in combinations.iter().enumerate() {
        parts.push(part(graph, id, op, (x, number), phases));
    }
    if let [only] = parts[..] {
        // Nothing to put between: the convolution is the whole result.
        let (op, operands) = (graph.node(only).op.clone(), graph.operands(only));
        graph.remove(only);
        graph.node_mut(id).op = op;
        return graph.set_operands(id, &operands);
    }
    let steps = [&[1, 1], &op.stride[..]].concat();
    let starts = combinations.iter().map(|phases| {
        let starts = phases.iter().map(|phase| phase.start);
        [0, 0].into_iter().chain(starts).collect()
    });
    let starts = starts.collect();
    graph.node_mut(id).op = Interleave { shape, steps, starts }.into();
    graph.set_operands(id, &parts);
}

/// The elements of one combination of phases.
fn part(
    graph: &mut Graph<Float>,
    id: NodeId,
    op: &ConvTranspose,
    (x, number): (NodeId, usize),
    phases: &[&Phase],
) -> NodeId {
    let spatial = graph.node(x).value.dims()[2..].to_vec();
    let (cut, pads) = cut_and_pads(phases, &spatial);
    let conv = op.convolution(phases, &pads);
    let Some(conv) = conv.filter(|_| cut.iter().all(|(_, size)| *size > 0)) else {
        return constant(graph, id, op, number, phases);
    };
    let mut source = x;
    if cut.iter().zip(&spatial).any(|((_, size), whole)| size != whole) {
        let mut slice = Slice::whole(&graph.node(x).value);
        for (axis, &(start, size)) in cut.iter().enumerate() {
            (slice.start[axis + 2], slice.size[axis + 2]) = (start, size);
        }
        source = add(graph, id, &format!("part{number}"), slice.into(), &[x]);
    }
    add(graph, id, &format!("phase{number}"), conv.into(), &[source])
}

/// Two numbers for each axis.
type Pairs = Vec<(usize, usize)>;

/// For each axis what is read of the input (start and size), and what has to be added before and behind it.
fn cut_and_pads(phases: &[&Phase], spatial: &[usize]) -> (Pairs, Pairs) {
    let axis = |(phase, &size): (&&Phase, &usize)| {
        let span = phase.taps.len().saturating_sub(1) * phase.dilation;
        let end = phase.first + (phase.count - 1 + span) as isize + 1;
        let (first, size) = (phase.first, size as isize);
        let (start, stop) = (first.clamp(0, size), end.clamp(0, size));
        // All within sizes of tensors and paddings that have been checked.
        let pads = ((start - first).max(0) as usize, (end - stop).max(0) as usize);
        ((start as usize, (stop - start).max(0) as usize), pads)
    };
    phases.iter().zip(spatial).map(axis).unzip()
}

/// What no tap reaches is the bias.
fn constant(graph: &mut Graph<Float>, id: NodeId, op: &ConvTranspose, number: usize, phases: &[&Phase]) -> NodeId {
    let batch = graph.node(id).value.dims()[0];
    let sizes = phases.iter().map(|phase| phase.count);
    let shape = Shape::new([batch, op.bias.len()].into_iter().chain(sizes).collect::<Vec<_>>());
    let plane: usize = shape.dims()[2..].iter().product();
    let row = op.bias.iter().flat_map(|&bias| std::iter::repeat_n(bias.max(op.clamp.lo).min(op.clamp.hi), plane));
    let row: Vec<f32> = row.collect();
    let tensor = FloatTensor::new(shape, row.repeat(batch));
    add(graph, id, &format!("phase{number}"), Constant { tensor }.into(), &[])
}

fn add(graph: &mut Graph<Float>, id: NodeId, suffix: &str, op: FloatOp, operands: &[NodeId]) -> NodeId {
    let shapes: Vec<Shape> = operands.iter().map(|&operand| graph.node(operand).value.clone()).collect();
    let value = op.infer(&shapes.iter().collect::<Vec<_>>()).expect("the parts fit the input");
    let name = format!("{}#{suffix}", graph.node(id).name);
    let origin = graph.node(id).origin.clone();
    graph.add(Node { name, observed: None, origin, op, value }, operands)
}
