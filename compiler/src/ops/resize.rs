//! ONNX `Resize`: for every axis, which elements make up each position. Coordinates and weights as in the
//! definition of `Resize`; all of it is decided here, at compile time.

use super::import::{Attribute, NodeImport};
use super::resample::{self, AxisTaps, Resample, WEIGHTED_AXES};
use super::{add, constant};
use crate::diag;
use crate::ir::{FloatTensor, NodeId, Shape};

/// How positions of the result are mapped to the operand's axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfHalfPixelForNn,
    TfCropAndResize,
}

/// Which neighbour a position between two elements takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nearest {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Nearest(Nearest),
    Linear,
    /// With its coefficient `a`.
    Cubic(f64),
}

/// What is the same for all axes.
#[derive(Debug, Clone, Copy)]
struct Method {
    coordinates: Coordinates,
    mode: Mode,
    antialias: bool,
    exclude_outside: bool,
    extrapolation: f32,
}

/// One axis.
#[derive(Debug, Clone, Copy)]
struct Resized {
    size: usize,
    result: usize,
    scale: f64,
    /// Start and end of the region of interest, for `tf_crop_and_resize`.
    roi: (f64, f64),
}

/// What the first `Resize` does.
fn method_of_old(mode: Mode) -> Method {
    let (antialias, exclude_outside, extrapolation) = (false, false, 0.0);
    Method { coordinates: Coordinates::Asymmetric, mode, antialias, exclude_outside, extrapolation }
}

fn finish(cx: &mut NodeImport, x: NodeId, method: Method, scales: &[f32]) -> diag::Result<()> {
    let shape = cx.shape(x);
    let axes = by_scales(cx, &shape, &(0..shape.rank()).collect::<Vec<_>>(), scales)?;
    resampled(cx, x, method, &axes)
}

/// Imports `Resize`.
pub fn import(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let shape = cx.shape(x);
    let nearest = nearest(cx)?;
    if cx.opset() < 11 {
        let mode = match cx.string_or("mode", "nearest")?.as_str() {
            "nearest" => Mode::Nearest(Nearest::Floor),
            "linear" => Mode::Linear,
            other => return Err(cx.invalid(format!("attribute mode is `{other}`"))),
        };
        let scales = cx.float_constant(1)?.data;
        return finish(cx, x, method_of_old(mode), &scales);
    }
    let method = method(cx, nearest)?;
    let axes = match cx.ints("axes")? {
        Some(axes) => cx.axes_in_order(&axes, shape.rank())?,
        None => (0..shape.rank()).collect(),
    };
    let given = |cx: &NodeImport, port: usize| match cx.optional(port) {
        Some(_) => cx.constant_shape(port).map(|shape| !shape.is_empty()),
        None => Ok(false),
    };
    let mut resized = if given(cx, 3)? {
        by_sizes(cx, &shape, &axes)?
    } else if given(cx, 2)? {
        let scales = cx.float_constant(2)?.data;
        by_scales(cx, &shape, &axes, &scales)?
    } else {
        return Err(cx.invalid("it has neither scales nor sizes"));
    };
    if method.coordinates == Coordinates::TfCropAndResize {
        let roi = cx.float_constant(1)?.data;
        if roi.len() != 2 * axes.len() {
            return Err(cx.invalid(format!("its roi has {} numbers for {} axes", roi.len(), axes.len())));
        }
        for (i, &axis) in axes.iter().enumerate() {
            resized[axis].roi = (f64::from(roi[i]), f64::from(roi[i + axes.len()]));
        }
    }
    resampled(cx, x, method, &resized)
}

fn nearest(cx: &NodeImport) -> diag::Result<Nearest> {
    match cx.string_or("nearest_mode", "round_prefer_floor")?.as_str() {
        "round_prefer_floor" | "" => Ok(Nearest::RoundPreferFloor),
        "round_prefer_ceil" => Ok(Nearest::RoundPreferCeil),
        "floor" => Ok(Nearest::Floor),
        "ceil" => Ok(Nearest::Ceil),
        other => Err(cx.invalid(format!("attribute nearest_mode is `{other}`"))),
    }
}

fn method(cx: &NodeImport, nearest: Nearest) -> diag::Result<Method> {
    let coordinates = match cx.string_or("coordinate_transformation_mode", "half_pixel")?.as_str() {
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_half_pixel_for_nn" => Coordinates::TfHalfPixelForNn,
        "tf_crop_and_resize" => Coordinates::TfCropAndResize,
        other => return Err(cx.invalid(format!("attribute coordinate_transformation_mode is `{other}`"))),
    };
    let mode = match cx.string_or("mode", "nearest")?.as_str() {
        "nearest" => Mode::Nearest(nearest),
        "linear" => Mode::Linear,
        "cubic" => Mode::Cubic(f64::from(cx.float_or("cubic_coeff_a", -0.75)?)),
        other => return Err(cx.invalid(format!("attribute mode is `{other}`"))),
    };
    Ok(Method {
        coordinates,
        mode,
        antialias: cx.int_or("antialias", 0)? != 0,
        exclude_outside: cx.int_or("exclude_outside", 0)? != 0,
        extrapolation: cx.float_or("extrapolation_value", 0.0)?,
    })
}

fn whole(shape: &Shape) -> Vec<Resized> {
    shape.dims().iter().map(|&size| Resized { size, result: size, scale: 1.0, roi: (0.0, 1.0) }).collect()
}

fn by_scales(cx: &NodeImport, shape: &Shape, axes: &[usize], scales: &[f32]) -> diag::Result<Vec<Resized>> {
    if scales.len() != axes.len() || scales.iter().any(|&scale| scale <= 0.0) {
        return Err(cx.invalid(format!("scales {scales:?} for axes {axes:?} of {shape}")));
    }
    let mut resized = whole(shape);
    for (&axis, &scale) in axes.iter().zip(scales) {
        let scale = f64::from(scale);
        // Numbers like 2.1 are not exact in 32 bits; what they were meant to be is.
        let result = (shape.dims()[axis] as f64 * scale * (1.0 + 1e-7)).floor();
        if result < 1.0 || result > Shape::MAX_ELEMENTS as f64 {
            return Err(cx.unsupported(format!("an axis of {shape} gets {result} elements"), "give other scales"));
        }
        (resized[axis].result, resized[axis].scale) = (result as usize, scale);
    }
    Ok(resized)
}

fn by_sizes(cx: &NodeImport, shape: &Shape, axes: &[usize]) -> diag::Result<Vec<Resized>> {
    let sizes = cx.int_constant(3)?;
    if sizes.len() != axes.len() || sizes.iter().any(|&size| !(1..=Shape::MAX_ELEMENTS as i64).contains(&size)) {
        return Err(cx.invalid(format!("sizes {sizes:?} for axes {axes:?} of {shape}")));
    }
    let ratio = |(&axis, &size): (&usize, &i64)| size as f64 / shape.dims()[axis] as f64;
    let ratios = axes.iter().zip(&sizes).map(ratio);
    let common = match cx.string_or("keep_aspect_ratio_policy", "stretch")?.as_str() {
        "stretch" => None,
        "not_larger" => Some(ratios.fold(f64::INFINITY, f64::min)),
        "not_smaller" => Some(ratios.fold(0.0, f64::max)),
        other => return Err(cx.invalid(format!("attribute keep_aspect_ratio_policy is `{other}`"))),
    };
    let mut resized = whole(shape);
    for (&axis, &size) in axes.iter().zip(&sizes) {
        let own = shape.dims()[axis] as f64;
        let result = common.map_or(size as usize, |scale| (scale * own + 0.5).floor().max(1.0) as usize);
        let scale = common.unwrap_or(size as f64 / own);
        (resized[axis].result, resized[axis].scale) = (result, scale);
    }
    Ok(resized)
}

fn resampled(cx: &mut NodeImport, x: NodeId, method: Method, axes: &[Resized]) -> diag::Result<()> {
    let unchanged = |axis: &Resized| {
        axis.size == axis.result && axis.scale == 1.0 && method.coordinates != Coordinates::TfCropAndResize
    };
    let taps = axes.iter().map(|axis| (!unchanged(axis)).then(|| method.taps(axis)));
    let taps: Vec<Option<AxisTaps>> = taps.collect();
    let shape = Shape::new(axes.iter().map(|axis| axis.result).collect::<Vec<_>>());
    if !shape.is_reasonable() {
        return Err(cx.unsupported(format!("its result has shape {shape}"), "give smaller scales or sizes"));
    }
    let mut y = x;
    let parts = parts(taps);
    let written = if parts.len() == 1 { written(cx, method, axes)? } else { None };
    for part in parts {
        y = cx.emit(Resample { axes: part, resize: written.clone() }, &[y])?;
    }
    if method.coordinates == Coordinates::TfCropAndResize && method.extrapolation != 0.0 {
        let outside = extrapolated(axes, method.extrapolation);
        let outside = cx.emit(constant::Constant { tensor: outside }, &[])?;
        y = cx.emit(add::Add { subtract: false, clamp: crate::ir::RealClamp::NONE }, &[y, outside])?;
    }
    cx.define(0, y);
    Ok(())
}

/// The node as operator set 17 writes it, if it can; its scales have to give the same sizes and places.
fn written(cx: &NodeImport, method: Method, axes: &[Resized]) -> diag::Result<Option<resample::Resize>> {
    let scales: Vec<f32> = axes.iter().map(|axis| axis.scale as f32).collect();
    let gives = |(axis, &scale): (&Resized, &f32)| (axis.size as f32 * scale).floor() as usize == axis.result;
    let is_old = matches!(method.coordinates, Coordinates::HalfPixelSymmetric | Coordinates::TfCropAndResize);
    // ONNX Runtime knows cubic functions of images only.
    let is_image = matches!(scales[..], [_, _] | [1.0, 1.0, _, _]);
    let is_known = is_image || !matches!(method.mode, Mode::Cubic(_));
    if method.antialias || is_old || !is_known || !axes.iter().zip(&scales).all(gives) {
        return Ok(None);
    }
    let own = ["mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside"];
    let mut attributes = cx.node.attributes.clone();
    attributes.retain(|name, _| own.contains(&name.as_str()));
    if cx.opset() < 11 {
        let text = |text: &str| Attribute::Text(text.to_owned());
        attributes.insert("coordinate_transformation_mode".to_owned(), text("asymmetric"));
        attributes.insert("nearest_mode".to_owned(), text("floor"));
    }
    Ok(Some((attributes.into_iter().collect(), scales)))
}

/// Copies first, then a few axes with weights at a time.
fn parts(taps: Vec<Option<AxisTaps>>) -> Vec<Vec<Option<AxisTaps>>> {
    let rank = taps.len();
    let weighted: Vec<usize> =
        (0..rank).filter(|&axis| taps[axis].as_ref().is_some_and(|taps| !taps.only_copies())).collect();
    if weighted.len() <= WEIGHTED_AXES {
        return if taps.iter().any(Option::is_some) { vec![taps] } else { vec![] };
    }
    let of = |axes: &[usize]| (0..rank).map(|axis| taps[axis].clone().filter(|_| axes.contains(&axis))).collect();
    let copies: Vec<usize> = (0..rank).filter(|axis| !weighted.contains(axis)).collect();
    std::iter::once(&copies[..])
        .chain(weighted.chunks(WEIGHTED_AXES))
        .map(of)
        .filter(|part: &Vec<Option<AxisTaps>>| part.iter().any(Option::is_some))
        .collect()
}

/// `value` where a position lies outside of the operand along some axis, else 0.
fn extrapolated(axes: &[Resized], value: f32) -> FloatTensor {
    let shape = Shape::new(axes.iter().map(|axis| axis.result).collect::<Vec<_>>());
    let is_outside = |index: &[usize]| {
        index.iter().zip(axes).any(|(&position, axis)| Coordinates::TfCropAndResize.source(position, axis).is_none())
    };
    let data = (0..shape.len()).map(|flat| if is_outside(&shape.unravel(flat)) { value } else { 0.0 }).collect();
    FloatTensor::new(shape, data)
}

impl Coordinates {
    /// Where a position of the result lies on the operand's axis; `None` if outside, where that has a meaning of its own.
    fn source(self, position: usize, axis: &Resized) -> Option<f64> {
        let Resized { size, result, scale, roi: (start, end) } = *axis;
        let (x, last) = (position as f64, (size - 1) as f64);
        // The definition takes the length before it is rounded down.
        let length = scale * size as f64;
        let half_pixel = (x + 0.5) / scale - 0.5;
        Some(match self {
            Coordinates::HalfPixel => half_pixel,
            Coordinates::HalfPixelSymmetric => {
                let adjustment = result as f64 / (scale * size as f64);
                size as f64 / 2.0 * (1.0 - adjustment) + half_pixel
            }
            Coordinates::PytorchHalfPixel if result > 1 => half_pixel,
            Coordinates::PytorchHalfPixel => 0.0,
            Coordinates::AlignCorners if length != 1.0 => x * last / (length - 1.0),
            Coordinates::AlignCorners => 0.0,
            Coordinates::Asymmetric => x / scale,
            Coordinates::TfHalfPixelForNn => (x + 0.5) / scale,
            Coordinates::TfCropAndResize => {
                let source = match length {
                    1.0 => (start + end) * last / 2.0,
                    _ => start * last + x * (end - start) * last / (length - 1.0),
                };
                return (0.0..=last).contains(&source).then_some(source);
            }
        })
    }
}

impl Method {
    fn taps(&self, axis: &Resized) -> AxisTaps {
        let position = |position: usize| match self.coordinates.source(position, axis) {
            Some(source) => self.weights(source, axis),
            None => vec![(0, 0.0)],
        };
        AxisTaps { size: axis.size, positions: (0..axis.result).map(position).collect() }
    }

    /// Elements and weights for a place on the operand's axis. What would lie outside is the element at the edge.
    fn weights(&self, source: f64, axis: &Resized) -> Vec<(usize, f64)> {
        let floor = source.floor();
        let (base, ratio) = (floor as isize, source - floor);
        let last = axis.size as isize - 1;
        if let Mode::Nearest(nearest) = self.mode {
            return vec![((base + nearest.step(ratio)).clamp(0, last) as usize, 1.0)];
        }
        let mut coefficients: Vec<(isize, f64)> =
            self.coefficients(ratio, axis.scale).into_iter().map(|(offset, weight)| (base + offset, weight)).collect();
        if self.exclude_outside {
            coefficients.retain(|(at, _)| (0..=last).contains(at));
        }
        let total: f64 = coefficients.iter().map(|(_, weight)| weight).sum();
        let mut taps: Vec<(usize, f64)> = vec![];
        for (at, weight) in coefficients {
            let (at, weight) = (at.clamp(0, last) as usize, weight / total);
            match taps.iter_mut().find(|(known, _)| *known == at) {
                Some((_, sum)) => *sum += weight,
                None => taps.push((at, weight)),
            }
        }
        taps.retain(|(_, weight)| *weight != 0.0);
        // A sum of weights that is 1 but for rounding is a copy.
        if let [(_, weight)] = &mut taps[..] {
            *weight = weight.round();
        }
        taps
    }

    /// Neighbours, relative to the element before the place, with their weights.
    fn coefficients(&self, ratio: f64, scale: f64) -> Vec<(isize, f64)> {
        // Only shrinking is in danger of aliasing.
        let scale = if self.antialias { scale.min(1.0) } else { 1.0 };
        let reach = if matches!(self.mode, Mode::Cubic(_)) { 2.0 } else { 1.0 };
        let (first, last) = ((-reach / scale).floor() as isize, (reach / scale).ceil() as isize + 1);
        let weight = |offset: isize| {
            let distance = ((offset as f64 - ratio) * scale).abs();
            match self.mode {
                Mode::Cubic(a) => cubic(distance, a),
                Mode::Linear | Mode::Nearest(_) => (1.0 - distance).max(0.0),
            }
        };
        (first..=last).map(|offset| (offset, weight(offset))).filter(|(_, weight)| *weight != 0.0).collect()
    }
}

/// Weight of an element at a distance: Keys, Cubic convolution interpolation for digital image processing, 1981.
fn cubic(x: f64, a: f64) -> f64 {
    match x {
        _ if x <= 1.0 => (a + 2.0) * x.powi(3) - (a + 3.0) * x.powi(2) + 1.0,
        _ if x < 2.0 => a * x.powi(3) - 5.0 * a * x.powi(2) + 8.0 * a * x - 4.0 * a,
        _ => 0.0,
    }
}

impl Nearest {
    /// 0 for the element before the place, 1 for the one behind it.
    fn step(self, ratio: f64) -> isize {
        let up = match self {
            Nearest::RoundPreferFloor => ratio > 0.5,
            Nearest::RoundPreferCeil => ratio >= 0.5,
            Nearest::Floor => false,
            Nearest::Ceil => ratio > 0.0,
        };
        isize::from(up)
    }
}
