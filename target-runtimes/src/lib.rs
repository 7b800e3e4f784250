//! The target table: what each target can do, and how code for it is compiled and run on a development machine.
//!
//! Nothing outside this crate matches on a target's name: it asks what the target can do. The crate knows neither
//! models nor loops, and starts no process itself.

mod board;
mod cost;
mod packages;
mod table;

pub use board::{Board, COUNTER, HARNESS, HOSTED, METER_STACK, METER_TIME, Region, SEMIHOSTING, linker_script};
pub use cost::{Cost, Operation};
pub use packages::package;
pub use table::TARGETS;

/// A fact about a core that a kernel can rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// Only the instructions of Armv6-M.
    Thumb1,
    /// The 32-bit instructions of Armv7-M and Armv8-M mainline.
    Thumb2,
    /// Two 16-bit multiply-accumulates in one instruction (Armv7E-M, Armv8-M DSP extension).
    Dsp,
    /// 128-bit integer vectors of Armv8.1-M (Helium).
    Mve,
    /// 128-bit integer vectors of Armv7-A and AArch64.
    Neon,
    /// The instructions of RV32IM.
    RiscV,
    /// The 64-bit instruction set: 32 vector registers, and instructions on their upper halves.
    AArch64,
    /// Products of four bytes summed into 32 bits (Armv8.2-A, FEAT_DotProd).
    DotProduct,
    /// A product of two 32-bit numbers in 64 bits, in one instruction.
    LongMultiply,
    /// 128-bit integer vectors of x86, up to SSE4.1.
    Sse41,
    /// 256-bit integer vectors of x86.
    Avx2,
    /// 512-bit integer vectors of x86 with sums of four products of bytes (AVX-512 F, BW, VL, VNNI).
    Avx512Vnni,
}

impl Feature {
    /// As `ptqc targets` prints it.
    pub fn name(self) -> &'static str {
        match self {
            Feature::Thumb1 => "thumb1",
            Feature::Thumb2 => "thumb2",
            Feature::Dsp => "dsp",
            Feature::Mve => "mve",
            Feature::Neon => "neon",
            Feature::RiscV => "rv32im",
            Feature::AArch64 => "aarch64",
            Feature::DotProduct => "dot-product",
            Feature::LongMultiply => "long-multiply",
            Feature::Sse41 => "sse4.1",
            Feature::Avx2 => "avx2",
            Feature::Avx512Vnni => "avx512-vnni",
        }
    }
}

/// A processor, or a family of them, that code is emitted for.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name on the command line.
    pub name: &'static str,
    /// One line for people.
    pub description: &'static str,
    /// First parts of the Rust targets (`thumbv7em` of `thumbv7em-none-eabihf`) whose processors all run its code.
    pub rust_archs: &'static [&'static str],
    /// What a kernel can rely on.
    pub features: &'static [Feature],
    /// Features that some processors of the target have, the best first: code for the target finds out when it runs.
    pub variants: &'static [Variant],
    /// C compilers that know the target, the usual one first.
    pub compilers: &'static [Compiler],
    /// What rustc calls the target; `None` where it knows none, or none that links with the C compilers' code.
    pub rust: Option<RustTarget>,
    /// How a program for the target runs on a development machine.
    pub runner: Runner,
    /// What code for it costs.
    pub cost: Cost,
}

/// More features, which some processors of a target have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// An identifier.
    pub name: &'static str,
    /// All that a kernel can rely on there.
    pub features: &'static [Feature],
}

/// A target of rustc.
#[derive(Debug, Clone, Copy)]
pub struct RustTarget {
    /// Its triple; `None` is the machine that compiles.
    pub triple: Option<&'static str>,
    /// The processor.
    pub cpu: Option<&'static str>,
    /// What a kernel in Rust can rely on, where stable Rust cannot express all that the processor can.
    pub features: Option<&'static [Feature]>,
}

/// A C compiler and the flags that select the target.
#[derive(Debug, Clone, Copy)]
pub struct Compiler {
    /// The program that compiles.
    pub program: &'static str,
    /// Flags that select the target.
    pub flags: &'static [&'static str],
    /// The program and flags that link the objects; bare-metal clang borrows gcc's libraries.
    pub linker: (&'static str, &'static [&'static str]),
}

/// How a program for a target runs on a development machine.
#[derive(Debug, Clone, Copy)]
pub enum Runner {
    /// The machine itself, if it is one of these (`std::env::consts::ARCH`), else an emulator of user programs.
    User {
        /// Architecture on which programs run as they are.
        native: &'static str,
        /// Emulator and its arguments; empty where there is none.
        emulator: &'static [&'static str],
    },
    /// An emulated board without operating system.
    Board(Board),
}

impl Target {
    /// Whether a kernel can rely on a feature.
    pub fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    /// The same with what a kernel in Rust can rely on.
    pub fn in_rust(self) -> Target {
        match self.rust.and_then(|rust| rust.features) {
            Some(features) => Target { features, ..self },
            None => self,
        }
    }

    /// The target with the features of a variant.
    pub fn with(&self, variant: &Variant) -> Target {
        Target { features: variant.features, variants: &[], ..*self }
    }

    /// What this machine's own processor lacks of the target's features, where programs run without an emulator.
    pub fn lacking_here(&self) -> Vec<&'static str> {
        let native = matches!(self.runner, Runner::User { native, .. } if native == std::env::consts::ARCH);
        let lacks = |feature: &&Feature| native && !is_here(**feature);
        self.features.iter().filter(lacks).map(|feature| feature.name()).collect()
    }

    /// Whether programs run under an operating system, with memory that is not counted in kilobytes.
    pub fn is_hosted(&self) -> bool {
        matches!(self.runner, Runner::User { .. })
    }

    /// The target of this name.
    pub fn find(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// The target for a Rust target, for example `thumbv7em-none-eabihf`; the portable one if none fits.
    pub fn for_rust(triple: &str) -> &'static Target {
        let arch = triple.split('-').next().unwrap_or_default();
        TARGETS.iter().find(|target| target.rust_archs.contains(&arch)).unwrap_or(&TARGETS[0])
    }
}

/// Whether this machine's processor has a feature; what all of its kind have is taken for granted.
fn is_here(feature: Feature) -> bool {
    match feature {
        #[cfg(target_arch = "x86_64")]
        Feature::Sse41 => is_x86_feature_detected!("sse4.1"),
        #[cfg(target_arch = "x86_64")]
        Feature::Avx2 => is_x86_feature_detected!("avx2"),
        #[cfg(target_arch = "x86_64")]
        Feature::Avx512Vnni => {
            is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
        }
        _ => true,
    }
}

/// Names of targets that look like `name`, the most similar first.
pub fn suggestions(name: &str) -> Vec<&'static str> {
    let wanted = name.to_lowercase().replace('+', "plus");
    let similarity = |target: &Target| strsim::jaro_winkler(&wanted, target.name);
    let mut close: Vec<&Target> = TARGETS.iter().filter(|target| similarity(target) > 0.7).collect();
    close.sort_by(|a, b| similarity(b).total_cmp(&similarity(a)));
    close.into_iter().map(|target| target.name).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
        assert_eq!(names.len(), TARGETS.len());
        for name in names {
            assert_eq!(Target::find(name).map(|target| target.name), Some(name));
        }
        assert!(Target::find("cortex-m5").is_none());
    }

    #[test]
    fn rust_targets_have_the_target_that_all_their_processors_run() {
        let cases = [
            ("thumbv6m-none-eabi", "cortex-m0plus"),
            ("thumbv7m-none-eabi", "cortex-m3"),
            ("thumbv7em-none-eabi", "cortex-m4"),
            ("thumbv7em-none-eabihf", "cortex-m4"),
            ("thumbv8m.base-none-eabi", "generic"),
            ("thumbv8m.main-none-eabihf", "cortex-m33"),
            ("riscv32imc-unknown-none-elf", "riscv32"),
            ("riscv32i-unknown-none-elf", "generic"),
            ("armv7-unknown-linux-gnueabihf", "armv7a"),
            ("aarch64-unknown-linux-gnu", "aarch64"),
            ("x86_64-unknown-linux-gnu", "x86-64"),
            ("wasm32-unknown-unknown", "generic"),
        ];
        for (triple, name) in cases {
            assert_eq!(Target::for_rust(triple).name, name, "{triple}");
        }
        let archs: Vec<&str> = TARGETS.iter().flat_map(|target| target.rust_archs).copied().collect();
        assert_eq!(archs.iter().collect::<BTreeSet<_>>().len(), archs.len(), "an architecture has one target");
    }

    #[test]
    fn slips_of_the_pen_are_understood() {
        assert_eq!(suggestions("cortex-m44")[0], "cortex-m4");
        assert_eq!(suggestions("x86_64")[0], "x86-64");
        assert_eq!(suggestions("Cortex-M0+")[0], "cortex-m0plus");
        assert!(suggestions("qqq").is_empty());
    }

    #[test]
    fn every_target_has_a_compiler_and_a_description() {
        for target in TARGETS {
            assert!(!target.compilers.is_empty() && !target.description.is_empty(), "{}", target.name);
        }
    }
}
