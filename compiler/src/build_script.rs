//! Models in build scripts: `build.rs` compiles a model whenever it changes, and the crate includes the result.
//!
//! The API has three heights. [`Build::run`] is for build scripts: it takes the target from cargo, writes to the
//! `OUT_DIR`, compiles C, tells cargo what to watch, and turns problems into cargo's errors. [`Build::generate`] returns
//! the files and touches nothing but what it reads. Below both is [`driver::build`], which does not read files either.
//!
//! # Example
//!
//! `Cargo.toml`; without default features the parts are left out that only the command `ptqc` needs:
//!
//! ```toml
//! [build-dependencies]
//! ptqc = { version = "0.1", default-features = false }
//! ```
//!
//! `build.rs`; `ptqc calibrate kws.onnx --calib samples.npy` has written the ranges:
//!
//! ```no_run
//! # #[allow(clippy::needless_doctest_main)]
//! fn main() {
//!     ptqc::Build::new("kws.onnx").ranges("kws.ranges.toml").run();
//! }
//! ```
//!
//! The crate, which may be `no_std`:
//!
//! ```ignore
//! mod kws {
//!     include!(concat!(env!("OUT_DIR"), "/kws.rs"));
//! }
//!
//! let mut model = kws::Model::new();
//! let input = [0; kws::INPUT_0_LEN];
//! let mut output = [0; kws::OUTPUT_0_LEN];
//! model.run(&input, &mut output);
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process;

use ptqc_target_runtimes::Target;

use crate::calibrate::Ranges;
use crate::diag::{Code, Diagnostic, Diagnostics, Result};
use crate::driver;
use crate::files::{self, Source, output};
use crate::ir::{DType, Numerics};
use crate::plan::Goal;
use crate::print::{self, ArenaMode, Bundle, Language, WeightsMemory};
use crate::recipe::{PrecisionFrom, RangesFrom, Recipe, find_target, symbol_prefix, weights};
use crate::render;
use crate::report::Report;
#[cfg(feature = "samples")]
use crate::{calibrate::Method, files::data::Preprocess};

/// A model to compile, with options. See the [module](self) for an example.
///
/// Paths are relative to the current folder: in a build script that of the package. A script may build several models;
/// each is a module of its own, under the name of its file or [`Build::name`].
#[derive(Debug, Clone)]
pub struct Build {
    model: PathBuf,
    dims: BTreeMap<String, usize>,
    ranges: Option<PathBuf>,
    numerics: Option<Numerics>,
    #[cfg(feature = "samples")]
    samples: Option<PathBuf>,
    #[cfg(feature = "samples")]
    method: Method,
    #[cfg(feature = "samples")]
    preprocess: Preprocess,
    precision: PrecisionFrom,
    target: Option<String>,
    language: Language,
    goal: Goal,
    arena: ArenaMode,
    name: Option<String>,
    weights: WeightsMemory,
    weights_section: Option<String>,
    states: Vec<(String, String)>,
    float_helpers: bool,
    out_dir: Option<PathBuf>,
}

/// What [`Build::generate`] makes.
#[derive(Debug, Clone)]
pub struct Generated {
    /// The files: name and text.
    pub bundle: Bundle,
    /// The facts about the model.
    pub report: Report,
    /// Every file and folder that was read.
    pub read: Vec<PathBuf>,
    /// Warnings; never errors.
    pub warnings: Diagnostics,
}

impl Build {
    /// Compiles `model`, an ONNX file, to Rust.
    pub fn new(model: impl Into<PathBuf>) -> Build {
        Build {
            model: model.into(),
            dims: BTreeMap::new(),
            ranges: None,
            numerics: None,
            #[cfg(feature = "samples")]
            samples: None,
            #[cfg(feature = "samples")]
            method: Method::default(),
            #[cfg(feature = "samples")]
            preprocess: Preprocess::default(),
            precision: PrecisionFrom::default(),
            target: None,
            language: Language::Rust,
            goal: Goal::default(),
            arena: ArenaMode::Static,
            name: None,
            weights: WeightsMemory::default(),
            weights_section: None,
            states: vec![],
            float_helpers: false,
            out_dir: None,
        }
    }

    /// How results are rounded; without it as ONNX Runtime does where the model is quantized already, else natively.
    pub fn numerics(&mut self, numerics: Numerics) -> &mut Build {
        self.numerics = Some(numerics);
        self
    }

    /// The ranges of the tensors, which `ptqc calibrate` has written. The build is then a pure function of its files.
    pub fn ranges(&mut self, file: impl Into<PathBuf>) -> &mut Build {
        self.ranges = Some(file.into());
        self
    }

    /// Keeps `input` between inferences: at each it is what `output` was at the one before. Call it once for each state.
    pub fn state(&mut self, input: impl Into<String>, output: impl Into<String>) -> &mut Build {
        self.states.push((input.into(), output.into()));
        self
    }

    /// Calibrates with samples, instead of reading ranges: a `.npy`, a `.npz` or a folder of them. Takes longer, and
    /// the last bit of a range may differ between machines.
    #[cfg(feature = "samples")]
    pub fn calib(&mut self, data: impl Into<PathBuf>) -> &mut Build {
        self.samples = Some(data.into());
        self
    }

    /// How ranges are chosen from the samples.
    #[cfg(feature = "samples")]
    pub fn method(&mut self, method: Method) -> &mut Build {
        self.method = method;
        self
    }

    /// What is done to stored samples before the model sees them.
    #[cfg(feature = "samples")]
    pub fn preprocess(&mut self, preprocess: Preprocess) -> &mut Build {
        self.preprocess = preprocess;
        self
    }

    /// Type of the activations: [`DType::I8`], the default, or [`DType::I16`].
    pub fn activations(&mut self, dtype: DType) -> &mut Build {
        self.precision.activations = Some(dtype);
        self
    }

    /// Type of the weights: [`DType::I8`], the default, or [`DType::I4`].
    pub fn weights_type(&mut self, dtype: DType) -> &mut Build {
        self.precision.weights = Some(dtype);
        self
    }

    /// A file with the precision of single layers and tensors, by convention `MODEL.recipe.toml`.
    pub fn recipe(&mut self, file: impl Into<PathBuf>) -> &mut Build {
        self.precision.file = Some(file.into());
        self
    }

    /// Gives a size to a symbolic dimension.
    pub fn dim(&mut self, name: impl Into<String>, size: usize) -> &mut Build {
        self.dims.insert(name.into(), size);
        self
    }

    /// What the code is for, one of those that `ptqc targets` lists. By default [`Build::run`] takes the one that suits
    /// every processor of cargo's target, and [`Build::generate`] the portable one.
    pub fn target(&mut self, name: impl Into<String>) -> &mut Build {
        self.target = Some(name.into());
        self
    }

    /// What the code is written in. C is compiled with the `cc` crate, and the crate sees the same interface as that of
    /// Rust, with `unsafe` inside.
    pub fn language(&mut self, language: Language) -> &mut Build {
        self.language = language;
        self
    }

    /// What the code shall be best at.
    pub fn optimize(&mut self, goal: Goal) -> &mut Build {
        self.goal = goal;
        self
    }

    /// Whether `Model` owns its working memory (the default) or borrows it from the caller.
    pub fn arena(&mut self, arena: ArenaMode) -> &mut Build {
        self.arena = arena;
        self
    }

    /// The name of the files and the prefix of symbols, by default made from the model's file name.
    pub fn name(&mut self, name: impl Into<String>) -> &mut Build {
        self.name = Some(name.into());
        self
    }

    /// The memory of constants.
    pub fn weights(&mut self, memory: WeightsMemory) -> &mut Build {
        self.weights = memory;
        self
    }

    /// The linker's section for constants.
    pub fn weights_section(&mut self, name: impl Into<String>) -> &mut Build {
        self.weights_section = Some(name.into());
        self
    }

    /// Adds functions that convert inputs from and outputs to `f32`. The model itself computes without floats.
    pub fn float_helpers(&mut self, wanted: bool) -> &mut Build {
        self.float_helpers = wanted;
        self
    }

    /// Where [`Build::run`] writes the files, by default cargo's `OUT_DIR`.
    pub fn out_dir(&mut self, folder: impl Into<PathBuf>) -> &mut Build {
        self.out_dir = Some(folder.into());
        self
    }

    /// Does everything that a build script has to do. A problem becomes an error of cargo, and the build ends here.
    pub fn run(&self) {
        match self.run_in_cargo() {
            Ok(warnings) => tell("warning", &warnings),
            Err(problems) => {
                tell("error", &problems);
                // Cargo fails the build because of the directives; a failing exit code would only make it print the
                // script's whole output after them. Elsewhere nobody reads directives.
                process::exit(i32::from(std::env::var_os("OUT_DIR").is_none()));
            }
        }
    }

    /// The files, without touching cargo's environment or writing anything. For C the bundle holds bindings too.
    pub fn generate(&self) -> Result<Generated> {
        self.generate_for(self.target.as_deref().map(find_target).transpose()?.unwrap_or(Target::for_rust("")))
    }

    fn run_in_cargo(&self) -> Result<Diagnostics> {
        let target = match &self.target {
            Some(name) => find_target(name)?,
            None => Target::for_rust(&cargo_variable("TARGET")?),
        };
        let out_dir = match &self.out_dir {
            Some(folder) => folder.clone(),
            None => cargo_variable("OUT_DIR")?.into(),
        };
        let generated = self.generate_for(target)?;
        output::write_bundle(&out_dir, &generated.bundle, true)?;
        if self.language == Language::C {
            compile_c(&out_dir, &generated.report.name)?;
        }
        for path in &generated.read {
            println!("cargo::rerun-if-changed={}", path.display());
        }
        Ok(generated.warnings)
    }

    fn generate_for(&self, target: &'static Target) -> Result<Generated> {
        self.check_precision()?;
        let recipe = Recipe {
            dims: self.dims.clone(),
            precision: self.precision.clone(),
            settings: self.precision.settings()?,
            ranges: self.ranges_from()?,
            numerics: self.numerics,
            target,
            language: self.language,
            goal: self.goal,
            // A static arena in C could be used by two threads at once; safe Rust must not be able to do that.
            arena: if self.language == Language::C { ArenaMode::Caller } else { self.arena },
            name: symbol_prefix(self.name.as_deref(), &self.model)?,
            weights: weights(self.weights, self.weights_section.as_deref())?,
            states: self.states.clone(),
            float_helpers: self.float_helpers,
        };
        let in_model = |problems: Diagnostics| problems.in_file(self.model.display());
        let mut source = files::load_model(&self.model, &self.dims)?;
        source.frontend.numerics = self.numerics.unwrap_or(source.frontend.numerics);
        let mut read = source.read.clone();
        read.extend(self.precision.file.clone());
        let (ranges, mut warnings) = self.load_ranges(&recipe.ranges, &source, &mut read)?;
        let build = driver::build(&source.frontend, &ranges, &recipe.options(&source)).map_err(in_model)?;
        warnings.extend(in_model(build.warnings));
        let mut bundle = build.bundle;
        if self.language == Language::C {
            let bindings = print::rust::bindings(&build.lowered.program, &build.interface, self.arena);
            bundle.insert(format!("{}.rs", recipe.name), bindings);
        }
        Ok(Generated { bundle, report: build.report, read, warnings })
    }

    #[cfg(feature = "samples")]
    fn ranges_from(&self) -> Result<RangesFrom> {
        match (&self.ranges, &self.samples) {
            (Some(file), None) => Ok(RangesFrom::File(file.clone())),
            (None, Some(samples)) => Ok(RangesFrom::Samples(samples.clone(), self.method)),
            (Some(_), Some(_)) => Err(self.no_ranges("both ranges and samples are given")),
            (None, None) => Ok(RangesFrom::Model),
        }
    }

    #[cfg(not(feature = "samples"))]
    fn ranges_from(&self) -> Result<RangesFrom> {
        Ok(self.ranges.clone().map_or(RangesFrom::Model, RangesFrom::File))
    }

    fn check_precision(&self) -> Result<()> {
        let PrecisionFrom { activations, weights, .. } = self.precision;
        let wrong = |given: Option<DType>, allowed: [DType; 2]| given.filter(|given| !allowed.contains(given));
        let message = match (wrong(activations, [DType::I8, DType::I16]), wrong(weights, [DType::I8, DType::I4])) {
            (Some(dtype), _) => format!("activations cannot be of type {dtype}: int8 and int16 are possible"),
            (None, Some(dtype)) => format!("weights cannot be of type {dtype}: int8 and int4 are possible"),
            (None, None) => return Ok(()),
        };
        Err(Diagnostic::error(Code::InvalidOption, message).into())
    }

    fn no_ranges(&self, message: &str) -> Diagnostics {
        let model = self.model.display();
        Diagnostic::error(Code::MissingRange, message)
            .file(&model)
            .help(format!(
                "run `ptqc calibrate {model} --calib samples.npy` and give the file that it writes: `.ranges(\"FILE\")`"
            ))
            .into()
    }

    fn load_ranges(
        &self,
        from: &RangesFrom,
        source: &Source,
        read: &mut Vec<PathBuf>,
    ) -> Result<(Ranges, Diagnostics)> {
        match from {
            RangesFrom::File(file) => {
                read.push(file.clone());
                files::read_ranges(file, source)
            }
            #[cfg(feature = "samples")]
            RangesFrom::Samples(path, method) => {
                let samples = files::open_samples(&source.frontend.model, path, &self.preprocess)?;
                // The folder too: a further file in it changes the ranges.
                read.push(path.clone());
                let ranges = files::calibrate(source, &samples, *method, &|| {});
                Ok((ranges.map_err(|problems| problems.in_file(path.display()))?, Diagnostics::new()))
            }
            RangesFrom::Model if source.frontend.model.is_quantized() => Ok((Ranges::default(), Diagnostics::new())),
            RangesFrom::Model => Err(self.no_ranges("neither ranges nor samples are given")),
            #[cfg(not(feature = "samples"))]
            RangesFrom::Samples(..) => Err(self.no_ranges("no ranges are given")),
        }
    }
}

/// Compiles the emitted C into a library that the crate is linked with.
fn compile_c(folder: &Path, name: &str) -> Result<()> {
    let mut compiler = cc::Build::new();
    compiler.include(folder).std("c99").warnings(true).extra_warnings(true);
    compiler.files([format!("{name}.c"), format!("{name}_weights.c")].map(|file| folder.join(file)));
    // Without optimisation a model is several times slower, and nobody steps through it.
    if std::env::var("OPT_LEVEL").is_ok_and(|level| ["0", "1"].contains(&level.as_str())) {
        compiler.opt_level(2);
    }
    compiler.try_compile(&format!("ptqc_{name}")).map_err(|error| {
        Diagnostic::error(Code::BuildScript, format!("the C of `{name}` cannot be compiled"))
            .note(error.to_string())
            .help("install a C compiler for the target or name one in the variable `CC`, or use `Language::Rust`")
            .into()
    })
}

fn cargo_variable(name: &str) -> Result<String> {
    std::env::var(name).map_err(|_| {
        Diagnostic::error(Code::BuildScript, format!("cargo's variable `{name}` is not set"))
            .help("call `run` in a build script, and `generate` elsewhere")
            .into()
    })
}

/// Tells cargo about problems, line by line: one directive is one line.
fn tell(directive: &str, problems: &Diagnostics) {
    for line in render::render_plain(problems).lines().filter(|line| !line.is_empty()) {
        println!("cargo::{directive}={line}");
    }
}
