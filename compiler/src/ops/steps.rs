//! A rising function of an integer accumulator with a narrow result, as the accumulators at which it takes a step.
//!
//! A result of 8 bits takes at most 255 steps, so a table of as many thresholds holds any such function exactly: square
//! roots and logarithms of wide sums are rounded correctly, without any arithmetic at run time.

use crate::ir::{Interval, Params, QuantType};

/// Number of thresholds.
pub const THRESHOLDS: usize = 255;

/// `lowest + number of thresholds that are not greater than the accumulator`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steps {
    /// The result below the first threshold.
    pub lowest: i32,
    /// In ascending order. What is never reached is more than every accumulator.
    pub thresholds: Vec<i64>,
}

impl Steps {
    /// The steps of `function`, which must not fall, for accumulators within `bound`; results within 8 bits.
    pub fn new(bound: Interval, function: impl Fn(i64) -> i32) -> Steps {
        // The bounds of accumulators are far within 64 bits.
        let (lo, hi) = (bound.lo as i64, bound.hi as i64);
        let lowest = function(lo);
        let threshold = |step: i32| {
            if function(hi) < lowest + step {
                return hi + 1;
            }
            let (mut below, mut reached) = (lo, hi);
            while below + 1 < reached {
                let middle = below + (reached - below) / 2;
                match function(middle) >= lowest + step {
                    true => reached = middle,
                    false => below = middle,
                }
            }
            reached
        };
        Steps { lowest, thresholds: (1..=THRESHOLDS as i32).map(threshold).collect() }
    }

    /// The steps of a real function of the accumulator, correctly rounded to a quantized result.
    pub fn rounded(bound: Interval, result: &QuantType, params: Params, function: impl Fn(f64) -> f64) -> Steps {
        Steps::new(bound, |acc| params.quantize(function(acc as f64), result.dtype))
    }

    /// The result for an accumulator.
    pub fn apply(&self, acc: i64) -> i32 {
        self.lowest + self.thresholds.partition_point(|&threshold| threshold <= acc) as i32
    }
}
