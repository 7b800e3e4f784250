//! Execution of `RNN`, `GRU` and `LSTM` on real numbers, in place of tract's: that one passes over activations, clips and
//! directions without a word.

use tract_onnx::pb;
use tract_onnx::tract_core::as_op;
use tract_onnx::tract_core::op_as_typed_op;
use tract_onnx::tract_core::op_out_of_plan;
use tract_onnx::tract_hir::internal::*;

use super::proto;
use crate::ops::import::OnnxNode;
use crate::ops::recurrent::{Cell, Parts, Rules};

/// Registers the operators.
pub fn register(onnx: &mut tract_onnx::Onnx) {
    for op_type in ["RNN", "GRU", "LSTM"] {
        onnx.op_register.insert(op_type, parse);
    }
}

fn parse(
    _context: &tract_onnx::model::ParsingContext,
    node: &pb::NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(Recurrent { node: proto::node(node) }), vec![]))
}

/// Number of inputs, those that are left out among them.
const INPUTS: usize = 8;

/// A node, in plain types.
#[derive(Debug, Clone, PartialEq)]
struct Recurrent {
    node: OnnxNode,
}

impl Eq for Recurrent {}

impl Recurrent {
    fn rules(&self) -> TractResult<Rules> {
        Rules::of(&self.node).map_err(TractError::msg)
    }

    /// Positions of the inputs among those that are not left out.
    fn ports(&self) -> [Option<usize>; INPUTS] {
        let given = |port: usize| self.node.inputs.get(port).is_some_and(|name| !name.is_empty());
        std::array::from_fn(|port| given(port).then(|| (0..port).filter(|&before| given(before)).count()))
    }

    /// The outputs that are not left out: 0 is Y, 1 is Y_h, 2 is Y_c.
    fn outputs(&self) -> Vec<usize> {
        (0..self.node.outputs.len().min(3)).filter(|&port| !self.node.outputs[port].is_empty()).collect()
    }

    /// Shape of an output.
    fn shape<D: Clone>(rules: &Rules, output: usize, [steps, batch, hidden]: [D; 3], directions: D) -> Vec<D> {
        match (output, rules.batch_first) {
            (0, false) => vec![steps, directions, batch, hidden],
            (0, true) => vec![batch, steps, directions, hidden],
            (_, false) => vec![directions, batch, hidden],
            (_, true) => vec![batch, directions, hidden],
        }
    }
}

impl Expansion for Recurrent {
    fn name(&self) -> StaticName {
        self.node.op_type.clone().into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        let rules = self.rules()?;
        check_output_arity(outputs, self.outputs().len())?;
        s.equals(&inputs[0].rank, 3)?;
        s.equals(&inputs[2].rank, 3)?;
        for output in outputs {
            s.equals(&output.datum_type, f32::datum_type())?;
        }
        s.given_2(&inputs[0].shape, &inputs[2].shape, move |s, x, r| {
            let (Some(x), Some(r)) = (x.get(..3), r.get(..3)) else { return Ok(()) };
            let (steps, batch) = if rules.batch_first { (&x[1], &x[0]) } else { (&x[0], &x[1]) };
            let sizes = [steps.clone(), batch.clone(), r[2].clone()];
            for (port, output) in self.outputs().into_iter().enumerate() {
                let shape = Recurrent::shape(&rules, output, sizes.clone(), rules.reverse.len().to_dim());
                s.equals(&outputs[port].shape, ShapeFactoid::from(shape))?;
            }
            Ok(())
        })
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.outputs().len())
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(name, self.clone(), inputs)
    }
}

impl Op for Recurrent {
    fn name(&self) -> StaticName {
        self.node.op_type.clone().into()
    }

    op_as_typed_op!();
}

impl EvalOp for Recurrent {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (rules, ports) = (self.rules()?, self.ports());
        let values = |port: usize| -> TractResult<Option<Vec<f32>>> {
            let Some(at) = ports[port] else { return Ok(None) };
            let cast = inputs[at].cast_to::<f32>()?;
            Ok(Some(cast.try_as_plain_ram()?.as_slice::<f32>()?.to_vec()))
        };
        let required = |port: usize| values(port)?.ok_or_else(|| TractError::msg(format!("input {port} is missing")));
        let columns = |port: usize| ports[port].and_then(|at| inputs[at].shape().last().copied()).unwrap_or(0);
        let (w, r, b, p) = (required(1)?, required(2)?, values(3)?, values(7)?);
        let parts = Parts { w: (&w, columns(1)), r: (&r, columns(2)), b: b.as_deref(), p: p.as_deref() };
        let cells = Cell::all(&rules, parts).map_err(TractError::msg)?;
        let shape = inputs[0].shape();
        let (steps, batch) = if rules.batch_first { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
        let x = required(0)?;
        let x = if rules.batch_first { exchanged(&x, [batch, steps, shape[2]]) } else { x };
        let lens = match values(4)? {
            Some(lens) => lens.iter().map(|&len| (len as usize).min(steps)).collect(),
            None => vec![steps; batch],
        };
        let sizes = [steps, batch, columns(2)];
        let run = Run { rules: &rules, cells: &cells, x: &x, lens: &lens, sizes };
        let state = |port: usize| -> TractResult<Vec<f32>> {
            let values = values(port)?.unwrap_or_else(|| vec![0.0; cells.len() * batch * columns(2)]);
            Ok(if rules.batch_first { exchanged(&values, [batch, cells.len(), columns(2)]) } else { values })
        };
        let results = run.outputs([&state(5)?, &state(6)?]);
        let outputs = self.outputs().into_iter().map(|output| {
            let shape = Recurrent::shape(&rules, output, sizes, cells.len());
            Ok(Tensor::from_shape(&shape, &results[output])?.into_tvalue())
        });
        outputs.collect()
    }
}

impl TypedOp for Recurrent {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let rules = self.rules()?;
        let (x, r) = (&inputs[0].shape, &inputs[2].shape);
        let (steps, batch) = if rules.batch_first { (&x[1], &x[0]) } else { (&x[0], &x[1]) };
        let sizes = [steps.clone(), batch.clone(), r[2].clone()];
        let fact = |output| {
            let shape = Recurrent::shape(&rules, output, sizes.clone(), rules.reverse.len().to_dim());
            f32::datum_type().fact(shape)
        };
        Ok(self.outputs().into_iter().map(fact).collect())
    }

    as_op!();
}

/// All directions over one input.
struct Run<'a> {
    rules: &'a Rules,
    cells: &'a [Cell],
    /// Steps, batch, inputs.
    x: &'a [f32],
    lens: &'a [usize],
    /// Steps, batch, units.
    sizes: [usize; 3],
}

impl Run<'_> {
    /// Y, Y_h and Y_c, laid out as the node wants them. States come as directions, batch, units.
    fn outputs(&self, states: [&[f32]; 2]) -> [Vec<f32>; 3] {
        let [steps, batch, units] = self.sizes;
        let directions = self.cells.len();
        let mut all = [vec![0.0; steps * directions * batch * units], vec![], vec![]];
        for (direction, cell) in self.cells.iter().enumerate() {
            let own = states.map(|state| &state[direction * batch * units..][..batch * units]);
            let results = cell.run(self.x, own, (steps, self.lens), &mut |_, _| {});
            for (step, values) in results.sequence.chunks(batch * units).enumerate() {
                all[0][(step * directions + direction) * batch * units..][..values.len()].copy_from_slice(values);
            }
            all[1].extend(results.hidden);
            all[2].extend(results.cell);
        }
        if !self.rules.batch_first {
            return all;
        }
        let [y, h, c] = all;
        // From steps, directions, batch to batch, steps, directions.
        [
            exchanged(&y, [steps * directions, batch, units]),
            exchanged(&h, [directions, batch, units]),
            exchanged(&c, [directions, batch, units]),
        ]
    }
}

/// The first two of three axes exchanged.
fn exchanged(values: &[f32], [first, second, inner]: [usize; 3]) -> Vec<f32> {
    let rows = (0..second).flat_map(|j| (0..first).map(move |i| (i * second + j) * inner));
    rows.flat_map(|at| values[at..at + inner].iter().copied()).collect()
}
