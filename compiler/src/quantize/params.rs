//! Chooses scale and zero point of every tensor.

use std::collections::BTreeMap;

use super::{constant_warning, shares_params};
use crate::calibrate::Ranges;
use crate::diag::{Code, Diagnostic, Diagnostics};
use crate::ir::{Checked, Float, Graph, NodeId, Params, Range};
use crate::ops::unary::apply_chain;
use crate::ops::{FloatOp, ParamsRule};

/// What the integers of a tensor mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Assignment {
    /// Reals with this scale and zero point.
    Params(Params),
    /// Always 0.
    Zero,
    /// Positions.
    Index,
}

/// A range narrower than this holds nothing but rounding errors of zero.
const DEGENERATE: f32 = 1e-30;

/// Points at which a function is sampled to find its range.
const SAMPLES: u32 = 1024;

/// Parameters of every node.
pub fn assign(graph: &Checked<Graph<Float>>, ranges: &Ranges, problems: &mut Diagnostics) -> BTreeMap<NodeId, Assignment> {
    let order = graph.topological();
    let mut assigned = BTreeMap::new();
    for &id in &order {
        let assignment = match graph.node(id).op.params_rule() {
            ParamsRule::Fixed(params) => Assignment::Params(params),
            ParamsRule::Index => Assignment::Index,
            ParamsRule::SameAsOperand => assigned[&graph.operands(id)[0]],
            ParamsRule::Own => own(graph, ranges, id, problems),
        };
        assigned.insert(id, assignment);
    }
    // Backwards, so that nested joins take over the parameters of the outermost.
    for &id in order.iter().rev().filter(|&&id| shares_params(&graph.node(id).op)) {
        let wanted = assigned[&id];
        for operand in graph.operands(id) {
            impose(graph, operand, wanted, &mut assigned);
        }
    }
    assigned
}

fn own(graph: &Graph<Float>, ranges: &Ranges, id: NodeId, problems: &mut Diagnostics) -> Assignment {
    let node = graph.node(id);
    let Some(range) = range(graph, ranges, id) else {
        let tensor = node.observed.as_deref().unwrap_or(&node.name);
        problems.push(
            Diagnostic::error(Code::MissingRange, "the ranges file has no entry for this tensor")
                .tensor(tensor)
                .help("calibrate this very model again: ptqc calibrate MODEL --calib DATA"),
        );
        return Assignment::Zero;
    };
    if range.magnitude() < DEGENERATE {
        let constant = matches!(node.op, FloatOp::Constant(_));
        let input = matches!(node.op, FloatOp::Input(_));
        match (constant, input) {
            (true, _) => {}
            (_, true) => problems.push(
                Diagnostic::error(Code::ConstantTensor, "this input is 0 in every calibration sample")
                    .tensor(&node.name)
                    .help("calibrate with samples like those the model sees in use"),
            ),
            (false, false) => problems.push(constant_warning(node)),
        }
        return if constant { Assignment::Params(Params::zero()) } else { Assignment::Zero };
    }
    match Params::asymmetric_int8(range) {
        Some(params) => Assignment::Params(params),
        None => {
            problems.push(
                Diagnostic::error(Code::DegenerateRange, format!("no scale fits the range {:?}..{:?}", range.min(), range.max()))
                    .tensor(&node.name)
                    .help("calibrate again, or correct the entry in the ranges file"),
            );
            Assignment::Zero
        }
    }
}

/// The observed range; for a tensor that the ONNX model does not have, what follows from its neighbours.
fn range(graph: &Graph<Float>, ranges: &Ranges, id: NodeId) -> Option<Range> {
    let node = graph.node(id);
    if let FloatOp::Constant(constant) = &node.op {
        return data_range(&constant.tensor.data);
    }
    if let Some(entry) = node.observed.as_ref().and_then(|name| ranges.get(name)) {
        let fallback = if let FloatOp::Pad(pad) = &node.op { pad.fill() } else { 0.0 };
        return Range::new(entry.min().min(fallback), entry.max().max(fallback));
    }
    if node.observed.is_some() {
        return None;
    }
    derived_forwards(graph, ranges, id).or_else(|| derived_backwards(graph, ranges, id))
}

fn data_range(data: &[f32]) -> Option<Range> {
    let min = data.iter().copied().fold(f32::INFINITY, f32::min);
    let max = data.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    Range::new(min, max)
}

/// The image of the operand's range under a function.
fn derived_forwards(graph: &Graph<Float>, ranges: &Ranges, id: NodeId) -> Option<Range> {
    let FloatOp::Unary(unary) = &graph.node(id).op else { return None };
    let operand = range(graph, ranges, *graph.operands(id).first()?)?;
    let (min, max) = (f64::from(operand.min()), f64::from(operand.max()));
    let at = |i: u32| min + (max - min) * f64::from(i) / f64::from(SAMPLES);
    data_range(&(0..=SAMPLES).map(|i| apply_chain(&unary.chain, at(i)) as f32).collect::<Vec<_>>())
}

/// A tensor to which a constant is added: the sum's range less the constant's.
fn derived_backwards(graph: &Graph<Float>, ranges: &Ranges, id: NodeId) -> Option<Range> {
    let consumer = graph.sole_consumer(id)?;
    let FloatOp::Add(_) = graph.node(consumer).op else { return None };
    let other = graph.operands(consumer).into_iter().find(|&operand| operand != id)?;
    let FloatOp::Constant(constant) = &graph.node(other).op else { return None };
    let (sum, addend) = (range(graph, ranges, consumer)?, data_range(&constant.tensor.data)?);
    Range::new(sum.min() - addend.max(), sum.max() - addend.min())
}

/// Gives `id` the parameters `wanted` if nothing else depends on the ones it has.
fn impose(graph: &Graph<Float>, id: NodeId, wanted: Assignment, assigned: &mut BTreeMap<NodeId, Assignment>) -> bool {
    let free = graph.sole_consumer(id).is_some()
        && matches!(wanted, Assignment::Params(_))
        && matches!(assigned[&id], Assignment::Params(_));
    let imposed = free
        && match &graph.node(id).op {
            FloatOp::Input(_) | FloatOp::Softmax(_) | FloatOp::ArgMax(_) => false,
            FloatOp::MaxPool(_) | FloatOp::Slice(_) | FloatOp::Transpose(_) | FloatOp::Reshape(_) => {
                impose(graph, graph.operands(id)[0], wanted, assigned)
            }
            FloatOp::Constant(_)
            | FloatOp::Conv(_)
            | FloatOp::Linear(_)
            | FloatOp::Affine(_)
            | FloatOp::Unary(_)
            | FloatOp::Add(_)
            | FloatOp::Mul(_)
            | FloatOp::AveragePool(_)
            | FloatOp::Mean(_)
            | FloatOp::Concat(_)
            | FloatOp::Pad(_) => true,
        };
    if imposed {
        assigned.insert(id, wanted);
    }
    imposed
}
