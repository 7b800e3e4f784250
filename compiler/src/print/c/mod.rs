//! C99.

mod expr;
mod levels;
mod stmt;

use std::collections::BTreeSet;

use askama::Template;
use ptqc_codegen_templates::c as templates;

use super::common::{KernelNames, number_lines, plain_text, wrapped};
use super::{ArenaMode, Bundle, Interface, TensorInfo, WeightsMemory};
use crate::program::{
    Access, Arg, Blob, Call, CheckedProgram, Elem, Function, Memory, Param, Program, Signature, Step, VectorUnit,
};
use crate::states::State;

/// Lines of numbers are not longer than this.
const LINE: usize = 98;

/// The file with which CMake builds the models of a folder.
pub const BUILD_FILE: &str = "CMakeLists.txt";

/// The files of a program.
pub fn print(program: &CheckedProgram, interface: &Interface) -> Bundle {
    let program = program.program();
    let name = &program.name;
    let files = [
        (format!("{name}.h"), render(&header(program, interface))),
        (format!("{name}.c"), render(&source(program, interface))),
        (format!("{name}_weights.c"), render(&weights(program, interface))),
        (BUILD_FILE.to_owned(), render(&templates::CMakeLists { head: interface.generator() })),
    ];
    files.into_iter().collect()
}

fn render(template: &impl Template) -> String {
    let text = template.render().expect("templates render plain values into a string");
    text.trim_end().to_owned() + "\n"
}

/// The C type of an element in memory.
pub fn c_type(elem: Elem) -> &'static str {
    match elem {
        Elem::I4 | Elem::I8 => "int8_t",
        Elem::U8 => "uint8_t",
        Elem::I16 => "int16_t",
        Elem::I32 => "int32_t",
        Elem::U32 => "uint32_t",
        Elem::I64 => "int64_t",
    }
}

fn header(program: &Program, interface: &Interface) -> templates::Header {
    let tensors = |signatures: &[Signature], infos: &[TensorInfo]| {
        signatures.iter().zip(infos).map(|(signature, info)| tensor(program, signature, info)).collect()
    };
    templates::Header {
        provenance: unwrapped(&interface.provenance),
        facts: comment_lines(&interface.facts),
        name: program.name.clone(),
        upper: program.name.to_uppercase(),
        inputs: tensors(&program.inputs, &interface.inputs),
        outputs: tensors(&program.outputs, &interface.outputs),
        arena_bytes: program.arena_bytes,
        caller_arena: interface.arena == ArenaMode::Caller,
        prototype: prototype(program, interface),
        states: states(program, interface),
        step: step_prototype(program, interface),
    }
}

fn tensor(program: &Program, signature: &Signature, info: &TensorInfo) -> templates::Tensor {
    let dims: Vec<String> = info.dims.iter().map(usize::to_string).collect();
    templates::Tensor {
        parameter: signature.name.clone(),
        macro_prefix: format!("{}_{}", program.name, signature.name).to_uppercase(),
        onnx_name: comment_line(&info.onnx_name),
        c_type: c_type(signature.elem),
        len: signature.len,
        dims: if dims.is_empty() { "1".to_owned() } else { dims.join(", ") },
        params: info.scale.map(|scale| (format!("{scale:?}f"), info.zero_point)),
    }
}

fn prototype(program: &Program, interface: &Interface) -> String {
    let arena = (interface.arena == ArenaMode::Caller).then(|| "uint8_t *arena".to_owned());
    let inputs = program.inputs.iter().map(|s| format!("const {} *{}", c_type(s.elem), s.name));
    let outputs = program.outputs.iter().map(|s| format!("{} *{}", c_type(s.elem), s.name));
    let parameters: Vec<String> = arena.into_iter().chain(inputs).chain(outputs).collect();
    format!("void {}_run({})", program.name, parameters.join(", "))
}

fn states(program: &Program, interface: &Interface) -> Vec<templates::State> {
    let state = |state: &State| {
        let (input, output) = (&program.inputs[state.input], &program.outputs[state.output]);
        let infos = [&interface.inputs[state.input], &interface.outputs[state.output]];
        templates::State {
            input: input.name.clone(),
            output: output.name.clone(),
            onnx_names: infos.map(|info| comment_line(&info.onnx_name)),
            c_type: c_type(input.elem),
            len: input.len,
            zero_point: infos[0].zero_point,
        }
    };
    interface.states.iter().map(state).collect()
}

/// The entry point that keeps states.
fn step_prototype(program: &Program, interface: &Interface) -> String {
    let arena = (interface.arena == ArenaMode::Caller).then(|| "uint8_t *arena".to_owned());
    let state = format!("{}_state_t *state", program.name);
    let inputs = program.inputs.iter().enumerate().filter(|(index, _)| !interface.keeps_input(*index));
    let outputs = program.outputs.iter().enumerate().filter(|(index, _)| !interface.keeps_output(*index));
    let inputs = inputs.map(|(_, s)| format!("const {} *{}", c_type(s.elem), s.name));
    let outputs = outputs.map(|(_, s)| format!("{} *{}", c_type(s.elem), s.name));
    let parameters: Vec<String> = arena.into_iter().chain([state]).chain(inputs).chain(outputs).collect();
    format!("void {}_step({})", program.name, parameters.join(", "))
}

/// What it passes to the entry point of one inference.
fn step_arguments(program: &Program, interface: &Interface) -> String {
    let arena = (interface.arena == ArenaMode::Caller).then(|| "arena".to_owned());
    let argument = |kept: bool, signature: &Signature| match kept {
        true => format!("state->{}", signature.name),
        false => signature.name.clone(),
    };
    let inputs = program.inputs.iter().enumerate().map(|(index, s)| argument(interface.keeps_input(index), s));
    let outputs = program.outputs.iter().enumerate().map(|(index, s)| argument(interface.keeps_output(index), s));
    arena.into_iter().chain(inputs).chain(outputs).collect::<Vec<_>>().join(", ")
}

fn source(program: &Program, interface: &Interface) -> templates::Source {
    let in_arena = |arg: &Arg| arg.memory == Memory::Arena;
    let uses_arena = program.arena_bytes > 0 && program.all_calls().any(|call| call.args.iter().any(in_arena));
    let caller = interface.arena == ArenaMode::Caller;
    let names = KernelNames::of(program);
    let loops = program.functions.iter().enumerate().filter(|(_, function)| function.assembly().is_none());
    templates::Source {
        provenance: unwrapped(&interface.provenance),
        name: program.name.clone(),
        upper: program.name.to_uppercase(),
        constant: constant(interface),
        arrays: program.blobs.iter().map(|blob| array(program, blob)).collect(),
        helpers: expr::helpers(program),
        prologues: unique(units(program).map(|unit| unit.c_prologue)),
        headers: unique(units(program).map(|unit| unit.header)),
        register: units(program).map(|unit| unit.c_register).next(),
        requirements: requirements(program, &names),
        kernels: names.kernels.iter().map(|(name, function)| kernel(program, name, function)).collect(),
        functions: loops.map(|(index, f)| function(program, index, f)).collect(),
        levels: levels::levels(program, &names, uses_arena),
        prototype: prototype(program, interface),
        steps: program.steps.iter().map(|step| print_step(program, step, &names)).collect(),
        states: states(program, interface),
        step: step_prototype(program, interface),
        step_arguments: step_arguments(program, interface),
        static_arena: uses_arena && !caller,
        unused_parameters: levels::unused(program, &program.steps, uses_arena || caller),
    }
}

fn weights(program: &Program, interface: &Interface) -> templates::Weights {
    templates::Weights {
        provenance: unwrapped(&interface.provenance),
        upper: program.name.to_uppercase(),
        constant: constant(interface),
        section: interface.weights.section.clone(),
        arrays: program.blobs.iter().map(|blob| array(program, blob)).collect(),
    }
}

/// What constants are declared as.
fn constant(interface: &Interface) -> &'static str {
    match interface.weights.memory {
        WeightsMemory::Flash => "const ",
        WeightsMemory::Ram => "",
    }
}

fn array(program: &Program, blob: &Blob) -> templates::Array {
    let (elem, values) = blob.stored();
    templates::Array {
        symbol: format!("{}_{}", program.name, blob.name),
        c_type: c_type(elem),
        len: values.len(),
        doc: comment_line(&blob.doc),
        lines: number_lines(&values, LINE, |value| expr::element(elem, value)),
    }
}

/// What the assembly and the vector instructions of a program need of the processor that the file is compiled for.
fn requirements(program: &Program, names: &KernelNames) -> Vec<&'static str> {
    let assembly = names.kernels.iter().filter_map(|(_, function)| Some(function.assembly()?.requires));
    let vectors = units(program).filter(|unit| unit.c_features.is_empty()).map(|unit| unit.c_promised);
    assembly.chain(vectors).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Each text once, in a fixed order; no empty ones.
fn unique(texts: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    texts.filter(|text| !text.is_empty()).collect::<BTreeSet<_>>().into_iter().collect()
}

fn units(program: &Program) -> impl Iterator<Item = &'static VectorUnit> + '_ {
    program.functions.iter().filter_map(|function| function.vectors)
}

fn kernel(program: &Program, name: &str, function: &Function) -> templates::Kernel {
    let assembly = function.assembly().expect("kernels are functions of assembly");
    let symbol = format!("{}_{name}", program.name);
    templates::Kernel {
        doc: comment_lines(&[assembly.doc.join(" ")]),
        prototype: format!("void {symbol}({})", parameters(function)),
        directives: assembly.dialect.directives(),
        lines: assembly.lines(),
        symbol,
    }
}

fn function(program: &Program, index: usize, function: &Function) -> templates::Function {
    let attribute = function.vectors.map(levels::attribute).unwrap_or_default();
    templates::Function {
        guard: levels::guard(program, |call| call.function == index),
        doc: comment_lines(&function.doc),
        signature: format!("{attribute}static void {}_{}({})", program.name, function.name, parameters(function)),
        body: stmt::body(program, function),
    }
}

fn parameters(function: &Function) -> String {
    let parameter = |param: &Param| {
        let constant = if param.access == Access::Read { "const " } else { "" };
        format!("{constant}{} *{}", c_type(param.signature.elem), param.signature.name)
    };
    function.params.iter().map(parameter).collect::<Vec<_>>().join(", ")
}

/// Calls, in a loop if they are repeated.
fn print_step(program: &Program, step: &Step, names: &KernelNames) -> templates::Step {
    templates::Step {
        times: step.times,
        indent: if step.times > 1 { "    " } else { "  " },
        calls: step.calls.iter().map(|call| print_call(program, call, names)).collect(),
    }
}

/// A call. What is said of a layer stands above its function, or above the call where layers share one.
fn print_call(program: &Program, call: &Call, names: &KernelNames) -> templates::Call {
    let function = &program.functions[call.function];
    let args: Vec<String> = call
        .args
        .iter()
        .zip(&function.params)
        .map(|(arg, param)| match arg.memory {
            Memory::Input(index) => pointer(&program.inputs[index].name, arg),
            Memory::Output(index) => pointer(&program.outputs[index].name, arg),
            Memory::Blob(id) => format!("{}_{}", program.name, program.blobs[id.0].name),
            Memory::Arena => arena_pointer(arg, param.signature.elem, param.access),
        })
        .collect();
    let kernel = names.name(call.function);
    templates::Call {
        doc: if kernel.is_some() { comment_lines(&function.doc) } else { vec![] },
        statement: format!("{}_{}({});", program.name, kernel.unwrap_or(&function.name), args.join(", ")),
    }
}

/// A pointer to a part of a buffer of bytes.
fn pointer(name: &str, arg: &Arg) -> String {
    let advance = match arg.advance {
        0 => String::new(),
        advance => format!(" + pass * {advance}"),
    };
    match arg.start {
        0 => format!("{name}{advance}"),
        start => format!("{name} + {start}{advance}"),
    }
}

/// A typed pointer into the arena. Through `void *`, because the offset has been aligned for the type.
fn arena_pointer(arg: &Arg, elem: Elem, access: Access) -> String {
    let bytes = pointer("arena", arg);
    let constant = if access == Access::Read { "const " } else { "" };
    match elem {
        Elem::U8 => bytes,
        Elem::I4 | Elem::I8 | Elem::I16 | Elem::I32 | Elem::U32 | Elem::I64 => {
            let cast = format!("({constant}{} *)({constant}void *)", c_type(elem));
            if bytes == "arena" { format!("{cast}{bytes}") } else { format!("{cast}({bytes})") }
        }
    }
}

/// Lines of a comment as they are: a command is there to be copied.
fn unwrapped(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| comment_line(line)).collect()
}

/// Lines of a comment, wrapped.
fn comment_lines(lines: &[String]) -> Vec<String> {
    wrapped(lines.iter().map(|line| comment_line(line)), LINE)
}

/// Text that cannot end or nest a comment, continue a line, or draw on a terminal.
fn comment_line(text: &str) -> String {
    let plain = plain_text(text).replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?");
    plain.trim_end().trim_end_matches('\\').to_owned()
}
