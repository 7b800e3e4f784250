//! Precision for each layer under a budget: from sensitivities that are measured, and the cost model.
//!
//! First every layer's weights alone get 4 bits, and every layer's result alone 16, and the error of the outputs is
//! measured. Then the changes are applied one after the other, the cheapest error first: 4 bits in ever more layers, with and
//! without 16 bits for the tensors that gain most from them. Every combination that is offered has been evaluated as a whole.

mod front;
mod measure;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use front::pareto;
pub use measure::{Labels, Score};

use crate::calibrate::Ranges;
use crate::diag;
use crate::driver::{self, Frontend, Options, Sample};
use crate::estimate::estimate;
use crate::ir::DType;
use crate::ops::FloatOp;
use crate::quantize::{LayerPrecision, PrecisionRecipe, Settings};
use measure::Judge;

/// Samples on which single changes are measured; their order is what matters.
const PROBED: usize = 48;

/// Tensors that get 16 bits, at most, of those that gain most from them.
const WIDENED: usize = 4;

/// Combinations that are evaluated as a whole, at most.
const EVALUATED: usize = 24;

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Budget {
    /// Bytes of code and constants.
    pub flash: Option<u64>,
    /// Bytes of working memory and stack.
    pub ram: Option<u64>,
    /// Loss of the metric in points (hundredths), for samples with labels.
    pub drop: Option<f64>,
    /// Error of the outputs, relative to their root mean square.
    pub error: Option<f64>,
}

/// A combination of precisions, what it costs and how good it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Layers whose weights have 4 bits.
    pub narrow: Vec<String>,
    /// Layers whose results have 16 bits.
    pub wide: Vec<String>,
    /// How good it is.
    #[serde(flatten)]
    pub score: Score,
    /// Bytes of code and constants, estimated.
    pub flash: u64,
    /// Bytes of working memory and stack, estimated.
    pub ram: u64,
    /// Cycles of an inference, estimated; instructions where the target has no model of cycles.
    pub cycles: u64,
    /// Whether no other point is better in one respect and worse in none.
    pub on_front: bool,
    /// The recipe, as text.
    pub recipe: String,
}

/// What a search works on.
pub struct Search<'a> {
    /// The model.
    pub frontend: &'a Frontend,
    /// Its ranges.
    pub ranges: &'a Ranges,
    /// What the code is for, and everything that is not searched.
    pub options: &'a Options<'a>,
    /// Samples.
    pub samples: &'a [Sample],
    /// What they are labelled with, if anything.
    pub labels: Option<Labels<'a>>,
    /// Called after each evaluation, with the number of those that are to come.
    pub tick: &'a (dyn Fn(usize, usize) + Sync),
}

/// A single change.
struct Change {
    layer: String,
    error: f64,
    flash: u64,
}

impl Search<'_> {
    /// The float model's own score, and all combinations that were evaluated, the most accurate first.
    ///
    /// Errors: what quantizing and planning the model with 8 bits says.
    pub fn run(&self) -> diag::Result<(Score, Vec<Point>)> {
        let judge = Judge::new(self.frontend, self.samples, self.labels)?;
        let layers = self.layers();
        let planned = 2 * layers.len() + EVALUATED;
        let mut done = 0;
        let mut tick = || {
            done += 1;
            (self.tick)(done, planned);
        };
        let base = self.probe(&judge, &PrecisionRecipe::default())?;
        let mut narrow = vec![];
        let mut wide = vec![];
        for layer in &layers {
            // Where a precision is not to be had for a layer, such as for sums that do not fit, it is no choice.
            if let Ok((error, flash)) = self.probe(&judge, &recipe(std::slice::from_ref(layer), &[])) {
                narrow.push(Change {
                    layer: layer.clone(),
                    error: error - base.0,
                    flash: base.1.saturating_sub(flash),
                });
            }
            tick();
            if let Ok((error, flash)) = self.probe(&judge, &recipe(&[], std::slice::from_ref(layer))) {
                wide.push(Change { layer: layer.clone(), error: error - base.0, flash });
            }
            tick();
        }
        let mut points: Vec<Point> = vec![];
        for (narrow, wide) in combinations(narrow, wide) {
            if let Ok(point) = self.point(&judge, &narrow, &wide) {
                points.push(point);
            }
            tick();
        }
        pareto(&mut points);
        points.sort_by(|a, b| a.score.order(&b.score));
        Ok((judge.float(), points))
    }

    /// Names of the layers with weights: the last of the ONNX nodes that each is made of has the result, and the first the
    /// weights, so the one with weights names it.
    fn layers(&self) -> Vec<String> {
        let graph = &self.frontend.fused;
        let nodes = graph.topological().into_iter().map(|id| graph.node(id));
        let weighted = nodes.filter(|node| matches!(node.op, FloatOp::Conv(_) | FloatOp::Linear(_)));
        weighted.filter_map(|node| node.origin.first().map(|origin| origin.node.clone())).collect()
    }

    /// Error of the outputs on the first samples, and bytes of constants.
    fn probe(&self, judge: &Judge, recipe: &PrecisionRecipe) -> diag::Result<(f64, u64)> {
        let settings = self.settings(recipe);
        let (graph, _) = driver::quantize(self.frontend, self.ranges, &settings)?;
        let score = judge.score(&graph, PROBED)?;
        Ok((score.relative_rmse * score.relative_rmse, measure::weight_bytes(&graph)))
    }

    fn point(&self, judge: &Judge, narrow: &[String], wide: &[String]) -> diag::Result<Point> {
        let recipe = recipe(narrow, wide);
        let options = Options { settings: self.settings(&recipe), ..self.options.clone() };
        let build = driver::build(self.frontend, self.ranges, &options)?;
        let figures = estimate(&build, options.target);
        let cycles = figures.cycles.as_ref().map(|cycles| cycles.estimate).or(figures.instructions);
        Ok(Point {
            narrow: narrow.to_vec(),
            wide: wide.to_vec(),
            score: judge.score(&build.quant, usize::MAX)?,
            flash: figures.flash.total(),
            ram: figures.ram.arena + figures.ram.variables + figures.ram.stack,
            cycles: cycles.unwrap_or(0),
            on_front: false,
            recipe: recipe.to_toml(),
        })
    }

    fn settings(&self, recipe: &PrecisionRecipe) -> Settings {
        let precisions = recipe.clone().precisions(None, None);
        Settings { precisions }
    }
}

/// 4 bits for the weights of some layers, 16 for the results of some.
fn recipe(narrow: &[String], wide: &[String]) -> PrecisionRecipe {
    let mut layers: BTreeMap<String, LayerPrecision> = BTreeMap::new();
    for layer in narrow {
        layers.entry(layer.clone()).or_default().weights = Some(DType::I4);
    }
    for layer in wide {
        layers.entry(layer.clone()).or_default().activations = Some(DType::I16);
    }
    PrecisionRecipe { layers, ..PrecisionRecipe::default() }
}

/// Ever more layers with 4 bits, those first that save most bytes for the error they add; and with each number of them,
/// none, one, and all of the tensors that gain from 16 bits.
fn combinations(mut narrow: Vec<Change>, mut wide: Vec<Change>) -> Vec<(Vec<String>, Vec<String>)> {
    narrow.retain(|change| change.flash > 0);
    let price = |change: &Change| change.error.max(1e-12) / change.flash as f64;
    narrow.sort_by(|a, b| price(a).total_cmp(&price(b)));
    wide.retain(|change| change.error < 0.0);
    wide.sort_by(|a, b| a.error.total_cmp(&b.error));
    let names = |changes: &[Change]| changes.iter().map(|change| change.layer.clone()).collect::<Vec<_>>();
    let wider: Vec<Vec<String>> = match wide.len() {
        0 => vec![vec![]],
        1 => vec![vec![], names(&wide)],
        count => vec![vec![], names(&wide[..1]), names(&wide[..count.min(WIDENED)])],
    };
    let steps = narrow.len() + 1;
    let every = (steps * wider.len()).div_ceil(EVALUATED).max(1);
    let counts = (0..steps).filter(|count| count % every == 0 || *count + 1 == steps);
    counts
        .flat_map(|count| wider.iter().map(|wide| (names(&narrow[..count]), wide.clone())).collect::<Vec<_>>())
        .collect()
}

/// Of the points within a budget the one that costs fewest cycles, and of those the most accurate; `base` is the score of
/// the float model.
pub fn choose<'a>(points: &'a [Point], budget: &Budget, float: &Score) -> Option<&'a Point> {
    let within = points.iter().filter(|point| {
        budget.flash.is_none_or(|most| point.flash <= most)
            && budget.ram.is_none_or(|most| point.ram <= most)
            && budget.error.is_none_or(|most| point.score.relative_rmse <= most)
            && budget.drop.is_none_or(|most| point.score.drop(float) <= most)
    });
    // A budget for accuracy asks for the cheapest that keeps it; without one, accuracy is what there is to gain.
    match budget.drop.is_some() || budget.error.is_some() {
        true => within.min_by(|a, b| (a.cycles, a.flash).cmp(&(b.cycles, b.flash)).then(a.score.order(&b.score))),
        false => within.min_by(|a, b| a.score.order(&b.score).then(a.cycles.cmp(&b.cycles))),
    }
}
