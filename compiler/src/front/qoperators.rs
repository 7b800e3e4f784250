//! Operators that compute on quantized tensors (`QLinearConv`, `MatMulInteger`, ONNX Runtime's `QLinearAdd` and so on)
//! are written out as `DequantizeLinear`, the operator on reals and `QuantizeLinear`, which is what they mean. Inputs and
//! outputs of the model that are integers become reals with a quantization next to them. Import then knows one form.

use std::collections::{BTreeMap, BTreeSet};

use tract_onnx::pb;

use super::proto::node_name;
use super::reals;
use super::tensors::{Stored, floats, integer, integer_of, node, stored};
use crate::diag::{Code, Diagnostic, Diagnostics};
use crate::ops::import::Integers;
use crate::ops::requantize::Element;

/// Domain of ONNX Runtime's operators.
const MICROSOFT: &str = "com.microsoft";

/// An operator on quantized tensors.
#[derive(Clone, Copy)]
pub struct QuantizedOperator {
    /// Its domain; empty for ONNX itself.
    pub domain: &'static str,
    /// Its name.
    pub op_type: &'static str,
    /// What it is written out as, in a few words.
    pub summary: &'static str,
    write_out: fn(&mut Writer, &pb::NodeProto) -> Result<(), String>,
}

impl std::fmt::Debug for QuantizedOperator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.op_type, self.summary)
    }
}

/// All such operators. Each is one line here.
pub const QUANTIZED_OPERATORS: &[QuantizedOperator] = &[
    onnx("ConvInteger", "Conv on integers; a following scale folds into the weights", conv_integer),
    onnx("DynamicQuantizeLinear", "calibrated like a tensor of a float model", dynamic_quantize),
    onnx("MatMulInteger", "MatMul on integers; a following scale folds into the weights", matmul_integer),
    onnx("QLinearConv", "Conv with the scales and zero points it has", qlinear_conv),
    onnx("QLinearMatMul", "MatMul with the scales and zero points it has", qlinear_matmul),
    microsoft("DequantizeLinear", "as in the default domain", renamed),
    microsoft("DynamicQuantizeMatMul", "MatMul; its input is calibrated", dynamic_matmul),
    microsoft("MatMulIntegerToFloat", "MatMul with the scales and zero points it has", matmul_to_float),
    microsoft("QGemm", "Gemm with the scales and zero points it has", qgemm),
    microsoft("QLinearAdd", "Add with the scales and zero points it has", qlinear_add),
    microsoft("QLinearAveragePool", "AveragePool with the scales and zero points it has", qlinear_average_pool),
    microsoft("QLinearConcat", "Concat with the scales and zero points it has", qlinear_concat),
    microsoft("QLinearGlobalAveragePool", "GlobalAveragePool with the scales and zero points it has", qlinear_global),
    microsoft("QLinearLeakyRelu", "LeakyRelu with the scales and zero points it has", qlinear_leaky_relu),
    microsoft("QLinearMul", "Mul with the scales and zero points it has", qlinear_mul),
    microsoft("QLinearReduceMean", "ReduceMean with the scales and zero points it has", qlinear_reduce_mean),
    microsoft("QLinearSigmoid", "Sigmoid with the scales and zero points it has", qlinear_sigmoid),
    microsoft("QLinearSoftmax", "Softmax with the scales and zero points it has", qlinear_softmax),
    microsoft("QuantizeLinear", "as in the default domain", renamed),
];

const fn onnx(
    op_type: &'static str,
    summary: &'static str,
    write_out: fn(&mut Writer, &pb::NodeProto) -> Result<(), String>,
) -> QuantizedOperator {
    QuantizedOperator { domain: "", op_type, summary, write_out }
}

const fn microsoft(
    op_type: &'static str,
    summary: &'static str,
    write_out: fn(&mut Writer, &pb::NodeProto) -> Result<(), String>,
) -> QuantizedOperator {
    QuantizedOperator { domain: MICROSOFT, op_type, summary, write_out }
}

/// Writes out every operator on quantized tensors, and returns what is known of integers.
pub fn write_out(proto: &mut pb::ModelProto, problems: &mut Diagnostics) -> Integers {
    let default = proto.opset_import.iter().find(|import| import.domain.is_empty() || import.domain == "ai.onnx");
    let opset = default.map_or(0, |import| import.version);
    let Some(graph) = &mut proto.graph else { return Integers::default() };
    let stored = stored(graph);
    let element = |(name, tensor): (&String, &Stored)| Some((name.clone(), Element::from_onnx(tensor.element_type)?));
    let elements = stored.iter().filter_map(element).collect();
    let mut writer =
        Writer { opset, stored, uses: uses(graph), dynamic: BTreeSet::new(), nodes: vec![], initializers: vec![] };
    for node in std::mem::take(&mut graph.node) {
        writer.node(node, problems);
    }
    graph.node = writer.nodes;
    graph.initializer.extend(writer.initializers);
    let mut interface: BTreeMap<String, Element> = real_inputs(graph).into_iter().collect();
    interface.extend(real_outputs(graph));
    Integers { tensors: reals::integers(graph), elements, interface }
}

/// The operators that use each tensor.
fn uses(graph: &pb::GraphProto) -> BTreeMap<String, Vec<String>> {
    let mut uses: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for node in &graph.node {
        for input in &node.input {
            uses.entry(input.clone()).or_default().push(node.op_type.clone());
        }
    }
    for output in &graph.output {
        uses.entry(output.name.clone()).or_default().push("the application".to_owned());
    }
    uses
}

/// Inputs that are quantized tensors become reals, which are quantized at once as they are dequantized later.
fn real_inputs(graph: &mut pb::GraphProto) -> Vec<(String, Element)> {
    let mut found = vec![];
    for at in 0..graph.input.len() {
        let name = graph.input[at].name.clone();
        let element =
            element_type(&mut graph.input[at]).and_then(|number| Some((*number, Element::from_onnx(*number)?)));
        let stored = graph.initializer.iter().any(|tensor| tensor.name == name);
        let (Some((number, element)), Some([scale, zero]), false) = (element, dequantization(graph, &name), stored)
        else {
            continue;
        };
        let integers = format!("{name}#integers");
        rename_inputs(graph, &name, &integers);
        let inputs = [name.as_str(), &scale, &zero];
        let inputs = if zero.is_empty() { &inputs[..2] } else { &inputs[..] };
        let attributes = if zero.is_empty() { vec![integer("output_dtype", number.into())] } else { vec![] };
        graph.node.insert(0, node("QuantizeLinear", inputs, &integers, attributes));
        hoist_constants(graph, &[&scale, &zero]);
        element_type(&mut graph.input[at]).into_iter().for_each(|number| *number = 1);
        found.push((name, element));
    }
    found
}

/// `Constant` nodes of these names come first, so that the first node can use them.
fn hoist_constants(graph: &mut pb::GraphProto, names: &[&str]) {
    let is_wanted = |node: &pb::NodeProto| {
        matches!(node.op_type.as_str(), "Constant") && node.output.iter().any(|output| names.contains(&output.as_str()))
    };
    graph.node.sort_by_key(|node| !is_wanted(node));
}

/// Outputs that are quantized tensors become reals.
fn real_outputs(graph: &mut pb::GraphProto) -> Vec<(String, Element)> {
    let integers = reals::integers(graph);
    let mut found = vec![];
    for at in 0..graph.output.len() {
        let name = graph.output[at].name.clone();
        if !integers.contains(&name) {
            continue;
        }
        let Some([scale, zero]) = quantization(graph, &name) else { continue };
        let quantized = format!("{name}#integers");
        rename_inputs(graph, &name, &quantized);
        for output in graph.node.iter_mut().flat_map(|node| &mut node.output).filter(|output| **output == name) {
            output.clone_from(&quantized);
        }
        let inputs = [quantized.as_str(), &scale, &zero];
        let inputs = if zero.is_empty() { &inputs[..2] } else { &inputs[..] };
        graph.node.push(node("DequantizeLinear", inputs, &name, vec![]));
        if let Some(number) = element_type(&mut graph.output[at]) {
            found.extend(Element::from_onnx(*number).map(|element| (name, element)));
            *number = 1;
        }
    }
    found
}

fn rename_inputs(graph: &mut pb::GraphProto, from: &str, to: &str) {
    for input in graph.node.iter_mut().flat_map(|node| &mut node.input).filter(|input| *input == from) {
        to.clone_into(input);
    }
}

fn element_type(info: &mut pb::ValueInfoProto) -> Option<&mut i32> {
    let pb::type_proto::Value::TensorType(tensor) = info.r#type.as_mut()?.value.as_mut()?;
    Some(&mut tensor.elem_type)
}

/// Scale and zero point of the first `DequantizeLinear` of a tensor, which may be moved before.
fn dequantization(graph: &pb::GraphProto, tensor: &str) -> Option<[String; 2]> {
    let mut same = BTreeSet::from([tensor]);
    for node in &graph.node {
        if !node.input.first().is_some_and(|input| same.contains(input.as_str())) {
            continue;
        }
        match node.op_type.as_str() {
            "DequantizeLinear" => return scale_and_zero(node),
            op_type if reals::moves(op_type) => same.extend(node.output.iter().map(String::as_str)),
            _ => {}
        }
    }
    None
}

/// Scale and zero point of the `QuantizeLinear` that a tensor comes from.
fn quantization(graph: &pb::GraphProto, tensor: &str) -> Option<[String; 2]> {
    let mut tensor = tensor;
    for node in graph.node.iter().rev() {
        if !node.output.iter().any(|output| output == tensor) {
            continue;
        }
        match node.op_type.as_str() {
            "QuantizeLinear" => return scale_and_zero(node),
            _ => tensor = node.input.first()?,
        }
    }
    None
}

fn scale_and_zero(node: &pb::NodeProto) -> Option<[String; 2]> {
    Some([node.input.get(1)?.clone(), node.input.get(2).cloned().unwrap_or_default()])
}

fn find(node: &pb::NodeProto) -> Option<&'static QuantizedOperator> {
    let domain = if node.domain == "ai.onnx" { "" } else { node.domain.as_str() };
    QUANTIZED_OPERATORS.iter().find(|operator| operator.op_type == node.op_type && operator.domain == domain)
}

struct Writer {
    opset: i64,
    stored: BTreeMap<String, Stored>,
    /// The operators that use each tensor.
    uses: BTreeMap<String, Vec<String>>,
    /// Tensors quantized with a scale found at run time. They are reals here, in units of that scale, which is 1.
    dynamic: BTreeSet<String>,
    nodes: Vec<pb::NodeProto>,
    initializers: Vec<pb::TensorProto>,
}

impl Writer {
    fn node(&mut self, node: pb::NodeProto, problems: &mut Diagnostics) {
        let Some(operator) = find(&node) else {
            let moves = node.op_type != "DequantizeLinear" && self.is_dynamic(&node, 0);
            if moves {
                self.dynamic.extend(node.output.iter().cloned());
            }
            if node.op_type == "DequantizeLinear" && self.is_dynamic(&node, 0) {
                return self.push("Identity", &[&node.input[0]], &node.output[0], vec![]);
            }
            return self.nodes.push(node);
        };
        let before = self.nodes.len();
        if let Err(message) = (operator.write_out)(self, &node) {
            self.nodes.truncate(before);
            problems.push(
                Diagnostic::error(Code::UnsupportedAttribute, format!("`{}` {message}", node.op_type))
                    .node(node_name(&node))
                    .tensor(node.output.first().cloned().unwrap_or_default())
                    .help(
                        "quantize the model in QDQ form (QuantizeLinear and DequantizeLinear), or give the float model",
                    ),
            );
            // So that what follows is examined too.
            for output in node.output.iter().filter(|output| !output.is_empty()) {
                let input = node.input.first().cloned().unwrap_or_default();
                self.push("Identity", &[&input], output, vec![]);
            }
        }
        for written in &mut self.nodes[before..] {
            written.name = node_name(&node);
        }
    }

    fn is_dynamic(&self, node: &pb::NodeProto, port: usize) -> bool {
        node.input.get(port).is_some_and(|name| self.dynamic.contains(name))
    }

    fn push(&mut self, op_type: &str, inputs: &[&str], output: &str, attributes: Vec<pb::AttributeProto>) {
        self.nodes.push(node(op_type, inputs, output, attributes));
    }

    /// Reals of the quantized tensor whose name, scale and zero point are these inputs.
    fn real(&mut self, node: &pb::NodeProto, ports: [usize; 3], axis: Option<i64>) -> Result<String, String> {
        let [x, scale, zero] = ports.map(|port| node.input.get(port).cloned().unwrap_or_default());
        if x.is_empty() || scale.is_empty() {
            return Err(format!("has no input {}", if x.is_empty() { ports[0] } else { ports[1] }));
        }
        Ok(self.dequantized(node, ports[0], [&x, &scale, &zero], axis))
    }

    fn dequantized(&mut self, node: &pb::NodeProto, port: usize, names: [&str; 3], axis: Option<i64>) -> String {
        let real = format!("{}#real{port}", output(node));
        let inputs = if names[2].is_empty() { &names[..2] } else { &names[..] };
        self.push("DequantizeLinear", inputs, &real, axis.map(|axis| integer("axis", axis)).into_iter().collect());
        real
    }

    /// The operator on reals, and the quantization of its result with scale and zero point from these inputs.
    fn quantized(
        &mut self,
        node: &pb::NodeProto,
        op_type: &str,
        inputs: &[&str],
        ports: [usize; 2],
        attributes: Vec<pb::AttributeProto>,
    ) -> Result<(), String> {
        let [scale, zero] = ports.map(|port| node.input.get(port).cloned().unwrap_or_default());
        if scale.is_empty() {
            return Err(format!("has no input {}", ports[0]));
        }
        let real = format!("{}#real", output(node));
        self.push(op_type, inputs, &real, attributes);
        let names = [real.as_str(), &scale, &zero];
        self.push("QuantizeLinear", if zero.is_empty() { &names[..2] } else { &names[..] }, output(node), vec![]);
        Ok(())
    }

    /// A stored vector of numbers that an input names.
    fn numbers(&self, node: &pb::NodeProto, port: usize) -> Result<&Stored, String> {
        let stored = node.input.get(port).and_then(|name| self.stored.get(name));
        stored.ok_or_else(|| format!("has an input {port} that is computed at run time; scales have to be stored"))
    }

    /// Reals of a bias in units of the accumulator: its scale is the product of the operands' scales.
    fn bias(
        &mut self,
        node: &pb::NodeProto,
        port: usize,
        scales: [usize; 2],
        factor: f32,
    ) -> Result<Option<String>, String> {
        let Some(name) = node.input.get(port).filter(|name| !name.is_empty()).cloned() else { return Ok(None) };
        let input = self.numbers(node, scales[0])?.scalar().ok_or("has several scales for its input")? as f32;
        let weights = self.numbers(node, scales[1])?.data.iter().map(|&scale| factor * (input * scale as f32));
        let weights: Vec<f32> = weights.collect();
        let scale = format!("{}#bias", output(node));
        let dims = if weights.len() == 1 { vec![] } else { vec![weights.len()] };
        self.initializers.push(floats(&scale, &dims, weights));
        Ok(Some(self.dequantized(node, port, [&name, &scale, ""], Some(-1))))
    }

    /// Reals of an operand of `ConvInteger` or `MatMulInteger`: the integers less the zero point.
    fn integers(&mut self, node: &pb::NodeProto, [x, zero]: [usize; 2], axis: i64) -> Result<String, String> {
        let name = node.input.get(x).cloned().unwrap_or_default();
        if self.dynamic.contains(&name) {
            return Ok(name);
        }
        let zero_name = node.input.get(zero).cloned().unwrap_or_default();
        let count = if zero_name.is_empty() { 1 } else { self.numbers(node, zero)?.data.len() };
        let scale = format!("{}#one{x}", output(node));
        let dims = if count == 1 { vec![] } else { vec![count] };
        self.initializers.push(floats(&scale, &dims, vec![1.0; count]));
        Ok(self.dequantized(node, x, [&name, &scale, &zero_name], Some(axis)))
    }
}

/// The first output.
fn output(node: &pb::NodeProto) -> &str {
    node.output.first().map_or("", String::as_str)
}

/// The attributes, without those that only the quantized operator has.
fn attributes(node: &pb::NodeProto) -> Result<Vec<pb::AttributeProto>, String> {
    if integer_of(node, "channels_last").unwrap_or(0) != 0 {
        return Err("has its channels on the last axis (channels_last)".to_owned());
    }
    let own = |attribute: &&pb::AttributeProto| !["channels_last", "opset"].contains(&attribute.name.as_str());
    Ok(node.attribute.iter().filter(own).cloned().collect())
}

fn renamed(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    let dynamic = w.is_dynamic(node, 0);
    match dynamic {
        true => w.push("Identity", &[&node.input[0]], output(node), vec![]),
        false => w.nodes.push(pb::NodeProto { domain: String::new(), ..node.clone() }),
    }
    Ok(())
}

fn qlinear_conv(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    let x = w.real(node, [0, 1, 2], None)?;
    let weights = w.real(node, [3, 4, 5], Some(0))?;
    let bias = w.bias(node, 8, [1, 4], 1.0)?;
    let inputs: Vec<&str> = [&x, &weights].into_iter().chain(&bias).map(String::as_str).collect();
    w.quantized(node, "Conv", &inputs, [6, 7], attributes(node)?)
}

fn qlinear_matmul(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    let a = w.real(node, [0, 1, 2], Some(-2))?;
    let b = w.real(node, [3, 4, 5], Some(-1))?;
    w.quantized(node, "MatMul", &[&a, &b], [6, 7], vec![])
}

fn qgemm(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    let transposed = integer_of(node, "transB").unwrap_or(0) != 0;
    let alpha = node.attribute.iter().find(|attribute| attribute.name == "alpha").map_or(1.0, |attribute| attribute.f);
    let a = w.real(node, [0, 1, 2], None)?;
    let b = w.real(node, [3, 4, 5], Some(if transposed { 0 } else { 1 }))?;
    let c = w.bias(node, 6, [1, 4], alpha)?;
    let inputs: Vec<&str> = [&a, &b].into_iter().chain(&c).map(String::as_str).collect();
    match node.input.get(7).is_some_and(|name| !name.is_empty()) {
        true => w.quantized(node, "Gemm", &inputs, [7, 8], attributes(node)?),
        false => {
            w.push("Gemm", &inputs, output(node), attributes(node)?);
            Ok(())
        }
    }
}

fn conv_integer(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    let (x, weights) = (w.integers(node, [0, 2], 1)?, w.integers(node, [1, 3], 0)?);
    w.push("Conv", &[&x, &weights], output(node), attributes(node)?);
    Ok(())
}

fn matmul_integer(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    let (a, b) = (w.integers(node, [0, 2], -2)?, w.integers(node, [1, 3], -1)?);
    w.push("MatMul", &[&a, &b], output(node), vec![]);
    Ok(())
}

/// With a scale of 1, the integers are the reals: whatever is computed from them and multiplied by the scale in the end
/// is the same as with any other.
fn dynamic_quantize(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    let ([x], [y, scale, zero]) = (&node.input[..], &node.output[..]) else {
        return Err("does not have one input and three outputs".to_owned());
    };
    let other = |tensor: &String, fine: &[&str]| {
        w.uses.get(tensor).into_iter().flatten().find(|user| !fine.contains(&user.as_str()))
    };
    let products = ["ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DequantizeLinear"];
    let scales = ["Mul", "MatMulIntegerToFloat", "DequantizeLinear"];
    if let Some(user) = other(y, &products).or_else(|| other(scale, &scales)).or_else(|| other(zero, &products)) {
        return Err(format!("has a result that {user} uses; only products of integers and their scales can"));
    }
    w.push("Identity", &[x], y, vec![]);
    w.initializers.push(floats(scale, &[], [1.0]));
    let zero = pb::TensorProto { name: zero.clone(), data_type: 2, raw_data: vec![0], ..Default::default() };
    w.initializers.push(zero);
    w.dynamic.insert(y.clone());
    Ok(())
}

fn dynamic_matmul(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    let b = w.real(node, [1, 2, 3], Some(-1))?;
    let a = node.input[0].clone();
    product_and_bias(w, node, [&a, &b], 4)
}

fn matmul_to_float(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    let a = match w.is_dynamic(node, 0) {
        true => node.input[0].clone(),
        false => w.real(node, [0, 2, 4], Some(-2))?,
    };
    let b = w.real(node, [1, 3, 5], Some(-1))?;
    product_and_bias(w, node, [&a, &b], 6)
}

fn product_and_bias(w: &mut Writer, node: &pb::NodeProto, factors: [&str; 2], bias: usize) -> Result<(), String> {
    match node.input.get(bias).filter(|name| !name.is_empty()) {
        None => w.push("MatMul", &factors, output(node), vec![]),
        Some(bias) => {
            let product = format!("{}#product", output(node));
            w.push("MatMul", &factors, &product, vec![]);
            w.push("Add", &[&product, bias], output(node), vec![]);
        }
    }
    Ok(())
}

fn two_operands(w: &mut Writer, node: &pb::NodeProto, op_type: &str) -> Result<(), String> {
    let (a, b) = (w.real(node, [0, 1, 2], None)?, w.real(node, [3, 4, 5], None)?);
    w.quantized(node, op_type, &[&a, &b], [6, 7], vec![])
}

fn qlinear_add(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    two_operands(w, node, "Add")
}

fn qlinear_mul(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    two_operands(w, node, "Mul")
}

fn one_operand(w: &mut Writer, node: &pb::NodeProto, op_type: &str) -> Result<(), String> {
    let x = w.real(node, [0, 1, 2], None)?;
    w.quantized(node, op_type, &[&x], [3, 4], attributes(node)?)
}

fn qlinear_average_pool(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    one_operand(w, node, "AveragePool")
}

fn qlinear_global(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    one_operand(w, node, "GlobalAveragePool")
}

fn qlinear_leaky_relu(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    one_operand(w, node, "LeakyRelu")
}

fn qlinear_reduce_mean(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    if w.opset >= 18 {
        return Err("has its axes in an attribute, which ReduceMean has not since operator set 18".to_owned());
    }
    one_operand(w, node, "ReduceMean")
}

fn qlinear_sigmoid(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    one_operand(w, node, "Sigmoid")
}

/// Before operator set 13 Softmax runs over all axes from `axis` on.
fn qlinear_softmax(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    let opset = integer_of(node, "opset").unwrap_or(w.opset);
    let last = integer_of(node, "axis") == Some(-1);
    match (opset < 13) == (w.opset < 13) || last {
        true => one_operand(w, node, "Softmax"),
        false => Err(format!("follows operator set {opset} in a model of operator set {}", w.opset)),
    }
}

fn qlinear_concat(w: &mut Writer, node: &pb::NodeProto) -> Result<(), String> {
    let operands = (2..node.input.len()).step_by(3).map(|port| w.real(node, [port, port + 1, port + 2], None));
    let operands = operands.collect::<Result<Vec<_>, _>>()?;
    let names: Vec<&str> = operands.iter().map(String::as_str).collect();
    w.quantized(node, "Concat", &names, [0, 1], attributes(node)?)
}
