//! What the tests add to the compiling of emitted Rust: core libraries built where only their source is there, and many
//! models in one crate.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};
use ptqc::measure::rustc::has_core;
pub use ptqc::measure::rustc::{Profile, Rustc, build, compile, wrapper};
use ptqc::print::Bundle;
use ptqc::print::rust::elem_type;
use ptqc::program::{Program, Signature};
use ptqc_target_runtimes::Target;

use crate::case::Tensors;
use crate::toolchain;

/// A compiler for a target, or what is missing. Builds the core library if that is what is missing.
pub fn find(target: &Target) -> Result<Rustc> {
    if let Ok(rustc) = Rustc::installed(target) {
        return Ok(rustc);
    }
    let triple = target.rust.and_then(|rust| rust.triple).unwrap_or_default();
    for program in ["rustc", "/usr/bin/rustc"].map(PathBuf::from) {
        let mut rustc =
            Rustc::new(program, target).with_context(|| format!("rustc has no target for {}", target.name))?;
        let Some(sysroot) = rustc.sysroot() else { continue };
        if has_core(&sysroot, triple) {
            return Ok(rustc);
        }
        if sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            let built = build_core(&rustc.program, triple)?;
            rustc.flags.push(format!("--sysroot={}", built.display()));
            return Ok(rustc);
        }
    }
    bail!(
        "no rustc with the core library for {triple}, or with its source (Debian: rustc-web, cargo-web, rust-web-src)"
    )
}

/// Builds the core library for a target once and returns a sysroot with it.
fn build_core(rustc: &Path, triple: &str) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the package lies in a workspace")?;
    let sysroot = root.join("target/rust-core").join(triple);
    let libraries = sysroot.join("lib/rustlib").join(triple).join("lib");
    if has_core(&sysroot, triple) {
        return Ok(sysroot);
    }
    let work = tempfile::tempdir()?;
    std::fs::create_dir(work.path().join("src"))?;
    std::fs::write(work.path().join("src/lib.rs"), "#![no_std]\n")?;
    let manifest = "[package]\nname = \"nothing\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[profile.release]\npanic = \"abort\"\n";
    std::fs::write(work.path().join("Cargo.toml"), manifest)?;
    let mut cargo = Command::new(rustc.with_file_name("cargo"));
    cargo.args(["build", "--quiet", "--release", "-Zbuild-std=core", "--target", triple]);
    // The variables of a cargo that runs the tests are not meant for this one.
    cargo.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    cargo.env("HOME", std::env::var_os("HOME").unwrap_or_default());
    cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", work.path().join("target"));
    toolchain::run(&mut cargo, work.path())?;
    // Complete or not there at all: a test that is stopped leaves no half.
    let staging = tempfile::tempdir_in(root.join("target"))?;
    for entry in std::fs::read_dir(work.path().join("target").join(triple).join("release/deps"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".rlib") && !name.contains("nothing") {
            std::fs::copy(&path, staging.path().join(name))?;
        }
    }
    std::fs::create_dir_all(libraries.parent().unwrap_or(&libraries))?;
    std::fs::rename(staging.keep(), &libraries)?;
    Ok(sysroot)
}

/// Many emitted models in one crate, each as its users would declare it.
#[derive(Debug)]
pub struct Batch<'a> {
    /// The models, printed as Rust with `ArenaMode::Caller`, and the samples each is run on.
    pub members: &'a [(&'a Program, &'a Bundle, &'a [Tensors])],
}

impl Batch<'_> {
    /// Writes the emitted files and a `no_std` library of all models, `models.rs`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let mut library = "#![no_std]\n#![forbid(unsafe_code)]\n#![deny(warnings)]\n".to_owned();
        for (program, bundle, _) in self.members {
            for (name, text) in *bundle {
                std::fs::write(folder.join(name), text)?;
            }
            library += &format!("pub mod {};\n", program.name);
        }
        Ok(std::fs::write(folder.join("models.rs"), library)?)
    }

    /// Compiles a program that runs all models and returns the bytes of their outputs: for each model those of all
    /// samples.
    pub fn run(&self, folder: &Path, flags: &[&str]) -> Result<Vec<Vec<u8>>> {
        self.write(folder)?;
        std::fs::write(folder.join("main.rs"), self.main_source())?;
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition=2021", "main.rs", "-o", "program"]).args(flags);
        toolchain::run(&mut rustc, folder)?;
        let inputs: Vec<u8> =
            self.members.iter().flat_map(|(program, _, samples)| encode(&program.inputs, samples)).collect();
        std::fs::write(folder.join("inputs.bin"), inputs)?;
        toolchain::run(&mut Command::new(folder.join("program")), folder)?;
        let bytes = std::fs::read(folder.join("outputs.bin"))?;
        let mut rest = &bytes[..];
        let mut results = vec![];
        for (program, _, samples) in self.members {
            let len =
                samples.len() * program.outputs.iter().map(|output| output.len * output.elem.bytes()).sum::<usize>();
            let (own, others) = rest.split_at_checked(len).context("the program wrote too little")?;
            results.push(own.to_vec());
            rest = others;
        }
        Ok(results)
    }

    fn main_source(&self) -> String {
        let mut text = "#![forbid(unsafe_code)]\n#![deny(warnings)]\nuse std::io::{Read, Write};\n".to_owned();
        let mut body = String::new();
        for (program, _, samples) in self.members {
            let name = &program.name;
            text += &format!("mod {name};\n");
            body += &format!("    for _ in 0..{} {{\n", samples.len());
            for input in &program.inputs {
                body += &read_input(name, input);
            }
            for output in &program.outputs {
                body += &format!("        let mut {} = [0; {}];\n", output.name, length(name, output));
            }
            // What an earlier inference has left must not matter.
            body += &format!(
                "        let mut arena = vec![-91; {name}::ARENA_BYTES];\n        let arena = arena.first_chunk_mut().unwrap();\n"
            );
            let inputs = program.inputs.iter().map(|s| format!("&{}", s.name));
            let outputs = program.outputs.iter().map(|s| format!("&mut {}", s.name));
            let arguments: Vec<String> = inputs.chain(outputs).collect();
            body += &format!("        {name}::Model::new(arena).run({});\n", arguments.join(", "));
            for output in &program.outputs {
                body +=
                    &format!("        for q in {} {{ output.write_all(&q.to_le_bytes()).unwrap(); }}\n", output.name);
            }
            body += "    }\n";
        }
        text + "fn main() {\n    let mut input = std::io::BufReader::new(std::fs::File::open(\"inputs.bin\").unwrap());\n    \
                let mut output = std::io::BufWriter::new(std::fs::File::create(\"outputs.bin\").unwrap());\n"
            + &body
            + "}\n"
    }
}

fn length(model: &str, signature: &Signature) -> String {
    format!("{model}::{}_LEN", signature.name.to_uppercase())
}

fn read_input(model: &str, signature: &Signature) -> String {
    let (name, elem) = (&signature.name, elem_type(signature.elem));
    format!(
        "        let {name}: [{elem}; {}] = core::array::from_fn(|_| {{\n            let mut bytes = [0; {}];\n            \
         input.read_exact(&mut bytes).unwrap();\n            {elem}::from_le_bytes(bytes)\n        }});\n",
        length(model, signature),
        signature.elem.bytes(),
    )
}

fn encode(signatures: &[Signature], samples: &[Tensors]) -> Vec<u8> {
    samples.iter().flat_map(|sample| crate::batch::encode(signatures, sample)).collect()
}

/// Names that an object refers to without defining them.
pub fn undefined_symbols(folder: &Path, object: &str) -> Result<Vec<String>> {
    let output =
        toolchain::run(Command::new("nm").args(["--undefined-only", "--format=just-symbols", object]), folder)?;
    Ok(String::from_utf8_lossy(&output).lines().map(str::to_owned).collect())
}

/// The instructions in an object that compute with floating-point numbers.
pub fn float_instructions(folder: &Path, object: &str, objdump: &str) -> Result<Vec<String>> {
    let output = toolchain::run(Command::new(objdump).args(["-d", "--no-show-raw-insn", object]), folder)?;
    let text = String::from_utf8_lossy(&output);
    let mnemonic =
        |line: &str| line.split('\t').nth(1).and_then(|text| text.split_whitespace().next().map(str::to_owned));
    Ok(text.lines().filter_map(mnemonic).filter(|mnemonic| is_float(mnemonic)).collect())
}

/// Arm's floating-point instructions begin with `v`; those of x86 end in the type of their operands. Moves and the
/// bitwise operations are excepted: they also carry integers.
fn is_float(mnemonic: &str) -> bool {
    const KINDS: [&str; 4] = ["ss", "sd", "ps", "pd"];
    const BITS: [&str; 9] = ["mov", "xor", "and", "or", "shuf", "unpck", "blend", "perm", "pand"];
    let plain = mnemonic.trim_start_matches('v');
    let is_x86_float =
        KINDS.iter().any(|kind| plain.ends_with(kind)) && !BITS.iter().any(|bits| plain.starts_with(bits));
    let is_arm_float = mnemonic.starts_with('v') && [".f16", ".f32", ".f64"].iter().any(|ty| mnemonic.contains(ty));
    (is_x86_float && plain != "cmpsd" && plain != "movsd") || plain.starts_with("cvt") || is_arm_float
}
