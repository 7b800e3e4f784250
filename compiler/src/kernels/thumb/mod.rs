//! Kernels in Thumb-2 assembly, for Cortex-M3 and above.

pub mod table;

/// Condition of the C preprocessor under which Thumb-2 assembles.
pub const THUMB2: &str = "defined(__thumb2__)";
