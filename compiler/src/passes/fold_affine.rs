//! Folds factors and addends into the weights before or behind them, and into each other.

use super::{absorb_consumer, absorb_producer, sole_operand};
use crate::ir::{Float, Graph, NodeId, RealClamp, Shape, Steps};
use crate::ops::FloatOp;
use crate::ops::affine::Affine;
use crate::ops::unary::UnaryFn;

/// Folding factors into the weights behind them makes small factors coarse; beyond this ratio they stay.
const MAX_SPREAD: f32 = 64.0;

/// Runs the pass.
pub fn run(graph: &mut Graph<Float>) -> bool {
    let mut changed = false;
    for id in graph.topological() {
        if graph.contains(id) {
            changed |= into_producer(graph, id).is_some() || into_consumer(graph, id).is_some();
        }
    }
    changed
}

/// A factor and an addend for each channel, or for all.
pub(super) struct Map {
    pub(super) scale: Vec<f32>,
    pub(super) shift: Vec<f32>,
    pub(super) axis: Option<usize>,
    pub(super) clamp: RealClamp,
}

impl Map {
    pub(super) fn of(op: &FloatOp) -> Option<Map> {
        match op {
            FloatOp::Affine(Affine { scale, shift, axis, clamp }) => {
                Some(Map { scale: scale.clone(), shift: shift.clone(), axis: Some(*axis), clamp: *clamp })
            }
            FloatOp::Unary(unary) => {
                let (scale, shift) =
                    unary.chain.iter().try_fold((1.0, 0.0), |(scale, shift), function| match function {
                        UnaryFn::Linear { scale: a, shift: b } => Some((scale * a, shift * a + b)),
                        _ => None,
                    })?;
                Some(Map { scale: vec![scale], shift: vec![shift], axis: None, clamp: RealClamp::NONE })
            }
            _ => None,
        }
    }

    /// The map over `channels` channels of `axis`; `None` if it runs along another axis.
    fn along(mut self, axis: usize, channels: usize) -> Option<Map> {
        match self.axis {
            Some(own) => (own == axis).then_some(self),
            None => {
                (self.scale, self.shift) = (vec![self.scale[0]; channels], vec![self.shift[0]; channels]);
                self.axis = Some(axis);
                Some(self)
            }
        }
    }
}

/// The axis that the output channels of a weighted operator run along.
fn channel_axis(op: &FloatOp, shape: &Shape) -> Option<usize> {
    match op {
        FloatOp::Conv(_) | FloatOp::ConvTranspose(_) => Some(1),
        FloatOp::Linear(_) => shape.rank().checked_sub(1),
        FloatOp::Affine(affine) => Some(affine.axis),
        _ => None,
    }
}

fn into_producer(graph: &mut Graph<Float>, id: NodeId) -> Option<()> {
    let map = Map::of(&graph.node(id).op)?;
    let producer = sole_operand(graph, id)?;
    let mut op = graph.node(producer).op.clone();
    let axis = channel_axis(&op, &graph.node(producer).value)?;
    let map = map.along(axis, graph.node(producer).value.dims()[axis])?;
    if op.clamp_mut().is_some_and(|clamp| *clamp != RealClamp::NONE) {
        return None;
    }
    let (bias, clamp) = match &mut op {
        FloatOp::Conv(conv) => {
            conv.weights.scale_rows(&map.scale);
            (&mut conv.bias, &mut conv.clamp)
        }
        FloatOp::ConvTranspose(conv) => {
            conv.weights.scale_rows(&map.scale);
            (&mut conv.bias, &mut conv.clamp)
        }
        FloatOp::Linear(linear) => {
            linear.weights.scale_rows(&map.scale);
            (&mut linear.bias, &mut linear.clamp)
        }
        FloatOp::Affine(affine) => {
            affine.scale.iter_mut().zip(&map.scale).for_each(|(own, factor)| *own *= factor);
            (&mut affine.shift, &mut affine.clamp)
        }
        _ => return None,
    };
    for (c, bias) in bias.iter_mut().enumerate() {
        *bias = (f64::from(*bias) * f64::from(map.scale[c]) + f64::from(map.shift[c])) as f32;
    }
    *clamp = map.clamp;
    graph.node_mut(producer).op = op;
    absorb_consumer(graph, producer, id);
    Some(())
}

fn into_consumer(graph: &mut Graph<Float>, id: NodeId) -> Option<()> {
    let before = sole_operand(graph, id)?;
    let map = Map::of(&graph.node(before).op).filter(|map| map.clamp == RealClamp::NONE)?;
    let input = graph.node(before).value.clone();
    let mut op = graph.node(id).op.clone();
    match &mut op {
        FloatOp::Conv(conv) => {
            let map = foldable(map.along(1, input.dims()[1])?, conv.weights.steps.as_mut())?;
            let padded = conv.window.pads(&input.dims()[2..]);
            if padded && map.shift.iter().any(|&shift| shift != 0.0) {
                return None;
            }
            let (group_inputs, taps) = (conv.weights.shape.dims()[1], conv.window.taps());
            let group_outputs = conv.bias.len() / conv.groups;
            let channel = |o: usize, i: usize| o / group_outputs * group_inputs + i;
            scale_rows(&mut conv.weights.data, &mut conv.bias, taps, &map, channel);
        }
        FloatOp::Linear(linear) => {
            let axis = input.rank() - 1;
            let map = foldable(map.along(axis, input.dims()[axis])?, linear.weights.steps.as_mut())?;
            scale_rows(&mut linear.weights.data, &mut linear.bias, 1, &map, |_, i| i);
        }
        FloatOp::Affine(affine) => {
            let map = map.along(affine.axis, affine.scale.len())?;
            scale_rows(&mut affine.scale, &mut affine.shift, 1, &map, |c, _| c);
        }
        _ => return None,
    }
    graph.node_mut(id).op = op;
    absorb_producer(graph, before, id);
    Some(())
}

/// Whether weights can take the factors of their inputs over. Those that the model stores as integers stay integers only
/// where there is but one factor, which their steps take.
fn foldable(map: Map, steps: Option<&mut Steps>) -> Option<Map> {
    let magnitudes = || map.scale.iter().map(|scale| scale.abs());
    let (min, max) = (magnitudes().fold(f32::INFINITY, f32::min), magnitudes().fold(0.0, f32::max));
    if let Some(steps) = steps {
        if min != max {
            return None;
        }
        steps.scales.iter_mut().for_each(|scale| *scale *= max);
    }
    (max <= min * MAX_SPREAD).then_some(map)
}

/// `w * (scale * x + shift)` is `(w * scale) * x + w * shift`.
fn scale_rows(weights: &mut [f32], bias: &mut [f32], taps: usize, map: &Map, channel: impl Fn(usize, usize) -> usize) {
    let row_len = weights.len() / bias.len();
    for (o, row) in weights.chunks_exact_mut(row_len).enumerate() {
        let mut addend = f64::from(bias[o]);
        for (i, taps) in row.chunks_exact_mut(taps).enumerate() {
            let c = channel(o, i);
            for w in taps {
                addend += f64::from(*w) * f64::from(map.shift[c]);
                *w *= map.scale[c];
            }
        }
        bias[o] = addend as f32;
    }
}
