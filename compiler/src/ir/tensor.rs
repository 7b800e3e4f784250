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
}

impl FloatTensor {
    /// A tensor of `data`, which must have as many elements as the shape says.
    pub fn new(shape: Shape, data: Vec<f32>) -> Self {
        assert_eq!(shape.len(), data.len(), "a tensor of shape {shape} has as many elements");
        FloatTensor { shape, data }
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
        FloatTensor { shape, data }
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
