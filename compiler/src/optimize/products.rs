//! What Conv and Linear multiply their weights with, and the sums that come of it.

use super::intervals::{Bounds, Operand, requantized, shifted};
use crate::ir::{Interval, Shape, Window};
use crate::ops::QuantOp;
use crate::ops::conv::QConv;
use crate::ops::linear::QLinear;
use crate::ops::weighted::Weighted;

/// The weights of an operator that has some, for changes.
pub fn weighted_mut(op: &mut QuantOp) -> Option<&mut Weighted> {
    match op {
        QuantOp::Conv(conv) => Some(&mut conv.weighted),
        QuantOp::Linear(linear) => Some(&mut linear.weighted),
        _ => None,
    }
}

/// For every output channel: the values that `x - input_zero` can take under each weight of its row. A tap in the
/// padding counts as 0, as it does in the sum.
pub struct Factors {
    /// Rows of output channels in one group see the same input channels.
    groups: Vec<Vec<Interval>>,
    group_outputs: usize,
}

impl Factors {
    /// Of a Conv or Linear whose operand is `x`.
    pub fn new(op: &QuantOp, x: Operand) -> Factors {
        match op {
            QuantOp::Conv(conv) => Factors::of_conv(conv, x),
            QuantOp::Linear(linear) => Factors::of_linear(linear, x.bounds),
            _ => Factors { groups: vec![], group_outputs: 1 },
        }
    }

    fn of_conv(conv: &QConv, x: Operand) -> Factors {
        let taps = placements(&conv.window, &x.ty.shape.dims()[2..]);
        let zero = Interval::point(0);
        let channel = |channel: usize| {
            let inside = shifted(x.bounds.at(1, channel), -conv.weighted.input_zero);
            taps.iter().map(move |placement| match placement {
                Placement::Inside => inside,
                Placement::Both => inside.hull(zero),
                Placement::Padding => zero,
            })
        };
        let inputs = conv.group_inputs();
        let group = |group: usize| (group * inputs..(group + 1) * inputs).flat_map(channel).collect();
        Factors { groups: (0..conv.groups).map(group).collect(), group_outputs: conv.group_outputs() }
    }

    fn of_linear(linear: &QLinear, x: &Bounds) -> Factors {
        let last = x.rank() - 1;
        let row = (0..linear.row_len()).map(|k| shifted(x.at(last, k), -linear.weighted.input_zero)).collect();
        Factors { groups: vec![row], group_outputs: linear.weighted.channels.len() }
    }

    /// Under the weights of an output channel.
    pub fn row(&self, channel_idx: usize) -> &[Interval] {
        &self.groups[channel_idx / self.group_outputs]
    }
}

/// Where a tap of a window is, over all positions of the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placement {
    Inside,
    Both,
    Padding,
}

/// Of every tap, in the order of the weights.
fn placements(window: &Window, input: &[usize]) -> Vec<Placement> {
    let along = |axis: usize| -> Vec<Placement> {
        let outputs = window.output_size(axis, input[axis]).unwrap_or(0);
        let inside = |tap: usize| {
            let taps = (0..outputs).map(|output| window.taps_at(axis, output, input[axis]));
            taps.filter(|taps| (taps.first..taps.end).contains(&tap)).count()
        };
        let placement = |tap: usize| match inside(tap) {
            0 => Placement::Padding,
            count if count == outputs => Placement::Inside,
            _ => Placement::Both,
        };
        (0..window.kernel[axis]).map(placement).collect()
    };
    let axes: Vec<Vec<Placement>> = (0..window.rank()).map(along).collect();
    let kernel = Shape::new(window.kernel.clone());
    let tap = |flat: usize| {
        let placements: Vec<Placement> = kernel.unravel(flat).iter().zip(&axes).map(|(&tap, axis)| axis[tap]).collect();
        match () {
            () if placements.contains(&Placement::Padding) => Placement::Padding,
            () if placements.contains(&Placement::Both) => Placement::Both,
            () => Placement::Inside,
        }
    };
    (0..kernel.len()).map(tap).collect()
}

/// Bounds of the sum of an output channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// Of the finished sum.
    pub total: Interval,
    /// Of the sum of any of the products and the bias.
    pub partial: Interval,
}

/// The sum of an output channel.
pub fn sum(weighted: &Weighted, channel_idx: usize, factors: &Factors) -> Sum {
    let bias = i64::from(weighted.channels[channel_idx].bias);
    let (mut total, mut partial) = ((bias, bias), (bias, bias));
    for (w, factor) in weighted.factors(channel_idx).zip(factors.row(channel_idx)) {
        // Factors are differences of two values of at most 16 bits.
        let (a, b) = (i64::from(w) * factor.lo as i64, i64::from(w) * factor.hi as i64);
        let (lo, hi) = (a.min(b), a.max(b));
        total = (total.0 + lo, total.1 + hi);
        partial = (partial.0 + lo.min(0), partial.1 + hi.max(0));
    }
    Sum { total: Interval::new(total.0, total.1), partial: Interval::new(partial.0, partial.1) }
}

/// Bounds of the result of every output channel of a Conv or Linear.
pub fn results(op: &QuantOp, x: Operand) -> Vec<Interval> {
    let Some(weighted) = op.weighted() else { return vec![] };
    let factors = Factors::new(op, x);
    let result = |channel_idx: usize| finished(weighted, channel_idx, sum(weighted, channel_idx, &factors).total);
    (0..weighted.channels.len()).map(result).collect()
}

/// What the sums of an output channel become.
pub fn finished(weighted: &Weighted, channel_idx: usize, sums: Interval) -> Interval {
    requantized(sums, weighted.channels[channel_idx].multiplier, weighted.output_zero, weighted.clamp)
}
