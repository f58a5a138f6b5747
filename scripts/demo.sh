#!/usr/bin/env bash
# Trains an edit on examples/routing and shows what it does to the model in llama.cpp.
# `make demo` sets up and builds first. JOLA_BIN names another folder of binaries, and
# JOLA_DEMO_LEAST an accuracy below which the demo fails.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/env.sh

bin=${JOLA_BIN:-target/release}
model=$JOLA_TEST_MODEL
data=examples/routing
out=target/demo
edit=$out/jola-SmolLM2-135M-Instruct-routing.gguf

for file in "$bin/jola-train" "$bin/llama-jola" "$model"; do
    if [ ! -f "$file" ]; then
        echo "demo: $file is missing: run make demo" >&2
        exit 1
    fi
done

# Results of an earlier run must not pass for this one's.
rm -rf "$out"
mkdir -p "$out"

step() { printf '\n== %s\n' "$*"; }
# The command is shown as it runs, so that it can be repeated by hand.
show() {
    printf '$ %s\n' "$*"
    "$@"
}

step "Training"
# A short run, with the learning rate and a share of closed gates that one with nothing set finds
# on these data in more than twice the time (docs/quickstart.md).
start=$EPOCHREALTIME
show "$bin/jola-train" -m "$model" --data $data/train.jsonl --valid $data/valid.jsonl \
    -o "$edit" --epochs 2 --lr 0.1 --sparsity 0.75 --seed 42
end=$EPOCHREALTIME

step "The model as it is"
show "$bin/llama-jola" eval -m "$model" --data $data/test.jsonl --metric exact --json |
    tee $out/unedited.txt

step "The same model with the edit"
show "$bin/llama-jola" eval -m "$model" --jola "$edit" --data $data/test.jsonl --metric exact --json |
    tee $out/edited.txt

step "What the edit holds"
show "$bin/llama-jola" inspect "$edit"
show "$bin/llama-jola" inspect "$edit" --plot $out/edit.svg
"$bin/llama-jola" inspect "$edit" --json >$out/inspect.txt

echo
python3 - $out "$edit" "$start" "$end" <<'PYTHON'
import json, os, sys

out, edit, start, end = sys.argv[1:]

def last_line(name):
    """With --json the result is the last line of stdout."""
    with open(os.path.join(out, name)) as file:
        return json.loads(file.read().strip().splitlines()[-1])

unedited, edited, inspect = (last_line(f) for f in ("unedited.txt", "edited.txt", "inspect.txt"))
if unedited["n"] != edited["n"]:
    sys.exit(f"demo: {unedited['n']} rows unedited but {edited['n']} edited")
print(
    f"demo: unedited accuracy {unedited['accuracy']:.3f}, edited accuracy {edited['accuracy']:.3f}"
    f" on {edited['n']} rows, sidecar {os.path.getsize(edit)} bytes,"
    f" {inspect['heads_edited']} of {inspect['heads_total']} heads edited,"
    # Some locales write the shell's clock with a comma.
    f" trained in {float(end.replace(',', '.')) - float(start.replace(',', '.')):.0f} s"
)
if edited["accuracy"] <= unedited["accuracy"]:
    sys.exit("demo: the edit did not help")
least = float(os.environ.get("JOLA_DEMO_LEAST", 0))
if edited["accuracy"] < least:
    sys.exit(f"demo: an accuracy of at least {least} was expected")
PYTHON
