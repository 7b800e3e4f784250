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
