//! From the parts of the error to the option that removes them.

use serde::Serialize;

use super::tensor::TensorReport;

/// Tensors with a smaller share of the final error are not worth a change.
const WORTH_A_CHANGE: f64 = 0.03;

/// Pieces of advice, at most.
const LONGEST: usize = 5;

/// Why a tensor is inexact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Values outside of the range.
    Clipping,
    /// Steps that are too coarse.
    Rounding,
    /// Steps of the operands that are too coarse.
    Operands,
    /// Rounded weights.
    Weights,
}

/// What to do about a tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advice {
    /// The tensor.
    pub tensor: String,
    /// Why it is inexact.
    pub cause: Cause,
    /// The option, in words.
    pub option: String,
    /// The share of the squared error of the outputs that goes with it, at most.
    pub gain: f64,
}

/// What would help most, the best first.
pub fn advise(tensors: &[TensorReport]) -> Vec<Advice> {
    let worth = tensors.iter().filter(|tensor| tensor.share >= WORTH_A_CHANGE);
    let mut advice: Vec<Advice> = worth.filter_map(for_tensor).filter(|advice| advice.gain >= WORTH_A_CHANGE).collect();
    advice.sort_by(|a, b| b.gain.total_cmp(&a.gain));
    advice.truncate(LONGEST);
    advice
}

/// `None` where no option helps: the weights have as many bits as there are.
fn for_tensor(tensor: &TensorReport) -> Option<Advice> {
    let own = &tensor.own_error;
    let parts = [
        (own.clipping, Cause::Clipping),
        (own.rounding, Cause::Rounding),
        (own.operands, Cause::Operands),
        (own.weights, Cause::Weights),
    ];
    let (part, cause) = parts.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, Cause::Rounding));
    let option = match cause {
        Cause::Clipping => "a wider range: `--method min-max`, or edit its entry in the ranges file".to_owned(),
        Cause::Rounding => "16 bits for this tensor: `activations = \"int16\"` in a recipe".to_owned(),
        Cause::Operands => "16 bits for what it is computed from: `activations = \"int16\"` in a recipe".to_owned(),
        Cause::Weights if tensor.has_narrow_weights => {
            "8 bits for its weights: `weight_bits = 8` in a recipe".to_owned()
        }
        Cause::Weights => return None,
    };
    Some(Advice { tensor: tensor.tensor.clone(), cause, option, gain: tensor.share * part })
}
