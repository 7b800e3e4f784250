//! Subgraphs that are known to run a certain number of times take their place in the graph around them.

use std::collections::BTreeMap;

use tract_onnx::pb;

use super::{Outcome, Reason, Writer, attribute, input, optional, output};
use crate::front::tensors::{integer, integer_of, stored};

/// A body is repeated at most so often.
const MAX_TRIPS: usize = 64;

/// And becomes at most so many nodes.
const MAX_NODES: usize = 1 << 14;

/// `If`.
pub fn branch(w: &mut Writer, node: &pb::NodeProto) -> Outcome {
    let condition = input(node, 0)?;
    let taken = w.number(condition).map_err(|reason| match reason {
        Reason::Unknown(_) => Reason::Unknown(format!("its condition `{condition}` is computed at run time")),
        never @ Reason::Never(_) => never,
    })?;
    let body = body(node, if taken != 0.0 { "then_branch" } else { "else_branch" })?;
    let results = inlined(w, node, body, "", vec![])?;
    define(w, node, results)
}

/// `Loop`: inputs are the trip count, a condition, and the first values of the variables; the body takes the number of the
/// trip, the condition and the variables, and returns condition, variables, and what is to be stacked.
pub fn repeat(w: &mut Writer, node: &pb::NodeProto) -> Outcome {
    let Some(count) = optional(node, 0) else {
        return Err(Reason::Never("it runs until a condition is false".to_owned()));
    };
    let count =
        w.number(count).map_err(|_| Reason::Unknown(format!("its trip count `{count}` is computed at run time")))?;
    if let Some(condition) = optional(node, 1)
        && w.number(condition)? == 0.0
    {
        return Err(Reason::Never("its condition is false from the start".to_owned()));
    }
    let body = body(node, "body")?;
    let mut variables: Vec<String> = node.input.iter().skip(2).cloned().collect();
    let trips = trips(count as usize, body)?;
    if !ends_true(body) {
        return Err(Reason::Never("its body computes a condition to end at".to_owned()));
    }
    let condition = w.truth(true);
    let mut stacked = vec![vec![]; body.output.len().saturating_sub(1 + variables.len())];
    for trip in 0..trips {
        let number = w.integers(&[], &[trip as i64]);
        let arguments = [vec![number, condition.clone()], variables.clone()].concat();
        let mut results = inlined(w, node, body, &format!("/{trip}"), arguments)?.into_iter().skip(1);
        for variable in &mut variables {
            *variable = results.next().unwrap_or_default();
        }
        stacked.iter_mut().zip(results).for_each(|(parts, part)| parts.push(part));
    }
    let mut results = variables;
    for parts in stacked {
        results.push(stack(w, &parts, 0)?);
    }
    define(w, node, results)
}

/// `Scan`: inputs are the first values of the variables and tensors of which the body gets one element after the other.
pub fn scan(w: &mut Writer, node: &pb::NodeProto) -> Outcome {
    if w.opset < 9 {
        return Err(Reason::Never("before operator set 9 it has a batch axis".to_owned()));
    }
    let body = body(node, "body")?;
    let scanned = integer_of(node, "num_scan_inputs").and_then(|count| usize::try_from(count).ok());
    let variables = scanned.and_then(|scanned| node.input.len().checked_sub(scanned));
    let Some(count) = variables.filter(|&count| count < node.input.len()) else {
        return Err(Reason::Never("it scans nothing".to_owned()));
    };
    let (mut variables, scanned) = (node.input[..count].to_vec(), &node.input[count..]);
    let ints = |name: &str, at: usize| attribute(node, name).and_then(|list| list.ints.get(at).copied()).unwrap_or(0);
    let shape = w.shape(&scanned[0])?;
    let axis = super::axis_of(ints("scan_input_axes", 0), shape.len())?;
    let trips = trips(shape[axis], body)?;
    let mut stacked = vec![vec![]; body.output.len().saturating_sub(count)];
    for trip in 0..trips {
        let mut arguments = variables.clone();
        for (at, x) in scanned.iter().enumerate() {
            let reverse = ints("scan_input_directions", at) != 0;
            let position = w.integers(&[], &[if reverse { trips - 1 - trip } else { trip } as i64]);
            arguments.push(w.emit("Gather", &[x, &position], vec![integer("axis", ints("scan_input_axes", at))]));
        }
        let mut results = inlined(w, node, body, &format!("/{trip}"), arguments)?.into_iter();
        for variable in &mut variables {
            *variable = results.next().unwrap_or_default();
        }
        stacked.iter_mut().zip(results).for_each(|(parts, part)| parts.push(part));
    }
    let mut results = variables;
    for (at, mut parts) in stacked.into_iter().enumerate() {
        if ints("scan_output_directions", at) != 0 {
            parts.reverse();
        }
        results.push(stack(w, &parts, ints("scan_output_axes", at))?);
    }
    define(w, node, results)
}

fn body<'a>(node: &'a pb::NodeProto, name: &str) -> Outcome<&'a pb::GraphProto> {
    let graph = attribute(node, name).and_then(|attribute| attribute.g.as_ref());
    graph.ok_or_else(|| Reason::Never(format!("its attribute {name} is missing")))
}

fn trips(count: usize, body: &pb::GraphProto) -> Outcome<usize> {
    match (1..=MAX_TRIPS).contains(&count) && count * body.node.len() <= MAX_NODES {
        true => Ok(count),
        false => Err(Reason::Never(format!("it runs {count} times; 1 to {MAX_TRIPS} times are unrolled"))),
    }
}

/// Whether the body of a loop always returns true, or the condition that it gets.
fn ends_true(body: &pb::GraphProto) -> bool {
    let Some(mut name) = body.output.first().map(|output| output.name.as_str()) else { return false };
    for node in body.node.iter().rev() {
        if node.op_type == "Identity" && node.output.iter().any(|output| output == name) {
            name = node.input.first().map_or("", String::as_str);
        }
    }
    let is_argument = body.input.get(1).is_some_and(|input| input.name == name);
    is_argument || stored(body).get(name).and_then(|stored| stored.scalar()).is_some_and(|value| value != 0.0)
}

/// Parts next to each other along a new axis.
fn stack(w: &mut Writer, parts: &[String], axis: i64) -> Outcome<String> {
    let parts: Vec<String> = parts.iter().map(|part| w.unsqueeze(part, axis)).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    Ok(w.emit("Concat", &parts, vec![integer("axis", axis)]))
}

/// The node's outputs are these tensors.
fn define(w: &mut Writer, node: &pb::NodeProto, results: Vec<String>) -> Outcome {
    if results.len() < node.output.len() {
        return Err(Reason::Never(format!("its body has {} results for it", results.len())));
    }
    for (output, result) in node.output.iter().zip(&results).filter(|(output, _)| !output.is_empty()) {
        w.push("Identity", &[result], output, vec![]);
    }
    Ok(())
}

/// Puts the nodes of a body into the graph, with names of their own, and returns its results.
fn inlined(
    w: &mut Writer,
    node: &pb::NodeProto,
    body: &pb::GraphProto,
    suffix: &str,
    arguments: Vec<String>,
) -> Outcome<Vec<String>> {
    if arguments.len() < body.input.len() {
        return Err(Reason::Never(format!("its body takes {} inputs", body.input.len())));
    }
    let mut names: BTreeMap<String, String> =
        body.input.iter().zip(arguments).map(|(input, argument)| (input.name.clone(), argument)).collect();
    let own = |name: &String| format!("{}{suffix}/{name}", output(node));
    let defined = body.initializer.iter().map(|tensor| &tensor.name);
    let defined = defined.chain(body.node.iter().flat_map(|node| &node.output)).filter(|name| !name.is_empty());
    names.extend(defined.map(|name| (name.clone(), own(name))));
    for tensor in &body.initializer {
        let tensor = pb::TensorProto { name: renamed(&names, &tensor.name), ..tensor.clone() };
        w.initializers.push(tensor);
    }
    for inner in &body.node {
        let mut inner = inner.clone();
        inner.name = own(&crate::front::proto::node_name(&inner));
        rename(&mut inner, &names);
        w.nodes.push(inner);
    }
    Ok(body.output.iter().map(|output| renamed(&names, &output.name)).collect())
}

fn renamed(names: &BTreeMap<String, String>, name: &str) -> String {
    names.get(name).map_or(name, String::as_str).to_owned()
}

/// Renames what a node reads and writes; in its own subgraphs what they take from outside.
fn rename(node: &mut pb::NodeProto, names: &BTreeMap<String, String>) {
    for name in node.input.iter_mut().chain(&mut node.output) {
        *name = renamed(names, name);
    }
    for graph in node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut()) {
        let inside = graph.node.iter().flat_map(|node| &node.output);
        let inside = inside.chain(graph.initializer.iter().map(|tensor| &tensor.name));
        let inside: Vec<&String> = inside.chain(graph.input.iter().map(|input| &input.name)).collect();
        let mut outside = names.clone();
        outside.retain(|name, _| !inside.contains(&name));
        for inner in &mut graph.node {
            rename(inner, &outside);
        }
        for output in &mut graph.output {
            output.name = renamed(&outside, &output.name);
        }
    }
}
