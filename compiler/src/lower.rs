//! From plan to program: one function for each layer, one call for each function.

use crate::diag::{self, Diagnostic};
use crate::ir::Interval;
use crate::kernels::{self, LayerBuilder};
use crate::names::{Namer, identifier};
use crate::ops::QuantOp;
use crate::ops::add::QAdd;
use crate::plan::{Added, CheckedPlan, Layer, Place, Plan, TensorId, Work};
use crate::program::{Arg, Blob, BlobId, Call, CheckedProgram, Function, Program, Signature, Variant, VectorUnit};

/// A program, and for each of its functions what the report says about it.
#[derive(Debug)]
pub struct Lowered {
    /// The program.
    pub program: CheckedProgram,
    /// One entry for each layer of the plan.
    pub layers: Vec<LoweredLayer>,
}

/// What lowering knows of a layer.
#[derive(Debug, Clone)]
pub struct LoweredLayer {
    /// The function, without the model's prefix.
    pub function: String,
    /// The kernel.
    pub kernel: &'static str,
    /// Bytes of its constants.
    pub constant_bytes: usize,
    /// All values of its accumulator.
    pub accumulator: Option<Interval>,
}

/// A plan for processors of the target that have more vector instructions than all of them have.
#[derive(Debug)]
pub struct PlannedVariant {
    /// A legal identifier.
    pub name: &'static str,
    /// What the processors have.
    pub unit: &'static VectorUnit,
    /// The plan.
    pub plan: CheckedPlan,
}

/// Lowers a plan and its variants. `name` is the prefix of every symbol.
pub fn lower(plan: &CheckedPlan, variants: &[PlannedVariant], name: &str) -> diag::Result<Lowered> {
    let mut program = Program {
        name: name.to_owned(),
        inputs: signatures(plan, "input", plan.inputs.iter().copied()),
        outputs: signatures(plan, "output", plan.outputs.iter().map(|(_, id)| *id)),
        arena_bytes: variants.iter().map(|variant| variant.plan.arena.bytes).fold(plan.arena.bytes, usize::max),
        blobs: vec![],
        functions: vec![],
        calls: vec![],
        variants: vec![],
    };
    let (calls, layers) = lower_plan(plan, "", &mut program);
    program.calls = calls;
    for PlannedVariant { name, unit, plan } in variants {
        let (calls, _) = lower_plan(plan, &format!("_{name}"), &mut program);
        program.variants.push(Variant { name: (*name).to_owned(), unit, calls });
    }
    let program = CheckedProgram::new(program).map_err(|error| Diagnostic::internal(error.to_string()))?;
    Ok(Lowered { program, layers })
}

/// Adds the functions and constants of a plan to a program. What a variant has in common with the plan before it is
/// shared; the names of its other functions end with `suffix`.
fn lower_plan(plan: &CheckedPlan, suffix: &str, program: &mut Program) -> (Vec<Call>, Vec<LoweredLayer>) {
    let constants = add_constants(plan, &mut program.blobs);
    let mut namer = Namer::default();
    let (mut calls, mut layers) = (vec![], vec![]);
    for (layer_idx, layer) in plan.layers.iter().enumerate() {
        let name = namer.unique(&format!("{layer_idx:02}_{}", slug(layer)));
        let blobs_before = program.blobs.len();
        let names = (name.clone(), suffix.to_owned());
        let mut builder = LayerBuilder::new(plan, layer, names, doc(plan, layer), &mut program.blobs);
        (layer.kernel.build)(&mut builder);
        let (built, passed) = builder.finish();
        let mut args = arguments(plan, layer, &constants);
        args.extend(passed.into_iter().map(Arg::Blob));
        let function = program.functions.iter().position(|other| computes_same(other, &built));
        let function = function.unwrap_or_else(|| {
            program.functions.push(built);
            program.functions.len() - 1
        });
        calls.push(Call { function, args });
        layers.push(LoweredLayer {
            function: name,
            kernel: layer.kernel.name,
            constant_bytes: program.blobs[blobs_before..].iter().map(|blob| blob.data.len() * blob.elem.bytes()).sum(),
            accumulator: operator(layer).and_then(|op| op.accumulator()),
        });
    }
    (calls, layers)
}

/// Whether two functions of a layer differ in their names only.
fn computes_same(a: &Function, b: &Function) -> bool {
    a.layer == b.layer && Function { name: String::new(), ..a.clone() } == Function { name: String::new(), ..b.clone() }
}

/// The operator of a layer.
pub fn operator(layer: &Layer) -> Option<&QuantOp> {
    match &layer.work {
        Work::Operator(op) => Some(op),
        Work::Copy => None,
    }
}

fn signatures(plan: &Plan, prefix: &str, tensors: impl Iterator<Item = TensorId>) -> Vec<Signature> {
    tensors
        .enumerate()
        .map(|(index, id)| {
            let ty = &plan.tensor(id).ty;
            Signature { name: format!("{prefix}_{index}"), elem: kernels::elem(ty), len: ty.shape.len() }
        })
        .collect()
}

/// Constants that are operands: one blob for each buffer.
fn add_constants(plan: &Plan, blobs: &mut Vec<Blob>) -> Vec<Option<BlobId>> {
    let mut constants = vec![None; plan.buffers.len()];
    for tensor in &plan.tensors {
        let Place::Constant(data) = &plan.buffers[tensor.buffer].place else { continue };
        if constants[tensor.buffer].is_some() {
            continue;
        }
        let blob = Blob {
            name: format!("constant{}", blobs.len()),
            doc: format!("Constant {} of shape {}.", tensor.name, tensor.ty.shape),
            elem: kernels::elem(&tensor.ty),
            data: data.iter().map(|&q| i64::from(q)).collect(),
        };
        // A variant has the same.
        let known = blobs.iter().position(|other| other.doc == blob.doc && other.data == blob.data);
        constants[tensor.buffer] = Some(BlobId(known.unwrap_or(blobs.len())));
        if known.is_none() {
            blobs.push(blob);
        }
    }
    constants
}

/// The buffers of a call, in the order of the function's parameters.
fn arguments(plan: &Plan, layer: &Layer, constants: &[Option<BlobId>]) -> Vec<Arg> {
    let mut tensors: Vec<TensorId> = vec![];
    for &operand in &layer.operands {
        if !tensors.contains(&operand) {
            tensors.push(operand);
        }
    }
    if layer.in_place.is_none() || layer.kernel.assembly {
        tensors.push(layer.result);
    }
    let argument = |id: TensorId| match plan.place(id) {
        Place::Input(index) => Arg::Input(*index),
        Place::Output(index) => Arg::Output(*index),
        Place::Arena(offset) => Arg::Arena(*offset),
        Place::Constant(_) => Arg::Blob(constants[plan.tensor(id).buffer].expect("every constant has a blob")),
    };
    let scratch = layer.scratch.map(|buffer| match plan.buffers[buffer].place {
        Place::Arena(offset) => Arg::Arena(offset),
        Place::Input(_) | Place::Output(_) | Place::Constant(_) => unreachable!("working memory is in the arena"),
    });
    tensors.into_iter().map(argument).chain(scratch).collect()
}

/// Lines of the comment above a layer's function.
fn doc(plan: &Plan, layer: &Layer) -> Vec<String> {
    let kinds: Vec<&str> = layer.origin.iter().map(|origin| origin.op_type.as_str()).collect();
    let what = match &layer.work {
        Work::Copy => "copy into another layout".to_owned(),
        Work::Operator(op) if kinds.is_empty() => op.kind().to_owned(),
        Work::Operator(_) => kinds.join(" + "),
    };
    let mut lines = vec![format!("{}  =  {what}", layer.name)];
    let nodes: Vec<&str> =
        layer.origin.iter().map(|origin| origin.node.as_str()).filter(|node| *node != layer.name).collect();
    if !nodes.is_empty() {
        lines.push(format!("ONNX nodes: {}", nodes.join(", ")));
    }
    let tensor = |id: &TensorId| plan.tensor(*id).ty.to_string();
    let operands: Vec<String> = layer.operands.iter().map(tensor).collect();
    lines.push(format!("{} -> {}", operands.join(", "), tensor(&layer.result)));
    if let Some(op) = operator(layer) {
        let formula = op.formula();
        if !formula.is_empty() {
            lines.push(formula);
        }
        lines.extend(layer.added.as_ref().map(addition));
        if let Some(bound) = op.accumulator() {
            lines.push(format!("|acc| <= {}", bound.lo.abs().max(bound.hi.abs())));
        }
    }
    if let Some(port) = layer.in_place {
        lines.push(format!("In place: the result replaces {}.", kernels::operand_name(layer, port)));
    }
    lines
}

/// The formula of an addition that is computed before the result is stored.
fn addition(added: &Added) -> String {
    let QAdd { sum, precision, clamp } = &added.add;
    let [own, other] = [added.port, 1 - added.port].map(|port| sum.factors[port]);
    format!(
        "then y = clamp((y * {own} + addend * {other} {:+}) >> {} in {} bits, {}, {})",
        sum.offset,
        precision.shift,
        if precision.wide { 64 } else { 32 },
        clamp.lo,
        clamp.hi,
    )
}

/// A short identifier that a reader of the model recognises: of `/conv1/Conv` the scope, `conv1`.
fn slug(layer: &Layer) -> String {
    let kind = match &layer.work {
        Work::Copy => "copy",
        Work::Operator(op) => op.kind(),
    };
    let name = layer.origin.first().map_or("", |origin| origin.node.as_str());
    // TensorFlow joins the names of fused nodes; the last is the operator that the others belong to.
    let last = name.rsplit(';').next().unwrap_or(name);
    let mut scopes: Vec<String> = last.split('/').map(identifier).filter(|part| !part.is_empty()).collect();
    let bookkeeping = |part: &String| VARIABLE_PARTS.iter().any(|prefix| part.starts_with(prefix));
    let named_by_variable = scopes.last().is_some_and(bookkeeping);
    while scopes.len() > 1 && scopes.last().is_some_and(bookkeeping) {
        scopes.pop();
    }
    if scopes.len() > 1 && !named_by_variable {
        scopes.pop();
    }
    scopes.pop().unwrap_or_else(|| kind.to_lowercase()).chars().take(SLUG_LEN).collect()
}

/// Longest slug; longer names are cut, the layer's number keeps them apart.
const SLUG_LEN: usize = 32;

/// What TensorFlow appends to the name of a layer for its variables.
const VARIABLE_PARTS: &[&str] = &["readvariableop", "biasadd", "resource"];
