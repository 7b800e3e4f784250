//! Recurrent layers: a loop over the steps, in it one over the units. The formulas stand at `QRecurrent`.
//!
//! Working memory holds 16-bit numbers: the hidden states, those of the next step (or what the reset gate leaves of them),
//! and one more number for each unit (the cell state, or the update gate).

use super::common::{Requantize, less};
use super::{LayerBuilder, strides};
use crate::ir::Interval;
use crate::ops::QuantOp;
use crate::ops::fits_i32;
use crate::ops::recurrent::{Blend, Kind, Output, QRecurrent, QState, RESET_MAX, SEGMENT, bounds};
use crate::plan::{Layer, Plan, Work};
use crate::program::{Affine, Buffer, Elem, Expr, FunctionBuilder, Type};

/// Largest magnitude of a state.
const STATE_MAX: i64 = 32767;

/// Bytes of working memory.
pub fn scratch(layer: &Layer, _plan: &Plan) -> usize {
    match &layer.work {
        Work::Operator(QuantOp::Recurrent(op)) => 3 * op.hidden * Elem::I16.bytes(),
        _ => 0,
    }
}

/// Builds the loops.
pub fn build(b: &mut LayerBuilder) {
    let (Some(QuantOp::Recurrent(op)), Some(scratch)) = (b.op(), b.scratch()) else { return };
    let kernel = Kernel::new(b, op, scratch);
    let same = op.lens.iter().all(|&len| len == op.lens[0]);
    match same {
        true => b.f.each("sample", op.batch(), |f, sample| kernel.sample(f, &sample, op.lens[0])),
        false => op.lens.iter().enumerate().for_each(|(sample, &len)| {
            b.f.comment(format!("Sequence {sample}."));
            kernel.sample(&mut b.f, &Affine::from(sample as i64), len);
        }),
    }
}

/// The layer's buffers and where things are in them.
struct Kernel<'a> {
    op: &'a QRecurrent,
    x: Buffer,
    x_strides: Vec<usize>,
    y: Buffer,
    y_strides: Vec<usize>,
    states: [Option<(Buffer, Vec<usize>)>; 2],
    constants: [Option<Buffer>; 2],
    scratch: Buffer,
    weights: [Buffer; 2],
    factors: [Buffer; 2],
    offsets: Buffer,
    recurrent_offsets: Option<Buffer>,
    peepholes: Option<Buffer>,
    points: Vec<Buffer>,
}

/// Parts of the working memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Hidden = 0,
    Next = 1,
    Other = 2,
}

/// The sums over inputs and hidden states of a gate.
#[derive(Debug, Clone)]
struct Sums {
    x: Expr,
    h: Expr,
}

impl<'a> Kernel<'a> {
    fn new(b: &mut LayerBuilder, op: &'a QRecurrent, scratch: Buffer) -> Kernel<'a> {
        let weights = |b: &mut LayerBuilder, name: &str, what: &str, weights: &[i8]| {
            let doc = format!("Weights of the {what}: a row for each gate and unit.");
            b.blob(name, doc, Elem::I8, weights.iter().map(|&w| w.into()).collect())
        };
        let weights = [weights(b, "input_weights", "inputs", &op.w), weights(b, "state_weights", "states", &op.r)];
        let column = |b: &mut LayerBuilder, name: &str, what: &str, part: fn(&crate::ops::recurrent::Row) -> i64| {
            let data: Vec<i64> = op.rows.iter().map(part).collect();
            let elem = if data.iter().all(|&value| i32::try_from(value).is_ok()) { Elem::I32 } else { Elem::I64 };
            b.blob(name, format!("{what}, one for each gate and unit."), elem, data)
        };
        let factors = [
            column(b, "input_factor", "Factors of the sums over inputs", |row| row.w_factor.into()),
            column(b, "state_factor", "Factors of the sums over states", |row| row.r_factor.into()),
        ];
        let offsets = column(b, "offset", "Biases, rounding included", |row| row.offset);
        let behind = op.kind == Kind::Gru { reset_behind: true };
        let recurrent_offsets =
            behind.then(|| column(b, "state_offset", "Biases of the states, rounding included", |row| row.r_offset));
        let peepholes =
            op.peepholes.then(|| column(b, "peephole", "Factors of the cell states", |row| row.peephole.into()));
        let points = op.curves.iter().enumerate().map(|(i, curve)| {
            let doc = format!(
                "Activation {}: from -2^{domain} to 2^{domain}, 2^{} is one.",
                ["f", "g", "h"][i],
                curve.bits,
                domain = curve.domain
            );
            let same = op.curves[..i].iter().position(|other| other == curve);
            let name = ["activation_f", "activation_g", "activation_h"][same.unwrap_or(i)];
            b.blob(name, doc, Elem::I16, curve.points.iter().map(|&point| point.into()).collect())
        });
        let points = points.collect();
        let constant = |b: &mut LayerBuilder, which: usize, name: &str| match &op.initial[which] {
            QState::Constant(values) => {
                let data = values.iter().map(|&value| value.into()).collect();
                Some(b.blob(name, "States at the start.", Elem::I16, data))
            }
            QState::Operand { .. } | QState::Zero => None,
        };
        let constants = [constant(b, 0, "initial_h"), constant(b, 1, "initial_c")];
        let state = |which: usize| match op.initial[which] {
            QState::Operand { port, .. } => Some((b.x(port), strides(&b.operand(port).view))),
            QState::Constant(_) | QState::Zero => None,
        };
        Kernel {
            op,
            x: b.x(0),
            x_strides: strides(&b.operand(0).view),
            y: b.y(),
            y_strides: strides(&b.result().view),
            states: [state(0), state(1)],
            constants,
            scratch,
            weights,
            factors,
            offsets,
            recurrent_offsets,
            peepholes,
            points,
        }
    }

    fn at(&self, part: Part, n: &Affine) -> Affine {
        n.clone() + (part as usize * self.op.hidden) as i64
    }

    fn load(&self, f: &FunctionBuilder, part: Part, n: &Affine) -> Expr {
        f.load(self.scratch, self.at(part, n)).cast(Type::I64)
    }

    fn store(&self, f: &mut FunctionBuilder, part: Part, n: &Affine, value: Expr) {
        f.store(self.scratch, self.at(part, n), saturated(value).cast(Type::I32));
    }

    /// One sequence.
    fn sample(&self, f: &mut FunctionBuilder, sample: &Affine, len: usize) {
        let op = self.op;
        self.start(f, sample, 0, Part::Hidden);
        if matches!(op.kind, Kind::Lstm { .. }) {
            self.start(f, sample, 1, Part::Other);
        }
        f.each("step", len, |f, step| {
            let step = if op.reverse { Affine::from(len as i64 - 1) + step * -1 } else { step };
            let x = step.clone() * self.x_strides[0] as i64 + sample.clone() * self.x_strides[1] as i64;
            self.step(f, &x);
            if op.output == Output::Sequence {
                let y = step * self.y_strides[0] as i64 + sample.clone() * self.y_strides[1] as i64;
                self.results(f, Part::Hidden, y, self.y_strides[2]);
            }
        });
        let y = sample.clone() * self.y_strides[usize::from(op.output == Output::Sequence)] as i64;
        match op.output {
            Output::Hidden => self.results(f, Part::Hidden, y, self.y_strides[1]),
            Output::Cell => self.results(f, Part::Other, y, self.y_strides[1]),
            Output::Sequence => f.each("step", op.steps - len, |f, step| {
                let y = y.clone() + (step + len as i64) * self.y_strides[0] as i64;
                f.each("n", op.hidden, |f, n| {
                    let zero = op.clamp.apply(op.output_zero);
                    f.store(self.y, y.clone() + n * self.y_strides[2] as i64, Expr::i32(zero.into()));
                });
            }),
        }
    }

    /// The states of a sequence at the start.
    fn start(&self, f: &mut FunctionBuilder, sample: &Affine, which: usize, part: Part) {
        let op = self.op;
        f.each("n", op.hidden, |f, n| {
            let value = match (&op.initial[which], &self.states[which]) {
                (QState::Operand { zero, multiplier, .. }, Some((buffer, strides))) => {
                    let at = sample.clone() * strides[0] as i64 + n.clone() * strides[1] as i64;
                    let distance = less(f.load(*buffer, at), *zero).cast(Type::I64);
                    distance.mul(Expr::i64(multiplier.factor())).add(Expr::i64(1 << 30)).shr(31)
                }
                _ => match self.constants[which] {
                    Some(table) => widened(f, table, sample.clone() * op.hidden as i64 + n.clone()),
                    None => Expr::i64(0),
                },
            };
            self.store(f, part, &n, value);
        });
    }

    /// One step; `x` is where its input begins.
    fn step(&self, f: &mut FunctionBuilder, x: &Affine) {
        match self.op.kind {
            Kind::Rnn => self.rnn(f, x),
            Kind::Gru { reset_behind: true } => self.gru_reset_behind(f, x),
            Kind::Gru { reset_behind: false } => return self.gru_reset_before(f, x),
            Kind::Lstm { coupled } => self.lstm(f, x, coupled),
        }
        f.each("n", self.op.hidden, |f, n| {
            let next = self.load(f, Part::Next, &n);
            self.store(f, Part::Hidden, &n, next);
        });
    }

    fn rnn(&self, f: &mut FunctionBuilder, x: &Affine) {
        f.each("n", self.op.hidden, |f, n| {
            let sums = self.sums(f, &[0], &n, x, Part::Hidden);
            let value = self.gate(f, 0, &n, &sums[0], None);
            self.store(f, Part::Next, &n, rescaled(value, self.op.curves[0].bits, self.op.hidden_bits));
        });
    }

    fn gru_reset_behind(&self, f: &mut FunctionBuilder, x: &Affine) {
        f.each("n", self.op.hidden, |f, n| {
            let sums = self.sums(f, &[0, 1, 2], &n, x, Part::Hidden);
            let z = self.gate(f, 0, &n, &sums[0], None);
            let r = self.gate(f, 1, &n, &sums[1], None);
            let row = self.row(2, &n);
            let behind = self.recurrent_offsets.map_or(Expr::i64(0), |offsets| widened(f, offsets, row.clone()));
            let recurrent = sums[2].h.clone().mul(widened(f, self.factors[1], row.clone())).add(behind);
            let recurrent = recurrent.shr(self.op.shift).max(Expr::i64(-RESET_MAX)).min(Expr::i64(RESET_MAX));
            let recurrent = f.bind("recurrent", Type::I64, recurrent);
            let input = sums[2].x.clone().mul(widened(f, self.factors[0], row.clone()));
            let input = input.add(widened(f, self.offsets, row)).shr(self.op.shift);
            let input = f.bind("input", Type::I64, input);
            let sum = input.add(rescaled(r.mul(recurrent), self.op.curves[0].bits, 0));
            let new = self.curve(f, 1, sum);
            self.gru_unit(f, &n, z, new, Part::Next);
        });
    }

    fn gru_reset_before(&self, f: &mut FunctionBuilder, x: &Affine) {
        let bits = self.op.curves[0].bits;
        f.each("n", self.op.hidden, |f, n| {
            let sums = self.sums(f, &[0, 1], &n, x, Part::Hidden);
            let z = self.gate(f, 0, &n, &sums[0], None);
            let r = self.gate(f, 1, &n, &sums[1], None);
            self.store(f, Part::Other, &n, z);
            let reset = r.mul(self.load(f, Part::Hidden, &n));
            self.store(f, Part::Next, &n, rescaled(reset, bits, 0));
        });
        f.each("n", self.op.hidden, |f, n| {
            let sums = self.sums(f, &[2], &n, x, Part::Next);
            let new = self.gate(f, 2, &n, &sums[0], None);
            let z = self.load(f, Part::Other, &n);
            self.gru_unit(f, &n, z, new, Part::Hidden);
        });
    }

    /// `(1 - z) new + z h`.
    fn gru_unit(&self, f: &mut FunctionBuilder, n: &Affine, z: Expr, new: Expr, to: Part) {
        let rest = Expr::i64(1 << self.op.curves[0].bits).sub(z.clone());
        let products = [rest.mul(new), z.mul(self.load(f, Part::Hidden, n))];
        let sum = f.bind("sum", Type::I64, blended(self.op.gru_blend(), products));
        self.store(f, to, n, rescaled(sum, self.op.gru_blend().bits, self.op.hidden_bits));
    }

    fn lstm(&self, f: &mut FunctionBuilder, x: &Affine, coupled: bool) {
        let op = self.op;
        let gates: &[usize] = if coupled { &[0, 1, 3] } else { &[0, 1, 2, 3] };
        f.each("n", op.hidden, |f, n| {
            let sums = self.sums(f, gates, &n, x, Part::Hidden);
            let c = self.load(f, Part::Other, &n);
            let i = self.gate(f, 0, &n, &sums[0], Some(c.clone()));
            let forget = match coupled {
                true => Expr::i64(1 << op.curves[0].bits).sub(i.clone()),
                false => self.gate(f, 2, &n, &sums[2], Some(c.clone())),
            };
            let new = self.gate(f, 3, &n, &sums[gates.len() - 1], None);
            let blend = op.cell_blend();
            let sum = f.bind("sum", Type::I64, blended(blend, [forget.mul(c), i.mul(new)]));
            let c = f.bind("cell", Type::I64, saturated(rescaled(sum, blend.bits, op.cell_bits)));
            self.store(f, Part::Other, &n, c.clone());
            let o = self.gate(f, 1, &n, &sums[1], Some(c.clone()));
            let argument = match op.cell_up() {
                up if up >= 0 => c.mul(Expr::i64(1 << up)),
                up => rescaled(c, up.unsigned_abs(), 0),
            };
            let shown = self.curve(f, 2, argument);
            self.store(
                f,
                Part::Next,
                &n,
                rescaled(o.mul(shown), op.curves[0].bits + op.curves[2].bits, op.hidden_bits),
            );
        });
    }

    /// Row of a gate and unit.
    fn row(&self, gate: usize, n: &Affine) -> Affine {
        n.clone() + (gate * self.op.hidden) as i64
    }

    /// The sums of some gates of a unit over the input and over a part of the working memory.
    fn sums(&self, f: &mut FunctionBuilder, gates: &[usize], n: &Affine, x: &Affine, states: Part) -> Vec<Sums> {
        let op = self.op;
        let x_type = sum_type(op.inputs, op.x_reach);
        let h_type = sum_type(op.hidden, STATE_MAX);
        let accumulators = |f: &mut FunctionBuilder, name: &str, ty: Type| {
            gates.iter().map(|gate| f.mutable(&format!("{name}{gate}"), ty, Expr::Const(ty, 0))).collect::<Vec<_>>()
        };
        let (x_sums, h_sums) = (accumulators(f, "input", x_type), accumulators(f, "state", h_type));
        f.each("i", op.inputs, |f, i| {
            let value = less(f.load(self.x, x.clone() + i.clone() * self.x_strides[2] as i64), op.x_zero);
            let value = f.bind("value", x_type, value.cast_to(x_type));
            for (sum, gate) in x_sums.iter().zip(gates) {
                let at = self.row(*gate, n) * op.inputs as i64 + i.clone();
                f.accumulate(*sum, f.load(self.weights[0], at).cast_to(x_type).mul(value.clone()));
            }
        });
        f.each("k", op.hidden, |f, k| {
            let value = f.load(self.scratch, self.at(states, &k)).cast_to(h_type);
            let value = f.bind("value", h_type, value.max(Expr::Const(h_type, -STATE_MAX)));
            for (sum, gate) in h_sums.iter().zip(gates) {
                let at = self.row(*gate, n) * op.hidden as i64 + k.clone();
                f.accumulate(*sum, f.load(self.weights[1], at).cast_to(h_type).mul(value.clone()));
            }
        });
        let wide = |reg, ty| if ty == Type::I64 { Expr::Reg(reg) } else { Expr::Reg(reg).cast(Type::I64) };
        let sums = x_sums.into_iter().zip(h_sums);
        sums.map(|(x, h)| Sums { x: wide(x, x_type), h: wide(h, h_type) }).collect()
    }

    /// The value of a gate; `cell` is the state for its peephole.
    fn gate(&self, f: &mut FunctionBuilder, gate: usize, n: &Affine, sums: &Sums, cell: Option<Expr>) -> Expr {
        let row = self.row(gate, n);
        let input = sums.x.clone().mul(widened(f, self.factors[0], row.clone()));
        let state = sums.h.clone().mul(widened(f, self.factors[1], row.clone()));
        let mut sum = input.add(state);
        if let (Some(cell), Some(peepholes)) = (cell, self.peepholes) {
            sum = sum.add(cell.mul(widened(f, peepholes, row.clone())));
        }
        let sum = sum.add(widened(f, self.offsets, row)).shr(self.op.shift);
        let new = matches!((self.op.kind, gate), (Kind::Gru { .. }, 2) | (Kind::Lstm { .. }, 3));
        self.curve(f, usize::from(new), sum)
    }

    /// The value of an activation, as `I64`.
    fn curve(&self, f: &mut FunctionBuilder, which: usize, argument: Expr) -> Expr {
        let (least, most) = bounds();
        let at = argument.max(Expr::i64(least)).min(Expr::i64(most)).sub(Expr::i64(least)).cast(Type::I32);
        let at = f.bind("at", Type::I32, at);
        let segment = f.bind("segment", Type::I32, at.clone().shr(SEGMENT));
        // The comparisons let the checker see what the difference of these two can be.
        let rest = at.sub(segment.clone().mul(Expr::i32(1 << SEGMENT)));
        let rest = f.bind("rest", Type::I32, rest.max(Expr::i32(0)).min(Expr::i32((1 << SEGMENT) - 1)));
        let first = f.bind("first", Type::I32, f.lookup(self.points[which], segment.clone()));
        let second = f.bind("second", Type::I32, f.lookup(self.points[which], segment.add(Expr::i32(1))));
        let slope = second.sub(first.clone()).mul(rest).add(Expr::i32(1 << (SEGMENT - 1))).shr(SEGMENT);
        f.bind("active", Type::I64, first.add(slope).cast(Type::I64))
    }

    /// Stores states as results.
    fn results(&self, f: &mut FunctionBuilder, part: Part, y: Affine, stride: usize) {
        let op = self.op;
        let bound = Interval::new(-32768, 32767);
        let requantize = Requantize::new(bound, &[op.multiplier], op.output_zero, op.clamp);
        f.each("n", op.hidden, |f, n| {
            let state = f.load(self.scratch, self.at(part, &n));
            let value = requantize.apply(f, state, Expr::i64(op.multiplier.factor()));
            f.store(self.y, y.clone() + n * stride as i64, value);
        });
    }
}

/// The type of a sum of so many products of a weight with a number of this magnitude.
fn sum_type(terms: usize, reach: i64) -> Type {
    let most = terms as i128 * 127 * i128::from(reach);
    if fits_i32(Interval::new(-most, most)) { Type::I32 } else { Type::I64 }
}

/// An element of a table of 32 or 64 bits, as `I64`.
fn widened(f: &FunctionBuilder, table: Buffer, at: Affine) -> Expr {
    f.load(table, at).cast(Type::I64)
}

fn saturated(value: Expr) -> Expr {
    value.max(Expr::i64(-STATE_MAX)).min(Expr::i64(STATE_MAX))
}

fn rescaled(value: Expr, from: u32, to: u32) -> Expr {
    match from.checked_sub(to) {
        Some(0) => value,
        Some(down) => value.add(Expr::i64(1 << (down - 1))).shr(down),
        None => value.mul(Expr::i64(1 << (to - from))),
    }
}

fn blended(blend: Blend, products: [Expr; 2]) -> Expr {
    let [a, b] = products;
    let up = |product: Expr, up: u32| if up == 0 { product } else { product.mul(Expr::i64(1 << up)) };
    up(a, blend.up[0]).add(up(b, blend.up[1]))
}
