#!/bin/sh
# Compiles the digits model to C for each board, builds the firmware around it with CMake, and runs it in QEMU.
# Needs a Rust toolchain (or PTQC, a compiled ptqc), CMake, gcc for bare-metal Arm and QEMU.
set -eu
cd "$(dirname "$0")/../.."

need() {
  command -v "$1" > /dev/null || { echo "error: $1 is missing: apt-get install $2" >&2; exit 1; }
}
need cmake cmake
need make make
need arm-none-eabi-gcc "gcc-arm-none-eabi libnewlib-arm-none-eabi"
need qemu-system-arm qemu-system-arm
if [ -z "${PTQC:-}" ]; then
  command -v cargo > /dev/null || { echo "error: cargo is missing: install Rust from rustup.rs" >&2; exit 1; }
  cargo build --release --quiet -p ptqc
  PTQC=target/release/ptqc
fi

digits=examples/digits
firmware=examples/firmware-c
for pair in mps2-an386:cortex-m4 mps3-an547:cortex-m55; do
  board=${pair%:*}
  target=${pair#*:}
  out=${OUT:-$PWD/target/examples/firmware-c}/$board
  echo "== $target on $board"
  "$PTQC" build $digits/digits.onnx --ranges $digits/digits.ranges.toml --target "$target" -o "$out/model"
  cmake -S $firmware -B "$out/build" -G "Unix Makefiles" --toolchain "$PWD/$firmware/arm-none-eabi.cmake" \
    -DBOARD="$board" -DMODEL_DIR="$out/model" -DCMAKE_BUILD_TYPE=Release --log-level=WARNING > /dev/null
  cmake --build "$out/build" --target firmware > /dev/null
  cmake --build "$out/build" --target run | grep "^is a"
done
