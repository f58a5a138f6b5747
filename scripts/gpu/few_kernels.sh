#!/usr/bin/env bash
# Leaves out of llama.cpp's source the CUDA kernels that the checks do not call, for they take
# most of the compiler's time: flash attention (GGML_CUDA_FA=OFF), matrix products of types that
# SmolLM2 and the 8B base do not have, those of 5 to 16 columns by float16 (attention of so many
# tokens at once), and operations that the graphs of Llama models do not hold. What is left is
# compiled as it stands.
#
# usage: few_kernels.sh LLAMA.CPP
#
# The libraries are linked lazily, so only a program that does call one of these ends, with
# "symbol lookup error".

set -euo pipefail
cuda=$1/ggml/src/ggml-cuda
kept=(q4_1 q8_0 q4_k q6_k) names='Q4_1|Q8_0|Q4_K|Q6_K'
operations=(
    acc add-id arange argmax argsort col2im-1d conv-transpose-1d conv2d conv2d-dw conv2d-transpose
    conv3d count-equal cross-entropy-loss cumsum diag diagmask dsv4-hc fattn-tile fill
    gated_delta_net gla im2col mean moe-weighted-reduction opt-step-adamw opt-step-sgd out-prod pad
    pad_reflect_1d pool1d pool2d roll set snake softcap solve_tri ssm-conv ssm-scan sum sumrows
    top-k tri tsembd upscale wkv
)

for file in "$cuda"/template-instances/mmq-instance-*.cu; do
    type=${file##*/mmq-instance-} type=${type%.cu}
    [[ " ${kept[*]} " == *" $type "* ]] || rm "$file"
done
rm -f "$cuda"/template-instances/{fattn-tile,fattn-mma}*.cu
rm -f "$cuda"/template-instances/mmf-instance-ncols_{5,6,7,8,9,10,11,12,13,14,15,16}.cu
# CMake asks for these by name.
for file in "$cuda"/template-instances/fattn-vec*.cu; do : >"$file"; done
# The products with few columns of all types are one file, the slowest of all.
sed -i -E '/^static void mul_mat_vec_q_switch_type\(/,/^}/ {
    /^        case GGML_TYPE_('"$names"'):/b
    /^        case GGML_TYPE_/,/^            break;/d
}' "$cuda/mmvq.cu"
for operation in "${operations[@]}"; do rm -f "$cuda/$operation.cu"; done
