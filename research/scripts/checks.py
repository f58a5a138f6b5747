#!/usr/bin/env python3
"""Checks what the scripts here compute, without a model: programs that answer at once stand in
for jola-train and llama-jola.

    research/scripts/checks.py
"""

import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS / "bench")]

import common
import compare
import forgetting
import inference
import paired
import training

# Writes down how it was called. The rate decides what the run is worth; additive edits are
# never better than the unedited model.
TRAIN = """#!/usr/bin/env python3
import sys
from pathlib import Path
words = sys.argv[1:]
with open(Path(__file__).with_name("calls"), "a") as file:
    print(*words, file=file)
option = dict(zip(words, words[1:]))
output = Path(option["-o"])
if "--test" in words:
    folder = output.with_suffix(".run")
    folder.mkdir()
    (folder / "test.md").write_text("| 4 test rows | loss | exact | chosen right | |\\n|---|---|---|---|---|\\n"
        "| without an edit | 2.5000 | 0.0 % | 25.0 % | |\\n| stage 0 | 0.5000 | 75.0 % | 100.0 % | |\\n"
        "| stage 1 | 0.6250 | 50.0 % | 75.0 % | chosen |\\n")
    (folder / "test.jsonl").write_text("".join('{"loss": [2, 1, 1], "exact": [false, true, %s], '
        '"chosen": [false, true, true]}\\n' % str(row % 2 == 0).lower() for row in range(4)))
if option["--method"] == "additive":
    folder = output.with_suffix(".run")
    folder.mkdir()
    (folder / "refused.gguf").write_text("refused")
    print("error: the model without an edit does better on the validation rows (loss 1.5000, 40.0 %"
        " of rows exact) than with what was learned (loss 1.7500, 35.5 % of rows exact): gone",
        file=sys.stderr)
    sys.exit(3)
output.write_text("edit")
exact = {"0.1": 60, "0.2": 70}.get(option.get("--lr"), 80)
print(f"kept the best: validation loss 0.5000, {exact}.0 % of rows exact, 50.0 % chosen right",
    file=sys.stderr)
"""
LLAMA = """#!/usr/bin/env python3
import json, sys
from pathlib import Path
words = sys.argv[1:]
if words[0] == "inspect":
    Path(words[1]).read_text()
    print(json.dumps({"heads_edited": 3, "heads_total": 9, "values": 64}))
else:
    score = 0.25
    if "--jola" in words:
        score = {"edit": 0.75, "refused": 0.125}[Path(words[words.index("--jola") + 1]).read_text()]
    if "--predictions" in words:
        rows = [json.dumps({"correct": k < score * 8}) for k in range(8)]
        Path(words[words.index("--predictions") + 1]).write_text("\\n".join(rows))
    print("a line before it")
    print(json.dumps({"score": score, "accuracy": score, "n": 4}))
"""


class Compare(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        for name, text in (("jola-train", TRAIN), ("llama-jola", LLAMA)):
            program = self.root / name
            program.write_text(text)
            program.chmod(0o755)
        row = lambda k: json.dumps({"instruction": f"q{k}", "answer": f"a{k}"}) + "\n"
        for name in ("train", "test"):
            compare.write(self.root / "data/task" / f"{name}.jsonl", [row(k) for k in range(20)])

    def call(self, *words, script=compare):
        words = ["script.py", *map(str, words)]
        with mock.patch.object(sys, "argv", words), contextlib.redirect_stdout(io.StringIO()):
            script.main()

    def run_methods(self, methods, *more):
        out = self.root / "out"
        where = ["run", self.root / "data", out, "-m", "base.gguf", "--bin", self.root]
        size = ["--tasks", "task", "--rows", 10, "--valid", 4, "--seeds", 2]
        self.call(*where, *size, "--methods", methods, *more)
        return compare.Results(out / "results.jsonl")

    def calls(self):
        return (self.root / "calls").read_text().splitlines()

    def test_the_trainer_finds_the_rate(self):
        results = self.run_methods("zero-shot,jola")
        self.assertEqual([row["lr"] for row in results.find(method="jola")], ["auto", "auto"])
        self.assertEqual([row["score"] for row in results.rows], [25.0, 75.0, 75.0])
        self.assertFalse([line for line in self.calls() if "--lr" in line])

    def test_what_is_measured_is_not_run_again(self):
        self.run_methods("jola")
        self.run_methods("jola")
        self.assertEqual(len(self.calls()), 2)

    def test_the_best_of_the_given_rates_serves_the_other_seeds(self):
        self.run_methods("jola")
        results = self.run_methods("jola", "--rates", "jola=0.1,0.2")
        rates = [(row["seed"], row["lr"]) for row in results.rows if row["lr"] != "auto"]
        self.assertEqual(rates, [(0, 0.1), (0, 0.2), (1, 0.2)])

    def test_a_refused_edit_is_scored_and_noted(self):
        first = self.run_methods("additive").rows[0]
        self.assertIs(first["refused"], True)
        self.assertEqual((first["score"], first["bytes"]), (12.5, len("refused")))
        self.assertEqual((first["valid_loss"], first["valid_exact"]), (1.75, 35.5))

    def test_the_trainer_can_score_several_runs_at_a_time(self):
        results = self.run_methods("jola,lora", "--scored-by", "trainer", "--jobs", 2)
        self.assertEqual(len(results.rows), 4)
        for row in results.rows:
            self.assertEqual((row["metric"], row["score"], row["n"]), ("exact", 50.0, 4))
            self.assertEqual((row["correct"], row["right"], row["written"]), ("1010", "1111", 2))
            self.assertEqual(row["stages"][0], {"loss": 2.5, "exact": 0.0, "choice": 25.0})

    def test_both_engines_are_compared(self):
        self.run_methods("zero-shot,jola,additive")
        self.call("agree", self.root / "out", "-m", "base.gguf", "--bin", self.root)
        lines = (self.root / "out/agree.md").read_text().splitlines()
        self.assertIn("| task-jola-10-0-auto | 4 | 80.0 | 75.0 | -5.0 |", lines)
        self.assertIn("| task-additive-10-1-auto | 4 | 35.5 | 12.5 | -23.0 |", lines)

    def test_the_table_has_a_line_for_each_method(self):
        self.run_methods("zero-shot,jola")
        table = (self.root / "out/table.md").read_text()
        self.assertIn("| jola | 75.0 ± 0.0 | 75.0 | 4 | 3 | 64 | 0 |", table)
        self.assertIn("| zero-shot | 25.0 | 25.0 | – | – | – | – |", table)

    def test_methods_are_compared_on_the_same_rows(self):
        self.run_methods("zero-shot,jola,additive")
        table = (self.root / "out/table.md").read_text()
        # Four rows of eight more are right: 50 points, with a deviation of 53.5 over the rows.
        self.assertIn("| `zero-shot` | +50.0 ± 37.0 |", table)
        self.assertIn("| `additive` | +62.5 ± 35.9 |", table)

    def test_any_two_results_are_compared(self):
        file = self.root / "results.jsonl"
        found = [{"lr": 0.1, "correct": "1101"}, {"lr": 0.2, "correct": "0100"}]
        file.write_text("".join(json.dumps(row) + "\n" for row in found))
        one, other = (paired.find(f"{file}:lr={rate}") for rate in (0.1, 0.2))
        self.assertEqual([round(x, 1) for x in paired.difference([one], [other])], [50.0, 56.6])
        with self.assertRaisesRegex(SystemExit, "no result of lr=0.3"):
            paired.find(f"{file}:lr=0.3")

    def test_adapters_are_scored_on_other_tasks_once(self):
        self.run_methods("jola,additive")
        for name in ("other", "e2e_nlg"):
            compare.write(self.root / f"data/{name}/test.jsonl", ["{}\n"] * 9)
        out = self.root / "out"
        words = [self.root / "data", out, "-m", "base.gguf", "--bin", self.root, "--trained", "task"]
        for _ in range(2):
            self.call(*words, "--on", "other,e2e_nlg", script=forgetting)
        self.assertEqual(len(compare.lines(out / "forgetting.jsonl")), 6)
        table = (out / "forgetting.md").read_text()
        self.assertIn("| unedited | 25.00 | 0.25 |\n| jola | 75.00 | 0.75 |\n| additive | 12.50 | 0.12 |", table)

    def test_exact_rows_rank_first_where_they_are_more_than_a_few(self):
        better = {"valid_exact": 50, "valid_loss": 2}
        self.assertLess(compare.rank(better), compare.rank({"valid_exact": 40, "valid_loss": 1}))
        few = {"valid_exact": 3, "valid_loss": 1}
        self.assertLess(compare.rank(few), compare.rank({"valid_exact": 4, "valid_loss": 2}))

    def test_a_failed_run_ends_with_its_log(self):
        (self.root / "jola-train").write_text("#!/bin/sh\necho no such file >&2\nexit 1\n")
        with self.assertRaisesRegex(SystemExit, "no such file"):
            self.run_methods("jola")


class Bench(unittest.TestCase):
    def test_quartiles(self):
        self.assertEqual(common.quartiles([1, 2, 3, 4, 5]), "3.0000 (2.0000 to 4.0000)")

    def test_the_result_is_the_last_line(self):
        self.assertEqual(common.last_json('said before\n{"a": 1}\n'), {"a": 1})

    def test_parts_are_named(self):
        for script in (inference, training):
            self.assertTrue(all(callable(part) for part in script.PARTS.values()))
        with mock.patch.object(sys, "argv", ["x", "out", "none"]):
            with self.assertRaisesRegex(SystemExit, "no such part: none"):
                common.run_parts("usage", inference.PARTS, [], None, "bench")

    def test_rows_have_the_length_that_was_asked_for(self):
        with tempfile.TemporaryDirectory() as folder:
            path = training.fixed_rows(Path(folder) / "rows.jsonl", 64)
            rows = [json.loads(line) for line in path.read_text().splitlines()]
        self.assertEqual(len(rows), 4 * training.BATCH)
        # A word is a token, and one more ends the row.
        words = {len((row["prompt"] + row["completion"]).split()) for row in rows}
        self.assertEqual(words, {63})


class Names(unittest.TestCase):
    def test_modules_that_find_each_other_by_name_alone_have_names_of_their_own(self):
        folders = [SCRIPTS, SCRIPTS / "bench", SCRIPTS.parents[1] / "scripts/gpu"]
        names = [path.stem for folder in folders for path in folder.glob("*.py")]
        self.assertEqual(sorted(set(names)), sorted(names))


if __name__ == "__main__":
    unittest.main()
