//! How far the input of a layer has to lie behind its result for the two to share memory, found by walking through the
//! layer's loops: a store must not reach an element that is still to be loaded.

use super::{LayerBuilder, Names, elem};
use crate::plan::{Layer, Plan, Shared};
use crate::program::{Affine, Buffer, Expr, Function, Index, Stmt};

/// Layers with more results are not examined: the walk visits each of them.
const LARGEST: usize = 1 << 20;

/// The smallest distance in bytes from the start of the result to the start of an operand with which the layer, a
/// function of loops, still loads every element of the operand before it is overwritten. `None` if the two must not
/// overlap.
pub fn lead(layer: &Layer, plan: &Plan, port: usize) -> Option<usize> {
    let (x, y) = (plan.tensor(layer.operands[port]), plan.tensor(layer.result));
    let bytes = elem(&y.ty).bytes();
    if elem(&x.ty).bytes() != bytes || y.ty.shape.len() > LARGEST {
        return None;
    }
    let mut blobs = vec![];
    let mut builder = LayerBuilder::new(plan, layer, &Shared::default(), Names::default(), vec![], &mut blobs);
    let (x, y) = (builder.x(port), builder.y());
    (layer.kernel.build)(&mut builder);
    let (function, _) = builder.finish();
    if function.vectors.is_some() {
        // Vectors are loaded ahead of what they are needed for.
        return None;
    }
    let lead = Walk::of(&function, x, y).lead();
    usize::try_from(lead.max(0)).ok().map(|elements| elements * bytes)
}

/// What happens between two stores, in order.
struct Walk {
    x: Buffer,
    y: Buffer,
    /// Smallest and largest value of each variable.
    vars: Vec<(i64, i64)>,
    /// For each store, the smallest index of `x` that is loaded since the store before it, and the index in `y`.
    stores: Vec<(i64, i64)>,
    /// The smallest index loaded since the last store.
    loaded: i64,
}

impl Walk {
    fn of(function: &Function, x: Buffer, y: Buffer) -> Walk {
        let vars = vec![(0, 0); function.vars.len()];
        let mut walk = Walk { x, y, vars, stores: vec![], loaded: i64::MAX };
        walk.block(function.stmts());
        walk
    }

    /// The largest distance by which a store is ahead of the loads that follow it.
    fn lead(&self) -> i64 {
        let (mut lead, mut to_come) = (i64::MIN, self.loaded);
        for &(loaded, stored) in self.stores.iter().rev() {
            if to_come != i64::MAX {
                lead = lead.max(stored + 1 - to_come);
            }
            to_come = to_come.min(loaded);
        }
        lead
    }

    fn block(&mut self, body: &[Stmt]) {
        body.iter().for_each(|stmt| self.stmt(stmt));
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            // Functions that call vector instructions are not walked through.
            Stmt::Comment(_) | Stmt::Call { .. } => {}
            Stmt::For { var, count, body } if stores(body) => (0..*count).for_each(|i| {
                self.vars[var.0] = (i, i);
                self.block(body);
            }),
            Stmt::For { var, count, body } => {
                self.vars[var.0] = (0, count - 1);
                self.block(body);
            }
            Stmt::Taps { tap, at, start, count, dilation, extent, body } => {
                // Loads only: the taps inside of the axis all at once. No kernel stores under a window.
                let (lo, hi) = self.interval(start);
                let first = if lo < 0 { (-lo + dilation - 1) / dilation } else { 0 };
                let last = ((extent - 1 - hi) / dilation).min(count - 1);
                let inside = lo == hi && !stores(body);
                if inside && first > last {
                    return;
                }
                (self.vars[tap.0], self.vars[at.0]) = match inside {
                    true => ((first, last), (lo + first * dilation, lo + last * dilation)),
                    false => ((0, count - 1), (0, extent - 1)),
                };
                self.block(body);
            }
            Stmt::Let { value, .. } | Stmt::Set { value, .. } | Stmt::Accumulate { value, .. } => self.expr(value),
            Stmt::Mut { init, .. } => self.expr(init),
            Stmt::Store { buffer, index, value } => {
                self.expr(value);
                if *buffer == self.y {
                    let (_, stored) = self.interval(index);
                    self.stores.push((std::mem::replace(&mut self.loaded, i64::MAX), stored));
                }
            }
        }
    }

    fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Const(..) | Expr::Reg(_) | Expr::Index(_) | Expr::Call { .. } | Expr::Address(_) => {}
            Expr::Load(buffer, Index::Affine(index)) if *buffer == self.x => {
                self.loaded = self.loaded.min(self.interval(index).0);
            }
            Expr::Load(_, Index::Affine(_)) => {}
            Expr::Load(buffer, Index::Value(index)) => {
                if *buffer == self.x {
                    // It could be any element.
                    self.loaded = 0;
                }
                self.expr(index);
            }
            Expr::Shr(a, _) | Expr::Cast(_, a) => self.expr(a),
            Expr::Add(a, b)
            | Expr::Sub(a, b)
            | Expr::Mul(a, b)
            | Expr::Div(a, b)
            | Expr::Min(a, b)
            | Expr::Max(a, b) => {
                self.expr(a);
                self.expr(b);
            }
            Expr::Select { a, b, then, otherwise, .. } => {
                [a, b, then, otherwise].into_iter().for_each(|part| self.expr(part));
            }
        }
    }

    fn interval(&self, index: &Affine) -> (i64, i64) {
        index.terms.iter().fold((index.constant, index.constant), |(lo, hi), (var, &coefficient)| {
            let (a, b) = self.vars[var.0];
            let (a, b) = (a * coefficient, b * coefficient);
            (lo + a.min(b), hi + a.max(b))
        })
    }
}

/// Whether a block holds a store.
fn stores(body: &[Stmt]) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Store { .. } => true,
        Stmt::For { body, .. } | Stmt::Taps { body, .. } => stores(body),
        Stmt::Comment(_)
        | Stmt::Let { .. }
        | Stmt::Mut { .. }
        | Stmt::Set { .. }
        | Stmt::Accumulate { .. }
        | Stmt::Call { .. } => false,
    })
}
