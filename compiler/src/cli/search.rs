//! `ptqc search`.

use std::path::PathBuf;

use clap::Args;
use ptqc_codegen_templates::page::Figure;
use serde::Serialize;

use super::code::CodeArgs;
use super::data::read_labels;
use super::output;
use super::source::{ModelArgs, PreprocessArgs, Progress, RangesArgs, Source, open_samples, problem};
use crate::analyze;
use crate::diag::{self, Code, Diagnostic, Diagnostics};
use crate::driver::{self, Options, Sample};
use crate::ir::{Graph, Quant};
use crate::metrics::{self, Metric};
use crate::page;
use crate::quantize::{PrecisionRecipe, Settings};
use crate::search::{Budget, Labels, Point, Score, Search, choose};

/// Choose the precision of each layer under a budget of flash, RAM and accuracy.
#[derive(Debug, Args)]
pub struct SearchArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    ranges: RangesArgs,
    /// Samples to evaluate on [default: those of --calib]
    #[arg(long, value_name = "X")]
    data: Option<PathBuf>,
    /// One integer for each sample, as .npy; without it the error of the outputs is what counts
    #[arg(long, value_name = "Y")]
    labels: Option<PathBuf>,
    /// What to measure
    #[arg(long, value_enum, default_value = "top1")]
    metric: Metric,
    /// The output element that --metric auc ranks by
    #[arg(long, value_name = "K", default_value_t = 1)]
    score: usize,
    /// Number of samples that are evaluated, at most
    #[arg(long, value_name = "N", default_value_t = 512)]
    samples: usize,
    /// Flash for code and constants, in bytes; `k` is 1024
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_flash: Option<u64>,
    /// RAM for working memory and stack, in bytes; `k` is 1024
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_ram: Option<u64>,
    /// Loss of the metric against the float model, in points (hundredths); needs --labels
    #[arg(long, value_name = "POINTS", requires = "labels")]
    max_drop: Option<f64>,
    /// Relative RMSE of the outputs
    #[arg(long, value_name = "E")]
    max_error: Option<f64>,
    /// The recipe to write [default: MODEL.recipe.toml, in this folder]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// All combinations as JSON, each with its recipe [default: MODEL.front.json, in this folder]
    #[arg(long, value_name = "FILE")]
    front: Option<PathBuf>,
    /// Write a page with pictures, the Pareto front among them: one self-contained HTML file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Overwrite files that ptqc did not make
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    code: CodeArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// Samples that the page of the choice is measured on, at most.
const SHOWN: usize = 64;

/// How to read the picture of the front.
const CAPTION: &str = "Every combination that was evaluated: flash against error of the outputs. Filled: no other is better \
    in one respect and worse in none. Ringed: the one that this page shows.";

/// The front as a file. Fields may be added; none changes its meaning.
#[derive(Debug, Serialize)]
struct Front<'a> {
    /// Name and version of the tool.
    generator: String,
    /// File name of the model.
    model: &'a str,
    /// Target.
    target: &'a str,
    /// Number of samples.
    samples: usize,
    /// The float model.
    float: Score,
    /// All combinations that were evaluated, the most accurate first.
    points: &'a [Point],
}

/// Runs the command.
pub fn run(args: &SearchArgs) -> diag::Result<()> {
    let recipe = args.code.recipe(&args.model, &args.ranges)?;
    let source = args.model.load()?;
    let preprocess = args.preprocess.preprocess();
    let ranges = args.ranges.load(&source, &preprocess)?;
    let data = args.data.as_ref().or(args.ranges.calib.as_ref()).ok_or_else(no_samples)?;
    let in_model = |problems: Diagnostics| problems.in_file(args.model.model.display());
    let options = recipe.options(&source);
    let (graph, _) = driver::quantize(&source.frontend, &ranges, &options.settings).map_err(in_model)?;
    let samples = open_samples(&source.frontend.model, data, &preprocess)?;
    let labels = labels(args, &graph, samples.len())?;
    let samples: Vec<Sample> = samples.samples().take(args.samples.max(1)).collect::<diag::Result<_>>()?;
    let progress = Progress::new("searching", 0);
    let tick = |_, planned| progress.tick_of(planned);
    let labels = labels.as_ref().map(|labels| Labels {
        labels: &labels[..samples.len()],
        metric: args.metric,
        score: args.score,
    });
    let search = Search {
        frontend: &source.frontend,
        ranges: &ranges,
        options: &options,
        samples: &samples,
        labels,
        tick: &tick,
    };
    let (float, points) = search.run().map_err(in_model)?;
    progress.finish();
    let budget = Budget { flash: args.max_flash, ram: args.max_ram, drop: args.max_drop, error: args.max_error };
    let chosen = choose(&points, &budget, &float).ok_or_else(|| out_of_reach(&points, &budget))?;
    super::say(&table(&points, chosen, &float))?;
    let front = Front {
        generator: crate::report::generator(),
        model: &source.file_name,
        target: options.target.name,
        samples: samples.len(),
        float,
        points: &points,
    };
    write(args, &source.file_name, &front, chosen)?;
    match &args.html {
        Some(html) => {
            let page = page(&source, &search, (&points, chosen))?;
            output::write_file(html, page.as_bytes(), args.force)
        }
        None => Ok(()),
    }
}

/// The labels, if there are some.
///
/// Errors: labels or a score that do not fit the model's first output, or not one label for each of `count` samples.
fn labels(args: &SearchArgs, graph: &Graph<Quant>, count: usize) -> diag::Result<Option<Vec<i64>>> {
    metrics::check_output(args.metric, args.score, graph, 0)?;
    let Some(path) = &args.labels else { return Ok(None) };
    let labels = read_labels(path)?;
    let classes = graph.node(graph.outputs()[0].node).value.shape.len();
    metrics::check_labels(args.metric, &labels, count, classes).map_err(|problems| problems.in_file(path.display()))?;
    Ok(Some(labels))
}

/// Writes the front and the recipe of the choice.
fn write(args: &SearchArgs, model: &str, front: &Front, chosen: &Point) -> diag::Result<()> {
    let stem = args.model.model.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let path =
        |given: &Option<PathBuf>, ending: &str| given.clone().unwrap_or_else(|| format!("{stem}.{ending}").into());
    let (front_path, recipe_path) = (path(&args.front, "front.json"), path(&args.output, "recipe.toml"));
    let json = serde_json::to_string_pretty(front).map_err(|error| problem(Code::Internal, error.to_string()))?;
    output::write_file(&front_path, json.as_bytes(), args.force)?;
    output::write_file(&recipe_path, chosen.recipe.as_bytes(), args.force)?;
    let (recipe, front) = (recipe_path.display(), front_path.display());
    super::say(&format!("wrote {recipe} (ptqc build {model} --recipe {recipe} ..) and {front}"))
}

/// The page of the choice, with the front.
fn page(source: &Source, search: &Search, (points, chosen): (&[Point], &Point)) -> diag::Result<String> {
    let precisions = PrecisionRecipe::from_toml(&chosen.recipe)?.precisions(None, None);
    let options = Options { settings: Settings { precisions }, ..search.options.clone() };
    let build = driver::build(&source.frontend, search.ranges, &options)?;
    let shown = &search.samples[..search.samples.len().min(SHOWN)];
    let analysis = analyze::analyze(&source.frontend, &build.quant, shown)?;
    let memory = build.plan.memory_uses();
    let figure =
        Figure { title: "Pareto front".to_owned(), caption: CAPTION.to_owned(), svg: page::front(points, chosen)? };
    page::page(&page::Contents {
        analysis: &analysis,
        report: &build.report,
        memory: &memory,
        facts: vec![("model".to_owned(), source.file_name.clone())],
        figures: vec![figure],
    })
}

/// A number of bytes: `65536`, `64k`, `1M`.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1024,
        "m" | "mb" | "mib" => 1024 * 1024,
        other => return Err(format!("`{other}` is no unit; write a number of bytes, or 64k")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("`{text}` is not a size; write 65536 or 64k"))?;
    let bytes = number * f64::from(factor);
    match bytes.is_finite() && bytes >= 0.0 {
        true => Ok(bytes as u64),
        false => Err(format!("`{text}` is not a size")),
    }
}

fn no_samples() -> Diagnostic {
    Diagnostic::error(Code::InvalidOption, "there are no samples to evaluate on")
        .help("add --data X, samples as the model sees them in use")
}

/// What stands in the way: for each limit the best that there is.
fn out_of_reach(points: &[Point], budget: &Budget) -> Diagnostic {
    let least = |value: fn(&Point) -> u64| points.iter().map(value).min().unwrap_or(0);
    let notes = [
        budget.flash.map(|most| format!("flash: at most {most} bytes asked for, {} is the least", least(|p| p.flash))),
        budget.ram.map(|most| format!("RAM: at most {most} bytes asked for, {} is the least", least(|p| p.ram))),
    ];
    let diagnostic = Diagnostic::error(Code::Budget, "no combination of precisions keeps to the budget")
        .help("give up a limit (without any, `ptqc search` prints all combinations); `--optimize ram` needs less RAM");
    notes.into_iter().flatten().fold(diagnostic, |diagnostic, note| diagnostic.note(note))
}

/// The front, and the choice.
fn table(points: &[Point], chosen: &Point, float: &Score) -> String {
    let metric = |metric: Option<f64>| metric.map_or("-".to_owned(), |metric| format!("{metric:.4}"));
    let mut text = format!(
        "  {:>8} {:>8} {:>9} {:>9} {:>11}  {}\n  {:>8} {:>8}\n",
        "metric",
        "error",
        "flash",
        "RAM",
        "cycles",
        "precision",
        metric(float.metric),
        "float"
    );
    for point in points.iter().filter(|point| point.on_front || *point == chosen) {
        let mark = if point == chosen { "*" } else { " " };
        let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let wide = match point.wide.len() {
            0 => String::new(),
            count => format!(", 16 bits for {}", plural(count, "tensor")),
        };
        text += &format!(
            "{mark} {:>8} {:>8.4} {:>9} {:>9} {:>11}  4 bits for the weights of {}{wide}\n",
            metric(point.score.metric),
            point.score.relative_rmse,
            point.flash,
            point.ram,
            point.cycles,
            plural(point.narrow.len(), "layer"),
        );
    }
    let front = points.iter().filter(|point| point.on_front).count();
    text + &format!("  {} combinations evaluated, {front} on the Pareto front; * is the choice\n", points.len())
}
