//! Histograms with a fixed number of bins.

use serde::Serialize;

/// Bins of a histogram.
const BINS: usize = 64;

/// How often values fall between two bounds, in bins of equal width. Values outside are counted in the outermost bins.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Histogram {
    /// The lower end of the first bin.
    pub lo: f64,
    /// The upper end of the last bin.
    pub hi: f64,
    /// Number of values in each bin.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// An empty histogram.
    pub fn new(lo: f64, hi: f64) -> Histogram {
        Histogram { lo, hi, counts: vec![0; BINS] }
    }

    /// Counts a value.
    pub fn count(&mut self, value: f64) {
        let at = (value - self.lo) / (self.hi - self.lo) * BINS as f64;
        // Conversion to an integer saturates.
        self.counts[(at as usize).min(BINS - 1)] += 1;
    }

    /// Adds the counts of a histogram with the same bounds.
    pub fn add(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_their_bins() {
        let mut histogram = Histogram::new(-1.0, 1.0);
        for value in [-5.0, -1.0, -0.97, 0.0, 0.999, 1.0, 7.0] {
            histogram.count(value);
        }
        let counts = &histogram.counts;
        assert_eq!((counts[0], counts[32], counts[BINS - 1]), (3, 1, 3));
        assert_eq!(counts.iter().sum::<u64>(), 7);
    }
}
