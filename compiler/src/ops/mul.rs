//! Product of two tensors, with broadcasting (ONNX `Mul`).

use super::add::{evaluate_broadcast, infer_broadcast, scale_by_constant};
use super::export::Export;
use super::import::{NodeImport, Value};
use super::{ExportSite, FloatOperator, Operand, Problem, QuantOp, QuantOperator, Site, weighted};
use crate::diag;
use crate::ir::{Clamp, DType, Interval, Multiplier, Numerics, QuantType, RealClamp, Rounding, Shape};

/// `a * b`.
#[derive(Debug, Clone)]
pub struct Mul {
    /// Fused activation.
    pub clamp: RealClamp,
}

/// `clamp(y_zero + multiplier((a - a_zero) * (b - b_zero)))`.
#[derive(Debug, Clone)]
pub struct QMul {
    /// Zero points of the operands.
    pub zeros: [i32; 2],
    /// Types of the operands.
    pub types: [DType; 2],
    /// From product to result.
    pub multiplier: Multiplier,
    /// The integer that stands for 0 in the result.
    pub output_zero: i32,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// Imports `Mul`.
pub fn import_mul(cx: &mut NodeImport) -> diag::Result<()> {
    let product = match (cx.input(0)?, cx.input(1)?) {
        (_, Value::Constant(_)) => {
            let (x, c) = (cx.activation(0)?, cx.float_constant(1)?);
            scale_by_constant(cx, x, c)?
        }
        (Value::Constant(_), _) => {
            let (c, x) = (cx.float_constant(0)?, cx.activation(1)?);
            scale_by_constant(cx, x, c)?
        }
        _ => {
            let (a, b) = (cx.activation(0)?, cx.activation(1)?);
            cx.emit(Mul { clamp: RealClamp::NONE }, &[a, b])?
        }
    };
    cx.define(0, product);
    Ok(())
}

impl FloatOperator for Mul {
    fn kind(&self) -> &'static str {
        "Mul"
    }

    fn arity(&self) -> Option<usize> {
        Some(2)
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_broadcast(operands)
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let (a, b, y) = (site.operand_params(0)?, site.operand_params(1)?, site.result_params());
        let factor = match site.numerics {
            Numerics::Native => a.scale.get() * b.scale.get() / y.scale.get(),
            Numerics::Ort => f64::from(a.scale.as_f32() * b.scale.as_f32() / y.scale.as_f32()),
        };
        let (zeros, types) = ([a.zero_point, b.zero_point], [0, 1].map(|port| site.operands[port].dtype));
        let multiplier = multipliers(&[factor], (reach(types), site.result.dtype), site.numerics)?[0];
        let clamp = self.clamp.quantize(y, site.result.dtype);
        Ok(QMul { zeros, types, multiplier, output_zero: y.zero_point, clamp }.into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        Ok(export.node("Mul", &[&site.operands[0], &site.operands[1]], &[]))
    }

    fn describe(&self) -> String {
        format!("clamp {}", self.clamp)
    }

    fn clamp_mut(&mut self) -> Option<&mut RealClamp> {
        Some(&mut self.clamp)
    }
}

/// A multiplier for each factor of numbers within `bound`, for results of a type; all round alike.
pub fn multipliers(
    factors: &[f64],
    (bound, result): (Interval, DType),
    numerics: Numerics,
) -> Result<Vec<Multiplier>, Problem> {
    let native = |&factor: &f64| Multiplier::new(factor).filter(|multiplier| multiplier.accepts_for(bound, result));
    let shift = Multiplier::exact_shift(factors.iter().copied());
    let most = i64::try_from(bound.lo.abs().max(bound.hi.abs())).unwrap_or(i64::MAX);
    let exact: Option<Vec<Multiplier>> = factors.iter().map(|&factor| Multiplier::exact(factor, shift, most)).collect();
    let native = || factors.iter().map(native).collect();
    let multipliers = match numerics {
        Numerics::Native => native(),
        Numerics::Ort => exact.or_else(native),
    };
    multipliers.ok_or_else(weighted::too_narrow)
}

impl QuantOperator for QMul {
    fn kind(&self) -> &'static str {
        "Mul"
    }

    fn arity(&self) -> Option<usize> {
        Some(2)
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer_broadcast(operands)
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        evaluate_broadcast(operands, &result.shape, |a, b| {
            // Two of 16 bits reach 2^30.
            let product = (a - self.zeros[0]) * (b - self.zeros[1]);
            self.clamp.apply_wide(i64::from(self.output_zero) + self.multiplier.apply_wide(product.into()))
        })
    }

    fn describe(&self) -> String {
        let [a, b] = self.zeros.map(|zero| -zero);
        format!("(a{a:+})*(b{b:+}) * {}, y{:+} clamp {}", self.multiplier, self.output_zero, self.clamp)
    }

    fn is_unusual(&self) -> bool {
        self.multiplier.rounding() != Rounding::NATIVE
    }

    fn accumulator(&self) -> Option<Interval> {
        let reach = |port: usize| {
            let (Interval { lo, hi }, zero) = (self.types[port].interval(), i128::from(self.zeros[port]));
            (lo - zero, hi - zero)
        };
        let ((a_lo, a_hi), (b_lo, b_hi)) = (reach(0), reach(1));
        let products = [a_lo * b_lo, a_lo * b_hi, a_hi * b_lo, a_hi * b_hi];
        products.into_iter().map(Interval::point).reduce(Interval::hull)
    }
}

/// All products of operands of these types, whatever their zero points are.
pub fn reach(types: [DType; 2]) -> Interval {
    let most = |dtype: DType| match dtype {
        DType::I4 | DType::I8 => 255,
        DType::I16 | DType::I32 => -i64::from(dtype.min()),
    };
    let most = most(types[0]) * most(types[1]);
    Interval::new(-most, most)
}
