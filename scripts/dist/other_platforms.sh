#!/usr/bin/env bash
# What can be said of other platforms on this machine: Linux on aarch64 is cross-compiled and run
# under qemu; for macOS and Windows the types are checked. docs/install.md tells the result.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/env.sh
. scripts/env.sh
scripts/setup.sh system model dist other-platforms
scripts/dist/build.sh llama-jola  # to compare with

arm=aarch64-unknown-linux-gnu
others=(aarch64-apple-darwin x86_64-pc-windows-gnu)
export PATH=$JOLA_CACHE/dist/bin:$PATH
# In the place of .cargo/config.toml's target-cpu=native.
export CARGO_TARGET_DIR=$PWD/target/dist RUSTFLAGS="-C debuginfo=0"
emulator=(qemu-aarch64 -L /usr/aarch64-linux-gnu)

rustup target add "$arm" "${others[@]}"
for target in "${others[@]}"; do
    cargo check --locked -p jola-edit --target "$target"
done

# Properties are tested on fewer inputs: an emulated processor is slow.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="${emulator[*]}" PROPTEST_CASES=16
cargo-zigbuild test --locked -p jola-edit --lib --target "$arm"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# The command says and writes the same as on this machine. llama.cpp is compiled without
# optimisation, which is quicker.
LLAMA_LIB_PROFILE=Debug cargo zigbuild --locked -p llama-jola --no-default-features --features cli \
    --target "$arm.2.28"
native() { "$CARGO_TARGET_DIR/x86_64-unknown-linux-gnu/release/llama-jola" "$@"; }
emulated() { "${emulator[@]}" "$CARGO_TARGET_DIR/$arm/debug/llama-jola" "$@"; }
same() {
    local here
    for here in native emulated; do
        mkdir -p "$folder/$here"
        (cd "$folder/$here" && "$here" "$@" >said 2>&1) || {
            cat "$folder/$here/said" >&2
            exit 1
        }
    done
    diff -r "$folder/native" "$folder/emulated"
}
edit=$PWD/tests/golden/edit.gguf
same --version
same --help
same inspect "$edit" --plot edit.svg
same merge "$edit" "$edit:0.5" -o merged.gguf
same card merged.gguf -o README.md --base-model a/b --license mit
same manuals pages
same run -m "$JOLA_TEST_MODEL" --jola "$edit" -p 'Message: Where is my parcel?' -n 4 --temp 0

# The plugin in a program that is not llama.cpp's: it loads, answers, and stays out of the way.
cargo zigbuild --locked -p jola-plugin --target "$arm.2.28"
cat >"$folder/load.c" <<'C'
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char ** argv) {
    void * library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
    const char * (*version)(void) = library ? (const char * (*)(void)) dlsym(library, "jola_version") : NULL;
    if (!version) {
        return fprintf(stderr, "%s\n", dlerror()), 1;
    }
    return puts(version()) < 0;
}
C
cargo-zigbuild zig cc -- -target aarch64-linux-gnu.2.28 -o "$folder/load" "$folder/load.c" -ldl
library=$CARGO_TARGET_DIR/$arm/debug/libjola.so
"${emulator[@]}" "$folder/load" "$library"
"${emulator[@]}" -E LD_PRELOAD="$library" "$folder/load" "$library"
echo "other platforms: passed"
