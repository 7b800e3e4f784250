//! Compiles emitted Rust: finds a rustc for a target, builds the core library where only its source is there, and
//! wraps a model so that the harness, which is C, can run it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};
use ptqc::measure::harness::Harness;
use ptqc::print::c::c_type;
use ptqc::print::rust::elem_type;
use ptqc::print::{ArenaMode, Bundle};
use ptqc::program::{Program, Signature};
use ptqc_target_runtimes::{Compiler, Target};

use crate::case::Tensors;
use crate::toolchain::{self, Executable};

/// A rustc that can compile for a target.
#[derive(Debug, Clone)]
pub struct Rustc {
    program: PathBuf,
    flags: Vec<String>,
}

/// How a model is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Optimised, `-C opt-level=` this, as a single object that needs nothing of the core library.
    Release(&'static str),
    /// Not optimised, with checks for overflow; only for the machine itself.
    Debug,
}

impl Rustc {
    /// A compiler for a target, or what is missing. Builds the core library if that is what is missing.
    pub fn find(target: &Target) -> Result<Rustc> {
        let rust = target.rust.with_context(|| format!("rustc has no target for {}", target.name))?;
        let mut flags: Vec<String> = rust.cpu.iter().map(|cpu| format!("-Ctarget-cpu={cpu}")).collect();
        let native = rust.triple.is_none_or(|triple| triple == host_triple());
        if native {
            return Ok(Rustc { program: "rustc".into(), flags });
        }
        let triple = rust.triple.unwrap_or_default();
        flags.push(format!("--target={triple}"));
        for program in ["rustc", "/usr/bin/rustc"].map(PathBuf::from) {
            let ask = |what: &[&str]| {
                let output = Command::new(&program).args(["--print"]).args(what).output().ok()?;
                output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
            };
            let Some(sysroot) = ask(&["sysroot"]) else { continue };
            if has_core(&sysroot.join("lib/rustlib").join(triple).join("lib")) {
                return Ok(Rustc { program, flags });
            }
            if sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
                let built = build_core(&program, triple)?;
                flags.push(format!("--sysroot={}", built.display()));
                return Ok(Rustc { program, flags });
            }
        }
        bail!(
            "no rustc with the core library for {triple}, or with its source (Debian: rustc-web, cargo-web, rust-web-src)"
        )
    }

    /// Compiles a crate in a folder.
    pub fn compile(&self, folder: &Path, source: &str, object: &str, profile: Profile) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(&self.flags).args(["--edition=2021", "-Cpanic=abort", source, "-o", object]);
        match profile {
            Profile::Release(level) => {
                command.args(["--crate-type=lib", "--emit=obj", "-Ccodegen-units=1", &format!("-Copt-level={level}")])
            }
            Profile::Debug => command.args(["--crate-type=staticlib", "-Copt-level=0", "-Cdebug-assertions=on"]),
        };
        Ok(toolchain::run(&mut command, folder).map(drop)?)
    }
}

/// Whether a folder of libraries has the core library.
fn has_core(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

fn host_triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Builds the core library for a target once and returns a sysroot with it.
fn build_core(rustc: &Path, triple: &str) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the package lies in a workspace")?;
    let sysroot = root.join("target/rust-core").join(triple);
    let libraries = sysroot.join("lib/rustlib").join(triple).join("lib");
    if has_core(&libraries) {
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

/// The crate around an emitted model: its entry point as a C function.
pub fn wrapper(harness: &Harness, profile: Profile) -> String {
    let no_std = if profile == Profile::Debug { "" } else { "#![no_std]\n" };
    format!("{no_std}#![deny(warnings)]\n{}", entry(harness))
}

/// An emitted model as a module, and its entry point as a C function.
pub fn entry(harness: &Harness) -> String {
    let name = &harness.name;
    let pointer = |access: &str, s: &Signature| format!("{}: *{access} [{}; {}]", s.name, elem_type(s.elem), s.len);
    let inputs = harness.inputs.iter().map(|s| pointer("const", s));
    let outputs = harness.outputs.iter().map(|s| pointer("mut", s));
    let arena = (harness.arena == ArenaMode::Caller).then(|| format!("arena: *mut [i8; {name}::ARENA_BYTES]"));
    let parameters: Vec<String> = arena.into_iter().chain(inputs).chain(outputs).collect();
    let inputs = harness.inputs.iter().map(|s| format!("&*{}", s.name));
    let outputs = harness.outputs.iter().map(|s| format!("&mut *{}", s.name));
    let arguments: Vec<String> = inputs.chain(outputs).collect();
    let model = match harness.arena {
        ArenaMode::Static => {
            format!(
                "static mut MODEL: {name}::Model = {name}::Model::new();\n    let model = unsafe {{ &mut *(&raw mut MODEL) }};"
            )
        }
        ArenaMode::Caller => format!("let model = &mut {name}::Model::new(unsafe {{ &mut *arena }});"),
    };
    let safe = if harness.assembly { "" } else { "#[forbid(unsafe_code)]\n" };
    format!(
        "{safe}#[path = \"{name}.rs\"]\nmod {name};\n\n\
         /// # Safety\n/// Pointers to arrays of these lengths, one call at a time.\n\
         #[no_mangle]\npub unsafe extern \"C\" fn {name}_run({}) {{\n    {model}\n    unsafe {{ model.run({}) }}\n}}\n",
        parameters.join(", "),
        arguments.join(", ")
    )
}

/// The header that emitted C would have, as far as the harness needs it.
pub(crate) fn header(harness: &Harness, arena_bytes: usize) -> String {
    let name = &harness.name;
    let arena = (harness.arena == ArenaMode::Caller).then(|| "uint8_t *".to_owned());
    let inputs = harness.inputs.iter().map(|s| format!("const {} *", c_type(s.elem)));
    let outputs = harness.outputs.iter().map(|s| format!("{} *", c_type(s.elem)));
    let parameters: Vec<String> = arena.into_iter().chain(inputs).chain(outputs).collect();
    let upper = name.to_uppercase();
    format!(
        "#include <stdint.h>\n#define {upper}_ARENA_BYTES {arena_bytes}\nvoid {name}_run({});\n",
        parameters.join(", ")
    )
}

/// Compiles a model whose emitted Rust is in a folder to an object, and returns the object's name.
pub fn compile(folder: &Path, harness: &Harness, rustc: &Rustc, profile: Profile) -> Result<String> {
    let object = if profile == Profile::Debug { "libmodel.a" } else { "model_rust.o" };
    std::fs::write(folder.join("model_rust.rs"), wrapper(harness, profile))?;
    rustc.compile(folder, "model_rust.rs", object, profile)?;
    Ok(object.to_owned())
}

/// Compiles emitted Rust together with the harness.
pub fn build(
    folder: &Path,
    harness: &Harness,
    (target, compiler): (&Target, &Compiler),
    rustc: &Rustc,
    profile: Profile,
    arena_bytes: usize,
) -> Result<Executable> {
    let object = compile(folder, harness, rustc, profile)?;
    std::fs::write(folder.join(format!("{}.h", harness.name)), header(harness, arena_bytes))?;
    Ok(toolchain::finish(folder, harness, target, compiler, &[], vec![object])?)
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
