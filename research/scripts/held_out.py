#!/usr/bin/env python3
"""Makes tasks that no default was chosen on, from what Debian's packages say: `deb_section` (a
package's section of the archive by its name and synopsis, eight of them), `wn_kind` (the kind of
thing that a word of WordNet means, fifteen of them, that the prompt does not list) and `wn_word`
(which of four words a definition is of).

    apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb WORDNET
    research/scripts/held_out.py DATA --wordnet WORDNET/usr/share/wordnet/data.noun

Each task is a folder of DATA with 1,000 rows in train.jsonl and 1,000 in test.jsonl, as
compare.py reads them. The same packages give the same rows.
"""

import argparse
import json
import random
import subprocess
from collections import defaultdict
from pathlib import Path

SECTIONS = "admin games graphics math net science sound text".split()
# WordNet's files of nouns, by their numbers (lexnames(5WN)).
KINDS = {
    "04": "act", "05": "animal", "06": "artifact", "08": "body part", "10": "communication",
    "11": "event", "12": "feeling", "13": "food", "15": "location", "18": "person", "20": "plant",
    "21": "possession", "26": "state", "27": "substance", "28": "time",
}  # fmt: skip
ROWS = 1000


def rows(items, label, prompt):
    """Train and test rows with as many of each label."""
    by_label = defaultdict(list)
    for item in items:
        by_label[label(item)].append(item)
    half = -(-ROWS // len(by_label))
    sets = [], []
    for name in sorted(by_label):
        random.shuffle(by_label[name])
        assert len(by_label[name]) >= 2 * half, f"{name} has {len(by_label[name])} of {2 * half}"
        for number, chosen in enumerate(sets):
            for item in by_label[name][number * half : (number + 1) * half]:
                chosen.append({"instruction": prompt(item), "output": name})
    for chosen in sets:
        random.shuffle(chosen)
    return [chosen[:ROWS] for chosen in sets]


def packages():
    """Of each source one package of these sections, so that none is trained on and tested, too."""
    text = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    sources = {}
    for paragraph in text.split("\n\n"):
        field = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if field.get("Section") in SECTIONS:
            sources.setdefault(field.get("Source", field["Package"]).split()[0], field)
    return [sources[name] for name in sorted(sources)]


def nouns(path):
    """WordNet's nouns: word, definition and kind, of each word the most usual sense."""
    seen = {}
    for line in path.read_text().splitlines():
        if line.startswith("  ") or line.split()[2] != "n":
            continue
        head, gloss = line.split(" | ", 1)
        number, word = head.split()[1], head.split()[4].replace("_", " ")
        definition = gloss.split('; "')[0].strip()
        if number in KINDS and word.islower() and len(definition) < 120:
            # More pointers to other words: a word that more is known about.
            weight = len(head.split())
            if word not in seen or seen[word][0] < weight:
                seen[word] = (weight, word, definition, KINDS[number])
    known = sorted(seen.values(), reverse=True)[:20000]
    return [(word, definition, kind) for _, word, definition, kind in sorted(known, key=lambda noun: noun[1])]


def choices(found):
    """Rows that ask which of four words of the same kind a definition is of."""
    by_kind = defaultdict(list)
    for word, _, kind in found:
        by_kind[kind].append(word)
    made = []
    for word, definition, kind in random.sample(found, 4 * ROWS):
        others = random.sample([other for other in by_kind[kind] if other != word], 3)
        four = random.sample([word, *others], 4)
        # Words that the definition names give themselves away.
        if any(part in definition for option in four for part in option.split()):
            continue
        options = ", ".join(f"{letter}) {option}" for letter, option in zip("ABCD", four))
        answer = "ABCD"[four.index(word)]
        made.append({"instruction": f"Which word has this meaning: {definition}?\n\n{options}", "output": answer})
    return made[:ROWS], made[ROWS : 2 * ROWS]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--wordnet", type=Path, required=True)
    args = parser.parse_args()
    random.seed(0)
    listed = ", ".join(SECTIONS[:-1]) + " or " + SECTIONS[-1]
    section = f"Which section does the software package belong to: {listed}?\n\n"
    found = nouns(args.wordnet)
    tasks = {
        "deb_section": rows(
            packages(), lambda package: package["Section"],
            lambda package: f"{section}{package['Package']}: {package['Description']}",
        ),
        "wn_kind": rows(
            found, lambda noun: noun[2],
            lambda noun: f"What kind of thing is it?\n\n{noun[0]}: {noun[1]}",
        ),
        "wn_word": choices(found),
    }  # fmt: skip
    for name, (train, test) in tasks.items():
        folder = args.data / name
        folder.mkdir(parents=True, exist_ok=True)
        for stem, chosen in (("train", train), ("test", test)):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
            (folder / f"{stem}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{name}: {len(train)} and {len(test)} rows")


if __name__ == "__main__":
    main()
