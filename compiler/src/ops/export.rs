//! What an operator sees of the ONNX model that a quantized graph is written as.
//!
//! Each operator writes itself as it is on reals; the writer of the graph puts `QuantizeLinear` and `DequantizeLinear`
//! around it. Weights are written as the integers they have become.

use super::import::{Attribute, OnnxNode};
use super::weighted::Weighted;
use crate::ir::{DType, Params};

/// The operator set that is written: scales for each channel need 13, LayerNormalization 17.
pub const OPSET: i64 = 17;

/// The same for graphs with tensors of 16 bits.
pub const WIDE_OPSET: i64 = 21;

/// A stored tensor of an ONNX model.
#[derive(Debug, Clone, PartialEq)]
pub struct Initializer {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub dims: Vec<usize>,
    /// Its elements, row-major.
    pub data: Elements,
}

/// Elements of a stored tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Elements {
    /// 32-bit floats.
    Float(Vec<f32>),
    /// 64-bit integers, as shapes and axes are.
    Int64(Vec<i64>),
    /// Integers of a quantized tensor.
    Quantized(DType, Vec<i32>),
    /// Integers of a quantized tensor without a sign.
    Bytes(Vec<u8>),
}

/// An ONNX graph in plain types.
#[derive(Debug)]
pub struct OnnxGraph {
    /// The operator set.
    pub opset: i64,
    /// Nodes in the order of execution.
    pub nodes: Vec<OnnxNode>,
    /// Stored tensors.
    pub initializers: Vec<Initializer>,
    /// Names and shapes of the inputs.
    pub inputs: Vec<(String, Vec<usize>)>,
    /// Names and shapes of the outputs, and whether they hold positions.
    pub outputs: Vec<(String, Vec<usize>, bool)>,
}

/// An ONNX graph that is being written.
#[derive(Debug, Default)]
pub struct Export {
    /// Nodes in the order of execution.
    pub nodes: Vec<OnnxNode>,
    /// Stored tensors.
    pub initializers: Vec<Initializer>,
    /// The tensor whose operator is being written.
    pub tensor: String,
    /// Whether tensors of 16 bits are written: then in [`WIDE_OPSET`].
    pub wide: bool,
    fresh: usize,
}

impl Export {
    /// Adds a node and returns the name of its result.
    pub fn node(&mut self, op_type: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        let output = self.name();
        self.named_node(op_type, inputs, &output, attributes);
        output
    }

    /// Adds a node whose result has this name.
    pub fn named_node(&mut self, op_type: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attribute)]) {
        self.nodes.push(OnnxNode {
            name: output.to_owned(),
            op_type: op_type.to_owned(),
            inputs: inputs.iter().map(|&name| name.to_owned()).collect(),
            outputs: vec![output.to_owned()],
            attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        });
    }

    /// Adds a node of which the outputs before the last are left out, and returns the name of the last.
    pub fn node_with_output(
        &mut self,
        port: usize,
        op_type: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) -> String {
        let output = self.node(op_type, inputs, attributes);
        if let Some(node) = self.nodes.last_mut() {
            node.outputs = vec![String::new(); port];
            node.outputs.push(output.clone());
        }
        output
    }

    /// Stores floats.
    pub fn floats(&mut self, dims: &[usize], data: Vec<f32>) -> String {
        self.store(dims, Elements::Float(data))
    }

    /// Stores a vector of 64-bit integers.
    pub fn ints(&mut self, data: Vec<i64>) -> String {
        self.store(&[data.len()], Elements::Int64(data))
    }

    /// Stores integers of a quantized tensor.
    pub fn integers(&mut self, dims: &[usize], dtype: DType, data: Vec<i32>) -> String {
        self.store(dims, Elements::Quantized(dtype, data))
    }

    /// Stores the integers of an activation of at most 8 bits, as uint8: with int8, ONNX Runtime's kernels for x86 take
    /// some layers back to floats.
    fn bytes(&mut self, dims: &[usize], data: &[i32]) -> String {
        self.store(dims, Elements::Bytes(data.iter().map(|&q| (q + 128) as u8).collect()))
    }

    /// Stores the integers of an activation of up to 16 bits.
    pub fn activation(&mut self, dims: &[usize], dtype: DType, data: &[i32]) -> String {
        match dtype {
            DType::I4 | DType::I8 => self.bytes(dims, data),
            DType::I16 | DType::I32 => self.integers(dims, dtype, data.to_vec()),
        }
    }

    /// Stores scale and zero point of such an activation.
    pub fn params(&mut self, params: Params, dtype: DType) -> [String; 2] {
        let scale = self.floats(&[], vec![params.scale.as_f32()]);
        [scale, self.activation(&[], dtype, &[params.zero_point])]
    }

    /// `ReduceMean`, whose axes are an input in newer operator sets.
    pub fn mean(&mut self, x: &str, axes: &[usize], keep_dims: bool) -> String {
        let keep_dims = ("keepdims", Attribute::Int(keep_dims.into()));
        if !self.wide {
            return self.node("ReduceMean", &[x], &[("axes", list(axes)), keep_dims]);
        }
        let axes = self.ints(axes.iter().map(|&axis| axis as i64).collect());
        self.node("ReduceMean", &[x, &axes], &[keep_dims])
    }

    /// Reals of stored weights (shape `rows x ..`) and of their biases. A row without a scale is a constant.
    pub fn weighted(&mut self, weighted: &Weighted, dims: &[usize], input: Params, output: Params) -> [String; 2] {
        // A channel of constants: its bias is in half steps of the result.
        let half = (output.scale.get() / 2.0 / input.scale.get()) as f32;
        let scale = |scale: f32| if scale == 0.0 { half } else { scale };
        let scales: Vec<f32> = weighted.channels.iter().map(|channel| scale(channel.weight_scale)).collect();
        let zeros: Vec<i32> = weighted.channels.iter().map(|channel| channel.weight_zero).collect();
        let rows = scales.len();
        let bias_scales = scales.iter().map(|&scale| input.scale.as_f32() * scale).collect();
        let weights = self.integers(dims, DType::I8, weighted.weights.iter().map(|&w| w.into()).collect());
        let (scales, zeros) = (self.floats(&[rows], scales), self.integers(&[rows], DType::I8, zeros));
        let axis = [("axis", Attribute::Int(0))];
        let weights = self.node("DequantizeLinear", &[&weights, &scales, &zeros], &axis);
        let biases = weighted.channels.iter().map(|channel| channel.bias).collect();
        let biases = self.integers(&[rows], DType::I32, biases);
        let bias_scales = self.floats(&[rows], bias_scales);
        let zeros = self.integers(&[rows], DType::I32, vec![0; rows]);
        let biases = self.node("DequantizeLinear", &[&biases, &bias_scales, &zeros], &axis);
        [weights, biases]
    }

    fn store(&mut self, dims: &[usize], data: Elements) -> String {
        let name = self.name();
        self.initializers.push(Initializer { name: name.clone(), dims: dims.to_vec(), data });
        name
    }

    fn name(&mut self) -> String {
        self.fresh += 1;
        format!("{}/{}", self.tensor, self.fresh)
    }
}

/// Integers as an attribute.
pub fn list(values: &[usize]) -> Attribute {
    Attribute::Ints(values.iter().map(|&value| value as i64).collect())
}
