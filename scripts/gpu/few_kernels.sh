#!/usr/bin/env bash
# Leaves out of llama.cpp's source the CUDA kernels that the checks do not call, for they take
# most of the compiler's time: flash attention (GGML_CUDA_FA=OFF), and the matrix products of
# types that SmolLM2 and the 8B base do not have and of few rows of float16.
#
# usage: few_kernels.sh LLAMA.CPP
#
# A program that calls one ends with "symbol lookup error": the libraries are linked lazily.

set -euo pipefail
cuda=$1/ggml/src/ggml-cuda
kept=(q4_1 q8_0 q4_k q6_k)

for file in "$cuda"/template-instances/mmq-instance-*.cu; do
    type=${file##*/mmq-instance-} type=${type%.cu}
    [[ " ${kept[*]} " == *" $type "* ]] || rm "$file"
done
rm -f "$cuda"/template-instances/{fattn-tile,fattn-mma,mmf}*.cu
# This one asks for its files by name.
for file in "$cuda"/template-instances/fattn-vec*.cu; do : >"$file"; done
