"""Makes text_metrics.jsonl, one corpus a line: what src/eval/bleu.rs and src/eval/rouge.rs are checked with.

    make golden            (python tests/golden/text_metrics.py)

sacrebleu 2.6.0 and rouge-score 0.1.2, versions pinned in scripts/golden-requirements.txt.
Texts written for this project: hand-picked ones for the corners of the tokenizers, and
sentences damaged at random (seeded) for everything between no match and a perfect one.
"""

import json
import random
from pathlib import Path

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

SENTENCES = [
    "The ferry to the island leaves at seven unless the fog is thick.",
    "On such mornings the captain pours a second cup of tea and waits for the bell.",
    "Our café near the river serves breakfast, lunch and dinner from 8.30 to 22.00.",
    "The parcel was sent on Monday, so it should arrive within two or three days.",
    "Please restart the router; if the light stays red, call us again.",
    "A cheap family restaurant by the station has a rating of 3 out of 5.",
    "She counts 1,200 gulls on the pier (there were 23 yesterday) and smiles.",
    "Invoices are paid on the first day of the month, never earlier.",
]
CORNERS = [
    ("", ["An empty output."]),
    ("Same text.", ["Same text."]),
    ("short", ["short", "a longer reference text than that"]),
    ("It's 5-10 km, isn't it?", ["It's 5-10 km, is it not?", "It is 5 - 10 km, isn't it?"]),
    ("Rock &amp; roll &quot;live&quot; &lt;3", ['Rock & roll "live" <3']),
    ("one two one two one two", ["one two three", "two one two one"]),
    ("Two\nlines, broken-\nword", ["Two lines, brokenword"]),
    ("price: $4.50/kg = 100% [sale] {now}", ["price: $ 4.50 / kg = 100 % [ sale ] { now }"]),
    ("Grüße aus Köln, 2,5 Stunden später. 🦙", ["Grüße aus Köln , 2,5 Stunden später . 🦙"]),
    ("a.b.c 1.2.3 x,y 1,2", ["a.b.c 1.2.3 x,y 1,2", "a . b . c"]),
    ("snake_case `code` ~5 back\\slash ^caret", ["snake_case code about 5 backslash caret"]),
    ("No word of it fits", ["Entirely different thing"]),
    ("equal distance here now", ["three tokens here", "five tokens are right here"]),
    ("  spaces   around  ", ["spaces around", ""]),
]


def damaged(rng, sentence):
    """Words dropped, doubled, swapped or replaced."""
    words = sentence.split()
    for _ in range(rng.randrange(5)):
        i = rng.randrange(len(words))
        match rng.randrange(4):
            case 0 if len(words) > 1:
                del words[i]
            case 1:
                words.insert(i, words[i])
            case 2:
                words[i], words[-1] = words[-1], words[i]
            case _:
                words[i] = rng.choice(SENTENCES).split()[0]
    return " ".join(words)


def corpora():
    rng = random.Random(1)
    noisy = []
    for _ in range(5):
        for sentence in SENTENCES:
            references = [damaged(rng, sentence) for _ in range(rng.randrange(1, 5))]
            noisy.append((damaged(rng, sentence), references))
    yield "corners", CORNERS
    yield "noisy", noisy
    yield "no four words", [("one two", ["one two"]), ("three", ["three"])]
    yield "no four-gram matches", [("a b x c d", ["a b y c d"]), ("e f z g h", ["e f g h"])]
    yield "nothing matches", CORNERS[11:12]


def scored(name, rows):
    bleu, rouge = BLEU(), RougeScorer(["rougeL"])
    most = max(len(references) for _, references in rows)
    # sacrebleu wants the first reference of every row, then the second, ...; None: no more.
    columns = [[(r + [None] * most)[i] for _, r in rows] for i in range(most)]
    outputs = [output for output, _ in rows]
    counts = bleu._extract_corpus_statistics(outputs, columns)
    return {
        "name": name,
        "bleu": bleu.corpus_score(outputs, columns).score,
        "rows": [
            {
                "output": output,
                "references": references,
                "bleu_counts": matched_and_all + lengths,
                "rouge_l": rouge.score_multi(references, output)["rougeL"].fmeasure,
            }
            for (output, references), lengths, matched_and_all in zip(
                rows, (c[:2] for c in counts), (c[2:] for c in counts)
            )
        ],
    }


if __name__ == "__main__":
    with open(Path(__file__).with_name("text_metrics.jsonl"), "w") as out:
        for name, rows in corpora():
            print(json.dumps(scored(name, rows), ensure_ascii=False), file=out)
