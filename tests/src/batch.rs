//! Many small models in one program, so that a few runs of a compiler are enough for all of them.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};
use ptqc::print::Bundle;
use ptqc::print::c::c_type;
use ptqc::program::{Elem, Program, Signature};
use rayon::prelude::*;

use crate::toolchain;

/// Sources that one run of the compiler gets.
const FILES_PER_RUN: usize = 24;

/// A model of the batch with the samples it is run on. It must be printed with `ArenaMode::Caller`.
#[derive(Debug)]
pub struct Member<'a> {
    /// Its program.
    pub program: &'a Program,
    /// Its files.
    pub bundle: &'a Bundle,
    /// For each sample, the elements of every input.
    pub samples: Vec<Vec<Vec<i32>>>,
}

/// Compiles all members with `compiler` and `flags`, and links them with a program that runs each over its samples.
/// Returns for each member the bytes of its outputs, sample by sample.
///
/// Every buffer is allocated by itself and with its exact size, so that a sanitizer sees every access beside it.
pub fn run(members: &[Member], compiler: &str, flags: &[&str]) -> Result<Vec<Vec<u8>>> {
    let folder = tempfile::tempdir()?;
    let objects = compile(members, folder.path(), compiler, flags)?;
    std::fs::write(folder.path().join("main.c"), main_source(members))?;
    let sanitizers = flags.iter().filter(|flag| flag.starts_with("-fsanitize"));
    let mut link = Command::new(compiler);
    link.args(["-std=c99", "main.c", "-o", "program"]).args(sanitizers).args(&objects);
    toolchain::run(&mut link, folder.path())?;
    let inputs =
        members.iter().flat_map(|member| member.samples.iter().flat_map(|s| encode(&member.program.inputs, s)));
    std::fs::write(folder.path().join("inputs.bin"), inputs.collect::<Vec<u8>>())?;
    toolchain::run(&mut Command::new(folder.path().join("program")), folder.path())?;
    split(members, &std::fs::read(folder.path().join("outputs.bin"))?)
}

/// Compiles the sources of all members and returns the names of the objects.
pub fn compile(members: &[Member], folder: &Path, compiler: &str, flags: &[&str]) -> Result<Vec<String>> {
    let mut sources = vec![];
    for (name, text) in members.iter().flat_map(|member| member.bundle) {
        std::fs::write(folder.join(name), text)?;
        sources.extend(name.ends_with(".c").then_some(name.as_str()));
    }
    sources.par_chunks(FILES_PER_RUN).try_for_each(|sources| {
        toolchain::run(Command::new(compiler).args(flags).arg("-c").args(sources), folder).map(drop)
    })?;
    Ok(sources.iter().map(|source| source.replace(".c", ".o")).collect())
}

/// The bytes of one sample's tensors.
pub fn encode(signatures: &[Signature], tensors: &[Vec<i32>]) -> Vec<u8> {
    let element = |elem: Elem, value: i32| value.to_le_bytes()[..elem.bytes()].to_vec();
    let tensors = tensors.iter().zip(signatures);
    tensors.flat_map(|(tensor, signature)| tensor.iter().flat_map(|&value| element(signature.elem, value))).collect()
}

fn split(members: &[Member], mut bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut results = vec![];
    for member in members {
        let len = member.samples.len() * member.program.outputs.iter().map(bytes_of).sum::<usize>();
        let Some((own, rest)) = bytes.split_at_checked(len) else { bail!("the program wrote too little") };
        results.push(own.to_vec());
        bytes = rest;
    }
    ensure!(bytes.is_empty(), "the program wrote too much");
    Ok(results)
}

fn bytes_of(signature: &Signature) -> usize {
    signature.len * signature.elem.bytes()
}

const SUPPORT: &str = r#"#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static FILE *in, *out;

static void *blank(size_t bytes) {
  void *p = malloc(bytes ? bytes : 1);
  if (!p) exit(2);
  memset(p, 0xa5, bytes);
  return p;
}

static void *take(size_t bytes) {
  void *p = blank(bytes);
  if (fread(p, 1, bytes, in) != bytes) exit(3);
  return p;
}

static void *copy(const void *p, size_t bytes) {
  void *q = blank(bytes);
  memcpy(q, p, bytes);
  return q;
}

static void expect_unchanged(void *p, void *before, size_t bytes) {
  if (memcmp(p, before, bytes)) exit(4);
  free(p);
  free(before);
}

static void give(void *p, size_t bytes) {
  if (fwrite(p, 1, bytes, out) != bytes) exit(5);
  free(p);
}

"#;

fn main_source(members: &[Member]) -> String {
    let mut text = SUPPORT.to_owned();
    let mut calls = String::new();
    for member in members {
        text += &function(member.program);
        calls += &format!("  for (int i = 0; i < {}; i++) run_{}();\n", member.samples.len(), member.program.name);
    }
    text + "int main(void) {\n  in = fopen(\"inputs.bin\", \"rb\");\n  out = fopen(\"outputs.bin\", \"wb\");\n  if (!in || !out) return 1;\n"
        + &calls
        + "  return fclose(out);\n}\n"
}

fn function(program: &Program) -> String {
    let name = &program.name;
    let declare = |s: &Signature, how: &str| format!("  {} *{} = {how}({});\n", c_type(s.elem), s.name, bytes_of(s));
    let mut body = format!("  void *arena = blank({}_ARENA_BYTES);\n", name.to_uppercase());
    for input in &program.inputs {
        body += &declare(input, "take");
        body += &format!("  void *before_{0} = copy({0}, {1});\n", input.name, bytes_of(input));
    }
    body.extend(program.outputs.iter().map(|output| declare(output, "blank")));
    let buffers = program.inputs.iter().chain(&program.outputs).map(|s| s.name.clone());
    let arguments: Vec<String> = std::iter::once("arena".to_owned()).chain(buffers).collect();
    body += &format!("  {name}_run({});\n  free(arena);\n", arguments.join(", "));
    let unchanged = |s: &Signature| format!("  expect_unchanged({0}, before_{0}, {1});\n", s.name, bytes_of(s));
    body.extend(program.inputs.iter().map(unchanged));
    body.extend(program.outputs.iter().map(|s| format!("  give({}, {});\n", s.name, bytes_of(s))));
    format!("#include \"{name}.h\"\n\nstatic void run_{name}(void) {{\n{body}}}\n\n")
}
