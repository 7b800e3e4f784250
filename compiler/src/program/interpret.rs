//! The interpreter: the second oracle, for the kernels. Slow, exact, suspicious: every access, every width and every
//! claimed bound is verified, and memory of the arena that was never written must not be read.

use super::{
    Affine, Blob, Buffer, Call, CheckedProgram, Cmp, Elem, Expr, Function, Index, Interval, Memory, Program,
    ProgramError, Reg, Stmt, Type,
};

/// Runs the program: elements of every input, then elements of every output.
pub fn interpret(program: &CheckedProgram, inputs: &[Vec<i64>]) -> Result<Vec<Vec<i64>>, ProgramError> {
    let program = program.program();
    let mut state = State {
        inputs: inputs.to_vec(),
        outputs: program.outputs.iter().map(|signature| vec![None; signature.len]).collect(),
        arena: vec![None; program.arena_bytes],
    };
    for step in &program.steps {
        for pass in 0..step.times {
            step.calls.iter().try_for_each(|call| run_call(program, call, pass, &mut state))?;
        }
    }
    let outputs = state.outputs.into_iter().map(|output| output.into_iter().collect::<Option<Vec<i64>>>());
    outputs
        .map(|output| output.ok_or_else(|| ProgramError("an element of an output is never written".to_owned())))
        .collect()
}

fn run_call(program: &Program, call: &Call, pass: usize, state: &mut State) -> Result<(), ProgramError> {
    let function = &program.functions[call.function];
    if function.assembly().is_some() {
        return Err(ProgramError(format!("{}: assembly runs on its target only", function.name)));
    }
    if function.vectors.is_some() {
        return Err(ProgramError(format!("{}: vector instructions run on their target only", function.name)));
    }
    let mut machine = Machine {
        program,
        function,
        args: call.args.iter().map(|arg| (arg.memory, arg.at(pass))).collect(),
        state,
        vars: vec![0; function.vars.len()],
        regs: vec![0; function.regs.len()],
        bounds: vec![None; function.regs.len()],
    };
    machine.block(function.stmts()).map_err(|problem| ProgramError(format!("{}: {problem}", function.name)))
}

struct State {
    inputs: Vec<Vec<i64>>,
    outputs: Vec<Vec<Option<i64>>>,
    /// Bytes, little-endian; `None` where nothing has been written.
    arena: Vec<Option<u8>>,
}

struct Machine<'a> {
    program: &'a Program,
    function: &'a Function,
    /// Memory and first byte of each parameter.
    args: Vec<(Memory, usize)>,
    state: &'a mut State,
    vars: Vec<i64>,
    regs: Vec<i128>,
    bounds: Vec<Option<Interval>>,
}

type Step<T> = Result<T, String>;

impl Machine<'_> {
    fn block(&mut self, body: &[Stmt]) -> Step<()> {
        body.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    fn stmt(&mut self, stmt: &Stmt) -> Step<()> {
        match stmt {
            Stmt::Comment(_) => Ok(()),
            Stmt::For { var, count, body } => (0..*count).try_for_each(|i| {
                self.vars[var.0] = i;
                self.block(body)
            }),
            Stmt::Taps { tap, at, start, count, dilation, extent, body } => {
                let start = self.affine(start);
                (0..*count).try_for_each(|i| {
                    let position = start + i * dilation;
                    if !(0..*extent).contains(&position) {
                        return Ok(());
                    }
                    (self.vars[tap.0], self.vars[at.0]) = (i, position);
                    self.block(body)
                })
            }
            Stmt::Let { reg, value } => {
                self.bounds[reg.0] = None;
                let value = self.eval(value)?;
                self.assign(*reg, value)
            }
            Stmt::Mut { reg, init, bound } => {
                self.bounds[reg.0] = *bound;
                let init = self.eval(init)?;
                self.assign(*reg, init)
            }
            Stmt::Set { reg, value } => {
                let value = self.eval(value)?;
                self.assign(*reg, value)
            }
            Stmt::Accumulate { reg, value } => {
                let sum = self.regs[reg.0] + self.eval(value)?;
                self.assign(*reg, sum)
            }
            Stmt::Store { buffer, index, value } => {
                let (index, value) = (self.affine(index), self.eval(value)?);
                self.store(*buffer, index, value)
            }
            Stmt::Call { intrinsic, .. } => Err(format!("{intrinsic} runs on its target only")),
        }
    }

    fn assign(&mut self, reg: Reg, value: i128) -> Step<()> {
        let (name, ty) = &self.function.regs[reg.0];
        fits(value, *ty)?;
        if self.bounds[reg.0].is_some_and(|bound| !bound.contains(Interval::point(value))) {
            return Err(format!("{name} is {value}, outside of its claimed bound"));
        }
        self.regs[reg.0] = value;
        Ok(())
    }

    fn affine(&self, index: &Affine) -> i64 {
        index.constant + index.terms.iter().map(|(var, coefficient)| self.vars[var.0] * coefficient).sum::<i64>()
    }

    fn eval(&self, expr: &Expr) -> Step<i128> {
        Ok(match expr {
            Expr::Const(_, value) => i128::from(*value),
            Expr::Reg(reg) => self.regs[reg.0],
            Expr::Index(index) => i128::from(self.affine(index)),
            Expr::Load(buffer, Index::Affine(index)) => self.load(*buffer, self.affine(index))?,
            Expr::Load(buffer, Index::Value(value)) => {
                let index = self.eval(value)?;
                self.load(*buffer, i64::try_from(index).map_err(|_| format!("index {index}"))?)?
            }
            Expr::Add(a, b) => self.eval(a)? + self.eval(b)?,
            Expr::Sub(a, b) => self.eval(a)? - self.eval(b)?,
            Expr::Mul(a, b) => self.eval(a)? * self.eval(b)?,
            Expr::Div(a, b) => self.eval(a)?.checked_div(self.eval(b)?).ok_or("a division by 0")?,
            Expr::Min(a, b) => self.eval(a)?.min(self.eval(b)?),
            Expr::Max(a, b) => self.eval(a)?.max(self.eval(b)?),
            Expr::Shr(a, bits) => self.eval(a)? >> bits,
            Expr::Cast(ty, a) => {
                let value = self.eval(a)?;
                fits(value, *ty)?;
                value
            }
            Expr::Select { cmp, a, b, then, otherwise } => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                let holds = match cmp {
                    Cmp::Lt => a < b,
                    Cmp::Le => a <= b,
                    Cmp::Eq => a == b,
                };
                self.eval(if holds { then } else { otherwise })?
            }
            Expr::Call { intrinsic, .. } => return Err(format!("{intrinsic} runs on its target only")),
            Expr::Address(_) => return Err("an address is no value".to_owned()),
        })
    }

    fn load(&self, buffer: Buffer, index: i64) -> Step<i128> {
        let at = usize::try_from(index).map_err(|_| format!("index {index}"))?;
        let blob = |blob: &Blob| blob.data.get(at).copied();
        let value = match buffer {
            Buffer::Blob(id) => blob(&self.program.blobs[id.0]),
            Buffer::Param(param) => {
                let elem = self.inside(param, at)?;
                let (memory, start) = self.args[param];
                let index = start / elem.bytes() + at;
                match memory {
                    Memory::Input(input) => self.state.inputs[input].get(index).copied(),
                    Memory::Output(output) => self.state.outputs[output].get(index).copied().flatten(),
                    Memory::Blob(id) => blob(&self.program.blobs[id.0]),
                    Memory::Arena => {
                        let start = start + at * elem.bytes();
                        let bytes: Option<Vec<u8>> =
                            self.state.arena[start..start + elem.bytes()].iter().copied().collect();
                        bytes.map(|bytes| decode(elem, &bytes))
                    }
                }
            }
        };
        value.map(i128::from).ok_or_else(|| format!("element {index} is outside of its buffer or was never written"))
    }

    fn store(&mut self, buffer: Buffer, index: i64, value: i128) -> Step<()> {
        let at = usize::try_from(index).map_err(|_| format!("index {index}"))?;
        let Buffer::Param(param) = buffer else { return Err("a constant is written".to_owned()) };
        let elem = self.inside(param, at)?;
        if !elem.interval().contains(Interval::point(value)) {
            return Err(format!("{value} does not fit {elem:?}"));
        }
        // The value fits its element, so it fits 64 bits.
        let value = value as i64;
        let (memory, start) = self.args[param];
        match memory {
            Memory::Output(output) => self.state.outputs[output][start / elem.bytes() + at] = Some(value),
            Memory::Arena => {
                let start = start + at * elem.bytes();
                for (byte, new) in self.state.arena[start..start + elem.bytes()].iter_mut().zip(value.to_le_bytes()) {
                    *byte = Some(new);
                }
            }
            Memory::Input(_) | Memory::Blob(_) => return Err("a constant buffer is written".to_owned()),
        }
        Ok(())
    }

    /// The element type of a parameter that has an element `at`.
    fn inside(&self, param: usize, at: usize) -> Step<Elem> {
        let signature = &self.function.params[param].signature;
        if at < signature.len { Ok(signature.elem) } else { Err(format!("{} has no element {at}", signature.name)) }
    }
}

fn fits(value: i128, ty: Type) -> Step<()> {
    if ty.interval().contains(Interval::point(value)) { Ok(()) } else { Err(format!("{value} does not fit {ty:?}")) }
}

fn decode(elem: Elem, bytes: &[u8]) -> i64 {
    let negative = bytes.last().is_some_and(|last| last & 0x80 != 0) && !matches!(elem, Elem::U8 | Elem::U32);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(wide)
}
