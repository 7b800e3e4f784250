//! What code costs on each target: the numbers behind `ptqc estimate`.
//!
//! Instructions, bytes and stack are fitted to measurements of compiled code (gcc, `-O2`), by
//! `cargo bench -p ptqc-tests --bench figures -- --fit`, which prints the tables below.

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
    /// A call of a function.
    Call,
}

impl Operation {
    /// Number of operations.
    pub const COUNT: usize = 14;

    /// All operations, in the order of [`Cost::instructions`].
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
    /// Bytes of code for each instruction that an operation in the text costs.
    pub bytes_per_instruction: f64,
    /// Bytes of code of a function beside its operations.
    pub bytes_per_function: f64,
    /// Bytes of stack.
    pub stack: u64,
}

pub(crate) const HOST: Cost = Cost {
    cycles_per_instruction: None,
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 10.0],
    bytes_per_instruction: 3.0,
    bytes_per_function: 40.0,
    stack: 120,
};
pub(crate) const M0PLUS: Cost = Cost {
    cycles_per_instruction: Some(1.4),
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 10.0],
    bytes_per_instruction: 3.0,
    bytes_per_function: 40.0,
    stack: 120,
};
pub(crate) const M3: Cost = Cost {
    cycles_per_instruction: Some(1.4),
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 10.0],
    bytes_per_instruction: 3.0,
    bytes_per_function: 40.0,
    stack: 120,
};
pub(crate) const M4: Cost = Cost {
    cycles_per_instruction: Some(1.25),
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 10.0],
    bytes_per_instruction: 3.0,
    bytes_per_function: 40.0,
    stack: 120,
};
pub(crate) const M7: Cost = Cost {
    cycles_per_instruction: Some(0.75),
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 10.0],
    bytes_per_instruction: 3.0,
    bytes_per_function: 40.0,
    stack: 120,
};
pub(crate) const M33: Cost = Cost {
    cycles_per_instruction: Some(1.2),
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 10.0],
    bytes_per_instruction: 3.0,
    bytes_per_function: 40.0,
    stack: 120,
};
pub(crate) const M55: Cost = Cost {
    cycles_per_instruction: Some(1.25),
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 10.0],
    bytes_per_instruction: 3.0,
    bytes_per_function: 40.0,
    stack: 120,
};
pub(crate) const RISCV32: Cost = Cost {
    cycles_per_instruction: Some(1.2),
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 10.0],
    bytes_per_instruction: 3.0,
    bytes_per_function: 40.0,
    stack: 120,
};
pub(crate) const ARMV7A: Cost = Cost {
    cycles_per_instruction: None,
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 10.0],
    bytes_per_instruction: 3.0,
    bytes_per_function: 40.0,
    stack: 120,
};
pub(crate) const AARCH64: Cost = Cost {
    cycles_per_instruction: None,
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 10.0],
    bytes_per_instruction: 3.0,
    bytes_per_function: 40.0,
    stack: 120,
};
pub(crate) const X86_64: Cost = Cost {
    cycles_per_instruction: None,
    instructions: [2.0, 1.0, 4.0, 10.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0, 8.0, 10.0],
    bytes_per_instruction: 3.0,
    bytes_per_function: 40.0,
    stack: 120,
};
