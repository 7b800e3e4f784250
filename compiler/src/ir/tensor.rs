//! Values and types of tensors.

use std::fmt;

use super::{Interval, Params, Shape};

/// A constant of the float stage, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatTensor {
    /// The shape; its length is the number of elements of `data`.
    pub shape: Shape,
    /// The elements.
    pub data: Vec<f32>,
    /// Where the model stores the tensor as integers: their steps, of which every element is a multiple.
    pub steps: Option<Steps>,
}

/// The steps of a tensor that was dequantized: one for all elements, or one for each index of an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Steps {
    /// Positive; one, or as many as the axis is long.
    pub scales: Vec<f32>,
    /// The axis that several scales run along.
    pub axis: Option<usize>,
}

impl Steps {
    /// The steps after a transpose: axis `i` of the result is axis `order[i]`.
    pub fn transposed(&self, order: &[usize]) -> Steps {
        let axis = self.axis.and_then(|axis| order.iter().position(|&from| from == axis));
        Steps { scales: self.scales.clone(), axis }
    }

    /// The steps of the same elements under another shape; `None` if the axis does not survive.
    pub fn reshaped(&self, from: &Shape, to: &Shape) -> Option<Steps> {
        let Some(axis) = self.axis else { return Some(self.clone()) };
        let inner = |shape: &Shape, axis: usize| shape.dims()[axis + 1..].iter().product::<usize>();
        let wanted = (*from.dims().get(axis)?, inner(from, axis));
        let axis = (0..to.rank()).find(|&axis| (to.dims()[axis], inner(to, axis)) == wanted)?;
        Some(Steps { scales: self.scales.clone(), axis: Some(axis) })
    }

    /// A step for each of `rows` indices of the first axis; `None` if the steps run along another.
    pub fn by_row(&self, rows: usize) -> Option<Vec<f32>> {
        match self.axis {
            None => Some(vec![*self.scales.first()?; rows]),
            Some(0) if self.scales.len() == rows => Some(self.scales.clone()),
            Some(_) => None,
        }
    }
}

impl FloatTensor {
    /// A tensor of `data`, which must have as many elements as the shape says.
    pub fn new(shape: Shape, data: Vec<f32>) -> Self {
        assert_eq!(shape.len(), data.len(), "a tensor of shape {shape} has as many elements");
        FloatTensor { shape, data, steps: None }
    }

    /// The same tensor, of which it is known that it was integers.
    pub fn with_steps(self, steps: Option<Steps>) -> Self {
        FloatTensor { steps, ..self }
    }

    /// The same elements under another shape, which must have as many.
    pub fn reshaped(self, shape: Shape) -> Self {
        let steps = self.steps.and_then(|steps| steps.reshaped(&self.shape, &shape));
        FloatTensor::new(shape, self.data).with_steps(steps)
    }

    /// Every element times `factor`.
    pub fn scaled(mut self, factor: f32) -> Self {
        self.data.iter_mut().for_each(|value| *value *= factor);
        if let Some(steps) = &mut self.steps {
            steps.scales.iter_mut().for_each(|scale| *scale *= factor.abs());
        }
        self
    }

    /// Multiplies each index `i` of the first axis by `factors[i]`.
    pub fn scale_rows(&mut self, factors: &[f32]) {
        let row_len = self.data.len() / factors.len().max(1);
        for (row, factor) in self.data.chunks_exact_mut(row_len.max(1)).zip(factors) {
            row.iter_mut().for_each(|value| *value *= factor);
        }
        let scales = self.steps.as_ref().and_then(|steps| steps.by_row(factors.len()));
        self.steps = scales.map(|scales| {
            let scales = scales.iter().zip(factors).map(|(scale, factor)| scale * factor.abs()).collect();
            Steps { scales, axis: Some(0) }
        });
    }

    /// The same elements with permuted axes: axis `i` of the result is axis `order[i]` of `self`.
    pub fn transposed(&self, order: &[usize]) -> FloatTensor {
        let strides = self.shape.strides();
        let shape = Shape::new(order.iter().map(|&axis| self.shape.dims()[axis]).collect::<Vec<_>>());
        let data = (0..shape.len())
            .map(|flat| {
                let index = shape.unravel(flat);
                self.data[index.iter().zip(order).map(|(i, &axis)| i * strides[axis]).sum::<usize>()]
            })
            .collect();
        FloatTensor { shape, data, steps: self.steps.as_ref().map(|steps| steps.transposed(order)) }
    }
}

/// Integer type of the elements of a quantized tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// 4 bits, two in a byte.
    I4,
    /// 8 bits.
    I8,
    /// 16 bits.
    I16,
    /// 32 bits.
    I32,
}

impl DType {
    /// Smallest value.
    pub fn min(self) -> i32 {
        match self {
            DType::I4 => -8,
            DType::I8 => i32::from(i8::MIN),
            DType::I16 => i32::from(i16::MIN),
            DType::I32 => i32::MIN,
        }
    }

    /// Largest value.
    pub fn max(self) -> i32 {
        match self {
            DType::I4 => 7,
            DType::I8 => i32::from(i8::MAX),
            DType::I16 => i32::from(i16::MAX),
            DType::I32 => i32::MAX,
        }
    }

    /// All values.
    pub fn interval(self) -> Interval {
        Interval::new(self.min(), self.max())
    }

    /// Bits of an element.
    pub fn bits(self) -> u32 {
        match self {
            DType::I4 => 4,
            DType::I8 => 8,
            DType::I16 => 16,
            DType::I32 => 32,
        }
    }

    /// Bytes that `len` elements take.
    pub fn bytes(self, len: usize) -> usize {
        match self {
            DType::I4 => len.div_ceil(2),
            DType::I8 => len,
            DType::I16 => len * 2,
            DType::I32 => len * 4,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::I4 => "int4",
            DType::I8 => "int8",
            DType::I16 => "int16",
            DType::I32 => "int32",
        })
    }
}

/// What the integers of a tensor mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Encoding {
    /// `real = scale * (q - zero_point)`.
    Affine(Params),
    /// The integers are the values, for example positions found by ArgMax.
    Index,
}

/// Shape, element type and meaning of a tensor of the quantized graph.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantType {
    /// Logical shape, ONNX's axis order.
    pub shape: Shape,
    /// Element type.
    pub dtype: DType,
    /// Meaning of the elements.
    pub encoding: Encoding,
}

impl QuantType {
    /// An int8 activation.
    pub fn int8(shape: Shape, params: Params) -> Self {
        QuantType::real(shape, DType::I8, params)
    }

    /// An activation. With 16 bits its zero point is 0, which keeps differences to it in 16 bits.
    pub fn real(shape: Shape, dtype: DType, params: Params) -> Self {
        QuantType { shape, dtype, encoding: Encoding::Affine(params) }
    }

    /// All values of an element less the zero point.
    pub fn centred(&self) -> Interval {
        let zero = i128::from(self.params().map_or(0, |params| params.zero_point));
        let Interval { lo, hi } = self.dtype.interval();
        Interval::new(lo - zero, hi - zero)
    }

    /// Scale and zero point, if the elements stand for real numbers.
    pub fn params(&self) -> Option<Params> {
        match self.encoding {
            Encoding::Affine(params) => Some(params),
            Encoding::Index => None,
        }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.dtype.bytes(self.shape.len())
    }
}

impl fmt::Display for QuantType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.dtype, self.shape)?;
        match self.encoding {
            Encoding::Affine(params) => write!(f, " {params}"),
            Encoding::Index => f.write_str(" index"),
        }
    }
}
