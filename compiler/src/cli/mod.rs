//! The command line: arguments, files, progress, tables. Everything else is in the library.

pub mod data;
mod build;
mod calibrate;
mod eval;
mod inspect;
mod lists;
mod metrics;
pub mod output;
pub mod render;
mod run;
mod source;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::diag::{self, Diagnostics};

/// Compiles ONNX models to integer-only source code for small processors.
#[derive(Debug, Parser)]
#[command(name = "ptqc", version, about, long_about = LONG_ABOUT, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const LONG_ABOUT: &str = "Compiles ONNX models to integer-only source code for small processors.\n\n\
    ptqc reads a float ONNX model and sample inputs, quantizes it to int8, and writes C99 that needs nothing: \
    no library, no heap, no floating point. The same bits come out on every processor.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Compile a model to C
    Build(build::BuildArgs),
    /// Record the range of every tensor over sample inputs
    Calibrate(calibrate::CalibrateArgs),
    /// Compare the accuracy of the float and the integer model
    Eval(eval::EvalArgs),
    /// Run the integer model on inputs and write its outputs as .npy files
    Run(run::RunArgs),
    /// Show a stage of the compilation
    Inspect(inspect::InspectArgs),
    /// List the targets
    Targets(lists::ListArgs),
    /// List the ONNX operators and what becomes of them
    Ops(lists::ListArgs),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Build(args) => build::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Inspect(args) => inspect::run(&args),
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
