//! The items of `NAME.rs`.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Literal, TokenStream};
use quote::{format_ident, quote};

use super::super::common::{KernelNames, Scope, any_expr, plain_text, uses_buffer, wrapped};
use super::super::{ArenaMode, Interface, TensorInfo};
use super::expr::{Names, Packed, elem_type, loader};
use super::format::RUSTFMT_CALL;
use super::levels;
use super::stmt::{self, comment, ident};
use super::{function_name, static_name, weights_file};
use crate::program::{
    Access, Arg, Buffer, Call, Elem, Expr, Function, Index, Memory, Param, Program, Signature, Step, Variant,
};

/// Lines of documentation inside of a module are not longer than this.
const DOC_LINE: usize = 90;

/// All items, in order.
pub fn file(program: &Program, interface: &Interface) -> Vec<TokenStream> {
    let variants = Variants::of(program);
    let mut items = vec![];
    if !program.blobs.is_empty() {
        let path = weights_file(program);
        items.push(quote!(#[path = #path] #[allow(clippy::unreadable_literal)] mod weights;));
    }
    items.extend(interface_items(program, interface, program.arena_bytes));
    items.extend(model(program, interface, &variants));
    if !interface.states.is_empty() {
        items.extend(states(program, interface));
    }
    if interface.float_helpers {
        items.extend(float_helpers(program, interface));
    }
    items.push(layers(program, &variants));
    items
}

/// Which functions are printed: those that are called, once for each set of operands that are bytes of the arena.
struct Variants<'a> {
    names: BTreeMap<(usize, Packed), String>,
    kernels: KernelNames<'a>,
}

impl Variants<'_> {
    fn of(program: &Program) -> Variants<'_> {
        let mut names = BTreeMap::new();
        for call in program.all_calls().filter(|call| program.functions[call.function].assembly().is_none()) {
            let known = names.keys().filter(|(function, _): &&(usize, Packed)| *function == call.function).count();
            let name = function_name(&program.functions[call.function].name);
            let name = if known == 0 { name } else { format!("{name}_{}", known + 1) };
            names.entry((call.function, packed(program, call))).or_insert(name);
        }
        Variants { names, kernels: KernelNames::of(program) }
    }

    fn name(&self, program: &Program, call: &Call) -> &str {
        &self.names[&(call.function, packed(program, call))]
    }
}

/// The parameters that are bytes of the arena and hold wider integers.
fn packed(program: &Program, call: &Call) -> Packed {
    let params = &program.functions[call.function].params;
    let wide = call
        .args
        .iter()
        .zip(params)
        .enumerate()
        .filter(|(_, (arg, param))| arg.memory == Memory::Arena && param.signature.elem.bytes() > 1);
    wide.map(|(index, _)| Buffer::Param(index)).collect()
}

/// Constants of the interface. `arena_bytes` is the size of the arena that a model owns or is given.
pub(super) fn interface_items(program: &Program, interface: &Interface, arena_bytes: usize) -> Vec<TokenStream> {
    let mut items = vec![quote! {
        #[doc = " Shape and meaning of an input or output."]
        #[doc = ""]
        #[doc = " `real = scale * (q - zero_point)`; the scale is for the application, the model computes with integers."]
        #[allow(dead_code)]
        #[derive(Debug, Clone, Copy)]
        pub struct TensorInfo {
            #[doc = " Name in the ONNX model."]
            pub name: &'static str,
            #[doc = " Shape, with the axes of the ONNX model; elements are row-major."]
            pub dims: &'static [usize],
            #[doc = " Real value of a step; 1 where elements are positions."]
            pub scale: f32,
            #[doc = " The integer that stands for 0."]
            pub zero_point: i32,
        }
    }];
    for (kind, signatures, infos) in
        [("Input", &program.inputs, &interface.inputs), ("Output", &program.outputs, &interface.outputs)]
    {
        items.extend(signatures.iter().zip(infos).flat_map(|(signature, info)| tensor(kind, signature, info)));
    }
    let bytes = Literal::usize_unsuffixed(arena_bytes);
    items.push(quote! {
        #[doc = " Working memory in bytes."]
        #[allow(dead_code)]
        pub const ARENA_BYTES: usize = #bytes;
    });
    items
}

fn tensor(kind: &str, signature: &Signature, info: &TensorInfo) -> [TokenStream; 2] {
    let name = format_ident!("{}", signature.name.to_uppercase());
    let len_name = format_ident!("{}_LEN", name);
    let len = Literal::usize_unsuffixed(signature.len);
    let dims = info.dims.iter().map(|&dim| Literal::usize_unsuffixed(dim));
    let onnx_name = plain_text(&info.onnx_name);
    let scale = Literal::f32_unsuffixed(info.scale.unwrap_or(1.0));
    let zero_point = Literal::i32_unsuffixed(info.zero_point);
    let positions = if info.scale.is_none() { ", positions" } else { "" };
    let doc = format!(
        " {kind} `{}`: `[{}; {}]`{positions}.",
        onnx_name.replace('`', "'"),
        elem_type(signature.elem),
        signature.len
    );
    let len_doc = format!(" Elements of {} `{}`.", kind.to_lowercase(), onnx_name.replace('`', "'"));
    [
        quote! {
            #[doc = #doc]
            #[allow(dead_code, clippy::unreadable_literal)]
            pub const #name: TensorInfo =
                TensorInfo { name: #onnx_name, dims: &[#(#dims),*], scale: #scale, zero_point: #zero_point };
        },
        quote! {
            #[doc = #len_doc]
            pub const #len_name: usize = #len;
        },
    ]
}

/// The model, its entry point, and how the arena is split.
fn model(program: &Program, interface: &Interface, variants: &Variants) -> Vec<TokenStream> {
    let parameters: TokenStream = io_parameters(program);
    let names = program.inputs.iter().chain(&program.outputs).map(|signature| ident(&signature.name));
    let names = quote!(#(#names),*);
    let in_arena = |arg: &Arg| arg.memory == Memory::Arena;
    let uses_arena = program.all_calls().any(|call| call.args.iter().any(in_arena)) || !program.variants.is_empty();
    let takes_parts = uses_arena || program.all_calls().any(|call| has_part(program, call));
    let steps =
        |steps: &[Step]| -> TokenStream { steps.iter().map(|step| print_step(program, step, variants)).collect() };
    let (mut items, passed) = match interface.arena {
        ArenaMode::Static => (owning_model(program), uses_arena.then(|| quote!(&mut self.arena,))),
        ArenaMode::Caller => (borrowing_model(program), uses_arena.then(|| quote!(self.arena,))),
    };
    let lifetime = (interface.arena == ArenaMode::Caller).then(|| quote!(<'_>));
    let levels = levels::branches(program, &quote!(#passed #names));
    let body = match takes_parts {
        true => quote! {
            #levels
            let done = infer(#passed #names);
            debug_assert!(done.is_some(), "a tensor lies outside of the arena");
        },
        false => steps(&program.steps),
    };
    let unused_self = (!uses_arena).then(|| quote!(#[allow(clippy::unused_self)]));
    // The interface has every input, even one that nothing is computed from.
    let unused = has_unused_input(program).then(|| quote!(#[allow(unused_variables)]));
    items.push(quote! {
        #unused_self
        #unused
        #[allow(clippy::trivially_copy_pass_by_ref)]
        impl Model #lifetime {
            #[doc = " Runs one inference. It never fails, never panics, and keeps nothing for the next one."]
            pub fn run(&mut self, #parameters) {
                #body
            }
        }
    });
    if takes_parts {
        let arena = uses_arena.then(|| quote!(arena: &mut [i8; ARENA_BYTES],));
        let parameters = quote!(#arena #parameters);
        items.push(infer(program, &parameters, &steps(&program.steps), None));
        items.extend(
            program.variants.iter().map(|variant| infer(program, &parameters, &steps(&variant.steps), Some(variant))),
        );
    }
    if !program.variants.is_empty() {
        items.extend(levels::detection(program));
    }
    items.extend(span_helpers(program));
    items
}

/// What is kept between inferences, and the entry point that keeps it.
fn states(program: &Program, interface: &Interface) -> Vec<TokenStream> {
    let kept = interface.states.iter().map(|state| (&program.inputs[state.input], &program.outputs[state.output]));
    let kept: Vec<_> = kept
        .map(|(input, output)| (ident(&input.name), ident(&output.name), array_type(input), array_type(output)))
        .collect();
    let zeros: Vec<Literal> = interface
        .states
        .iter()
        .map(|state| Literal::i32_unsuffixed(interface.inputs[state.input].zero_point))
        .collect();
    let lens =
        interface.states.iter().map(|state| format_ident!("{}_LEN", program.inputs[state.input].name.to_uppercase()));
    let fields = kept.iter().zip(&interface.states).map(|((input, output, input_type, output_type), state)| {
        let names = [&interface.inputs[state.input], &interface.outputs[state.output]];
        let [from, to] = names.map(|info| plain_text(&info.onnx_name).replace('`', "'"));
        let doc = format!(" Input `{from}`: output `{to}` of the inference before.");
        let next = format!(" Output `{to}`.");
        quote!(#[doc = #doc] pub #input: #input_type, #[doc = #next] pub #output: #output_type,)
    });
    let initial = kept
        .iter()
        .zip(&zeros)
        .zip(lens)
        .map(|(((input, output, _, _), zero), len)| quote!(#input: [#zero; #len], #output: [#zero; #len],));
    let copies = kept.iter().map(|(input, output, _, _)| quote!(state.#input = state.#output;));
    let parameters =
        program.inputs.iter().enumerate().filter(|(index, _)| !interface.keeps_input(*index)).map(|(_, s)| {
            let (name, ty) = (ident(&s.name), array_type(s));
            quote!(#name: &#ty)
        });
    let results =
        program.outputs.iter().enumerate().filter(|(index, _)| !interface.keeps_output(*index)).map(|(_, s)| {
            let (name, ty) = (ident(&s.name), array_type(s));
            quote!(#name: &mut #ty)
        });
    let parameters: Vec<TokenStream> = parameters.chain(results).collect();
    let inputs = program.inputs.iter().enumerate().map(|(index, s)| {
        let name = ident(&s.name);
        if interface.keeps_input(index) { quote!(&state.#name) } else { quote!(#name) }
    });
    let outputs = program.outputs.iter().enumerate().map(|(index, s)| {
        let name = ident(&s.name);
        if interface.keeps_output(index) { quote!(&mut state.#name) } else { quote!(#name) }
    });
    let arguments: Vec<TokenStream> = inputs.chain(outputs).collect();
    let lifetime = (interface.arena == ArenaMode::Caller).then(|| quote!(<'_>));
    vec![
        quote! {
            #[doc = " What one inference leaves for the next."]
            #[derive(Debug, Clone)]
            pub struct State { #(#fields)* }
        },
        quote! {
            impl State {
                #[doc = " The start of a stream: all states are real zero."]
                #[must_use]
                #[allow(clippy::large_stack_arrays)]
                pub const fn new() -> Self {
                    Self { #(#initial)* }
                }

                #[doc = " Goes back to the start of a stream."]
                pub fn reset(&mut self) {
                    *self = Self::new();
                }
            }
        },
        quote! {
            impl Default for State {
                fn default() -> Self {
                    Self::new()
                }
            }
        },
        quote! {
            impl Model #lifetime {
                #[doc = " Like [`Model::run`], with inputs and outputs that are kept in the state."]
                #[allow(clippy::trivially_copy_pass_by_ref)]
                pub fn step(&mut self, state: &mut State, #(#parameters),*) {
                    self.run(#(#arguments),*);
                    #(#copies)*
                }
            }
        },
    ]
}

/// The array of a tensor of the interface.
fn array_type(signature: &Signature) -> TokenStream {
    let (elem, len) = (ident(elem_type(signature.elem)), format_ident!("{}_LEN", signature.name.to_uppercase()));
    quote!([#elem; #len])
}

/// The layers of a program, or of one of its variants.
fn infer(program: &Program, parameters: &TokenStream, steps: &TokenStream, variant: Option<&Variant>) -> TokenStream {
    let unused = match program.variants.is_empty() {
        true => has_unused_input(program).then(|| quote!(#[allow(unused_variables)])),
        // Some variants need no arena.
        false => Some(quote! {
            #[allow(unused_variables)]
            #[allow(clippy::too_many_lines)]
        }),
    };
    let (head, name) = match variant {
        None => (quote!(fn), ident("infer")),
        Some(variant) => {
            let features = variant.unit.rust_features;
            let head = quote! {
                #[doc = ""]
                #[doc = " # Safety"]
                #[doc = ""]
                #[doc = " The processor has the instructions."]
                #[target_feature(enable = #features)]
                unsafe fn
            };
            (head, format_ident!("infer_{}", variant.name))
        }
    };
    let attributes = quote! {
        #[doc = " The layers, in order. The planner has checked that every part lies inside of its memory: no `?` ever ends"]
        #[doc = " this function, and where offsets are constants rustc removes it."]
    };
    quote! {
        #attributes
        #unused
        #[allow(clippy::trivially_copy_pass_by_ref)]
        #head #name(#parameters) -> Option<()> {
            #steps
            Some(())
        }
    }
}

fn has_unused_input(program: &Program) -> bool {
    let reads = |call: &Call, input: usize| call.args.iter().any(|arg| arg.memory == Memory::Input(input));
    let is_used = |input: usize| program.all_calls().any(|call| reads(call, input));
    !(0..program.inputs.len()).all(is_used)
}

pub(super) fn io_parameters(program: &Program) -> TokenStream {
    let array = |signature: &Signature| {
        let (name, elem, len) = (
            ident(&signature.name),
            ident(elem_type(signature.elem)),
            format_ident!("{}_LEN", signature.name.to_uppercase()),
        );
        (name, quote!([#elem; #len]))
    };
    let inputs = program.inputs.iter().map(array).map(|(name, ty)| quote!(#name: &#ty));
    let outputs = program.outputs.iter().map(array).map(|(name, ty)| quote!(#name: &mut #ty));
    let all = inputs.chain(outputs);
    quote!(#(#all),*)
}

fn owning_model(program: &Program) -> Vec<TokenStream> {
    let wide = program.all_calls().any(|call| !packed(program, call).is_empty());
    // Wider integers are read from bytes; aligned, that takes no longer. Assembly has to find its words aligned.
    let aligned = (wide || has_assembly(program)).then(|| quote!(#[repr(align(8))]));
    let unused = (program.arena_bytes == 0).then(|| quote!(#[allow(dead_code)]));
    let structure = quote! {
        #[doc = " A model with its working memory, small enough to move only if [`ARENA_BYTES`] is: better kept in a `static`."]
        #aligned
        pub struct Model {
            #unused
            arena: [i8; ARENA_BYTES],
        }
    };
    let constructors = quote! {
        impl Model {
            #[doc = " A model that is ready to run. In a `static`, the arena is never on the stack."]
            #[must_use]
            #[allow(clippy::large_stack_arrays)]
            pub const fn new() -> Self {
                let arena = [0; ARENA_BYTES];
                Self { arena }
            }
        }
    };
    let default = quote! {
        impl Default for Model {
            fn default() -> Self {
                Self::new()
            }
        }
    };
    vec![structure, constructors, default]
}

/// Whether some functions read and write whole words.
fn has_assembly(program: &Program) -> bool {
    program.functions.iter().any(|function| function.assembly().is_some())
}

fn borrowing_model(program: &Program) -> Vec<TokenStream> {
    let alignment = has_assembly(program).then(|| {
        let text = " The memory has to begin at a multiple of 8: make it a field of a structure with `repr(align(8))`.";
        quote!(#[doc = ""] #[doc = #text])
    });
    let structure = quote! {
        #[doc = " A model with borrowed working memory, whose contents need not be kept between inferences."]
        pub struct Model<'a> {
            #[allow(dead_code)]
            arena: &'a mut [i8; ARENA_BYTES],
        }
    };
    let constructors = quote! {
        impl<'a> Model<'a> {
            #[doc = " A model that is ready to run."]
            #alignment
            #[must_use]
            pub const fn new(arena: &'a mut [i8; ARENA_BYTES]) -> Self {
                Self { arena }
            }
        }
    };
    vec![structure, constructors]
}

/// Calls, in a loop if they are repeated.
fn print_step(program: &Program, step: &Step, variants: &Variants) -> TokenStream {
    let calls: TokenStream = step.calls.iter().map(|call| print_call(program, call, variants)).collect();
    if step.times == 1 {
        return calls;
    }
    let times = Literal::usize_unsuffixed(step.times);
    let note = comment("Each pass is some rows further.");
    quote!(#note for pass in 0..#times { #calls })
}

/// A position that advances with every pass.
fn offset(start: isize, advance: isize) -> TokenStream {
    let step = Literal::usize_unsuffixed(advance.unsigned_abs());
    let first = Literal::usize_unsuffixed(start.unsigned_abs());
    match (start, advance) {
        (_, 0) => quote!(#first),
        (0, _) => quote!(#step * pass),
        (1.., 1..) => quote!(#first + #step * pass),
        // Never negative: the checker has seen every pass.
        (1.., _) => quote!(#first - #step * pass),
        (_, _) => quote!(#step * pass - #first),
    }
}

/// Whether an argument is less than the caller's whole buffer.
fn is_part(program: &Program, arg: &Arg, param: &Param) -> bool {
    let whole = match arg.memory {
        Memory::Input(index) => program.inputs[index].len,
        Memory::Output(index) => program.outputs[index].len,
        Memory::Arena | Memory::Blob(_) => return false,
    };
    param.signature.len != whole
}

fn has_part(program: &Program, call: &Call) -> bool {
    let function = &program.functions[call.function];
    call.args.iter().zip(&function.params).any(|(arg, param)| is_part(program, arg, param))
}

/// A call, after the statements that take its operands out of the arena. The arena is split around the operands that
/// are written, and the others are in one of the parts beside them.
fn print_call(program: &Program, call: &Call, variants: &Variants) -> TokenStream {
    let function = &program.functions[call.function];
    if let Some(kernel) = variants.kernels.name(call.function) {
        return print_kernel_call(program, call, kernel);
    }
    let name = ident(variants.name(program, call));
    let (split, parts) = split_arena(program, call);
    let args = call.args.iter().zip(&function.params).map(|(arg, param)| {
        let wide = param.signature.elem.bytes() > 1;
        match arg.memory {
            Memory::Input(index) => caller_buffer(&program.inputs[index], arg, param),
            Memory::Output(index) => caller_buffer(&program.outputs[index], arg, param),
            Memory::Blob(id) => {
                let constant = ident(&static_name(&program.blobs[id.0].name));
                quote!(&weights::#constant)
            }
            Memory::Arena if param.access != Access::Read => {
                let name = ident(&param.signature.name);
                if wide { quote!(#name.as_chunks_mut().0.first_chunk_mut()?) } else { quote!(#name) }
            }
            Memory::Arena => {
                let span = if wide { quote!(wide_span) } else { quote!(span) };
                let (start, moved, part) =
                    parts.iter().rfind(|(start, _, _)| *start <= arg.start).expect("some part has it");
                let part = ident(part);
                let from = offset(arg.start as isize - *start as isize, arg.advance as isize - *moved);
                quote!(#span(#part, #from)?)
            }
        }
    });
    let mut args: Vec<TokenStream> = args.collect();
    let mut lets = quote!();
    let width: usize = args.iter().map(|arg| arg.to_string().replace(' ', "").len() + 3).sum();
    if width > RUSTFMT_CALL {
        for ((arg, param), place) in args.iter_mut().zip(&function.params).zip(&call.args) {
            let is_long = param.access == Access::Read || param.signature.elem.bytes() > 1;
            if place.memory == Memory::Arena && is_long {
                let name = ident(&param.signature.name);
                lets.extend(quote!(let #name = #arg;));
                *arg = quote!(#name);
            }
        }
    }
    let call = quote!(layers::#name(#(#args),*));
    match function.vectors {
        None => quote!(#split #lets #call;),
        Some(_) => {
            let safety = comment("SAFETY: the processor has the instructions.");
            quote!(#split #lets #safety unsafe { #call };)
        }
    }
}

/// Statements that split the arena around the operands of a call that are written there, and the parts beside them:
/// where each begins, how far that moves with every pass, and its name.
fn split_arena(program: &Program, call: &Call) -> (TokenStream, Vec<(usize, isize, &'static str)>) {
    let function = &program.functions[call.function];
    let in_arena = call.args.iter().zip(&function.params).filter(|(arg, _)| arg.memory == Memory::Arena);
    let bytes = |param: &Param| param.signature.len * param.signature.elem.bytes();
    let spans: Vec<_> = in_arena.map(|(arg, param)| (arg, arg.start + bytes(param), param)).collect();
    let reads = |from: usize, to: usize| {
        spans.iter().any(|(arg, _, param)| param.access == Access::Read && (from..to).contains(&arg.start))
    };
    let mut written: Vec<_> = spans.iter().filter(|(_, _, param)| param.access != Access::Read).collect();
    written.sort_by_key(|(arg, _, _)| arg.start);
    let mut statements = quote!();
    let mut parts = vec![];
    let (mut at, mut moved, mut rest) = (0, 0, "arena");
    for (index, (arg, end, param)) in written.iter().enumerate() {
        let advance = arg.advance as isize;
        if arg.start > at || advance != moved {
            let part = if index == 0 { "before" } else { "between" };
            let name = if reads(at, arg.start) { ident(part) } else { ident("_") };
            let (whole, from) = (ident(rest), offset((arg.start - at) as isize, advance - moved));
            statements.extend(quote!(let (#name, rest) = #whole.split_at_mut_checked(#from)?;));
            parts.push((at, moved, part));
            rest = "rest";
        }
        let after = match written.get(index + 1) {
            Some(_) => "rest",
            None if reads(*end, usize::MAX) => "after",
            None => "_",
        };
        let (name, after, whole) = (ident(&param.signature.name), ident(after), ident(rest));
        let bytes = Literal::usize_unsuffixed(bytes(param));
        statements.extend(match param.signature.elem.bytes() {
            1 => quote!(let (#name, #after) = #whole.split_first_chunk_mut()?;),
            _ => quote!(let (#name, #after) = #whole.split_at_mut_checked(#bytes)?;),
        });
        (at, moved, rest) = (*end, advance, "rest");
    }
    parts.push(if written.is_empty() { (0, 0, "arena") } else { (at, moved, "after") });
    (statements, parts)
}

/// An input or output of the model, or a part of it.
fn caller_buffer(signature: &Signature, arg: &Arg, param: &Param) -> TokenStream {
    let name = name_of(signature);
    if param.signature.len == signature.len {
        return name;
    }
    let from = offset(arg.start as isize, arg.advance as isize);
    match param.access {
        Access::Read => quote!(span(#name, #from)?),
        Access::Write | Access::ReadWrite => quote!(#name.get_mut(#from..)?.first_chunk_mut()?),
    }
}

/// A call of a function of assembly, which takes addresses.
fn print_kernel_call(program: &Program, call: &Call, kernel: &str) -> TokenStream {
    let function = &program.functions[call.function];
    let uses_arena = call.args.iter().any(|arg| arg.memory == Memory::Arena);
    let memory = uses_arena.then(|| quote!(let memory = arena.as_mut_ptr();));
    let named = call.args.iter().zip(&function.params).map(|(arg, param)| {
        let name = ident(&param.signature.name);
        let written = param.access != Access::Read;
        let from = offset(arg.start as isize, arg.advance as isize);
        let moved = ((arg.start, arg.advance) != (0, 0)).then(|| quote!(.wrapping_add(#from)));
        let value = match arg.memory {
            Memory::Input(index) => {
                let input = name_of(&program.inputs[index]);
                quote!(#input.as_ptr() #moved)
            }
            Memory::Output(index) => {
                let output = name_of(&program.outputs[index]);
                if written { quote!(#output.as_mut_ptr() #moved) } else { quote!(#output.as_ptr() #moved) }
            }
            Memory::Blob(id) => {
                let constant = ident(&static_name(&program.blobs[id.0].name));
                quote!(weights::#constant.as_ptr())
            }
            Memory::Arena => {
                let cast = if written { quote!(cast()) } else { quote!(cast_const().cast()) };
                quote!(memory.wrapping_add(#from).#cast)
            }
        };
        (quote!(let #name = #value;), name)
    });
    let (lets, names): (Vec<TokenStream>, Vec<_>) = named.unzip();
    let doc: TokenStream = verbatim_lines(&function.doc).iter().map(|line| comment(line)).collect();
    let safety = comment(
        "SAFETY: each buffer has the length that the kernel was made for; what they share, the planner has proven.",
    );
    let kernel = ident(kernel);
    quote! {
        #doc
        {
            #memory
            #(#lets)*
            #safety
            unsafe { layers::#kernel(#(#names),*) };
        }
    }
}

fn name_of(signature: &Signature) -> TokenStream {
    let name = ident(&signature.name);
    quote!(#name)
}

/// Conversion of whole tensors between real numbers and integers, for the application. They are inline, so that they
/// are in no object unless they are called.
pub(super) fn float_helpers(program: &Program, interface: &Interface) -> Vec<TokenStream> {
    let real = |(signature, info): &(&Signature, &TensorInfo)| info.scale.is_some().then_some(signature.elem);
    let mut items = vec![];
    for tensor in program.inputs.iter().zip(&interface.inputs) {
        let Some(elem) = real(&tensor) else { continue };
        items.push(quantizing(&tensor.0.name, elem));
    }
    if !items.is_empty() {
        items.push(quote! {
            #[doc = " The nearest integer, the even one of two; not yet limited to the elements' type."]
            #[allow(dead_code)]
            #[allow(clippy::cast_possible_truncation)]
            #[allow(clippy::cast_precision_loss)]
            #[allow(clippy::float_cmp)]
            #[inline]
            fn quantize(real: f32, info: &TensorInfo) -> i64 {
                let steps = f64::from(real) / f64::from(info.scale);
                let whole = steps as i64;
                let rest = steps - whole as f64;
                let distance = if rest < 0.0 { -rest } else { rest };
                let up = distance > 0.5 || (distance == 0.5 && whole & 1 != 0);
                let away = if steps < 0.0 { -1 } else { 1 };
                let nearest = whole.saturating_add(if up { away } else { 0 });
                nearest.saturating_add(i64::from(info.zero_point))
            }
        });
    }
    for tensor in program.outputs.iter().zip(&interface.outputs) {
        let Some(elem) = real(&tensor) else { continue };
        items.push(dequantizing(&tensor.0.name, elem));
    }
    items
}

fn quantizing(name: &str, elem: Elem) -> TokenStream {
    let upper = name.to_uppercase();
    let (function, info, len) = (format_ident!("quantize_{name}"), ident(&upper), format_ident!("{upper}_LEN"));
    let (doc, elem) = (format!(" Real numbers as `{name}` wants them."), ident(elem_type(elem)));
    quote! {
        #[doc = #doc]
        #[allow(dead_code, clippy::cast_possible_truncation)]
        #[inline]
        pub fn #function(real: &[f32; #len], q: &mut [#elem; #len]) {
            let (lo, hi) = (i64::from(#elem::MIN), i64::from(#elem::MAX));
            for (q, &real) in q.iter_mut().zip(real) {
                *q = quantize(real, &#info).clamp(lo, hi) as #elem;
            }
        }
    }
}

fn dequantizing(name: &str, elem: Elem) -> TokenStream {
    let upper = name.to_uppercase();
    let (function, info, len) = (format_ident!("dequantize_{name}"), ident(&upper), format_ident!("{upper}_LEN"));
    let (doc, elem) = (format!(" The real numbers that `{name}` stands for."), ident(elem_type(elem)));
    quote! {
        #[doc = #doc]
        #[allow(dead_code, clippy::cast_possible_truncation)]
        #[inline]
        pub fn #function(q: &[#elem; #len], real: &mut [f32; #len]) {
            for (real, &q) in real.iter_mut().zip(q) {
                let steps = f64::from(i32::from(q) - #info.zero_point);
                *real = (f64::from(#info.scale) * steps) as f32;
            }
        }
    }
}

/// The functions that take operands out of the arena, as far as they are used.
fn span_helpers(program: &Program) -> Vec<TokenStream> {
    let loops = |call: &&Call| program.functions[call.function].assembly().is_none();
    let reads = |wide: bool| {
        program.all_calls().filter(|call| loops(call)).any(|call| {
            call.args.iter().zip(&program.functions[call.function].params).any(|(arg, param)| {
                (arg.memory == Memory::Arena || is_part(program, arg, param))
                    && param.access == Access::Read
                    && (param.signature.elem.bytes() > 1) == wide
            })
        })
    };
    let mut items = vec![];
    if reads(false) {
        items.push(quote! {
            #[doc = " The `N` elements from a position."]
            fn span<const N: usize>(arena: &[i8], start: usize) -> Option<&[i8; N]> {
                arena.get(start..)?.first_chunk()
            }
        });
    }
    if reads(true) {
        items.push(quote! {
            #[doc = " The `N` elements of `W` bytes from a position."]
            fn wide_span<const W: usize, const N: usize>(arena: &[i8], start: usize) -> Option<&[[i8; W]; N]> {
                arena.get(start..)?.as_chunks().0.first_chunk()
            }
        });
    }
    items
}

/// The module with a function for each layer.
fn layers(program: &Program, variants: &Variants) -> TokenStream {
    let used: BTreeSet<&(usize, Packed)> = variants.names.keys().collect();
    let functions = used.iter().map(|key| function(program, &program.functions[key.0], &key.1, &variants.names[*key]));
    let uses_blobs = |function: &Function| {
        (0..program.blobs.len()).any(|blob| uses_buffer(function.stmts(), Buffer::Blob(crate::program::BlobId(blob))))
    };
    let weights = used.iter().any(|(index, _)| uses_blobs(&program.functions[*index])).then(|| {
        quote!(
            use super::weights;
        )
    });
    let helpers = helpers(program, &used);
    let units = || used.iter().filter_map(|(index, _)| program.functions[*index].vectors);
    let modules: BTreeSet<&str> = units().map(|unit| unit.rust_module).collect();
    let vector_helpers: BTreeSet<&str> = units().map(|unit| unit.rust_helpers).collect();
    let vector_helpers = vector_helpers.into_iter().map(stmt::tokens);
    let intrinsics = modules.iter().map(|module| {
        let module = ident(module);
        quote!(
            #[allow(unused_imports)]
            use core::arch::#module::*;
        )
    });
    let allowed = (!modules.is_empty()).then(|| {
        quote!(
            #[allow(clippy::wildcard_imports)]
            #[allow(unsafe_op_in_unsafe_fn)]
        )
    });
    let kernels = variants.kernels.kernels.iter().map(|(name, function)| kernel(name, function));
    quote! {
        #[doc = " One function for each layer. Indices follow the layout in memory, and casts have been proven to lose nothing."]
        #[allow(clippy::needless_range_loop)]
        #[allow(clippy::manual_memcpy)]
        #[allow(clippy::self_assignment)]
        #[allow(clippy::similar_names)]
        #[allow(clippy::cast_possible_truncation)]
        #[allow(clippy::cast_possible_wrap)]
        #[allow(clippy::cast_sign_loss)]
        #[allow(clippy::too_many_lines)]
        #[allow(clippy::trivially_copy_pass_by_ref)]
        #allowed
        mod layers {
            #(#intrinsics)*
            #(#vector_helpers)*
            #weights
            #(#kernels)*
            #(#functions)*
            #(#helpers)*
        }
    }
}

fn function(program: &Program, function: &Function, packed: &Packed, name: &str) -> TokenStream {
    let doc = verbatim(&function.doc);
    let name = ident(name);
    let scope = Scope::new(program, function);
    let mut names = Names { scope, blobs: vec![String::new(); program.blobs.len()], packed: packed.clone() };
    let parameters =
        function.params.iter().enumerate().map(|(index, param)| parameter(function, index, packed, param.access));
    let parameters: Vec<TokenStream> = parameters.collect();
    let mut constants = vec![];
    for (index, blob) in program.blobs.iter().enumerate() {
        let id = crate::program::BlobId(index);
        if !uses_buffer(function.stmts(), Buffer::Blob(id)) {
            continue;
        }
        let own = blob.name.strip_prefix(&format!("{}_", function.layer));
        // Constants that layers share are named after one of them.
        let short = own.map_or_else(|| function_name(&blob.name), str::to_owned);
        names.blobs[index] = names.scope.fresh(&short);
        let (local, constant) = (ident(&names.blobs[index]), ident(&static_name(&blob.name)));
        constants.push(quote!(let #local = &weights::#constant;));
    }
    let body = stmt::block(&mut names, function.stmts(), 2);
    let Some(unit) = function.vectors else {
        return quote! {
            #(#[doc = #doc])*
            pub(super) fn #name(#(#parameters),*) {
                #(#constants)*
                #body
            }
        };
    };
    let features = unit.rust_features;
    let feature = (!features.is_empty()).then(|| quote!(#[target_feature(enable = #features)]));
    quote! {
        #(#[doc = #doc])*
        #[doc = ""]
        #[doc = " # Safety"]
        #[doc = ""]
        #[doc = " The processor has the instructions. Every access has been proven to be inside of its buffer."]
        #feature
        pub(super) unsafe fn #name(#(#parameters),*) {
            #(#constants)*
            #body
        }
    }
}

/// A function of assembly.
fn kernel(name: &str, function: &Function) -> TokenStream {
    let assembly = function.assembly().expect("kernels are functions of assembly");
    let doc = verbatim(&[assembly.doc.join(" ")]);
    let name = ident(name);
    let parameters = function.params.iter().map(|param| {
        let (name, elem) = (format_ident!("_{}", param.signature.name), ident(elem_type(param.signature.elem)));
        if param.access == Access::Read { quote!(#name: *const #elem) } else { quote!(#name: *mut #elem) }
    });
    let directives = assembly.rust_directives.iter().map(|line| format!("  {line}"));
    let lines: Vec<String> = directives.chain(assembly.lines()).collect();
    let text: Literal = format!("r\"\n{}\n\"", lines.join("\n")).parse().expect("assembly has no quotes");
    quote! {
        #(#[doc = #doc])*
        #[doc = ""]
        #[doc = " # Safety"]
        #[doc = ""]
        #[doc = " The buffers have the lengths and the alignment of the layer that it is called for."]
        #[unsafe(naked)]
        pub(super) unsafe extern "C" fn #name(#(#parameters),*) {
            core::arch::naked_asm!(#text, options(raw))
        }
    }
}

fn parameter(function: &Function, index: usize, packed: &Packed, access: Access) -> TokenStream {
    let Signature { name, elem, len } = &function.params[index].signature;
    let buffer = Buffer::Param(index);
    let name = if uses_buffer(function.stmts(), buffer) { ident(name) } else { format_ident!("_{name}") };
    let element = match packed.contains(&buffer) {
        true => {
            let bytes = Literal::usize_unsuffixed(elem.bytes());
            quote!([i8; #bytes])
        }
        false => {
            let elem = ident(elem_type(*elem));
            quote!(#elem)
        }
    };
    let len = Literal::usize_unsuffixed(*len);
    match access {
        Access::Read => quote!(#name: &[#element; #len]),
        Access::Write | Access::ReadWrite => quote!(#name: &mut [#element; #len]),
    }
}

/// Lines of documentation that rustdoc takes as they are: the model's names are no markup.
fn verbatim(lines: &[String]) -> Vec<String> {
    let lines = verbatim_lines(lines).into_iter().map(|line| format!(" {line}"));
    std::iter::once(" ```text".to_owned()).chain(lines).chain([" ```".to_owned()]).collect()
}

fn verbatim_lines(lines: &[String]) -> Vec<String> {
    wrapped(lines.iter().map(|line| plain_text(line).replace("```", "` ` `")), DOC_LINE)
}

/// Small functions that the layers use.
fn helpers(program: &Program, used: &BTreeSet<&(usize, Packed)>) -> Vec<TokenStream> {
    let mut items = vec![];
    if used.iter().any(|(function, _)| stmt::selects(program.functions[*function].stmts())) {
        items.push(quote! {
            fn select<T>(condition: bool, then: T, otherwise: T) -> T {
                if condition {
                    return then;
                }
                otherwise
            }
        });
    }
    for elem in [Elem::I16, Elem::I32, Elem::U32, Elem::I64] {
        let of = |loads: bool| {
            used.iter().any(|(function, packed)| {
                let function = &program.functions[*function];
                packed.iter().any(|&buffer| {
                    let Buffer::Param(index) = buffer else { return false };
                    let param = &function.params[index];
                    let loaded = any_expr(function.stmts(), &|_| false, &|expr| {
                        matches!(expr, Expr::Load(source, Index::Affine(_) | Index::Value(_)) if *source == buffer)
                    });
                    param.signature.elem == elem && if loads { loaded } else { param.access != Access::Read }
                })
            })
        };
        let (ty, bytes) = (ident(elem_type(elem)), Literal::usize_unsuffixed(elem.bytes()));
        if of(true) {
            let name = ident(&loader(elem));
            items.push(quote! {
                fn #name(bytes: [i8; #bytes]) -> #ty {
                    #ty::from_ne_bytes(bytes.map(|byte| byte as u8))
                }
            });
        }
        if of(false) {
            let name = format_ident!("store_{}", elem_type(elem));
            items.push(quote! {
                fn #name(value: #ty) -> [i8; #bytes] {
                    value.to_ne_bytes().map(|byte| byte as i8)
                }
            });
        }
    }
    items
}
