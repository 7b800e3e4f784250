//! Expressions: pure, typed, without overflow (the checker proves it).

use super::{Affine, Buffer, Elem, Interval, Reg};

/// The types in which values are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    /// Signed, 32 bits.
    I32,
    /// Signed, 64 bits.
    I64,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 64 bits.
    U64,
    /// A vector, or a mask of one, by its name in C and in Rust: `__m512i`, `int8x16_t`. Only calls compute with it.
    Vector(&'static str),
}

/// How a load finds its element.
#[derive(Debug, Clone, PartialEq)]
pub enum Index {
    /// A function of loop variables.
    Affine(Affine),
    /// A computed value, for table lookups; the checker proves that its interval lies in the buffer.
    Value(Box<Expr>),
}

/// A comparison of two values of one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cmp {
    /// Less than.
    Lt,
    /// Less than or equal.
    Le,
    /// Equal.
    Eq,
}

/// An expression. Both operands of a binary operation have one type, which is the result's.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// A literal.
    Const(Type, i64),
    /// The value of a register.
    Reg(Reg),
    /// The value of an index as `I32`.
    Index(Affine),
    /// An element of a buffer, widened: `I4`, `I8`, `U8`, `I16`, `I32` give `I32`; `U32` gives `U32`; `I64` gives `I64`.
    Load(Buffer, Index),
    /// Sum.
    Add(Box<Expr>, Box<Expr>),
    /// Difference.
    Sub(Box<Expr>, Box<Expr>),
    /// Product.
    Mul(Box<Expr>, Box<Expr>),
    /// Quotient of unsigned values, rounded down; the divisor's interval excludes 0.
    Div(Box<Expr>, Box<Expr>),
    /// Smaller value.
    Min(Box<Expr>, Box<Expr>),
    /// Larger value.
    Max(Box<Expr>, Box<Expr>),
    /// Shift to the right by a constant, arithmetic for signed types (rounds down).
    Shr(Box<Expr>, u32),
    /// Conversion; the value fits the new type.
    Cast(Type, Box<Expr>),
    /// `if a cmp b { then } else { otherwise }`, both computed, no branch intended.
    Select {
        /// The comparison.
        cmp: Cmp,
        /// Left side.
        a: Box<Expr>,
        /// Right side.
        b: Box<Expr>,
        /// Value if it holds.
        then: Box<Expr>,
        /// Value if it does not.
        otherwise: Box<Expr>,
    },
    /// An intrinsic of the function's [`VectorUnit`](super::VectorUnit). Literals stand for immediate operands.
    Call {
        /// Its name in C and in Rust.
        intrinsic: String,
        /// Its arguments; only here can an argument be an address.
        args: Vec<Expr>,
        /// What it returns.
        ty: Type,
        /// All values that it can return; a single 0 for vectors, which are not followed.
        values: Interval,
    },
    /// The address of an element, as an argument of a call.
    Address(Address),
}

/// Elements that an intrinsic loads or stores.
#[derive(Debug, Clone, PartialEq)]
pub struct Address {
    /// Where they are.
    pub buffer: Buffer,
    /// The first.
    pub index: Affine,
    /// How many there are; the checker proves that all are inside of the buffer.
    pub elements: usize,
    /// Whether they are written.
    pub writes: bool,
    /// What C's intrinsic takes a pointer to, for example `__m128i`, `void` or `int8_t`.
    pub pointee: &'static str,
}

impl Elem {
    /// Type of a loaded element.
    pub fn loaded(self) -> Type {
        match self {
            Elem::I4 | Elem::I8 | Elem::U8 | Elem::I16 | Elem::I32 => Type::I32,
            Elem::U32 => Type::U32,
            Elem::I64 => Type::I64,
        }
    }

    /// Size in bytes of the smallest part of memory that holds an element.
    pub fn bytes(self) -> usize {
        match self {
            Elem::I4 | Elem::I8 | Elem::U8 => 1,
            Elem::I16 => 2,
            Elem::I32 | Elem::U32 => 4,
            Elem::I64 => 8,
        }
    }
}

impl Expr {
    /// Its operands.
    pub fn operands(&self) -> Vec<&Expr> {
        match self {
            Expr::Const(..) | Expr::Reg(_) | Expr::Index(_) | Expr::Load(_, Index::Affine(_)) | Expr::Address(_) => {
                vec![]
            }
            Expr::Load(_, Index::Value(a)) | Expr::Shr(a, _) | Expr::Cast(_, a) => vec![a],
            Expr::Add(a, b)
            | Expr::Sub(a, b)
            | Expr::Mul(a, b)
            | Expr::Div(a, b)
            | Expr::Min(a, b)
            | Expr::Max(a, b) => vec![a, b],
            Expr::Select { a, b, then, otherwise, .. } => vec![a, b, then, otherwise],
            Expr::Call { args, .. } => args.iter().collect(),
        }
    }

    /// Its type, from those of registers and the elements of buffers.
    pub fn ty(&self, reg: &dyn Fn(Reg) -> Type, elem: &dyn Fn(Buffer) -> Elem) -> Type {
        match self {
            Expr::Const(ty, _) | Expr::Cast(ty, _) => *ty,
            Expr::Reg(id) => reg(*id),
            Expr::Index(_) => Type::I32,
            Expr::Load(buffer, _) => elem(*buffer).loaded(),
            Expr::Add(a, _)
            | Expr::Sub(a, _)
            | Expr::Mul(a, _)
            | Expr::Div(a, _)
            | Expr::Min(a, _)
            | Expr::Max(a, _)
            | Expr::Shr(a, _) => a.ty(reg, elem),
            Expr::Select { then, .. } => then.ty(reg, elem),
            Expr::Call { ty, .. } => *ty,
            Expr::Address(_) => unreachable!("an address is no value"),
        }
    }

    /// A literal of type `I32`.
    pub fn i32(value: i64) -> Expr {
        Expr::Const(Type::I32, value)
    }

    /// A literal of type `I64`.
    pub fn i64(value: i64) -> Expr {
        Expr::Const(Type::I64, value)
    }

    /// `self + other`.
    #[expect(clippy::should_implement_trait, reason = "builds an expression")]
    pub fn add(self, other: Expr) -> Expr {
        Expr::Add(Box::new(self), Box::new(other))
    }

    /// `self - other`.
    #[expect(clippy::should_implement_trait, reason = "builds an expression")]
    pub fn sub(self, other: Expr) -> Expr {
        Expr::Sub(Box::new(self), Box::new(other))
    }

    /// `self * other`.
    #[expect(clippy::should_implement_trait, reason = "builds an expression")]
    pub fn mul(self, other: Expr) -> Expr {
        Expr::Mul(Box::new(self), Box::new(other))
    }

    /// `self / other`, unsigned.
    #[expect(clippy::should_implement_trait, reason = "builds an expression")]
    pub fn div(self, other: Expr) -> Expr {
        Expr::Div(Box::new(self), Box::new(other))
    }

    /// The smaller of two.
    pub fn min(self, other: Expr) -> Expr {
        Expr::Min(Box::new(self), Box::new(other))
    }

    /// The larger of two.
    pub fn max(self, other: Expr) -> Expr {
        Expr::Max(Box::new(self), Box::new(other))
    }

    /// `self >> bits`, rounding down.
    #[expect(clippy::should_implement_trait, reason = "builds an expression")]
    pub fn shr(self, bits: u32) -> Expr {
        if bits == 0 { self } else { Expr::Shr(Box::new(self), bits) }
    }

    /// `self` in another type.
    pub fn cast(self, ty: Type) -> Expr {
        Expr::Cast(ty, Box::new(self))
    }

    /// `self`, an `I32`, as `ty`.
    pub fn cast_to(self, ty: Type) -> Expr {
        if ty == Type::I32 { self } else { self.cast(ty) }
    }

    /// `if a cmp b { then } else { otherwise }`.
    pub fn select(cmp: Cmp, a: Expr, b: Expr, then: Expr, otherwise: Expr) -> Expr {
        Expr::Select { cmp, a: Box::new(a), b: Box::new(b), then: Box::new(then), otherwise: Box::new(otherwise) }
    }

    /// A call that returns a vector.
    pub fn vector(intrinsic: impl Into<String>, ty: Type, args: Vec<Expr>) -> Expr {
        Expr::Call { intrinsic: intrinsic.into(), args, ty, values: Interval::point(0) }
    }
}
