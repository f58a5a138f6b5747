#!/usr/bin/env python3
"""Measures what edits cost at inference, and writes a table and the raw numbers.

usage: research/scripts/bench/inference.py OUT [PART]...        (make bench calls it)

  routes-1      edits in all layers, the eval callback, LoRAs of rank 8; one sequence
  routes-8      the same with eight sequences at once
  stock         the unedited engine against llama-bench, in turns
  instructions  instructions inside llama_decode, counted by valgrind: without and with
                edits, and those of llama-bench
  kernels       criterion: sidecar files, gates

Without a PART: all. Each writes OUT/PART.json; OUT/inference.md is made of all that are
there. What must be built and set up: see the target `bench` in the Makefile.
"""

import json
import os
import re
import statistics
import subprocess
from pathlib import Path

from common import TARGET, last_json, machine, quartiles, run, run_parts

ENGINE = TARGET / "release/llama-jola"
MODEL = os.environ.get("JOLA_TEST_MODEL", "")
LLAMA_BENCH = os.environ.get("LLAMA_BENCH") or (
    Path(os.environ.get("JOLA_CACHE", ""))
    / "hosts/python/build/bin/llama-bench"
)
# llama-bench's own defaults.
STOCK = {"prefill": 512, "decode": 128}
STOCK_ROUNDS = 5
PROMPT = "The ferry to the island leaves at seven unless the fog is thick. " * 2
DECODED = 8  # tokens whose decoding is counted


def engine_bench(out, parallel, prompt, tokens, pairs, *more):
    edit = out / "every-head.gguf"
    command = [ENGINE, "bench", "-m", MODEL, "--every-head", edit, "-np", parallel]
    command += ["-p", prompt, "-n", tokens, "-r", pairs, *more, "--json"]
    found = last_json(run(*command))
    edit.unlink()
    shown = [Path(MODEL).name if part == MODEL else str(part) for part in command]
    return {"command": " ".join(shown), **found}


def routes(out, parallel, prompt, tokens):
    rivals = ["--eval-callback", "--lora-rank", 8]
    return engine_bench(out, parallel, prompt, tokens, 15, *rivals)


def stock(out):
    """Rounds of llama-bench and our engine, in turning order; ratios within a round."""
    rounds = []
    for k in range(STOCK_ROUNDS):
        speeds = {}
        measure = [lambda: stock_speeds(speeds), lambda: engine_speeds(out, speeds)]
        for which in measure if k % 2 == 0 else reversed(measure):
            which()
        rounds.append(speeds)
    version = run(LLAMA_BENCH, "-m", MODEL, "-p", 1, "-n", 0, "-r", 1, "-o", "json")
    return {"llama_bench": json.loads(version)[0], "rounds": rounds}


def stock_speeds(speeds):
    for what, option in (("prefill", "-p"), ("decode", "-n")):
        other = {"-p": "-n", "-n": "-p"}[option]
        command = [LLAMA_BENCH, "-m", MODEL, option, STOCK[what], other, 0, "-r", 3, "-o", "json"]
        found = json.loads(run(*command, stderr=subprocess.DEVNULL))[0]
        speeds[f"llama_bench_{what}"] = statistics.median(found["samples_ts"])


def engine_speeds(out, speeds):
    # llama-bench decodes from an empty context.
    for what, prompt, tokens in (("prefill", STOCK["prefill"], 1), ("decode", 1, STOCK["decode"])):
        found = engine_bench(out, 1, prompt, tokens, 3)
        speeds[f"engine_{what}"] = found["routes"][0][what]["unedited_tokens_per_s"]


def instructions(out):
    edit = out / "every-head.gguf"
    run(ENGINE, "bench", "-m", MODEL, "--every-head", edit, "-p", 1, "-n", 1, "-r", 1)
    # The scale is small so that both say the same; the graph is the same for any scale.
    edited = ["--jola-scaled", f"{edit}:0.001"]
    found = {}
    for name, edits in (("unedited", []), ("edited", edited)):
        engine = lambda tokens: engine_instructions(out, PROMPT, tokens, edits)
        prefill, decode = engine(1), engine(1 + DECODED)
        found[name] = {"prefill": prefill, "decode_per_token": (decode - prefill) / DECODED}
    edit.unlink()
    # Both decode from an empty context.
    for name, count in (
        ("engine", lambda tokens: engine_instructions(out, "The", tokens, [])),
        ("llama_bench", lambda tokens: stock_instructions(out, tokens)),
    ):
        decode = count(1 + DECODED) - count(1)
        found[name] = {"decode_per_token": decode / DECODED}
    return found


def engine_instructions(out, prompt, tokens, edits):
    command = [ENGINE, "run", "-m", MODEL, "-t", 1, "-p", prompt, "-n", tokens]
    return counted_instructions(out, [*command, "--temp", 0, "-c", 512, *edits])


def stock_instructions(out, tokens):
    command = [LLAMA_BENCH, "-m", MODEL, "-t", 1, "-p", 0, "-n", tokens, "-r", 1]
    return counted_instructions(out, [*command, "--no-warmup"])


def counted_instructions(out, command):
    """Instructions inside llama_decode, or llama_process, which llama-bench 0.5.0 calls."""
    log = out / "callgrind.out"
    toggles = [f"--toggle-collect={name}" for name in ("llama_decode", "llama_process")]
    run("valgrind", "--tool=callgrind", f"--callgrind-out-file={log}", *toggles, *command)
    total = re.search(r"^(?:summary|totals): (\d+)", log.read_text(), re.MULTILINE)
    log.unlink()
    return int(total[1])


def kernels(_out):
    for package, bench in (("jola-edit", "sidecar"), ("jola-trainer", "gates")):
        run("cargo", "bench", "--profile", "release", "--locked", "-p", package, "--bench", bench)
    found = {}
    for path in sorted((TARGET / "criterion").rglob("new/estimates.json")):
        name = "/".join(path.relative_to(TARGET / "criterion").parts[:-2])
        median = json.loads(path.read_text())["median"]
        interval = median["confidence_interval"]
        found[name] = {
            "median_us": median["point_estimate"] / 1e3,
            "ci95_us": [interval["lower_bound"] / 1e3, interval["upper_bound"] / 1e3],
        }
    return found


PARTS = {
    "routes-1": lambda out: routes(out, 1, 256, 64),
    "routes-8": lambda out: routes(out, 8, 64, 32),
    "stock": stock,
    "instructions": instructions,
    "kernels": kernels,
}


def table(out):
    lines = ["# Inference", "", machine(), ""]
    found = {part: read(out, part) for part in PARTS}
    lines += routes_table([found["routes-1"], found["routes-8"]])
    if found["stock"]:
        lines += ["## The unedited engine against llama-bench", ""]
        lines += ["| | engine / llama-bench, median speed ratio (quartiles) |", "|---|---|"]
        for what, tokens in STOCK.items():
            rounds = found["stock"]["rounds"]
            ratios = [r[f"engine_{what}"] / r[f"llama_bench_{what}"] for r in rounds]
            lines.append(f"| {what} {tokens} | {quartiles(ratios)} |")
        lines.append("")
    if found["instructions"]:
        counted = found["instructions"]
        lines += ["## Instructions inside llama_decode, one thread", ""]
        lines += ["| | | | ratio |", "|---|---|---|---|"]
        for what in counted["unedited"]:
            lines.append(instructions_row(counted, what, "edited", "unedited"))
        lines.append(instructions_row(counted, "decode_per_token", "engine", "llama_bench"))
        lines.append("")
    if found["kernels"]:
        lines += ["## Small kernels (criterion, one thread)", ""]
        lines += ["| | median, µs | 95 % interval |", "|---|---|---|"]
        for name, kernel in found["kernels"].items():
            low, high = kernel["ci95_us"]
            lines.append(f"| {name} | {kernel['median_us']:.1f} | {low:.1f} to {high:.1f} |")
        lines.append("")
    (out / "inference.md").write_text("\n".join(lines))


def instructions_row(counted, what, one, other):
    a, b = counted[one][what], counted[other][what]
    cells = [what, f"{one} {a:.5g}", f"{other} {b:.5g}"]
    return f"| {' | '.join(cells)} | {a / b:.5f} |".replace("_", " ")


def routes_table(runs):
    lines = ["## Routes against the unedited model", ""]
    head = "| sequences | route | prefill, time ratio (quartiles) | decode, time ratio (quartiles) |"
    lines += [head, "|---|---|---|---|"]
    for found in filter(None, runs):
        for route in found["routes"]:
            cells = [found["parallel"], route["route"]]
            for what in ("prefill", "decode"):
                low, high = route[what]["quartiles"]
                ratio = route[what]["time_ratio"]
                cells.append(f"{ratio:.4f} ({low:.4f} to {high:.4f})")
            lines.append(f"| {' | '.join(map(str, cells))} |")
        load = found["load"]
        lines.append(
            f"| {found['parallel']} | every head's sidecar: read {load['read_ms']:.2f} ms, "
            f"attached {load['attach_ms']:.2f} ms | | |"
        )
    return lines + [""]


def read(out, part):
    path = out / f"{part}.json"
    return json.loads(path.read_text()) if path.exists() else None


if __name__ == "__main__":
    run_parts(__doc__, PARTS, [ENGINE, MODEL, LLAMA_BENCH], table, "bench")
