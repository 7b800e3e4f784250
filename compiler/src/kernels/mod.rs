//! How layers are computed: builders of loops, one for each kind of work and each way of doing it.
//!
//! A builder is written once for all output languages. Which builder a layer gets is decided by the table
//! [`FAMILIES`]: of those that accept the layer and whose features the target has, the cheapest.

mod arg_max;
mod broadcast;
mod common;
mod conv;
mod dsp;
mod dynamic;
mod elementwise;
mod gather;
mod lead;
mod linear;
mod log_softmax;
mod lrn;
mod matmul;
mod mean;
mod moves;
mod mve;
mod neon;
mod normalize;
mod pad;
mod pool;
mod recurrent;
mod reduce;
mod resample;
mod scalar;
mod softmax;
mod thumb;
mod x86;

use std::fmt;

use ptqc_target_runtimes::{Feature, Target};

use crate::ir::QuantType;
use crate::ops::{QuantOp, QuantOperator};
use crate::plan::{Goal, Layer, Overlap, Plan, PlannedTensor, Shared, TensorId, View, Work};
use crate::program::{Access, Assembly, Blob, BlobId, Buffer, Elem, Function, FunctionBuilder, VectorUnit};

/// A way of computing some layers.
#[derive(Clone, Copy)]
pub struct Kernel {
    /// Name in plans and reports.
    pub name: &'static str,
    /// Which layers it can compute, of those with elements and weights that it can read.
    pub accepts: fn(&Layer, &Plan) -> bool,
    /// Which elements and weights it can read.
    pub types: Types,
    /// Features that the target must have.
    pub needs: &'static [Feature],
    /// A goal that has to be asked for, where the kernel is not for everybody.
    pub goal: Option<Goal>,
    /// Estimated instructions of the layer; of the kernels that can compute it, the cheapest wins.
    pub instructions: fn(&Layer, &Plan) -> u64,
    /// Bytes of working memory beside operands and result.
    pub scratch: fn(&Layer, &Plan) -> usize,
    /// What a function of loops keeps there.
    pub scratch_elem: Elem,
    /// By how many bytes the start of operand 0 must lie behind the start of the result, at least, for the two to share
    /// memory: then no element is overwritten that is still to be read. `None` if they must not overlap. Of functions of
    /// assembly only: loops are examined themselves.
    pub lead: fn(&Layer, &Plan) -> Option<usize>,
    /// Where there is no such distance: whether operand 0 and the result may share memory if they start at the same byte.
    pub replaces: fn(&Layer, &Plan) -> bool,
    /// Whether it can add another tensor to the result before it is stored; see [`Layer::added`].
    pub adds: bool,
    /// Whether it computes every form of its operators; see [`QuantOperator::is_unusual`](crate::ops::QuantOperator).
    pub complete: bool,
    /// Whether it is a function of assembly. Such a function gets the addresses of all its buffers, even where two of
    /// them share memory.
    pub assembly: bool,
    /// Builds the function.
    pub build: fn(&mut LayerBuilder),
}

/// Elements and weights that a kernel can read, and accumulators that it can compute with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Types {
    /// Operands and results of 8 bits (a result can hold positions), weights of 8 bits, accumulators of 32.
    Bytes,
    /// Whatever there is.
    Any,
}

impl Types {
    /// Whether a layer has nothing else.
    fn allow(self, layer: &Layer, plan: &Plan) -> bool {
        let is_byte = |id: TensorId| {
            let ty = &plan.tensor(id).ty;
            ty.dtype.bits() == 8 || ty.params().is_none()
        };
        let narrow = |op: &QuantOp| op.accumulator().is_none_or(crate::ops::fits_i32);
        let weights = |op: &QuantOp| op.weighted().is_none_or(|weighted| weighted.weight_type.bits() == 8);
        let allowed = match &layer.work {
            Work::Operator(op) => narrow(op) && weights(op),
            Work::Copy => true,
        };
        self == Types::Any || allowed && plan.tensors_of(layer).all(is_byte)
    }
}

/// All kernels, by what they are written in. A faster variant is a row in the table of its family.
const FAMILIES: &[&[Kernel]] =
    &[LOOPS, thumb::KERNELS, scalar::KERNELS, dsp::KERNELS, mve::KERNELS, neon::KERNELS, x86::KERNELS];

/// The kernels of all targets.
const LOOPS: &[Kernel] = &[
    Kernel {
        name: "conv",
        accepts: |layer, _| matches!(layer.work, Work::Operator(QuantOp::Conv(_))),
        adds: true,
        complete: true,
        build: conv::build,
        ..LOOP
    },
    Kernel {
        name: "linear",
        accepts: |layer, _| matches!(layer.work, Work::Operator(QuantOp::Linear(_))),
        adds: true,
        complete: true,
        build: linear::build,
        ..LOOP
    },
    portable("affine", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Affine(_))), elementwise::build_affine),
    portable("table", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Table(_))), elementwise::build_table),
    portable("curve", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Curve(_))), elementwise::build_curve),
    portable(
        "rescale",
        |layer, _| matches!(layer.work, Work::Operator(QuantOp::Rescale(_))),
        elementwise::build_rescale,
    ),
    portable(
        "magnitude",
        |layer, _| matches!(layer.work, Work::Operator(QuantOp::Magnitude(_))),
        dynamic::build_magnitude,
    ),
    portable(
        "dynamic_quantize",
        |layer, _| matches!(layer.work, Work::Operator(QuantOp::DynamicQuantize(_))),
        dynamic::build_quantize,
    ),
    portable(
        "dynamic_dequantize",
        |layer, _| matches!(layer.work, Work::Operator(QuantOp::DynamicDequantize(_))),
        dynamic::build_dequantize,
    ),
    portable("add", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Add(_))), elementwise::build_add),
    portable("mul", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Mul(_))), elementwise::build_mul),
    portable("matmul", |layer, _| matches!(layer.work, Work::Operator(QuantOp::MatMul(_))), matmul::build),
    portable("normalize", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Normalize(_))), normalize::build),
    portable("max_pool", |layer, _| matches!(layer.work, Work::Operator(QuantOp::MaxPool(_))), pool::build_max),
    portable(
        "average_pool",
        |layer, _| matches!(layer.work, Work::Operator(QuantOp::AveragePool(_))),
        pool::build_average,
    ),
    portable("mean", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Mean(_))), mean::build),
    portable("softmax", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Softmax(_))), softmax::build),
    portable("arg_max", |layer, _| matches!(layer.work, Work::Operator(QuantOp::ArgMax(_))), arg_max::build),
    Kernel {
        name: "recurrent",
        accepts: |layer, _| matches!(layer.work, Work::Operator(QuantOp::Recurrent(_))),
        scratch: recurrent::scratch,
        scratch_elem: Elem::I16,
        build: recurrent::build,
        ..PORTABLE
    },
    portable("concat", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Concat(_))), moves::build_concat),
    portable("slice", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Slice(_))), moves::build_slice),
    portable("reduce", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Reduce(_))), reduce::build),
    portable("resample", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Resample(_))), resample::build),
    portable(
        "interleave",
        |layer, _| matches!(layer.work, Work::Operator(QuantOp::Interleave(_))),
        moves::build_interleave,
    ),
    portable("extreme", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Extreme(_))), broadcast::build_extreme),
    portable("sum", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Sum(_))), broadcast::build_sum),
    portable("select", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Select(_))), broadcast::build_select),
    portable("compare", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Compare(_))), broadcast::build_compare),
    portable("div", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Div(_))), broadcast::build_div),
    portable("prelu", |layer, _| matches!(layer.work, Work::Operator(QuantOp::PRelu(_))), broadcast::build_prelu),
    portable("gather", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Gather(_))), gather::build),
    portable("pick", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Pick(_))), gather::build_pick),
    portable("top_k", |layer, _| matches!(layer.work, Work::Operator(QuantOp::TopK(_))), gather::build_top_k),
    portable("one_hot", |layer, _| matches!(layer.work, Work::Operator(QuantOp::OneHot(_))), gather::build_one_hot),
    portable(
        "log_softmax",
        |layer, _| matches!(layer.work, Work::Operator(QuantOp::LogSoftmax(_))),
        log_softmax::build,
    ),
    portable("lrn", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Lrn(_))), lrn::build),
    portable("pad", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Pad(_))), pad::build),
    portable("copy", |layer, _| matches!(layer.work, Work::Copy), moves::build_copy),
];

/// What the kernels of all targets have in common.
const LOOP: Kernel = Kernel { types: Types::Any, ..PORTABLE };

/// What kernels have in common that say nothing else.
const PORTABLE: Kernel = Kernel {
    name: "",
    accepts: |_, _| false,
    types: Types::Bytes,
    needs: &[],
    goal: None,
    instructions: portable_instructions,
    scratch: |_, _| 0,
    scratch_elem: Elem::I8,
    lead: |_, _| None,
    replaces: |_, _| false,
    adds: false,
    complete: false,
    assembly: false,
    build: |_| {},
};

/// The kernel of a layer for which none has been chosen yet.
pub const UNDECIDED: &Kernel = &Kernel { name: "undecided", ..PORTABLE };

const fn portable(name: &'static str, accepts: fn(&Layer, &Plan) -> bool, build: fn(&mut LayerBuilder)) -> Kernel {
    Kernel { name, accepts, build, complete: true, ..LOOP }
}

/// What plain loops cost about: a product with its loads, an element that is read, an element with its requantization.
fn portable_instructions(layer: &Layer, plan: &Plan) -> u64 {
    let result = &plan.tensor(layer.result).ty.shape;
    let macs = match &layer.work {
        Work::Operator(op) => op.macs(result),
        Work::Copy => 0,
    };
    let elements = result.len() as u64;
    let read: usize = layer.operands.iter().map(|&id| plan.tensor(id).ty.shape.len()).sum();
    8 * macs + 4 * read as u64 + 20 * elements + if layer.added.is_some() { 10 * elements } else { 0 }
}

/// All kernels.
pub fn all() -> impl Iterator<Item = &'static Kernel> {
    FAMILIES.iter().copied().flatten()
}

/// The vector instructions of a target of which kernels know several levels.
pub fn vector_unit(target: &Target) -> Option<&'static VectorUnit> {
    let levels = [
        (Feature::Avx512Vnni, &x86::isa::AVX512),
        (Feature::Avx2, &x86::isa::AVX2),
        (Feature::Sse41, &x86::isa::SSE41),
    ];
    levels.into_iter().find(|(feature, _)| target.has(*feature)).map(|(_, isa)| &isa.unit)
}

/// The kernel for a layer; `None` if the table has none, which is a gap in the table.
pub fn choose(layer: &Layer, plan: &Plan, target: &Target, goal: Goal) -> Option<&'static Kernel> {
    usable(layer, plan, target, goal).min_by_key(|kernel| (kernel.instructions)(layer, plan))
}

/// All kernels that can compute a layer.
pub fn usable(layer: &Layer, plan: &Plan, target: &Target, goal: Goal) -> impl Iterator<Item = &'static Kernel> {
    all().filter(move |kernel| {
        kernel.needs.iter().all(|&feature| target.has(feature))
            && kernel.goal.is_none_or(|wanted| wanted == goal)
            && (kernel.adds || layer.added.is_none())
            && (kernel.complete || !is_unusual(layer))
            && kernel.types.allow(layer, plan)
            && (kernel.accepts)(layer, plan)
    })
}

fn is_unusual(layer: &Layer) -> bool {
    let own = match &layer.work {
        Work::Operator(op) => op.is_unusual(),
        Work::Copy => false,
    };
    own || layer.added.as_ref().is_some_and(|added| QuantOperator::is_unusual(&added.add))
}

/// How an operand of a layer may share memory with the result.
pub fn overlap(layer: &Layer, plan: &Plan, port: usize) -> Overlap {
    let lead = match layer.kernel.assembly {
        true if port > 0 => None,
        true => (layer.kernel.lead)(layer, plan),
        false => lead::lead(layer, plan, port),
    };
    match lead {
        Some(lead) => Overlap::Behind(lead),
        None if may_replace(layer, plan, port) || port == 0 && (layer.kernel.replaces)(layer, plan) => Overlap::Same,
        None => Overlap::Never,
    }
}

/// Whether the result may lie exactly where an operand lies: every kernel reads an element of the operand before it
/// writes the element in its place.
pub fn may_replace(layer: &Layer, plan: &Plan, port: usize) -> bool {
    let (x, y) = (plan.tensor(layer.operands[port]), plan.tensor(layer.result));
    let elementwise = match &layer.work {
        Work::Operator(op) => op.is_elementwise() || matches!(op, QuantOp::Softmax(_) | QuantOp::Normalize(_)),
        Work::Copy => false,
    };
    let addend = layer.added.is_some() && port + 1 == layer.operands.len();
    let alike = x.ty.shape == y.ty.shape && x.ty.dtype == y.ty.dtype && x.view == y.view;
    alike && (elementwise || addend)
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// What the functions and constants of a layer are called.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// The layer's identifier.
    pub layer: String,
    /// Prefix of its constants.
    pub constants: String,
    /// What names end with where another variant has others; empty for the program itself.
    pub suffix: String,
}

/// A layer under construction: its tensors, the function that is being written, and the constants it needs.
#[derive(Debug)]
pub struct LayerBuilder<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The layer.
    pub layer: &'a Layer,
    /// The function.
    pub f: FunctionBuilder,
    /// What its functions and constants are called.
    names: Names,
    /// Constants of the whole program.
    blobs: &'a mut Vec<Blob>,
    operands: Vec<Buffer>,
    result: Buffer,
    scratch: Option<Buffer>,
    passed: Vec<BlobId>,
    assembly: Option<Assembly>,
}

impl<'a> LayerBuilder<'a> {
    /// An empty function with the layer's parameters: operands, then the result, then working memory. Operands that share
    /// memory with the result are parts of one parameter with it.
    pub fn new(
        plan: &'a Plan,
        layer: &'a Layer,
        shared: &Shared,
        names: Names,
        doc: Vec<String>,
        blobs: &'a mut Vec<Blob>,
    ) -> Self {
        let mut f = FunctionBuilder::new(format!("{}{}", names.layer, names.suffix), doc).of_layer(&names.layer);
        let mut apart: Vec<(TensorId, Buffer)> = vec![];
        for (port, id) in shared.others(layer) {
            let ty = &plan.tensor(id).ty;
            apart.push((id, f.param(&operand_name(layer, port), elem(ty), ty.shape.len(), Access::Read)));
        }
        let ty = &plan.tensor(layer.result).ty;
        // Loops of which operand and result have elements of different sizes share no memory.
        let shared_len = shared.len / elem(ty).bytes();
        let result = match shared.operands[..] {
            [] => f.param("y", elem(ty), ty.shape.len(), Access::Write),
            [(port, 0)] if shared_len == ty.shape.len() => {
                f.param(&operand_name(layer, port), elem(ty), shared_len, Access::ReadWrite)
            }
            _ => f.param("memory", elem(ty), shared_len, Access::ReadWrite),
        };
        let mut operands = vec![];
        for (port, id) in layer.operands.iter().enumerate() {
            let known = apart.iter().find(|(other, _)| other == id).map(|(_, buffer)| *buffer);
            operands.push(known.unwrap_or_else(|| match shared.distance(port) {
                0 => result,
                distance => f.part(result, distance / elem(ty).bytes()),
            }));
        }
        let (elem, access) = match layer.kernel.assembly {
            true => (Elem::U8, Access::Write),
            false => (layer.kernel.scratch_elem, Access::ReadWrite),
        };
        // Also where none has been placed yet: the loops are examined before that.
        let bytes = match layer.scratch {
            Some(buffer) => plan.buffers[buffer].bytes,
            None => (layer.kernel.scratch)(layer, plan),
        };
        let scratch = (bytes > 0).then(|| f.param("scratch", elem, bytes / elem.bytes(), access));
        LayerBuilder { plan, layer, f, names, blobs, operands, result, scratch, passed: vec![], assembly: None }
    }

    /// The operator; `None` for a copy.
    pub fn op(&self) -> Option<&'a QuantOp> {
        match &self.layer.work {
            Work::Operator(op) => Some(op),
            Work::Copy => None,
        }
    }

    /// An operand's tensor.
    pub fn operand(&self, port: usize) -> &'a PlannedTensor {
        self.plan.tensor(self.layer.operands[port])
    }

    /// The result's tensor.
    pub fn result(&self) -> &'a PlannedTensor {
        self.plan.tensor(self.layer.result)
    }

    /// An operand's buffer.
    pub fn x(&self, port: usize) -> Buffer {
        self.operands[port]
    }

    /// The result's buffer.
    pub fn y(&self) -> Buffer {
        self.result
    }

    /// The working memory, if the kernel asked for some.
    pub fn scratch(&self) -> Option<Buffer> {
        self.scratch
    }

    /// Adds constant data. What is there already, because it is that of other rows of the same layer, is not repeated.
    pub fn blob(&mut self, name: &str, doc: impl Into<String>, elem: Elem, data: Vec<i64>) -> Buffer {
        Buffer::Blob(self.constant(name, doc.into(), elem, data))
    }

    /// Adds constant data whose address is a further parameter of the function.
    pub fn pass(&mut self, name: &str, doc: impl Into<String>, elem: Elem, data: Vec<i64>) {
        self.f.param(name, elem, data.len(), Access::Read);
        let id = self.constant(name, doc.into(), elem, data);
        self.passed.push(id);
    }

    /// Constant data; what other rows or another variant of the layer have already is not there twice.
    fn constant(&mut self, name: &str, doc: String, elem: Elem, data: Vec<i64>) -> BlobId {
        let plain = format!("{}_{name}", self.names.constants);
        let named =
            |blob: &Blob| blob.name.strip_prefix(&plain).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
        let same = |blob: &Blob| blob.elem == elem && blob.data == data && named(blob);
        if let Some(index) = self.blobs.iter().position(same) {
            return BlobId(index);
        }
        let taken = |name: &String| self.blobs.iter().any(|blob| blob.name == *name);
        let numbered = (2..).map(|number| format!("{plain}{}_{number}", self.names.suffix));
        let suffixed = format!("{plain}{}", self.names.suffix);
        let mut candidates = [plain.clone(), suffixed].into_iter().chain(numbered);
        let name = candidates.find(|name| !taken(name)).expect("there is always another number");
        self.blobs.push(Blob { name, doc, elem, data });
        BlobId(self.blobs.len() - 1)
    }

    /// Gives the function a body in assembly. Its parameters are the operands, the result, the working memory if there
    /// is some, and what has been passed, in this order.
    pub fn assemble(&mut self, assembly: Assembly) {
        self.assembly = Some(assembly);
    }

    /// The finished function, and the constants that follow its other arguments.
    pub fn finish(self) -> (Function, Vec<BlobId>) {
        let function = match self.assembly {
            Some(assembly) => self.f.finish_assembly(assembly),
            None => self.f.finish(),
        };
        (function, self.passed)
    }
}

/// One stride for each axis; layouts whose loops need that have been made so by the plan.
fn strides(view: &View) -> Vec<usize> {
    view.strides().expect("the plan copies operands whose axes are not evenly spaced")
}

/// Name of a layer's operand.
pub fn operand_name(layer: &Layer, port: usize) -> String {
    let own = layer.operands.len() - usize::from(layer.added.is_some());
    match own {
        _ if port >= own => "addend".to_owned(),
        1 => "x".to_owned(),
        2 => ["a", "b"][port].to_owned(),
        _ => format!("x{port}"),
    }
}

/// The element type in memory.
pub fn elem(ty: &QuantType) -> Elem {
    use crate::ir::DType;
    match ty.dtype {
        DType::I4 | DType::I8 => Elem::I8,
        DType::I16 => Elem::I16,
        DType::I32 => Elem::I32,
    }
}
