//! Logical shapes.

use std::fmt;

/// Sizes of the axes of a tensor, outermost first; rank 0 is a scalar.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// More elements than any processor has memory for that this compiler is meant for.
    pub const MAX_ELEMENTS: usize = 1 << 28;

    /// A shape with these axes.
    pub fn new(dims: impl Into<Vec<usize>>) -> Self {
        Shape(dims.into())
    }

    /// Sizes of the axes.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.0.iter().product()
    }

    /// Whether there are at most [`Self::MAX_ELEMENTS`]. Everything that computes with a shape relies on it, so it is asked
    /// of every shape from outside before anything else.
    pub fn is_reasonable(&self) -> bool {
        let len = self.0.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim));
        len.is_some_and(|len| len <= Shape::MAX_ELEMENTS) && self.0.iter().all(|&dim| dim <= Shape::MAX_ELEMENTS)
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements to step over for one step along each axis, row-major.
    pub fn strides(&self) -> Vec<usize> {
        let mut strides = vec![1; self.rank()];
        for axis in (1..self.rank()).rev() {
            strides[axis - 1] = strides[axis] * self.0[axis];
        }
        strides
    }

    /// The shape two operands have after ONNX (numpy) broadcasting; `None` if they do not fit.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let rank = self.rank().max(other.rank());
        let dim = |shape: &Shape, axis: usize| {
            let missing = rank - shape.rank();
            if axis < missing { 1 } else { shape.0[axis - missing] }
        };
        (0..rank)
            .map(|axis| match (dim(self, axis), dim(other, axis)) {
                (a, b) if a == b => Some(a),
                (1, b) => Some(b),
                (a, 1) => Some(a),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .map(Shape)
    }

    /// Row-major strides of `self` seen as `target`, to which it broadcasts: 0 along the repeated axes.
    pub fn broadcast_strides(&self, target: &Shape) -> Vec<usize> {
        let missing = target.rank() - self.rank();
        let own = self.strides();
        (0..target.rank())
            .map(|axis| if axis < missing || self.0[axis - missing] == 1 { 0 } else { own[axis - missing] })
            .collect()
    }

    /// The position of the `flat`-th element, row-major.
    pub fn unravel(&self, mut flat: usize) -> Vec<usize> {
        let mut index = vec![0; self.rank()];
        for axis in (0..self.rank()).rev() {
            index[axis] = flat % self.0[axis];
            flat /= self.0[axis];
        }
        index
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("scalar");
        }
        let dims: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&dims.join("x"))
    }
}
