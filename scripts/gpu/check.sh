#!/usr/bin/env bash
# Runs on a machine with an NVIDIA card what scripts/gpu/prepare.sh packed, and reports.
#
# usage: scripts/gpu/check.sh FOLDER OUT [CHECK]...
#
# FOLDER holds the manifest, llama.cpp.tar.xz and the pieces; OUT gets table.md, results.json and
# logs. Without a CHECK: all of them, within JOLA_GPU_SECONDS (460). `measure.py` names them. It
# needs a python3 with PyTorch 2.11 and NumPy, or LIBTORCH; for llama.cpp also nvcc, CMake and a
# C++ compiler. build_llama.sh may be at work already, or be done.

set -euo pipefail
[ $# -ge 2 ] || {
    sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}
export JOLA_GPU_END=$(($(date +%s) + ${JOLA_GPU_SECONDS:-460}))

mkdir -p "$1" "$2"
folder=$(cd "$1" && pwd)
out=$(cd "$2" && pwd)
shift 2
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=$PWD/scripts/gpu
bundle=$folder/bundle

say() { printf 'check: %s\n' "$*" >&2; }
die() {
    say "error: $*"
    exit 1
}

unpack() {
    if [ -f "$bundle/manifest" ] && cmp -s "$folder/manifest" "$bundle/manifest"; then return; fi
    say "unpacking"
    rm -rf "$bundle"
    mkdir -p "$bundle"
    cat "$folder"/piece-* | tar -x -C "$bundle"
    tar -xJf "$bundle/bin.tar.xz" -C "$bundle"
    cp "$folder/manifest" "$bundle/manifest"
}

# Tests look for the workspace and for the programs where they were compiled.
link_compiled_at() {
    local workspace release
    { read -r workspace && read -r release; } <"$bundle/compiled-at"
    [ -e "$workspace" ] || { mkdir -p "${workspace%/*}" && ln -sn "$PWD" "$workspace"; } ||
        say "$workspace cannot be made: tests that read files will fail"
    [ -e "$release" ] || { mkdir -p "${release%/*}" && ln -sn "$bundle/bin" "$release"; } || true
}

torch_folder() {
    python3 -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])' 2>/dev/null
}

(cd "$folder" && sha256sum --quiet -c manifest) || die "the files in $folder are not whole"
# In the background, in a group of its own that ends with this script. One that was begun by
# hand goes on.
setsid bash "$here/build_llama.sh" "$folder" &
builder=$!
trap 'kill -- -$builder 2>/dev/null || true; cp "$folder/llama/log" "$out/build_llama.log" || true' EXIT
unpack
link_compiled_at
LIBTORCH=${LIBTORCH:-$(torch_folder || true)}
[ -e "$LIBTORCH/lib/libtorch_cpu.so" ] || die "no PyTorch 2.11: python3 cannot import it, and LIBTORCH names none"
export LIBTORCH
export JOLA_GPU_BUNDLE=$bundle JOLA_GPU_OUT=$out

python3 "$here/measure.py" "$@"
