//! Builds the float graph: one pass over the nodes, in the file's order, which is topological.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use tract_onnx::pb;

use super::registry::{self, Support};
use super::tract::Analysed;
use super::{ModelInput, proto, reals};
use crate::diag::{self, Code, Diagnostic, Diagnostics};
use crate::ir::{Checked, Float, Graph, Node};
use crate::ops::import::{Constant, Integers, ModelFacts, NodeImport, OnnxNode, Value};
use crate::ops::input::Input;
use crate::ops::requantize;

/// The graph, and warnings. `refused` are tensors of operators that have been reported already.
pub fn build(
    proto: &pb::ModelProto,
    inputs: &[ModelInput],
    analysed: &Analysed,
    integers: &Integers,
    refused: &BTreeSet<String>,
) -> diag::Result<(Checked<Graph<Float>>, Diagnostics)> {
    let onnx = proto.graph.as_ref().ok_or_else(|| Diagnostic::error(Code::NotOnnx, "the file holds no graph"))?;
    let nodes: Vec<OnnxNode> = onnx.node.iter().map(proto::node).collect();
    let facts = ModelFacts { integers: integers.clone(), ..model_facts(proto, onnx, &nodes, analysed) };
    let mut graph = Graph::default();
    let mut values = BTreeMap::new();
    let mut problems = Diagnostics::default();
    add_inputs(&mut graph, &mut values, inputs);
    for tensor in &onnx.initializer {
        add_constant(&mut values, &tensor.name, analysed);
    }
    let mut failed: BTreeSet<&str> = refused.iter().map(String::as_str).collect();
    for node in &nodes {
        if node.inputs.iter().chain(&node.outputs).any(|name| failed.contains(name.as_str())) {
            // It or its operands have been reported already.
            failed.extend(node.outputs.iter().map(String::as_str));
        } else if let Err(found) = import_node(node, &facts, &mut graph, &mut values, analysed) {
            problems.extend(found);
            failed.extend(node.outputs.iter().map(String::as_str));
        }
    }
    for output in &onnx.output {
        match values.get(&output.name) {
            Some(Value::Node(id)) => graph.add_output(&output.name, *id),
            Some(Value::Constant(_)) => problems.push(
                Diagnostic::error(Code::ConstantTensor, "this output of the model does not depend on its inputs")
                    .tensor(&output.name)
                    .help("remove it from the model's outputs"),
            ),
            None if failed.contains(output.name.as_str()) => {}
            None => problems.push(
                Diagnostic::error(Code::InvalidGraph, "nothing produces this output of the model").tensor(&output.name),
            ),
        }
    }
    if !refused.is_empty() || problems.has_errors() {
        return Err(problems);
    }
    finish(graph)
}

fn finish(mut graph: Graph<Float>) -> diag::Result<(Checked<Graph<Float>>, Diagnostics)> {
    graph.remove_unused();
    let mut warnings = Diagnostics::default();
    for &input in graph.inputs() {
        if graph.consumers(input).is_empty() && !graph.is_output(input) {
            let name = graph.node(input).name.clone();
            warnings
                .push(Diagnostic::warning(Code::InvalidGraph, "this input of the model has no effect").tensor(name));
        }
    }
    let graph = graph.check().map_err(|error| Diagnostic::error(Code::Internal, error.0))?;
    Ok((graph, warnings))
}

fn model_facts(proto: &pb::ModelProto, onnx: &pb::GraphProto, nodes: &[OnnxNode], analysed: &Analysed) -> ModelFacts {
    let opset = proto.opset_import.iter().filter(|import| import.domain.is_empty() || import.domain == "ai.onnx");
    let outputs = nodes.iter().flat_map(|node| &node.outputs);
    ModelFacts {
        opset: opset.map(|import| import.version).next().unwrap_or(0),
        shapes: outputs.filter_map(|name| Some((name.clone(), analysed.shape(name)?))).collect(),
        not_real: nodes
            .iter()
            .flat_map(|node| &node.outputs)
            .filter(|name| analysed.is_integer(name))
            .cloned()
            .collect(),
        used: nodes
            .iter()
            .flat_map(|node| node.inputs.iter().cloned())
            .chain(onnx.output.iter().map(|output| output.name.clone()))
            .filter(|name| !name.is_empty())
            .collect(),
        integers: Integers::default(),
    }
}

fn add_inputs(graph: &mut Graph<Float>, values: &mut BTreeMap<String, Value>, inputs: &[ModelInput]) {
    for input in inputs {
        let id = graph.add_input(Node {
            name: input.name.clone(),
            observed: Some(input.name.clone()),
            origin: vec![],
            op: Input { shape: input.shape.clone(), element: input.element() }.into(),
            value: input.shape.clone(),
        });
        values.insert(input.name.clone(), Value::Node(id));
    }
}

fn add_constant(values: &mut BTreeMap<String, Value>, name: &str, analysed: &Analysed) -> bool {
    let constant = analysed.constant(name);
    let found = constant.is_some();
    if let Some(constant) = constant {
        values.insert(name.to_owned(), Value::Constant(Rc::new(constant)));
    }
    found
}

fn import_node(
    node: &OnnxNode,
    facts: &ModelFacts,
    graph: &mut Graph<Float>,
    values: &mut BTreeMap<String, Value>,
    analysed: &Analysed,
) -> diag::Result<()> {
    let outputs = node.outputs.iter().filter(|name| !name.is_empty());
    let folded: Vec<bool> = outputs.map(|name| add_constant(values, name, analysed)).collect();
    let mut cx = NodeImport { node, facts, graph, values, emitted: vec![] };
    if folded.iter().all(|&folded| folded) {
        return keep_steps(&mut cx);
    }
    refuse_integers(&cx)?;
    match registry::find(&node.op_type).map(|row| row.support) {
        Some(Support::Lowered(import)) => import(&mut cx)?,
        Some(Support::PassThrough) => {
            let x = cx.activation(0)?;
            cx.define(0, x);
        }
        Some(Support::Folded) => {
            return Err(cx.dynamic("its inputs are computed at run time; it is supported on constants only"));
        }
        None => return Err(cx.unsupported("it stands anywhere", "`ptqc ops` lists what is supported")),
    }
    check_shapes(node, facts, graph, values)
}

/// A constant that was computed from integers with steps may have steps too.
fn keep_steps(cx: &mut NodeImport) -> diag::Result<()> {
    let Some(output) = cx.node.outputs.first() else { return Ok(()) };
    if let Some(Value::Constant(constant)) = cx.values.get(output).cloned() {
        let steps = requantize::steps(cx, cx.node, &constant.shape)?;
        if steps.is_some() {
            cx.values.insert(output.clone(), Value::Constant(Rc::new(Constant { steps, ..(*constant).clone() })));
        }
    }
    Ok(())
}

/// Operators that compute with the integers of a quantized tensor themselves, not with the reals they stand for.
fn refuse_integers(cx: &NodeImport) -> diag::Result<()> {
    let node = cx.node;
    let computes = !matches!(node.op_type.as_str(), "DequantizeLinear" | "ArgMax" | "Shape" | "Size")
        && !reals::moves(&node.op_type);
    match node.inputs.iter().find(|input| computes && cx.facts.integers.tensors.contains(*input)) {
        None => Ok(()),
        Some(input) => Err(cx.unsupported(
            format!("it computes with the integers of the quantized tensor `{input}`"),
            "put a DequantizeLinear before it and a QuantizeLinear behind it",
        )),
    }
}

/// Two independent shape inferences, ours and tract's, have to agree.
fn check_shapes(
    node: &OnnxNode,
    facts: &ModelFacts,
    graph: &Graph<Float>,
    values: &BTreeMap<String, Value>,
) -> diag::Result<()> {
    for name in &node.outputs {
        let (Some(Value::Node(id)), Some(expected)) = (values.get(name), facts.shapes.get(name)) else { continue };
        let shape = &graph.node(*id).value;
        if shape != expected {
            let message =
                format!("`{}` gives shape {shape} by its definition and {expected} by shape inference", node.op_type);
            return Err(Diagnostic::error(Code::ShapeMismatch, message).node(&node.name).tensor(name).into());
        }
    }
    Ok(())
}
