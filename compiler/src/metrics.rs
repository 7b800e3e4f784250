//! Figures that compare outputs with labels and with each other.

use clap::ValueEnum;

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
        Metric::Auc => {
            auc(&results.outputs.iter().map(|output| f64::from(output[score])).collect::<Vec<_>>(), labels)
        }
        Metric::ReconstructionAuc => {
            let pairs = results.inputs.iter().zip(results.outputs);
            auc(&pairs.map(|(input, output)| reconstruction_error(input, output)).collect::<Vec<_>>(), labels)
        }
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
