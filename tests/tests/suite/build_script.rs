//! Models in build scripts, and `ptqc build --check`.

use std::path::Path;

use ptqc::cli::data::npy_bytes;
use ptqc::diag::Code;
use ptqc::{ArenaMode, Build, Language, Method};
use ptqc_tests::onnx::{Attr, Onnx, numbers};
use ptqc_tests::projects::{cargo, root};
use ptqc_tests::toolchain::is_installed;

use crate::process::Folder;

/// A layer with working memory behind it.
fn model() -> Onnx {
    Onnx::default()
        .input("x", &[1, 4])
        .weights("w", &[6, 4], &numbers(1, 24))
        .weights("v", &[3, 6], &numbers(2, 18))
        .node_with("Gemm", &["x", "w"], &["h"], &[("transB", Attr::Int(1))])
        .node("Relu", &["h"], &["r"])
        .node_with("Gemm", &["r", "v"], &["y"], &[("transB", Attr::Int(1))])
        .output("y")
}

fn samples(dims: &[usize]) -> Vec<u8> {
    npy_bytes(dims, &numbers(3, dims.iter().product()))
}

fn folder() -> Folder {
    let det = Onnx::new(20).input("x", &[1, 4]).node("Det", &["x"], &["y"]).output("y");
    Folder::with(vec![
        ("m.onnx", model().bytes()),
        ("det.onnx", det.bytes()),
        ("x.npy", samples(&[20, 4])),
        ("wide.npy", samples(&[20, 5])),
        ("folder/a.npy", samples(&[20, 4])),
        (
            "units.npy",
            npy_bytes(
                &[20, 4],
                &(0..80).map(|i| if i % 4 == 0 { 900.0 + i as f32 } else { 0.001 * i as f32 }).collect::<Vec<_>>(),
            ),
        ),
    ])
}

fn first_code(result: ptqc::diag::Result<ptqc::Generated>) -> Code {
    result.unwrap_err().iter().next().unwrap().code
}

#[test]
fn the_pure_function_gives_files_facts_and_what_was_read() {
    let folder = folder();
    let generated =
        Build::new(folder.path("m.onnx")).calib(folder.path("folder")).method(Method::MinMax).generate().unwrap();
    assert_eq!(generated.bundle.keys().collect::<Vec<_>>(), ["m.report.json", "m.rs", "m_weights.rs"]);
    assert_eq!((generated.report.target.as_str(), generated.report.name.as_str()), ("generic", "m"));
    assert_eq!(generated.read, [folder.path("m.onnx"), folder.path("folder")]);
    let mut build = Build::new(folder.path("m.onnx"));
    build.calib(folder.path("x.npy")).language(Language::C).arena(ArenaMode::Caller).target("cortex-m4").name("net");
    let generated = build.generate().unwrap();
    let files = ["CMakeLists.txt", "net.c", "net.h", "net.report.json", "net.rs", "net_weights.c"];
    assert_eq!(generated.bundle.keys().collect::<Vec<_>>(), files);
    assert_eq!(generated.report.target, "cortex-m4");
    assert_eq!(
        folder.list("."),
        ["det.onnx", "folder", "m.onnx", "units.npy", "wide.npy", "x.npy"],
        "nothing is written"
    );
}

#[test]
fn external_weights_are_among_the_files_that_were_read() {
    let folder = folder();
    let mut model = model();
    let tensor = &mut model.graph().initializer[0];
    let bytes: Vec<u8> = std::mem::take(&mut tensor.raw_data).to_vec();
    tensor.data_location = Some(1);
    let entry = |key: &str, value: &str| ptqc::front::pb::StringStringEntryProto {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    tensor.external_data = vec![entry("location", "w.bin")];
    folder.write("e.onnx", &model.bytes());
    folder.write("w.bin", &bytes);
    let generated = Build::new(folder.path("e.onnx")).calib(folder.path("x.npy")).generate().unwrap();
    assert_eq!(generated.read, ["e.onnx", "w.bin", "x.npy"].map(|name| folder.path(name)));
}

#[test]
fn mistakes_are_diagnosed() {
    let folder = folder();
    let build = || Build::new(folder.path("m.onnx"));
    assert_eq!(first_code(build().generate()), Code::MissingRange);
    assert_eq!(first_code(build().calib("x.npy").ranges("m.ranges.toml").generate()), Code::MissingRange);
    assert_eq!(first_code(build().calib(folder.path("gone.npy")).generate()), Code::Io);
    assert_eq!(first_code(build().ranges(folder.path("gone.toml")).generate()), Code::Io);
    assert_eq!(first_code(build().calib(folder.path("x.npy")).target("cortex").generate()), Code::UnknownTarget);
    assert_eq!(first_code(build().calib(folder.path("x.npy")).name("a b").generate()), Code::InvalidName);
}

#[test]
fn bindings() {
    let folder = folder();
    let mut build = Build::new(folder.path("m.onnx"));
    // Literal ranges, so that nothing depends on the machine.
    let ranges: String = ["x", "h", "r", "y"].map(|name| format!("{name} = {{ min = -1.0, max = 2.0 }}\n")).concat();
    folder.write("m.ranges.toml", format!("[ranges]\n{ranges}").as_bytes());
    build.ranges(folder.path("m.ranges.toml")).language(Language::C);
    let bindings = |build: &Build| build.generate().unwrap().bundle["m.rs"].clone();
    insta::assert_snapshot!("bindings_owning", bindings(&build));
    insta::assert_snapshot!("bindings_borrowing", bindings(build.arena(ArenaMode::Caller)));
}

/// What `build.rs` of the project does is chosen by a variable: the project is compiled once.
const BUILD: &str = r#"
use ptqc::{ArenaMode, Build, Language};

fn main() {
    println!("cargo::rerun-if-env-changed=CASE");
    match std::env::var("CASE").unwrap().as_str() {
        "missing" => Build::new("gone.onnx").ranges("m.ranges.toml").run(),
        "unsupported" => Build::new("det.onnx").ranges("m.ranges.toml").run(),
        "compiler" => {
            std::env::set_var("CC", "no-such-compiler");
            Build::new("m.onnx").ranges("m.ranges.toml").language(Language::C).run();
        }
        _ => {
            Build::new("m.onnx").ranges("m.ranges.toml").run();
            Build::new("m.onnx").ranges("m.ranges.toml").name("borrowing").arena(ArenaMode::Caller).run();
            Build::new("m.onnx").ranges("m.ranges.toml").name("c_owning").language(Language::C).run();
            let mut last = Build::new("m.onnx");
            last.ranges("m.ranges.toml").name("c_borrowing").language(Language::C).arena(ArenaMode::Caller).float_helpers(true).run();
        }
    }
}
"#;

const MAIN: &str = r#"
macro_rules! models {
    ($($name:ident),*) => {
        $(mod $name { include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs")); })*
    };
}
models!(m, borrowing, c_owning, c_borrowing);

static SHARED: std::sync::Mutex<c_owning::Model> = std::sync::Mutex::new(c_owning::Model::new());

fn main() {
    let mut arena = [[0; borrowing::ARENA_BYTES], [0; borrowing::ARENA_BYTES]];
    let mut c_arena = [0; c_borrowing::ARENA_BYTES + 3];
    for i in 0..100i32 {
        let input = [i as i8, (i * 37) as i8, (i * 91 + 5) as i8, -i as i8];
        let mut outputs = [[0; m::OUTPUT_0_LEN]; 4];
        let [a, b, c, d] = &mut outputs;
        m::Model::new().run(&input, a);
        borrowing::Model::new(&mut arena[i as usize % 2]).run(&input, b);
        SHARED.lock().unwrap().run(&input, c);
        // Arenas at odd addresses are as good as others.
        let (_, rest) = c_arena.split_at_mut(i as usize % 4);
        c_borrowing::Model::new(rest.first_chunk_mut().unwrap()).run(&input, d);
        assert!(outputs.iter().all(|output| *output == outputs[0]), "{i}: {outputs:?}");
    }
    let mut q = [0; 4];
    c_borrowing::quantize_input_0(&[0.0; 4], &mut q);
    assert_eq!(q.map(i32::from), [c_borrowing::INPUT_0.zero_point; 4]);
    println!("all the same");
}
"#;

/// A project with that build script, in a folder with models and samples.
fn project() -> Folder {
    let folder = folder();
    let compiler = root().join("compiler");
    let manifest = format!(
        "[package]\nname = \"consumer\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n[build-dependencies]\n\
         ptqc = {{ path = {compiler:?}, default-features = false }}\n"
    );
    folder.ok("calibrate m.onnx --calib x.npy");
    folder.write("Cargo.toml", manifest.as_bytes());
    // The same versions as an example has, so that they are compiled once.
    let locked = std::fs::read_to_string(root().join("examples/host-rust/Cargo.lock")).unwrap();
    folder.write("Cargo.lock", locked.replace("\"host-rust\"", "\"consumer\"").as_bytes());
    folder.write("build.rs", BUILD.as_bytes());
    folder.write("src/main.rs", MAIN.as_bytes());
    folder
}

/// Runs cargo; whether it succeeded, and everything it printed.
fn run(folder: &Folder, case: &str, arguments: &[&str]) -> (bool, String) {
    let output = cargo(&folder.path(".")).args(arguments).env("CASE", case).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn build_scripts_compile_models_and_explain_problems() {
    if !is_installed("cc") {
        println!("skipped: cc is not installed");
        return;
    }
    let folder = project();
    for (case, wanted) in [
        ("missing", ["error[io]: the file cannot be read", "--> gone.onnx", "= help: check the path"]),
        ("unsupported", ["error[unsupported-op]: ", "`Det`", "--> det.onnx: "]),
        ("compiler", ["error[build-script]: the C of `m` cannot be compiled", "no-such-compiler", "= help: install"]),
    ] {
        let (success, printed) = run(&folder, case, &["build"]);
        assert!(!success, "{case}: {printed}");
        for part in wanted {
            assert!(printed.contains(part), "{case}: no `{part}` in {printed}");
        }
        assert!(!printed.contains("panicked") && !printed.contains("backtrace"), "{case}: {printed}");
    }

    let (success, printed) = run(&folder, "good", &["run"]);
    assert!(success && printed.contains("all the same"), "{printed}");
    assert!(!printed.contains("warning"), "{printed}");
    let (_, printed) = run(&folder, "good", &["build"]);
    assert!(!printed.contains("Compiling"), "nothing has changed: {printed}");
    for changed in ["m.onnx", "m.ranges.toml"] {
        let file = std::fs::File::options().append(true).open(folder.path(changed)).unwrap();
        file.set_modified(std::time::SystemTime::now()).unwrap();
        let (success, printed) = run(&folder, "good", &["build"]);
        assert!(success && printed.contains("Compiling consumer"), "{changed}: {printed}");
    }
}

/// What a script tells cargo, without cargo: this one reads samples, for which more of ptqc would have to be compiled
/// once more.
fn script(folder: &Folder, case: &str) -> (bool, Vec<String>) {
    let mut script = std::process::Command::new(env!("CARGO_BIN_EXE_build-script-under-test"));
    script
        .arg(case)
        .current_dir(folder.path("."))
        .env("OUT_DIR", folder.path("out"))
        .env("TARGET", "thumbv7m-none-eabi");
    let output = script.output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    (output.status.success(), lines)
}

#[test]
fn cargo_is_told_what_to_watch() {
    let folder = folder();
    let (success, lines) = script(&folder, "folder");
    assert!(success);
    assert_eq!(lines, ["cargo::rerun-if-changed=m.onnx", "cargo::rerun-if-changed=folder"]);
    assert_eq!(folder.list("out"), ["m.report.json", "m.rs", "m_weights.rs"]);
    assert!(folder.text("out/m.rs").contains("Target:  cortex-m3"), "the target is cargo's");
    // Files with the same contents are not written again.
    let modified = || std::fs::metadata(folder.path("out/m.rs")).unwrap().modified().unwrap();
    let before = modified();
    script(&folder, "folder");
    assert_eq!(modified(), before);
}

#[test]
fn cargo_is_told_every_line_of_a_problem() {
    let (_, lines) = script(&folder(), "shape");
    assert!(
        lines[0].starts_with("cargo::error=error[calibration-shape]: ") && lines[0].contains("[20, 5]"),
        "{lines:?}"
    );
    assert!(lines[1].contains("--> wide.npy"), "{lines:?}");
    assert!(lines.len() > 2 && lines.iter().all(|line| line.starts_with("cargo::error=")), "{lines:?}");
    let (success, lines) = script(&folder(), "warning");
    assert!(success);
    assert!(lines[0].starts_with("cargo::rerun-if-changed="), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("cargo::warning=warning[low-resolution]: ")), "{lines:?}");
}

#[test]
fn checking_writes_nothing_and_names_what_differs() {
    let folder = folder();
    folder.ok("build m.onnx --calib x.npy -o out");
    let built = folder.list("out");
    assert_eq!(folder.ok("build m.onnx --calib x.npy -o out --check"), "m: out is up to date\n");
    folder.write("out/m.c", b"/* Generated by ptqc */");
    std::fs::remove_file(folder.path("out/m.h")).unwrap();
    let outcome = folder.run("build m.onnx --check --calib x.npy -o out");
    assert_eq!(outcome.code, 1);
    let separator = std::path::MAIN_SEPARATOR;
    for part in [
        "error[out-of-date]: ".to_owned(),
        format!("different: `out{separator}m.c`"),
        format!("missing: `out{separator}m.h`"),
        "`ptqc build m.onnx --calib x.npy -o out`".to_owned(),
    ] {
        assert!(outcome.stderr.contains(&part), "no `{part}` in {}", outcome.stderr);
    }
    assert_eq!(folder.text("out/m.c"), "/* Generated by ptqc */");
    assert!(!Path::exists(&folder.path("out/m.h")));
    folder.ok("build m.onnx --calib x.npy -o out");
    assert_eq!(folder.list("out"), built);
}

/// Two models in one folder share its build file, and a build file that is somebody else's stays.
#[test]
fn the_build_file_serves_all_models_of_a_folder() {
    let folder = folder();
    folder.ok("build m.onnx --calib x.npy -o out --name a");
    let first = folder.text("out/CMakeLists.txt");
    folder.ok("build m.onnx --calib x.npy -o out --name b");
    assert_eq!(folder.text("out/CMakeLists.txt"), first);
    folder.ok("build m.onnx --calib x.npy -o out --name a --check");
    folder.write("CMakeLists.txt", b"project(mine C)");
    folder.ok("build m.onnx --calib x.npy");
    folder.ok("build m.onnx --calib x.npy --force");
    folder.ok("build m.onnx --calib x.npy --check");
    assert_eq!(folder.text("CMakeLists.txt"), "project(mine C)");
    if !is_installed("cmake") || !is_installed("cc") || !is_installed("make") {
        println!("skipped: cmake, make or cc is not installed");
        assert!(!ptqc_tests::toolchain::must_not_skip(), "nothing may be skipped here");
        return;
    }
    let project = "cmake_minimum_required(VERSION 3.13)\nproject(app C)\nadd_subdirectory(out)\nadd_subdirectory(other)\n\
                   add_executable(app main.c)\ntarget_link_libraries(app PRIVATE ptqc::a ptqc::b ptqc::c)\n";
    folder.write("CMakeLists.txt", project.as_bytes());
    let main = "#include \"a.h\"\n#include \"b.h\"\n#include \"c.h\"\nint main(void) {\n  int8_t x[A_INPUT_0_LEN] = {1, 2, 3, 4};\n  \
                int8_t y[3][A_OUTPUT_0_LEN];\n  a_run(x, y[0]);\n  b_run(x, y[1]);\n  c_run(x, y[2]);\n  \
                return y[0][0] != y[1][0] || y[0][0] != y[2][0];\n}\n";
    folder.write("main.c", main.as_bytes());
    folder.ok("build m.onnx --calib x.npy -o other --name c");
    let cmake = |arguments: &[&str]| {
        let mut command = std::process::Command::new("cmake");
        ptqc_tests::toolchain::run(command.args(arguments), &folder.path(".")).unwrap();
    };
    cmake(&["-S", ".", "-B", "build", "-G", "Unix Makefiles"]);
    cmake(&["--build", "build"]);
    ptqc_tests::toolchain::run(&mut std::process::Command::new(folder.path("build/app")), &folder.path(".")).unwrap();
}
