//! Operators that are written out as others before anything else looks at the model: control flow that is known at compile
//! time (`If`, `Loop`, `Scan`), and operators that are a few of those in the registry.
//!
//! Some need sizes or constants that only shape inference knows. So the model is analysed with these operators hidden,
//! those that can be are written out, and again, until nothing changes.

mod attention;
mod control_flow;
mod pools;

use std::collections::{BTreeMap, BTreeSet};

use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;

use super::tensors::{Stored, floats, integer, integer_of, node, stored};
use super::tract::{self, Analysed};
use super::{preflight, proto};
use crate::diag::Diagnostics;
use crate::ir::Shape;
use crate::ops::import::ConstantData;

/// An operator that is written out.
#[derive(Clone, Copy)]
pub struct WrittenOut {
    /// Its name, in the default domain.
    pub op_type: &'static str,
    /// What it is written out as, in a few words.
    pub summary: &'static str,
    write_out: fn(&mut Writer, &pb::NodeProto) -> Result<(), Reason>,
}

impl std::fmt::Debug for WrittenOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.op_type, self.summary)
    }
}

/// All such operators, sorted by name. Each is one line here.
pub const WRITTEN_OUT: &[WrittenOut] = &[
    row("Attention", "products, a mask and Softmax; also with caches and grouped heads", attention::attention),
    row("GlobalLpPool", "ReduceL1 or ReduceL2", pools::global_lp_pool),
    row("Hardmax", "ArgMax and OneHot", hardmax),
    row("If", "the branch that a constant condition takes", control_flow::branch),
    row("Loop", "its body as often as a constant trip count says, up to 64 times", control_flow::repeat),
    row("LpNormalization", "the quotient of the operand and its ReduceL1 or ReduceL2", lp_normalization),
    row("LpPool", "shifted slices, and ReduceL1 or ReduceL2 over them; p is 1 or 2", pools::lp_pool),
    row("Scan", "its body for each element of its scanned inputs, up to 64 times", control_flow::scan),
    row("Upsample", "Resize", upsample),
];

const fn row(
    op_type: &'static str,
    summary: &'static str,
    write_out: fn(&mut Writer, &pb::NodeProto) -> Result<(), Reason>,
) -> WrittenOut {
    WrittenOut { op_type, summary, write_out }
}

/// Why a node is not written out.
enum Reason {
    /// Something is not known, and may be when other nodes have been written out.
    Unknown(String),
    /// It cannot be.
    Never(String),
}

type Outcome<T = ()> = Result<T, Reason>;

/// So many times at most is the model analysed: nested control flow is opened from outside inwards.
const MAX_ROUNDS: usize = 16;

/// Writes out every such operator that can be, and returns why the others cannot, by the name of their first output.
pub fn write_out(proto: &mut pb::ModelProto, pinned: &BTreeMap<String, usize>) -> BTreeMap<String, String> {
    let mut reasons = BTreeMap::new();
    for _ in 0..MAX_ROUNDS {
        let opset = proto.opset_import.iter().find(|import| import.domain.is_empty() || import.domain == "ai.onnx");
        let opset = opset.map_or(0, |import| import.version);
        let Some(graph) = &proto.graph else { return reasons };
        let wanted: BTreeSet<String> = graph
            .node
            .iter()
            .filter(|node| find(node).is_some())
            .flat_map(|node| node.output.iter().cloned())
            .collect();
        if wanted.is_empty() {
            return BTreeMap::new();
        }
        let inputs = preflight::pin_inputs(proto, pinned, &mut Diagnostics::default());
        let facts = tract::analyse(proto, &inputs, &wanted).ok();
        let Some(graph) = &mut proto.graph else { return reasons };
        let mut writer = Writer::new(graph, opset, facts.as_ref());
        reasons.clear();
        let mut progress = false;
        for node in std::mem::take(&mut graph.node) {
            match writer.node(node) {
                Ok(written) => progress |= written,
                Err((tensor, reason)) => drop(reasons.insert(tensor, reason)),
            }
        }
        graph.node = writer.nodes;
        graph.initializer.extend(writer.initializers);
        if !progress {
            break;
        }
    }
    reasons
}

/// Whether an operator of the default domain is one of these.
pub fn is_known(op_type: &str) -> bool {
    WRITTEN_OUT.iter().any(|operator| operator.op_type == op_type)
}

fn find(node: &pb::NodeProto) -> Option<&'static WrittenOut> {
    WRITTEN_OUT.iter().find(|operator| preflight::is_default(&node.domain) && operator.op_type == node.op_type)
}

/// What is written, and what is known.
struct Writer<'a> {
    opset: i64,
    facts: Option<&'a Analysed>,
    stored: BTreeMap<String, Stored>,
    /// Tensors that some node or output uses.
    used: BTreeSet<String>,
    nodes: Vec<pb::NodeProto>,
    initializers: Vec<pb::TensorProto>,
    /// Begins the names of new tensors.
    name: String,
    /// Name of the node that is being written out.
    node_name: String,
    fresh: usize,
}

impl Writer<'_> {
    fn new<'a>(graph: &pb::GraphProto, opset: i64, facts: Option<&'a Analysed>) -> Writer<'a> {
        let inputs = graph.node.iter().flat_map(|node| node.input.iter().cloned());
        let used = inputs.chain(graph.output.iter().map(|output| output.name.clone())).collect();
        let (nodes, initializers) = (vec![], vec![]);
        let (name, node_name) = (String::new(), String::new());
        Writer { opset, facts, stored: stored(graph), used, nodes, initializers, name, node_name, fresh: 0 }
    }

    /// Whether the node was written out. The error is the node's first output, and the reason; the node stays then.
    fn node(&mut self, node: pb::NodeProto) -> Result<bool, (String, String)> {
        let Some(operator) = find(&node) else {
            self.nodes.push(node);
            return Ok(false);
        };
        let before = (self.nodes.len(), self.initializers.len());
        (self.name, self.node_name) = (output(&node).to_owned(), proto::node_name(&node));
        self.fresh = 0;
        match (operator.write_out)(self, &node) {
            Ok(()) => Ok(true),
            Err(Reason::Unknown(reason) | Reason::Never(reason)) => {
                self.nodes.truncate(before.0);
                self.initializers.truncate(before.1);
                let name = output(&node).to_owned();
                self.nodes.push(node);
                Err((name, reason))
            }
        }
    }

    /// Shape of a tensor.
    fn shape(&self, tensor: &str) -> Outcome<Vec<usize>> {
        let inferred = self.facts.and_then(|facts| facts.shape(tensor)).map(|shape| shape.dims().to_vec());
        let stored = || self.stored.get(tensor).map(|stored| stored.dims.clone());
        inferred.or_else(stored).ok_or_else(|| Reason::Unknown(format!("the shape of `{tensor}` is not known")))
    }

    /// Elements of a tensor that is known at compile time.
    fn numbers(&self, tensor: &str) -> Outcome<Vec<f64>> {
        if let Some(stored) = self.stored.get(tensor) {
            return Ok(stored.data.clone());
        }
        let constant = self.facts.and_then(|facts| facts.constant(tensor));
        match constant.map(|constant| constant.data) {
            Some(ConstantData::Float(data)) => Ok(data.into_iter().map(f64::from).collect()),
            Some(ConstantData::Int(data)) => Ok(data.into_iter().map(|value| value as f64).collect()),
            None => Err(Reason::Unknown(format!("`{tensor}` is computed at run time"))),
        }
    }

    fn number(&self, tensor: &str) -> Outcome<f64> {
        match self.numbers(tensor)?[..] {
            [number] => Ok(number),
            ref numbers => Err(Reason::Never(format!("`{tensor}` has {} elements instead of one", numbers.len()))),
        }
    }

    /// Whether a tensor holds truth values rather than reals.
    fn is_truth(&self, tensor: &str) -> bool {
        match self.stored.get(tensor) {
            Some(stored) => stored.element_type == 9,
            None => self.facts.is_some_and(|facts| facts.is_integer(tensor)),
        }
    }

    fn push(&mut self, op_type: &str, inputs: &[&str], output: &str, attributes: Vec<pb::AttributeProto>) {
        let written = node(op_type, inputs, output, attributes);
        self.nodes.push(pb::NodeProto { name: self.node_name.clone(), ..written });
    }

    fn emit(&mut self, op_type: &str, inputs: &[&str], attributes: Vec<pb::AttributeProto>) -> String {
        let output = self.fresh_name();
        self.push(op_type, inputs, &output, attributes);
        output
    }

    fn real(&mut self, dims: &[usize], values: impl IntoIterator<Item = f32>) -> String {
        let name = self.fresh_name();
        self.initializers.push(floats(&name, dims, values));
        name
    }

    /// 64-bit integers; a scalar where `dims` is empty.
    fn integers(&mut self, dims: &[usize], values: &[i64]) -> String {
        let name = self.fresh_name();
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let dims = dims.iter().map(|&dim| dim as i64).collect();
        let tensor = pb::TensorProto { name: name.clone(), data_type: 7, dims, raw_data, ..Default::default() };
        self.initializers.push(tensor);
        name
    }

    fn truth(&mut self, value: bool) -> String {
        let name = self.fresh_name();
        let raw_data = vec![u8::from(value)];
        let tensor = pb::TensorProto { name: name.clone(), data_type: 9, raw_data, ..Default::default() };
        self.initializers.push(tensor);
        name
    }

    /// Truth values, all of them false.
    fn falsehoods(&mut self, dims: &[usize]) -> String {
        let name = self.fresh_name();
        let raw_data = vec![0; dims.iter().product()];
        let dims = dims.iter().map(|&dim| dim as i64).collect();
        let tensor = pb::TensorProto { name: name.clone(), data_type: 9, dims, raw_data, ..Default::default() };
        self.initializers.push(tensor);
        name
    }

    fn fresh_name(&mut self) -> String {
        self.fresh += 1;
        format!("{}#{}", self.name, self.fresh)
    }

    fn reshape(&mut self, x: &str, dims: &[usize]) -> String {
        let dims: Vec<i64> = dims.iter().map(|&dim| dim as i64).collect();
        let shape = self.integers(&[dims.len()], &dims);
        self.emit("Reshape", &[x, &shape], vec![])
    }

    fn transpose(&mut self, x: &str, order: &[i64]) -> String {
        self.emit("Transpose", &[x], vec![list("perm", order)])
    }

    /// A reduction; its axes are an attribute in old operator sets.
    fn reduce(&mut self, op_type: &str, x: &str, axes: &[i64], keep_dims: bool, output: &str) {
        let keep_dims = integer("keepdims", keep_dims.into());
        if self.opset < 18 {
            return self.push(op_type, &[x], output, vec![list("axes", axes), keep_dims]);
        }
        let axes = self.integers(&[axes.len()], axes);
        self.push(op_type, &[x, &axes], output, vec![keep_dims]);
    }

    /// Another axis of one element.
    fn unsqueeze(&mut self, x: &str, axis: i64) -> String {
        if self.opset < 13 {
            return self.emit("Unsqueeze", &[x], vec![list("axes", &[axis])]);
        }
        let axes = self.integers(&[1], &[axis]);
        self.emit("Unsqueeze", &[x, &axes], vec![])
    }

    /// From `start` on every `step`th of `count` elements along some axes.
    fn slice(&mut self, x: &str, axes: &[i64], bounds: &[(i64, i64, i64)]) -> String {
        let starts: Vec<i64> = bounds.iter().map(|&(start, _, _)| start).collect();
        let ends: Vec<i64> = bounds.iter().map(|&(start, count, step)| start + (count - 1) * step + 1).collect();
        let steps: Vec<i64> = bounds.iter().map(|&(_, _, step)| step).collect();
        let [starts, ends, axes, steps] = [&starts[..], &ends, axes, &steps].map(|v| self.integers(&[v.len()], v));
        self.emit("Slice", &[x, &starts, &ends, &axes, &steps], vec![])
    }
}

/// The first output.
fn output(node: &pb::NodeProto) -> &str {
    node.output.first().map_or("", String::as_str)
}

/// An input that must be there.
fn input(node: &pb::NodeProto, port: usize) -> Outcome<&str> {
    optional(node, port).ok_or_else(|| Reason::Never(format!("input {port} is missing")))
}

fn optional(node: &pb::NodeProto, port: usize) -> Option<&str> {
    node.input.get(port).map(String::as_str).filter(|name| !name.is_empty())
}

fn attribute<'a>(node: &'a pb::NodeProto, name: &str) -> Option<&'a pb::AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

fn list(name: &str, ints: &[i64]) -> pb::AttributeProto {
    let (name, ints) = (name.to_owned(), ints.to_vec());
    pb::AttributeProto { name, r#type: AttributeType::Ints as i32, ints, ..Default::default() }
}

/// Whether a constant of this shape can be written.
fn reasonable(dims: &[usize]) -> Outcome {
    match Shape::new(dims).is_reasonable() {
        true => Ok(()),
        false => Err(Reason::Never(format!("it needs a constant of shape {dims:?}"))),
    }
}

/// An axis counted from the start.
fn axis_of(axis: i64, rank: usize) -> Outcome<usize> {
    let from_start = if axis < 0 { axis + rank as i64 } else { axis };
    let axis = usize::try_from(from_start).ok().filter(|&axis| axis < rank);
    axis.ok_or_else(|| Reason::Never("its axis is not one of its operand's".to_owned()))
}

/// Before operator set 13 over all axes from `axis` on, of which one may have more than one element then.
fn hardmax(w: &mut Writer, node: &pb::NodeProto) -> Outcome {
    let x = input(node, 0)?;
    let shape = w.shape(x)?;
    let flattens = w.opset < 13;
    let axis = axis_of(integer_of(node, "axis").unwrap_or(if flattens { 1 } else { -1 }), shape.len())?;
    if flattens && shape[axis + 1..].iter().any(|&size| size != 1) {
        return Err(Reason::Never("it runs over several axes".to_owned()));
    }
    let at = integer("axis", axis as i64);
    let positions = w.emit("ArgMax", &[x], vec![at.clone(), integer("keepdims", 0)]);
    let depth = w.integers(&[], &[shape[axis] as i64]);
    let values = w.real(&[2], [0.0, 1.0]);
    w.push("OneHot", &[&positions, &depth, &values], output(node), vec![at]);
    Ok(())
}

/// Where all elements are 0, so is the result.
fn lp_normalization(w: &mut Writer, node: &pb::NodeProto) -> Outcome {
    let x = input(node, 0)?;
    let norm = w.fresh_name();
    w.reduce(pools::norm(node)?, x, &[integer_of(node, "axis").unwrap_or(-1)], true, &norm);
    let least = w.real(&[], [f32::MIN_POSITIVE]);
    let norm = w.emit("Max", &[&norm, &least], vec![]);
    w.push("Div", &[x, &norm], output(node), vec![]);
    Ok(())
}

fn upsample(w: &mut Writer, node: &pb::NodeProto) -> Outcome {
    let x = input(node, 0)?;
    let scales = match (optional(node, 1), attribute(node, "scales")) {
        (Some(scales), _) => scales.to_owned(),
        (None, Some(scales)) => w.real(&[scales.floats.len()], scales.floats.iter().copied()),
        (None, None) => return Err(Reason::Never("it has no scales".to_owned())),
    };
    let mode = attribute(node, "mode").cloned().into_iter().collect();
    w.push("Resize", &[x, &scales], output(node), mode);
    Ok(())
}
