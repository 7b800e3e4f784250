//! Adds elements around a tensor (ONNX `Pad`, all modes).

use super::export::Export;
use super::import::{Attribute, NodeImport};
use super::{ExportSite, FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{QuantType, Shape};

/// Where added elements come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PadMode<V> {
    /// One value.
    Constant(V),
    /// Mirrored at the edge, which is not repeated.
    Reflect,
    /// The nearest element.
    Edge,
    /// From the other end.
    Wrap,
}

/// Adds `before` and `after` elements on each axis. Negative numbers, which cut, are imported as a Slice.
#[derive(Debug, Clone)]
pub struct Pad {
    /// Elements before each axis.
    pub before: Vec<usize>,
    /// Elements after each axis.
    pub after: Vec<usize>,
    /// Where they come from.
    pub mode: PadMode<f32>,
}

/// The same on integers; operand and result share scale and zero point.
#[derive(Debug, Clone)]
pub struct QPad {
    /// Elements before each axis.
    pub before: Vec<usize>,
    /// Elements after each axis.
    pub after: Vec<usize>,
    /// Where they come from.
    pub mode: PadMode<i32>,
}

/// Imports `Pad`: amounts are an attribute before opset 11, inputs since.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let shape = cx.shape(x);
    let pads = match cx.optional(1) {
        Some(_) => Some(cx.int_constant(1)?),
        None => cx.ints("pads")?,
    };
    let value = match cx.optional(2) {
        Some(_) => cx.float_scalar(2)?,
        None => cx.float_or("value", 0.0)?,
    };
    let axes = match cx.optional(3) {
        Some(_) => cx.axes_in_order(&cx.int_constant(3)?, shape.rank())?,
        None => (0..shape.rank()).collect(),
    };
    let pads = pads.filter(|pads| pads.len() == 2 * axes.len());
    let Some(pads) = pads else { return Err(cx.invalid(format!("its pads do not fit the axes of {shape}"))) };
    if pads.iter().any(|pad| pad.unsigned_abs() > Shape::MAX_ELEMENTS as u64) {
        return Err(cx.unsupported(format!("its pads are {pads:?}"), "give smaller numbers"));
    }
    let mode = match cx.string_or("mode", "constant")?.as_str() {
        "constant" => PadMode::Constant(value),
        "reflect" => PadMode::Reflect,
        "edge" => PadMode::Edge,
        "wrap" => PadMode::Wrap,
        other => {
            return Err(
                cx.unsupported(format!("mode `{other}`"), "modes constant, reflect, edge and wrap are supported")
            );
        }
    };
    finish(cx, x, &axes, &pads, mode)
}

fn finish(
    cx: &mut NodeImport,
    x: crate::ir::NodeId,
    axes: &[usize],
    pads: &[i64],
    mode: PadMode<f32>,
) -> diag::Result<()> {
    let shape = cx.shape(x);
    let mut pad = Pad { before: vec![0; shape.rank()], after: vec![0; shape.rank()], mode };
    let mut cut = super::slice::Slice::whole(&shape);
    for (i, &axis) in axes.iter().enumerate() {
        let (before, after) = (pads[i], pads[axes.len() + i]);
        (pad.before[axis], pad.after[axis]) = (before.max(0) as usize, after.max(0) as usize);
        let (skip, drop) = ((-before).max(0) as usize, (-after).max(0) as usize);
        cut.start[axis] = skip;
        cut.size[axis] = shape.dims()[axis].saturating_sub(skip + drop);
    }
    let is_cut = cut.size != shape.dims();
    let is_padded = pad.before.iter().chain(&pad.after).any(|&n| n > 0);
    let x = if is_cut { cx.emit(cut, &[x])? } else { x };
    let y = if is_padded { cx.emit(pad, &[x])? } else { x };
    cx.define(0, y);
    Ok(())
}

impl Pad {
    /// Whether infinity is added, or what exporters write for it.
    pub fn is_endless(&self) -> bool {
        matches!(self.mode, PadMode::Constant(value) if value.abs() >= f32::MAX)
    }

    /// The constant that is added and has to be within the range of the result. 0 in the other modes, and where the
    /// constant stands for infinity: that is as good as the largest or smallest value of any range.
    pub fn fill(&self) -> f32 {
        match self.mode {
            PadMode::Constant(_) if self.is_endless() => 0.0,
            PadMode::Constant(value) => value,
            PadMode::Reflect | PadMode::Edge | PadMode::Wrap => 0.0,
        }
    }
}

impl<V: Copy> PadMode<V> {
    /// The element of an axis of `size` elements that stands at `at` (relative to its start); `None` for the constant.
    pub fn source(self, at: isize, size: usize) -> Option<usize> {
        let len = size as isize;
        let source = match self {
            _ if (0..len).contains(&at) => at,
            PadMode::Constant(_) => return None,
            PadMode::Edge => at.clamp(0, len - 1),
            PadMode::Wrap => at.rem_euclid(len),
            PadMode::Reflect if size == 1 => 0,
            PadMode::Reflect => {
                let folded = at.rem_euclid(2 * (len - 1));
                folded.min(2 * (len - 1) - folded)
            }
        };
        Some(source as usize)
    }
}

fn infer(operand: &Shape, before: &[usize], after: &[usize]) -> Result<Shape, String> {
    if operand.rank() != before.len() || operand.rank() != after.len() {
        return Err(format!("{} amounts for {operand}", before.len()));
    }
    Ok(Shape::new(
        (0..operand.rank()).map(|axis| before[axis] + operand.dims()[axis] + after[axis]).collect::<Vec<_>>(),
    ))
}

impl FloatOperator for Pad {
    fn kind(&self) -> &'static str {
        "Pad"
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands[0], &self.before, &self.after)
    }

    /// A constant other than 0 may lie outside of the operand's range; then `quantize` requantizes the operand.
    fn params_rule(&self) -> ParamsRule {
        match self.mode {
            PadMode::Constant(_) if self.fill() != 0.0 => ParamsRule::Own,
            _ => ParamsRule::SameAsOperand,
        }
    }

    fn shares_params(&self, _port: usize) -> bool {
        true
    }

    fn quantize(&self, site: &Site) -> Result<QuantOp, Problem> {
        let mode = match self.mode {
            PadMode::Constant(value) => {
                PadMode::Constant(site.result_params().quantize(f64::from(value), site.result.dtype))
            }
            PadMode::Reflect => PadMode::Reflect,
            PadMode::Edge => PadMode::Edge,
            PadMode::Wrap => PadMode::Wrap,
        };
        Ok(QPad { before: self.before.clone(), after: self.after.clone(), mode }.into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        let amounts = self.before.iter().chain(&self.after).map(|&n| n as i64).collect();
        let amounts = export.ints(amounts);
        let mode = match self.mode {
            PadMode::Constant(value) => {
                // Infinity, which no integer stands for, is as good as the last integer.
                let value = site
                    .result
                    .params()
                    .map_or(value, |params| params.dequantize(params.quantize(value.into(), site.result.dtype)) as f32);
                let value = export.floats(&[], vec![value]);
                return Ok(export.node("Pad", &[site.x(), &amounts, &value], &[]));
            }
            PadMode::Reflect => "reflect",
            PadMode::Edge => "edge",
            PadMode::Wrap => {
                return Err(Problem::unsupported("`Pad` with mode wrap cannot be written in operator set 17"));
            }
        };
        Ok(export.node("Pad", &[site.x(), &amounts], &[("mode", Attribute::Text(mode.to_owned()))]))
    }

    fn describe(&self) -> String {
        format!("before {:?}, after {:?}, {:?}", self.before, self.after, self.mode)
    }
}

impl QuantOperator for QPad {
    fn kind(&self) -> &'static str {
        "Pad"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        infer(operands[0], &self.before, &self.after)
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let (dims, strides) = (operands[0].ty.shape.dims(), operands[0].ty.shape.strides());
        let source = |index: &[usize]| {
            let at = |axis: usize| self.mode.source(index[axis] as isize - self.before[axis] as isize, dims[axis]);
            (0..dims.len()).try_fold(0, |sum, axis| at(axis).map(|at| sum + at * strides[axis]))
        };
        (0..result.shape.len())
            .map(|flat| match (source(&result.shape.unravel(flat)), self.mode) {
                (Some(at), _) => operands[0].data[at],
                (None, PadMode::Constant(value)) => value,
                (None, PadMode::Reflect | PadMode::Edge | PadMode::Wrap) => {
                    unreachable!("only a constant has no source")
                }
            })
            .collect()
    }

    fn describe(&self) -> String {
        format!("before {:?}, after {:?}, {:?}", self.before, self.after, self.mode)
    }
}
