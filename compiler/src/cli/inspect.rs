//! `ptqc inspect`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::build::find_target;
use super::source::{ModelArgs, PreprocessArgs, calibrate};
use crate::calibrate::{Method, Ranges};
use crate::diag::{self, Code, Diagnostic};
use crate::driver::{self, Options};
use crate::names;
use crate::print::ArenaMode;

/// Show a stage of the compilation.
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Sample inputs, for the stages from quant on
    #[arg(long, value_name = "DATA", conflicts_with = "ranges")]
    calib: Option<PathBuf>,
    /// Ranges, for the stages from quant on
    #[arg(long, value_name = "FILE")]
    ranges: Option<PathBuf>,
    /// How ranges are chosen
    #[arg(long, default_value_t)]
    method: Method,
    /// The stage
    #[arg(long, value_enum, default_value = "fused")]
    stage: Stage,
    /// Print graphs in Graphviz's language
    #[arg(long)]
    dot: bool,
    /// What the program is for
    #[arg(long, short, default_value = "generic")]
    target: String,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// A stage of the compilation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// As imported
    Float,
    /// After all passes
    Fused,
    /// Integers
    Quant,
    /// Layers, layouts, memory
    Plan,
    /// Loops
    Program,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> diag::Result<()> {
    let source = args.model.load()?;
    let text = match (args.stage, args.dot) {
        (Stage::Float, false) => source.frontend.model.graph.to_string(),
        (Stage::Float, true) => source.frontend.model.graph.dot(),
        (Stage::Fused, false) => source.frontend.fused.to_string(),
        (Stage::Fused, true) => source.frontend.fused.dot(),
        (Stage::Quant | Stage::Plan | Stage::Program, dot) => {
            let ranges = match (&args.calib, &args.ranges) {
                (Some(data), _) => calibrate(&source, data, &args.preprocess.preprocess(), args.method)?,
                (None, Some(file)) => Ranges::from_toml(&String::from_utf8_lossy(&super::source::read(file)?))
                    .map_err(|problems| problems.in_file(file.display()))?,
                (None, None) => {
                    let message = "this stage needs ranges";
                    return Err(Diagnostic::error(Code::MissingRange, message).help("add --calib DATA or --ranges FILE").into());
                }
            };
            let stem = args.model.model.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            let options = Options {
                name: names::prefix(&stem),
                target: find_target(&args.target)?,
                arena: ArenaMode::Static,
                command: "ptqc inspect".to_owned(),
                model_sha256: source.sha256.clone(),
            };
            let build = driver::build(&source.frontend, &ranges, &options)?;
            super::warn(&build.warnings);
            match (args.stage, dot) {
                (Stage::Quant, true) => build.quant.dot(),
                (Stage::Plan, _) => build.plan.to_string(),
                (Stage::Program, _) => build.lowered.program.program().to_string(),
                (Stage::Quant | Stage::Float | Stage::Fused, _) => build.quant.to_string(),
            }
        }
    };
    super::say(&text)
}
