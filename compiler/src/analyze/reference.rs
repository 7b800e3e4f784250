//! What the tensors of the quantized graph would be without any error.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::evaluate::evaluate_node;
use crate::ir::{Graph, NodeId, Quant};
use crate::ops::{Operand, QuantOp};

/// Where the real values of tensors are found among those that the float model computes.
pub struct References {
    known: BTreeMap<NodeId, Known>,
    order: Vec<NodeId>,
}

/// The real values of a tensor.
struct Known {
    /// Index of the float model's tensor.
    tap: usize,
    /// Position in it of each element, where a pass has moved the operator ahead of a change of axes.
    positions: Option<Vec<usize>>,
}

impl References {
    /// For a graph, and the names of the tensors that the float model returns.
    pub fn new(graph: &Graph<Quant>, taps: &[String]) -> References {
        let order = graph.topological();
        let mut known: BTreeMap<NodeId, Known> = BTreeMap::new();
        for &id in order.iter().rev() {
            let node = graph.node(id);
            let Some(observed) = node.observed.as_ref().filter(|_| node.value.params().is_some()) else { continue };
            let Some(tap) = taps.iter().position(|tap| tap == observed) else { continue };
            if node.name == *observed {
                known.insert(id, Known { tap, positions: None });
            } else if let Some(positions) = moved_positions(graph, id, &known, observed) {
                known.insert(id, Known { tap, positions: Some(positions) });
            }
        }
        References { known, order }
    }

    /// Whether the float model has the tensor.
    pub fn has(&self, id: NodeId) -> bool {
        self.known.contains_key(&id)
    }

    /// Its real values, row-major, if the float model has it and their number is right.
    pub fn reals<'a>(&self, id: NodeId, floats: &'a [Vec<f32>]) -> Option<Cow<'a, [f32]>> {
        let known = self.known.get(&id)?;
        let tap = floats.get(known.tap)?;
        Some(match &known.positions {
            None => Cow::Borrowed(tap.as_slice()),
            Some(positions) => Cow::Owned(positions.iter().map(|&position| tap[position]).collect()),
        })
    }

    /// Every tensor, quantized from its real values. Where there are none it follows from its operands.
    pub fn quantized(
        &self,
        graph: &Graph<Quant>,
        floats: &[Vec<f32>],
        inputs: &[Vec<i32>],
    ) -> BTreeMap<NodeId, Vec<i32>> {
        let mut values: BTreeMap<NodeId, Vec<i32>> =
            graph.inputs().iter().copied().zip(inputs.iter().cloned()).collect();
        for &id in &self.order {
            let ty = &graph.node(id).value;
            let quantized = match (self.reals(id, floats), ty.params()) {
                _ if values.contains_key(&id) => continue,
                (Some(reals), Some(params)) => {
                    reals.iter().map(|&real| params.quantize(f64::from(real), ty.dtype)).collect()
                }
                _ => evaluate_node(graph, id, &values),
            };
            values.insert(id, quantized);
        }
        values
    }

    /// What a node computes from exact operands.
    pub fn alone(&self, graph: &Graph<Quant>, id: NodeId, exact: &BTreeMap<NodeId, Vec<i32>>) -> Vec<i32> {
        match graph.node(id).op {
            QuantOp::Input(_) => exact[&id].clone(),
            _ => evaluate_node(graph, id, exact),
        }
    }
}

/// The positions of a node's elements in the float model's tensor, if its only consumer just moves them there.
fn moved_positions(
    graph: &Graph<Quant>,
    id: NodeId,
    known: &BTreeMap<NodeId, Known>,
    observed: &str,
) -> Option<Vec<usize>> {
    let consumer = graph.sole_consumer(id)?;
    let behind = graph.node(consumer);
    if behind.observed.as_deref() != Some(observed) || !matches!(behind.op, QuantOp::Transpose(_) | QuantOp::Reshape(_))
    {
        return None;
    }
    let len = i32::try_from(graph.node(id).value.shape.len()).ok()?;
    let numbered: Vec<i32> = (0..len).collect();
    let operand = Operand { ty: &graph.node(id).value, data: &numbered };
    let moved = behind.op.evaluate(&[operand], &behind.value);
    let mut positions = vec![0; numbered.len()];
    for (to, from) in moved.into_iter().enumerate() {
        let at = known.get(&consumer)?.positions.as_ref().map_or(to, |positions| positions[to]);
        positions[usize::try_from(from).ok()?] = at;
    }
    Some(positions)
}
