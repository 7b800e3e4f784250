//! What the tests add to the compilers and emulators that `ptqc bench` uses.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use ptqc::measure::toolchain;
pub use ptqc::measure::toolchain::{Executable, SUPPORT, build, compile, finish, is_installed, link_for, missing};

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

/// Runs a command in a folder; its output is part of the error if it fails.
pub fn run(command: &mut Command, folder: &Path) -> Result<Vec<u8>> {
    Ok(toolchain::run(command, folder)?)
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
