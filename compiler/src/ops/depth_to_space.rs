//! ONNX `DepthToSpace` and `SpaceToDepth`: both are a transpose between two reshapes.

use super::import::NodeImport;
use super::reshape::Reshape;
use super::transpose::Transpose;
use crate::diag;
use crate::ir::Shape;

/// Imports `DepthToSpace`.
pub fn import_depth_to_space(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let block = cx.usize_or("blocksize", 0)?;
    let &[n, c, h, w] = cx.shape(x).dims() else {
        return Err(cx.invalid(format!("its input has shape {}, not four axes", cx.shape(x))));
    };
    if block == 0 || block > c || !c.is_multiple_of(block * block) {
        return Err(cx.invalid(format!("{c} channels do not form blocks of {block}x{block}")));
    }
    let depth = c / (block * block);
    let (split, order) = match cx.string_or("mode", "DCR")?.as_str() {
        "DCR" => ([n, block, block, depth, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([n, depth, block, block, h, w], [0, 1, 4, 2, 5, 3]),
        other => return Err(cx.invalid(format!("attribute mode is `{other}`"))),
    };
    moved(cx, x, &split, &order, &[n, depth, h * block, w * block])
}

/// Imports `SpaceToDepth`.
pub fn import_space_to_depth(cx: &mut NodeImport) -> diag::Result<()> {
    let x = cx.activation(0)?;
    let block = cx.usize_or("blocksize", 0)?;
    let &[n, c, h, w] = cx.shape(x).dims() else {
        return Err(cx.invalid(format!("its input has shape {}, not four axes", cx.shape(x))));
    };
    if block == 0 || !h.is_multiple_of(block) || !w.is_multiple_of(block) {
        return Err(cx.invalid(format!("{} does not consist of blocks of {block}x{block}", cx.shape(x))));
    }
    let (rows, columns) = (h / block, w / block);
    let depth = c.saturating_mul(block).saturating_mul(block);
    let order = match cx.string_or("mode", "DCR")?.as_str() {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => {
            return Err(cx.unsupported("mode `CRD`", "write it as Reshape, Transpose and Reshape, or use mode `DCR`"));
        }
        other => return Err(cx.invalid(format!("attribute mode is `{other}`"))),
    };
    moved(cx, x, &[n, c, rows, block, columns, block], &order, &[n, depth, rows, columns])
}

fn moved(
    cx: &mut NodeImport,
    x: crate::ir::NodeId,
    split: &[usize],
    order: &[usize],
    joined: &[usize],
) -> diag::Result<()> {
    let split = cx.emit(Reshape { shape: Shape::new(split) }, &[x])?;
    let moved = cx.emit(Transpose { order: order.to_vec() }, &[split])?;
    cx.finish(0, Reshape { shape: Shape::new(joined) }, &[moved]).map(drop)
}
