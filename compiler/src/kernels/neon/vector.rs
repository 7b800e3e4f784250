//! Vector types and the instructions that several kernels use.

use crate::program::{Affine, Buffer, Expr, FunctionBuilder, Type};

pub const I8X8: Type = Type::Vector("int8x8_t");
pub const I8X16: Type = Type::Vector("int8x16_t");
pub const I16X8: Type = Type::Vector("int16x8_t");
pub const I32X4: Type = Type::Vector("int32x4_t");
pub const U8X16: Type = Type::Vector("uint8x16_t");

/// A call that returns 8 bytes.
pub fn i8x8(intrinsic: &str, args: Vec<Expr>) -> Expr {
    Expr::vector(intrinsic, I8X8, args)
}

/// A call that returns 16 bytes.
pub fn i8x16(intrinsic: &str, args: Vec<Expr>) -> Expr {
    Expr::vector(intrinsic, I8X16, args)
}

/// A call that returns 4 numbers of 16 bits.
pub fn i16x4(intrinsic: &str, args: Vec<Expr>) -> Expr {
    Expr::vector(intrinsic, Type::Vector("int16x4_t"), args)
}

/// A call that returns 8 numbers of 16 bits.
pub fn i16x8(intrinsic: &str, args: Vec<Expr>) -> Expr {
    Expr::vector(intrinsic, I16X8, args)
}

/// A call that returns 4 numbers of 32 bits.
pub fn i32x4(intrinsic: &str, args: Vec<Expr>) -> Expr {
    Expr::vector(intrinsic, I32X4, args)
}

/// A call that returns 16 unsigned bytes.
pub fn u8x16(intrinsic: &str, args: Vec<Expr>) -> Expr {
    Expr::vector(intrinsic, U8X16, args)
}

/// 8 bytes of memory.
pub fn load_8(f: &FunctionBuilder, buffer: Buffer, at: impl Into<Affine>) -> Expr {
    i8x8("vld1_s8", vec![f.source(buffer, at, 8, "int8_t")])
}

/// 16 bytes of memory.
pub fn load_16(f: &FunctionBuilder, buffer: Buffer, at: impl Into<Affine>) -> Expr {
    i8x16("vld1q_s8", vec![f.source(buffer, at, 16, "int8_t")])
}

/// 4 numbers of 32 bits.
pub fn load_i32(f: &FunctionBuilder, buffer: Buffer, at: impl Into<Affine>) -> Expr {
    i32x4("vld1q_s32", vec![f.source(buffer, at, 4, "int32_t")])
}

/// `count` bytes of memory, at most 8; the other lanes are 0.
pub fn load_up_to_8(f: &FunctionBuilder, buffer: Buffer, at: Affine, count: usize) -> Expr {
    if count == 8 {
        return load_8(f, buffer, at);
    }
    (0..count as i64).fold(i8x8("vdup_n_s8", vec![Expr::i32(0)]), |value, lane| {
        let source = f.source(buffer, at.clone() + lane, 1, "int8_t");
        i8x8("vld1_lane_s8", vec![source, value, Expr::i32(lane)])
    })
}

/// Stores the first `count` of 8 bytes.
pub fn store_8(f: &mut FunctionBuilder, buffer: Buffer, at: impl Into<Affine>, count: usize, value: Expr) {
    let at = at.into();
    if count == 8 {
        let target = f.target(buffer, at, 8, "int8_t");
        return f.call("vst1_s8", vec![target, value]);
    }
    let value = f.bind("last", I8X8, value);
    for lane in 0..count as i64 {
        let target = f.target(buffer, at.clone() + lane, 1, "int8_t");
        f.call("vst1_lane_s8", vec![target, value.clone(), Expr::i32(lane)]);
    }
}

/// Stores 16 bytes.
pub fn store_16(f: &mut FunctionBuilder, buffer: Buffer, at: impl Into<Affine>, value: Expr) {
    let target = f.target(buffer, at, 16, "int8_t");
    f.call("vst1q_s8", vec![target, value]);
}

/// Channels that a kernel across channels needs at least.
pub const NARROW: usize = 8;

/// Blocks of neighbouring channels: the first, how many blocks, and channels of each, `wide` or [`NARROW`]. A block may
/// overlap the one before. There have to be [`NARROW`] channels at least.
pub fn channel_blocks(channels: usize, wide: usize) -> Vec<(usize, usize, usize)> {
    let whole = channels / wide;
    let mut blocks = if whole > 0 { vec![(0, whole, wide)] } else { vec![] };
    match channels % wide {
        0 => {}
        rest if rest <= NARROW => blocks.push((channels - NARROW, 1, NARROW)),
        _ if whole > 0 => blocks.push((channels - wide, 1, wide)),
        _ => blocks.extend([(0, 1, NARROW), (channels - NARROW, 1, NARROW)]),
    }
    blocks
}
