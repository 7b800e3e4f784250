//! Counts of executed instructions, exact to one: a plugin of QEMU counts them for each layer of the unchanged program.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
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

/// The part of a program that an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Outside,
    EntryPoint,
    Function(usize),
}

impl Part {
    /// As the plugin has it.
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

/// Which addresses of a program belong to which part. Library code is in none: it counts for its caller.
#[derive(Debug)]
pub struct Parts {
    ranges: Vec<(Range<u64>, Part)>,
    functions: usize,
}

impl Parts {
    /// Reads the program and the objects in a folder: those of the model, and those around it. `entry_points` and
    /// `functions` are names in the source.
    pub fn new(
        folder: &Path,
        (model, support): (&[String], &[String]),
        entry_points: &[&str],
        functions: &[String],
    ) -> Result<Parts, Failure> {
        let defined = |objects: &[String]| -> Result<BTreeSet<String>, Failure> {
            let mut names = BTreeSet::new();
            for object in objects {
                let functions = Binary::read(&folder.join(object))?.functions()?;
                names.extend(functions.into_iter().map(|function| function.name));
            }
            Ok(names)
        };
        let (model, support) = (defined(model)?, defined(support)?);
        let indices: BTreeMap<&str, usize> =
            functions.iter().enumerate().map(|(index, name)| (name.as_str(), index)).collect();
        let part = |name: &str| match indices.get(name) {
            Some(&index) => Some(Part::Function(index)),
            None => entry_points.contains(&name).then_some(Part::EntryPoint),
        };
        let program = Binary::read(&folder.join(PROGRAM))?;
        let mut ranges: Vec<(Range<u64>, Part)> = vec![];
        for function in program.functions()? {
            if support.contains(&function.name) {
                ranges.push((function.addresses, Part::Outside));
            } else if model.contains(&function.name) {
                let sources = program.sources(&function)?;
                for (address, sources) in function.addresses.clone().zip(sources) {
                    let part = sources.iter().find_map(|name| part(name)).or_else(|| part(&function.name));
                    match (part, ranges.last_mut()) {
                        (Some(part), Some((range, last))) if range.end == address && *last == part => range.end += 1,
                        (Some(part), _) => ranges.push((address..address + 1, part)),
                        (None, _) => {}
                    }
                }
            }
        }
        Ok(Parts { ranges, functions: functions.len() })
    }

    /// Bytes of code of each function.
    pub fn code_bytes(&self) -> Vec<u64> {
        let mut bytes = vec![0; self.functions];
        for (range, part) in &self.ranges {
            if let Part::Function(index) = part {
                bytes[*index] += range.end - range.start;
            }
        }
        bytes
    }

    /// The plugin's table.
    fn table(&self) -> String {
        let line = |(range, part): &(Range<u64>, Part)| format!("{:x} {:x} {:x}\n", range.start, range.end, part.number());
        self.ranges.iter().map(line).collect()
    }
}

/// Runs a program over one sample in its folder, and counts.
pub fn count(
    folder: &Path,
    executable: &Executable,
    inputs: &[u8],
    parts: &Parts,
) -> diag::Result<(Vec<u8>, Counts)> {
    std::fs::write(folder.join("ranges.txt"), parts.table()).map_err(Failure::from)?;
    std::fs::write(folder.join("count.c"), COUNTER).map_err(Failure::from)?;
    let compiler = HOST_COMPILERS.into_iter().find(|compiler| toolchain::is_installed(compiler)).ok_or_else(|| {
        let message = "counting instructions needs a C compiler for this machine, and there is none";
        Diagnostic::error(Code::Toolchain, message).help("install gcc or clang")
    })?;
    let mut refused = None;
    for version in PLUGIN_VERSIONS {
        let version = format!("-DPLUGIN_API={version}");
        let mut command = Command::new(compiler);
        command.args(["-std=gnu11", "-O2", "-fPIC", "-shared", &version, "count.c", "-o", "count.so"]);
        toolchain::run(&mut command, folder)?;
        match executable.run_with(inputs, &["-plugin", "./count.so,ranges=ranges.txt,counts=counts.txt"]) {
            Ok(outputs) => return Ok((outputs, read_counts(folder, parts)?)),
            Err(failure) if failure.to_string().contains("API version") => refused = Some(failure),
            Err(failure) => return Err(failure.into()),
        }
    }
    Err(refused.map_or_else(|| Diagnostic::internal("no version of the plugin was tried").into(), Into::into))
}

fn read_counts(folder: &Path, parts: &Parts) -> diag::Result<Counts> {
    let text = std::fs::read_to_string(folder.join("counts.txt")).map_err(|_| {
        Diagnostic::error(Code::Toolchain, "the emulator has not counted instructions")
            .help("use a QEMU that was built with support for plugins")
    })?;
    let numbers: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let at = |part: Part| numbers.get(part.number()).copied().unwrap_or(0);
    Ok(Counts {
        entry_point: at(Part::EntryPoint),
        functions: (0..parts.functions).map(|index| at(Part::Function(index))).collect(),
    })
}
