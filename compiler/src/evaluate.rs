//! The reference evaluator: an interpreter of the quantized graph, and the oracle of everything behind it.

use std::collections::BTreeMap;

use crate::ir::{Checked, Graph, NodeId, Quant};
use crate::ops::{Operand, QuantOp};

/// Evaluates one sample: quantized elements of every input, row-major, in the model's order.
/// Returns the outputs in the model's order.
pub fn evaluate(graph: &Checked<Graph<Quant>>, inputs: &[Vec<i32>]) -> Vec<Vec<i32>> {
    let values = evaluate_all(graph, inputs);
    graph.outputs().iter().map(|output| values[&output.node].clone()).collect()
}

/// Evaluates one sample and returns every tensor.
pub fn evaluate_all(graph: &Checked<Graph<Quant>>, inputs: &[Vec<i32>]) -> BTreeMap<NodeId, Vec<i32>> {
    let mut values: BTreeMap<NodeId, Vec<i32>> = graph.inputs().iter().copied().zip(inputs.iter().cloned()).collect();
    for id in graph.topological() {
        let node = graph.node(id);
        if matches!(node.op, QuantOp::Input(_)) {
            continue;
        }
        let result = evaluate_node(graph, id, &values);
        values.insert(id, result);
    }
    values
}

/// Evaluates one node from the values of its operands.
pub fn evaluate_node(graph: &Graph<Quant>, id: NodeId, values: &BTreeMap<NodeId, Vec<i32>>) -> Vec<i32> {
    let ids = graph.operands(id);
    let operands: Vec<Operand> =
        ids.iter().map(|operand| Operand { ty: &graph.node(*operand).value, data: &values[operand] }).collect();
    let node = graph.node(id);
    node.op.evaluate(&operands, &node.value)
}

/// Quantizes one real sample for an input of the graph.
pub fn quantize_input(graph: &Graph<Quant>, input: NodeId, sample: &[f32]) -> Vec<i32> {
    let ty = &graph.node(input).value;
    match ty.params() {
        Some(params) => sample.iter().map(|&value| params.quantize(f64::from(value), ty.dtype)).collect(),
        // Integers stay what they are.
        None => sample.iter().map(|&value| value as i32).collect(),
    }
}

/// The real values of a tensor.
pub fn dequantize(graph: &Graph<Quant>, id: NodeId, data: &[i32]) -> Vec<f32> {
    match graph.node(id).value.params() {
        Some(params) => data.iter().map(|&q| params.dequantize(q) as f32).collect(),
        None => data.iter().map(|&q| q as f32).collect(),
    }
}
