//! Which element type every tensor and every layer's weights get.

use std::collections::{BTreeMap, BTreeSet};

use crate::diag::{Code, Diagnostic, Diagnostics, closest};
use crate::ir::{DType, Float, Graph, Node, NodeId};
use crate::ops::{FloatOp, ParamsRule};

/// Element types for a whole model, and exceptions by the model's own names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precisions {
    /// Type of the activations: [`DType::I8`] or [`DType::I16`].
    pub activations: DType,
    /// Type of the weights: [`DType::I8`] or [`DType::I4`].
    pub weights: DType,
    /// Exceptions for ONNX tensors.
    pub tensors: BTreeMap<String, DType>,
    /// Exceptions for ONNX nodes.
    pub layers: BTreeMap<String, LayerPrecision>,
}

/// What an ONNX node has that others do not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerPrecision {
    /// Type of its result.
    pub activations: Option<DType>,
    /// Type of its weights.
    pub weights: Option<DType>,
    /// Whether its input is scaled in every inference.
    pub dynamic: bool,
}

impl Default for Precisions {
    fn default() -> Self {
        Precisions { activations: DType::I8, weights: DType::I8, tensors: BTreeMap::new(), layers: BTreeMap::new() }
    }
}

/// The types that were asked for, by node of the graph.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Of results, where one was asked for by name.
    pub activations: BTreeMap<NodeId, DType>,
    /// Of weights, for every node.
    pub weights: BTreeMap<NodeId, DType>,
    /// Layers whose input is scaled in every inference.
    pub dynamic: BTreeSet<NodeId>,
}

/// Finds the nodes that the names mean. Names that mean none, or demands that contradict each other, are problems.
pub fn resolve(graph: &Graph<Float>, precisions: &Precisions, problems: &mut Diagnostics) -> Wanted {
    let mut wanted = Wanted::default();
    for id in graph.topological() {
        wanted.weights.insert(id, precisions.weights);
    }
    for (name, &dtype) in &precisions.tensors {
        match find(graph, |node| node.name == *name || node.observed.as_ref() == Some(name)) {
            Some(id) => demand(graph, id, dtype, &mut wanted, problems),
            None => problems.push(unknown_tensor(graph, name)),
        }
    }
    for (name, layer) in &precisions.layers {
        let is_part = |node: &Node<Float>| node.origin.iter().any(|origin| origin.node == *name);
        let Some(id) = find(graph, is_part) else {
            problems.push(unknown_layer(graph, name));
            continue;
        };
        if let Some(dtype) = layer.activations {
            demand(graph, id, dtype, &mut wanted, problems);
        }
        let has_weights = |node: &Node<Float>| matches!(node.op, FloatOp::Conv(_) | FloatOp::Linear(_));
        let weighted = find(graph, |node| is_part(node) && has_weights(node));
        match (weighted, layer.weights) {
            (Some(id), Some(dtype)) => drop(wanted.weights.insert(id, dtype)),
            (None, Some(_)) => problems.push(no_weights(graph.node(id), name, "a type of weights")),
            (_, None) => {}
        }
        match weighted {
            Some(id) if layer.dynamic => demand_dynamic(graph, id, &mut wanted, problems),
            None if layer.dynamic => problems.push(no_weights(graph.node(id), name, "a dynamic input")),
            _ => {}
        }
    }
    wanted
}

/// The last node that fits: the one that computes the tensor in the end, where several ONNX nodes became more than one.
fn find(graph: &Graph<Float>, fits: impl Fn(&Node<Float>) -> bool) -> Option<NodeId> {
    graph.topological().into_iter().rev().find(|&id| fits(graph.node(id)))
}

/// A tensor that only moves or selects elements has the type of the tensor that they come from.
fn demand(graph: &Graph<Float>, id: NodeId, dtype: DType, wanted: &mut Wanted, problems: &mut Diagnostics) {
    let node = graph.node(id);
    if dtype.bits() > 8 && !node.op.is_wide() {
        let message = format!("the recipe asks for {dtype}, and {} computes in int8 only", node.op.kind());
        problems.push(
            Diagnostic::error(Code::RecipeFile, message).tensor(&node.name).help("leave this tensor out of the recipe"),
        );
        return;
    }
    let mut source = id;
    while graph.node(source).op.params_rule() == ParamsRule::SameAsOperand {
        source = graph.operands(source)[0];
    }
    if let Some(other) = wanted.activations.insert(source, dtype).filter(|&other| other != dtype) {
        problems.push(
            Diagnostic::error(Code::RecipeFile, format!("the recipe asks for {dtype} and for {other}"))
                .tensor(&graph.node(source).name)
                .help("the elements of this tensor are only moved by the layers behind it: give all of these one type"),
        );
    }
}

/// A dynamic layer reads 16 bits, of which every inference uses those it needs.
fn demand_dynamic(graph: &Graph<Float>, id: NodeId, wanted: &mut Wanted, problems: &mut Diagnostics) {
    let input = graph.operands(id)[0];
    demand(graph, input, DType::I16, wanted, problems);
    wanted.dynamic.insert(id);
}

fn unknown_tensor(graph: &Graph<Float>, name: &str) -> Diagnostic {
    let names = graph.topological().into_iter().map(|id| graph.node(id).name.clone());
    let unknown = Diagnostic::error(Code::RecipeFile, format!("the recipe names a tensor `{name}`, and no layer computes it"))
        .note("a tensor inside of what is fused into one layer, such as between a convolution and its activation, has no type");
    with_suggestion(unknown, name, names.collect())
}

fn unknown_layer(graph: &Graph<Float>, name: &str) -> Diagnostic {
    let origins = graph.topological().into_iter().flat_map(|id| graph.node(id).origin.clone());
    let unknown = Diagnostic::error(
        Code::RecipeFile,
        format!("the recipe names a layer `{name}`, and the model has no such node"),
    );
    with_suggestion(unknown, name, origins.map(|origin| origin.node).collect())
}

fn with_suggestion(diagnostic: Diagnostic, name: &str, names: Vec<String>) -> Diagnostic {
    match closest(name, names.iter().map(String::as_str)) {
        Some(close) => diagnostic.help(format!("did you mean `{close}`?")),
        None => diagnostic.help("`ptqc inspect MODEL --stage fused` lists all"),
    }
}

fn no_weights(node: &Node<Float>, name: &str, what: &str) -> Diagnostic {
    Diagnostic::error(Code::RecipeFile, format!("the recipe gives this layer {what}, and it has no weights"))
        .node(name)
        .tensor(&node.name)
        .help("weight_bits and dynamic are for convolutions and products with constant weights")
}
