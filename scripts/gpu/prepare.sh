#!/usr/bin/env bash
# Builds here what scripts/gpu/check.sh needs on a machine with an NVIDIA card, and packs it.
#
# usage: scripts/gpu/prepare.sh [FOLDER]        (by default target/gpu)
#
# Leaves FOLDER/manifest, FOLDER/llama.cpp.tar.xz (4 MiB) and FOLDER/piece-1, piece-2, … of at
# most 55 MiB each. The trainer is built against libtorch 2.11, in a copy of the workspace in
# FOLDER/build, with the tch release for it. A second run compiles only what has changed.
#
# JOLA_GPU_HOOK names a folder with a `llama-jola` built with `--features cuda`, and its
# libraries: then they are packed too. Its libcuda and cuBLAS are those of the other machine.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. scripts/env.sh

# The pair that belongs together: scripts/packages.txt pins the libtorch.
torch=2.11 tch=0.24.0
piece_bytes=$((55 * 1024 * 1024))

say() { printf 'prepare: %s\n' "$*" >&2; }
die() {
    say "error: $*"
    exit 1
}

mkdir -p "${1:-target/gpu}"
folder=$(cd "${1:-target/gpu}" && pwd)
build=$folder/build
workspace=$build/workspace
bundle=$build/bundle
hosts=$JOLA_CACHE/hosts/python

scripts/setup.sh "libtorch-$torch" model
# Its source package holds all of llama.cpp, also the programs.
[ -f "$hosts/stamp" ] || die "llama.cpp's source is not here: run scripts/setup.sh hosts"

# The files keep their times, so cargo compiles only what has changed.
copy_workspace() {
    rm -rf "$workspace"
    mkdir -p "$workspace"
    git ls-files -z | tar --null -T - --ignore-failed-read -c 2>/dev/null | tar -x -C "$workspace"
    local manifest=$workspace/trainer/Cargo.toml
    grep -q '^tch = "=' "$manifest" || die "trainer/Cargo.toml does not pin tch"
    sed -i "s/^tch = \"=.*\"/tch = \"=$tch\"/" "$manifest"
    touch -r trainer/Cargo.toml "$manifest"
}

# cargo ARGUMENTS…: for any x86-64 machine with AVX2, llama.cpp's code too.
cargo_portable() {
    (
        cd "$workspace"
        export LIBTORCH=$JOLA_CACHE/libtorch-$torch CARGO_TARGET_DIR=$build/target
        export LD_LIBRARY_PATH=$LIBTORCH/lib RUSTFLAGS="-C target-cpu=x86-64-v3"
        nice -n 12 cargo "$@"
    )
}

# The newest executable of the trainer's integration tests.
test_executable() {
    cargo_portable test --release -p jola-trainer --test integration --no-run --message-format=json |
        python3 -c '
import json, sys
lines = (json.loads(line) for line in sys.stdin if line.startswith("{"))
print([line["executable"] for line in lines if line.get("executable") and "test" in line["target"]["kind"]][-1])'
}

programs() {
    local release=$build/target/release tests file
    say "building the programs against libtorch $torch"
    cargo_portable build --release -p jola-trainer -p llama-jola -p jola-plugin
    tests=$(test_executable)
    rm -rf "${bundle:?}/bin"
    mkdir -p "$bundle/bin"
    cp "$release"/{jola-train,jola-train-core,llama-jola,libjola.so} "$bundle/bin"
    cp "$tests" "$bundle/bin/trainer-tests"
    for file in "$bundle"/bin/*; do strip --strip-unneeded "$file"; done
    # Tests look for the workspace and the programs where they were compiled.
    printf '%s\n' "$workspace" "$release" >"$bundle/compiled-at"
}

# An edit of every head, and a text as tokens: what logits are compared on.
inputs() {
    mkdir -p "$bundle/models"
    cp -u "$JOLA_TEST_MODEL" "$bundle/models/SmolLM2.gguf"
    [ "$bundle/models/random-edit.gguf" -nt "$JOLA_TEST_MODEL" ] ||
        "$bundle/bin/llama-jola" bench -m "$JOLA_TEST_MODEL" -p 8 -n 2 -r 1 \
            --every-head "$bundle/models/random-edit.gguf" >&2
    "$hosts/bin/python" - "$JOLA_TEST_MODEL" tests/data/text.txt >"$bundle/models/tokens.txt" <<'PYTHON'
import sys
from llama_cpp import Llama

base, text = sys.argv[1:]
llama = Llama(base, vocab_only=True, verbose=False)
tokens = llama.tokenize(open(text, "rb").read(), add_bos=False)
print(",".join(map(str, tokens)))
PYTHON
}

# Without what a build for CUDA does not read. The model conversion scripts go with the models.
llama_source() {
    local archive=$folder/llama.cpp.tar.xz
    [ ! "$archive" -nt "$hosts/stamp" ] || return 0
    say "packing llama.cpp's source"
    local left_out=() name
    for name in models docs media benches tests gguf-py conversion scripts app skills requirements; do
        left_out+=("--exclude=llama.cpp/$name")
    done
    for name in cann hexagon hip metal musa opencl openvino rpc sycl virtgpu vulkan webgpu zdnn zendnn et; do
        left_out+=("--exclude=llama.cpp/ggml/src/ggml-$name")
    done
    tar -C "$hosts/source/vendor" "${left_out[@]}" --exclude='*.md' \
        --exclude=llama.cpp/tools/ui --exclude=llama.cpp/tools/server/public \
        -c llama.cpp | xz -6 -T2 >"$archive.part"
    mv "$archive.part" "$archive"
}

hook() {
    rm -rf "${bundle:?}/hook"
    [ -n "${JOLA_GPU_HOOK:-}" ] || return 0
    mkdir -p "$bundle/hook"
    cp -P "$JOLA_GPU_HOOK"/* "$bundle/hook"
}

pack() {
    rm -f "$folder"/piece-* "$folder/manifest" "$bundle"/{llama.cpp.tar.xz,bin.tar.xz}
    say "packing"
    local parts=(bin compiled-at)
    [ ! -d "$bundle/hook" ] || parts+=(hook)
    tar -C "$bundle" -c "${parts[@]}" | xz -4 -T2 >"$build/bin.tar.xz"
    # What changes from one build to the next comes last.
    tar -c -C "$bundle" models -C "$build" bin.tar.xz |
        split -b "$piece_bytes" --numeric-suffixes=1 -a 1 - "$folder/piece-"
    (cd "$folder" && sha256sum llama.cpp.tar.xz piece-*) >"$folder/manifest"
    say "$(git rev-parse --short HEAD): $(grep -c piece- "$folder/manifest") pieces in $folder"
}

copy_workspace
programs
inputs
llama_source
hook
pack
