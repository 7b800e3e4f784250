//! What a build is made from, in the user's words: the command line and build scripts fill it in, and it becomes the
//! options of the driver and the command that every emitted file names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ptqc_target_runtimes::Target;

use crate::calibrate::Method;
use crate::diag::{self, Code, Diagnostic};
use crate::driver::Options;
use crate::files::{self, Source, file_name};
use crate::ir::{DType, Numerics};
use crate::names;
use crate::plan::Goal;
use crate::print::{ArenaMode, Language, Weights, WeightsMemory};
#[cfg(doc)]
use crate::quantize::PrecisionRecipe;
use crate::quantize::Settings;

/// Where the ranges come from.
#[derive(Debug, Clone, PartialEq)]
pub enum RangesFrom {
    /// A file that `ptqc calibrate` has written.
    File(PathBuf),
    /// Samples.
    Samples(PathBuf, Method),
    /// The model: it is quantized already.
    Model,
}

/// Where the precision of activations and weights comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrecisionFrom {
    /// Type of all activations without an exception.
    pub activations: Option<DType>,
    /// Type of all weights without an exception.
    pub weights: Option<DType>,
    /// A file: see [`PrecisionRecipe`].
    pub file: Option<PathBuf>,
}

impl PrecisionFrom {
    /// The settings; reads the file.
    pub fn settings(&self) -> diag::Result<Settings> {
        let recipe = self.file.as_deref().map(files::read_precision_recipe).transpose()?.unwrap_or_default();
        Ok(Settings { precisions: recipe.precisions(self.activations, self.weights) })
    }

    /// The options of the command.
    fn options(&self) -> String {
        let activations = self.activations.map(|dtype| format!(" --activations {dtype}"));
        let weights = self.weights.map(|dtype| format!(" --weight-bits {}", dtype.bits()));
        let file = self.file.as_ref().map(|file| format!(" --recipe {}", file_name(file)));
        [activations, weights, file].into_iter().flatten().collect()
    }
}

/// What a build is made from.
#[derive(Debug, Clone)]
pub struct Recipe<'a> {
    /// Sizes of symbolic dimensions.
    pub dims: BTreeMap<String, usize>,
    /// Where the ranges come from.
    pub ranges: RangesFrom,
    /// How results are rounded, if the model does not decide.
    pub numerics: Option<Numerics>,
    /// Where the precision comes from.
    pub precision: PrecisionFrom,
    /// What that is.
    pub settings: Settings,
    /// What the code is for.
    pub target: &'a Target,
    /// What it is written in.
    pub language: Language,
    /// What it shall be best at.
    pub goal: Goal,
    /// Who owns the working memory.
    pub arena: ArenaMode,
    /// Prefix of symbols and files.
    pub name: String,
    /// Where constants are.
    pub weights: Weights,
    /// Inputs, each with the output that it is at the next inference.
    pub states: Vec<(String, String)>,
    /// Whether Rust code converts between real numbers and integers.
    pub float_helpers: bool,
}

impl<'a> Recipe<'a> {
    /// The options of the build.
    pub fn options(&self, source: &Source) -> Options<'a> {
        Options {
            name: self.name.clone(),
            settings: self.settings.clone(),
            target: self.target,
            language: self.language,
            goal: self.goal,
            arena: self.arena,
            weights: self.weights.clone(),
            states: self.states.clone(),
            float_helpers: self.float_helpers,
            command: self.command(source),
            model_sha256: source.sha256.clone(),
        }
    }

    /// The command that repeats the build, without folders: they differ between machines, and the files must not.
    fn command(&self, source: &Source) -> String {
        let mut command = format!("ptqc build {}", source.file_name);
        for (dim, size) in &self.dims {
            command += &format!(" --dim {dim}={size}");
        }
        for (input, output) in &self.states {
            command += &format!(" --state {input}={output}");
        }
        command += &match &self.ranges {
            RangesFrom::File(file) => format!(" --ranges {}", file_name(file)),
            RangesFrom::Samples(data, method) => format!(" --calib {} --method {method}", file_name(data)),
            RangesFrom::Model => String::new(),
        };
        if let Some(numerics) = self.numerics {
            command += &format!(" --numerics {}", numerics.name());
        }
        command += &self.precision.options();
        if self.language != Language::default() {
            command += &format!(" --lang {}", self.language.name());
        }
        command += &format!(" --target {} --name {} --arena {}", self.target.name, self.name, self.arena.name());
        if self.goal != Goal::default() {
            command += &format!(" --optimize {}", self.goal.name());
        }
        if self.weights.memory != WeightsMemory::default() {
            command += &format!(" --weights {}", self.weights.memory.name());
        }
        if let Some(section) = &self.weights.section {
            command += &format!(" --weights-section {section}");
        }
        if self.float_helpers {
            command += " --float-helpers";
        }
        command
    }
}

/// A target by name.
pub fn find_target(name: &str) -> diag::Result<&'static Target> {
    Target::find(name).ok_or_else(|| {
        let close = ptqc_target_runtimes::suggestions(name);
        let help = match close.first() {
            Some(close) => format!("did you mean `{close}`? `ptqc targets` lists all"),
            None => "`ptqc targets` lists all".to_owned(),
        };
        Diagnostic::error(Code::UnknownTarget, format!("there is no target `{name}`")).help(help).into()
    })
}

/// Where constants are: a section's name is letters, digits and `._-$`.
pub fn weights(memory: WeightsMemory, section: Option<&str>) -> diag::Result<Weights> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-$".contains(c);
    match section {
        Some(name) if name.is_empty() || !name.chars().all(legal) => {
            Err(Diagnostic::error(Code::InvalidName, format!("`{name}` cannot be the name of a section"))
                .help("letters, digits, `.`, `_`, `-` and `$` can, for example `--weights-section .weights`")
                .into())
        }
        _ => Ok(Weights { memory, section: section.map(str::to_owned) }),
    }
}

/// The prefix of symbols and files: the one that is wanted, or one made from the model's file name.
pub fn symbol_prefix(wanted: Option<&str>, model: &Path) -> diag::Result<String> {
    match wanted {
        None => Ok(names::prefix(&model.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default())),
        Some(name) if name == names::prefix(name) => Ok(name.to_owned()),
        Some(name) => Err(Diagnostic::error(Code::InvalidName, format!("`{name}` cannot be the prefix of symbols"))
            .help(format!("lower-case letters, digits and `_` can, for example `--name {}`", names::prefix(name)))
            .into()),
    }
}
