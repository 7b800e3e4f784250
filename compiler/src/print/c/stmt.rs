//! Statements of C.

use super::super::common::{Scope, uses_var};
use super::expr::{Names, Strength, affine, call, print, value_type};
use super::{c_type, comment_line};
use crate::program::{Affine, Buffer, Elem, Expr, Function, Index, Program, Reg, Stmt, Var};

/// The body of a function, indented by two.
pub fn body(program: &Program, function: &Function) -> String {
    let mut printer = Printer { scope: Scope::new(program, function), text: String::new(), indent: 1 };
    printer.block(function.stmts());
    printer.text
}

struct Printer<'a> {
    scope: Scope<'a>,
    text: String,
    indent: usize,
}

impl Names for Printer<'_> {
    fn var(&self, var: Var) -> &str {
        self.scope.var(var)
    }

    fn reg(&self, reg: Reg) -> &str {
        self.scope.reg(reg)
    }

    fn buffer(&self, buffer: Buffer) -> String {
        match buffer {
            Buffer::Param(index) => self.scope.function.params[index].signature.name.clone(),
            Buffer::Blob(id) => format!("{}_{}", self.scope.program.name, self.scope.program.blobs[id.0].name),
        }
    }

    fn elem(&self, buffer: Buffer) -> Elem {
        self.scope.extent(buffer).0
    }

    fn prefix(&self) -> &str {
        &self.scope.program.name
    }
}

impl Printer<'_> {
    /// Statements of one scope.
    fn block(&mut self, body: &[Stmt]) {
        let used = self.scope.enter();
        body.iter().for_each(|stmt| self.stmt(stmt));
        self.scope.leave(used);
    }

    fn line(&mut self, text: &str) {
        self.text += &format!("{}{text}\n", "  ".repeat(self.indent));
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Comment(text) => self.line(&format!("/* {} */", comment_line(text))),
            Stmt::For { var, count, body } => {
                // The variable ends with its loop: the next loop may have the same.
                let used = self.scope.enter();
                let name = self.scope.bind_var(*var, *count - 1);
                self.line(&format!("for (int32_t {name} = 0; {name} < {count}; {name}++) {{"));
                self.inner(body);
                self.scope.leave(used);
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
                let mut text = format!("{} = {};", self.reg(*reg), print(self, value).0);
                if !self.scope.function.regs[reg.0].1.is_scalar() {
                    text += &format!(" {}_KEEP({});", self.prefix().to_uppercase(), self.reg(*reg));
                }
                self.line(&text);
            }
            Stmt::Accumulate { reg, value } => {
                let text = format!("{} += {};", self.reg(*reg), print(self, value).0);
                self.line(&text);
            }
            Stmt::Store { buffer, index, value } => {
                let text =
                    format!("{}[{}] = {};", self.buffer(*buffer), affine(self, index).0, self.narrowed(*buffer, value));
                self.line(&text);
            }
            Stmt::Call { intrinsic, args } => {
                let text = format!("{};", call(self, intrinsic, args));
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
        let (lowest, highest) = self.scope.interval(start);
        let at_name = self.scope.fresh(&self.scope.function.vars[at.0].clone());
        let origin = self.scope.fresh(&format!("{at_name}_0"));
        let start_text = affine(self, start).0;
        self.line(&format!("const int32_t {origin} = {start_text};"));
        let tap_name = self.scope.bind_var(tap, count - 1);
        let first = match (lowest < 0, dilation) {
            (false, _) => "0".to_owned(),
            (true, 1) => format!("{origin} < 0 ? -{origin} : 0"),
            (true, d) => format!("{origin} < 0 ? ({} - {origin}) / {d} : 0", d - 1),
        };
        let end = if highest + (count - 1) * dilation < extent {
            count.to_string()
        } else {
            let end_name = self.scope.fresh(&format!("{tap_name}_end"));
            let limit = extent - count * dilation;
            let reached = if dilation == 1 {
                format!("{extent} - {origin}")
            } else {
                format!("({} - {origin}) / {dilation}", extent + dilation - 1)
            };
            self.line(&format!("const int32_t {end_name} = {origin} > {limit} ? {reached} : {count};"));
            end_name
        };
        self.line(&format!("for (int32_t {tap_name} = {first}; {tap_name} < {end}; {tap_name}++) {{"));
        self.scope.bind_var_as(at, at_name.clone(), extent - 1);
        if uses_var(body, at) {
            let step = if dilation == 1 { tap_name } else { format!("{tap_name} * {dilation}") };
            self.indent += 1;
            self.line(&format!("const int32_t {at_name} = {origin} + {step};"));
            self.indent -= 1;
        }
        self.inner(body);
    }

    fn bind_reg(&mut self, reg: Reg) -> (String, &'static str) {
        let (wanted, ty) = &self.scope.function.regs[reg.0];
        (self.scope.bind_reg(reg, wanted), value_type(*ty))
    }

    /// A value for an element: with a cast, unless it has the element's type already.
    fn narrowed(&self, buffer: Buffer, value: &Expr) -> String {
        let elem = |buffer: Buffer| self.scope.extent(buffer).0;
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
