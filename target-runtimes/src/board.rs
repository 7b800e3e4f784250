//! Emulated boards without operating system: what starts them, where their memory is, and the code that a program
//! for them needs beside its own.

/// A board that QEMU emulates.
#[derive(Debug, Clone, Copy)]
pub struct Board {
    /// The emulator and the arguments that select the board; the program's path follows.
    pub emulator: &'static [&'static str],
    /// Where code and constants go; reset finds the vector table at its start.
    pub code: Region,
    /// Where data and stack go.
    pub data: Region,
    /// Source of the start-up code: sets the stack up, clears memory, calls `main`, and `semihost_call`.
    pub startup: &'static str,
}

/// A part of the address space.
#[derive(Debug, Clone, Copy)]
pub struct Region {
    /// First address.
    pub origin: u32,
    /// Bytes.
    pub len: u32,
}

/// Source of the functions that reach files of the development machine from an emulated board.
pub const SEMIHOSTING: &str = include_str!("../runtime/semihosting.c");

/// The same functions for programs that run under an operating system.
pub const HOSTED: &str = include_str!("../runtime/hosted.c");

/// Source of the program around a model: reads samples, runs the model, writes its outputs.
pub const HARNESS: &str = include_str!("../runtime/harness.c");

/// Header with which the harness measures the depth of the stack.
pub const METER_STACK: &str = include_str!("../runtime/meter_stack.h");

/// Header with which the harness measures time, under an operating system.
pub const METER_TIME: &str = include_str!("../runtime/meter_time.h");

/// Source of the plugin that counts instructions in QEMU.
pub const COUNTER: &str = include_str!("../runtime/count.c");

const CORTEX_M: &str = include_str!("../runtime/startup_cortex_m.c");
const RISCV: &str = include_str!("../runtime/startup_riscv.c");

const MIB: u32 = 1 << 20;

/// Bytes above the stack, for buffers that end where the memory ends.
const EDGE_BYTES: u32 = 64 << 10;

pub(crate) const AN385: Board = mps2(&["qemu-system-arm", "-M", "mps2-an385"]);
pub(crate) const AN386: Board = mps2(&["qemu-system-arm", "-M", "mps2-an386"]);
pub(crate) const AN500: Board = mps2(&["qemu-system-arm", "-M", "mps2-an500"]);
pub(crate) const AN505: Board = Board {
    emulator: &["qemu-system-arm", "-M", "mps2-an505"],
    code: Region { origin: 0x1000_0000, len: 4 * MIB },
    data: Region { origin: 0x3800_0000, len: 4 * MIB },
    startup: CORTEX_M,
};
pub(crate) const AN547: Board = Board {
    emulator: &["qemu-system-arm", "-M", "mps3-an547"],
    code: Region { origin: 0, len: MIB / 2 },
    data: Region { origin: 0x2100_0000, len: 2 * MIB },
    startup: CORTEX_M,
};
pub(crate) const RISCV_VIRT: Board = Board {
    emulator: &["qemu-system-riscv32", "-M", "virt", "-bios", "none"],
    code: Region { origin: 0x8000_0000, len: 4 * MIB },
    data: Region { origin: 0x8040_0000, len: 4 * MIB },
    startup: RISCV,
};

const fn mps2(emulator: &'static [&'static str]) -> Board {
    Board {
        emulator,
        code: Region { origin: 0, len: 4 * MIB },
        data: Region { origin: 0x2000_0000, len: 4 * MIB },
        startup: CORTEX_M,
    }
}

/// A linker script for programs that the emulator loads: initialised data needs no copy, it is put in place.
pub fn linker_script(board: &Board) -> String {
    let Board { code, data, .. } = board;
    format!(
        "ENTRY(reset)
MEMORY {{
  CODE (rx) : ORIGIN = {:#x}, LENGTH = {:#x}
  DATA (rwx) : ORIGIN = {:#x}, LENGTH = {:#x}
}}
SECTIONS {{
  .text : {{ KEEP(*(.vectors)) KEEP(*(.start)) *(.text*) *(.rodata*) *(.srodata*) }} > CODE
  .ARM.exidx : {{ *(.ARM.exidx*) }} > CODE
  .data : {{ *(.data*) *(.sdata*) }} > DATA
  .bss (NOLOAD) : ALIGN(8) {{ bss_start = .; *(.bss*) *(.sbss*) *(COMMON) . = ALIGN(8); bss_end = .; }} > DATA
  memory_end = ORIGIN(DATA) + LENGTH(DATA);
  stack_top = memory_end - {EDGE_BYTES};
}}
",
        code.origin, code.len, data.origin, data.len
    )
}
