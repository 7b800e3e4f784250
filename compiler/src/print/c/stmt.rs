//! Statements of C.

use std::collections::{BTreeMap, BTreeSet};

use super::expr::{Names, Strength, affine, print, value_type};
use super::{c_type, comment_line};
use crate::program::{Affine, Buffer, Elem, Expr, Function, Index, Program, Reg, Stmt, Var};

/// The body of a function, indented by two.
pub fn body(program: &Program, function: &Function) -> String {
    let used = function.params.iter().map(|param| param.signature.name.clone()).collect();
    let mut printer = Printer {
        program,
        function,
        vars: BTreeMap::new(),
        regs: BTreeMap::new(),
        ranges: BTreeMap::new(),
        used,
        text: String::new(),
        indent: 1,
    };
    printer.block(&function.body);
    printer.text
}

struct Printer<'a> {
    program: &'a Program,
    function: &'a Function,
    vars: BTreeMap<Var, String>,
    regs: BTreeMap<Reg, String>,
    /// Largest value of each loop variable.
    ranges: BTreeMap<Var, i64>,
    /// Names in scope: shadowing compiles, but reads badly and is warned about.
    used: BTreeSet<String>,
    text: String,
    indent: usize,
}

impl Names for Printer<'_> {
    fn var(&self, var: Var) -> &str {
        &self.vars[&var]
    }

    fn reg(&self, reg: Reg) -> &str {
        &self.regs[&reg]
    }

    fn buffer(&self, buffer: Buffer) -> String {
        match buffer {
            Buffer::Param(index) => self.function.params[index].signature.name.clone(),
            Buffer::Blob(id) => format!("{}_{}", self.program.name, self.program.blobs[id.0].name),
        }
    }

    fn prefix(&self) -> &str {
        &self.program.name
    }
}

impl Printer<'_> {
    /// Statements of one scope.
    fn block(&mut self, body: &[Stmt]) {
        let used = self.used.clone();
        body.iter().for_each(|stmt| self.stmt(stmt));
        self.used = used;
    }

    fn line(&mut self, text: &str) {
        self.text += &format!("{}{text}\n", "  ".repeat(self.indent));
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Comment(text) => self.line(&format!("/* {} */", comment_line(text))),
            Stmt::For { var, count, body } => {
                let name = self.bind_var(*var, *count - 1);
                self.line(&format!("for (int32_t {name} = 0; {name} < {count}; {name}++) {{"));
                self.inner(body);
            }
            Stmt::Taps { tap, at, start, count, dilation, extent, body } => {
                self.taps(*tap, *at, start, (*count, *dilation, *extent), body);
            }
            Stmt::Let { reg, value } => {
                let value = print(self, value).0;
                let (name, ty) = self.bind_reg(*reg);
                self.line(&format!("const {ty} {name} = {value};"));
            }
            Stmt::Mut { reg, init, .. } => {
                let init = print(self, init).0;
                let (name, ty) = self.bind_reg(*reg);
                self.line(&format!("{ty} {name} = {init};"));
            }
            Stmt::Set { reg, value } => {
                let text = format!("{} = {};", self.reg(*reg), print(self, value).0);
                self.line(&text);
            }
            Stmt::Accumulate { reg, value } => {
                let text = format!("{} += {};", self.reg(*reg), print(self, value).0);
                self.line(&text);
            }
            Stmt::Store { buffer, index, value } => {
                let text = format!("{}[{}] = {};", self.buffer(*buffer), affine(self, index).0, self.narrowed(*buffer, value));
                self.line(&text);
            }
        }
    }

    fn inner(&mut self, body: &[Stmt]) {
        self.indent += 1;
        self.block(body);
        self.indent -= 1;
        self.line("}");
    }

    /// A window's taps between the two ends of the input's axis. Comparisons that always hold are left out.
    fn taps(&mut self, tap: Var, at: Var, start: &Affine, (count, dilation, extent): (i64, i64, i64), body: &[Stmt]) {
        let (lowest, highest) = self.interval(start);
        let at_name = self.fresh(&self.function.vars[at.0].clone());
        let origin = self.fresh(&format!("{at_name}_0"));
        let start_text = affine(self, start).0;
        self.line(&format!("const int32_t {origin} = {start_text};"));
        let tap_name = self.bind_var(tap, count - 1);
        let first = match (lowest < 0, dilation) {
            (false, _) => "0".to_owned(),
            (true, 1) => format!("{origin} < 0 ? -{origin} : 0"),
            (true, d) => format!("{origin} < 0 ? ({} - {origin}) / {d} : 0", d - 1),
        };
        let end = if highest + (count - 1) * dilation < extent {
            count.to_string()
        } else {
            let end_name = self.fresh(&format!("{tap_name}_end"));
            let limit = extent - count * dilation;
            let reached = if dilation == 1 { format!("{extent} - {origin}") } else { format!("({} - {origin}) / {dilation}", extent + dilation - 1) };
            self.line(&format!("const int32_t {end_name} = {origin} > {limit} ? {reached} : {count};"));
            end_name
        };
        self.line(&format!("for (int32_t {tap_name} = {first}; {tap_name} < {end}; {tap_name}++) {{"));
        self.vars.insert(at, at_name.clone());
        self.ranges.insert(at, extent - 1);
        if body.iter().any(|stmt| uses(stmt, at)) {
            let step = if dilation == 1 { tap_name } else { format!("{tap_name} * {dilation}") };
            self.indent += 1;
            self.line(&format!("const int32_t {at_name} = {origin} + {step};"));
            self.indent -= 1;
        }
        self.inner(body);
    }

    /// Smallest and largest value of an index.
    fn interval(&self, index: &Affine) -> (i64, i64) {
        index.terms.iter().fold((index.constant, index.constant), |(lo, hi), (var, &coefficient)| {
            let end = self.ranges[var] * coefficient;
            (lo + end.min(0), hi + end.max(0))
        })
    }

    fn bind_var(&mut self, var: Var, largest: i64) -> String {
        let name = self.fresh(&self.function.vars[var.0].clone());
        self.vars.insert(var, name.clone());
        self.ranges.insert(var, largest);
        name
    }

    fn bind_reg(&mut self, reg: Reg) -> (String, &'static str) {
        let (wanted, ty) = self.function.regs[reg.0].clone();
        let name = self.fresh(&wanted);
        self.regs.insert(reg, name.clone());
        (name, value_type(ty))
    }

    fn fresh(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut number = 2;
        while !self.used.insert(name.clone()) {
            name = format!("{wanted}{number}");
            number += 1;
        }
        name
    }

    /// A value for an element: with a cast, unless it has the element's type already.
    fn narrowed(&self, buffer: Buffer, value: &Expr) -> String {
        let elem = |buffer: Buffer| match buffer {
            Buffer::Param(index) => self.function.params[index].signature.elem,
            Buffer::Blob(id) => self.program.blobs[id.0].elem,
        };
        let target = elem(buffer);
        // A cast to the type that follows another cast says the same twice.
        let value = match value {
            Expr::Cast(_, inner) if matches!(target, Elem::I8 | Elem::U8 | Elem::I16) => inner,
            other => other,
        };
        let (text, strength) = print(self, value);
        let plain = match value {
            Expr::Load(source, Index::Affine(_) | Index::Value(_)) => elem(*source) == target,
            Expr::Const(..) => true,
            _ => !matches!(target, Elem::I8 | Elem::U8 | Elem::I16),
        };
        match plain {
            true => text,
            false if strength >= Strength::Prefix => format!("({}){text}", c_type(target)),
            false => format!("({})({text})", c_type(target)),
        }
    }
}

/// Whether a statement refers to a variable.
fn uses(stmt: &Stmt, var: Var) -> bool {
    let in_index = |index: &Affine| index.terms.contains_key(&var);
    match stmt {
        Stmt::Comment(_) => false,
        Stmt::For { body, .. } => body.iter().any(|stmt| uses(stmt, var)),
        Stmt::Taps { start, body, .. } => in_index(start) || body.iter().any(|stmt| uses(stmt, var)),
        Stmt::Let { value, .. } | Stmt::Set { value, .. } | Stmt::Accumulate { value, .. } => expr_uses(value, var),
        Stmt::Mut { init, .. } => expr_uses(init, var),
        Stmt::Store { index, value, .. } => in_index(index) || expr_uses(value, var),
    }
}

fn expr_uses(expr: &Expr, var: Var) -> bool {
    match expr {
        Expr::Const(..) | Expr::Reg(_) => false,
        Expr::Index(index) | Expr::Load(_, Index::Affine(index)) => index.terms.contains_key(&var),
        Expr::Load(_, Index::Value(a)) | Expr::Shr(a, _) | Expr::Cast(_, a) => expr_uses(a, var),
        Expr::Add(a, b) | Expr::Sub(a, b) | Expr::Mul(a, b) | Expr::Div(a, b) | Expr::Min(a, b) | Expr::Max(a, b) => {
            expr_uses(a, var) || expr_uses(b, var)
        }
        Expr::Select { a, b, then, otherwise, .. } => [a, b, then, otherwise].into_iter().any(|e| expr_uses(e, var)),
    }
}
