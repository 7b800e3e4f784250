//! Functions of one number (Relu, Clip, Sigmoid, ...). On int8 every chain of them is one table of 256 entries.

use super::export::Export;
use super::import::{Attribute, NodeImport};
use super::{ExportSite, FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site};
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
