//! What quantization does to a model, measured tensor by tensor: the reference evaluator beside the float model.
//!
//! Everything is computed on the integers that the emitted code computes. Samples are independent of each other and are
//! summed in their order, so a result does not depend on the number of threads.

mod advice;
mod histogram;
mod reference;
mod shares;
mod tensor;

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

pub use advice::{Advice, Cause};
pub use histogram::Histogram;
pub use tensor::TensorReport;

use crate::diag;
use crate::driver::{Frontend, Sample};
use crate::evaluate::{evaluate_all, quantize_input};
use crate::front::FloatRunner;
use crate::ir::{Checked, Graph, NodeId, Quant};
use reference::References;
use tensor::Sums;

/// Samples that are evaluated before their sums are added up.
const CHUNK: usize = 32;

/// Samples for which the shares of the final error are measured: each takes half an inference for every layer.
const SHARE_SAMPLES: usize = 16;

/// What quantization does to a model.
#[derive(Debug, Clone, Serialize)]
pub struct Analysis {
    /// Number of samples.
    pub samples: usize,
    /// Root mean square error of all outputs, relative to the root mean square of the float outputs.
    pub relative_rmse: f64,
    /// Every tensor that the float model has too, in the order of computation.
    pub tensors: Vec<TensorReport>,
    /// What would help most, the best first.
    pub advice: Vec<Advice>,
}

/// Compares the quantized graph with the float model over samples.
///
/// Errors: samples that the float model refuses.
pub fn analyze(frontend: &Frontend, graph: &Checked<Graph<Quant>>, samples: &[Sample]) -> diag::Result<Analysis> {
    let runner = frontend.model.tapped_runner()?;
    let study = Study { graph, references: References::new(graph, runner.names()), order: graph.topological() };
    let mut sums = study.empty();
    for (index, chunk) in samples.chunks(CHUNK).enumerate() {
        let first = index * CHUNK;
        let results: Vec<diag::Result<SampleSums>> = chunk
            .par_iter()
            .enumerate()
            .map(|(at, sample)| study.sample(&runner, sample, first + at < SHARE_SAMPLES))
            .collect();
        for result in results {
            sums.add(&result?);
        }
    }
    Ok(study.finish(samples.len(), &sums))
}

/// What stays the same from sample to sample.
struct Study<'a> {
    graph: &'a Checked<Graph<Quant>>,
    references: References,
    order: Vec<NodeId>,
}

/// What has been summed over samples.
struct SampleSums {
    tensors: BTreeMap<NodeId, Sums>,
    /// For each node, the error of the outputs that comes from it.
    contributions: Vec<f64>,
    /// Squared errors and squares of the float outputs.
    output: (f64, f64),
}

impl SampleSums {
    fn add(&mut self, other: &SampleSums) {
        for (id, sums) in &mut self.tensors {
            sums.add(&other.tensors[id]);
        }
        for (mine, theirs) in self.contributions.iter_mut().zip(&other.contributions) {
            *mine += theirs;
        }
        self.output.0 += other.output.0;
        self.output.1 += other.output.1;
    }
}

impl Study<'_> {
    fn empty(&self) -> SampleSums {
        let observed = self.order.iter().copied().filter(|&id| self.references.has(id));
        let tensors = observed.map(|id| (id, Sums::new(&self.graph.node(id).value))).collect();
        SampleSums { tensors, contributions: vec![0.0; self.order.len()], output: (0.0, 0.0) }
    }

    fn sample(&self, runner: &FloatRunner, sample: &Sample, with_shares: bool) -> diag::Result<SampleSums> {
        let floats = runner.state()?.run(sample)?;
        let inputs = self.graph.inputs().iter().zip(sample);
        let inputs: Vec<Vec<i32>> = inputs.map(|(&id, values)| quantize_input(self.graph, id, values)).collect();
        let values = evaluate_all(self.graph, &inputs);
        let exact = self.references.quantized(self.graph, &floats, &inputs);
        let mut sums = self.empty();
        for (&id, tensor) in &mut sums.tensors {
            if let Some(reals) = self.references.reals(id, &floats) {
                let own = self.references.alone(self.graph, id, &exact);
                tensor.observe(&reals, &values[&id], &own);
            }
        }
        for output in self.graph.outputs() {
            if let Some(reals) = self.references.reals(output.node, &floats) {
                let (error, square) = shares::error(self.graph, output.node, &values[&output.node], &reals);
                sums.output.0 += error;
                sums.output.1 += square;
            }
        }
        if with_shares {
            let shares = shares::Shares { graph: self.graph, references: &self.references, order: &self.order };
            sums.contributions = shares.measure(&floats, &exact);
        }
        Ok(sums)
    }

    fn finish(&self, samples: usize, sums: &SampleSums) -> Analysis {
        let shares = shares::shares(&self.references, &self.order, &sums.contributions);
        let tensors: Vec<TensorReport> = self
            .order
            .iter()
            .filter_map(|id| {
                Some(sums.tensors.get(id)?.report(self.graph, *id, shares.get(id).copied().unwrap_or(0.0)))
            })
            .collect();
        let (error, square) = sums.output;
        let relative_rmse = if square == 0.0 { error.sqrt() } else { (error / square).sqrt() };
        Analysis { samples, relative_rmse, advice: advice::advise(&tensors), tensors }
    }
}
