//! What each element of a tensor does over the samples: whether one step suits all of them.
//!
//! A histogram cannot tell a tensor of small values from one that mixes units. Smallest and largest value of each
//! element can, and like everything in calibration they do not depend on the order of the samples.

/// Fewer samples say little of what an element does.
const ENOUGH_SAMPLES: u64 = 10;

/// Smallest and largest value of each element.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Elements {
    samples: u64,
    ends: Vec<(f32, f32)>,
}

impl Elements {
    /// Adds one sample. Values are finite.
    pub fn observe(&mut self, values: &[f32]) {
        self.samples += 1;
        if self.ends.is_empty() {
            self.ends = values.iter().map(|&value| (value, value)).collect();
        }
        for ((min, max), &value) in self.ends.iter_mut().zip(values) {
            *min = min.min(value);
            *max = max.max(value);
        }
    }

    /// Adds everything that `other` has seen of the same tensor.
    pub fn merge(&mut self, other: &Elements) {
        self.samples += other.samples;
        if self.ends.is_empty() {
            self.ends.clone_from(&other.ends);
        }
        for ((min, max), &(other_min, other_max)) in self.ends.iter_mut().zip(&other.ends) {
            *min = min.min(other_min);
            *max = max.max(other_max);
        }
    }

    /// A quarter of the elements vary by no more than this. Elements that never change carry nothing that a coarse step
    /// could lose and are left out; `None` if there are no others, or too few samples.
    pub fn spread(&self) -> Option<f32> {
        let spreads = self.ends.iter().map(|&(min, max)| max - min).filter(|&spread| spread > 0.0);
        let mut spreads: Vec<f32> = spreads.filter(|spread| spread.is_finite()).collect();
        spreads.sort_by(f32::total_cmp);
        spreads.get(spreads.len() / 4).copied().filter(|_| self.samples >= ENOUGH_SAMPLES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Element `i` runs from 0 to `spreads[i]`.
    fn elements(spreads: &[f32], samples: u64) -> Elements {
        let mut elements = Elements::default();
        for sample_idx in 0..samples {
            let part = sample_idx as f32 / (samples - 1) as f32;
            elements.observe(&spreads.iter().map(|spread| spread * part).collect::<Vec<_>>());
        }
        elements
    }

    #[test]
    fn the_lower_quartile_of_what_varies_counts() {
        assert_eq!(elements(&[0.0, 0.0, 1.0, 2.0, 3.0, 4.0], 10).spread(), Some(2.0));
        assert_eq!(elements(&[5.0], 10).spread(), Some(5.0));
        assert_eq!(elements(&[0.0, 0.0], 10).spread(), None);
        assert_eq!(elements(&[1.0], 9).spread(), None);
    }

    #[test]
    fn merged_parts_equal_the_whole() {
        let samples: Vec<Vec<f32>> = (0..20).map(|i| (0..5).map(|j| ((i * 7 + j * 3) % 11) as f32).collect()).collect();
        let (mut whole, mut left, mut right) = (Elements::default(), Elements::default(), Elements::default());
        for (i, sample) in samples.iter().enumerate() {
            whole.observe(sample);
            if i % 3 == 0 { left.observe(sample) } else { right.observe(sample) }
        }
        let mut merged = Elements::default();
        merged.merge(&right);
        merged.merge(&left);
        assert_eq!(merged, whole);
    }
}
