"""metrics.jsonl in pandas: the loss of steps and validations."""

import sys

import pandas

rows = pandas.read_json(sys.argv[1], lines=True)
steps = rows[rows["loss"].notna()].set_index("step")
print(steps[["phase", "loss", "lr", "tokens_per_second"]].tail())
if "validation" in rows:
    validations = rows[rows["validation"].notna()].set_index("step")["validation"]
    print(pandas.json_normalize(validations.tolist()).set_index(validations.index))
