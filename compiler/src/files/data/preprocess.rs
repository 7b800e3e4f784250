//! Conversions of sample data on the way in, so that raw images and stored integers can be used as they are.

use crate::diag::{Code, Diagnostic, Result};

/// What is done to each number, in this order: `(x - zero_point) * scale`, then `(x - mean) / std` along the
/// last axis of the array as it is stored, then the move of the last axis to the front of the sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocess {
    /// Factor.
    pub scale: f32,
    /// The stored number that means 0.
    pub zero_point: f32,
    /// Subtracted: one number for each entry of the last axis, or one for all, or none.
    pub mean: Vec<f32>,
    /// Divided by: one number for each entry of the last axis, or one for all, or none.
    pub std: Vec<f32>,
    /// The stored order is height, width, channels and the model wants channels first.
    /// Inputs with fewer than three dimensions are not affected.
    pub nhwc_to_nchw: bool,
}

impl Default for Preprocess {
    fn default() -> Preprocess {
        Preprocess { scale: 1.0, zero_point: 0.0, mean: Vec::new(), std: Vec::new(), nhwc_to_nchw: false }
    }
}

impl Preprocess {
    /// True if numbers are used as they are stored.
    pub fn is_identity(&self) -> bool {
        *self == Preprocess::default()
    }

    /// Checks the numbers themselves, before any data is read.
    pub fn check(&self) -> Result<()> {
        let numbers = [self.scale, self.zero_point].into_iter().chain(self.mean.iter().chain(&self.std).copied());
        if numbers.into_iter().any(|number| !number.is_finite()) {
            return Err(refused("scale, zero point, mean and standard deviation must be finite").into());
        }
        if self.scale == 0.0 || self.std.contains(&0.0) {
            return Err(refused("scale and standard deviation must not be 0").into());
        }
        Ok(())
    }

    /// The shape after the move of the last axis, for an input with `rank` dimensions.
    pub fn shape_seen_by_model(&self, stored: &[usize], rank: usize) -> Vec<usize> {
        let mut shape = stored.to_vec();
        if self.moves_axis(rank) && stored.len() + 1 >= rank {
            let to = stored.len() + 1 - rank;
            shape.get_mut(to..).unwrap_or_default().rotate_right(1);
        }
        shape
    }

    /// Checks that mean and standard deviation fit the last axis of an array.
    pub(super) fn check_channels(&self, stored: &[usize], sample_len: usize) -> Result<()> {
        let channels = stored.last().copied().unwrap_or(1);
        for (name, list) in [("mean", &self.mean), ("standard deviation", &self.std)] {
            let fits = list.len() <= 1 || (list.len() == channels && sample_len.is_multiple_of(channels));
            if !fits {
                return Err(channel_count(name, list.len(), stored).into());
            }
        }
        Ok(())
    }

    /// Converts one sample of an input with dimensions `dims`.
    pub(super) fn apply(&self, mut values: Vec<f32>, dims: &[usize]) -> Vec<f32> {
        if self.scale != 1.0 || self.zero_point != 0.0 {
            values.iter_mut().for_each(|x| *x = (*x - self.zero_point) * self.scale);
        }
        along_last_axis(&mut values, &self.mean, |x, mean| x - mean);
        along_last_axis(&mut values, &self.std, |x, std| x / std);
        match dims {
            [_, channels, ..] if self.moves_axis(dims.len()) => channels_first(&values, *channels, &dims[1..]),
            _ => values,
        }
    }

    fn moves_axis(&self, rank: usize) -> bool {
        self.nhwc_to_nchw && rank >= 3
    }
}

fn along_last_axis(values: &mut [f32], list: &[f32], apply: impl Fn(f32, f32) -> f32) {
    if list.is_empty() {
        return;
    }
    for row in values.chunks_mut(list.len()) {
        row.iter_mut().zip(list).for_each(|(x, &y)| *x = apply(*x, y));
    }
}

/// Transposes each batch entry from `[pixels, channels]` to `[channels, pixels]`.
fn channels_first(values: &[f32], channels: usize, entry_dims: &[usize]) -> Vec<f32> {
    let entry_len = entry_dims.iter().product::<usize>().max(1);
    let channels_of = |entry: &[f32]| -> Vec<f32> {
        (0..channels).flat_map(|channel| entry.iter().skip(channel).step_by(channels).copied()).collect()
    };
    values.chunks(entry_len).flat_map(channels_of).collect()
}

fn refused(message: &str) -> Diagnostic {
    Diagnostic::error(Code::InvalidOption, message)
        .help("correct --data-scale, --data-zero-point, --data-mean or --data-std")
}

fn channel_count(name: &str, count: usize, stored: &[usize]) -> Diagnostic {
    let message = format!("{count} numbers are given as {name}, which do not fit the shape {stored:?}");
    Diagnostic::error(Code::CalibrationShape, message)
        .note("they belong to the last axis of the array as it is stored")
        .help("give one number for each entry of the last axis, or a single number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_happen_in_the_stated_order() {
        let preprocess =
            Preprocess { scale: 0.5, zero_point: 2.0, mean: vec![1.0, 2.0], std: vec![2.0], nhwc_to_nchw: true };
        preprocess.check().unwrap();
        let stored = vec![4.0, 8.0, 6.0, 10.0, 8.0, 12.0];
        assert_eq!(preprocess.apply(stored, &[1, 2, 1, 3]), [0.0, 0.5, 1.0, 0.5, 1.0, 1.5]);
    }

    #[test]
    fn every_batch_entry_is_transposed() {
        let preprocess = Preprocess { nhwc_to_nchw: true, ..Preprocess::default() };
        let stored = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        assert_eq!(preprocess.apply(stored, &[2, 2, 1, 2]), [1.0, 3.0, 2.0, 4.0, 5.0, 7.0, 6.0, 8.0]);
    }

    #[test]
    fn shapes_follow_the_move_of_the_axis() {
        let preprocess = Preprocess { nhwc_to_nchw: true, ..Preprocess::default() };
        assert_eq!(preprocess.shape_seen_by_model(&[9, 4, 5, 3], 4), [9, 3, 4, 5]);
        assert_eq!(preprocess.shape_seen_by_model(&[4, 5, 3], 4), [3, 4, 5]);
        assert_eq!(preprocess.shape_seen_by_model(&[9, 1, 4, 5, 3], 4), [9, 1, 3, 4, 5]);
        assert_eq!(preprocess.shape_seen_by_model(&[9, 10], 2), [9, 10]);
        assert_eq!(preprocess.shape_seen_by_model(&[], 4), [0; 0]);
    }

    #[test]
    fn impossible_numbers_are_refused() {
        let default = Preprocess::default;
        assert!(default().is_identity() && default().check().is_ok());
        assert!(Preprocess { std: vec![1.0, 0.0], ..default() }.check().is_err());
        assert!(Preprocess { scale: f32::NAN, ..default() }.check().is_err());
        let three = Preprocess { mean: vec![0.0; 3], ..default() };
        assert!(three.check_channels(&[2, 4, 3], 12).is_ok());
        assert!(three.check_channels(&[2, 3, 4], 12).is_err());
        assert!(three.check_channels(&[3], 1).is_err());
    }
}
