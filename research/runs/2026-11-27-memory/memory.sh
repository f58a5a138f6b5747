#!/usr/bin/env bash
# usage: memory.sh DATA.jsonl STEPS BASE.gguf…
# For each base, number format and way of holding weights: what --dry-run names, the peak of
# resident memory, and the seconds of computing.
set -euo pipefail
data=$1 steps=$2
shift 2
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
for base in "$@"; do
    for dtype in bf16 f32; do
        for weights in dense quantised; do
            args=(-m "$base" --data "$data" --valid-share 0 --lr 0.01 --method ungated --steps "$steps"
                --batch-size 4 --dtype "$dtype" --weights "$weights" -t 1)
            estimate=$(jola-train "${args[@]}" -o "$folder/o.gguf" --dry-run | awk '/^memory/ { print $2 }')
            log=$folder/$dtype-$weights
            taskset -c 1 /usr/bin/time -v jola-train "${args[@]}" -o "$folder/$dtype-$weights.gguf" 2>"$log"
            awk -v name="$(basename "$base" .gguf) $dtype $weights" -v estimate="$estimate" '
                /Maximum resident/ { peak = $6 / 1048576 }
                /User time/ { seconds = $4 }
                END { printf "%s: estimate %s GiB, peak %.3f GiB, share %.2f; %s s\n", name, estimate, peak, estimate / peak, seconds }' "$log"
        done
    done
done
