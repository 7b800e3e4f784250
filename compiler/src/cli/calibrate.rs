//! `ptqc calibrate`.

use std::path::PathBuf;

use clap::Args;

use super::output;
use super::source::{self, MethodArg, ModelArgs, PreprocessArgs};
use crate::diag;

/// Record the range of every tensor over sample inputs.
#[derive(Debug, Args)]
pub struct CalibrateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Sample inputs: a .npy, a .npz (arrays by input name), or a folder of them
    #[arg(long, value_name = "DATA")]
    calib: PathBuf,
    #[command(flatten)]
    method: MethodArg,
    /// The file to write [default: MODEL.ranges.toml, in this folder]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite a file that ptqc did not make
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// Runs the command.
pub fn run(args: &CalibrateArgs) -> diag::Result<()> {
    let method = args.method.method()?;
    let source = args.model.load()?;
    let ranges = source::calibrate(&source, &args.calib, &args.preprocess.preprocess(), method)?;
    let path = args.output.clone().unwrap_or_else(|| {
        let stem = args.model.model.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        PathBuf::from(format!("{stem}.ranges.toml"))
    });
    output::write_file(&path, ranges.to_toml().as_bytes(), args.force)?;
    let samples = ranges.origin().map_or(0, |origin| origin.samples);
    super::say(&format!("{} tensors over {samples} samples ({method}) -> {}", ranges.len(), path.display()))
}
