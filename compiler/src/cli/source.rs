//! Arguments that several commands share: the model, its ranges, samples.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::data::Preprocess;
use crate::calibrate::{Method, Ranges};
use crate::diag::{self, Code, Diagnostic, Diagnostics};
use crate::files;
pub use crate::files::{Source, open_samples};
use crate::ir::{DType, Numerics};
use crate::quantize::Settings;
use crate::recipe::{PrecisionFrom, RangesFrom};

/// The model.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// The ONNX model
    pub model: PathBuf,
    /// Size of a symbolic dimension; repeat for several. A symbolic batch dimension is 1 by itself
    #[arg(long = "dim", value_name = "NAME=N", value_parser = parse_dim)]
    pub dims: Vec<(String, usize)>,
    /// How results are rounded; without it like `ort` where the model is quantized already, else `native`
    #[arg(long, value_enum, value_name = "PROFILE")]
    pub numerics: Option<NumericsArg>,
}

/// How results are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NumericsArg {
    /// Fewest instructions; at most one step from the exact result
    Native,
    /// As ONNX Runtime's CPU kernels round; slower
    Ort,
}

impl NumericsArg {
    /// As the driver takes it.
    pub fn numerics(self) -> Numerics {
        match self {
            NumericsArg::Native => Numerics::Native,
            NumericsArg::Ort => Numerics::Ort,
        }
    }
}

/// Where the ranges come from.
#[derive(Debug, Args)]
#[group(skip)]
pub struct RangesArgs {
    /// Sample inputs to calibrate with: a .npy, a .npz (arrays by input name), or a folder of them. A model that is
    /// quantized already needs neither these nor --ranges
    #[arg(long, value_name = "DATA", conflicts_with = "ranges")]
    pub calib: Option<PathBuf>,
    /// Ranges that `ptqc calibrate` has written
    #[arg(long, value_name = "FILE")]
    pub ranges: Option<PathBuf>,
    #[command(flatten)]
    pub method: MethodArg,
}

/// How precise the integers are.
#[derive(Debug, Args)]
#[command(next_help_heading = "Precision")]
pub struct PrecisionArgs {
    /// Type of the activations [default: the recipe's, or int8]
    #[arg(long, value_enum)]
    activations: Option<Activations>,
    /// Bits of the weights: 8 or 4 [default: the recipe's, or 8]
    #[arg(long, value_name = "BITS", value_parser = clap::builder::PossibleValuesParser::new(["8", "4"]))]
    weight_bits: Option<String>,
    /// Precision of single layers and tensors: a file like MODEL.recipe.toml
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
}

/// Type of the activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Activations {
    /// 8 bits
    Int8,
    /// 16 bits
    Int16,
}

impl PrecisionArgs {
    /// Where the precision comes from.
    pub fn origin(&self) -> PrecisionFrom {
        PrecisionFrom {
            activations: self.activations.map(|activations| match activations {
                Activations::Int8 => DType::I8,
                Activations::Int16 => DType::I16,
            }),
            weights: self.weight_bits.as_ref().map(|bits| if bits == "4" { DType::I4 } else { DType::I8 }),
            file: self.recipe.clone(),
        }
    }

    /// How the model is quantized.
    pub fn settings(&self) -> diag::Result<Settings> {
        self.origin().settings()
    }
}

/// How ranges are chosen.
#[derive(Debug, Args)]
pub struct MethodArg {
    /// How ranges are chosen: min-max, percentile, percentile:P, mse
    #[arg(long = "method", value_name = "METHOD", default_value_t = Method::default().to_string(), conflicts_with = "ranges")]
    method: String,
}

impl MethodArg {
    /// The method, or which ones there are.
    pub fn method(&self) -> diag::Result<Method> {
        self.method.parse()
    }
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

fn parse_dim(text: &str) -> Result<(String, usize), String> {
    let (name, size) = text.rsplit_once('=').ok_or("write NAME=N, for example batch=1")?;
    let size = size.parse().map_err(|_| format!("`{size}` is not a size"))?;
    Ok((name.to_owned(), size))
}

impl ModelArgs {
    /// Reads and fuses the model.
    pub fn load(&self) -> diag::Result<Source> {
        let mut source = files::load_model(&self.model, &self.dims())?;
        source.frontend.numerics = self.numerics.map_or(source.frontend.numerics, NumericsArg::numerics);
        Ok(source)
    }

    /// Sizes of symbolic dimensions.
    pub fn dims(&self) -> BTreeMap<String, usize> {
        self.dims.iter().cloned().collect()
    }
}

impl RangesArgs {
    /// Where the ranges come from.
    pub fn origin(&self) -> diag::Result<RangesFrom> {
        match (&self.calib, &self.ranges) {
            (Some(data), _) => Ok(RangesFrom::Samples(data.clone(), self.method.method()?)),
            (None, Some(file)) => Ok(RangesFrom::File(file.clone())),
            (None, None) => Ok(RangesFrom::Model),
        }
    }

    /// Calibrates, or reads the ranges file.
    pub fn load(&self, source: &Source, preprocess: &Preprocess) -> diag::Result<Ranges> {
        match self.origin()? {
            RangesFrom::Samples(data, method) => calibrate(source, &data, preprocess, method),
            RangesFrom::File(file) => read_ranges(&file, source),
            RangesFrom::Model => files::own_ranges(source),
        }
    }
}

/// Reads a ranges file; warns if it was made for another model.
pub fn read_ranges(path: &Path, source: &Source) -> diag::Result<Ranges> {
    let (ranges, warnings) = files::read_ranges(path, source)?;
    super::warn(&warnings);
    Ok(ranges)
}

/// Records ranges over all samples of `data`.
pub fn calibrate(source: &Source, data: &Path, preprocess: &Preprocess, method: Method) -> diag::Result<Ranges> {
    let samples = open_samples(&source.frontend.model, data, preprocess)?;
    let progress = Progress::new("calibrating", samples.len() as u64);
    let ranges = files::calibrate(source, &samples, method, &|| progress.tick())
        .map_err(|problems| problems.in_file(data.display()))?;
    progress.finish();
    Ok(ranges)
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
