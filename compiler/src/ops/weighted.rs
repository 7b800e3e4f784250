//! What convolutions and linear layers share: weights, biases and multipliers for each output channel.

use super::{Problem, Site, fits_i32, is_accumulator};
use crate::diag::Code;
use crate::ir::{Clamp, DType, Interval, Multiplier, Scale, round_half_even};

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
    /// scale for each row: [`Grid::of`].
    ///
    /// Errors: a sum that the accumulator may not hold; a multiplier out of reach.
    pub fn quantize(weights: &[f32], bias: &[f32], clamp: Clamp, site: &Site) -> Result<Self, Problem> {
        let (input, output) = (site.operand_params(0)?, site.result_params());
        let row_len = weights.len() / bias.len().max(1);
        let mut quantized = Vec::with_capacity(weights.len());
        let mut channels = Vec::with_capacity(bias.len());
        for (channel_idx, &bias) in bias.iter().enumerate() {
            let row = &weights[channel_idx * row_len..][..row_len];
            let (row, channel) = quantize_row(row, bias, site).map_err(|problem| Problem {
                message: format!("output channel {channel_idx}: {}", problem.message),
                ..problem
            })?;
            quantized.extend(row);
            channels.push(channel);
        }
        let input_type = site.operands[0].dtype;
        check_products(&channels, row_len, input_type)?;
        Ok(Weighted {
            weights: quantized,
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

    /// Keeps some output channels, and some columns of the weights.
    pub fn retain(&mut self, rows: &[bool], columns: &[bool]) {
        let mut at = rows.iter().flat_map(|&row| columns.iter().map(move |&column| row && column));
        self.weights.retain(|_| at.next() == Some(true));
        let mut rows = rows.iter();
        self.channels.retain(|_| rows.next() == Some(&true));
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
            check_accumulator(products, channel.bias.into(), channel.bound, self.input_type)?;
        }
        check_products(&self.channels, products, self.input_type)
    }

    /// All values any accumulator can take.
    pub fn accumulator(&self) -> Option<Interval> {
        self.channels.iter().map(|channel| channel.bound).reduce(Interval::hull)
    }

    /// From accumulator to result.
    pub fn finish(&self, channel_idx: usize, acc: i64) -> i32 {
        let Channel { multiplier, bound, .. } = &self.channels[channel_idx];
        let steps = match fits_i32(*bound) {
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
            "x is {} at zero; y = clamp({} + ((acc * multiplier[c] + 2^30) >> 31), {lo}, {hi})",
            self.input_zero, self.output_zero
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

fn quantize_row(row: &[f32], bias: f32, site: &Site) -> Result<(Vec<i8>, Channel), Problem> {
    let (input, s_out) = (site.operands[0], site.result_params().scale.get());
    let (s_in, x) = (site.operand_params(0)?.scale.get(), input.centred());
    let reach = s_in * x.hi.max(-x.lo) as f64;
    let most: f64 = row.iter().map(|&w| f64::from(w).abs() * reach).sum();
    // A bias leaves its share of the accumulator to the sum.
    let bias_step = f64::from(bias).abs() / (s_in * BIAS_MAX);
    let grid = Grid::of(row, site.weights).and_then(|grid| grid.with_step_of(bias_step));
    let Some(grid) = grid.filter(|_| most > s_out * VANISHING_STEPS) else {
        return Ok((vec![0; row.len()], constant_channel(bias, s_out)));
    };
    let weights: Vec<i8> = row.iter().map(|&w| grid.nearest(w)).collect();
    let step = s_in * grid.scale.get();
    let bias = round_half_even(f64::from(bias) / step);
    let bound = accumulator_bound(&weights, bias, x);
    check_accumulator(weights.len(), bias, bound, input.dtype)?;
    let multiplier = Multiplier::new(step / s_out).filter(|m| m.accepts(bound)).ok_or_else(too_narrow)?;
    // The step of the grid keeps the bias in 32 bits.
    Ok((weights, Channel { bias: bias as i32, multiplier, bound, weight_scale: grid.scale.as_f32() }))
}

/// A channel without weights. With a multiplier of one half, twice the result in the bias gives it exactly.
fn constant_channel(bias: f32, s_out: f64) -> Channel {
    // The result saturates far below this, so nothing is lost.
    let steps = round_half_even(f64::from(bias) / s_out).clamp(-1_000_000, 1_000_000) as i32;
    Channel { bias: 2 * steps, multiplier: Multiplier::half(), bound: Interval::point(2 * steps), weight_scale: 0.0 }
}

fn accumulator_bound(weights: &[i8], bias: i64, x: Interval) -> Interval {
    let (mut min, mut max) = (i128::from(bias), i128::from(bias));
    for &w in weights {
        let w = i128::from(w);
        min += (w * x.lo).min(w * x.hi);
        max += (w * x.lo).max(w * x.hi);
    }
    Interval::new(min, max)
}

/// Also covers every partial sum, and the form with the zero point folded into the bias.
fn check_accumulator(products: usize, bias: i64, bound: Interval, input: DType) -> Result<(), Problem> {
    let (fits, most, bits) = match input {
        // Counts every weight as the largest, as the checker of the emitted loops does, which knows a table only by its
        // smallest and largest value.
        DType::I4 | DType::I8 => {
            let most = most_magnitude(products, bias);
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

fn most_magnitude(products: usize, bias: i64) -> i64 {
    bias.abs() + products as i64 * i64::from(Grid::most(DType::I8)) * 256
}

/// Any accumulator times any multiplier can be requantized in 64 bits: emitted loops over channels are checked as a whole.
fn check_products(channels: &[Channel], products: usize, input: DType) -> Result<(), Problem> {
    let factor = |multiplier: Multiplier| i128::from(multiplier.mantissa()) << multiplier.left_shift();
    let largest = channels.iter().map(|channel| factor(channel.multiplier)).max().unwrap_or(0);
    let most = match input {
        DType::I4 | DType::I8 => {
            channels.iter().map(|channel| i128::from(most_magnitude(products, i64::from(channel.bias)))).max()
        }
        DType::I16 | DType::I32 => {
            channels.iter().map(|channel| channel.bound.lo.abs().max(channel.bound.hi.abs())).max()
        }
    };
    if products_fit(most.unwrap_or(0), largest) { Ok(()) } else { Err(too_narrow()) }
}

/// Whether accumulators of this magnitude can be multiplied with this factor: at once, or in two parts as
/// [`Multiplier::accepts`] describes.
fn products_fit(most: i128, factor: i128) -> bool {
    let wide = most > i128::from(i32::MAX);
    most * factor < i128::from(i64::MAX / 2) || wide && factor < 1 << 45 && ((most >> 16) + 1) * factor < 1 << 61
}

pub(super) fn too_narrow() -> Problem {
    let message = "the range of the result is far too narrow for what the layer computes".to_owned();
    Problem { code: Code::InvalidRange, message, help: None }
        .help("calibrate again, or correct the entry of this tensor in the ranges file")
}
