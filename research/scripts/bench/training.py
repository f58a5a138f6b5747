#!/usr/bin/env python3
"""Measures training against the Python stack, and writes a table and the raw numbers.

usage: research/scripts/bench/training.py OUT [PART]...        (make bench-training calls it)

  shapes   tokens per second and peak memory against transformers with hooks (peer.py), and
           the share of what the matrix products of a step allow
  growth   time and memory of a step by the rows' length and by the model's size

Without a PART: both. Each writes OUT/PART.json; OUT/training.md is made of all that are there.
The ragged shape is the demo's data; JOLA_BENCH_ROWS names another file of prompts and
completions. Runs take turns, ratios are taken within a round.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import TARGET, last_json, machine, quartiles, run_parts

HERE = Path(__file__).parent
TRAIN = TARGET / "release/jola-train"
CACHE = Path(os.environ.get("JOLA_CACHE", ""))
MODEL = os.environ.get("JOLA_TEST_MODEL", "")
GEMMA = os.environ.get("JOLA_GEMMA_MODEL", "")
PEER_PYTHON, PEER_MODEL = CACHE / "peer/bin/python", CACHE / "peer-model"
RAGGED = Path(os.environ.get("JOLA_BENCH_ROWS", "examples/routing/train.jsonl"))
ROUNDS = 2
BATCH = 8
# Without it torch multiplies bfloat16 number by number: 20 times slower than float32.
FAST_BF16 = any(flag in Path("/proc/cpuinfo").read_text() for flag in ("avx512_bf16", "amx_bf16"))
RESPONSE = 4  # tokens, with the one that ends it
LENGTHS = [64, 128, 256, 512]
STEPS = 16  # a quarter of them with all gates open
PEER_STEPS = 5
# A token each, for tokenizers that begin a word with its space.
WORDS = """the of and to in for is on that by this with you it not or be are from at as your all
have new more an was we will home can us about if page my has search free but our one other do no
information time they site he up may what which their news out use any there see only so his when
contact here business who web also now help get view online first been would how were services
some these click its like service than find price date back top people list name just over state
year day into email two health world next used go work last most products music buy data make them
should product system post her city add policy number such please available copyright support
message after best software then good video well where info rights public books high school
through each links she review years order very book items company read group need many user said
does set under general research university mail full map reviews program life know games way days
management part could great united hotel real item international center""".split()


def fixed_rows(path, length, count=4 * BATCH):
    """Rows of `length` tokens that begin differently, the last RESPONSE of them the response."""
    rng = random.Random(length)
    with open(path, "w") as file:
        for _ in range(count):
            prompt = " ".join(rng.choice(WORDS) for _ in range(length - RESPONSE))
            response = "".join(" " + rng.choice(WORDS) for _ in range(RESPONSE - 1))
            file.write(json.dumps({"prompt": prompt, "completion": response}) + "\n")
    return path


def measured(command):
    """What a command printed, and its peak memory in MiB."""
    command = [str(part) for part in command]
    print("$", " ".join(command), file=sys.stderr, flush=True)
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        if process.returncode != 0:
            stderr.seek(0)
            sys.exit(f"bench: {command[0]} ended with {process.returncode}:\n{stderr.read()}")
        return stdout.read(), used.ru_maxrss / 1024


def ours(rows, dtype, model=None, length=None, more=("--steps", STEPS)):
    """Tokens per second with all gates open and of the whole run; peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        edit = Path(folder) / "edit.gguf"
        command = [TRAIN, "-m", model or MODEL, "--data", rows, "--valid-share", 0, "-o", edit]
        command += ["--dtype", dtype, "--batch-size", BATCH, *more]
        _, memory = measured(command)
        lines = map(json.loads, open(Path(folder) / "edit.run/metrics.jsonl"))
        steps = [line for line in lines if "tokens_per_second" in line]
    for step in steps:
        step["seconds"] = step["tokens"] / step["tokens_per_second"]
        # The last token of a row predicts nothing and is not computed; the peer computes it.
        step["tokens"] += BATCH
    if length and any(step["tokens"] != BATCH * length for step in steps):
        sys.exit(f"bench: the rows do not have {length} tokens each with {model or MODEL}")
    # The first step allocates.
    opened = [step for step in steps if "ungated" in more or step["phase"] == "learn"][1:]
    return {
        "tokens_per_s": speed(opened),
        "whole_run_tokens_per_s": speed(steps[1:]),
        "memory_mib": memory,
    }


def speed(steps):
    return sum(step["tokens"] for step in steps) / sum(step["seconds"] for step in steps)


def peer(rows, dtype):
    command = [PEER_PYTHON, HERE / "peer.py", "train", PEER_MODEL, rows, dtype, PEER_STEPS]
    printed, memory = measured(command)
    found = last_json(printed)
    seconds, tokens = found["seconds"][1:], found["tokens"][1:]
    return {"tokens_per_s": sum(tokens) / sum(seconds), "memory_mib": memory}


def products(tokens):
    """Tokens per second of a step's matrix products alone."""
    command = [PEER_PYTHON, HERE / "peer.py", "products", PEER_MODEL, tokens, BATCH * RESPONSE]
    found = last_json(measured(command)[0])
    best = min(found["seconds"])
    return {"tokens_per_s": tokens / best, "gflop_per_s": found["operations"] / best / 1e9}


def shapes(_out):
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        kinds = {f"8×{length}": fixed_rows(folder / f"{length}.jsonl", length) for length in (64, 128)}
        kinds[f"ragged ({RAGGED.parent.name})"] = RAGGED
        for name, rows in kinds.items():
            length = int(name[2:]) if name.startswith("8×") else None
            rounds = []
            for k in range(ROUNDS):
                runs = {
                    "ours_f32": lambda: ours(rows, "f32", length=length),
                    "peer_f32": lambda: peer(rows, "f32"),
                }
                if FAST_BF16:
                    runs["ours_bf16"] = lambda: ours(rows, "bf16", length=length)
                    runs["peer_bf16"] = lambda: peer(rows, "bf16")
                if length:
                    runs["products"] = lambda: products(BATCH * length)
                order = list(runs) if k % 2 == 0 else list(reversed(runs))
                rounds.append({run: runs[run]() for run in order})
            found[name] = rounds
    return found


def growth(_out):
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in (("SmolLM2 135M", MODEL), ("Gemma 3 270M", GEMMA)):
            if not Path(model).is_file():
                print(f"bench: no {model}: left out", file=sys.stderr)
                continue
            found[name] = {}
            for length in LENGTHS:
                rows = fixed_rows(Path(folder) / f"{length}.jsonl", length)
                more = ["--method", "ungated", "--steps", 4]
                found[name][length] = ours(rows, "f32", model, more=more)
    return found


PARTS = {"shapes": shapes, "growth": growth}


def table(out):
    lines = ["# Training", "", machine(), ""]
    for part in PARTS:
        path = out / f"{part}.json"
        if path.exists():
            lines += globals()[f"{part}_table"](json.loads(path.read_text()))
    (out / "training.md").write_text("\n".join(lines))


def shapes_table(found):
    lines = ["## Against transformers with hooks", ""]
    lines += ["Medians of the rounds; ratios within a round with their quartiles.", ""]
    if not FAST_BF16:
        lines += ["bfloat16 was left out: this CPU has no instructions for it.", ""]
    lines += ["| rows | | tokens/s | peak MiB | ours / this, speed | ours / this, memory |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, rounds in found.items():
        for run in rounds[0]:
            if run == "products":
                continue
            cells = [name, run.replace("_", ", ")]
            for key in ("tokens_per_s", "memory_mib"):
                cells.append(f"{statistics.median(r[run][key] for r in rounds):.0f}")
            for key in ("tokens_per_s", "memory_mib"):
                cells.append(quartiles([r["ours_f32"][key] / r[run][key] for r in rounds]))
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| rows | products alone, tokens/s | GFLOP/s | ours / products | whole run / all gates open |"]
    lines += ["|---|---|---|---|---|"]
    for name, rounds in found.items():
        whole = [r["ours_f32"]["whole_run_tokens_per_s"] / r["ours_f32"]["tokens_per_s"] for r in rounds]
        cells = [name, "", "", ""]
        if "products" in rounds[0]:
            for i, key in enumerate(("tokens_per_s", "gflop_per_s")):
                cells[1 + i] = f"{statistics.median(r['products'][key] for r in rounds):.0f}"
            share = [r["ours_f32"]["tokens_per_s"] / r["products"]["tokens_per_s"] for r in rounds]
            cells[3] = quartiles(share)
        lines.append(f"| {' | '.join(cells)} | {quartiles(whole)} |")
    return lines + [""]


def growth_table(found):
    lines = ["## A step of 8 rows, all gates open, float32", ""]
    lines += ["| model | tokens per row | seconds per step | tokens/s | peak MiB |", "|---|---|---|---|---|"]
    for name, lengths in found.items():
        for length, run in lengths.items():
            rate = run["tokens_per_s"]
            seconds = BATCH * int(length) / rate
            lines.append(f"| {name} | {length} | {seconds:.2f} | {rate:.0f} | {run['memory_mib']:.0f} |")
    return lines + [""]


if __name__ == "__main__":
    needed = [TRAIN, MODEL, PEER_PYTHON, PEER_MODEL / "config.json"]
    run_parts(__doc__, PARTS, needed, table, "bench-training")
