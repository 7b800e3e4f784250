//! Where programs that targets need come from.

/// The packages of Debian and its relatives that hold a compiler or an emulator, with its library.
pub fn package(program: &str) -> Option<&'static str> {
    PACKAGES.iter().find(|(name, _)| *name == program).map(|(_, package)| *package)
}

const PACKAGES: &[(&str, &str)] = &[
    ("gcc", "gcc libc6-dev"),
    ("clang-19", "clang-19"),
    ("arm-none-eabi-gcc", "gcc-arm-none-eabi libnewlib-arm-none-eabi"),
    ("riscv64-unknown-elf-gcc", "gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf"),
    ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
    ("arm-linux-gnueabihf-gcc", "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross"),
    ("qemu-system-arm", "qemu-system-arm"),
    ("qemu-system-riscv32", "qemu-system-misc"),
    ("qemu-aarch64", "qemu-user"),
    ("qemu-arm", "qemu-user"),
    ("qemu-x86_64", "qemu-user"),
];

#[cfg(test)]
mod tests {
    use crate::{Runner, TARGETS};

    #[test]
    fn every_program_of_a_target_has_a_package() {
        for target in TARGETS {
            let emulator = match target.runner {
                Runner::User { emulator, .. } => emulator.first(),
                Runner::Board(board) => board.emulator.first(),
            };
            let programs = target.compilers.iter().flat_map(|compiler| [&compiler.program, &compiler.linker.0]);
            for program in programs.chain(emulator) {
                assert!(super::package(program).is_some(), "{program}");
            }
        }
    }
}
