//! `ptqc inspect`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::code::Optimize;
use super::source::{MethodArg, ModelArgs, PrecisionArgs, PreprocessArgs, Source, calibrate, read_ranges};
use crate::calibrate::Ranges;
use crate::diag::{self, Code, Diagnostic};
use crate::driver::{self, Build, Options};
use crate::ir::Graph;
use crate::names;
use crate::print::{ArenaMode, Language};
use crate::recipe::find_target;

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
    #[command(flatten)]
    method: MethodArg,
    #[command(flatten)]
    precision: PrecisionArgs,
    /// The stage
    #[arg(long, value_enum, default_value = "fused")]
    stage: Stage,
    /// Print the graph in Graphviz's language; for the stages float, fused, quant and optimized
    #[arg(long)]
    dot: bool,
    /// What the program is for
    #[arg(long, short, default_value = "generic")]
    target: String,
    /// What the program shall be best at
    #[arg(long, value_enum, default_value = "balanced")]
    optimize: Optimize,
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
    /// Integers, without what no output depends on
    Optimized,
    /// Layers, layouts, memory
    Plan,
    /// Loops
    Program,
    /// The emitted C, without the tables of constants
    C,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> diag::Result<()> {
    if args.dot && matches!(args.stage, Stage::Plan | Stage::Program | Stage::C) {
        return Err(not_a_graph().into());
    }
    let source = args.model.load()?;
    let text = match args.stage {
        Stage::Float => listing(&source.frontend.model.graph, args.dot),
        Stage::Fused => listing(&source.frontend.fused, args.dot),
        Stage::Quant => {
            let (ranges, settings) = (ranges(args, &source)?, args.precision.settings()?);
            let (quant, warnings) = driver::quantize(&source.frontend, &ranges, &settings).map_err(in_model(args))?;
            super::warn(&in_model(args)(warnings));
            listing(&quant, args.dot)
        }
        Stage::Optimized => listing(&build(args, &source)?.optimized, args.dot),
        Stage::Plan => build(args, &source)?.plan.to_string(),
        Stage::Program => build(args, &source)?.lowered.program.program().to_string(),
        Stage::C => {
            let build = build(args, &source)?;
            build.bundle.get(&format!("{}.c", build.report.name)).cloned().unwrap_or_default()
        }
    };
    super::say(&text)
}

fn listing<S: crate::ir::Stage>(graph: &Graph<S>, dot: bool) -> String {
    if dot { graph.dot() } else { graph.to_string() }
}

fn build(args: &InspectArgs, source: &Source) -> diag::Result<Build> {
    let stem = args.model.model.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let options = Options {
        name: names::prefix(&stem),
        settings: args.precision.settings()?,
        target: find_target(&args.target)?,
        language: Language::default(),
        goal: args.optimize.goal(),
        arena: ArenaMode::Static,
        weights: Default::default(),
        states: vec![],
        float_helpers: false,
        command: format!("ptqc inspect {}", source.file_name),
        model_sha256: source.sha256.clone(),
    };
    let build = driver::build(&source.frontend, &ranges(args, source)?, &options).map_err(in_model(args))?;
    super::warn(&in_model(args)(build.warnings.clone()));
    Ok(build)
}

fn ranges(args: &InspectArgs, source: &Source) -> diag::Result<Ranges> {
    match (&args.calib, &args.ranges) {
        (Some(data), _) => calibrate(source, data, &args.preprocess.preprocess(), args.method.method()?),
        (None, Some(file)) => read_ranges(file, source),
        (None, None) if source.frontend.model.is_quantized() => Ok(Ranges::default()),
        (None, None) => Err(Diagnostic::error(Code::MissingRange, "this stage needs the ranges of the tensors")
            .help("add --calib DATA (samples) or --ranges FILE (from `ptqc calibrate`); the stages float and fused need neither")
            .into()),
    }
}

fn in_model(args: &InspectArgs) -> impl Fn(diag::Diagnostics) -> diag::Diagnostics {
    |problems| problems.in_file(args.model.model.display())
}

fn not_a_graph() -> Diagnostic {
    Diagnostic::error(Code::InvalidOption, "this stage is not a graph")
        .help("--dot goes with --stage float, fused, quant or optimized; leave it out for the others")
}
