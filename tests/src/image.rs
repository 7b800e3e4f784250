//! Many small models in one program for any target: boards that are emulated have no files and no allocator, so
//! everything lies in one pool.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ptqc::print::c::c_type;
use ptqc::print::{ArenaMode, Bundle, Language};
use ptqc::program::{Program, Signature};
use ptqc_target_runtimes::{Compiler, Runner, Target};
use rayon::prelude::*;

use crate::batch::encode;
use crate::case::Tensors;
use crate::rust::{Profile, Rustc};
use crate::toolchain;
use ptqc::measure::harness::Harness;
use ptqc::measure::rustc;

/// Code and constants that a model is thought to need at most, to choose how many fit on a board.
const BYTES_OF_A_MODEL: u32 = 16 << 10;

/// What is between two buffers, and what has to be there after a run.
const GUARD_BYTES: usize = 16;

/// A model, printed with `ArenaMode::Caller`, with the samples it is run on and what has to come out.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// Its program.
    pub program: &'a Program,
    /// Its files.
    pub bundle: &'a Bundle,
    /// For each sample, the elements of every input.
    pub inputs: &'a [Tensors],
    /// For each sample, the elements of every output.
    pub expected: &'a [Tensors],
}

/// How the emitted code is compiled.
#[derive(Debug, Clone, Copy)]
pub enum Code<'a> {
    /// C, with these flags beside the strict ones.
    C(&'a [&'a str]),
    /// Rust, optimised.
    Rust(&'a Rustc),
}

impl Code<'_> {
    /// The language.
    pub fn language(self) -> Language {
        match self {
            Code::C(_) => Language::C,
            Code::Rust(_) => Language::Rust,
        }
    }
}

/// Runs all members on a target, and compares every byte with what is expected. Also checks that nothing beside outputs
/// and arena is changed, with garbage in them before, with inputs and outputs that are not aligned, and with inputs
/// behind which there is no memory.
pub fn check(members: &[Member], on: (&Target, &Compiler), code: Code) -> Result<()> {
    let fitting = match on.0.runner {
        Runner::User { .. } => usize::MAX,
        Runner::Board(board) => (board.code.len / BYTES_OF_A_MODEL) as usize,
    };
    members.chunks(fitting.min(members.len()).max(1)).try_for_each(|members| check_image(members, on, code))
}

fn check_image(members: &[Member], (target, compiler): (&Target, &Compiler), code: Code) -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (name, text) in members.iter().flat_map(|member| member.bundle) {
        std::fs::write(folder.path().join(name), text)?;
    }
    let mut objects = match code {
        Code::C(flags) => compile_c(members, folder.path(), compiler, flags)?,
        Code::Rust(rustc) => vec![compile_rust(members, folder.path(), rustc)?],
    };
    std::fs::write(folder.path().join("main.c"), main_source(members))?;
    objects.push(toolchain::compile(folder.path(), "main.c", compiler, toolchain::SUPPORT)?);
    let executable = toolchain::link_for(folder.path(), target, compiler, &[], objects)?;
    let inputs = members.iter().flat_map(|m| m.inputs.iter().flat_map(|sample| encode(&m.program.inputs, sample)));
    let (outputs, ended) = executable.run_to_the_end(&inputs.collect::<Vec<u8>>())?;
    let mut rest = &outputs[..];
    let mut wrong = vec![];
    for member in members {
        for (sample_idx, expected) in member.expected.iter().enumerate() {
            let expected = encode(&member.program.outputs, expected);
            let what = || format!("{} on {}, sample {sample_idx}", member.program.name, target.name);
            let (own, others) = rest.split_at_checked(expected.len() + 1).with_context(|| {
                format!(
                    "{} stopped the program{}",
                    what(),
                    ended.as_ref().err().map_or(String::new(), |e| format!(": {e}"))
                )
            })?;
            rest = others;
            let (own, beside) = own.split_at(expected.len());
            let differences: Vec<usize> = (0..own.len()).filter(|&i| own[i] != expected[i]).collect();
            if let Some(&first) = differences.first() {
                wrong.push(format!(
                    "{}: {} of {} bytes, the first at {first}: {} instead of {}",
                    what(),
                    differences.len(),
                    own.len(),
                    own[first] as i8,
                    expected[first] as i8
                ));
            }
            if beside != [0] {
                wrong.push(format!("{} changes something beside its outputs and the arena", what()));
            }
        }
    }
    ended?;
    ensure!(wrong.is_empty(), "code and evaluator differ:\n{}", wrong.join("\n"));
    Ok(())
}

fn compile_c(members: &[Member], folder: &Path, compiler: &Compiler, flags: &[&str]) -> Result<Vec<String>> {
    let strict = [toolchain::STRICT, flags].concat();
    let sources =
        members.iter().flat_map(|m| [format!("{}.c", m.program.name), format!("{}_weights.c", m.program.name)]);
    let sources: Vec<String> = sources.collect();
    sources.par_iter().map(|source| Ok(toolchain::compile(folder, source, compiler, &strict)?)).collect()
}

fn compile_rust(members: &[Member], folder: &Path, rustc: &Rustc) -> Result<String> {
    let mut library = "#![no_std]\n#![deny(warnings)]\n".to_owned();
    for Member { program, .. } in members {
        let harness = Harness::new(program, ArenaMode::Caller);
        library += &rustc::entry(&harness);
        std::fs::write(folder.join(format!("{}.h", program.name)), rustc::header(&harness))?;
    }
    std::fs::write(folder.join("models.rs"), library)?;
    rustc.compile(folder, "models.rs", "models.o", Profile::Release("2"))?;
    Ok("models.o".to_owned())
}

fn bytes_of(signature: &Signature) -> usize {
    signature.len * signature.elem.bytes()
}

/// Where the buffers of a model lie in the pool.
struct Places {
    arena: usize,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    end: usize,
}

impl Places {
    fn of(program: &Program) -> Places {
        let mut end = GUARD_BYTES;
        let arena = end;
        end += program.arena_bytes + GUARD_BYTES;
        let mut odd = 0;
        let mut place = |signature: &Signature| {
            // Buffers of bytes may begin anywhere.
            odd = odd % 3 + 1;
            let at = end.next_multiple_of(8) + if signature.elem.bytes() == 1 { odd } else { 0 };
            end = at + bytes_of(signature) + GUARD_BYTES;
            at
        };
        let inputs = program.inputs.iter().map(&mut place).collect();
        let outputs = program.outputs.iter().map(&mut place).collect();
        Places { arena, inputs, outputs, end }
    }
}

const SUPPORT: &str = r#"
int host_open(const char *name, int write);
size_t host_read(int file, void *buffer, size_t bytes);
void host_write(int file, const void *buffer, size_t bytes);
void host_close(int file);
void host_exit(int status);
void *host_edge(size_t bytes);

static int in, out;

static void fill(void) {
  for (size_t i = 0; i < sizeof pool.bytes; i++) {
    pool.bytes[i] = 0xa5;
  }
}

static uint32_t sum(uint32_t total, const uint8_t *from, const uint8_t *to) {
  while (from < to) {
    total = total * 31u + *from++;
  }
  return total;
}

static void take(void *at, size_t bytes) {
  if (host_read(in, at, bytes) != bytes) {
    host_exit(4);
  }
}
"#;

fn main_source(members: &[Member]) -> String {
    let mut text = "#include <stddef.h>\n#include <stdint.h>\n".to_owned();
    text.extend(members.iter().map(|member| format!("#include \"{}.h\"\n", member.program.name)));
    let most = members.iter().map(|member| Places::of(member.program).end).max().unwrap_or(0);
    text += &format!("\nstatic union {{\n  uint64_t alignment;\n  uint8_t bytes[{most}];\n}} pool;\n");
    text += SUPPORT;
    let mut calls = String::new();
    for Member { program, inputs, .. } in members {
        text += &function(program);
        calls += &format!("  for (int i = 0; i < {}; i++) {{\n    run_{}(i);\n  }}\n", inputs.len(), program.name);
    }
    text + "\nint main(void) {\n  in = host_open(\"inputs.bin\", 0);\n  out = host_open(\"outputs.bin\", 1);\n  \
            if (in < 0 || out < 0) {\n    return 4;\n  }\n"
        + &calls
        + "  host_close(out);\n  return 0;\n}\n"
}

/// Runs a sample. Every other one has its inputs at the edge of the memory.
fn function(program: &Program) -> String {
    let places = Places::of(program);
    let name = &program.name;
    // Bytes end where the memory ends; wider elements have to be aligned.
    let single_bytes = program.inputs.iter().all(|input| input.elem.bytes() == 1);
    let place = |input: &Signature| if single_bytes { bytes_of(input) } else { bytes_of(input).next_multiple_of(8) };
    let input_bytes: usize = program.inputs.iter().map(place).sum();
    let mut body = "  fill();\n".to_owned();
    let mut offset = 0;
    let mut arguments = vec!["pool.bytes + 16".to_owned()];
    for (input, at) in program.inputs.iter().zip(&places.inputs) {
        let ty = c_type(input.elem);
        body += &format!(
            "  uint8_t *{0}_bytes = i % 2 ? pool.bytes + {at} : (uint8_t *)host_edge({input_bytes}) + {offset};\n  \
               take({0}_bytes, {1});\n",
            input.name,
            bytes_of(input)
        );
        arguments.push(format!("(const {ty} *)(const void *){}_bytes", input.name));
        offset += place(input);
    }
    let mut writable = vec![(places.arena, program.arena_bytes)];
    for (output, &at) in program.outputs.iter().zip(&places.outputs) {
        arguments.push(format!("({} *)(void *)(pool.bytes + {at})", c_type(output.elem)));
        writable.push((at, bytes_of(output)));
    }
    // What the model must not change: everything between its arena and its outputs, and the inputs.
    let mut constant = vec![];
    let mut from = 0;
    for (at, bytes) in writable {
        constant.push(format!("pool.bytes + {from}, pool.bytes + {at}"));
        from = at + bytes;
    }
    constant.push(format!("pool.bytes + {from}, pool.bytes + sizeof pool.bytes"));
    constant.extend(program.inputs.iter().map(|i| format!("{0}_bytes, {0}_bytes + {1}", i.name, bytes_of(i))));
    let sums = |when: &str| {
        let sums: String = constant.iter().map(|span| format!("  {when} = sum({when}, {span});\n")).collect();
        format!("  uint32_t {when} = 1;\n{sums}")
    };
    body += &sums("before");
    body += &format!("  {name}_run({});\n", arguments.join(", "));
    body += &sums("after");
    for (output, &at) in program.outputs.iter().zip(&places.outputs) {
        body += &format!("  host_write(out, pool.bytes + {at}, {});\n", bytes_of(output));
    }
    body += "  const uint8_t changed = before != after;\n  host_write(out, &changed, 1);\n";
    format!("\nstatic void run_{name}(int i) {{\n{body}}}\n")
}
