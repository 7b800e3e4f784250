//! Kernels for the 128-bit integer vectors of Armv7-A and AArch64, in intrinsics that have the same names in C and Rust.

pub mod dense;
pub mod depthwise;
pub mod elementwise;
mod geometry;
pub mod pool;
mod requantize;
mod rows;
mod vector;

use crate::program::VectorUnit;

/// Which vector instructions a kernel is built from. Each has those of the units before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// NEON of Armv7-A: 16 registers of 128 bits.
    Armv7,
    /// Advanced SIMD of AArch64: 32 registers, and instructions on their upper halves.
    AArch64,
    /// The same with products of four bytes summed into 32 bits (Armv8.2, `FEAT_DotProd`).
    DotProduct,
}

impl Unit {
    /// What the output languages have to be told.
    fn declared(self) -> &'static VectorUnit {
        match self {
            Unit::Armv7 => &ARMV7,
            Unit::AArch64 => &AARCH64,
            Unit::DotProduct => &DOT_PRODUCT,
        }
    }
}

const ARMV7: VectorUnit = VectorUnit {
    header: "arm_neon.h",
    c_prologue: IN_FRONT_OF_THE_HEADER,
    c_features: "",
    c_promised: "defined(__ARM_NEON) && !defined(__ARM_BIG_ENDIAN)",
    // Of 32-bit Arm, stable Rust has no intrinsics.
    rust_module: "aarch64",
    rust_features: "",
    rust_helpers: "",
};

const AARCH64: VectorUnit =
    VectorUnit { c_promised: "defined(__ARM_NEON) && defined(__aarch64__) && !defined(__ARM_BIG_ENDIAN)", ..ARMV7 };

const DOT_PRODUCT: VectorUnit = VectorUnit {
    c_promised: "defined(__ARM_FEATURE_DOTPROD) && defined(__aarch64__) && !defined(__ARM_BIG_ENDIAN)",
    rust_features: "dotprod",
    rust_helpers: DOT_PRODUCT_IN_RUST,
    ..AARCH64
};

/// Measured with gcc 12 at -O2: a sixth of the instructions of a convolution.
const IN_FRONT_OF_THE_HEADER: &str = "\
#if defined(__GNUC__) && !defined(__clang__)
/* Values kept from one iteration for the next would need more registers than there are. */
#pragma GCC optimize(\"no-predictive-commoning\")
#endif";

/// Stable Rust has the instructions, but not their intrinsics.
const DOT_PRODUCT_IN_RUST: &str = "
/// Adds to each lane of `sum` the products of its four bytes of `a` with four bytes of `b`, those of `lane`.
#[allow(dead_code)]
#[inline]
#[target_feature(enable = \"dotprod\")]
fn vdotq_laneq_s32(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t, lane: i32) -> int32x4_t {
    use core::arch::asm;
    ptqc_comment!(\"SAFETY: the instructions change nothing but `sum`.\");
    unsafe {
        match lane {
            0 => asm!(
                \"sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[0]\",
                inlateout(vreg) sum, in(vreg) a, in(vreg) b,
                options(pure, nomem, nostack, preserves_flags)
            ),
            1 => asm!(
                \"sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[1]\",
                inlateout(vreg) sum, in(vreg) a, in(vreg) b,
                options(pure, nomem, nostack, preserves_flags)
            ),
            2 => asm!(
                \"sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[2]\",
                inlateout(vreg) sum, in(vreg) a, in(vreg) b,
                options(pure, nomem, nostack, preserves_flags)
            ),
            _ => asm!(
                \"sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[3]\",
                inlateout(vreg) sum, in(vreg) a, in(vreg) b,
                options(pure, nomem, nostack, preserves_flags)
            ),
        }
    }
    sum
}

/// The same for the lower half of `b`.
#[allow(dead_code)]
#[inline]
#[target_feature(enable = \"dotprod\")]
fn vdotq_lane_s32(sum: int32x4_t, a: int8x16_t, b: int8x8_t, lane: i32) -> int32x4_t {
    vdotq_laneq_s32(sum, a, vcombine_s8(b, b), lane)
}
";
