//! An activation on integers: a table of 513 points with linear interpolation.

use super::rules::Activation;

/// Arguments lie between `-2^ARGUMENT` and `2^ARGUMENT`: the ends of the table.
pub const ARGUMENT: u32 = 22;

/// Bits of an argument below the index of its segment.
pub const SEGMENT: u32 = 14;

/// Points of the table.
const POINTS: i64 = 513;

/// A function over `-2^domain ..= 2^domain`; beyond, it has the values of the ends. Between two points it is linear, so
/// the error is at most the second derivative times `2^(2 * domain - 19)`: `1e-4` for Tanh over `-8..=8`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Curve {
    /// Arguments have `ARGUMENT - domain` fractional bits.
    pub domain: i32,
    /// Values at the points; they fit 16 bits.
    pub points: Vec<i32>,
    /// Fractional bits of the values.
    pub bits: u32,
}

impl Curve {
    /// The table of an activation whose arguments reach `magnitude` and are clipped at `clip`.
    pub fn new(activation: Activation, magnitude: f64, clip: Option<f32>) -> Curve {
        let clip = clip.map_or(f64::INFINITY, f64::from);
        let reach = activation.saturation().unwrap_or(magnitude).min(clip).max(2f64.powi(-8));
        let domain = (reach.log2() - 1e-9).ceil().min(20.0) as i32;
        let value = |point: i64| {
            let x = (point - POINTS / 2) as f64 / (POINTS / 2) as f64 * 2f64.powi(domain);
            activation.apply(x.clamp(-clip, clip))
        };
        let values: Vec<f64> = (0..POINTS).map(value).collect();
        let bits = fraction(values.iter().fold(0.0, |most, value| value.abs().max(most)));
        let point = |value: &f64| (value * f64::from(1u32 << bits)).round().clamp(-32767.0, 32767.0) as i32;
        Curve { domain, points: values.iter().map(point).collect(), bits }
    }

    /// Fractional bits of arguments.
    pub fn argument_bits(&self) -> i32 {
        ARGUMENT as i32 - self.domain
    }

    /// The value for an argument, which may be outside of the domain.
    pub fn apply(&self, argument: i64) -> i32 {
        let (least, most) = bounds();
        let at = argument.clamp(least, most) - least;
        let (segment, rest) = ((at >> SEGMENT) as usize, at & ((1 << SEGMENT) - 1));
        let (a, b) = (self.points[segment], self.points[segment + 1]);
        a + ((i64::from(b - a) * rest + (1 << (SEGMENT - 1))) >> SEGMENT) as i32
    }

    /// The largest magnitude of a value.
    pub fn magnitude(&self) -> f64 {
        let most = self.points.iter().map(|point| point.abs()).max().unwrap_or(0);
        f64::from(most) / f64::from(1u32 << self.bits)
    }

    /// Whether no value is negative or above 1: the value of a gate.
    pub fn is_share(&self) -> bool {
        self.points.iter().all(|&point| (0..=1 << self.bits).contains(&point))
    }
}

/// The smallest and the largest argument.
pub fn bounds() -> (i64, i64) {
    (-(1 << ARGUMENT), (1 << ARGUMENT) - 1)
}

/// Fractional bits of 16-bit numbers up to `magnitude`: at most 15, so that nothing below 1 is ever clipped.
pub fn fraction(magnitude: f64) -> u32 {
    (1..=15).rev().find(|&bits| magnitude * f64::from(1u32 << bits) <= 32768.5).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_close_to_the_function() {
        let activations = [
            (Activation::Sigmoid, 1e-4),
            (Activation::Tanh, 2e-4),
            // Over `-16..=16`: a second derivative of 0.64 times `2^-11`.
            (Activation::ScaledTanh(1.7, 0.7), 4e-4),
            (Activation::HardSigmoid(0.2, 0.5), 2e-3),
            (Activation::Relu, 1e-3),
            (Activation::LeakyRelu(0.1), 1e-3),
            (Activation::Elu(1.3), 1e-3),
            (Activation::Softsign, 1e-3),
            (Activation::Softplus, 1e-3),
            (Activation::Affine(0.5, -0.25), 1e-3),
        ];
        for (activation, tolerance) in activations {
            let curve = Curve::new(activation, 5.0, None);
            for i in -500..=500 {
                let x = f64::from(i) / 100.0;
                let argument = (x * 2f64.powi(curve.argument_bits())).round() as i64;
                let value = f64::from(curve.apply(argument)) / f64::from(1u32 << curve.bits);
                assert!((value - activation.apply(x)).abs() <= tolerance, "{activation:?} of {x}: {value}");
            }
        }
    }

    #[test]
    fn arguments_are_clipped() {
        let curve = Curve::new(Activation::Tanh, 5.0, Some(0.5));
        let value = |x: f64| f64::from(curve.apply((x * 2f64.powi(curve.argument_bits())) as i64)) / 32768.0;
        assert!((value(3.0) - 0.5f64.tanh()).abs() < 1e-4);
        assert!((value(-3.0) + 0.5f64.tanh()).abs() < 1e-4);
    }
}
