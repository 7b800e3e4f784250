//! Layers whose input is scaled in every inference, in integers only.
//!
//! The input has 16 bits. Its largest magnitude `m` is found first; with `127 / m` it becomes 8 bits, which the ordinary
//! layer computes with, without bias; the sums, in 16 bits that they cannot leave, are multiplied with `m` again.
//! `m` is the mantissa of the scale; its exponent and all constants are known to the compiler.

use super::{Node, NodeId, Quantizer};
use crate::diag;
use crate::ir::{DType, Numerics, Params, Quant, QuantType, RealClamp, Scale, Shape};
use crate::ops::dynamic_dequantize::DynamicDequantize;
use crate::ops::dynamic_quantize::DynamicQuantize;
use crate::ops::magnitude::Magnitude;
use crate::ops::{FloatOp, Problem, QuantOp, Site, weighted};

/// A layer with weights, taken apart.
struct Parts<'a> {
    /// Without bias and activation.
    product: FloatOp,
    bias: &'a [f32],
    clamp: RealClamp,
    /// The axis of the output channels in the result.
    axis: usize,
    /// The largest sum of magnitudes of an output channel's weights.
    reach: f64,
}

impl<'a> Parts<'a> {
    fn of(op: &'a FloatOp, result: &Shape) -> Option<Parts<'a>> {
        match op {
            FloatOp::Conv(conv) => {
                let mut product = conv.clone();
                (product.bias, product.clamp) = (vec![0.0; conv.bias.len()], RealClamp::NONE);
                let reach = reach(&conv.weights.data, conv.bias.len());
                Some(Parts { product: product.into(), bias: &conv.bias, clamp: conv.clamp, axis: 1, reach })
            }
            FloatOp::Linear(linear) => {
                let mut product = linear.clone();
                (product.bias, product.clamp) = (vec![0.0; linear.bias.len()], RealClamp::NONE);
                let (reach, axis) = (reach(&linear.weights.data, linear.bias.len()), result.rank() - 1);
                Some(Parts { product: product.into(), bias: &linear.bias, clamp: linear.clamp, axis, reach })
            }
            _ => None,
        }
    }
}

fn reach(weights: &[f32], rows: usize) -> f64 {
    let sum = |row: &[f32]| row.iter().map(|&w| f64::from(w).abs()).sum::<f64>();
    weights.chunks(weights.len() / rows.max(1)).map(sum).fold(0.0, f64::max)
}

impl Quantizer<'_> {
    /// Adds what comes before the last step of a dynamic layer; returns that step and its operands.
    pub(super) fn dynamic(
        &mut self,
        id: NodeId,
        x: NodeId,
        result: &QuantType,
    ) -> diag::Result<(QuantOp, Vec<NodeId>)> {
        let node = self.source.node(id);
        let fail = |problem: Problem| self.diagnostic(problem, id);
        let input = self.result.node(x).value.clone();
        let parts = Parts::of(&node.op, &result.shape).expect("only layers with weights are dynamic");
        let scale = input.params().map(|params| params.scale).filter(|_| input.dtype == DType::I16);
        let scale = scale.ok_or_else(|| fail(not_wide(input.dtype)))?;
        let one = |steps: f64| Scale::new(steps).map(|scale| Params { scale, zero_point: 0 });
        // In units in which `m` is `Magnitude::MOST`.
        let nominal = scale.get() * f64::from(Magnitude::MOST);
        let bytes = one(nominal / f64::from(DynamicQuantize::MOST)).ok_or_else(|| fail(weighted::too_narrow()))?;
        let bytes = QuantType::int8(input.shape.clone(), bytes);
        let sums = one(parts.reach * nominal / f64::from(DType::I16.max())).ok_or_else(|| fail(without_weights()))?;
        let sums = QuantType::real(result.shape.clone(), DType::I16, sums);
        let site = Site {
            operands: vec![&bytes],
            result: &sums,
            weights: self.wanted.weights[&id],
            ranges: self.ranges,
            numerics: Numerics::Native,
        };
        let product = parts.product.quantize(&site).map_err(fail)?;
        let step = result.params().expect("a layer with weights has real results");
        let bias: Vec<f64> = parts.bias.iter().map(|&bias| f64::from(bias) / step.scale.get()).collect();
        let sum = sums.params().expect("just made").scale.get();
        let ratio = sum / f64::from(Magnitude::MOST) / step.scale.get();
        let clamp = parts.clamp.quantize(step, result.dtype);
        let last = DynamicDequantize::new((ratio, &bias, step.zero_point), parts.axis, clamp).map_err(fail)?;

        let single = Shape::new(vec![1; input.shape.rank()]);
        let magnitude = QuantType::real(single, DType::I16, Params { scale, zero_point: 0 });
        let m = self.part(id, "magnitude", (Magnitude.into(), magnitude), &[x]);
        let q = self.part(id, "input", (DynamicQuantize.into(), bytes.clone()), &[x, m]);
        let z = self.part(id, "sums", (product, sums.clone()), &[q]);
        Ok((last.into(), vec![z, m]))
    }

    fn part(&mut self, id: NodeId, what: &str, (op, value): (QuantOp, QuantType), operands: &[NodeId]) -> NodeId {
        let node = self.source.node(id);
        let name = format!("{}@{what}", node.name);
        let part: Node<Quant> = Node { name, observed: None, origin: node.origin.clone(), op, value };
        self.result.add(part, operands)
    }
}

fn not_wide(dtype: DType) -> Problem {
    Problem::unsupported(format!("the recipe makes this layer dynamic, and its input has {dtype}"))
        .help("a dynamic layer reads 16 bits: leave it out of the recipe, or let its input have 16 bits")
}

fn without_weights() -> Problem {
    Problem::unsupported("the recipe makes this layer dynamic, and all its weights are 0")
        .help("leave this layer out of the recipe")
}
