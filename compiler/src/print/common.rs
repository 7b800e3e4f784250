//! What the printers of all languages share: names in scope, lines of numbers, plain text for comments.

use std::collections::{BTreeMap, BTreeSet};

use crate::program::{Address, Affine, Buffer, Elem, Expr, Function, Index, Program, Reg, Signature, Stmt, Type, Var};

/// Names that are visible at a place of a function, and what is known of them.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    /// The program.
    pub program: &'a Program,
    /// The function.
    pub function: &'a Function,
    vars: BTreeMap<Var, String>,
    regs: BTreeMap<Reg, String>,
    /// Types of all registers: the function's, then those of a printer.
    types: Vec<Type>,
    /// Number of positions that a printer has named.
    positions: usize,
    /// Largest value of each loop variable.
    largest: BTreeMap<Var, i64>,
    /// Shadowing compiles, but reads badly and is warned about.
    used: BTreeSet<String>,
}

impl<'a> Scope<'a> {
    /// The parameters of a function.
    pub fn new(program: &'a Program, function: &'a Function) -> Self {
        let used = function.params.iter().map(|param| param.signature.name.clone()).collect();
        let types = function.regs.iter().map(|(_, ty)| *ty).collect();
        Scope {
            program,
            function,
            vars: BTreeMap::new(),
            regs: BTreeMap::new(),
            types,
            positions: 0,
            largest: BTreeMap::new(),
            used,
        }
    }

    /// A loop variable.
    pub fn var(&self, var: Var) -> &str {
        &self.vars[&var]
    }

    /// A register.
    pub fn reg(&self, reg: Reg) -> &str {
        &self.regs[&reg]
    }

    /// Names the loop variable, whose values are `0..=largest`.
    pub fn bind_var(&mut self, var: Var, largest: i64) -> String {
        let name = self.fresh(&self.function.vars[var.0].clone());
        self.bind_var_as(var, name.clone(), largest);
        name
    }

    /// Gives the loop variable a name that is known to be free.
    pub fn bind_var_as(&mut self, var: Var, name: String, largest: i64) {
        self.vars.insert(var, name);
        self.largest.insert(var, largest);
    }

    /// Names the register.
    pub fn bind_reg(&mut self, reg: Reg, wanted: &str) -> String {
        let name = self.fresh(wanted);
        self.regs.insert(reg, name.clone());
        name
    }

    /// A register that the function does not have, for a part of an expression.
    pub fn new_reg(&mut self, ty: Type) -> Reg {
        self.types.push(ty);
        Reg(self.types.len() - 1)
    }

    /// Names a position that the function does not name; its values are those of `index`.
    pub fn bind_position(&mut self, index: &Affine, wanted: &str) -> (Var, String) {
        let (_, largest) = self.interval(index);
        let var = Var(self.function.vars.len() + self.positions);
        self.positions += 1;
        let name = self.fresh(wanted);
        self.bind_var_as(var, name.clone(), largest);
        (var, name)
    }

    /// `wanted`, or with a number behind it if that is taken; taken from now on.
    pub fn fresh(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut number = 2;
        while !self.used.insert(name.clone()) {
            name = format!("{wanted}{number}");
            number += 1;
        }
        name
    }

    /// The names that are taken; for [`Scope::leave`].
    pub fn enter(&self) -> BTreeSet<String> {
        self.used.clone()
    }

    /// Gives back names that have been taken since.
    pub fn leave(&mut self, used: BTreeSet<String>) {
        self.used = used;
    }

    /// Smallest and largest value of an index.
    pub fn interval(&self, index: &Affine) -> (i64, i64) {
        index.terms.iter().fold((index.constant, index.constant), |(lo, hi), (var, &coefficient)| {
            let end = self.largest[var] * coefficient;
            (lo + end.min(0), hi + end.max(0))
        })
    }

    /// Element type and length of a buffer.
    pub fn extent(&self, buffer: Buffer) -> (Elem, usize) {
        match buffer {
            Buffer::Param(index) => {
                let Signature { elem, len, .. } = self.function.params[index].signature;
                (elem, len)
            }
            Buffer::Blob(id) => {
                let blob = &self.program.blobs[id.0];
                (blob.elem, blob.data.len())
            }
        }
    }
}

/// The functions of assembly of a program: those of equal text are one, named after their kernel.
#[derive(Debug, Default)]
pub struct KernelNames<'a> {
    /// Name, and the function whose text it is, in the order of the calls.
    pub kernels: Vec<(String, &'a Function)>,
    /// For each function of the program, its kernel.
    by_function: BTreeMap<usize, usize>,
}

impl<'a> KernelNames<'a> {
    /// Finds the kernels of a program.
    pub fn of(program: &'a Program) -> Self {
        let mut names = KernelNames::default();
        let mut used = BTreeSet::new();
        for call in program.all_calls() {
            let function = &program.functions[call.function];
            let Some(assembly) = function.assembly() else { continue };
            let known = names.kernels.iter().position(|(_, other)| same_text(function, other));
            let index = known.unwrap_or_else(|| {
                let numbered = (2..).map(|number| format!("{}_{number}", assembly.kernel));
                let mut candidates = std::iter::once(assembly.kernel.clone()).chain(numbered);
                let name = candidates.find(|name| used.insert(name.clone())).expect("there is always another number");
                names.kernels.push((name, function));
                names.kernels.len() - 1
            });
            names.by_function.insert(call.function, index);
        }
        names
    }

    /// The kernel of a function of assembly.
    pub fn name(&self, function: usize) -> Option<&str> {
        Some(&self.kernels[*self.by_function.get(&function)?].0)
    }
}

/// Whether two functions of assembly print the same.
fn same_text(a: &Function, b: &Function) -> bool {
    let types = |f: &Function| f.params.iter().map(|p| (p.signature.elem, p.access)).collect::<Vec<_>>();
    let text = |f: &Function| f.assembly().map(|a| (a.kernel.clone(), a.doc.clone(), a.lines()));
    types(a) == types(b) && text(a) == text(b)
}

/// Values in lines that are not longer than `width`.
pub fn number_lines(values: &[i64], width: usize, element: impl Fn(i64) -> String) -> Vec<String> {
    let mut lines = vec![];
    let mut line = String::new();
    for &value in values {
        let number = element(value) + ",";
        if !line.is_empty() && line.len() + 1 + number.len() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += &number;
    }
    lines.push(line.trim_end_matches(',').to_owned());
    lines
}

/// Text of the model that cannot draw on a terminal or end a line.
pub fn plain_text(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || !c.is_ascii() { '?' } else { c }).collect()
}

/// Lines of a comment, wrapped where there are spaces; what continues a line is indented.
pub fn wrapped(lines: impl Iterator<Item = String>, width: usize) -> Vec<String> {
    let options = textwrap::Options::new(width).subsequent_indent("  ").break_words(false);
    let options = options.word_splitter(textwrap::WordSplitter::NoHyphenation);
    lines.flat_map(|line| textwrap::wrap(&line, &options).into_iter().map(String::from).collect::<Vec<_>>()).collect()
}

/// Whether a block refers to a variable.
pub fn uses_var(body: &[Stmt], var: Var) -> bool {
    let in_index = |index: &Affine| index.terms.contains_key(&var);
    any_expr(body, &in_index, &|expr| match expr {
        Expr::Index(index) | Expr::Load(_, Index::Affine(index)) | Expr::Address(Address { index, .. }) => {
            in_index(index)
        }
        _ => false,
    })
}

/// Whether a block loads from or stores into a buffer.
pub fn uses_buffer(body: &[Stmt], buffer: Buffer) -> bool {
    let stores = body.iter().any(|stmt| match stmt {
        Stmt::Store { buffer: target, .. } => *target == buffer,
        Stmt::For { body, .. } | Stmt::Taps { body, .. } => uses_buffer(body, buffer),
        Stmt::Comment(_)
        | Stmt::Let { .. }
        | Stmt::Mut { .. }
        | Stmt::Set { .. }
        | Stmt::Accumulate { .. }
        | Stmt::Call { .. } => false,
    });
    let refers = |expr: &Expr| match expr {
        Expr::Load(source, _) | Expr::Address(Address { buffer: source, .. }) => *source == buffer,
        _ => false,
    };
    stores || any_expr(body, &|_| false, &refers)
}

/// Whether some index or expression in a block has a property.
pub fn any_expr(body: &[Stmt], index_is: &dyn Fn(&Affine) -> bool, expr_is: &dyn Fn(&Expr) -> bool) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Comment(_) => false,
        Stmt::For { body, .. } => any_expr(body, index_is, expr_is),
        Stmt::Taps { start, body, .. } => index_is(start) || any_expr(body, index_is, expr_is),
        Stmt::Let { value, .. } | Stmt::Set { value, .. } | Stmt::Accumulate { value, .. } => any_part(value, expr_is),
        Stmt::Mut { init, .. } => any_part(init, expr_is),
        Stmt::Store { index, value, .. } => index_is(index) || any_part(value, expr_is),
        Stmt::Call { args, .. } => args.iter().any(|arg| any_part(arg, expr_is)),
    })
}

/// Whether an expression or one of its parts has a property.
pub fn any_part(expr: &Expr, is: &dyn Fn(&Expr) -> bool) -> bool {
    is(expr) || expr.operands().into_iter().any(|part| any_part(part, is))
}

/// The type of an expression.
pub fn type_of(scope: &Scope, expr: &Expr) -> Type {
    expr.ty(&|reg| scope.types[reg.0], &|buffer| scope.extent(buffer).0)
}
