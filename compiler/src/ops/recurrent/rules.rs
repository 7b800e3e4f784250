//! What the attributes of `RNN`, `GRU` and `LSTM` say: the kind of cell, directions, activations. Shared by the importer
//! and by the executor of the float model.

use crate::ops::import::{Attribute, OnnxNode};

/// The kind of a cell. The comments give its equations, `s` being the product with the recurrent weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `h = f(W x + R h + b)`.
    Rnn,
    /// Gates z, r, h: `z = f(..)`, `r = f(..)`, `n = g(..)`, `h = (1 - z) n + z h`.
    Gru {
        /// Whether `n = g(W x + b + r (R h + c))` instead of `n = g(W x + R (r h) + b + c)`.
        reset_behind: bool,
    },
    /// Gates i, o, f, c: `c = f c + i g(..)`, `h = o h(c)`.
    Lstm {
        /// Whether `f` is `1 - i`.
        coupled: bool,
    },
}

impl Kind {
    /// Number of gates: blocks of rows of the weights.
    pub fn gates(self) -> usize {
        match self {
            Kind::Rnn => 1,
            Kind::Gru { .. } => 3,
            Kind::Lstm { .. } => 4,
        }
    }

    /// Number of activations of a direction.
    pub fn activations(self) -> usize {
        match self {
            Kind::Rnn => 1,
            Kind::Gru { .. } => 2,
            Kind::Lstm { .. } => 3,
        }
    }
}

/// An activation of a cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `alpha * x + beta`.
    Affine(f32, f32),
    /// `max(x, 0)`.
    Relu,
    /// `x` if `x >= 0`, else `alpha * x`.
    LeakyRelu(f32),
    /// `x` if `x >= alpha`, else 0.
    ThresholdedRelu(f32),
    /// Hyperbolic tangent.
    Tanh,
    /// `alpha * tanh(beta * x)`.
    ScaledTanh(f32, f32),
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `clamp(alpha * x + beta, 0, 1)`.
    HardSigmoid(f32, f32),
    /// `x` if `x >= 0`, else `alpha * (exp(x) - 1)`.
    Elu(f32),
    /// `x / (1 + |x|)`.
    Softsign,
    /// `ln(1 + exp(x))`.
    Softplus,
}

impl Activation {
    /// The function's value.
    pub fn apply(self, x: f64) -> f64 {
        let real = f64::from;
        match self {
            Activation::Affine(alpha, beta) => real(alpha) * x + real(beta),
            Activation::Relu => x.max(0.0),
            Activation::LeakyRelu(alpha) => {
                if x >= 0.0 {
                    x
                } else {
                    real(alpha) * x
                }
            }
            Activation::ThresholdedRelu(alpha) => {
                if x >= real(alpha) {
                    x
                } else {
                    0.0
                }
            }
            Activation::Tanh => x.tanh(),
            Activation::ScaledTanh(alpha, beta) => real(alpha) * (real(beta) * x).tanh(),
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::HardSigmoid(alpha, beta) => (real(alpha) * x + real(beta)).clamp(0.0, 1.0),
            Activation::Elu(alpha) => {
                if x >= 0.0 {
                    x
                } else {
                    real(alpha) * x.exp_m1()
                }
            }
            Activation::Softsign => x / (1.0 + x.abs()),
            Activation::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        }
    }

    /// An argument beyond which, on either side, the function changes no more; `None` if there is none.
    pub fn saturation(self) -> Option<f64> {
        match self {
            Activation::Tanh | Activation::Sigmoid => Some(8.0),
            Activation::ScaledTanh(_, beta) if beta != 0.0 => Some(8.0 / f64::from(beta).abs()),
            Activation::HardSigmoid(alpha, beta) if alpha != 0.0 => {
                let (alpha, beta) = (f64::from(alpha), f64::from(beta));
                Some((beta / alpha).abs().max(((1.0 - beta) / alpha).abs()))
            }
            _ => None,
        }
    }

    /// Name in ONNX, alpha and beta.
    pub fn written(self) -> (&'static str, Option<f32>, Option<f32>) {
        match self {
            Activation::Affine(alpha, beta) => ("Affine", Some(alpha), Some(beta)),
            Activation::Relu => ("Relu", None, None),
            Activation::LeakyRelu(alpha) => ("LeakyRelu", Some(alpha), None),
            Activation::ThresholdedRelu(alpha) => ("ThresholdedRelu", Some(alpha), None),
            Activation::Tanh => ("Tanh", None, None),
            Activation::ScaledTanh(alpha, beta) => ("ScaledTanh", Some(alpha), Some(beta)),
            Activation::Sigmoid => ("Sigmoid", None, None),
            Activation::HardSigmoid(alpha, beta) => ("HardSigmoid", Some(alpha), Some(beta)),
            Activation::Elu(alpha) => ("Elu", Some(alpha), None),
            Activation::Softsign => ("Softsign", None, None),
            Activation::Softplus => ("Softplus", None, None),
        }
    }

    /// The activation of this name (in any case). The closures give the next of the alphas and betas that are listed.
    fn named(
        name: &str,
        mut alpha: impl FnMut(f32) -> f32,
        mut beta: impl FnMut(f32) -> f32,
    ) -> Result<Activation, String> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "affine" => Activation::Affine(alpha(1.0), beta(0.0)),
            "relu" => Activation::Relu,
            "leakyrelu" => Activation::LeakyRelu(alpha(0.01)),
            "thresholdedrelu" => Activation::ThresholdedRelu(alpha(1.0)),
            "tanh" => Activation::Tanh,
            "scaledtanh" => Activation::ScaledTanh(alpha(1.0), beta(1.0)),
            "sigmoid" => Activation::Sigmoid,
            "hardsigmoid" => Activation::HardSigmoid(alpha(0.2), beta(0.5)),
            "elu" => Activation::Elu(alpha(1.0)),
            "softsign" => Activation::Softsign,
            "softplus" => Activation::Softplus,
            _ => return Err(format!("there is no activation `{name}`")),
        })
    }
}

/// What the attributes say.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// The kind of cell.
    pub kind: Kind,
    /// For each direction, whether it goes from the end to the start.
    pub reverse: Vec<bool>,
    /// For each direction the activations f, g, h.
    pub activations: Vec<Vec<Activation>>,
    /// Bound of the sums that gates are computed from.
    pub clip: Option<f32>,
    /// Whether the batch is the first axis.
    pub batch_first: bool,
    /// Number of hidden units, if it is given.
    pub hidden: Option<usize>,
}

impl Rules {
    /// Reads the attributes of a node; the error is a sentence.
    pub fn of(node: &OnnxNode) -> Result<Rules, String> {
        let int = |name: &str| match node.attributes.get(name) {
            None => Ok(0),
            Some(Attribute::Int(value)) => Ok(*value),
            Some(_) => Err(format!("attribute {name} is not an integer")),
        };
        let kind = match node.op_type.as_str() {
            "RNN" => Kind::Rnn,
            "GRU" => Kind::Gru { reset_behind: int("linear_before_reset")? != 0 },
            _ => Kind::Lstm { coupled: int("input_forget")? != 0 },
        };
        let reverse = match node.attributes.get("direction") {
            None => vec![false],
            Some(Attribute::Text(direction)) => match direction.as_str() {
                "forward" => vec![false],
                "reverse" => vec![true],
                "bidirectional" => vec![false, true],
                other => return Err(format!("attribute direction is `{other}`")),
            },
            Some(_) => return Err("attribute direction is not a text".to_owned()),
        };
        let clip = match node.attributes.get("clip") {
            None => None,
            Some(Attribute::Float(clip)) if *clip > 0.0 => Some(*clip),
            // What ONNX Runtime takes for "no clip", too.
            Some(Attribute::Float(_)) => None,
            Some(_) => return Err("attribute clip is not a number".to_owned()),
        };
        let hidden = match int("hidden_size")? {
            0 => None,
            size => Some(usize::try_from(size).map_err(|_| format!("attribute hidden_size is {size}"))?),
        };
        let activations = activations(node, kind, reverse.len())?;
        Ok(Rules { kind, reverse, activations, clip, batch_first: int("layout")? != 0, hidden })
    }
}

fn activations(node: &OnnxNode, kind: Kind, directions: usize) -> Result<Vec<Vec<Activation>>, String> {
    let defaults = ["Sigmoid", "Tanh", "Tanh"];
    let names: Vec<String> = match node.attributes.get("activations") {
        None => vec![],
        Some(Attribute::Texts(names)) => names.clone(),
        Some(_) => return Err("attribute activations is not a list of texts".to_owned()),
    };
    let count = kind.activations();
    let names = match names.len() {
        // A plain cell has but one activation, Tanh.
        0 if kind == Kind::Rnn => vec!["Tanh".to_owned(); directions],
        0 => defaults[..count].repeat(directions).into_iter().map(str::to_owned).collect(),
        len if len == count * directions => names,
        len => return Err(format!("it has {len} activations and needs {}", count * directions)),
    };
    let list = |name: &str| match node.attributes.get(name) {
        None => Ok(vec![]),
        Some(Attribute::Floats(values)) => Ok(values.clone()),
        Some(_) => Err(format!("attribute {name} is not a list of numbers")),
    };
    let (mut alphas, mut betas) = (list("activation_alpha")?.into_iter(), list("activation_beta")?.into_iter());
    let mut all = vec![];
    for name in &names {
        let activation =
            Activation::named(name, |alpha| alphas.next().unwrap_or(alpha), |beta| betas.next().unwrap_or(beta))?;
        all.push(activation);
    }
    Ok(all.chunks(count).map(<[Activation]>::to_vec).collect())
}
