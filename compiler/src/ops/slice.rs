//! Selects elements at regular distances along each axis (ONNX `Slice`, `Split`, `Gather` with constant indices).

use super::concat::Concat;
use super::export::Export;
use super::import::{NodeImport, Value};
use super::reshape::Reshape;
use super::{ExportSite, FloatOperator, Operand, ParamsRule, Problem, QuantOp, QuantOperator, Site};
use crate::diag;
use crate::ir::{NodeId, QuantType, Shape};

/// `y[i, ..] = x[start[0] + i * step[0], ..]`.
#[derive(Debug, Clone)]
pub struct Slice {
    /// First element of each axis.
    pub start: Vec<usize>,
    /// Distance of the elements along each axis; negative to go backwards.
    pub step: Vec<isize>,
    /// Number of elements of each axis.
    pub size: Vec<usize>,
}

/// On integers the same.
pub type QSlice = Slice;

impl Slice {
    /// All of `shape`.
    pub fn whole(shape: &Shape) -> Slice {
        Slice { start: vec![0; shape.rank()], step: vec![1; shape.rank()], size: shape.dims().to_vec() }
    }

    /// `size` elements of one axis from `start` on.
    pub fn part(shape: &Shape, axis: usize, start: usize, size: usize) -> Slice {
        let mut slice = Slice::whole(shape);
        (slice.start[axis], slice.size[axis]) = (start, size);
        slice
    }

    fn shape(&self, operand: &Shape) -> Result<Shape, String> {
        let last = |axis: usize| self.start[axis] as isize + self.step[axis] * (self.size[axis] as isize - 1);
        let fits = self.size.len() == operand.rank()
            && (0..operand.rank()).all(|axis| {
                let size = operand.dims()[axis];
                self.size[axis] > 0 && self.start[axis] < size && (0..size as isize).contains(&last(axis))
            });
        if !fits {
            return Err(format!("{operand} does not hold {}", FloatOperator::describe(self)));
        }
        Ok(Shape::new(self.size.clone()))
    }
}

/// Imports `Slice`: bounds are attributes before opset 10, inputs since.
pub fn import_slice(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let shape = cx.shape(x);
    let list = |cx: &NodeImport, port: usize, attribute: &str| match cx.optional(port) {
        Some(_) => cx.int_constant(port).map(Some),
        None => cx.ints(attribute),
    };
    let (Some(starts), Some(ends)) = (list(cx, 1, "starts")?, list(cx, 2, "ends")?) else {
        return Err(cx.invalid("it has no starts or no ends".to_owned()));
    };
    let axes = list(cx, 3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = list(cx, 4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err(cx.invalid("starts, ends, axes and steps differ in length".to_owned()));
    }
    let mut slice = Slice::whole(&shape);
    for (i, &axis) in axes.iter().enumerate() {
        let axis = cx.axis(axis, shape.rank())?;
        let range = resolve(starts[i], ends[i], steps[i], shape.dims()[axis]);
        let Some((start, size)) = range else {
            return Err(cx.invalid(format!(
                "axis {axis} of {shape} is cut to nothing by {}:{}:{}",
                starts[i], ends[i], steps[i]
            )));
        };
        (slice.start[axis], slice.size[axis], slice.step[axis]) = (start, size, steps[i] as isize);
    }
    if slice.size == shape.dims() && slice.step.iter().all(|&step| step == 1) {
        cx.alias(0, x);
        return Ok(());
    }
    cx.finish(0, slice, &[x]).map(drop)
}

/// First element and number of elements of `start:end:step` on an axis of `size` elements; `None` if empty.
fn resolve(start: i64, end: i64, step: i64, size: usize) -> Option<(usize, usize)> {
    let size = size as i64;
    let wrap = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
    let (start, end) = match step {
        0 => return None,
        1.. => (wrap(start).clamp(0, size), wrap(end).clamp(0, size)),
        _ => (wrap(start).clamp(0, size - 1), wrap(end).clamp(-1, size - 1)),
    };
    let distance = if step > 0 { end - start } else { start - end };
    (distance > 0).then(|| (start as usize, distance.unsigned_abs().div_ceil(step.unsigned_abs()) as usize))
}

/// Imports `Split`: sizes are an attribute before opset 13, an input since; equal parts without either.
pub fn import_split(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let shape = cx.shape(x);
    let axis = cx.axis(cx.int_or("axis", 0)?, shape.rank())?;
    let sizes = match cx.optional(1) {
        Some(_) => Some(cx.int_constant(1)?),
        None => cx.ints("split")?,
    };
    let parts = cx.output_count();
    let chunk = shape.dims()[axis].div_ceil(parts.max(1));
    let sizes: Vec<usize> = match sizes {
        Some(sizes) => sizes.iter().map(|&size| size.max(0) as usize).collect(),
        None => (0..parts).map(|part| chunk.min(shape.dims()[axis].saturating_sub(part * chunk))).collect(),
    };
    if sizes.len() != parts
        || sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size)) != Some(shape.dims()[axis])
    {
        return Err(cx.invalid(format!("parts of {sizes:?} do not make up axis {axis} of {shape}")));
    }
    let mut start = 0;
    for (part, size) in sizes.into_iter().enumerate() {
        if cx.output_used(part) {
            cx.finish(part, Slice::part(&shape, axis, start, size), &[x])?;
        }
        start += size;
    }
    Ok(())
}

/// Imports `Gather` with constant indices: parts, joined again.
pub fn import_gather(cx: &mut NodeImport) -> diag::Result<()> {
    if !matches!(cx.input(1)?, Value::Constant(_)) {
        return Err(cx.unsupported("its indices are computed at run time", "constant indices are supported"));
    }
    let x = cx.activation(0)?;
    let shape = cx.shape(x);
    let axis = cx.axis(cx.int_or("axis", 0)?, shape.rank())?;
    let (indices, index_shape) = (cx.int_constant(1)?, cx.constant_shape(1)?);
    let size = shape.dims()[axis] as i64;
    let indices: Vec<i64> = indices.iter().map(|&i| if i < 0 { i + size } else { i }).collect();
    if indices.is_empty() || indices.iter().any(|i| !(0..size).contains(i)) {
        return Err(cx.invalid(format!("an index is outside of axis {axis} of {shape}")));
    }
    let parts = runs(&indices).into_iter().map(|(start, size)| cx.emit(Slice::part(&shape, axis, start, size), &[x]));
    let parts = parts.collect::<diag::Result<Vec<NodeId>>>()?;
    let joined = if parts.len() == 1 { parts[0] } else { cx.emit(Concat { axis }, &parts)? };
    let mut dims = shape.dims()[..axis].to_vec();
    dims.extend(index_shape.dims());
    dims.extend(&shape.dims()[axis + 1..]);
    let y = cx.emit_unless_same(Reshape { shape: Shape::new(dims) }, joined)?;
    cx.define(0, y);
    Ok(())
}

/// Maximal runs of ascending neighbours: start and length.
fn runs(indices: &[i64]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = vec![];
    for &index in indices {
        match runs.last_mut() {
            Some((start, size)) if *start + *size == index as usize => *size += 1,
            _ => runs.push((index as usize, 1)),
        }
    }
    runs
}

impl FloatOperator for Slice {
    fn kind(&self) -> &'static str {
        "Slice"
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        self.shape(operands[0])
    }

    fn params_rule(&self) -> ParamsRule {
        ParamsRule::SameAsOperand
    }

    fn quantize(&self, _site: &Site) -> Result<QuantOp, Problem> {
        Ok(self.clone().into())
    }

    fn export(&self, export: &mut Export, site: &ExportSite) -> Result<String, Problem> {
        let rank = self.start.len();
        let end = |axis: usize| self.start[axis] as i64 + self.step[axis] as i64 * self.size[axis] as i64;
        // An end before the tensor has to be far below 0, where it is not counted from the other end.
        let ends = (0..rank).map(|axis| if end(axis) < 0 { i64::MIN } else { end(axis) }).collect();
        let starts = self.start.iter().map(|&start| start as i64).collect();
        let steps = self.step.iter().map(|&step| step as i64).collect();
        let [starts, ends, axes, steps] =
            [starts, ends, (0..rank as i64).collect(), steps].map(|values| export.ints(values));
        Ok(export.node("Slice", &[site.x(), &starts, &ends, &axes, &steps], &[]))
    }

    fn describe(&self) -> String {
        let axes: Vec<String> = (0..self.start.len())
            .map(|axis| match self.step[axis] {
                1 => format!("{} from {}", self.size[axis], self.start[axis]),
                step => format!("{} from {} step {step}", self.size[axis], self.start[axis]),
            })
            .collect();
        axes.join(", ")
    }
}

impl QuantOperator for Slice {
    fn kind(&self) -> &'static str {
        "Slice"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        self.shape(operands[0])
    }

    fn evaluate(&self, operands: &[Operand], result: &QuantType) -> Vec<i32> {
        let strides = operands[0].ty.shape.strides();
        (0..result.shape.len())
            .map(|flat| {
                let index = result.shape.unravel(flat);
                let at = |axis: usize| (self.start[axis] as isize + index[axis] as isize * self.step[axis]) as usize;
                operands[0].data[(0..strides.len()).map(|axis| at(axis) * strides[axis]).sum::<usize>()]
            })
            .collect()
    }

    fn describe(&self) -> String {
        FloatOperator::describe(self)
    }
}
