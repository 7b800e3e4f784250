//! Operators of which tract ignores an attribute, written out for tract only: `Celu` and `Swish` with their `alpha`,
//! `ConvTranspose` with an `output_shape`.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb;
use tract_onnx::tract_hir::internal::*;

use super::preflight::is_default;
use super::tensors::{floats, integer, node};

/// tract reads `Resize` from operator set 10 on; in older models it comes from `Upsample`, and means the same. Both take
/// the element before a place, which tract does not know.
pub fn register(onnx: &mut tract_onnx::Onnx) {
    if let Some(&resize) = onnx.op_register.0.get("Resize") {
        onnx.op_register.insert(RESIZE, resize);
        onnx.op_register.insert("Resize", resize_of_old);
    }
}

/// The name that tract's own reading of `Resize` gets.
const RESIZE: &str = "ptqc.resize";

fn resize_of_old(context: &ParsingContext, node: &pb::NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let resize = context.framework.op_register.0.get(RESIZE).context("Resize is not registered")?;
    if context.onnx_operator_set_version > 10 {
        return resize(context, node);
    }
    let mut node = node.clone();
    node.attribute.push(pb::AttributeProto {
        name: "nearest_mode".to_owned(),
        r#type: pb::attribute_proto::AttributeType::String as i32,
        s: b"floor".to_vec(),
        ..Default::default()
    });
    resize(&ParsingContext { onnx_operator_set_version: 10, ..context.clone() }, &node)
}

/// The model without such operators.
pub fn rewritten(mut proto: pb::ModelProto) -> pb::ModelProto {
    let default = proto.opset_import.iter().find(|import| is_default(&import.domain));
    let opset = default.map_or(0, |import| import.version);
    let Some(graph) = &mut proto.graph else { return proto };
    let mut rewriter = Rewriter { nodes: vec![], initializers: vec![], name: String::new() };
    for node in std::mem::take(&mut graph.node) {
        rewriter.name = node.output.first().cloned().unwrap_or_default();
        match node.op_type.as_str() {
            "Celu" => rewriter.celu(node),
            "Swish" => rewriter.swish(node),
            "ConvTranspose" if opset >= PAD_INPUTS => rewriter.conv_transpose(node),
            _ => rewriter.nodes.push(node),
        }
    }
    graph.node = rewriter.nodes;
    graph.initializer.extend(rewriter.initializers);
    proto
}

/// Since this operator set, `Pad` takes its amounts as inputs.
const PAD_INPUTS: i64 = 11;

struct Rewriter {
    nodes: Vec<pb::NodeProto>,
    initializers: Vec<pb::TensorProto>,
    /// The output of the node that is being rewritten.
    name: String,
}

impl Rewriter {
    /// `alpha * elu(x / alpha)`.
    fn celu(&mut self, celu: pb::NodeProto) {
        let Some((x, alpha)) = operand_and_alpha(&celu) else { return self.nodes.push(celu) };
        let alpha = self.number(alpha);
        let ratio = self.node("Div", &[x, &alpha], vec![]);
        let elu = self.node("Elu", &[&ratio], vec![]);
        self.last("Mul", &[&elu, &alpha], celu);
    }

    /// `x * sigmoid(alpha * x)`.
    fn swish(&mut self, swish: pb::NodeProto) {
        let Some((x, alpha)) = operand_and_alpha(&swish) else { return self.nodes.push(swish) };
        let alpha = self.number(alpha);
        let product = self.node("Mul", &[x, &alpha], vec![]);
        let gate = self.node("Sigmoid", &[&product], vec![]);
        let x = x.to_owned();
        self.last("Mul", &[&x, &gate], swish);
    }

    /// The result without padding, and the part of it that is wanted: `total` elements are cut off, the larger half in
    /// front unless `auto_pad` says `SAME_UPPER`. Elements that are missing come behind it. The bias follows.
    fn conv_transpose(&mut self, mut conv: pb::NodeProto) {
        let attribute = |name: &str| conv.attribute.iter().find(|attribute| attribute.name == name).cloned();
        let shape = attribute("output_shape").map(|shape| shape.ints);
        let kernel = attribute("kernel_shape").or_else(|| attribute("strides")).map(|list| list.ints.len());
        let Some(shape) = shape.filter(|shape| !shape.is_empty() && !conv.output.is_empty()) else {
            return self.nodes.push(conv);
        };
        let rank = kernel.filter(|&rank| rank <= shape.len()).unwrap_or(shape.len());
        let sizes = shape[shape.len() - rank..].to_vec();
        let upper = attribute("auto_pad").is_some_and(|auto_pad| auto_pad.s == b"SAME_UPPER");
        let stride = attribute("strides").map_or(vec![1; rank], |strides| strides.ints);
        conv.attribute.retain(|attribute| !["output_shape", "auto_pad", "pads"].contains(&attribute.name.as_str()));
        let bias = (conv.input.len() > 2).then(|| conv.input.split_off(2).remove(0)).filter(|bias| !bias.is_empty());
        let full = self.fresh();
        let y = std::mem::replace(&mut conv.output[0], full.clone());
        self.nodes.push(conv);
        let dims = self.node("Shape", &[&full], vec![]);
        let dims = self.node("Cast", &[&dims], vec![integer("to", 7)]);
        let (first, last) = (self.integers(&[2]), self.integers(&[i64::MAX]));
        let spatial = self.node("Slice", &[&dims, &first, &last], vec![]);
        let (sizes, zeros, two) = (self.integers(&sizes), self.integers(&vec![0; rank]), self.integers(&[2]));
        let total = self.node("Sub", &[&spatial, &sizes], vec![]);
        let total = self.node("Max", &[&total, &zeros], vec![]);
        let half = self.node("Div", &[&total, &two], vec![]);
        let start = if upper { half } else { self.node("Sub", &[&total, &half], vec![]) };
        let end = self.node("Add", &[&start, &sizes], vec![]);
        let axes = self.integers(&(2..2 + rank as i64).collect::<Vec<_>>());
        let amounts = self.integers(&[&vec![0; 4 + rank][..], &stride].concat());
        let longer = self.node("Pad", &[&full, &amounts], vec![]);
        let Some(bias) = bias else {
            let slice = node("Slice", &[&longer, &start, &end, &axes], &y, vec![]);
            return self.nodes.push(pb::NodeProto { name: full, ..slice });
        };
        let part = self.node("Slice", &[&longer, &start, &end, &axes], vec![]);
        let shape = self.integers(&[&[1, -1][..], &vec![1; rank]].concat());
        let bias = self.node("Reshape", &[&bias, &shape], vec![]);
        let sum = node("Add", &[&part, &bias], &y, vec![]);
        self.nodes.push(pb::NodeProto { name: full, ..sum });
    }

    fn last(&mut self, op_type: &str, inputs: &[&str], replaced: pb::NodeProto) {
        let written = node(op_type, inputs, &self.name, vec![]);
        self.nodes.push(pb::NodeProto { name: replaced.name, ..written });
    }

    fn node(&mut self, op_type: &str, inputs: &[&str], attributes: Vec<pb::AttributeProto>) -> String {
        let name = self.fresh();
        self.nodes.push(node(op_type, inputs, &name, attributes));
        name
    }

    fn number(&mut self, value: f32) -> String {
        let name = self.fresh();
        self.initializers.push(floats(&name, &[], [value]));
        name
    }

    fn integers(&mut self, values: &[i64]) -> String {
        let name = self.fresh();
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let dims = vec![values.len() as i64];
        let tensor = pb::TensorProto { name: name.clone(), data_type: 7, dims, raw_data, ..Default::default() };
        self.initializers.push(tensor);
        name
    }

    /// A name that no model uses.
    fn fresh(&self) -> String {
        format!("{}{}form-{}", self.name, super::reals::STEP, self.nodes.len() + self.initializers.len())
    }
}

/// The operand, and `alpha`, which is 1 if the node does not say.
fn operand_and_alpha(node: &pb::NodeProto) -> Option<(&str, f32)> {
    let alpha = node.attribute.iter().find(|attribute| attribute.name == "alpha").map_or(1.0, |alpha| alpha.f);
    node.input.first().map(|x| (x.as_str(), alpha)).filter(|_| alpha != 0.0)
}
