"""What the checks share: the machine, running programs within limits, and the table.

The table and the raw numbers are written anew after every check, so that a run that is ended
from outside leaves what it had found.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

BUNDLE = Path(os.environ["JOLA_GPU_BUNDLE"])
OUT = Path(os.environ["JOLA_GPU_OUT"])
LIBTORCH = Path(os.environ["LIBTORCH"])
END = float(os.environ.get("JOLA_GPU_END", time.time() + 3600))
# Runs on the CPU what is meant for the card, a little of it: to try these scripts.
REHEARSAL = os.environ.get("JOLA_GPU_REHEARSAL") == "1"

BIN = BUNDLE / "bin"
MODELS = BUNDLE / "models"
SMALL = MODELS / "SmolLM2.gguf"
WORK = BUNDLE / ("rehearsal" if REHEARSAL else "work")
ROOT = Path(__file__).resolve().parents[2]


class NotRun(Exception):
    """A check that cannot be made here, and why."""


class NotYet(NotRun):
    """A check that may be made later, once something in the background is done."""


class Failed(Exception):
    """A program that ended badly or took too long."""


class Card:
    """The NVIDIA card, seen by NVML or else by nvidia-smi; without one its name is None."""

    def __init__(self):
        self.handle = self.name = self.driver = self.memory_mib = None
        try:
            import pynvml

            pynvml.nvmlInit()
            self.nvml = pynvml
            self.handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            self.name = text(pynvml.nvmlDeviceGetName(self.handle))
            self.driver = text(pynvml.nvmlSystemGetDriverVersion())
            self.memory_mib = pynvml.nvmlDeviceGetMemoryInfo(self.handle).total / 2**20
        except Exception as error:  # whatever is missing: the other way may work
            self.handle, self.why_not = None, f"{type(error).__name__}: {error}"
            self.name, self.driver, memory = self.asked("name,driver_version,memory.total") or (None,) * 3
            self.memory_mib = float(memory or 0)

    def asked(self, what):
        """nvidia-smi's answer, as a list; None if there is no card."""
        command = ["nvidia-smi", "--id=0", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError:
            return None
        return done.stdout.strip().split(", ") if done.returncode == 0 else None

    def used_mib(self):
        if self.handle is not None:
            return self.nvml.nvmlDeviceGetMemoryInfo(self.handle).used / 2**20
        return float(self.asked("memory.used")[0]) if self.name else 0.0


def text(value):
    return value.decode() if isinstance(value, bytes) else value


CARD = Card()
HAS_CARD = CARD.name is not None and not REHEARSAL
DEVICE = "cuda" if HAS_CARD else "cpu"


def need_card():
    if not HAS_CARD and not REHEARSAL:
        raise NotRun("no NVIDIA card")


class Watch(threading.Thread):
    """Polls the card's memory, and knows its peak above what was used before."""

    def __init__(self):
        super().__init__(daemon=True)
        self.before = self.peak = CARD.used_mib()
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(0.05):
            self.peak = max(self.peak, CARD.used_mib())

    def stop(self):
        self.done.set()
        return self.peak - self.before


class Ran:
    """What a program printed, its seconds and its peak of the card's memory in MiB."""

    def __init__(self, stdout, stderr, seconds, peak_mib):
        self.stdout, self.stderr, self.seconds, self.peak_mib = stdout, stderr, seconds, peak_mib

    def last_json(self):
        return json.loads(self.stdout.strip().splitlines()[-1])


class Limit:
    """When the check at hand has to be done, and until when it waits for what is made in the
    background."""

    end = END
    patience = time.time() + 280

    @classmethod
    def left(cls):
        return cls.end - time.time()


def run(name, command, environment=None, until=None):
    """Runs a command with its output in logs/NAME.log. `until` is asked ten times a second
    whether the program shall be killed; a program killed so has not failed."""
    command = [str(part) for part in command]
    if Limit.left() < 1:
        raise NotRun("out of time")
    logs = OUT / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    begun, watch, stopped = time.perf_counter(), Watch(), False
    watch.start()
    with open(logs / f"{name}.log", "w+") as stderr, open(logs / f"{name}.out", "w+") as stdout:
        print("$", " ".join(command), file=stderr, flush=True)
        process = subprocess.Popen(
            command,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **(environment or {})},
            cwd=ROOT,
            start_new_session=True,
        )
        while process.poll() is None:
            late = Limit.left() < 0
            stopped = not late and until is not None and until()
            if late or stopped:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if late:
                    raise Failed(f"{name} took longer than it may")
                break
            time.sleep(0.1 if until else 0.01)
        peak, seconds = watch.stop(), time.perf_counter() - begun
        stdout.seek(0)
        stderr.seek(0)
        ran = Ran(stdout.read(), stderr.read(), seconds, peak)
    if process.returncode != 0 and not stopped:
        lines = [line for line in ran.stderr.splitlines() if line.strip()]
        raise Failed(f"{name} ended with {process.returncode}: {' / '.join(lines[-3:])[:400]}")
    return ran


class Table:
    def __init__(self):
        self.head, self.rows = {}, []
        self.check = None

    def add(self, what, value, unit="", note=""):
        self.rows.append(
            {"check": self.check, "what": what, "value": value, "unit": unit, "note": note}
        )
        print(f"check: {self.check}: {what} = {shown(value)} {unit} {note}", file=sys.stderr, flush=True)

    def make(self, name, limit, check):
        """Makes one check within `limit` seconds and within the whole run's time; false if it
        has to be made later."""
        self.check = name
        begun = time.time()
        Limit.end = END if REHEARSAL else min(END, begun + limit)
        try:
            if END - begun < 3:
                raise NotRun("out of time")
            check(self)
        except NotYet as reason:
            if time.time() < END - 3 and Limit.patience < END:
                return False
            self.add("all", "not run", note=str(reason))
        except NotRun as reason:
            self.add("all", "not run", note=str(reason))
        except Failed as reason:
            self.add("the rest", "FAILED", note=str(reason))
        except Exception as error:  # a fault of a check must not cost the others
            self.add("the rest", "FAILED", note=f"{type(error).__name__}: {error}")
        else:
            self.add("time of the check", round(time.time() - begun, 1), "s")
        self.write()
        return True

    def write(self):
        OUT.mkdir(parents=True, exist_ok=True)
        lines = ["# Checks on an NVIDIA card", ""]
        if REHEARSAL:
            lines += ["**A rehearsal on the CPU: its figures say nothing.**", ""]
        lines += [f"- {key}: {value}" for key, value in self.head.items()]
        lines += ["", "| check | what | value | unit | note |", "|---|---|---|---|---|"]
        for row in self.rows:
            cells = [row["check"], row["what"], shown(row["value"]), row["unit"], row["note"]]
            lines.append("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        replace(OUT / "table.md", "\n".join(lines) + "\n")
        found = {"head": self.head, "rehearsal": REHEARSAL, "rows": self.rows}
        replace(OUT / "results.json", json.dumps(found, indent=1) + "\n")


def replace(path, content):
    new = path.with_suffix(".new")
    new.write_text(content)
    new.replace(path)


def shown(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def fresh(name):
    """An empty folder of this name to work in."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
