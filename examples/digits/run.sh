#!/bin/sh
# Compiles the example model to C, compiles that C, recognises three digits, and shows how accurate the model is.
# Needs a Rust toolchain and a C compiler; says what to install if one is missing.
set -eu
cd "$(dirname "$0")/../.."

need() {
  command -v "$1" > /dev/null || { echo "error: $1 is missing: $2" >&2; exit 1; }
}
need cargo "install Rust from rustup.rs"
need cc "install a C compiler, for example: apt-get install gcc"

out=target/examples/digits
echo "== building ptqc (the first time takes some minutes)"
cargo build --release --quiet -p ptqc
echo "== compiling the model to C"
target/release/ptqc build examples/digits/digits.onnx --calib examples/digits/calib.npy --target generic -o "$out"
echo "== compiling the C and running it"
cc -std=c99 -Wall -Wextra -O2 -I "$out" examples/digits/main.c "$out/digits.c" "$out/digits_weights.c" -o "$out/demo"
"$out/demo"
echo "== accuracy of the float and the integer model"
target/release/ptqc eval examples/digits/digits.onnx --calib examples/digits/calib.npy \
  --data examples/digits/eval.npy --labels examples/digits/labels.npy
