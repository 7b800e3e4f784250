//! Largest element under a sliding window (ONNX `MaxPool`, `GlobalMaxPool`). Keeps scale and zero point.

use super::conv::window_attributes;
use super::export::Export;
use super::import::{Attribute, NodeImport};
use super::{ExportSite, FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{QuantType, Shape, Window};

/// The maximum over the taps inside the input; padding never wins.
#[derive(Debug, Clone)]
pub struct MaxPool {
    /// Geometry of the spatial axes.
    pub window: Window,
}

/// On integers the same, since quantization keeps the order.
pub type QMaxPool = MaxPool;

/// Imports `MaxPool`.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    if cx.output_used(1) {
        return Err(cx.unsupported("its second output (indices) is used", "only the pooled values are supported"));
    }
    let x = cx.activation(0)?;
    let window = cx.pooling_window(x)?;
    cx.finish(0, MaxPool { window }, &[x]).map(drop)
}

/// Imports `GlobalMaxPool`.
pub fn import_global(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let kernel = cx.spatial(x)?;
    let window = Window { kernel: kernel.clone(), ..Window::unit(kernel.len()) };
    cx.finish(0, MaxPool { window }, &[x]).map(drop)
}

/// The attributes of a pooling window.
pub fn pool_attributes(window: &Window) -> Vec<(&'static str, Attribute)> {
    let mut attributes = window_attributes(window);
    attributes.push(("ceil_mode", Attribute::Int(window.ceil.into())));
    attributes
}

/// Shape of a pooling result.
pub fn infer_pool(input: &Shape, window: &Window) -> Result<Shape, String> {
    if input.rank() != window.rank() + 2 {
        return Err(format!("input {input} does not have {} spatial axes", window.rank()));
    }
    let mut dims = input.dims().to_vec();
    for axis in 0..window.rank() {
        let size = window.output_size(axis, dims[axis + 2]);
        dims[axis + 2] =
            size.ok_or_else(|| format!("the window ({window}) is larger than the padded input {input}"))?;
    }
    Ok(Shape::new(dims))
}

/// For every element of a pooling result: the positions in the input of the taps inside it.
pub fn evaluate_pool(
    window: &Window,
    input: &Shape,
    result: &Shape,
    mut f: impl FnMut(&[usize], &[usize]) -> i32,
) -> Vec<i32> {
    let strides = input.strides();
    (0..result.len())
        .map(|flat| {
            let index = result.unravel(flat);
            let mut positions = vec![index[0] * strides[0] + index[1] * strides[1]];
            for axis in 0..window.rank() {
                let taps = window.taps_at(axis, index[axis + 2], input.dims()[axis + 2]);
                let at =
                    |tap: usize| (taps.start + (tap * window.dilation[axis]) as isize) as usize * strides[axis + 2];
                positions =
                    positions.iter().flat_map(|&p| (taps.first..taps.end).map(move |tap| p + at(tap))).collect();
            }
            f(&index, &positions)
        })
        .collect()
}

impl FloatOperator for MaxPool {
    fn kind(&self) -> &'static str {
        "MaxPool"
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        let result = infer_pool(operands[0], &self.window)?;
        let sizes = &operands[0].dims()[2..];
        let empty = (0..self.window.rank()).any(|axis| {
            (0..result.dims()[axis + 2]).any(|o| {
                let taps = self.window.taps_at(axis, o, sizes[axis]);
                taps.first == taps.end
            })
        });
        if empty {
            return Err(format!("a window ({}) lies entirely in the padding of {}", self.window, operands[0]));
        }
        Ok(result)
    }

    fn params_rule(&self) -> ParamsRule {
        ParamsRule::SameAsOperand
    }

    fn quantize(&self, _site: &Site) -> Result<QuantOp, Problem> {
        Ok(self.clone().into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        Ok(export.node("MaxPool", &[site.x()], &pool_attributes(&self.window)))
    }

    fn describe(&self) -> String {
        self.window.to_string()
    }
}

impl QuantOperator for MaxPool {
    fn kind(&self) -> &'static str {
        "MaxPool"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        FloatOperator::infer(self, operands)
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let x = operands[0];
        evaluate_pool(&self.window, &x.ty.shape, &result.shape, |_, positions| {
            positions.iter().map(|&p| x.data[p]).max().unwrap_or(x.ty.dtype.min())
        })
    }

    fn describe(&self) -> String {
        self.window.to_string()
    }
}
