"""metrics.jsonl for Weights & Biases; with WANDB_MODE=offline nothing leaves the machine."""

import json
import sys

import wandb

with wandb.init(project="jola") as run:
    for row in map(json.loads, open(sys.argv[1])):
        if "step" in row:
            step = row.pop("step")
            run.log(row, step=step)
