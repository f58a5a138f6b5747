#!/usr/bin/env python3
"""By how many points one result is ahead of another on the same test rows.

    research/scripts/paired.py ONE OTHER

ONE and OTHER name a line of a file of results that compare.py wrote, by what the line holds:
OUT/results.jsonl:task=snips7,method=jola. The first line that fits is taken. The interval is of
95 %, of what test rows were drawn. Only the standard library is needed.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path


def difference(ours, theirs):
    """By how many points our seeds are ahead of theirs, and half of the interval of 95 %. Each
    seed is a list of what each row counts for, 0 or 1."""
    pairs = zip(*(zip(*seeds, strict=True) for seeds in zip(ours, theirs, strict=True)), strict=True)
    ahead = [statistics.mean(a - b for a, b in row) * 100 for row in pairs]
    return statistics.mean(ahead), 1.96 * statistics.stdev(ahead) / len(ahead) ** 0.5


def counts(result):
    """What each test row of a result counts for."""
    return [int(c) for c in result["correct"]]


def find(name):
    """What each test row counts for in the result that `name` stands for."""
    file, _, conditions = name.partition(":")
    wanted = dict(condition.split("=", 1) for condition in conditions.split(",") if condition)
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        result = json.loads(line)
        if all(str(result.get(key)) == value for key, value in wanted.items()):
            return counts(result)
    return sys.exit(f"paired: {file} holds no result of {conditions}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("one", metavar="ONE")
    parser.add_argument("other", metavar="OTHER")
    args = parser.parse_args()
    one, other = find(args.one), find(args.other)
    if len(one) != len(other):
        sys.exit(f"paired: {len(one)} test rows and {len(other)}: not the same")
    points, interval = difference([one], [other])
    print(f"{points:+.1f} ± {interval:.1f} on {len(one)} rows")


if __name__ == "__main__":
    main()
