#!/usr/bin/env python3
"""Measures training against the Python stack, and writes a table and the raw numbers.

usage: research/scripts/bench/training.py OUT [PART]...        (make bench-training calls it)

  shapes   tokens per second and peak memory against transformers with hooks (peer.py), float32
           and bfloat16, and the share of what the matrix products of a step allow
  threads  what one more core brings: two threads, or two processes of one thread each
  growth   time and memory of a step by the rows' length and by the model's size

Without a PART: all. Each writes OUT/PART.json; OUT/training.md is made of all that are there.
The ragged shape is the demo's data; JOLA_BENCH_ROWS names another file of prompts and
completions, or of instructions and answers. Runs take turns, ratios are taken within a round.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from common import TARGET, last_json, machine, quartiles, run_parts
from compare import TEMPLATE, completion

TRAIN = TARGET / "release/jola-train"
CACHE = Path(os.environ.get("JOLA_CACHE", ""))
MODEL = os.environ.get("JOLA_TEST_MODEL", "")
GEMMA = os.environ.get("JOLA_GEMMA_MODEL", "")
QWEN = os.environ.get("JOLA_QWEN_MODEL", "")
PEER_PYTHON = CACHE / "peer/bin/python"
BASES = {"SmolLM2 135M": MODEL, "Qwen2.5-Coder 0.5B": QWEN}
RAGGED = Path(os.environ.get("JOLA_BENCH_ROWS", "examples/routing/train.jsonl"))
ROUNDS = 2
BATCH = 8
# Without it torch multiplies bfloat16 number by number: 20 times slower than float32.
FAST_BF16 = any(flag in Path("/proc/cpuinfo").read_text() for flag in ("avx512_bf16", "amx_bf16"))
DTYPES = ("f32", "bf16") if FAST_BF16 else ("f32",)
RESPONSE = 4  # tokens, with the one that ends it
LENGTHS = [64, 128, 256, 512]
FIXED = {"SmolLM2 135M": (64, 128), "Qwen2.5-Coder 0.5B": (64,)}  # 8×128 takes the larger a minute
STEPS = 5
# With the peer's penalty, and its rate for the gates too, none closes in so few steps; and the peer
# does not look at the unedited model.
ALL_OPEN = ("--steps", STEPS, "--lambda", 1e-4, "--gate-lr", 0.01, "--kl", 0)
CORES = sorted(os.sched_getaffinity(0))[:2]
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


def ragged_rows(path):
    """As many rows of RAGGED, at random, as one run takes: both stacks train on the same text."""
    rows = [json.loads(line) for line in open(RAGGED, encoding="utf-8")]
    with open(path, "w", encoding="utf-8") as file:
        for row in random.Random(0).sample(rows, min(len(rows), STEPS * BATCH)):
            if "prompt" not in row:
                asked = "\n".join(filter(None, (row["instruction"], row.get("input"))))
                row = {"prompt": TEMPLATE.format(asked), "completion": completion(row)}
            row = {key: row[key] for key in ("prompt", "completion")}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


class Running:
    """A command that runs, on the given cores alone if any are given."""

    def __init__(self, command, cores=None):
        self.command = [str(part) for part in command]
        print("$", *self.command, f"(on cores {cores})" * bool(cores), file=sys.stderr, flush=True)
        self.stdout, self.stderr = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        pin = (lambda: os.sched_setaffinity(0, cores)) if cores else None
        streams = {"stdout": self.stdout, "stderr": self.stderr}
        self.process = subprocess.Popen(self.command, preexec_fn=pin, **streams)

    def finish(self):
        """What it printed, and its peak memory in MiB."""
        _, status, used = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        with self.stdout, self.stderr:
            for stream in (self.stdout, self.stderr):
                stream.seek(0)
            if self.process.returncode != 0:
                ended = f"{self.command[0]} ended with {self.process.returncode}"
                sys.exit(f"bench: {ended}:\n{self.stderr.read()}")
            return self.stdout.read(), used.ru_maxrss / 1024


class Ours:
    """A run of jola-train with all gates open."""

    def __init__(self, rows, dtype, model, more=ALL_OPEN, cores=None):
        self.folder = tempfile.TemporaryDirectory()
        edit = Path(self.folder.name) / "edit.gguf"
        command = [TRAIN, "-m", model, "--data", rows, "--valid-share", 0, "-o", edit]
        command += ["--dtype", dtype, "--batch-size", BATCH, "--lr", 0.01, *more]
        self.running = Running(command, cores)

    def finish(self, length=None):
        """Tokens per second and peak memory in MiB."""
        with self.folder as folder:
            _, memory = self.running.finish()
            lines = map(json.loads, open(Path(folder) / "edit.run/metrics.jsonl"))
            steps = [line for line in lines if "tokens_per_second" in line]
        if any(step.get("closed") for step in steps):
            sys.exit("bench: gates closed, so that the run did less than the peer")
        # The trainer times several steps together, the first, which allocates, among them.
        seconds = sum(step["tokens"] / step["tokens_per_second"] for step in steps)
        # The last token of a row predicts nothing and is not computed; the peer computes it.
        tokens = [step["tokens"] + BATCH for step in steps]
        if length and any(count != BATCH * length for count in tokens):
            sys.exit(f"bench: the rows do not have {length} tokens each: {' '.join(self.running.command)}")
        return {"tokens_per_s": sum(tokens) / seconds, "memory_mib": memory}


def peer_model(model):
    return CACHE / "peer-models" / Path(model).stem


def peer(rows, dtype, model):
    command = [PEER_PYTHON, HERE / "peer.py", "train", peer_model(model), rows, dtype, STEPS]
    printed, memory = Running(command).finish()
    found = last_json(printed)
    # The first step allocates, and reads the weights from the mapped file.
    rate = sum(found["tokens"][1:]) / sum(found["seconds"][1:])
    return {"tokens_per_s": rate, "memory_mib": memory, "imported_mib": found["imported_mib"]}


def products(tokens, dtype, model):
    """Tokens per second of a step's matrix products alone."""
    command = [PEER_PYTHON, HERE / "peer.py", "products", peer_model(model), dtype]
    found = last_json(Running([*command, tokens, BATCH * RESPONSE]).finish()[0])
    best = min(found["seconds"])
    return {"tokens_per_s": tokens / best, "gflop_per_s": found["operations"] / best / 1e9}


def in_turns(runs):
    """What each of the named runs found, in each round; every other round goes backwards."""
    rounds = []
    for k in range(ROUNDS):
        order = list(runs) if k % 2 == 0 else list(reversed(runs))
        found = {name: runs[name]() for name in order}
        rounds.append({name: found[name] for name in runs})
    return rounds


def ragged_name():
    return f"ragged ({RAGGED.stem if RAGGED.stem != 'train' else RAGGED.parent.name})"


def shapes(_out):
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        ragged = ragged_rows(folder / "ragged.jsonl")
        for base, model in BASES.items():
            kinds = {f"8×{length}": length for length in FIXED[base]} | {ragged_name(): None}
            found[base] = {}
            for name, length in kinds.items():
                rows = fixed_rows(folder / f"{length}.jsonl", length) if length else ragged
                found[base][name] = in_turns(shape(rows, length, model))
    return found


def shape(rows, length, model):
    """The runs that measure one shape of one base."""
    runs = {}
    for dtype in DTYPES:
        runs[f"ours_{dtype}"] = lambda dtype=dtype: Ours(rows, dtype, model).finish(length)
        runs[f"peer_{dtype}"] = lambda dtype=dtype: peer(rows, dtype, model)
        if length:
            tokens = BATCH * length
            runs[f"products_{dtype}"] = lambda dtype=dtype: products(tokens, dtype, model)
    return runs


def threads(_out):
    if len(CORES) < 2:
        sys.exit("bench: the part threads needs two cores")
    with tempfile.TemporaryDirectory() as folder:
        rows = ragged_rows(Path(folder) / "ragged.jsonl")

        def together(dtype, model, count, cores):
            """Tokens per second of as many processes as there are sets of cores, all at once."""
            more = (*ALL_OPEN, "--threads", count)
            running = [Ours(rows, dtype, model, more, on) for on in cores]
            return sum(run.finish()["tokens_per_s"] for run in running)

        ways = {"one": (1, [CORES[:1]]), "two_threads": (2, [CORES])}
        ways["two_processes"] = (1, [CORES[:1], CORES[1:]])
        found = {}
        for base, model in BASES.items():
            found[base] = {}
            for dtype in DTYPES:
                call = lambda way: lambda: together(dtype, model, *way)
                found[base][dtype] = in_turns({name: call(way) for name, way in ways.items()})
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
                found[name][length] = Ours(rows, "f32", model, more).finish()
    return found


PARTS = {"shapes": shapes, "threads": threads, "growth": growth}


def table(out):
    lines = ["# Training", "", machine(), ""]
    for part in PARTS:
        path = out / f"{part}.json"
        if path.exists():
            lines += globals()[f"{part}_table"](json.loads(path.read_text()))
    (out / "training.md").write_text("\n".join(lines))


def middle(rounds, run, key):
    return f"{statistics.median(r[run][key] for r in rounds):.0f}"


def ratios(rounds, run, other, key):
    return quartiles([r[run][key] / r[other][key] for r in rounds])


def line(*cells):
    return f"| {' | '.join(cells)} |"


def shapes_table(found):
    lines = ["## Against transformers with hooks", ""]
    lines += ["All gates open; medians of the rounds; ratios within a round with their quartiles.", ""]
    if not FAST_BF16:
        lines += ["bfloat16 was left out: this CPU has no instructions for it.", ""]
    lines += ["| base | rows | dtype | tokens/s | peer's | ours / peer's | peak MiB | peer's | ours / peer's |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    measured = [(base, name, rounds) for base, kinds in found.items() for name, rounds in kinds.items()]
    for base, name, rounds in measured:
        for dtype in DTYPES:
            cells, pair = [base, name, dtype], (f"ours_{dtype}", f"peer_{dtype}")
            for key in ("tokens_per_s", "memory_mib"):
                cells += [middle(rounds, run, key) for run in pair] + [ratios(rounds, *pair, key)]
            lines.append(line(*cells))
    imported = [r[f"peer_{dtype}"]["imported_mib"] for *_, rounds in measured for r in rounds for dtype in DTYPES]
    lines += ["", f"Of the peer's memory {statistics.median(imported):.0f} MiB are there before it reads the model.", ""]
    lines += ["| base | rows | dtype | products alone, tokens/s | GFLOP/s | ours / products |"]
    lines += ["|---|---|---|---|---|---|"]
    for base, name, rounds in measured:
        for dtype in DTYPES:
            run = f"products_{dtype}"
            if run in rounds[0]:
                cells = [middle(rounds, run, key) for key in ("tokens_per_s", "gflop_per_s")]
                cells.append(ratios(rounds, f"ours_{dtype}", run, "tokens_per_s"))
                lines.append(line(base, name, dtype, *cells))
    return lines + [""]


def threads_table(found):
    lines = [f"## What one more core brings, {ragged_name()} rows, tokens/s", ""]
    lines += ["| base | dtype | one thread | two threads | / one | two processes of one | / one |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for base, dtypes in found.items():
        for dtype, rounds in dtypes.items():
            cells = [f"{statistics.median(r['one'] for r in rounds):.0f}"]
            for way in ("two_threads", "two_processes"):
                cells.append(f"{statistics.median(r[way] for r in rounds):.0f}")
                cells.append(quartiles([r[way] / r["one"] for r in rounds]))
            lines.append(line(base, dtype, *cells))
    return lines + [""]


def growth_table(found):
    lines = ["## A step of 8 rows, all gates open, float32", ""]
    lines += ["| model | tokens per row | seconds per step | tokens/s | peak MiB |", "|---|---|---|---|---|"]
    for name, lengths in found.items():
        for length, run in lengths.items():
            rate = run["tokens_per_s"]
            seconds = BATCH * int(length) / rate
            lines.append(line(name, length, f"{seconds:.2f}", f"{rate:.0f}", f"{run['memory_mib']:.0f}"))
    return lines + [""]


if __name__ == "__main__":
    folders = [peer_model(model) / dtype for model in BASES.values() for dtype in DTYPES]
    needed = [TRAIN, *BASES.values(), PEER_PYTHON, *(folder / "config.json" for folder in folders)]
    run_parts(__doc__, PARTS, needed, table, "bench-training")
