#!/usr/bin/env python3
"""Differences in points, row by row, with their 95 % intervals: what the divergence changes."""

import json
import math
from pathlib import Path

RUNS = Path(__file__).parent.parent
NEW, GENTLE, BESIDE = (f"2026-11-28-{name}" for name in ("divergence", "gentle", "beside-lora"))


def correct(run, file, task, method):
    rows = map(json.loads, (RUNS / run / file).read_text().splitlines())
    return next(r["correct"] for r in rows if (r["task"], r["method"]) == (task, method))


def show(what, one, other):
    rises = [int(a) - int(b) for a, b in zip(one, other, strict=True)]
    mean = sum(rises) / len(rises)
    error = math.sqrt(sum((rise - mean) ** 2 for rise in rises) / (len(rises) - 1) / len(rises))
    print(f"{what}: {100 * mean:+.1f} ± {196 * error:.1f} on {len(rises)} rows")


jola, lora = (correct(NEW, "smollm2.jsonl", "snips7", method) for method in ("jola", "lora"))
jola_before = correct(GENTLE, "results.jsonl", "snips7", "jola")
lora_before = correct(BESIDE, "smollm2.jsonl", "snips7", "lora")
show("snips7, jola with and without", jola, jola_before)
show("snips7, lora with and without", lora, lora_before)
show("snips7, jola and lora, both with", jola, lora)
jola = correct(NEW, "qwen-0.5b.jsonl", "banking77", "jola")
jola_before, lora = (correct(BESIDE, "qwen-0.5b.jsonl", "banking77", m) for m in ("jola", "lora"))
show("banking77, jola with and without", jola, jola_before)
show("banking77, jola with, lora without", jola, lora)
