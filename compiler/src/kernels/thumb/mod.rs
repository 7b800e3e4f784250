//! Kernels in Thumb-2 assembly, for Cortex-M3 and above.

pub mod table;

use ptqc_target_runtimes::Feature;

use crate::kernels::{Kernel, PORTABLE};

/// Condition of the C preprocessor under which Thumb-2 assembles.
pub const THUMB2: &str = "defined(__thumb2__)";

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[Kernel {
    name: "thumb.table",
    accepts: table::accepts,
    needs: &[Feature::Thumb2],
    instructions: table::instructions,
    lead: |_, _| Some(0),
    assembly: true,
    build: table::build,
    ..PORTABLE
}];
