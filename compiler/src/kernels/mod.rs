//! How layers are computed: builders of loops, one for each kind of work and each way of doing it.
//!
//! A builder is written once for all output languages. Which builder a layer gets is decided by the table
//! [`KERNELS`]: of those that accept the layer and whose features the target has, the cheapest.

mod arg_max;
mod common;
mod conv;
mod elementwise;
mod linear;
mod mean;
mod moves;
mod pad;
mod pool;
mod softmax;

use ptqc_target_runtimes::{Feature, Target};

use crate::ir::QuantType;
use crate::ops::QuantOp;
use crate::plan::{Layer, Plan, PlannedTensor, View, Work};
use crate::program::{Access, Blob, BlobId, Buffer, Elem, Function, FunctionBuilder};

/// A way of computing some layers.
#[derive(Clone, Copy)]
pub struct Kernel {
    /// Name in plans and reports.
    pub name: &'static str,
    /// Which layers it can compute.
    pub accepts: fn(&Layer, &Plan) -> bool,
    /// Features that the target must have.
    pub needs: &'static [Feature],
    /// Relative cost of an element or product; the cheapest kernel wins.
    pub cost: u32,
    /// Builds the loops.
    pub build: fn(&mut LayerBuilder),
}

/// All kernels. A faster variant is one line here.
pub const KERNELS: &[Kernel] = &[
    portable("conv", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Conv(_))), conv::build),
    portable("linear", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Linear(_))), linear::build),
    portable("affine", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Affine(_))), elementwise::build_affine),
    portable("table", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Table(_))), elementwise::build_table),
    portable("add", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Add(_))), elementwise::build_add),
    portable("mul", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Mul(_))), elementwise::build_mul),
    portable("max_pool", |layer, _| matches!(layer.work, Work::Operator(QuantOp::MaxPool(_))), pool::build_max),
    portable(
        "average_pool",
        |layer, _| matches!(layer.work, Work::Operator(QuantOp::AveragePool(_))),
        pool::build_average,
    ),
    portable("mean", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Mean(_))), mean::build),
    portable("softmax", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Softmax(_))), softmax::build),
    portable("arg_max", |layer, _| matches!(layer.work, Work::Operator(QuantOp::ArgMax(_))), arg_max::build),
    portable("concat", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Concat(_))), moves::build_concat),
    portable("slice", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Slice(_))), moves::build_slice),
    portable("pad", |layer, _| matches!(layer.work, Work::Operator(QuantOp::Pad(_))), pad::build),
    portable("copy", |layer, _| matches!(layer.work, Work::Copy), moves::build_copy),
];

const fn portable(name: &'static str, accepts: fn(&Layer, &Plan) -> bool, build: fn(&mut LayerBuilder)) -> Kernel {
    Kernel { name, accepts, needs: &[], cost: 100, build }
}

/// The kernel for a layer; `None` if the table has none, which is a gap in the table.
pub fn choose(layer: &Layer, plan: &Plan, target: &Target) -> Option<&'static Kernel> {
    let usable =
        |kernel: &&Kernel| kernel.needs.iter().all(|&feature| target.has(feature)) && (kernel.accepts)(layer, plan);
    KERNELS.iter().filter(usable).min_by_key(|kernel| kernel.cost)
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
    /// Identifier of the layer, the prefix of its constants.
    name: String,
    /// Constants of the whole program.
    blobs: &'a mut Vec<Blob>,
    operands: Vec<Buffer>,
    result: Buffer,
}

impl<'a> LayerBuilder<'a> {
    /// An empty function with the layer's parameters: operands, then the result, or one for both in place.
    pub fn new(plan: &'a Plan, layer: &'a Layer, name: String, doc: Vec<String>, blobs: &'a mut Vec<Blob>) -> Self {
        let mut f = FunctionBuilder::new(name.clone(), doc);
        let mut operands: Vec<Buffer> = vec![];
        for (port, &id) in layer.operands.iter().enumerate() {
            // An operand that is used twice is one parameter.
            let known = layer.operands[..port].iter().position(|&other| other == id);
            let access = if layer.in_place.is_some_and(|in_place| layer.operands[in_place] == id) {
                Access::ReadWrite
            } else {
                Access::Read
            };
            let buffer = match known {
                Some(first) => operands[first],
                None => {
                    let (ty, name) = (&plan.tensor(id).ty, operand_name(port, layer.operands.len()));
                    f.param(&name, elem(ty), ty.shape.len(), access)
                }
            };
            operands.push(buffer);
        }
        let ty = &plan.tensor(layer.result).ty;
        let result = match layer.in_place {
            Some(port) => operands[port],
            None => f.param("y", elem(ty), ty.shape.len(), Access::Write),
        };
        LayerBuilder { plan, layer, f, name, blobs, operands, result }
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

    /// Adds constant data.
    pub fn blob(&mut self, name: &str, doc: impl Into<String>, elem: Elem, data: Vec<i64>) -> Buffer {
        self.blobs.push(Blob { name: format!("{}_{name}", self.name), doc: doc.into(), elem, data });
        Buffer::Blob(BlobId(self.blobs.len() - 1))
    }

    /// The finished function.
    pub fn finish(self) -> Function {
        self.f.finish()
    }
}

/// One stride for each axis; layouts whose loops need that have been made so by the plan.
fn strides(view: &View) -> Vec<usize> {
    view.strides().expect("the plan copies operands whose axes are not evenly spaced")
}

/// Names of a layer's operands.
pub fn operand_name(port: usize, count: usize) -> String {
    match count {
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
