//! Tensors that a model stores, as numbers, and back.

use std::collections::BTreeMap;

use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;

/// A stored tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Its shape.
    pub dims: Vec<usize>,
    /// Its elements, row-major; every element type of at most 32 bits is exact.
    pub data: Vec<f64>,
    /// Number of its ONNX element type.
    pub element_type: i32,
}

impl Stored {
    /// A single number, in whatever shape.
    pub fn scalar(&self) -> Option<f64> {
        match self.data[..] {
            [value] => Some(value),
            _ => None,
        }
    }
}

/// Initializers and values of `Constant` nodes, by name.
pub fn stored(graph: &pb::GraphProto) -> BTreeMap<String, Stored> {
    let initializers = graph.initializer.iter().filter_map(|tensor| Some((tensor.name.clone(), decode(tensor)?)));
    let mut all: BTreeMap<String, Stored> = initializers.collect();
    for node in &graph.node {
        let Some(output) = node.output.first() else { continue };
        let found = match node.op_type.as_str() {
            "Constant" => constant(node),
            "Identity" => node.input.first().and_then(|input| all.get(input).cloned()),
            _ => None,
        };
        all.extend(found.map(|found| (output.clone(), found)));
    }
    all
}

fn constant(node: &pb::NodeProto) -> Option<Stored> {
    let attribute = node.attribute.first()?;
    let list = |data: Vec<f64>, element_type| Stored { dims: vec![data.len()], data, element_type };
    Some(match attribute.name.as_str() {
        "value" => decode(attribute.t.as_ref()?)?,
        "value_float" => Stored { dims: vec![], ..list(vec![attribute.f.into()], 1) },
        "value_floats" => list(attribute.floats.iter().map(|&value| value.into()).collect(), 1),
        "value_int" => Stored { dims: vec![], ..list(vec![attribute.i as f64], 7) },
        "value_ints" => list(attribute.ints.iter().map(|&value| value as f64).collect(), 7),
        _ => return None,
    })
}

/// The numbers of a tensor; `None` if it is damaged or of a type that has none.
pub fn decode(tensor: &pb::TensorProto) -> Option<Stored> {
    let dims = tensor.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect::<Option<Vec<_>>>()?;
    let len = dims.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim))?;
    let data = match (tensor.data_type, tensor.raw_data.is_empty()) {
        (21 | 22, _) => nibbles(tensor, len)?,
        (_, false) => from_bytes(tensor.data_type, &tensor.raw_data)?,
        (1, true) => tensor.float_data.iter().map(|&value| value.into()).collect(),
        (7, true) => tensor.int64_data.iter().map(|&value| value as f64).collect(),
        (11, true) => tensor.double_data.clone(),
        (12 | 13, true) => tensor.uint64_data.iter().map(|&value| value as f64).collect(),
        (2..=6 | 9, true) => tensor.int32_data.iter().map(|&value| value.into()).collect(),
        _ => return None,
    };
    (data.len() == len).then_some(Stored { dims, data, element_type: tensor.data_type })
}

fn from_bytes(element_type: i32, bytes: &[u8]) -> Option<Vec<f64>> {
    fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Option<Vec<f64>> {
        let (words, rest) = bytes.as_chunks::<N>();
        rest.is_empty().then(|| words.iter().map(|&word| value(word)).collect())
    }
    match element_type {
        1 => each(bytes, |word| f32::from_le_bytes(word).into()),
        2 | 9 => each(bytes, |[byte]| byte.into()),
        3 => each(bytes, |[byte]| (byte as i8).into()),
        4 => each(bytes, |word| u16::from_le_bytes(word).into()),
        5 => each(bytes, |word| i16::from_le_bytes(word).into()),
        6 => each(bytes, |word| i32::from_le_bytes(word).into()),
        7 => each(bytes, |word| i64::from_le_bytes(word) as f64),
        11 => each(bytes, f64::from_le_bytes),
        12 => each(bytes, |word| u32::from_le_bytes(word).into()),
        13 => each(bytes, |word| u64::from_le_bytes(word) as f64),
        _ => None,
    }
}

/// Integers of 4 bits, two in a byte, the first in the low half.
fn nibbles(tensor: &pb::TensorProto, len: usize) -> Option<Vec<f64>> {
    let bytes: Vec<u8> = match tensor.raw_data.is_empty() {
        true => tensor.int32_data.iter().map(|&byte| byte as u8).collect(),
        false => tensor.raw_data.clone(),
    };
    if bytes.len() != len.div_ceil(2) {
        return None;
    }
    let value = |nibble: u8| match tensor.data_type {
        22 if nibble >= 8 => f64::from(nibble) - 16.0,
        _ => f64::from(nibble),
    };
    Some(bytes.iter().flat_map(|byte| [value(byte & 15), value(byte >> 4)]).take(len).collect())
}

/// A tensor of 32-bit floats.
pub fn floats(name: &str, dims: &[usize], data: impl IntoIterator<Item = f32>) -> pb::TensorProto {
    pb::TensorProto {
        name: name.to_owned(),
        data_type: 1,
        dims: dims.iter().map(|&dim| dim as i64).collect(),
        raw_data: data.into_iter().flat_map(f32::to_le_bytes).collect(),
        ..Default::default()
    }
}

/// A node of the default domain, which bears the name of its output.
pub fn node(op_type: &str, input: &[&str], output: &str, attribute: Vec<pb::AttributeProto>) -> pb::NodeProto {
    pb::NodeProto {
        name: output.to_owned(),
        op_type: op_type.to_owned(),
        input: input.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..Default::default()
    }
}

/// An attribute that is an integer.
pub fn integer(name: &str, value: i64) -> pb::AttributeProto {
    pb::AttributeProto { name: name.to_owned(), r#type: AttributeType::Int as i32, i: value, ..Default::default() }
}

/// An attribute of a node that is an integer.
pub fn integer_of(node: &pb::NodeProto, name: &str) -> Option<i64> {
    node.attribute.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.i)
}
