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
