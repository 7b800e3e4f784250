//! What the command line and build scripts do with files: read models, ranges and samples, write results.
//!
//! Nothing in here prints. What is worth telling comes back as a value.

#[cfg(feature = "samples")]
pub mod data;
pub mod output;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::calibrate::Ranges;
use crate::diag::{self, Code, Diagnostic, Diagnostics};
use crate::driver::{self, Frontend};
use crate::quantize::PrecisionRecipe;

/// A model that has been read.
#[derive(Debug)]
pub struct Source {
    /// After import and passes.
    pub frontend: Frontend,
    /// SHA-256 of the file.
    pub sha256: String,
    /// The file's name without its folder.
    pub file_name: String,
    /// Every file that was read: the model, then its external weights.
    pub read: Vec<PathBuf>,
}

/// Reads and fuses a model. `dims` gives sizes to symbolic dimensions.
pub fn load_model(path: &Path, dims: &BTreeMap<String, usize>) -> diag::Result<Source> {
    let bytes = read(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let files = RefCell::new(vec![path.to_owned()]);
    let external = |location: &str| {
        let (file, contents) = read_beside(folder, location)?;
        files.borrow_mut().push(file);
        Ok(contents)
    };
    let frontend = driver::load(&bytes, &external, dims).map_err(|problems| problems.in_file(path.display()))?;
    Ok(Source { frontend, sha256: driver::sha256(&bytes), file_name: file_name(path), read: files.into_inner() })
}

/// Reads a ranges file. The warning says that it was made for another model.
pub fn read_ranges(path: &Path, source: &Source) -> diag::Result<(Ranges, Diagnostics)> {
    let bytes = read(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|error| not_text(path, error))?;
    let ranges = Ranges::from_toml(text).map_err(|problems| problems.in_file(path.display()))?;
    let other =
        ranges.origin().filter(|origin| !origin.model_sha256.is_empty() && origin.model_sha256 != source.sha256);
    let warnings = other.map(|origin| {
        Diagnostic::warning(
            Code::RangesFile,
            format!("these ranges were recorded for another file (`{}`)", origin.model),
        )
        .file(path.display())
        .help("calibrate again if the model has changed")
    });
    let warnings = warnings.into_iter().collect();
    Ok((ranges, warnings))
}

/// The ranges of a model that is quantized already: none are needed.
///
/// Errors: it is not.
pub fn own_ranges(source: &Source) -> diag::Result<Ranges> {
    if source.frontend.model.is_quantized() {
        return Ok(Ranges::default());
    }
    let problem = Diagnostic::error(Code::MissingRange, "nothing is known of the values that the model's tensors take");
    Err(problem
        .note("a model that is quantized already needs no samples; this one is not")
        .help("give samples with --calib DATA, or the ranges that `ptqc calibrate` has written with --ranges FILE")
        .into())
}

/// Reads a file with the precision of layers and tensors.
pub fn read_precision_recipe(path: &Path) -> diag::Result<PrecisionRecipe> {
    let bytes = read(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        Diagnostic::error(Code::RecipeFile, "this is not a recipe: it is not text")
            .file(path.display())
            .note(error.to_string())
    })?;
    PrecisionRecipe::from_toml(text).map_err(|problems| problems.in_file(path.display()))
}

/// Opens samples for the model's inputs.
#[cfg(feature = "samples")]
pub fn open_samples(
    model: &crate::front::Model,
    path: &Path,
    preprocess: &data::Preprocess,
) -> diag::Result<data::SampleSet> {
    let input = |input: &crate::front::ModelInput| data::InputSpec {
        name: input.name.clone(),
        dims: input.shape.dims().to_vec(),
    };
    data::SampleSet::open(path, &model.inputs.iter().map(input).collect::<Vec<_>>(), preprocess.clone())
}

/// Records ranges over samples. `tick` is called after each.
#[cfg(feature = "samples")]
pub fn calibrate(
    source: &Source,
    samples: &data::SampleSet,
    method: crate::calibrate::Method,
    tick: &(dyn Fn() + Sync),
) -> diag::Result<Ranges> {
    let (calibrator, count) = driver::calibrate(&source.frontend.model, samples.samples(), tick)?;
    let origin = crate::calibrate::Origin {
        tool: crate::report::generator(),
        model: source.file_name.clone(),
        model_sha256: source.sha256.clone(),
        method,
        data: samples.file_names(),
        samples: count,
    };
    calibrator.finish(method, origin)
}

/// Reads a whole file.
pub fn read(path: &Path) -> diag::Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => "check the path",
            std::io::ErrorKind::IsADirectory => "give a file, not a folder",
            _ => "check the permissions of the file and its folder",
        };
        let problem = Diagnostic::error(Code::Io, format!("the file cannot be read: {error}"));
        problem.file(path.display()).help(help).into()
    })
}

/// A path's last part.
pub fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Weights in another file have to lie in the model's folder: a model must not read what it likes.
fn read_beside(folder: &Path, location: &str) -> std::io::Result<(PathBuf, Vec<u8>)> {
    let relative = Path::new(location);
    let inside = relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !inside || location.is_empty() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::PermissionDenied,
            "the path leads out of the model's folder",
        ));
    }
    let path = folder.join(relative);
    let contents = std::fs::read(&path)?;
    Ok((path, contents))
}

fn not_text(path: &Path, error: std::str::Utf8Error) -> Diagnostics {
    Diagnostic::error(Code::RangesFile, "this is not a ranges file: it is not text")
        .file(path.display())
        .note(error.to_string())
        .help("give the file that `ptqc calibrate` has written; samples (.npy) are something else")
        .into()
}
