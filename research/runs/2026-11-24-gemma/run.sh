#!/usr/bin/env bash
# Trains an edit on Gemma 3 270M (Q4_K_M, `scripts/setup.sh gemma`) and evaluates it in llama.cpp.
#
#     runs/2026-11-24-gemma/run.sh DATA [OUT] [SEED]
#
# DATA has train.jsonl and test.jsonl with the rows of an intent task, `instruction` ending in
# "Request: TEXT". 200 rows for training, 200 for validation and 350 of the test rows are drawn
# by SEED (42) and shortened to "Request: TEXT\nIntent:", which does not name the intents. OUT (a
# temporary folder by default) gets the drawn rows, the sidecar and what the model answered.

set -euo pipefail
data=$(realpath "$1")
out=$(realpath -m "${2:-$(mktemp -d)}")
seed=${3:-42}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. scripts/env.sh

bin=${JOLA_BIN:-target/release}
edit=$out/jola-gemma-3-270M-intents.gguf
mkdir -p "$out"

python3 - "$data" "$out" "$seed" <<'PYTHON'
import json, pathlib, random, sys

data, out, seed = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])

def short(line):
    row = json.loads(line)
    request = row["instruction"].split("Request: ")[1]
    row = {"prompt": f"Request: {request}\nIntent:", "completion": " " + row["answer"]}
    return json.dumps(row, ensure_ascii=False) + "\n"

def draw(name, *parts):
    rows = [short(line) for line in (data / name).read_text().splitlines()]
    random.Random(seed).shuffle(rows)
    for file, n in parts:
        if len(rows) < n:
            sys.exit(f"{data / name} has too few rows")
        (out / file).write_text("".join(rows[:n]))
        rows = rows[n:]

draw("train.jsonl", ("train.jsonl", 200), ("valid.jsonl", 200))
draw("test.jsonl", ("test.jsonl", 350))
PYTHON

# The command is shown as it runs, so that it can be repeated by hand.
show() {
    printf '$ %s\n' "$*"
    "$@"
}

time show "$bin/jola-train" -m "$JOLA_GEMMA_MODEL" --data "$out/train.jsonl" --valid "$out/valid.jsonl" \
    -o "$edit" --epochs 4 -t 1 --seed "$seed"
for metric in exact choice; do
    for edits in "" "--jola $edit"; do
        # shellcheck disable=SC2086 # no edit is no argument
        show "$bin/llama-jola" eval -m "$JOLA_GEMMA_MODEL" $edits --data "$out/test.jsonl" \
            --metric $metric -n 12 -t 1 --json --predictions "$out/$metric${edits:+-edited}.jsonl"
    done
done
show "$bin/llama-jola" inspect "$edit"
