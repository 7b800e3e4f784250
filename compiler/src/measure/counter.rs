//! Counts of executed instructions, exact to one: a plugin of QEMU counts them for each layer of the unchanged program.

use std::collections::BTreeSet;
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

/// What an address of a program belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// The code around the model.
    Outside,
    /// The model's entry point.
    EntryPoint,
    /// The function of a layer.
    Layer(usize),
    /// The entry of a function that these layers call, one after the other.
    Shared(Vec<usize>),
}

/// Counts of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Of the entry point itself: between the calls.
    pub entry_point: u64,
    /// Of each layer, with the library code that it calls.
    pub layers: Vec<u64>,
}

impl Counts {
    /// Of everything.
    pub fn total(&self) -> u64 {
        self.entry_point + self.layers.iter().sum::<u64>()
    }
}

/// How the functions of a model are called in the source.
#[derive(Debug)]
pub struct Names<'a> {
    /// The entry point, and a wrapper of it.
    pub entry_points: &'a [&'a str],
    /// The function of each layer.
    pub layers: &'a [String],
    /// For layers in assembly, the function instead; several may share one.
    pub kernels: &'a [Option<String>],
}

impl Names<'_> {
    /// What an address belongs to whose source is a function of this name.
    fn part(&self, name: &str) -> Option<Part> {
        // In Rust, the same function for operands in other places has a number behind its name.
        let is_variant = |layer: &String| {
            let number = name.strip_prefix(layer.as_str()).map(|rest| rest.strip_prefix('_').unwrap_or(rest));
            number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let exact = self.layers.iter().position(|layer| layer == name);
        match exact.or_else(|| self.layers.iter().position(is_variant)) {
            Some(layer) => Some(Part::Layer(layer)),
            None => self.entry_points.contains(&name).then_some(Part::EntryPoint),
        }
    }

    /// The layers whose function in assembly has this name.
    fn sharing(&self, name: &str) -> Option<Part> {
        let layers = self.kernels.iter().enumerate().filter(|(_, kernel)| kernel.as_deref() == Some(name));
        let layers: Vec<usize> = layers.map(|(layer, _)| layer).collect();
        (!layers.is_empty()).then_some(Part::Shared(layers))
    }
}

/// Which addresses of a program belong to what. Other code, of a library, counts for its caller.
#[derive(Debug)]
pub struct Parts {
    ranges: Vec<(Range<u64>, Part)>,
    /// Bytes of code of each layer's function.
    pub code_bytes: Vec<u64>,
}

impl Parts {
    /// Reads the program and the objects in a folder: those of the model, and those around it.
    pub fn new(folder: &Path, (model, support): (&[String], &[String]), names: &Names) -> Result<Parts, Failure> {
        let defined = |objects: &[String]| -> Result<BTreeSet<String>, Failure> {
            let mut symbols = BTreeSet::new();
            for object in objects {
                let functions = Binary::read(&folder.join(object))?.functions()?;
                symbols.extend(functions.into_iter().map(|function| function.symbol));
            }
            Ok(symbols)
        };
        let (model, support) = (defined(model)?, defined(support)?);
        let program = Binary::read(&folder.join(PROGRAM))?;
        let mut parts = Parts { ranges: vec![], code_bytes: vec![0; names.layers.len()] };
        for function in program.functions()? {
            let (name, addresses) = (function.name(), function.addresses.clone());
            if support.contains(&function.symbol) {
                parts.add(addresses, Part::Outside);
            } else if let Some(shared @ Part::Shared(_)) = names.sharing(&name) {
                parts.add_shared(addresses, shared);
            } else if model.contains(&function.symbol) {
                for (address, sources) in addresses.zip(program.sources(&function)?) {
                    let part = sources.iter().find_map(|source| names.part(source)).or_else(|| names.part(&name));
                    if let Some(part) = part {
                        parts.add(address..address + 1, part);
                    }
                }
            }
        }
        Ok(parts)
    }

    fn add(&mut self, addresses: Range<u64>, part: Part) {
        if let Part::Layer(layer) = part {
            self.code_bytes[layer] += addresses.end - addresses.start;
        }
        match self.ranges.last_mut() {
            Some((range, last)) if range.end == addresses.start && *last == part => range.end = addresses.end,
            _ => self.ranges.push((addresses, part)),
        }
    }

    /// A call of a shared function shows at its first instruction; the rest belongs to whoever has called.
    fn add_shared(&mut self, addresses: Range<u64>, part: Part) {
        if let Part::Shared(layers) = &part {
            layers.iter().for_each(|&layer| self.code_bytes[layer] = addresses.end - addresses.start);
        }
        self.ranges.push((addresses.start..addresses.start + 1, part));
    }

    /// The plugin's table, and for each of its numbers the layer; the first two are what is around and the entry point.
    fn table(&self) -> (String, Vec<Option<usize>>) {
        let (mut text, mut layers) = (String::new(), vec![None, None]);
        for (range, part) in &self.ranges {
            let (number, turns) = match part {
                Part::Outside => (0, 1),
                Part::EntryPoint => (1, 1),
                Part::Layer(layer) => {
                    layers.push(Some(*layer));
                    (layers.len() - 1, 1)
                }
                Part::Shared(sharing) => {
                    let number = layers.len();
                    layers.extend(sharing.iter().copied().map(Some));
                    (number, sharing.len())
                }
            };
            text += &format!("{:x} {:x} {number:x} {turns:x}\n", range.start, range.end);
        }
        (text, layers)
    }
}

/// Compiles the plugin in a folder, with more flags, and returns its name.
pub fn compile(folder: &Path, flags: &[&str]) -> diag::Result<&'static str> {
    let compiler = HOST_COMPILERS.into_iter().find(|compiler| toolchain::is_installed(compiler)).ok_or_else(|| {
        let message = "counting instructions needs a C compiler for this machine, and there is none";
        Diagnostic::error(Code::Toolchain, message).help("install gcc or clang")
    })?;
    std::fs::write(folder.join("count.c"), COUNTER).map_err(Failure::from)?;
    let mut command = Command::new(compiler);
    command.args(["-std=gnu11", "-O2", "-fPIC", "-shared", "count.c", "-o", "count.so"]).args(flags);
    toolchain::run(&mut command, folder)?;
    Ok("count.so")
}

/// Runs a program over one sample in its folder, and counts.
pub fn count(folder: &Path, executable: &Executable, inputs: &[u8], parts: &Parts) -> diag::Result<(Vec<u8>, Counts)> {
    let (table, layers) = parts.table();
    std::fs::write(folder.join("ranges.txt"), table).map_err(Failure::from)?;
    let mut refused = None;
    for version in PLUGIN_VERSIONS {
        let plugin = compile(folder, &[&format!("-DPLUGIN_API={version}")])?;
        let argument = format!("./{plugin},ranges=ranges.txt,counts=counts.txt");
        match executable.run_with(inputs, &["-plugin", &argument]) {
            Ok(outputs) => return Ok((outputs, read_counts(folder, parts, &layers)?)),
            Err(failure) if failure.to_string().contains("API version") => refused = Some(failure),
            Err(failure) => return Err(failure.into()),
        }
    }
    Err(refused.map_or_else(|| Diagnostic::internal("no version of the plugin was tried").into(), Into::into))
}

fn read_counts(folder: &Path, parts: &Parts, layers: &[Option<usize>]) -> diag::Result<Counts> {
    let text = std::fs::read_to_string(folder.join("counts.txt")).map_err(|_| {
        Diagnostic::error(Code::Toolchain, "the emulator has not counted instructions")
            .help("use a QEMU that was built with support for plugins")
    })?;
    let mut counts = Counts { entry_point: 0, layers: vec![0; parts.code_bytes.len()] };
    let numbers = text.lines().map(|line| line.parse::<u64>().unwrap_or(0));
    for (number, (count, layer)) in numbers.zip(layers).enumerate() {
        match (number, layer) {
            (_, Some(layer)) => counts.layers[*layer] += count,
            (1, None) => counts.entry_point += count,
            _ => {}
        }
    }
    Ok(counts)
}
