//! Compiles the model whenever it changes, and tells the linker where `memory.x` is.

fn main() {
    ptqc::Build::new("../digits/digits.onnx").ranges("../digits/digits.ranges.toml").run();

    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::rustc-link-search={folder}");
    println!("cargo::rerun-if-changed=memory.x");
}
