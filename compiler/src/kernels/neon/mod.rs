//! Kernels for the 128-bit integer vectors of Armv7-A and AArch64, in intrinsics that have the same names in C and Rust.

pub mod dense;
pub mod depthwise;
pub mod elementwise;
mod geometry;
pub mod pool;
mod requantize;
mod rows;
mod vector;

use ptqc_target_runtimes::Feature;

use crate::kernels::{Kernel, PORTABLE};

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
    c_register: "w",
    detection: None,
    // Of 32-bit Arm, stable Rust has no intrinsics.
    rust_module: "aarch64",
    rust_version: "1.88",
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

/// What the kernels for sums over input channels have in common.
const NEON_DENSE: Kernel = Kernel { accepts: dense::accepts, scratch: dense::scratch, adds: true, ..PORTABLE };

/// What the kernels for depthwise convolutions have in common.
const NEON_DEPTHWISE: Kernel = Kernel { accepts: depthwise::accepts, scratch: depthwise::scratch, ..PORTABLE };

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "neon.dense",
        needs: &[Feature::Neon],
        instructions: |layer, plan| dense::instructions(Unit::Armv7, layer, plan),
        build: |b| dense::build(b, Unit::Armv7),
        ..NEON_DENSE
    },
    Kernel {
        name: "aarch64.dense",
        needs: &[Feature::AArch64],
        instructions: |layer, plan| dense::instructions(Unit::AArch64, layer, plan),
        build: |b| dense::build(b, Unit::AArch64),
        ..NEON_DENSE
    },
    Kernel {
        name: "dotprod.dense",
        needs: &[Feature::DotProduct],
        instructions: |layer, plan| dense::instructions(Unit::DotProduct, layer, plan),
        build: |b| dense::build(b, Unit::DotProduct),
        ..NEON_DENSE
    },
    Kernel {
        name: "neon.depthwise",
        needs: &[Feature::Neon],
        instructions: |layer, plan| depthwise::instructions(Unit::Armv7, layer, plan),
        build: |b| depthwise::build(b, Unit::Armv7),
        ..NEON_DEPTHWISE
    },
    Kernel {
        name: "aarch64.depthwise",
        needs: &[Feature::AArch64],
        instructions: |layer, plan| depthwise::instructions(Unit::AArch64, layer, plan),
        build: |b| depthwise::build(b, Unit::AArch64),
        ..NEON_DEPTHWISE
    },
    Kernel {
        name: "aarch64.table",
        accepts: elementwise::accepts_table,
        needs: &[Feature::AArch64],
        instructions: elementwise::instructions,
        build: elementwise::build_table,
        ..PORTABLE
    },
    Kernel {
        name: "neon.add",
        accepts: elementwise::accepts_add,
        needs: &[Feature::Neon],
        instructions: elementwise::instructions,
        build: |b| elementwise::build_add(b, Unit::Armv7),
        ..PORTABLE
    },
    Kernel {
        name: "neon.max_pool",
        accepts: pool::accepts_max,
        needs: &[Feature::Neon],
        instructions: pool::instructions,
        build: |b| pool::build_max(b, Unit::Armv7),
        ..PORTABLE
    },
    Kernel {
        name: "neon.average_pool",
        accepts: pool::accepts_average,
        needs: &[Feature::Neon],
        instructions: pool::instructions,
        build: |b| pool::build_average(b, Unit::Armv7),
        ..PORTABLE
    },
    Kernel {
        name: "neon.mean",
        accepts: pool::accepts_mean,
        needs: &[Feature::Neon],
        instructions: pool::instructions,
        build: |b| pool::build_mean(b, Unit::Armv7),
        ..PORTABLE
    },
];
