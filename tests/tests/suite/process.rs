//! Runs the command as a user does: a process in a folder of its own, with relative paths.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ptqc::cli::data::npy_bytes;
use ptqc_tests::onnx::{Attr, Onnx, numbers};

/// A folder in which commands run; it vanishes with the value.
pub struct Folder(tempfile::TempDir);

/// What a command did.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Folder {
    /// A folder with these files.
    pub fn with(files: Vec<(&str, Vec<u8>)>) -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        for (name, bytes) in files {
            folder.write(name, &bytes);
        }
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    /// Names of the files in a folder, sorted.
    pub fn list(&self, name: &str) -> Vec<String> {
        names(&self.path(name))
    }

    /// Runs the command; `line` are its arguments, separated by blanks.
    pub fn run(&self, line: &str) -> Outcome {
        let output = self.command(line).output().unwrap();
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command that has to succeed, and returns what it prints.
    pub fn ok(&self, line: &str) -> String {
        let outcome = self.run(line);
        assert_eq!(outcome.code, 0, "ptqc {line}\n{}{}", outcome.stdout, outcome.stderr);
        outcome.stdout
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ptqc-under-test"));
        command.args(line.split_whitespace()).current_dir(self.0.path()).stdin(Stdio::null());
        command.env_remove("CLICOLOR_FORCE").env("NO_COLOR", "1");
        command
    }
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// `samples` arrays of this shape with numbers between -1 and 1.
pub fn samples(samples: usize, dims: &[usize]) -> Vec<u8> {
    let shape = [&[samples], dims].concat();
    npy_bytes::<f32>(&shape, &numbers(7, shape.iter().product()))
}

/// An archive with arrays by name.
pub fn npz(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = npyz::npz::NpzWriter::new(&mut bytes);
    for (name, array) in arrays {
        let options =
            <npyz::zip::write::FileOptions>::default().compression_method(npyz::zip::CompressionMethod::Stored);
        writer.zip_writer().start_file(format!("{name}.npy"), options).unwrap();
        std::io::Write::write_all(writer.zip_writer(), array).unwrap();
    }
    drop(writer);
    bytes.into_inner()
}

/// Input `x`, 2 channels of 4x4; a convolution and a Relu: output `y`, 3 channels of 4x4.
pub fn conv_relu() -> Onnx {
    Onnx::default()
        .input("x", &[1, 2, 4, 4])
        .weights("w", &[3, 2, 3, 3], &numbers(1, 54))
        .weights("b", &[3], &[0.1, -0.2, 0.3])
        .node_with("Conv", &["x", "w", "b"], &["c"], &[("pads", Attr::from([1, 1, 1, 1]))])
        .node("Relu", &["c"], &["y"])
        .output("y")
}

/// Input `x` of 4 numbers, output `y` of 3.
pub fn gemm() -> Onnx {
    Onnx::default()
        .input("x", &[1, 4])
        .weights("w", &[4, 3], &numbers(2, 12))
        .weights("b", &[3], &[0.5, 0.0, -0.5])
        .node("Gemm", &["x", "w", "b"], &["y"])
        .output("y")
}

/// Inputs `a` and `b` of 4 numbers, output `y`: their sum through a matrix, and output `z`: the sum itself.
pub fn two_inputs() -> Onnx {
    Onnx::default()
        .input("a", &[1, 4])
        .input("b", &[1, 4])
        .weights("w", &[4, 3], &numbers(3, 12))
        .node("Add", &["a", "b"], &["z"])
        .node("MatMul", &["z", "w"], &["y"])
        .output("y")
        .output("z")
}
