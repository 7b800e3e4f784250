//! Functions of one number on 16 bits: a table with linear interpolation.

use super::{Operand, QuantOperator};
use crate::ir::{DType, Params, QuantType, Shape};

/// A function between its values at evenly spaced points. The 2^16 values of the operand are cut into segments of
/// `2^segment_bits`; with `i = (q + 2^15) >> segment_bits` and `r` the rest,
///
/// ```text
/// y = (entries[i] * 2^segment_bits + (entries[i + 1] - entries[i]) * r + half) >> (segment_bits + fraction_bits)
/// ```
///
/// with `half` one half of what the shift divides by. At the points the result is correctly rounded (for a result of 16
/// bits); between them it is off by what the function differs from a line, at most `h^2 / 8` times its second derivative
/// for segments of length `h`, and by less than one step of rounding. The sum fits 32 bits.
#[derive(Debug, Clone)]
pub struct Curve {
    /// The function at the ends of the segments, with `fraction_bits` fractional bits; zero point included.
    pub entries: Vec<i16>,
    /// Values of the operand in a segment: two to the power of this.
    pub segment_bits: u32,
    /// Fractional bits of the entries.
    pub fraction_bits: u32,
    /// Largest difference to the function over all operands, in steps of the result.
    pub error: f64,
}

/// Segments of the smallest and the largest table: 512 and 4096 of them.
const SEGMENT_BITS: [u32; 2] = [7, 4];

/// A table whose results differ from the function by more steps of the result is made larger.
const TOLERANCE: f64 = 2.0;

impl Curve {
    /// A real function from a tensor of int16 to a tensor of int8 or int16: the smallest table that is accurate enough.
    pub fn new(input: Params, output: &QuantType, function: impl Fn(f64) -> f64) -> Curve {
        let params = output.params().unwrap_or_else(Params::zero);
        // In steps of the result, as far as its type reaches.
        let (lo, hi) = (f64::from(output.dtype.min()), f64::from(output.dtype.max()));
        let steps = |q: i32| {
            let real = function(input.dequantize(q)) / params.scale.get() + f64::from(params.zero_point);
            if real.is_nan() { f64::from(params.zero_point) } else { real.clamp(lo, hi) }
        };
        let mut bits = SEGMENT_BITS[0];
        loop {
            let curve = Curve::with_segments(bits, output.dtype, &steps);
            if curve.error <= TOLERANCE || bits == SEGMENT_BITS[1] {
                return curve;
            }
            bits -= 1;
        }
    }

    fn with_segments(segment_bits: u32, output: DType, steps: &dyn Fn(i32) -> f64) -> Curve {
        let fraction_bits = 16 - output.bits();
        let one = f64::from(1u32 << fraction_bits);
        let entry = |i: u32| {
            let q = ((i << segment_bits) as i32 - 32768).min(32767);
            (steps(q) * one).round_ties_even() as i16
        };
        let entries = (0..=1u32 << (16 - segment_bits)).map(entry).collect();
        let mut curve = Curve { entries, segment_bits, fraction_bits, error: 0.0 };
        let errors = (-32768..=32767).map(|q| (f64::from(curve.at(q)) - steps(q)).abs());
        curve.error = errors.fold(0.0, f64::max);
        curve
    }

    /// The result for an operand.
    pub fn at(&self, q: i32) -> i32 {
        let position = q + 32768;
        let i = position >> self.segment_bits;
        let rest = position - (i << self.segment_bits);
        let (start, end) = (i32::from(self.entries[i as usize]), i32::from(self.entries[i as usize + 1]));
        let shift = self.segment_bits + self.fraction_bits;
        let half = 1 << (shift - 1);
        let value = ((start << self.segment_bits) + (end - start) * rest + half) >> shift;
        value.clamp(self.reach().0, self.reach().1)
    }

    /// The result where an entry is the value.
    pub fn rounded(&self, entry: i16) -> i32 {
        let half = (1 << self.fraction_bits) >> 1;
        ((i32::from(entry) + half) >> self.fraction_bits).clamp(self.reach().0, self.reach().1)
    }

    /// Smallest and largest result.
    pub fn reach(&self) -> (i32, i32) {
        match 16 - self.fraction_bits {
            8 => (DType::I8.min(), DType::I8.max()),
            _ => (DType::I16.min(), DType::I16.max()),
        }
    }
}

impl QuantOperator for Curve {
    fn kind(&self) -> &'static str {
        "Curve"
    }

    fn infer(&self, operands: &[&Shape]) -> Result<Shape, String> {
        Ok(operands[0].clone())
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn evaluate(&self, operands: &[Operand], _result: &QuantType) -> Vec<i32> {
        operands[0].data.iter().map(|&q| self.at(q)).collect()
    }

    fn describe(&self) -> String {
        let (first, zero, last) = (self.at(-32768), self.at(0), self.at(32767));
        format!(
            "{} segments, within {:.2} steps, -32768 -> {first}, 0 -> {zero}, 32767 -> {last}",
            self.entries.len() - 1,
            self.error
        )
    }
}
