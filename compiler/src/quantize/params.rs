//! Chooses scale and zero point of every tensor.

use std::collections::BTreeMap;

use super::precision::{Precisions, Wanted};
use super::{resolution, without_range};
use crate::calibrate::Ranges;
use crate::diag::{Code, Diagnostic, Diagnostics, list_names};
use crate::ir::{Checked, DType, Float, FloatTensor, Graph, Node, NodeId, Params, Range, Scale, round_half_even};
use crate::ops::input::Element;
use crate::ops::recurrent::{Inside, Output};
use crate::ops::requantize::{Requantize, quantization_of};
use crate::ops::unary::{Unary, apply_chain};
use crate::ops::{FloatOp, ParamsRule, softmax};

/// What the integers of a tensor mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Assignment {
    /// Reals in this type, with this scale and zero point.
    Params(DType, Params),
    /// Always 0.
    Zero,
    /// Positions.
    Index,
}

/// A range narrower than this holds nothing but rounding errors of zero.
const DEGENERATE: f32 = 1e-30;

/// So many tensors are named in one message.
const NAMED_TENSORS: usize = 6;

/// Points at which a function is sampled to find its range.
const SAMPLES: u32 = 1024;

/// Parameters of every node; with 8 bits, too, where it has more.
#[derive(Debug, Default)]
pub struct Assigned {
    /// What is asked for.
    pub types: BTreeMap<NodeId, Assignment>,
    /// With 8 bits, for consumers that read no more.
    pub bytes: BTreeMap<NodeId, Params>,
}

/// Parameters of every node.
pub fn assign(
    graph: &Checked<Graph<Float>>,
    ranges: &Ranges,
    (precisions, wanted): (&Precisions, &Wanted),
    problems: &mut Diagnostics,
) -> Assigned {
    let order = graph.topological();
    let prescribed = prescribed(graph, &order);
    let (mut assigned, mut bytes, mut missing) = (BTreeMap::new(), BTreeMap::<NodeId, Params>::new(), vec![]);
    for &id in &order {
        let node = graph.node(id);
        let narrow = !node.op.is_wide();
        let dtype = if narrow { Some(DType::I8) } else { wanted.activations.get(&id).copied() };
        let own_bytes = match node.op.params_rule() {
            _ if prescribed.contains_key(&id) => in_bytes(prescribed[&id]),
            ParamsRule::Fixed(params) => Some(params),
            ParamsRule::SameAsOperand => bytes.get(&graph.operands(id)[0]).copied(),
            ParamsRule::Own => range(graph, ranges, id).and_then(Params::asymmetric_int8),
            ParamsRule::Index => None,
        };
        bytes.extend(own_bytes.map(|params| (id, params)));
        let assignment = match node.op.params_rule() {
            _ if prescribed.contains_key(&id) => {
                let (dtype, params) = prescribed[&id];
                Assignment::Params(dtype, params)
            }
            ParamsRule::Fixed(params) => {
                let dtype = dtype.unwrap_or(precisions.activations);
                Assignment::Params(dtype, params.for_type(dtype))
            }
            ParamsRule::Index => Assignment::Index,
            ParamsRule::Own if holds_positions(graph, id) => Assignment::Index,
            ParamsRule::SameAsOperand => match (assigned[&graph.operands(id)[0]], own_bytes) {
                (Assignment::Params(dtype, _), Some(params)) if narrow && dtype.bits() > 8 => {
                    Assignment::Params(DType::I8, params)
                }
                (same, _) => same,
            },
            ParamsRule::Own => match (positions(graph, id, &assigned), range(graph, ranges, id)) {
                (Some(assignment), _) => assignment,
                (None, Some(range)) => {
                    let default = || resolution::narrowest(graph, id, ranges, precisions.activations);
                    let asked = dtype.unwrap_or(precisions.activations);
                    let dtype = dtype.unwrap_or_else(default);
                    // Where 8 bits are too coarse for an input, 16 may be, too: then they are not for headroom.
                    let headroom = if dtype == asked { HEADROOM } else { 1.0 };
                    own(node, unclipped(range, node, ranges, dtype, headroom), dtype, problems)
                }
                (None, None) => {
                    missing.push(node.observed.as_deref().unwrap_or(&node.name));
                    Assignment::Zero
                }
            },
        };
        assigned.insert(id, assignment);
    }
    problems.extend(missing_ranges(&missing, ranges));
    // Backwards, so that nested joins take over the parameters of the outermost.
    for &id in order.iter().rev() {
        let (op, wanted) = (&graph.node(id).op, assigned[&id]);
        for (_, operand) in graph.operands(id).into_iter().enumerate().filter(|(port, _)| op.shares_params(*port)) {
            impose(graph, operand, wanted, &mut assigned);
        }
    }
    Assigned { types: assigned, bytes }
}

/// Whether an input is only ever used as positions: they stay the integers that they are, or that ONNX cuts reals off to.
fn holds_positions(graph: &Graph<Float>, id: NodeId) -> bool {
    let is_number = |element| matches!(element, Element::Integer | Element::Real);
    matches!(&graph.node(id).op, FloatOp::Input(input) if is_number(input.element)) && used_as_positions(graph, id)
}

fn used_as_positions(graph: &Graph<Float>, id: NodeId) -> bool {
    let consumers = graph.consumers(id);
    let is_position = |&consumer: &NodeId| {
        let op = &graph.node(consumer).op;
        let moved = op.params_rule() == ParamsRule::SameAsOperand && used_as_positions(graph, consumer);
        let ports = graph.operands(consumer).into_iter().enumerate().filter(|(_, operand)| *operand == id);
        ports.into_iter().all(|(port, _)| op.takes_positions(port) || moved && port == 0)
    };
    !consumers.is_empty() && !graph.is_output(id) && consumers.iter().all(is_position)
}

/// Parameters that the model itself gives to tensors: where it quantizes a tensor, the operator before computes with these
/// parameters at once. Where it quantizes a tensor in several ways, with those that reach furthest.
fn prescribed(graph: &Graph<Float>, order: &[NodeId]) -> BTreeMap<NodeId, (DType, Params)> {
    let mut prescribed = BTreeMap::new();
    for &id in order.iter().rev() {
        if let FloatOp::Requantize(requantize) = &graph.node(id).op {
            prescribe(graph, graph.operands(id)[0], requantize, &mut prescribed);
        }
    }
    let stored = order.iter().filter_map(|&id| {
        let given = of(quantization_of(graph, id)?);
        // What computes in 8 bits moves elements of more in 8 bits, too.
        let given = if graph.node(id).op.is_wide() { given } else { (DType::I8, in_bytes(given)?) };
        Some((id, given))
    });
    prescribed.extend(stored);
    for &id in order {
        if let FloatOp::Constant(constant) = &graph.node(id).op
            && let Some(params) = stored_params(&constant.tensor)
        {
            prescribed.entry(id).or_insert((DType::I8, params));
        }
    }
    prescribed
}

/// Type and parameters of a quantization; what has 4 bits stands in 8.
fn of(requantize: &Requantize) -> (DType, Params) {
    let dtype = requantize.element.dtype();
    (if dtype.bits() < 8 { DType::I8 } else { dtype }, requantize.params)
}

/// The same reach with 8 bits.
fn in_bytes((dtype, params): (DType, Params)) -> Option<Params> {
    if dtype.bits() <= 8 {
        return Some(params);
    }
    let [min, max] = [dtype.min(), dtype.max()].map(|end| params.dequantize(end) as f32);
    Range::new(min, max).and_then(Params::asymmetric_int8)
}

fn prescribe(
    graph: &Graph<Float>,
    id: NodeId,
    wanted: &Requantize,
    prescribed: &mut BTreeMap<NodeId, (DType, Params)>,
) {
    let op = &graph.node(id).op;
    let takes = match op.params_rule() {
        // A table can end in any parameters.
        _ if matches!(op, FloatOp::Unary(_)) => true,
        _ if matches!(op, FloatOp::Softmax(_)) => wanted.element.dtype().bits() <= 8 && softmax::accepts(wanted.params),
        ParamsRule::Own => true,
        ParamsRule::SameAsOperand if op.shares_params(0) => true,
        ParamsRule::SameAsOperand => return prescribe(graph, graph.operands(id)[0], wanted, prescribed),
        ParamsRule::Fixed(_) | ParamsRule::Index => false,
    };
    let (dtype, params) = of(wanted);
    let further = |(other, given): &(DType, Params)| match dtype.bits().cmp(&other.bits()) {
        std::cmp::Ordering::Equal => params.scale > given.scale,
        unequal => unequal.is_gt(),
    };
    if takes && (dtype.bits() <= 8 || op.is_wide()) && prescribed.get(&id).is_none_or(further) {
        prescribed.insert(id, (dtype, params));
    }
}

/// Parameters with which a constant that the model stores as integers becomes these integers again.
fn stored_params(tensor: &FloatTensor) -> Option<Params> {
    let [scale] = tensor.steps.as_ref()?.scales[..] else { return None };
    let scale = Scale::new(f64::from(scale))?;
    let multiples = || tensor.data.iter().map(|&value| round_half_even(f64::from(value) / scale.get()));
    let (lo, hi) = (multiples().min()?.min(0), multiples().max()?.max(0));
    let zero_point = if lo >= -128 && hi <= 127 { 0 } else { -128 - lo };
    (hi + zero_point <= 127).then_some(Params { scale, zero_point: i32::try_from(zero_point).ok()? })
}

/// Positions (from ArgMax) can be joined with each other. No other operator takes them, which its quantization
/// reports; until then the result is taken for a tensor of reals.
fn positions(graph: &Graph<Float>, id: NodeId, assigned: &BTreeMap<NodeId, Assignment>) -> Option<Assignment> {
    let operands = graph.operands(id);
    let op = &graph.node(id).op;
    let unexpected = operands
        .iter()
        .enumerate()
        .filter(|(port, operand)| assigned[operand] == Assignment::Index && !op.takes_positions(*port));
    let count = unexpected.count();
    match op {
        _ if count == 0 => None,
        FloatOp::Concat(_) if count == operands.len() => Some(Assignment::Index),
        _ => Some(Assignment::Params(DType::I8, Params::zero())),
    }
}

/// One error for all tensors without a range: most often the file belongs to another model.
fn missing_ranges(missing: &[&str], ranges: &Ranges) -> Option<Diagnostic> {
    let (first, more) = missing.split_first()?;
    let diagnostic = match ranges.is_empty() {
        false => Diagnostic::error(Code::MissingRange, "the ranges file has no entry for this tensor")
            .help("calibrate this very model again: ptqc calibrate MODEL --calib DATA"),
        true => Diagnostic::error(Code::MissingRange, "the model quantizes others of its tensors, but not this one")
            .help("give samples with --calib DATA: they are used for such tensors only"),
    };
    let diagnostic = diagnostic.tensor(*first);
    Some(if more.is_empty() {
        diagnostic
    } else {
        diagnostic.note(format!("nor for {}", list_names(more, NAMED_TENSORS)))
    })
}

/// From the tensor's own range.
fn own(node: &Node<Float>, range: Range, dtype: DType, problems: &mut Diagnostics) -> Assignment {
    match Params::covering(range, dtype).filter(|_| range.magnitude() >= DEGENERATE) {
        Some(params) => Assignment::Params(dtype, params),
        None if matches!(node.op, FloatOp::Constant(_)) => Assignment::Params(dtype, Params::zero()),
        None => {
            problems.push(without_range(node, range.magnitude()));
            Assignment::Zero
        }
    }
}

/// How much larger than in calibration a tensor of more than 8 bits may be before it saturates. Of 16 bits, 14 are left for
/// what calibration has seen: still 64 times finer than 8.
const HEADROOM: f32 = 4.0;

/// With more than 8 bits there is no need to clip what calibration has seen, nor what goes somewhat beyond.
fn unclipped(range: Range, node: &Node<Float>, ranges: &Ranges, dtype: DType, headroom: f32) -> Range {
    if dtype.bits() <= 8 || matches!(node.op, FloatOp::Constant(_)) {
        return range;
    }
    let entry = node.observed.as_ref().and_then(|name| ranges.entry(name));
    let seen = entry.and_then(|entry| entry.observed).and_then(|seen| Range::new(seen.min(), seen.max()));
    seen.map_or(range, |seen| range.union(seen)).scaled(headroom)
}

/// The observed range; for a tensor that the ONNX model does not have, what follows from its neighbours.
fn range(graph: &Graph<Float>, ranges: &Ranges, id: NodeId) -> Option<Range> {
    derived_forwards(graph, ranges, id)
        .or_else(|| derived_backwards(graph, ranges, id))
        .or_else(|| widest(graph, ranges, id))
        .or_else(|| representable(graph, id))
}

/// What a function of a tensor that the model itself quantizes can become: this needs no calibration.
fn representable(graph: &Graph<Float>, id: NodeId) -> Option<Range> {
    let operand = || representable(graph, *graph.operands(id).first()?);
    match &graph.node(id).op {
        FloatOp::Requantize(requantize) => {
            let (min, max) = requantize.reach();
            Range::new(min as f32, max as f32)
        }
        FloatOp::Unary(unary) => image(operand()?, unary),
        FloatOp::AveragePool(_) | FloatOp::Mean(_) => operand(),
        op if op.params_rule() == ParamsRule::SameAsOperand => operand(),
        _ => None,
    }
}

/// The values of a function over a range.
fn image(range: Range, unary: &Unary) -> Option<Range> {
    let (min, max) = (f64::from(range.min()), f64::from(range.max()));
    let at = |i: u32| min + (max - min) * f64::from(i) / f64::from(SAMPLES);
    data_range(&(0..=SAMPLES).map(|i| apply_chain(&unary.chain, at(i)) as f32).collect::<Vec<_>>())
}

/// What is known of a tensor by itself.
fn known(graph: &Graph<Float>, ranges: &Ranges, id: NodeId) -> Option<Range> {
    let node = graph.node(id);
    if let FloatOp::Constant(constant) = &node.op {
        return data_range(&constant.tensor.data);
    }
    if let FloatOp::OneHot(hot) = &node.op {
        return data_range(&[hot.off, hot.on]);
    }
    let entry = ranges.get(node.observed.as_ref()?)?;
    let fallback = if let FloatOp::Pad(pad) = &node.op { pad.fill() } else { 0.0 };
    Range::new(entry.min().min(fallback), entry.max().max(fallback))
}

fn data_range(data: &[f32]) -> Option<Range> {
    let min = data.iter().copied().fold(f32::INFINITY, f32::min);
    let max = data.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    Range::new(min, max)
}

/// The image of the operand's range under the operator.
fn derived_forwards(graph: &Graph<Float>, ranges: &Ranges, id: NodeId) -> Option<Range> {
    let node = graph.node(id);
    if let Some(range) = known(graph, ranges, id) {
        return Some(range);
    }
    if let FloatOp::Recurrent(recurrent) = &node.op {
        let inside = if recurrent.output == Output::Cell { Inside::Cell } else { Inside::Hidden };
        return ranges.get(&recurrent.inside(inside));
    }
    let operand = derived_forwards(graph, ranges, *graph.operands(id).first()?)?;
    match &node.op {
        FloatOp::Unary(unary) => image(operand, unary),
        op if op.params_rule() == ParamsRule::SameAsOperand => Some(operand),
        _ => None,
    }
}

/// The image of the operands' ranges under the operator, where nothing tells more: elements that can be together are taken
/// to be so.
fn widest(graph: &Graph<Float>, ranges: &Ranges, id: NodeId) -> Option<Range> {
    let node = graph.node(id);
    let operand = range(graph, ranges, *graph.operands(id).first()?).filter(|_| node.observed.is_none())?;
    match &node.op {
        FloatOp::Affine(affine) => {
            let ends = affine.scale.iter().zip(&affine.shift).flat_map(|(scale, shift)| {
                [operand.min(), operand.max()].map(|end| {
                    let value = f64::from(end) * f64::from(*scale) + f64::from(*shift);
                    (value as f32).clamp(affine.clamp.lo, affine.clamp.hi)
                })
            });
            data_range(&ends.collect::<Vec<_>>())
        }
        FloatOp::Add(sum) => {
            let other = range(graph, ranges, *graph.operands(id).get(1)?)?;
            let (lo, hi) = if sum.subtract { (-other.max(), -other.min()) } else { (other.min(), other.max()) };
            let (lo, hi) = (operand.min() + lo, operand.max() + hi);
            Range::new(lo.clamp(sum.clamp.lo, sum.clamp.hi), hi.clamp(sum.clamp.lo, sum.clamp.hi))
        }
        _ => None,
    }
}

/// The range that a tensor needs for its only consumer to reach all of its own.
fn derived_backwards(graph: &Graph<Float>, ranges: &Ranges, id: NodeId) -> Option<Range> {
    let consumer = graph.sole_consumer(id)?;
    let result = known(graph, ranges, consumer).or_else(|| derived_backwards(graph, ranges, consumer))?;
    match &graph.node(consumer).op {
        FloatOp::Add(_) => {
            let other = graph.operands(consumer).into_iter().find(|&operand| operand != id)?;
            let addend = derived_forwards(graph, ranges, other)?;
            Range::new(result.min() - addend.max(), result.max() - addend.min())
        }
        FloatOp::Affine(affine) => {
            let channels = affine.scale.iter().zip(&affine.shift).filter(|(scale, _)| **scale != 0.0);
            let ends =
                channels.flat_map(|(scale, shift)| [(result.min() - shift) / scale, (result.max() - shift) / scale]);
            data_range(&ends.collect::<Vec<_>>())
        }
        op if op.params_rule() == ParamsRule::SameAsOperand => Some(result),
        // The range of the join is imposed on what is joined anyway.
        op if graph
            .operands(consumer)
            .iter()
            .zip(0..)
            .any(|(&operand, port)| operand == id && op.shares_params(port)) =>
        {
            Some(result)
        }
        _ => None,
    }
}

/// Gives `id` the parameters `wanted` if nothing else depends on the ones it has. Its type stays.
fn impose(graph: &Graph<Float>, id: NodeId, wanted: Assignment, assigned: &mut BTreeMap<NodeId, Assignment>) -> bool {
    let free = graph.sole_consumer(id).is_some()
        && matches!((wanted, assigned[&id]), (Assignment::Params(a, _), Assignment::Params(b, _)) if a == b);
    let imposed = free
        && match &graph.node(id).op {
            FloatOp::Input(_) => false,
            // A table can end in any parameters.
            FloatOp::Unary(_) => true,
            op => match op.params_rule() {
                ParamsRule::Own => true,
                ParamsRule::SameAsOperand if op.shares_params(0) => true,
                ParamsRule::SameAsOperand => impose(graph, graph.operands(id)[0], wanted, assigned),
                ParamsRule::Fixed(_) | ParamsRule::Index => false,
            },
        };
    if imposed {
        assigned.insert(id, wanted);
    }
    imposed
}
