//! Figures that compare outputs with labels and with each other.

use clap::ValueEnum;

use crate::diag::{self, Code, Diagnostic};
use crate::ir::{Graph, Quant};

/// What `ptqc eval` and `ptqc search` measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Metric {
    /// Share of samples whose largest output is the label
    Top1,
    /// Area under the ROC curve of one output (--score); labels are 1, 0, or negative to leave a sample out
    Auc,
    /// Area under the ROC curve of the squared difference between output and input (autoencoders)
    ReconstructionAuc,
}

/// What a metric is computed from: the first input of each sample and the output.
#[derive(Debug, Clone, Copy)]
pub struct Results<'a> {
    /// Inputs; the reconstruction error needs them.
    pub inputs: &'a [Vec<f32>],
    /// Outputs.
    pub outputs: &'a [Vec<f32>],
}

/// The metric of a model's outputs. `score` is the output element that the area under the curve ranks by.
pub fn measure(metric: Metric, score: usize, results: Results, labels: &[i64]) -> f64 {
    match metric {
        Metric::Top1 => top1(results.outputs, labels),
        Metric::Auc => auc(&results.outputs.iter().map(|output| f64::from(output[score])).collect::<Vec<_>>(), labels),
        Metric::ReconstructionAuc => {
            let pairs = results.inputs.iter().zip(results.outputs);
            auc(&pairs.map(|(input, output)| reconstruction_error(input, output)).collect::<Vec<_>>(), labels)
        }
    }
}

/// Whether a model's output has what the metric needs.
///
/// Errors: a score that is no element of the output; an output that cannot be compared with the input.
pub fn check_output(metric: Metric, score: usize, graph: &Graph<Quant>, output_index: usize) -> diag::Result<()> {
    let elements = |id| graph.node(id).value.shape.len();
    let output = &graph.outputs()[output_index];
    let (width, first_input) = (elements(output.node), graph.inputs().first().map_or(0, |&id| elements(id)));
    match metric {
        Metric::Auc if score >= width => {
            let message = format!("--score {score} names no element of output `{}`, which has {width}", output.name);
            Err(Diagnostic::error(Code::InvalidOption, message)
                .help(format!("elements are counted from 0: --score {}", width - 1))
                .into())
        }
        Metric::ReconstructionAuc if width != first_input => {
            let message = format!("output `{}` has {width} elements and the input {first_input}", output.name);
            Err(Diagnostic::error(Code::InvalidOption, message)
                .help("--metric reconstruction-auc is for models whose output has the shape of their input; use top1 or auc")
                .into())
        }
        Metric::Top1 | Metric::Auc | Metric::ReconstructionAuc => Ok(()),
    }
}

/// Whether the labels say what the metric needs.
///
/// Errors: not one for each of `samples`; classes that an output of `classes` elements does not have; one kind only.
pub fn check_labels(metric: Metric, labels: &[i64], samples: usize, classes: usize) -> diag::Result<()> {
    if labels.len() != samples {
        let message = format!("there are {} labels for {samples} samples", labels.len());
        return Err(Diagnostic::error(Code::Labels, message)
            .help("give one label for each sample, in the same order")
            .into());
    }
    let classes = classes as i64;
    let outside = labels.iter().position(|label| !(0..classes).contains(label));
    match (metric, outside) {
        (Metric::Top1, Some(position)) => {
            let message = format!(
                "label {} at position {position} names no element of an output with {classes}",
                labels[position]
            );
            let help = "labels are the numbers of the classes, counted from 0; for 1, 0 and negative use --metric auc";
            Err(Diagnostic::error(Code::Labels, message).help(help).into())
        }
        (Metric::Auc | Metric::ReconstructionAuc, _) if !labels.contains(&0) || !labels.contains(&1) => {
            let message = "this metric compares samples labelled 1 with samples labelled 0, and one kind is missing";
            Err(Diagnostic::error(Code::Labels, message)
                .help("label every sample 1 or 0, or negative to leave it out")
                .into())
        }
        (Metric::Top1 | Metric::Auc | Metric::ReconstructionAuc, _) => Ok(()),
    }
}

/// Position of the largest value, the first of several.
pub fn arg_max(values: &[f32]) -> usize {
    (1..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

/// Share of samples whose largest output is the label.
pub fn top1(outputs: &[Vec<f32>], labels: &[i64]) -> f64 {
    let right = outputs.iter().zip(labels).filter(|(output, label)| arg_max(output) as i64 == **label).count();
    right as f64 / labels.len().max(1) as f64
}

/// Area under the ROC curve: the chance that a sample labelled 1 scores higher than one labelled 0 (ties count half).
pub fn auc(scores: &[f64], labels: &[i64]) -> f64 {
    let of =
        |wanted: i64| scores.iter().zip(labels).filter(move |(_, label)| **label == wanted).map(|(score, _)| *score);
    let (positive, negative): (Vec<f64>, Vec<f64>) = (of(1).collect(), of(0).collect());
    let mut negative_sorted = negative.clone();
    negative_sorted.sort_by(f64::total_cmp);
    let wins: f64 = positive
        .iter()
        .map(|score| {
            let below = negative_sorted.partition_point(|other| other < score);
            let not_above = negative_sorted.partition_point(|other| other <= score);
            (below + not_above) as f64 / 2.0
        })
        .sum();
    wins / (positive.len() * negative.len()).max(1) as f64
}

/// Share of samples in which both have the largest output at the same position.
pub fn agreement(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let same = a.iter().zip(b).filter(|(a, b)| arg_max(a) == arg_max(b)).count();
    same as f64 / a.len().max(1) as f64
}

/// Root mean square difference of `b` from `a`, relative to the root mean square of `a`.
pub fn relative_rmse(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let pairs = || a.iter().flatten().zip(b.iter().flatten()).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let error: f64 = pairs().map(|(a, b)| (a - b) * (a - b)).sum();
    let power: f64 = pairs().map(|(a, _)| a * a).sum();
    if power == 0.0 { error.sqrt() } else { (error / power).sqrt() }
}

/// Mean squared difference of an output from its input.
pub fn reconstruction_error(input: &[f32], output: &[f32]) -> f64 {
    let squares = input.iter().zip(output).map(|(a, b)| f64::from(a - b) * f64::from(a - b));
    squares.sum::<f64>() / input.len().max(1) as f64
}

/// `counts[label][prediction]`.
pub fn confusion(outputs: &[Vec<f32>], labels: &[i64]) -> Vec<Vec<usize>> {
    let classes = outputs.first().map_or(0, Vec::len);
    let mut counts = vec![vec![0; classes]; classes];
    for (output, &label) in outputs.iter().zip(labels) {
        if let Some(row) = usize::try_from(label).ok().and_then(|label| counts.get_mut(label)) {
            row[arg_max(output)] += 1;
        }
    }
    counts
}
