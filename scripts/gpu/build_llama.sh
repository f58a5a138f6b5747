#!/usr/bin/env bash
# Builds llama.cpp for the card at hand, with shared libraries so that the plugin can stand
# before them. check.sh runs it in the background.
#
# usage: build_llama.sh BUNDLE
#
# Ends with BUNDLE/llama-cuda.ready (or llama-cpu.ready where there is no card), or with .failed.

set -euo pipefail
bundle=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=$bundle/llama.cpp
generator=("Unix Makefiles")
if command -v ninja >/dev/null; then generator=(Ninja); fi
jobs=$(nproc)

# The compute capability without its dot, as CMake names architectures.
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .) || true
kind=cpu options=(-DGGML_CUDA=OFF)
if [ -n "$architecture" ]; then kind=cuda; fi
fail() {
    echo "build_llama: $*" >&2
    echo "$*" >"$bundle/llama-$kind.failed"
    exit 1
}

# Where the toolkit's own folder lacks cuBLAS, that of PyTorch's packages does.
cuda_options() {
    local nvcc toolkit packages name found
    nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null) || fail "no nvcc"
    toolkit=$(cd "$(dirname "$(readlink -f "$nvcc")")/.." && pwd)
    packages=$(python3 -c 'import nvidia; print(list(nvidia.__path__)[0])' 2>/dev/null)/cu13 || packages=/none
    options=(-DGGML_CUDA=ON "-DCMAKE_CUDA_ARCHITECTURES=$architecture" "-DCMAKE_CUDA_COMPILER=$nvcc" -DGGML_CUDA_NCCL=OFF)
    ls -d "$toolkit" "$toolkit"/lib64 "$toolkit"/targets/*/lib "$packages"/lib || true
    for name in cublas cublasLt cudart; do
        found=$(find "$toolkit/" "$packages/" -name "lib$name.so*" 2>/dev/null | sort | head -n 1) || true
        echo "lib$name: ${found:-not found}"
        case $found in
            "$packages"/*) options+=("-DCUDA_${name}_LIBRARY=$found" "-DCMAKE_CUDA_FLAGS=-I$packages/include" "-DCMAKE_CXX_FLAGS=-I$packages/include") ;;
        esac
    done
    [ -n "$(find "$toolkit/" -name libcuda.so 2>/dev/null)" ] || options+=(-DGGML_CUDA_NO_VMM=ON)
}

[ "$kind" = cpu ] || cuda_options
build=$bundle/build-$kind
echo "build_llama: $kind ${options[*]}, $jobs jobs"
cmake -S "$source" -B "$build" -G "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
    -DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_BUILD_SERVER=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_CURL=OFF "${options[@]}" || fail "cmake refused; see build_llama.log"
begun=$SECONDS
cmake --build "$build" -j "$jobs" --target llama llama-bench || fail "the compiler refused; see build_llama.log"
g++ -O2 -std=c++17 -I "$source/include" -I "$source/ggml/include" "$here/write_logits.cpp" \
    -o "$build/bin/write-logits" -L "$build/bin" -lllama -lggml -lggml-base -Wl,-rpath,"$build/bin" ||
    fail "write_logits.cpp does not compile"
echo $((SECONDS - begun)) >"$bundle/llama-$kind.ready"
