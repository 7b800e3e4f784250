//! The commands, as a user runs them: options, files, what is printed and what is not.

use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use ptqc::calibrate::Ranges;
use ptqc::cli::data::npy_bytes;
use ptqc::driver;
use ptqc::evaluate::{dequantize, evaluate, quantize_input};
use ptqc_tests::onnx::{Onnx, numbers};

use crate::process::{Folder, conv_relu, gemm, npz, samples, two_inputs};

const COMMANDS: [&str; 9] = ["build", "calibrate", "eval", "run", "bench", "estimate", "inspect", "targets", "ops"];

fn gemm_folder() -> Folder {
    Folder::with(vec![("m.onnx", gemm().bytes()), ("x.npy", samples(16, &[4]))])
}

fn snapshot(name: &str, text: String) {
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(format!("commands__{name}"), text);
    });
}

/// Numbers of a `.npy` file with 32-bit reals or 8-bit integers.
fn numbers_of(folder: &Folder, name: &str) -> (Vec<u64>, Vec<f64>) {
    let bytes = folder.read(name);
    let array = npyz::NpyFile::new(&bytes[..]).unwrap();
    let shape = array.shape().to_vec();
    let values = match array.dtype().descr().as_str() {
        "'<f4'" => array.into_vec::<f32>().unwrap().into_iter().map(f64::from).collect(),
        _ => array.into_vec::<i8>().unwrap().into_iter().map(f64::from).collect(),
    };
    (shape, values)
}

/// The text without the line that tells the command.
fn without_command(text: &str) -> String {
    without(text, "Command:")
}

fn without(text: &str, word: &str) -> String {
    text.lines().filter(|line| !line.contains(word)).collect::<Vec<_>>().join("\n")
}

#[test]
fn help_explains_every_command() {
    let folder = Folder::with(vec![]);
    snapshot("help", folder.ok("--help"));
    for command in COMMANDS {
        snapshot(&format!("help_{command}"), folder.ok(&format!("{command} --help")));
    }
}

#[test]
fn lists_are_printed_for_people_and_for_programs() {
    let folder = Folder::with(vec![]);
    snapshot("targets", folder.ok("targets"));
    snapshot("ops", folder.ok("ops"));
    let targets: serde_json::Value = serde_json::from_str(&folder.ok("targets --json")).unwrap();
    let m4 = targets.as_array().unwrap().iter().find(|target| target["name"] == "cortex-m4").unwrap();
    assert_eq!(m4["features"], serde_json::json!(["thumb2", "long-multiply", "dsp"]));
    let ops: serde_json::Value = serde_json::from_str(&folder.ok("ops --json")).unwrap();
    let conv = ops.as_array().unwrap().iter().find(|op| op["name"] == "Conv").unwrap();
    assert_eq!(conv["kind"], "lowered");
}

#[test]
fn slips_of_the_pen_are_explained_and_fail() {
    let folder = gemm_folder();
    for line in [
        "biuld m.onnx",
        "build",
        "build m.onnx",
        "build m.onnx --calib x.npy --ranges y.toml",
        "inspect m.onnx --stage quantt",
        "run m.onnx --calib x.npy --dim n",
    ] {
        let outcome = folder.run(line);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{line}: {outcome:?}");
        assert!(outcome.stderr.contains("error"), "{line}: {outcome:?}");
    }
}

#[test]
fn build_writes_its_files_and_says_so() {
    let folder = gemm_folder();
    snapshot("build", folder.ok("build m.onnx --calib x.npy -o out/deep -t cortex-m4 --name net --arena caller"));
    assert_eq!(folder.list("out/deep"), ["CMakeLists.txt", "net.c", "net.h", "net.report.json", "net_weights.c"]);
    let header = folder.text("out/deep/net.h");
    let command = "Command: ptqc build m.onnx --calib x.npy --method percentile:99.99 --target cortex-m4 --name net --arena caller";
    assert!(header.contains(command), "{header}");
    assert!(header.contains("NET_ARENA_BYTES"), "{header}");
}

#[test]
fn the_output_option_has_one_meaning_in_both_spellings() {
    let folder = gemm_folder();
    folder.ok("build m.onnx --calib x.npy --output a");
    folder.ok("build m.onnx --calib x.npy -o b");
    folder.ok("calibrate m.onnx --calib x.npy --output a.toml");
    folder.ok("run m.onnx --ranges a.toml --input x.npy -o c");
    assert_eq!(folder.list("a"), folder.list("b"));
    assert_eq!(folder.list("c"), ["input_0.npy", "output_0.npy", "output_0_real.npy"]);
}

#[test]
fn a_second_build_touches_nothing() {
    let folder = gemm_folder();
    let line = "build m.onnx --calib x.npy -o out";
    folder.ok(line);
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let mut before = vec![];
    for name in folder.list("out") {
        let file = std::fs::File::options().write(true).open(folder.path(&format!("out/{name}"))).unwrap();
        file.set_modified(old).unwrap();
        before.push(folder.read(&format!("out/{name}")));
    }
    folder.ok(line);
    for (name, before) in folder.list("out").iter().zip(before) {
        assert_eq!(folder.read(&format!("out/{name}")), before);
        assert_eq!(std::fs::metadata(folder.path(&format!("out/{name}"))).unwrap().modified().unwrap(), old, "{name}");
    }
    // Another model under the same name replaces what ptqc made, without being asked to.
    folder.write("m.onnx", &conv_relu().bytes());
    folder.write("x.npy", &samples(8, &[2, 4, 4]));
    folder.ok(line);
    assert!(folder.text("out/m.report.json").contains("\"Conv\""));
}

#[test]
fn foreign_files_stay_unless_forced() {
    let folder = gemm_folder();
    folder.write("out/m.h", b"mine");
    let outcome = folder.run("build m.onnx --calib x.npy -o out");
    assert_eq!(outcome.code, 1);
    assert_eq!((folder.text("out/m.h").as_str(), folder.list("out")), ("mine", vec!["m.h".to_owned()]));
    folder.ok("build m.onnx --calib x.npy -o out --force");
    assert!(folder.text("out/m.h").contains("Generated by ptqc"));
    folder.write("m.ranges.toml", b"mine");
    assert_eq!(folder.run("calibrate m.onnx --calib x.npy").code, 1);
    assert_eq!(folder.text("m.ranges.toml"), "mine");
    folder.ok("calibrate m.onnx --calib x.npy --force");
}

#[test]
fn saved_ranges_give_the_same_bytes() {
    let folder = Folder::with(vec![("m.onnx", conv_relu().bytes()), ("x.npy", samples(16, &[2, 4, 4]))]);
    snapshot("calibrate", folder.ok("calibrate m.onnx --calib x.npy --method mse"));
    folder.ok("build m.onnx --ranges m.ranges.toml -o saved");
    folder.ok("build m.onnx --calib x.npy --method mse -o direct");
    for name in folder.list("direct") {
        let (saved, direct) = (folder.text(&format!("saved/{name}")), folder.text(&format!("direct/{name}")));
        assert_eq!(without_command(&saved), without_command(&direct), "{name}");
    }
}

#[test]
fn ranges_can_be_edited() {
    let folder = gemm_folder();
    folder.ok("calibrate m.onnx --calib x.npy --method min-max");
    let text = folder.text("m.ranges.toml");
    let ranges = Ranges::from_toml(&text).unwrap();
    assert!(ranges.entry("x").unwrap().observed.unwrap().spread().is_some(), "{text}");
    let scale_of_y = |folder: &Folder, out: &str| {
        let report: serde_json::Value = serde_json::from_str(&folder.text(&format!("{out}/m.report.json"))).unwrap();
        report["outputs"][0]["scale"].as_f64().unwrap()
    };
    folder.write("m.ranges.toml", format!("# my own remark\n{}", text.replace("tool =", "tool    =")).as_bytes());
    folder.ok("build m.onnx --ranges m.ranges.toml -o a");
    folder.ok("build m.onnx --calib x.npy --method min-max -o b");
    assert_eq!(folder.text("a/m.report.json"), folder.text("b/m.report.json"));
    folder.write("m.ranges.toml", b"[ranges]\nx = { min = -1.0, max = 1.0 }\ny = { min = 0, max = 25.5 }\n");
    folder.ok("build m.onnx --ranges m.ranges.toml -o c");
    assert!((scale_of_y(&folder, "c") - 0.1).abs() < 1e-6);
}

#[test]
fn run_returns_what_the_evaluator_returns() {
    let model = two_inputs();
    let (a, b) = (numbers(1, 5 * 4), numbers(2, 5 * 4));
    let data = npz(&[("a", npy_bytes(&[5, 4], &a)), ("b", npy_bytes(&[5, 4], &b))]);
    let folder = Folder::with(vec![("m.onnx", model.bytes()), ("x.npz", data)]);
    folder.ok("calibrate m.onnx --calib x.npz");
    snapshot("run", folder.ok("run m.onnx --ranges m.ranges.toml --input x.npz -o out"));

    let frontend =
        driver::load(&model.bytes(), &|_| Err(std::io::ErrorKind::NotFound.into()), &Default::default()).unwrap();
    let ranges = Ranges::from_toml(&folder.text("m.ranges.toml")).unwrap();
    let (graph, _) = driver::quantize(&frontend, &ranges, &Default::default()).unwrap();
    let (mut outputs, mut real) = (vec![vec![], vec![]], vec![vec![], vec![]]);
    for (a, b) in a.chunks(4).zip(b.chunks(4)) {
        let inputs: Vec<Vec<i32>> =
            [a, b].iter().zip(graph.inputs()).map(|(x, &id)| quantize_input(&graph, id, x)).collect();
        for (index, result) in evaluate(&graph, &inputs).into_iter().enumerate() {
            real[index].extend(dequantize(&graph, graph.outputs()[index].node, &result).into_iter().map(f64::from));
            outputs[index].extend(result.into_iter().map(f64::from));
        }
    }
    for (index, width) in [(0, 3), (1, 4)] {
        assert_eq!(numbers_of(&folder, &format!("out/output_{index}.npy")), (vec![5, width], outputs[index].clone()));
        assert_eq!(numbers_of(&folder, &format!("out/output_{index}_real.npy")), (vec![5, width], real[index].clone()));
    }
    assert_eq!(numbers_of(&folder, "out/input_1.npy").0, [5, 4]);
    assert_eq!(
        folder.run("run m.onnx --ranges m.ranges.toml --input x.npz -o out").code,
        0,
        "equal results are no conflict"
    );
}

#[test]
fn run_replaces_other_results_only_when_forced() {
    let folder = gemm_folder();
    folder.write("z.npy", &samples(3, &[4]));
    folder.ok("run m.onnx --calib x.npy --input x.npy -o out");
    let before = folder.read("out/output_0.npy");
    let outcome = folder.run("run m.onnx --calib x.npy --input z.npy -o out");
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("--force"), "{}", outcome.stderr);
    assert_eq!(folder.read("out/output_0.npy"), before);
    folder.ok("run m.onnx --calib x.npy --input z.npy -o out --force");
    assert_eq!(numbers_of(&folder, "out/output_0.npy").0, [3, 3]);
}

#[test]
fn eval_prints_a_table_and_json() {
    let folder = gemm_folder();
    let labels: Vec<i32> = (0..16).map(|i| i % 3).collect();
    folder.write("y.npy", &npy_bytes(&[16], &labels));
    let line = "eval m.onnx --calib x.npy --data x.npy --labels y.npy";
    snapshot("eval", folder.ok(line));
    let json: serde_json::Value = serde_json::from_str(&folder.ok(&format!("{line} --json"))).unwrap();
    let fields: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["agreement", "confusion", "float", "integer", "metric", "model", "relative_rmse", "samples"]);
    assert_eq!((json["samples"].as_u64(), json["metric"].as_str()), (Some(16), Some("top-1")));
    let confusion: u64 = json["confusion"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row.as_array().unwrap())
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(confusion, 16);
    for share in ["agreement", "float", "integer"] {
        assert!((0.0..=1.0).contains(&json[share].as_f64().unwrap()));
    }
    let unlabelled: serde_json::Value =
        serde_json::from_str(&folder.ok("eval m.onnx --calib x.npy --data x.npy --json")).unwrap();
    let fields: Vec<&str> = unlabelled.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["agreement", "metric", "model", "relative_rmse", "samples"]);
    folder.write("two.npy", &npy_bytes(&[16], &labels.iter().map(|label| label % 2).collect::<Vec<_>>()));
    folder.ok("eval m.onnx --calib x.npy --data x.npy --labels two.npy --metric auc --score 2");
}

#[test]
fn inspect_shows_every_stage() {
    let folder = gemm_folder();
    folder.ok("calibrate m.onnx --calib x.npy");
    for stage in ["float", "fused"] {
        assert!(folder.ok(&format!("inspect m.onnx --stage {stage}")).contains("Linear"));
        assert!(folder.ok(&format!("inspect m.onnx --stage {stage} --dot")).starts_with("digraph"));
    }
    assert!(folder.ok("inspect m.onnx --stage quant --ranges m.ranges.toml --dot").starts_with("digraph"));
    for stage in ["quant", "plan", "program", "c"] {
        let from_ranges = folder.ok(&format!("inspect m.onnx --stage {stage} --ranges m.ranges.toml"));
        let from_samples = folder.ok(&format!("inspect m.onnx --stage {stage} --calib x.npy"));
        assert_eq!(from_ranges, from_samples);
        assert!(from_ranges.contains('y') && from_ranges.lines().count() > 1, "{stage}: {from_ranges}");
    }
}

#[test]
fn numbers_of_every_type_mean_the_same() {
    let values = [1.0, -2.0, 3.0, 4.0, 5.0, 6.0, -7.0, 8.0];
    // The ranges name their file, so their hash differs.
    let facts = |folder: &Folder, out: &str| without(&folder.text(&format!("{out}/m.report.json")), "ranges_sha256");
    macro_rules! array {
        ($number:ty) => {
            npy_bytes::<$number>(&[2, 4], &values.map(|value| value as $number))
        };
    }
    let folder = Folder::with(vec![("m.onnx", gemm().bytes())]);
    for (name, bytes) in [("f32", array!(f32)), ("f64", array!(f64)), ("i8", array!(i8)), ("i32", array!(i32))] {
        folder.write(&format!("{name}.npy"), &bytes);
        folder.ok(&format!("build m.onnx --calib {name}.npy -o {name}"));
        assert_eq!(facts(&folder, name), facts(&folder, "f32"), "{name}");
    }
    // Stored bytes that mean something else are converted on the way in.
    folder.write("u8.npy", &npy_bytes::<u8>(&[2, 4], &values.map(|value| (value * 2.0 + 100.0) as u8)));
    folder.ok("build m.onnx --calib u8.npy --data-zero-point 100 --data-scale 0.5 -o u8");
    assert_eq!(facts(&folder, "u8"), facts(&folder, "f32"));
    // A folder holds the same samples in files of their own.
    for (index, sample) in values.chunks(4).enumerate() {
        folder.write(
            &format!("data/{index}.npy"),
            &npy_bytes::<f32>(&[4], &sample.iter().map(|&v| v as f32).collect::<Vec<_>>()),
        );
    }
    folder.ok("build m.onnx --calib data -o data_out");
    assert_eq!(facts(&folder, "data_out"), facts(&folder, "f32"));
}

#[test]
fn free_dimensions_are_given_on_the_command_line() {
    let model = Onnx::default().typed_input("x", 1, &["batch", "channels"]).node("Relu", &["x"], &["y"]).output("y");
    let folder = Folder::with(vec![("m.onnx", model.bytes()), ("x.npy", samples(8, &[6]))]);
    folder.ok("build m.onnx --calib x.npy --dim channels=6");
    assert!(folder.text("m.h").contains("--dim channels=6"));
    let report: serde_json::Value = serde_json::from_str(&folder.text("m.report.json")).unwrap();
    assert_eq!(report["inputs"][0]["dims"], serde_json::json!([1, 6]));
}

#[test]
fn weights_beside_the_model_are_found_from_anywhere() {
    let mut model = gemm();
    let tensor = &mut model.graph().initializer[0];
    let bytes = std::mem::take(&mut tensor.raw_data);
    tensor.data_location = Some(1);
    let location = ptqc::front::pb::StringStringEntryProto { key: "location".into(), value: "w.bin".into() };
    tensor.external_data = vec![location];
    let folder = Folder::with(vec![
        ("models/m.onnx", model.bytes()),
        ("models/w.bin", bytes),
        ("m.onnx", gemm().bytes()),
        ("x.npy", samples(8, &[4])),
    ]);
    folder.ok("build models/m.onnx --calib x.npy -o a");
    folder.ok("build m.onnx --calib x.npy -o b");
    assert_eq!(folder.text("a/m_weights.c").lines().last(), folder.text("b/m_weights.c").lines().last());
}

#[test]
fn nothing_but_results_is_printed_without_a_terminal() {
    let folder = gemm_folder();
    for line in [
        "build m.onnx --calib x.npy -o out",
        "calibrate m.onnx --calib x.npy",
        "eval m.onnx --calib x.npy --data x.npy",
        "run m.onnx --calib x.npy --input x.npy -o out",
    ] {
        let outcome = folder.run(line);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{line}");
        assert!(!outcome.stdout.contains('\u{1b}') && !outcome.stdout.contains('\r'), "{line}");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let folder = gemm_folder();
    for line in [
        "ops",
        "ops --json",
        "--help",
        "build --help",
        "inspect m.onnx --stage c --calib x.npy",
        "eval m.onnx --calib x.npy --data x.npy",
    ] {
        let mut child = folder.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((child.wait().unwrap().code(), text.as_str()), (Some(0), ""), "{line}");
    }
}
