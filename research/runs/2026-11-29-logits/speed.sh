#!/usr/bin/env bash
# Tokens a second of training with two builds of jola-train in turns.
# speed.sh ROWS.jsonl STEPS OLD NEW BASE.gguf…    (JOLA_AVX2=1: bound to AVX2, in float32)
set -euo pipefail
rows=$1 steps=$2 old=$3 new=$4
shift 4
dtype=()
if [ "${JOLA_AVX2:-}" ]; then
    dtype=(--dtype f32)
    export ATEN_CPU_CAPABILITY=avx2 DNNL_MAX_CPU_ISA=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for base; do
    for round in 1 2; do
        for program in "$old" "$new"; do
            rm -rf "${out:?}"/*
            # So few steps may be refused as no better than the unedited model.
            "$program" -m "$base" --data "$rows" -o "$out/edit.gguf" -t 1 --lr 0.1 --sparsity 0 \
                --steps "$steps" --seed 0 "${dtype[@]}" > "$out/log" 2>&1 || [ $? = 3 ]
            rate=$(grep -oE '^[0-9]+ training tokens, [0-9]+' "$out/log" | grep -oE '[0-9]+$')
            format=$(grep -oE 'bf16|f32' "$out/log" | head -1)
            [ "$program" = "$old" ] && name=old || name=new
            echo "$(basename "$base") $format round $round $name $rate tokens/s"
        done
    done
done
