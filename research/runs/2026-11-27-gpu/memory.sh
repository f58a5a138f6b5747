#!/usr/bin/env bash
# usage: go.sh  -> lines "base dtype weights estimate peak tokens/s"
cd /tmp/mem; . /work/main/scripts/env.sh
M=~/.cache/llama-jola/models
for base in SmolLM2-135M-Instruct.Q4_1 qwen2.5-coder-1.5b-instruct-q4_k_m; do
for dtype in bf16 f32; do
for weights in dense quantised; do
 [ $base$dtype = qwen2.5-coder-1.5b-instruct-q4_k_mf32 ] && continue
 rm -rf o.run o.gguf
 args="-m $M/$base.gguf --data /work/exp/data/arc_easy-0-train.jsonl --valid-share 0 --lr 0.01 --method ungated --steps 6 --batch-size 4 -o o.gguf --dtype $dtype --weights $weights -t 1"
 est=$(./jola-train $args --dry-run | grep ^memory | awk '{print $2}')
 taskset -c 1 /usr/bin/time -v ./jola-train $args >out.txt 2>err.txt
 peak=$(grep "Maximum resident" err.txt | awk '{print $6/1048576}')
 tps=$(grep "training tokens" err.txt)
 echo "$base $dtype $weights estimate $est GiB peak $peak GiB; $tps; ratio $(python3 -c "print($est/$peak)")"
done; done; done
