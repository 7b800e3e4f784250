//! Kernels with vector instructions of x86, at three levels: AVX-512 with VNNI, AVX2, SSE4.1.

pub mod conv;
pub mod depthwise;
pub mod elementwise;
mod geometry;
pub mod isa;
pub mod mean;
mod requantize;
mod stage;
