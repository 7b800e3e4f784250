//! Functions of one number (Relu, Clip, Sigmoid, ...). On int8 every chain of them is one table of 256 entries; on int16
//! it is a multiplication with bounds where that is exact ([`Rescale`]), else an interpolated table ([`Curve`]).

use super::curve::Curve;
use super::export::Export;
use super::import::{Attribute, NodeImport, Value};
use super::rescale::Rescale;
use super::{ExportSite, FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site};
use crate::calibrate::Ranges;
use crate::diag;
use crate::ir::{DType, Numerics, Params, QuantType, RealClamp, Shape};

/// A function of one real number.
#[derive(Debug, Clone, PartialEq)]
pub enum UnaryFn {
    /// Relu, Clip: the nearest number within the bounds.
    Clamp(RealClamp),
    /// `x` if `x >= 0`, else `slope * x`.
    LeakyRelu {
        /// The slope below 0.
        slope: f32,
    },
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// `clamp(alpha * x + beta, 0, 1)`.
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Value at 0.
        beta: f32,
    },
    /// `scale * x + shift`.
    Linear {
        /// Factor.
        scale: f32,
        /// Addend.
        shift: f32,
    },
    /// `x * f(x)`: HardSwish, SiLU and the like.
    Gated(Vec<UnaryFn>),
    /// A function without parameters.
    Plain(Plain),
    /// `x` if `x >= 0`, else `alpha * (exp(x / width) - 1)`, all times `gamma`: Elu, Celu and Selu.
    Elu {
        /// The limit far below 0, before the factor.
        alpha: f32,
        /// How far the exponential reaches.
        width: f32,
        /// Factor.
        gamma: f32,
    },
    /// `x` if `x > threshold`, else 0.
    ThresholdedRelu {
        /// The threshold.
        threshold: f32,
    },
    /// `x + bias` below `-lambda`, `x - bias` above `lambda`, else 0.
    Shrink {
        /// Where it begins.
        lambda: f32,
        /// How far it shifts.
        bias: f32,
    },
    /// `x` to a constant power.
    Power {
        /// The exponent.
        exponent: f32,
    },
    /// A constant to the power `x`.
    PowerOf {
        /// The base.
        base: f32,
    },
    /// 1 if the comparison with a constant holds, else 0.
    Compare {
        /// The comparison.
        relation: Relation,
        /// What `x` is compared with.
        value: f32,
    },
    /// A sum or product of two functions of the same number.
    Joined {
        /// What joins them.
        join: Join,
        /// The first.
        a: Vec<UnaryFn>,
        /// The second.
        b: Vec<UnaryFn>,
    },
}

/// What joins two functions of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// `a(x) + b(x)`.
    Add,
    /// `a(x) - b(x)`.
    Subtract,
    /// `a(x) * b(x)`.
    Multiply,
}

/// Functions of ONNX without parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// Absolute value.
    Abs,
    /// Inverse cosine.
    Acos,
    /// Inverse hyperbolic cosine.
    Acosh,
    /// Inverse sine.
    Asin,
    /// Inverse hyperbolic sine.
    Asinh,
    /// Inverse tangent.
    Atan,
    /// Inverse hyperbolic tangent.
    Atanh,
    /// Rounded up.
    Ceil,
    /// Cosine.
    Cos,
    /// Hyperbolic cosine.
    Cosh,
    /// Error function.
    Erf,
    /// `e` to the power `x`.
    Exp,
    /// Rounded down.
    Floor,
    /// `x * (1 + erf(x / sqrt(2))) / 2`.
    Gelu,
    /// `x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2`.
    GeluTanh,
    /// Natural logarithm.
    Log,
    /// `x * tanh(ln(1 + exp(x)))`.
    Mish,
    /// `1 / x`.
    Reciprocal,
    /// The nearest integer, ties to even.
    Round,
    /// -1, 0 or 1.
    Sign,
    /// Sine.
    Sin,
    /// Hyperbolic sine.
    Sinh,
    /// `ln(1 + exp(x))`.
    Softplus,
    /// `x / (1 + abs(x))`.
    Softsign,
    /// Square root.
    Sqrt,
    /// Tangent.
    Tan,
    /// Rounded towards 0.
    Trunc,
}

/// A comparison of two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less than.
    Less,
    /// Less than or equal.
    LessOrEqual,
    /// Greater than.
    Greater,
    /// Greater than or equal.
    GreaterOrEqual,
}

impl Relation {
    /// Whether it holds.
    pub fn holds<T: PartialOrd>(self, a: &T, b: &T) -> bool {
        match self {
            Relation::Equal => a == b,
            Relation::NotEqual => a != b,
            Relation::Less => a < b,
            Relation::LessOrEqual => a <= b,
            Relation::Greater => a > b,
            Relation::GreaterOrEqual => a >= b,
        }
    }

    /// The relation that holds for `(b, a)` where this one holds for `(a, b)`.
    pub fn swapped(self) -> Relation {
        match self {
            Relation::Equal | Relation::NotEqual => self,
            Relation::Less => Relation::Greater,
            Relation::LessOrEqual => Relation::GreaterOrEqual,
            Relation::Greater => Relation::Less,
            Relation::GreaterOrEqual => Relation::LessOrEqual,
        }
    }

    /// As mathematicians write it, in ASCII.
    pub fn symbol(self) -> &'static str {
        match self {
            Relation::Equal => "==",
            Relation::NotEqual => "!=",
            Relation::Less => "<",
            Relation::LessOrEqual => "<=",
            Relation::Greater => ">",
            Relation::GreaterOrEqual => ">=",
        }
    }
}

impl Plain {
    /// The function as ONNX nodes; those that came after operator set 17 are written out.
    fn export(self, export: &mut Export, x: &str) -> Result<String, Problem> {
        let written_out = matches!(self, Plain::Gelu | Plain::GeluTanh | Plain::Mish | Plain::Trunc);
        match self {
            Plain::Gelu => {
                let (root, one, half) = (
                    export.floats(&[], vec![std::f32::consts::FRAC_1_SQRT_2]),
                    export.floats(&[], vec![1.0]),
                    export.floats(&[], vec![0.5]),
                );
                let scaled = export.node("Mul", &[x, &root], &[]);
                let erf = export.node("Erf", &[&scaled], &[]);
                let sum = export.node("Add", &[&erf, &one], &[]);
                let product = export.node("Mul", &[x, &sum], &[]);
                Ok(export.node("Mul", &[&product, &half], &[]))
            }
            Plain::Mish => {
                let softplus = export.node("Softplus", &[x], &[]);
                let tanh = export.node("Tanh", &[&softplus], &[]);
                Ok(export.node("Mul", &[x, &tanh], &[]))
            }
            _ if written_out => Err(Problem::unsupported(format!("`{self:?}` has no form in operator set 17"))),
            // The names are ONNX's.
            _ => Ok(export.node(&format!("{self:?}"), &[x], &[])),
        }
    }

    fn apply(self, x: f64) -> f64 {
        use std::f64::consts::{FRAC_1_SQRT_2, PI};
        match self {
            Plain::Abs => x.abs(),
            Plain::Acos => x.acos(),
            Plain::Acosh => x.acosh(),
            Plain::Asin => x.asin(),
            Plain::Asinh => x.asinh(),
            Plain::Atan => x.atan(),
            Plain::Atanh => x.atanh(),
            Plain::Ceil => x.ceil(),
            Plain::Cos => x.cos(),
            Plain::Cosh => x.cosh(),
            Plain::Erf => libm::erf(x),
            Plain::Exp => x.exp(),
            Plain::Floor => x.floor(),
            Plain::Gelu => 0.5 * x * (1.0 + libm::erf(x * FRAC_1_SQRT_2)),
            Plain::GeluTanh => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
            Plain::Log => x.ln(),
            Plain::Mish => x * softplus(x).tanh(),
            Plain::Reciprocal => 1.0 / x,
            Plain::Round => x.round_ties_even(),
            Plain::Sign => f64::from(i8::from(x > 0.0) - i8::from(x < 0.0)),
            Plain::Sin => x.sin(),
            Plain::Sinh => x.sinh(),
            Plain::Softplus => softplus(x),
            Plain::Softsign => x / (1.0 + x.abs()),
            Plain::Sqrt => x.sqrt(),
            Plain::Tan => x.tan(),
            Plain::Trunc => x.trunc(),
        }
    }
}

/// `ln(1 + exp(x))` without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Functions applied one after the other.
#[derive(Debug, Clone)]
pub struct Unary {
    /// The first function comes first.
    pub chain: Vec<UnaryFn>,
}

/// `entries[q + 128]`.
#[derive(Debug, Clone)]
pub struct Table {
    /// Results for -128 to 127; they fit the result's type.
    pub entries: Vec<i16>,
}

impl UnaryFn {
    /// The function's value.
    pub fn apply(&self, x: f64) -> f64 {
        match self {
            UnaryFn::Clamp(clamp) => x.max(f64::from(clamp.lo)).min(f64::from(clamp.hi)),
            UnaryFn::LeakyRelu { slope } => {
                if x >= 0.0 {
                    x
                } else {
                    f64::from(*slope) * x
                }
            }
            UnaryFn::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            UnaryFn::Tanh => x.tanh(),
            UnaryFn::HardSigmoid { alpha, beta } => (f64::from(*alpha) * x + f64::from(*beta)).clamp(0.0, 1.0),
            UnaryFn::Linear { scale, shift } => f64::from(*scale) * x + f64::from(*shift),
            UnaryFn::Gated(gate) => x * apply_chain(gate, x),
            UnaryFn::Plain(function) => function.apply(x),
            UnaryFn::Elu { alpha, width, gamma } => {
                let [alpha, width, gamma] = [alpha, width, gamma].map(|&value| f64::from(value));
                gamma * if x >= 0.0 { x } else { alpha * (x / width).exp_m1() }
            }
            UnaryFn::ThresholdedRelu { threshold } => {
                if x > f64::from(*threshold) {
                    x
                } else {
                    0.0
                }
            }
            UnaryFn::Shrink { lambda, bias } => match f64::from(*lambda) {
                lambda if x < -lambda => x + f64::from(*bias),
                lambda if x > lambda => x - f64::from(*bias),
                _ => 0.0,
            },
            UnaryFn::Power { exponent } => x.powf(f64::from(*exponent)),
            UnaryFn::PowerOf { base } => f64::from(*base).powf(x),
            UnaryFn::Compare { relation, value } => f64::from(u8::from(relation.holds(&x, &f64::from(*value)))),
            UnaryFn::Joined { join, a, b } => {
                let (a, b) = (apply_chain(a, x), apply_chain(b, x));
                match join {
                    Join::Add => a + b,
                    Join::Subtract => a - b,
                    Join::Multiply => a * b,
                }
            }
        }
    }

    /// The function as ONNX nodes.
    fn export(&self, export: &mut Export, x: &str) -> Result<String, Problem> {
        let mut scalar = |value: f32| export.floats(&[], vec![value]);
        Ok(match self {
            UnaryFn::Clamp(RealClamp { lo, hi }) if *lo == 0.0 && *hi == f32::INFINITY => {
                export.node("Relu", &[x], &[])
            }
            UnaryFn::Clamp(RealClamp { lo, hi }) => {
                let (lo, hi) = (scalar(*lo), scalar(*hi));
                export.node("Clip", &[x, &lo, &hi], &[])
            }
            UnaryFn::LeakyRelu { slope } => export.node("LeakyRelu", &[x], &[("alpha", Attribute::Float(*slope))]),
            UnaryFn::Sigmoid => export.node("Sigmoid", &[x], &[]),
            UnaryFn::Tanh => export.node("Tanh", &[x], &[]),
            UnaryFn::HardSigmoid { alpha, beta } => {
                let attributes = [("alpha", Attribute::Float(*alpha)), ("beta", Attribute::Float(*beta))];
                export.node("HardSigmoid", &[x], &attributes)
            }
            UnaryFn::Linear { scale, shift } => {
                let (scale, shift) = (scalar(*scale), scalar(*shift));
                let product = export.node("Mul", &[x, &scale], &[]);
                export.node("Add", &[&product, &shift], &[])
            }
            UnaryFn::Gated(gate) => {
                let gate = export_chain(gate, export, x)?;
                export.node("Mul", &[x, &gate], &[])
            }
            UnaryFn::Joined { join, a, b } => {
                let (a, b) = (export_chain(a, export, x)?, export_chain(b, export, x)?);
                let op_type = match join {
                    Join::Add => "Add",
                    Join::Subtract => "Sub",
                    Join::Multiply => "Mul",
                };
                export.node(op_type, &[&a, &b], &[])
            }
            UnaryFn::Plain(function) => function.export(export, x)?,
            UnaryFn::Elu { alpha, width: 1.0, gamma: 1.0 } => {
                export.node("Elu", &[x], &[("alpha", Attribute::Float(*alpha))])
            }
            UnaryFn::Elu { alpha, width: 1.0, gamma } => {
                let attributes = [("alpha", Attribute::Float(*alpha)), ("gamma", Attribute::Float(*gamma))];
                export.node("Selu", &[x], &attributes)
            }
            UnaryFn::Elu { alpha, .. } => export.node("Celu", &[x], &[("alpha", Attribute::Float(*alpha))]),
            UnaryFn::ThresholdedRelu { threshold } => {
                export.node("ThresholdedRelu", &[x], &[("alpha", Attribute::Float(*threshold))])
            }
            UnaryFn::Shrink { lambda, bias } => {
                let attributes = [("lambd", Attribute::Float(*lambda)), ("bias", Attribute::Float(*bias))];
                export.node("Shrink", &[x], &attributes)
            }
            UnaryFn::Power { exponent } => {
                let exponent = scalar(*exponent);
                export.node("Pow", &[x, &exponent], &[])
            }
            UnaryFn::PowerOf { base } => {
                let base = scalar(*base);
                export.node("Pow", &[&base, x], &[])
            }
            UnaryFn::Compare { relation, .. } => {
                return Err(Problem::unsupported(format!(
                    "a comparison (`x {} number`) has truth values, which QDQ models have no form for",
                    relation.symbol()
                )));
            }
        })
    }

    fn describe(&self) -> String {
        match self {
            UnaryFn::Clamp(clamp) => format!("clamp {clamp}"),
            UnaryFn::LeakyRelu { slope } => format!("leaky relu {slope:?}"),
            UnaryFn::Sigmoid => "sigmoid".to_owned(),
            UnaryFn::Tanh => "tanh".to_owned(),
            UnaryFn::HardSigmoid { alpha, beta } => format!("hard sigmoid {alpha:?} {beta:?}"),
            UnaryFn::Linear { scale, shift } => format!("*{scale:?} {shift:+?}"),
            UnaryFn::Gated(gate) => format!("x * ({})", describe_chain(gate)),
            UnaryFn::Plain(function) => format!("{function:?}").to_lowercase(),
            UnaryFn::Elu { alpha, width, gamma } => format!("elu {alpha:?} {width:?} {gamma:?}"),
            UnaryFn::ThresholdedRelu { threshold } => format!("thresholded relu {threshold:?}"),
            UnaryFn::Shrink { lambda, bias } => format!("shrink {lambda:?} {bias:?}"),
            UnaryFn::Power { exponent } => format!("^{exponent:?}"),
            UnaryFn::PowerOf { base } => format!("{base:?}^"),
            UnaryFn::Compare { relation, value } => format!("{} {value:?}", relation.symbol()),
            UnaryFn::Joined { join, a, b } => {
                let sign = match join {
                    Join::Add => '+',
                    Join::Subtract => '-',
                    Join::Multiply => '*',
                };
                let part = |chain: &[UnaryFn]| if chain.is_empty() { "x".to_owned() } else { describe_chain(chain) };
                format!("({}) {sign} ({})", part(a), part(b))
            }
        }
    }
}

/// The value of a chain of functions.
pub fn apply_chain(chain: &[UnaryFn], x: f64) -> f64 {
    chain.iter().fold(x, |x, f| f.apply(x))
}

fn describe_chain(chain: &[UnaryFn]) -> String {
    chain.iter().map(UnaryFn::describe).collect::<Vec<_>>().join(", ")
}

impl Unary {
    /// A single function.
    pub fn new(function: UnaryFn) -> Unary {
        Unary { chain: vec![function] }
    }

    /// The chain as a single linear function and bounds, if it is nothing else: factor, addend, bounds of the result.
    pub fn as_linear(&self) -> Option<(f64, f64, RealClamp)> {
        self.chain.iter().try_fold((1.0, 0.0, RealClamp::NONE), |(factor, addend, clamp), function| match function {
            UnaryFn::Clamp(next) => Some((factor, addend, clamp.then(*next))),
            UnaryFn::Linear { scale, shift } => {
                let (scale, shift) = (f64::from(*scale), f64::from(*shift));
                let ends = [clamp.lo, clamp.hi].map(|end| (scale * f64::from(end) + shift) as f32);
                let clamp = RealClamp { lo: ends[0].min(ends[1]), hi: ends[0].max(ends[1]) };
                // Zero times infinity: the result is the addend, whatever the bounds were.
                let clamp = if scale == 0.0 { RealClamp::NONE } else { clamp };
                Some((factor * scale, addend * scale + shift, clamp))
            }
            _ => None,
        })
    }

    /// The chain as one clamp, if it is nothing else.
    pub fn as_clamp(&self) -> Option<RealClamp> {
        self.chain.iter().try_fold(RealClamp::NONE, |sum, function| match function {
            UnaryFn::Clamp(clamp) => Some(sum.then(*clamp)),
            _ => None,
        })
    }
}

impl Table {
    /// The table of a real function between two tensors of int8; every entry is the correctly rounded result.
    pub fn new(input: Params, output: Params, function: impl Fn(f64) -> f64) -> Table {
        Table::with_entries(input, output, DType::I8, function)
    }

    /// The same with a result of int8 or int16.
    fn with_entries(input: Params, output: Params, dtype: DType, function: impl Fn(f64) -> f64) -> Table {
        let entry = |q| output.quantize(function(input.dequantize(q)), dtype) as i16;
        Table { entries: (-128..=127).map(entry).collect() }
    }
}

/// The same reals with other parameters or in another type.
pub fn convert(input: &QuantType, output: &QuantType) -> Result<QuantOp, Problem> {
    let ranges = Ranges::new();
    let site =
        Site { operands: vec![input], result: output, weights: DType::I8, ranges: &ranges, numerics: Numerics::Native };
    Unary { chain: vec![] }.quantize(&site)
}

/// Imports `Relu`.
pub fn import_relu(cx: &mut NodeImport) -> diag::Result<()> {
    finish(cx, UnaryFn::Clamp(RealClamp { lo: 0.0, ..RealClamp::NONE }))
}

/// Imports `Clip`: bounds are attributes before opset 11, inputs since.
pub fn import_clip(cx: &mut NodeImport) -> diag::Result<()> {
    let mut clamp = RealClamp { lo: cx.float_or("min", f32::NEG_INFINITY)?, hi: cx.float_or("max", f32::INFINITY)? };
    for (port, bound) in [(1, &mut clamp.lo), (2, &mut clamp.hi)] {
        if cx.optional(port).is_some() {
            *bound = cx.float_scalar(port)?;
        }
    }
    finish(cx, UnaryFn::Clamp(clamp))
}

/// Imports `LeakyRelu`.
pub fn import_leaky_relu(cx: &mut NodeImport) -> diag::Result<()> {
    let slope = cx.float_or("alpha", 0.01)?;
    finish(cx, UnaryFn::LeakyRelu { slope })
}

/// Imports `Sigmoid`.
pub fn import_sigmoid(cx: &mut NodeImport) -> diag::Result<()> {
    finish(cx, UnaryFn::Sigmoid)
}

/// Imports `Tanh`.
pub fn import_tanh(cx: &mut NodeImport) -> diag::Result<()> {
    finish(cx, UnaryFn::Tanh)
}

/// Imports `HardSigmoid`.
pub fn import_hard_sigmoid(cx: &mut NodeImport) -> diag::Result<()> {
    let (alpha, beta) = (cx.float_or("alpha", 0.2)?, cx.float_or("beta", 0.5)?);
    finish(cx, UnaryFn::HardSigmoid { alpha, beta })
}

/// Imports `HardSwish`: `x * clamp(x / 6 + 1 / 2, 0, 1)`.
pub fn import_hard_swish(cx: &mut NodeImport) -> diag::Result<()> {
    finish(cx, UnaryFn::Gated(vec![UnaryFn::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }]))
}

/// Imports a function without parameters.
pub fn import_plain(cx: &mut NodeImport, function: Plain) -> diag::Result<()> {
    finish(cx, UnaryFn::Plain(function))
}

/// Imports `Neg`.
pub fn import_neg(cx: &mut NodeImport) -> diag::Result<()> {
    finish(cx, UnaryFn::Linear { scale: -1.0, shift: 0.0 })
}

/// Imports `Elu`.
pub fn import_elu(cx: &mut NodeImport) -> diag::Result<()> {
    let alpha = cx.float_or("alpha", 1.0)?;
    finish(cx, UnaryFn::Elu { alpha, width: 1.0, gamma: 1.0 })
}

/// Imports `Celu`.
pub fn import_celu(cx: &mut NodeImport) -> diag::Result<()> {
    let alpha = cx.float_or("alpha", 1.0)?;
    if alpha == 0.0 {
        return Err(cx.invalid("attribute alpha is 0"));
    }
    finish(cx, UnaryFn::Elu { alpha, width: alpha, gamma: 1.0 })
}

/// Imports `Selu`; the defaults are ONNX's.
pub fn import_selu(cx: &mut NodeImport) -> diag::Result<()> {
    let (alpha, gamma) = (cx.float_or("alpha", 1.673_263_2)?, cx.float_or("gamma", 1.050_701)?);
    finish(cx, UnaryFn::Elu { alpha, width: 1.0, gamma })
}

/// Imports `ThresholdedRelu`.
pub fn import_thresholded_relu(cx: &mut NodeImport) -> diag::Result<()> {
    let threshold = cx.float_or("alpha", 1.0)?;
    finish(cx, UnaryFn::ThresholdedRelu { threshold })
}

/// Imports `Shrink`.
pub fn import_shrink(cx: &mut NodeImport) -> diag::Result<()> {
    let (lambda, bias) = (cx.float_or("lambd", 0.5)?, cx.float_or("bias", 0.0)?);
    finish(cx, UnaryFn::Shrink { lambda, bias })
}

/// Imports `Swish`: `x * sigmoid(alpha * x)`.
pub fn import_swish(cx: &mut NodeImport) -> diag::Result<()> {
    let scale = cx.float_or("alpha", 1.0)?;
    let linear = UnaryFn::Linear { scale, shift: 0.0 };
    let gate = if scale == 1.0 { vec![UnaryFn::Sigmoid] } else { vec![linear, UnaryFn::Sigmoid] };
    finish(cx, UnaryFn::Gated(gate))
}

/// Imports `Gelu`, exact or with the hyperbolic tangent.
pub fn import_gelu(cx: &mut NodeImport) -> diag::Result<()> {
    let function = match cx.string_or("approximate", "none")?.as_str() {
        "none" => Plain::Gelu,
        "tanh" => Plain::GeluTanh,
        other => return Err(cx.invalid(format!("attribute approximate is `{other}`"))),
    };
    import_plain(cx, function)
}

/// Imports `Not`.
pub fn import_not(cx: &mut NodeImport) -> diag::Result<()> {
    finish(cx, UnaryFn::Compare { relation: Relation::Equal, value: 0.0 })
}

/// Imports `Pow` where one of the operands is a constant number.
pub fn import_pow(cx: &mut NodeImport) -> diag::Result<()> {
    let advice = "make the exponent one number that is known at compile time, or write the power as Exp(b * Log(a))";
    match (cx.input(0)?, cx.input(1)?) {
        (_, Value::Constant(_)) => {
            let (x, exponent) = (cx.activation(0)?, uniform(cx, 1)?);
            let Some((exponent, shape)) = exponent else {
                return Err(cx.unsupported("the exponent has several values", advice));
            };
            let y = super::resample::broadcast_to(cx, x, &shape)?;
            let square = UnaryFn::Gated(vec![UnaryFn::Linear { scale: 1.0, shift: 0.0 }]);
            let function = if exponent == 2.0 { square } else { UnaryFn::Power { exponent } };
            cx.finish(0, Unary::new(function), &[y]).map(drop)
        }
        (Value::Constant(_), _) => {
            let (base, x) = (uniform(cx, 0)?, cx.activation(1)?);
            let Some((base, shape)) = base else {
                return Err(cx.unsupported("the base has several values", advice));
            };
            let y = super::resample::broadcast_to(cx, x, &shape)?;
            cx.finish(0, Unary::new(UnaryFn::PowerOf { base }), &[y]).map(drop)
        }
        _ => Err(cx.unsupported("base and exponent are computed at run time", advice)),
    }
}

/// The value of a constant input that has only one, and its shape.
pub fn uniform(cx: &NodeImport, port: usize) -> diag::Result<Option<(f32, Shape)>> {
    let constant = cx.float_constant(port)?;
    let first = constant.data.first().copied();
    Ok(first.filter(|first| constant.data.iter().all(|value| value == first)).map(|value| (value, constant.shape)))
}

/// Imports `Cast`. Quantized values have no type, so only what changes numbers becomes code: real numbers that become
/// integers lose their fraction, and truth values are 0 or 1.
pub fn import_cast(cx: &mut NodeImport) -> diag::Result<()> {
    const BOOL: i64 = 9;
    let to = cx.int_or("to", 1)?;
    match to {
        1 | 10 | 11 | 16 => pass_on(cx),
        BOOL => finish(cx, UnaryFn::Compare { relation: Relation::NotEqual, value: 0.0 }),
        _ if cx.input_is_real(0) => finish(cx, UnaryFn::Plain(Plain::Trunc)),
        _ => pass_on(cx),
    }
}

/// Imports `Dropout`, which does nothing at inference.
pub fn import_dropout(cx: &mut NodeImport) -> diag::Result<()> {
    if cx.output_used(1) {
        return Err(cx.unsupported("its mask is used", "the mask is all ones at inference: leave it out"));
    }
    pass_on(cx)
}

fn pass_on(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    cx.define(0, x);
    Ok(())
}

fn finish(cx: &mut NodeImport, function: UnaryFn) -> diag::Result<()> {
    let x = cx.activation(0)?;
    cx.finish(0, Unary::new(function), &[x]).map(drop)
}

impl FloatOperator for Unary {
    fn kind(&self) -> &'static str {
        "Unary"
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        Ok(operands[0].clone())
    }

    fn params_rule(&self) -> ParamsRule {
        match self.chain.last() {
            Some(UnaryFn::Sigmoid | UnaryFn::HardSigmoid { .. }) => ParamsRule::Fixed(Params::unit_interval()),
            Some(UnaryFn::Tanh) => ParamsRule::Fixed(Params::symmetric_unit()),
            Some(UnaryFn::Compare { .. }) => ParamsRule::Fixed(Params::integers()),
            _ => ParamsRule::Own,
        }
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let (input, output) = (site.operand_params(0)?, site.result_params());
        let dtype = site.result.dtype;
        match (site.operands[0].dtype, dtype, self.as_linear()) {
            // Smaller and faster than a table of 256 entries with 16 bits.
            (DType::I8, DType::I16, Some(linear)) if self.chain.is_empty() => Ok(Rescale::new(linear, site)?.into()),
            (DType::I4 | DType::I8, ..) => {
                Ok(Table::with_entries(input, output, dtype, |x| apply_chain(&self.chain, x)).into())
            }
            (DType::I16 | DType::I32, _, Some(linear)) => Ok(Rescale::new(linear, site)?.into()),
            (DType::I16 | DType::I32, _, None) => {
                Ok(Curve::new(input, site.result, |x| apply_chain(&self.chain, x)).into())
            }
        }
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        export_chain(&self.chain, export, site.x())
    }

    fn describe(&self) -> String {
        describe_chain(&self.chain)
    }
}

fn export_chain(chain: &[UnaryFn], export: &mut Export, x: &str) -> Result<String, Problem> {
    chain.iter().try_fold(x.to_owned(), |x, function| function.export(export, &x))
}

impl QuantOperator for Table {
    fn kind(&self) -> &'static str {
        "Table"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        Ok(operands[0].clone())
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn evaluate(&self, operands: &[Operand], _result: &QuantType) -> Vec<i32> {
        operands[0].data.iter().map(|&q| i32::from(self.entries[(q + 128) as usize])).collect()
    }

    fn describe(&self) -> String {
        let (first, zero, last) = (self.entries[0], self.entries[128], self.entries[255]);
        format!("-128 -> {first}, 0 -> {zero}, 127 -> {last}")
    }
}
