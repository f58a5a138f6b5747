#!/usr/bin/env python3
"""Packs compiled programs into dist/: a tarball, two wheels, a Debian package, bills of
materials and SHA256SUMS. The same programs give the same bytes.

    scripts/dist/package.py [--out dist] [--only llama-jola]
"""

import argparse
import hashlib
import os
import re
import subprocess
import tempfile
from pathlib import Path

import archives
import parts
from archives import Files

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
RELEASE = "x86_64-unknown-linux-gnu/release"
SUMMARY = "JoLA activation edits in llama.cpp: run, evaluate, serve, bake"
TRAINER_SUMMARY = "Trains JoLA edits for llama.cpp on the GGUF that will be served"

README = """\
llama-jola {version}, for Linux on x86-64 with glibc 2.28 or newer and AVX2.

  ./install.sh [PREFIX]               copies the files below ~/.local, or below PREFIX
  ./install.sh --uninstall [PREFIX]   removes them again

It also runs where it lies: bin/llama-jola finds lib/libjola.so beside it.

  bin/llama-jola inspect edit.gguf
  bin/llama-jola with edit.gguf -- llama-server -m base.gguf
"""

COPYRIGHT = """\
Copyright (c) 2026 The llama-jola authors. MIT or Apache-2.0, at your option: see
LICENSE-MIT and LICENSE-APACHE here, and THIRD-PARTY-LICENSES for what was compiled in.
"""


def version():
    return re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]


def epoch():
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    command = ["git", "log", "-1", "--format=%ct"]
    return int(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def stripped(path):
    with tempfile.NamedTemporaryFile() as file:
        subprocess.run(["strip", "--strip-unneeded", "-o", file.name, path], check=True)
        return Path(file.name).read_bytes()


def newest(path, symbol):
    """The newest version of a library's symbols that a program asks for."""
    text = subprocess.run(["readelf", "-V", path], check=True, stdout=subprocess.PIPE).stdout
    found = re.findall(rf"\b{symbol}_([0-9.]+)", text.decode())
    return max((tuple(map(int, number.split("."))) for number in found), default=(0,))


def platform(paths):
    """The tag of a wheel with these programs: at least 2.28, for which they are linked."""
    glibc = max([newest(path, "GLIBC") for path in paths] + [(2, 28)])
    return "manylinux_" + "_".join(map(str, glibc)) + "_x86_64"


def manuals(command, env=None):
    """The man pages and completions of a program."""
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, **(env or {}))
        subprocess.run([*command, "manuals", folder], check=True, env=environment)
        pages, shells = Files(), Files()
        pages.tree("", Path(folder, "man"))
        shells.tree("", Path(folder, "completions"))
    return pages, shells


def add_manuals(files, prefix, found):
    pages, shells = found
    for name, (data, _) in pages.sorted():
        files.add(f"{prefix}man/man1/{name}", data)
    for name, (data, _) in shells.sorted():
        if name.endswith(".bash"):
            files.add(f"{prefix}bash-completion/completions/{name[:-5]}", data)
        elif name.endswith(".fish"):
            files.add(f"{prefix}fish/vendor_completions.d/{name}", data)
        else:
            files.add(f"{prefix}zsh/vendor-completions/{name}", data)


class Packager:
    def __init__(self, out):
        self.out, self.version, self.epoch = out, version(), epoch()
        self.found = parts.metadata(ROOT)
        self.written = []

    def write(self, name, data):
        data = data.encode() if isinstance(data, str) else data
        (self.out / name).write_bytes(data)
        self.written.append((name, hashlib.sha256(data).hexdigest()))
        print(f"{name}  {len(data) / 1e6:.1f} MB")

    def licences(self, names, zig):
        text = parts.licences(self.found, names)
        return {
            "LICENSE-MIT": ROOT / "LICENSE-MIT",
            "LICENSE-APACHE": ROOT / "LICENSE-APACHE",
            "THIRD-PARTY-LICENSES": text + libcxx_licence() if zig else text,
        }

    def wheel(self, package, summary, programs, requires, files, found, licences):
        """A wheel of a Python package that starts programs."""
        name = package.replace("_", "-")
        info = f"{package}-{self.version}.dist-info"
        tag = f"py3-none-{platform(programs)}"
        for path in sorted((HERE / "wheels" / package).glob("*.py")):
            files.add(f"{package}/{path.name}", path)
        add_manuals(files, f"{package}-{self.version}.data/data/share/", found)
        lines = [
            "Metadata-Version: 2.4",
            f"Name: {name}",
            f"Version: {self.version}",
            f"Summary: {summary}",
            "License-Expression: MIT OR Apache-2.0",
            "Requires-Python: >=3.9",
            *(f"License-File: {name}" for name in licences),
            *(f"Requires-Dist: {requirement}" for requirement in requires),
            "Description-Content-Type: text/markdown",
            "",
            (HERE / "wheels" / package / "README.md").read_text(),
        ]
        files.add(f"{info}/METADATA", "\n".join(lines))
        wheel = "Wheel-Version: 1.0\nGenerator: llama-jola\nRoot-Is-Purelib: false\n"
        files.add(f"{info}/WHEEL", wheel + f"Tag: {tag}\n")
        program = "llama-jola" if package == "llama_jola" else "jola-train"
        files.add(f"{info}/entry_points.txt", f"[console_scripts]\n{program} = {package}:main\n")
        for title, text in licences.items():
            files.add(f"{info}/licenses/{title}", text)
        data = archives.wheel(files, self.epoch, info)
        self.write(f"{package}-{self.version}-{tag}.whl", data)

    def llama_jola(self, folder):
        """The tarball, the Debian package and the wheel of the inference side."""
        program, library = folder / "llama-jola", folder / "libjola.so"
        names = ["llama-jola", "jola-plugin"]
        binary, plugin = stripped(program), stripped(library)
        licences = self.licences(names, zig=True)
        found = manuals([program])
        self.tarball(binary, plugin, licences, found)
        self.deb(binary, plugin, licences, found)
        files = Files()
        files.add("llama_jola/bin/llama-jola", binary, 0o755)
        files.add("llama_jola/lib/libjola.so", plugin, 0o755)
        files.add("llama_jola/include/jola.h", ROOT / "plugin/jola.h")
        self.wheel("llama_jola", SUMMARY, [program, library], [], files, found, licences)
        extra = [("libc++ (of zig)", zig_version(), [{"expression": "Apache-2.0 WITH LLVM-exception"}])]
        bill = parts.bill(ROOT, self.found, names, self.version, extra)
        self.write(f"llama-jola-{self.version}.cdx.json", bill)

    def tarball(self, binary, plugin, licences, found):
        files = Files()
        files.add("bin/llama-jola", binary, 0o755)
        files.add("lib/libjola.so", plugin, 0o755)
        files.add("include/jola.h", ROOT / "plugin/jola.h")
        add_manuals(files, "share/", found)
        files.add("install.sh", HERE / "install.sh", 0o755)
        files.add("README", README.format(version=self.version))
        for name, text in licences.items():
            files.add(name, text)
        name = f"llama-jola-{self.version}-x86_64-linux"
        self.write(f"{name}.tar.gz", archives.tar_gz(files, self.epoch, name + "/"))

    def deb(self, binary, plugin, licences, found):
        files = Files()
        files.add("usr/bin/llama-jola", binary, 0o755)
        files.add("usr/lib/libjola.so", plugin)
        files.add("usr/include/jola.h", ROOT / "plugin/jola.h")
        pages, shells = found
        packed = Files()
        for name, (data, _) in pages.sorted():
            packed.add(name + ".gz", archives.gzipped(data))
        add_manuals(files, "usr/share/", (packed, shells))
        files.add("usr/share/doc/llama-jola/copyright", COPYRIGHT)
        for name, text in licences.items():
            files.add(f"usr/share/doc/llama-jola/{name}", text)
        control = Files()
        control.add(
            "control",
            f"Package: llama-jola\nVersion: {self.version}\nArchitecture: amd64\n"
            "Maintainer: The llama-jola authors <nobody@localhost>\n"
            f"Installed-Size: {files.size() // 1024}\nDepends: libc6 (>= 2.28)\n"
            f"Section: science\nPriority: optional\nDescription: {SUMMARY}\n"
            " It needs a processor with AVX2.\n",
        )
        sums = (f"{hashlib.md5(data).hexdigest()}  {name}\n" for name, (data, _) in files.sorted())
        control.add("md5sums", "".join(sums))
        packed = [archives.tar_gz(part, self.epoch, "./") for part in (control, files)]
        self.write(f"llama-jola_{self.version}_amd64.deb", archives.deb(*packed, self.epoch))

    def trainer(self, folder):
        """The trainer's wheel."""
        programs = [folder / name for name in ("jola-train", "jola-train-core")]
        names = ["jola-trainer"]
        files = Files()
        for program in programs:
            files.add(f"jola_trainer/bin/{program.name}", stripped(program), 0o755)
        env = {"LD_LIBRARY_PATH": os.environ["LIBTORCH"] + "/lib"}
        found = manuals([programs[1]], env)
        requires = ["torch==2.13.*"]
        licences = self.licences(names, zig=False)
        self.wheel("jola_trainer", TRAINER_SUMMARY, programs, requires, files, found, licences)
        bill = parts.bill(ROOT, self.found, names, self.version)
        self.write(f"jola-trainer-{self.version}.cdx.json", bill)


def zig():
    cache = Path(os.environ["JOLA_CACHE"])
    return next(cache.glob("dist/lib/python3*/site-packages/ziglang"))


def zig_version():
    info = next(zig().parent.glob("ziglang-*.dist-info")).name
    return info.removeprefix("ziglang-").removesuffix(".dist-info")


def libcxx_licence():
    text = (zig() / "lib/libcxx/LICENSE.TXT").read_text(errors="replace")
    return "\n" + "-" * 80 + "\n\nlibc++ and libunwind of LLVM, from zig\n\n" + text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--only", choices=["llama-jola", "trainer"])
    parser.add_argument("--llama-jola", type=Path, default=ROOT / "target/dist" / RELEASE)
    parser.add_argument("--trainer", type=Path, default=ROOT / "target/dist-trainer" / RELEASE)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    packager = Packager(args.out)
    if args.only != "trainer":
        packager.llama_jola(args.llama_jola)
    if args.only != "llama-jola":
        packager.trainer(args.trainer)
    sums = "".join(f"{digest}  {name}\n" for name, digest in sorted(packager.written))
    (args.out / "SHA256SUMS").write_text(sums)


if __name__ == "__main__":
    main()
