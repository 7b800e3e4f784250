//! `ptqc build`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::output;
use super::source::{ModelArgs, PreprocessArgs, RangesArgs};
use crate::diag;
use crate::driver;
use crate::plan::Goal;
use crate::print::{ArenaMode, Bundle, Language, WeightsMemory};
use crate::recipe::{Recipe, find_target, symbol_prefix, weights};
use crate::report::Report;

/// Compile a model to C or Rust.
#[derive(Debug, Args)]
pub struct BuildArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    ranges: RangesArgs,
    /// What the code is for; `ptqc targets` lists them
    #[arg(long, short, default_value = "generic")]
    target: String,
    /// What the code is written in
    #[arg(long, value_enum, default_value = "c")]
    lang: Lang,
    /// What the code shall be best at
    #[arg(long, value_enum, default_value = "balanced")]
    optimize: Optimize,
    /// Folder for the files; made if it is missing
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// Prefix of all symbols and files [default: from the model's file name]
    #[arg(long)]
    name: Option<String>,
    /// Who owns the working memory
    #[arg(long, value_enum, default_value = "static")]
    arena: Arena,
    /// Where constants are
    #[arg(long, value_enum, default_value = "flash")]
    weights: WeightsArg,
    /// The linker's section for constants
    #[arg(long, value_name = "SECTION")]
    weights_section: Option<String>,
    /// Add functions to Rust code that convert inputs from and outputs to f32; the model itself has no floats
    #[arg(long)]
    float_helpers: bool,
    /// Overwrite files that ptqc did not make
    #[arg(long)]
    force: bool,
    /// Write nothing; fail if the files in the folder are not what would be written
    #[arg(long, conflicts_with = "force")]
    check: bool,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// What the code is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lang {
    /// C99
    C,
    /// Rust 2021, no_std
    Rust,
}

/// What the code shall be best at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Optimize {
    /// Few instructions, as long as code and memory do not pay much for it
    Balanced,
    /// Fewest instructions
    Speed,
    /// Fewest bytes of code and constants
    Size,
    /// Fewest bytes of working memory
    Ram,
}

impl Optimize {
    /// As the driver takes it.
    pub fn goal(self) -> Goal {
        match self {
            Optimize::Balanced => Goal::Balanced,
            Optimize::Speed => Goal::Speed,
            Optimize::Size => Goal::Size,
            Optimize::Ram => Goal::Ram,
        }
    }
}

/// Who owns the working memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Arena {
    /// A static buffer in the emitted code
    Static,
    /// The caller passes a buffer; the code is re-entrant
    Caller,
}

/// Where constants are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WeightsArg {
    /// With the code
    Flash,
    /// With initialised variables, which start-up code copies to RAM
    Ram,
}

/// Runs the command.
pub fn run(args: &BuildArgs) -> diag::Result<()> {
    let recipe = recipe(args)?;
    let source = args.model.load()?;
    let ranges = args.ranges.load(&source, &args.preprocess.preprocess())?;
    let in_model = |problems: diag::Diagnostics| problems.in_file(args.model.model.display());
    let build = driver::build(&source.frontend, &ranges, &recipe.options(&source)).map_err(in_model)?;
    super::warn(&in_model(build.warnings));
    let bundle = output::without_foreign_build_files(&args.output, build.bundle);
    if args.check {
        output::check_bundle(&args.output, &bundle, &repeated_command())?;
        return super::say(&format!("{}: {} is up to date", build.report.name, args.output.display()));
    }
    output::write_bundle(&args.output, &bundle, args.force)?;
    super::say(&summary(&build.report, &bundle, args))
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

fn recipe(args: &BuildArgs) -> diag::Result<Recipe<'static>> {
    Ok(Recipe {
        dims: args.model.dims(),
        target: find_target(&args.target)?,
        ranges: args.ranges.origin()?,
        language: match args.lang {
            Lang::C => Language::C,
            Lang::Rust => Language::Rust,
        },
        goal: args.optimize.goal(),
        arena: match args.arena {
            Arena::Static => ArenaMode::Static,
            Arena::Caller => ArenaMode::Caller,
        },
        weights: weights(
            match args.weights {
                WeightsArg::Flash => WeightsMemory::Flash,
                WeightsArg::Ram => WeightsMemory::Ram,
            },
            args.weights_section.as_deref(),
        )?,
        name: symbol_prefix(args.name.as_deref(), &args.model.model)?,
        float_helpers: args.float_helpers,
    })
}

fn summary(report: &Report, files: &Bundle, args: &BuildArgs) -> String {
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
    format!(
        "{name}: {layers}, {macs} multiply-accumulates\n  \
         constants {weights} bytes, arena {arena} bytes{explained}\n  \
         wrote {files} to {folder}",
        name = report.name,
        macs = report.macs,
        weights = report.weight_bytes,
        arena = arena.bytes,
        files = files.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        folder = args.output.display(),
    )
}
