"""Training on a random base of Llama 3 8B's shape, dense and with quantised weights."""

import subprocess
import sys
import time

import trainer
from record import MODELS, OUT, REHEARSAL, ROOT, WORK, Failed, Limit, NotRun, fresh, need_card

SHAPE = {"d": 4096, "layers": 32, "heads": 32, "kv": 8, "f": 14336, "vocab": 128256, "tied": False}
BASE = WORK / "random-8b.gguf"
EDIT = WORK / "random-8b-edit.gguf"
ROWS, LENGTH, STEPS = 4, 512, 40
if REHEARSAL:
    SHAPE = {"d": 256, "layers": 2, "heads": 4, "kv": 2, "f": 512, "vocab": 50000, "tied": False}
    ROWS, LENGTH, STEPS = 2, 32, 6

WRITER = {"process": None}


def begin():
    """Starts writing the base, 4.9 GB; the checks before those that need it go on meanwhile."""
    if WRITER["process"] or (BASE.exists() and EDIT.exists()):
        return
    WORK.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, ROOT / "scripts/gpu/random_base.py", BASE, "--like", MODELS / "SmolLM2.gguf", "--edit", EDIT]
    for name, option in (("d", "embedding"), ("layers", "layers"), ("heads", "heads"), ("kv", "key-value-heads"), ("f", "feed-forward"), ("vocab", "vocabulary")):
        command += [f"--{option}", SHAPE[name]]
    (OUT / "logs").mkdir(parents=True, exist_ok=True)
    log = open(OUT / "logs/random_base.log", "w")
    WRITER["process"] = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)


def base():
    """The base's file, once it is there."""
    begin()
    process = WRITER["process"]
    while process and process.poll() is None:
        if Limit.left() < 5:
            raise NotRun("the random base was not written in time")
        time.sleep(0.1)
    if not BASE.exists():
        raise Failed("the random base could not be written: logs/random_base.log")
    return BASE


def training(table):
    need_card()
    model = base()
    rows = trainer.fixed_rows(fresh("8b-rows") / "rows.jsonl", LENGTH)
    for weights in ("quantised", "dense"):
        options = ["--dtype", "bf16", "--weights", weights, *trainer.UNGATED]
        try:
            found = trainer.train(f"8b-{weights}", model, rows, ROWS, STEPS, *options)
        except Failed as reason:
            table.add(weights, "FAILED", note=str(reason))
            continue
        what = f"8B shape, bf16, {weights}, {ROWS}×{LENGTH}"
        trainer.training_rows(table, what, found)
        trainer.share(table, what, SHAPE, found, ROWS, "bf16")


def peer(table):
    need_card()
    what = f"transformers, 8B shape, bf16, {ROWS}×{LENGTH}"
    trainer.peer_rows(table, what, "peer-8b", SHAPE, ROWS, LENGTH, STEPS // 2, "bf16")
