//! How the logical axes of a tensor lie in memory.
//!
//! Transposes, reshapes and layouts are all the same thing here: a map from logical positions to elements of a
//! buffer. Each logical axis is a list of factors, outermost first, because a reshape can join axes that are
//! not neighbours in memory.

use crate::ir::Shape;

/// A part of an axis: `extent` positions, `stride` elements apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Factor {
    /// Number of positions, at least 2.
    pub extent: usize,
    /// Distance in elements.
    pub stride: usize,
}

/// Element addresses of a tensor in its buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    axes: Vec<Vec<Factor>>,
}

impl View {
    /// All elements of `shape` without gaps, with the axes in memory from outermost to innermost as in `order`.
    pub fn dense(shape: &Shape, order: &[usize]) -> View {
        let mut axes = vec![vec![]; shape.rank()];
        let mut stride = 1;
        for &axis in order.iter().rev() {
            axes[axis] = factor(shape.dims()[axis], stride);
            stride *= shape.dims()[axis];
        }
        View { axes }
    }

    /// Row-major.
    pub fn row_major(shape: &Shape) -> View {
        View::dense(shape, &(0..shape.rank()).collect::<Vec<_>>())
    }

    /// The same elements with axis `i` taken from axis `order[i]`.
    pub fn transposed(&self, order: &[usize]) -> View {
        View { axes: order.iter().map(|&axis| self.axes[axis].clone()).collect() }
    }

    /// The same elements, row-major, under another shape; `None` if an axis would need factors that do not exist.
    pub fn reshaped(&self, shape: &Shape) -> Option<View> {
        let mut factors: Vec<Factor> = self.axes.iter().flatten().copied().rev().collect();
        let mut axes = vec![];
        for &size in shape.dims() {
            axes.push(take_factors(&mut factors, size)?);
        }
        factors.is_empty().then_some(View { axes })
    }

    /// One stride for each axis (0 for axes of one element); `None` if an axis is not evenly spaced.
    pub fn strides(&self) -> Option<Vec<usize>> {
        self.axes
            .iter()
            .map(|factors| match factors[..] {
                [] => Some(0),
                [factor] => Some(factor.stride),
                _ => None,
            })
            .collect()
    }

    /// Factors of one axis, outermost first.
    pub fn axis(&self, axis: usize) -> &[Factor] {
        &self.axes[axis]
    }

    /// Number of elements from the first to the last address, both included.
    pub fn extent(&self) -> usize {
        1 + self.axes.iter().flatten().map(|factor| (factor.extent - 1) * factor.stride).sum::<usize>()
    }

    /// The axes as they lie in memory, outermost first.
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.axes.len()).collect();
        order.sort_by_key(|&axis| std::cmp::Reverse(self.axes[axis].first().map_or(0, |factor| factor.stride)));
        order
    }

    /// The same with axes of one element in front, up to `rank` axes: how a tensor is broadcast.
    pub fn extended(&self, rank: usize) -> View {
        let missing = rank.saturating_sub(self.axes.len());
        View { axes: vec![vec![]; missing].into_iter().chain(self.axes.iter().cloned()).collect() }
    }

    /// The same as if there were a single position on `axis`.
    pub fn without(&self, axis: usize) -> View {
        let mut axes = self.axes.clone();
        axes[axis].clear();
        View { axes }
    }

    /// A view of `rank` axes that only `axis` steps through.
    pub fn along(rank: usize, axis: usize, extent: usize) -> View {
        let mut axes = vec![vec![]; rank];
        axes[axis] = factor(extent, 1);
        View { axes }
    }

    /// Addresses of the positions of one axis.
    pub fn offsets(&self, axis: usize) -> Vec<usize> {
        let mut offsets = vec![0];
        for factor in &self.axes[axis] {
            offsets = offsets.iter().flat_map(|&at| (0..factor.extent).map(move |i| at + i * factor.stride)).collect();
        }
        offsets
    }
}

fn factor(extent: usize, stride: usize) -> Vec<Factor> {
    if extent == 1 { vec![] } else { vec![Factor { extent, stride }] }
}

/// Takes factors with a product of `size` from the end of the list (outermost first), splitting and joining.
fn take_factors(factors: &mut Vec<Factor>, size: usize) -> Option<Vec<Factor>> {
    let mut taken: Vec<Factor> = vec![];
    let mut missing = size;
    while missing > 1 {
        let next = factors.pop()?;
        let outer = match next.extent {
            extent if missing.is_multiple_of(extent) => next,
            extent if extent.is_multiple_of(missing) => {
                let inner = extent / missing;
                factors.push(Factor { extent: inner, stride: next.stride });
                Factor { extent: missing, stride: next.stride * inner }
            }
            _ => return None,
        };
        missing /= outer.extent;
        match taken.last_mut() {
            Some(last) if last.stride == outer.extent * outer.stride => {
                *last = Factor { extent: last.extent * outer.extent, stride: outer.stride };
            }
            _ => taken.push(outer),
        }
    }
    Some(taken)
}

/// One loop of a nest over several tensors: `extent` steps, a stride for each tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dim {
    /// Number of steps.
    pub extent: usize,
    /// Distance of a step in elements, for each tensor.
    pub strides: Vec<isize>,
}

/// The loops that visit all elements of tensors of one shape together, outermost first as the last tensor lies in
/// memory, joined where all tensors allow it. `None` if their axes have different factors, or are not as many.
pub fn nest(views: &[&View]) -> Option<Vec<Dim>> {
    if views.iter().any(|view| view.axes.len() != views[0].axes.len()) {
        return None;
    }
    let mut dims = vec![];
    for axis in 0..views[0].axes.len() {
        dims.extend(axis_dims(views, axis)?);
    }
    Some(joined(dims))
}

/// Sorts loops by the last tensor's stride and joins neighbours.
pub fn joined(mut dims: Vec<Dim>) -> Vec<Dim> {
    dims.retain(|dim| dim.extent > 1);
    dims.sort_by_key(|dim| std::cmp::Reverse(dim.strides.last().copied().unwrap_or(0).abs()));
    let mut result: Vec<Dim> = vec![];
    for dim in dims {
        let fits = |outer: &Dim| outer.strides.iter().zip(&dim.strides).all(|(o, i)| *o == *i * dim.extent as isize);
        match result.last_mut() {
            Some(outer) if fits(outer) => *outer = Dim { extent: outer.extent * dim.extent, strides: dim.strides },
            _ => result.push(dim),
        }
    }
    result
}

/// Loops over one axis: the factors of the view that has most, the others split alike.
fn axis_dims(views: &[&View], axis: usize) -> Option<Vec<Dim>> {
    let finest = views.iter().map(|view| &view.axes[axis]).max_by_key(|factors| factors.len())?;
    let mut dims: Vec<Dim> = finest.iter().map(|factor| Dim { extent: factor.extent, strides: vec![] }).collect();
    for view in views {
        let factors = &view.axes[axis];
        let same = factors.len() == finest.len() && factors.iter().zip(finest).all(|(a, b)| a.extent == b.extent);
        let mut inner = 1;
        for (i, dim) in dims.iter_mut().enumerate().rev() {
            let stride = match factors[..] {
                // An axis of one element that is repeated.
                [] => 0,
                _ if same => factors[i].stride,
                [single] => single.stride * inner,
                _ => return None,
            };
            dim.strides.push(stride as isize);
            inner *= dim.extent;
        }
    }
    Some(dims)
}
