//! `ptqc report`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::code::CodeArgs;
use super::output;
use super::source::{ModelArgs, PreprocessArgs, RangesArgs, Source, open_samples, problem};
use crate::analyze::{self, Analysis};
use crate::diag::{self, Code, Diagnostic, Diagnostics};
use crate::driver::{self, Sample};
use crate::files::data::Preprocess;
use crate::ir::{Checked, Graph, Quant};
use crate::page;

/// Show what quantization does to a model: errors by layer, their causes, and what would help.
#[derive(Debug, Args)]
pub struct ReportArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    ranges: RangesArgs,
    /// Samples to compare the float and the integer model on [default: those of --calib]
    #[arg(long, value_name = "X")]
    data: Option<PathBuf>,
    /// Number of samples that are compared, at most
    #[arg(long, value_name = "N", default_value_t = 256)]
    samples: usize,
    /// Write a page with pictures: one self-contained HTML file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Overwrite a file that ptqc did not make
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    code: CodeArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// The result, as it is printed with --json. Fields may be added; none changes its meaning.
#[derive(Debug, Serialize)]
struct Printed<'a> {
    /// File name of the model.
    model: &'a str,
    /// What was measured.
    #[serde(flatten)]
    analysis: &'a Analysis,
}

/// Runs the command.
pub fn run(args: &ReportArgs) -> diag::Result<()> {
    let recipe = args.code.recipe(&args.model, &args.ranges)?;
    let source = args.model.load()?;
    let data = args.data.as_ref().or(args.ranges.calib.as_ref()).ok_or_else(no_samples)?;
    let preprocess = args.preprocess.preprocess();
    let ranges = args.ranges.load(&source, &preprocess)?;
    let in_model = |problems: Diagnostics| problems.in_file(args.model.model.display());
    let build = driver::build(&source.frontend, &ranges, &recipe.options(&source)).map_err(in_model)?;
    super::warn(&in_model(build.warnings.clone()));
    let analysis = analysis(&source, &build.quant, (data, args.samples), &preprocess)?;
    if let Some(path) = &args.html {
        let memory = build.plan.memory_uses();
        let contents = page::Contents {
            analysis: &analysis,
            report: &build.report,
            memory: &memory,
            facts: vec![("model".to_owned(), source.file_name.clone())],
            figures: vec![],
        };
        output::write_file(path, page::page(&contents)?.as_bytes(), args.force)?;
    }
    match args.json {
        true => {
            let printed = Printed { model: &source.file_name, analysis: &analysis };
            let text = serde_json::to_string_pretty(&printed);
            super::say(&text.map_err(|error| problem(Code::Internal, error.to_string()))?)
        }
        false => super::say(&table(&source.file_name, &analysis)),
    }
}

/// Compares the models over the first samples of a file or folder.
pub fn analysis(
    source: &Source,
    graph: &Checked<Graph<Quant>>,
    (data, count): (&Path, usize),
    preprocess: &Preprocess,
) -> diag::Result<Analysis> {
    let samples = open_samples(&source.frontend.model, data, preprocess)?;
    let samples: Vec<Sample> = samples.samples().take(count.max(1)).collect::<diag::Result<_>>()?;
    analyze::analyze(&source.frontend, graph, &samples)
}

fn no_samples() -> Diagnostic {
    Diagnostic::error(Code::InvalidOption, "there are no samples to compare the models on")
        .help("add --data X, samples as the model sees them in use")
}

fn table(model: &str, analysis: &Analysis) -> String {
    let head = std::iter::once("tensor").chain(page::columns()).map(str::to_owned).collect::<Vec<_>>();
    let rows = analysis.tensors.iter().map(|tensor| {
        let name = shortened(&tensor.tensor);
        let marked = if tensor.is_bad() { format!("{name} !") } else { name };
        std::iter::once(marked).chain(page::cells(tensor)).collect::<Vec<_>>()
    });
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text =
        format!("{model}: relative RMSE of the output {:.4}, {} samples\n", analysis.relative_rmse, analysis.samples);
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0..=2 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text += &format!("  {}\n", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    for advice in &analysis.advice {
        text += &format!("  {}\n", page::sentence(advice));
    }
    text
}

/// The end of a long name: exporters put what distinguishes names there.
fn shortened(name: &str) -> String {
    const WIDTH: usize = 36;
    let count = name.chars().count();
    match count > WIDTH {
        true => format!("..{}", name.chars().skip(count - WIDTH + 2).collect::<String>()),
        false => name.to_owned(),
    }
}

/// The short form: one line, and one for each layer that is bad.
pub fn short(analysis: &Analysis) -> String {
    let worst = analysis.tensors.iter().max_by(|a, b| a.share.total_cmp(&b.share));
    let worst = worst.map_or(String::new(), |tensor| {
        format!("; {:.0} % of it from {}", 100.0 * tensor.share, shortened(&tensor.tensor))
    });
    let samples = analysis.samples;
    format!("relative RMSE of the output {:.4} over {samples} samples{worst}", analysis.relative_rmse)
}

/// Warnings about the layers that are bad, with what would help.
pub fn warnings(analysis: &Analysis) -> Diagnostics {
    let bad = analysis.tensors.iter().filter(|tensor| tensor.is_bad());
    bad.map(|tensor| {
        let db = tensor.own_sqnr_db.unwrap_or(0.0);
        let message = format!(
            "quantization leaves this layer {db:.1} dB of signal to noise, and {:.0} % of the error of the outputs is its",
            100.0 * tensor.share
        );
        let diagnostic = Diagnostic::warning(Code::Accuracy, message).tensor(&tensor.tensor);
        match analysis.advice.iter().find(|advice| advice.tensor == tensor.tensor) {
            Some(advice) => diagnostic.help(format!("{}; `ptqc report` shows more", advice.option)),
            None => diagnostic.help("`ptqc report` shows more"),
        }
    })
    .collect()
}
