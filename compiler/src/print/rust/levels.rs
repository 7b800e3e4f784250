//! Variants of a program in one file of Rust: the processor decides which of them runs.

use proc_macro2::{Literal, TokenStream};
use quote::{format_ident, quote};

use super::stmt::comment;
use crate::program::{Program, VectorUnit};

/// Statements that run a variant, if the processor has what one needs, and return. `arguments` are those of `infer`.
pub fn branches(program: &Program, arguments: &TokenStream) -> Option<TokenStream> {
    if program.variants.is_empty() {
        return None;
    }
    let count = program.variants.len();
    let branch = |(index, variant): (usize, &crate::program::Variant)| {
        let level = Literal::usize_unsuffixed(count - index);
        let name = format_ident!("infer_{}", variant.name);
        let safety = comment("SAFETY: the processor has the instructions.");
        quote! {
            if level == #level {
                #safety
                let done = unsafe { #name(#arguments) };
                debug_assert!(done.is_some(), "a tensor lies outside of the arena");
                return;
            }
        }
    };
    let branches = program.variants.iter().enumerate().map(branch);
    Some(quote! {
        let level = level();
        #(#branches)*
    })
}

/// Functions that find out the best level.
pub fn detection(program: &Program) -> Vec<TokenStream> {
    let count = program.variants.len();
    let numbered = || program.variants.iter().enumerate().map(|(index, variant)| (count - index, variant.unit));
    let promised = numbered().map(|(level, unit)| {
        let level = Literal::usize_unsuffixed(level);
        let features = unit.rust_features.split(',');
        quote!(if cfg!(all(#(target_feature = #features),*)) { return #level; })
    });
    let detected = numbered().map(|(level, unit)| {
        let (level, condition) = (Literal::usize_unsuffixed(level), condition(unit));
        quote!(if #condition { return #level; })
    });
    let cpuid = comment("SAFETY: every processor with 64 bits has the instruction.");
    let xgetbv = comment("SAFETY: the operating system says that the instruction can be used.");
    let level = quote! {
        #[doc = " The best level of vector instructions: promised by the compiler's flags, or asked for once."]
        #[allow(unreachable_code)]
        fn level() -> u8 {
            use core::sync::atomic::{AtomicU8, Ordering};
            const UNKNOWN: u8 = u8::MAX;
            static LEVEL: AtomicU8 = AtomicU8::new(UNKNOWN);
            #(#promised)*
            let known = LEVEL.load(Ordering::Relaxed);
            if known != UNKNOWN {
                return known;
            }
            let level = detected();
            LEVEL.store(level, Ordering::Relaxed);
            level
        }
    };
    let detected = quote! {
        #[doc = " What the processor has, and the operating system keeps for each thread."]
        #[allow(unused_unsafe)]
        fn detected() -> u8 {
            use core::arch::x86_64::{__cpuid, __cpuid_count};
            #cpuid
            let (last, leaf1) = unsafe { (__cpuid(0).eax, __cpuid(1)) };
            if last < 7 {
                return 0;
            }
            #cpuid
            let leaf7 = unsafe { __cpuid_count(7, 0) };
            let mut state = 0;
            if leaf1.ecx & (1 << 27) != 0 {
                #xgetbv
                state = unsafe { kept_state() };
            }
            let has = |bits: u32, wanted: u32| bits & wanted == wanted;
            #(#detected)*
            0
        }
    };
    let state = quote! {
        #[doc = " # Safety"]
        #[doc = ""]
        #[doc = " The operating system has turned the instruction on."]
        #[allow(unused_unsafe)]
        #[target_feature(enable = "xsave")]
        unsafe fn kept_state() -> u64 {
            unsafe { core::arch::x86_64::_xgetbv(0) }
        }
    };
    vec![level, detected, state]
}

/// Whether the processor has the instructions of a unit.
fn condition(unit: &VectorUnit) -> TokenStream {
    let Some(detection) = unit.detection else { return quote!(true) };
    let bits = |register: TokenStream, wanted: u32| {
        let wanted: TokenStream = format!("{wanted:#x}").parse().expect("a number is Rust");
        quote!(has(#register, #wanted))
    };
    let registers = [
        (quote!(leaf1.ecx), detection.leaf1_ecx),
        (quote!(leaf7.ebx), detection.leaf7_ebx),
        (quote!(leaf7.ecx), detection.leaf7_ecx),
    ];
    let mut conditions: Vec<TokenStream> = registers
        .into_iter()
        .filter(|(_, wanted)| *wanted != 0)
        .map(|(register, wanted)| bits(register, wanted))
        .collect();
    if detection.state != 0 {
        let wanted: TokenStream = format!("{:#x}", detection.state).parse().expect("a number is Rust");
        conditions.push(quote!(state & #wanted == #wanted));
    }
    quote!(#(#conditions)&&*)
}
