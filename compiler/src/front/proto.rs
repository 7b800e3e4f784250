//! Reading protobuf nodes into plain types.

use std::collections::BTreeMap;

use tract_onnx::pb;

use crate::ops::import::{Attribute, OnnxNode};

/// A node in plain types.
pub fn node(proto: &pb::NodeProto) -> OnnxNode {
    OnnxNode {
        name: node_name(proto),
        op_type: proto.op_type.clone(),
        inputs: proto.input.clone(),
        outputs: proto.output.clone(),
        attributes: proto.attribute.iter().map(|a| (a.name.clone(), attribute(a))).collect::<BTreeMap<_, _>>(),
    }
}

/// A node's name; its first output's name if it has none.
pub fn node_name(proto: &pb::NodeProto) -> String {
    match proto.name.is_empty() {
        false => proto.name.clone(),
        true => proto.output.first().cloned().unwrap_or_else(|| proto.op_type.clone()),
    }
}

/// Name of an ONNX element type.
pub fn element_type(number: i32) -> &'static str {
    const NAMES: [&str; 17] = [
        "undefined",
        "float32",
        "uint8",
        "int8",
        "uint16",
        "int16",
        "int32",
        "int64",
        "string",
        "bool",
        "float16",
        "float64",
        "uint32",
        "uint64",
        "complex64",
        "complex128",
        "bfloat16",
    ];
    usize::try_from(number).ok().and_then(|number| NAMES.get(number)).copied().unwrap_or("a type unknown to ptqc")
}

fn attribute(proto: &pb::AttributeProto) -> Attribute {
    use pb::attribute_proto::AttributeType;
    match AttributeType::try_from(proto.r#type) {
        Ok(AttributeType::Int) => Attribute::Int(proto.i),
        Ok(AttributeType::Float) => Attribute::Float(proto.f),
        Ok(AttributeType::String) => Attribute::Text(String::from_utf8_lossy(&proto.s).into_owned()),
        Ok(AttributeType::Ints) => Attribute::Ints(proto.ints.clone()),
        Ok(AttributeType::Floats) => Attribute::Floats(proto.floats.clone()),
        Ok(AttributeType::Strings) => {
            Attribute::Texts(proto.strings.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect())
        }
        _ => Attribute::Other,
    }
}
