//! Numbers inside of operators: the states of recurrent layers, and what their gates are computed from. The executor does
//! not show them, so calibration computes them again from the tensors around.

use std::collections::BTreeMap;

use crate::ir::{Float, Graph, NodeId, Params, QuantType, Shape};
use crate::ops::recurrent::{Inside, Kind, Recurrent, State};
use crate::ops::{FloatOp, Operand, QuantOperator};

/// The operators that have something inside, and where their operands are among the observed tensors.
#[derive(Debug)]
pub struct Insides<'a> {
    graph: &'a Graph<Float>,
    taps: BTreeMap<String, usize>,
    operators: Vec<NodeId>,
}

impl<'a> Insides<'a> {
    /// Those of a graph of which the tensors `taps` are observed.
    pub fn of(graph: &'a Graph<Float>, taps: &[String]) -> Insides<'a> {
        let taps = taps.iter().enumerate().map(|(index, name)| (name.clone(), index)).collect();
        let mut insides = Insides { graph, taps, operators: vec![] };
        let mut known = vec![];
        for id in graph.topological() {
            let FloatOp::Recurrent(recurrent) = &graph.node(id).op else { continue };
            // The results of one layer have the same inside.
            let found = graph.operands(id).into_iter().all(|operand| insides.is_known(operand));
            if found && recurrent.lens.iter().any(|&len| len > 0) && !known.contains(&&recurrent.name) {
                known.push(&recurrent.name);
                insides.operators.push(id);
            }
        }
        insides
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.layers().flat_map(|(_, layer)| numbers(layer).iter().map(|&what| layer.inside(what))).collect()
    }

    /// The numbers in one sample, in the order of the names. Of gates and cell states the smallest and the largest.
    pub fn values(&self, taps: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let layer = |(id, layer): (NodeId, &Recurrent)| {
            let mut seen: BTreeMap<Inside, Vec<f32>> = BTreeMap::new();
            self.watch(id, layer, taps, &mut |what, value| {
                let (value, values) = (value as f32, seen.entry(what).or_default());
                match (&mut values[..], what) {
                    (_, Inside::Hidden) => values.push(value),
                    ([min, max], _) => (*min, *max) = (min.min(value), max.max(value)),
                    _ => *values = vec![value; 2],
                }
            });
            numbers(layer).iter().map(|what| seen.remove(what).unwrap_or_else(|| vec![0.0])).collect::<Vec<_>>()
        };
        self.layers().flat_map(layer).collect()
    }

    fn layers(&self) -> impl Iterator<Item = (NodeId, &'a Recurrent)> + '_ {
        self.operators.iter().filter_map(|&id| match &self.graph.node(id).op {
            FloatOp::Recurrent(recurrent) => Some((id, recurrent)),
            _ => None,
        })
    }

    fn watch(&self, id: NodeId, layer: &Recurrent, taps: &[Vec<f32>], watch: &mut dyn FnMut(Inside, f64)) {
        let operands: Vec<Vec<f32>> =
            self.graph.operands(id).into_iter().filter_map(|operand| self.value(operand, taps)).collect();
        let states = layer.initial.each_ref().map(|state| match state {
            State::Constant(values) => values,
            State::Operand(port) => &operands[*port],
        });
        layer.cell.run(&operands[0], states.map(|state| &state[..]), (layer.steps, &layer.lens), watch);
    }

    /// Whether [`Self::value`] can tell what a tensor holds.
    fn is_known(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        let observed = self.taps.contains_key(&node.name) || matches!(node.op, FloatOp::Constant(_));
        observed || (moves(&node.op).is_some() && self.is_known(self.graph.operands(id)[0]))
    }

    /// What a tensor holds: an observed one, a constant, or one of these with its elements moved.
    fn value(&self, id: NodeId, taps: &[Vec<f32>]) -> Option<Vec<f32>> {
        let node = self.graph.node(id);
        if let Some(&index) = self.taps.get(&node.name) {
            return taps.get(index).cloned();
        }
        if let FloatOp::Constant(constant) = &node.op {
            return Some(constant.tensor.data.clone());
        }
        let operand = *self.graph.operands(id).first()?;
        let source = self.value(operand, taps)?;
        let index = |shape: &Shape| QuantType::int8(shape.clone(), Params::zero());
        let (from, to) = (index(&self.graph.node(operand).value), index(&node.value));
        let positions: Vec<i32> = (0..source.len() as i32).collect();
        let moved = moves(&node.op)?.evaluate(&[Operand { ty: &from, data: &positions }], &to);
        moved.into_iter().map(|at| source.get(at as usize).copied()).collect()
    }
}

/// What calibration observes of a layer.
fn numbers(layer: &Recurrent) -> &'static [Inside] {
    match layer.cell.kind {
        Kind::Lstm { .. } => &[Inside::Gate, Inside::Hidden, Inside::Cell],
        Kind::Rnn | Kind::Gru { .. } => &[Inside::Gate, Inside::Hidden],
    }
}

/// An operator that only moves the elements of its operand, on integers.
fn moves(op: &FloatOp) -> Option<&dyn QuantOperator> {
    match op {
        FloatOp::Transpose(transpose) => Some(transpose),
        FloatOp::Reshape(reshape) => Some(reshape),
        FloatOp::Slice(slice) => Some(slice),
        _ => None,
    }
}
