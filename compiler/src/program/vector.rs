//! Vector instructions, which functions of loops call as intrinsics: the names are the same in C and in Rust.

/// The vector instructions that a function may call, and what the languages have to be told for that.
#[derive(Debug, PartialEq, Eq)]
pub struct VectorUnit {
    /// The header of C that declares the intrinsics, for example `immintrin.h`.
    pub header: &'static str,
    /// What gcc and clang call the instructions in the attribute `target`; empty where every compilation for the
    /// target has them.
    pub c_features: &'static str,
    /// The condition of the preprocessor that tells whether the compiler's flags promise them.
    pub c_promised: &'static str,
    /// The module of Rust's core library with the intrinsics, for example `x86_64`.
    pub rust_module: &'static str,
    /// What rustc calls the instructions; empty where every compilation for the target has them.
    pub rust_features: &'static str,
    /// Functions that Rust has to be given, because its library has them for nightly compilers only.
    pub rust_helpers: &'static str,
}
