//! `ptqc build`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ptqc_target_runtimes::Target;

use super::output;
use super::source::{ModelArgs, PreprocessArgs, RangesArgs, Source, file_name, problem};
use crate::diag::{self, Code, Diagnostic};
use crate::driver::{self, Options};
use crate::names;
use crate::print::ArenaMode;
use crate::report::Report;

/// Compile a model to C.
#[derive(Debug, Args)]
pub struct BuildArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    ranges: RangesArgs,
    /// What the code is for; `ptqc targets` lists them
    #[arg(long, short, default_value = "generic")]
    target: String,
    /// Folder for the files; made if it is missing
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// Prefix of all symbols and files [default: from the model's file name]
    #[arg(long)]
    name: Option<String>,
    /// Who owns the working memory
    #[arg(long, value_enum, default_value = "static")]
    arena: Arena,
    /// Overwrite files that ptqc did not make
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// Who owns the working memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Arena {
    /// A static buffer in the emitted code
    Static,
    /// The caller passes a buffer; the code is re-entrant
    Caller,
}

/// Runs the command.
pub fn run(args: &BuildArgs) -> diag::Result<()> {
    let target = find_target(&args.target)?;
    let name = symbol_prefix(args)?;
    let source = args.model.load()?;
    let ranges = args.ranges.load(&source, &args.preprocess.preprocess())?;
    let options = options(args, &source, target, name);
    let in_model = |problems: diag::Diagnostics| problems.in_file(args.model.model.display());
    let build = driver::build(&source.frontend, &ranges, &options).map_err(in_model)?;
    super::warn(&in_model(build.warnings));
    output::write_bundle(&args.output, &build.bundle, args.force)?;
    super::say(&summary(&build.report, args))
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

fn symbol_prefix(args: &BuildArgs) -> diag::Result<String> {
    let stem = args.model.model.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    match &args.name {
        None => Ok(names::prefix(&stem)),
        Some(name) if *name == names::prefix(name) => Ok(name.clone()),
        Some(name) => Err(problem(
            Code::InvalidName,
            format!("`{name}` cannot be the prefix of C symbols; try `{}`", names::prefix(name)),
        )),
    }
}

fn options<'a>(args: &BuildArgs, source: &Source, target: &'a Target, name: String) -> Options<'a> {
    let arena = match args.arena {
        Arena::Static => ArenaMode::Static,
        Arena::Caller => ArenaMode::Caller,
    };
    let mut command = format!("ptqc build {}", source.file_name);
    for (dim, size) in &args.model.dims {
        command += &format!(" --dim {dim}={size}");
    }
    match (&args.ranges.calib, &args.ranges.ranges) {
        (Some(data), _) => command += &format!(" --calib {} --method {}", file_name(data), args.ranges.method),
        (None, Some(file)) => command += &format!(" --ranges {}", file_name(file)),
        (None, None) => {}
    }
    command += &format!(" --target {} --name {name} --arena {}", target.name, arena.name());
    Options { name, target, arena, command, model_sha256: source.sha256.clone() }
}

fn summary(report: &Report, args: &BuildArgs) -> String {
    let arena = &report.arena;
    let above = match arena.bytes - arena.lower_bound_bytes.min(arena.bytes) {
        0 => "no plan needs less".to_owned(),
        gap => format!("{gap} above the lower bound"),
    };
    format!(
        "{name}: {layers} layers, {macs} multiply-accumulates\n  \
         constants {weights} bytes, arena {arena} bytes ({above}; peak at {peak})\n  \
         wrote {name}.h, {name}.c, {name}_weights.c, {name}.report.json to {folder}",
        name = report.name,
        layers = report.layers.len(),
        macs = report.macs,
        weights = report.weight_bytes,
        arena = arena.bytes,
        peak = if arena.peak_nodes.is_empty() { arena.peak_layer.clone() } else { arena.peak_nodes.join(" + ") },
        folder = args.output.display(),
    )
}
