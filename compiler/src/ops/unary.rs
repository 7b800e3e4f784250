//! Functions of one number (Relu, Clip, Sigmoid, ...). On int8 every chain of them is one table of 256 entries.

use super::import::{NodeImport, Value};
use super::{FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{DType, Params, QuantType, RealClamp, Shape};

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
    /// The Gauss error function.
    Erf,
    /// The square root; of a negative number 0.
    Sqrt,
    /// `1 / x`; of 0 what is largest.
    Reciprocal,
    /// `x ^ exponent`; where that is no real number 0.
    Power {
        /// The exponent.
        exponent: f32,
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

/// Functions applied one after the other.
#[derive(Debug, Clone)]
pub struct Unary {
    /// The first function comes first.
    pub chain: Vec<UnaryFn>,
}

/// `entries[q + 128]`.
#[derive(Debug, Clone)]
pub struct Table {
    /// Results for -128 to 127.
    pub entries: Vec<i8>,
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
            UnaryFn::Erf => libm::erf(x),
            UnaryFn::Sqrt => x.max(0.0).sqrt(),
            UnaryFn::Reciprocal => (1.0 / x).clamp(f64::MIN, f64::MAX),
            UnaryFn::Power { exponent } => power(x, f64::from(*exponent)),
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

    fn describe(&self) -> String {
        match self {
            UnaryFn::Clamp(clamp) => format!("clamp {clamp}"),
            UnaryFn::LeakyRelu { slope } => format!("leaky relu {slope:?}"),
            UnaryFn::Sigmoid => "sigmoid".to_owned(),
            UnaryFn::Tanh => "tanh".to_owned(),
            UnaryFn::HardSigmoid { alpha, beta } => format!("hard sigmoid {alpha:?} {beta:?}"),
            UnaryFn::Linear { scale, shift } => format!("*{scale:?} {shift:+?}"),
            UnaryFn::Gated(gate) => format!("x * ({})", describe_chain(gate)),
            UnaryFn::Erf => "erf".to_owned(),
            UnaryFn::Sqrt => "sqrt".to_owned(),
            UnaryFn::Reciprocal => "reciprocal".to_owned(),
            UnaryFn::Power { exponent } => format!("power {exponent:?}"),
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

/// `x ^ exponent`, always finite.
fn power(x: f64, exponent: f64) -> f64 {
    let value = x.powf(exponent);
    if value.is_nan() { 0.0 } else { value.clamp(f64::MIN, f64::MAX) }
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

    /// The chain as one clamp, if it is nothing else.
    pub fn as_clamp(&self) -> Option<RealClamp> {
        self.chain.iter().try_fold(RealClamp::NONE, |sum, function| match function {
            UnaryFn::Clamp(clamp) => Some(sum.then(*clamp)),
            _ => None,
        })
    }
}

impl Table {
    /// The table of a real function between two quantized tensors; every entry is the correctly rounded result.
    pub fn new(input: Params, output: Params, function: impl Fn(f64) -> f64) -> Table {
        let entry = |q| output.quantize(function(input.dequantize(q)), DType::I8) as i8;
        Table { entries: (-128..=127).map(entry).collect() }
    }
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

/// Imports `Erf`.
pub fn import_erf(cx: &mut NodeImport) -> diag::Result<()> {
    finish(cx, UnaryFn::Erf)
}

/// Imports `Sqrt`.
pub fn import_sqrt(cx: &mut NodeImport) -> diag::Result<()> {
    finish(cx, UnaryFn::Sqrt)
}

/// Imports `Reciprocal`.
pub fn import_reciprocal(cx: &mut NodeImport) -> diag::Result<()> {
    finish(cx, UnaryFn::Reciprocal)
}

/// Imports `Pow` with a constant exponent.
pub fn import_pow(cx: &mut NodeImport) -> diag::Result<()> {
    let Value::Constant(_) = cx.input(1)? else {
        return Err(cx.unsupported("its exponent is computed at run time", "a single constant exponent is supported"));
    };
    let exponent = cx.float_scalar(1)?;
    finish(cx, UnaryFn::Power { exponent })
}

/// Imports `Gelu`: `x * (1 + erf(x / sqrt(2))) / 2`, or its approximation
/// `x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2`.
pub fn import_gelu(cx: &mut NodeImport) -> diag::Result<()> {
    let halved = UnaryFn::Linear { scale: 0.5, shift: 0.5 };
    let linear = |scale: f64| UnaryFn::Linear { scale: scale as f32, shift: 0.0 };
    let gate = match cx.string_or("approximate", "none")?.as_str() {
        "none" => vec![linear(std::f64::consts::FRAC_1_SQRT_2), UnaryFn::Erf, halved],
        "tanh" => {
            let cube = vec![UnaryFn::Power { exponent: 3.0 }, linear(0.044_715)];
            let sum = UnaryFn::Joined { join: Join::Add, a: vec![], b: cube };
            vec![sum, linear((2.0 / std::f64::consts::PI).sqrt()), UnaryFn::Tanh, halved]
        }
        other => return Err(cx.invalid(format!("attribute approximate is `{other}`"))),
    };
    finish(cx, UnaryFn::Gated(gate))
}

fn finish(cx: &mut NodeImport, function: UnaryFn) -> diag::Result<()> {
    let x = cx.activation(0)?;
    cx.finish(0, Unary::new(function), &[x]).map(drop)
}

impl FloatOperator for Unary {
    fn kind(&self) -> &'static str {
        "Unary"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        Ok(operands[0].clone())
    }

    fn params_rule(&self) -> ParamsRule {
        match self.chain.last() {
            Some(UnaryFn::Sigmoid | UnaryFn::HardSigmoid { .. }) => ParamsRule::Fixed(Params::unit_interval()),
            Some(UnaryFn::Tanh) => ParamsRule::Fixed(Params::symmetric_unit()),
            _ => ParamsRule::Own,
        }
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let table = Table::new(site.operand_params(0)?, site.result_params(), |x| apply_chain(&self.chain, x));
        Ok(table.into())
    }

    fn describe(&self) -> String {
        describe_chain(&self.chain)
    }
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
