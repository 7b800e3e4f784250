//! Writing plain types as the bytes of an ONNX file.

use prost::Message as _;
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};

use crate::ir::DType;
use crate::ops::export::{Elements, Initializer, OPSET, OnnxGraph};
use crate::ops::import::{Attribute, OnnxNode};

/// Version of the file format that an operator set came with.
fn ir_version(opset: i64) -> i64 {
    if opset <= OPSET { 8 } else { 10 }
}

/// ONNX's numbers of element types.
const FLOAT: i32 = 1;
const UINT8: i32 = 2;
const INT64: i32 = 7;

/// The bytes of a graph.
pub fn encode(graph: &OnnxGraph) -> Vec<u8> {
    let inputs = graph.inputs.iter().map(|(name, dims)| value_info(name, FLOAT, dims));
    let outputs = graph.outputs.iter();
    let outputs = outputs.map(|(name, dims, index)| value_info(name, if *index { INT64 } else { FLOAT }, dims));
    let model = pb::ModelProto {
        ir_version: ir_version(graph.opset),
        opset_import: vec![pb::OperatorSetIdProto { domain: String::new(), version: graph.opset }],
        producer_name: "ptqc".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(pb::GraphProto {
            name: "quantized".to_owned(),
            node: graph.nodes.iter().map(node).collect(),
            initializer: graph.initializers.iter().map(tensor).collect(),
            input: inputs.collect(),
            output: outputs.collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    model.encode_to_vec()
}

fn node(node: &OnnxNode) -> pb::NodeProto {
    pb::NodeProto {
        name: node.name.clone(),
        op_type: node.op_type.clone(),
        input: node.inputs.clone(),
        output: node.outputs.clone(),
        attribute: node.attributes.iter().filter_map(|(name, value)| attribute(name, value)).collect(),
        ..Default::default()
    }
}

fn attribute(name: &str, value: &Attribute) -> Option<pb::AttributeProto> {
    let mut proto = pb::AttributeProto { name: name.to_owned(), ..Default::default() };
    let kind = match value {
        Attribute::Int(value) => {
            proto.i = *value;
            AttributeType::Int
        }
        Attribute::Float(value) => {
            proto.f = *value;
            AttributeType::Float
        }
        Attribute::Text(value) => {
            proto.s = value.as_bytes().to_vec();
            AttributeType::String
        }
        Attribute::Ints(values) => {
            proto.ints.clone_from(values);
            AttributeType::Ints
        }
        Attribute::Floats(values) => {
            proto.floats.clone_from(values);
            AttributeType::Floats
        }
        Attribute::Texts(values) => {
            proto.strings = values.iter().map(|text| text.as_bytes().to_vec()).collect();
            AttributeType::Strings
        }
        Attribute::Other => return None,
    };
    proto.r#type = kind as i32;
    Some(proto)
}

fn tensor(tensor: &Initializer) -> pb::TensorProto {
    let (data_type, raw_data) = match &tensor.data {
        Elements::Float(data) => (FLOAT, data.iter().flat_map(|value| value.to_le_bytes()).collect()),
        Elements::Int64(data) => (INT64, data.iter().flat_map(|value| value.to_le_bytes()).collect()),
        Elements::Bytes(data) => (UINT8, data.clone()),
        Elements::Quantized(DType::I4 | DType::I8, data) => (3, data.iter().map(|&q| q as i8 as u8).collect()),
        Elements::Quantized(DType::I16, data) => (5, data.iter().flat_map(|&q| (q as i16).to_le_bytes()).collect()),
        Elements::Quantized(_, data) => (6, data.iter().flat_map(|&q| q.to_le_bytes()).collect()),
    };
    pb::TensorProto { name: tensor.name.clone(), data_type, dims: dims(&tensor.dims), raw_data, ..Default::default() }
}

fn dims(dims: &[usize]) -> Vec<i64> {
    dims.iter().map(|&dim| dim as i64).collect()
}

fn value_info(name: &str, elem_type: i32, shape: &[usize]) -> pb::ValueInfoProto {
    let dimension = |&dim: &i64| Dimension { value: Some(dimension::Value::DimValue(dim)), ..Default::default() };
    let shape = Some(pb::TensorShapeProto { dim: dims(shape).iter().map(dimension).collect() });
    let tensor = pb::type_proto::Value::TensorType(pb::type_proto::Tensor { elem_type, shape });
    let r#type = Some(pb::TypeProto { value: Some(tensor), ..Default::default() });
    pb::ValueInfoProto { name: name.to_owned(), r#type, ..Default::default() }
}
