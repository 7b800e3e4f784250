//! What is measured of one tensor.

use serde::Serialize;

use super::histogram::Histogram;
use crate::ir::{Graph, NodeId, Params, Quant, QuantType};
use crate::ops::weighted::Weighted;

/// A tensor and its errors. Real values are those of the float model.
#[derive(Debug, Clone, Serialize)]
pub struct TensorReport {
    /// Name in the model.
    pub tensor: String,
    /// The ONNX nodes that compute it.
    pub nodes: Vec<String>,
    /// Kind of operator.
    pub kind: &'static str,
    /// Element type.
    pub dtype: String,
    /// Real value of a step.
    pub scale: f32,
    /// The integer that stands for 0.
    pub zero_point: i32,
    /// Signal to quantization noise in dB, with everything that the layers before have added; absent without any error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqnr_db: Option<f64>,
    /// The same with exact operands: the noise of this layer alone; absent without any error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_sqnr_db: Option<f64>,
    /// Cosine of the angle between real and integer values.
    pub cosine: f64,
    /// Share of real values that lie outside of what the integers can express.
    pub clipped: f64,
    /// Share of the integers between the smallest and the largest that occur, of all that there are.
    pub range_use: f64,
    /// The channel (axis 1) with the lowest signal to noise; absent where there is one channel, or no error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst_channel: Option<WorstChannel>,
    /// Share of the error of the model's outputs that comes from this layer's own error; all shares add up to 1.
    pub share: f64,
    /// Where the layer's own error comes from; the four add up to 1 unless there is none.
    pub own_error: OwnError,
    /// Real values.
    pub values: Histogram,
    /// Quantized weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Histogram>,
    /// Whether the weights have fewer than 8 bits.
    pub has_narrow_weights: bool,
}

/// A channel of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct WorstChannel {
    /// Its index.
    pub index: usize,
    /// Its signal to quantization noise in dB.
    pub sqnr_db: f64,
}

/// Parts of the squared error that a layer adds to exact operands.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OwnError {
    /// Values outside of the range.
    pub clipping: f64,
    /// The result's rounding to steps.
    pub rounding: f64,
    /// The operands' rounding to steps.
    pub operands: f64,
    /// Everything else: rounded weights and biases, multipliers.
    pub weights: f64,
}

/// A layer that by itself leaves less signal to noise than this deserves a warning, in dB.
const BAD_DB: f64 = 15.0;

/// Tensors with a smaller share of the final error do no harm, whatever their noise.
const HARMLESS: f64 = 0.02;

impl TensorReport {
    /// Whether the layer deserves attention: it is noisy by itself, and the outputs suffer from it.
    pub fn is_bad(&self) -> bool {
        self.own_sqnr_db.is_some_and(|db| db < BAD_DB) && self.share >= HARMLESS
    }
}

/// Sums over samples.
#[derive(Debug, Clone)]
pub struct Sums {
    params: Params,
    bounds: (i32, i32),
    channels: usize,
    inner: usize,
    /// For each channel, squares of the real values and of the errors.
    by_channel: Vec<(f64, f64)>,
    square: f64,
    product: f64,
    own: f64,
    clipping: f64,
    rounding: f64,
    /// Of some samples, the squared own errors, and those of them that come from the operands' steps.
    probed: (f64, f64),
    clipped: u64,
    values: u64,
    codes: Option<(i32, i32)>,
    histogram: Histogram,
}

impl Sums {
    /// Nothing yet, for a tensor of real numbers.
    pub fn new(ty: &QuantType) -> Sums {
        let params = ty.params().unwrap_or(Params::zero());
        let dims = ty.shape.dims();
        let channels = dims.get(1).copied().unwrap_or(1);
        let bounds = (ty.dtype.min(), ty.dtype.max());
        let (lo, hi) = (params.dequantize(bounds.0), params.dequantize(bounds.1));
        // A margin on both sides shows what is cut off.
        let margin = (hi - lo) / 16.0;
        Sums {
            params,
            bounds,
            channels,
            inner: dims.get(2..).map_or(1, |inner| inner.iter().product()),
            by_channel: vec![(0.0, 0.0); channels],
            square: 0.0,
            product: 0.0,
            own: 0.0,
            clipping: 0.0,
            rounding: 0.0,
            probed: (0.0, 0.0),
            clipped: 0,
            values: 0,
            codes: None,
            histogram: Histogram::new(lo - margin, hi + margin),
        }
    }

    /// Adds a sample: real values, integers, and the integers that exact operands would give.
    pub fn observe(&mut self, reals: &[f32], values: &[i32], own: &[i32]) {
        for (index, ((&real, &value), &own)) in reals.iter().zip(values).zip(own).enumerate() {
            let (real, integer) = (f64::from(real), self.params.dequantize(value));
            let channel = &mut self.by_channel[index / self.inner.max(1) % self.channels.max(1)];
            channel.0 += real * real;
            channel.1 += (integer - real) * (integer - real);
            self.square += integer * integer;
            self.product += integer * real;
            let own = self.params.dequantize(own) - real;
            self.own += own * own;
            self.observe_real(real);
            let (lo, hi) = self.codes.unwrap_or((value, value));
            self.codes = Some((lo.min(value), hi.max(value)));
        }
    }

    /// Adds, of a sample, the squared own error and the part of it that comes from the operands' steps.
    pub fn observe_operands(&mut self, own: f64, from_operands: f64) {
        self.probed.0 += own;
        self.probed.1 += from_operands;
    }

    fn observe_real(&mut self, real: f64) {
        let steps = real / self.params.scale.get() + f64::from(self.params.zero_point);
        let inside = (f64::from(self.bounds.0) - 0.5..=f64::from(self.bounds.1) + 0.5).contains(&steps);
        let rounded = steps.round_ties_even().clamp(f64::from(self.bounds.0), f64::from(self.bounds.1));
        let error = (rounded - steps) * self.params.scale.get();
        match inside {
            true => self.rounding += error * error,
            false => {
                self.clipping += error * error;
                self.clipped += 1;
            }
        }
        self.values += 1;
        self.histogram.count(real);
    }

    /// Adds another's sums.
    pub fn add(&mut self, other: &Sums) {
        for (mine, theirs) in self.by_channel.iter_mut().zip(&other.by_channel) {
            mine.0 += theirs.0;
            mine.1 += theirs.1;
        }
        self.square += other.square;
        self.product += other.product;
        self.own += other.own;
        self.clipping += other.clipping;
        self.rounding += other.rounding;
        self.probed = (self.probed.0 + other.probed.0, self.probed.1 + other.probed.1);
        self.clipped += other.clipped;
        self.values += other.values;
        self.codes = match (self.codes, other.codes) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
        self.histogram.add(&other.histogram);
    }

    /// The figures.
    pub fn report(&self, graph: &Graph<Quant>, id: NodeId, share: f64) -> TensorReport {
        let node = graph.node(id);
        let total = self.by_channel.iter().fold((0.0, 0.0), |sum, channel| (sum.0 + channel.0, sum.1 + channel.1));
        let codes = self.codes.map_or(0, |(lo, hi)| i64::from(hi) - i64::from(lo));
        TensorReport {
            tensor: node.observed.clone().unwrap_or_else(|| node.name.clone()),
            nodes: node.origin.iter().map(|origin| origin.node.clone()).collect(),
            kind: node.op.kind(),
            dtype: node.value.dtype.to_string(),
            scale: self.params.scale.as_f32(),
            zero_point: self.params.zero_point,
            sqnr_db: decibels(total.0, total.1),
            own_sqnr_db: decibels(total.0, self.own),
            cosine: match total.0 * self.square {
                0.0 => 1.0,
                squares => self.product / squares.sqrt(),
            },
            clipped: self.clipped as f64 / self.values.max(1) as f64,
            range_use: codes as f64 / (i64::from(self.bounds.1) - i64::from(self.bounds.0)) as f64,
            worst_channel: self.worst_channel(),
            share,
            own_error: self.own_error(),
            values: self.histogram.clone(),
            weights: node.op.weighted().map(weights),
            has_narrow_weights: node.op.weighted().is_some_and(|weighted| weighted.weight_type.bits() < 8),
        }
    }

    fn worst_channel(&self) -> Option<WorstChannel> {
        let channels = self.by_channel.iter().enumerate().filter(|_| self.channels > 1);
        let noisy = channels.filter_map(|(index, &(square, error))| {
            let sqnr_db = decibels(square, error).filter(|_| square > 0.0)?;
            Some(WorstChannel { index, sqnr_db })
        });
        noisy.min_by(|a, b| a.sqnr_db.total_cmp(&b.sqnr_db))
    }

    fn own_error(&self) -> OwnError {
        let rest = (self.own - self.clipping - self.rounding).max(0.0);
        let operands = if self.probed.0 > 0.0 { self.own * self.probed.1 / self.probed.0 } else { 0.0 }.min(rest);
        let total = self.clipping + self.rounding + rest;
        let part = |error: f64| if total > 0.0 { error / total } else { 0.0 };
        OwnError {
            clipping: part(self.clipping),
            rounding: part(self.rounding),
            operands: part(operands),
            weights: part(rest - operands),
        }
    }
}

/// `10 log10(square / error)`; `None` without an error.
fn decibels(square: f64, error: f64) -> Option<f64> {
    (error > 0.0).then(|| 10.0 * (square.max(f64::MIN_POSITIVE) / error).log10())
}

fn weights(weighted: &Weighted) -> Histogram {
    let mut histogram = Histogram::new(-128.0, 128.0);
    weighted.weights.iter().for_each(|&weight| histogram.count(f64::from(weight)));
    histogram
}
