//! Kernels with vector instructions of x86, at three levels: AVX-512 with VNNI, AVX2, SSE4.1.

pub mod conv;
pub mod depthwise;
pub mod elementwise;
mod geometry;
pub mod isa;
pub mod mean;
mod requantize;
mod stage;

use ptqc_target_runtimes::Feature;

use crate::kernels::{Kernel, PORTABLE};

/// A row for a kernel of [`x86`] at one level of its vector instructions.
macro_rules! x86_kernel {
    ($name:literal, $isa:ident, $feature:ident, $accepts:expr, $module:ident, $instructions:ident, $scratch:ident, $build:ident) => {
        Kernel {
            name: $name,
            accepts: $accepts,
            needs: &[Feature::$feature],
            instructions: |layer, plan| $module::$instructions(layer, plan, &isa::$isa),
            scratch: |layer, plan| $module::$scratch(layer, plan, &isa::$isa),
            build: |b| $module::$build(b, &isa::$isa),
            ..PORTABLE
        }
    };
}

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    x86_kernel!("x86.conv.avx512vnni", AVX512, Avx512Vnni, conv::accepts, conv, instructions, scratch, build),
    x86_kernel!(
        "x86.depthwise.avx512vnni",
        AVX512,
        Avx512Vnni,
        depthwise::accepts,
        depthwise,
        instructions,
        scratch,
        build
    ),
    x86_kernel!(
        "x86.add.avx512vnni",
        AVX512,
        Avx512Vnni,
        elementwise::accepts_add,
        elementwise,
        instructions_add,
        scratch_add,
        build_add
    ),
    x86_kernel!(
        "x86.mean.avx512vnni",
        AVX512,
        Avx512Vnni,
        |layer, plan| mean::accepts(layer, plan, &isa::AVX512),
        mean,
        instructions,
        scratch,
        build
    ),
    x86_kernel!("x86.conv.avx2", AVX2, Avx2, conv::accepts, conv, instructions, scratch, build),
    x86_kernel!("x86.depthwise.avx2", AVX2, Avx2, depthwise::accepts, depthwise, instructions, scratch, build),
    x86_kernel!(
        "x86.add.avx2",
        AVX2,
        Avx2,
        elementwise::accepts_add,
        elementwise,
        instructions_add,
        scratch_add,
        build_add
    ),
    x86_kernel!(
        "x86.mean.avx2",
        AVX2,
        Avx2,
        |layer, plan| mean::accepts(layer, plan, &isa::AVX2),
        mean,
        instructions,
        scratch,
        build
    ),
    x86_kernel!("x86.conv.sse41", SSE41, Sse41, conv::accepts, conv, instructions, scratch, build),
    x86_kernel!("x86.depthwise.sse41", SSE41, Sse41, depthwise::accepts, depthwise, instructions, scratch, build),
    x86_kernel!(
        "x86.add.sse41",
        SSE41,
        Sse41,
        elementwise::accepts_add,
        elementwise,
        instructions_add,
        scratch_add,
        build_add
    ),
    x86_kernel!(
        "x86.mean.sse41",
        SSE41,
        Sse41,
        |layer, plan| mean::accepts(layer, plan, &isa::SSE41),
        mean,
        instructions,
        scratch,
        build
    ),
];
