//! Recurrent layers: `RNN`, `GRU`, `LSTM`, one operator for each direction. The time loop stays a loop.
//!
//! States have 16 bits inside, whatever the results have; nothing between two steps is rounded to 8 bits.

mod cell;
mod curve;
mod export;
mod import;
mod integer;
mod rules;

pub use cell::{Cell, Inside, Outputs, Parts};
pub use curve::{ARGUMENT, Curve, SEGMENT, bounds};
pub use import::import;
pub use integer::{Blend, QRecurrent, QState, RESET_MAX, Row};
pub use rules::{Activation, Kind, Rules};

use super::export::Export;
use super::{ExportSite, FloatOperator, Problem, QuantOp, Site, weighted};
use crate::ir::{Multiplier, Shape, round_half_even};

/// What the result of a recurrent operator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Hidden states after every step: steps, batch, units.
    Sequence,
    /// The last hidden states: batch, units.
    Hidden,
    /// The last cell states: batch, units.
    Cell,
}

/// Where a state begins.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// At these numbers: batch, units.
    Constant(Vec<f32>),
    /// At the operand with this number.
    Operand(usize),
}

/// One direction of a recurrent layer. Its operands are `x` (steps, batch, inputs) and states (batch, units).
#[derive(Debug, Clone)]
pub struct Recurrent {
    /// Weights and equations.
    pub cell: Cell,
    /// Number of steps of `x`.
    pub steps: usize,
    /// For each sample of the batch the length of its sequence.
    pub lens: Vec<usize>,
    /// What the result is.
    pub output: Output,
    /// Where hidden and cell states begin.
    pub initial: [State; 2],
    /// What the ranges of the numbers inside are called, in front of `#` and [`Inside::name`].
    pub name: String,
}

/// Largest magnitude of a quantized weight.
const WEIGHT_MAX: f32 = 127.0;

/// Most fractional bits of a gate's sum below those of an activation's argument.
const MAX_SHIFT: u32 = 30;

/// How far gates' sums that no sample has shown may go beyond those that one has.
const HEADROOM: f64 = 1.25;

impl Recurrent {
    /// Name of the range of numbers inside.
    pub fn inside(&self, what: Inside) -> String {
        format!("{}#{}", self.name, what.name())
    }

    /// Largest magnitude that calibration has seen inside.
    fn seen(&self, site: &Site, what: Inside) -> Option<f64> {
        let entry = site.ranges.entry(&self.inside(what))?;
        let seen = entry.observed.map_or(entry.range.magnitude(), |seen| seen.max().max(-seen.min()));
        Some(f64::from(seen))
    }

    /// Largest magnitude of a state at the start.
    fn start(&self, site: &Site, which: usize) -> Result<f64, Problem> {
        Ok(match &self.initial[which] {
            State::Constant(values) => values.iter().fold(0.0, |most, value| f64::from(value.abs()).max(most)),
            State::Operand(port) => {
                let (params, dtype) = (site.operand_params(*port)?, site.operands[*port].dtype);
                params.dequantize(dtype.min()).abs().max(params.dequantize(dtype.max()).abs())
            }
        })
    }

    /// Largest magnitude of an argument of the gates: what was seen, or else what weights and inputs allow.
    fn gate_magnitude(&self, site: &Site, hidden: f64, cell: f64) -> Result<f64, Problem> {
        if let Some(seen) = self.seen(site, Inside::Gate) {
            return Ok(seen * HEADROOM);
        }
        let (params, dtype) = (site.operand_params(0)?, site.operands[0].dtype);
        let x = params.dequantize(dtype.min()).abs().max(params.dequantize(dtype.max()).abs());
        let total = |row: &[f32]| row.iter().map(|w| f64::from(w.abs())).sum::<f64>();
        let rows = self.cell.w.chunks(self.cell.inputs).zip(self.cell.r.chunks(self.cell.hidden));
        let biases = self.cell.w_bias.iter().zip(&self.cell.r_bias).map(|(w, r)| f64::from(w.abs() + r.abs()));
        let sums = rows.zip(biases).map(|((w, r), bias)| total(w) * x + total(r) * hidden + bias);
        let peephole = self.cell.peepholes.iter().flatten().fold(0.0f32, |most, p| p.abs().max(most));
        Ok(sums.fold(0.0, f64::max) + f64::from(peephole) * cell)
    }

    /// Largest magnitudes of hidden and cell states.
    fn magnitudes(&self, site: &Site, gates: f64) -> Result<(f64, f64), Problem> {
        let curve = |which: usize| Curve::new(self.cell.activations[which], gates, self.cell.clip);
        let (h, c) = (self.start(site, 0)?, self.start(site, 1)?);
        let share = curve(0).is_share();
        let steps = self.lens.iter().copied().max().unwrap_or(0) as f64;
        Ok(match self.cell.kind {
            // Nothing but the activation's values.
            Kind::Rnn => (curve(0).magnitude().max(h), 0.0),
            // Between the activation's values and the state before.
            Kind::Gru { .. } if share => (curve(1).magnitude().max(h), 0.0),
            Kind::Gru { .. } => {
                (self.seen(site, Inside::Hidden).map_or(2f64.powi(15), |seen| seen * HEADROOM).max(h), 0.0)
            }
            Kind::Lstm { .. } => {
                let most = if share { c + steps * curve(1).magnitude() } else { 2f64.powi(15) };
                let cell = self.seen(site, Inside::Cell).map_or(most, |seen| (seen * HEADROOM).min(most)).max(c);
                let output = Curve::new(self.cell.activations[2], cell, None);
                ((curve(0).magnitude() * output.magnitude()).max(h), cell)
            }
        })
    }

    /// Activations, and fractional bits of hidden and cell states.
    fn formats(&self, site: &Site) -> Result<(Vec<Curve>, u32, u32), Problem> {
        // Bounds of gates and states depend on each other; without calibration the states are taken to be at most 1.
        let gates = self.gate_magnitude(site, self.start(site, 0)?.max(1.0), self.start(site, 1)?.max(1.0))?;
        let (hidden, cell) = self.magnitudes(site, gates)?;
        let gates = self.gate_magnitude(site, hidden, cell)?;
        let reach = |which: usize| if which == 2 { (cell, None) } else { (gates, self.cell.clip) };
        let curves = self.cell.activations.iter().enumerate();
        let curves = curves.map(|(which, &f)| {
            let (magnitude, clip) = reach(which);
            Curve::new(f, magnitude, clip)
        });
        let curves = curves.collect();
        Ok((curves, curve::fraction(hidden), curve::fraction(cell)))
    }

    fn states(&self, site: &Site, bits: [u32; 2]) -> Result<[QState; 2], Problem> {
        let state = |which: usize| {
            let one = f64::from(1u32 << bits[which]);
            Ok(match &self.initial[which] {
                State::Constant(values) if values.iter().all(|&value| value == 0.0) => QState::Zero,
                State::Constant(values) => {
                    let steps = |value: &f32| round_half_even(f64::from(*value) * one).clamp(-32767, 32767) as i32;
                    QState::Constant(values.iter().map(steps).collect())
                }
                State::Operand(port) => {
                    let params = site.operand_params(*port)?;
                    let multiplier = Multiplier::new(params.scale.get() * one).ok_or_else(weighted::too_narrow)?;
                    QState::Operand { port: *port, zero: params.zero_point, multiplier }
                }
            })
        };
        Ok([state(0)?, state(1)?])
    }
}

/// What the shape of `x` and of the states has to be, and the shape of the result.
fn infer(
    operands: &[&Shape],
    (steps, batch, inputs): (usize, usize, usize),
    hidden: usize,
    output: Output,
) -> Result<Shape, String> {
    let expect = |operand: &Shape, dims: &[usize]| match operand.dims() == dims {
        true => Ok(()),
        false => Err(format!("an operand of shape {operand} should have shape {}", Shape::new(dims))),
    };
    expect(operands[0], &[steps, batch, inputs])?;
    operands[1..].iter().try_for_each(|state| expect(state, &[batch, hidden]))?;
    Ok(match output {
        Output::Sequence => Shape::new([steps, batch, hidden]),
        Output::Hidden | Output::Cell => Shape::new([batch, hidden]),
    })
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Rnn => "Rnn",
        Kind::Gru { .. } => "Gru",
        Kind::Lstm { .. } => "Lstm",
    }
}

/// Rows of weights, symmetric, each with the real value of a step.
fn quantized(weights: &[f32], row_len: usize) -> (Vec<i8>, Vec<f64>) {
    let mut quantized = Vec::with_capacity(weights.len());
    let mut scales = vec![];
    for row in weights.chunks(row_len) {
        let largest = row.iter().fold(0.0f32, |most, w| w.abs().max(most));
        let scale = f64::from(largest) / f64::from(WEIGHT_MAX);
        let step = if scale.is_normal() { scale } else { 1.0 };
        quantized.extend(row.iter().map(|&w| (f64::from(w) / step).round_ties_even().clamp(-127.0, 127.0) as i8));
        scales.push(step);
    }
    (quantized, scales)
}

/// What a row's numbers are in real terms: from each sum to an argument, in units of the argument's step.
struct RealRow {
    factors: [f64; 3],
    offset: f64,
    r_offset: f64,
}

impl RealRow {
    /// With `shift` more fractional bits; `None` if something does not fit.
    fn at(&self, shift: u32) -> Option<Row> {
        let one = f64::from(1u32 << shift);
        let factor = |factor: f64| i32::try_from(round_half_even(factor * one)).ok();
        let half = (1i64 << shift) >> 1;
        let offset = |offset: f64| {
            let steps = offset * one;
            (steps.abs() < 2f64.powi(60)).then(|| round_half_even(steps) + half)
        };
        let [w_factor, r_factor, peephole] = self.factors;
        Some(Row {
            w_factor: factor(w_factor)?,
            r_factor: factor(r_factor)?,
            peephole: factor(peephole)?,
            offset: offset(self.offset)?,
            r_offset: offset(self.r_offset)?,
        })
    }
}

impl FloatOperator for Recurrent {
    fn kind(&self) -> &'static str {
        kind_name(self.cell.kind)
    }

    fn arity(&self) -> Option<usize> {
        Some(1 + self.initial.iter().filter(|state| matches!(state, State::Operand(_))).count())
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands, (self.steps, self.lens.len(), self.cell.inputs), self.cell.hidden, self.output)
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        site.expect_int8(FloatOperator::kind(self))?;
        let (x, y) = (site.operand_params(0)?, site.result_params());
        let (curves, hidden_bits, cell_bits) = self.formats(site)?;
        let cell = &self.cell;
        let ((w, w_scales), (r, r_scales)) = (quantized(&cell.w, cell.inputs), quantized(&cell.r, cell.hidden));
        let state = |bits: u32| 0.5f64.powi(bits as i32);
        let real = |index: usize| {
            let gate = index / cell.hidden;
            let curve = usize::from(matches!((cell.kind, gate), (Kind::Gru { .. }, 2) | (Kind::Lstm { .. }, 3)));
            let one = 2f64.powi(curves[curve].argument_bits());
            let weight =
                |gate: usize| cell.peepholes.as_ref().map_or(0.0, |p| p[gate * cell.hidden + index % cell.hidden]);
            let peephole = if gate < 3 { f64::from(weight(gate)) } else { 0.0 };
            let (w_bias, r_bias) = (f64::from(cell.w_bias[index]), f64::from(cell.r_bias[index]));
            // Where the reset gate multiplies the recurrent part alone, its bias stays with it.
            let apart = matches!((cell.kind, gate), (Kind::Gru { reset_behind: true }, 2));
            RealRow {
                factors: [
                    x.scale.get() * w_scales[index] * one,
                    state(hidden_bits) * r_scales[index] * one,
                    state(cell_bits) * peephole * one,
                ],
                offset: (if apart { w_bias } else { w_bias + r_bias }) * one,
                r_offset: if apart { r_bias * one } else { 0.0 },
            }
        };
        let real: Vec<RealRow> = (0..cell.kind.gates() * cell.hidden).map(real).collect();
        let dtype = site.operands[0].dtype;
        let x_reach = i64::from((dtype.max() - x.zero_point).max(x.zero_point - dtype.min()));
        let sums = [cell.inputs as i64 * 127 * x_reach, cell.hidden as i64 * 127 * 32767, 32767];
        let rows = (0..=MAX_SHIFT).rev().find_map(|shift| {
            let rows: Vec<Row> = real.iter().map(|row| row.at(shift)).collect::<Option<_>>()?;
            (reach(&rows, sums) < 1 << 62).then_some((shift, rows))
        });
        let (shift, rows) = rows.ok_or_else(weighted::too_narrow)?;
        let bits = if self.output == Output::Cell { cell_bits } else { hidden_bits };
        let multiplier = Multiplier::new(state(bits) / y.scale.get()).ok_or_else(weighted::too_narrow)?;
        let op = QRecurrent {
            kind: cell.kind,
            inputs: cell.inputs,
            hidden: cell.hidden,
            steps: self.steps,
            lens: self.lens.clone(),
            reverse: cell.reverse,
            output: self.output,
            w,
            r,
            peepholes: rows.iter().any(|row| row.peephole != 0),
            rows,
            shift,
            x_zero: x.zero_point,
            x_reach,
            curves,
            hidden_bits,
            cell_bits,
            initial: self.states(site, [hidden_bits, cell_bits])?,
            multiplier,
            output_zero: y.zero_point,
            clamp: crate::ir::Clamp::full(site.result.dtype),
        };
        Ok(op.into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        Ok(self.written(export, site))
    }

    fn describe(&self) -> String {
        let direction = if self.cell.reverse { ", reverse" } else { "" };
        let (inputs, hidden) = (self.cell.inputs, self.cell.hidden);
        format!("{inputs} inputs, {hidden} units, {} steps{direction}, {:?}", self.steps, self.output)
    }
}

/// The largest magnitude of a gate's sum, any factor of a row with any other: as the checker of the emitted loops sees it.
fn reach(rows: &[Row], sums: [i64; 3]) -> i128 {
    let most = |part: fn(&Row) -> i64| rows.iter().map(|row| i128::from(part(row)).abs()).max().unwrap_or(0);
    let factors = [most(|row| row.w_factor.into()), most(|row| row.r_factor.into()), most(|row| row.peephole.into())];
    let products: i128 = factors.into_iter().zip(sums).map(|(factor, sum)| factor * i128::from(sum)).sum();
    products + most(|row| row.offset).max(most(|row| row.r_offset))
}
