//! Rust 2021 for `no_std`: the interface, one function for each layer, constants in their own file.
//!
//! Items are made of tokens and formatted one by one, in a form that rustfmt leaves alone. The emitted code is safe
//! Rust without a path to a panic: the arena is split with methods that return options, whose lengths are literals,
//! and every index is visibly inside its array.
//!
//! Files begin with plain comments, not with `//!`: inner documentation cannot pass through `include!`.

mod bindings;
mod expr;
mod format;
mod items;
mod levels;
mod stmt;

use super::common::{number_lines, plain_text, wrapped};
use super::{Bundle, Interface};
use crate::program::{CheckedProgram, Function, Program};

pub use bindings::bindings;
pub use expr::elem_type;

/// Lines of numbers are not longer than this.
const LINE: usize = 94;

/// The files of a program.
pub fn print(program: &CheckedProgram, interface: &Interface) -> Bundle {
    let program = program.program();
    let name = &program.name;
    let mut files = Bundle::from([(format!("{name}.rs"), source(program, interface))]);
    if !program.blobs.is_empty() {
        files.insert(weights_file(program), weights(program, interface));
    }
    files
}

/// The name of a layer's function.
pub fn function_name(function: &str) -> String {
    format!("layer_{function}")
}

fn weights_file(program: &Program) -> String {
    format!("{}_weights.rs", program.name)
}

/// The name of a constant.
fn static_name(blob: &str) -> String {
    match blob.starts_with(|c: char| c.is_ascii_digit()) {
        true => format!("LAYER_{}", blob.to_uppercase()),
        false => blob.to_uppercase(),
    }
}

fn source(program: &Program, interface: &Interface) -> String {
    let mut head = comment_lines(&interface.provenance);
    head.push(String::new());
    head.extend(comment_lines(&interface.facts));
    head.push(String::new());
    let has = |is: &dyn Fn(&Function) -> bool| program.functions.iter().any(is);
    let unsafety = match (has(&|f| f.assembly().is_some()), has(&|f| f.vectors.is_some())) {
        (true, _) => "unsafe code for assembly only",
        (false, true) => "unsafe code for vector instructions only",
        (false, false) => "no unsafe code",
    };
    let units = program.functions.iter().filter_map(|function| function.vectors);
    let version = units.map(|unit| unit.rust_version).fold("1.88", Ord::max);
    head.push(format!(
        "Integers only, {unsafety}, no allocation, no panic, no dependency; Rust {version}, edition 2021."
    ));
    head.push("Declare it as a module, or include it from the output folder of a build script:".to_owned());
    head.push(format!("    mod {0} {{ include!(concat!(env!(\"OUT_DIR\"), \"/{0}.rs\")); }}", program.name));
    let head: String = head.iter().map(|line| format!("// {line}").trim_end().to_owned() + "\n").collect();
    head + "\n" + &format::items(&items::file(program, interface))
}

/// Constants as text: tokens for each of some hundred thousand numbers would take longer than the rest of a build.
fn weights(program: &Program, interface: &Interface) -> String {
    let mut text: String = comment_lines(&interface.provenance).iter().map(|line| format!("// {line}\n")).collect();
    let section = interface.weights.rust_section();
    let section = section.map_or(String::new(), |section| format!("#[link_section = \"{section}\"]\n"));
    for blob in &program.blobs {
        let (elem, values) = blob.stored();
        let (name, elem, len) = (static_name(&blob.name), elem_type(elem), values.len());
        let lines: String =
            number_lines(&values, LINE, |value| value.to_string()).iter().map(|line| format!("    {line}\n")).collect();
        text += &format!(
            "\n/// {}\n{section}#[rustfmt::skip]\npub static {name}: [{elem}; {len}] = [\n{lines}];\n",
            plain_text(&blob.doc)
        );
    }
    text
}

fn comment_lines(lines: &[String]) -> Vec<String> {
    wrapped(lines.iter().map(|line| plain_text(line)), LINE)
}
