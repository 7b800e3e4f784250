//! How a range is chosen from a histogram.
//!
//! Every method returns a range inside what was observed, extended to 0. All arithmetic is exact or plain
//! `f64`, so the same histogram gives the same range on every machine.

use std::fmt;
use std::str::FromStr;

use super::Histogram;
use crate::diag::{Code, Diagnostic, Diagnostics};
use crate::ir::Range;

/// The rule that turns observed values into a range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// Everything that was observed.
    MinMax,
    /// The middle that holds this percentage of the values; what is left out is divided evenly between
    /// both ends.
    Percentile(f64),
    /// The smallest expected squared error of 8-bit quantization: rounding inside, clipping outside.
    Mse,
}

impl Method {
    /// The percentage of `percentile` without a number.
    pub const DEFAULT_PERCENTILE: f64 = 99.99;
}

/// The method with the best accuracy over the real models that the tests know (the command `accuracy` prints it).
impl Default for Method {
    fn default() -> Method {
        Method::Percentile(Method::DEFAULT_PERCENTILE)
    }
}

/// The range of a tensor by `method`; `None` if nothing was observed.
pub fn range(histogram: &Histogram, method: Method) -> Option<Range> {
    let (min, max) = (histogram.min()?, histogram.max()?);
    let (lo, hi) = match method {
        Method::MinMax => (min, max),
        Method::Percentile(percent) => percentile(histogram, percent),
        Method::Mse => least_squares(histogram, min.min(0.0), max.max(0.0)),
    };
    let (lo, hi) = (lo.clamp(min, max), hi.clamp(min, max));
    Range::new(lo, hi.max(lo))
}

impl FromStr for Method {
    type Err = Diagnostics;

    fn from_str(text: &str) -> Result<Method, Diagnostics> {
        match text.split_once(':') {
            None if text == "min-max" => Ok(Method::MinMax),
            None if text == "percentile" => Ok(Method::Percentile(Method::DEFAULT_PERCENTILE)),
            None if text == "mse" => Ok(Method::Mse),
            Some(("percentile", number)) => parse_percent(number).ok_or_else(|| bad_percent(number).into()),
            _ => Err(unknown(text).into()),
        }
    }
}

/// The text that [`Method::from_str`] reads.
impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Method::MinMax => f.write_str("min-max"),
            Method::Percentile(percent) => write!(f, "percentile:{percent}"),
            Method::Mse => f.write_str("mse"),
        }
    }
}

fn parse_percent(number: &str) -> Option<Method> {
    let percent: f64 = number.parse().ok()?;
    (percent > 0.0 && percent <= 100.0).then_some(Method::Percentile(percent))
}

fn bad_percent(number: &str) -> Diagnostic {
    Diagnostic::error(Code::UnknownMethod, format!("`{number}` is not a percentage above 0 and up to 100"))
        .help("for example `percentile:99.9`")
}

fn unknown(text: &str) -> Diagnostic {
    Diagnostic::error(Code::UnknownMethod, format!("there is no calibration method `{text}`"))
        .help("methods: `min-max`, `percentile`, `percentile:99.9`, `mse`")
}

fn percentile(histogram: &Histogram, percent: f64) -> (f32, f32) {
    let count = histogram.count() as f64;
    let left_out = count * ((100.0 - percent) / 200.0);
    let width = histogram.bin_width();
    let lo = rank_from(left_out, histogram.bins());
    let hi = rank_from(left_out, histogram.bins().rev().map(|(index, count)| (-index - 1, count)));
    ((lo * width) as f32, (-hi * width) as f32)
}

/// The point, in bins, below which `rank` values lie, counted from the first bin on.
/// Values are taken to be evenly spread inside a bin.
fn rank_from(rank: f64, bins: impl Iterator<Item = (i32, u64)>) -> f64 {
    let mut passed = 0.0;
    let mut end = 0.0;
    for (index, count) in bins {
        let count = count as f64;
        if passed + count >= rank {
            return f64::from(index) + (rank - passed) / count;
        }
        passed += count;
        end = f64::from(index) + 1.0;
    }
    end
}

/// One place where a range could end, at `end >= 0` bins from zero on one side, and what it costs.
#[derive(Debug, Clone, Copy)]
struct Cut {
    end: f64,
    /// Number of values at the end or beyond, which are not rounded.
    outside: f64,
    /// Sum of their squared distances to the end.
    clipping: f64,
}

/// Finds both ends in turn, each optimal for the other, until nothing changes.
/// The cost of clipping is separate for both sides; only the step size couples them.
fn least_squares(histogram: &Histogram, min: f32, max: f32) -> (f32, f32) {
    let width = histogram.bin_width();
    let below = histogram.bins().take_while(|&(index, _)| index < 0).map(|(index, count)| (-index - 1, count));
    let above = histogram.bins().rev().take_while(|&(index, _)| index >= 0);
    let low_cuts = cuts(below, f64::from(-min) / width, histogram.at_min());
    let high_cuts = cuts(above, f64::from(max) / width, histogram.at_max());
    let nonzero = (histogram.count() - histogram.zeros()) as f64;
    let (mut low, mut high) = (low_cuts[0], high_cuts[0]);
    // Each turn lowers the cost; a handful is enough, and the limit only guards the time.
    for _ in 0..64 {
        let before = (low.end, high.end);
        high = best(&high_cuts, &low, nonzero);
        low = best(&low_cuts, &high, nonzero);
        if before == (low.end, high.end) {
            break;
        }
    }
    ((-low.end * width) as f32, (high.end * width) as f32)
}

/// The extreme itself, then every bin edge between it and zero, from outside to inside.
/// `bins` are the bins of one side from outside to inside, their indices counted from zero outwards.
fn cuts(bins: impl Iterator<Item = (i32, u64)>, extreme: f64, at_extreme: u64) -> Vec<Cut> {
    // Zeros are exact anyway and are counted apart.
    let at_extreme = if extreme > 0.0 { at_extreme as f64 } else { 0.0 };
    let mut cuts = vec![Cut { end: extreme, outside: at_extreme, clipping: 0.0 }];
    let mut bins = bins.peekable();
    let (mut outside, mut distances, mut squares) = (0.0, 0.0, 0.0);
    for edge in (1..extreme.ceil() as i32).rev() {
        let end = f64::from(edge);
        // Moving the end inwards by one bin adds 1 to every distance d: d² becomes d² + 2d + 1.
        squares += 2.0 * distances + outside;
        distances += outside;
        while let Some((index, count)) = bins.next_if(|&(index, _)| index >= edge) {
            let (count, inner) = (count as f64, f64::from(index));
            let distance = (inner + extreme.min(inner + 1.0)) / 2.0 - end;
            outside += count;
            distances += distance * count;
            squares += distance * distance * count;
        }
        cuts.push(Cut { end, outside, clipping: squares });
    }
    cuts
}

/// The cut with the smallest total error when the other side ends at `other`; the widest of equals.
fn best(cuts: &[Cut], other: &Cut, nonzero: f64) -> Cut {
    let mut best = (f64::INFINITY, cuts[0]);
    for cut in cuts {
        let error = expected_error(cut, other, nonzero);
        if error < best.0 {
            best = (error, *cut);
        }
    }
    best.1
}

/// Sum of squared errors: step²/12 for each value that is rounded, the squared distance for each that is
/// clipped. Zeros are exact in any range.
fn expected_error(a: &Cut, b: &Cut, nonzero: f64) -> f64 {
    let step = (a.end + b.end) / 255.0;
    let rounded = nonzero - (a.outside + b.outside);
    rounded * step * step / 12.0 + (a.clipping + b.clipping)
}

#[cfg(test)]
mod tests {
    use super::super::histogram::tests::{Random, histogram};
    use super::*;

    fn gaussian(len: usize) -> Vec<f32> {
        let mut random = Random(3);
        (0..len).map(|_| random.gauss()).collect()
    }

    /// The error that 8-bit quantization of these values really has.
    fn measured_error(values: &[f32], range: Range) -> f64 {
        let (lo, hi) = (f64::from(range.min()), f64::from(range.max()));
        let step = (hi - lo) / 255.0;
        let zero_point = (-lo / step).round();
        let error = |x: f32| {
            let q = ((f64::from(x) / step).round() + zero_point).clamp(0.0, 255.0);
            f64::from(x) - (q - zero_point) * step
        };
        values.iter().map(|&x| error(x).powi(2)).sum::<f64>() / values.len() as f64
    }

    #[test]
    fn texts_round_trip() {
        for method in [Method::MinMax, Method::Percentile(99.9), Method::Percentile(100.0), Method::Mse] {
            assert_eq!(method.to_string().parse::<Method>(), Ok(method));
        }
        assert_eq!("percentile".parse::<Method>(), Ok(Method::Percentile(99.99)));
        for bad in ["", "kl", "mse:3", "percentile:0", "percentile:100.1", "percentile:nan", "percentile:"] {
            assert!(bad.parse::<Method>().is_err(), "{bad}");
        }
    }

    #[test]
    fn percentiles_agree_with_sorting() {
        let mut values = gaussian(20_000);
        values.extend((0..5000).map(|i| i as f32 * 0.001));
        let histogram = histogram(&values);
        values.sort_by(f32::total_cmp);
        for percent in [50.0, 90.0, 99.0, 99.9, 100.0] {
            let left_out = (values.len() as f64 * (100.0 - percent) / 200.0) as usize;
            let (lo, hi) = (values[left_out], values[values.len() - 1 - left_out]);
            let found = range(&histogram, Method::Percentile(percent)).unwrap();
            let near =
                |a: f32, b: f32| f64::from((a - b).abs()) <= 2.0 * histogram.bin_width() + 0.02 * f64::from(b.abs());
            assert!(near(found.min(), lo) && near(found.max(), hi), "{percent}: {found:?}, sorted {lo} {hi}");
        }
        let everything = range(&histogram, Method::Percentile(100.0));
        assert_eq!(everything, range(&histogram, Method::MinMax));
    }

    #[test]
    fn mse_clips_a_rare_outlier() {
        let values: Vec<f32> = gaussian(20_000).repeat(50).into_iter().chain([100.0]).collect();
        let histogram = histogram(&values);
        let found = range(&histogram, Method::Mse).unwrap();
        assert!(found.max() < 50.0, "{found:?}");
        let whole = range(&histogram, Method::MinMax).unwrap();
        assert!(measured_error(&values, found) < 0.8 * measured_error(&values, whole));
    }

    #[test]
    fn mse_keeps_the_value_at_which_an_activation_saturates() {
        let values: Vec<f32> = gaussian(20_000).iter().map(|x| (x * 4.0).clamp(0.0, 6.0)).collect();
        assert_eq!(range(&histogram(&values), Method::Mse), Range::new(0.0, 6.0));
        assert_eq!(range(&histogram(&[1.0; 3]), Method::Mse), Range::new(0.0, 1.0));
    }

    #[test]
    fn mse_keeps_a_uniform_distribution_whole() {
        let values: Vec<f32> = (0..100_001).map(|i| i as f32 / 50_000.0 - 1.0).collect();
        let found = range(&histogram(&values), Method::Mse).unwrap();
        assert!(found.min() < -0.99 && found.max() > 0.99, "{found:?}");
    }

    #[test]
    fn mse_is_near_the_best_of_a_full_search() {
        let heavy: Vec<f32> = gaussian(20_000).iter().map(|x| x.powi(3)).collect();
        let rectified: Vec<f32> = heavy.iter().map(|x| x.max(0.0)).collect();
        let skewed: Vec<f32> = gaussian(20_000).iter().map(|x| x.exp() - 1.0).collect();
        for values in [gaussian(20_000), heavy, rectified, skewed] {
            let histogram = histogram(&values);
            let found = measured_error(&values, range(&histogram, Method::Mse).unwrap());
            let whole = range(&histogram, Method::MinMax).unwrap();
            let fractions = || (1..=25).map(|i| i as f32 / 25.0);
            let candidates = fractions().flat_map(|a| fractions().map(move |b| (whole.min() * a, whole.max() * b)));
            let searched = candidates.map(|(lo, hi)| measured_error(&values, Range::new(lo, hi).unwrap()));
            let best = searched.fold(f64::INFINITY, f64::min);
            assert!(found < 1.05 * best, "{found} against {best}");
        }
    }

    #[test]
    fn ranges_stay_inside_the_observed_values_and_contain_zero() {
        let mut random = Random(4);
        let cases = (0..200).map(|_| {
            let (scale, shift) = (10.0_f32.powi((random.next() % 60) as i32 - 30), random.gauss() * 5.0);
            (0..30).map(|_| (random.gauss() + shift) * scale).collect::<Vec<f32>>()
        });
        let special = [vec![0.0], vec![5.0], vec![-5.0; 3], vec![f32::from_bits(1)], vec![f32::MAX, f32::MIN]];
        for values in cases.chain(special) {
            let histogram = histogram(&values);
            let (min, max) = (histogram.min().unwrap().min(0.0), histogram.max().unwrap().max(0.0));
            for method in [Method::MinMax, Method::Percentile(60.0), Method::Percentile(99.99), Method::Mse] {
                let found = range(&histogram, method).unwrap();
                assert!(min <= found.min() && found.min() <= 0.0, "{method} {values:?} {found:?}");
                assert!(0.0 <= found.max() && found.max() <= max, "{method} {values:?} {found:?}");
                assert!(found.max() > found.min() || min == max, "{method} {values:?} {found:?}");
            }
        }
        assert_eq!(range(&Histogram::new(), Method::Mse), None);
    }
}
