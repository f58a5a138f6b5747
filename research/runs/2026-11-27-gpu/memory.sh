#!/usr/bin/env bash
# usage: memory.sh ROWS.jsonl   from the root of the repository: estimate and peak of trainings
set -euo pipefail
rows=$(realpath "$1")
. scripts/env.sh
train=$PWD/target/release/jola-train
cd "$(mktemp -d)"
for base in SmolLM2-135M-Instruct.Q4_1 qwen2.5-coder-1.5b-instruct-q4_k_m; do
    for dtype in bf16 f32; do
        for weights in dense quantised; do
            [ "$base$dtype" = qwen2.5-coder-1.5b-instruct-q4_k_mf32 ] && continue
            rm -rf o.run o.gguf
            args=(-m "$JOLA_CACHE/models/$base.gguf" --data "$rows" --valid-share 0 --lr 0.01
                --method ungated --steps 6 --batch-size 4 -o o.gguf
                --dtype "$dtype" --weights "$weights" -t 1)
            estimate=$("$train" "${args[@]}" --dry-run | grep ^memory | awk '{print $2}')
            taskset -c 1 /usr/bin/time -v "$train" "${args[@]}" >out.txt 2>err.txt
            peak=$(grep "Maximum resident" err.txt | awk '{print $6/1048576}')
            speed=$(grep "training tokens" err.txt)
            echo "$base $dtype $weights estimate $estimate GiB peak $peak GiB; $speed; ratio $(python3 -c "print($estimate/$peak)")"
        done
    done
done
