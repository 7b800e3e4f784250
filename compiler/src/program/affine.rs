//! Indices: linear functions of loop variables.

use std::collections::BTreeMap;
use std::ops::{Add, Mul};

/// A loop variable: an index into `Function::vars`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Var(pub usize);

/// `constant + sum of coefficient * variable`; no term has coefficient zero.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Affine {
    /// The part without a variable.
    pub constant: i64,
    /// Coefficients, in the order of the variables' creation.
    pub terms: BTreeMap<Var, i64>,
}

impl Affine {
    /// Whether the value is a multiple of `divisor`, whatever the variables are.
    pub fn is_multiple_of(&self, divisor: i64) -> bool {
        self.constant % divisor == 0 && self.terms.values().all(|coefficient| coefficient % divisor == 0)
    }

    /// Half of the value rounded down, and whether the value is odd; `None` if that depends on the variables.
    pub fn halved(&self) -> Option<(Affine, bool)> {
        let odd = self.constant.rem_euclid(2);
        let even = self.clone() + -odd;
        let half = |(&var, &coefficient): (&Var, &i64)| (var, coefficient / 2);
        even.is_multiple_of(2)
            .then(|| (Affine { constant: even.constant / 2, terms: even.terms.iter().map(half).collect() }, odd == 1))
    }
}

impl From<i64> for Affine {
    fn from(constant: i64) -> Self {
        Affine { constant, terms: BTreeMap::new() }
    }
}

impl From<Var> for Affine {
    fn from(var: Var) -> Self {
        Affine { constant: 0, terms: BTreeMap::from([(var, 1)]) }
    }
}

impl<T: Into<Affine>> Add<T> for Affine {
    type Output = Affine;

    fn add(mut self, other: T) -> Affine {
        let other = other.into();
        self.constant += other.constant;
        for (var, coefficient) in other.terms {
            let sum = self.terms.remove(&var).unwrap_or(0) + coefficient;
            if sum != 0 {
                self.terms.insert(var, sum);
            }
        }
        self
    }
}

impl Mul<i64> for Affine {
    type Output = Affine;

    fn mul(mut self, factor: i64) -> Affine {
        if factor == 0 {
            return Affine::default();
        }
        self.constant *= factor;
        self.terms.values_mut().for_each(|coefficient| *coefficient *= factor);
        self
    }
}

impl Mul<i64> for Var {
    type Output = Affine;

    fn mul(self, factor: i64) -> Affine {
        Affine::from(self) * factor
    }
}

impl<T: Into<Affine>> Add<T> for Var {
    type Output = Affine;

    fn add(self, other: T) -> Affine {
        Affine::from(self) + other
    }
}
