//! Sets of integers between two bounds.

/// All integers from `lo` to `hi`, both included; never empty. 128 bits, so that no bound computation overflows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// Smallest value.
    pub lo: i128,
    /// Largest value.
    pub hi: i128,
}

impl Interval {
    /// The interval from `lo` to `hi`.
    pub fn new(lo: impl Into<i128>, hi: impl Into<i128>) -> Interval {
        let (lo, hi) = (lo.into(), hi.into());
        assert!(lo <= hi, "an interval is never empty: {lo}..={hi}");
        Interval { lo, hi }
    }

    /// A single value.
    pub fn point(value: impl Into<i128>) -> Interval {
        let value = value.into();
        Interval { lo: value, hi: value }
    }

    /// Whether every value of `other` is in `self`.
    pub fn contains(self, other: Interval) -> bool {
        self.lo <= other.lo && other.hi <= self.hi
    }

    /// The smallest interval that contains both.
    pub fn hull(self, other: Interval) -> Interval {
        Interval { lo: self.lo.min(other.lo), hi: self.hi.max(other.hi) }
    }
}
