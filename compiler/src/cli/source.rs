//! Arguments that several commands share: the model, its ranges, samples.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::data::{InputSpec, Preprocess, SampleSet};
use crate::calibrate::{Method, Origin, Ranges};
use crate::diag::{self, Code, Diagnostic, Diagnostics};
use crate::driver::{self, Frontend};
use crate::front::Model;
use crate::report;

/// The model.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// The ONNX model
    pub model: PathBuf,
    /// Size of a symbolic dimension; repeat for several. A symbolic batch dimension is 1 by itself
    #[arg(long = "dim", value_name = "NAME=N", value_parser = parse_dim)]
    pub dims: Vec<(String, usize)>,
}

/// Where the ranges come from.
#[derive(Debug, Args)]
#[group(id = "ranges_source", required = true, multiple = false, args = ["calib", "ranges"])]
pub struct RangesArgs {
    /// Sample inputs to calibrate with: a .npy, a .npz (arrays by input name), or a folder of them
    #[arg(long, value_name = "DATA")]
    pub calib: Option<PathBuf>,
    /// Ranges that `ptqc calibrate` has written
    #[arg(long, value_name = "FILE")]
    pub ranges: Option<PathBuf>,
    /// How ranges are chosen: min-max, percentile, percentile:P, mse
    #[arg(long, default_value_t, requires = "calib")]
    pub method: Method,
}

/// What is done to stored samples before the model sees them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Conversion of stored samples")]
pub struct PreprocessArgs {
    /// Multiply stored values, after subtracting --data-zero-point
    #[arg(long, value_name = "S", default_value_t = 1.0, allow_negative_numbers = true)]
    pub data_scale: f32,
    /// Subtract from stored values
    #[arg(long, value_name = "Z", default_value_t = 0.0, allow_negative_numbers = true)]
    pub data_zero_point: f32,
    /// Then subtract a mean for each channel (the stored array's last axis)
    #[arg(long, value_name = "M,..", value_delimiter = ',', allow_negative_numbers = true)]
    pub data_mean: Vec<f32>,
    /// Then divide by a standard deviation for each channel
    #[arg(long, value_name = "S,..", value_delimiter = ',')]
    pub data_std: Vec<f32>,
    /// Then move the last axis of each sample to the front (NHWC images for an NCHW model)
    #[arg(long)]
    pub data_nhwc: bool,
}

impl PreprocessArgs {
    /// As the reader of samples takes it.
    pub fn preprocess(&self) -> Preprocess {
        Preprocess {
            scale: self.data_scale,
            zero_point: self.data_zero_point,
            mean: self.data_mean.clone(),
            std: self.data_std.clone(),
            nhwc_to_nchw: self.data_nhwc,
        }
    }
}

/// A model that has been read.
#[derive(Debug)]
pub struct Source {
    /// After import and passes.
    pub frontend: Frontend,
    /// SHA-256 of the file.
    pub sha256: String,
    /// The file's name without its folder.
    pub file_name: String,
}

fn parse_dim(text: &str) -> Result<(String, usize), String> {
    let (name, size) = text.rsplit_once('=').ok_or("write NAME=N, for example batch=1")?;
    let size = size.parse().map_err(|_| format!("`{size}` is not a size"))?;
    Ok((name.to_owned(), size))
}

impl ModelArgs {
    /// Reads and fuses the model.
    pub fn load(&self) -> diag::Result<Source> {
        let path = self.model.display();
        let bytes = read(&self.model)?;
        let folder = self.model.parent().unwrap_or(Path::new("")).to_owned();
        let external = |location: &str| read_beside(&folder, location);
        let pinned: BTreeMap<String, usize> = self.dims.iter().cloned().collect();
        let frontend = driver::load(&bytes, &external, &pinned).map_err(|problems| problems.in_file(path))?;
        Ok(Source { frontend, sha256: driver::sha256(&bytes), file_name: file_name(&self.model) })
    }
}

/// Reads a whole file.
pub fn read(path: &Path) -> diag::Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        Diagnostic::error(Code::Io, "the file cannot be read").file(path.display()).note(error.to_string()).into()
    })
}

/// Weights in another file have to lie in the model's folder: a model must not read what it likes.
fn read_beside(folder: &Path, location: &str) -> std::io::Result<Vec<u8>> {
    let relative = Path::new(location);
    let inside = relative.components().all(|part| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir));
    if !inside || location.is_empty() {
        return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, "the path leads out of the model's folder"));
    }
    std::fs::read(folder.join(relative))
}

/// A path's last part.
pub fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

impl RangesArgs {
    /// Calibrates, or reads the ranges file.
    pub fn load(&self, source: &Source, preprocess: &Preprocess) -> diag::Result<Ranges> {
        match (&self.calib, &self.ranges) {
            (Some(data), _) => calibrate(source, data, preprocess, self.method),
            (None, Some(file)) => read_ranges(file, source),
            (None, None) => Err(Diagnostic::internal("neither --calib nor --ranges is given").into()),
        }
    }
}

fn read_ranges(path: &Path, source: &Source) -> diag::Result<Ranges> {
    let text = String::from_utf8_lossy(&read(path)?).into_owned();
    let ranges = Ranges::from_toml(&text).map_err(|problems| problems.in_file(path.display()))?;
    let other = ranges.origin().filter(|origin| !origin.model_sha256.is_empty() && origin.model_sha256 != source.sha256);
    if let Some(origin) = other {
        let warning = Diagnostic::warning(Code::RangesFile, format!("these ranges were recorded for another file (`{}`)", origin.model))
            .file(path.display())
            .help("calibrate again if the model has changed");
        super::warn(&warning.into());
    }
    Ok(ranges)
}

/// Records ranges over all samples of `data`.
pub fn calibrate(source: &Source, data: &Path, preprocess: &Preprocess, method: Method) -> diag::Result<Ranges> {
    let samples = open_samples(&source.frontend.model, data, preprocess)?;
    let progress = Progress::new("calibrating", samples.len() as u64);
    let (calibrator, count) = driver::calibrate(&source.frontend.model, samples.samples(), &|| progress.tick())
        .map_err(|problems| problems.in_file(data.display()))?;
    progress.finish();
    let origin = Origin {
        tool: report::generator(),
        model: source.file_name.clone(),
        model_sha256: source.sha256.clone(),
        method,
        data: samples.file_names(),
        samples: count,
    };
    calibrator.finish(method, origin)
}

/// Opens samples for the model's inputs.
pub fn open_samples(model: &Model, data: &Path, preprocess: &Preprocess) -> diag::Result<SampleSet> {
    let inputs: Vec<InputSpec> =
        model.inputs.iter().map(|input| InputSpec { name: input.name.clone(), dims: input.shape.dims().to_vec() }).collect();
    SampleSet::open(data, &inputs, preprocess.clone())
}

/// A progress bar that only a terminal sees.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    done: AtomicU64,
}

impl Progress {
    /// For `total` steps.
    pub fn new(what: &str, total: u64) -> Progress {
        // indicatif hides the bar by itself where standard error is no terminal.
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg} {bar:32} {pos}/{len} {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what.to_owned());
        Progress { bar, done: AtomicU64::new(0) }
    }

    /// One step.
    pub fn tick(&self) {
        self.bar.set_position(self.done.fetch_add(1, Ordering::Relaxed) + 1);
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Diagnostics from another crate's error.
pub fn problem(code: Code, message: impl Into<String>) -> Diagnostics {
    Diagnostic::error(code, message).into()
}
