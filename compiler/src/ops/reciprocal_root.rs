//! `1 / sqrt(w)` in integers: what normalizations divide by.
//!
//! The number is brought between `2^30` and `2^32` by shifts of fixed lengths, each made or not; a table gives the first
//! 6 bits of the root, two steps of Newton's method the rest; then half of the shifts are undone. No loop, no branch, no
//! division.

/// How the roots of numbers up to some bound are computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReciprocalRoot {
    /// Bits that every number is shifted by first: to the left, or to the right if negative. Even.
    pub up: i32,
    /// Shifts to the right, made where the number stays at least `2^30`. Even.
    pub steps: Vec<u32>,
}

/// Bits of the result below those of the table's entries.
const GUARD: u32 = 4;

/// First entry of the table: smaller indices do not occur.
pub const TABLE_START: u64 = 16;

/// `1.0` in the table and in Newton's method.
pub const ONE: u32 = 30;

/// The smallest normalized number.
pub const LEAST: u64 = 1 << 30;

/// The largest normalized number.
pub const MOST: u64 = (1 << 32) - 1;

impl ReciprocalRoot {
    /// For numbers up to `most`, which is below `2^63`. Numbers so small that they cannot be normalized (of more than
    /// 32 bits fewer than `most`) count as the smallest that can.
    pub fn new(most: u64) -> ReciprocalRoot {
        let bits = (u64::BITS - most.leading_zeros()) as i32;
        let up = (62 - bits).min(30).div_euclid(2) * 2;
        let mut left = ((bits + up - 32).max(0) as u32).next_multiple_of(2);
        let mut steps = vec![];
        while left > 0 {
            let step = (left / 2).next_multiple_of(2);
            steps.push(step);
            left -= step;
        }
        ReciprocalRoot { up, steps }
    }

    /// The result has so many fractional bits.
    pub fn fraction(&self) -> u32 {
        (ONE as i32 + 16 + GUARD as i32 - self.up / 2) as u32
    }

    /// The largest result.
    pub fn most(&self) -> u64 {
        1 << (ONE + 1 + GUARD)
    }

    /// The steps, each with the smallest number that it is made for.
    pub fn thresholds(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let mut left: u32 = self.steps.iter().sum();
        self.steps.iter().map(move |&step| {
            left -= step;
            (step, 1 << (32 + left))
        })
    }

    /// `2^fraction / sqrt(w)`, with a relative error below `2^-17`.
    pub fn apply(&self, w: u64) -> u64 {
        let mut w = if self.up >= 0 { w << self.up } else { w >> -self.up };
        let mut down = 0;
        for (step, threshold) in self.thresholds() {
            if w >= threshold {
                w >>= step;
                down += step / 2;
            }
        }
        let m = w.clamp(LEAST, MOST);
        let mut y = u64::from(table()[((m >> 26) - TABLE_START) as usize]);
        for _ in 0..2 {
            let square = (y * y) >> ONE;
            let product = ((m * square) >> 32).min(3 << ONE);
            y = ((y * ((3 << ONE) - product)) >> (ONE + 1)).min(1 << (ONE + 1));
        }
        (y << GUARD) >> down
    }

    /// What the result is shifted to the left by before shifts are undone.
    pub fn guard(&self) -> u32 {
        GUARD
    }
}

/// `2^30 / sqrt(x)` in the middle of each 64th of the numbers `x` from 1/4 to 1.
pub fn table() -> Vec<u32> {
    let middle = |i: u64| (i as f64 + 0.5) / 64.0;
    (TABLE_START..64).map(|i| (f64::from(1u32 << ONE) / middle(i).sqrt()).round() as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_precise_over_the_whole_range() {
        for bits in 1..63 {
            let most = (1u64 << bits) - 1;
            let root = ReciprocalRoot::new(most);
            assert!(root.up % 2 == 0 && root.steps.iter().all(|step| step % 2 == 0 && *step > 0), "{root:?}");
            // Below this, numbers are taken for larger ones.
            let least = if root.up >= 30 { 1 } else { 1u64 << (30 - root.up) };
            let mut w = least;
            while w <= most {
                for w in [w, w + w / 3, (2 * w - 1).min(most)].into_iter().filter(|&w| w <= most) {
                    let exact = 2f64.powi(root.fraction() as i32) / (w as f64).sqrt();
                    let error = (root.apply(w) as f64 - exact).abs();
                    assert!(error <= exact * 2f64.powi(-17) + 1.0, "{w} of {most}: {exact} {}", root.apply(w));
                    assert!(root.apply(w) <= root.most());
                }
                w *= 2;
            }
            assert!(root.apply(0) <= root.most());
        }
    }
}
