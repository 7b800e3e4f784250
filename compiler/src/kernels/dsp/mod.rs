//! Kernels with the instructions of the DSP extension, which multiply two pairs of 16-bit numbers at once: Cortex-M4,
//! M7, M33.

pub mod conv;
pub mod depthwise;
pub mod linear;
pub mod pointwise;
mod products;

/// Condition of the C preprocessor under which they assemble.
const DSP: &str = "defined(__ARM_FEATURE_DSP)";
