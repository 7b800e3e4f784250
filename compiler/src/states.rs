//! Streaming: inputs of a model that take what one of its outputs was at the inference before. The emitted code keeps them
//! in a structure that the caller owns.

use crate::calibrate::{Entry, Ranges};
use crate::diag::{self, Code, Diagnostic, Diagnostics};
use crate::front::Model;
use crate::ir::{Checked, Graph, Node, Quant, Shape};
use crate::ops::unary;

/// An input and the output that it is at the next inference: positions among all inputs and outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The input.
    pub input: usize,
    /// The output.
    pub output: usize,
}

/// Finds the inputs and outputs that are named. Reports every name that does not fit.
pub fn resolve(model: &Model, names: &[(String, String)]) -> diag::Result<Vec<State>> {
    let mut problems = Diagnostics::default();
    let mut states: Vec<State> = vec![];
    for (input, output) in names {
        let known = |state: &State| {
            model.inputs[state.input].name == *input || model.graph.outputs()[state.output].name == *output
        };
        match find(model, input, output) {
            Ok(state) if states.iter().any(known) => {
                let problem = format!("`{input}={output}`: one of them is a state already");
                problems.push(misnamed(&problem).tensor(&model.inputs[state.input].name));
            }
            Ok(state) => states.push(state),
            Err(problem) => problems.push(misnamed(&problem)),
        }
    }
    problems.into_result(states)
}

fn find(model: &Model, input: &str, output: &str) -> Result<State, String> {
    let graph = &model.graph;
    let inputs: Vec<&str> = model.inputs.iter().map(|input| input.name.as_str()).collect();
    let outputs: Vec<&str> = graph.outputs().iter().map(|output| output.name.as_str()).collect();
    let missing = |what: &str, name: &str, names: &[&str]| {
        format!("the model has no {what} `{name}`; its {what}s are {}", names.join(", "))
    };
    let input_index = inputs.iter().position(|name| *name == input).ok_or_else(|| missing("input", input, &inputs))?;
    let output_index =
        outputs.iter().position(|name| *name == output).ok_or_else(|| missing("output", output, &outputs))?;
    let shapes: [&Shape; 2] = [&model.inputs[input_index].shape, &graph.node(graph.outputs()[output_index].node).value];
    if shapes[0] != shapes[1] {
        return Err(format!("`{input}` has shape {} and `{output}` {}", shapes[0], shapes[1]));
    }
    Ok(State { input: input_index, output: output_index })
}

fn misnamed(problem: &str) -> Diagnostic {
    Diagnostic::error(Code::InvalidGraph, format!("a state cannot be kept: {problem}"))
        .help("name an input and the output that it is at the next inference: --state h_in=h_out")
}

/// The ranges with one range for both sides of every state: what one inference writes, the next one reads.
pub fn shared_ranges(ranges: &Ranges, names: &[(String, String)]) -> Ranges {
    let mut shared = ranges.clone();
    for (input, output) in names {
        let known = [input, output].into_iter().filter_map(|name| ranges.get(name));
        let Some(range) = known.reduce(|a, b| a.union(b)) else { continue };
        for name in [input, output] {
            let observed = ranges.entry(name).and_then(|entry| entry.observed);
            shared.insert(name.as_str(), Entry { range, observed });
        }
    }
    shared
}

/// The graph with outputs that have the scale and zero point of their states' inputs: behind a conversion, if they
/// have others.
pub fn tied(graph: Checked<Graph<Quant>>, states: &[State]) -> diag::Result<Checked<Graph<Quant>>> {
    let mut graph = graph.into_inner();
    for state in states {
        let (input, output) = (graph.inputs()[state.input], graph.outputs()[state.output].clone());
        let (wanted, node) = (graph.node(input).value.clone(), graph.node(output.node).clone());
        if wanted == node.value && output.node != input {
            continue;
        }
        let converted = unary::convert(&node.value, &wanted);
        let op = converted.map_err(|problem| problem.at(&graph.node(input).name, &output.name))?;
        let table = Node {
            name: format!("{}@{}", output.name, graph.node(input).name),
            observed: node.observed,
            origin: node.origin,
            op,
            value: wanted,
        };
        let table = graph.add(table, &[output.node]);
        graph.set_output(state.output, table);
    }
    graph.check().map_err(|error| Diagnostic::internal(error.0).into())
}
