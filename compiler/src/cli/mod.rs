//! The command line: arguments, files, progress, tables. Everything else is in the library.

mod bench;
mod build;
mod calibrate;
mod code;
mod estimate;
mod eval;
mod figures;
mod inspect;
mod lists;
mod quantize;
mod report;
mod run;
mod search;
mod source;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::diag::{self, Diagnostics};
pub use crate::files::{data, output};
pub use crate::render;

/// Compiles ONNX models to integer-only source code for small processors.
#[derive(Debug, Parser)]
#[command(name = "ptqc", bin_name = "ptqc", version, about, long_about = LONG_ABOUT, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const LONG_ABOUT: &str = "Compiles ONNX models to integer-only source code for small processors.\n\n\
    ptqc reads an ONNX model, float with sample inputs or already quantized, and writes integer C99 or Rust that needs nothing: \
    no library, no heap, no floating point. The same bits come out on every processor.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Compile a model to C or Rust
    Build(build::BuildArgs),
    /// Record the range of every tensor over sample inputs
    Calibrate(calibrate::CalibrateArgs),
    /// Compare the accuracy of the float and the integer model
    Eval(eval::EvalArgs),
    /// Show what quantization does to a model: errors by layer, their causes, and what would help
    Report(report::ReportArgs),
    /// Run the integer model on inputs and write its outputs as .npy files
    Run(run::RunArgs),
    /// Write the quantized model as ONNX in QDQ form, for other runtimes
    Quantize(quantize::QuantizeArgs),
    /// Compile the code for a target, run it, and measure instructions or time, flash and RAM
    Bench(bench::BenchArgs),
    /// Say what the code will cost on a target, without a compiler
    Estimate(estimate::EstimateArgs),
    /// Show a stage of the compilation
    Inspect(inspect::InspectArgs),
    /// Choose the precision of each layer under a budget of flash, RAM and accuracy
    Search(search::SearchArgs),
    /// List the targets
    Targets(lists::ListArgs),
    /// List the ONNX operators and what becomes of them
    Ops(lists::ListArgs),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(usage) => return explain_usage(&usage),
    };
    let result = match arguments.command {
        Command::Build(args) => build::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Estimate(args) => estimate::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Search(args) => search::run(&args),
        Command::Targets(args) => lists::targets(&args),
        Command::Ops(args) => lists::ops(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(diagnostics) => {
            render::print(&diagnostics);
            ExitCode::from(render::exit_code(&diagnostics))
        }
    }
}

/// Prints help, version or what is wrong with the arguments. A slip is the user's, so its exit code is that of any other.
fn explain_usage(usage: &clap::Error) -> ExitCode {
    // A closed standard output leaves nobody to tell.
    let _ = usage.print();
    if usage.use_stderr() { ExitCode::from(render::EXIT_USER) } else { ExitCode::SUCCESS }
}

/// Prints warnings, and goes on.
fn warn(warnings: &Diagnostics) {
    if !warnings.is_empty() {
        render::print(warnings);
    }
}

/// Prints to standard output; a reader that has seen enough is no error.
fn say(text: &str) -> diag::Result<()> {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    Ok(())
}
