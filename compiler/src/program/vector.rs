//! Vector instructions, which functions of loops call as intrinsics: the names are the same in C and in Rust.

/// The vector instructions that a function may call, and what the languages have to be told for that.
#[derive(Debug, PartialEq, Eq)]
pub struct VectorUnit {
    /// The header of C that declares the intrinsics, for example `immintrin.h`.
    pub header: &'static str,
    /// Lines in front of the headers, for example a pragma; may be empty.
    pub c_prologue: &'static str,
    /// What gcc and clang call the instructions in the attribute `target`; empty where every compilation for the
    /// target has them.
    pub c_features: &'static str,
    /// The condition of the preprocessor that tells whether the compiler's flags promise them.
    pub c_promised: &'static str,
    /// The constraint of C's inline assembly for a vector register.
    pub c_register: &'static str,
    /// How code finds out whether a processor has them; `None` where every processor of the target does.
    pub detection: Option<Detection>,
    /// The module of Rust's core library with the intrinsics, for example `x86_64`.
    pub rust_module: &'static str,
    /// The first release of Rust that has all of it, and not before 1.88, which the rest of emitted code needs.
    pub rust_version: &'static str,
    /// What rustc calls the instructions; empty where every compilation for the target has them.
    pub rust_features: &'static str,
    /// Functions that Rust has to be given, because its library has them for nightly compilers only.
    pub rust_helpers: &'static str,
}

/// The bits by which an x86 processor, and its operating system, say that they have some instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detection {
    /// Bits of ECX of leaf 1 of `cpuid`.
    pub leaf1_ecx: u32,
    /// Bits of EBX of leaf 7.
    pub leaf7_ebx: u32,
    /// Bits of ECX of leaf 7.
    pub leaf7_ecx: u32,
    /// State that the operating system keeps for each thread: bits of `xgetbv`.
    pub state: u64,
}
