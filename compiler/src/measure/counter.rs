//! Counts of executed instructions, exact to one: a plugin of QEMU counts them for each layer of the unchanged program.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use ptqc_target_runtimes::COUNTER;

use super::binary::Binary;
use super::toolchain::{self, Executable, Failure, PROGRAM};
use crate::diag::{self, Code, Diagnostic};

/// What QEMU's plugin interface is numbered; a QEMU accepts some of them.
const PLUGIN_VERSIONS: std::ops::RangeInclusive<u32> = 1..=8;

/// C compilers of the machine itself: the plugin is C.
const HOST_COMPILERS: [&str; 3] = ["cc", "gcc", "clang"];

/// The part of a program that an address belongs to. Numbers as the plugin has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Outside,
    EntryPoint,
    Function(usize),
}

impl Part {
    fn number(self) -> usize {
        match self {
            Part::Outside => 0,
            Part::EntryPoint => 1,
            Part::Function(index) => 2 + index,
        }
    }
}

/// Counts of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Of the entry point itself: between the calls.
    pub entry_point: u64,
    /// Of each function, with the library code that it calls.
    pub functions: Vec<u64>,
}

impl Counts {
    /// Of everything.
    pub fn total(&self) -> u64 {
        self.entry_point + self.functions.iter().sum::<u64>()
    }
}

/// What is counted.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Source names of the entry point.
    pub entry_points: &'a [&'a str],
    /// Source names of the functions.
    pub functions: &'a [String],
    /// Objects of the model.
    pub model: &'a [String],
    /// Objects around it.
    pub support: &'a [String],
}

/// Runs a program over one sample in its folder, and counts. The program holds debug information.
pub fn count(
    folder: &Path,
    executable: &Executable,
    inputs: &[u8],
    subject: &Subject,
) -> diag::Result<(Vec<u8>, Counts)> {
    std::fs::write(folder.join("ranges.txt"), ranges(folder, subject)?).map_err(Failure::from)?;
    let compiler = HOST_COMPILERS.into_iter().find(|compiler| toolchain::is_installed(compiler)).ok_or_else(|| {
        Diagnostic::error(
            Code::Toolchain,
            "counting instructions needs a C compiler for this machine, and there is none",
        )
        .help("install gcc or clang")
    })?;
    std::fs::write(folder.join("count.c"), COUNTER).map_err(Failure::from)?;
    let mut refused = None;
    for version in PLUGIN_VERSIONS {
        let version = format!("-DPLUGIN_API={version}");
        let mut command = Command::new(compiler);
        command.args(["-std=gnu11", "-O2", "-fPIC", "-shared", &version, "count.c", "-o", "count.so"]);
        toolchain::run(&mut command, folder)?;
        match executable.run_with(inputs, &["-plugin", "./count.so,ranges=ranges.txt,counts=counts.txt"]) {
            Ok(outputs) => return Ok((outputs, read_counts(folder, subject)?)),
            Err(failure) if failure.to_string().contains("API version") => refused = Some(failure),
            Err(failure) => return Err(failure.into()),
        }
    }
    Err(refused.map_or_else(|| Diagnostic::internal("no version of the plugin was tried").into(), Into::into))
}

fn read_counts(folder: &Path, subject: &Subject) -> diag::Result<Counts> {
    let text = std::fs::read_to_string(folder.join("counts.txt")).map_err(|_| {
        Diagnostic::error(Code::Toolchain, "the emulator has not counted instructions")
            .help("use a QEMU that was built with support for plugins")
    })?;
    let numbers: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let at = |part: Part| numbers.get(part.number()).copied().unwrap_or(0);
    Ok(Counts {
        entry_point: at(Part::EntryPoint),
        functions: (0..subject.functions.len()).map(|index| at(Part::Function(index))).collect(),
    })
}

/// The plugin's table: every address range whose part is known. Library code is not in it: it counts for its caller.
fn ranges(folder: &Path, subject: &Subject) -> Result<String, Failure> {
    let defined = |objects: &[String]| -> Result<BTreeSet<String>, Failure> {
        let mut names = BTreeSet::new();
        for object in objects {
            names.extend(Binary::read(&folder.join(object))?.functions()?.into_iter().map(|function| function.name));
        }
        Ok(names)
    };
    let (model, support) = (defined(subject.model)?, defined(subject.support)?);
    let functions: BTreeMap<&str, usize> =
        subject.functions.iter().enumerate().map(|(index, name)| (name.as_str(), index)).collect();
    let part = |name: &str| match functions.get(name) {
        Some(&index) => Some(Part::Function(index)),
        None => subject.entry_points.contains(&name).then_some(Part::EntryPoint),
    };
    let program = Binary::read(&folder.join(PROGRAM))?;
    let mut table: Vec<(u64, u64, Part)> = vec![];
    for function in program.functions()? {
        if support.contains(&function.name) {
            table.push((function.addresses.start, function.addresses.end, Part::Outside));
        }
        if !model.contains(&function.name) {
            continue;
        }
        for (address, sources) in function.addresses.clone().zip(program.sources(&function)?) {
            let Some(part) = sources.iter().find_map(|name| part(name)).or_else(|| part(&function.name)) else {
                continue;
            };
            match table.last_mut() {
                Some((_, end, last)) if *end == address && *last == part => *end += 1,
                _ => table.push((address, address + 1, part)),
            }
        }
    }
    let mut text = String::new();
    for (start, end, part) in table {
        let _ = writeln!(text, "{start:x} {end:x} {:x}", part.number());
    }
    Ok(text)
}
