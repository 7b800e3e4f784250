//! The operators: one file each, with everything that is true of the operator on both graphs.
//!
//! A file holds the ONNX import, the float form with its shape rule, the quantized form with its reference
//! evaluation (the oracle), and the step between them. How an operator is computed on a target is not here
//! (see `kernels`).

pub mod add;
pub mod affine;
pub mod arg_max;
pub mod average_pool;
pub mod compare;
pub mod concat;
pub mod constant;
pub mod conv;
pub mod conv_transpose;
pub mod curve;
pub mod depth_to_space;
pub mod div;
pub mod dynamic_dequantize;
pub mod dynamic_quantize;
pub mod export;
pub mod extreme;
pub mod fixed_sum;
pub mod gather;
pub mod import;
pub mod input;
pub mod interleave;
pub mod linear;
pub mod log_softmax;
pub mod lrn;
pub mod magnitude;
pub mod mask;
pub mod matmul;
pub mod max_pool;
pub mod mean;
pub mod mul;
pub mod normalize;
pub mod one_hot;
pub mod pad;
pub mod pick;
pub mod prelu;
pub mod reciprocal_root;
pub mod recurrent;
pub mod reduce;
pub mod requantize;
pub mod resample;
pub mod rescale;
pub mod reshape;
pub mod resize;
pub mod select;
pub mod slice;
pub mod softmax;
pub mod steps;
pub mod sum;
pub mod top_k;
pub mod transpose;
pub mod triangle;
pub mod unary;
pub mod weighted;

use std::fmt;

use self::export::Export;
use crate::calibrate::Ranges;
use crate::diag::Diagnostic;
use crate::ir::{DType, Float, Interval, Numerics, Operator, Params, Quant, QuantType, RealClamp, Shape, Stage};

/// An operator of the float graph.
pub trait FloatOperator: fmt::Debug {
    /// Name of the kind of operator, for example `Conv`.
    fn kind(&self) -> &'static str;
    /// Number of operands; `None` if it varies.
    fn arity(&self) -> Option<usize> {
        Some(1)
    }
    /// Shape of the result, or what is wrong with the operands.
    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String>;
    /// Where scale and zero point of the result come from.
    fn params_rule(&self) -> ParamsRule {
        ParamsRule::Own
    }
    /// The operator on integers.
    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem>;
    /// Writes the operator on reals, without its fused clamp, as ONNX nodes; returns the name of the result.
    fn export(&self, _export: &mut Export, _site: &ExportSite) -> Result<String, Problem> {
        Err(Problem::unsupported(format!("`{}` cannot be written as ONNX yet", self.kind()))
            .help("`ptqc build` can compile it; for other runtimes give the float model"))
    }
    /// Attributes for listings.
    fn describe(&self) -> String {
        String::new()
    }
    /// Whether operands and results can have 16 bits. Where they would, one that cannot computes in 8, with conversions
    /// around it.
    fn is_wide(&self) -> bool {
        false
    }
    /// Whether an operand and the result must have equal scales and zero points, so that elements can be copied or
    /// compared: `quantize` requantizes the operand, in its producer where it can.
    fn shares_params(&self, _port: usize) -> bool {
        false
    }
    /// Whether an operand may hold positions (from ArgMax, or tokens) rather than real numbers.
    fn takes_positions(&self, _port: usize) -> bool {
        false
    }
    /// The fused clamp, if the operator can carry one.
    fn clamp_mut(&mut self) -> Option<&mut RealClamp> {
        None
    }
}

/// An operator of the quantized graph. Its evaluation is the definition of what every kernel returns.
pub trait QuantOperator: fmt::Debug {
    /// Name of the kind of operator, for example `Conv`.
    fn kind(&self) -> &'static str;
    /// Number of operands; `None` if it varies.
    fn arity(&self) -> Option<usize> {
        Some(1)
    }
    /// Shape of the result, or what is wrong with the operands.
    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String>;
    /// Computes the result, row-major.
    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32>;
    /// Attributes for listings.
    fn describe(&self) -> String {
        String::new()
    }
    /// What the layer computes, for the comment above its emitted function: no number that follows from weights.
    fn formula(&self) -> String {
        self.describe()
    }
    /// Whether every element of the result is computed from the elements of the operands at its (broadcast) position alone.
    fn is_elementwise(&self) -> bool {
        false
    }
    /// Whether only kernels that compute every form of the operator can compute this one: its weights have zero points,
    /// or its rounding is not the native profile's.
    fn is_unusual(&self) -> bool {
        false
    }
    /// All values the accumulator can take.
    fn accumulator(&self) -> Option<Interval> {
        None
    }
    /// Multiply-accumulate operations for a result of this shape.
    fn macs(&self, _result: &Shape) -> u64 {
        0
    }
}

/// Where scale and zero point of an operator's result come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ParamsRule {
    /// From the observed range of the result.
    Own,
    /// The operand's: the operator only moves or selects elements.
    SameAsOperand,
    /// Fixed by the operator, because it knows its range. Given for 8 bits; see [`Params::for_type`].
    Fixed(Params),
    /// The result holds positions, not reals.
    Index,
}

/// The surroundings of an operator that is being quantized.
#[derive(Debug)]
pub struct Site<'a> {
    /// Types of the operands.
    pub operands: Vec<&'a QuantType>,
    /// Type of the result.
    pub result: &'a QuantType,
    /// How results are rounded.
    pub numerics: Numerics,
    /// What calibration knows, also of numbers inside of operators.
    pub ranges: &'a Ranges,
    /// Type of the weights, if the operator has some: [`DType::I8`] or [`DType::I4`].
    pub weights: DType,
}

impl Site<'_> {
    /// Scale and zero point of an operand.
    pub fn operand_params(&self, port: usize) -> Result<Params, Problem> {
        let params = self.operands.get(port).and_then(|operand| operand.params());
        params.ok_or_else(|| {
            Problem::unsupported("an operand holds positions (from ArgMax), not real numbers")
                .help("make the positions an output of the model, and compute what follows in the application")
        })
    }

    /// Checks that all operands and the result have 8 bits, where an operator `kind` needs that.
    pub fn expect_int8(&self, kind: &str) -> Result<(), Problem> {
        let mut types = self.operands.iter().copied().chain([self.result]);
        match types.find(|ty| ty.dtype != crate::ir::DType::I8) {
            None => Ok(()),
            Some(other) => Err(Problem::unsupported(format!("{kind} of {} is not supported", other.dtype))
                .help("let the tensors around it have 8 bits")),
        }
    }

    /// Scale and zero point of the result.
    pub fn result_params(&self) -> Params {
        self.result.params().expect("only ArgMax has a result without params")
    }
}

/// The surroundings of an operator that is being written as ONNX.
#[derive(Debug)]
pub struct ExportSite<'a> {
    /// The operator on integers.
    pub op: &'a QuantOp,
    /// Names of the operands, which are reals.
    pub operands: &'a [String],
    /// Types of the operands.
    pub types: Vec<&'a QuantType>,
    /// Type of the result.
    pub result: &'a QuantType,
}

impl ExportSite<'_> {
    /// Name of the operand that an operator with one operand has.
    pub fn x(&self) -> &str {
        &self.operands[0]
    }

    /// Scale and zero point of an operand and of the result.
    pub fn params(&self) -> Result<(Params, Params), Problem> {
        let input = self.types.first().and_then(|ty| ty.params());
        input.zip(self.result.params()).ok_or_else(|| Problem::unsupported("an operand holds positions"))
    }
}

/// Why an operator cannot be quantized; the caller knows the node.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// Kind of problem.
    pub code: crate::diag::Code,
    /// One sentence.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl Problem {
    /// Something this version cannot lower.
    pub fn unsupported(message: impl Into<String>) -> Problem {
        Problem { code: crate::diag::Code::UnsupportedOp, message: message.into(), help: None }
    }

    /// The same with a help line.
    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }

    /// As a diagnostic about a tensor.
    pub fn at(self, node: &str, tensor: &str) -> Diagnostic {
        let diagnostic = Diagnostic::error(self.code, self.message).node(node).tensor(tensor);
        match self.help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        }
    }
}

/// A tensor with its values, for evaluation.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    /// Its type.
    pub ty: &'a QuantType,
    /// Its elements, row-major.
    pub data: &'a [i32],
}

impl Operand<'_> {
    /// The integer that stands for 0.
    pub fn zero_point(&self) -> i32 {
        self.ty.params().map_or(0, |params| params.zero_point)
    }
}

/// Declares an enum of operators that dereferences to the operator it holds. A new operator is one line below.
macro_rules! ops {
    ($trait:ident, $enum:ident, $doc:literal, $($variant:ident($ty:ty)),* $(,)?) => {
        #[doc = $doc]
        #[derive(Debug, Clone)]
        pub enum $enum {
            $(#[doc = concat!("See [`", stringify!($ty), "`].")] $variant($ty),)*
        }

        $(impl From<$ty> for $enum {
            fn from(op: $ty) -> Self {
                $enum::$variant(op)
            }
        })*

        impl std::ops::Deref for $enum {
            type Target = dyn $trait;

            fn deref(&self) -> &Self::Target {
                match self { $($enum::$variant(op) => op,)* }
            }
        }

        impl std::ops::DerefMut for $enum {
            fn deref_mut(&mut self) -> &mut Self::Target {
                match self { $($enum::$variant(op) => op,)* }
            }
        }
    };
}

ops!(
    FloatOperator,
    FloatOp,
    "An operator on real numbers, with ONNX's meaning.",
    Input(input::Input),
    Constant(constant::Constant),
    Conv(conv::Conv),
    Linear(linear::Linear),
    Affine(affine::Affine),
    Unary(unary::Unary),
    Add(add::Add),
    Mul(mul::Mul),
    MatMul(matmul::MatMul),
    Mask(mask::Mask),
    Recurrent(recurrent::Recurrent),
    Normalize(normalize::Normalize),
    MaxPool(max_pool::MaxPool),
    AveragePool(average_pool::AveragePool),
    Mean(mean::Mean),
    Softmax(softmax::Softmax),
    ArgMax(arg_max::ArgMax),
    Concat(concat::Concat),
    Slice(slice::Slice),
    ConvTranspose(conv_transpose::ConvTranspose),
    Interleave(interleave::Interleave),
    Reduce(reduce::Reduce),
    Resample(resample::Resample),
    Extreme(extreme::Extreme),
    Sum(sum::Sum),
    Select(select::Select),
    Compare(compare::Compare),
    Div(div::Div),
    PRelu(prelu::PRelu),
    Gather(gather::Gather),
    Pick(pick::Pick),
    TopK(top_k::TopK),
    OneHot(one_hot::OneHot),
    LogSoftmax(log_softmax::LogSoftmax),
    Lrn(lrn::Lrn),
    Pad(pad::Pad),
    Transpose(transpose::Transpose),
    Reshape(reshape::Reshape),
    Requantize(requantize::Requantize),
);

ops!(
    QuantOperator,
    QuantOp,
    "An operator on integers, with the meaning the numeric contract gives it.",
    Input(input::QInput),
    Constant(constant::QConstant),
    Conv(conv::QConv),
    Linear(linear::QLinear),
    Affine(affine::QAffine),
    Table(unary::Table),
    Curve(curve::Curve),
    Rescale(rescale::Rescale),
    Magnitude(magnitude::Magnitude),
    DynamicQuantize(dynamic_quantize::DynamicQuantize),
    DynamicDequantize(dynamic_dequantize::DynamicDequantize),
    Add(add::QAdd),
    Mul(mul::QMul),
    MatMul(matmul::QMatMul),
    Normalize(normalize::QNormalize),
    Recurrent(recurrent::QRecurrent),
    MaxPool(max_pool::QMaxPool),
    AveragePool(average_pool::QAveragePool),
    Mean(mean::QMean),
    Softmax(softmax::QSoftmax),
    ArgMax(arg_max::QArgMax),
    Concat(concat::QConcat),
    Slice(slice::QSlice),
    Interleave(interleave::QInterleave),
    Reduce(reduce::QReduce),
    Resample(resample::QResample),
    Extreme(extreme::QExtreme),
    Sum(sum::QSum),
    Select(select::QSelect),
    Compare(compare::QCompare),
    Div(div::QDiv),
    PRelu(prelu::QPRelu),
    Gather(gather::QGather),
    Pick(pick::QPick),
    TopK(top_k::QTopK),
    OneHot(one_hot::QOneHot),
    LogSoftmax(log_softmax::QLogSoftmax),
    Lrn(lrn::QLrn),
    Pad(pad::QPad),
    Transpose(transpose::QTranspose),
    Reshape(reshape::QReshape),
);

impl QuantOp {
    /// The weights of an operator that has some.
    pub fn weighted(&self) -> Option<&weighted::Weighted> {
        match self {
            QuantOp::Conv(conv) => Some(&conv.weighted),
            QuantOp::Linear(linear) => Some(&linear.weighted),
            _ => None,
        }
    }
}

impl Stage for Float {
    type Op = FloatOp;
    type Value = Shape;
    const NAME: &'static str = "float";
}

impl Stage for Quant {
    type Op = QuantOp;
    type Value = QuantType;
    const NAME: &'static str = "quant";
}

impl Operator<Shape> for FloatOp {
    fn kind(&self) -> &'static str {
        (**self).kind()
    }

    fn describe(&self) -> String {
        (**self).describe()
    }

    fn check(&self, operands: &[&Shape], result: &Shape) -> Result<(), String> {
        expect_arity(self.arity(), operands.len())?;
        expect_shape(&self.infer(operands)?, result)
    }
}

impl Operator<QuantType> for QuantOp {
    fn kind(&self) -> &'static str {
        (**self).kind()
    }

    fn describe(&self) -> String {
        (**self).describe()
    }

    fn check(&self, operands: &[&QuantType], result: &QuantType) -> Result<(), String> {
        expect_arity(self.arity(), operands.len())?;
        let shapes: Vec<&Shape> = operands.iter().map(|operand| &operand.shape).collect();
        expect_shape(&self.infer(&shapes)?, &result.shape)?;
        if let Some(bound) = self.accumulator().filter(|bound| !is_accumulator(*bound)) {
            return Err(format!(
                "the accumulator can take {}..={}, more than {ACCUMULATOR_BITS} bits",
                bound.lo, bound.hi
            ));
        }
        let skewed = |ty: &&QuantType| ty.dtype.bits() > 8 && ty.params().is_some_and(|params| params.zero_point != 0);
        match operands.iter().copied().chain([result]).find(skewed) {
            Some(ty) => Err(format!("{ty} has more than 8 bits and a zero point other than 0")),
            None => Ok(()),
        }
    }
}

/// Most bits of an accumulator: with so many, its requantization can be computed in 64 bits; see
/// [`Multiplier::accepts`](crate::ir::Multiplier::accepts).
const ACCUMULATOR_BITS: u32 = 47;

/// Whether an accumulator with these values can be requantized. Those of more than 32 bits are computed in 64.
pub fn is_accumulator(bound: Interval) -> bool {
    let end = 1i64 << (ACCUMULATOR_BITS - 1);
    Interval::new(-end, end - 1).contains(bound)
}

/// Whether every value of an accumulator is an `i32`.
pub fn fits_i32(bound: Interval) -> bool {
    Interval::new(i32::MIN, i32::MAX).contains(bound)
}

fn expect_arity(arity: Option<usize>, given: usize) -> Result<(), String> {
    match arity {
        Some(arity) if arity != given => Err(format!("needs {arity} operands and has {given}")),
        _ => Ok(()),
    }
}

fn expect_shape(inferred: &Shape, declared: &Shape) -> Result<(), String> {
    if inferred == declared {
        return Ok(());
    }
    Err(format!("has shape {declared}, its operands give {inferred}"))
}
