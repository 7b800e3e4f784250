//! The loop language: what every layer computes, as integer scalars, counted loops and named buffers.
//!
//! A kernel builds a [`Function`] once; the checker proves it safe, the interpreter runs it, and the
//! printers of the output languages spell it. Deliberately absent: floating point, data-dependent
//! branches, pointers, allocation, recursion, a control-flow graph, an optimiser.
//!
//! Values are computed in four types only ([`Type`]); narrower integers exist in memory alone
//! ([`Elem`]): a load widens, a store narrows, and the checker proves that the narrowing loses nothing.

mod affine;
mod assembly;
mod build;
mod check;
mod expr;
mod interpret;
mod interval;
mod text;
mod vector;

use std::borrow::Cow;

pub use affine::{Affine, Var};
pub use assembly::{Assembly, Dialect, Item};
pub use build::FunctionBuilder;
pub use check::{CheckedProgram, ProgramError};
pub use expr::{Address, Cmp, Expr, Index, Type};
pub use interpret::interpret;
pub use interval::Interval;
pub use vector::{Detection, VectorUnit};

/// The integer type of the elements of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Elem {
    /// Signed, 4 bits, two in a byte: element `i` is in byte `i / 2`, in its low half if `i` is even. Of constants only.
    I4,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 8 bits.
    U8,
    /// Signed, 16 bits.
    I16,
    /// Signed, 32 bits.
    I32,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 64 bits.
    I64,
}

/// A whole model as functions, constant data and a list of calls.
#[derive(Debug, Clone)]
pub struct Program {
    /// Prefix of every symbol; a legal identifier.
    pub name: String,
    /// The caller's input buffers, in the model's order.
    pub inputs: Vec<Signature>,
    /// The caller's output buffers, in the model's order.
    pub outputs: Vec<Signature>,
    /// Size of the working memory in bytes.
    pub arena_bytes: usize,
    /// Constant data.
    pub blobs: Vec<Blob>,
    /// One function for each layer.
    pub functions: Vec<Function>,
    /// What the entry point does, in order.
    pub steps: Vec<Step>,
    /// What it does instead on processors with more vector instructions, the best first.
    pub variants: Vec<Variant>,
}

/// The same inference with other functions, for processors with some vector instructions.
#[derive(Debug, Clone)]
pub struct Variant {
    /// A legal identifier.
    pub name: String,
    /// What the processor must have.
    pub unit: &'static VectorUnit,
    /// What the entry point does, in order.
    pub steps: Vec<Step>,
}

impl Program {
    /// The calls of the program itself, in the order in which they stand.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        calls(&self.steps)
    }

    /// Whether its Rust has `unsafe` blocks: it has functions that safe Rust cannot call, or asks for the variant to call.
    pub fn needs_unsafe(&self) -> bool {
        !self.variants.is_empty() || self.functions.iter().any(Function::needs_unsafe)
    }

    /// The calls of all variants.
    pub fn all_calls(&self) -> impl Iterator<Item = &Call> {
        self.calls().chain(self.variants.iter().flat_map(|variant| calls(&variant.steps)))
    }
}

/// Name, element type and length of a buffer that is passed to a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// A legal identifier, unique in its list.
    pub name: String,
    /// Element type.
    pub elem: Elem,
    /// Number of elements.
    pub len: usize,
}

/// Constant data, printed into the weights file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Identifier without the model's prefix, for example `01_conv1_weights`.
    pub name: String,
    /// One sentence: what the numbers are and in which order.
    pub doc: String,
    /// Element type; every value of `data` fits it.
    pub elem: Elem,
    /// The values.
    pub data: Vec<i64>,
}

impl Blob {
    /// Element type and values as they lie in memory: bytes, where two elements share one.
    pub fn stored(&self) -> (Elem, Cow<'_, [i64]>) {
        if self.elem != Elem::I4 {
            return (self.elem, Cow::Borrowed(&self.data));
        }
        let byte = |pair: &[i64]| 16 * pair.get(1).copied().unwrap_or(0) + (pair[0] & 15);
        (Elem::I8, Cow::Owned(self.data.chunks(2).map(byte).collect()))
    }

    /// Size in memory.
    pub fn bytes(&self) -> usize {
        let (elem, data) = self.stored();
        data.len() * elem.bytes()
    }
}

/// Index into [`Program::blobs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(pub usize);

/// What a function may do with a buffer it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only loads.
    Read,
    /// Only stores; contents on entry are undefined.
    Write,
    /// Loads and stores: the layer works in place.
    ReadWrite,
}

/// A parameter of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// The buffer.
    pub signature: Signature,
    /// What the body does with it.
    pub access: Access,
}

/// A layer as a function over buffers.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Identifier without the model's prefix, for example `01_conv1`.
    pub name: String,
    /// Identifier of the layer it computes, which is the beginning of its constants' names.
    pub layer: String,
    /// Lines of the comment above it: ONNX names, shapes, requantization, bound.
    pub doc: Vec<String>,
    /// Buffers, in the order of the call's arguments.
    pub params: Vec<Param>,
    /// The vector instructions that it calls by name, if it does.
    pub vectors: Option<&'static VectorUnit>,
    /// Names of the loop variables, indexed by [`Var`].
    pub vars: Vec<String>,
    /// Names and types of the registers, indexed by [`Reg`].
    pub regs: Vec<(String, Type)>,
    /// The body.
    pub body: Body,
}

/// How a function computes.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Statements of the loop language.
    Loops(Vec<Stmt>),
    /// Instructions of the target. Such a function has no variables and no registers.
    Assembly(Assembly),
}

impl Function {
    /// The statements; none in a function of assembly.
    pub fn stmts(&self) -> &[Stmt] {
        match &self.body {
            Body::Loops(body) => body,
            Body::Assembly(_) => &[],
        }
    }

    /// Whether safe Rust cannot call it.
    pub fn needs_unsafe(&self) -> bool {
        self.assembly().is_some() || self.vectors.is_some()
    }

    /// The instructions, if it is a function of assembly.
    pub fn assembly(&self) -> Option<&Assembly> {
        match &self.body {
            Body::Loops(_) => None,
            Body::Assembly(assembly) => Some(assembly),
        }
    }
}

/// A scalar local of a function: an index into [`Function::regs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(pub usize);

/// What a load or store refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Buffer {
    /// A parameter of the function.
    Param(usize),
    /// Constant data of the program.
    Blob(BlobId),
}

/// A statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Stmt {
    /// A full-line comment.
    Comment(String),
    /// `for var in 0..count`; `count` is at least 1.
    For {
        /// Bound in `body`, in `0..count`.
        var: Var,
        /// Number of iterations.
        count: i64,
        /// The body.
        body: Vec<Stmt>,
    },
    /// The taps of a sliding window that fall inside an axis of the input:
    /// `for tap in 0..count` with `at = start + tap * dilation`, restricted to `0 <= at < extent`.
    /// In the body `tap` is known to be in `0..count` and `at` in `0..extent`.
    Taps {
        /// Position in the window.
        tap: Var,
        /// Position on the input's axis.
        at: Var,
        /// Input position of tap 0; may lie outside of the axis.
        start: Affine,
        /// Number of taps.
        count: i64,
        /// Distance between taps, at least 1.
        dilation: i64,
        /// Length of the input's axis.
        extent: i64,
        /// The body.
        body: Vec<Stmt>,
    },
    /// Declares an immutable register.
    Let {
        /// Declared here, in scope until the end of the enclosing block.
        reg: Reg,
        /// Its value.
        value: Expr,
    },
    /// Declares a mutable register.
    Mut {
        /// Declared here, in scope until the end of the enclosing block.
        reg: Reg,
        /// Its first value.
        init: Expr,
        /// All values it ever takes, if the builder can prove more than the checker would find by itself.
        /// The interpreter verifies it at every assignment.
        bound: Option<Interval>,
    },
    /// Assigns to a mutable register.
    Set {
        /// The target.
        reg: Reg,
        /// Its new value.
        value: Expr,
    },
    /// `reg += value`, the only statement whose bound grows with the trip count of the loops around it.
    Accumulate {
        /// The accumulator.
        reg: Reg,
        /// What is added.
        value: Expr,
    },
    /// Stores into a parameter; the checker proves that `value` fits the element type.
    Store {
        /// The target; must be writable.
        buffer: Buffer,
        /// Element index.
        index: Affine,
        /// The value.
        value: Expr,
    },
    /// Calls an intrinsic that returns nothing: a store.
    Call {
        /// Its name in C and in Rust.
        intrinsic: String,
        /// Its arguments.
        args: Vec<Expr>,
    },
}

/// Calls that are made one after the other, and all of that `times` times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Number of passes, at least 1.
    pub times: usize,
    /// The calls of a pass.
    pub calls: Vec<Call>,
}

/// The calls of steps, in the order in which they stand.
pub fn calls(steps: &[Step]) -> impl Iterator<Item = &Call> {
    steps.iter().flat_map(|step| &step.calls)
}

/// One call of the entry point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Index into [`Program::functions`].
    pub function: usize,
    /// One argument for each parameter.
    pub args: Vec<Arg>,
}

/// A buffer as the entry point names it: a part of some memory that begins at byte `start`, and with every further pass
/// of the step `advance` bytes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arg {
    /// The memory.
    pub memory: Memory,
    /// The first byte, in the first pass.
    pub start: usize,
    /// Distance between two passes in bytes.
    pub advance: usize,
}

/// Memory that the entry point knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// The caller's input with this index.
    Input(usize),
    /// The caller's output with this index.
    Output(usize),
    /// The working memory.
    Arena,
    /// Constant data used as an operand.
    Blob(BlobId),
}

impl Arg {
    /// The caller's whole input with this index.
    pub fn input(index: usize) -> Arg {
        Arg { memory: Memory::Input(index), start: 0, advance: 0 }
    }

    /// The caller's whole output with this index.
    pub fn output(index: usize) -> Arg {
        Arg { memory: Memory::Output(index), start: 0, advance: 0 }
    }

    /// A part of the working memory.
    pub fn arena(start: usize) -> Arg {
        Arg { memory: Memory::Arena, start, advance: 0 }
    }

    /// Constant data.
    pub fn blob(id: BlobId) -> Arg {
        Arg { memory: Memory::Blob(id), start: 0, advance: 0 }
    }

    /// The first byte in a pass.
    pub fn at(self, pass: usize) -> usize {
        self.start + self.advance * pass
    }
}
