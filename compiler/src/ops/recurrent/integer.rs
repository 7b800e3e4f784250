//! A recurrent layer on integers: 8-bit inputs and weights, 16-bit hidden and cell states, activations from tables.

use super::curve::Curve;
use super::rules::Kind;
use super::{Output, infer};
use crate::ir::{Clamp, Multiplier, QuantType, Shape};
use crate::ops::{Operand, QuantOperator};

/// Largest magnitude of a state.
const STATE_MAX: i64 = 32767;

/// Bound of what the reset gate of a GRU is multiplied with: 64 times the ends of the activation's table.
pub const RESET_MAX: i64 = 1 << 28;

/// The same as [`super::Recurrent`] on integers. `h` and `c` are states with `hidden_bits` and `cell_bits` fractional bits;
/// `p(a, b)` is a product of two numbers with so many bits rounded to those of the result. For each step and each unit,
/// with a row of each weight matrix for each gate:
///
/// ```text
/// gate = f((w_factor * sum of w * (x - x_zero) + r_factor * sum of r * h + peephole * c + offset) >> shift)
/// ```
///
/// where `f` is a [`Curve`]. States are rounded to nearest, and saturate.
#[derive(Debug, Clone)]
pub struct QRecurrent {
    /// The equations.
    pub kind: Kind,
    /// Number of elements of an input.
    pub inputs: usize,
    /// Number of hidden units.
    pub hidden: usize,
    /// Number of steps of `x`.
    pub steps: usize,
    /// For each sample of the batch the length of its sequence.
    pub lens: Vec<usize>,
    /// Whether it goes from the end to the start.
    pub reverse: bool,
    /// What the result is.
    pub output: Output,
    /// Input weights: for each gate and unit a row of `inputs`.
    pub w: Vec<i8>,
    /// Recurrent weights: for each gate and unit a row of `hidden`.
    pub r: Vec<i8>,
    /// For each gate and unit.
    pub rows: Vec<Row>,
    /// Whether some row has a peephole.
    pub peepholes: bool,
    /// Fractional bits of a gate's sum below those of an activation's argument.
    pub shift: u32,
    /// The integer that stands for 0 in the input.
    pub x_zero: i32,
    /// The largest magnitude of `x - x_zero`.
    pub x_reach: i64,
    /// The activations f, g, h.
    pub curves: Vec<Curve>,
    /// Fractional bits of hidden states.
    pub hidden_bits: u32,
    /// Fractional bits of cell states.
    pub cell_bits: u32,
    /// Where hidden and cell states begin.
    pub initial: [QState; 2],
    /// From state to result.
    pub multiplier: Multiplier,
    /// The integer that stands for 0 in the result.
    pub output_zero: i32,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// A row of weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Row {
    /// From the sum over inputs to an argument.
    pub w_factor: i32,
    /// From the sum over hidden states to an argument.
    pub r_factor: i32,
    /// From the cell state to an argument.
    pub peephole: i32,
    /// Bias, and one half.
    pub offset: i64,
    /// Bias of the recurrence, and one half, where the reset gate comes behind it.
    pub r_offset: i64,
}

/// Where a state begins.
#[derive(Debug, Clone, PartialEq)]
pub enum QState {
    /// At 0.
    Zero,
    /// At these states: batch, units.
    Constant(Vec<i32>),
    /// At an operand: `multiplier(q - zero)`.
    Operand {
        /// The operand.
        port: usize,
        /// The integer that stands for 0 in it.
        zero: i32,
        /// From operand to state.
        multiplier: Multiplier,
    },
}

/// A state within 16 bits, symmetric.
pub fn saturated(value: i64) -> i64 {
    value.clamp(-STATE_MAX, STATE_MAX)
}

/// `value` with `from` fractional bits, rounded to `to` of them.
pub fn rescaled(value: i64, from: u32, to: u32) -> i64 {
    match from.checked_sub(to) {
        Some(0) => value,
        Some(down) => (value + (1 << (down - 1))) >> down,
        None => value << (to - from),
    }
}

/// Two products and how they are joined: both are brought to `bits` fractional bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blend {
    /// Shifts to the left of the two products.
    pub up: [u32; 2],
    /// Fractional bits of the sum.
    pub bits: u32,
}

impl Blend {
    /// Of products with so many fractional bits.
    pub fn of(products: [u32; 2]) -> Blend {
        let bits = products[0].max(products[1]);
        Blend { up: products.map(|own| bits - own), bits }
    }

    /// The sum.
    pub fn sum(self, products: [i64; 2]) -> i64 {
        (products[0] << self.up[0]) + (products[1] << self.up[1])
    }
}

impl QRecurrent {
    /// Number of samples.
    pub fn batch(&self) -> usize {
        self.lens.len()
    }

    /// How the states of a GRU are joined: `(1 - z) n` and `z h`.
    pub fn gru_blend(&self) -> Blend {
        Blend::of([self.curves[0].bits + self.curves[1].bits, self.curves[0].bits + self.hidden_bits])
    }

    /// How the cell states of an LSTM are joined: `f c` and `i g`.
    pub fn cell_blend(&self) -> Blend {
        Blend::of([self.curves[0].bits + self.cell_bits, self.curves[0].bits + self.curves[1].bits])
    }

    fn x_sum(&self, row: usize, x: &[i32]) -> i64 {
        let products = self.w[row * self.inputs..].iter().zip(x);
        products.map(|(&w, &x)| i64::from(w) * i64::from(x - self.x_zero)).sum()
    }

    fn h_sum(&self, row: usize, h: &[i64]) -> i64 {
        self.r[row * self.hidden..].iter().zip(h).map(|(&r, &h)| i64::from(r) * h).sum()
    }

    /// The argument of a gate's activation.
    fn argument(&self, gate: usize, n: usize, x: &[i32], h: &[i64], c: i64) -> i64 {
        let index = gate * self.hidden + n;
        let row = &self.rows[index];
        let sum = self.x_sum(index, x) * i64::from(row.w_factor)
            + self.h_sum(index, h) * i64::from(row.r_factor)
            + c * i64::from(row.peephole)
            + row.offset;
        sum >> self.shift
    }

    fn gate(&self, gate: usize, n: usize, x: &[i32], h: &[i64], c: i64) -> i64 {
        let curve = usize::from(matches!((self.kind, gate), (Kind::Gru { .. }, 2) | (Kind::Lstm { .. }, 3)));
        i64::from(self.curves[curve].apply(self.argument(gate, n, x, h, c)))
    }

    fn step(&self, x: &[i32], h: &mut Vec<i64>, c: &mut [i64]) {
        let next = match self.kind {
            Kind::Rnn => (0..self.hidden)
                .map(|n| saturated(rescaled(self.gate(0, n, x, h, 0), self.curves[0].bits, self.hidden_bits)))
                .collect(),
            Kind::Gru { reset_behind: true } => {
                (0..self.hidden).map(|n| self.gru_unit(n, x, h, self.reset_behind(n, x, h))).collect()
            }
            Kind::Gru { reset_behind: false } => {
                let bits = self.curves[0].bits;
                let reset: Vec<i64> =
                    (0..self.hidden).map(|n| saturated(rescaled(self.gate(1, n, x, h, 0) * h[n], bits, 0))).collect();
                (0..self.hidden).map(|n| self.gru_unit(n, x, h, self.gate(2, n, x, &reset, 0))).collect()
            }
            Kind::Lstm { coupled } => (0..self.hidden).map(|n| self.lstm_unit(n, x, h, c, coupled)).collect(),
        };
        *h = next;
    }

    /// `n` of a GRU whose reset gate comes behind the recurrent product.
    fn reset_behind(&self, n: usize, x: &[i32], h: &[i64]) -> i64 {
        let index = 2 * self.hidden + n;
        let row = &self.rows[index];
        let recurrent = (self.h_sum(index, h) * i64::from(row.r_factor) + row.r_offset) >> self.shift;
        let reset = self.gate(1, n, x, h, 0) * recurrent.clamp(-RESET_MAX, RESET_MAX);
        let input = (self.x_sum(index, x) * i64::from(row.w_factor) + row.offset) >> self.shift;
        i64::from(self.curves[1].apply(input + rescaled(reset, self.curves[0].bits, 0)))
    }

    fn gru_unit(&self, n: usize, x: &[i32], h: &[i64], new: i64) -> i64 {
        let z = self.gate(0, n, x, h, 0);
        let blend = self.gru_blend();
        let sum = blend.sum([((1 << self.curves[0].bits) - z) * new, z * h[n]]);
        saturated(rescaled(sum, blend.bits, self.hidden_bits))
    }

    fn lstm_unit(&self, n: usize, x: &[i32], h: &[i64], c: &mut [i64], coupled: bool) -> i64 {
        let i = self.gate(0, n, x, h, c[n]);
        let f = if coupled { (1 << self.curves[0].bits) - i } else { self.gate(2, n, x, h, c[n]) };
        let blend = self.cell_blend();
        let sum = blend.sum([f * c[n], i * self.gate(3, n, x, h, c[n])]);
        c[n] = saturated(rescaled(sum, blend.bits, self.cell_bits));
        let o = self.gate(1, n, x, h, c[n]);
        let argument = self.cell_argument(c[n]);
        let product = o * i64::from(self.curves[2].apply(argument));
        saturated(rescaled(product, self.curves[0].bits + self.curves[2].bits, self.hidden_bits))
    }

    /// A cell state as an argument of the activation h.
    fn cell_argument(&self, c: i64) -> i64 {
        match self.cell_up() {
            up if up >= 0 => c << up,
            up => rescaled(c, up.unsigned_abs(), 0),
        }
    }

    /// By how many bits a cell state is shifted to the left to be an argument of the activation h.
    pub fn cell_up(&self) -> i32 {
        self.curves[2].argument_bits() - self.cell_bits as i32
    }

    fn start(&self, which: usize, sample: usize, operands: &[Operand]) -> Vec<i64> {
        let at = |n: usize| sample * self.hidden + n;
        let value = |n: usize| match &self.initial[which] {
            QState::Zero => 0,
            QState::Constant(values) => i64::from(values[at(n)]),
            QState::Operand { port, zero, multiplier } => {
                saturated(i64::from(multiplier.apply(operands[*port].data[at(n)] - zero)))
            }
        };
        (0..self.hidden).map(value).collect()
    }

    fn result(&self, state: i64) -> i32 {
        self.clamp.apply(self.output_zero + self.multiplier.apply(state as i32))
    }
}

impl QuantOperator for QRecurrent {
    fn kind(&self) -> &'static str {
        super::kind_name(self.kind)
    }

    fn arity(&self) -> Option<usize> {
        Some(1 + self.initial.iter().filter(|state| matches!(state, QState::Operand { .. })).count())
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands, (self.steps, self.batch(), self.inputs), self.hidden, self.output)
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let (batch, units) = (self.batch(), self.hidden);
        let mut y = vec![self.result(0); result.shape.len()];
        for (sample, &len) in self.lens.iter().enumerate() {
            let (mut h, mut c) = (self.start(0, sample, operands), self.start(1, sample, operands));
            for step in 0..len {
                let at = (if self.reverse { len - 1 - step } else { step }) * batch + sample;
                self.step(&operands[0].data[at * self.inputs..][..self.inputs], &mut h, &mut c);
                if self.output == Output::Sequence {
                    h.iter().enumerate().for_each(|(n, &h)| y[at * units + n] = self.result(h));
                }
            }
            let last = match self.output {
                Output::Sequence => continue,
                Output::Hidden => h,
                Output::Cell => c,
            };
            last.iter().enumerate().for_each(|(n, &state)| y[sample * units + n] = self.result(state));
        }
        y
    }

    fn describe(&self) -> String {
        let curves: Vec<String> =
            self.curves.iter().map(|curve| format!("2^{} {}b", curve.domain, curve.bits)).collect();
        format!(
            "{} inputs, {} units, {} steps, batch {}{}, {:?}; sums >> {}, activations {}, states {} and {} bits, y{:+} clamp {}",
            self.inputs,
            self.hidden,
            self.steps,
            self.batch(),
            if self.reverse { ", reverse" } else { "" },
            self.output,
            self.shift,
            curves.join(", "),
            self.hidden_bits,
            self.cell_bits,
            self.output_zero,
            self.clamp
        )
    }

    fn formula(&self) -> String {
        format!("{} inputs, {} units, {} steps; states have 16 bits", self.inputs, self.hidden, self.steps)
    }

    fn macs(&self, _result: &Shape) -> u64 {
        let steps: usize = self.lens.iter().sum();
        (steps * self.kind.gates() * self.hidden * (self.inputs + self.hidden)) as u64
    }
}
