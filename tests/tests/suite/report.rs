//! `NAME.report.json` against its description in `compiler/REPORT.md`.

use std::collections::BTreeSet;
use std::path::Path;

use ptqc_tests::onnx::{Attr, Onnx, numbers};
use serde_json::Value;

use crate::process::{Folder, samples};

/// A model whose report has every field: a convolution with a dead channel, an in-place layer, positions as an output, a
/// copy.
fn model() -> Onnx {
    Onnx::default()
        .input("x", &[1, 2, 4, 4])
        .weights("first", &[2, 2, 1, 1], &numbers(2, 4))
        .weights("bias", &[2], &[0.0, -100.0])
        .weights("w", &[3, 2, 3, 3], &numbers(1, 54))
        .node("Conv", &["x", "first", "bias"], &["f"])
        .node("Relu", &["f"], &["h"])
        .node_with("Conv", &["h", "w"], &["c"], &[("pads", Attr::from([1, 1, 1, 1]))])
        .node("Sigmoid", &["c"], &["s"])
        .ints("flat", &[2], &[1, 48])
        .node("Reshape", &["s", "flat"], &["r"])
        .node("Softmax", &["r"], &["p"])
        .node_with("ArgMax", &["r"], &["k"], &[("axis", Attr::Int(1)), ("keepdims", Attr::Int(0))])
        .output("p")
        .output("k")
}

fn folder() -> Folder {
    Folder::with(vec![("m.onnx", model().bytes()), ("x.npy", samples(8, &[2, 4, 4]))])
}

fn report() -> Value {
    let folder = folder();
    folder.ok("build m.onnx --calib x.npy");
    serde_json::from_str(&folder.text("m.report.json")).unwrap()
}

/// Paths of all fields: `layers[].macs`.
pub fn fields(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                fields(value, &path, found);
                found.insert(path);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().for_each(|item| fields(item, &format!("{path}[]"), found));
        }
        _ => {}
    }
}

/// The first cell of every row of the tables: ``| `layers[].macs` | integer | ... |``.
fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("compiler/REPORT.md");
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned())).collect()
}

#[test]
fn every_field_is_documented_and_every_documented_field_exists() {
    let mut found = BTreeSet::new();
    fields(&report(), "", &mut found);
    assert_eq!(found, documented());
}

#[test]
fn the_version_of_the_schema_is_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("compiler/REPORT.md");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(&format!("describes version {}", ptqc::report::SCHEMA)));
    assert_eq!(report()["schema"], ptqc::report::SCHEMA);
}

#[test]
fn sums_and_bounds_hold() {
    let report = report();
    let layers = report["layers"].as_array().unwrap();
    let sum = |field: &str| layers.iter().map(|layer| layer[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("macs"), report["macs"].as_u64().unwrap());
    let arena = &report["arena"];
    let (bytes, lower) = (arena["bytes"].as_u64().unwrap(), arena["lower_bound_bytes"].as_u64().unwrap());
    assert!(lower <= bytes);
    for layer in layers {
        assert!(layer["arena_live_bytes"].as_u64().unwrap() <= bytes);
        if let Some(span) = layer.get("arena_span") {
            assert!(span[0].as_u64() < span[1].as_u64() && span[1].as_u64().unwrap() <= bytes);
        }
        if let Some(accumulator) = layer.get("accumulator") {
            assert!(accumulator[0].as_i64() <= accumulator[1].as_i64());
        }
    }
    assert!(layers.iter().any(|layer| layer["function"] == arena["peak_layer"]));
}

/// One of the two channels of the first convolution is never above 0.
#[test]
fn removed_work_is_reported() {
    let folder = folder();
    let said = folder.ok("build m.onnx --calib x.npy");
    assert!(said.contains("464 multiply-accumulates (928 in the model)"), "{said}");
    assert!(said.contains("removed 464 multiply-accumulates"), "{said}");
    assert!(folder.text("m.h").contains("464 multiply-accumulates (928 in the model)"));
    let report: Value = serde_json::from_str(&folder.text("m.report.json")).unwrap();
    assert_eq!((&report["macs"], &report["macs_nominal"]), (&464.into(), &928.into()));
    let first = &report["layers"][0];
    assert_eq!(first["output_shape"], serde_json::json!([1, 1, 4, 4]));
    assert_eq!(first["output_shape_nominal"], serde_json::json!([1, 2, 4, 4]));
    assert!(report["layers"][1].get("output_shape_nominal").is_none());
}
