//! Kernels for processors that multiply one pair of numbers with an instruction: Cortex-M3, Cortex-M0+, RV32IM.
//!
//! Convolutions and linear layers are products of rows with constant weights. Windows are copied into working memory as
//! rows, a few at a time, with the zero point where they reach outside of the input.

mod armv6m;
mod armv6m_depthwise;
mod armv7m;
mod armv7m_depthwise;
mod armv7m_packed;
mod layer;
mod pack;
mod riscv;
mod riscv_depthwise;
mod shape;

use ptqc_target_runtimes::Feature;

use crate::kernels::{Kernel, PORTABLE};

use layer::{DepthwiseLayer, ProductLayer, depthwise, product};
use pack::{Bytes, Row};
use shape::{Blocks, Depthwise, Product};

use super::LayerBuilder;
use crate::ir::Clamp;
use crate::plan::{Layer, Plan};
use crate::program::{Assembly, Elem};

/// A way of computing products: its text, its working memory, and its constants.
pub struct ProductKernel {
    assembly: fn(&Product) -> Assembly,
    scratch: fn(&Product) -> usize,
    constants: fn(&ProductLayer) -> Vec<i64>,
    /// Rows of the operand that are computed together.
    rows: usize,
    /// Whether rows are copied before their results are written.
    copies: bool,
}

/// Cortex-M3, two rows at a time.
pub const ARMV7M_PAIRS: ProductKernel = ProductKernel {
    assembly: armv7m::pairs,
    scratch: armv7m::scratch,
    constants: |layer| {
        let header = armv7m::header(&layer.product, armv7m::PAIR_CHANNELS, layer.weighted.output_zero);
        constants(layer, header, |rows, bytes| pack::blocks(rows, armv7m::PAIR_CHANNELS, 1, bytes))
    },
    rows: 2,
    copies: false,
};

/// Cortex-M3, two products with one multiplication.
pub const ARMV7M_PACKED: ProductKernel = ProductKernel {
    assembly: armv7m_packed::pairs,
    scratch: armv7m_packed::scratch,
    constants: |layer| {
        constants(layer, armv7m_packed::header(&layer.product, layer.weighted.output_zero), armv7m_packed::blocks)
    },
    rows: 2,
    copies: true,
};

/// Cortex-M3, one row at a time.
pub const ARMV7M_ROWS: ProductKernel = ProductKernel {
    assembly: armv7m::rows,
    scratch: |_| 0,
    constants: |layer| {
        let header = armv7m::header(&layer.product, armv7m::ROW_CHANNELS, layer.weighted.output_zero);
        constants(layer, header, |rows, bytes| pack::blocks(rows, armv7m::ROW_CHANNELS, 1, bytes))
    },
    rows: 1,
    copies: false,
};

/// Cortex-M0+, four rows at a time.
pub const ARMV6M_QUADS: ProductKernel = ProductKernel {
    assembly: armv6m::quads,
    scratch: armv6m::scratch,
    constants: |layer| constants(layer, armv6m::header(&layer.product, layer.weighted.output_zero), pack::single),
    rows: armv6m::QUAD,
    copies: true,
};

/// Cortex-M0+, one row at a time.
pub const ARMV6M_ROWS: ProductKernel = ProductKernel {
    assembly: armv6m::rows,
    scratch: |_| 0,
    constants: |layer| {
        let header = armv6m::row_header(&layer.product, layer.weighted.output_zero);
        constants(layer, header, |rows, bytes| pack::blocks(rows, armv6m::ROW_CHANNELS, 4, bytes))
    },
    rows: 1,
    copies: false,
};

/// RV32IM, four rows at a time.
pub const RISCV_QUADS: ProductKernel = ProductKernel {
    assembly: riscv::quads,
    scratch: riscv::scratch,
    constants: |layer| constants(layer, riscv::header(&layer.product, layer.weighted.output_zero), riscv::blocks),
    rows: riscv::QUAD,
    copies: true,
};

/// RV32IM, one row at a time.
pub const RISCV_ROWS: ProductKernel = ProductKernel {
    assembly: riscv::rows,
    scratch: |_| 0,
    constants: |layer| {
        let header = riscv::row_header(&layer.product, layer.weighted.output_zero);
        constants(layer, header, |rows, bytes| pack::blocks(rows, riscv::ROW_CHANNELS, 4, bytes))
    },
    rows: 1,
    copies: false,
};

/// Header, the words that describe windows, and the packed rows of weights.
fn constants(layer: &ProductLayer, header: Vec<i64>, pack: impl FnOnce(&[Row], &mut Bytes)) -> Vec<i64> {
    let mut bytes = Bytes::default();
    header.into_iter().for_each(|word| bytes.word(word));
    if let Some(patches) = &layer.product.patches {
        shape::window::words(patches, layer.weighted.input_zero).into_iter().for_each(|word| bytes.word(word));
    }
    pack(&layer.rows(), &mut bytes);
    bytes.words()
}

impl ProductKernel {
    /// Layers that are products.
    pub fn accepts(layer: &Layer, plan: &Plan) -> bool {
        product(layer, plan).is_some()
    }

    /// Products whose rows lie one behind the other.
    pub fn accepts_dense(layer: &Layer, plan: &Plan) -> bool {
        product(layer, plan).is_some_and(|found| found.product.patches.is_none())
    }

    /// Instructions of a call, exactly.
    pub fn instructions(&self, layer: &Layer, plan: &Plan) -> u64 {
        product(layer, plan).map_or(u64::MAX, |found| (self.assembly)(&found.product).instructions())
    }

    /// Bytes of working memory.
    pub fn scratch(&self, layer: &Layer, plan: &Plan) -> usize {
        product(layer, plan).map_or(0, |found| (self.scratch)(&found.product))
    }

    /// How far the operand has to lie behind the result; see [`super::Kernel::lead`].
    pub fn lead(&self, layer: &Layer, plan: &Plan) -> Option<usize> {
        product(layer, plan)?.product.lead(self.rows, self.copies)
    }

    /// The function.
    pub fn build(&self, b: &mut LayerBuilder) {
        let Some(found) = product(b.layer, b.plan) else { return };
        let doc = "What the assembly reads, in its order: sizes, then biases, weights and multipliers.";
        b.pass("constants", doc, Elem::U32, (self.constants)(&found));
        b.assemble((self.assembly)(&found.product));
    }
}

/// A way of computing depthwise convolutions.
pub struct DepthwiseKernel {
    assembly: fn(&Depthwise) -> Option<Assembly>,
    blocks: fn(&Depthwise) -> Option<Blocks>,
    /// From the result's zero point and bounds to the word that the kernel adds to results.
    result: fn(i32, Clamp) -> i64,
    /// What the kernel adds to elements of the operand.
    shift: i32,
    /// Alignment of the constants of a channel.
    alignment: usize,
}

/// Cortex-M3.
pub const ARMV7M_DEPTHWISE: DepthwiseKernel = DepthwiseKernel {
    assembly: armv7m_depthwise::depthwise,
    blocks: armv7m_depthwise::blocks,
    result: |zero, _| i64::from(zero),
    shift: 0,
    alignment: 1,
};

/// Cortex-M0+.
pub const ARMV6M_DEPTHWISE: DepthwiseKernel = DepthwiseKernel {
    assembly: armv6m_depthwise::depthwise,
    blocks: armv6m_depthwise::blocks,
    result: armv6m::rounding,
    shift: armv6m_depthwise::SHIFT,
    alignment: 4,
};

/// RV32IM.
pub const RISCV_DEPTHWISE: DepthwiseKernel = DepthwiseKernel {
    assembly: riscv_depthwise::depthwise,
    blocks: riscv_depthwise::blocks,
    result: riscv::lowest,
    shift: 0,
    alignment: 4,
};

impl DepthwiseKernel {
    /// Depthwise convolutions whose text is not too long.
    pub fn accepts(&self, layer: &Layer, plan: &Plan) -> bool {
        depthwise(layer, plan).is_some_and(|found| (self.blocks)(&found.depthwise).is_some())
    }

    /// Instructions of a call, exactly.
    pub fn instructions(&self, layer: &Layer, plan: &Plan) -> u64 {
        let assembly = depthwise(layer, plan).and_then(|found| (self.assembly)(&found.depthwise));
        assembly.map_or(u64::MAX, |assembly| assembly.instructions())
    }

    /// Bytes of working memory: the plane of a channel.
    pub fn scratch(layer: &Layer, plan: &Plan) -> usize {
        depthwise(layer, plan).map_or(0, |found| found.depthwise.plane_bytes())
    }

    /// The function.
    pub fn build(&self, b: &mut LayerBuilder) {
        let Some(found) = depthwise(b.layer, b.plan) else { return };
        let (Some(assembly), Some(blocks)) = ((self.assembly)(&found.depthwise), (self.blocks)(&found.depthwise))
        else {
            return;
        };
        let doc = "What the assembly reads, in its order: sizes, then bias, multiplier and weights of each channel.";
        b.pass("constants", doc, Elem::U32, self.constants(&found, blocks));
        b.assemble(assembly);
    }

    fn constants(&self, layer: &DepthwiseLayer, blocks: Blocks) -> Vec<i64> {
        let result = (self.result)(layer.weighted.output_zero, layer.depthwise.clamp);
        let fill = layer.weighted.input_zero + self.shift;
        let mut bytes = Bytes::default();
        shape::plane::words(&layer.depthwise, blocks, fill, result).into_iter().for_each(|word| bytes.word(word));
        pack::depthwise(&layer.rows(self.shift), self.alignment, &mut bytes);
        bytes.words()
    }
}

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "armv7m.product",
        accepts: ProductKernel::accepts,
        needs: &[Feature::Thumb2],
        instructions: |layer, plan| ARMV7M_PAIRS.instructions(layer, plan),
        scratch: |layer, plan| ARMV7M_PAIRS.scratch(layer, plan),
        lead: |layer, plan| ARMV7M_PAIRS.lead(layer, plan),
        assembly: true,
        build: |b| ARMV7M_PAIRS.build(b),
        ..PORTABLE
    },
    Kernel {
        name: "armv7m.packed_product",
        accepts: ProductKernel::accepts,
        needs: &[Feature::Thumb2],
        instructions: |layer, plan| ARMV7M_PACKED.instructions(layer, plan),
        scratch: |layer, plan| ARMV7M_PACKED.scratch(layer, plan),
        lead: |layer, plan| ARMV7M_PACKED.lead(layer, plan),
        assembly: true,
        build: |b| ARMV7M_PACKED.build(b),
        ..PORTABLE
    },
    Kernel {
        name: "armv7m.row_product",
        accepts: ProductKernel::accepts_dense,
        needs: &[Feature::Thumb2],
        instructions: |layer, plan| ARMV7M_ROWS.instructions(layer, plan),
        lead: |layer, plan| ARMV7M_ROWS.lead(layer, plan),
        assembly: true,
        build: |b| ARMV7M_ROWS.build(b),
        ..PORTABLE
    },
    Kernel {
        name: "armv7m.depthwise",
        accepts: |layer, plan| ARMV7M_DEPTHWISE.accepts(layer, plan),
        needs: &[Feature::Thumb2],
        instructions: |layer, plan| ARMV7M_DEPTHWISE.instructions(layer, plan),
        scratch: DepthwiseKernel::scratch,
        assembly: true,
        build: |b| ARMV7M_DEPTHWISE.build(b),
        ..PORTABLE
    },
    Kernel {
        name: "armv6m.product",
        accepts: ProductKernel::accepts,
        needs: &[Feature::Thumb1],
        instructions: |layer, plan| ARMV6M_QUADS.instructions(layer, plan),
        scratch: |layer, plan| ARMV6M_QUADS.scratch(layer, plan),
        lead: |layer, plan| ARMV6M_QUADS.lead(layer, plan),
        assembly: true,
        build: |b| ARMV6M_QUADS.build(b),
        ..PORTABLE
    },
    Kernel {
        name: "armv6m.row_product",
        accepts: ProductKernel::accepts_dense,
        needs: &[Feature::Thumb1],
        instructions: |layer, plan| ARMV6M_ROWS.instructions(layer, plan),
        lead: |layer, plan| ARMV6M_ROWS.lead(layer, plan),
        assembly: true,
        build: |b| ARMV6M_ROWS.build(b),
        ..PORTABLE
    },
    Kernel {
        name: "armv6m.depthwise",
        accepts: |layer, plan| ARMV6M_DEPTHWISE.accepts(layer, plan),
        needs: &[Feature::Thumb1],
        instructions: |layer, plan| ARMV6M_DEPTHWISE.instructions(layer, plan),
        scratch: DepthwiseKernel::scratch,
        assembly: true,
        build: |b| ARMV6M_DEPTHWISE.build(b),
        ..PORTABLE
    },
    Kernel {
        name: "riscv.product",
        accepts: ProductKernel::accepts,
        needs: &[Feature::RiscV],
        instructions: |layer, plan| RISCV_QUADS.instructions(layer, plan),
        scratch: |layer, plan| RISCV_QUADS.scratch(layer, plan),
        lead: |layer, plan| RISCV_QUADS.lead(layer, plan),
        assembly: true,
        build: |b| RISCV_QUADS.build(b),
        ..PORTABLE
    },
    Kernel {
        name: "riscv.row_product",
        accepts: ProductKernel::accepts_dense,
        needs: &[Feature::RiscV],
        instructions: |layer, plan| RISCV_ROWS.instructions(layer, plan),
        lead: |layer, plan| RISCV_ROWS.lead(layer, plan),
        assembly: true,
        build: |b| RISCV_ROWS.build(b),
        ..PORTABLE
    },
    Kernel {
        name: "riscv.depthwise",
        accepts: |layer, plan| RISCV_DEPTHWISE.accepts(layer, plan),
        needs: &[Feature::RiscV],
        instructions: |layer, plan| RISCV_DEPTHWISE.instructions(layer, plan),
        scratch: DepthwiseKernel::scratch,
        assembly: true,
        build: |b| RISCV_DEPTHWISE.build(b),
        ..PORTABLE
    },
];
