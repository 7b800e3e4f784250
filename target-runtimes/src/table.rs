//! One row for each target. A new target is a row here, and start-up code where its board needs some.

use crate::Feature::{
    AArch64, Avx2, Avx512Vnni, DotProduct, Dsp, LongMultiply, Mve, Neon, RiscV, Sse41, Thumb1, Thumb2,
};
use crate::board::{AN385, AN386, AN500, AN505, AN547, RISCV_VIRT};
use crate::{Compiler, Feature, Runner, RustTarget, Target, Variant, cost};

/// All targets, the portable one first.
pub const TARGETS: &[Target] = &[
    Target {
        name: "generic",
        description: "any processor with a C99 compiler",
        rust_archs: &[],
        features: &[],
        variants: &[],
        compilers: &[hosted("gcc", &[]), hosted("clang-19", &[])],
        rust: HOST,
        runner: Runner::User { native: std::env::consts::ARCH, emulator: &[] },
        cost: cost::HOST,
    },
    Target {
        name: "cortex-m0plus",
        description: "Arm Cortex-M0, M0+ (Armv6-M)",
        rust_archs: &["thumbv6m"],
        features: &[Thumb1],
        variants: &[],
        compilers: M0PLUS,
        rust: thumb("thumbv6m-none-eabi", "cortex-m0plus"),
        // No board of QEMU with this core has enough memory; Armv7-M runs Armv6-M code as it is.
        runner: Runner::Board(AN385),
        cost: cost::M0PLUS,
    },
    Target {
        name: "cortex-m3",
        description: "Arm Cortex-M3 (Armv7-M)",
        rust_archs: &["thumbv7m"],
        features: &[Thumb2, LongMultiply],
        variants: &[],
        compilers: M3,
        rust: thumb("thumbv7m-none-eabi", "cortex-m3"),
        runner: Runner::Board(AN385),
        cost: cost::M3,
    },
    Target {
        name: "cortex-m4",
        description: "Arm Cortex-M4, with or without FPU (Armv7E-M)",
        rust_archs: &["thumbv7em"],
        features: &[Thumb2, LongMultiply, Dsp],
        variants: &[],
        compilers: M4,
        rust: thumb("thumbv7em-none-eabihf", "cortex-m4"),
        runner: Runner::Board(AN386),
        cost: cost::M4,
    },
    Target {
        name: "cortex-m7",
        description: "Arm Cortex-M7 (Armv7E-M)",
        rust_archs: &[],
        features: &[Thumb2, LongMultiply, Dsp],
        variants: &[],
        compilers: M7,
        rust: thumb("thumbv7em-none-eabihf", "cortex-m7"),
        runner: Runner::Board(AN500),
        cost: cost::M7,
    },
    Target {
        name: "cortex-m33",
        description: "Arm Cortex-M33 with DSP extension (Armv8-M)",
        rust_archs: &["thumbv8m.main"],
        features: &[Thumb2, LongMultiply, Dsp],
        variants: &[],
        compilers: M33,
        rust: thumb("thumbv8m.main-none-eabihf", "cortex-m33"),
        runner: Runner::Board(AN505),
        cost: cost::M33,
    },
    Target {
        name: "cortex-m55",
        description: "Arm Cortex-M55 with Helium (Armv8.1-M)",
        rust_archs: &[],
        features: &[Thumb2, LongMultiply, Dsp, Mve],
        variants: &[],
        compilers: M55,
        rust: thumb("thumbv8m.main-none-eabihf", "cortex-m55"),
        runner: Runner::Board(AN547),
        cost: cost::M55,
    },
    Target {
        name: "riscv32",
        description: "32-bit RISC-V (RV32IMC)",
        rust_archs: &["riscv32im", "riscv32imc", "riscv32imac", "riscv32imafc"],
        features: &[LongMultiply, RiscV],
        variants: &[],
        compilers: &[Compiler { program: RISCV_GCC, flags: RV32, linker: (RISCV_GCC, RV32) }],
        rust: Some(RustTarget { triple: Some("riscv32imc-unknown-none-elf"), cpu: None, features: None }),
        runner: Runner::Board(RISCV_VIRT),
        cost: cost::RISCV32,
    },
    Target {
        name: "armv7a",
        description: "32-bit Arm with NEON (Armv7-A)",
        rust_archs: &["armv7", "armv7a", "thumbv7neon"],
        features: &[LongMultiply, Neon],
        variants: &[],
        compilers: &[hosted("arm-linux-gnueabihf-gcc", &["-march=armv7-a", "-mfpu=neon"])],
        // The intrinsics of 32-bit NEON are for nightly compilers only.
        rust: Some(RustTarget {
            triple: Some("armv7-unknown-linux-gnueabihf"),
            cpu: None,
            features: Some(&[LongMultiply]),
        }),
        runner: Runner::User { native: "arm", emulator: &["qemu-arm", "-L", "/usr/arm-linux-gnueabihf"] },
        cost: cost::ARMV7A,
    },
    Target {
        name: "aarch64",
        description: "64-bit Arm (Armv8-A)",
        rust_archs: &["aarch64"],
        features: &[LongMultiply, Neon, AArch64],
        variants: &[],
        compilers: &[hosted("aarch64-linux-gnu-gcc", &[])],
        rust: AARCH64_RUST,
        runner: AARCH64_RUNNER,
        cost: cost::AARCH64,
    },
    Target {
        name: "aarch64-dotprod",
        description: "64-bit Arm with dot product (Armv8.2-A, Armv9-A)",
        rust_archs: &[],
        features: &[LongMultiply, Neon, AArch64, DotProduct],
        variants: &[],
        compilers: &[hosted("aarch64-linux-gnu-gcc", &["-march=armv8.2-a+dotprod"])],
        rust: AARCH64_RUST,
        runner: AARCH64_RUNNER,
        cost: cost::AARCH64,
    },
    Target {
        name: "x86-64",
        description: "64-bit x86; uses AVX-512 with VNNI, AVX2 or SSE4.1 where the processor has them",
        rust_archs: &["x86_64"],
        features: &[LongMultiply],
        variants: X86_LEVELS,
        compilers: &[hosted("gcc", &["-m64"]), hosted("clang-19", &["-m64"])],
        rust: Some(RustTarget { triple: Some("x86_64-unknown-linux-gnu"), cpu: None, features: None }),
        runner: Runner::User { native: "x86_64", emulator: &["qemu-x86_64", "-cpu", "max"] },
        cost: cost::X86_64,
    },
    Target {
        name: "x86-64-v2",
        description: "64-bit x86 with SSE4.1, no dispatch",
        rust_archs: &[],
        features: SSE41,
        variants: &[],
        compilers: &[hosted("gcc", &["-m64"]), hosted("clang-19", &["-m64"])],
        rust: Some(RustTarget { triple: Some("x86_64-unknown-linux-gnu"), cpu: None, features: None }),
        runner: Runner::User { native: "x86_64", emulator: &["qemu-x86_64", "-cpu", "max"] },
        cost: cost::X86_64,
    },
    Target {
        name: "x86-64-v3",
        description: "64-bit x86 with AVX2, no dispatch",
        rust_archs: &[],
        features: AVX2,
        variants: &[],
        compilers: &[hosted("gcc", &["-m64"]), hosted("clang-19", &["-m64"])],
        rust: Some(RustTarget { triple: Some("x86_64-unknown-linux-gnu"), cpu: None, features: None }),
        runner: Runner::User { native: "x86_64", emulator: &["qemu-x86_64", "-cpu", "max"] },
        cost: cost::X86_64,
    },
    Target {
        name: "x86-64-vnni",
        description: "64-bit x86 with AVX-512 and VNNI, no dispatch",
        rust_archs: &[],
        features: AVX512_VNNI,
        variants: &[],
        compilers: &[hosted("gcc", &["-m64"]), hosted("clang-19", &["-m64"])],
        rust: Some(RustTarget { triple: Some("x86_64-unknown-linux-gnu"), cpu: None, features: None }),
        runner: Runner::User { native: "x86_64", emulator: &["qemu-x86_64", "-cpu", "max"] },
        cost: cost::X86_64,
    },
];

const HOST: Option<RustTarget> = Some(RustTarget { triple: None, cpu: None, features: None });

const AARCH64_RUST: Option<RustTarget> =
    Some(RustTarget { triple: Some("aarch64-unknown-linux-gnu"), cpu: None, features: None });
const AARCH64_RUNNER: Runner =
    Runner::User { native: "aarch64", emulator: &["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"] };

const SSE41: &[Feature] = &[LongMultiply, Sse41];
const AVX2: &[Feature] = &[LongMultiply, Sse41, Avx2];
const AVX512_VNNI: &[Feature] = &[LongMultiply, Sse41, Avx2, Avx512Vnni];

/// What x86 processors have beside the instructions that all of them have.
const X86_LEVELS: &[Variant] = &[
    Variant { name: "avx512_vnni", features: AVX512_VNNI },
    Variant { name: "avx2", features: AVX2 },
    Variant { name: "sse41", features: SSE41 },
];

const fn thumb(triple: &'static str, cpu: &'static str) -> Option<RustTarget> {
    Some(RustTarget { triple: Some(triple), cpu: Some(cpu), features: None })
}

const ARM_GCC: &str = "arm-none-eabi-gcc";
const RISCV_GCC: &str = "riscv64-unknown-elf-gcc";
const RV32: &[&str] = &["-march=rv32imc", "-mabi=ilp32", "--specs=picolibc.specs"];

const M0PLUS_GCC: &[&str] = &["-mcpu=cortex-m0plus", "-mthumb"];
const M0PLUS: &[Compiler] =
    &[gcc(M0PLUS_GCC), clang(&["--target=thumbv6m-none-eabi", "-mcpu=cortex-m0plus"], M0PLUS_GCC)];

const M3_GCC: &[&str] = &["-mcpu=cortex-m3", "-mthumb"];
const M3: &[Compiler] = &[gcc(M3_GCC), clang(&["--target=thumbv7m-none-eabi", "-mcpu=cortex-m3"], M3_GCC)];

const M4_GCC: &[&str] = &["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"];
const M4: &[Compiler] = &[gcc(M4_GCC), clang(&["--target=thumbv7em-none-eabihf", "-mcpu=cortex-m4"], M4_GCC)];

const M7_GCC: &[&str] = &["-mcpu=cortex-m7", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv5-d16"];
const M7: &[Compiler] = &[gcc(M7_GCC), clang(&["--target=thumbv7em-none-eabihf", "-mcpu=cortex-m7"], M7_GCC)];

const M33_GCC: &[&str] = &["-mcpu=cortex-m33", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"];
const M33: &[Compiler] = &[gcc(M33_GCC), clang(&["--target=thumbv8m.main-none-eabihf", "-mcpu=cortex-m33"], M33_GCC)];

const M55_GCC: &[&str] = &["-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard"];
const M55: &[Compiler] = &[gcc(M55_GCC), clang(&["--target=thumbv8.1m.main-none-eabihf", "-mcpu=cortex-m55"], M55_GCC)];

/// gcc for bare-metal Arm.
const fn gcc(flags: &'static [&'static str]) -> Compiler {
    Compiler { program: ARM_GCC, flags, linker: (ARM_GCC, flags) }
}

/// clang for bare-metal Arm; gcc links, because it knows where its libraries are.
const fn clang(flags: &'static [&'static str], gcc_flags: &'static [&'static str]) -> Compiler {
    Compiler { program: "clang-19", flags, linker: (ARM_GCC, gcc_flags) }
}

/// A compiler whose programs run under an operating system.
const fn hosted(program: &'static str, flags: &'static [&'static str]) -> Compiler {
    Compiler { program, flags, linker: (program, flags) }
}
