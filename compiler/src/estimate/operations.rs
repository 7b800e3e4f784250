//! Counts the operations that a function executes: loops are counted, so the counts are exact.

use std::collections::BTreeMap;
use std::ops::{AddAssign, Mul};

use ptqc_target_runtimes::Operation;

use crate::program::{Affine, Buffer, Expr, Function, Index, Program, Stmt, Type, Var};

/// How often each operation is executed, in the order of [`Operation::ALL`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Operations([u64; Operation::COUNT]);

impl Operations {
    /// How often one is executed.
    pub fn of(&self, operation: Operation) -> u64 {
        self.0[operation as usize]
    }

    /// The sum of costs.
    pub fn cost(&self, costs: &[f64; Operation::COUNT]) -> f64 {
        self.0.iter().zip(costs).map(|(&count, cost)| count as f64 * cost).sum()
    }

    fn add(&mut self, operation: Operation) {
        self.0[operation as usize] += 1;
    }
}

impl AddAssign for Operations {
    fn add_assign(&mut self, other: Operations) {
        self.0.iter_mut().zip(other.0).for_each(|(count, other)| *count += other);
    }
}

impl Mul<u64> for Operations {
    type Output = Operations;

    fn mul(self, times: u64) -> Operations {
        Operations(self.0.map(|count| count * times))
    }
}

/// The operations of one call of a function.
pub fn executed(program: &Program, function: &Function) -> Operations {
    let mut counter = Counter { program, function, positions: Some(BTreeMap::new()) };
    counter.call()
}

/// The operations in the text of a function: every loop counts as one iteration.
pub fn written(program: &Program, function: &Function) -> Operations {
    let mut counter = Counter { program, function, positions: None };
    counter.call()
}

struct Counter<'a> {
    program: &'a Program,
    function: &'a Function,
    /// Values of the loop variables that the ends of a window depend on; `None` counts the text.
    positions: Option<BTreeMap<Var, i64>>,
}

impl Counter<'_> {
    fn call(&mut self) -> Operations {
        let mut operations = self.block(self.function.stmts());
        operations.add(Operation::Call);
        operations
    }

    fn block(&mut self, body: &[Stmt]) -> Operations {
        let mut total = Operations::default();
        body.iter().for_each(|stmt| total += self.stmt(stmt));
        total
    }

    fn stmt(&mut self, stmt: &Stmt) -> Operations {
        let mut own = Operations::default();
        match stmt {
            Stmt::Comment(_) => {}
            Stmt::For { var, count, body } => {
                own += self.iterations(*var, 0..*count, body);
            }
            Stmt::Taps { tap, at, start, count, dilation, extent, body } => {
                own.add(Operation::Window);
                let Some(start) = self.value(start) else {
                    own += self.iterations(*tap, 0..1, body);
                    return own;
                };
                let inside = |tap: &i64| (0..*extent).contains(&(start + tap * dilation));
                let first = (0..*count).find(inside).unwrap_or(0);
                let end = (0..*count).rev().find(inside).map_or(first, |last| last + 1);
                own += match depends_on(body, *at) {
                    false => self.iterations(*tap, first..end, body),
                    true => {
                        let mut total = Operations::default();
                        for tap_value in first..end {
                            self.set(*at, start + tap_value * dilation);
                            total += self.iterations(*tap, tap_value..tap_value + 1, body);
                        }
                        total
                    }
                };
            }
            Stmt::Let { value, .. } | Stmt::Set { value, .. } | Stmt::Mut { init: value, .. } => {
                self.expr(value, &mut own);
            }
            Stmt::Accumulate { value: Expr::Mul(a, b), .. } if self.is_word(a) => {
                own.add(Operation::MultiplyAccumulate);
                self.expr(a, &mut own);
                self.expr(b, &mut own);
            }
            Stmt::Accumulate { value, .. } => {
                own.add(if self.is_word(value) { Operation::Arithmetic } else { Operation::LongArithmetic });
                self.expr(value, &mut own);
            }
            Stmt::Call { args, .. } => {
                own.add(Operation::Intrinsic);
                args.iter().for_each(|arg| self.expr(arg, &mut own));
            }
            Stmt::Store { value, .. } => {
                own.add(Operation::Store);
                self.expr(value, &mut own);
            }
        }
        own
    }

    /// A loop. Its iterations are alike, unless the ends of a window in it depend on its variable.
    fn iterations(&mut self, var: Var, values: std::ops::Range<i64>, body: &[Stmt]) -> Operations {
        let mut step = Operations::default();
        let holds_loop = body.iter().any(|stmt| matches!(stmt, Stmt::For { .. } | Stmt::Taps { .. }));
        step.add(if holds_loop { Operation::OuterIteration } else { Operation::InnerIteration });
        let times = if self.positions.is_some() { (values.end - values.start).max(0) as u64 } else { 1 };
        if self.positions.is_none() || !depends_on(body, var) {
            step += self.block(body);
            return step * times;
        }
        let mut total = step * times;
        for value in values {
            self.set(var, value);
            total += self.block(body);
        }
        total
    }

    fn set(&mut self, var: Var, value: i64) {
        if let Some(positions) = &mut self.positions {
            positions.insert(var, value);
        }
    }

    /// The value of an index whose variables are known.
    fn value(&self, index: &Affine) -> Option<i64> {
        let positions = self.positions.as_ref()?;
        let term = |(var, coefficient): (&Var, &i64)| positions.get(var).map(|value| value * coefficient);
        let terms: Option<Vec<i64>> = index.terms.iter().map(term).collect();
        Some(index.constant + terms?.into_iter().sum::<i64>())
    }

    fn is_word(&self, expr: &Expr) -> bool {
        let elem = |buffer: Buffer| match buffer {
            Buffer::Param(index) => self.function.params[index].signature.elem,
            Buffer::Blob(id) => self.program.blobs[id.0].elem,
        };
        matches!(expr.ty(&|reg| self.function.regs[reg.0].1, &elem), Type::I32 | Type::U32)
    }

    fn expr(&self, expr: &Expr, operations: &mut Operations) {
        let by_width = |word, long| if self.is_word(expr) { word } else { long };
        match expr {
            // Conversions and constants are part of the operations that use them.
            Expr::Const(..) | Expr::Reg(_) | Expr::Index(_) | Expr::Cast(..) | Expr::Address(_) => {}
            Expr::Call { .. } => operations.add(Operation::Intrinsic),
            Expr::Load(_, Index::Affine(_)) => operations.add(Operation::Load),
            Expr::Load(_, Index::Value(_)) => operations.add(Operation::Lookup),
            Expr::Add(..) | Expr::Sub(..) | Expr::Shr(..) => {
                operations.add(by_width(Operation::Arithmetic, Operation::LongArithmetic));
            }
            Expr::Mul(..) => operations.add(by_width(Operation::Product, Operation::LongProduct)),
            Expr::Div(..) => operations.add(Operation::Division),
            Expr::Min(..) | Expr::Max(..) | Expr::Select { .. } => operations.add(Operation::Selection),
        }
        expr.operands().into_iter().for_each(|operand| self.expr(operand, operations));
    }
}

/// Whether the ends of a window in a block depend on a loop variable.
fn depends_on(body: &[Stmt], var: Var) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::For { body, .. } => depends_on(body, var),
        Stmt::Taps { start, body, .. } => start.terms.contains_key(&var) || depends_on(body, var),
        _ => false,
    })
}
