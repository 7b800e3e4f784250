//! Compiles emitted Rust: a rustc for a target, and a wrapper with which the harness, which is C, can run a model.

use std::path::{Path, PathBuf};
use std::process::Command;

use ptqc_target_runtimes::{Compiler, Target};

use super::harness::Harness;
use super::toolchain::{self, Executable, Failure};
use crate::diag::{self, Code, Diagnostic};
use crate::print::ArenaMode;
use crate::print::c::c_type;
use crate::print::rust::elem_type;
use crate::program::Signature;

/// A rustc that can compile for a target.
#[derive(Debug, Clone)]
pub struct Rustc {
    /// The program.
    pub program: PathBuf,
    /// Flags that select the target, and where its core library is.
    pub flags: Vec<String>,
}

/// How a model is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Optimised, `-C opt-level=` this, as a single object that needs nothing of the core library.
    Release(&'static str),
    /// Not optimised, with checks for overflow; only for the machine itself.
    Debug,
}

impl Profile {
    /// The profile for an optimisation as C compilers have it.
    pub fn from_flag(flag: &str) -> Option<Profile> {
        ["1", "2", "3", "s", "z"].into_iter().find(|level| flag.strip_prefix("-O") == Some(level)).map(Profile::Release)
    }
}

impl Rustc {
    /// For a target, a compiler that knows nothing yet of a core library. `None` if rustc does not know the target.
    pub fn new(program: PathBuf, target: &Target) -> Option<Rustc> {
        let rust = target.rust?;
        let cpu = rust.cpu.map(|cpu| format!("-Ctarget-cpu={cpu}"));
        let triple = rust.triple.filter(|triple| *triple != host_triple()).map(|triple| format!("--target={triple}"));
        Some(Rustc { program, flags: cpu.into_iter().chain(triple).collect() })
    }

    /// The compiler of this machine, as cargo would start it: `RUSTC` and `RUSTFLAGS` are heeded.
    pub fn installed(target: &Target) -> diag::Result<Rustc> {
        let problem = |message: String| Diagnostic::error(Code::Toolchain, message);
        let program = std::env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from);
        let Some(mut rustc) = Rustc::new(program, target) else {
            return Err(problem(format!("rustc has no target for {}", target.name)).into());
        };
        let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
        rustc.flags.extend(flags.split_whitespace().map(str::to_owned));
        let triple = target.rust.and_then(|rust| rust.triple).unwrap_or_default();
        match rustc.sysroot() {
            None => Err(problem("rustc is not installed".to_owned()).help("install Rust from rustup.rs").into()),
            Some(sysroot) if rustc.is_native(target) || has_core(&sysroot, triple) => Ok(rustc),
            Some(_) => Err(problem(format!("rustc has no core library for {triple}"))
                .help(format!("`rustup target add {triple}`"))
                .into()),
        }
    }

    /// The same with a flag more.
    pub fn with_flag(&self, flag: &str) -> Rustc {
        let mut rustc = self.clone();
        rustc.flags.push(flag.to_owned());
        rustc
    }

    fn is_native(&self, target: &Target) -> bool {
        target.rust.is_some_and(|rust| rust.triple.is_none_or(|triple| triple == host_triple()))
    }

    /// Where its libraries are.
    pub fn sysroot(&self) -> Option<PathBuf> {
        let output = Command::new(&self.program).args(&self.flags).args(["--print", "sysroot"]).output().ok()?;
        output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    }

    /// Compiles a crate in a folder.
    pub fn compile(&self, folder: &Path, source: &str, object: &str, profile: Profile) -> Result<(), Failure> {
        let mut command = Command::new(&self.program);
        command.args(&self.flags).args(["--edition=2021", "-Cpanic=abort", source, "-o", object]);
        match profile {
            Profile::Release(level) => {
                command.args(["--crate-type=lib", "--emit=obj", "-Ccodegen-units=1", &format!("-Copt-level={level}")])
            }
            Profile::Debug => command.args(["--crate-type=staticlib", "-Copt-level=0", "-Cdebug-assertions=on"]),
        };
        toolchain::run(&mut command, folder).map(drop)
    }
}

/// Whether a sysroot has the core library for a target.
pub fn has_core(sysroot: &Path, triple: &str) -> bool {
    let folder = sysroot.join("lib/rustlib").join(triple).join("lib");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

fn host_triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
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
    let safe = if harness.needs_unsafe { "" } else { "#[forbid(unsafe_code)]\n" };
    format!(
        "{safe}#[path = \"{name}.rs\"]\nmod {name};\n\n\
         /// # Safety\n/// Pointers to arrays of these lengths, one call at a time.\n\
         #[no_mangle]\npub unsafe extern \"C\" fn {name}_run({}) {{\n    {model}\n    unsafe {{ model.run({}) }}\n}}\n",
        parameters.join(", "),
        arguments.join(", ")
    )
}

/// The header that emitted C would have, as far as the harness needs it.
pub fn header(harness: &Harness) -> String {
    let name = &harness.name;
    let arena = (harness.arena == ArenaMode::Caller).then(|| "uint8_t *".to_owned());
    let inputs = harness.inputs.iter().map(|s| format!("const {} *", c_type(s.elem)));
    let outputs = harness.outputs.iter().map(|s| format!("{} *", c_type(s.elem)));
    let parameters: Vec<String> = arena.into_iter().chain(inputs).chain(outputs).collect();
    let upper = name.to_uppercase();
    format!(
        "#include <stdint.h>\n#define {upper}_ARENA_BYTES {}\nvoid {name}_run({});\n",
        harness.arena_bytes,
        parameters.join(", ")
    )
}

/// Compiles a model whose emitted Rust is in a folder to an object, and returns the object's name.
pub fn compile(folder: &Path, harness: &Harness, rustc: &Rustc, profile: Profile) -> Result<String, Failure> {
    std::fs::write(folder.join(format!("{}.h", harness.name)), header(harness))?;
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
) -> Result<Executable, Failure> {
    let object = compile(folder, harness, rustc, profile)?;
    toolchain::finish(folder, harness, target, compiler, &[], vec![object])
}
