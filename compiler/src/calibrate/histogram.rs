//! Histograms that can be merged exactly.
//!
//! Bins have the width `2^e` and are aligned at 0: bin `i` holds the values `x` with `floor(x / 2^e) == i`.
//! `e` follows from the largest magnitude alone. When a larger value arrives, `e` grows and neighbouring
//! bins are added up, which gives the same counts as starting with the larger `e`. So the result does not
//! depend on the order of the values, and merging two histograms loses nothing.

/// Bins on each side of zero. At least half of them are used on the side of the largest magnitude.
const SIDE: i32 = 4096;

/// The exponent before anything but zeros was seen; it suits the smallest positive `f32`, `2^-149`.
const LOWEST_EXPONENT: i32 = -160;

/// Slices are looked at in pieces that stay in the cache between the passes over them.
const CHUNK: usize = 1 << 13;

/// Counts of the values of one tensor, and exact facts about them.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    exponent: i32,
    counts: Vec<u64>,
    count: u64,
    zeros: u64,
    min: Extreme,
    max: Extreme,
}

/// The smallest or largest value, and how often it occurs.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Extreme {
    value: f32,
    count: u64,
}

/// The first value of a tensor that is NaN or infinite.
#[derive(Debug, Clone, Copy)]
pub struct NotFinite {
    /// Index of the value in row-major order.
    pub position: usize,
    /// The value.
    pub value: f32,
}

impl Histogram {
    /// An empty histogram.
    pub fn new() -> Histogram {
        Histogram {
            exponent: LOWEST_EXPONENT,
            counts: vec![0; 2 * SIDE as usize],
            count: 0,
            zeros: 0,
            min: Extreme { value: f32::INFINITY, count: 0 },
            max: Extreme { value: f32::NEG_INFINITY, count: 0 },
        }
    }

    /// Adds values. Nothing is added if one of them is not finite.
    pub fn observe(&mut self, values: &[f32]) -> Result<(), NotFinite> {
        if values.is_empty() {
            return Ok(());
        }
        let facts = Facts::of(values);
        if let Some(found) = first_not_finite(&facts, values) {
            return Err(found);
        }
        self.grow(exponent_for(facts.magnitude()));
        self.count += values.len() as u64;
        self.zeros += facts.zeros;
        self.min = self.min.smaller(Extreme::of(facts.min, values));
        self.max = self.max.larger(Extreme::of(facts.max, values));
        let per_bin = power_of_two(-self.exponent);
        for chunk in values.chunks(CHUNK) {
            self.count_chunk(chunk, per_bin);
        }
        Ok(())
    }

    /// Adds everything that `other` holds.
    pub fn merge(&mut self, other: &Histogram) {
        self.grow(other.exponent);
        let shift = shift_between(other.exponent, self.exponent);
        for (slot, &count) in other.counts.iter().enumerate() {
            self.counts[merged_slot(slot, shift)] += count;
        }
        self.count += other.count;
        self.zeros += other.zeros;
        self.min = self.min.smaller(other.min);
        self.max = self.max.larger(other.max);
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Number of values that are 0.
    pub fn zeros(&self) -> u64 {
        self.zeros
    }

    /// The smallest value, exactly.
    pub fn min(&self) -> Option<f32> {
        (self.count > 0).then_some(self.min.value)
    }

    /// The largest value, exactly.
    pub fn max(&self) -> Option<f32> {
        (self.count > 0).then_some(self.max.value)
    }

    /// How many values are equal to the smallest.
    pub fn at_min(&self) -> u64 {
        self.min.count
    }

    /// How many values are equal to the largest. Saturating activations have many.
    pub fn at_max(&self) -> u64 {
        self.max.count
    }

    /// The width of a bin.
    pub fn bin_width(&self) -> f64 {
        power_of_two(self.exponent)
    }

    /// Index `i` and count of every bin that is not empty, from below. The bin is `[i, i + 1) * bin_width`.
    pub fn bins(&self) -> impl DoubleEndedIterator<Item = (i32, u64)> {
        (-SIDE..SIDE).zip(self.counts.iter().copied()).filter(|&(_, count)| count > 0)
    }

    fn count_chunk(&mut self, chunk: &[f32], per_bin: f64) {
        let mut slots = [0; CHUNK];
        for (slot_of, &value) in slots.iter_mut().zip(chunk) {
            *slot_of = slot(value, per_bin);
        }
        for &slot in &slots[..chunk.len()] {
            self.counts[usize::from(slot)] += 1;
        }
    }

    fn grow(&mut self, exponent: i32) {
        if exponent <= self.exponent {
            return;
        }
        let shift = shift_between(self.exponent, exponent);
        let mut counts = vec![0; self.counts.len()];
        for (slot, &count) in self.counts.iter().enumerate() {
            counts[merged_slot(slot, shift)] += count;
        }
        self.counts = counts;
        self.exponent = exponent;
    }
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram::new()
    }
}

impl Extreme {
    fn of(value: f32, values: &[f32]) -> Extreme {
        let count = values.chunks(CHUNK).map(|chunk| u64::from(count_equal(chunk, value))).sum();
        Extreme { value, count }
    }

    fn smaller(self, other: Extreme) -> Extreme {
        if self.value == other.value {
            self.plus(other.count)
        } else if self.value < other.value {
            self
        } else {
            other
        }
    }

    fn larger(self, other: Extreme) -> Extreme {
        if self.value == other.value {
            self.plus(other.count)
        } else if self.value > other.value {
            self
        } else {
            other
        }
    }

    fn plus(self, count: u64) -> Extreme {
        Extreme { count: self.count + count, ..self }
    }
}

/// What one look at all values tells. Written so that the compiler can vectorise it.
struct Facts {
    min: f32,
    max: f32,
    zeros: u64,
}

impl Facts {
    fn of(values: &[f32]) -> Facts {
        let (mut min, mut max) = (sort_key(f32::INFINITY), sort_key(f32::NEG_INFINITY));
        let mut zeros = 0;
        for chunk in values.chunks(CHUNK) {
            for &value in chunk {
                min = min.min(sort_key(value));
                max = max.max(sort_key(value));
            }
            zeros += u64::from(count_equal(chunk, 0.0));
        }
        // Adding 0 turns -0 into 0, so that the sign does not depend on the order of the values.
        Facts { min: from_sort_key(min) + 0.0, max: from_sort_key(max) + 0.0, zeros }
    }

    /// The largest magnitude of values that are all finite.
    fn magnitude(&self) -> f32 {
        self.max.max(-self.min)
    }
}

/// An integer that is ordered like the values, with NaN beyond both infinities. Unlike a minimum of
/// floats, one of integers may be computed in any order.
fn sort_key(value: f32) -> i32 {
    let bits = value.to_bits() as i32;
    bits ^ ((bits >> 31) & i32::MAX)
}

fn from_sort_key(key: i32) -> f32 {
    f32::from_bits((key ^ ((key >> 31) & i32::MAX)) as u32)
}

fn first_not_finite(facts: &Facts, values: &[f32]) -> Option<NotFinite> {
    if facts.min.is_finite() && facts.max.is_finite() {
        return None;
    }
    let position = values.iter().position(|value| !value.is_finite())?;
    Some(NotFinite { position, value: values[position] })
}

/// Counts in 32 bits, which is twice as fast as 64, and cannot wrap: `values` is at most a chunk long.
fn count_equal(values: &[f32], wanted: f32) -> u32 {
    values.iter().fold(0, |count, &value| u32::wrapping_add(count, u32::from(value == wanted)))
}

/// The smallest exponent whose bins reach `magnitude`: `floor(log2(magnitude)) - 11`.
fn exponent_for(magnitude: f32) -> i32 {
    if magnitude == 0.0 {
        return LOWEST_EXPONENT;
    }
    // Every `f32` is a normal `f64`, so the exponent field is the logarithm.
    let biased = (f64::from(magnitude).to_bits() >> 52) as i32;
    biased - 1023 - (SIDE.ilog2() as i32 - 1)
}

fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// The slot of `floor(value * per_bin)`. The product is exact: `per_bin` is a power of two.
/// A cast to an integer would saturate, which the compiler cannot vectorise; adding 1.5 * 2^52 rounds to
/// the nearest integer instead and leaves it in the lowest bits.
fn slot(value: f32, per_bin: f64) -> u16 {
    const MAGIC: f64 = 1.5 * (1_u64 << 52) as f64;
    let scaled = f64::from(value) * per_bin;
    let shifted = scaled + MAGIC;
    let too_high = u16::from(shifted - MAGIC > scaled);
    (shifted.to_bits() as u16).wrapping_add(SIDE as u16).wrapping_sub(too_high)
}

/// How many times neighbours are joined; more than 13 times changes nothing any more.
fn shift_between(from: i32, to: i32) -> u32 {
    (to - from).clamp(0, 13) as u32
}

/// The slot that takes over the counts of `slot`. The arithmetic shift divides the index rounding down.
fn merged_slot(slot: usize, shift: u32) -> usize {
    (((slot as i32 - SIDE) >> shift) + SIDE) as usize
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A small generator of reproducible numbers.
    pub struct Random(pub u64);

    impl Random {
        pub fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        /// Uniform in [0, 1).
        pub fn unit(&mut self) -> f64 {
            (self.next() >> 11) as f64 / (1_u64 << 53) as f64
        }

        /// Close to a normal distribution: the sum of twelve uniform numbers.
        pub fn gauss(&mut self) -> f32 {
            ((0..12).map(|_| self.unit()).sum::<f64>() - 6.0) as f32
        }
    }

    pub fn histogram(values: &[f32]) -> Histogram {
        let mut histogram = Histogram::new();
        histogram.observe(values).unwrap();
        histogram
    }

    /// Values of very different magnitudes, with zeros of both signs, bin edges and subnormal numbers.
    fn wild(random: &mut Random, len: usize) -> Vec<f32> {
        let value = |random: &mut Random| match random.next() % 8 {
            0 => 0.0,
            1 => -0.0,
            2 => f32::from_bits((random.next() % 50) as u32) * if random.next() & 1 == 0 { 1.0 } else { -1.0 },
            3 => 2.0_f32.powi((random.next() % 200) as i32 - 100),
            4 => -(2.0_f32.powi((random.next() % 200) as i32 - 100)),
            _ => random.gauss() * 10.0_f32.powi((random.next() % 20) as i32 - 10),
        };
        (0..len).map(|_| value(random)).collect()
    }

    #[test]
    fn any_division_of_the_values_gives_the_same_histogram() {
        let mut random = Random(1);
        for round in 0..100 {
            let values = wild(&mut random, 1 + round * 3);
            let whole = histogram(&values);
            let mut one_by_one = Histogram::new();
            for value in values.iter().rev() {
                one_by_one.observe(&[*value]).unwrap();
            }
            let (left, right) = values.split_at(random.next() as usize % values.len());
            let mut merged = histogram(right);
            merged.merge(&histogram(left));
            assert_eq!(one_by_one, whole);
            assert_eq!(merged, whole);
        }
    }

    #[test]
    fn every_value_is_in_its_bin() {
        let mut random = Random(2);
        let values = wild(&mut random, 500);
        let histogram = histogram(&values);
        for (index, count) in histogram.bins() {
            let holds = |value: f32| (f64::from(value) / histogram.bin_width()).floor() == f64::from(index);
            assert_eq!(values.iter().filter(|value| holds(**value)).count() as u64, count);
        }
        assert_eq!(histogram.bins().map(|(_, count)| count).sum::<u64>(), 500);
    }

    #[test]
    fn facts_are_exact() {
        let histogram = histogram(&[0.1, -0.0, 0.0, -3.5]);
        assert_eq!((histogram.min(), histogram.max()), (Some(-3.5), Some(0.1)));
        assert_eq!((histogram.count(), histogram.zeros()), (4, 2));
        assert_eq!((histogram.at_min(), histogram.at_max()), (1, 1));
        assert_eq!((Histogram::new().min(), Histogram::new().max()), (None, None));
    }

    #[test]
    fn resolution_follows_from_the_largest_magnitude() {
        for (magnitude, width) in [(1.0, 0.5_f64.powi(11)), (1.99, 0.5_f64.powi(11)), (2.0, 0.5_f64.powi(10))] {
            assert_eq!(histogram(&[magnitude]).bin_width(), width);
            assert_eq!(histogram(&[-magnitude]).bin_width(), width);
        }
        histogram(&[f32::MAX, f32::MIN, f32::MIN_POSITIVE, -f32::from_bits(1)]);
    }

    #[test]
    fn values_that_are_not_finite_change_nothing() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut histogram = histogram(&[1.0]);
            let before = histogram.clone();
            assert_eq!(histogram.observe(&[2.0, bad, f32::NAN]).unwrap_err().position, 1);
            assert_eq!(histogram, before);
        }
    }
}
