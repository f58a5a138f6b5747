#!/usr/bin/env python3
"""Methods x tasks x seeds: which way of adapting the base model does best?

    research/scripts/compare.py run   DATA OUT -m BASE.gguf [--tasks a,b] [--methods c,d] [--seeds 3]
    research/scripts/compare.py table OUT
    research/scripts/compare.py agree OUT -m BASE.gguf

DATA holds a folder for each task with train.jsonl and test.jsonl. Of train.jsonl, `--rows`
rows drawn by the seed are trained on and `--valid` others validate; test rows are drawn once.
All methods run at the trainer's default settings, and the trainer finds each run's learning
rate. `--rates lora=1e-3,2e-3` tries a method at these rates instead on the first seed; the one
that does best on the validation rows serves the other seeds too: most rows exact, then the
lowest loss. With `--tuned-on TASK` the rates are tried on that task only, and its best serves
all tasks.

Test rows are answered by llama-jola. With `--scored-by trainer` they are jola-train's own test rows
instead, in libtorch on its device: a row counts whose every answer token is the likeliest (of
e2e_nlg the loss of a token is taken), and the result holds what each stage of the path and the
unedited model do on them. `--jobs` runs are trained at a time.

Where the trainer refuses what it learned as no better than the unedited model, the edit that
it left in the run directory is scored, and its result has `"refused": true`.

A run that was interrupted goes on where it stopped: what is in OUT/results.jsonl is not run
again. `table` writes OUT/table.md from it: mean scores, and by how much jola is ahead of
every other method on the same test rows, with an interval of 95 % (of what test rows were drawn;
how much runs differ is told by the seeds). `agree` takes the adapters that are still there,
counts in llama.cpp how many of their validation rows they answer exactly, and writes that
beside what the trainer counted in libtorch to OUT/agree.md. Only the standard library is
needed.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paired

# Methods that the trainer knows.
TRAINED = ["jola", "additive", "multiplicative", "shared-gate", "ungated", "lofit", "lora"]
# Methods that train nothing.
PROMPTS = ["zero-shot", "few-shot"]
SHOTS = 8
# All, in the order of the table.
METHODS = [*PROMPTS, *TRAINED]
# In a result: the trainer found the learning rate.
AUTO = "auto"
# How jola-train ends when what it learned is no better than the unedited model.
NO_BETTER = 3
# How a task is scored and the answer's length in tokens. `match` is the paper's way: the
# first of the allowed answers that the model names counts.
CLASSES = ("match", 24)
METRICS = {"e2e_nlg": ("bleu", 96)}

# As in the library (src/data.rs): only the few-shot prompts are put together here.
TEMPLATE = (
    "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request.\n ### Instruction:\n{}\n\n### Response:\n"
)


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [line for line in file if line.strip()]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(rows), encoding="utf-8")
    return path


def completion(row):
    return row.get("answer") or row["output"]


def few_shot(test, train):
    """Test rows whose prompts begin with solved training rows."""
    shots = [json.loads(line) for line in train[:SHOTS]]
    intro = "".join(TEMPLATE.format(s["instruction"]) + completion(s) + "\n\n" for s in shots)
    for line in test:
        row = json.loads(line)
        prompt = intro + TEMPLATE.format(row["instruction"])
        shot = {"prompt": prompt, "completion": completion(row)}
        if "references" in row:
            shot["references"] = row["references"]
        yield json.dumps(shot, ensure_ascii=False) + "\n"


def validation_file(out, key):
    return out / "data" / key["task"] / f"valid-{key['rows']}-{key['seed']}.jsonl"


def adapter_file(out, key, rate):
    name = f"{key['task']}-{key['method']}-{key['rows']}-{key['seed']}-{rate}.gguf"
    return out / "adapters" / name


def test_rows(args, task):
    """The file with a task's test rows, drawn once for all seeds."""
    rows = lines(args.data / task / "test.jsonl")
    random.Random(0).shuffle(rows)
    return write(args.out / "data" / task / "test.jsonl", rows[: args.test])


class Data:
    """The rows of one task and seed, as files."""

    def __init__(self, args, task, seed):
        rows = lines(args.data / task / "train.jsonl")
        random.Random(seed).shuffle(rows)
        needed = args.rows + args.valid
        if len(rows) < needed:
            sys.exit(f"compare: {task} has {len(rows)} rows, of {needed} to train on and validate with")
        train = rows[: args.rows]
        stem = args.out / "data" / task
        self.train = write(stem / f"train-{args.rows}-{seed}.jsonl", train)
        key = {"task": task, "rows": args.rows, "seed": seed}
        self.valid = write(validation_file(args.out, key), rows[args.rows : needed])
        self.test = test_rows(args, task)
        self.few_shot = write(stem / f"few-shot-{seed}.jsonl", few_shot(lines(self.test), train))


def command(args, name, *words, accepted=(0,)):
    """Runs one of our programs, which has to end with an accepted status."""
    words = [str(args.bin / name), *map(str, words)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode not in accepted:
        sys.exit(f"compare: {' '.join(words)}\nended with {done.returncode}:\n{done.stderr}")
    return done


def last_json(done):
    return json.loads(done.stdout.strip().splitlines()[-1])


def applied(method, adapter):
    return ["--lora" if method == "lora" else "--jola", adapter]


def evaluate(args, data, metric, length, adapter, more=()):
    words = ["eval", "-m", args.model, "-d", data, "--metric", metric, "-n", length, "--json"]
    return last_json(command(args, "llama-jola", *words, *adapter, *more))


def correct_rows(predictions):
    """Which rows were answered right, as a text of one 0 or 1 a row; nothing for other metrics."""
    rows = [json.loads(line) for line in lines(predictions)]
    if any("correct" not in row for row in rows):
        return {}
    return {"correct": "".join(str(int(row["correct"])) for row in rows)}


# Adapters are scored one by one: all at once (`--each`) takes as long but for loading the model,
# and a result would have to wait, not written down, until other methods are trained.
def score(args, task, data, adapter):
    metric, length = METRICS.get(task, CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        predictions = Path(folder) / "predictions.jsonl"
        more = ["--predictions", predictions]
        report = evaluate(args, data, metric, length, adapter, more)
        rows = correct_rows(predictions)
    value = report["score"] * 100 if "accuracy" in report else report["score"]
    return {"metric": metric, "score": value, "n": report["n"], **rows}


def scored_by_trainer(task, output):
    """What jola-train measured on its test rows."""
    folder = output.with_suffix(".run")
    # A line for the unedited model, then one for each stage.
    table = [line.split("|")[2:6] for line in lines(folder / "test.md")[2:]]
    numbers = lambda cells: [float(cell.strip(" %")) if cell.strip() else None for cell in cells]
    stages = [dict(zip(("loss", "exact", "choice"), numbers(line[:3]))) for line in table]
    [own] = [index for index, line in enumerate(table) if line[3].strip() == "chosen"]
    rows = [json.loads(line) for line in lines(folder / "test.jsonl")]
    bits = lambda name: "".join(str(int(row[name][own])) for row in rows)
    scored = {"n": len(rows), "stages": stages, "written": own}
    if "chosen" in rows[0]:
        scored["right"] = bits("chosen")
    if task in METRICS:
        return {"metric": "loss", "score": stages[own]["loss"], **scored}
    return {"metric": "exact", "score": stages[own]["exact"], "correct": bits("exact"), **scored}


def train(args, method, rate, data, seed, output):
    words = ["-m", args.model, "--data", data.train, "--valid", data.valid, "-o", output]
    words += ["--method", method, "--seed", seed]
    if rate != AUTO:
        words += ["--lr", rate]
    if args.scored_by == "trainer":
        words += ["--test", data.test]
    # A run that was interrupted with this script goes on where it stopped: its seconds count
    # from there.
    words += ["--resume", *args.train]
    start = time.monotonic()
    done = command(args, "jola-train", *words, accepted=(0, NO_BETTER))
    trained = {"train_seconds": time.monotonic() - start}
    if done.returncode == NO_BETTER:
        trained["refused"] = True
    return {**validated(done.stderr), **trained}


# What jola-train logs of the validation of what it wrote, or of what it refused.
VALIDATED = re.compile(
    r"(?:kept the best: validation |than with what was learned \()"
    r"loss ([0-9.]+), ([0-9.]+) % of rows exact"
)


def validated(log):
    found = VALIDATED.search(log)
    if not found:
        sys.exit(f"compare: no validation in the log of jola-train:\n{log}")
    return {"valid_loss": float(found[1]), "valid_exact": float(found[2])}


def result_file(output, row):
    """What a run made: it leaves a result that it refuses in its run directory."""
    return output.with_suffix(".run") / "refused.gguf" if row.get("refused") else output


def described(args, method, output):
    """Size of what was learned."""
    about = {"bytes": output.stat().st_size}
    if method != "lora":
        seen = last_json(command(args, "llama-jola", "inspect", output, "--json"))
        about |= {key: seen[key] for key in ("heads_edited", "heads_total", "values")}
    return about


class Results:
    """What was measured so far, one JSON object a line."""

    def __init__(self, path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = [json.loads(line) for line in lines(path)] if path.exists() else []
        self.lock = threading.Lock()

    def find(self, **key):
        return [r for r in self.rows if all(r.get(k) == v for k, v in key.items())]

    def names(self, key):
        return list(dict.fromkeys(row[key] for row in self.rows))

    def methods(self):
        return [method for method in METHODS if self.find(method=method)]

    def add(self, row):
        with self.lock, open(self.path, "a", encoding="utf-8") as file:
            self.rows.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(json.dumps(row), flush=True)


def run_prompt(args, results, key, data):
    if results.find(**key) or (key["method"] == "zero-shot" and key["seed"] != 0):
        return  # without training rows there is nothing for the seed to draw
    test = data.test if key["method"] == "zero-shot" else data.few_shot
    results.add({**key, **score(args, key["task"], test, [])})


def rank(row):
    """The best run on the validation rows comes first, by rows
    exact, where they are a twentieth or more, then by the loss. Runs of before this was noted
    have their loss alone, and prompts nothing."""
    exact = row.get("valid_exact", 0)
    return -exact if exact >= 5 else 0, row.get("valid_loss", 0)


def best_rate(results, task, method, rates):
    """The one of the rates that did best on the task's first seed."""
    first = results.find(task=task, method=method, seed=0)
    tried = [row for row in first if row["lr"] in rates]
    if not tried:
        sys.exit(f"compare: {method} was not yet tried on {task}: run that first")
    return min(tried, key=rank)["lr"]


def run_method(args, results, key, data):
    """Trains and scores one method on one task and seed; on the first seed at every rate."""
    method, seed = key["method"], key["seed"]
    rates = args.rates.get(method, [AUTO])
    tuned_on = args.tuned_on or key["task"]
    if len(rates) > 1 and (seed != 0 or key["task"] != tuned_on):
        rates = [best_rate(results, tuned_on, method, rates)]
    for rate in rates:
        if results.find(**key, lr=rate):
            continue
        output = adapter_file(args.out, key, rate)
        output.parent.mkdir(parents=True, exist_ok=True)
        trained = train(args, method, rate, data, seed, output)
        made = result_file(output, trained)
        if args.scored_by == "trainer":
            scored = scored_by_trainer(key["task"], output)
        else:
            scored = score(args, key["task"], data.test, applied(method, made))
        results.add({**key, "lr": rate, **trained, **scored, **described(args, method, made)})


def run(args):
    results = Results(args.out / "results.jsonl")
    with ThreadPoolExecutor(args.jobs) as pool:
        begun = []
        for seed in range(args.seeds):
            for task in args.tasks:
                data = Data(args, task, seed)
                for method in args.methods:
                    key = {"task": task, "method": method, "rows": args.rows, "seed": seed}
                    job = run_prompt if method in PROMPTS else run_method
                    begun.append(pool.submit(job, args, results, key, data))
    # One that failed ends the script when all others are done.
    for job in begun:
        job.result()
    table(args)


def table_line(cells):
    return "| " + " | ".join(cells) + " |"


def table_head(names):
    return [table_line(names), "|---" * len(names) + "|"]


def agree(args):
    text = table_head(["adapter", "rows", "libtorch", "llama.cpp", "difference"])
    differences = []
    for row in Results(args.out / "results.jsonl").rows:
        # Runs of before the trainer logged exact rows lack them, as prompts do.
        if "valid_exact" not in row or row["task"] in METRICS:
            continue
        adapter = result_file(adapter_file(args.out, row, row["lr"]), row)
        if not adapter.exists():
            continue
        own = row["valid_exact"]
        valid = validation_file(args.out, row)
        report = evaluate(args, valid, "exact", CLASSES[1], applied(row["method"], adapter))
        served = report["score"] * 100
        differences.append(served - own)
        name = adapter_file(args.out, row, row["lr"]).stem
        cells = [name, f"{report['n']}", f"{own:.1f}", f"{served:.1f}", f"{served - own:+.1f}"]
        text.append(table_line(cells))
        print(text[-1], flush=True)
    if not differences:
        sys.exit(f"compare: no adapters in {args.out / 'adapters'}: run `compare.py run` first")
    text.append("")
    text.append(f"{len(differences)} adapters; mean difference {statistics.mean(differences):+.2f} points")
    (args.out / "agree.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    print(text[-1])


def chosen(results, task, method, rows):
    """The runs that count: on the first seed only the best on the validation rows."""
    found = results.find(task=task, method=method, rows=rows)
    first = [row for row in found if row["seed"] == 0]
    best = min(first, key=rank, default=None)
    others = [row for row in found if row["seed"] != 0]
    return ([best] if best else []) + others


def cell(values):
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def difference(results, task, rows, one, other):
    """By how many points `one` is ahead of `other` on the same test rows, averaged over the seeds
    that both have, and half of the interval of 95 %; nothing where they have none."""
    by_seed = lambda method: {
        row["seed"]: paired.counts(row)
        for row in chosen(results, task, method, rows)
        if "correct" in row
    }
    ours, theirs = by_seed(one), by_seed(other)
    if other == "zero-shot" and theirs:
        theirs = dict.fromkeys(ours, theirs[0])
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        return None
    return paired.difference([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])


def ahead(results, tasks, rows, one="jola"):
    """A table of what the first method is ahead of all others; nothing where there is no other."""
    text = []
    for other in results.methods():
        if other == one:
            continue
        found = [difference(results, task, rows, one, other) for task in tasks]
        cells = ["–" if d is None else f"{d[0]:+.1f} ± {d[1]:.1f}" for d in found]
        if any(found):
            text.append(table_line([f"`{other}`", *cells]))
    if not text:
        return []
    title = f"`{one}` is ahead by, in points, with an interval of 95 %:\n"
    return [title, *table_head(["of", *tasks]), *text]


def table(args):
    results = Results(args.out / "results.jsonl")
    text = []
    for rows in sorted(results.names("rows")):
        tasks = [task for task in results.names("task") if results.find(task=task, rows=rows)]
        text.append(f"{rows} training rows; mean ± standard deviation over seeds\n")
        text += table_head(["method", *tasks, "mean", "bytes", "heads edited", "numbers", "seconds"])
        for method in results.methods():
            if not results.find(method=method, rows=rows):
                continue
            runs = {task: chosen(results, task, method, rows) for task in tasks}
            scores = {task: [row["score"] for row in runs[task]] for task in tasks}
            means = [statistics.mean(values) for values in scores.values() if values]
            whole = f"{statistics.mean(means):.1f}" if len(means) == len(tasks) else "–"
            every = [row for task in tasks for row in runs[task]]

            def mean(key):
                values = [row[key] for row in every if key in row]
                return f"{statistics.mean(values):.0f}" if values else "–"

            cells = [cell(scores[task]) for task in tasks]
            extra = [mean(key) for key in ("bytes", "heads_edited", "values", "train_seconds")]
            text.append(table_line([method, *cells, whole, *extra]))
        text += ["", *ahead(results, tasks, rows), ""]
    (args.out / "table.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


def method_rates(text):
    """`lora=1e-3,2e-3`"""
    method, rates = text.split("=")
    return method, [float(rate) for rate in rates.split(",")]


def main():
    split = lambda text: text.split(",")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    scoring = argparse.ArgumentParser(add_help=False)
    scoring.add_argument("-m", "--model", type=Path, required=True)
    scoring.add_argument("--bin", type=Path, default=Path("target/release"))
    work = "train and score what is missing, then the table"
    runs = commands.add_parser("run", help=work, parents=[scoring])
    runs.add_argument("data", type=Path)
    runs.add_argument("out", type=Path)
    runs.add_argument("--tasks", type=split, required=True)
    runs.add_argument("--methods", type=split, default=METHODS)
    runs.add_argument("--seeds", type=int, default=3)
    runs.add_argument("--rows", type=int, default=200, help="training rows")
    runs.add_argument("--valid", type=int, default=100, help="validation rows")
    runs.add_argument("--test", type=int, default=500, help="test rows")
    runs.add_argument("--tuned-on", help="the task on which --rates are tried for all")
    runs.add_argument("--rates", type=method_rates, nargs="+", default=[], help="method=rate,rate: learning rates to try instead of finding them")
    runs.add_argument("--scored-by", choices=["llama-jola", "trainer"], default="llama-jola")
    runs.add_argument("--jobs", type=int, default=1, help="runs at a time")
    runs.add_argument("--train", type=str.split, default=[], help="more options for jola-train")
    shown = commands.add_parser("table", help="only the table")
    shown.add_argument("out", type=Path)
    work = "exact answers in libtorch and in llama.cpp"
    agreeing = commands.add_parser("agree", help=work, parents=[scoring])
    agreeing.add_argument("out", type=Path)
    args = parser.parse_args()
    args.rates = dict(getattr(args, "rates", []))
    unknown = set(getattr(args, "methods", [])) - set(METHODS) | set(args.rates) - set(TRAINED)
    if unknown:
        parser.error(f"unknown methods: {', '.join(sorted(unknown))}")
    if args.rates and args.jobs > 1:
        parser.error("--rates needs --jobs 1: the first seed's runs say what the others are run at")
    {"run": run, "table": table, "agree": agree}[args.command](args)


if __name__ == "__main__":
    main()
