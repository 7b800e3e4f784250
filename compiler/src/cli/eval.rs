//! `ptqc eval`.

use std::path::PathBuf;
use std::sync::Mutex;

use clap::Args;
use serde::Serialize;

use super::data::read_labels;
use super::source::{ModelArgs, PrecisionArgs, PreprocessArgs, Progress, RangesArgs, Source, open_samples, problem};
use crate::diag::{self, Code, Diagnostic, list_names};
use crate::driver;
use crate::evaluate::{dequantize, evaluate, quantize_input};
use crate::ir::{Checked, Graph, Quant};
use crate::metrics::{self, Metric, Results};

/// Compare the accuracy of the float and the integer model.
#[derive(Debug, Args)]
pub struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    ranges: RangesArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    /// Samples to evaluate: a .npy, a .npz (arrays by input name), or a folder of them
    #[arg(long, value_name = "X")]
    data: PathBuf,
    /// One integer for each sample, as .npy; without it only agreement and differences are measured
    #[arg(long, value_name = "Y")]
    labels: Option<PathBuf>,
    /// What to measure
    #[arg(long, value_enum, default_value = "top1")]
    metric: Metric,
    /// The output element that --metric auc ranks by
    #[arg(long, value_name = "K", default_value_t = 1)]
    score: usize,
    /// The model's output that is evaluated
    #[arg(long, value_name = "I", default_value_t = 0)]
    output_index: usize,
    /// Calibration samples and evaluation samples are stored alike: convert both. Without it, only --data is converted
    #[arg(long)]
    convert_calib: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// The result, as it is printed with --json. Fields may be added; none changes its meaning.
#[derive(Debug, Serialize)]
struct Evaluation {
    /// File name of the model.
    model: String,
    /// Number of samples.
    samples: usize,
    /// What `float` and `integer` measure.
    metric: String,
    /// The metric of the float model; absent without labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    float: Option<f64>,
    /// The metric of the integer model; absent without labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    integer: Option<f64>,
    /// Share of samples in which both models have the largest output at the same position.
    agreement: f64,
    /// Root of the mean squared difference of the outputs, divided by the root mean square of the float outputs.
    relative_rmse: f64,
    /// `confusion[label][largest output]` of the integer model; absent without labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    confusion: Option<Vec<Vec<usize>>>,
}

/// What both models made of all samples.
struct Outputs {
    inputs: Vec<Vec<f32>>,
    float: Vec<Vec<f32>>,
    integer: Vec<Vec<f32>>,
}

/// Runs the command.
pub fn run(args: &EvalArgs) -> diag::Result<()> {
    let source = args.model.load()?;
    let preprocess = args.preprocess.preprocess();
    let calib_preprocess = if args.convert_calib { preprocess.clone() } else { Default::default() };
    let ranges = args.ranges.load(&source, &calib_preprocess)?;
    let in_model = |problems: diag::Diagnostics| problems.in_file(args.model.model.display());
    let (graph, warnings) =
        driver::quantize(&source.frontend, &ranges, &args.precision.settings()?).map_err(in_model)?;
    super::warn(&in_model(warnings));
    let labels = args.labels.as_deref().map(read_labels).transpose()?;
    check_options(args, &graph)?;
    let outputs = run_both(args, &source, &graph)?;
    if let (Some(labels), Some(path)) = (&labels, &args.labels) {
        let (samples, classes) = (outputs.float.len(), outputs.float.first().map_or(0, Vec::len));
        metrics::check_labels(args.metric, labels, samples, classes)
            .map_err(|problems| problems.in_file(path.display()))?;
    }
    let evaluation = evaluation(args, &source, labels.as_deref(), &outputs);
    let text = match args.json {
        true => {
            serde_json::to_string_pretty(&evaluation).map_err(|error| problem(Code::Internal, error.to_string()))?
        }
        false => evaluation.table(),
    };
    super::say(&text)
}

fn run_both(args: &EvalArgs, source: &Source, graph: &Checked<Graph<Quant>>) -> diag::Result<Outputs> {
    let samples = open_samples(&source.frontend.model, &args.data, &args.preprocess.preprocess())?;
    let runner = source.frontend.model.runner()?;
    let progress = Progress::new("evaluating", samples.len() as u64);
    let queue = Mutex::new(samples.samples().enumerate());
    let output = graph.outputs()[args.output_index].node;
    let thread = || -> diag::Result<Vec<(usize, [Vec<f32>; 3])>> {
        let mut state = runner.state()?;
        let mut results = vec![];
        loop {
            let next = queue.lock().map_err(|_| Diagnostic::internal("an evaluation thread died"))?.next();
            let Some((index, sample)) = next else { return Ok(results) };
            let mut sample = sample?;
            let float = state.run(&sample)?.swap_remove(args.output_index);
            let inputs: Vec<_> =
                graph.inputs().iter().zip(&sample).map(|(&id, values)| quantize_input(graph, id, values)).collect();
            let integer = dequantize(graph, output, &evaluate(graph, &inputs)[args.output_index]);
            results.push((index, [sample.swap_remove(0), float, integer]));
            progress.tick();
        }
    };
    let mut results = vec![];
    for part in rayon::broadcast(|_| thread()) {
        results.extend(part?);
    }
    progress.finish();
    results.sort_by_key(|(index, _)| *index);
    let mut outputs = Outputs { inputs: vec![], float: vec![], integer: vec![] };
    for (_, [input, float, integer]) in results {
        outputs.inputs.push(input);
        outputs.float.push(float);
        outputs.integer.push(integer);
    }
    Ok(outputs)
}

/// Whether the options fit the model, before anything is computed.
fn check_options(args: &EvalArgs, graph: &Graph<Quant>) -> diag::Result<()> {
    if graph.outputs().get(args.output_index).is_none() {
        let names: Vec<&str> = graph.outputs().iter().map(|output| output.name.as_str()).collect();
        let message = format!("--output-index {} names no output of the model", args.output_index);
        let note = format!("outputs, counted from 0: {}", list_names(&names, 8));
        return Err(Diagnostic::error(Code::InvalidOption, message)
            .note(note)
            .help("leave it out to evaluate the first")
            .into());
    }
    metrics::check_output(args.metric, args.score, graph, args.output_index)
}

fn evaluation(args: &EvalArgs, source: &Source, labels: Option<&[i64]>, outputs: &Outputs) -> Evaluation {
    let width = outputs.float.first().map_or(0, Vec::len);
    let metric = |results: &[Vec<f32>], labels: &[i64]| {
        let results = Results { inputs: &outputs.inputs, outputs: results };
        metrics::measure(args.metric, args.score, results, labels)
    };
    let with_confusion = args.metric == Metric::Top1 && width > 1;
    Evaluation {
        model: source.file_name.clone(),
        samples: outputs.float.len(),
        metric: match args.metric {
            Metric::Top1 => "top-1".to_owned(),
            Metric::Auc => format!("AUC of output {}", args.score),
            Metric::ReconstructionAuc => "AUC of the reconstruction error".to_owned(),
        },
        float: labels.map(|labels| metric(&outputs.float, labels)),
        integer: labels.map(|labels| metric(&outputs.integer, labels)),
        agreement: metrics::agreement(&outputs.float, &outputs.integer),
        relative_rmse: metrics::relative_rmse(&outputs.float, &outputs.integer),
        confusion: labels.filter(|_| with_confusion).map(|labels| metrics::confusion(&outputs.integer, labels)),
    }
}

impl Evaluation {
    fn table(&self) -> String {
        let mut text = format!("{}, {} samples\n", self.model, self.samples);
        if let (Some(float), Some(integer)) = (self.float, self.integer) {
            text += &format!(
                "  {:<32} float {float:.4}   integer {integer:.4}   ({:+.2} points)\n",
                self.metric,
                (integer - float) * 100.0
            );
        }
        text += &format!("  {:<32} {:.4}\n", "same largest output", self.agreement);
        text += &format!("  {:<32} {:.4}\n", "relative RMSE of the output", self.relative_rmse);
        if let Some(confusion) = &self.confusion {
            text += "  integer model, rows: label, columns: largest output\n";
            let width = confusion.iter().flatten().max().map_or(1, |max| max.to_string().len()) + 1;
            for (label, row) in confusion.iter().enumerate() {
                let cells: String = row.iter().map(|count| format!("{count:>width$}")).collect();
                text += &format!("  {label:>4} |{cells}\n");
            }
        }
        text
    }
}
