#!/usr/bin/env bash
# Builds llama.cpp for the card at hand, with shared libraries so that the plugin can stand
# before them.
#
# usage: build_llama.sh FOLDER
#
# It needs FOLDER/llama.cpp.tar.xz alone, so it can begin before the pieces are there, and is best
# begun alone: `setsid scripts/gpu/build_llama.sh FOLDER &`. check.sh begins it where nobody has.
# Writes FOLDER/llama/log, and ends with FOLDER/llama/ready (the seconds that it took) or failed.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(cd "$1" && pwd)
work=$folder/llama
mkdir -p "$work"
exec 9>"$work/lock"
flock -n 9 || exit 0 # another one is at it

archive=$folder/llama.cpp.tar.xz
if [ -f "$work/ready" ] && sha256sum --quiet --status -c "$work/archive.sha256"; then exit 0; fi
rm -f "$work"/{ready,failed}
exec >"$work/log" 2>&1
begun=$SECONDS

fail() {
    echo "build_llama: $*"
    echo "$*" >"$work/failed"
    exit 1
}

# The compute capability without its dot, as CMake names architectures.
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .) || true
options=(-DGGML_CUDA=OFF)

# Where the toolkit's own folder lacks cuBLAS, that of PyTorch's packages does.
cuda_options() {
    local nvcc toolkit packages name found
    nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null) || fail "no nvcc"
    toolkit=$(cd "$(dirname "$(readlink -f "$nvcc")")/.." && pwd)
    packages=$(python3 -c 'import nvidia; print(list(nvidia.__path__)[0])' 2>/dev/null)/cu13 || packages=/none
    options=(-DGGML_CUDA=ON "-DCMAKE_CUDA_ARCHITECTURES=$architecture-real" "-DCMAKE_CUDA_COMPILER=$nvcc"
        -DGGML_CUDA_NCCL=OFF -DGGML_CUDA_FA=OFF -DGGML_CUDA_COMPRESSION_MODE=none)
    local headers=
    for name in cublas cublasLt cudart; do
        found=$(find "$toolkit/" "$packages/" -name "lib$name.so*" 2>/dev/null | sort | head -n 1) || true
        echo "lib$name: ${found:-not found}"
        case $found in
            "$packages"/*) options+=("-DCUDA_${name}_LIBRARY=$found") headers="-I$packages/include" ;;
        esac
    done
    [ -z "$headers" ] || options+=("-DCMAKE_CUDA_FLAGS=$headers" "-DCMAKE_CXX_FLAGS=$headers")
    [ -n "$(find "$toolkit/" -name libcuda.so 2>/dev/null)" ] || options+=(-DGGML_CUDA_NO_VMM=ON)
}

tar -xJf "$archive" -C "$work" || fail "llama.cpp.tar.xz cannot be unpacked"
sha256sum "$archive" >"$work/archive.sha256"
source=$work/llama.cpp build=$work/build
if [ -n "$architecture" ]; then
    cuda_options
    bash "$here/few_kernels.sh" "$source"
fi
generator=("Unix Makefiles")
if command -v ninja >/dev/null; then generator=(Ninja); fi
jobs=${JOLA_GPU_JOBS:-$(nproc)}
echo "build_llama: ${options[*]}, $jobs jobs"
cmake -S "$source" -B "$build" -G "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
    -DCMAKE_C_FLAGS_RELEASE="-O2 -DNDEBUG" -DCMAKE_CXX_FLAGS_RELEASE="-O2 -DNDEBUG" \
    -DCMAKE_SHARED_LINKER_FLAGS=-Wl,-z,lazy -DGGML_NATIVE=ON -DGGML_ALL_WARNINGS=OFF \
    -DLLAMA_ALL_WARNINGS=OFF -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_OPENSSL=OFF \
    -DLLAMA_CURL=OFF "${options[@]}" || fail "cmake refused: the log says why"
cmake --build "$build" -j "$jobs" --target llama || fail "the compiler refused: the log says why"
g++ -O2 -std=c++17 -I "$source/include" -I "$source/ggml/include" "$here/llama_check.cpp" \
    -o "$build/bin/llama-check" -L "$build/bin" -lllama -lggml -lggml-base -Wl,-rpath,"$build/bin" \
    -Wl,--unresolved-symbols=ignore-in-shared-libs || fail "llama_check.cpp does not compile"
echo $((SECONDS - begun)) >"$work/ready.new"
mv "$work/ready.new" "$work/ready"
