//! What convolutions and linear layers share: weights, biases and multipliers for each output channel.

use super::{Problem, Site, fits_i32, is_accumulator};
use crate::diag::Code;
use crate::ir::{Clamp, DType, FloatTensor, Interval, Multiplier, Numerics, Rounding, Scale, round_half_even};

/// Largest magnitude of a quantized bias, a quarter of what 32 bits hold: the rest is for the sum.
const BIAS_MAX: f64 = (1i64 << 29) as f64;

/// A channel whose weights cannot move the result by this many steps is an exact constant.
const VANISHING_STEPS: f64 = 1.0 / 131_072.0;

/// What an output channel adds to the sum of products and how the sum becomes the result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Channel {
    /// In units of the accumulator.
    pub bias: i32,
    /// From accumulator to result.
    pub multiplier: Multiplier,
    /// All values of `bias + sum w * (x - input_zero)`, whichever of the products have been added.
    pub bound: Interval,
    /// Real value of a weight of 1; 0 where the channel is a constant.
    pub weight_scale: f32,
    /// What is subtracted from each weight before the product; 0 unless the model stores asymmetric weights.
    pub weight_zero: i32,
}

/// The reals that quantized weights of a row stand for: the multiples of a step, up to some magnitude.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// The step.
    pub scale: Scale,
    /// Type of the weights.
    pub dtype: DType,
}

/// Quantized weights with their channels: `result = clamp(output_zero + multiplier(bias + sum w * (x - input_zero)))`.
#[derive(Debug, Clone)]
pub struct Weighted {
    /// Row-major, one row for each output channel.
    pub weights: Vec<i8>,
    /// Type of the weights: with [`DType::I4`] all of them fit four bits, and kernels pack two in a byte.
    pub weight_type: DType,
    /// Type of the input.
    pub input_type: DType,
    /// One for each output channel.
    pub channels: Vec<Channel>,
    /// The integer that stands for 0 in the input.
    pub input_zero: i32,
    /// The integer that stands for 0 in the result.
    pub output_zero: i32,
    /// Bounds of the result.
    pub clamp: Clamp,
}

impl Weighted {
    /// Quantizes real weights (row-major, one row for each bias) for the operand and the result of `site`, symmetric, one
    /// scale for each row: [`Grid::of`]. Weights that the model stores as integers become these integers again, with the
    /// steps they have.
    ///
    /// Errors: a sum that the accumulator may not hold; a multiplier out of reach.
    pub fn quantize(weights: &FloatTensor, bias: &[f32], clamp: Clamp, site: &Site) -> Result<Self, Problem> {
        let (input, output) = (site.operand_params(0)?, site.result_params());
        let steps = weights.steps.as_ref().and_then(|steps| steps.by_row(bias.len()));
        let row_len = weights.data.len() / bias.len().max(1);
        let mut rows = Vec::with_capacity(bias.len());
        for (channel_idx, &bias) in bias.iter().enumerate() {
            let row = &weights.data[channel_idx * row_len..][..row_len];
            let stored = steps.as_ref().and_then(|steps| stored_row(row, steps[channel_idx], site.weights));
            rows.push(quantize_row(row, stored, bias, site).map_err(|problem| in_channel(channel_idx, problem))?);
        }
        let multipliers = multipliers(&rows, site)?;
        let channel = |(row, &multiplier): (&Row, &Multiplier)| Channel {
            // `quantize_row` has shown that the bias fits.
            bias: row.bias as i32,
            multiplier,
            bound: row.bound,
            weight_scale: row.scale.map_or(0.0, Scale::as_f32),
            weight_zero: row.zero,
        };
        let channels: Vec<Channel> = rows.iter().zip(&multipliers).map(channel).collect();
        let input_type = site.operands[0].dtype;
        check_products(&channels, row_len, (input_type, site.result.dtype))?;
        Ok(Weighted {
            weights: rows.into_iter().flat_map(|row| row.weights).collect(),
            weight_type: site.weights,
            input_type,
            channels,
            input_zero: input.zero_point,
            output_zero: output.zero_point,
            clamp,
        })
    }

    /// Weights of one output channel.
    pub fn row(&self, channel_idx: usize) -> &[i8] {
        let row_len = self.weights.len() / self.channels.len().max(1);
        &self.weights[channel_idx * row_len..][..row_len]
    }

    /// The same, for changes.
    pub fn row_mut(&mut self, channel_idx: usize) -> &mut [i8] {
        let row_len = self.weights.len() / self.channels.len().max(1);
        &mut self.weights[channel_idx * row_len..][..row_len]
    }

    /// What the differences `x - input_zero` of an output channel are multiplied by: the weights less their zero point.
    pub fn factors(&self, channel_idx: usize) -> impl Iterator<Item = i32> + '_ {
        let zero = self.channels[channel_idx].weight_zero;
        self.row(channel_idx).iter().map(move |&w| i32::from(w) - zero)
    }

    /// Whether weights have zero points, so that their factors may need more than 8 bits, or the rounding is not the
    /// native profile's.
    pub fn is_unusual(&self) -> bool {
        let unusual = |channel: &Channel| channel.weight_zero != 0 || channel.multiplier.rounding() != Rounding::NATIVE;
        self.channels.iter().any(unusual)
    }

    /// Keeps some output channels, and some columns of the weights.
    pub fn retain(&mut self, rows: &[bool], columns: &[bool]) {
        let mut at = rows.iter().flat_map(|&row| columns.iter().map(move |&column| row && column));
        self.weights.retain(|_| at.next() == Some(true));
        let mut rows = rows.iter();
        self.channels.retain(|_| rows.next() == Some(&true));
    }

    /// The narrowest type that holds all results.
    fn least_result_type(&self) -> DType {
        let bytes = Clamp::full(DType::I8);
        if self.clamp.lo < bytes.lo || self.clamp.hi > bytes.hi { DType::I16 } else { DType::I8 }
    }

    /// Whether some sum needs more than 32 bits.
    pub fn is_wide(&self) -> bool {
        self.accumulator().is_some_and(|bound| !fits_i32(bound))
    }

    /// Checks that every sum fits its accumulator, and its product with any of the multipliers 64 bits, in the eyes of
    /// the checker of the emitted loops.
    pub fn check(&self) -> Result<(), Problem> {
        let products = self.weights.len() / self.channels.len().max(1);
        for channel in &self.channels {
            check_accumulator((products, channel.weight_zero), channel.bias.into(), channel.bound, self.input_type)?;
        }
        check_products(&self.channels, products, (self.input_type, self.least_result_type()))
    }

    /// All values any accumulator can take.
    pub fn accumulator(&self) -> Option<Interval> {
        self.channels.iter().map(|channel| channel.bound).reduce(Interval::hull)
    }

    /// From accumulator to result.
    pub fn finish(&self, channel_idx: usize, acc: i64) -> i32 {
        let Channel { multiplier, bound, .. } = &self.channels[channel_idx];
        let steps = match fits_i32(*bound) && multiplier.left_shift() == 0 {
            // Nothing is cut off: `acc` is within its bound.
            true => i64::from(multiplier.apply(acc as i32)),
            false => multiplier.apply_wide(acc),
        };
        self.clamp.apply_wide(i64::from(self.output_zero) + steps)
    }

    /// The step from accumulator to result, for people.
    pub fn formula(&self) -> String {
        let Clamp { lo, hi } = self.clamp;
        format!(
            "x is {} at zero; y = clamp({} + {}, {lo}, {hi})",
            self.input_zero,
            self.output_zero,
            match self.channels.first().map(|channel| channel.multiplier.rounding()) {
                Some(Rounding { shift, even: true, single: false }) => {
                    format!("round_half_even(acc * multiplier[c] / 2^{shift})")
                }
                Some(Rounding { shift, even: true, single: true }) => {
                    format!("round_half_even(float32(acc * multiplier[c]) / 2^{shift})")
                }
                _ => "((acc * multiplier[c] + 2^30) >> 31)".to_owned(),
            }
        )
    }

    /// One line for listings.
    pub fn describe(&self) -> String {
        let bound = self.accumulator().map_or(String::new(), |b| format!(", acc {}..={}", b.lo, b.hi));
        let first =
            self.channels.first().map_or(String::new(), |c| format!("bias {} multiplier {}", c.bias, c.multiplier));
        format!(
            "{} channels (first: {first}), weights {} hash {:016x}, x{:+}, y{:+} clamp {}{bound}",
            self.channels.len(),
            self.weights.len(),
            hash(&self.weights),
            -self.input_zero,
            self.output_zero,
            self.clamp,
        )
    }
}

/// FNV-1a, so that listings show a change of the weights in a few characters.
fn hash(weights: &[i8]) -> u64 {
    weights.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &w| (hash ^ u64::from(w as u8)).wrapping_mul(0x0100_0000_01b3))
}

/// A row of integers: the real weight is `scale * (weights - zero)`.
struct StoredRow {
    scale: Scale,
    weights: Vec<i8>,
    zero: i32,
}

/// The integers of weights that are multiples of `step`; `None` if 8 bits do not hold them.
fn stored_row(row: &[f32], step: f32, dtype: DType) -> Option<StoredRow> {
    let scale = Scale::new(f64::from(step))?;
    let multiples: Vec<i64> = row.iter().map(|&w| round_half_even(f64::from(w) / scale.get())).collect();
    let (lo, hi) = (multiples.iter().min().copied()?.min(0), multiples.iter().max().copied()?.max(0));
    // Packed weights of 4 bits leave the smallest value out.
    let most = i64::from(Grid::most(dtype));
    if dtype.bits() < 8 && (lo < -most || hi > most) {
        return None;
    }
    let zero = if lo >= -128 && hi <= 127 { 0 } else { -128 - lo };
    let weights = multiples.iter().map(|w| i8::try_from(w + zero).ok()).collect::<Option<_>>()?;
    Some(StoredRow { scale, weights, zero: zero as i32 })
}

/// A quantized row with its bias and the values of its sum. Without a scale, twice the result is in the bias.
struct Row {
    weights: Vec<i8>,
    zero: i32,
    scale: Option<Scale>,
    bias: i64,
    bound: Interval,
}

fn in_channel(channel_idx: usize, problem: Problem) -> Problem {
    Problem { message: format!("output channel {channel_idx}: {}", problem.message), ..problem }
}

/// Steps at which the clipping of a row is tried, as a share of the row's largest weight: from 30 to 100 %.
const CLIPPING_STEPS: std::ops::RangeInclusive<u32> = 60..=200;

impl Grid {
    /// The grid of a row of weights; `None` if all are 0. With 8 bits the largest weight is on it. With 4 bits it is the
    /// grid with the least squared error: so few values are better spent on the many small weights.
    pub fn of(row: &[f32], dtype: DType) -> Option<Grid> {
        let largest = row.iter().fold(0.0f64, |m, &w| m.max(f64::from(w).abs()));
        let covering = |magnitude: f64| {
            let scale = Scale::new(magnitude / f64::from(Grid::most(dtype))).filter(|_| largest > 0.0)?;
            Some(Grid { scale, dtype })
        };
        if dtype.bits() >= 8 {
            return covering(largest);
        }
        let share = |step: u32| largest * f64::from(step) / f64::from(*CLIPPING_STEPS.end());
        let grids = CLIPPING_STEPS.rev().filter_map(|step| covering(share(step)));
        grids
            .map(|grid| (grid.squared_error(row), grid))
            .reduce(|best, next| if next.0 < best.0 { next } else { best })
            .map(|(_, grid)| grid)
    }

    /// The nearest weight on the grid, as an integer.
    pub fn nearest(self, weight: f32) -> i8 {
        let most = i64::from(Grid::most(self.dtype));
        round_half_even(f64::from(weight) / self.scale.get()).clamp(-most, most) as i8
    }

    /// Largest magnitude of a quantized weight. The smallest value of the type is left out so that `|w| * |x|` sums stay
    /// symmetric.
    pub fn most(dtype: DType) -> i32 {
        dtype.max()
    }

    fn squared_error(self, row: &[f32]) -> f64 {
        let error = |&w: &f32| f64::from(w) - self.scale.get() * f64::from(self.nearest(w));
        row.iter().map(|w| error(w).powi(2)).sum()
    }

    /// The grid with a step that is at least `step`; `None` if that is out of reach.
    fn with_step_of(self, step: f64) -> Option<Grid> {
        let scale = Scale::new(step.max(self.scale.get()))?;
        Some(Grid { scale, ..self })
    }
}

fn quantize_row(row: &[f32], stored: Option<StoredRow>, bias: f32, site: &Site) -> Result<Row, Problem> {
    let (input, s_out) = (site.operands[0], site.result_params().scale.get());
    let (s_in, x) = (site.operand_params(0)?.scale.get(), input.centred());
    let reach = s_in * x.hi.max(-x.lo) as f64;
    let most: f64 = row.iter().map(|&w| f64::from(w).abs() * reach).sum();
    // A bias leaves its share of the accumulator to the sum.
    let bias_step = f64::from(bias).abs() / (s_in * BIAS_MAX);
    let symmetric = || {
        let grid = Grid::of(row, site.weights).and_then(|grid| grid.with_step_of(bias_step))?;
        Some(StoredRow { scale: grid.scale, weights: row.iter().map(|&w| grid.nearest(w)).collect(), zero: 0 })
    };
    let Some(quantized) = stored.or_else(symmetric).filter(|_| most > s_out * VANISHING_STEPS) else {
        return Ok(constant_row(row.len(), bias, s_out));
    };
    let StoredRow { scale, weights, zero } = quantized;
    let bias = round_half_even(f64::from(bias) / (s_in * scale.get()));
    let bound = accumulator_bound(&weights, zero, bias, x);
    check_accumulator((weights.len(), zero), bias, bound, input.dtype)?;
    Ok(Row { weights, zero, scale: Some(scale), bias, bound })
}

/// From the sums of rows to results.
fn multipliers(rows: &[Row], site: &Site) -> Result<Vec<Multiplier>, Problem> {
    let (input, output) = (site.operand_params(0)?, site.result_params());
    let native = |row: &Row| match row.scale {
        Some(scale) => Multiplier::new(input.scale.get() * scale.get() / output.scale.get())
            .filter(|multiplier| multiplier.accepts_for(row.bound, site.result.dtype)),
        None => Some(Multiplier::half()),
    };
    // As ONNX Runtime computes it, in 32-bit floats.
    let factor = |row: &Row| match row.scale {
        Some(scale) => f64::from(input.scale.as_f32() * scale.as_f32() / output.scale.as_f32()),
        None => 0.5,
    };
    let shift = Multiplier::exact_shift(rows.iter().map(factor));
    let reach = rows.iter().map(|row| row.bound.lo.abs().max(row.bound.hi.abs())).max().unwrap_or(0);
    let reach = i64::try_from(reach).unwrap_or(i64::MAX);
    let fits = |shift: &u32| rows.iter().all(|row| Multiplier::exact(factor(row), *shift, reach).is_some());
    let exact_shift = (shift.saturating_sub(MAX_LOST_BITS).max(1)..=shift).rev().find(fits);
    let one = |(channel_idx, row): (usize, &Row)| {
        let multiplier = match (site.numerics, exact_shift) {
            (Numerics::Ort, Some(shift)) => {
                let exact = Multiplier::exact(factor(row), shift, reach);
                if site.result.dtype.bits() > 8 { exact } else { exact.map(Multiplier::in_single_precision) }
            }
            (Numerics::Native, _) | (Numerics::Ort, None) => native(row),
        };
        multiplier.ok_or_else(|| in_channel(channel_idx, too_narrow()))
    };
    rows.iter().enumerate().map(one).collect()
}

/// So many bits of the smallest factor of a layer may be lost so that the largest fits.
const MAX_LOST_BITS: u32 = 16;

/// A channel without weights. With a multiplier of one half, twice the result in the bias gives it exactly.
fn constant_row(len: usize, bias: f32, s_out: f64) -> Row {
    // The result saturates far below this, so nothing is lost.
    let bias = 2 * round_half_even(f64::from(bias) / s_out).clamp(-1_000_000, 1_000_000);
    Row { weights: vec![0; len], zero: 0, scale: None, bias, bound: Interval::new(bias, bias) }
}

fn accumulator_bound(weights: &[i8], weight_zero: i32, bias: i64, x: Interval) -> Interval {
    let (mut min, mut max) = (i128::from(bias), i128::from(bias));
    for &w in weights {
        let w = i128::from(w) - i128::from(weight_zero);
        min += (w * x.lo).min(w * x.hi);
        max += (w * x.lo).max(w * x.hi);
    }
    Interval::new(min, max)
}

/// Also covers every partial sum, and the form with the zero point folded into the bias.
fn check_accumulator(
    (products, weight_zero): (usize, i32),
    bias: i64,
    bound: Interval,
    input: DType,
) -> Result<(), Problem> {
    let (fits, most, bits) = match input {
        // Counts every weight as the largest, as the checker of the emitted loops does, which knows a table only by its
        // smallest and largest value.
        DType::I4 | DType::I8 => {
            let most = most_magnitude(products, weight_zero, bias);
            (fits_i32(bound) && most <= i64::from(i32::MAX), i128::from(most), 32)
        }
        // The emitted accumulator is declared with its bound.
        DType::I16 | DType::I32 => (is_accumulator(bound), bound.lo.abs().max(bound.hi.abs()), 46),
    };
    if fits {
        return Ok(());
    }
    let message = format!("a sum of {products} products and a bias can reach {most}, more than {bits} bits hold");
    Err(Problem { code: Code::AccumulatorOverflow, message, help: None }
        .help("split the layer: fewer input channels or a smaller kernel for each sum, then add the parts"))
}

fn most_magnitude(products: usize, weight_zero: i32, bias: i64) -> i64 {
    let factor = if weight_zero == 0 { i64::from(Grid::most(DType::I8)) } else { 255 };
    // 256 instead of 255: leaves room for a stored weight of -128.
    bias.abs() + products as i64 * factor * 256
}

/// Any accumulator times any multiplier can be requantized in 64 bits: emitted loops over channels are checked as a whole.
fn check_products(channels: &[Channel], products: usize, (input, result): (DType, DType)) -> Result<(), Problem> {
    let largest = channels.iter().map(|channel| i128::from(channel.multiplier.factor())).max().unwrap_or(0);
    let most = match input {
        DType::I4 | DType::I8 => {
            let most = |channel: &Channel| most_magnitude(products, channel.weight_zero, channel.bias.into());
            channels.iter().map(|channel| i128::from(most(channel))).max()
        }
        DType::I16 | DType::I32 => {
            channels.iter().map(|channel| channel.bound.lo.abs().max(channel.bound.hi.abs())).max()
        }
    };
    let wide = input.bits() > 8 || result.bits() > 8;
    if products_fit(most.unwrap_or(0), largest, wide) { Ok(()) } else { Err(too_narrow()) }
}

/// Whether accumulators of this magnitude can be multiplied with this factor: at once, or if `wide` in two parts as
/// [`Multiplier::accepts`] describes.
fn products_fit(most: i128, factor: i128, wide: bool) -> bool {
    most * factor < i128::from(i64::MAX / 2) || wide && factor < 1 << 45 && ((most >> 16) + 1) * factor < 1 << 61
}

pub(crate) fn too_narrow() -> Problem {
    let message = "the range of the result is far too narrow for what the layer computes".to_owned();
    Problem { code: Code::InvalidRange, message, help: None }
        .help("calibrate again, or correct the entry of this tensor in the ranges file")
}
