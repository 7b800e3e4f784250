//! Builds small ONNX models.

use pb::attribute_proto::AttributeType;
use pb::tensor_shape_proto::{Dimension, dimension};
use prost::Message as _;
use ptqc::front::pb;

/// An ONNX model under construction. Methods add to the graph in order.
#[derive(Debug, Clone)]
pub struct Onnx {
    /// The model as it stands.
    pub proto: pb::ModelProto,
}

/// The value of a node's attribute.
#[derive(Debug, Clone)]
pub enum Attr {
    /// An integer.
    Int(i64),
    /// A real number.
    Float(f32),
    /// A text.
    Text(&'static str),
    /// Integers.
    Ints(Vec<i64>),
    /// Real numbers.
    Floats(Vec<f32>),
    /// Texts.
    Texts(Vec<&'static str>),
    /// A subgraph.
    Graph(Box<Onnx>),
}

impl From<i64> for Attr {
    fn from(value: i64) -> Attr {
        Attr::Int(value)
    }
}

impl From<f32> for Attr {
    fn from(value: f32) -> Attr {
        Attr::Float(value)
    }
}

impl From<&'static str> for Attr {
    fn from(value: &'static str) -> Attr {
        Attr::Text(value)
    }
}

impl From<&[i64]> for Attr {
    fn from(values: &[i64]) -> Attr {
        Attr::Ints(values.to_vec())
    }
}

impl<const N: usize> From<[i64; N]> for Attr {
    fn from(values: [i64; N]) -> Attr {
        Attr::Ints(values.to_vec())
    }
}

impl From<Vec<i64>> for Attr {
    fn from(values: Vec<i64>) -> Attr {
        Attr::Ints(values)
    }
}

impl From<Vec<f32>> for Attr {
    fn from(values: Vec<f32>) -> Attr {
        Attr::Floats(values)
    }
}

impl From<Vec<&'static str>> for Attr {
    fn from(values: Vec<&'static str>) -> Attr {
        Attr::Texts(values)
    }
}

impl From<Onnx> for Attr {
    fn from(value: Onnx) -> Attr {
        Attr::Graph(Box::new(value))
    }
}

impl Default for Onnx {
    fn default() -> Onnx {
        Onnx::new(17)
    }
}

impl Onnx {
    /// An empty model of an operator set.
    pub fn new(opset: i64) -> Onnx {
        let import = pb::OperatorSetIdProto { domain: String::new(), version: opset };
        let graph = pb::GraphProto { name: "test".to_owned(), ..Default::default() };
        Onnx {
            proto: pb::ModelProto {
                ir_version: 8,
                opset_import: vec![import],
                graph: Some(graph),
                ..Default::default()
            },
        }
    }

    /// The graph.
    pub fn graph(&mut self) -> &mut pb::GraphProto {
        self.proto.graph.get_or_insert_default()
    }

    /// Adds a float input.
    pub fn input(self, name: &str, dims: &[i64]) -> Onnx {
        let dims: Vec<String> = dims.iter().map(i64::to_string).collect();
        self.typed_input(name, 1, &dims.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Adds an input of any element type; a dimension that is no number is symbolic.
    pub fn typed_input(mut self, name: &str, elem_type: i32, dims: &[&str]) -> Onnx {
        let info = value_info(name, elem_type, dims);
        self.graph().input.push(info);
        self
    }

    /// Adds an output.
    pub fn output(mut self, name: &str) -> Onnx {
        let info =
            pb::ValueInfoProto { r#type: value_info(name, 1, &[]).r#type, name: name.to_owned(), ..Default::default() };
        self.graph().output.push(info);
        self
    }

    /// Adds float weights.
    pub fn weights(self, name: &str, dims: &[i64], data: &[f32]) -> Onnx {
        let raw = data.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(name, 1, dims, raw)
    }

    /// Adds reproducible weights between -1 and 1, other ones for every name.
    pub fn random(self, name: &str, dims: &[i64]) -> Onnx {
        let seed = name.bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        self.weights(name, dims, &numbers(seed, dims.iter().product::<i64>() as usize))
    }

    /// Adds 64-bit integers, as shapes and axes are.
    pub fn ints(self, name: &str, dims: &[i64], data: &[i64]) -> Onnx {
        let raw = data.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(name, 7, dims, raw)
    }

    /// Adds an initializer of any element type.
    pub fn initializer(mut self, name: &str, data_type: i32, dims: &[i64], raw_data: Vec<u8>) -> Onnx {
        let tensor =
            pb::TensorProto { name: name.to_owned(), data_type, dims: dims.to_vec(), raw_data, ..Default::default() };
        self.graph().initializer.push(tensor);
        self
    }

    /// Adds a node that is named like its first output.
    pub fn node(self, op_type: &str, inputs: &[&str], outputs: &[&str]) -> Onnx {
        self.node_with(op_type, inputs, outputs, &[])
    }

    /// Adds a node with attributes.
    pub fn node_with(mut self, op_type: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, Attr)]) -> Onnx {
        let node = pb::NodeProto {
            name: format!("/{}", outputs.first().unwrap_or(&op_type)),
            op_type: op_type.to_owned(),
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: outputs.iter().map(|&name| name.to_owned()).collect(),
            attribute: attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
            ..Default::default()
        };
        self.graph().node.push(node);
        self
    }

    /// Puts the last node into another domain.
    pub fn in_domain(mut self, domain: &str) -> Onnx {
        if !self.proto.opset_import.iter().any(|import| import.domain == domain) {
            self.proto.opset_import.push(pb::OperatorSetIdProto { domain: domain.to_owned(), version: 1 });
        }
        if let Some(node) = self.graph().node.last_mut() {
            node.domain = domain.to_owned();
        }
        self
    }

    /// Adds an output of any element type.
    pub fn typed_output(mut self, name: &str, elem_type: i32) -> Onnx {
        let info = value_info(name, elem_type, &[]);
        self.graph().output.push(info);
        self
    }

    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.proto.encode_to_vec()
    }
}

fn value_info(name: &str, elem_type: i32, dims: &[&str]) -> pb::ValueInfoProto {
    let dimension = |dim: &&str| {
        let value = match dim.parse() {
            Ok(size) => dimension::Value::DimValue(size),
            Err(_) => dimension::Value::DimParam((*dim).to_owned()),
        };
        Dimension { value: Some(value), ..Default::default() }
    };
    let shape = (!dims.is_empty()).then(|| pb::TensorShapeProto { dim: dims.iter().map(dimension).collect() });
    let tensor = pb::type_proto::Value::TensorType(pb::type_proto::Tensor { elem_type, shape });
    let r#type = Some(pb::TypeProto { value: Some(tensor), ..Default::default() });
    pb::ValueInfoProto { name: name.to_owned(), r#type, ..Default::default() }
}

fn attribute(name: &str, value: &Attr) -> pb::AttributeProto {
    let mut proto = pb::AttributeProto { name: name.to_owned(), ..Default::default() };
    let kind = match value {
        Attr::Int(value) => {
            proto.i = *value;
            AttributeType::Int
        }
        Attr::Float(value) => {
            proto.f = *value;
            AttributeType::Float
        }
        Attr::Text(value) => {
            proto.s = value.as_bytes().to_vec();
            AttributeType::String
        }
        Attr::Ints(values) => {
            proto.ints.clone_from(values);
            AttributeType::Ints
        }
        Attr::Floats(values) => {
            proto.floats.clone_from(values);
            AttributeType::Floats
        }
        Attr::Graph(value) => {
            proto.g.clone_from(&value.proto.graph);
            AttributeType::Graph
        }
        Attr::Texts(values) => {
            proto.strings = values.iter().map(|text| text.as_bytes().to_vec()).collect();
            AttributeType::Strings
        }
    };
    proto.r#type = kind as i32;
    proto
}

/// Reproducible numbers between -1 and 1, as weights or samples.
pub fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.f32() * 2.0 - 1.0).collect()
}
