//! From plan to program: one function for each layer, one call for each function.

use std::collections::BTreeMap;

use crate::diag::{self, Diagnostic};
use crate::ir::Interval;
use crate::kernels::{self, LayerBuilder, Names};
use crate::names::{Namer, identifier};
use crate::ops::QuantOp;
use crate::ops::add::QAdd;
use crate::plan::{Added, CheckedPlan, Layer, Place, Plan, Position, Rows, Run, Shared, TensorId, Work};
use crate::program::{
    Arg, Blob, BlobId, Call, CheckedProgram, Function, Program, Signature, Step, Variant, VectorUnit,
};

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
        steps: vec![],
        variants: vec![],
    };
    let (steps, layers) = lower_plan(plan, "", &mut program);
    program.steps = steps;
    for PlannedVariant { name, unit, plan } in variants {
        let (steps, _) = lower_plan(plan, &format!("_{name}"), &mut program);
        program.variants.push(Variant { name: (*name).to_owned(), unit, steps });
    }
    let program = CheckedProgram::new(program).map_err(|error| Diagnostic::internal(error.to_string()))?;
    Ok(Lowered { program, layers })
}

/// Adds the functions and constants of a plan to a program. What a variant has in common with the plan before it is
/// shared; the names of its other functions end with `suffix`.
fn lower_plan(plan: &CheckedPlan, suffix: &str, program: &mut Program) -> (Vec<Step>, Vec<LoweredLayer>) {
    let constants = add_constants(plan, &mut program.blobs);
    let mut namer = Namer::default();
    let mut layers = vec![];
    let mut made: Vec<(usize, Vec<BlobId>)> = vec![];
    // Layers that compute different rows of one tensor share constants.
    let mut prefixes: BTreeMap<(usize, bool), String> = BTreeMap::new();
    for (layer_idx, layer) in plan.layers.iter().enumerate() {
        let name = namer.unique(&format!("{layer_idx:02}_{}", slug(layer)));
        let moves = matches!(layer.work, Work::Copy);
        let prefix = prefixes.entry((layer.source, moves)).or_insert_with(|| name.clone()).clone();
        let shared = plan.shared(layer_idx);
        let doc = doc(plan, layer, &shared);
        let names = Names { layer: name.clone(), constants: prefix.clone(), suffix: suffix.to_owned() };
        let mut builder = LayerBuilder::new(plan, layer, &shared, names, doc, &mut program.blobs);
        (layer.kernel.build)(&mut builder);
        let (built, passed) = builder.finish();
        let function = program.functions.iter().position(|other| computes_same(other, &built));
        let function = function.unwrap_or_else(|| {
            program.functions.push(built);
            program.functions.len() - 1
        });
        made.push((function, passed));
        let constant_bytes = if prefix == name { constants_of(&program.blobs, &prefix) } else { 0 };
        layers.push(LoweredLayer {
            function: name,
            kernel: layer.kernel.name,
            constant_bytes,
            accumulator: operator(layer).and_then(|op| op.accumulator()),
        });
    }
    let steps = plan.steps.iter().map(|step| {
        let call = |run: &Run| {
            let (function, passed) = &made[run.layer];
            let blobs = passed.iter().map(|&id| Arg::blob(id));
            Call { function: *function, args: arguments(plan, run, &constants).into_iter().chain(blobs).collect() }
        };
        Step { times: step.times, calls: step.runs.iter().map(call).collect() }
    });
    (steps.collect(), layers)
}

/// Whether two functions of a layer differ in their names only.
fn computes_same(a: &Function, b: &Function) -> bool {
    a.layer == b.layer && Function { name: String::new(), ..a.clone() } == Function { name: String::new(), ..b.clone() }
}

/// Bytes of the constants of a layer.
fn constants_of(blobs: &[Blob], prefix: &str) -> usize {
    let own = |blob: &&Blob| blob.name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('_'));
    blobs.iter().filter(own).map(Blob::bytes).sum()
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
            doc: format!("Constant `{}` of shape {}.", tensor.name, tensor.ty.shape),
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
fn arguments(plan: &Plan, run: &Run, constants: &[Option<BlobId>]) -> Vec<Arg> {
    let layer = &plan.layers[run.layer];
    let others = plan.shared(run.layer).others(layer).into_iter().map(|(port, id)| (id, run.at[port]));
    let argument = |(id, at): (TensorId, Position)| {
        let memory = match plan.place(id) {
            Place::Input(index) => Arg::input(*index),
            Place::Output(index) => Arg::output(*index),
            Place::Arena(offset) => Arg::arena(*offset),
            Place::Constant(_) => Arg::blob(constants[plan.tensor(id).buffer].expect("every constant has a blob")),
        };
        Arg { start: memory.start + at.start, advance: at.advance, ..memory }
    };
    let scratch = layer.scratch.map(|buffer| match plan.buffers[buffer].place {
        Place::Arena(offset) => Arg::arena(offset),
        Place::Input(_) | Place::Output(_) | Place::Constant(_) => unreachable!("working memory is in the arena"),
    });
    others.chain([(layer.result, run.at[layer.operands.len()])]).map(argument).chain(scratch).collect()
}

/// Lines of the comment above a layer's function.
fn doc(plan: &Plan, layer: &Layer, shared: &Shared) -> Vec<String> {
    let kinds: Vec<&str> = layer.origin.iter().map(|origin| origin.op_type.as_str()).collect();
    let what = match &layer.work {
        Work::Copy if layer.rows.is_some() => "rows that are still needed move to the start of their buffer".to_owned(),
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
    if let Some(Rows { first, last, of }) = layer.rows.filter(|_| operator(layer).is_some()) {
        lines.push(match first == last {
            true => format!("Row {first} of {of}."),
            false => format!("One of rows {first} to {last} of {of}."),
        });
    }
    for &(port, distance) in &shared.operands {
        let name = kernels::operand_name(layer, port);
        lines.push(match distance {
            0 => format!("In place: the result replaces {name}."),
            _ => format!("The result replaces {name}, which begins {distance} bytes behind it in the same memory."),
        });
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
