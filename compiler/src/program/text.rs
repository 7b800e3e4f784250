//! The textual form of programs, for people and snapshots. Constants are shortened to length, hash and first values.

use std::fmt;

use super::{Address, Affine, Arg, Blob, Buffer, Cmp, Expr, Function, Index, Memory, Program, Step, Stmt};

/// Values of a constant that are shown.
const SHOWN: usize = 6;

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "program {}, arena {} bytes", self.name, self.arena_bytes)?;
        for blob in &self.blobs {
            writeln!(f, "const {blob}")?;
        }
        for function in &self.functions {
            write!(f, "{}", Listing { program: self, function })?;
        }
        let run = |f: &mut fmt::Formatter<'_>, steps: &[Step]| {
            steps.iter().try_for_each(|step| {
                let indent = if step.times > 1 { "    " } else { "  " };
                if step.times > 1 {
                    writeln!(f, "  {} times", step.times)?;
                }
                step.calls.iter().try_for_each(|call| {
                    let args: Vec<String> = call.args.iter().map(Arg::to_string).collect();
                    writeln!(f, "{indent}{}({})", self.functions[call.function].name, args.join(", "))
                })
            })
        };
        for variant in &self.variants {
            writeln!(f, "run with {}:", variant.name)?;
            run(f, &variant.steps)?;
        }
        writeln!(f, "run:")?;
        run(f, &self.steps)?;
        Ok(())
    }
}

impl fmt::Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.memory)?;
        match (self.start, self.advance) {
            (0, 0) if self.memory != Memory::Arena => Ok(()),
            (start, 0) => write!(f, "[{start}..]"),
            (start, advance) => write!(f, "[{start} + {advance} * pass..]"),
        }
    }
}

impl fmt::Display for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.data.iter().take(SHOWN).map(i64::to_string).collect();
        let dots = if self.data.len() > SHOWN { ", .." } else { "" };
        let (elem, len) = (self.elem, self.data.len());
        write!(f, "{}: {elem:?}[{len}] hash {:016x} = {}{dots}", self.name, self.hash(), shown.join(", "))
    }
}

impl Blob {
    /// FNV-1a over the values.
    fn hash(&self) -> u64 {
        let bytes = self.data.iter().flat_map(|value| value.to_le_bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

struct Listing<'a> {
    program: &'a Program,
    function: &'a Function,
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let params = self.function.params.iter().map(|param| {
            let signature = &param.signature;
            format!("{:?} {}: {:?}[{}]", param.access, signature.name, signature.elem, signature.len)
        });
        writeln!(f, "fn {}({})", self.function.name, params.collect::<Vec<_>>().join(", "))?;
        if let Some(assembly) = self.function.assembly() {
            writeln!(f, "  assembly {}, {} instructions", assembly.kernel, assembly.instructions())?;
            return assembly.lines().iter().try_for_each(|line| writeln!(f, "  {line}"));
        }
        self.block(f, self.function.stmts(), 1)
    }
}

impl Listing<'_> {
    fn block(&self, f: &mut fmt::Formatter<'_>, body: &[Stmt], depth: usize) -> fmt::Result {
        body.iter().try_for_each(|stmt| self.stmt(f, stmt, depth))
    }

    fn stmt(&self, f: &mut fmt::Formatter<'_>, stmt: &Stmt, depth: usize) -> fmt::Result {
        write!(f, "{}", "  ".repeat(depth))?;
        match stmt {
            Stmt::Comment(text) => writeln!(f, "// {text}"),
            Stmt::For { var, count, body } => {
                writeln!(f, "for {} in 0..{count}", self.function.vars[var.0])?;
                self.block(f, body, depth + 1)
            }
            Stmt::Taps { tap, at, start, count, dilation, extent, body } => {
                let (tap, at) = (&self.function.vars[tap.0], &self.function.vars[at.0]);
                writeln!(
                    f,
                    "taps {tap} in 0..{count} with {at} = {} + {tap}*{dilation} in 0..{extent}",
                    self.affine(start)
                )?;
                self.block(f, body, depth + 1)
            }
            Stmt::Let { reg, value } => writeln!(f, "let {} = {}", self.reg(*reg), self.expr(value)),
            Stmt::Mut { reg, init, bound } => {
                let bound = bound.map_or(String::new(), |bound| format!(" within {}..={}", bound.lo, bound.hi));
                writeln!(f, "mut {}: {:?} = {}{bound}", self.reg(*reg), self.function.regs[reg.0].1, self.expr(init))
            }
            Stmt::Set { reg, value } => writeln!(f, "{} = {}", self.reg(*reg), self.expr(value)),
            Stmt::Accumulate { reg, value } => writeln!(f, "{} += {}", self.reg(*reg), self.expr(value)),
            Stmt::Store { buffer, index, value } => {
                writeln!(f, "{}[{}] = {}", self.buffer(*buffer), self.affine(index), self.expr(value))
            }
            Stmt::Call { intrinsic, args } => writeln!(f, "{intrinsic}({})", self.args(args)),
        }
    }

    fn reg(&self, reg: super::Reg) -> &str {
        &self.function.regs[reg.0].0
    }

    fn buffer(&self, buffer: Buffer) -> &str {
        match buffer {
            Buffer::Param(index) => &self.function.params[index].signature.name,
            Buffer::Blob(id) => &self.program.blobs[id.0].name,
        }
    }

    fn affine(&self, index: &Affine) -> String {
        let terms = index.terms.iter().map(|(var, coefficient)| match coefficient {
            1 => self.function.vars[var.0].clone(),
            _ => format!("{}*{coefficient}", self.function.vars[var.0]),
        });
        let constant = (index.constant != 0 || index.terms.is_empty()).then(|| index.constant.to_string());
        terms.chain(constant).collect::<Vec<_>>().join(" + ")
    }

    fn args(&self, args: &[Expr]) -> String {
        args.iter().map(|arg| self.expr(arg)).collect::<Vec<_>>().join(", ")
    }

    fn expr(&self, expr: &Expr) -> String {
        let infix = |a: &Expr, operator: &str, b: &Expr| format!("({} {operator} {})", self.expr(a), self.expr(b));
        match expr {
            Expr::Const(ty, value) => format!("{value}{}", format!("{ty:?}").to_lowercase()),
            Expr::Reg(reg) => self.reg(*reg).to_owned(),
            Expr::Index(index) => format!("({})", self.affine(index)),
            Expr::Load(buffer, Index::Affine(index)) => format!("{}[{}]", self.buffer(*buffer), self.affine(index)),
            Expr::Load(buffer, Index::Value(value)) => format!("{}[{}]", self.buffer(*buffer), self.expr(value)),
            Expr::Add(a, b) => infix(a, "+", b),
            Expr::Sub(a, b) => infix(a, "-", b),
            Expr::Mul(a, b) => infix(a, "*", b),
            Expr::Div(a, b) => infix(a, "/", b),
            Expr::Min(a, b) => format!("min({}, {})", self.expr(a), self.expr(b)),
            Expr::Max(a, b) => format!("max({}, {})", self.expr(a), self.expr(b)),
            Expr::Shr(a, bits) => format!("({} >> {bits})", self.expr(a)),
            Expr::Cast(ty, a) => format!("{ty:?}({})", self.expr(a)),
            Expr::Select { cmp, a, b, then, otherwise } => {
                let operator = match cmp {
                    Cmp::Lt => "<",
                    Cmp::Le => "<=",
                    Cmp::Eq => "==",
                };
                format!("select({}, {}, {})", infix(a, operator, b), self.expr(then), self.expr(otherwise))
            }
            Expr::Call { intrinsic, args, .. } => format!("{intrinsic}({})", self.args(args)),
            Expr::Address(Address { buffer, index, elements, .. }) => {
                format!("&{}[{}..+{elements}]", self.buffer(*buffer), self.affine(index))
            }
        }
    }
}
