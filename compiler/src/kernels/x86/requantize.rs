//! From accumulators in 32-bit lanes to results.
//!
//! `clamp(z + ((acc * m + 2^30) >> 31))` is the upper half of `acc * 2m + 2^31 + z * 2^32`, a product of 64 bits. An
//! instruction multiplies the even lanes; the odd ones are shifted into their place first.

use super::isa::{Isa, immediate, load, narrow, op, splat, vector};
use crate::ir::{Clamp, Interval, Multiplier};
use crate::kernels::LayerBuilder;
use crate::program::{Affine, Buffer, Elem, Expr, FunctionBuilder, Type};

/// What a layer's requantization needs.
pub struct Requantize {
    multipliers: Factors,
    /// Whether the constants are the mantissas themselves, because twice of one would not fit.
    single: bool,
    zero: i32,
    clamp: Clamp,
}

enum Factors {
    /// One for all channels.
    One(Multiplier),
    /// One for each lane, in the kernel's order; powers of two that come before, if there are any.
    Each(Buffer, Option<Buffer>),
}

/// Whether every channel, with its bounds of the accumulator, can be requantized like this.
pub fn accepts(mut channels: impl Iterator<Item = (Multiplier, Interval)>) -> bool {
    let fits = |(multiplier, bound): (Multiplier, Interval)| {
        let factor = i128::from(multiplier.mantissa()) << (multiplier.left_shift() + 1);
        let most = bound.lo.abs().max(bound.hi.abs()) * factor + (1 << 41);
        multiplier.accepts(bound) && most < i128::from(i64::MAX)
    };
    channels.all(fits)
}

impl Requantize {
    /// For channels in the order of the kernel's lanes; `None` is a lane without a channel.
    pub fn new(b: &mut LayerBuilder, lanes: &[Option<Multiplier>], zero: i32, clamp: Clamp) -> Requantize {
        let used = || lanes.iter().flatten();
        let single = used().any(|m| m.mantissa() >= 1 << 30);
        let factor = |m: &Option<Multiplier>| m.map_or(0, |m| i64::from(m.mantissa()) << i64::from(!single));
        let doc = match single {
            true => "Requantization multipliers, 2^31 is one.",
            false => "Requantization multipliers, 2^32 is one.",
        };
        let factors = b.blob("multiplier", doc, Elem::I32, lanes.iter().map(factor).collect());
        let scales = used().any(|m| m.left_shift() > 0).then(|| {
            let scales = lanes.iter().map(|m| m.map_or(0, |m| 1 << m.left_shift()));
            b.blob("scale", "Powers of two, with which accumulators are multiplied first.", Elem::I32, scales.collect())
        });
        Requantize { multipliers: Factors::Each(factors, scales), single, zero, clamp }
    }

    /// One multiplier for all lanes.
    pub fn uniform(multiplier: Multiplier, zero: i32, clamp: Clamp) -> Requantize {
        Requantize { multipliers: Factors::One(multiplier), single: multiplier.mantissa() >= 1 << 30, zero, clamp }
    }

    /// Declares what requantizing the lanes from `channel` on needs.
    pub fn lanes(&self, f: &mut FunctionBuilder, isa: &Isa, bits: usize, channel: &Affine) -> Lanes<'_> {
        let (even, scale) = match &self.multipliers {
            Factors::One(multiplier) => {
                let factor = i64::from(multiplier.mantissa()) << i64::from(!self.single);
                let shift = multiplier.left_shift();
                (splat(bits, 32, factor), (shift > 0).then(|| splat(bits, 32, 1 << shift)))
            }
            Factors::Each(factors, scales) => {
                let at = |buffer: Buffer| load(f, buffer, channel.clone(), bits / 8, 4);
                (at(*factors), scales.map(at))
            }
        };
        let even = isa.bind(f, "m_even", bits, even);
        let odd = isa.bind(f, "m_odd", bits, op(bits, "srli_epi64", vec![even.clone(), immediate(32)]));
        let scale = scale.map(|scale| isa.bind(f, "scale", bits, scale));
        Lanes { requantize: self, bits, even, odd, scale }
    }

    /// Limits vectors of bytes, where the type's own limits are not enough.
    pub fn clamped(&self, bits: usize, value: Expr) -> Expr {
        clamped(bits, self.clamp, value)
    }
}

/// Limits vectors of bytes, where the type's own limits are not enough.
pub fn clamped(bits: usize, Clamp { lo, hi }: Clamp, value: Expr) -> Expr {
    let value = if lo > -128 { op(bits, "max_epi8", vec![value, splat(bits, 8, lo.into())]) } else { value };
    if hi < 127 { op(bits, "min_epi8", vec![value, splat(bits, 8, hi.into())]) } else { value }
}

/// Some lanes' multipliers, declared.
pub struct Lanes<'a> {
    requantize: &'a Requantize,
    bits: usize,
    even: Expr,
    odd: Expr,
    /// What accumulators are multiplied with before, where a multiplier is 1 or more.
    scale: Option<Expr>,
}

impl Lanes<'_> {
    /// The results as 32-bit lanes, not yet limited.
    pub fn apply(&self, f: &mut FunctionBuilder, isa: &Isa, acc: Expr) -> Expr {
        let bits = self.bits;
        let acc = match &self.scale {
            None => acc,
            Some(scale) => isa.bind(f, "scaled", bits, op(bits, "mullo_epi32", vec![acc, scale.clone()])),
        };
        let high = op(bits, "srli_epi64", vec![acc.clone(), immediate(32)]);
        let even = self.product(f, isa, "even", acc, self.even.clone());
        let odd = self.product(f, isa, "odd", high, self.odd.clone());
        let even = op(bits, "srli_epi64", vec![even, immediate(32)]);
        let blended = match bits {
            512 => op(512, "mask_blend_epi32", vec![Expr::i32(0xaaaa), even, odd]),
            256 => op(256, "blend_epi32", vec![even, odd, immediate(0xaa)]),
            _ => op(128, "blend_epi16", vec![even, odd, immediate(0xcc)]),
        };
        isa.bind(f, "q", bits, blended)
    }

    fn product(&self, f: &mut FunctionBuilder, isa: &Isa, name: &str, acc: Expr, factor: Expr) -> Expr {
        let bits = self.bits;
        let product = op(bits, "mul_epi32", vec![acc, factor]);
        let product = match self.requantize.single {
            false => product,
            true => {
                let product = isa.bind(f, "half", bits, product);
                op(bits, "add_epi64", vec![product.clone(), product])
            }
        };
        let rounding = (1i64 << 31) + (i64::from(self.requantize.zero) << 32);
        let rounding = match bits {
            512 => op(512, "set1_epi64", vec![Expr::Const(Type::I64, rounding)]),
            _ => op(bits, "set1_epi64x", vec![Expr::Const(Type::I64, rounding)]),
        };
        isa.bind(f, name, bits, op(bits, "add_epi64", vec![product, rounding]))
    }
}

/// 32-bit lanes as saturated bytes, in the low part of 128 bits.
pub fn bytes_of_lanes(f: &mut FunctionBuilder, isa: &Isa, bits: usize, lanes: Expr) -> Expr {
    let words = match bits {
        512 => {
            return f.bind("bytes", vector(128), narrow(512, "cvtsepi32_epi8", vec![lanes]));
        }
        256 => {
            let low = narrow(256, "castsi256_si128", vec![lanes.clone()]);
            let high = narrow(256, "extracti128_si256", vec![lanes, immediate(1)]);
            op(128, "packs_epi32", vec![low, high])
        }
        _ => op(128, "packs_epi32", vec![lanes.clone(), lanes]),
    };
    let words = isa.bind(f, "words", 128, words);
    isa.bind(f, "bytes", 128, op(128, "packs_epi16", vec![words.clone(), words]))
}
