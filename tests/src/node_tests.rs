//! The ONNX project's own operator tests, as cases with one sample each.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use prost::Message as _;
use ptqc::front::pb;
use serde::Deserialize;

use crate::cases::Case;
use crate::onnx::Onnx;
use crate::toolchain;

/// Writes the tests to files.
const SCRIPT: &str = include_str!("node_tests.py");

/// One of the tests.
#[derive(Debug)]
pub struct NodeTest {
    /// Its name in the ONNX project.
    pub name: String,
    /// The operator that it is about.
    pub op_type: String,
    /// The model with its sample, or why it is no model that ptqc could compile.
    pub case: Result<Case, String>,
    /// What the model returns for the sample, all outputs one after the other.
    pub expected: Vec<f32>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    op_type: String,
    why: Option<String>,
}

/// The tests of these operators.
pub fn collect(operators: &[&str], python: &Path) -> Result<Vec<NodeTest>> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT, "."]).args(operators);
    toolchain::run(&mut command, folder.path())?;
    let index = std::fs::read(folder.path().join("index.json"))?;
    let entries: Vec<Entry> = serde_json::from_slice(&index)?;
    entries.into_iter().map(|entry| read(folder.path(), entry)).collect()
}

fn read(root: &Path, Entry { name, op_type, why }: Entry) -> Result<NodeTest> {
    if let Some(why) = why {
        return Ok(NodeTest { name, op_type, case: Err(why), expected: vec![] });
    }
    let folder = root.join(&name);
    let model = pb::ModelProto::decode(&std::fs::read(folder.join("model.onnx"))?[..])?;
    let mut values = reals(&folder.join("inputs.bin"))?.into_iter();
    let lengths = input_lengths(&model).with_context(|| name.clone())?;
    let sample = lengths.into_iter().map(|len| values.by_ref().take(len).collect()).collect();
    let case = Case::new(&name, Onnx { proto: model }).given(vec![sample]);
    Ok(NodeTest { name, op_type, case: Ok(case), expected: reals(&folder.join("expected.bin"))? })
}

fn reals(path: &Path) -> Result<Vec<f32>> {
    let bytes = std::fs::read(path)?;
    Ok(bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
}

fn input_lengths(model: &pb::ModelProto) -> Result<Vec<usize>> {
    let graph = model.graph.as_ref().context("no graph")?;
    let length = |info: &pb::ValueInfoProto| match info.r#type.as_ref()?.value.as_ref()? {
        pb::type_proto::Value::TensorType(tensor) => {
            let dims = tensor.shape.as_ref()?.dim.iter().map(|dim| match dim.value {
                Some(pb::tensor_shape_proto::dimension::Value::DimValue(size)) => Some(size as usize),
                _ => None,
            });
            dims.product::<Option<usize>>()
        }
    };
    graph.input.iter().map(|info| length(info).with_context(|| format!("shape of {}", info.name))).collect()
}
