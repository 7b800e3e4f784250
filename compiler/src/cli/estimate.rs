//! `ptqc estimate`.

use clap::Args;

use super::code::CodeArgs;
use super::figures::{last_bench, table};
use super::source::{ModelArgs, PreprocessArgs, RangesArgs};
use crate::diag;
use crate::driver;
use crate::estimate::estimate;

/// Say what the code will cost on a target, without a compiler.
#[derive(Debug, Args)]
pub struct EstimateArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    ranges: RangesArgs,
    #[command(flatten)]
    code: CodeArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// Runs the command.
pub fn run(args: &EstimateArgs) -> diag::Result<()> {
    let recipe = args.code.recipe(&args.model, &args.ranges)?;
    let source = args.model.load()?;
    let ranges = args.ranges.load(&source, &args.preprocess.preprocess())?;
    let in_model = |problems: diag::Diagnostics| problems.in_file(args.model.model.display());
    let build = driver::build(&source.frontend, &ranges, &recipe.options(&source)).map_err(in_model)?;
    super::warn(&in_model(build.warnings.clone()));
    let figures = estimate(&build, recipe.target);
    let comparison = last_bench::recall(&figures, &recipe).map(|bench| last_bench::compare(&figures, &bench));
    match args.json {
        true => super::say(&last_bench::to_json(&figures, comparison.as_ref())),
        false => super::say(&(table(&figures) + &comparison.map(|comparison| comparison.text()).unwrap_or_default())),
    }
}
