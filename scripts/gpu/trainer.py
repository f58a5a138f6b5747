"""The trainer's checks with SmolLM2: does it see the card, is it right, how fast is it."""

import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys

import distance
from record import (
    BIN, BUNDLE, DEVICE, LIBTORCH, MODELS, OUT, REHEARSAL, ROOT, SMALL,
    Failed, NotRun, fresh, need_card, run,
)

sys.path.insert(0, str(ROOT / "research/scripts/bench"))
from training import RESPONSE, fixed_rows  # noqa: E402

TRAIN = BIN / "jola-train"
EDIT = MODELS / "random-edit.gguf"
# SmolLM2's shape, as hooks.py reads it.
SHAPE = {"d": 576, "layers": 30, "heads": 9, "kv": 3, "f": 1536, "vocab": 49152, "tied": True}
ROWS, LENGTH = (2, 16) if REHEARSAL else (8, 128)
STEPS = 8 if REHEARSAL else 40
SPEED_STEPS = 8 if REHEARSAL else 150


def tokens():
    listed = (MODELS / "tokens.txt").read_text().strip().split(",")
    return ",".join(listed[:24] if REHEARSAL else listed)


def environment(table):
    """How libtorch has to be found for the trainer to see the card."""
    libraries = LIBTORCH / "lib"
    cuda = libraries / "libtorch_cuda.so"
    table.add("libtorch_cuda.so", "there" if cuda.exists() else "not there")
    for library in (libraries / "libtorch_cpu.so", cuda):
        if library.exists():
            listed = subprocess.run(["ldd", library], capture_output=True, text=True).stdout
            missing = [line.strip() for line in listed.splitlines() if "not found" in line]
            table.add(f"{library.name}: libraries not found", ", ".join(missing) or "none")
    few = ",".join(tokens().split(",")[:16])
    folder = fresh("environment")
    core = {"LD_LIBRARY_PATH": str(libraries), "LD_PRELOAD": ""}

    def attempt(what, name, program, environment):
        command = [program, "logits", "-m", SMALL, "--tokens", few, "-o", folder / "x.bin"]
        ran = run(name, [*command, "--device", "auto"], environment)
        said = [line for line in ran.stderr.splitlines()[1:] if line.strip()]
        took = f"{ran.peak_mib:.0f} MiB of the card"
        table.add(what, "runs", note="; ".join([took, *said[:3]]))

    need_card()
    attempt("jola-train --device auto", "environment-auto", TRAIN, None)
    attempt("jola-train-core, nothing preloaded", "environment-core", BIN / "jola-train-core", core)


VARIANTS = {
    "float32": ["--dtype", "f32"],
    "bfloat16": ["--dtype", "bf16"],
    "float16": ["--dtype", "f16"],
    "bfloat16, quantised weights": ["--dtype", "bf16", "--weights", "quantised"],
}


def logits(table):
    """The card's logits against the CPU's, with an edit of every head."""
    need_card()
    folder, ids = fresh("logits"), tokens()
    n_tokens = ids.count(",") + 1

    def written(name, device, *more):
        path = folder / f"{name}.bin"
        run(f"logits-{name}", [TRAIN, "logits", "-m", SMALL, "--tokens", ids, "-o", path, "--device", device, *more])
        return distance.read(path, n_tokens)

    reference = written("cpu", "cpu", "--dtype", "f32", "--jola", EDIT)
    for name, options in VARIANTS.items():
        file = f"card-{name}".replace(" ", "-").replace(",", "")
        ours = written(file, DEVICE, *options, "--jola", EDIT)
        distance.rows(table, f"{name} on the card / float32 on the CPU", ours, reference, f"{n_tokens} tokens, an edit of every head")
    unedited = written("card-no-edit", DEVICE, "--dtype", "f32")
    moved = distance.compare(reference, unedited)["relative L2"]
    table.add("what the edit moves: relative L2", moved)


def tests(table):
    """The trainer's own tests for a GPU, and the numbers that they print."""
    need_card()
    program = BIN / "trainer-tests"
    environment = {
        "LD_LIBRARY_PATH": f"{LIBTORCH / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "JOLA_DEVICE": DEVICE,
        "JOLA_TEST_MODEL": str(SMALL),
        "JOLA_TEST_CACHE": str(fresh("tests")),
    }
    listed = run("tests-list", [program, "--list", "gpu::"], environment).stdout
    if ": test" not in listed:
        raise NotRun("the tests' executable has none with gpu in its name")
    command = [program, "--nocapture", "--test-threads", "1", "gpu::"]
    try:
        run("tests", command, environment)
    except Failed as reason:
        table.add("tests", "FAILED", note=str(reason))
    output = "".join((OUT / f"logs/tests.{kind}").read_text() for kind in ("out", "log"))
    for name, value, unit in re.findall(r"gpu: (.+?) = (\S+) ?(.*)", output):
        table.add(name, number(value), unit)
    for line in re.findall(r"test result: .*", output):
        table.add("tests", line.split(";")[0].removeprefix("test result: "), note=line)


def number(text):
    try:
        return float(text)
    except ValueError:
        return text


def train(name, base, rows, count, steps, *more):
    """A run of fixed steps, as numbers of its own metrics and of the card's memory."""
    folder = fresh(name)
    command = [TRAIN, "-m", base, "--data", rows, "--valid-share", 0, "-o", folder / "edit.gguf"]
    command += ["--device", DEVICE, "--batch-size", count, "--steps", steps, "--lr", "0.1", *more]
    ran = run(name, command)
    lines = map(json.loads, open(folder / "edit.run/metrics.jsonl"))
    found = [line for line in lines if "tokens_per_second" in line]
    seconds = [line["tokens"] / line["tokens_per_second"] for line in found]
    losses = [line["loss"] for line in found]
    # The first half allocates and chooses kernels, and the time of a step is the mean of those
    # whose numbers were read together.
    step_s = statistics.median(seconds[len(seconds) // 2 :])
    # The last token of a row predicts nothing and is not computed.
    tokens = found[-1]["tokens"] + count
    return {
        "step_s": step_s,
        "tokens_per_s": tokens / step_s,
        "tokens_per_step": tokens,
        "around_s": ran.seconds - sum(seconds),
        "first_half_s": statistics.mean(seconds[: len(seconds) // 2]),
        "peak_mib": ran.peak_mib,
        "loss": (losses[0], losses[-1]),
    }


def training_rows(table, what, found):
    note = f"median of the second half of the steps; in the first {found['first_half_s']:.4f} s on average"
    table.add(f"{what}: step", found["step_s"], "s", note)
    note = f"{found['tokens_per_step']} tokens a step, loss {found['loss'][0]:.3f} to {found['loss'][1]:.3f}"
    table.add(f"{what}: speed", found["tokens_per_s"], "tokens/s", note)
    table.add(f"{what}: loading and the rest of the run", found["around_s"], "s")
    table.add(f"{what}: peak of the card's memory", found["peak_mib"], "MiB", "by NVML, above what was used before")


UNGATED = ["--method", "ungated"]
GATED = ["--sparsity", "0.9,0.85"]


def training(table):
    need_card()
    rows = fixed_rows(fresh("training-rows") / "rows.jsonl", LENGTH)
    for dtype, name, method in (("bf16", "ungated", UNGATED), ("f32", "ungated", UNGATED), ("bf16", "gated", GATED)):
        found = train(f"training-{dtype}-{name}", SMALL, rows, ROWS, SPEED_STEPS, "--dtype", dtype, *method)
        what = f"SmolLM2, {dtype}, {name}, {ROWS}×{LENGTH}"
        training_rows(table, what, found)
        share(table, what, SHAPE, found, ROWS, dtype)


def peer_rows(table, what, name, shape, count, length, steps, dtype):
    """The same shape by transformers with hooks, in a process of its own."""
    if importlib.util.find_spec("transformers") is None:
        raise NotRun("python3 has no transformers")
    command = [sys.executable, ROOT / "scripts/gpu/hooks.py", json.dumps(shape)]
    ran = run(name, [*command, DEVICE, dtype, count, length, RESPONSE, steps])
    found = ran.last_json()
    table.add(f"{what}: step", found["step_s"], "s", f"{count * length} tokens a step, random weights")
    table.add(f"{what}: speed", count * length / found["step_s"], "tokens/s")
    if "allocated_mib" in found:
        table.add(f"{what}: peak allocated", found["allocated_mib"], "MiB", "by torch")
    table.add(f"{what}: peak of the card's memory", ran.peak_mib, "MiB", "by NVML")


def peer(table):
    need_card()
    for dtype in ("f32", "bf16"):
        what = f"transformers, SmolLM2's shape, {dtype}, {ROWS}×{LENGTH}"
        peer_rows(table, what, f"peer-{dtype}", SHAPE, ROWS, LENGTH, STEPS, dtype)


def operations(shape, tokens, answers):
    """Of the matrix products of a step: forwards, and backwards to their inputs."""
    width = shape["d"] // shape["heads"]
    attention = 2 * shape["d"] * shape["heads"] * width + 2 * shape["d"] * shape["kv"] * width
    layer = attention + 3 * shape["d"] * shape["f"]
    return 4 * (tokens * shape["layers"] * layer + answers * shape["vocab"] * shape["d"])


RATE = {}


def products(table):
    """The card's own rate, which the steps are held against."""
    need_card()
    size = 512 if REHEARSAL else 8192
    ran = run("products", [sys.executable, ROOT / "scripts/gpu/hooks.py", "products", DEVICE, size])
    RATE.update(ran.last_json())
    for dtype, rate in RATE.items():
        table.add(f"product of {size}³, {dtype}", rate / 1e12, "TFLOP/s", "torch.matmul")


def share(table, what, shape, found, count, dtype):
    if dtype not in RATE:
        return
    counted = operations(shape, found["tokens_per_step"] - count, count * RESPONSE)
    value = counted / found["step_s"] / RATE[dtype]
    table.add(f"{what}: matrix products' share of a step", value, "", "an estimate: operations / time / the rate above")


def resume(table):
    """A run killed half-way and resumed, against the same run in one go, twice."""
    need_card()
    steps = STEPS
    rows = fixed_rows(fresh("resume-rows") / "rows.jsonl", LENGTH)

    def command(folder):
        words = [TRAIN, "-m", SMALL, "--data", rows, "--valid-share", 0, "-o", folder / "edit.gguf"]
        words += ["--device", DEVICE, "--dtype", "f32", "--batch-size", ROWS, "--steps", steps]
        return [*words, "--lr", "0.1", "--sparsity", "0.9,0.85", "--checkpoint-every", 0]

    folders = {name: fresh(f"resume-{name}") for name in ("once", "again", "killed")}
    for name in ("once", "again"):
        run(f"resume-{name}", command(folders[name]))
    killed = folders["killed"]

    def half_done():
        metrics = killed / "edit.run/metrics.jsonl"
        checkpoint = killed / "edit.run/checkpoint.safetensors"
        return checkpoint.exists() and metrics.exists() and metrics.read_text().count("\n") > steps // 2

    run("resume-killed", command(killed), until=half_done)
    if (killed / "edit.gguf").exists():
        raise Failed("the run was done before it could be killed")
    run("resume-resumed", [*command(killed), "--resume"])
    edits = {name: folder / "edit.gguf" for name, folder in folders.items()}
    whole = edits["once"].read_bytes()
    for name, what in (("again", "the same run again"), ("killed", "killed and resumed")):
        same = edits[name].read_bytes() == whole
        table.add(f"{what}: the sidecar's bytes", "equal" if same else "differ", "", f"{steps} steps, float32")
        if not same:
            found = {}
            for key in ("once", name):
                path = folders[key] / "logits.bin"
                words = [TRAIN, "logits", "-m", SMALL, "--jola", edits[key], "--tokens", tokens(), "-o", path]
                run(f"resume-logits-{key}", [*words, "--device", DEVICE])
                found[key] = distance.read(path, tokens().count(",") + 1)
            value = distance.compare(found[name], found["once"])["relative L2"]
            table.add(f"{what}: relative L2 of the logits", value)


def demo(table):
    """scripts/demo.sh with its training on the card; llama-jola scores on the CPU."""
    need_card()
    if REHEARSAL:
        raise NotRun("a rehearsal: make demo does it")
    environment = {"JOLA_BIN": str(BIN), "JOLA_TEST_MODEL": str(SMALL), "JOLA_CACHE": str(BUNDLE / "cache")}
    ran = run("demo", ["bash", "scripts/demo.sh"], environment)
    found = re.search(r"unedited accuracy ([\d.]+), edited accuracy ([\d.]+).*trained in (\d+) s", ran.stdout)
    table.add("accuracy, unedited", float(found[1]), "share of the test rows")
    table.add("accuracy, edited", float(found[2]), "share of the test rows", "trained on the card, scored by llama.cpp on the CPU")
    table.add("training", float(found[3]), "s")
