//! Masks of attention: elements that a Softmax shall leave out. Exporters add minus infinity, or a number so far below all
//! others that nothing is left of its exponential; as part of the scores' range it would leave no step for the others.

use super::import::{ConstantData, NodeImport, Value};
use super::{FloatOperator, ParamsRule, Problem, QuantOp, Site, add};
use crate::diag;
use crate::ir::{FloatTensor, NodeId, Shape};

/// `x` where `keep` holds, elsewhere minus infinity. Only a Softmax can follow, which takes it in.
#[derive(Debug, Clone, PartialEq)]
pub struct Mask {
    /// Broadcasts to the shape of `x`.
    pub shape: Shape,
    /// For each element of it, row-major.
    pub keep: Vec<bool>,
}

/// What is added to a score that shall be left out is at most this: `exp` of it is 0 beside any score that is no outlier.
const ABSENT: f32 = -1000.0;

/// What stands for minus infinity where a mask is written with `Where`.
const ENDLESS: f32 = -1e30;

impl Mask {
    /// What an added constant masks, and what it adds to the rest; `None` if it masks nothing.
    pub fn of_addend(addend: &FloatTensor) -> Option<(Mask, FloatTensor)> {
        let keep: Vec<bool> = addend.data.iter().map(|&value| value > ABSENT).collect();
        if keep.iter().all(|&keep| keep) {
            return None;
        }
        let rest = addend.data.iter().map(|&value| if value > ABSENT { value } else { 0.0 }).collect();
        let mask = Mask { shape: addend.shape.clone(), keep };
        Some((mask, FloatTensor::new(addend.shape.clone(), rest)))
    }

    /// The mask of a Softmax along `axis` of `x`. Of a row in which nothing is kept everything is: the same has been added
    /// to all of it.
    pub fn of_rows(&self, x: &Shape, axis: usize) -> Mask {
        let kept = |flat: usize| {
            let mut index = x.unravel(flat);
            let row = (0..x.dims()[axis]).map(|i| {
                index[axis] = i;
                self.keeps(x, &index)
            });
            !row.collect::<Vec<_>>().contains(&true) || self.keeps(x, &x.unravel(flat))
        };
        Mask { shape: x.clone(), keep: (0..x.len()).map(kept).collect() }.compressed()
    }

    /// What both keep of `x`.
    pub fn and(&self, other: &Mask, x: &Shape) -> Mask {
        let index = |flat| x.unravel(flat);
        let keep = (0..x.len()).map(|flat| self.keeps(x, &index(flat)) && other.keeps(x, &index(flat))).collect();
        Mask { shape: x.clone(), keep }.compressed()
    }

    /// For each element of `x`, row-major, whether it is kept.
    pub fn spread(&self, x: &Shape) -> Vec<bool> {
        (0..x.len()).map(|flat| self.keeps(x, &x.unravel(flat))).collect()
    }

    /// Whether the element of `x` at `index` is kept.
    fn keeps(&self, x: &Shape, index: &[usize]) -> bool {
        let strides = self.shape.broadcast_strides(x);
        self.keep[index.iter().zip(&strides).map(|(i, stride)| i * stride).sum::<usize>()]
    }

    /// The same with a single element along axes where all are alike.
    fn compressed(mut self) -> Mask {
        for axis in 0..self.shape.rank() {
            let mut dims = self.shape.dims().to_vec();
            dims[axis] = 1;
            let shape = Shape::new(dims);
            let first = |flat: usize| self.keep[self.at_start(axis, flat)];
            let keep: Vec<bool> = (0..self.keep.len()).map(first).collect();
            if keep == self.keep {
                let inner = self.shape.strides()[axis];
                let size = self.shape.dims()[axis];
                let starts = (0..keep.len()).filter(|flat| (flat / inner).is_multiple_of(size));
                self.keep = starts.map(|flat| keep[flat]).collect();
                self.shape = shape;
            }
        }
        self
    }

    /// The element that differs from the one at `flat` in being the first along `axis`.
    fn at_start(&self, axis: usize, flat: usize) -> usize {
        let inner = self.shape.strides()[axis];
        flat - flat / inner % self.shape.dims()[axis] * inner
    }
}

/// `x + c` for a constant that holds minus infinity, or a number that stands for it.
pub fn add_endless(cx: &mut NodeImport, x: NodeId, c: FloatTensor) -> diag::Result<NodeId> {
    let shape = cx.shape(x);
    let Some((mask, rest)) = Mask::of_addend(&c).filter(|_| c.shape.broadcast(&shape).as_ref() == Some(&shape)) else {
        return Err(cx.non_finite("a constant operand is not finite"));
    };
    let x = match rest.data.iter().all(|&value| value == 0.0) {
        true => x,
        false => add::add_constant(cx, x, rest)?,
    };
    cx.emit(mask, &[x])
}

/// Whether a constant holds what [`add_endless`] is for.
pub fn is_endless(c: &FloatTensor) -> bool {
    c.data.iter().any(|&value| value <= ENDLESS) && c.data.iter().all(|&value| value < f32::INFINITY)
}

/// The mask that a `Where` is, and what it masks: its condition is constant and chooses minus infinity.
pub fn of_choice(cx: &NodeImport) -> diag::Result<Option<(Mask, NodeId)>> {
    let Value::Constant(condition) = cx.input(0)? else { return Ok(None) };
    let ConstantData::Int(chosen) = &condition.data else { return Ok(None) };
    for (port, other) in [(1, 2), (2, 1)] {
        if let (Value::Constant(_), Value::Node(x)) = (cx.input(port)?, cx.input(other)?)
            && cx.any_float_constant(port)?.data.iter().all(|&value| value <= ENDLESS)
        {
            let keep = chosen.iter().map(|&chosen| (chosen != 0) == (other == 1)).collect();
            return Ok(Some((Mask { shape: condition.shape.clone(), keep }, x)));
        }
    }
    Ok(None)
}

impl FloatOperator for Mask {
    fn kind(&self) -> &'static str {
        "Mask"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        if self.shape.broadcast(operands[0]).as_ref() != Some(operands[0]) || self.keep.len() != self.shape.len() {
            return Err(format!("a mask of shape {} does not fit {}", self.shape, operands[0]));
        }
        Ok(operands[0].clone())
    }

    fn params_rule(&self) -> ParamsRule {
        ParamsRule::SameAsOperand
    }

    fn quantize(&self, _site: &Site) -> Result<QuantOp, Problem> {
        Err(Problem::unsupported("minus infinity, or a number like it, is added to a tensor that no Softmax follows")
            .help("use a number that the tensor's range can hold"))
    }

    fn describe(&self) -> String {
        let kept = self.keep.iter().filter(|&&keep| keep).count();
        format!("keeps {kept} of {}, shape {}", self.keep.len(), self.shape)
    }
}
