//! `ptqc bench`.

use std::path::PathBuf;

use clap::Args;

use super::code::CodeArgs;
use super::source::{ModelArgs, PreprocessArgs, RangesArgs, Source, open_samples, problem};
use crate::diag::{self, Code};
use crate::driver::{self, Build};
use crate::evaluate::quantize_input;
use crate::ir::DType;
use crate::measure::{self, Figures, Setup};

/// Compile the code for a target, run it, and measure instructions or time, flash and RAM.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    ranges: RangesArgs,
    #[command(flatten)]
    code: CodeArgs,
    /// The C compiler: one of the target's, or its kind: gcc, clang [default: the target's first]
    #[arg(long, value_name = "PROGRAM")]
    compiler: Option<String>,
    /// Optimisation, as the compiler takes it
    #[arg(long, value_name = "FLAG", default_value = "-O2", allow_hyphen_values = true)]
    opt: String,
    /// Measure on the first sample of this data [default: the first calibration sample; without any, random numbers]
    #[arg(long, value_name = "DATA")]
    data: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> diag::Result<()> {
    let recipe = args.code.recipe(&args.model, &args.ranges)?;
    let compiler = measure::find_compiler(recipe.target, args.compiler.as_deref())?;
    let source = args.model.load()?;
    let ranges = args.ranges.load(&source, &args.preprocess.preprocess())?;
    let in_model = |problems: diag::Diagnostics| problems.in_file(args.model.model.display());
    let build = driver::build(&source.frontend, &ranges, &recipe.options(&source)).map_err(in_model)?;
    super::warn(&in_model(build.warnings.clone()));
    let sample = sample(args, &source, &build)?;
    let flags = [args.opt.clone()];
    let setup = Setup { build: &build, target: recipe.target, compiler, flags: &flags, sample: &sample };
    let figures = measure::measure(&setup)?;
    match args.json {
        true => super::say(
            &serde_json::to_string_pretty(&figures).map_err(|error| problem(Code::Internal, error.to_string()))?,
        ),
        false => super::say(&table(&figures)),
    }
}

/// The sample to measure on.
fn sample(args: &BenchArgs, source: &Source, build: &Build) -> diag::Result<Vec<Vec<i32>>> {
    let inputs = build.quant.inputs();
    let Some(data) = args.data.as_ref().or(args.ranges.calib.as_ref()) else {
        return Ok(inputs.iter().map(|&id| random(build.quant.node(id).value.shape.len())).collect());
    };
    let samples = open_samples(&source.frontend.model, data, &args.preprocess.preprocess())?;
    let first = samples.samples().next().transpose()?.unwrap_or_default();
    Ok(inputs.iter().zip(&first).map(|(&id, values)| quantize_input(&build.quant, id, values)).collect())
}

/// Numbers that look random and are always the same.
fn random(len: usize) -> Vec<i32> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as i32 + DType::I8.min()
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn table(figures: &Figures) -> String {
    let name = figures.layers.iter().map(|layer| layer.function.len()).max().unwrap_or(0).max(16);
    let per_mac = |instructions: u64, macs: u64| match macs {
        0 => String::new(),
        macs => format!("{:.2}", instructions as f64 / macs as f64),
    };
    let mut text = format!(
        "{} on {}: {} {}, {}\n",
        figures.name,
        figures.target,
        figures.compiler,
        figures.flags.join(" "),
        "output equal to the evaluator's"
    );
    let line = |name_: &str, macs: u64, instructions: u64, kernel: &str| {
        format!("  {name_:name$} {macs:>11} {instructions:>12} {:>7}  {kernel}\n", per_mac(instructions, macs))
    };
    if let Some(total) = figures.instructions {
        text += &format!("  {:name$} {:>11} {:>12} {:>7}  kernel\n", "layer", "MACs", "instructions", "per MAC");
        for layer in &figures.layers {
            text += &line(&layer.function, layer.macs, layer.instructions.unwrap_or(0), &layer.kernel);
        }
        text += &line("whole inference", figures.macs, total, "");
    }
    if let Some(time) = &figures.time {
        text += &format!(
            "  time of an inference, one thread: median {:.2} us, 80 % of {} runs within {:.2} .. {:.2} us\n",
            time.median_us, time.runs, time.low_us, time.high_us
        );
    }
    let (flash, ram) = (&figures.flash, &figures.ram);
    text += &format!(
        "  flash {} bytes: code {}, library {}, weights {}\n",
        flash.code + flash.library + flash.weights,
        flash.code,
        flash.library,
        flash.weights
    );
    text += &format!(
        "  RAM   {} bytes: arena {}, variables {}, stack {}\n",
        ram.arena + ram.variables + ram.stack,
        ram.arena,
        ram.variables,
        ram.stack
    );
    text
}
