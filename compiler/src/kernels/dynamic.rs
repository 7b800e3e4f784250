//! Around a layer whose input is scaled in every inference: finding the scale, using it, undoing it.

use super::LayerBuilder;
use super::common::{clamped, loops};
use super::elementwise::common_loops;
use super::strides;
use crate::ir::Clamp;
use crate::ops::QuantOp;
use crate::ops::dynamic_quantize::DynamicQuantize;
use crate::ops::magnitude::Magnitude;
use crate::plan::{Dim, View, joined};
use crate::program::{Affine, Buffer, Elem, Expr, FunctionBuilder, Type};

/// `max |x|`.
pub fn build_magnitude(b: &mut LayerBuilder) {
    let x_strides = strides(&b.operand(0).view);
    let extents = b.operand(0).ty.shape.dims().iter().zip(x_strides);
    let dims = joined(extents.map(|(&extent, stride)| Dim { extent, strides: vec![stride as isize] }).collect());
    let (x, y) = (b.x(0), b.y());
    let f = &mut b.f;
    let most = f.mutable("most", Type::I32, Expr::i32(1));
    loops(f, &dims, 1, &mut |f, at| {
        let value = f.bind("value", Type::I32, f.load(x, at[0].clone()));
        let magnitude = value.clone().max(Expr::i32(0).sub(value));
        f.set(most, Expr::Reg(most).max(magnitude));
    });
    f.store(y, Affine::default(), Expr::Reg(most).min(Expr::i32(Magnitude::MOST.into())));
}

/// `x * 127 / m`, rounded.
pub fn build_quantize(b: &mut LayerBuilder) {
    let dims = common_loops(b, &[]);
    let (x, m, y) = (b.x(0), b.x(1), b.y());
    let f = &mut b.f;
    let divisor = magnitude(f, m).cast(Type::U32);
    let one = Expr::Const(Type::U32, i64::from(DynamicQuantize::MOST) << DynamicQuantize::SHIFT);
    let reciprocal = f.bind("reciprocal", Type::I64, one.div(divisor).cast(Type::I64));
    let bounds = Clamp { lo: -DynamicQuantize::MOST, hi: DynamicQuantize::MOST };
    loops(f, &dims, 3, &mut |f, at| {
        let product = f.load(x, at[0].clone()).cast(Type::I64).mul(reciprocal.clone());
        let steps = product.add(Expr::i64(1 << (DynamicQuantize::SHIFT - 1))).shr(DynamicQuantize::SHIFT);
        f.store(y, at[2].clone(), clamped(steps, Type::I64, bounds).cast(Type::I32));
    });
}

/// `clamp((z * m * factor + offset[c]) >> shift)`.
pub fn build_dequantize(b: &mut LayerBuilder) {
    let Some(QuantOp::DynamicDequantize(op)) = b.op().cloned() else { return };
    let doc = "Addends, one for each channel: bias, zero point and rounding.";
    let offsets = b.blob("offset", doc, Elem::I64, op.offsets.clone());
    let channel = View::along(b.result().ty.shape.rank(), op.axis, op.offsets.len());
    let dims = common_loops(b, &[channel]);
    let (z, m, y) = (b.x(0), b.x(1), b.y());
    let f = &mut b.f;
    let m = magnitude(f, m).cast(Type::I64);
    let scale = f.bind("scale", Type::I64, m.mul(Expr::i64(op.factor)));
    loops(f, &dims, 4, &mut |f, at| {
        let product = f.load(z, at[0].clone()).cast(Type::I64).mul(scale.clone());
        let steps = product.add(f.load(offsets, at[2].clone())).shr(op.shift);
        f.store(y, at[3].clone(), clamped(steps, Type::I64, op.clamp).cast(Type::I32));
    });
}

/// The magnitude of this inference, read once. It always is within the bounds; they let the checker see it.
fn magnitude(f: &mut FunctionBuilder, m: Buffer) -> Expr {
    let value = f.load(m, Affine::default());
    f.bind("magnitude", Type::I32, clamped(value, Type::I32, Clamp { lo: 1, hi: Magnitude::MOST }))
}
