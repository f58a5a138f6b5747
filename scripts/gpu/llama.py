"""llama.cpp on the card with an edit brought by the plugin."""

import json
import statistics
import time

import base_8b
import compare
from record import BIN, BUNDLE, HAS_CARD, MODELS, REHEARSAL, SMALL, Limit, NotRun, fresh, need_card, run

KIND = "cuda" if HAS_CARD else "cpu"
EDIT = MODELS / "random-edit.gguf"
ANSWER = 32
ALL_LAYERS = 99 if HAS_CARD else 0


def built():
    """The folder of llama.cpp's programs, once they are compiled."""
    need_card()
    ready, failed = (BUNDLE / f"llama-{KIND}.{state}" for state in ("ready", "failed"))
    while not ready.exists():
        if failed.exists():
            raise NotRun(f"llama.cpp was not built: {failed.read_text().strip()}")
        if Limit.left() < 5:
            raise NotRun("llama.cpp was not compiled in time")
        time.sleep(0.2)
    return BUNDLE / f"build-{KIND}/bin"


def plugin(edit):
    """The environment under which a llama.cpp program is edited."""
    if edit is None:
        return {}
    return {"LD_PRELOAD": str(BIN / "libjola.so"), "LLAMA_JOLA": str(edit), "LLAMA_JOLA_LOG": "info"}


def agreement(table, what, base, edit):
    """Logits and answers of the same program on the CPU and on the card."""
    programs = built()
    if what == "SmolLM2":
        table.add("llama.cpp's build", float((BUNDLE / f"llama-{KIND}.ready").read_text()), "s", KIND)
    folder, ids = fresh(f"llama-{base.stem}"), MODELS / "tokens.txt"
    n_tokens = ids.read_text().count(",") + 1
    found, answers = {}, {}
    for name, applied in (("no edit", None), ("edit", edit)):
        for place, layers in (("CPU", 0), ("card", ALL_LAYERS)):
            path = folder / f"{place}-{name}.bin"
            log = f"llama-{base.stem}-{place}-{name}".replace(" ", "-")
            ran = run(log, [programs / "write-logits", base, ids, path, layers, ANSWER], plugin(applied))
            found[place, name] = compare.read(path, n_tokens)
            answers[place, name] = ran.stdout.strip().splitlines()[-1].split(",")
            if applied:
                said = [line for line in ran.stderr.splitlines() if line.startswith("llama-jola: ")]
                table.add(f"{what}, {place}: the plugin says", said[0] if said else "nothing")
        compare.rows(table, f"{what}, card / CPU, {name}", found["card", name], found["CPU", name], f"{n_tokens} tokens")
        same = 0
        for a, b in zip(answers["card", name], answers["CPU", name]):
            if a != b:
                break
            same += 1
        table.add(f"{what}, {name}: equal tokens of the answer", same, f"of {ANSWER}", "card / CPU, greedy")
    moved = compare.compare(found["card", "edit"], found["card", "no edit"])["relative L2"]
    table.add(f"{what}: what the edit moves on the card, relative L2", moved)


def small(table):
    agreement(table, "SmolLM2", SMALL, EDIT)


def speed(table, what, base, edit, rounds):
    """llama-bench without the plugin, with it and no edit, and with an edit of every head, in
    turning order."""
    programs = built()
    environments = {"plain": {}, "plugin": {"LD_PRELOAD": str(BIN / "libjola.so")}, "edit": plugin(edit)}
    sizes = ("64", "8") if REHEARSAL else ("512", "64")
    command = [programs / "llama-bench", "-m", base, "-ngl", ALL_LAYERS, "-p", sizes[0], "-n", sizes[1]]
    command += ["-r", "3", "-o", "json"]
    seen = {name: {"prefill": [], "decode": []} for name in environments}
    for turn in range(rounds):
        order = list(environments) if turn % 2 == 0 else list(reversed(environments))
        for name in order:
            ran = run(f"bench-{base.stem}-{name}-{turn}", command, environments[name])
            for test in json.loads(ran.stdout[ran.stdout.index("[") :]):
                seen[name]["decode" if test["n_gen"] else "prefill"].append(test["avg_ts"])
    for kind in ("prefill", "decode"):
        middle = {name: statistics.median(found[kind]) for name, found in seen.items()}
        table.add(f"{what}, {kind}", middle["plain"], "tokens/s", f"median of {rounds} starts, {sizes} tokens")
        for name in ("plugin", "edit"):
            ratios = [a / b for a, b in zip(seen["plain"][kind], seen[name][kind])]
            note = f"median of {rounds} starts, from {min(ratios):.3f} to {max(ratios):.3f}"
            table.add(f"{what}, {kind}: time with the {name} / without", statistics.median(ratios), "", note)


def speed_small(table):
    speed(table, "SmolLM2", SMALL, EDIT, 2 if REHEARSAL else 4)


def big(table):
    need_card()
    base = base_8b.base()
    agreement(table, "8B shape", base, base_8b.EDIT)
    speed(table, "8B shape", base, base_8b.EDIT, 2)
