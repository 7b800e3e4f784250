//! `ptqc quantize`.

use std::path::PathBuf;

use clap::Args;

use super::output;
use super::source::{ModelArgs, PrecisionArgs, PreprocessArgs, RangesArgs};
use crate::diag;
use crate::driver;
use crate::export;

/// Write the quantized model as ONNX in QDQ form, for other runtimes.
#[derive(Debug, Args)]
pub struct QuantizeArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    ranges: RangesArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    /// The file to write [default: MODEL.qdq.onnx, in this folder]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite an existing file
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// Runs the command.
pub fn run(args: &QuantizeArgs) -> diag::Result<()> {
    let source = args.model.load()?;
    let ranges = args.ranges.load(&source, &args.preprocess.preprocess())?;
    let in_model = |problems: diag::Diagnostics| problems.in_file(args.model.model.display());
    let (graph, warnings) =
        driver::quantize(&source.frontend, &ranges, &args.precision.settings()?).map_err(in_model)?;
    super::warn(&in_model(warnings));
    let bytes = export::to_onnx(&source.frontend.fused, &graph).map_err(in_model)?;
    let path = args.output.clone().unwrap_or_else(|| {
        let stem = args.model.model.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        PathBuf::from(format!("{stem}.qdq.onnx"))
    });
    output::write_file(&path, &bytes, args.force)?;
    super::say(&format!("{} bytes -> {}", bytes.len(), path.display()))
}
