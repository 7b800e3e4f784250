//! Import of `RNN`, `GRU` and `LSTM`: directions become operators of their own, layouts become transposes.

use super::{Cell, Output, Parts, Recurrent, Rules, State};
use crate::diag;
use crate::ir::{FloatTensor, NodeId, Shape};
use crate::ops::concat::Concat;
use crate::ops::import::{NodeImport, Value};
use crate::ops::reshape::Reshape;
use crate::ops::slice::Slice;
use crate::ops::transpose::Transpose;

/// Imports `RNN`, `GRU` and `LSTM`.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    let rules = Rules::of(cx.node).map_err(|problem| cx.invalid(problem))?;
    let mut x = cx.activation(0)?;
    if cx.shape(x).rank() != 3 {
        return Err(cx.invalid(format!("its input has shape {}, three axes are needed", cx.shape(x))));
    }
    if rules.batch_first {
        x = cx.emit(Transpose { order: vec![1, 0, 2] }, &[x])?;
    }
    let (steps, batch) = (cx.shape(x).dims()[0], cx.shape(x).dims()[1]);
    let lens = lens(cx, steps, batch)?;
    let cells = cells(cx, &rules)?;
    let mut outputs: [Vec<NodeId>; 3] = Default::default();
    for (direction, cell) in cells.into_iter().enumerate() {
        let layer = Layer { cell, steps, lens: lens.clone(), x, direction, batch_first: rules.batch_first };
        layer.emit(cx, &mut outputs)?;
    }
    for (port, parts) in outputs.into_iter().enumerate().filter(|(_, parts)| !parts.is_empty()) {
        join(cx, port, parts, rules.batch_first)?;
    }
    Ok(())
}

/// The lengths of the sequences of a batch.
fn lens(cx: &NodeImport, steps: usize, batch: usize) -> diag::Result<Vec<usize>> {
    if cx.optional(4).is_none() {
        return Ok(vec![steps; batch]);
    }
    let lens = cx.int_constant(4)?;
    let valid: Option<Vec<usize>> =
        lens.iter().map(|&len| usize::try_from(len).ok().filter(|&len| len <= steps)).collect();
    valid
        .filter(|lens| lens.len() == batch)
        .ok_or_else(|| cx.invalid(format!("sequence_lens is {lens:?} for {batch} sequences of {steps} steps")))
}

fn cells(cx: &NodeImport, rules: &Rules) -> diag::Result<Vec<Cell>> {
    let (w, r) = (cx.float_constant(1)?, cx.float_constant(2)?);
    let optional = |port: usize| -> diag::Result<Option<FloatTensor>> {
        if cx.optional(port).is_some() { cx.float_constant(port).map(Some) } else { Ok(None) }
    };
    let (b, p) = (optional(3)?, optional(7)?);
    let columns = |tensor: &FloatTensor| tensor.shape.dims().last().copied().unwrap_or(0);
    let parts = Parts {
        w: (&w.data, columns(&w)),
        r: (&r.data, columns(&r)),
        b: b.as_ref().map(|b| &b.data[..]),
        p: p.as_ref().map(|p| &p.data[..]),
    };
    Cell::all(rules, parts).map_err(|problem| cx.invalid(problem))
}

/// A direction that is being imported.
struct Layer {
    cell: Cell,
    steps: usize,
    lens: Vec<usize>,
    x: NodeId,
    direction: usize,
    batch_first: bool,
}

impl Layer {
    /// Adds the operators for the outputs that are used.
    fn emit(&self, cx: &mut NodeImport, outputs: &mut [Vec<NodeId>; 3]) -> diag::Result<()> {
        let mut operands = vec![self.x];
        let initial = [self.state(cx, 5, &mut operands)?, self.state(cx, 6, &mut operands)?];
        let name = format!(
            "{}#{}",
            cx.node.outputs.iter().find(|name| !name.is_empty()).map_or("", String::as_str),
            self.direction
        );
        let layer = |output: Output| Recurrent {
            cell: self.cell.clone(),
            steps: self.steps,
            lens: self.lens.clone(),
            output,
            initial: initial.clone(),
            name: name.clone(),
        };
        let sequence = match cx.output_used(0) {
            true => Some(cx.emit(layer(Output::Sequence), &operands)?),
            false => None,
        };
        outputs[0].extend(sequence);
        if cx.output_used(1) {
            let hidden = match (sequence, self.last_step()) {
                (Some(sequence), Some(step)) => self.step(cx, sequence, step)?,
                _ => cx.emit(layer(Output::Hidden), &operands)?,
            };
            outputs[1].push(hidden);
        }
        if cx.output_used(2) {
            outputs[2].push(cx.emit(layer(Output::Cell), &operands)?);
        }
        Ok(())
    }

    /// The step whose result is the last, if it is the same in the whole batch.
    fn last_step(&self) -> Option<usize> {
        let len = *self.lens.first()?;
        let same = len > 0 && self.lens.iter().all(|&other| other == len);
        same.then_some(if self.cell.reverse { 0 } else { len - 1 })
    }

    /// A step of a sequence of hidden states.
    fn step(&self, cx: &mut NodeImport, sequence: NodeId, step: usize) -> diag::Result<NodeId> {
        let shape = cx.shape(sequence);
        let part = cx.emit(Slice::part(&shape, 0, step, 1), &[sequence])?;
        cx.emit(Reshape { shape: Shape::new(&shape.dims()[1..]) }, &[part])
    }

    /// The initial state of this direction.
    fn state(&self, cx: &mut NodeImport, port: usize, operands: &mut Vec<NodeId>) -> diag::Result<State> {
        let (batch, units) = (self.lens.len(), self.cell.hidden);
        let axis = usize::from(self.batch_first);
        let state = match cx.optional(port) {
            None => return Ok(State::Constant(vec![0.0; batch * units])),
            Some(Value::Constant(_)) => {
                let state = cx.float_constant(port)?;
                let direction = |tensor: &FloatTensor| match (self.batch_first, tensor.shape.rank()) {
                    (true, 3) => tensor.transposed(&[1, 0, 2]),
                    _ => tensor.clone(),
                };
                let values = direction(&state).data;
                let own = values.get(self.direction * batch * units..(self.direction + 1) * batch * units);
                let own = own.ok_or_else(|| cx.shape_mismatch("an initial state does not fit"))?;
                return Ok(State::Constant(own.to_vec()));
            }
            Some(Value::Node(state)) => state,
        };
        let shape = cx.shape(state);
        if shape.rank() != 3 || shape.dims()[axis] <= self.direction {
            return Err(cx.shape_mismatch("an initial state does not fit"));
        }
        let part = match shape.dims()[axis] {
            1 => state,
            _ => cx.emit(Slice::part(&shape, axis, self.direction, 1), &[state])?,
        };
        operands.push(cx.emit(Reshape { shape: Shape::new([batch, units]) }, &[part])?);
        Ok(State::Operand(operands.len() - 1))
    }
}

/// Joins the directions of an output.
fn join(cx: &mut NodeImport, port: usize, parts: Vec<NodeId>, batch_first: bool) -> diag::Result<()> {
    let axis = usize::from(port == 0);
    let mut directions = vec![];
    for part in parts {
        let mut dims = cx.shape(part).dims().to_vec();
        dims.insert(axis, 1);
        directions.push(cx.emit(Reshape { shape: Shape::new(dims) }, &[part])?);
    }
    let mut joined = match directions[..] {
        [single] => single,
        _ => cx.emit(Concat { axis }, &directions)?,
    };
    if batch_first {
        let order = if port == 0 { vec![2, 0, 1, 3] } else { vec![1, 0, 2] };
        joined = cx.emit(Transpose { order }, &[joined])?;
    }
    cx.define(port, joined);
    Ok(())
}
