//! From accumulators to results: `y = clamp(z + ((acc * m + 2^30) >> 31))`, 8 channels at a time.
//!
//! `vqrdmulhq_s32` is that product exactly, for multipliers below 1: it doubles, rounds with ties up and keeps the upper
//! half, and saturates only where both factors are the smallest number. Narrowing saturates, so the clamp to 8 bits is
//! free, and the zero point can be added to 16 bits. Multipliers of 1 and more shift the accumulator before.

use super::super::LayerBuilder;
use super::Unit;
use super::vector::{I8X8, I16X8, I32X4, i8x8, i16x4, i16x8, i32x4, load_i32, load_up_to_8, store_8};
use crate::ir::Clamp;
use crate::ops::add::QAdd;
use crate::plan::Layer;
use crate::program::{Affine, Buffer, Elem, Expr, FunctionBuilder, Type};

/// What follows the sums of a layer.
#[derive(Debug, Clone)]
pub struct Requantize {
    unit: Unit,
    multipliers: Multipliers,
    zero: i32,
    clamp: Clamp,
    added: Option<(QAdd, usize, Buffer)>,
}

#[derive(Debug, Clone)]
enum Multipliers {
    /// Mantissa and shift of all channels.
    One(i64, i64),
    /// Mantissas, and shifts if some channel has one.
    Channels(Buffer, Option<Buffer>),
}

/// Multipliers and shifts of 8 channels or 4, in registers.
#[derive(Debug, Clone)]
pub struct Scales(Vec<(Expr, Option<Expr>)>);

/// Whether the sum that is fused into a layer can be computed.
pub fn can_add(layer: &Layer) -> bool {
    layer.added.as_ref().is_none_or(|added| !added.add.precision.wide)
}

impl Multipliers {
    fn of_channels(b: &mut LayerBuilder, scales: &[(i32, u32)]) -> Multipliers {
        let mantissas = scales.iter().map(|&(mantissa, _)| i64::from(mantissa)).collect();
        let mantissas = b.blob("multiplier", "Requantization multipliers, 2^31 is one.", Elem::I32, mantissas);
        let shifts = scales.iter().any(|&(_, shift)| shift > 0).then(|| {
            let shifts = scales.iter().map(|&(_, shift)| i64::from(shift)).collect();
            b.blob("shift", "Shifts to the left before the multiplication.", Elem::I32, shifts)
        });
        Multipliers::Channels(mantissas, shifts)
    }
}

impl Requantize {
    /// Adds the constants: multipliers as mantissa and shift, in the order in which they are read.
    pub fn new(b: &mut LayerBuilder, unit: Unit, scales: &[(i32, u32)], (zero, clamp): (i32, Clamp)) -> Requantize {
        let multipliers = match scales {
            [(mantissa, shift), rest @ ..] if rest.iter().all(|scale| *scale == scales[0]) => {
                Multipliers::One(i64::from(*mantissa), i64::from(*shift))
            }
            _ => Multipliers::of_channels(b, scales),
        };
        let addend = |b: &LayerBuilder| b.x(b.layer.operands.len() - 1);
        let added = b.layer.added.as_ref().map(|added| (added.add.clone(), added.port, addend(b)));
        Requantize { unit, multipliers, zero, clamp, added }
    }

    /// Loads what `vectors` vectors of four channels need, from `channel` on.
    pub fn load(&self, f: &mut FunctionBuilder, channel: &Affine, vectors: usize) -> Scales {
        let channels = |f: &mut FunctionBuilder, name: &str, buffer: Buffer, j: usize| {
            let value = load_i32(f, buffer, channel.clone() + 4 * j as i64);
            f.bind(name, I32X4, value)
        };
        match self.multipliers {
            Multipliers::Channels(multipliers, shifts) => {
                let scale = |f: &mut FunctionBuilder, j: usize| {
                    let multiplier = channels(f, "multiplier", multipliers, j);
                    (multiplier, shifts.map(|shifts| channels(f, "shift", shifts, j)))
                };
                Scales((0..vectors).map(|j| scale(f, j)).collect())
            }
            Multipliers::One(mantissa, shift) => {
                let all = |f: &mut FunctionBuilder, name: &str, value: i64| {
                    f.bind(name, I32X4, i32x4("vdupq_n_s32", vec![Expr::i32(value)]))
                };
                let multiplier = all(f, "multiplier", mantissa);
                let shift = (shift > 0).then(|| all(f, "shift", shift));
                Scales(vec![(multiplier, shift); vectors])
            }
        }
    }

    /// Stores `count` results of neighbouring channels from vectors of four accumulators.
    pub fn store(
        &self,
        f: &mut FunctionBuilder,
        sums: &[Expr],
        scales: &Scales,
        (y, at): (Buffer, &Affine),
        count: usize,
    ) {
        for (pair, start) in (0..count).step_by(8).enumerate() {
            let part = count.min(start + 8) - start;
            let first = 2 * pair;
            let steps = |j: usize| {
                let (multiplier, shift) = &scales.0[j];
                let sum = match shift {
                    Some(shift) => i32x4("vshlq_s32", vec![sums[j].clone(), shift.clone()]),
                    None => sums[j].clone(),
                };
                i32x4("vqrdmulhq_s32", vec![sum, multiplier.clone()])
            };
            let second = if first + 1 < sums.len() { first + 1 } else { first };
            let at = at.clone() + start as i64;
            let narrow = narrowed(f, self.unit, steps(first), steps(second));
            let value = self.finish(f, narrow);
            let value = match &self.added {
                None => value,
                Some((add, port, addend)) => self.sum(f, value, (add, *port), (*addend, &at), part),
            };
            store_8(f, y, at, part, value);
        }
    }

    /// Adds the zero point and clamps.
    fn finish(&self, f: &mut FunctionBuilder, steps: Expr) -> Expr {
        let zero = Expr::i32(i64::from(self.zero));
        let steps = match self.zero {
            0 => steps,
            _ => f.bind("shifted", I16X8, i16x8("vqaddq_s16", vec![steps, i16x8("vdupq_n_s16", vec![zero])])),
        };
        clamped(i8x8("vqmovn_s16", vec![steps]), self.clamp)
    }

    /// `clamp((a * factors[0] + b * factors[1] + offset) >> shift)` of the results and the elements of another tensor.
    fn sum(
        &self,
        f: &mut FunctionBuilder,
        own: Expr,
        (add, port): (&QAdd, usize),
        (addend, at): (Buffer, &Affine),
        count: usize,
    ) -> Expr {
        let own = f.bind("own", I8X8, own);
        let other = load_up_to_8(f, addend, at.clone(), count);
        let other = f.bind("other", I8X8, other);
        let operands = if port == 0 { [own, other] } else { [other, own] };
        sum_of_two(f, self.unit, add, operands)
    }
}

/// `clamp((a * factors[0] + b * factors[1] + offset) >> shift)` of 8 elements.
pub fn sum_of_two(f: &mut FunctionBuilder, unit: Unit, add: &QAdd, operands: [Expr; 2]) -> Expr {
    let [a, b] = operands.map(|operand| f.bind("wide", I16X8, i16x8("vmovl_s8", vec![operand])));
    let half = |f: &mut FunctionBuilder, half: &str| {
        let part = |value: &Expr| i32x4("vmovl_s16", vec![i16x4(half, vec![value.clone()])]);
        let factor = |port: usize| Expr::i32(i64::from(add.sum.factors[port]));
        let offset = i32x4("vdupq_n_s32", vec![Expr::i32(add.sum.offset)]);
        let sum = f.bind("sum", I32X4, i32x4("vmlaq_n_s32", vec![offset, part(&a), factor(0)]));
        let sum = f.bind("sum", I32X4, i32x4("vmlaq_n_s32", vec![sum, part(&b), factor(1)]));
        match add.precision.shift {
            0 => sum,
            shift => i32x4("vshrq_n_s32", vec![sum, Expr::i32(i64::from(shift))]),
        }
    };
    let (low, high) = (half(f, "vget_low_s16"), half(f, "vget_high_s16"));
    let narrow = narrowed(f, unit, low, high);
    clamped(i8x8("vqmovn_s16", vec![narrow]), add.clamp)
}

/// Two vectors of four numbers as one of eight, saturated to 16 bits.
fn narrowed(f: &mut FunctionBuilder, unit: Unit, low: Expr, high: Expr) -> Expr {
    let low = f.bind("low", Type::Vector("int16x4_t"), i16x4("vqmovn_s32", vec![low]));
    let both = match unit {
        Unit::Armv7 => i16x8("vcombine_s16", vec![low, i16x4("vqmovn_s32", vec![high])]),
        Unit::AArch64 | Unit::DotProduct => i16x8("vqmovn_high_s32", vec![low, high]),
    };
    f.bind("steps", I16X8, both)
}

/// 8 elements within `clamp`.
pub fn clamped(value: Expr, clamp: Clamp) -> Expr {
    let bound = |bound: i32| i8x8("vdup_n_s8", vec![Expr::i32(i64::from(bound))]);
    let value = if clamp.lo > -128 { i8x8("vmax_s8", vec![value, bound(clamp.lo)]) } else { value };
    if clamp.hi < 127 { i8x8("vmin_s8", vec![value, bound(clamp.hi)]) } else { value }
}
