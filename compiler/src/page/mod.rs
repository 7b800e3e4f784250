//! One self-contained HTML page that shows where the accuracy and the memory of a model go.

mod charts;

use askama::Template;
use ptqc_codegen_templates::page::{Figure, Page, Row};

use crate::analyze::{Advice, Analysis, Cause, TensorReport};
use crate::diag::{self, Diagnostic};
use crate::plan::MemoryUse;
use crate::report::Report;
use charts::{histogram, memory_map, noise, shares};

/// Headings of the table, and what they mean.
const COLUMNS: [(&str, &str); 9] = [
    ("operator", "kind of operator"),
    ("type", "element type"),
    ("SQNR dB", "signal to quantization noise, with all that the layers before have added"),
    ("own dB", "the same with exact operands: this layer alone"),
    ("cosine", "cosine of the angle between real and integer values"),
    ("clipped", "real values outside of the range"),
    ("range used", "integers between the smallest and the largest that occur, of all that there are"),
    ("worst channel", "the channel with the lowest signal to noise"),
    ("share", "part of the final error that comes from this layer's own error"),
];

/// What the page shows.
#[derive(Debug)]
pub struct Contents<'a> {
    /// Errors.
    pub analysis: &'a Analysis,
    /// Facts of the build.
    pub report: &'a Report,
    /// The arena over time.
    pub memory: &'a [MemoryUse],
    /// Further facts: name and value.
    pub facts: Vec<(String, String)>,
    /// Further pictures.
    pub figures: Vec<Figure>,
}

/// The page's text.
pub fn page(contents: &Contents) -> diag::Result<String> {
    let analysis = contents.analysis;
    let drawn = figures(contents).map_err(|error| Diagnostic::internal(format!("a chart: {error}")))?;
    let rows = analysis.tensors.iter().map(row).collect::<Result<_, _>>();
    let rows = rows.map_err(|error: charts::Error| Diagnostic::internal(format!("a chart: {error}")))?;
    let page = Page {
        title: contents.report.name.clone(),
        facts: facts(contents),
        advice: analysis.advice.iter().map(sentence).collect(),
        figures: drawn,
        columns: COLUMNS.map(|(name, meaning)| (name.to_owned(), meaning.to_owned())).to_vec(),
        rows,
    };
    Ok(page.render().map_err(|error| Diagnostic::internal(error.to_string()))?)
}

fn facts(contents: &Contents) -> Vec<(String, String)> {
    let report = contents.report;
    let facts = [
        ("target", report.target.clone()),
        ("samples", contents.analysis.samples.to_string()),
        ("relative RMSE of the output", format!("{:.4}", contents.analysis.relative_rmse)),
        ("layers", format!("{}, {}", report.layers.len(), report.multiply_accumulates())),
        ("constants", format!("{} bytes", report.weight_bytes)),
        ("arena", format!("{} bytes", report.arena.bytes)),
    ];
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(contents.facts.clone()).collect()
}

fn figures(contents: &Contents) -> Result<Vec<Figure>, charts::Error> {
    let tensors = &contents.analysis.tensors;
    let mut figures = vec![
        figure(
            "Error along the network",
            "Signal to quantization noise of every tensor, in the order of computation: higher is better, 6 dB are one bit. Line: with everything that the layers before have added. Points: the layer alone.",
            noise(tensors)?,
        ),
        figure(
            "Who is to blame",
            "How much of the error of the outputs comes from the error that a layer adds by itself.",
            shares(tensors)?,
        ),
    ];
    if !contents.memory.is_empty() {
        figures.push(figure(
            "Memory over time",
            "The arena from its first byte (bottom) to its last, while the layers are executed from left to right. Each block is a tensor or the working memory of a layer.",
            memory_map(contents.memory, contents.report.arena.bytes)?,
        ));
    }
    figures.extend(contents.figures.iter().cloned());
    Ok(figures)
}

fn figure(title: &str, caption: &str, svg: String) -> Figure {
    Figure { title: title.to_owned(), caption: caption.to_owned(), svg }
}

/// One piece of advice as a sentence.
pub fn sentence(advice: &Advice) -> String {
    let cause = match advice.cause {
        Cause::Clipping => "values outside of its range are cut off",
        Cause::Rounding => "its steps are coarse",
        Cause::Weights => "its layer's weights are rounded",
    };
    format!("{}: {cause}; {} removes up to {:.0} % of the error", advice.tensor, advice.option, 100.0 * advice.gain)
}

/// The cells of [`COLUMNS`].
pub fn cells(tensor: &TensorReport) -> [String; 9] {
    let decibels = |value: Option<f64>| value.map_or("exact".to_owned(), |db| format!("{db:.1}"));
    [
        tensor.kind.to_owned(),
        tensor.dtype.clone(),
        decibels(tensor.sqnr_db),
        decibels(tensor.own_sqnr_db),
        format!("{:.5}", tensor.cosine),
        format!("{:.2} %", 100.0 * tensor.clipped),
        format!("{:.0} %", 100.0 * tensor.range_use),
        tensor.worst_channel.map_or("-".to_owned(), |worst| format!("{} ({:.1} dB)", worst.index, worst.sqnr_db)),
        format!("{:.1} %", 100.0 * tensor.share),
    ]
}

/// Names of the columns that [`cells`] fills.
pub fn columns() -> impl Iterator<Item = &'static str> {
    COLUMNS.iter().map(|(name, _)| *name)
}

fn row(tensor: &TensorReport) -> Result<Row, charts::Error> {
    let weights = tensor.weights.as_ref().map_or(Ok(String::new()), |weights| histogram(weights, None));
    let range = Some((tensor.values.lo, tensor.values.hi));
    Ok(Row {
        tensor: tensor.tensor.clone(),
        nodes: tensor.nodes.join(", "),
        cells: cells(tensor).to_vec(),
        bad: tensor.is_bad(),
        pictures: vec![histogram(&tensor.values, range)?, weights?],
    })
}
