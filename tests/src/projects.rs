//! Cargo projects that build with ptqc: the examples, and small ones that tests write.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("..")).to_owned()
}

/// Where such projects are built. They share one folder, so that what ptqc needs is compiled once for all of them.
pub fn target_dir() -> PathBuf {
    root().join("target/examples/cargo")
}

/// Cargo for a project in `folder`.
pub fn cargo(folder: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(folder).env("CARGO_TARGET_DIR", target_dir()).env("CARGO_TERM_COLOR", "never");
    cargo
}
