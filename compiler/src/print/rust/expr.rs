//! Expressions of Rust.
//!
//! They are built as text, spaced as rustfmt spaces them, so that the width of a line is known before it is made.

use std::collections::BTreeSet;

use super::super::c::c_type;
use super::super::common::{Scope, type_of};
use crate::program::{Address, Affine, Buffer, Cmp, Elem, Expr, Index, Interval, Type, Var};

/// Binding strength of Rust's operators, as far as they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// `a < b`.
    Compare,
    /// `a >> b`.
    Shift,
    /// `a + b`.
    Sum,
    /// `a * b`.
    Product,
    /// `a as ty`.
    Cast,
    /// `-a`.
    Prefix,
    /// Names, literals, calls, elements.
    Primary,
}

/// Buffers whose elements are arrays of bytes: parts of the arena that hold wider integers.
pub type Packed = BTreeSet<Buffer>;

/// What expressions refer to.
#[derive(Debug, Clone)]
pub struct Names<'a> {
    /// Variables and registers.
    pub scope: Scope<'a>,
    /// Local names of constants, in the order of [`crate::program::Program::blobs`].
    pub blobs: Vec<String>,
    /// Buffers of bytes.
    pub packed: Packed,
}

impl Names<'_> {
    /// A buffer's name.
    pub fn buffer(&self, buffer: Buffer) -> &str {
        match buffer {
            Buffer::Param(index) => &self.scope.function.params[index].signature.name,
            Buffer::Blob(id) => &self.blobs[id.0],
        }
    }
}

/// The type of an element in memory.
pub fn elem_type(elem: Elem) -> &'static str {
    match elem {
        Elem::I4 | Elem::I8 => "i8",
        Elem::U8 => "u8",
        Elem::I16 => "i16",
        Elem::I32 => "i32",
        Elem::U32 => "u32",
        Elem::I64 => "i64",
    }
}

/// The type of a value.
pub fn value_type(ty: Type) -> &'static str {
    match ty {
        Type::I32 => "i32",
        Type::I64 => "i64",
        Type::U32 => "u32",
        Type::U64 => "u64",
        Type::Vector(name) => name,
    }
}

/// A number; long ones with separators.
pub fn number(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let sign = if value < 0 { "-" } else { "" };
    if digits.len() < 6 {
        return format!("{sign}{digits}");
    }
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('_');
        }
        text.push(digit);
    }
    format!("{sign}{text}")
}

/// An expression and how strongly its outermost operator binds.
pub fn print(names: &Names, expr: &Expr) -> (String, Strength) {
    match expr {
        Expr::Const(_, value) => literal(*value),
        Expr::Reg(reg) => (names.scope.reg(*reg).to_owned(), Strength::Primary),
        Expr::Index(index) => index_value(names, index),
        Expr::Load(buffer, index) => load(names, *buffer, index),
        // What changes nothing is left out.
        Expr::Add(a, b) if is_number(a, 0) => print(names, b),
        Expr::Add(a, b) | Expr::Sub(a, b) if is_number(b, 0) => print(names, a),
        Expr::Mul(a, b) if is_number(b, 1) => print(names, a),
        Expr::Mul(a, b) if is_number(a, 1) => print(names, b),
        Expr::Mul(a, b) if is_number(b, -1) => {
            (format!("-{}", at_least(print(names, a), Strength::Prefix)), Strength::Prefix)
        }
        Expr::Add(a, b) => match **b {
            // A negative literal reads better as a subtraction.
            Expr::Const(ty, value) if value < 0 && value != i64::MIN => {
                infix(names, a, "-", &Expr::Const(ty, -value), Strength::Sum, true)
            }
            _ => infix(names, a, "+", b, Strength::Sum, false),
        },
        Expr::Sub(a, b) => match **b {
            Expr::Const(ty, value) if value < 0 && value != i64::MIN => {
                infix(names, a, "+", &Expr::Const(ty, -value), Strength::Sum, false)
            }
            _ => infix(names, a, "-", b, Strength::Sum, true),
        },
        Expr::Mul(a, b) => infix(names, a, "*", b, Strength::Product, false),
        Expr::Div(a, b) => infix(names, a, "/", b, Strength::Product, true),
        // Sums under a shift are legal without parentheses, but few readers know.
        Expr::Shr(a, bits) => (format!("{} >> {bits}", at_least(print(names, a), Strength::Prefix)), Strength::Shift),
        Expr::Cast(ty, a) => cast(names, *ty, a),
        Expr::Min(..) | Expr::Max(..) => (extremum(names, expr), Strength::Primary),
        Expr::Select { cmp, a, b, then, otherwise } => {
            let operator = match cmp {
                Cmp::Lt => "<",
                Cmp::Le => "<=",
                Cmp::Eq => "==",
            };
            // After `as i32`, `<` would begin a list of types.
            let left = stronger(print(names, a), Strength::Cast);
            let right = stronger(print(names, b), Strength::Compare);
            let (then, otherwise) = (print(names, then).0, print(names, otherwise).0);
            (format!("select({left} {operator} {right}, {then}, {otherwise})"), Strength::Primary)
        }
        Expr::Call { intrinsic, args, .. } => (call(names, intrinsic, args), Strength::Primary),
        Expr::Address(it) => (address(names, it), Strength::Primary),
    }
}

/// A call of an intrinsic.
pub fn call(names: &Names, intrinsic: &str, args: &[Expr]) -> String {
    let args: Vec<String> = args.iter().map(|arg| argument(names, arg)).collect();
    format!("{intrinsic}({})", args.join(", "))
}

/// An argument, without parentheses around it.
fn argument(names: &Names, value: &Expr) -> String {
    match value {
        Expr::Const(_, value) => literal(*value).0.trim_matches(['(', ')']).to_owned(),
        _ => print(names, value).0,
    }
}

/// A pointer as an intrinsic wants it.
fn address(names: &Names, address: &Address) -> String {
    let method = if address.writes { "as_mut_ptr" } else { "as_ptr" };
    let offset = match position(names, &address.index).as_str() {
        "0" => String::new(),
        position => format!(".add({position})"),
    };
    let same =
        address.pointee == c_type(names.scope.extent(address.buffer).0) && !names.packed.contains(&address.buffer);
    let cast = if same { "" } else { ".cast()" };
    format!("{}.{method}(){offset}{cast}", names.buffer(address.buffer))
}

fn is_number(expr: &Expr, wanted: i64) -> bool {
    match expr {
        Expr::Const(_, value) => *value == wanted,
        Expr::Index(index) => index.terms.is_empty() && index.constant == wanted,
        _ => false,
    }
}

fn literal(value: i64) -> (String, Strength) {
    if value >= 1 << 16 && value.count_ones() == 1 {
        return (format!("1 << {}", value.trailing_zeros()), Strength::Shift);
    }
    (number(value), if value < 0 { Strength::Prefix } else { Strength::Primary })
}

fn infix(names: &Names, a: &Expr, operator: &str, b: &Expr, strength: Strength, strict: bool) -> (String, Strength) {
    let left = at_least(print(names, a), strength);
    let right = if strict { stronger(print(names, b), strength) } else { at_least(print(names, b), strength) };
    (format!("{left} {operator} {right}"), strength)
}

/// A conversion that loses nothing is `From`, any other has been proven to fit.
fn cast(names: &Names, ty: Type, a: &Expr) -> (String, Strength) {
    let from = type_of(&names.scope, a);
    if from == ty {
        return print(names, a);
    }
    if let Expr::Const(..) = a {
        return print(names, a);
    }
    match (from, ty) {
        (Type::I32 | Type::U32, Type::I64) | (Type::U32, Type::U64) => {
            let inner = match a {
                // One conversion instead of two.
                Expr::Load(buffer, index) => element(names, *buffer, index),
                _ => print(names, a).0,
            };
            (format!("{}::from({inner})", value_type(ty)), Strength::Primary)
        }
        _ => (format!("{} as {}", at_least(print(names, a), Strength::Cast), value_type(ty)), Strength::Cast),
    }
}

fn load(names: &Names, buffer: Buffer, index: &Index) -> (String, Strength) {
    if let (Elem::I4, Index::Affine(index)) = (names.scope.extent(buffer).0, index) {
        return (half_byte(names, buffer, index), Strength::Primary);
    }
    let element = element(names, buffer, index);
    match names.scope.extent(buffer).0 {
        Elem::I4 | Elem::I8 | Elem::U8 | Elem::I16 => (format!("i32::from({element})"), Strength::Primary),
        Elem::I32 | Elem::U32 | Elem::I64 => (element, Strength::Primary),
    }
}

/// An element of four bits: the low half of a byte with its sign extended, or the high half.
fn half_byte(names: &Names, buffer: Buffer, index: &Affine) -> String {
    let buffer = names.buffer(buffer);
    let byte = |index: &Affine| format!("{buffer}[{}]", position(names, index));
    match index.halved() {
        Some((index, false)) => format!("i32::from({} << 4 >> 4)", byte(&index)),
        Some((index, true)) => format!("i32::from({} >> 4)", byte(&index)),
        None => {
            let index = position(names, index);
            format!("i32::from({buffer}[({index}) / 2] << (4 - ({index}) % 2 * 4) >> 4)")
        }
    }
}

/// An element as it is in memory.
pub fn element(names: &Names, buffer: Buffer, index: &Index) -> String {
    let (elem, len) = names.scope.extent(buffer);
    let index = match index {
        Index::Affine(index) => position(names, index),
        Index::Value(value) => lookup_index(names, value, len),
    };
    let element = format!("{}[{index}]", names.buffer(buffer));
    match names.packed.contains(&buffer) {
        true => format!("{}({element})", loader(elem)),
        false => element,
    }
}

/// The helper that reads an element from bytes.
pub fn loader(elem: Elem) -> String {
    format!("load_{}", elem_type(elem))
}

/// A computed index. The program's checker has proven that it lies inside; where rustc could not see that from the
/// expression alone, it is told once more.
fn lookup_index(names: &Names, value: &Expr, len: usize) -> String {
    let text = at_least(print(names, value), Strength::Cast);
    if text.parse::<usize>().is_ok() {
        return text;
    }
    let visible = visible(names, value);
    if visible.lo >= 0 && visible.hi < len as i128 {
        format!("{text} as usize")
    } else {
        format!("({text} as usize).min({})", len - 1)
    }
}

/// The values of an expression as its own text shows them, without knowledge about registers and constants.
fn visible(names: &Names, expr: &Expr) -> Interval {
    let pair = |a: &Expr, b: &Expr| (visible(names, a), visible(names, b));
    match expr {
        Expr::Const(_, value) => Interval::point(*value),
        Expr::Index(index) => {
            let (lo, hi) = names.scope.interval(index);
            Interval::new(lo, hi)
        }
        Expr::Load(buffer, _) => names.scope.extent(*buffer).0.interval(),
        Expr::Add(a, b) => {
            let (a, b) = pair(a, b);
            Interval::new(a.lo + b.lo, a.hi + b.hi)
        }
        Expr::Sub(a, b) => {
            let (a, b) = pair(a, b);
            Interval::new(a.lo - b.hi, a.hi - b.lo)
        }
        Expr::Shr(a, bits) => {
            let a = visible(names, a);
            Interval::new(a.lo >> bits, a.hi >> bits)
        }
        Expr::Min(a, b) => {
            let (a, b) = pair(a, b);
            Interval::new(a.lo.min(b.lo), a.hi.min(b.hi))
        }
        Expr::Max(a, b) => {
            let (a, b) = pair(a, b);
            Interval::new(a.lo.max(b.lo), a.hi.max(b.hi))
        }
        Expr::Cast(_, a) => visible(names, a),
        Expr::Select { then, otherwise, .. } => {
            let (a, b) = pair(then, otherwise);
            a.hull(b)
        }
        Expr::Reg(_) | Expr::Mul(..) | Expr::Div(..) | Expr::Call { .. } => type_of(&names.scope, expr).interval(),
        Expr::Address(_) => unreachable!("an address is no value"),
    }
}

/// A minimum or maximum as a method; a minimum of a maximum is a clamp.
fn extremum(names: &Names, expr: &Expr) -> String {
    let receiver = |value: &Expr| match value {
        Expr::Const(ty, value) => format!("{}_{}", at_least(literal(*value), Strength::Primary), value_type(*ty)),
        _ => at_least(print(names, value), Strength::Primary),
    };
    let argument = |value: &Expr| argument(names, value);
    match expr {
        Expr::Min(a, b) => match (&**a, &**b) {
            (Expr::Max(value, lo), Expr::Const(_, hi)) if matches!(**lo, Expr::Const(_, lo) if lo <= *hi) => {
                format!("{}.clamp({}, {})", receiver(value), argument(lo), argument(b))
            }
            _ => format!("{}.min({})", receiver(a), argument(b)),
        },
        Expr::Max(a, b) => format!("{}.max({})", receiver(a), argument(b)),
        _ => unreachable!("only minimum and maximum are methods"),
    }
}

/// A position in a buffer, of type `usize`. What is subtracted stands last, so that no part is negative.
pub fn position(names: &Names, index: &Affine) -> String {
    affine(index, &|var| names.scope.var(var).to_owned())
}

/// An index as `I32`.
fn index_value(names: &Names, index: &Affine) -> (String, Strength) {
    if index.terms.is_empty() {
        return literal(index.constant);
    }
    if names.scope.interval(index).0 < 0 {
        return (affine(index, &|var| format!("{} as i32", names.scope.var(var))), Strength::Sum);
    }
    let text = position(names, index);
    let simple = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (if simple { format!("{text} as i32") } else { format!("({text}) as i32") }, Strength::Cast)
}

/// A sum of products; positive terms first.
fn affine(index: &Affine, name: &dyn Fn(Var) -> String) -> String {
    let (added, subtracted) = halves(index);
    let added = terms(&added, name);
    let subtracted = terms(&subtracted, name).into_iter().map(|term| format!(" - {term}"));
    let added = if added.is_empty() { "0".to_owned() } else { added.join(" + ") };
    added + &subtracted.collect::<String>()
}

/// An index as the difference of two without negative coefficients.
pub fn halves(index: &Affine) -> (Affine, Affine) {
    let half = |sign: i64| Affine {
        constant: (index.constant * sign).max(0),
        terms: index.terms.iter().map(|(&var, &c)| (var, c * sign)).filter(|(_, c)| *c > 0).collect(),
    };
    (half(1), half(-1))
}

fn terms(index: &Affine, name: &dyn Fn(Var) -> String) -> Vec<String> {
    let term = |(var, &coefficient): (&Var, &i64)| match coefficient {
        1 => name(*var),
        _ => format!("{} * {}", name(*var), number(coefficient)),
    };
    let constant = (index.constant != 0).then(|| number(index.constant));
    index.terms.iter().map(term).chain(constant).collect()
}

/// With parentheses if it binds less than wanted.
pub fn at_least((text, strength): (String, Strength), wanted: Strength) -> String {
    if strength >= wanted { text } else { format!("({text})") }
}

fn stronger((text, strength): (String, Strength), than: Strength) -> String {
    if strength > than { text } else { format!("({text})") }
}
