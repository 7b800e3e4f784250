//! Rewrites of the float graph that change neither its outputs nor the names of the tensors that remain.
//!
//! Passes run until none of them finds anything to do. The graph is checked after every round.

mod cancel_moves;
mod drop_requantize;
mod fold_affine;
mod fold_product;
mod fuse_activation;
mod fuse_gate;
mod fuse_mask;
mod fuse_padding;
mod hoist_elementwise;
mod merge_unary;
mod recognize_normalization;
mod split_transposed;

use crate::diag::{self, Diagnostic};
use crate::ir::{Checked, Float, Graph, NodeId, Origin};

/// A rewrite and its name. It returns whether it changed anything.
pub struct Pass {
    /// Name in listings.
    pub name: &'static str,
    /// The rewrite.
    pub run: fn(&mut Graph<Float>) -> bool,
}

/// All passes, in the order in which they run. A new pass is one line here.
pub const PASSES: &[Pass] = &[
    Pass { name: "cancel_moves", run: cancel_moves::run },
    Pass { name: "drop_requantize", run: drop_requantize::run },
    Pass { name: "fuse_padding", run: fuse_padding::run },
    Pass { name: "hoist_elementwise", run: hoist_elementwise::run },
    Pass { name: "fuse_mask", run: fuse_mask::run },
    Pass { name: "fold_affine", run: fold_affine::run },
    Pass { name: "fuse_gate", run: fuse_gate::run },
    Pass { name: "merge_unary", run: merge_unary::run },
    Pass { name: "recognize_normalization", run: recognize_normalization::run },
    Pass { name: "fold_product", run: fold_product::run },
    Pass { name: "fuse_activation", run: fuse_activation::run },
];

/// Passes that make several nodes of one, which the others could no longer fuse. They run once, behind all others.
pub const LATE_PASSES: &[Pass] = &[Pass { name: "split_transposed", run: split_transposed::run }];

/// Runs all passes until nothing changes.
pub fn run(graph: Checked<Graph<Float>>) -> diag::Result<Checked<Graph<Float>>> {
    let graph = run_all(graph, PASSES)?;
    let graph = run_all(graph, LATE_PASSES)?;
    run_all(graph, PASSES)
}

fn run_all(mut graph: Checked<Graph<Float>>, passes: &[Pass]) -> diag::Result<Checked<Graph<Float>>> {
    loop {
        let mut changed = false;
        for pass in passes {
            let mut rewritten = graph.into_inner();
            changed |= (pass.run)(&mut rewritten);
            rewritten.remove_unused();
            graph = rewritten
                .check()
                .map_err(|error| Diagnostic::internal(format!("after pass {}: {}", pass.name, error.0)))?;
        }
        if !changed {
            return Ok(graph);
        }
    }
}

/// `producer` now computes what `consumer` did, its only user: it takes over name, shape and uses.
fn absorb_consumer(graph: &mut Graph<Float>, producer: NodeId, consumer: NodeId) {
    let last = graph.node(consumer).clone();
    graph.replace_uses(consumer, producer);
    graph.remove(consumer);
    let node = graph.node_mut(producer);
    node.name = last.name;
    node.observed = last.observed;
    node.value = last.value;
    node.origin = joined(std::mem::take(&mut node.origin), last.origin);
}

/// `consumer` now computes what `producer` did, of which it is the only user: it takes over the operands.
fn absorb_producer(graph: &mut Graph<Float>, producer: NodeId, consumer: NodeId) {
    let operands = graph.operands(producer);
    let origin = graph.node(producer).origin.clone();
    graph.set_operands(consumer, &operands);
    graph.remove(producer);
    let node = graph.node_mut(consumer);
    node.origin = joined(origin, std::mem::take(&mut node.origin));
}

/// The ONNX nodes of two nodes that become one; an ONNX node that became several of ours counts once.
fn joined(first: Vec<Origin>, second: Vec<Origin>) -> Vec<Origin> {
    let new: Vec<Origin> = second.into_iter().filter(|origin| !first.contains(origin)).collect();
    first.into_iter().chain(new).collect()
}

/// The operand of a node with one operand, if that node is the operand's only use.
fn sole_operand(graph: &Graph<Float>, id: NodeId) -> Option<NodeId> {
    let [operand] = graph.operands(id)[..] else { return None };
    (graph.sole_consumer(operand) == Some(id)).then_some(operand)
}
