//! Rewrites of the quantized graph that leave every bit of its outputs as it is, for every input.
//!
//! They need the integers, so they run behind `quantize`: weights, biases and clamps decide which values a channel can
//! take at all ([`intervals`]). A channel that takes a single one is a constant, and what it contributes to the next layer
//! goes into that layer's biases; a channel that nothing reads any more goes away, and with it the weights that made it.
//! Inputs and outputs of the model keep their shapes.

mod axes;
mod drop_clamps;
mod fold_constants;
pub mod intervals;
mod liveness;
mod products;
mod remove_channels;
mod tighten_bounds;

use crate::diag::{self, Diagnostic};
use crate::ir::{Checked, Graph, Quant};

/// A rewrite and its name. It returns whether it changed anything.
pub struct Pass {
    /// Name in messages.
    pub name: &'static str,
    /// The rewrite.
    pub run: fn(&mut Graph<Quant>) -> bool,
}

/// All passes, in the order in which they run. A new pass is one line here.
pub const PASSES: &[Pass] = &[
    Pass { name: "fold_constants", run: fold_constants::run },
    Pass { name: "remove_channels", run: remove_channels::run },
    Pass { name: "tighten_bounds", run: tighten_bounds::run },
    Pass { name: "drop_clamps", run: drop_clamps::run },
];

/// Runs all passes until nothing changes. The graph is checked after each.
pub fn run(graph: Checked<Graph<Quant>>) -> diag::Result<Checked<Graph<Quant>>> {
    let mut graph = graph;
    loop {
        let mut changed = false;
        for pass in PASSES {
            let mut rewritten = graph.into_inner();
            changed |= (pass.run)(&mut rewritten);
            graph = rewritten
                .check()
                .map_err(|error| Diagnostic::internal(format!("after pass {}: {}", pass.name, error.0)))?;
        }
        if !changed {
            return Ok(graph);
        }
    }
}
