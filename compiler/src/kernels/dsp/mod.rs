//! Kernels with the instructions of the DSP extension, which multiply two pairs of 16-bit numbers at once: Cortex-M4,
//! M7, M33.

pub mod add;
pub mod conv;
pub mod depthwise;
pub mod linear;
pub mod mean;
pub mod pointwise;
mod products;
pub mod winograd;

use ptqc_target_runtimes::Feature;

use crate::kernels::{Kernel, PORTABLE};
use crate::plan::Goal;

/// Condition of the C preprocessor under which they assemble.
const DSP: &str = "defined(__ARM_FEATURE_DSP)";

/// The kernels of this family. Those that add have texts of their own, of two to three kilobytes, to save two of six
/// instructions for each element of a sum: that is for those who ask for speed.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "dsp.conv",
        accepts: conv::accepts,
        needs: &[Feature::Dsp],
        instructions: conv::instructions,
        scratch: conv::scratch,
        lead: conv::lead,
        assembly: true,
        build: conv::build,
        ..PORTABLE
    },
    Kernel {
        name: "dsp.conv_add",
        accepts: |layer, plan| layer.added.is_some() && conv::accepts(layer, plan),
        needs: &[Feature::Dsp],
        goal: Some(Goal::Speed),
        instructions: conv::instructions,
        scratch: conv::scratch,
        lead: conv::lead,
        adds: true,
        assembly: true,
        build: conv::build,
        ..PORTABLE
    },
    Kernel {
        name: "dsp.depthwise",
        accepts: depthwise::accepts,
        needs: &[Feature::Dsp],
        instructions: depthwise::instructions,
        scratch: depthwise::scratch,
        replaces: depthwise::replaces,
        assembly: true,
        build: depthwise::build,
        ..PORTABLE
    },
    Kernel {
        name: "dsp.linear",
        accepts: linear::accepts,
        needs: &[Feature::Dsp],
        instructions: linear::instructions,
        scratch: linear::scratch,
        lead: linear::lead,
        assembly: true,
        build: linear::build,
        ..PORTABLE
    },
    Kernel {
        name: "dsp.linear_in_place",
        accepts: linear::accepts_in_place,
        needs: &[Feature::Dsp],
        instructions: linear::instructions_in_place,
        assembly: true,
        build: linear::build_in_place,
        ..PORTABLE
    },
    Kernel {
        name: "dsp.mean",
        accepts: mean::accepts,
        needs: &[Feature::Dsp],
        instructions: mean::instructions,
        assembly: true,
        build: mean::build,
        ..PORTABLE
    },
    Kernel {
        name: "dsp.add",
        accepts: add::accepts,
        needs: &[Feature::Dsp],
        instructions: add::instructions,
        assembly: true,
        build: add::build,
        ..PORTABLE
    },
    Kernel {
        name: "dsp.pointwise",
        accepts: pointwise::accepts,
        needs: &[Feature::Dsp],
        instructions: pointwise::instructions,
        scratch: pointwise::scratch,
        lead: pointwise::lead,
        assembly: true,
        build: pointwise::build,
        ..PORTABLE
    },
    Kernel {
        name: "dsp.pointwise_add",
        accepts: |layer, plan| layer.added.is_some() && pointwise::accepts(layer, plan),
        needs: &[Feature::Dsp],
        goal: Some(Goal::Speed),
        instructions: pointwise::instructions,
        scratch: pointwise::scratch,
        lead: pointwise::lead,
        adds: true,
        assembly: true,
        build: pointwise::build,
        ..PORTABLE
    },
    Kernel {
        name: "dsp.winograd",
        accepts: winograd::accepts,
        needs: &[Feature::Dsp],
        goal: Some(Goal::Speed),
        instructions: winograd::instructions,
        scratch: winograd::scratch,
        lead: winograd::lead,
        adds: true,
        assembly: true,
        build: winograd::build,
        ..PORTABLE
    },
];
