#!/bin/sh
# Installs what the tests need (on Debian and its relatives) and runs them. Arguments go to `cargo test`.
# What cannot be installed is named, and the tests that need it say that they were skipped.
set -eu
cd "$(dirname "$0")/.."

command -v cargo > /dev/null || { echo "error: cargo is missing: install Rust from rustup.rs" >&2; exit 1; }

# Compilers and emulators, one line for each kind of target.
packages="
  gcc g++ libc6-dev
  clang-19 lld-19 libclang-rt-19-dev
  gcc-arm-none-eabi libnewlib-arm-none-eabi
  gcc-aarch64-linux-gnu libc6-dev-arm64-cross
  gcc-arm-linux-gnueabihf libc6-dev-armhf-cross
  gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf
  qemu-system-arm qemu-system-misc qemu-user
  python3 python3-venv cmake make chromium
"

missing=""
if command -v dpkg-query > /dev/null; then
  for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q "install ok installed" || missing="$missing $package"
  done
fi
if [ -n "$missing" ]; then
  as_root=""
  [ "$(id -u)" = 0 ] || as_root="sudo"
  echo "== installing:$missing"
  $as_root apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing > /dev/null
elif ! command -v dpkg-query > /dev/null; then
  echo "note: this is no Debian system; for all tests install what these packages hold:" $packages
fi

# The source of Rust's core library, for targets that rustup has not installed; Debian's own compiler belongs to it
# and stands beside the one in ~/.cargo. It cannot be installed together with Debian's package `rustc`.
if command -v dpkg-query > /dev/null && [ ! -x /usr/bin/rustc ]; then
  as_root=""
  [ "$(id -u)" = 0 ] || as_root="sudo"
  echo "== installing: rustc-web cargo-web rust-web-src"
  $as_root apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends rustc-web cargo-web rust-web-src > /dev/null ||
    echo "note: emitted Rust is tested on this machine's own processor only, unless rustup has the targets"
fi

# onnxruntime, the independent runtime that whole layers are compared with.
if ! target/python/bin/python -c "import numpy, onnx, onnxruntime" 2> /dev/null; then
  echo "== installing onnxruntime in target/python"
  python3 -m venv target/python
  target/python/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
fi

cargo test --release --workspace "$@"
