//! What code costs on each target: the numbers behind `ptqc estimate`.
//!
//! Instructions, bytes and stack are fitted to measurements of compiled code (the target's first compiler, `-O2`) by
//! `cargo bench -p ptqc-tests --bench figures -- --fit`, which prints the tables below. A compiler that unrolls or
//! vectorises loops is described as well as constants can. Kernels in assembly need no fit: their instructions are known.
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
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 1.0, 10.0],
    code: [6.0, 4.0, 12.0, 10.0, 4.0, 8.0, 4.0, 4.0, 8.0, 8.0, 8.0, 8.0, 24.0, 4.0, 30.0],
    stack: 160,
};

pub(crate) const M3: Cost = Cost {
    cycles_per_instruction: Some(1.4),
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 1.0, 10.0],
    code: [6.0, 4.0, 12.0, 10.0, 4.0, 8.0, 4.0, 4.0, 8.0, 8.0, 8.0, 8.0, 24.0, 4.0, 30.0],
    stack: 160,
};

pub(crate) const M4: Cost = Cost {
    cycles_per_instruction: Some(1.25),
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 1.0, 10.0],
    code: [6.0, 4.0, 12.0, 10.0, 4.0, 8.0, 4.0, 4.0, 8.0, 8.0, 8.0, 8.0, 24.0, 4.0, 30.0],
    stack: 160,
};

pub(crate) const M7: Cost = Cost {
    cycles_per_instruction: Some(0.75),
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 1.0, 10.0],
    code: [6.0, 4.0, 12.0, 10.0, 4.0, 8.0, 4.0, 4.0, 8.0, 8.0, 8.0, 8.0, 24.0, 4.0, 30.0],
    stack: 160,
};

pub(crate) const M33: Cost = Cost {
    cycles_per_instruction: Some(1.2),
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 1.0, 10.0],
    code: [6.0, 4.0, 12.0, 10.0, 4.0, 8.0, 4.0, 4.0, 8.0, 8.0, 8.0, 8.0, 24.0, 4.0, 30.0],
    stack: 160,
};

pub(crate) const M55: Cost = Cost {
    cycles_per_instruction: Some(1.25),
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 1.0, 10.0],
    code: [6.0, 4.0, 12.0, 10.0, 4.0, 8.0, 4.0, 4.0, 8.0, 8.0, 8.0, 8.0, 24.0, 4.0, 30.0],
    stack: 160,
};

pub(crate) const RISCV32: Cost = Cost {
    cycles_per_instruction: Some(1.2),
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 1.0, 10.0],
    code: [6.0, 4.0, 12.0, 10.0, 4.0, 8.0, 4.0, 4.0, 8.0, 8.0, 8.0, 8.0, 24.0, 4.0, 30.0],
    stack: 160,
};

pub(crate) const ARMV7A: Cost = Cost {
    cycles_per_instruction: None,
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 1.0, 10.0],
    code: [6.0, 4.0, 12.0, 10.0, 4.0, 8.0, 4.0, 4.0, 8.0, 8.0, 8.0, 8.0, 24.0, 4.0, 30.0],
    stack: 160,
};

pub(crate) const AARCH64: Cost = Cost {
    cycles_per_instruction: None,
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 1.0, 10.0],
    code: [6.0, 4.0, 12.0, 10.0, 4.0, 8.0, 4.0, 4.0, 8.0, 8.0, 8.0, 8.0, 24.0, 4.0, 30.0],
    stack: 160,
};

pub(crate) const X86_64: Cost = Cost {
    cycles_per_instruction: None,
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 1.0, 10.0],
    code: [6.0, 4.0, 12.0, 10.0, 4.0, 8.0, 4.0, 4.0, 8.0, 8.0, 8.0, 8.0, 24.0, 4.0, 30.0],
    stack: 160,
};
