#!/usr/bin/env python3
"""Draws what research/scripts/compare.py measured.

    research/scripts/compare_plot.py OUT

Reads OUT/results.jsonl and writes OUT/scores.svg, every seed's score of each method on each
task, and, if there are several numbers of training rows, OUT/curve.svg. Needs matplotlib:
`scripts/setup.sh plots` installs it for `~/.cache/llama-jola/plots/bin/python`.
"""

import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from compare import Results, chosen

plt.rcParams.update({"svg.hashsalt": "compare", "font.size": 9, "axes.spines.top": False})
plt.rcParams.update({"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3})


def panels(tasks):
    columns = min(len(tasks), 3)
    lines = -(-len(tasks) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.4 * columns + 1, 2.9 * lines), squeeze=False, layout="constrained"
    )
    shown = axes.flat[: len(tasks)]
    for empty in axes.flat[len(tasks) :]:
        empty.set_visible(False)
    return figure, list(zip(shown, tasks))


def save(figure, path):
    figure.savefig(path, metadata={"Date": None})
    print(path)


def draw_scores(results, rows, path):
    """One panel per task: a dot for each seed and a line at the mean."""
    methods = results.methods()
    figure, shown = panels(results.names("task"))
    for axis, task in shown:
        for height, method in enumerate(reversed(methods)):
            runs = chosen(results, task, method, rows)
            scores = [row["score"] for row in runs]
            if not scores:
                continue
            colour = "C1" if method == "jola" else "C0"
            axis.plot(scores, [height] * len(scores), "o", color=colour, alpha=0.5, clip_on=False)
            mean = statistics.mean(scores)
            axis.plot([mean, mean], [height - 0.3, height + 0.3], color=colour, linewidth=2)
            axis.annotate(f"{mean:.1f}", (mean, height + 0.3), ha="center", va="bottom", fontsize=7)
            axis.set_xlabel(runs[0]["metric"])
        axis.set_title(task)
        axis.set_yticks(range(len(methods)), reversed(methods))
    save(figure, path)


def draw_curve(results, path):
    """One panel per task that was tried with several numbers of rows: score over rows, of
    the first seed, which all numbers have."""
    sizes = lambda **key: sorted({row["rows"] for row in results.find(**key)})
    tasks = [task for task in results.names("task") if len(sizes(task=task)) > 1]
    figure, shown = panels(tasks)
    for axis, task in shown:
        for method in results.methods():
            found = sizes(task=task, method=method, seed=0)
            scores = [chosen(results, task, method, rows)[0]["score"] for rows in found]
            if len(found) > 1:
                axis.plot(found, scores, "o-", label=method)
        axis.set_title(task)
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes(task=task), sizes(task=task))
        axis.set_xlabel("training rows")
        axis.set_ylabel(results.find(task=task)[0]["metric"])
        axis.legend()
    save(figure, path)


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    out = Path(sys.argv[1])
    results = Results(out / "results.jsonl")
    if not results.rows:
        sys.exit(f"{out / 'results.jsonl'} has no results: run research/scripts/compare.py first")
    sizes = results.names("rows")
    most = max(sizes, key=lambda rows: len(results.find(rows=rows)))
    draw_scores(results, most, out / "scores.svg")
    if len(sizes) > 1:
        draw_curve(results, out / "curve.svg")


if __name__ == "__main__":
    main()
