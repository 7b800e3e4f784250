//! Precisions as a file that people write and edit, by convention `MODEL.recipe.toml`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::precision::{LayerPrecision, Precisions};
use crate::diag::{Code, Diagnostic, Result};
use crate::ir::DType;
use crate::names::toml_string;

/// The contents of a recipe; what is missing is left to the command line, and then to the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrecisionRecipe {
    /// Type of all activations.
    pub activations: Option<DType>,
    /// Type of all weights.
    pub weights: Option<DType>,
    /// Exceptions for ONNX tensors.
    pub tensors: BTreeMap<String, DType>,
    /// Exceptions for ONNX nodes.
    pub layers: BTreeMap<String, LayerPrecision>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    activations: Option<Activations>,
    weight_bits: Option<u8>,
    #[serde(default)]
    layers: BTreeMap<String, Layer>,
    #[serde(default)]
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Deserialize, Clone, Copy)]
enum Activations {
    #[serde(rename = "int8")]
    Int8,
    #[serde(rename = "int16")]
    Int16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Layer {
    activations: Option<Activations>,
    weight_bits: Option<u8>,
    #[serde(default)]
    dynamic: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tensor {
    activations: Activations,
}

impl Activations {
    fn dtype(self) -> DType {
        match self {
            Activations::Int8 => DType::I8,
            Activations::Int16 => DType::I16,
        }
    }
}

/// The type of weights with so many bits.
pub fn weight_type(bits: u8) -> Result<DType> {
    match bits {
        8 => Ok(DType::I8),
        4 => Ok(DType::I4),
        other => Err(Diagnostic::error(Code::RecipeFile, format!("there are no weights of {other} bits"))
            .help("weight_bits is 8 or 4")
            .into()),
    }
}

impl PrecisionRecipe {
    /// Reads a recipe.
    ///
    /// Errors: text that is no TOML, keys that a recipe does not have, values that are none of those allowed.
    pub fn from_toml(text: &str) -> Result<PrecisionRecipe> {
        let file: File = toml::from_str(text).map_err(|error| not_a_recipe(text, &error))?;
        let bits = |bits: Option<u8>| bits.map(weight_type).transpose();
        let layer = |(name, layer): (String, Layer)| {
            let weights = bits(layer.weight_bits)?;
            let activations = layer.activations.map(Activations::dtype);
            Ok((name, LayerPrecision { activations, weights, dynamic: layer.dynamic }))
        };
        Ok(PrecisionRecipe {
            activations: file.activations.map(Activations::dtype),
            weights: bits(file.weight_bits)?,
            layers: file.layers.into_iter().map(layer).collect::<Result<_>>()?,
            tensors: file.tensors.into_iter().map(|(name, tensor)| (name, tensor.activations.dtype())).collect(),
        })
    }

    /// The same as text.
    pub fn to_toml(&self) -> String {
        let mut text = String::from("# Precision of activations and weights, by the names of the ONNX model.\n");
        let types = |activations: Option<DType>, weights: Option<DType>| {
            let activations = activations.map(|dtype| format!("activations = \"{dtype}\"\n"));
            let weights = weights.map(|dtype| format!("weight_bits = {}\n", dtype.bits()));
            [activations, weights].into_iter().flatten().collect::<String>()
        };
        text += &types(self.activations, self.weights);
        for (name, layer) in &self.layers {
            text += &format!("\n[layers.{}]\n{}", toml_string(name), types(layer.activations, layer.weights));
            if layer.dynamic {
                text += "dynamic = true\n";
            }
        }
        for (name, &dtype) in &self.tensors {
            text += &format!("\n[tensors.{}]\n{}", toml_string(name), types(Some(dtype), None));
        }
        text
    }

    /// The precisions of a model; what the recipe leaves open is `activations` and `weights`, or else 8 bits.
    pub fn precisions(self, activations: Option<DType>, weights: Option<DType>) -> Precisions {
        Precisions {
            activations: activations.or(self.activations).unwrap_or(DType::I8),
            weights: weights.or(self.weights).unwrap_or(DType::I8),
            tensors: self.tensors,
            layers: self.layers,
        }
    }
}

fn not_a_recipe(text: &str, error: &toml::de::Error) -> Diagnostic {
    let message = error.message().trim_end();
    let line = error.span().map(|span| text.bytes().take(span.start).filter(|&byte| byte == b'\n').count() + 1);
    let message = line.map_or(message.to_owned(), |line| format!("line {line}: {message}"));
    Diagnostic::error(Code::RecipeFile, message).help(
        "a recipe has `activations` (\"int8\" or \"int16\") and `weight_bits` (8 or 4), for the whole model and in tables \
         like [layers.\"/conv1/Conv\"], which can also have `dynamic` (true or false); tables like \
         [tensors.\"/conv1/Relu_output_0\"] have `activations`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_what_its_text_says() {
        let layer = LayerPrecision { activations: Some(DType::I16), weights: Some(DType::I4), dynamic: true };
        let recipe = PrecisionRecipe {
            activations: Some(DType::I8),
            weights: None,
            tensors: [("a \"b\"\n/c", DType::I16), ("x", DType::I8)]
                .map(|(name, dtype)| (name.to_owned(), dtype))
                .into(),
            layers: [("/conv1/Conv".to_owned(), layer), ("fc".to_owned(), LayerPrecision::default())].into(),
        };
        assert_eq!(PrecisionRecipe::from_toml(&recipe.to_toml()), Ok(recipe.clone()));
        let precisions = recipe.precisions(None, Some(DType::I4));
        assert_eq!((precisions.activations, precisions.weights), (DType::I8, DType::I4));
    }
}
