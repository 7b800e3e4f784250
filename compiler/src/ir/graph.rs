//! A directed acyclic graph of operators, generic over the stage. The only file that knows petgraph.

use std::collections::BTreeMap;
use std::fmt;

use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;

/// What distinguishes the stages of the graph.
pub trait Stage: fmt::Debug + Clone {
    /// Operators of this stage.
    type Op: Operator<Self::Value>;
    /// Type of the tensor that a node produces.
    type Value: Clone + fmt::Debug + fmt::Display + PartialEq;
    /// Name in messages and listings.
    const NAME: &'static str;
}

/// What the graph needs to know of an operator.
pub trait Operator<V>: fmt::Debug + Clone {
    /// Name of the kind of operator, for example `Conv`.
    fn kind(&self) -> &'static str;
    /// Attributes in one line, for listings.
    fn describe(&self) -> String;
    /// Checks operands and result against each other; the error is a sentence.
    fn check(&self, operands: &[&V], result: &V) -> Result<(), String>;
}

/// An ONNX node that was merged into a node of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The ONNX node's name; its first output's name if it has none.
    pub node: String,
    /// The ONNX operator.
    pub op_type: String,
}

/// One operator and the one tensor it produces.
#[derive(Debug, Clone)]
pub struct Node<S: Stage> {
    /// Name of the tensor: the ONNX tensor's where there is one. Unique in the graph.
    pub name: String,
    /// The ONNX tensor whose observed range is this tensor's: the same elements, perhaps in another order.
    /// `None` if the model has no such tensor.
    pub observed: Option<String>,
    /// ONNX nodes merged into this one, in graph order.
    pub origin: Vec<Origin>,
    /// The operator.
    pub op: S::Op,
    /// Type of the tensor.
    pub value: S::Value,
}

/// Identifies a node for as long as it is in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(NodeIndex);

/// An output of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphOutput {
    /// Name in the model.
    pub name: String,
    /// The node that produces it.
    pub node: NodeId,
}

/// Position of an operand among the operands of its consumer.
type Port = usize;

/// The graph. Operands are ordered; a node may use one operand twice.
#[derive(Debug, Clone)]
pub struct Graph<S: Stage> {
    dag: StableDiGraph<Node<S>, Port>,
    inputs: Vec<NodeId>,
    outputs: Vec<GraphOutput>,
}

/// A graph in which [`Graph::check`] found nothing wrong. Stage boundaries take this.
#[derive(Debug, Clone)]
pub struct Checked<G>(G);

/// A broken invariant: a bug of ours, never the user's mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphError(pub String);

impl<G> Checked<G> {
    /// Gives the graph up for changes; it has to be checked again.
    pub fn into_inner(self) -> G {
        self.0
    }
}

impl<G> std::ops::Deref for Checked<G> {
    type Target = G;

    fn deref(&self) -> &G {
        &self.0
    }
}

impl<S: Stage> Default for Graph<S> {
    fn default() -> Self {
        Graph { dag: StableDiGraph::new(), inputs: vec![], outputs: vec![] }
    }
}

impl<S: Stage> Graph<S> {
    /// Adds a node with its operands, in order.
    pub fn add(&mut self, node: Node<S>, operands: &[NodeId]) -> NodeId {
        let id = NodeId(self.dag.add_node(node));
        for (port, operand) in operands.iter().enumerate() {
            self.dag.add_edge(operand.0, id.0, port);
        }
        id
    }

    /// Adds a node that is an input of the model.
    pub fn add_input(&mut self, node: Node<S>) -> NodeId {
        let id = self.add(node, &[]);
        self.inputs.push(id);
        id
    }

    /// Declares a node to be an output of the model.
    pub fn add_output(&mut self, name: impl Into<String>, node: NodeId) {
        self.outputs.push(GraphOutput { name: name.into(), node });
    }

    /// Lets another node produce an output of the model.
    pub fn set_output(&mut self, index: usize, node: NodeId) {
        self.outputs[index].node = node;
    }

    /// Inputs of the model, in the model's order.
    pub fn inputs(&self) -> &[NodeId] {
        &self.inputs
    }

    /// Outputs of the model, in the model's order.
    pub fn outputs(&self) -> &[GraphOutput] {
        &self.outputs
    }

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> &Node<S> {
        &self.dag[id.0]
    }

    /// The node with this id, for changes.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node<S> {
        &mut self.dag[id.0]
    }

    /// Whether the node is still in the graph.
    pub fn contains(&self, id: NodeId) -> bool {
        self.dag.contains_node(id.0)
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.dag.node_count()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Operands of a node, in order.
    pub fn operands(&self, id: NodeId) -> Vec<NodeId> {
        let mut edges: Vec<_> = self.dag.edges_directed(id.0, Direction::Incoming).collect();
        edges.sort_by_key(|edge| *edge.weight());
        edges.into_iter().map(|edge| NodeId(edge.source())).collect()
    }

    /// Nodes that use this one, once for each use, in a stable order.
    pub fn consumers(&self, id: NodeId) -> Vec<NodeId> {
        let mut users: Vec<_> =
            self.dag.edges_directed(id.0, Direction::Outgoing).map(|e| NodeId(e.target())).collect();
        users.sort();
        users
    }

    /// Whether the node is an output of the model.
    pub fn is_output(&self, id: NodeId) -> bool {
        self.outputs.iter().any(|output| output.node == id)
    }

    /// The only use of a node that is no output of the model.
    pub fn sole_consumer(&self, id: NodeId) -> Option<NodeId> {
        match self.consumers(id)[..] {
            [consumer] if !self.is_output(id) => Some(consumer),
            _ => None,
        }
    }

    /// Lets every consumer of `old`, and the model's outputs, use `new` instead.
    pub fn replace_uses(&mut self, old: NodeId, new: NodeId) {
        let uses: Vec<_> =
            self.dag.edges_directed(old.0, Direction::Outgoing).map(|e| (e.id(), e.target(), *e.weight())).collect();
        for (edge, target, port) in uses {
            self.dag.remove_edge(edge);
            self.dag.add_edge(new.0, target, port);
        }
        for output in self.outputs.iter_mut().filter(|output| output.node == old) {
            output.node = new;
        }
    }

    /// Replaces the operands of a node.
    pub fn set_operands(&mut self, id: NodeId, operands: &[NodeId]) {
        let old: Vec<_> = self.dag.edges_directed(id.0, Direction::Incoming).map(|edge| edge.id()).collect();
        for edge in old {
            self.dag.remove_edge(edge);
        }
        for (port, operand) in operands.iter().enumerate() {
            self.dag.add_edge(operand.0, id.0, port);
        }
    }

    /// Removes a node that nothing uses.
    pub fn remove(&mut self, id: NodeId) {
        assert!(self.consumers(id).is_empty() && !self.is_output(id), "only unused nodes are removed");
        self.dag.remove_node(id.0);
    }

    /// Removes every node that no output needs; inputs of the model stay.
    pub fn remove_unused(&mut self) {
        loop {
            let unused: Vec<NodeId> = self
                .ids()
                .filter(|&id| self.consumers(id).is_empty() && !self.is_output(id) && !self.inputs.contains(&id))
                .collect();
            if unused.is_empty() {
                return;
            }
            unused.into_iter().for_each(|id| self.remove(id));
        }
    }

    /// All nodes, operands before consumers; among independent nodes in the order of their creation.
    pub fn topological(&self) -> Vec<NodeId> {
        let mut missing: BTreeMap<NodeId, usize> = self.ids().map(|id| (id, self.operands(id).len())).collect();
        let mut ready: std::collections::BTreeSet<NodeId> =
            missing.iter().filter(|(_, n)| **n == 0).map(|(id, _)| *id).collect();
        let mut order = vec![];
        while let Some(id) = ready.pop_first() {
            order.push(id);
            for consumer in self.consumers(id) {
                let left = missing.get_mut(&consumer).expect("consumers are nodes of the graph");
                *left -= 1;
                if *left == 0 {
                    ready.insert(consumer);
                }
            }
        }
        order
    }

    /// Checks every invariant: acyclic, unique names, arities, types of operands and results.
    pub fn check(self) -> Result<Checked<Self>, GraphError> {
        let order = self.topological();
        if order.len() != self.len() {
            return Err(GraphError(format!("the {} graph has a cycle", S::NAME)));
        }
        let mut names = BTreeMap::new();
        for &id in &order {
            let node = self.node(id);
            if names.insert(node.name.as_str(), id).is_some() {
                return Err(GraphError(format!("two nodes of the {} graph are named `{}`", S::NAME, node.name)));
            }
            self.check_node(id).map_err(|problem| {
                GraphError(format!("{} graph, {} `{}`: {problem}", S::NAME, node.op.kind(), node.name))
            })?;
        }
        Ok(Checked(self))
    }

    fn check_node(&self, id: NodeId) -> Result<(), String> {
        let node = self.node(id);
        let operands = self.operands(id);
        let values: Vec<&S::Value> = operands.iter().map(|&operand| &self.node(operand).value).collect();
        node.op.check(&values, &node.value)
    }

    fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.dag.node_indices().map(NodeId)
    }

    /// The graph in Graphviz's language.
    pub fn dot(&self) -> String {
        let mut text = String::from("digraph model {\n  node [shape=box, fontname=monospace];\n");
        for id in self.topological() {
            let node = self.node(id);
            let label = format!("{}\n{}\n{}", node.op.kind(), node.name, node.value);
            text += &format!("  n{} [label={label:?}];\n", id.0.index());
            for operand in self.operands(id) {
                text += &format!("  n{} -> n{};\n", operand.0.index(), id.0.index());
            }
        }
        text + "}\n"
    }
}

impl<S: Stage> fmt::Display for Graph<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for id in self.topological() {
            let node = self.node(id);
            let operands: Vec<&str> = self.operands(id).iter().map(|&o| self.node(o).name.as_str()).collect();
            writeln!(f, "{}: {} = {}({})", node.name, node.value, node.op.kind(), operands.join(", "))?;
            let attributes = node.op.describe();
            if !attributes.is_empty() {
                writeln!(f, "    {attributes}")?;
            }
            if !node.origin.is_empty() {
                let names: Vec<String> = node.origin.iter().map(|o| format!("{}:{}", o.op_type, o.node)).collect();
                writeln!(f, "    from {}", names.join(" + "))?;
            }
        }
        let outputs: Vec<String> = self
            .outputs
            .iter()
            .map(|output| match self.node(output.node).name.as_str() {
                node if node == output.name => output.name.clone(),
                node => format!("{} = {node}", output.name),
            })
            .collect();
        writeln!(f, "return {}", outputs.join(", "))
    }
}
