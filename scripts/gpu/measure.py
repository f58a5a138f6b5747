#!/usr/bin/env python3
"""Makes the checks and writes OUT/table.md and OUT/results.json. check.sh calls it.

usage: measure.py [CHECK]...

Without a CHECK: all, in the order of `CHECKS`, each within its seconds. One that fails or
takes too long does not keep the others from running.
"""

import importlib.util
import os
import subprocess
import sys

import base_8b
import llama
import trainer
from record import CARD, END, HAS_CARD, LIBTORCH, Limit, Table

# Name, most seconds, function. First what need not be quick, while llama.cpp is compiled on all
# CPUs; then what is timed, the most telling first.
CHECKS = [
    ("environment", 40, trainer.environment),
    ("logits", 60, trainer.logits),
    ("tests", 60, trainer.tests),
    ("resume", 60, trainer.resume),
    ("demo", 120, trainer.demo),
    ("llama.cpp", 240, llama.small),
    ("matrix products", 30, trainer.products),
    ("training", 60, trainer.training),
    ("8B training", 110, base_8b.training),
    ("llama.cpp speed", 60, llama.speed_small),
    ("8B llama.cpp", 80, llama.big),
    ("built-in hook", 40, llama.hook),
    ("training, transformers", 60, trainer.peer),
    ("8B training, transformers", 45, base_8b.peer),
]


def head():
    found = {
        "card": f"{CARD.name}, {CARD.memory_mib:.0f} MiB" if CARD.name else f"none ({CARD.why_not})",
        "driver": CARD.driver or "none",
        "CPUs": os.cpu_count(),
        "libtorch": str(LIBTORCH),
    }
    version = "import torch; print(torch.__version__, torch.version.cuda)"
    for name, command in {
        "torch, CUDA": [sys.executable, "-c", version],
        "nvcc": ["nvcc", "--version"],
        "commit": ["git", "rev-parse", "--short", "HEAD"],
    }.items():
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            lines = done.stdout.strip().splitlines()
            found[name] = lines[-1] if done.returncode == 0 and lines else "not there"
        except (OSError, subprocess.TimeoutExpired):
            found[name] = "not there"
    found["transformers"] = "there" if importlib.util.find_spec("transformers") else "not there"
    return found


def main():
    chosen = sys.argv[1:] or [name for name, _, _ in CHECKS]
    unknown = set(chosen) - {name for name, _, _ in CHECKS}
    if unknown:
        sys.exit(f"measure: no such check: {', '.join(unknown)}\n\n{__doc__}")
    table = Table()
    table.head = head()
    table.write()
    if HAS_CARD and any(name.startswith("8B") for name in chosen):
        base_8b.begin()
    later = [check for check in CHECKS if check[0] in chosen and not table.make(*check)]
    Limit.patience = END
    for check in later:
        table.make(*check)


if __name__ == "__main__":
    main()
