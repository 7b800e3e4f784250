//! The vector instructions of x86, written once for three widths. Intel's names differ in their prefix only.

use crate::program::{Affine, Buffer, Cmp, Detection, Expr, FunctionBuilder, Reg, Type, VectorUnit};

/// A level of x86's vector instructions.
#[derive(Debug)]
pub struct Isa {
    /// What the languages call it.
    pub unit: VectorUnit,
    /// Width of the widest vectors.
    pub bits: usize,
    /// Whether an instruction sums four products of unsigned and signed bytes in each 32-bit lane.
    pub vnni: bool,
}

/// The bit that says that the operating system tells which state it keeps.
const OSXSAVE: u32 = 1 << 27;

/// AVX-512 with byte operations, shorter vectors and VNNI: Cascade Lake, Ice Lake, Zen 4 and later.
pub static AVX512: Isa = Isa {
    unit: VectorUnit {
        header: "immintrin.h",
        c_prologue: "",
        c_features: "avx512f,avx512bw,avx512vl,avx512vnni",
        c_promised: "defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)",
        c_register: "v",
        detection: Some(Detection {
            leaf1_ecx: OSXSAVE,
            leaf7_ebx: 1 << 16 | 1 << 30 | 1 << 31,
            leaf7_ecx: 1 << 11,
            state: 0xe6,
        }),
        rust_module: "x86_64",
        rust_version: "1.89",
        rust_features: "avx512f,avx512bw,avx512vl,avx512vnni",
        rust_helpers: "",
    },
    bits: 512,
    vnni: true,
};

/// AVX2: Haswell, Zen and later.
pub static AVX2: Isa = Isa {
    unit: VectorUnit {
        header: "immintrin.h",
        c_prologue: "",
        c_features: "avx2",
        c_promised: "defined(__AVX2__)",
        c_register: "v",
        detection: Some(Detection { leaf1_ecx: OSXSAVE, leaf7_ebx: 1 << 5, leaf7_ecx: 0, state: 0x6 }),
        rust_module: "x86_64",
        rust_version: "1.88",
        rust_features: "avx2",
        rust_helpers: "",
    },
    bits: 256,
    vnni: false,
};

/// SSE4.1: nearly every x86 of this century's second decade and later.
pub static SSE41: Isa = Isa {
    unit: VectorUnit {
        header: "immintrin.h",
        c_prologue: "",
        c_features: "sse4.1",
        c_promised: "defined(__SSE4_1__)",
        c_register: "v",
        detection: Some(Detection { leaf1_ecx: 1 << 19, leaf7_ebx: 0, leaf7_ecx: 0, state: 0 }),
        rust_module: "x86_64",
        rust_version: "1.88",
        rust_features: "sse4.1",
        rust_helpers: "",
    },
    bits: 128,
    vnni: false,
};

/// The type of vectors of a width.
pub fn vector(bits: usize) -> Type {
    Type::Vector(match bits {
        512 => "__m512i",
        256 => "__m256i",
        _ => "__m128i",
    })
}

/// A call of `_mm512_NAME`, `_mm256_NAME` or `_mm_NAME`, whose result has the same width.
pub fn op(bits: usize, name: &str, args: Vec<Expr>) -> Expr {
    Expr::vector(intrinsic(bits, name), vector(bits), args)
}

/// A call whose result has 128 bits.
pub fn narrow(bits: usize, name: &str, args: Vec<Expr>) -> Expr {
    Expr::vector(intrinsic(bits, name), vector(128), args)
}

fn intrinsic(bits: usize, name: &str) -> String {
    match bits {
        128 => format!("_mm_{name}"),
        _ => format!("_mm{bits}_{name}"),
    }
}

/// An immediate operand.
pub fn immediate(value: i64) -> Expr {
    Expr::i32(value)
}

/// A vector of equal 8-, 16- or 32-bit lanes.
pub fn splat(bits: usize, lane: usize, value: i64) -> Expr {
    op(bits, &format!("set1_epi{lane}"), vec![Expr::i32(value)])
}

/// `bytes` bytes from memory (any alignment): a whole vector, or the low part of 128 bits whose rest is 0. Each of
/// `buffer`'s elements has `size` bytes.
pub fn load(f: &FunctionBuilder, buffer: Buffer, at: Affine, bytes: usize, size: usize) -> Expr {
    let source = |pointee| f.source(buffer, at.clone(), bytes / size, pointee);
    match bytes {
        64 => op(512, "loadu_si512", vec![source("void")]),
        32 => op(256, "loadu_si256", vec![source("__m256i")]),
        16 => op(128, "loadu_si128", vec![source("__m128i")]),
        8 => op(128, "loadl_epi64", vec![source("__m128i")]),
        _ => op(128, "loadu_si32", vec![source("void")]),
    }
}

/// Stores the low `bytes` bytes of a vector into a buffer of bytes.
pub fn store(f: &mut FunctionBuilder, buffer: Buffer, at: Affine, bytes: usize, value: Expr) {
    let target = |pointee| f.target(buffer, at.clone(), bytes, pointee);
    let (name, pointer) = match bytes {
        64 => ("_mm512_storeu_si512", target("void")),
        32 => ("_mm256_storeu_si256", target("__m256i")),
        16 => ("_mm_storeu_si128", target("__m128i")),
        8 => ("_mm_storel_epi64", target("__m128i")),
        _ => ("_mm_storeu_si32", target("void")),
    };
    f.call(name, vec![pointer, value]);
}

impl Isa {
    /// Width of the widest vectors in bytes.
    pub fn bytes(&self) -> usize {
        self.bits / 8
    }

    /// 32-bit lanes of the widest vectors.
    pub fn lanes(&self) -> usize {
        self.bits / 32
    }

    /// Declares an immutable vector.
    pub fn bind(&self, f: &mut FunctionBuilder, name: &str, bits: usize, value: Expr) -> Expr {
        f.bind(name, vector(bits), value)
    }

    /// Copies `len` bytes with the top bit of each turned over, which makes unsigned numbers of signed ones: `x + 128`.
    /// With `wide`, each becomes 16 bits; `to` counts bytes. Pieces may overlap: the target must not be the source.
    pub fn copy_unsigned(
        &self,
        f: &mut FunctionBuilder,
        (source, from): (Buffer, Affine),
        (target, to): (Buffer, Affine),
        len: usize,
        wide: bool,
    ) {
        let scale = if wide { 2 } else { 1 };
        let Some(piece) = [64, 32, 16, 8, 4].into_iter().find(|&piece| piece * scale <= self.bytes() && piece <= len)
        else {
            return f.each("i", len, |f, i| {
                let value = f.load(source, from + i.clone());
                let x = f.bind("value", Type::I32, value);
                // The bits of `x + 128` as a signed byte.
                let negative = x.clone().min(Expr::i32(-1)).add(Expr::i32(128));
                let positive = x.clone().max(Expr::i32(0)).sub(Expr::i32(128));
                let byte = Expr::select(Cmp::Lt, x, Expr::i32(0), negative, positive);
                f.store(target, to.clone() + i.clone() * scale as i64, byte);
                if wide {
                    f.store(target, to + i * scale as i64 + 1, Expr::i32(0));
                }
            });
        };
        let one = |f: &mut FunctionBuilder, at: Affine| {
            let bits = (8 * piece).max(128);
            let x = load(f, source, from.clone() + at.clone(), piece, 1);
            let value = op(bits, &xor(bits), vec![x, splat(bits, 8, -128)]);
            let value = match (wide, piece) {
                (false, _) => value,
                (true, 16) => Expr::vector("_mm256_cvtepu8_epi16", vector(256), vec![value]),
                (true, _) => op(128, "cvtepu8_epi16", vec![value]),
            };
            let value = self.bind(f, "x_u", bits.max(if wide && piece == 16 { 256 } else { 0 }), value);
            store(f, target, to.clone() + at * scale as i64, piece * scale, value);
        };
        f.each("i", len / piece, |f, i| one(f, i * piece as i64));
        if !len.is_multiple_of(piece) {
            one(f, Affine::from((len - piece) as i64));
        }
    }

    /// Declares a mutable vector.
    pub fn mutable(&self, f: &mut FunctionBuilder, name: &str, bits: usize, value: Expr) -> Reg {
        f.mutable(name, vector(bits), value)
    }
}

fn xor(bits: usize) -> String {
    format!("xor_si{bits}")
}
