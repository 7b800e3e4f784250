//! A recurrent cell on real numbers: the definition that the float model is executed with, and that calibration looks
//! into.

use super::rules::{Activation, Kind, Rules};

/// Weights and rules of one direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// Its equations.
    pub kind: Kind,
    /// Number of elements of an input.
    pub inputs: usize,
    /// Number of hidden units.
    pub hidden: usize,
    /// Input weights: for each gate and unit a row of `inputs`.
    pub w: Vec<f32>,
    /// Recurrent weights: for each gate and unit a row of `hidden`.
    pub r: Vec<f32>,
    /// Biases of the inputs, one for each gate and unit.
    pub w_bias: Vec<f32>,
    /// Biases of the recurrence; as many.
    pub r_bias: Vec<f32>,
    /// For each of the gates i, o, f one weight for each unit.
    pub peepholes: Option<Vec<f32>>,
    /// f, g, h.
    pub activations: Vec<Activation>,
    /// Bound of the sums that gates are computed from. Like ONNX Runtime, it does not clip cell states.
    pub clip: Option<f32>,
    /// Whether it goes from the end to the start.
    pub reverse: bool,
}

/// What calibration wants to know of the numbers inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Inside {
    /// Arguments of activations.
    Gate,
    /// Hidden states.
    Hidden,
    /// Cell states.
    Cell,
}

impl Inside {
    /// All of them, in the order of their names.
    pub const ALL: [Inside; 3] = [Inside::Gate, Inside::Hidden, Inside::Cell];

    /// What the name of the observed numbers ends with.
    pub fn name(self) -> &'static str {
        match self {
            Inside::Gate => "gate",
            Inside::Hidden => "hidden",
            Inside::Cell => "cell",
        }
    }
}

/// Results of a whole sequence, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Outputs {
    /// Hidden states after every step: steps, batch, units. 0 behind the end of a sequence.
    pub sequence: Vec<f32>,
    /// The last hidden states: batch, units.
    pub hidden: Vec<f32>,
    /// The last cell states; 0 if there are none.
    pub cell: Vec<f32>,
}

/// The parts of a direction as ONNX stores them, row-major; `None` where an input is left out.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// `W`, and its number of columns.
    pub w: (&'a [f32], usize),
    /// `R`, and its number of columns.
    pub r: (&'a [f32], usize),
    /// `B`.
    pub b: Option<&'a [f32]>,
    /// `P`.
    pub p: Option<&'a [f32]>,
}

impl Cell {
    /// All directions; the error is a sentence.
    pub fn all(rules: &Rules, parts: Parts) -> Result<Vec<Cell>, String> {
        let (hidden, inputs, directions) = (parts.r.1, parts.w.1, rules.reverse.len());
        let rows = rules.kind.gates() * hidden;
        let expect = |what: &str, len: usize, wanted: usize| match len == wanted * directions {
            true => Ok(()),
            false => Err(format!("{what} has {len} elements and needs {}", wanted * directions)),
        };
        if rules.hidden.is_some_and(|size| size != hidden) || hidden == 0 || inputs == 0 {
            return Err(format!("R has {hidden} columns, which is not hidden_size"));
        }
        expect("W", parts.w.0.len(), rows * inputs)?;
        expect("R", parts.r.0.len(), rows * hidden)?;
        parts.b.map_or(Ok(()), |b| expect("B", b.len(), 2 * rows))?;
        parts.p.map_or(Ok(()), |p| expect("P", p.len(), 3 * hidden))?;
        let cell = |direction: usize| {
            let part = |values: &[f32], len: usize| values[direction * len..][..len].to_vec();
            let biases = parts.b.map_or(vec![0.0; 2 * rows], |b| part(b, 2 * rows));
            Cell {
                kind: rules.kind,
                inputs,
                hidden,
                w: part(parts.w.0, rows * inputs),
                r: part(parts.r.0, rows * hidden),
                w_bias: biases[..rows].to_vec(),
                r_bias: biases[rows..].to_vec(),
                peepholes: parts.p.map(|p| part(p, 3 * hidden)),
                activations: rules.activations[direction].clone(),
                clip: rules.clip,
                reverse: rules.reverse[direction],
            }
        };
        Ok((0..directions).map(cell).collect())
    }

    /// Runs over sequences: `x` holds steps, batch, inputs; states hold batch, units. `lens` are the lengths of the
    /// sequences of the batch. `watch` sees the numbers inside.
    pub fn run(
        &self,
        x: &[f32],
        states: [&[f32]; 2],
        (steps, lens): (usize, &[usize]),
        watch: &mut dyn FnMut(Inside, f64),
    ) -> Outputs {
        let (batch, units) = (lens.len(), self.hidden);
        let mut outputs = Outputs { sequence: vec![0.0; steps * batch * units], hidden: vec![], cell: vec![] };
        for (sample, &len) in lens.iter().enumerate() {
            let state = |port: usize| -> Vec<f64> {
                states[port][sample * units..][..units].iter().copied().map(f64::from).collect()
            };
            let (mut h, mut c) = (state(0), state(1));
            h.iter().for_each(|&h| watch(Inside::Hidden, h));
            c.iter().for_each(|&c| watch(Inside::Cell, c));
            for step in 0..len {
                let at = (if self.reverse { len - 1 - step } else { step }) * batch + sample;
                self.step(&x[at * self.inputs..][..self.inputs], &mut h, &mut c, watch);
                for (y, &h) in outputs.sequence[at * units..].iter_mut().zip(&h) {
                    *y = h as f32;
                }
            }
            outputs.hidden.extend(h.iter().map(|&h| h as f32));
            outputs.cell.extend(c.iter().map(|&c| c as f32));
        }
        outputs
    }

    fn step(&self, x: &[f32], h: &mut Vec<f64>, c: &mut [f64], watch: &mut dyn FnMut(Inside, f64)) {
        let next = match self.kind {
            Kind::Rnn => (0..self.hidden)
                .map(|n| {
                    let sum = self.input(0, n, x) + self.recurrent(0, n, h);
                    self.activate(0, sum, watch)
                })
                .collect(),
            Kind::Gru { reset_behind } => self.gru(x, h, reset_behind, watch),
            Kind::Lstm { coupled } => self.lstm(x, h, c, coupled, watch),
        };
        *h = next;
        h.iter().for_each(|&h| watch(Inside::Hidden, h));
        if matches!(self.kind, Kind::Lstm { .. }) {
            c.iter().for_each(|&c| watch(Inside::Cell, c));
        }
    }

    fn gru(&self, x: &[f32], h: &[f64], reset_behind: bool, watch: &mut dyn FnMut(Inside, f64)) -> Vec<f64> {
        let mut gate = |gate: usize| -> Vec<f64> {
            let sum = |n: usize| self.input(gate, n, x) + self.recurrent(gate, n, h);
            (0..self.hidden).map(|n| self.activate(0, sum(n), watch)).collect()
        };
        let (z, r) = (gate(0), gate(1));
        let reset: Vec<f64> = h.iter().zip(&r).map(|(h, r)| h * r).collect();
        let new = |n: usize| match reset_behind {
            true => self.input(2, n, x) + r[n] * self.recurrent(2, n, h),
            false => self.input(2, n, x) + self.recurrent(2, n, &reset),
        };
        let sums: Vec<f64> = (0..self.hidden).map(new).collect();
        let n = sums.into_iter().map(|sum| self.activate(1, sum, watch));
        n.enumerate().map(|(i, n)| (1.0 - z[i]) * n + z[i] * h[i]).collect()
    }

    fn lstm(&self, x: &[f32], h: &[f64], c: &mut [f64], coupled: bool, watch: &mut dyn FnMut(Inside, f64)) -> Vec<f64> {
        let peephole = |gate: usize, n: usize| {
            self.peepholes.as_ref().map_or(0.0, |weights| f64::from(weights[gate * self.hidden + n]))
        };
        let sum = |gate: usize, n: usize| self.input(gate, n, x) + self.recurrent(gate, n, h);
        (0..self.hidden)
            .map(|n| {
                let i = self.activate(0, sum(0, n) + peephole(0, n) * c[n], watch);
                let f = match coupled {
                    true => 1.0 - i,
                    false => self.activate(0, sum(2, n) + peephole(2, n) * c[n], watch),
                };
                c[n] = f * c[n] + i * self.activate(1, sum(3, n), watch);
                let o = self.activate(0, sum(1, n) + peephole(1, n) * c[n], watch);
                o * self.activations[2].apply(c[n])
            })
            .collect()
    }

    fn activate(&self, which: usize, sum: f64, watch: &mut dyn FnMut(Inside, f64)) -> f64 {
        watch(Inside::Gate, sum);
        let clip = self.clip.map_or(f64::INFINITY, f64::from);
        self.activations[which].apply(sum.clamp(-clip, clip))
    }

    fn input(&self, gate: usize, n: usize, x: &[f32]) -> f64 {
        let row = gate * self.hidden + n;
        let products = self.w[row * self.inputs..].iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
        f64::from(self.w_bias[row]) + products.sum::<f64>()
    }

    fn recurrent(&self, gate: usize, n: usize, h: &[f64]) -> f64 {
        let row = gate * self.hidden + n;
        let products = self.r[row * self.hidden..].iter().zip(h).map(|(&r, &h)| f64::from(r) * h);
        f64::from(self.r_bias[row]) + products.sum::<f64>()
    }
}
