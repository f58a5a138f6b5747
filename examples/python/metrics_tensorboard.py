"""metrics.jsonl for TensorBoard: event files in the folder that is given second."""

import json
import sys

from tensorboardX import SummaryWriter

with SummaryWriter(sys.argv[2] if len(sys.argv) > 2 else "runs") as writer:
    for row in map(json.loads, open(sys.argv[1])):
        for name in ("loss", "kl", "lr", "gate_lr", "lambda"):
            if name in row:
                writer.add_scalar(f"train/{name}", row[name], row["step"])
        for name, value in row.get("validation", {}).items():
            writer.add_scalar(f"validation/{name}", value, row["step"])
