//! A quantized graph as an ONNX model in QDQ form, which other runtimes can check or run.
//!
//! Every tensor is quantized and dequantized with the parameters it has; between that every operator is the one of the
//! float graph. Inputs and outputs are reals. Activations are uint8, weights symmetric int8 with a scale for each channel,
//! biases int32 with the product of both scales: the form that ONNX Runtime computes in integers throughout. Tensors of
//! 16 bits are int16, those of more stay real.

use std::collections::BTreeMap;

use crate::diag::{self, Diagnostics};
use crate::evaluate::dequantize;
use crate::front;
use crate::ir::{Checked, DType, Float, Graph, NodeId, Quant, RealClamp};
use crate::ops::export::{Export, OPSET, OnnxGraph, WIDE_OPSET};
use crate::ops::{FloatOp, Problem, QuantOp};

/// The bytes of an ONNX file. `fused` is the graph that `graph` was made from.
///
/// Errors: operators that ONNX has no form for.
pub fn to_onnx(fused: &Checked<Graph<Float>>, graph: &Checked<Graph<Quant>>) -> diag::Result<Vec<u8>> {
    Ok(front::encode(&qdq(fused, graph)?))
}

/// The graph in QDQ form.
fn qdq(fused: &Checked<Graph<Float>>, graph: &Checked<Graph<Quant>>) -> diag::Result<OnnxGraph> {
    let reals: BTreeMap<&str, &FloatOp> =
        fused.topological().into_iter().map(|id| (fused.node(id).name.as_str(), &fused.node(id).op)).collect();
    let is_wide = |id: NodeId| {
        let value = &graph.node(id).value;
        value.params().is_some() && value.dtype == DType::I16
    };
    let mut writer = Writer { graph, export: Export::default(), names: BTreeMap::new() };
    let mut problems = dynamic_layers(graph);
    if problems.has_errors() {
        return Err(problems);
    }
    writer.export.wide = graph.topological().into_iter().any(is_wide);
    for id in graph.topological() {
        let node = graph.node(id);
        if let Err(problem) = writer.node(id, reals.get(node.name.as_str()).copied()) {
            let origin = node.origin.last().map_or(node.name.as_str(), |origin| origin.node.as_str());
            problems.push(problem.at(origin, &node.name));
            writer.names.insert(id, node.name.clone());
        }
    }
    let graph = writer.finish();
    problems.into_result(graph)
}

/// An error for every layer that scales its input in every inference: QDQ form has fixed scales.
fn dynamic_layers(graph: &Graph<Quant>) -> Diagnostics {
    let mut problems = Diagnostics::default();
    for node in graph.topological().into_iter().map(|id| graph.node(id)) {
        if let (QuantOp::DynamicDequantize(_), Some(origin)) = (&node.op, node.origin.first()) {
            let problem = Problem::unsupported("QDQ form has no layers whose input is scaled in every inference");
            problems.push(problem.help("leave `dynamic` out of the recipe").at(&origin.node, &node.name));
        }
    }
    problems
}

struct Writer<'a> {
    graph: &'a Checked<Graph<Quant>>,
    export: Export,
    /// The dequantized tensor of each node.
    names: BTreeMap<NodeId, String>,
}

impl Writer<'_> {
    fn node(&mut self, id: NodeId, real: Option<&FloatOp>) -> Result<(), Problem> {
        let node = self.graph.node(id);
        self.export.tensor.clone_from(&node.name);
        let operands: Vec<String> = self.graph.operands(id).iter().map(|operand| self.names[operand].clone()).collect();
        let y = match (&node.op, real) {
            (QuantOp::Input(_), _) => node.name.clone(),
            (QuantOp::Constant(constant), _) if self.stays_real(id) => {
                let data = dequantize(self.graph, id, &constant.data);
                self.export.floats(constant.shape.dims(), data)
            }
            (QuantOp::Constant(constant), _) => {
                let data = self.export.activation(constant.shape.dims(), node.value.dtype, &constant.data);
                return self.dequantize(id, &data);
            }
            (op, Some(real)) => {
                let types =
                    self.graph.operands(id).into_iter().map(|operand| &self.graph.node(operand).value).collect();
                let y = real.export(
                    &mut self.export,
                    &crate::ops::ExportSite { op, operands: &operands, types, result: &node.value },
                )?;
                self.clamped(y, id, real)
            }
            // A requantization that the model does not have.
            (QuantOp::Table(_), None) => operands[0].clone(),
            (op, None) => return Err(Problem::unsupported(format!("`{}` has no form on reals", op.kind()))),
        };
        let Some(params) = node.value.params().filter(|_| !self.stays_real(id)) else {
            self.names.insert(id, y);
            return Ok(());
        };
        let [scale, zero] = self.export.params(params, node.value.dtype);
        let quantized = self.export.node("QuantizeLinear", &[&y, &scale, &zero], &[]);
        self.dequantize_with(id, [&quantized, &scale, &zero]);
        Ok(())
    }

    /// Whether a tensor has more bits than `QuantizeLinear` can give in this operator set. It is written as it is on reals,
    /// which are as fine.
    fn stays_real(&self, id: NodeId) -> bool {
        let value = &self.graph.node(id).value;
        value.params().is_some() && value.dtype.bits() > 16
    }

    /// The fused activation, where it does more than the bounds of the integers do.
    fn clamped(&mut self, y: String, id: NodeId, real: &FloatOp) -> String {
        let value = &self.graph.node(id).value;
        let clamp = real.clone().clamp_mut().map_or(RealClamp::NONE, |clamp| *clamp);
        let Some(params) = value.params() else { return y };
        let bounds = clamp.quantize(params, value.dtype);
        let [lo, hi] = [bounds.lo, bounds.hi].map(|q| params.dequantize(q) as f32);
        match (bounds.lo > value.dtype.min(), bounds.hi < value.dtype.max()) {
            (false, false) => y,
            (true, false) if bounds.lo == params.zero_point => self.export.node("Relu", &[&y], &[]),
            _ => {
                let [lo, hi] = [lo, hi].map(|bound| self.export.floats(&[], vec![bound]));
                self.export.node("Clip", &[&y, &lo, &hi], &[])
            }
        }
    }

    fn dequantize(&mut self, id: NodeId, data: &str) -> Result<(), Problem> {
        let value = &self.graph.node(id).value;
        let params = value.params().ok_or_else(|| Problem::unsupported("a constant holds positions"))?;
        let [scale, zero] = self.export.params(params, value.dtype);
        self.dequantize_with(id, [data, &scale, &zero]);
        Ok(())
    }

    fn dequantize_with(&mut self, id: NodeId, inputs: [&str; 3]) {
        // The name of an input is taken.
        let name = &self.graph.node(id).name;
        let real = match self.graph.node(id).op {
            QuantOp::Input(_) => format!("{name}/real"),
            _ => name.clone(),
        };
        self.export.named_node("DequantizeLinear", &inputs, &real, &[]);
        self.names.insert(id, real);
    }

    fn finish(mut self) -> OnnxGraph {
        let mut outputs = vec![];
        for output in self.graph.outputs() {
            let node = self.graph.node(output.node);
            let value = &node.value;
            let real = self.names[&output.node].clone();
            // An input that is an output as well keeps its name.
            let is_input = self.graph.inputs().contains(&output.node) && node.name == output.name;
            if real != output.name && !is_input {
                self.export.named_node("Identity", &[&real], &output.name, &[]);
            }
            outputs.push((output.name.clone(), value.shape.dims().to_vec(), value.dtype == DType::I32));
        }
        let input = |&id: &NodeId| (self.graph.node(id).name.clone(), self.graph.node(id).value.shape.dims().to_vec());
        let inputs = self.graph.inputs().iter().map(input).collect();
        let opset = if self.export.wide { WIDE_OPSET } else { OPSET };
        OnnxGraph { opset, nodes: self.export.nodes, initializers: self.export.initializers, inputs, outputs }
    }
}
