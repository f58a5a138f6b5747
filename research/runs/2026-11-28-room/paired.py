#!/usr/bin/env python3
"""Differences in points, row by row, with their 95 % intervals: a dense edit that is trained on."""

import json
import math
from pathlib import Path

RUNS = Path(__file__).parent.parent


def correct(file, **wanted):
    rows = map(json.loads, (RUNS / file).read_text().splitlines())
    return next(r["correct"] for r in rows if all(r[key] == wanted[key] for key in wanted))


def show(what, one, other):
    rises = [int(a) - int(b) for a, b in zip(one, other, strict=True)]
    mean = sum(rises) / len(rises)
    error = math.sqrt(sum((rise - mean) ** 2 for rise in rises) / (len(rises) - 1) / len(rises))
    print(f"{what}: {100 * mean:+.1f} ± {196 * error:.1f} on {len(rises)} rows")


own = Path(__file__).parent.name
further = correct(f"{own}/smollm2.jsonl", method="jola")
show("SmolLM2-135M", further, correct(f"{own}/stages.jsonl", base="SmolLM2-135M"))
further = correct(f"{own}/stages.jsonl", base="Qwen 0.5B")
show("Qwen 0.5B", further, correct("2026-11-28-divergence/qwen-0.5b.jsonl", method="jola"))
lora = correct("2026-11-28-beside-lora/qwen-0.5b.jsonl", method="lora")
show("Qwen 0.5B, beside LoRA without the divergence", further, lora)
