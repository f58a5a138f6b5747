"""What the benchmarks share: running commands, parts by name, ratios as text."""

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", "target"))


def run(*command, **options):
    """Runs a command and returns what it printed; the command is shown."""
    command = [str(part) for part in command]
    print("$", " ".join(command), file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"bench: {command[0]} ended with {done.returncode}")
    return done.stdout


def last_json(text):
    return json.loads(text.strip().splitlines()[-1])


def machine():
    text = run("lscpu")
    find = lambda key: re.search(rf"^{re.escape(key)}:\s*(.*)$", text, re.MULTILINE)
    name, cores = find("Model name"), find("CPU(s)")
    commit = run("git", "rev-parse", "--short", "HEAD").strip()
    return f"{name[1] if name else 'unknown CPU'}, {cores[1]} CPUs, commit {commit}"


def quartiles(values):
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.4f} ({low:.4f} to {high:.4f})"


def run_parts(usage, parts, needed, table, target):
    """Runs the parts that the command line names, each of which makes OUT/PART.json; `table`
    makes the table of all that are there. `make TARGET` provides the `needed` files."""
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(usage)
        return
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(usage)
    out, chosen = Path(sys.argv[1]), sys.argv[2:] or list(parts)
    for part in chosen:
        if part not in parts:
            sys.exit(f"bench: no such part: {part}\n\n{usage}")
    for file in needed:
        if not Path(file).is_file():
            sys.exit(f"bench: {file or 'JOLA_TEST_MODEL'} is missing: run make {target}")
    out.mkdir(parents=True, exist_ok=True)
    for part in chosen:
        found = parts[part](out)
        (out / f"{part}.json").write_text(json.dumps(found, indent=1) + "\n")
        table(out)
