"""The program jola-train, with the libraries of this environment's torch."""

import importlib.util
import os
import sys
from importlib import metadata
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
TORCH = "2.13"
INSTALL = f"pip install 'torch=={TORCH}.*'"


def libtorch():
    """The folder of torch, whose libraries the program is linked to; or why there is none."""
    found = importlib.util.find_spec("torch")  # torch itself would take seconds to import
    if found is None or not found.submodule_search_locations:
        raise RuntimeError(f"torch is not installed beside jola-train: {INSTALL}")
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        version = "of unknown version"
    if not version.startswith(TORCH + "."):
        raise RuntimeError(
            f"jola-train needs torch {TORCH}, this environment has torch {version}: {INSTALL}"
        )
    return Path(found.submodule_search_locations[0])


def main():
    """Becomes the program."""
    program = FOLDER / "bin" / "jola-train"
    try:
        # Somebody's own libtorch goes first, as with the program itself.
        os.environ.setdefault("LIBTORCH", "")
        if not os.environ["LIBTORCH"]:
            os.environ["LIBTORCH"] = str(libtorch())
        os.execv(program, ["jola-train", *sys.argv[1:]])
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(
            f"error: cannot run {program} ({error.strerror}): it needs Linux on x86-64 with the"
            " glibc that the package's name tells; on musl, build it from source"
        )
