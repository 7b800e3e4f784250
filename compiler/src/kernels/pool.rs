//! Pooling over sliding windows.

use super::common::{Requantize, address, less};
use super::conv::{axis_clips, axis_name, window_axis};
use super::{LayerBuilder, strides};
use crate::ir::Window;
use crate::ops::QuantOp;
use crate::ops::average_pool::{QAveragePool, divisor, sum_reach};
use crate::ops::fits_i32;
use crate::program::{Affine, Buffer, Elem, Expr, FunctionBuilder, Type};

/// The largest element under each window.
pub fn build_max(b: &mut LayerBuilder) {
    let Some(QuantOp::MaxPool(pool)) = b.op() else { return };
    let lowest = i64::from(b.operand(0).ty.dtype.min());
    let (x, y) = (b.x(0), b.y());
    positions(b, &pool.window, &mut |f, at| {
        let max = f.mutable("max", Type::I32, Expr::i32(lowest));
        at.elements(f, x, &mut |f, value| f.set(max, Expr::Reg(max).max(value)));
        f.store(y, at.y.clone(), Expr::Reg(max));
    });
}

/// The mean under each window.
pub fn build_average(b: &mut LayerBuilder) {
    let Some(QuantOp::AveragePool(pool)) = b.op() else { return };
    let bound = sum_reach(pool.window.taps(), pool.input_type);
    let sum_type = if fits_i32(bound) { Type::I32 } else { Type::I64 };
    let multipliers: Vec<_> = pool.multipliers.values().copied().collect();
    let requantize = Requantize::new(bound, &multipliers, pool.output_zero, pool.clamp);
    let divisors = Divisors::new(b, pool);
    let (x, y) = (b.x(0), b.y());
    positions(b, &pool.window, &mut |f, at| {
        let sum = f.bounded("sum", sum_type, Expr::Const(sum_type, 0), Some(bound));
        at.elements(f, x, &mut |f, value| f.accumulate(sum, less(value, pool.input_zero).cast_to(sum_type)));
        let multiplier = divisors.multiplier(f, &at.outputs);
        let value = requantize.apply(f, Expr::Reg(sum), multiplier);
        f.store(y, at.y.clone(), value);
    });
}

/// One position of the result.
struct Position<'a> {
    window: &'a Window,
    input: &'a [usize],
    x_strides: &'a [usize],
    /// Index of the first element of the channel's plane in the input.
    x: Affine,
    /// Index in the result.
    y: Affine,
    /// Position on the spatial axes.
    outputs: Vec<Affine>,
}

/// Loops over batch, spatial axes and channels of the result.
fn positions(b: &mut LayerBuilder, window: &Window, body: &mut dyn FnMut(&mut FunctionBuilder, &Position)) {
    let (x_strides, y_strides) = (strides(&b.operand(0).view), strides(&b.result().view));
    let (input, output) = (b.operand(0).ty.shape.dims(), b.result().ty.shape.dims());
    let mut at =
        Position { window, input, x_strides: &x_strides, x: Affine::default(), y: Affine::default(), outputs: vec![] };
    b.f.each("n", output[0], |f, n| {
        at.x = n.clone() * x_strides[0] as i64;
        at.y = n * y_strides[0] as i64;
        spatial(f, &mut at, output, &y_strides, body);
    });
}

fn spatial(
    f: &mut FunctionBuilder,
    at: &mut Position,
    output: &[usize],
    y_strides: &[usize],
    body: &mut dyn FnMut(&mut FunctionBuilder, &Position),
) {
    let axis = at.outputs.len();
    if axis < at.window.rank() {
        return f.each(&axis_name("o", axis, at.window.rank()), output[axis + 2], |f, position| {
            at.outputs.push(position);
            spatial(f, at, output, y_strides, body);
            at.outputs.pop();
        });
    }
    let (x, y) = (at.x.clone(), at.y.clone() + address(&at.outputs, &y_strides[2..]));
    f.each("c", output[1], |f, c| {
        let position = Position {
            x: x + c.clone() * at.x_strides[1] as i64,
            y: y + c * y_strides[1] as i64,
            outputs: at.outputs.clone(),
            ..*at
        };
        body(f, &position);
    });
}

impl Position<'_> {
    /// Loops over the elements under the window.
    fn elements(&self, f: &mut FunctionBuilder, x: Buffer, body: &mut dyn FnMut(&mut FunctionBuilder, Expr)) {
        self.axis(f, x, 0, self.x.clone(), body);
    }

    fn axis(
        &self,
        f: &mut FunctionBuilder,
        x: Buffer,
        axis: usize,
        index: Affine,
        body: &mut dyn FnMut(&mut FunctionBuilder, Expr),
    ) {
        if axis == self.window.rank() {
            let value = f.load(x, index);
            return body(f, value);
        }
        let start =
            self.outputs[axis].clone() * self.window.stride[axis] as i64 + -(self.window.pad_begin[axis] as i64);
        let stride = self.x_strides[axis + 2] as i64;
        window_axis(f, (self.window, axis, self.input[axis + 2]), start, true, &mut |f, _, position| {
            self.axis(f, x, axis + 1, index.clone() + position * stride, body);
        });
    }
}

/// Which multiplier belongs to which position: one for all, or one for each number of elements. Positions of an axis
/// with equal counts form a class; the classes of all axes together choose the multiplier.
enum Divisors {
    One(i64),
    Classes { axes: Vec<Buffer>, multipliers: Buffer },
}

impl Divisors {
    fn new(b: &mut LayerBuilder, pool: &QAveragePool) -> Divisors {
        if let [multiplier] = pool.multipliers.values().collect::<Vec<_>>()[..] {
            return Divisors::One(multiplier.factor());
        }
        let rank = pool.window.rank();
        let (input, output) = (&b.operand(0).ty.shape.dims()[2..], &b.result().ty.shape.dims()[2..]);
        let count = |axis: usize, o: usize| match pool.include_pad {
            true => pool.window.padded_taps(axis, o, input[axis]),
            false if axis_clips(&pool.window, axis, input[axis]) => {
                let taps = pool.window.taps_at(axis, o, input[axis]);
                taps.end - taps.first
            }
            false => pool.window.kernel[axis],
        };
        // A position of the result for each combination of classes, the last axis counting fastest.
        let mut combinations: Vec<Vec<usize>> = vec![vec![]];
        let mut classes_of_axes = vec![];
        for (axis, &outputs) in output.iter().enumerate() {
            let mut representatives: Vec<usize> = vec![];
            let classes: Vec<i64> = (0..outputs)
                .map(|o| {
                    let known = representatives.iter().position(|&r| count(axis, r) == count(axis, o));
                    known.unwrap_or_else(|| {
                        representatives.push(o);
                        representatives.len() - 1
                    }) as i64
                })
                .collect();
            let longer =
                |prefix: &Vec<usize>| representatives.iter().map(|&r| [&prefix[..], &[r]].concat()).collect::<Vec<_>>();
            combinations = combinations.iter().flat_map(longer).collect();
            classes_of_axes.push((classes, representatives.len() as i64));
        }
        let multipliers: Vec<_> = combinations
            .iter()
            .map(|position| pool.multipliers[&divisor(&pool.window, pool.include_pad, position, input)])
            .collect();
        let multipliers = super::common::multiplier_blob(b, &multipliers);
        let mut inner = 1;
        let mut axes = vec![];
        for (axis, (classes, n_classes)) in classes_of_axes.into_iter().enumerate().rev() {
            let data = classes.iter().map(|class| class * inner).collect();
            let doc = "Share of a position in the index of its multiplier.";
            axes.push(b.blob(&axis_name("class_", axis, rank), doc, Elem::I32, data));
            inner *= n_classes;
        }
        axes.reverse();
        Divisors::Classes { axes, multipliers }
    }

    fn multiplier(&self, f: &FunctionBuilder, outputs: &[Affine]) -> Expr {
        match self {
            Divisors::One(factor) => Expr::i64(*factor),
            Divisors::Classes { axes, multipliers } => {
                let shares = axes.iter().zip(outputs).map(|(&axis, position)| f.load(axis, position.clone()));
                let index = shares.reduce(Expr::add).unwrap_or_else(|| Expr::i32(0));
                f.lookup(*multipliers, index)
            }
        }
    }
}
