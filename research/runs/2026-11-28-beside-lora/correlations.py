#!/usr/bin/env python3
"""Rank correlations of κ with what a gate's removal costs, from removal.txt beside it."""

from pathlib import Path

KINDS = ["scales", "offsets"]
ESTIMATES = ["penalty's", "polish phase", "training rows"]
COSTS = ["validation rows", "training rows"]


def ranks(values):
    places = sorted(range(len(values)), key=values.__getitem__)
    return {place: rank for rank, place in enumerate(places)}


def spearman(a, b):
    n = len(a)
    of_a, of_b = ranks(a), ranks(b)
    squares = sum((of_a[place] - of_b[place]) ** 2 for place in range(n))
    return 1 - 6 * squares / (n * (n * n - 1))


lines = Path(__file__).with_name("removal.txt").read_text().splitlines()
for kind, name in enumerate(KINDS):
    rows = [line.split()[4:] for line in lines if line.split()[1] == str(kind)]
    *estimates, _, valid, train = ([float(x) for x in column] for column in zip(*rows))
    for label, estimate in zip(ESTIMATES, estimates):
        found = [f"{c} {spearman(estimate, cost):.2f}" for c, cost in zip(COSTS, [valid, train])]
        print(f"{name} ({len(rows)}), κ {label}: {', '.join(found)}")
