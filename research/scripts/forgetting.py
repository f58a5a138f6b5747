#!/usr/bin/env python3
"""What adapters cost elsewhere: the edits that compare.py trained, on tasks that they were not
trained for.

    research/scripts/forgetting.py DATA OUT -m BASE.gguf [--trained snips7] [--on arc_easy,e2e_nlg]

OUT is a folder of compare.py's, with its adapters still in it. For each method's first seed, and
for the model without an edit, test rows of the other tasks are scored: tasks with labels by the
first label that is named, and free text by the perplexity of its first reference. What is
measured is added to OUT/forgetting.jsonl, and is not measured again; the table is written to
OUT/forgetting.md.
"""

import argparse
from pathlib import Path

from compare import (
    METHODS,
    METRICS,
    Results,
    adapter_file,
    applied,
    chosen,
    evaluate,
    result_file,
    score,
    table_head,
    table_line,
    test_rows,
)

# The model without an edit, in the column of methods.
UNEDITED = "unedited"


def adapters(args):
    """What is to be scored, with the options that apply it."""
    yield UNEDITED, []
    results = Results(args.out / "results.jsonl")
    for method in METHODS:
        runs = results.find(task=args.trained, method=method, seed=0)
        most = max((row["rows"] for row in runs if "lr" in row), default=None)
        if most is not None:
            best = chosen(results, args.trained, method, most)[0]
            made = result_file(adapter_file(args.out, best, best["lr"]), best)
            if made.exists():
                yield method, applied(method, made)


def measure(args, results, method, adapter):
    for task in args.on:
        key = {"trained": args.trained, "method": method, "task": task}
        if results.find(**key):
            continue
        data = test_rows(args, task)
        if task in METRICS:
            report = evaluate(args, data, "perplexity", METRICS[task][1], adapter)
            scored = {"metric": "perplexity", "score": report["score"], "n": report["n"]}
        else:
            scored = score(args, task, data, adapter)
        results.add({**key, **scored})


def table(args, results):
    text = table_head(["trained on " + args.trained, *args.on])
    for method in [UNEDITED, *METHODS]:
        found = [results.find(method=method, task=task, trained=args.trained) for task in args.on]
        if all(found):
            text.append(table_line([method, *(f"{rows[0]['score']:.2f}" for rows in found)]))
    (args.out / "forgetting.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


def main():
    split = lambda text: text.split(",")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("-m", "--model", type=Path, required=True)
    parser.add_argument("--bin", type=Path, default=Path("target/release"))
    parser.add_argument("--trained", default="snips7", help="the task that adapters were trained on")
    parser.add_argument("--on", type=split, default=["arc_easy", "e2e_nlg"])
    parser.add_argument("--test", type=int, default=500, help="test rows")
    args = parser.parse_args()
    results = Results(args.out / "forgetting.jsonl")
    for method, adapter in adapters(args):
        measure(args, results, method, adapter)
    table(args, results)


if __name__ == "__main__":
    main()
