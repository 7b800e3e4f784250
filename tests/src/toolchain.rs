//! Compilers and emulators: builds emitted C for a target and runs it on samples.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use ptqc_target_runtimes::{Compiler, HOSTED, Runner, SEMIHOSTING, Target, linker_script};

use crate::harness::{HARNESS, Harness};

/// The flags under which emitted C has to compile without a warning.
pub const STRICT: &[&str] = &[
    "-std=c99",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wconversion",
    "-Wshadow",
    "-Wcast-align",
    "-Wsign-conversion",
    "-Wundef",
    "-Wmissing-prototypes",
    "-Wstrict-prototypes",
    "-Werror",
];

/// Flags for code of our own that is not under test.
pub(crate) const SUPPORT: &[&str] = &["-std=gnu11", "-O1"];

/// Whether a program can be started.
pub fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(program).is_file())
}

/// The programs that a target needs and this machine lacks; empty if code for it can be built and run.
pub fn missing(target: &Target, compiler: &Compiler) -> Vec<&'static str> {
    let emulator = match target.runner {
        Runner::User { native, emulator } if native != std::env::consts::ARCH => emulator.first().copied(),
        Runner::User { .. } => None,
        Runner::Board(board) => board.emulator.first().copied(),
    };
    let needed = [Some(compiler.program), Some(compiler.linker.0), emulator];
    let mut missing: Vec<&str> = needed.into_iter().flatten().filter(|program| !is_installed(program)).collect();
    missing.dedup();
    missing
}

/// A compiled program that runs a model over samples.
#[derive(Debug)]
pub struct Executable {
    command: Vec<String>,
    folder: PathBuf,
}

/// Compiles emitted files together with the harness. `flags` are added to the strict ones, for emitted code only.
pub fn build(
    folder: &Path,
    harness: &Harness,
    target: &Target,
    compiler: &Compiler,
    flags: &[&str],
) -> Result<Executable> {
    let emitted: Vec<String> = harness.sources();
    let mut objects = vec![];
    for source in &emitted {
        let strict = [STRICT, flags].concat();
        objects.push(compile(folder, source, compiler, &strict)?);
    }
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
) -> Result<Executable> {
    std::fs::write(folder.join("model.h"), harness.model_header())?;
    std::fs::write(folder.join("harness.c"), HARNESS)?;
    objects.push(compile(folder, "harness.c", compiler, SUPPORT)?);
    link_for(folder, target, compiler, flags, objects)
}

/// Links objects with what a target needs beside them: access to files, start-up code.
pub(crate) fn link_for(
    folder: &Path,
    target: &Target,
    compiler: &Compiler,
    flags: &[&str],
    mut objects: Vec<String>,
) -> Result<Executable> {
    let mut support = vec![];
    match target.runner {
        Runner::User { .. } => support.push(("hosted.c", HOSTED)),
        Runner::Board(board) => {
            support.extend([("startup.c", board.startup), ("semihosting.c", SEMIHOSTING)]);
            std::fs::write(folder.join("board.ld"), linker_script(&board))?;
        }
    }
    for (name, text) in support {
        std::fs::write(folder.join(name), text)?;
        objects.push(compile(folder, name, compiler, SUPPORT)?);
    }
    // A linker takes from an archive only what has been missing before.
    objects.sort_by_key(|object| object.ends_with(".a"));
    link(folder, &objects, target, compiler, flags)?;
    Ok(Executable { command: run_command(target), folder: folder.to_owned() })
}

pub(crate) fn compile(folder: &Path, source: &str, compiler: &Compiler, flags: &[&str]) -> Result<String> {
    let object = format!("{source}.o");
    let mut command = Command::new(compiler.program);
    command.args(compiler.flags).args(flags).args(["-c", source, "-o", &object]);
    run(&mut command, folder)?;
    Ok(object)
}

fn link(folder: &Path, objects: &[String], target: &Target, compiler: &Compiler, flags: &[&str]) -> Result<()> {
    let (linker, linker_flags) = compiler.linker;
    let mut command = Command::new(linker);
    command.args(linker_flags).args(objects).args(["-o", "program"]);
    command.args(flags.iter().filter(|flag| flag.starts_with("-fsanitize")));
    if let Runner::Board(_) = target.runner {
        command.args(["-nostartfiles", "-static", "-T", "board.ld"]);
    }
    run(&mut command, folder).map(drop)
}

fn run_command(target: &Target) -> Vec<String> {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    match target.runner {
        Runner::User { native, .. } if native == std::env::consts::ARCH => words(&["./program"]),
        Runner::User { emulator, .. } => [words(emulator), words(&["./program"])].concat(),
        Runner::Board(board) => {
            let devices =
                ["-nographic", "-monitor", "none", "-serial", "none", "-semihosting-config", "enable=on,target=native"];
            [words(board.emulator), words(&devices), words(&["-kernel", "program"])].concat()
        }
    }
}

impl Executable {
    /// Runs the model over samples: each holds the bytes of all inputs, the result those of all outputs.
    pub fn run(&self, inputs: &[u8]) -> Result<Vec<u8>> {
        let (outputs, ended) = self.run_to_the_end(inputs)?;
        ended.map(|()| outputs)
    }

    /// The same where the program may fail: what it has written until then, and how it ended.
    pub fn run_to_the_end(&self, inputs: &[u8]) -> Result<(Vec<u8>, Result<()>)> {
        std::fs::write(self.folder.join("inputs.bin"), inputs)?;
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        let ended = run(&mut command, &self.folder).map(drop);
        let outputs = std::fs::read(self.folder.join("outputs.bin"));
        // A program that has not even begun to write says why in its own words.
        match (outputs, ended) {
            (Ok(outputs), ended) => Ok((outputs, ended)),
            (Err(_), Err(error)) => Err(error),
            (Err(missing), Ok(())) => Err(missing.into()),
        }
    }
}

/// Runs a command in a folder; its output is part of the error if it fails.
pub fn run(command: &mut Command, folder: &Path) -> Result<Vec<u8>> {
    let output = command.current_dir(folder).stdin(std::process::Stdio::null()).output();
    let output = output.with_context(|| format!("{command:?} does not start"))?;
    if !output.status.success() {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        bail!("{command:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    }
    Ok(output.stdout)
}

/// Python with onnxruntime, where the set-up script has put it, or as it is installed.
pub fn python() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let candidates = [root.join("target/python/bin/python"), PathBuf::from("python3")];
    candidates.into_iter().find(|python| {
        let check = Command::new(python).args(["-c", "import onnx, onnxruntime, numpy"]).output();
        check.is_ok_and(|output| output.status.success())
    })
}

/// Whether the environment asks that nothing is skipped, as continuous integration does.
pub fn must_not_skip() -> bool {
    std::env::var_os("PTQC_TEST_ALL").is_some_and(|value| value == OsStr::new("1"))
}
