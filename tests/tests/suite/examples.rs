//! The examples do what their READMEs say.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use ptqc_tests::projects::{cargo, root, target_dir};
use ptqc_tests::toolchain::{self, is_installed};

const DIGITS: [&str; 3] = ["is a 3", "is a 7", "is a 8"];
const CLASSES: [&str; 2] = ["the first ten are 4 4 8 2 7 9 9 2 4 3", "197 of 200 are right"];

/// True, and says so, if a program that an example needs is missing.
fn skipped(example: &str, programs: &[&str]) -> bool {
    let missing: Vec<&&str> = programs.iter().filter(|program| !is_installed(program)).collect();
    if !missing.is_empty() {
        println!("skipped: {example}: not installed: {missing:?}");
        assert!(!toolchain::must_not_skip(), "nothing may be skipped here");
    }
    !missing.is_empty()
}

/// Runs an example's script with the command under test; what it prints.
fn script(example: &str) -> Result<String> {
    let out = tempfile::tempdir()?;
    let mut script = Command::new(root().join("examples").join(example).join("run.sh"));
    script
        .env("PTQC", env!("CARGO_BIN_EXE_ptqc-under-test"))
        .env("OUT", out.path())
        .env("CARGO_TARGET_DIR", target_dir());
    Ok(String::from_utf8(toolchain::run(&mut script, out.path())?)?)
}

fn lines<'a>(printed: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    printed.lines().filter(|line| wanted.iter().any(|wanted| line[..line.len().min(4)] == wanted[..4])).collect()
}

/// The README of an example shows what it prints.
fn documented(example: &str, wanted: &[&str]) -> Result<()> {
    let text = std::fs::read_to_string(root().join("examples").join(example).join("README.md"))?;
    for line in wanted {
        ensure!(text.lines().any(|shown| shown == *line), "the README of {example} does not show `{line}`");
    }
    Ok(())
}

#[test]
fn c_library() -> Result<()> {
    documented("c-library", &CLASSES)?;
    if skipped("c-library", &["cc", "python3"]) {
        return Ok(());
    }
    let printed = script("c-library")?;
    ensure!(CLASSES.iter().all(|wanted| printed.lines().any(|line| line == *wanted)), "{printed}");
    Ok(())
}

#[test]
fn firmware_c() -> Result<()> {
    documented("firmware-c", &DIGITS)?;
    if skipped("firmware-c", &["cmake", "make", "arm-none-eabi-gcc", "qemu-system-arm"]) {
        return Ok(());
    }
    let printed = script("firmware-c")?;
    assert_eq!(lines(&printed, &["is a"]), [DIGITS, DIGITS].concat(), "{printed}");
    Ok(())
}

#[test]
fn host_rust() -> Result<()> {
    documented("host-rust", &CLASSES)?;
    let folder = root().join("examples/host-rust");
    let printed = toolchain::run(cargo(&folder).args(["run", "--quiet", "--locked"]), &folder)?;
    let printed = String::from_utf8(printed)?;
    assert_eq!(printed.lines().collect::<Vec<_>>(), CLASSES);
    Ok(())
}

#[test]
fn firmware_rust() -> Result<()> {
    const FIRST: [&str; 3] = ["is a 4", "is a 4", "is a 8"];
    documented("firmware-rust", &FIRST)?;
    if skipped("firmware-rust", &["qemu-system-arm"]) {
        return Ok(());
    }
    let can_build =
        toolchain::run(Command::new(root().join("examples/firmware-rust/run.sh")).arg("--can-build"), Path::new("."));
    if let Err(error) = can_build {
        println!("skipped: firmware-rust: {error:#}");
        assert!(!toolchain::must_not_skip(), "nothing may be skipped here");
        return Ok(());
    }
    let printed = script("firmware-rust")?;
    assert_eq!(lines(&printed, &["is a"]), FIRST, "{printed}");
    Ok(())
}
