//! Drops bounds of results that no result can exceed: what is left is the range of the type, which many processors
//! saturate to for nothing.

use super::intervals::{self, Operand};
use crate::ir::{Clamp, Graph, Quant};
use crate::ops::QuantOp;

/// No bound at all.
const NONE: Clamp = Clamp { lo: i32::MIN, hi: i32::MAX };

/// Drops what it can, each bound by itself.
pub fn run(graph: &mut Graph<Quant>) -> bool {
    let known = intervals::analyse(graph);
    let mut changed = false;
    for id in graph.topological() {
        let node = graph.node(id);
        let mut unclamped = node.op.clone();
        let Some(old) = clamp_mut(&mut unclamped).map(|clamp| std::mem::replace(clamp, NONE)) else { continue };
        let operands: Vec<Operand> = graph.operands(id).iter().map(|&id| Operand::of(graph, &known, id)).collect();
        let reach = intervals::result(&unclamped, &operands, &node.value).all();
        let full = Clamp::full(node.value.dtype);
        let new = Clamp {
            lo: if reach.lo >= old.lo.into() { full.lo } else { old.lo },
            hi: if reach.hi <= old.hi.into() { full.hi } else { old.hi },
        };
        if let Some(clamp) = clamp_mut(&mut graph.node_mut(id).op).filter(|clamp| **clamp != new) {
            *clamp = new;
            changed = true;
        }
    }
    changed
}

fn clamp_mut(op: &mut QuantOp) -> Option<&mut Clamp> {
    match op {
        QuantOp::Conv(conv) => Some(&mut conv.weighted.clamp),
        QuantOp::Linear(linear) => Some(&mut linear.weighted.clamp),
        QuantOp::Affine(affine) => Some(&mut affine.clamp),
        QuantOp::Rescale(rescale) => Some(&mut rescale.clamp),
        QuantOp::Add(add) => Some(&mut add.clamp),
        QuantOp::Mul(mul) => Some(&mut mul.clamp),
        QuantOp::AveragePool(pool) => Some(&mut pool.clamp),
        QuantOp::Mean(mean) => Some(&mut mean.clamp),
        _ => None,
    }
}
