//! Rust's view of a model that is emitted as C: the same interface as that of the Rust output, so that a project can
//! change the language without changing its code.

use proc_macro2::{Literal, TokenStream};
use quote::{format_ident, quote};

use super::super::{ArenaMode, Interface};
use super::expr::elem_type;
use super::{comment_lines, format, items, stmt};
use crate::program::{CheckedProgram, Program, Signature};

/// The alignment that the emitted C asks of the caller's arena.
const ALIGNMENT: usize = 8;

/// `NAME.rs` for C that takes the caller's arena; `owner` says whether the model owns its memory or borrows it.
pub fn bindings(program: &CheckedProgram, interface: &Interface, owner: ArenaMode) -> String {
    let program = program.program();
    let mut head = comment_lines(&interface.provenance);
    head.push(String::new());
    head.push(format!(
        "Bindings to {}.c. Declare them as a module in the crate whose build script compiles it:",
        program.name
    ));
    head.push(format!("    mod {0} {{ include!(concat!(env!(\"OUT_DIR\"), \"/{0}.rs\")); }}", program.name));
    let head: String = head.iter().map(|line| format!("// {line}").trim_end().to_owned() + "\n").collect();
    head + "\n" + &format::items(&file(program, interface, owner))
}

fn file(program: &Program, interface: &Interface, owner: ArenaMode) -> Vec<TokenStream> {
    let arena_bytes = match owner {
        ArenaMode::Static => program.arena_bytes,
        // Spare bytes, so that any buffer holds an aligned one.
        ArenaMode::Caller => program.arena_bytes + ALIGNMENT - 1,
    };
    let mut all = items::interface_items(program, interface, arena_bytes);
    all.push(foreign(program));
    match owner {
        ArenaMode::Static => all.extend(owning_model(program)),
        ArenaMode::Caller => all.extend(borrowing_model(program)),
    }
    if interface.float_helpers {
        all.extend(items::float_helpers(program, interface));
    }
    all
}

/// The function as C declares it.
fn foreign(program: &Program) -> TokenStream {
    let function = function(program);
    let parameter =
        |signature: &Signature| (format_ident!("{}", signature.name), format_ident!("{}", elem_type(signature.elem)));
    let inputs = program.inputs.iter().map(parameter).map(|(name, elem)| quote!(#name: *const #elem));
    let outputs = program.outputs.iter().map(parameter).map(|(name, elem)| quote!(#name: *mut #elem));
    let all = inputs.chain(outputs);
    quote! {
        unsafe extern "C" {
            fn #function(arena: *mut u8, #(#all),*);
        }
    }
}

fn owning_model(program: &Program) -> Vec<TokenStream> {
    let run = run(program, &TokenStream::new());
    let structure = quote! {
        #[doc = " A model with its working memory, small enough to move only if [`ARENA_BYTES`] is: better kept in a `static`."]
        #[repr(C, align(8))]
        pub struct Model {
            arena: [i8; ARENA_BYTES],
        }
    };
    let constructor = quote! {
        impl Model {
            #[doc = " A model that is ready to run."]
            #[must_use]
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
    vec![structure, constructor, default, quote!(impl Model { #run })]
}

fn borrowing_model(program: &Program) -> Vec<TokenStream> {
    let spare = Literal::usize_unsuffixed(ALIGNMENT - 1);
    let run = run(program, &quote!(let arena = arena.wrapping_add(arena.addr().wrapping_neg() & #spare);));
    let structure = quote! {
        #[doc = " A model with borrowed working memory, whose contents need not be kept between inferences."]
        pub struct Model<'a> {
            arena: &'a mut [i8; ARENA_BYTES],
        }
    };
    let constructor = quote! {
        impl<'a> Model<'a> {
            #[doc = " A model that is ready to run."]
            #[must_use]
            pub const fn new(arena: &'a mut [i8; ARENA_BYTES]) -> Self {
                Self { arena }
            }
        }
    };
    vec![structure, constructor, quote!(impl Model<'_> { #run })]
}

/// The entry point. `align` moves the pointer to the arena to a multiple of [`ALIGNMENT`].
fn run(program: &Program, align: &TokenStream) -> TokenStream {
    let safety = stmt::comment("SAFETY: lengths are as in C, and the arena is aligned to 8.");
    let parameters = items::io_parameters(program);
    let function = function(program);
    let name = |signature: &Signature| format_ident!("{}", signature.name);
    let inputs = program.inputs.iter().map(name).map(|name| quote!(#name.as_ptr()));
    let outputs = program.outputs.iter().map(name).map(|name| quote!(#name.as_mut_ptr()));
    let pointers = inputs.chain(outputs);
    quote! {
        #[doc = " Runs one inference. It never fails, never panics, and keeps nothing for the next one."]
        pub fn run(&mut self, #parameters) {
            let arena = self.arena.as_mut_ptr().cast::<u8>();
            #align
            #safety
            unsafe { #function(arena, #(#pointers),*) }
        }
    }
}

fn function(program: &Program) -> proc_macro2::Ident {
    format_ident!("{}_run", program.name)
}
