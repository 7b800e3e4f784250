//! Compilers and emulators: builds emitted code for a target and runs it on samples.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ptqc_target_runtimes::{Compiler, HARNESS, HOSTED, Runner, SEMIHOSTING, Target, linker_script};

use super::harness::Harness;
use crate::diag::{Code, Diagnostic, Diagnostics};

/// Flags for code of our own that is not under test.
pub const SUPPORT: &[&str] = &["-std=gnu11", "-O1"];

/// The program that [`build`] makes, in its folder.
pub const PROGRAM: &str = "program";

/// How a board reaches files, and only them.
const BOARD_DEVICES: &[&str] =
    &["-nographic", "-monitor", "none", "-serial", "none", "-semihosting-config", "enable=on,target=native"];

/// A program that does not start or fails, or a file that cannot be written.
#[derive(Debug)]
pub struct Failure {
    what: String,
    output: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.what, self.output)
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure { what: error.to_string(), output: String::new() }
    }
}

impl From<Failure> for Diagnostics {
    fn from(failure: Failure) -> Diagnostics {
        let diagnostic = Diagnostic::error(Code::Toolchain, failure.what);
        match failure.output.trim() {
            "" => diagnostic.into(),
            output => diagnostic.note(output).into(),
        }
    }
}

/// Whether a program can be started.
pub fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(program).is_file())
}

/// The programs that a target needs and this machine lacks; empty if code for it can be built and run.
pub fn missing(target: &Target, compiler: &Compiler) -> Vec<&'static str> {
    let needed = [Some(compiler.program), Some(compiler.linker.0), emulator(target).first().copied()];
    let mut missing: Vec<&str> = needed.into_iter().flatten().filter(|program| !is_installed(program)).collect();
    missing.dedup();
    missing.extend(target.lacking_here());
    missing
}

/// Program and version, as the program says it.
pub fn version(program: &Path) -> Result<String, Failure> {
    let text = run(Command::new(program).arg("--version"), Path::new("."))?;
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned())
}

/// The emulator and its arguments; empty if programs for the target run as they are.
pub fn emulator(target: &Target) -> &'static [&'static str] {
    match target.runner {
        Runner::User { native, .. } if native == std::env::consts::ARCH => &[],
        Runner::User { emulator, .. } => emulator,
        Runner::Board(board) => board.emulator,
    }
}

/// An emulator that can run what this machine runs itself: it counts instructions. Empty if there is none.
pub fn spare_emulator(target: &Target) -> &'static [&'static str] {
    match target.runner {
        Runner::User { emulator: [program, ..], .. } if !is_installed(program) => &[],
        Runner::User { emulator, .. } => emulator,
        Runner::Board(_) => &[],
    }
}

/// A compiled program that runs a model over samples.
#[derive(Debug)]
pub struct Executable {
    emulator: Vec<String>,
    program: Vec<String>,
    folder: PathBuf,
}

/// Compiles emitted C together with the harness. `flags` are for emitted code only.
pub fn build(
    folder: &Path,
    harness: &Harness,
    target: &Target,
    compiler: &Compiler,
    flags: &[&str],
) -> Result<Executable, Failure> {
    let sources = harness.sources();
    let objects = sources.iter().map(|source| compile(folder, source, compiler, flags)).collect::<Result<_, _>>()?;
    finish(folder, harness, target, compiler, flags, objects)
}

/// Compiles the harness and links it with the objects of a model.
pub fn finish(
    folder: &Path,
    harness: &Harness,
    target: &Target,
    compiler: &Compiler,
    flags: &[&str],
    mut objects: Vec<String>,
) -> Result<Executable, Failure> {
    std::fs::write(folder.join("model.h"), harness.model_header())?;
    if let Some((name, text)) = harness.meter.map(|meter| meter.header()) {
        std::fs::write(folder.join(name), text)?;
    }
    std::fs::write(folder.join("harness.c"), HARNESS)?;
    objects.push(compile(folder, "harness.c", compiler, SUPPORT)?);
    link_for(folder, target, compiler, flags, objects)
}

/// Links objects with what a target needs beside them: access to files, start-up code.
pub fn link_for(
    folder: &Path,
    target: &Target,
    compiler: &Compiler,
    flags: &[&str],
    mut objects: Vec<String>,
) -> Result<Executable, Failure> {
    if let Runner::Board(board) = target.runner {
        std::fs::write(folder.join("board.ld"), linker_script(&board))?;
    }
    for (name, text) in around(target) {
        std::fs::write(folder.join(name), text)?;
        objects.push(compile(folder, name, compiler, SUPPORT)?);
    }
    // A linker takes from an archive only what has been missing before.
    objects.sort_by_key(|object| object.ends_with(".a"));
    link(folder, &objects, target, compiler, flags)?;
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let program = match target.runner {
        Runner::User { .. } => words(&["./program"]),
        Runner::Board(_) => words(&[BOARD_DEVICES, &["-kernel", PROGRAM]].concat()),
    };
    Ok(Executable { emulator: words(emulator(target)), program, folder: folder.to_owned() })
}

/// Names and texts of the sources around a model.
pub fn support(target: &Target) -> Vec<(&'static str, &'static str)> {
    [vec![("harness.c", HARNESS)], around(target)].concat()
}

/// Those that do not know the model.
fn around(target: &Target) -> Vec<(&'static str, &'static str)> {
    match target.runner {
        Runner::User { .. } => vec![("hosted.c", HOSTED)],
        Runner::Board(board) => vec![("startup.c", board.startup), ("semihosting.c", SEMIHOSTING)],
    }
}

/// Compiles a source in a folder and returns the object's name.
pub fn compile(folder: &Path, source: &str, compiler: &Compiler, flags: &[&str]) -> Result<String, Failure> {
    let object = object_name(source);
    let mut command = Command::new(compiler.program);
    command.args(compiler.flags).args(flags).args(["-c", source, "-o", &object]);
    run(&mut command, folder)?;
    Ok(object)
}

/// The object that [`compile`] makes of a source.
pub fn object_name(source: &str) -> String {
    format!("{source}.o")
}

fn link(
    folder: &Path,
    objects: &[String],
    target: &Target,
    compiler: &Compiler,
    flags: &[&str],
) -> Result<(), Failure> {
    let (linker, linker_flags) = compiler.linker;
    let mut command = Command::new(linker);
    command.args(linker_flags).args(objects).args(["-o", PROGRAM]);
    command.args(flags.iter().filter(|flag| flag.starts_with("-fsanitize")));
    match target.runner {
        Runner::Board(_) => drop(command.args(["-nostartfiles", "-static", "-T", "board.ld"])),
        // Addresses in an emulated program are those of its file.
        Runner::User { .. } if !spare_emulator(target).is_empty() => drop(command.arg("-static")),
        Runner::User { .. } => {}
    }
    run(&mut command, folder).map(drop)
}

impl Executable {
    /// The same program in an emulator.
    pub fn emulated(self, emulator: &[&str]) -> Executable {
        Executable { emulator: emulator.iter().map(|&word| word.to_owned()).collect(), ..self }
    }

    /// Runs the model over samples: each holds the bytes of all inputs, the result those of all outputs.
    pub fn run(&self, inputs: &[u8]) -> Result<Vec<u8>, Failure> {
        self.run_with(inputs, &[])
    }

    /// The same where the program may fail: what it has written until then, and how it ended.
    pub fn run_to_the_end(&self, inputs: &[u8]) -> Result<(Vec<u8>, Result<(), Failure>), Failure> {
        std::fs::write(self.folder.join("inputs.bin"), inputs)?;
        let words: Vec<&String> = self.emulator.iter().chain(&self.program).collect();
        let ended = run(Command::new(words[0]).args(&words[1..]), &self.folder).map(drop);
        let outputs = std::fs::read(self.folder.join("outputs.bin"));
        // A program that has not even begun to write says why in its own words.
        match (outputs, ended) {
            (Ok(outputs), ended) => Ok((outputs, ended)),
            (Err(_), Err(error)) => Err(error),
            (Err(missing), Ok(())) => Err(missing.into()),
        }
    }

    /// The same, with arguments for the emulator.
    pub fn run_with(&self, inputs: &[u8], arguments: &[&str]) -> Result<Vec<u8>, Failure> {
        std::fs::write(self.folder.join("inputs.bin"), inputs)?;
        let arguments = arguments.iter().map(|&argument| argument.to_owned());
        let words: Vec<String> =
            self.emulator.iter().cloned().chain(arguments).chain(self.program.iter().cloned()).collect();
        run(Command::new(&words[0]).args(&words[1..]), &self.folder)?;
        Ok(std::fs::read(self.folder.join("outputs.bin"))?)
    }
}

/// Runs a command in a folder; its output is part of the error if it fails.
pub fn run(command: &mut Command, folder: &Path) -> Result<Vec<u8>, Failure> {
    let output = command.current_dir(folder).stdin(Stdio::null()).output();
    let output = output
        .map_err(|error| Failure { what: format!("{command:?} does not start: {error}"), output: String::new() })?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        return Err(Failure { what: format!("{command:?}: {}", output.status), output: text });
    }
    Ok(output.stdout)
}
