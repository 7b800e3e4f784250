//! What code costs on each target: the numbers behind `ptqc estimate`.
//!
//! Instructions, bytes and stack are fitted to measurements of compiled code (the target's first compiler, `-O2`) by
//! `cargo bench -p ptqc-tests --bench figures -- --fit`, which prints the tables below. A compiler that unrolls or
//! vectorises loops is described as well as constants can. Operations that always come together cannot be told apart: the
//! cost of one may hold that of the other. Kernels in assembly need no fit: their instructions are known.
//!
//! Cycles are a model, not a measurement: the emulators count instructions. The factors, for memory without wait states:
//!
//! - Cortex-M4, 1.25: loads take 2 cycles, 1 behind another load, taken branches 2 to 4, the rest 1 (Cortex-M4 Technical
//!   Reference Manual, table of instructions); hardware shows 1.2 to 1.7 on such code, flash wait states included.
//! - Cortex-M3, 1.4: the same, and multiply-accumulate takes 2 cycles.
//! - Cortex-M0+, 1.4: loads, stores and taken branches take 2 cycles.
//! - Cortex-M33, 1.2: the same engines take 12 to 20 % fewer cycles than on Cortex-M4 in MLPerf Tiny's results.
//! - Cortex-M7, 0.75: two instructions at once; the same engines take 0.58 to 0.63 of the cycles of Cortex-M4 there.
//! - Cortex-M55, 1.25: vector instructions take 2 cycles, and loads overlap with arithmetic.
//! - RISC-V, 1.2: one instruction at once, taken branches and uses of loaded values wait.

/// An operation of the loop language, as far as its cost goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// A product of 32 bits and its addition to an accumulator.
    MultiplyAccumulate,
    /// Another product of 32 bits.
    Product,
    /// A product of 64 bits.
    LongProduct,
    /// A quotient.
    Division,
    /// A load whose index follows from loop variables.
    Load,
    /// A load at a computed index.
    Lookup,
    /// A store.
    Store,
    /// A sum, difference or shift of 32 bits.
    Arithmetic,
    /// A sum, difference or shift of 64 bits.
    LongArithmetic,
    /// A minimum, maximum or choice.
    Selection,
    /// An iteration of a loop that holds no other.
    InnerIteration,
    /// An iteration of a loop that holds another.
    OuterIteration,
    /// The ends of a window that may reach outside of the input.
    Window,
    /// A call of an intrinsic: an instruction.
    Intrinsic,
    /// A call of a function.
    Call,
}

impl Operation {
    /// Number of operations.
    pub const COUNT: usize = 15;

    /// All operations, in the order of the tables of [`Cost`].
    pub const ALL: [Operation; Operation::COUNT] = [
        Operation::MultiplyAccumulate,
        Operation::Product,
        Operation::LongProduct,
        Operation::Division,
        Operation::Load,
        Operation::Lookup,
        Operation::Store,
        Operation::Arithmetic,
        Operation::LongArithmetic,
        Operation::Selection,
        Operation::InnerIteration,
        Operation::OuterIteration,
        Operation::Window,
        Operation::Intrinsic,
        Operation::Call,
    ];
}

/// What code costs on a target.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Cycles for each executed instruction, memory without wait states; `None` where no single number says much.
    pub cycles_per_instruction: Option<f64>,
    /// Executed instructions for each of [`Operation::ALL`].
    pub instructions: [f64; Operation::COUNT],
    /// Bytes of machine code for each of them in the text.
    pub code: [f64; Operation::COUNT],
    /// Bytes of stack.
    pub stack: u64,
}

/// Whatever the machine is, it is likely to be much like this.
pub(crate) const HOST: Cost = X86_64;

pub(crate) const M0PLUS: Cost = Cost {
    cycles_per_instruction: Some(1.4),
    instructions: [8.26, 0.00, 24.01, 537.19, 0.00, 1.16, 0.00, 4.37, 9.15, 5.35, 0.00, 19.74, 10.40, 1.00, 0.00],
    code: [1.1, 21.0, 0.7, 6.5, 7.6, 29.6, 55.9, 1.4, 0.3, 0.6, 0.0, 29.4, 102.5, 4.0, 0.0],
    stack: 232,
};

pub(crate) const M3: Cost = Cost {
    cycles_per_instruction: Some(1.4),
    instructions: [2.36, 23.01, 0.01, 39.05, 0.00, 1.61, 8.19, 0.84, 2.01, 1.08, 3.05, 13.04, 6.59, 1.00, 0.00],
    code: [3.3, 40.7, 31.9, 31.1, 5.8, 0.0, 2.9, 0.3, 1.8, 7.0, 1.7, 17.4, 88.1, 4.0, 0.0],
    stack: 160,
};

pub(crate) const M4: Cost = Cost {
    cycles_per_instruction: Some(1.25),
    instructions: [2.84, 15.24, 0.06, 39.46, 0.00, 2.36, 8.25, 1.14, 1.06, 1.23, 2.47, 12.67, 6.33, 1.00, 0.00],
    code: [0.0, 46.7, 29.4, 38.1, 5.9, 0.0, 0.0, 0.4, 1.9, 5.2, 3.2, 26.5, 73.8, 4.0, 0.0],
    stack: 160,
};

pub(crate) const M7: Cost = Cost {
    cycles_per_instruction: Some(0.75),
    instructions: [2.74, 6.13, 0.04, 39.15, 0.00, 2.43, 8.07, 1.05, 1.15, 1.25, 2.57, 12.59, 7.31, 1.00, 0.00],
    code: [7.0, 46.1, 32.4, 42.7, 4.8, 0.0, 1.6, 0.3, 2.5, 5.1, 2.4, 20.0, 84.8, 4.0, 0.0],
    stack: 168,
};

pub(crate) const M33: Cost = Cost {
    cycles_per_instruction: Some(1.2),
    instructions: [2.68, 6.33, 0.04, 39.55, 0.00, 2.16, 8.34, 1.02, 1.43, 1.16, 2.62, 12.69, 7.08, 1.00, 0.00],
    code: [0.5, 43.6, 34.7, 35.9, 7.0, 0.0, 0.0, 0.0, 0.6, 5.2, 3.3, 19.4, 85.7, 4.0, 0.0],
    stack: 164,
};

pub(crate) const M55: Cost = Cost {
    cycles_per_instruction: Some(1.25),
    instructions: [2.94, 6.92, 0.11, 49.83, 0.00, 2.23, 9.42, 1.39, 0.97, 0.98, 1.03, 17.91, 3.62, 1.00, 0.00],
    code: [13.4, 42.0, 28.1, 38.8, 4.9, 0.0, 6.7, 1.3, 2.1, 6.4, 2.4, 22.7, 72.5, 4.0, 0.0],
    stack: 172,
};

pub(crate) const RISCV32: Cost = Cost {
    cycles_per_instruction: Some(1.2),
    instructions: [4.12, 4.93, 0.05, 36.33, 0.00, 2.38, 0.00, 0.84, 5.61, 2.42, 2.87, 7.75, 6.33, 1.00, 6.29],
    code: [0.0, 41.3, 38.3, 9.0, 6.0, 26.7, 6.1, 2.5, 3.4, 0.7, 7.7, 42.6, 41.7, 4.0, 0.0],
    stack: 116,
};

pub(crate) const ARMV7A: Cost = Cost {
    cycles_per_instruction: None,
    instructions: [0.00, 17.78, 1.48, 345.25, 0.00, 0.00, 3.45, 0.00, 9.22, 2.92, 0.54, 13.39, 14.98, 1.00, 0.00],
    code: [45.2, 55.3, 37.4, 0.0, 0.0, 28.4, 32.6, 3.5, 0.1, 0.0, 0.0, 21.4, 87.7, 4.0, 0.0],
    stack: 180,
};

pub(crate) const AARCH64: Cost = Cost {
    cycles_per_instruction: None,
    instructions: [0.00, 9.22, 1.40, 0.00, 0.00, 0.00, 6.38, 0.02, 2.76, 1.83, 0.69, 8.19, 14.47, 1.00, 0.00],
    code: [13.5, 27.2, 39.2, 4.9, 8.7, 12.9, 21.1, 0.0, 0.6, 6.4, 1.3, 27.9, 75.6, 4.0, 0.0],
    stack: 176,
};

pub(crate) const X86_64: Cost = Cost {
    cycles_per_instruction: None,
    instructions: [0.00, 18.02, 0.00, 0.00, 0.00, 0.00, 7.34, 0.00, 7.92, 1.28, 1.95, 14.75, 5.64, 1.00, 0.00],
    code: [11.9, 72.5, 65.8, 4.1, 12.1, 13.4, 0.5, 0.0, 0.5, 3.1, 11.5, 35.9, 92.3, 6.0, 0.0],
    stack: 208,
};
