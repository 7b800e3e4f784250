//! Quantized models on real numbers, for tract only: quantized tensors hold their integers as reals, and
//! `QuantizeLinear` and `DequantizeLinear` become arithmetic.
//!
//! tract's own rewrites of these operators change results (a Softmax between them, for one), and it knows neither all
//! element types nor blocks of scales. Reals it handles well.

use std::collections::{BTreeMap, BTreeSet};

use tract_onnx::pb;

use super::tensors::{Stored, decode, floats, integer, integer_of, node, stored};
use crate::ops::requantize::Element;

/// The model with arithmetic instead of quantization. Where a scale is not stored in the model, nothing is changed: import
/// refuses the operator.
pub fn rewritten(mut proto: pb::ModelProto) -> pb::ModelProto {
    let Some(graph) = &mut proto.graph else { return proto };
    let mut stored = stored(graph);
    let mut rewriter = Rewriter { computed: BTreeMap::new(), nodes: vec![], initializers: vec![] };
    for node in std::mem::take(&mut graph.node) {
        let done = match node.op_type.as_str() {
            "QuantizeLinear" => rewriter.quantize(&node, &stored),
            "DequantizeLinear" => rewriter.dequantize(&node, &stored),
            _ => None,
        };
        if done.is_none() {
            rewriter.nodes.push(node);
        }
        stored.append(&mut rewriter.computed);
    }
    graph.node = rewriter.nodes;
    graph.initializer.iter_mut().for_each(widen);
    graph.initializer.extend(rewriter.initializers);
    proto
}

/// Integers of 4 bits, which tract does not know, in 8.
fn widen(tensor: &mut pb::TensorProto) {
    if let (21 | 22, Some(stored)) = (tensor.data_type, decode(tensor)) {
        tensor.data_type = if tensor.data_type == 21 { 2 } else { 3 };
        tensor.raw_data = stored.data.iter().map(|&value| value as i8 as u8).collect();
        tensor.int32_data.clear();
    }
}

/// Tensors that hold integers which stand for reals: what `QuantizeLinear` computes, and what only moves it.
pub fn integers(graph: &pb::GraphProto) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for node in &graph.node {
        let moved = node.input.first().is_some_and(|input| found.contains(input));
        if node.op_type == "QuantizeLinear" || moved && moves(&node.op_type) {
            found.extend(node.output.iter().cloned());
        }
    }
    found
}

/// Whether an operator only moves or selects elements, and so does not care what integers stand for.
pub fn moves(op_type: &str) -> bool {
    const MOVES: [&str; 19] = [
        "Concat",
        "DepthToSpace",
        "Dropout",
        "Expand",
        "Flatten",
        "Gather",
        "GlobalMaxPool",
        "Identity",
        "MaxPool",
        "Pad",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "TopK",
        "Transpose",
        "Unsqueeze",
    ];
    MOVES.contains(&op_type)
}

/// Whether a tensor is a step of the arithmetic, not one of the model's.
pub fn is_step(tensor: &str) -> bool {
    tensor.contains(STEP)
}

/// Part of the names of such tensors.
pub(super) const STEP: &str = "#step-";

struct Rewriter {
    /// Constants that the node before this point has computed.
    computed: BTreeMap<String, Stored>,
    nodes: Vec<pb::NodeProto>,
    initializers: Vec<pb::TensorProto>,
}

/// Scale and zero point, for each element of a tensor or for all.
struct Params<'a> {
    scale: &'a Stored,
    zero: Option<&'a Stored>,
    axis: Option<i64>,
    block: i64,
}

impl Params<'_> {
    /// Scale and zero point of one element.
    fn at(&self, flat: usize, dims: &[usize]) -> Option<(f64, f64)> {
        let index = match self.scale.data.len() {
            1 => 0,
            _ => self.index(flat, dims)?,
        };
        let zero = self.zero.map_or(Some(&0.0), |zero| match zero.data.len() {
            1 => zero.data.first(),
            _ => zero.data.get(index),
        });
        Some((*self.scale.data.get(index)?, *zero?))
    }

    /// Position of the scale of an element: along the axis, or in a tensor with a scale for each block of the axis.
    fn index(&self, flat: usize, dims: &[usize]) -> Option<usize> {
        let axis = self.axis?;
        let axis = usize::try_from(if axis < 0 { axis + dims.len() as i64 } else { axis }).ok()?;
        let inner: usize = dims.get(axis + 1..)?.iter().product();
        let at = flat / inner.max(1) % dims[axis];
        if self.scale.dims.len() < 2 {
            return Some(at);
        }
        let block = usize::try_from(self.block).ok().filter(|&block| block > 0)?;
        let outer = flat / inner.max(1) / dims[axis];
        Some((outer * self.scale.dims.get(axis)? + at / block) * inner + flat % inner.max(1))
    }
}

impl Rewriter {
    fn quantize(&mut self, node: &pb::NodeProto, stored: &BTreeMap<String, Stored>) -> Option<()> {
        let (x, y) = (node.input.first()?, node.output.first()?);
        let params = params(node, stored)?;
        let element = match (params.zero, integer_of(node, "output_dtype")) {
            (Some(zero), _) => Element::from_onnx(zero.element_type)?,
            (None, Some(number)) if number != 0 => Element::from_onnx(i32::try_from(number).ok()?)?,
            (None, _) => Element::U8,
        };
        let (lo, hi) = (element.dtype().min() + element.offset(), element.dtype().max() + element.offset());
        if let Some(x) = stored.get(x) {
            let quantized = x.data.iter().enumerate().map(|(flat, &x_at)| {
                let (scale, zero) = params.at(flat, &x.dims)?;
                let steps = (x_at as f32 / scale as f32).round_ties_even();
                Some((f64::from(steps) + zero).clamp(lo.into(), hi.into()))
            });
            let data = quantized.collect::<Option<Vec<f64>>>()?;
            self.store(y, Stored { dims: x.dims.clone(), data, element_type: 1 });
            return Some(());
        }
        let zero = params.zero.map_or(Some(0.0), Stored::scalar)?;
        let ratio = self.binary("Div", x, params.scale.scalar()?, y);
        let rounded = self.node("Round", &[&ratio], y);
        let moved = self.binary("Add", &rounded, zero, y);
        let above = self.binary("Max", &moved, lo.into(), y);
        let hi = self.number(hi.into(), y);
        self.nodes.push(super::tensors::node("Min", &[&above, &hi], y, vec![]));
        Some(())
    }

    fn dequantize(&mut self, node: &pb::NodeProto, stored: &BTreeMap<String, Stored>) -> Option<()> {
        let (x, y) = (node.input.first()?, node.output.first()?);
        let params = params(node, stored)?;
        if let Some(x) = stored.get(x) {
            let dequantized = x.data.iter().enumerate().map(|(flat, &q)| {
                let (scale, zero) = params.at(flat, &x.dims)?;
                Some(f64::from((q - zero) as f32 * scale as f32))
            });
            let data = dequantized.collect::<Option<Vec<f64>>>()?;
            self.store(y, Stored { dims: x.dims.clone(), data, element_type: 1 });
            return Some(());
        }
        let zero = params.zero.map_or(Some(0.0), Stored::scalar)?;
        let scale = params.scale.scalar()?;
        let real = self.cast(x, y);
        let difference = self.binary("Sub", &real, zero, y);
        let scale = self.number(scale, y);
        self.nodes.push(super::tensors::node("Mul", &[&difference, &scale], y, vec![]));
        Some(())
    }

    fn store(&mut self, name: &str, tensor: Stored) {
        self.initializers.push(floats(name, &tensor.dims, tensor.data.iter().map(|&value| value as f32)));
        self.computed.insert(name.to_owned(), tensor);
    }

    fn cast(&mut self, x: &str, y: &str) -> String {
        let name = self.fresh(y);
        self.nodes.push(node("Cast", &[x], &name, vec![integer("to", 1)]));
        name
    }

    fn binary(&mut self, op_type: &str, x: &str, number: f64, y: &str) -> String {
        let number = self.number(number, y);
        self.node(op_type, &[x, &number], y)
    }

    fn node(&mut self, op_type: &str, inputs: &[&str], y: &str) -> String {
        let name = self.fresh(y);
        self.nodes.push(node(op_type, inputs, &name, vec![]));
        name
    }

    fn number(&mut self, value: f64, y: &str) -> String {
        let name = self.fresh(y);
        self.initializers.push(floats(&name, &[], [value as f32]));
        name
    }

    fn fresh(&self, y: &str) -> String {
        format!("{y}{STEP}{}", self.nodes.len() + self.initializers.len())
    }
}

fn params<'a>(node: &pb::NodeProto, stored: &'a BTreeMap<String, Stored>) -> Option<Params<'a>> {
    let zero = match node.input.get(2).filter(|name| !name.is_empty()) {
        Some(name) => Some(stored.get(name)?),
        None => None,
    };
    let axis = Some(integer_of(node, "axis").unwrap_or(1));
    Some(Params {
        scale: stored.get(node.input.get(1)?)?,
        zero,
        axis,
        block: integer_of(node, "block_size").unwrap_or(0),
    })
}
