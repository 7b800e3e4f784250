#!/bin/sh
# Builds the firmware and runs it in QEMU, like `cargo run`. Where the compiler lacks the target's library and rustup cannot
# fetch it, Debian's compiler builds the library from source (packages: rustc-web cargo-web rust-web-src lld).
# `--can-build` only says whether that is possible.
set -eu
cd "$(dirname "$0")"
target=thumbv7em-none-eabihf

has_library() {
  [ -d "$("$1" --print sysroot)/lib/rustlib/$2" ]
}

if command -v rustc > /dev/null && has_library rustc $target/lib; then
  [ "${1:-}" = "--can-build" ] || exec cargo run --locked
  exit 0
fi

linker=$(command -v ld.lld || command -v ld.lld-19) || linker=""
if [ -n "$linker" ] && [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] && has_library /usr/bin/rustc src/rust/library; then
  [ "${1:-}" = "--can-build" ] && exit 0
  export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 PATH="/usr/bin:$PATH"
  unset RUSTUP_TOOLCHAIN
  # These flags are added to those in .cargo/config.toml.
  export CARGO_TARGET_THUMBV7EM_NONE_EABIHF_RUSTFLAGS="-C linker=$linker -C linker-flavor=ld.lld"
  exec /usr/bin/cargo run --locked -Zbuild-std=core
fi

echo "error: the compiler has no library for $target: rustup target add $target" >&2
exit 1
