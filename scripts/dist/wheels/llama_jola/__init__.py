"""The programs of llama-jola, and where their files lie."""

import os
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def library_path():
    """The library that brings edits into other programs' llama.cpp: for LD_PRELOAD."""
    return str(FOLDER / "lib" / "libjola.so")


def header_path():
    """The C header of that library."""
    return str(FOLDER / "include" / "jola.h")


def main():
    """Becomes the program."""
    program = FOLDER / "bin" / "llama-jola"
    try:
        os.execv(program, ["llama-jola", *sys.argv[1:]])
    except OSError as error:
        # Where the dynamic linker of glibc is missing, the program itself seems to be.
        sys.exit(
            f"error: cannot run {program} ({error.strerror}): it needs Linux on x86-64 with glibc"
            " 2.28 or newer; on musl, build it from source"
        )
