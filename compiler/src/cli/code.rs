//! Arguments that say what the code is like: target, language, names.

use clap::{Args, ValueEnum};

use super::source::{ModelArgs, NumericsArg, PrecisionArgs, RangesArgs};
use crate::diag;
use crate::plan::Goal;
use crate::print::{ArenaMode, Language, WeightsMemory};
use crate::recipe::{Recipe, find_target, symbol_prefix, weights};

/// What is emitted.
#[derive(Debug, Args)]
pub struct CodeArgs {
    /// What the code is for; `ptqc targets` lists them
    #[arg(long, short, default_value = "generic")]
    target: String,
    /// What the code is written in
    #[arg(long, value_enum, default_value = "c")]
    lang: Lang,
    /// What the code shall be best at
    #[arg(long, value_enum, default_value = "balanced")]
    optimize: Optimize,
    /// Prefix of all symbols and files [default: from the model's file name]
    #[arg(long)]
    name: Option<String>,
    /// Who owns the working memory
    #[arg(long, value_enum, default_value = "static")]
    arena: Arena,
    /// Where constants are
    #[arg(long, value_enum, default_value = "flash")]
    weights: WeightsArg,
    /// The linker's section for constants
    #[arg(long, value_name = "SECTION")]
    weights_section: Option<String>,
    /// An input that is an output of the inference before; repeat for several. The code gets a structure that keeps them
    #[arg(long = "state", value_name = "IN=OUT", value_parser = state)]
    states: Vec<(String, String)>,
    /// Add functions to Rust code that convert inputs from and outputs to f32; the model itself has no floats
    #[arg(long)]
    float_helpers: bool,
    #[command(flatten)]
    precision: PrecisionArgs,
}

/// What the code is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lang {
    /// C99
    C,
    /// Rust 2021, no_std
    Rust,
}

/// What the code shall be best at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Optimize {
    /// Few instructions, as long as code and memory do not pay much for it
    Balanced,
    /// Fewest instructions
    Speed,
    /// Few bytes of code and constants; today the same as balanced
    Size,
    /// Fewest bytes of working memory
    Ram,
}

/// Where constants are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WeightsArg {
    /// With the code
    Flash,
    /// With initialised variables, which start-up code copies to RAM
    Ram,
}

impl Optimize {
    /// As the driver takes it.
    pub fn goal(self) -> Goal {
        match self {
            Optimize::Balanced => Goal::Balanced,
            Optimize::Speed => Goal::Speed,
            Optimize::Size => Goal::Size,
            Optimize::Ram => Goal::Ram,
        }
    }
}

/// Who owns the working memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Arena {
    /// A static buffer in the emitted code
    Static,
    /// The caller passes a buffer; the code is re-entrant
    Caller,
}

impl CodeArgs {
    /// The arguments as a recipe.
    pub fn recipe(&self, model: &ModelArgs, ranges: &RangesArgs) -> diag::Result<Recipe<'static>> {
        Ok(Recipe {
            dims: model.dims(),
            precision: self.precision.origin(),
            settings: self.precision.settings()?,
            target: find_target(&self.target)?,
            ranges: ranges.origin()?,
            numerics: model.numerics.map(NumericsArg::numerics),
            language: match self.lang {
                Lang::C => Language::C,
                Lang::Rust => Language::Rust,
            },
            goal: self.optimize.goal(),
            arena: match self.arena {
                Arena::Static => ArenaMode::Static,
                Arena::Caller => ArenaMode::Caller,
            },
            name: symbol_prefix(self.name.as_deref(), &model.model)?,
            weights: weights(
                match self.weights {
                    WeightsArg::Flash => WeightsMemory::Flash,
                    WeightsArg::Ram => WeightsMemory::Ram,
                },
                self.weights_section.as_deref(),
            )?,
            states: self.states.clone(),
            float_helpers: self.float_helpers,
        })
    }
}

/// The two names of `IN=OUT`.
fn state(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((input, output)) if !input.is_empty() && !output.is_empty() => Ok((input.to_owned(), output.to_owned())),
        _ => Err("write INPUT=OUTPUT, the names in the model".to_owned()),
    }
}
