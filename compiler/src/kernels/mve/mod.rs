//! Kernels in Helium (MVE) assembly, for Armv8.1-M cores such as Cortex-M55.
//!
//! Products of rows of bytes are VMLADAVA: sixteen products are added to an even general register. Requantization is one
//! instruction for four results: `VQRDMLASH acc, m, z` is `z + ((acc * m + 2^30) >> 31)`, exactly as
//! [`Multiplier::apply`](crate::ir::Multiplier::apply) defines it.

pub mod conv;
pub mod depthwise;
pub mod elementwise;
mod frame;
mod geometry;
pub mod linear;
pub mod moves;
pub mod pool;
mod products;

use ptqc_target_runtimes::Feature;

use crate::kernels::{Kernel, LayerBuilder, PORTABLE};
use crate::ops::weighted::Weighted;
use crate::plan::{Layer, Plan};
use crate::program::Assembly;

/// Condition of the C preprocessor under which integer MVE assembles.
const MVE: &str = "defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1)";

/// Bytes of a vector.
const VECTOR: usize = 16;

/// An empty function.
fn function(kernel: &str, doc: &[&str]) -> Assembly {
    let mut a = Assembly::new(kernel, doc.iter().map(|line| (*line).to_owned()).collect(), MVE);
    // Rust's targets know no Armv8.1-M; the directive ends with the function.
    a.rust_directives = &[".cpu cortex-m55"];
    a
}

/// Whether some sum has to be shifted to the left before it is multiplied: a multiplier of one or more.
fn shifts(weighted: &Weighted) -> bool {
    weighted.channels.iter().any(|channel| channel.multiplier.left_shift() > 0)
}

/// The bias of a channel with the input's zero point folded in: every product of a row is computed.
fn folded_bias(weighted: &Weighted, channel_idx: usize) -> i32 {
    let sum: i32 = weighted.row(channel_idx).iter().map(|&w| i32::from(w)).sum();
    weighted.channels[channel_idx].bias.wrapping_sub(weighted.input_zero.wrapping_mul(sum))
}

/// Constants under construction: words in the order in which a kernel reads them.
#[derive(Debug, Default)]
struct Words {
    bytes: Vec<u8>,
}

impl Words {
    fn word(&mut self, value: impl Into<i64>) {
        // Addresses and sizes of 32 bits, signed or not.
        self.bytes.extend((value.into() as u32).to_le_bytes());
    }

    fn size(&mut self, value: usize) {
        self.word(value as i64);
    }

    fn weights(&mut self, weights: impl IntoIterator<Item = i8>) {
        self.bytes.extend(weights.into_iter().map(|w| w as u8));
    }

    fn pad(&mut self, alignment: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
    }

    /// As elements of a blob.
    fn finish(mut self) -> Vec<i64> {
        self.pad(4);
        let word = |bytes: &[u8]| i64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        self.bytes.chunks_exact(4).map(word).collect()
    }
}

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        scratch: conv::scratch,
        lead: conv::lead,
        adds: true,
        ..kernel("mve.conv", conv::accepts, conv::instructions, conv::build)
    },
    Kernel {
        scratch: depthwise::scratch,
        lead: depthwise::lead,
        replaces: depthwise::replaces,
        ..kernel("mve.depthwise", depthwise::accepts, depthwise::instructions, depthwise::build)
    },
    kernel("mve.linear", linear::accepts, linear::instructions, linear::build),
    kernel("mve.pool", pool::accepts, pool::instructions, pool::build),
    kernel("mve.add", elementwise::accepts_add, elementwise::add_instructions, elementwise::build_add),
    kernel("mve.mul", elementwise::accepts_mul, elementwise::mul_instructions, elementwise::build_mul),
    kernel("mve.affine", elementwise::accepts_affine, elementwise::affine_instructions, elementwise::build_affine),
    kernel("mve.table", elementwise::accepts_table, elementwise::table_instructions, elementwise::build_table),
    kernel("mve.move", moves::accepts, moves::instructions, moves::build),
];

const fn kernel(
    name: &'static str,
    accepts: fn(&Layer, &Plan) -> bool,
    instructions: fn(&Layer, &Plan) -> u64,
    build: fn(&mut LayerBuilder),
) -> Kernel {
    Kernel { name, accepts, instructions, build, needs: &[Feature::Mve], assembly: true, ..PORTABLE }
}
