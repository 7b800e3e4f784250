//! How good a quantized graph is, by the reference evaluator.

use std::cmp::Ordering;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::diag;
use crate::driver::{Frontend, Sample};
use crate::evaluate::{dequantize, evaluate, quantize_input};
use crate::ir::{Checked, Graph, Quant};
use crate::metrics::{self, Metric, Results};

/// What the samples say about the outputs.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a> {
    /// One for each sample.
    pub labels: &'a [i64],
    /// What is measured.
    pub metric: Metric,
    /// The output element that the area under the curve ranks by.
    pub score: usize,
}

/// How good a graph is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The metric, larger is better; absent without labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<f64>,
    /// Root of the mean squared difference from the float outputs, relative to their root mean square.
    pub relative_rmse: f64,
}

impl Score {
    /// The better first.
    pub fn order(&self, other: &Score) -> Ordering {
        let by_metric = other.metric.unwrap_or(0.0).total_cmp(&self.metric.unwrap_or(0.0));
        by_metric.then(self.relative_rmse.total_cmp(&other.relative_rmse))
    }

    /// Loss against another score, in hundredths of the metric.
    pub fn drop(&self, from: &Score) -> f64 {
        100.0 * (from.metric.unwrap_or(0.0) - self.metric.unwrap_or(0.0))
    }
}

/// The samples, with what the float model makes of them.
pub struct Judge<'a> {
    samples: &'a [Sample],
    labels: Option<Labels<'a>>,
    inputs: Vec<Vec<f32>>,
    floats: Vec<Vec<f32>>,
}

impl<'a> Judge<'a> {
    /// Runs the float model over the samples; its first output counts.
    pub fn new(frontend: &Frontend, samples: &'a [Sample], labels: Option<Labels<'a>>) -> diag::Result<Judge<'a>> {
        let runner = frontend.model.runner()?;
        let run = |sample: &Sample| Ok(runner.state()?.run(sample)?.swap_remove(0));
        let floats = samples.par_iter().map(run).collect::<diag::Result<_>>()?;
        let inputs = samples.iter().map(|sample| sample[0].clone()).collect();
        Ok(Judge { samples, labels, inputs, floats })
    }

    /// The float model's own score.
    pub fn float(&self) -> Score {
        Score { metric: self.metric(&self.floats), relative_rmse: 0.0 }
    }

    /// Evaluates a graph on the first `count` samples.
    pub fn score(&self, graph: &Checked<Graph<Quant>>, count: usize) -> diag::Result<Score> {
        let output = graph.outputs()[0].node;
        let run = |sample: &Sample| {
            let inputs = graph.inputs().iter().zip(sample);
            let inputs: Vec<Vec<i32>> = inputs.map(|(&id, values)| quantize_input(graph, id, values)).collect();
            dequantize(graph, output, &evaluate(graph, &inputs)[0])
        };
        let outputs: Vec<Vec<f32>> = self.samples[..count.min(self.samples.len())].par_iter().map(run).collect();
        let relative_rmse = metrics::relative_rmse(&self.floats[..outputs.len()], &outputs);
        Ok(Score { metric: self.metric(&outputs), relative_rmse })
    }

    fn metric(&self, outputs: &[Vec<f32>]) -> Option<f64> {
        let Labels { labels, metric, score } = self.labels?;
        let results = Results { inputs: &self.inputs[..outputs.len()], outputs };
        Some(metrics::measure(metric, score, results, &labels[..outputs.len()]))
    }
}

/// Bytes of all weights.
pub fn weight_bytes(graph: &Graph<Quant>) -> u64 {
    let weighted = |id| graph.node(id).op.weighted();
    let bytes = graph.topological().into_iter().filter_map(weighted);
    bytes.map(|weighted| weighted.weight_type.bytes(weighted.weights.len()) as u64).sum()
}
