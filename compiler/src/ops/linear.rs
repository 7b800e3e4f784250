//! Product with constant weights over the last axis (ONNX `Gemm`, and `MatMul` with a constant side).

use super::conv::dot;
use super::import::{NodeImport, Value};
use super::weighted::Weighted;
use super::{FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site, add, conv, reshape, transpose};
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
    match (cx.input(0)?, cx.input(1)?) {
        (_, Value::Constant(_)) => {
            let (x, weights) = (cx.activation(0)?, cx.float_constant(1)?);
            let y = multiply(cx, x, weights)?;
            cx.define(0, y);
            Ok(())
        }
        (Value::Constant(_), _) => matmul_constant_left(cx),
        _ => Err(cx.unsupported("both factors are computed at run time", "a product with constant weights is supported")),
    }
}

/// `W x = (x^T W^T)^T`.
fn matmul_constant_left(cx: &mut NodeImport) -> diag::Result<()> {
    let (weights, x) = (cx.float_constant(0)?, cx.activation(1)?);
    let (w_rank, x_rank) = (weights.shape.rank(), cx.shape(x).rank());
    if w_rank != 2 || x_rank < 2 {
        return Err(cx.unsupported(
            format!("a constant of shape {} times a tensor of rank {x_rank}", weights.shape),
            "a constant left factor needs two axes, and the right factor at least two",
        ));
    }
    let x = cx.emit(transpose::Transpose::swap_last(x_rank), &[x])?;
    let y = cx.emit(Linear::new(weights), &[x])?;
    cx.finish(0, transpose::Transpose::swap_last(x_rank), &[y]).map(drop)
}

/// `x W` for constant `W` of shape `K`, `K x N` or `batch x K x N`.
fn multiply(cx: &mut NodeImport, x: NodeId, weights: FloatTensor) -> diag::Result<NodeId> {
    let x_shape = cx.shape(x);
    let batch: usize = weights.shape.dims().iter().rev().skip(2).product();
    match *weights.shape.dims() {
        [k] => {
            let y = cx.emit(Linear::new(FloatTensor::new(Shape::new([1, k]), weights.data)), &[x])?;
            let dims = x_shape.dims()[..x_shape.rank() - 1].to_vec();
            cx.emit(reshape::Reshape { shape: Shape::new(dims) }, &[y])
        }
        [.., k, n] if batch == 1 => {
            let rank = x_shape.rank().max(weights.shape.rank());
            let y = cx.emit(Linear::new(FloatTensor::new(Shape::new([k, n]), weights.data).transposed(&[1, 0])), &[x])?;
            let mut dims = cx.shape(y).dims().to_vec();
            while dims.len() < rank {
                dims.insert(0, 1);
            }
            cx.emit_unless_same(reshape::Reshape { shape: Shape::new(dims) }, y)
        }
        _ => multiply_batched(cx, x, weights),
    }
}

/// A factor of its own for each batch is a grouped 1x1 convolution: the batch becomes the group.
fn multiply_batched(cx: &mut NodeImport, x: NodeId, weights: FloatTensor) -> diag::Result<NodeId> {
    let x_shape = cx.shape(x);
    let (w_dims, x_dims) = (weights.shape.dims().to_vec(), x_shape.dims().to_vec());
    let (&[ref w_batch @ .., k, n], &[ref x_batch @ .., m, _]) = (&w_dims[..], &x_dims[..]) else {
        return Err(cx.unsupported("a batch of constants times a vector", "give the left factor at least two axes"));
    };
    if w_batch != x_batch {
        return Err(cx.unsupported(
            format!("factors of shapes {x_shape} and {} whose batches have to be repeated", weights.shape),
            "give both factors the same leading axes",
        ));
    }
    let batch: usize = w_batch.iter().product();
    let rows = FloatTensor::new(Shape::new([batch, k, n]), weights.data).transposed(&[0, 2, 1]);
    let conv = conv::Conv {
        weights: FloatTensor::new(Shape::new([batch * n, k, 1]), rows.data),
        bias: vec![0.0; batch * n],
        window: Window::unit(1),
        groups: batch,
        clamp: RealClamp::NONE,
    };
    let x = cx.emit(reshape::Reshape { shape: Shape::new([batch, m, k]) }, &[x])?;
    let x = cx.emit(transpose::Transpose { order: vec![0, 2, 1] }, &[x])?;
    let x = cx.emit(reshape::Reshape { shape: Shape::new([1, batch * k, m]) }, &[x])?;
    let y = cx.emit(conv, &[x])?;
    let y = cx.emit(reshape::Reshape { shape: Shape::new([batch, n, m]) }, &[y])?;
    let y = cx.emit(transpose::Transpose { order: vec![0, 2, 1] }, &[y])?;
    let dims: Vec<usize> = x_batch.iter().copied().chain([m, n]).collect();
    cx.emit(reshape::Reshape { shape: Shape::new(dims) }, &[y])
}

/// Imports `Gemm`: `alpha * A' * B' + beta * C`.
pub fn import_gemm(cx: &mut NodeImport) -> diag::Result<()> {
    let (alpha, beta) = (cx.float_or("alpha", 1.0)?, cx.float_or("beta", 1.0)?);
    let (trans_a, trans_b) = (cx.int_or("transA", 0)? != 0, cx.int_or("transB", 0)? != 0);
    let product = gemm_product(cx, trans_a, trans_b, alpha)?;
    let addend = match cx.optional(2) {
        Some(Value::Constant(_)) if beta != 0.0 => cx.float_constant(2)?,
        Some(Value::Node(_)) if beta != 0.0 => {
            return Err(cx.unsupported("its third input is computed at run time", "make input C a constant, or add it with Add"));
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
    let scaled = |b: FloatTensor| FloatTensor::new(b.shape, b.data.iter().map(|w| w * alpha).collect());
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
            cx.emit(Linear::new(scaled(b)), &[a])
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
            let y = cx.emit(Linear::new(scaled(a)), &[b])?;
            cx.emit(transpose::Transpose { order: vec![1, 0] }, &[y])
        }
        _ => Err(cx.unsupported("both factors are computed at run time", "a product with constant weights is supported")),
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

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        match *self.weights.shape.dims() {
            [n, k] if n == self.bias.len() => infer(operands[0], n, k),
            _ => Err(format!("weights {} and {} biases disagree", self.weights.shape, self.bias.len())),
        }
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let output = site.result_params();
        let clamp = self.clamp.quantize(output, site.result.dtype);
        let weighted = Weighted::quantize(&self.weights.data, &self.bias, site.operand_params(0)?, output, clamp)?;
        Ok(QLinear { weighted }.into())
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
        let weights: Vec<i16> = self.weighted.weights.iter().map(|&w| i16::from(w)).collect();
        // A difference of two int8 values fits 16 bits.
        let x: Vec<i16> = operands[0].data.iter().map(|&x| (x - self.weighted.input_zero) as i16).collect();
        let rows = weights.chunks_exact(self.row_len());
        x.chunks_exact(self.row_len())
            .flat_map(|x| {
                rows.clone().enumerate().map(|(n, row)| {
                    let acc = self.weighted.channels[n].bias.wrapping_add(dot(x, row));
                    self.weighted.finish(n, acc)
                })
            })
            .collect()
    }

    fn describe(&self) -> String {
        self.weighted.describe()
    }

    fn accumulator(&self) -> Option<Interval> {
        self.weighted.accumulator()
    }

    fn macs(&self, result: &Shape) -> u64 {
        (result.len() * self.row_len()) as u64
    }
}
