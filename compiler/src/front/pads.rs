//! Rewrites the forms of `Pad` that tract does not execute, for tract only: negative amounts cut, so they become a
//! `Slice` before the `Pad`; mode `wrap` becomes a `Concat` with slices for each padded axis.
//!
//! Amounts that are not stored in the model as they are (computed from shapes) stay as they are.

use std::collections::BTreeMap;

use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;

/// Since this operator set, `Slice` takes its bounds as inputs.
const SLICE_INPUTS: i64 = 10;

/// The model without such pads.
pub fn rewritten(mut proto: pb::ModelProto) -> pb::ModelProto {
    let default = proto.opset_import.iter().find(|import| import.domain.is_empty() || import.domain == "ai.onnx");
    let opset = default.map_or(0, |import| import.version);
    let Some(graph) = &mut proto.graph else { return proto };
    let integers = stored_integers(graph);
    let nodes = std::mem::take(&mut graph.node);
    let mut rewriter = Rewriter { opset, nodes: vec![], initializers: vec![], name: String::new() };
    for node in nodes {
        match Amounts::of(&node, &integers) {
            Some(amounts) if amounts.need_rewrite() => rewriter.rewrite(node, amounts),
            _ => rewriter.nodes.push(node),
        }
    }
    graph.node = rewriter.nodes;
    graph.initializer.extend(rewriter.initializers);
    proto
}

/// Amounts before and after some axes.
struct Amounts {
    axes: Vec<i64>,
    before: Vec<i64>,
    after: Vec<i64>,
    wraps: bool,
}

impl Amounts {
    /// Of a `Pad` whose amounts are stored in the model.
    fn of(node: &pb::NodeProto, integers: &BTreeMap<String, Vec<i64>>) -> Option<Amounts> {
        let given = |port: usize| node.input.get(port).filter(|name| !name.is_empty());
        let attribute = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name);
        if node.op_type != "Pad" {
            return None;
        }
        let pads = match given(1) {
            Some(name) => integers.get(name)?.clone(),
            None => attribute("pads")?.ints.clone(),
        };
        let axes = match given(3) {
            Some(name) => integers.get(name)?.clone(),
            None => (0..pads.len() as i64 / 2).collect(),
        };
        let (before, after) =
            pads.split_at_checked(axes.len()).filter(|(before, after)| before.len() == after.len())?;
        let wraps = attribute("mode").is_some_and(|mode| mode.s == b"wrap");
        Some(Amounts { before: before.to_vec(), after: after.to_vec(), axes, wraps })
    }

    fn need_rewrite(&self) -> bool {
        self.wraps || self.before.iter().chain(&self.after).any(|&amount| amount < 0)
    }
}

struct Rewriter {
    opset: i64,
    nodes: Vec<pb::NodeProto>,
    initializers: Vec<pb::TensorProto>,
    /// The output of the pad that is being rewritten.
    name: String,
}

impl Rewriter {
    fn rewrite(&mut self, mut node: pb::NodeProto, amounts: Amounts) {
        self.name = node.output.first().cloned().unwrap_or_default();
        let mut x = node.input.first().cloned().unwrap_or_default();
        let (starts, ends) = (
            amounts.before.iter().map(|n| (-n).max(0)),
            amounts.after.iter().map(|&n| if n < 0 { n } else { i64::MAX }),
        );
        x = self.slice(&x, &starts.collect::<Vec<_>>(), &ends.collect::<Vec<_>>(), &amounts.axes);
        let added = |amounts: &[i64]| amounts.iter().map(|&n| n.max(0)).collect::<Vec<_>>();
        let (before, after) = (added(&amounts.before), added(&amounts.after));
        if amounts.wraps {
            for (i, &axis) in amounts.axes.iter().enumerate() {
                x = self.wrapped(&x, axis, before[i], after[i]);
            }
            (node.op_type, node.input) = ("Identity".to_owned(), vec![x]);
            node.attribute.clear();
        } else {
            let pads = [before, after].concat();
            node.input[0] = x;
            match node.attribute.iter_mut().find(|attribute| attribute.name == "pads") {
                Some(attribute) => attribute.ints = pads,
                None => node.input[1] = self.integers(&pads),
            }
        }
        self.nodes.push(node);
    }

    /// `x` with its last `before` elements in front and its first `after` elements behind.
    fn wrapped(&mut self, x: &str, axis: i64, before: i64, after: i64) -> String {
        let front = (before > 0).then(|| self.slice(x, &[-before], &[i64::MAX], &[axis]));
        let back = (after > 0).then(|| self.slice(x, &[0], &[after], &[axis]));
        let parts: Vec<String> = front.into_iter().chain([x.to_owned()]).chain(back).collect();
        self.node("Concat", parts, vec![integer("axis", axis)])
    }

    fn slice(&mut self, x: &str, starts: &[i64], ends: &[i64], axes: &[i64]) -> String {
        let bounds = [("starts", starts), ("ends", ends), ("axes", axes)];
        if self.opset < SLICE_INPUTS {
            return self.node("Slice", vec![x.to_owned()], bounds.map(|(name, values)| list(name, values)).to_vec());
        }
        let bounds = bounds.map(|(_, values)| self.integers(values));
        self.node("Slice", std::iter::once(x.to_owned()).chain(bounds).collect(), vec![])
    }

    fn node(&mut self, op_type: &str, input: Vec<String>, attribute: Vec<pb::AttributeProto>) -> String {
        let output = self.fresh();
        let (name, op_type) = (output.clone(), op_type.to_owned());
        self.nodes.push(pb::NodeProto {
            name,
            op_type,
            input,
            output: vec![output.clone()],
            attribute,
            ..Default::default()
        });
        output
    }

    fn integers(&mut self, values: &[i64]) -> String {
        let name = self.fresh();
        let (dims, int64_data) = (vec![values.len() as i64], values.to_vec());
        self.initializers.push(pb::TensorProto {
            name: name.clone(),
            data_type: 7,
            dims,
            int64_data,
            ..Default::default()
        });
        name
    }

    /// A name that no model uses.
    fn fresh(&self) -> String {
        format!("{}#pad{}", self.name, self.nodes.len() + self.initializers.len())
    }
}

fn integer(name: &str, value: i64) -> pb::AttributeProto {
    pb::AttributeProto { name: name.to_owned(), r#type: AttributeType::Int as i32, i: value, ..Default::default() }
}

fn list(name: &str, values: &[i64]) -> pb::AttributeProto {
    pb::AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Ints as i32,
        ints: values.to_vec(),
        ..Default::default()
    }
}

/// 64-bit integers that are initializers or values of `Constant` nodes.
fn stored_integers(graph: &pb::GraphProto) -> BTreeMap<String, Vec<i64>> {
    let constants = graph.node.iter().filter(|node| node.op_type == "Constant").filter_map(|node| {
        let attribute = node.attribute.first()?;
        let values = match (&attribute.t, attribute.name.as_str()) {
            (Some(tensor), "value") => elements(tensor)?,
            (None, "value_ints") => attribute.ints.clone(),
            _ => return None,
        };
        Some((node.output.first()?.clone(), values))
    });
    let initializers = graph.initializer.iter().filter_map(|tensor| Some((tensor.name.clone(), elements(tensor)?)));
    initializers.chain(constants).collect()
}

fn elements(tensor: &pb::TensorProto) -> Option<Vec<i64>> {
    if tensor.data_type != 7 {
        return None;
    }
    let (words, rest) = tensor.raw_data.as_chunks::<8>();
    let stored = words.iter().map(|&word| i64::from_le_bytes(word)).collect();
    rest.is_empty().then(|| if words.is_empty() { tensor.int64_data.clone() } else { stored })
}
