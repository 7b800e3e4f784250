//! Product of two tensors that are both computed at run time (ONNX `MatMul`, `Gemm`): the two products of an attention
//! block, for example.

use super::export::Export;
use super::import::NodeImport;
use super::reshape::Reshape;
use super::transpose::Transpose;
use super::{ExportSite, FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site, mul};
use crate::diag;
use crate::ir::{Clamp, Interval, Multiplier, NodeId, QuantType, RealClamp, Rounding, Shape};

/// `y[.., m, n] = factor * sum over k of a[.., m, k] * b[.., k, n]`; the axes before the last two are broadcast.
#[derive(Debug, Clone)]
pub struct MatMul {
    /// What the sums are multiplied with, for example `1 / sqrt(d)` in an attention block.
    pub factor: f32,
    /// Fused activation.
    pub clamp: RealClamp,
}

/// `clamp(y_zero + multiplier(sum over k of (a - a_zero) * (b - b_zero)))`.
#[derive(Debug, Clone)]
pub struct QMatMul {
    /// The integers that stand for 0 in the operands.
    pub zeros: [i32; 2],
    /// Number of products of each sum.
    pub terms: usize,
    /// All values of the sum.
    pub bound: Interval,
    /// From sum to result; includes the factor.
    pub multiplier: Multiplier,
    /// The integer that stands for 0 in the result.
    pub output_zero: i32,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// `a b` for tensors of any shapes that ONNX allows.
pub fn multiply(cx: &mut NodeImport, a: NodeId, b: NodeId) -> diag::Result<NodeId> {
    let (a_shape, b_shape) = (cx.shape(a), cx.shape(b));
    if a_shape.rank() == 0 || b_shape.rank() == 0 {
        return Err(cx.invalid("a factor is a scalar".to_owned()));
    }
    // A vector is a row on the left, a column on the right; its other axis is not in the result.
    let row = Reshape { shape: Shape::new([&[1], a_shape.dims()].concat()) };
    let a = if a_shape.rank() == 1 { cx.emit(row, &[a])? } else { a };
    let column = Reshape { shape: Shape::new([b_shape.dims(), &[1]].concat()) };
    let b = if b_shape.rank() == 1 { cx.emit(column, &[b])? } else { b };
    let y = cx.emit(MatMul { factor: 1.0, clamp: RealClamp::NONE }, &[a, b])?;
    let mut dims = cx.shape(y).dims().to_vec();
    if b_shape.rank() == 1 {
        dims.pop();
    }
    if a_shape.rank() == 1 {
        dims.remove(dims.len() - if b_shape.rank() == 1 { 1 } else { 2 });
    }
    cx.emit_unless_same(Reshape { shape: Shape::new(dims) }, y)
}

/// `alpha * A' * B'` of `Gemm`.
pub fn multiply_gemm(cx: &mut NodeImport, alpha: f32, trans: [bool; 2]) -> diag::Result<NodeId> {
    let mut factors = [cx.activation(0)?, cx.activation(1)?];
    for (factor, trans) in factors.iter_mut().zip(trans) {
        if cx.shape(*factor).rank() != 2 {
            return Err(cx.invalid(format!("a factor has shape {}, Gemm needs two axes", cx.shape(*factor))));
        }
        if trans {
            *factor = cx.emit(Transpose::swap_last(2), &[*factor])?;
        }
    }
    cx.emit(MatMul { factor: alpha, clamp: RealClamp::NONE }, &factors)
}

fn infer(operands: &[&Shape]) -> Result<Shape, String> {
    let [a, b] = operands else { return Err(format!("{} operands", operands.len())) };
    let ([a_batch @ .., m, k], [b_batch @ .., rows, n]) = (a.dims(), b.dims()) else {
        return Err(format!("{a} and {b} are not both matrices"));
    };
    let batch = Shape::new(a_batch).broadcast(&Shape::new(b_batch)).filter(|_| k == rows);
    let batch = batch.ok_or_else(|| format!("{a} and {b} cannot be multiplied"))?;
    Ok(Shape::new([batch.dims(), &[*m, *n]].concat()))
}

impl FloatOperator for MatMul {
    fn kind(&self) -> &'static str {
        "MatMul"
    }

    fn arity(&self) -> Option<usize> {
        Some(2)
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands)
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        site.expect_int8(FloatOperator::kind(self))?;
        let (a, b, y) = (site.operand_params(0)?, site.operand_params(1)?, site.result_params());
        let terms = site.operands[0].shape.dims().last().copied().unwrap_or(1);
        let reach = |port: usize, zero: i32| {
            let dtype = site.operands[port].dtype;
            i64::from((dtype.max() - zero).max(zero - dtype.min()))
        };
        let most = terms as i64 * reach(0, a.zero_point) * reach(1, b.zero_point);
        let bound = Interval::new(-most, most);
        if !super::fits_i32(bound) {
            let message = format!("a sum of {terms} products can reach {most}, more than 32 bits hold");
            let problem = Problem { code: diag::Code::AccumulatorOverflow, message, help: None };
            return Err(problem.help("split the product: fewer terms for each sum, then add the parts"));
        }
        let factor = f64::from(self.factor) * a.scale.get() * b.scale.get() / y.scale.get();
        let multiplier = mul::multipliers(&[factor], (bound, site.result.dtype), site.numerics)?[0];
        let clamp = self.clamp.quantize(y, site.result.dtype);
        let zeros = [a.zero_point, b.zero_point];
        Ok(QMatMul { zeros, terms, bound, multiplier, output_zero: y.zero_point, clamp }.into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        let y = export.node("MatMul", &[&site.operands[0], &site.operands[1]], &[]);
        if self.factor == 1.0 {
            return Ok(y);
        }
        let factor = export.floats(&[], vec![self.factor]);
        Ok(export.node("Mul", &[&y, &factor], &[]))
    }

    fn describe(&self) -> String {
        format!("factor {:?}, clamp {}", self.factor, self.clamp)
    }

    fn clamp_mut(&mut self) -> Option<&mut RealClamp> {
        Some(&mut self.clamp)
    }
}

impl QuantOperator for QMatMul {
    fn kind(&self) -> &'static str {
        "MatMul"
    }

    fn arity(&self) -> Option<usize> {
        Some(2)
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands)
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let rank = result.shape.rank();
        let [a, b] = [0, 1].map(|port| operands[port].ty.shape.clone());
        let batch = Shape::new(&result.shape.dims()[..rank - 2]);
        let (m, n, k) = (result.shape.dims()[rank - 2], result.shape.dims()[rank - 1], self.terms);
        let matrices = |shape: &Shape| Shape::new(&shape.dims()[..shape.rank() - 2]).broadcast_strides(&batch);
        let (a_strides, b_strides) = (matrices(&a), matrices(&b));
        let mut y = Vec::with_capacity(result.shape.len());
        for flat in 0..batch.len() {
            let index = batch.unravel(flat);
            let at = |strides: &[usize]| index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>();
            let (a, b) = (at(&a_strides) * m * k, at(&b_strides) * k * n);
            for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
                let product = |i: usize| {
                    let (a, b) = (operands[0].data[a + row * k + i], operands[1].data[b + i * n + column]);
                    (a - self.zeros[0]) * (b - self.zeros[1])
                };
                let sum = (0..k).map(product).sum();
                y.push(self.clamp.apply(self.output_zero + self.multiplier.apply(sum)));
            }
        }
        y
    }

    fn describe(&self) -> String {
        let [a, b] = self.zeros.map(|zero| -zero);
        format!(
            "sum of {} (a{a:+})*(b{b:+}), times {}, y{:+} clamp {}",
            self.terms, self.multiplier, self.output_zero, self.clamp
        )
    }

    fn is_unusual(&self) -> bool {
        self.multiplier.rounding() != Rounding::NATIVE
    }

    fn accumulator(&self) -> Option<Interval> {
        Some(self.bound)
    }

    fn macs(&self, result: &Shape) -> u64 {
        (result.len() * self.terms) as u64
    }
}
