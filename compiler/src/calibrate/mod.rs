//! Calibration: watches the activations of the float model and derives a range for each tensor.
//!
//! One pass over the samples, in memory that does not depend on their number. The result does not depend
//! on the order of the samples or on how they were divided among threads. Deliberately absent: running
//! the model, reading samples, and any decision about scales and zero points.

mod elements;
mod histogram;
mod method;
mod ranges;

pub use histogram::{Histogram, NotFinite};
pub use method::{Method, range};
pub use ranges::{Entry, Observed, Origin, Ranges};

use crate::diag::{Code, Diagnostic, Diagnostics, Result};
use elements::Elements;

/// Collects what the tensors of one model do. Each thread fills its own; they are merged at the end.
#[derive(Debug, Clone)]
pub struct Calibrator {
    tensors: Vec<Tensor>,
}

#[derive(Debug, Clone)]
struct Tensor {
    name: String,
    histogram: Histogram,
    elements: Option<Elements>,
}

impl Calibrator {
    /// A calibrator for the tensors of these names. Their positions are the indices of [`Self::observe`].
    pub fn new<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Calibrator {
        let tensors =
            names.into_iter().map(|name| Tensor { name: name.into(), histogram: Histogram::new(), elements: None });
        Calibrator { tensors: tensors.collect() }
    }

    /// The same, with an eye on the single elements of the tensors `watched`. That takes memory like one sample of them,
    /// which the inputs of a model are worth: no layer before them could bring their elements to one scale.
    pub fn watching<S: AsRef<str>>(mut self, watched: impl IntoIterator<Item = S>) -> Calibrator {
        for name in watched {
            for tensor in self.tensors.iter_mut().filter(|tensor| tensor.name == name.as_ref()) {
                tensor.elements = Some(Elements::default());
            }
        }
        self
    }

    /// Adds the values that a tensor takes in one sample. NaN and infinity are refused.
    pub fn observe(&mut self, index: usize, values: &[f32]) -> Result<()> {
        let Some(Tensor { name, histogram, elements }) = self.tensors.get_mut(index) else {
            return Err(Diagnostic::internal(format!("no tensor with index {index} is calibrated")).into());
        };
        histogram.observe(values).map_err(|found| not_finite(name, &found))?;
        if let Some(elements) = elements {
            elements.observe(values);
        }
        Ok(())
    }

    /// Adds everything that `other` has seen. Both must be for the same tensors.
    pub fn merge(&mut self, other: &Calibrator) {
        assert!(self.names().eq(other.names()), "only calibrators of the same tensors are merged");
        for (mine, theirs) in self.tensors.iter_mut().zip(&other.tensors) {
            mine.histogram.merge(&theirs.histogram);
            if let (Some(mine), Some(theirs)) = (&mut mine.elements, &theirs.elements) {
                mine.merge(theirs);
            }
        }
    }

    /// The names in the order of their indices.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|tensor| tensor.name.as_str())
    }

    /// What was seen of one tensor.
    pub fn histogram(&self, index: usize) -> Option<&Histogram> {
        self.tensors.get(index).map(|tensor| &tensor.histogram)
    }

    /// The range of every tensor by `method`. Can be called again with another method.
    pub fn finish(&self, method: Method, origin: Origin) -> Result<Ranges> {
        let mut ranges = Ranges::with_origin(origin);
        let mut problems = Diagnostics::new();
        for tensor in &self.tensors {
            let name = &tensor.name;
            match entry(tensor, method) {
                Some(entry) => ranges.insert(name.clone(), entry),
                None => problems.push(never_observed(name)),
            }
        }
        problems.into_result(ranges)
    }
}

fn entry(tensor: &Tensor, method: Method) -> Option<Entry> {
    let histogram = &tensor.histogram;
    let spread = tensor.elements.as_ref().and_then(Elements::spread);
    let observed = Observed::new(histogram.min()?, histogram.max()?).map(|observed| observed.with_spread(spread));
    Some(Entry { range: range(histogram, method)?, observed })
}

fn not_finite(name: &str, found: &NotFinite) -> Diagnostic {
    let message = format!("the float model computes {} at flat position {}", found.value, found.position);
    Diagnostic::error(Code::NonFinite, message)
        .tensor(name)
        .note("a range that contains NaN or infinity cannot be divided into steps")
        .help("check that the samples are preprocessed as in training, and that the float model handles them")
}

fn never_observed(name: &str) -> Diagnostic {
    Diagnostic::error(Code::CalibrationEmpty, "the tensor took no value in any sample").tensor(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin { method: Method::MinMax, ..Origin::default() }
    }

    #[test]
    fn threads_give_the_same_ranges_as_one_pass() {
        let samples: Vec<Vec<f32>> =
            (0..20).map(|i| (0..50).map(|j| ((i * j) as f32 - 300.0) * 0.37).collect()).collect();
        let mut whole = Calibrator::new(["a"]);
        let mut parts = [Calibrator::new(["a"]), Calibrator::new(["a"])];
        for (i, sample) in samples.iter().enumerate() {
            whole.observe(0, sample).unwrap();
            parts[i % 2].observe(0, sample).unwrap();
        }
        let [mut merged, other] = parts;
        merged.merge(&other);
        for method in [Method::MinMax, Method::Percentile(99.0), Method::Mse] {
            assert_eq!(merged.finish(method, origin()), whole.finish(method, origin()));
        }
    }

    #[test]
    fn not_a_number_is_reported_with_its_tensor() {
        let mut calibrator = Calibrator::new(["a", "b"]);
        let problems = calibrator.observe(1, &[0.0, f32::NAN]).unwrap_err();
        let problem = problems.iter().next().unwrap();
        assert_eq!((problem.code, problem.location.tensor.as_deref()), (Code::NonFinite, Some("b")));
    }

    #[test]
    fn every_tensor_without_values_is_named() {
        let mut calibrator = Calibrator::new(["a", "b", "c"]);
        calibrator.observe(1, &[1.0]).unwrap();
        assert_eq!(calibrator.finish(Method::Mse, origin()).unwrap_err().len(), 2);
        assert!(calibrator.observe(3, &[1.0]).unwrap_err().has_bugs());
    }
}
