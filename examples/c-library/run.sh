#!/bin/sh
# Compiles the digits model to C, that C to a shared library, and recognises 200 images from Python.
# Needs a Rust toolchain (or PTQC, a compiled ptqc), a C compiler and Python 3; numpy is not necessary.
set -eu
cd "$(dirname "$0")/../.."

need() {
  command -v "$1" > /dev/null || { echo "error: $1 is missing: $2" >&2; exit 1; }
}
need cc "install a C compiler, for example: apt-get install gcc"
need python3 "install Python 3, for example: apt-get install python3"
if [ -z "${PTQC:-}" ]; then
  need cargo "install Rust from rustup.rs"
  cargo build --release --quiet -p ptqc
  PTQC=target/release/ptqc
fi

digits=examples/digits
out=${OUT:-target/examples/c-library}
"$PTQC" build $digits/digits.onnx --ranges $digits/digits.ranges.toml -o "$out"
cc -std=c99 -O2 -shared -fPIC "$out/digits.c" "$out/digits_weights.c" -o "$out/libdigits.so"
python3 examples/c-library/digits.py "$out/libdigits.so" "$out/digits.report.json" $digits/eval.npy $digits/labels.npy
