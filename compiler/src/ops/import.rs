//! What an operator sees of the ONNX node it is imported from, and how it adds itself to the graph.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::requantize::Element;
use super::{FloatOp, ParamsRule};
use crate::diag::{self, Code, Diagnostic};
use crate::ir::{Float, FloatTensor, Graph, Node, NodeId, Origin, Shape, Steps, Window};

/// The largest stride, dilation and padding that is taken seriously.
const MAX_STEP: usize = 1 << 24;

/// An ONNX node in plain types.
#[derive(Debug, Clone, PartialEq)]
pub struct OnnxNode {
    /// The node's name; its first output's name if it has none.
    pub name: String,
    /// The operator.
    pub op_type: String,
    /// Tensor names; empty where an optional input is left out.
    pub inputs: Vec<String>,
    /// Tensor names; empty where an optional output is left out.
    pub outputs: Vec<String>,
    /// Attributes by name.
    pub attributes: BTreeMap<String, Attribute>,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// An integer.
    Int(i64),
    /// A real number.
    Float(f32),
    /// A text.
    Text(String),
    /// Integers.
    Ints(Vec<i64>),
    /// Real numbers.
    Floats(Vec<f32>),
    /// Texts.
    Texts(Vec<String>),
    /// Anything else; no operator of ours reads it.
    Other,
}

/// A tensor that is known at compile time.
#[derive(Debug, Clone, PartialEq)]
pub struct Constant {
    /// Its shape.
    pub shape: Shape,
    /// Its elements, row-major.
    pub data: ConstantData,
    /// Where it is the real value of integers that the model stores: their steps.
    pub steps: Option<Steps>,
}

/// Elements of a constant.
#[derive(Debug, Clone, PartialEq)]
pub enum ConstantData {
    /// Real numbers.
    Float(Vec<f32>),
    /// Integers of any width, and truth values.
    Int(Vec<i64>),
}

/// What an ONNX tensor is to us.
#[derive(Debug, Clone)]
pub enum Value {
    /// Computed by a node.
    Node(NodeId),
    /// Known at compile time.
    Constant(Rc<Constant>),
}

/// Facts of the model that do not change during import.
#[derive(Debug)]
pub struct ModelFacts {
    /// Version of the ONNX operator set.
    pub opset: i64,
    /// Shapes of all tensors.
    pub shapes: BTreeMap<String, Shape>,
    /// Tensors of integers or truth values.
    pub not_real: BTreeSet<String>,
    /// Tensors that some node or output uses.
    pub used: BTreeSet<String>,
    /// What the model says of integers that stand for reals.
    pub integers: Integers,
}

/// What the model says of integers that stand for reals.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Integers {
    /// Tensors that hold such integers, from a `QuantizeLinear` up to the `DequantizeLinear`.
    pub tensors: BTreeSet<String>,
    /// Element types of stored tensors of integers of at most 16 bits.
    pub elements: BTreeMap<String, Element>,
    /// Element types of the model's inputs and outputs that are quantized tensors.
    pub interface: BTreeMap<String, Element>,
}

/// An ONNX node that is being imported.
#[derive(Debug)]
pub struct NodeImport<'a> {
    /// The node.
    pub node: &'a OnnxNode,
    /// Facts of the model.
    pub facts: &'a ModelFacts,
    /// The graph it is added to.
    pub graph: &'a mut Graph<Float>,
    /// What the ONNX tensors before it became.
    pub values: &'a mut BTreeMap<String, Value>,
    /// Nodes added for this one that have no ONNX name yet.
    pub emitted: Vec<NodeId>,
}

impl NodeImport<'_> {
    /// Version of the operator set.
    pub fn opset(&self) -> i64 {
        self.facts.opset
    }

    /// Number of inputs.
    pub fn input_count(&self) -> usize {
        self.node.inputs.len()
    }

    /// Number of outputs.
    pub fn output_count(&self) -> usize {
        self.node.outputs.len()
    }

    /// Whether something uses this output.
    pub fn output_used(&self, port: usize) -> bool {
        self.node.outputs.get(port).is_some_and(|name| self.facts.used.contains(name))
    }

    /// An input that must be there.
    pub fn input(&self, port: usize) -> diag::Result<Value> {
        self.optional(port).ok_or_else(|| self.invalid(format!("input {port} is missing")))
    }

    /// An input that may be left out.
    pub fn optional(&self, port: usize) -> Option<Value> {
        self.node.inputs.get(port).filter(|name| !name.is_empty()).and_then(|name| self.values.get(name)).cloned()
    }

    /// An input as a node of the graph; a constant becomes one.
    pub fn activation(&mut self, port: usize) -> diag::Result<NodeId> {
        match self.input(port)? {
            Value::Node(id) => Ok(id),
            Value::Constant(_) => {
                let tensor = self.float_constant(port)?;
                self.emit(super::constant::Constant { tensor }, &[])
            }
        }
    }

    /// An input that must be known at compile time.
    pub fn constant(&self, port: usize) -> diag::Result<Rc<Constant>> {
        match self.input(port)? {
            Value::Constant(constant) => Ok(constant),
            Value::Node(_) => Err(self.problem(
                Code::DynamicOperand,
                format!(
                    "input {port} (`{}`) of `{}` is computed at run time",
                    self.node.inputs[port], self.node.op_type
                ),
                "make it an initializer: export with constant folding, or run the model through onnxsim",
            )),
        }
    }

    /// A constant input as finite real numbers.
    pub fn float_constant(&self, port: usize) -> diag::Result<FloatTensor> {
        let tensor = self.any_float_constant(port)?;
        match tensor.data.iter().position(|value| !value.is_finite()) {
            None => Ok(tensor),
            Some(at) => Err(self.non_finite(format!(
                "constant `{}` holds {} at position {at}",
                self.node.inputs[port], tensor.data[at]
            ))),
        }
    }

    /// A constant input as real numbers that need not be finite.
    pub fn any_float_constant(&self, port: usize) -> diag::Result<FloatTensor> {
        let constant = self.constant(port)?;
        let data = match &constant.data {
            ConstantData::Float(data) => data.clone(),
            ConstantData::Int(data) => data.iter().map(|&value| value as f32).collect(),
        };
        Ok(FloatTensor::new(constant.shape.clone(), data).with_steps(constant.steps.clone()))
    }

    /// A constant input with a single real number, which may be infinite.
    pub fn float_scalar(&self, port: usize) -> diag::Result<f32> {
        let tensor = self.any_float_constant(port)?;
        match tensor.data[..] {
            [value] if !value.is_nan() => Ok(value),
            _ => Err(self.invalid(format!("input {port} should be one number, it has shape {}", tensor.shape))),
        }
    }

    /// A constant input with integers.
    pub fn int_constant(&self, port: usize) -> diag::Result<Vec<i64>> {
        match &self.constant(port)?.data {
            ConstantData::Int(data) => Ok(data.clone()),
            ConstantData::Float(_) => Err(self.invalid(format!("input {port} should hold integers"))),
        }
    }

    /// Shape of a constant input.
    pub fn constant_shape(&self, port: usize) -> diag::Result<Shape> {
        Ok(self.constant(port)?.shape.clone())
    }

    /// Shape of a node.
    pub fn shape(&self, id: NodeId) -> Shape {
        self.graph.node(id).value.clone()
    }

    /// Shape of an output, from the front end's shape inference.
    pub fn output_shape(&self, port: usize) -> diag::Result<Shape> {
        let shape = self.node.outputs.get(port).and_then(|name| self.facts.shapes.get(name));
        shape.cloned().ok_or_else(|| self.invalid(format!("the shape of output {port} is not known")))
    }

    /// Whether an input holds real numbers rather than integers or truth values, as far as is known.
    pub fn input_is_real(&self, port: usize) -> bool {
        self.node.inputs.get(port).is_none_or(|name| !self.facts.not_real.contains(name))
    }

    /// Spatial sizes of a `N x C x spatial` node.
    pub fn spatial(&self, id: NodeId) -> diag::Result<Vec<usize>> {
        match self.shape(id).dims() {
            [_, _, spatial @ ..] if !spatial.is_empty() => Ok(spatial.to_vec()),
            _ => Err(self.invalid(format!("its input {} has no spatial axes", self.shape(id)))),
        }
    }

    /// An integer attribute.
    pub fn int_or(&self, name: &str, default: i64) -> diag::Result<i64> {
        match self.node.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Int(value)) => Ok(*value),
            Some(_) => Err(self.invalid(format!("attribute {name} is not an integer"))),
        }
    }

    /// An integer attribute that is not negative.
    pub fn usize_or(&self, name: &str, default: usize) -> diag::Result<usize> {
        let value = self.int_or(name, default as i64)?;
        usize::try_from(value).map_err(|_| self.invalid(format!("attribute {name} is {value}")))
    }

    /// A real attribute.
    pub fn float_or(&self, name: &str, default: f32) -> diag::Result<f32> {
        match self.node.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Float(value)) if !value.is_nan() => Ok(*value),
            Some(_) => Err(self.invalid(format!("attribute {name} is not a number"))),
        }
    }

    /// A text attribute.
    pub fn string_or(&self, name: &str, default: &str) -> diag::Result<String> {
        match self.node.attributes.get(name) {
            None => Ok(default.to_owned()),
            Some(Attribute::Text(value)) => Ok(value.clone()),
            Some(_) => Err(self.invalid(format!("attribute {name} is not a text"))),
        }
    }

    /// A list attribute.
    pub fn ints(&self, name: &str) -> diag::Result<Option<Vec<i64>>> {
        match self.node.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values.clone())),
            Some(_) => Err(self.invalid(format!("attribute {name} is not a list of integers"))),
        }
    }

    /// A list attribute without negative numbers.
    pub fn usizes(&self, name: &str) -> diag::Result<Option<Vec<usize>>> {
        let Some(values) = self.ints(name)? else { return Ok(None) };
        let converted: Option<Vec<usize>> = values.iter().map(|&value| usize::try_from(value).ok()).collect();
        converted.map(Some).ok_or_else(|| {
            self.problem(
                Code::UnsupportedAttribute,
                format!("attribute {name} of `{}` is {values:?}", self.node.op_type),
                "negative numbers are not supported here",
            )
        })
    }

    /// An axis, counted from the end if negative.
    pub fn axis(&self, axis: i64, rank: usize) -> diag::Result<usize> {
        let from_start = if axis < 0 { axis + rank as i64 } else { axis };
        usize::try_from(from_start)
            .ok()
            .filter(|&axis| axis < rank)
            .ok_or_else(|| self.invalid(format!("axis {axis} of a tensor of rank {rank}")))
    }

    /// Axes, each counted from the end if negative, in the given order.
    pub fn axes_in_order(&self, axes: &[i64], rank: usize) -> diag::Result<Vec<usize>> {
        axes.iter().map(|&axis| self.axis(axis, rank)).collect()
    }

    /// Axes in ascending order, each once.
    pub fn axes(&self, axes: &[i64], rank: usize) -> diag::Result<Vec<usize>> {
        let axes: BTreeSet<usize> = self.axes_in_order(axes, rank)?.into_iter().collect();
        Ok(axes.into_iter().collect())
    }

    /// The window of a pooling node over the spatial axes of its input.
    pub fn pooling_window(&self, x: NodeId) -> diag::Result<Window> {
        let kernel =
            self.usizes("kernel_shape")?.ok_or_else(|| self.invalid("attribute kernel_shape is missing".to_owned()))?;
        let window = self.window(kernel, &self.spatial(x)?)?;
        Ok(Window { ceil: self.int_or("ceil_mode", 0)? != 0, ..window })
    }

    /// The window that the attributes strides, dilations, pads and auto_pad describe.
    pub fn window(&self, kernel: Vec<usize>, input: &[usize]) -> diag::Result<Window> {
        let rank = kernel.len();
        let list = |name: &str, len: usize, default: usize| -> diag::Result<Vec<usize>> {
            // Sums and products of a few such numbers and sizes of tensors stay far below the limits of the machine.
            let reasonable = |values: &Vec<usize>| values.iter().all(|&value| value <= MAX_STEP);
            let values = self.usizes(name)?.unwrap_or_else(|| vec![default; len]);
            if values.len() != len {
                return Err(self.invalid(format!("attribute {name} has {} numbers instead of {len}", values.len())));
            }
            if !reasonable(&values) {
                return Err(self.unsupported(format!("attribute {name} is {values:?}"), "give smaller numbers"));
            }
            Ok(values)
        };
        if !Shape::new(kernel.clone()).is_reasonable() {
            return Err(self.unsupported(format!("the kernel has shape {kernel:?}"), "give a smaller kernel"));
        }
        if input.len() != rank || kernel.contains(&0) {
            return Err(self.invalid(format!("a kernel {kernel:?} does not fit spatial sizes {input:?}")));
        }
        let (stride, dilation) = (list("strides", rank, 1)?, list("dilations", rank, 1)?);
        if stride.contains(&0) || dilation.contains(&0) {
            return Err(self.invalid("a stride or dilation is 0".to_owned()));
        }
        let mut window = Window { kernel, stride, dilation, ..Window::unit(rank) };
        match self.string_or("auto_pad", "NOTSET")?.as_str() {
            "NOTSET" | "" => {
                let pads = list("pads", 2 * rank, 0)?;
                (window.pad_begin, window.pad_end) = (pads[..rank].to_vec(), pads[rank..].to_vec());
            }
            "VALID" => {}
            "SAME_UPPER" => pad_same(&mut window, input, |total| total / 2),
            "SAME_LOWER" => pad_same(&mut window, input, |total| total.div_ceil(2)),
            other => return Err(self.invalid(format!("attribute auto_pad is `{other}`"))),
        }
        Ok(window)
    }

    /// Adds a node whose shape follows from its operands.
    pub fn emit(&mut self, op: impl Into<FloatOp>, operands: &[NodeId]) -> diag::Result<NodeId> {
        let op = op.into();
        let shapes: Vec<Shape> = operands.iter().map(|&id| self.shape(id)).collect();
        let value = op.infer(&shapes.iter().collect::<Vec<_>>()).map_err(|problem| self.shape_mismatch(&problem))?;
        if !value.is_reasonable() {
            let help = "make the model smaller, or give symbolic dimensions smaller sizes with --dim";
            return Err(self.unsupported(format!("its result has shape {value}"), help));
        }
        if value.is_empty() {
            return Err(self.invalid(format!("its result has shape {value}: no elements")));
        }
        let origin = vec![Origin { node: self.node.name.clone(), op_type: self.node.op_type.clone() }];
        let name = format!("{}#{}", self.node.outputs.first().unwrap_or(&self.node.name), self.emitted.len() + 1);
        let id = self.graph.add(Node { name, observed: None, origin, op, value }, operands);
        self.emitted.push(id);
        Ok(id)
    }

    /// Adds a node unless its result would be its operand.
    pub fn emit_unless_same(&mut self, reshape: super::reshape::Reshape, x: NodeId) -> diag::Result<NodeId> {
        if reshape.shape == self.shape(x) { Ok(x) } else { self.emit(reshape, &[x]) }
    }

    /// Adds the node that is output `port`.
    pub fn finish(&mut self, port: usize, op: impl Into<FloatOp>, operands: &[NodeId]) -> diag::Result<NodeId> {
        let id = self.emit(op, operands)?;
        self.define(port, id);
        Ok(id)
    }

    /// Declares a node to be output `port`.
    pub fn define(&mut self, port: usize, id: NodeId) {
        let name = self.node.outputs[port].clone();
        self.values.insert(name.clone(), Value::Node(id));
        let Some(position) = self.emitted.iter().position(|&emitted| emitted == id) else { return };
        self.emitted.remove(position);
        self.graph.node_mut(id).name.clone_from(&name);
        self.observe(id, &name);
    }

    /// Declares a node from before this one to be output `port`.
    pub fn alias(&mut self, port: usize, id: NodeId) {
        self.values.insert(self.node.outputs[port].clone(), Value::Node(id));
    }

    /// The range of tensor `name` is that of `id`, and of what `id` only moves.
    fn observe(&mut self, id: NodeId, name: &str) {
        let node = self.graph.node_mut(id);
        if node.observed.is_none() {
            node.observed = Some(name.to_owned());
        }
        // A mask is no part of its operand's range.
        let moves = node.op.params_rule() == ParamsRule::SameAsOperand && !matches!(node.op, FloatOp::Mask(_));
        if let (true, [operand]) = (moves, &self.graph.operands(id)[..])
            && self.emitted.contains(operand)
        {
            self.observe(*operand, name);
        }
    }

    /// The model contradicts ONNX.
    pub fn invalid(&self, message: impl Into<String>) -> diag::Diagnostics {
        let message = format!("`{}`: {}", self.node.op_type, message.into());
        self.problem(
            Code::InvalidGraph,
            message,
            "check the model with `onnx.checker.check_model(model, full_check=True)` and export it again",
        )
    }

    /// The operands do not fit together.
    pub fn shape_mismatch(&self, message: &str) -> diag::Diagnostics {
        let shape = |name: &String| match self.values.get(name) {
            Some(Value::Node(id)) => Some(format!("`{name}` {}", self.shape(*id))),
            Some(Value::Constant(constant)) => Some(format!("`{name}` {}", constant.shape)),
            None => None,
        };
        let shapes: Vec<String> = self.node.inputs.iter().filter_map(shape).collect();
        self.diagnostic(Code::ShapeMismatch, format!("`{}`: {message}", self.node.op_type))
            .note(format!("inputs: {}", shapes.join(", ")))
            .help(
                "check the model with `onnx.checker.check_model(model, full_check=True)`; check sizes given with --dim",
            )
            .into()
    }

    /// The operator works on constants only.
    pub fn dynamic(&self, message: &str) -> diag::Diagnostics {
        let message = format!("`{}`: {message}", self.node.op_type);
        self.problem(Code::DynamicOperand, message, "export the model with constant folding and fixed shapes; what really depends on the input has to be computed outside the model")
    }

    /// The model holds a number that is not finite.
    pub fn non_finite(&self, message: impl Into<String>) -> diag::Diagnostics {
        let message = format!("`{}`: {}", self.node.op_type, message.into());
        self.diagnostic(Code::NonFinite, message)
            .help("check the training and the export of the model for NaN and infinity")
            .into()
    }

    /// The model is right, and not supported.
    pub fn unsupported(&self, what: impl Into<String>, help: &str) -> diag::Diagnostics {
        self.problem(
            Code::UnsupportedAttribute,
            format!("`{}` is not supported where {}", self.node.op_type, what.into()),
            help,
        )
    }

    fn problem(&self, code: Code, message: String, help: &str) -> diag::Diagnostics {
        self.diagnostic(code, message).help(help).into()
    }

    fn diagnostic(&self, code: Code, message: String) -> Diagnostic {
        let tensor = self.node.outputs.first().cloned().unwrap_or_default();
        Diagnostic::error(code, message).node(&self.node.name).tensor(tensor)
    }
}

/// ONNX: as many outputs as `ceil(input / stride)`; `begin` tells how much of the padding comes first.
fn pad_same(window: &mut Window, input: &[usize], begin: impl Fn(usize) -> usize) {
    for (axis, &size) in input.iter().enumerate() {
        let outputs = size.div_ceil(window.stride[axis]);
        let needed = (outputs.saturating_sub(1)) * window.stride[axis] + window.span(axis);
        let total = needed.saturating_sub(size);
        window.pad_begin[axis] = begin(total);
        window.pad_end[axis] = total - begin(total);
    }
}
