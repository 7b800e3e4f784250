//! Execution of `OneHot` on real numbers, in place of tract's: that one fails at positions outside of the axis, where all
//! elements have to be off.

use tract_onnx::pb;
use tract_onnx::tract_core::as_op;
use tract_onnx::tract_core::op_as_typed_op;
use tract_onnx::tract_core::op_out_of_plan;
use tract_onnx::tract_hir::internal::*;

use super::tensors::integer_of;

/// Registers the operator.
pub fn register(onnx: &mut tract_onnx::Onnx) {
    onnx.op_register.insert("OneHot", parse);
}

fn parse(
    _context: &tract_onnx::model::ParsingContext,
    node: &pb::NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(Axis(integer_of(node, "axis").unwrap_or(-1))), vec![]))
}

/// The attribute `axis`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Axis(i64);

impl Axis {
    /// Counted from the start, for positions of this rank.
    fn counted_from_start(&self, rank: usize) -> TractResult<usize> {
        let axis = if self.0 < 0 { self.0 + rank as i64 + 1 } else { self.0 };
        let axis = usize::try_from(axis).ok().filter(|&axis| axis <= rank);
        axis.ok_or_else(|| TractError::msg(format!("axis {} of positions of rank {rank}", self.0)))
    }
}

impl Expansion for Axis {
    fn name(&self) -> StaticName {
        "OneHot".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 3)?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[2].datum_type, &outputs[0].datum_type)?;
        s.given_2(&inputs[0].shape, &inputs[1].value, move |s, positions, depth| {
            let mut shape: TVec<TDim> = positions.to_vec().into();
            shape.insert(self.counted_from_start(positions.len())?, (depth.cast_to_scalar::<i64>()? as usize).to_dim());
            s.equals(&outputs[0].shape, ShapeFactoid::from(shape.to_vec()))
        })
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let positions = model.outlet_fact(inputs[0])?;
        let axis = self.counted_from_start(positions.rank())?;
        let constant = |port: usize| {
            let constant = model.outlet_fact(inputs[port])?.konst.clone();
            constant.ok_or_else(|| TractError::msg("depth or values of a OneHot are computed"))
        };
        let depth = constant(1)?.cast_to_scalar::<i64>()?;
        let depth = usize::try_from(depth).map_err(|_| TractError::msg(format!("its depth is {depth}")))?;
        let op = OneHot { axis, depth, values: constant(2)? };
        model.wire_node(name, op, &inputs[..1])
    }
}

/// With everything known but the positions.
#[derive(Debug, Clone, PartialEq)]
struct OneHot {
    axis: usize,
    depth: usize,
    /// Off and on.
    values: Arc<Tensor>,
}

impl Eq for OneHot {}

impl Op for OneHot {
    fn name(&self) -> StaticName {
        "OneHot".into()
    }

    op_as_typed_op!();
}

impl EvalOp for OneHot {
    op_out_of_plan!();

    /// Positions that are no integers are cut off, as ONNX defines it.
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let positions = inputs[0].cast_to::<i64>()?;
        let positions = positions.try_as_plain_ram()?.as_slice::<i64>()?.to_vec();
        let values = self.values.cast_to::<f32>()?;
        let [off, on] = values.try_as_plain_ram()?.as_slice::<f32>()?[..] else {
            return Err(TractError::msg("the values of a OneHot are not two"));
        };
        let mut shape = inputs[0].shape().to_vec();
        let inner: usize = shape[self.axis..].iter().product();
        shape.insert(self.axis, self.depth);
        let depth = self.depth as i64;
        let mut result = vec![off; positions.len() * self.depth];
        for (flat, position) in positions.into_iter().enumerate() {
            if (-depth..depth).contains(&position) {
                let at = if position < 0 { position + depth } else { position } as usize;
                result[(flat / inner * self.depth + at) * inner + flat % inner] = on;
            }
        }
        let result = Tensor::from_shape(&shape, &result)?;
        Ok(tvec!(result.cast_to_dt(self.values.datum_type())?.into_owned().into_tvalue()))
    }
}

impl TypedOp for OneHot {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        shape.insert(self.axis, self.depth.to_dim());
        Ok(tvec!(self.values.datum_type().fact(shape)))
    }

    as_op!();
}
