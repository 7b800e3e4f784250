//! How much of the outputs' error each tensor is responsible for.
//!
//! A tensor that computes with exact operands is a little wrong. By how much the outputs change if this error, and nothing
//! else, is passed on, tells how strongly errors of this tensor reach the outputs. Errors of different tensors have little to
//! do with each other, so their squares add up, and a tensor's share is its part of the sum.

use std::collections::BTreeMap;

use super::reference::References;
use crate::evaluate::{dequantize, evaluate_node};
use crate::ir::{Graph, NodeId, Quant};
use crate::ops::QuantOp;

/// Where fewer elements are wrong, one in so many, the error is too small to be followed; steps up and down take its place.
const FEW: usize = 100;

/// Measures on one sample.
pub struct Shares<'a> {
    /// The graph.
    pub graph: &'a Graph<Quant>,
    /// Exact tensors.
    pub references: &'a References,
    /// Its nodes in the order of computation.
    pub order: &'a [NodeId],
}

impl Shares<'_> {
    /// For each node, the squared error of the outputs that comes from it, relative to the squares of the outputs.
    pub fn measure(&self, floats: &[Vec<f32>], exact: &BTreeMap<NodeId, Vec<i32>>) -> Vec<f64> {
        let nodes = self.order.iter().enumerate();
        nodes.map(|(at, &id)| self.contribution(at, id, floats, exact).unwrap_or(0.0)).collect()
    }

    fn contribution(
        &self,
        at: usize,
        id: NodeId,
        floats: &[Vec<f32>],
        exact: &BTreeMap<NodeId, Vec<i32>>,
    ) -> Option<f64> {
        let reals = self.references.reals(id, floats)?;
        let own = self.references.alone(self.graph, id, exact);
        let is_input = matches!(self.graph.node(id).op, QuantOp::Input(_));
        if own == exact[&id] && !is_input && !self.graph.is_output(id) {
            return None;
        }
        let (own_error, square) = error(self.graph, id, &own, &reals);
        if self.graph.is_output(id) {
            return Some(relative(own_error, square));
        }
        let disturbed = self.disturbed(id, own, &exact[&id]);
        let disturbance = difference(self.graph, id, &disturbed, &exact[&id]);
        let reached = self.outputs_from(at, exact[&id].clone(), exact);
        let moved = self.outputs_from(at, disturbed, exact);
        let change = self.graph.outputs().iter().zip(moved.iter().zip(&reached)).map(|(output, (moved, reached))| {
            let square = self.references.reals(output.node, floats).map_or(0.0, |reals| squares(&reals));
            relative(difference(self.graph, output.node, moved, reached), square)
        });
        (disturbance > 0.0).then(|| change.sum::<f64>() * own_error / disturbance)
    }

    /// The tensor with its own error, or with steps up and down where that is hardly any.
    fn disturbed(&self, id: NodeId, own: Vec<i32>, exact: &[i32]) -> Vec<i32> {
        let wrong = own.iter().zip(exact).filter(|(own, exact)| own != exact).count();
        if wrong * FEW >= exact.len() {
            return own;
        }
        let dtype = self.graph.node(id).value.dtype;
        let stepped = exact.iter().enumerate().map(|(index, &value)| {
            // Up and down in no order that a layer could follow: the middle bits of a multiple of the golden ratio.
            let up = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 & 1 == 0;
            (value + if up { 1 } else { -1 }).clamp(dtype.min(), dtype.max())
        });
        stepped.collect()
    }

    /// The outputs, computed from exact tensors up to a position in the order, of which the last is given.
    fn outputs_from(&self, at: usize, value: Vec<i32>, exact: &BTreeMap<NodeId, Vec<i32>>) -> Vec<Vec<i32>> {
        let (known, rest) = self.order.split_at(at);
        let mut values: BTreeMap<NodeId, Vec<i32>> = known.iter().map(|id| (*id, exact[id].clone())).collect();
        values.insert(rest[0], value);
        for &id in &rest[1..] {
            let value = match self.graph.inputs().contains(&id) {
                true => exact[&id].clone(),
                false => evaluate_node(self.graph, id, &values),
            };
            values.insert(id, value);
        }
        self.graph.outputs().iter().map(|output| values[&output.node].clone()).collect()
    }
}

fn relative(error: f64, square: f64) -> f64 {
    if square == 0.0 { error } else { error / square }
}

fn squares(reals: &[f32]) -> f64 {
    reals.iter().map(|&real| f64::from(real) * f64::from(real)).sum()
}

/// Sum of squared errors of a tensor, and of its squared real values.
pub fn error(graph: &Graph<Quant>, id: NodeId, values: &[i32], reals: &[f32]) -> (f64, f64) {
    let differences = dequantize(graph, id, values);
    let differences = differences.iter().zip(reals).map(|(&value, &real)| f64::from(value) - f64::from(real));
    (differences.map(|difference| difference * difference).sum(), squares(reals))
}

/// Sum of the squared differences between two values of a tensor.
fn difference(graph: &Graph<Quant>, id: NodeId, a: &[i32], b: &[i32]) -> f64 {
    error(graph, id, a, &dequantize(graph, id, b)).0
}

/// The share of every tensor that the float model has, from the contributions summed over samples.
pub fn shares(references: &References, order: &[NodeId], contributions: &[f64]) -> BTreeMap<NodeId, f64> {
    let total: f64 = contributions.iter().sum();
    let known = order.iter().zip(contributions).filter(|(id, _)| references.has(**id));
    known.map(|(&id, &contribution)| (id, if total > 0.0 { contribution / total } else { 0.0 })).collect()
}
