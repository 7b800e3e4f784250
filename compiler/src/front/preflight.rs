//! Everything that can be known to be wrong before tract sees the model, reported together.

use std::collections::{BTreeMap, BTreeSet};

use tract_onnx::pb;

use super::proto::{self, node_name};
use super::registry::{self, ATTRIBUTES, KNOWN_UNSUPPORTED, OPSETS};
use super::{ExternalFiles, ModelInput, written_out};
use crate::diag::{Code, Diagnostic, Diagnostics};
use crate::ir::Shape;

/// What to do about a model that contradicts the specification.
const CHECKER: &str = "check the model with `onnx.checker.check_model(model, full_check=True)` and export it again";

/// At most this many other nodes are named in a note.
const NAMED_NODES: usize = 3;

/// Reads weights that lie in other files into the model.
pub fn inline_external_data(proto: &mut pb::ModelProto, external: &ExternalFiles, problems: &mut Diagnostics) {
    let Some(graph) = &mut proto.graph else { return };
    let mut files: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
    for tensor in graph.initializer.iter_mut().filter(|tensor| tensor.data_location == Some(1)) {
        let field =
            |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.clone());
        let location = field("location").unwrap_or_default();
        let number = |key: &str| field(key).and_then(|text| text.parse::<usize>().ok());
        let (offset, length) = (number("offset").unwrap_or(0), number("length"));
        let contents = files.entry(location.clone()).or_insert_with(|| {
            external(&location).map_err(|error| problems.push(missing_file(&location, &error))).ok()
        });
        let Some(contents) = contents else { continue };
        let end = length.map_or(Some(contents.len()), |length| offset.checked_add(length));
        match end.and_then(|end| contents.get(offset..end)) {
            Some(data) => {
                tensor.raw_data = data.to_vec();
                tensor.data_location = Some(0);
                tensor.external_data.clear();
            }
            None => problems.push(
                Diagnostic::error(Code::ExternalData, format!("the external data file `{location}` is too short"))
                    .tensor(&tensor.name)
                    .help("copy the data file again, next to the model"),
            ),
        }
    }
}

fn missing_file(location: &str, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error(Code::ExternalData, format!("the model keeps weights in `{location}`, which cannot be read"))
        .note(error.to_string())
        .help("put the file next to the model, or save the model in one file: onnx.save(onnx.load(PATH), OUT)")
}

/// Operators that cannot be compiled.
#[derive(Debug, Default)]
pub struct Refused {
    /// How many problems were reported.
    pub problems: usize,
    /// The tensors they would compute.
    pub outputs: BTreeSet<String>,
}

/// Checks names, domains, operators and constants; trims what tract trips over. `reasons` say why nodes could not be
/// written out as others, by the name of their first output.
pub fn check(proto: &mut pb::ModelProto, reasons: &BTreeMap<String, String>, problems: &mut Diagnostics) -> Refused {
    check_opset(proto, problems);
    if !proto.functions.is_empty() {
        problems.push(
            Diagnostic::error(Code::UnsupportedOp, "the model defines functions of its own")
                .help("inline them: onnx.inliner.inline_local_functions(model)"),
        );
    }
    let Some(graph) = &mut proto.graph else { return Refused::default() };
    name_first_outputs(graph);
    let refused = check_operators(graph, reasons, problems);
    let attributes = unknown_attributes(graph);
    let refused = Refused { problems: refused.problems + attributes.len(), ..refused };
    problems.extend(attributes);
    check_tensors(graph, problems);
    check_wiring(graph, problems);
    trim_unused_outputs(graph);
    refused
}

/// A node is known by its first output. Where that is left out though there are others, it gets a name nobody uses.
fn name_first_outputs(graph: &mut pb::GraphProto) {
    for node in &mut graph.node {
        let other = node.output.iter().find(|name| !name.is_empty()).cloned();
        if let (Some(first), Some(other)) = (node.output.first_mut().filter(|name| name.is_empty()), other) {
            *first = format!("{other}#first");
        }
    }
}

fn check_opset(proto: &pb::ModelProto, problems: &mut Diagnostics) {
    let default = proto.opset_import.iter().find(|import| is_default(&import.domain));
    match default.map(|import| import.version) {
        Some(version) if OPSETS.contains(&version) => {}
        Some(version) => problems.push(
            Diagnostic::error(Code::UnsupportedOpset, format!("operator set {version} is not supported"))
                .note(format!("operator sets {} to {} are", OPSETS.start(), OPSETS.end()))
                .help("convert it: onnx.version_converter.convert_version(model, 18)"),
        ),
        None => problems.push(
            Diagnostic::error(Code::UnsupportedOpset, "the model does not say which operator set it uses")
                .help("export the model again with a recent exporter"),
        ),
    }
}

/// Whether a name of a domain means that of the ONNX standard.
pub fn is_default(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

fn check_operators(graph: &pb::GraphProto, reasons: &BTreeMap<String, String>, problems: &mut Diagnostics) -> Refused {
    let mut unsupported: BTreeMap<(&str, &str), Vec<&pb::NodeProto>> = BTreeMap::new();
    for node in &graph.node {
        if !is_default(&node.domain) || registry::find(&node.op_type).is_none() {
            unsupported.entry((&node.domain, &node.op_type)).or_default().push(node);
        }
    }
    let outputs = unsupported.values().flatten().flat_map(|node| node.output.iter().cloned()).collect();
    let refused = Refused { problems: unsupported.len(), outputs };
    for ((domain, op_type), nodes) in unsupported {
        let diagnostic = unsupported_operator(domain, op_type, &nodes);
        let reason = nodes[0].output.first().and_then(|output| reasons.get(output));
        problems.push(match reason {
            Some(reason) => diagnostic.note(reason.clone()),
            None => diagnostic,
        });
    }
    refused
}

/// Attributes that no operator of ONNX has, on operators that would be compiled.
fn unknown_attributes(graph: &pb::GraphProto) -> Vec<Diagnostic> {
    let compiled = graph.node.iter().filter(|node| is_default(&node.domain) && registry::find(&node.op_type).is_some());
    let named = compiled.flat_map(|node| node.attribute.iter().map(move |attribute| (node, &attribute.name)));
    let unknown = named.filter(|(_, name)| ATTRIBUTES.binary_search(&name.as_str()).is_err());
    let diagnostic = |(node, name): (&pb::NodeProto, &String)| {
        Diagnostic::error(
            Code::UnsupportedAttribute,
            format!("`{}` has an attribute `{name}`, which ONNX does not know", node.op_type),
        )
        .node(node_name(node))
        .tensor(node.output.first().cloned().unwrap_or_default())
        .help("if it means nothing for the result, remove it from the node; else export the model without it")
    };
    unknown.map(diagnostic).collect()
}

fn unsupported_operator(domain: &str, op_type: &str, nodes: &[&pb::NodeProto]) -> Diagnostic {
    let diagnostic = if !is_default(domain) {
        Diagnostic::error(Code::UnsupportedDomain, format!("`{op_type}` of domain `{domain}` is not supported"))
            .help("export the model with operators of the default ONNX domain only")
    } else if KNOWN_UNSUPPORTED.contains(&op_type) || written_out::is_known(op_type) {
        Diagnostic::error(Code::UnsupportedOp, format!("`{op_type}` cannot be lowered to integers yet"))
            .help(registry::workaround(op_type))
    } else {
        Diagnostic::error(Code::UnsupportedOp, format!("`{op_type}` is no operator of ONNX that ptqc knows"))
            .help("check its spelling and its domain; `ptqc ops` lists what is supported")
    };
    let first = nodes[0];
    let diagnostic = diagnostic.node(node_name(first)).tensor(first.output.first().cloned().unwrap_or_default());
    let others: Vec<String> =
        nodes[1..].iter().take(NAMED_NODES).map(|node| format!("`{}`", node_name(node))).collect();
    match nodes.len() - 1 {
        0 => diagnostic,
        more => {
            let dots = if more > NAMED_NODES { ", ..." } else { "" };
            diagnostic.note(format!("{more} more nodes use it: {}{dots}", others.join(", ")))
        }
    }
}

fn check_tensors(graph: &pb::GraphProto, problems: &mut Diagnostics) {
    // What is still external has been reported as missing.
    for tensor in graph.initializer.iter().filter(|tensor| tensor.data_location != Some(1)) {
        let elements: Option<usize> = tensor
            .dims
            .iter()
            .try_fold(1usize, |len, &dim| usize::try_from(dim).ok().and_then(|dim| len.checked_mul(dim)));
        let stored = stored_elements(tensor);
        match (elements, stored) {
            (Some(elements), Some(stored)) if elements == stored => {}
            (_, None) => problems.push(
                Diagnostic::error(
                    Code::UnsupportedAttribute,
                    format!("weights of type {}", proto::element_type(tensor.data_type)),
                )
                .tensor(&tensor.name)
                .help("export the model in float32"),
            ),
            (_, Some(stored)) => problems.push(
                Diagnostic::error(
                    Code::CorruptModel,
                    format!("a tensor of shape {:?} holds {stored} elements", tensor.dims),
                )
                .tensor(&tensor.name)
                .help("export the model again, or fetch the file again: it may be damaged"),
            ),
        }
    }
    if !graph.sparse_initializer.is_empty() {
        problems.push(
            Diagnostic::error(Code::UnsupportedOp, "the model has sparse weights").help("export it with dense weights"),
        );
    }
}

/// Number of elements a tensor really holds; `None` for element types that are not supported.
fn stored_elements(tensor: &pb::TensorProto) -> Option<usize> {
    if let 21 | 22 = tensor.data_type {
        return Some(super::tensors::decode(tensor).map_or(usize::MAX, |stored| stored.data.len()));
    }
    let bytes = match tensor.data_type {
        1 | 6 | 12 => 4,
        2 | 3 | 9 => 1,
        4 | 5 => 2,
        7 | 11 | 13 => 8,
        _ => return None,
    };
    if !tensor.raw_data.is_empty() {
        return Some(if tensor.raw_data.len().is_multiple_of(bytes) {
            tensor.raw_data.len() / bytes
        } else {
            usize::MAX
        });
    }
    Some(match tensor.data_type {
        1 => tensor.float_data.len(),
        7 => tensor.int64_data.len(),
        11 => tensor.double_data.len(),
        12 | 13 => tensor.uint64_data.len(),
        _ => tensor.int32_data.len(),
    })
}

/// Every name has one producer that comes before its uses.
fn check_wiring(graph: &pb::GraphProto, problems: &mut Diagnostics) {
    let mut known: BTreeSet<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
    known.extend(graph.initializer.iter().map(|tensor| tensor.name.as_str()));
    for node in &graph.node {
        for input in node.input.iter().filter(|name| !name.is_empty() && !known.contains(name.as_str())) {
            let (why, help) = match graph.node.iter().any(|later| later.output.contains(input)) {
                true => (
                    "before it is produced",
                    "put the nodes into the order of execution; a cycle has none and cannot be compiled",
                ),
                false => ("which nothing produces", CHECKER),
            };
            let message = format!("`{}` uses `{input}` {why}", node.op_type).replace("` which", "`, which");
            problems.push(Diagnostic::error(Code::InvalidGraph, message).node(node_name(node)).help(help));
        }
        if node.output.first().is_none_or(String::is_empty) {
            let message = format!("a `{}` has no output", node.op_type);
            problems.push(Diagnostic::error(Code::InvalidGraph, message).node(node_name(node)).help(CHECKER));
        }
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            if !known.insert(output) {
                let message = format!("`{output}` is produced twice");
                problems.push(
                    Diagnostic::error(Code::InvalidGraph, message)
                        .node(node_name(node))
                        .help("give every tensor a name of its own"),
                );
            }
        }
    }
    for output in graph.output.iter().filter(|output| !known.contains(output.name.as_str())) {
        let message = "nothing produces this output of the model";
        problems.push(Diagnostic::error(Code::InvalidGraph, message).tensor(&output.name).help(CHECKER));
    }
    if graph.output.is_empty() {
        problems.push(Diagnostic::error(Code::InvalidGraph, "the model has no outputs").help(CHECKER));
    }
}

/// tract refuses some optional outputs even where nothing uses them.
fn trim_unused_outputs(graph: &mut pb::GraphProto) {
    let mut used: BTreeSet<String> = graph.output.iter().map(|output| output.name.clone()).collect();
    used.extend(graph.node.iter().flat_map(|node| node.input.iter().cloned()));
    for node in &mut graph.node {
        while node.output.len() > 1
            && node.op_type != "Split"
            && node.output.last().is_some_and(|last| !used.contains(last))
        {
            node.output.pop();
        }
    }
}

/// The model's inputs with every dimension pinned.
pub fn pin_inputs(
    proto: &pb::ModelProto,
    pinned: &BTreeMap<String, usize>,
    problems: &mut Diagnostics,
) -> Vec<ModelInput> {
    let Some(graph) = &proto.graph else { return vec![] };
    let constants: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let mut unused: BTreeSet<&str> = pinned.keys().map(String::as_str).collect();
    let mut inputs = vec![];
    for info in graph.input.iter().filter(|info| !constants.contains(info.name.as_str())) {
        if let Some(input) = pin_input(info, pinned, &mut unused, problems) {
            inputs.push(input);
        }
    }
    for name in unused {
        let symbols = symbols(graph);
        let known =
            if symbols.is_empty() { "the model has none".to_owned() } else { format!("it has {}", symbols.join(", ")) };
        problems.push(
            Diagnostic::error(Code::UnknownDimension, format!("the model has no symbolic dimension `{name}`"))
                .note(known)
                .help("correct the name, or leave this --dim out"),
        );
    }
    if inputs.is_empty() && !problems.has_errors() {
        problems.push(
            Diagnostic::error(Code::InvalidGraph, "the model has no inputs: its result is a constant")
                .help("export the model with its inputs"),
        );
    }
    inputs
}

fn symbols(graph: &pb::GraphProto) -> Vec<String> {
    let names = graph.input.iter().flat_map(dimensions).filter_map(|dim| match dim {
        Dimension::Symbol(name) => Some(format!("`{name}`")),
        Dimension::Known(_) | Dimension::Unnamed => None,
    });
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

/// A dimension as the model declares it.
enum Dimension {
    Known(usize),
    Symbol(String),
    Unnamed,
}

fn dimensions(info: &pb::ValueInfoProto) -> Vec<Dimension> {
    use pb::tensor_shape_proto::dimension;
    let Some(shape) = tensor_type(info).and_then(|tensor| tensor.shape.as_ref()) else { return vec![] };
    let dims = shape.dim.iter().map(|dim| match &dim.value {
        Some(dimension::Value::DimValue(size)) => {
            usize::try_from(*size).map_or(Dimension::Unnamed, |size| match size {
                0 => Dimension::Unnamed,
                size => Dimension::Known(size),
            })
        }
        Some(dimension::Value::DimParam(name)) if !name.is_empty() => Dimension::Symbol(name.clone()),
        Some(dimension::Value::DimParam(_)) | None => Dimension::Unnamed,
    });
    dims.collect()
}

fn tensor_type(info: &pb::ValueInfoProto) -> Option<&pb::type_proto::Tensor> {
    match &info.r#type.as_ref()?.value {
        Some(pb::type_proto::Value::TensorType(tensor)) => Some(tensor),
        _ => None,
    }
}

fn pin_input(
    info: &pb::ValueInfoProto,
    pinned: &BTreeMap<String, usize>,
    unused: &mut BTreeSet<&str>,
    problems: &mut Diagnostics,
) -> Option<ModelInput> {
    let Some(tensor) = tensor_type(info).filter(|tensor| tensor.shape.is_some()) else {
        problems.push(
            Diagnostic::error(Code::UnknownDimension, "the shape of this input is not declared")
                .tensor(&info.name)
                .help("export the model with a fixed input shape"),
        );
        return None;
    };
    if !matches!(tensor.elem_type, 1..=7 | 9 | 12 | 13) {
        let message = format!("an input of type {} is not supported", proto::element_type(tensor.elem_type));
        problems.push(
            Diagnostic::error(Code::UnsupportedAttribute, message)
                .tensor(&info.name)
                .help("export the model in float32"),
        );
        return None;
    }
    let mut dims = vec![];
    for (axis, dim) in dimensions(info).into_iter().enumerate() {
        let name = match dim {
            Dimension::Known(size) => {
                dims.push(size);
                continue;
            }
            Dimension::Symbol(name) => name,
            Dimension::Unnamed => format!("{}.{axis}", info.name),
        };
        unused.remove(name.as_str());
        match pinned.get(&name) {
            Some(&size) if size > 0 => dims.push(size),
            Some(_) => problems.push(
                Diagnostic::error(Code::UnknownDimension, format!("dimension `{name}` cannot be 0"))
                    .tensor(&info.name)
                    .help(format!("give it a size: --dim {name}=N")),
            ),
            // The first axis is the batch: firmware sees one sample at a time.
            None if axis == 0 => dims.push(1),
            None => problems.push(
                Diagnostic::error(
                    Code::UnknownDimension,
                    format!("dimension {axis} of this input (`{name}`) has no size"),
                )
                .tensor(&info.name)
                .help(format!("give it one: --dim {name}=N")),
            ),
        }
    }
    let shape = Shape::new(dims);
    if !shape.is_reasonable() {
        let message = format!("an input of shape {shape} is too large");
        let help = format!(
            "at most {} elements are supported; give symbolic dimensions smaller sizes with --dim",
            Shape::MAX_ELEMENTS
        );
        problems.push(Diagnostic::error(Code::UnknownDimension, message).tensor(&info.name).help(help));
        return None;
    }
    Some(ModelInput { name: info.name.clone(), shape, elem_type: tensor.elem_type })
}
