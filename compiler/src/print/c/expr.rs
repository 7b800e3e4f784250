//! Expressions of C.

use std::collections::BTreeSet;

use ptqc_codegen_templates::c::Helper;

use super::c_type;
use super::levels::guard;
use crate::program::{Address, Affine, Buffer, Cmp, Elem, Expr, Function, Index, Program, Stmt, Type};

/// Binding strength of C's operators, as far as they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// `a ? b : c`.
    Conditional,
    /// `a < b`.
    Compare,
    /// `a >> b`.
    Shift,
    /// `a + b`.
    Sum,
    /// `a * b`.
    Product,
    /// `-a`, `(type)a`.
    Prefix,
    /// Names, literals, calls, elements.
    Primary,
}

/// Names of what an expression refers to.
pub trait Names {
    /// A loop variable.
    fn var(&self, var: crate::program::Var) -> &str;
    /// A register.
    fn reg(&self, reg: crate::program::Reg) -> &str;
    /// A buffer.
    fn buffer(&self, buffer: Buffer) -> String;
    /// Type of a buffer's elements.
    fn elem(&self, buffer: Buffer) -> Elem;
    /// Prefix of helper functions.
    fn prefix(&self) -> &str;
}

/// The C type of a value.
pub fn value_type(ty: Type) -> &'static str {
    match ty {
        Type::I32 => "int32_t",
        Type::I64 => "int64_t",
        Type::U32 => "uint32_t",
        Type::U64 => "uint64_t",
        Type::Vector(name) => name,
    }
}

/// A literal.
pub fn literal(ty: Type, value: i64) -> (String, Strength) {
    match ty {
        Type::I32 if value == i64::from(i32::MIN) => ("(-2147483647 - 1)".to_owned(), Strength::Primary),
        Type::I32 if value < 0 => (value.to_string(), Strength::Prefix),
        Type::I32 => (value.to_string(), Strength::Primary),
        Type::I64 if value == i64::MIN => ("(-INT64_C(9223372036854775807) - 1)".to_owned(), Strength::Primary),
        Type::I64 if value < 0 => (format!("-INT64_C({})", -value), Strength::Prefix),
        Type::I64 => (format!("INT64_C({value})"), Strength::Primary),
        Type::U32 => (format!("UINT32_C({value})"), Strength::Primary),
        Type::U64 => (format!("UINT64_C({})", value as u64), Strength::Primary),
        Type::Vector(_) => unreachable!("vectors have no literals"),
    }
}

/// A literal in an array.
pub fn element(elem: Elem, value: i64) -> String {
    match elem {
        Elem::I4 | Elem::I8 | Elem::U8 | Elem::I16 => value.to_string(),
        Elem::I32 => literal(Type::I32, value).0,
        Elem::U32 => literal(Type::U32, value).0,
        Elem::I64 => literal(Type::I64, value).0,
    }
}

/// An expression and how strongly its outermost operator binds.
pub fn print(names: &dyn Names, expr: &Expr) -> (String, Strength) {
    let infix = |a: &Expr, operator: &str, b: &Expr, strength: Strength, strict: bool| {
        let left = at_least(print(names, a), strength);
        let right = if strict { stronger(print(names, b), strength) } else { at_least(print(names, b), strength) };
        (format!("{left} {operator} {right}"), strength)
    };
    match expr {
        Expr::Const(ty, value) => literal(*ty, *value),
        Expr::Reg(reg) => (names.reg(*reg).to_owned(), Strength::Primary),
        Expr::Index(index) => affine(names, index),
        Expr::Load(buffer, Index::Affine(index)) if names.elem(*buffer) == Elem::I4 => {
            (half_byte(names, *buffer, index), Strength::Primary)
        }
        Expr::Load(buffer, index) => {
            let index = match index {
                Index::Affine(index) => affine(names, index).0,
                Index::Value(value) => print(names, value).0,
            };
            (format!("{}[{index}]", names.buffer(*buffer)), Strength::Primary)
        }
        Expr::Add(a, b) => match **b {
            // A negative literal reads better as a subtraction.
            Expr::Const(ty, value) if value < 0 && value != i64::MIN && value != i64::from(i32::MIN) => {
                infix(a, "-", &Expr::Const(ty, -value), Strength::Sum, true)
            }
            _ => infix(a, "+", b, Strength::Sum, false),
        },
        Expr::Sub(a, b) => match **b {
            Expr::Const(ty, value) if value < 0 && value != i64::MIN && value != i64::from(i32::MIN) => {
                infix(a, "+", &Expr::Const(ty, -value), Strength::Sum, false)
            }
            _ => infix(a, "-", b, Strength::Sum, true),
        },
        Expr::Mul(a, b) => infix(a, "*", b, Strength::Product, false),
        Expr::Div(a, b) => infix(a, "/", b, Strength::Product, true),
        Expr::Shr(a, bits) => {
            // Compilers warn about sums under a shift without parentheses.
            (format!("{} >> {bits}", at_least(print(names, a), Strength::Prefix)), Strength::Shift)
        }
        Expr::Cast(ty, a) => {
            (format!("({}){}", value_type(*ty), at_least(print(names, a), Strength::Prefix)), Strength::Prefix)
        }
        Expr::Min(..) | Expr::Max(..) => {
            let (helper, operands) = helper_call(expr);
            let operands: Vec<String> = operands.into_iter().map(|operand| print(names, operand).0).collect();
            (format!("{}_{helper}({})", names.prefix(), operands.join(", ")), Strength::Primary)
        }
        Expr::Select { cmp, a, b, then, otherwise } => {
            let operator = match cmp {
                Cmp::Lt => "<",
                Cmp::Le => "<=",
                Cmp::Eq => "==",
            };
            let side = |side: &Expr| stronger(print(names, side), Strength::Compare);
            let value = |value: &Expr| stronger(print(names, value), Strength::Conditional);
            let text = format!("{} {operator} {} ? {} : {}", side(a), side(b), value(then), value(otherwise));
            (text, Strength::Conditional)
        }
        Expr::Call { intrinsic, args, .. } => (call(names, intrinsic, args), Strength::Primary),
        Expr::Address(it) => (address(names, it), Strength::Primary),
    }
}

/// An element of four bits: the low half of a byte with its sign extended, or the high half.
fn half_byte(names: &dyn Names, buffer: Buffer, index: &Affine) -> String {
    let buffer = names.buffer(buffer);
    let byte = |index: &Affine| format!("{buffer}[{}]", affine(names, index).0);
    match index.halved() {
        Some((index, false)) => format!("((({} & 15) ^ 8) - 8)", byte(&index)),
        Some((index, true)) => format!("({} >> 4)", byte(&index)),
        None => {
            let index = at_least(affine(names, index), Strength::Prefix);
            format!("(((({buffer}[{index} >> 1] >> ({index} % 2 * 4)) & 15) ^ 8) - 8)")
        }
    }
}

/// A call of an intrinsic.
pub fn call(names: &dyn Names, intrinsic: &str, args: &[Expr]) -> String {
    let args: Vec<String> = args.iter().map(|arg| print(names, arg).0).collect();
    format!("{intrinsic}({})", args.join(", "))
}

/// A pointer as an intrinsic wants it. Through `void *`: intrinsics for loads and stores need no alignment.
fn address(names: &dyn Names, address: &Address) -> String {
    let buffer = names.buffer(address.buffer);
    let pointer = match affine(names, &address.index).0.as_str() {
        "0" => buffer,
        index => format!("{buffer} + {}", index.trim_start_matches('+')),
    };
    if address.pointee == "void" || address.pointee == c_type(names.elem(address.buffer)) {
        return pointer;
    }
    let constant = if address.writes { "" } else { "const " };
    let pointer = if pointer.contains(' ') { format!("({pointer})") } else { pointer };
    format!("({constant}{} *)({constant}void *){pointer}", address.pointee)
}

/// An index, with common constants last.
pub fn affine(names: &dyn Names, index: &Affine) -> (String, Strength) {
    let mut text = String::new();
    for (var, &coefficient) in &index.terms {
        let name = names.var(*var);
        let size = coefficient.unsigned_abs();
        let term = if size == 1 { name.to_owned() } else { format!("{name} * {size}") };
        match (text.is_empty(), coefficient < 0) {
            (true, false) => text = term,
            (true, true) => text = format!("-{term}"),
            (false, false) => text += &format!(" + {term}"),
            (false, true) => text += &format!(" - {term}"),
        }
    }
    match (text.is_empty(), index.constant) {
        (true, constant) => text = constant.to_string(),
        (false, 0) => {}
        (false, constant) if constant < 0 => text += &format!(" - {}", -constant),
        (false, constant) => text += &format!(" + {constant}"),
    }
    let simple = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (text, if simple { Strength::Primary } else { Strength::Sum })
}

fn at_least((text, strength): (String, Strength), wanted: Strength) -> String {
    if strength >= wanted { text } else { format!("({text})") }
}

fn stronger((text, strength): (String, Strength), than: Strength) -> String {
    if strength > than { text } else { format!("({text})") }
}

/// The helper for a minimum or maximum and its operands; a minimum of a maximum is a clamp.
fn helper_call(expr: &Expr) -> (String, Vec<&Expr>) {
    let suffix = |ty: Type| value_type(ty).trim_end_matches("_t");
    match expr {
        Expr::Min(a, b) => match (&**a, &**b) {
            (Expr::Max(value, lo), hi @ Expr::Const(ty, _)) if matches!(**lo, Expr::Const(..)) => {
                (format!("clamp_{}", suffix(*ty)), vec![value, lo, hi])
            }
            _ => (format!("min_{}", suffix(common_type(a, b))), vec![a, b]),
        },
        Expr::Max(a, b) => (format!("max_{}", suffix(common_type(a, b))), vec![a, b]),
        _ => unreachable!("only minimum and maximum are helpers"),
    }
}

/// The type of both sides of a minimum or maximum, as far as they say it; registers and loads of which neither says more
/// are `I32`.
fn common_type(a: &Expr, b: &Expr) -> Type {
    stated_type(a).or_else(|| stated_type(b)).unwrap_or(Type::I32)
}

fn stated_type(expr: &Expr) -> Option<Type> {
    match expr {
        Expr::Const(ty, _) | Expr::Cast(ty, _) => Some(*ty),
        Expr::Add(a, b) | Expr::Sub(a, b) | Expr::Mul(a, b) | Expr::Div(a, b) | Expr::Min(a, b) | Expr::Max(a, b) => {
            stated_type(a).or_else(|| stated_type(b))
        }
        Expr::Shr(a, _) => stated_type(a),
        Expr::Select { then, otherwise, .. } => stated_type(then).or_else(|| stated_type(otherwise)),
        Expr::Index(_) => Some(Type::I32),
        Expr::Reg(_) | Expr::Load(..) => None,
        Expr::Call { ty, .. } => Some(*ty),
        Expr::Address(_) => unreachable!("an address is no value"),
    }
}

/// The helpers that a program uses, as functions.
pub fn helpers(program: &Program) -> Vec<Helper> {
    let of_function: Vec<BTreeSet<String>> = program.functions.iter().map(used_helpers).collect();
    let all: BTreeSet<&String> = of_function.iter().flatten().collect();
    let helper = |name: &String| Helper {
        guard: guard(program, |call| of_function[call.function].contains(name)),
        text: helper_function(&program.name, name),
    };
    all.into_iter().map(helper).collect()
}

fn used_helpers(function: &Function) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    function.stmts().iter().for_each(|stmt| collect_stmt(stmt, &mut used));
    used
}

fn helper_function(prefix: &str, helper: &str) -> String {
    let (kind, ty) = helper.split_once('_').unwrap_or((helper, "int32"));
    let ty = format!("{ty}_t");
    let (parameters, body) = match kind {
        "min" => (format!("{ty} a, {ty} b"), "a < b ? a : b"),
        "max" => (format!("{ty} a, {ty} b"), "a > b ? a : b"),
        _ => (format!("{ty} value, {ty} lo, {ty} hi"), "value < lo ? lo : value > hi ? hi : value"),
    };
    format!("static inline {ty} {prefix}_{helper}({parameters}) {{\n  return {body};\n}}")
}

fn collect_stmt(stmt: &Stmt, used: &mut BTreeSet<String>) {
    match stmt {
        Stmt::Comment(_) => {}
        Stmt::For { body, .. } | Stmt::Taps { body, .. } => body.iter().for_each(|stmt| collect_stmt(stmt, used)),
        Stmt::Let { value, .. }
        | Stmt::Set { value, .. }
        | Stmt::Accumulate { value, .. }
        | Stmt::Store { value, .. } => {
            collect(value, used);
        }
        Stmt::Mut { init, .. } => collect(init, used),
        Stmt::Call { args, .. } => args.iter().for_each(|arg| collect(arg, used)),
    }
}

fn collect(expr: &Expr, used: &mut BTreeSet<String>) {
    match expr {
        Expr::Const(..) | Expr::Reg(_) | Expr::Index(_) | Expr::Load(_, Index::Affine(_)) | Expr::Address(_) => {}
        Expr::Call { args, .. } => args.iter().for_each(|arg| collect(arg, used)),
        Expr::Load(_, Index::Value(a)) | Expr::Shr(a, _) | Expr::Cast(_, a) => collect(a, used),
        Expr::Add(a, b) | Expr::Sub(a, b) | Expr::Mul(a, b) | Expr::Div(a, b) => {
            [a, b].into_iter().for_each(|e| collect(e, used))
        }
        Expr::Min(..) | Expr::Max(..) => {
            let (helper, operands) = helper_call(expr);
            used.insert(helper);
            operands.into_iter().for_each(|operand| collect(operand, used));
        }
        Expr::Select { a, b, then, otherwise, .. } => {
            [a, b, then, otherwise].into_iter().for_each(|e| collect(e, used))
        }
    }
}
