//! Quantization that the model itself prescribes (ONNX `QuantizeLinear`, `DequantizeLinear`).
//!
//! A tensor between the two operators is the same tensor of reals with given parameters, so a `Requantize` stands where
//! the model quantizes, and nothing where it dequantizes. Most often the operator before it computes with these
//! parameters at once (`quantize::params` sees to that) and no code is left of it; else it is a table.

use super::export::Export;
use super::import::{Constant, ConstantData, NodeImport, OnnxNode, Value};
use super::unary::{self, Table, Unary, UnaryFn};
use super::{ExportSite, FloatOp, FloatOperator, ParamsRule, Problem, QuantOp, Site};
use crate::diag;
use crate::ir::{DType, Float, Graph, NodeId, Params, Scale, Shape, Steps};

/// An integer type of ONNX that quantized tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// int4.
    I4,
    /// uint4.
    U4,
    /// int8.
    I8,
    /// uint8.
    U8,
    /// int16.
    I16,
    /// uint16.
    U16,
}

impl Element {
    /// From the number of an ONNX element type.
    pub fn from_onnx(number: i32) -> Option<Element> {
        Some(match number {
            2 => Element::U8,
            3 => Element::I8,
            4 => Element::U16,
            5 => Element::I16,
            21 => Element::U4,
            22 => Element::I4,
            _ => return None,
        })
    }

    /// Name in ONNX.
    pub fn name(self) -> &'static str {
        match self {
            Element::I4 => "int4",
            Element::U4 => "uint4",
            Element::I8 => "int8",
            Element::U8 => "uint8",
            Element::I16 => "int16",
            Element::U16 => "uint16",
        }
    }

    /// What is subtracted from an unsigned integer, and from its zero point, so that signed integers mean the same.
    pub fn offset(self) -> i32 {
        match self {
            Element::I4 | Element::I8 | Element::I16 => 0,
            Element::U4 => 8,
            Element::U8 => 128,
            Element::U16 => 32768,
        }
    }

    /// Type of the signed integers.
    pub fn dtype(self) -> DType {
        match self {
            Element::I4 | Element::U4 => DType::I4,
            Element::I8 | Element::U8 => DType::I8,
            Element::I16 | Element::U16 => DType::I16,
        }
    }
}

/// `clamp(round_half_even(x / scale) + zero_point)`, as reals.
#[derive(Debug, Clone, PartialEq)]
pub struct Requantize {
    /// Scale, and zero point of the signed integers.
    pub params: Params,
    /// The type in the model.
    pub element: Element,
}

impl Requantize {
    /// Whether every integer of the result's type can occur.
    pub fn is_full(&self) -> bool {
        self.element.dtype() != DType::I4
    }

    /// The smallest and the largest real that the integers stand for.
    pub fn reach(&self) -> (f64, f64) {
        let dtype = self.element.dtype();
        (self.params.dequantize(dtype.min()), self.params.dequantize(dtype.max()))
    }

    /// The table from integers with the parameters `input`: the arithmetic of 32-bit floats that ONNX defines.
    fn table(&self, input: Params) -> Table {
        let dtype = self.element.dtype();
        let entry = |q: i32| {
            let real = input.scale.as_f32() * (q - input.zero_point) as f32;
            let steps = (real / self.params.scale.as_f32()).round_ties_even();
            // Both operands are far from the bounds of 64 bits, unless the quotient saturates.
            (steps as i64).saturating_add(self.params.zero_point.into()).clamp(dtype.min().into(), dtype.max().into())
        };
        Table { entries: (-128..=127).map(|q| entry(q) as i16).collect() }
    }
}

/// The quantization that the elements of a node already have: a node that only moves elements keeps its operand's.
pub fn quantization_of(graph: &Graph<Float>, id: NodeId) -> Option<&Requantize> {
    let operands = graph.operands(id);
    match &graph.node(id).op {
        FloatOp::Requantize(requantize) => Some(requantize),
        FloatOp::Concat(_) => {
            let first = quantization_of(graph, *operands.first()?)?;
            operands[1..].iter().all(|&other| quantization_of(graph, other) == Some(first)).then_some(first)
        }
        FloatOp::Pad(pad) if pad.fill() != 0.0 => None,
        op if op.params_rule() == ParamsRule::SameAsOperand => quantization_of(graph, *operands.first()?),
        _ => None,
    }
}

/// Imports `QuantizeLinear`.
pub fn import_quantize(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let requantize = described(cx, None)?;
    let id = cx.finish(0, requantize, &[x])?;
    // What is observed of the integers is not what is observed of the reals.
    cx.graph.node_mut(id).observed = None;
    Ok(())
}

/// Imports `DequantizeLinear` of a tensor that is computed.
pub fn import_dequantize(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let Some(given) = quantization_of(cx.graph, x).cloned() else {
        return Err(cx.unsupported(
            "its input is not a quantized tensor",
            "quantize the tensor with QuantizeLinear before it; integers that come from elsewhere have no scale",
        ));
    };
    let wanted = described(cx, Some(given.element))?;
    if wanted == given {
        cx.define(0, x);
        name_by_reals(cx, x);
        return Ok(());
    }
    // The same integers with another meaning.
    let scale = wanted.params.scale.get() / given.params.scale.get();
    let zeros = f64::from(given.params.zero_point - wanted.params.zero_point);
    let meaning = UnaryFn::Linear { scale: scale as f32, shift: (zeros * wanted.params.scale.get()) as f32 };
    let y = cx.emit(Unary::new(meaning), &[x])?;
    cx.finish(0, wanted, &[y]).map(drop)
}

/// The first dequantized tensor is what an observer sees of a quantized one.
fn name_by_reals(cx: &mut NodeImport, x: NodeId) {
    let name = &cx.node.outputs[0];
    let node = cx.graph.node_mut(x);
    if matches!(node.op, FloatOp::Requantize(_)) && node.observed.is_none() {
        node.name.clone_from(name);
        node.observed = Some(name.clone());
    }
}

/// What scale and zero point (inputs 1 and 2) say. `known` is the type of the integers if it is known already.
fn described(cx: &NodeImport, known: Option<Element>) -> diag::Result<Requantize> {
    let scale = cx.float_constant(1)?;
    let zeros = if cx.optional(2).is_some() { cx.int_constant(2)? } else { vec![0] };
    let (&[scale], &[zero]) = (&scale.data[..], &zeros[..]) else {
        return Err(cx.unsupported(
            "a computed tensor has several scales",
            "quantize activations per tensor; only weights can have a scale for each channel",
        ));
    };
    let stored = cx.node.inputs.get(2).and_then(|name| cx.facts.integers.elements.get(name)).copied();
    let element = element(cx, known, stored)?;
    let scale = positive(cx, scale)?;
    let zero_point = i32::try_from(zero).ok().and_then(|zero| zero.checked_sub(element.offset()));
    let (lo, hi) = (element.dtype().min(), element.dtype().max());
    match zero_point.filter(|zero_point| (lo..=hi).contains(zero_point)) {
        Some(zero_point) => Ok(Requantize { params: Params { scale, zero_point }, element }),
        None => Err(cx.invalid(format!("its zero point {zero} is no {}", element.name()))),
    }
}

/// The type of the integers: that of the zero point, of the attribute, or uint8.
fn element(cx: &NodeImport, known: Option<Element>, stored: Option<Element>) -> diag::Result<Element> {
    let declared = match cx.int_or("output_dtype", 0)? {
        0 => None,
        number => match i32::try_from(number).ok().and_then(Element::from_onnx) {
            Some(element) => Some(element),
            None => {
                return Err(cx.unsupported("it quantizes to a type that is no integer", "quantize to int8 or uint8"));
            }
        },
    };
    if cx.optional(2).is_some() && stored.is_none() {
        return Err(cx.unsupported(
            "its zero point is not stored as an integer of 4, 8 or 16 bits",
            "store the zero point as an initializer of type int8 or uint8",
        ));
    }
    let element = stored.or(declared).or(known).unwrap_or(Element::U8);
    match [known, declared].into_iter().flatten().find(|&other| other != element) {
        None => Ok(element),
        Some(other) => {
            Err(cx.invalid(format!("its zero point is {} and the integers are {}", element.name(), other.name())))
        }
    }
}

fn positive(cx: &NodeImport, scale: f32) -> diag::Result<Scale> {
    Scale::new(f64::from(scale)).ok_or_else(|| cx.invalid(format!("its scale is {scale:?}, which no step can be")))
}

/// The steps of a constant that `node` computes: of dequantized integers, or of such a constant that is only moved.
pub fn steps(cx: &NodeImport, node: &OnnxNode, result: &Shape) -> diag::Result<Option<Steps>> {
    let Some(Value::Constant(x)) = cx.optional(0) else { return Ok(None) };
    if node.op_type == "DequantizeLinear" {
        return dequantized_steps(cx, &x);
    }
    let Some(steps) = &x.steps else { return Ok(None) };
    Ok(match node.op_type.as_str() {
        "Identity" | "Cast" | "Dropout" => Some(steps.clone()),
        "Transpose" => {
            let reversed = || (0..x.shape.rank()).rev().collect();
            Some(steps.transposed(&cx.usizes("perm")?.unwrap_or_else(reversed)))
        }
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => steps.reshaped(&x.shape, result),
        _ => None,
    })
}

fn dequantized_steps(cx: &NodeImport, x: &Constant) -> diag::Result<Option<Steps>> {
    let scale = cx.float_constant(1)?;
    for &scale in &scale.data {
        positive(cx, scale)?;
    }
    if matches!(x.data, ConstantData::Float(_)) && cx.facts.integers.tensors.is_empty() {
        return Err(cx.invalid("its input holds no integers"));
    }
    match scale.shape.rank() {
        _ if scale.data.len() == 1 => Ok(Some(Steps { scales: scale.data, axis: None })),
        1 => {
            let axis = cx.axis(cx.int_or("axis", 1)?, x.shape.rank())?;
            if x.shape.dims()[axis] != scale.data.len() {
                let message = format!("axis {axis} of {} does not have {} scales", x.shape, scale.data.len());
                return Err(cx.invalid(message));
            }
            Ok(Some(Steps { scales: scale.data, axis: Some(axis) }))
        }
        // A scale for each block along an axis: no row has one step.
        _ => Ok(None),
    }
}

impl FloatOperator for Requantize {
    fn kind(&self) -> &'static str {
        "Requantize"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        Ok(operands[0].clone())
    }

    fn params_rule(&self) -> ParamsRule {
        ParamsRule::Fixed(self.params)
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        if self.element.dtype() == DType::I16 && self.params.zero_point != 0 {
            let message = format!("the model quantizes this tensor to {} with a zero point", self.element.name());
            return Err(Problem::unsupported(message).help("quantize activations of 16 bits symmetrically"));
        }
        match site.operands[0].dtype.bits().max(site.result.dtype.bits()) {
            0..=8 => Ok(self.table(site.operand_params(0)?).into()),
            _ => unary::convert(site.operands[0], site.result),
        }
    }

    fn export(&self, _export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        Ok(site.x().to_owned())
    }

    fn describe(&self) -> String {
        format!("{} as {}", self.params, self.element.name())
    }
}
