//! `ptqc bench`.

use std::path::PathBuf;

use clap::Args;

use super::code::CodeArgs;
use super::figures::{last_bench, table};
use super::source::{ModelArgs, PreprocessArgs, RangesArgs, Source, open_samples};
use crate::diag;
use crate::driver::{self, Build};
use crate::evaluate::quantize_input;
use crate::ir::QuantType;
use crate::measure::rustc::Rustc;
use crate::measure::{self, Setup};
use crate::print::Language;

/// Compile the code for a target, run it, and measure instructions or time, flash and RAM.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    ranges: RangesArgs,
    #[command(flatten)]
    code: CodeArgs,
    /// The C compiler: one of the target's, or its kind: gcc, clang [default: the target's first]
    #[arg(long, value_name = "PROGRAM")]
    compiler: Option<String>,
    /// Optimisation, as the compiler takes it; more flags may follow, with blanks between them
    #[arg(long, value_name = "FLAGS", default_value = "-O2", allow_hyphen_values = true)]
    opt: String,
    /// Measure on the first sample of this data [default: the first calibration sample; without any, random numbers]
    #[arg(long, value_name = "DATA")]
    data: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> diag::Result<()> {
    let recipe = args.code.recipe(&args.model, &args.ranges)?;
    let compiler = measure::find_compiler(recipe.target, args.compiler.as_deref())?;
    let source = args.model.load()?;
    let ranges = args.ranges.load(&source, &args.preprocess.preprocess())?;
    let in_model = |problems: diag::Diagnostics| problems.in_file(args.model.model.display());
    let build = driver::build(&source.frontend, &ranges, &recipe.options(&source)).map_err(in_model)?;
    super::warn(&in_model(build.warnings.clone()));
    let sample = sample(args, &source, &build)?;
    let rustc = (recipe.language == Language::Rust).then(|| Rustc::installed(recipe.target)).transpose()?;
    let flags: Vec<String> = args.opt.split_whitespace().map(str::to_owned).collect();
    let setup =
        Setup { build: &build, target: recipe.target, compiler, rustc: rustc.as_ref(), flags: &flags, sample: &sample };
    let figures = measure::measure(&setup)?;
    last_bench::remember(&figures, &recipe)?;
    super::say(&if args.json { figures.to_json() } else { table(&figures) })
}

/// The sample to measure on.
fn sample(args: &BenchArgs, source: &Source, build: &Build) -> diag::Result<Vec<Vec<i32>>> {
    let inputs = build.quant.inputs();
    let Some(data) = args.data.as_ref().or(args.ranges.calib.as_ref()) else {
        return Ok(inputs.iter().map(|&id| random(&build.quant.node(id).value)).collect());
    };
    let samples = open_samples(&source.frontend.model, data, &args.preprocess.preprocess())?;
    let first = samples.samples().next().transpose()?.unwrap_or_default();
    Ok(inputs.iter().zip(&first).map(|(&id, values)| quantize_input(&build.quant, id, values)).collect())
}

/// Numbers that look random and are always the same.
fn random(ty: &QuantType) -> Vec<i32> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> (32 - ty.dtype.bits())) as i32 + ty.dtype.min()
    };
    std::iter::repeat_with(next).take(ty.shape.len()).collect()
}
