//! Compiles the model whenever it changes.

fn main() {
    ptqc::Build::new("../digits/digits.onnx").ranges("../digits/digits.ranges.toml").float_helpers(true).run();
}
