//! From the float graph and observed ranges to the quantized graph.
//!
//! First every tensor gets scale and zero point (`params`), then every operator becomes its integer form.
//! A tensor whose range is too narrow for a scale becomes an exact constant.

mod dynamic;
mod params;
mod precision;
mod precision_recipe;
mod resolution;

use std::collections::BTreeMap;

use crate::calibrate::Ranges;
use crate::diag::{self, Code, Diagnostic, Diagnostics};
use crate::ir::{Checked, DType, Encoding, Float, Graph, Node, NodeId, Numerics, Params, Quant, QuantType};
use crate::ops::constant::QConstant;
use crate::ops::{FloatOp, Problem, QuantOp, Site, unary};
use params::{Assigned, Assignment};
use precision::Wanted;
pub use precision::{LayerPrecision, Precisions};
pub use precision_recipe::{PrecisionRecipe, weight_type};

/// How a graph is quantized, beside its ranges.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// Element types.
    pub precisions: Precisions,
}

/// Quantizes a graph; the second result holds warnings.
///
/// Errors: ranges that are missing or make no sense, accumulators that 32 bits do not hold, a precision for what the
/// model does not have.
pub fn quantize(
    graph: &Checked<Graph<Float>>,
    ranges: &Ranges,
    settings: &Settings,
    numerics: Numerics,
) -> diag::Result<(Checked<Graph<Quant>>, Diagnostics)> {
    let mut problems = Diagnostics::default();
    let wanted = precision::resolve(graph, &settings.precisions, &mut problems);
    let assigned = params::assign(graph, ranges, (&settings.precisions, &wanted), &mut problems);
    resolution::check(graph, ranges, &assigned.types, &mut problems);
    let mut quantizer = Quantizer {
        source: graph,
        ranges,
        wanted,
        assigned: &assigned,
        numerics,
        result: Graph::default(),
        ids: BTreeMap::new(),
    };
    if !problems.has_errors() {
        for id in graph.topological() {
            if let Err(found) = quantizer.add(id) {
                problems.extend(found);
                if !quantizer.ids.contains_key(&id) {
                    quantizer.stand_in(id);
                }
            }
        }
    }
    let warnings = problems.take_warnings();
    let mut result = problems.into_result(quantizer.result)?;
    for output in graph.outputs() {
        result.add_output(&output.name, quantizer.ids[&output.node]);
    }
    result.remove_unused();
    let result = result.check().map_err(|error| Diagnostic::internal(error.0))?;
    Ok((result, warnings))
}

struct Quantizer<'a> {
    source: &'a Checked<Graph<Float>>,
    ranges: &'a Ranges,
    wanted: Wanted,
    assigned: &'a Assigned,
    numerics: Numerics,
    result: Graph<Quant>,
    ids: BTreeMap<NodeId, NodeId>,
}

impl Quantizer<'_> {
    fn add(&mut self, id: NodeId) -> diag::Result<()> {
        let node = self.source.node(id);
        let value = self.value(id);
        let mut operands: Vec<NodeId> = self.source.operands(id).iter().map(|operand| self.ids[operand]).collect();
        for (_, operand) in operands.iter_mut().enumerate().filter(|(port, _)| node.op.shares_params(*port)) {
            *operand = self.requantized(*operand, &value, &node.name)?;
        }
        if !node.op.is_wide() {
            for (operand, source) in operands.iter_mut().zip(self.source.operands(id)) {
                *operand = self.narrowed(*operand, source, &node.name)?;
            }
        }
        let op = self.operator(id, &mut operands, &value)?;
        if self.is_already_quantized(id, operands.first().copied()) {
            self.ids.insert(id, operands[0]);
            return Ok(());
        }
        if matches!(op, QuantOp::Constant(_)) {
            operands.clear();
        }
        let is_input = matches!(op, QuantOp::Input(_));
        let node =
            Node { name: node.name.clone(), observed: node.observed.clone(), origin: node.origin.clone(), op, value };
        let quantized = if is_input { self.result.add_input(node) } else { self.result.add(node, &operands) };
        self.ids.insert(id, quantized);
        Ok(())
    }

    /// The operator on integers. What has to be computed before it is added to the graph, and becomes its operands.
    fn operator(&mut self, id: NodeId, operands: &mut Vec<NodeId>, value: &QuantType) -> diag::Result<QuantOp> {
        if self.assigned.types[&id] == Assignment::Zero {
            return Ok(zeros(value));
        }
        if self.wanted.dynamic.contains(&id) {
            let (op, parts) = self.dynamic(id, operands[0], value)?;
            *operands = parts;
            return Ok(op);
        }
        let types: Vec<&QuantType> = operands.iter().map(|&operand| &self.result.node(operand).value).collect();
        let site = Site {
            operands: types,
            result: value,
            weights: self.wanted.weights[&id],
            ranges: self.ranges,
            numerics: self.numerics,
        };
        let op = self.source.node(id).op.quantize(&site);
        Ok(op.map_err(|problem| self.diagnostic(problem, id))?)
    }

    /// Whether a quantization that the model prescribes finds its operand with these very parameters. An output that would
    /// be an input or another output keeps its node: somebody has to copy.
    fn is_already_quantized(&self, id: NodeId, operand: Option<NodeId>) -> bool {
        let (FloatOp::Requantize(requantize), Some(operand)) = (&self.source.node(id).op, operand) else {
            return false;
        };
        let node = self.result.node(operand);
        let mut outputs = self.source.outputs().iter().map(|output| self.ids.get(&output.node));
        let copied = self.source.is_output(id)
            && (matches!(node.op, QuantOp::Input(_)) || outputs.any(|output| output == Some(&operand)));
        requantize.is_full()
            && node.value.dtype == requantize.element.dtype()
            && node.value.params() == Some(requantize.params)
            && !copied
    }

    fn value(&self, id: NodeId) -> QuantType {
        let shape = self.source.node(id).value.clone();
        match self.assigned.types[&id] {
            Assignment::Params(dtype, params) => QuantType::real(shape, dtype, params),
            Assignment::Zero => QuantType::int8(shape, Params::zero()),
            Assignment::Index => QuantType { shape, dtype: DType::I32, encoding: Encoding::Index },
        }
    }

    /// `operand`, the result of `source`, with 8 bits.
    fn narrowed(&mut self, operand: NodeId, source: NodeId, consumer: &str) -> diag::Result<NodeId> {
        let ty = &self.result.node(operand).value;
        let params = self.assigned.bytes.get(&source).filter(|_| ty.dtype.bits() > 8 && ty.params().is_some());
        let Some(&params) = params else { return Ok(operand) };
        let wanted = QuantType::int8(ty.shape.clone(), params);
        self.requantized(operand, &wanted, consumer)
    }

    /// `operand` with the type and parameters of `wanted`: itself, or behind a conversion.
    fn requantized(&mut self, operand: NodeId, wanted: &QuantType, consumer: &str) -> diag::Result<NodeId> {
        let node = self.result.node(operand).clone();
        if (node.value.encoding, wanted.encoding) == (Encoding::Index, Encoding::Index) {
            return Ok(operand);
        }
        let (Some(from), Some(to)) = (node.value.params(), wanted.params()) else {
            let problem = Problem::unsupported("positions (from ArgMax) cannot be joined with real numbers");
            return Err(problem.at(consumer, &node.name).into());
        };
        let name = format!("{}@{consumer}", node.name);
        if (node.value.dtype, from) == (wanted.dtype, to) || node.name == name {
            return Ok(operand);
        }
        let known = self.result.consumers(operand).into_iter().find(|&id| self.result.node(id).name == name);
        if let Some(known) = known {
            return Ok(known);
        }
        let value = QuantType { shape: node.value.shape.clone(), ..wanted.clone() };
        let op = unary::convert(&node.value, &value).map_err(|problem| problem.at(consumer, &node.name))?;
        let conversion = Node { name, observed: node.observed, origin: node.origin, op, value };
        Ok(self.result.add(conversion, &[operand]))
    }

    /// After an error, so that the nodes behind it can be examined too.
    fn stand_in(&mut self, id: NodeId) {
        let node = self.source.node(id);
        let value = self.value(id);
        let op = zeros(&value);
        let stand_in = Node { name: node.name.clone(), observed: None, origin: vec![], op, value };
        let stand_in = self.result.add(stand_in, &[]);
        self.ids.insert(id, stand_in);
    }

    fn diagnostic(&self, problem: Problem, id: NodeId) -> Diagnostic {
        let node = self.source.node(id);
        let origin = node.origin.last().map_or(node.name.as_str(), |origin| origin.node.as_str());
        problem.at(origin, &node.name)
    }
}

fn zeros(value: &QuantType) -> QuantOp {
    let zero = value.params().map_or(0, |params| params.zero_point);
    QConstant { shape: value.shape.clone(), data: vec![zero; value.shape.len()] }.into()
}

/// What is said of a tensor without a usable range: it becomes the constant 0. A model with a constant input is of no
/// use, so there it is an error.
fn without_range(node: &Node<Float>, magnitude: f32) -> Diagnostic {
    let is_input = matches!(node.op, FloatOp::Input(_));
    let what = if is_input { "this input" } else { "this tensor" };
    let (code, fact) = match magnitude {
        0.0 => (Code::ConstantTensor, format!("{what} is 0 in every calibration sample")),
        _ => (
            Code::DegenerateRange,
            format!("{what} never exceeds {magnitude:e} in the calibration samples: no step divides that"),
        ),
    };
    let diagnostic = match is_input {
        true => Diagnostic::error(code, fact).help("calibrate with samples like those the model sees in use; or give the input a range in the ranges file"),
        false => Diagnostic::warning(code, format!("{fact}; it becomes the constant 0"))
            .help("check that the calibration samples are what the model sees in use; or give the tensor a range in the ranges file"),
    };
    match node.origin.last() {
        Some(origin) => diagnostic.node(&origin.node).tensor(&node.name),
        None => diagnostic.tensor(&node.name),
    }
}
