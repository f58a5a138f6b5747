#!/usr/bin/env python3
"""Installs what `make dist` made into clean places, uses it and uninstalls it.

    scripts/dist/test.py [--demo] [NAME]...     only the tests with these names

A place is clean: its PATH holds a few tools and neither compiler nor Rust, its environment
nothing else, and each Python environment is new.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ["JOLA_CACHE"])
LIBTORCH = Path(os.environ["LIBTORCH"])
MODEL = Path(os.environ["JOLA_TEST_MODEL"])
ROUTING = ROOT / "examples/routing"
EDIT = ROOT / "tests/golden/edit.gguf"
TOOLS = "sh tar gzip cp mkdir rm find dirname uname getconf grep cat env dpkg dpkg-deb dpkg-split"
PROMPT = "Message: Where is my parcel?\nTeam:"
TRAIN = ["--epochs", "2", "--lr", "0.1", "--sparsity", "0.75", "--seed", "42"]
TESTS = []


def test(function):
    TESTS.append(function)
    return function


class Place:
    """A folder in which programs run with a small PATH and no environment of the caller's."""

    def __init__(self, folder, dist):
        self.folder, self.dist = folder, dist
        self.tools = folder / "tools"
        self.tools.mkdir()
        for name in TOOLS.split():
            (self.tools / name).symlink_to(shutil.which(name))

    def package(self, pattern):
        found = list(self.dist.glob(pattern))
        assert len(found) == 1, f"{pattern}: {found}"
        return found[0]

    def run(self, *command, path=(), code=0, said="", cwd=None, **env):
        """Runs a command, which must end with `code` and say `said`; returns its output."""
        folders = [*map(str, path), str(self.tools)]
        env = {"PATH": ":".join(folders), "HOME": str(self.folder), **env}
        program = shutil.which(str(command[0]), path=env["PATH"]) or command[0]
        done = subprocess.run(
            [program, *map(str, command[1:])],
            env=env,
            cwd=cwd or self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        shown = f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == code, shown
        assert said in done.stdout + done.stderr, f"no `{said}`: {shown}"
        return done.stdout

    def refused(self, *command, said, **rest):
        """Runs a command that must say in one line what to do."""
        self.run(*command, code=1, said=said, **rest)

    def environment(self, name, *wheels):
        """A new Python environment with these wheels."""
        venv = self.folder / name
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        for wheel in wheels:
            self.install(venv, wheel)
        return venv

    def install(self, venv, wheel):
        pip = ["-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check"]
        self.run(venv / "bin/python", *pip, wheel)


def torch_package(venv, version="2.13.0"):
    """A Python package `torch` of the libraries that the set-up has: the 6 GB of the real one
    are nothing but these and CUDA's."""
    site = next((venv / "lib").glob("python3*/site-packages"))
    (site / "torch").mkdir()
    (site / "torch/__init__.py").touch()
    (site / "torch/lib").symlink_to(LIBTORCH / "lib")
    info = site / f"torch-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    (info / "RECORD").touch()


def use(place, folder):
    """Runs, evaluates and serves with the `llama-jola` of a folder."""
    answer(place, folder / "llama-jola")
    serve(place, folder / "llama-jola")


def answer(place, *llama_jola):
    """Runs and evaluates with an edit."""
    edited = ["-m", MODEL, "--jola", EDIT]
    text = place.run(*llama_jola, "run", *edited, "-p", PROMPT, "-n", "4")
    assert text.strip(), "no answer"
    data = ["--data", ROUTING / "test.jsonl", "--limit", "4", "--json"]
    scores = place.run(*llama_jola, "eval", *edited, *data)
    assert json.loads(scores.splitlines()[-1])["n"] == 4


def serve(place, llama_jola):
    """A prebuilt llama-server with the edit."""
    server = CACHE / "hosts/server"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    libraries = f"{server}/cpu:{server}/bin"
    command = [
        llama_jola, "with", EDIT, "--", server / "bin/llama-server", "-m", MODEL,
        "--port", str(port), "-c", "512", "-ngl", "0",
    ]  # fmt: skip
    env = {"PATH": str(place.tools), "LD_LIBRARY_PATH": libraries, "LLAMA_JOLA_LOG": "info"}
    log = place.folder / "server.log"
    with open(log, "w") as file:
        running = subprocess.Popen(command, env=env, stdout=file, stderr=file)
    try:
        body = json.dumps({"prompt": PROMPT, "n_predict": 4, "temperature": 0}).encode()
        for _ in range(600):
            assert running.poll() is None, log.read_text()
            try:
                address = f"http://127.0.0.1:{port}/completion"
                headers = {"Content-Type": "application/json"}
                request = urllib.request.Request(address, body, headers)
                with urllib.request.urlopen(request, timeout=60) as answer:
                    assert "content" in json.load(answer)
                break
            except OSError:
                time.sleep(0.2)
        else:
            raise AssertionError(log.read_text())
    finally:
        running.kill()
        running.wait()
    assert "llama-jola: " in log.read_text(), "the edit did not reach the server"


def left(folder):
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


@test
def sums(place):
    """The digests hold, and packing again gives the same bytes."""
    text = (place.dist / "SHA256SUMS").read_text()
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=place.dist, check=True)
    again = place.folder / "again"
    only = [] if "jola_trainer" in text else ["--only", "llama-jola"]
    package = [sys.executable, ROOT / "scripts/dist/package.py", "--out", again]
    subprocess.run([*package, *only, *OPTIONS.programs.split()], check=True, stdout=subprocess.DEVNULL)
    assert (again / "SHA256SUMS").read_text() == text


@test
def names_of_this_machine(place):
    """No file of a package names a folder of the machine that made it."""
    cargo = os.environ.get("CARGO_HOME", Path.home() / ".cargo")
    folders = {str(folder) for folder in [ROOT, CACHE, LIBTORCH, cargo, Path.home()]} - {"/"}
    # Not after a letter: `/src` is no part of `llama.cpp/src`.
    pattern = rf"(?<![\w.-])({'|'.join(map(re.escape, sorted(folders)))})/[^\0]{{0,80}}".encode()
    for path in sorted(place.dist.iterdir()):
        unpacked = place.folder / path.name
        if path.suffix == ".deb":
            subprocess.run(["dpkg-deb", "-x", path, unpacked], check=True)
        elif path.name.endswith((".gz", ".whl")):
            shutil.unpack_archive(path, unpacked, "zip" if path.suffix == ".whl" else "gztar")
        else:
            shutil.copy(path, unpacked)
        for file in left(unpacked) if unpacked.is_dir() else [unpacked]:
            found = re.search(pattern, file.read_bytes())
            assert not found, f"{path.name}: {file.name} names {found[0]}"


@test
def tarball(place):
    archive = place.package("*.tar.gz")
    place.run("tar", "-xzf", archive)
    folder = next(place.folder.glob("llama-jola-*"))
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    for name in [
        "bin/llama-jola", "lib/libjola.so", "include/jola.h", "share/man/man1/llama-jola-run.1",
        "share/bash-completion/completions/llama-jola", "LICENSE-MIT", "THIRD-PARTY-LICENSES",
    ]:  # fmt: skip
        assert name in names, name
    assert len((folder / "README").read_text().splitlines()) <= 10
    place.run(folder / "bin/llama-jola", "--version", said="llama-jola ")
    prefix = place.folder / "prefix"
    place.run(folder / "install.sh", prefix, said="is not on the PATH")
    use(place, prefix / "bin")
    place.run(folder / "install.sh", "--uninstall", prefix)
    assert not left(prefix), left(prefix)


@test
def older_glibc(place):
    """The tarball's programs with the C library of an older system."""
    place.run("tar", "-xzf", place.package("*.tar.gz"))
    folder = next(place.folder.glob("llama-jola-*"))
    libraries = CACHE / "older-glibc/lib/x86_64-linux-gnu"
    loader = [libraries / "ld-linux-x86-64.so.2", "--library-path", libraries]
    plugin, program = folder / "lib/libjola.so", folder / "bin/llama-jola"
    # Every symbol is looked up at once.
    place.run(*loader, "--preload", plugin, program, "--version", said="llama-jola ", LD_BIND_NOW="1")
    answer(place, *loader, program)
    print(f"  with {next(libraries.glob('libc-*')).stem}")


@test
def older_machines(place):
    """A processor without AVX2, and a system without glibc."""
    place.run("tar", "-xzf", place.package("*.tar.gz"))
    folder = next(place.folder.glob("llama-jola-*"))
    qemu, program = shutil.which("qemu-x86_64"), folder / "bin/llama-jola"
    assert qemu, "qemu-x86_64 is missing: scripts/setup.sh hub installs it"
    place.refused(qemu, "-cpu", "Nehalem", program, "--version", said="this processor has no AVX2")
    place.run(qemu, "-cpu", "max", program, "--version", said="llama-jola ")
    cpuinfo = place.folder / "cpuinfo"
    cpuinfo.write_text("flags : fpu sse2 avx\n")
    install = folder / "install.sh"
    place.refused(install, "p", said="a processor with AVX2", JOLA_CPUINFO=str(cpuinfo))
    for answer, said in [
        ("echo glibc 2.17", "this system has glibc 2.17"),
        ("exit 1", "this system has none (musl?)"),
    ]:
        stub = place.folder / "stub"
        stub.mkdir(exist_ok=True)
        (stub / "getconf").write_text(f"#!/bin/sh\n{answer}\n")
        (stub / "getconf").chmod(0o755)
        place.refused(install, "p", path=[stub], said=said)
    assert not left(place.folder / "p")
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--only-binary", ":all:"]
    pip += ["--platform", "musllinux_1_2_x86_64", "--target", place.folder / "musl"]
    place.refused(*pip, place.package("llama_jola-*.whl"), said="not a supported wheel")


@test
def debian(place):
    package = place.package("*.deb")
    root = place.folder / "root"
    (root / "var/lib/dpkg/info").mkdir(parents=True)
    (root / "var/lib/dpkg/updates").mkdir()
    (root / "var/lib/dpkg/status").touch()
    dpkg = ["dpkg", f"--root={root}", "--force-depends,not-root,bad-path", f"--log={root}/log"]
    place.run("dpkg-deb", "--info", package, said="Depends: libc6 (>= 2.28)")
    place.run(*dpkg, "--install", package)
    use(place, root / "usr/bin")
    place.run(*dpkg, "--purge", "llama-jola")
    assert not left(root / "usr"), left(root / "usr")


@test
def wheel(place):
    venv = place.environment("venv", place.package("llama_jola-*.whl"))
    before = set(left(place.environment("empty")))
    use(place, venv / "bin")
    ask = "import llama_jola as l; print(l.library_path()); open(l.header_path())"
    library = place.run(venv / "bin/python", "-c", ask).strip()
    assert Path(library).read_bytes().startswith(b"\x7fELF")
    place.run(venv / "bin/python", "-m", "pip", "uninstall", "--quiet", "-y", "llama-jola")
    names = [path for path in left(venv) if "jola" in str(path.relative_to(venv))]
    assert not names and before, names


@test
def wheel_tags(place):
    """What auditwheel says about the wheels' platforms."""
    audit = CACHE / "dist/bin/auditwheel"
    for path in sorted(place.dist.glob("*.whl")):
        tag = re.search(r"manylinux_\d+_\d+_x86_64", path.name)[0]
        done = subprocess.run([audit, "show", path], stdout=subprocess.PIPE, text=True, check=True)
        text = " ".join(done.stdout.split())
        if path.name.startswith("llama_jola"):
            said = re.search(r'consistent with the following platform tag: "(\w+)"', text)
            assert said, text
            number = lambda name: tuple(map(int, re.findall(r"_(\d+)", name)[:2]))
            assert number(said[1]) <= number(tag) == (2, 28), text
        else:
            # libtorch is another package's: no platform has it.
            assert "libtorch" in text or "linux_x86_64" in text, text


@test
def trainer(place):
    """From pip to the demo's first edit, then the page about it for a hub."""
    start = time.monotonic()
    venv = place.environment("venv", place.package("llama_jola-*.whl"))
    torch_package(venv)
    place.install(venv, place.package("jola_trainer-*.whl"))
    installation = time.monotonic() - start
    train, llama_jola = venv / "bin/jola-train", venv / "bin/llama-jola"
    place.run(train, "--version", said="jola-train ")
    # The two programs stay together behind a link.
    link = place.folder / "link"
    link.symlink_to(next(venv.rglob("bin/jola-train-core")).with_name("jola-train"))
    place.run(link, "--version", said="jola-train ", LIBTORCH=str(LIBTORCH))
    data = ["-m", MODEL, "--data", ROUTING / "train.jsonl"]
    quick = ["--steps", "10", "--valid-share", "0", "--lr", "0.1", "-o", "quick.gguf"]
    place.run(train, *data, *quick, said="wrote quick.gguf")
    print(f"  ten steps: {time.monotonic() - start:.0f} s after the first pip install")
    metrics(place, place.folder / "quick.run/metrics.jsonl")
    place.run(llama_jola, "eval", "-m", MODEL, "--jola", "quick.gguf",
              "--data", ROUTING / "test.jsonl", "--limit", "4", "--json")  # fmt: skip
    card(place, llama_jola, "quick.gguf")
    if OPTIONS.demo:
        start = time.monotonic()
        place.run(train, *data, "--valid", ROUTING / "valid.jsonl", "-o", "edit.gguf", *TRAIN)
        training = time.monotonic() - start
        print(f"  the demo's edit: {training:.0f} s, {installation:.0f} s of installation before it")
    place.run(venv / "bin/python", "-m", "pip", "uninstall", "--quiet", "-y", "jola-trainer")
    assert not train.exists()


def metrics(place, path):
    """The recipes of docs/reference/run-directory.md."""
    python = CACHE / "hub/bin/python"
    for recipe in sorted((ROOT / "examples/python").glob("metrics_*.py")):
        package = {"tensorboard": "tensorboardX"}.get(recipe.stem[8:], recipe.stem[8:])
        if subprocess.run([python, "-c", f"import {package}"], stderr=subprocess.DEVNULL).returncode:
            print(f"  {recipe.name}: not run, {package} does not install here")
            continue
        env = dict(os.environ, WANDB_MODE="offline", WANDB_SILENT="true", HOME=str(place.folder))
        command = [python, recipe, path]
        out = subprocess.run(command, cwd=place.folder, env=env, check=True, stdout=subprocess.PIPE)
        made = [file for name in ("runs", "wandb") for file in left(place.folder / name)]
        assert b"loss" in out.stdout or made, recipe


def card(place, llama_jola, edit):
    """The hub's own parser reads the page as it was meant."""
    place.run(llama_jola, "card", edit, "-o", "README.md", "--base-model", "a/b", "--license", "mit")
    check = """
import sys
from huggingface_hub import ModelCard
data = ModelCard.load(sys.argv[1]).data
assert data.base_model == "a/b" and data.license == "mit", data
assert data.tags == ["llama-cpp", "gguf", "jola"], data
assert data.to_dict()["base_model_relation"] == "adapter", data
assert len(data.to_dict()["jola_data_sha256"]) == 64, data
"""
    python = CACHE / "hub/bin/python"
    subprocess.run([python, "-c", check, place.folder / "README.md"], check=True)


@test
def trainer_without_its_torch(place):
    wheel = place.package("jola_trainer-*.whl")
    for name, version, said in [
        ("none", None, "torch is not installed beside jola-train: pip install 'torch==2.13.*'"),
        ("other", "2.11.0", "needs torch 2.13, this environment has torch 2.11.0: pip install"),
    ]:
        venv = place.environment(name)
        if version:
            torch_package(venv, version)
        pip = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        place.run(venv / "bin/python", *pip, wheel)
        place.refused(venv / "bin/jola-train", "--version", said=said)
    alone = place.folder / "alone"
    alone.mkdir()
    site = next((venv / "lib").glob("python3*/site-packages"))
    shutil.copy(site / "jola_trainer/bin/jola-train", alone)
    place.refused(alone / "jola-train", "--version", said="jola-train-core is missing")


OPTIONS = argparse.Namespace(demo=False, programs="")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", choices=[[], *(t.__name__ for t in TESTS)])
    parser.add_argument("--dist", type=Path, default=ROOT / "dist")
    parser.add_argument("--programs", default="", help="options for package.py")
    parser.add_argument("--demo", action="store_true", help="train the demo's edit, too")
    args = parser.parse_args(namespace=OPTIONS)
    for function in TESTS:
        if args.names and function.__name__ not in args.names:
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="jola-dist-") as folder:
            function(Place(Path(folder).resolve(), args.dist.resolve()))
        print(f"{function.__name__}: passed ({time.monotonic() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
