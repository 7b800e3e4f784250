//! The checker: after it, no access leaves its buffer, no operation overflows, nothing is used before it is set.
//!
//! Values are followed as intervals. Loads from constant data have the interval of the data, so most bounds come
//! out exactly as a hand calculation would find them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{
    Access, Address, Affine, Blob, Buffer, Call, Elem, Expr, Function, Index, Interval, Memory, Program, Reg,
    Signature, Step, Stmt, Type, Var,
};

/// A program in which nothing is wrong. Interpreter and printers take this.
#[derive(Debug, Clone)]
pub struct CheckedProgram(Program);

/// A broken rule of the loop language: a bug in a kernel builder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramError(pub String);

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProgramError {}

type Checked<T> = Result<T, String>;

impl CheckedProgram {
    /// Checks everything.
    pub fn new(program: Program) -> Result<CheckedProgram, ProgramError> {
        for blob in &program.blobs {
            check_blob(blob).map_err(|problem| ProgramError(format!("constant {}: {problem}", blob.name)))?;
        }
        for function in &program.functions {
            check_function(&program, function)
                .map_err(|problem| ProgramError(format!("function {}: {problem}", function.name)))?;
        }
        check_calls(&program).map_err(ProgramError)?;
        check_names(&program).map_err(ProgramError)?;
        Ok(CheckedProgram(program))
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.0
    }
}

impl Elem {
    /// All values that an element can have.
    pub fn interval(self) -> Interval {
        match self {
            Elem::I4 => Interval::new(-8, 7),
            Elem::I8 => Interval::new(i8::MIN, i8::MAX),
            Elem::U8 => Interval::new(u8::MIN, u8::MAX),
            Elem::I16 => Interval::new(i16::MIN, i16::MAX),
            Elem::I32 => Interval::new(i32::MIN, i32::MAX),
            Elem::U32 => Interval::new(u32::MIN, u32::MAX),
            Elem::I64 => Interval::new(i64::MIN, i64::MAX),
        }
    }
}

impl Type {
    /// All values of the type.
    pub fn interval(self) -> Interval {
        match self {
            Type::I32 => Interval::new(i32::MIN, i32::MAX),
            Type::I64 => Interval::new(i64::MIN, i64::MAX),
            Type::U32 => Interval::new(u32::MIN, u32::MAX),
            Type::U64 => Interval::new(u64::MIN, u64::MAX),
            // Not followed.
            Type::Vector(_) => Interval::point(0),
        }
    }

    /// Whether negative values exist.
    pub fn is_signed(self) -> bool {
        matches!(self, Type::I32 | Type::I64)
    }

    /// Width of a number.
    pub fn bits(self) -> u32 {
        match self {
            Type::I32 | Type::U32 => 32,
            Type::I64 | Type::U64 => 64,
            Type::Vector(_) => 0,
        }
    }

    /// Whether it is a number.
    pub fn is_scalar(self) -> bool {
        !matches!(self, Type::Vector(_))
    }
}

fn check_blob(blob: &Blob) -> Checked<()> {
    let allowed = blob.elem.interval();
    let stray = blob.data.iter().find(|&&value| !allowed.contains(Interval::point(value)));
    match (blob.data.is_empty(), stray) {
        (true, _) => Err("it is empty".to_owned()),
        (_, Some(value)) => Err(format!("{value} does not fit {:?}", blob.elem)),
        _ => Ok(()),
    }
}

/// What is known of a mutable register.
#[derive(Debug, Clone, Copy)]
struct Mutable {
    interval: Interval,
    bound: Option<Interval>,
    /// Depth of loops at the declaration: an index into the trip counts.
    depth: usize,
}

struct Checker<'a> {
    program: &'a Program,
    function: &'a Function,
    vars: BTreeMap<Var, Interval>,
    lets: BTreeMap<Reg, Interval>,
    mutables: BTreeMap<Reg, Mutable>,
    declared: BTreeSet<Reg>,
    /// Trip counts of the loops around the current statement.
    trips: Vec<i128>,
}

fn check_function(program: &Program, function: &Function) -> Checked<()> {
    if function.assembly().is_some() {
        // Its accesses cannot be followed; the tests compare every kernel with the evaluator, beside guarded buffers.
        return Ok(());
    }
    let mut checker = Checker {
        program,
        function,
        vars: BTreeMap::new(),
        lets: BTreeMap::new(),
        mutables: BTreeMap::new(),
        declared: BTreeSet::new(),
        trips: vec![],
    };
    checker.block(function.stmts())
}

impl Checker<'_> {
    /// Statements of one scope; what they declare ends with it.
    fn block(&mut self, body: &[Stmt]) -> Checked<()> {
        let (lets, scope) = (self.lets.clone(), self.mutables.keys().copied().collect::<BTreeSet<_>>());
        for stmt in body {
            self.stmt(stmt)?;
        }
        self.lets = lets;
        self.mutables.retain(|reg, _| scope.contains(reg));
        Ok(())
    }

    fn stmt(&mut self, stmt: &Stmt) -> Checked<()> {
        match stmt {
            Stmt::Comment(_) => Ok(()),
            Stmt::For { var, count, body } => {
                let range = counted(*count)?;
                self.looped(&[(*var, range)], *count, body)
            }
            Stmt::Taps { tap, at, start, count, dilation, extent, body } => {
                let (taps, positions) = (counted(*count)?, counted(*extent)?);
                if *dilation < 1 {
                    return Err(format!("dilation {dilation}"));
                }
                let start = self.affine(start)?;
                let reach = Interval::new(
                    start.lo,
                    start.hi + i128::from(*count) * i128::from(*dilation) + i128::from(*extent),
                );
                within(reach, Type::I32, "the position of a window")?;
                self.looped(&[(*tap, taps), (*at, positions)], *count, body)
            }
            Stmt::Let { reg, value } => {
                let interval = self.typed(value, self.reg_type(*reg)?)?;
                self.declare(*reg)?;
                self.lets.insert(*reg, interval);
                Ok(())
            }
            Stmt::Mut { reg, init, bound } => {
                let interval = self.typed(init, self.reg_type(*reg)?)?;
                self.declare(*reg)?;
                self.mutables.insert(*reg, Mutable { interval, bound: *bound, depth: self.trips.len() });
                Ok(())
            }
            Stmt::Set { reg, value } => {
                let value = self.typed(value, self.reg_type(*reg)?)?;
                self.widen(*reg, value)
            }
            Stmt::Accumulate { reg, value } => {
                let value = self.typed(value, self.reg_type(*reg)?)?;
                let Mutable { interval, depth, .. } = self.mutable(*reg)?;
                let trips: i128 = self.trips[depth..].iter().product();
                let reach =
                    Interval::new(interval.lo + (value.lo * trips).min(0), interval.hi + (value.hi * trips).max(0));
                self.widen(*reg, reach)
            }
            Stmt::Store { buffer, index, value } => self.store(*buffer, index, value),
            Stmt::Call { args, .. } => self.call(args),
        }
    }

    /// The body of a loop, examined until the intervals of the registers it changes stand still. Accumulations
    /// already count all iterations, so they are taken from a single examination.
    fn looped(&mut self, vars: &[(Var, Interval)], count: i64, body: &[Stmt]) -> Checked<()> {
        for (var, range) in vars {
            self.var_name(*var)?;
            if self.vars.insert(*var, *range).is_some() {
                return Err("a loop variable is bound twice".to_owned());
            }
        }
        self.trips.push(i128::from(count));
        const ROUNDS: usize = 4;
        let before = self.mutables.clone();
        let declared = self.declared.clone();
        let mut stable = false;
        for _ in 0..ROUNDS {
            let entry = self.mutables.clone();
            let accumulated = accumulated_regs(body);
            for reg in &accumulated {
                if let (Some(now), Some(first)) = (self.mutables.get_mut(reg), before.get(reg)) {
                    now.interval = first.interval;
                }
            }
            self.declared.clone_from(&declared);
            self.block(body)?;
            if entry.iter().all(|(reg, was)| self.mutables.get(reg).is_some_and(|is| is.interval == was.interval)) {
                stable = true;
                break;
            }
        }
        self.trips.pop();
        vars.iter().for_each(|(var, _)| {
            self.vars.remove(var);
        });
        if !stable {
            return Err("the values of a register grow without a bound that can be proven".to_owned());
        }
        Ok(())
    }

    fn store(&mut self, buffer: Buffer, index: &Affine, value: &Expr) -> Checked<()> {
        let Buffer::Param(param) = buffer else { return Err("a constant is written".to_owned()) };
        let param = self.function.params.get(param).ok_or("a store to no parameter")?;
        if param.access == Access::Read {
            return Err(format!("parameter {} is written", param.signature.name));
        }
        let index = self.affine(index)?;
        inside(index, param.signature.len, &param.signature.name)?;
        let elem = param.signature.elem;
        let value = self.typed(value, elem.loaded())?;
        if !elem.interval().contains(value) {
            return Err(format!("values {}..={} do not fit {elem:?} of {}", value.lo, value.hi, param.signature.name));
        }
        Ok(())
    }

    /// The arguments of a call.
    fn call(&self, args: &[Expr]) -> Checked<()> {
        if self.function.vectors.is_none() {
            return Err("an intrinsic is called in a function without vector instructions".to_owned());
        }
        args.iter().try_for_each(|arg| match arg {
            Expr::Address(address) => self.address(address),
            value => self.expr(value).map(drop),
        })
    }

    fn address(&self, address: &Address) -> Checked<()> {
        let (len, name, access) = match address.buffer {
            Buffer::Param(param) => {
                let param = self.function.params.get(param).ok_or("an address of no parameter")?;
                (param.signature.len, &param.signature.name, param.access)
            }
            Buffer::Blob(id) => {
                let blob = self.program.blobs.get(id.0).ok_or("an address of no constant")?;
                (blob.data.len(), &blob.name, Access::Read)
            }
        };
        let wrong = if address.writes { Access::Read } else { Access::Write };
        if access == wrong {
            return Err(format!("an address of {name} is for what the parameter is not"));
        }
        let index = self.affine(&address.index)?;
        inside(Interval::new(index.lo, index.hi + (address.elements as i128 - 1).max(0)), len, name)
    }

    fn declare(&mut self, reg: Reg) -> Checked<()> {
        if self.declared.insert(reg) { Ok(()) } else { Err(format!("register {} is declared twice", reg.0)) }
    }

    fn widen(&mut self, reg: Reg, value: Interval) -> Checked<()> {
        let ty = self.reg_type(reg)?;
        let mut mutable = self.mutable(reg)?;
        let value = match mutable.bound {
            Some(bound) => Interval::new(value.lo.clamp(bound.lo, bound.hi), value.hi.clamp(bound.lo, bound.hi)),
            None => value,
        };
        within(value, ty, "a register")?;
        mutable.interval = mutable.interval.hull(value);
        self.mutables.insert(reg, mutable);
        Ok(())
    }

    fn mutable(&self, reg: Reg) -> Checked<Mutable> {
        self.mutables.get(&reg).copied().ok_or_else(|| format!("register {} is not mutable here", reg.0))
    }

    fn reg_type(&self, reg: Reg) -> Checked<Type> {
        self.function.regs.get(reg.0).map(|(_, ty)| *ty).ok_or_else(|| format!("there is no register {}", reg.0))
    }

    fn var_name(&self, var: Var) -> Checked<&str> {
        self.function.vars.get(var.0).map(String::as_str).ok_or_else(|| format!("there is no variable {}", var.0))
    }

    fn affine(&self, affine: &Affine) -> Checked<Interval> {
        let mut sum = Interval::point(affine.constant);
        for (var, &coefficient) in &affine.terms {
            let range = self.vars.get(var).ok_or_else(|| format!("variable {} is used outside of its loop", var.0))?;
            let ends = [range.lo * i128::from(coefficient), range.hi * i128::from(coefficient)];
            sum = Interval::new(sum.lo + ends[0].min(ends[1]), sum.hi + ends[0].max(ends[1]));
        }
        within(sum, Type::I32, "an index")?;
        Ok(sum)
    }

    fn typed(&self, expr: &Expr, expected: Type) -> Checked<Interval> {
        let (ty, interval) = self.expr(expr)?;
        if ty == expected { Ok(interval) } else { Err(format!("a {ty:?} stands where a {expected:?} is needed")) }
    }

    /// Type and values of an expression.
    fn expr(&self, expr: &Expr) -> Checked<(Type, Interval)> {
        let (ty, interval) = match expr {
            Expr::Const(ty, value) => (*ty, Interval::point(*value)),
            Expr::Reg(reg) => (self.reg_type(*reg)?, self.register(*reg)?),
            Expr::Index(affine) => (Type::I32, self.affine(affine)?),
            Expr::Load(buffer, index) => self.load(*buffer, index)?,
            Expr::Add(a, b) => self.binary(a, b, |a, b| Interval::new(a.lo + b.lo, a.hi + b.hi))?,
            Expr::Sub(a, b) => self.binary(a, b, |a, b| Interval::new(a.lo - b.hi, a.hi - b.lo))?,
            Expr::Mul(a, b) => self.binary(a, b, product)?,
            Expr::Min(a, b) => self.binary(a, b, |a, b| Interval::new(a.lo.min(b.lo), a.hi.min(b.hi)))?,
            Expr::Max(a, b) => self.binary(a, b, |a, b| Interval::new(a.lo.max(b.lo), a.hi.max(b.hi)))?,
            Expr::Div(a, b) => self.quotient(a, b)?,
            Expr::Shr(a, bits) => {
                let (ty, a) = self.shifted(a, *bits)?;
                (ty, Interval::new(a.lo >> bits, a.hi >> bits))
            }
            Expr::Cast(ty, a) => (*ty, self.expr(a)?.1),
            Expr::Select { a, b, then, otherwise, .. } => {
                self.binary(a, b, Interval::hull)?;
                self.binary(then, otherwise, Interval::hull)?
            }
            Expr::Call { args, ty, values, .. } => {
                self.call(args)?;
                (*ty, *values)
            }
            Expr::Address(_) => return Err("an address is no value".to_owned()),
        };
        within(interval, ty, "an expression")?;
        Ok((ty, interval))
    }

    fn register(&self, reg: Reg) -> Checked<Interval> {
        let mutable = self.mutables.get(&reg).map(|mutable| mutable.interval);
        mutable.or_else(|| self.lets.get(&reg).copied()).ok_or_else(|| format!("register {} is not in scope", reg.0))
    }

    fn binary(
        &self,
        a: &Expr,
        b: &Expr,
        combine: impl Fn(Interval, Interval) -> Interval,
    ) -> Checked<(Type, Interval)> {
        let (ty, a) = self.expr(a)?;
        let b = self.typed(b, ty)?;
        if !ty.is_scalar() {
            return Err("an operator between vectors".to_owned());
        }
        Ok((ty, combine(a, b)))
    }

    fn quotient(&self, a: &Expr, b: &Expr) -> Checked<(Type, Interval)> {
        let (ty, a) = self.expr(a)?;
        let b = self.typed(b, ty)?;
        if ty.is_signed() || b.lo < 1 {
            return Err("a division that is signed or by 0".to_owned());
        }
        Ok((ty, Interval::new(a.lo / b.hi, a.hi / b.lo)))
    }

    fn shifted(&self, a: &Expr, bits: u32) -> Checked<(Type, Interval)> {
        let (ty, a) = self.expr(a)?;
        if bits >= ty.bits() { Err(format!("a shift by {bits}")) } else { Ok((ty, a)) }
    }

    fn load(&self, buffer: Buffer, index: &Index) -> Checked<(Type, Interval)> {
        let (elem, len, name, values) = match buffer {
            Buffer::Param(param) => {
                let param = self.function.params.get(param).ok_or("a load from no parameter")?;
                if param.access == Access::Write {
                    return Err(format!("parameter {} is read", param.signature.name));
                }
                let Signature { name, elem, len } = &param.signature;
                (*elem, *len, name, elem.interval())
            }
            Buffer::Blob(id) => {
                let blob = self.program.blobs.get(id.0).ok_or("a load from no constant")?;
                (blob.elem, blob.data.len(), &blob.name, data_interval(blob))
            }
        };
        let index = match index {
            Index::Affine(affine) => self.affine(affine)?,
            Index::Value(value) => self.typed(value, Type::I32)?,
        };
        inside(index, len, name)?;
        Ok((elem.loaded(), values))
    }
}

fn data_interval(blob: &Blob) -> Interval {
    let (lo, hi) = blob.data.iter().fold((i64::MAX, i64::MIN), |(lo, hi), &value| (lo.min(value), hi.max(value)));
    Interval::new(lo, hi)
}

fn product(a: Interval, b: Interval) -> Interval {
    let corners = [a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi];
    corners.into_iter().map(Interval::point).reduce(Interval::hull).unwrap_or(a)
}

fn counted(count: i64) -> Checked<Interval> {
    if count < 1 { Err(format!("a loop with {count} iterations")) } else { Ok(Interval::new(0, count - 1)) }
}

fn within(interval: Interval, ty: Type, what: &str) -> Checked<()> {
    if ty.interval().contains(interval) {
        return Ok(());
    }
    Err(format!("{what} can be {}..={}, which {ty:?} does not hold", interval.lo, interval.hi))
}

fn inside(index: Interval, len: usize, name: &str) -> Checked<()> {
    if index.lo >= 0 && index.hi < len as i128 {
        return Ok(());
    }
    Err(format!("{name} has {len} elements and is accessed at {}..={}", index.lo, index.hi))
}

/// Registers that some statement in the body adds to.
fn accumulated_regs(body: &[Stmt]) -> BTreeSet<Reg> {
    let mut regs = BTreeSet::new();
    for stmt in body {
        match stmt {
            Stmt::Accumulate { reg, .. } => {
                regs.insert(*reg);
            }
            Stmt::For { body, .. } | Stmt::Taps { body, .. } => regs.extend(accumulated_regs(body)),
            Stmt::Comment(_)
            | Stmt::Let { .. }
            | Stmt::Mut { .. }
            | Stmt::Set { .. }
            | Stmt::Store { .. }
            | Stmt::Call { .. } => {}
        }
    }
    regs
}

fn check_calls(program: &Program) -> Checked<()> {
    let variants = program.variants.iter().map(|variant| &variant.steps);
    std::iter::once(&program.steps).chain(variants).try_for_each(|steps| check_variant(program, steps))
}

fn check_variant(program: &Program, steps: &[Step]) -> Checked<()> {
    let mut written = BTreeSet::new();
    for step in steps {
        if step.times == 0 {
            return Err("a step without a pass".to_owned());
        }
        for call in &step.calls {
            let function = program.functions.get(call.function).ok_or("a call of no function")?;
            (0..step.times)
                .try_for_each(|pass| check_call(program, function, (call, pass), &mut written))
                .map_err(|problem| format!("call of {}: {problem}", function.name))?;
        }
    }
    match (0..program.outputs.len()).find(|output| !written.contains(output)) {
        Some(output) => Err(format!("output {output} is never written")),
        None => Ok(()),
    }
}

fn check_call(
    program: &Program,
    function: &Function,
    (call, pass): (&Call, usize),
    written: &mut BTreeSet<usize>,
) -> Checked<()> {
    if call.args.len() != function.params.len() {
        return Err(format!("{} arguments for {} parameters", call.args.len(), function.params.len()));
    }
    let mut spans: Vec<(usize, usize, Access)> = vec![];
    for (arg, param) in call.args.iter().zip(&function.params) {
        let Signature { name, elem, len } = &param.signature;
        let (start, bytes) = (arg.at(pass), len * elem.bytes());
        // A part of an input or output: of single bytes only, because the printers do not take wider ones apart.
        let fits = |given: Option<&Signature>| {
            let whole = |given: &Signature| start == 0 && given.len == *len;
            let part = |given: &Signature| elem.bytes() == 1 && start + bytes <= given.len;
            given.is_some_and(|given| given.elem == *elem && (whole(given) || part(given)))
        };
        let ok = match arg.memory {
            Memory::Input(index) => fits(program.inputs.get(index)) && param.access == Access::Read,
            Memory::Output(index) => {
                let known = written.contains(&index);
                if param.access != Access::Read {
                    written.insert(index);
                }
                fits(program.outputs.get(index)) && (known || param.access == Access::Write)
            }
            Memory::Blob(id) => {
                let whole = |blob: &Blob| start == 0 && blob.elem == *elem && blob.data.len() == *len;
                program.blobs.get(id.0).is_some_and(whole) && param.access == Access::Read
            }
            Memory::Arena => {
                spans.push((start, start + bytes, param.access));
                start + bytes <= program.arena_bytes && start % elem.bytes() == 0
            }
        };
        if !ok {
            return Err(format!("argument {arg} does not fit parameter {name}"));
        }
    }
    let follows = function.assembly().is_none();
    let clash = follows
        && spans.iter().enumerate().any(|(i, a)| {
            spans[..i].iter().any(|b| (a.2 != Access::Read || b.2 != Access::Read) && a.0 < b.1 && b.0 < a.1)
        });
    // Assembly may work in memory that operands share, as far as the plan allows.
    if clash { Err("a written buffer overlaps another".to_owned()) } else { Ok(()) }
}

fn check_names(program: &Program) -> Checked<()> {
    let legal = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let mut used = BTreeSet::new();
    let functions = program.functions.iter().map(|function| &function.name);
    for name in functions.chain(program.blobs.iter().map(|blob| &blob.name)) {
        if !legal(name) || !used.insert(name) {
            return Err(format!("`{name}` is no identifier, or stands for two things"));
        }
    }
    if !legal(&program.name) || program.name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!("`{}` is no identifier", program.name));
    }
    Ok(())
}
