//! `ptqc build`.

use std::path::PathBuf;

use clap::Args;

use super::code::CodeArgs;
use super::source::{ModelArgs, PreprocessArgs, RangesArgs};
use super::{output, report};
use crate::analyze::Analysis;
use crate::diag;
use crate::driver;
use crate::print::Bundle;
use crate::report::Report;

/// Compile a model to C or Rust.
#[derive(Debug, Args)]
pub struct BuildArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    ranges: RangesArgs,
    #[command(flatten)]
    code: CodeArgs,
    /// Folder for the files; made if it is missing
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// Overwrite files that ptqc did not make
    #[arg(long)]
    force: bool,
    /// Write nothing; fail if the files in the folder are not what would be written
    #[arg(long, conflicts_with = "force")]
    check: bool,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// Samples that the short form of the report is measured on.
const SAMPLES: usize = 8;

/// Runs the command.
pub fn run(args: &BuildArgs) -> diag::Result<()> {
    let recipe = args.code.recipe(&args.model, &args.ranges)?;
    let source = args.model.load()?;
    let ranges = args.ranges.load(&source, &args.preprocess.preprocess())?;
    let in_model = |problems: diag::Diagnostics| problems.in_file(args.model.model.display());
    let build = driver::build(&source.frontend, &ranges, &recipe.options(&source)).map_err(in_model)?;
    super::warn(&in_model(build.warnings));
    let analysis = args
        .ranges
        .calib
        .as_ref()
        .map(|data| report::analysis(&source, &build.quant, (data, SAMPLES), &args.preprocess.preprocess()));
    let analysis = analysis.transpose()?;
    super::warn(&in_model(analysis.as_ref().map(report::warnings).unwrap_or_default()));
    let bundle = output::without_foreign_build_files(&args.output, build.bundle);
    if args.check {
        output::check_bundle(&args.output, &bundle, &repeated_command())?;
        return super::say(&format!("{}: {} is up to date", build.report.name, args.output.display()));
    }
    output::write_bundle(&args.output, &bundle, args.force)?;
    super::say(&summary(&build.report, analysis.as_ref(), &bundle, args))
}

/// The command of this process without `--check`, as it can be typed into a shell.
fn repeated_command() -> String {
    let arguments = std::env::args().skip(1).filter(|argument| argument != "--check");
    let quoted = arguments.map(|argument| {
        let plain = |c: char| c.is_alphanumeric() || "-_./:=,+@%".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            argument
        } else {
            format!("'{}'", argument.replace('\'', "'\\''"))
        }
    });
    ["ptqc".to_owned()].into_iter().chain(quoted).collect::<Vec<_>>().join(" ")
}

fn summary(report: &Report, analysis: Option<&Analysis>, files: &Bundle, args: &BuildArgs) -> String {
    let accuracy = match analysis {
        Some(analysis) => report::short(analysis),
        None => "accuracy not measured: a ranges file holds no samples (`ptqc report --data X` does)".to_owned(),
    };
    let arena = &report.arena;
    let above = match arena.bytes.saturating_sub(arena.lower_bound_bytes) {
        0 => "no plan needs less".to_owned(),
        gap => format!("{gap} above the lower bound"),
    };
    let explained = match arena.bytes {
        0 => String::new(),
        _ => format!(" ({above}; most is in use in {})", arena.peak_layer),
    };
    let layers = match report.layers.len() {
        1 => "1 layer".to_owned(),
        count => format!("{count} layers"),
    };
    let removed = match report.macs_nominal - report.macs {
        0 => String::new(),
        macs => format!("removed {macs} multiply-accumulates on which no output depends\n  "),
    };
    format!(
        "{name}: {layers}, {macs}\n  \
         {removed}constants {weights} bytes, arena {arena} bytes{explained}\n  \
         {accuracy}\n  \
         wrote {files} to {folder}",
        name = report.name,
        macs = report.multiply_accumulates(),
        weights = report.weight_bytes,
        arena = arena.bytes,
        files = files.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        folder = args.output.display(),
    )
}
