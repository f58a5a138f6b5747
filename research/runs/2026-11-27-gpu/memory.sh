#!/usr/bin/env bash
# usage: memory.sh DATA.jsonl BASE.gguf…
# For each base, number format and way of holding weights: what --dry-run names, the peak of
# resident memory, and the speed.
set -euo pipefail
data=$1
shift
for base in "$@"; do
    for dtype in bf16 f32; do
        for weights in dense quantised; do
            rm -rf o.run o.gguf
            args=(-m "$base" --data "$data" --valid-share 0 --lr 0.01 --method ungated --steps 6
                --batch-size 4 -o o.gguf --dtype "$dtype" --weights "$weights" -t 1)
            estimate=$(jola-train "${args[@]}" --dry-run | awk '/^memory/ { print $2 }')
            taskset -c 1 /usr/bin/time -v jola-train "${args[@]}" 2>err.txt
            peak=$(awk '/Maximum resident/ { print $6 / 1048576 }' err.txt)
            echo "$base $dtype $weights estimate $estimate GiB peak $peak GiB; $(grep 'training tokens' err.txt)"
        done
    done
done
