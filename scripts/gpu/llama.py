"""llama.cpp on the card with an edit, brought by the plugin and by llama-jola's own hook."""

import json
import os
import statistics
import time

import base_8b
import distance
from record import BIN, BUNDLE, HAS_CARD, LIBTORCH, MODELS, REHEARSAL, SMALL, Limit, NotRun, NotYet, fresh, need_card, run

BUILD = BUNDLE.parent / "llama"
HOOK = BUNDLE / "hook"
EDIT = MODELS / "random-edit.gguf"
TOKENS = MODELS / "tokens.txt"
ALL_LAYERS = 99 if HAS_CARD else 0
# Without it llama.cpp computes large products on the card, whatever its number of layers there.
NO_CARD = {"CUDA_VISIBLE_DEVICES": ""}
PLACES = {"CPU": (0, NO_CARD), "card": (ALL_LAYERS, {})}


def built():
    """llama-check, once it is compiled."""
    need_card()
    ready, failed = BUILD / "ready", BUILD / "failed"
    while not ready.exists():
        if failed.exists():
            raise NotRun(f"llama.cpp was not built: {failed.read_text().strip()}")
        if time.time() > Limit.patience or Limit.left() < 5:
            raise NotYet("llama.cpp was not compiled in time")
        time.sleep(0.2)
    return BUILD / "build/bin/llama-check"


def plugin(edit):
    """The environment under which a llama.cpp program is edited."""
    if edit is None:
        return {}
    return {"LD_PRELOAD": str(BIN / "libjola.so"), "LLAMA_JOLA": str(edit), "LLAMA_JOLA_LOG": "info"}


def agreement(table, what, base, edit, ids, answer):
    """Logits and answers of the same program on the CPU and on the card."""
    program = built()
    folder = fresh(f"llama-{base.stem}")
    n_tokens = ids.read_text().count(",") + 1
    found, answers = {}, {}
    for name, applied in (("no edit", None), ("edit", edit)):
        for place, (layers, environment) in PLACES.items():
            path = folder / f"{place}-{name}.bin"
            log = f"llama-{base.stem}-{place}-{name}".replace(" ", "-")
            ran = run(log, [program, "logits", base, layers, ids, path, answer], {**environment, **plugin(applied)})
            found[place, name] = distance.read(path, n_tokens)
            answers[place, name] = ran.stdout.strip().splitlines()[-1].split(",")
            if applied:
                said = [line for line in ran.stderr.splitlines() if line.startswith("llama-jola: ")]
                table.add(f"{what}, {place}: the plugin says", said[0] if said else "nothing")
        distance.rows(table, f"{what}, card / CPU, {name}", found["card", name], found["CPU", name], f"{n_tokens} tokens")
        same = 0
        for a, b in zip(answers["card", name], answers["CPU", name]):
            if a != b:
                break
            same += 1
        table.add(f"{what}, {name}: equal tokens of the answer", same, f"of {answer}", "card / CPU, greedy")
    moved = distance.compare(found["card", "edit"], found["card", "no edit"])["relative L2"]
    table.add(f"{what}: what the edit moves on the card, relative L2", moved)


def small(table):
    built()
    note = "on all CPUs; flash attention is left out, and kernels for other types than the bases'"
    table.add("llama.cpp's build", float((BUILD / "ready").read_text()), "s", note)
    agreement(table, "SmolLM2", SMALL, EDIT, TOKENS, 32)


def speed(table, what, base, edit, rounds):
    """Prefill and decode without the plugin, with it and no edit, and with an edit of every head,
    in turning order."""
    program = built()
    environments = {"plain": {}, "plugin": {"LD_PRELOAD": str(BIN / "libjola.so")}, "edit": plugin(edit)}
    sizes = {"prefill": 64, "decode": 8} if REHEARSAL else {"prefill": 512, "decode": 64}
    seen = {name: {"prefill": [], "decode": []} for name in environments}
    for turn in range(rounds):
        order = list(environments) if turn % 2 == 0 else list(reversed(environments))
        for name in order:
            command = [program, "speed", base, ALL_LAYERS, *sizes.values(), 5]
            ran = run(f"speed-{base.stem}-{name}-{turn}", command, environments[name])
            for kind, seconds in ran.last_json().items():
                seen[name][kind].append(statistics.median(seconds))
    for kind, size in sizes.items():
        middle = size / statistics.median(seen["plain"][kind])
        table.add(f"{what}, {kind}", middle, "tokens/s", f"{size} tokens; {rounds} starts, medians of 5 each")
        for name in ("plugin", "edit"):
            ratios = [a / b for a, b in zip(seen[name][kind], seen["plain"][kind])]
            note = f"median of {rounds} starts, from {min(ratios):.3f} to {max(ratios):.3f}"
            table.add(f"{what}, {kind}: time with the {name} / without", statistics.median(ratios), "", note)


def speed_small(table):
    speed(table, "SmolLM2", SMALL, EDIT, 2 if REHEARSAL else 5)


def big(table):
    """With few tokens: the CPU is slow."""
    built()
    base = base_8b.base()
    ids = fresh("llama-8b-tokens") / "tokens.txt"
    ids.write_text(",".join(TOKENS.read_text().strip().split(",")[:48]))
    agreement(table, "8B shape", base, base_8b.EDIT, ids, 8)
    speed(table, "8B shape", base, base_8b.EDIT, 3)


def hook(table):
    """llama-jola built with its feature `cuda`: no plugin, the edit is part of its own graph."""
    need_card()
    program = HOOK / "llama-jola"
    if not program.exists():
        raise NotRun("no llama-jola with the feature cuda was packed")
    # PyTorch's packages hold cuBLAS and the runtime.
    libraries = [HOOK, LIBTORCH.parent / "nvidia/cu13/lib", os.environ.get("LD_LIBRARY_PATH", "")]
    environment = {"LD_LIBRARY_PATH": ":".join(map(str, libraries))}
    folder, ids = fresh("hook"), TOKENS.read_text().strip()
    n_tokens, found = ids.count(",") + 1, {}
    same = ["--flash-attn", "off"]
    for place, (layers, visible) in PLACES.items():
        path = folder / f"{place}.bin"
        words = [program, "logits", "-m", SMALL, "--jola", EDIT, "--tokens", ids, "-o", path]
        run(f"hook-{place}", [*words, "--n-gpu-layers", layers, *same], {**environment, **visible})
        found[place] = distance.read(path, n_tokens)
    distance.rows(table, "SmolLM2, card / CPU, edit", found["card"], found["CPU"], f"{n_tokens} tokens")
    sizes = ["-p", 64, "-n", 8, "-r", 2] if REHEARSAL else ["-p", 512, "-n", 64, "-r", 9]
    words = [program, "bench", "-m", SMALL, "--jola", EDIT, "--n-gpu-layers", ALL_LAYERS, *same, *sizes, "--json"]
    said = json.loads(run("hook-bench", words, environment).stdout.strip().splitlines()[-1])
    for kind in ("prefill", "decode"):
        cost = said["routes"][0][kind]
        table.add(f"SmolLM2, {kind}", cost["unedited_tokens_per_s"], "tokens/s", "without an edit, by llama-jola bench")
        low, high = cost["quartiles"]
        note = f"{said['pairs']} pairs, quartiles {low:.3f} and {high:.3f}"
        table.add(f"SmolLM2, {kind}: time with the edit / without", cost["time_ratio"], "", note)
