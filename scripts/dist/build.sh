#!/usr/bin/env bash
# Compiles what `make dist` packs, for Linux on x86-64 with AVX2: llama-jola and libjola.so into
# target/dist, for glibc 2.28 or newer; the trainer into target/dist-trainer, for systems not
# older than this one.
#
# usage: scripts/dist/build.sh [llama-jola|trainer]...

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

rust=x86_64-unknown-linux-gnu
export PATH=$JOLA_CACHE/dist/bin:$PATH
# Programs tell where in their code they failed. Folders of this machine get short names there,
# and so do not decide on a program's bytes: this one, the crates', libtorch's.
cargo fetch --locked --target "$rust"
maps=("$PWD=llama-jola" "$LIBTORCH=libtorch")
for index in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/; do
    maps+=("${index%/}=crates")
done
export RUSTFLAGS="${maps[*]/#/--remap-path-prefix=}"
flags="${maps[*]/#/-ffile-prefix-map=}"
# Only llama.cpp's kernels are compiled for AVX2, so that a program gets as far as saying that a
# processor has none. RUSTFLAGS replace the target-cpu=native of .cargo/config.toml.
export GGML_SSE42=ON GGML_AVX=ON GGML_AVX2=ON GGML_FMA=ON GGML_F16C=ON GGML_BMI2=ON
export JOLA_DIST=1

# Neither cargo nor CMake compiles C++ again for other flags.
renew() {
    local stamp=$CARGO_TARGET_DIR/flags
    if [ "$(cat "$stamp" 2>/dev/null)" != "$flags" ]; then
        cargo clean --release --locked --target "$rust" -p llama-cpp-sys-2 -p llama-jola -p torch-sys
        mkdir -p "$CARGO_TARGET_DIR"
        echo "$flags" >"$stamp"
    fi
}

# With zig's compilers: its libc++ is linked statically, its glibc has no newer symbols.
build_llama_jola() {
    export CFLAGS_x86_64_unknown_linux_gnu=$flags CXXFLAGS_x86_64_unknown_linux_gnu=$flags
    export CARGO_TARGET_DIR=$PWD/target/dist
    renew
    # Threads of llama.cpp's own: OpenMP would be one more library to have.
    cargo zigbuild --release --locked --target "$rust.2.28" \
        -p llama-jola -p jola-plugin --no-default-features --features llama-jola/cli
}

# With the system's compilers: libtorch was compiled with libstdc++, and takes no other. The
# libstdc++ of this machine decides on which systems the trainer runs.
build_trainer() {
    export CC_x86_64_unknown_linux_gnu=gcc CXX_x86_64_unknown_linux_gnu=g++
    export CFLAGS_x86_64_unknown_linux_gnu=$flags CXXFLAGS_x86_64_unknown_linux_gnu=$flags
    export CARGO_TARGET_DIR=$PWD/target/dist-trainer
    renew
    cargo build --release --locked --target "$rust" \
        -p jola-trainer --no-default-features
}

[ $# -gt 0 ] || set -- llama-jola trainer
for part in "$@"; do
    case $part in
        llama-jola) (build_llama_jola) ;;
        trainer) (build_trainer) ;;
        *)
            echo "build.sh: no such part: $part" >&2
            exit 2
            ;;
    esac
done
