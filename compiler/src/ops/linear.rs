//! Product with constant weights over the last axis (ONNX `Gemm`, and `MatMul` with a constant side).

use super::conv::dot;
use super::export::Export;
use super::import::{Attribute, NodeImport, Value};
use super::weighted::Weighted;
use super::{
    ExportSite, FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site, add, conv, matmul, reshape, transpose,
};
use crate::diag;
use crate::ir::{FloatTensor, Interval, NodeId, QuantType, RealClamp, Shape, Window};

/// `y[.., n] = sum over k of weights[n, k] * x[.., k] + bias[n]`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Shape `N x K`.
    pub weights: FloatTensor,
    /// One for each of the `N` results.
    pub bias: Vec<f32>,
    /// Fused activation.
    pub clamp: RealClamp,
}

/// The same on integers: `clamp(y_zero + multiplier[n](bias[n] + sum w * (x - x_zero)))`.
#[derive(Debug, Clone)]
pub struct QLinear {
    /// Weights in rows of `K`, channels, zero points.
    pub weighted: Weighted,
}

impl Linear {
    /// Without bias and activation; `weights` has shape `N x K`.
    pub fn new(weights: FloatTensor) -> Linear {
        let bias = vec![0.0; weights.shape.dims()[0]];
        Linear { weights, bias, clamp: RealClamp::NONE }
    }
}

/// Imports `MatMul`.
pub fn import_matmul(cx: &mut NodeImport) -> diag::Result<()> {
    let y = match (cx.input(0)?, cx.input(1)?) {
        (_, Value::Constant(_)) => {
            let (x, weights) = (cx.activation(0)?, cx.float_constant(1)?);
            multiply(cx, x, weights)?
        }
        (Value::Constant(_), _) => {
            let (weights, x) = (cx.float_constant(0)?, cx.activation(1)?);
            multiply_left(cx, weights, x)?
        }
        _ => {
            let (a, b) = (cx.activation(0)?, cx.activation(1)?);
            matmul::multiply(cx, a, b)?
        }
    };
    cx.define(0, y);
    Ok(())
}

/// `W x = (x^T W^T)^T`. A vector has a single axis, which takes part in the sum and in no transpose.
fn multiply_left(cx: &mut NodeImport, weights: FloatTensor, x: NodeId) -> diag::Result<NodeId> {
    let (w_rank, x_rank) = (weights.shape.rank(), cx.shape(x).rank());
    let x = if x_rank < 2 { x } else { cx.emit(transpose::Transpose::swap_last(x_rank), &[x])? };
    let weights = if w_rank < 2 { weights } else { weights.transposed(&transpose::Transpose::swap_last(w_rank).order) };
    let y = multiply(cx, x, weights)?;
    if x_rank < 2 || w_rank < 2 {
        return Ok(y);
    }
    let rank = cx.shape(y).rank();
    cx.emit(transpose::Transpose::swap_last(rank), &[y])
}

/// `x W` for constant `W` of any shape that ONNX allows.
fn multiply(cx: &mut NodeImport, x: NodeId, weights: FloatTensor) -> diag::Result<NodeId> {
    let (x_dims, w_dims) = (cx.shape(x).dims().to_vec(), weights.shape.dims().to_vec());
    if x_dims.is_empty() || w_dims.is_empty() {
        return Err(cx.invalid("a factor is a scalar".to_owned()));
    }
    let (w_matrix, w_batch) = match &w_dims[..] {
        [batch @ .., k, n] => (vec![*k, *n], batch),
        vector => ([vector, &[1]].concat(), &[][..]),
    };
    let (x_matrix, x_batch) = match &x_dims[..] {
        [batch @ .., m, k] => ([*m, *k], batch),
        vector => ([1, vector[0]], &[][..]),
    };
    let batch = Shape::new(x_batch).broadcast(&Shape::new(w_batch)).filter(|_| x_matrix[1] == w_matrix[0]);
    let Some(batch) = batch else {
        return Err(cx.shape_mismatch("the factors do not fit"));
    };
    let y = if w_batch.iter().all(|&size| size == 1) {
        let rows = weights.reshaped(Shape::new(w_matrix.clone())).transposed(&[1, 0]);
        cx.emit(Linear::new(rows), &[x])?
    } else {
        multiply_batched(cx, x, (x_batch, x_matrix[0]), weights, (w_batch, &w_matrix))?
    };
    let m = (x_dims.len() > 1).then_some(x_matrix[0]);
    let n = (w_dims.len() > 1).then_some(w_matrix[1]);
    let dims: Vec<usize> = batch.dims().iter().copied().chain(m).chain(n).collect();
    cx.emit_unless_same(reshape::Reshape { shape: Shape::new(dims) }, y)
}

/// A factor of its own for each batch is a grouped convolution with a kernel of one tap. An axis that both factors
/// have becomes the group; one that only the weights have makes output channels, one that only `x` has makes positions.
fn multiply_batched(
    cx: &mut NodeImport,
    x: NodeId,
    (x_batch, m): (&[usize], usize),
    weights: FloatTensor,
    (w_batch, w_matrix): (&[usize], &[usize]),
) -> diag::Result<NodeId> {
    let rank = x_batch.len().max(w_batch.len());
    let padded = |batch: &[usize]| [vec![1; rank - batch.len()], batch.to_vec()].concat();
    let (x_batch, w_batch) = (padded(x_batch), padded(w_batch));
    let (k, n) = (w_matrix[0], w_matrix[1]);
    let (both, single): (Vec<usize>, Vec<usize>) = (0..rank).partition(|&axis| x_batch[axis] > 1 && w_batch[axis] > 1);
    let sizes = |axes: &[usize], batch: &[usize]| axes.iter().map(|&axis| batch[axis]).collect::<Vec<_>>();
    let product = |axes: &[usize], batch: &[usize]| sizes(axes, batch).iter().product::<usize>();
    let groups = product(&both, &x_batch);
    let out_channels = groups * product(&single, &w_batch) * n;

    let w_shape = Shape::new([&w_batch[..], &[k, n]].concat());
    let w_order = [&both[..], &single, &[rank + 1, rank]].concat();
    let rows = weights.reshaped(w_shape).transposed(&w_order).reshaped(Shape::new([out_channels, k, 1]));
    let conv = conv::Conv {
        weights: rows,
        bias: vec![0.0; out_channels],
        window: Window::unit(1),
        groups,
        clamp: RealClamp::NONE,
    };
    let x = cx.emit_unless_same(reshape::Reshape { shape: Shape::new([&x_batch[..], &[m, k]].concat()) }, x)?;
    let x_order = [&both[..], &[rank + 1], &single, &[rank]].concat();
    let x = cx.emit(transpose::Transpose { order: x_order }, &[x])?;
    let positions = product(&single, &x_batch) * m;
    let x = cx.emit(reshape::Reshape { shape: Shape::new([1, groups * k, positions]) }, &[x])?;
    let y = cx.emit(conv, &[x])?;
    // Axes of the result as they are now: both, those of the weights, n, those of x, m.
    let dims = [sizes(&both, &x_batch), sizes(&single, &w_batch), vec![n], sizes(&single, &x_batch), vec![m]].concat();
    let y = cx.emit(reshape::Reshape { shape: Shape::new(dims) }, &[y])?;
    let at = |axes: &[usize], axis: usize| axes.iter().position(|&other| other == axis);
    let (n_at, m_at) = (rank, rank + 1 + single.len());
    let batch = (0..rank).flat_map(|axis| match (at(&both, axis), at(&single, axis)) {
        (Some(at), _) => vec![at],
        (None, Some(at)) => vec![both.len() + at, n_at + 1 + at],
        (None, None) => vec![],
    });
    let order: Vec<usize> = batch.chain([m_at, n_at]).collect();
    cx.emit(transpose::Transpose { order }, &[y])
}

/// Imports `Gemm`: `alpha * A' * B' + beta * C`.
pub fn import_gemm(cx: &mut NodeImport) -> diag::Result<()> {
    let (alpha, beta) = (cx.float_or("alpha", 1.0)?, cx.float_or("beta", 1.0)?);
    let (trans_a, trans_b) = (cx.int_or("transA", 0)? != 0, cx.int_or("transB", 0)? != 0);
    let product = gemm_product(cx, trans_a, trans_b, alpha)?;
    let addend = match cx.optional(2) {
        Some(Value::Constant(_)) if beta != 0.0 => cx.float_constant(2)?,
        Some(Value::Node(c)) if beta != 0.0 => {
            let scale = FloatTensor::new(Shape::default(), vec![beta]);
            let c = if beta == 1.0 { c } else { add::scale_by_constant(cx, c, scale)? };
            return cx.finish(0, add::Add { subtract: false, clamp: RealClamp::NONE }, &[product, c]).map(drop);
        }
        _ => {
            cx.define(0, product);
            return Ok(());
        }
    };
    let scaled = FloatTensor::new(addend.shape, addend.data.iter().map(|c| c * beta).collect());
    let sum = add::add_constant(cx, product, scaled)?;
    cx.define(0, sum);
    Ok(())
}

fn gemm_product(cx: &mut NodeImport, trans_a: bool, trans_b: bool, alpha: f32) -> diag::Result<NodeId> {
    let rank_2 = |cx: &NodeImport, shape: &Shape| match shape.rank() {
        2 => Ok(()),
        _ => Err(cx.invalid(format!("a factor has shape {shape}, Gemm needs two axes"))),
    };
    match (cx.input(0)?, cx.input(1)?) {
        (_, Value::Constant(_)) => {
            let (mut a, b) = (cx.activation(0)?, cx.float_constant(1)?);
            rank_2(cx, &cx.shape(a))?;
            rank_2(cx, &b.shape)?;
            if trans_a {
                a = cx.emit(transpose::Transpose { order: vec![1, 0] }, &[a])?;
            }
            let b = if trans_b { b } else { b.transposed(&[1, 0]) };
            cx.emit(Linear::new(b.scaled(alpha)), &[a])
        }
        (Value::Constant(_), _) => {
            // A' B' = (B'^T A'^T)^T with A' as the weights.
            let (a, mut b) = (cx.float_constant(0)?, cx.activation(1)?);
            rank_2(cx, &a.shape)?;
            rank_2(cx, &cx.shape(b))?;
            if !trans_b {
                b = cx.emit(transpose::Transpose { order: vec![1, 0] }, &[b])?;
            }
            let a = if trans_a { a.transposed(&[1, 0]) } else { a };
            let y = cx.emit(Linear::new(a.scaled(alpha)), &[b])?;
            cx.emit(transpose::Transpose { order: vec![1, 0] }, &[y])
        }
        _ => matmul::multiply_gemm(cx, alpha, [trans_a, trans_b]),
    }
}

fn infer(input: &Shape, n: usize, k: usize) -> Result<Shape, String> {
    match input.dims() {
        [batch @ .., last] if *last == k => Ok(Shape::new(batch.iter().copied().chain([n]).collect::<Vec<_>>())),
        _ => Err(format!("input {input} does not end in the {k} elements of a row of weights")),
    }
}

impl FloatOperator for Linear {
    fn kind(&self) -> &'static str {
        "Linear"
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        match *self.weights.shape.dims() {
            [n, k] if n == self.bias.len() => infer(operands[0], n, k),
            _ => Err(format!("weights {} and {} biases disagree", self.weights.shape, self.bias.len())),
        }
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let clamp = self.clamp.quantize(site.result_params(), site.result.dtype);
        let weighted = Weighted::quantize(&self.weights, &self.bias, clamp, site)?;
        Ok(QLinear { weighted }.into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        let QuantOp::Linear(linear) = site.op else { return Err(Problem::unsupported("its result is a constant")) };
        let (input, output) = site.params()?;
        let [w, b] = export.weighted(&linear.weighted, self.weights.shape.dims(), input, output);
        if site.types[0].shape.rank() == 2 {
            return Ok(export.node("Gemm", &[site.x(), &w, &b], &[("transB", Attribute::Int(1))]));
        }
        let w = export.node("Transpose", &[&w], &[("perm", Attribute::Ints(vec![1, 0]))]);
        let product = export.node("MatMul", &[site.x(), &w], &[]);
        Ok(export.node("Add", &[&product, &b], &[]))
    }

    fn describe(&self) -> String {
        format!("weights {}, clamp {}", self.weights.shape, self.clamp)
    }

    fn clamp_mut(&mut self) -> Option<&mut RealClamp> {
        Some(&mut self.clamp)
    }
}

impl QLinear {
    /// Number of elements of a row of weights.
    pub fn row_len(&self) -> usize {
        self.weighted.weights.len() / self.weighted.channels.len().max(1)
    }
}

impl QuantOperator for QLinear {
    fn kind(&self) -> &'static str {
        "Linear"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands[0], self.weighted.channels.len(), self.row_len())
    }

    fn evaluate(&self, operands: &[Operand], _result: &QuantType) -> Vec<i32> {
        let channels = 0..self.weighted.channels.len();
        // Weights and zero points are int8 values.
        let weights: Vec<i16> = channels.flat_map(|o| self.weighted.factors(o).map(|w| w as i16)).collect();
        // A difference of two int8 values fits 16 bits, and the zero point of int16 is 0.
        let x: Vec<i16> = operands[0].data.iter().map(|&x| (x - self.weighted.input_zero) as i16).collect();
        let rows = weights.chunks_exact(self.row_len());
        x.chunks_exact(self.row_len())
            .flat_map(|x| {
                rows.clone().enumerate().map(|(n, row)| {
                    let acc = i64::from(self.weighted.channels[n].bias) + dot(x, row);
                    self.weighted.finish(n, acc)
                })
            })
            .collect()
    }

    fn describe(&self) -> String {
        self.weighted.describe()
    }

    fn formula(&self) -> String {
        self.weighted.formula()
    }

    fn is_unusual(&self) -> bool {
        self.weighted.is_unusual()
    }

    fn accumulator(&self) -> Option<Interval> {
        self.weighted.accumulator()
    }

    fn macs(&self, result: &Shape) -> u64 {
        (result.len() * self.row_len()) as u64
    }
}
