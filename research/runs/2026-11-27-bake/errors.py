#!/usr/bin/env python3
"""Errors of a baked file and of the live edit, from the exact edited model: errors.txt.

    errors.py BASE.gguf FLOATS.gguf EDIT.gguf TOKENS.json N [OUTTYPE ...]

FLOATS.gguf is BASE.gguf in 32-bit floats, TOKENS.json an object from a text's name to its
token ids, of which the first N are taken.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

EXACT = ["-ctk", "f32", "-ctv", "f32"]


def llama_jola(*arguments):
    command = ["target/release/llama-jola", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


def predictions(folder, model, tokens, *options):
    """Log-probabilities [tokens, vocabulary]."""
    out = folder / "logits.bin"
    ids = ",".join(map(str, tokens))
    llama_jola("logits", "-t", 2, "-m", model, "--tokens", ids, "-o", out, *options)
    logits = np.fromfile(out, "<f4").reshape(len(tokens), -1).astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def kl(p, q):
    return float((np.exp(p) * (p - q)).sum(1).mean())


def main(folder, base, floats, edit, texts, n, *outtypes):
    baked = {outtype: folder / f"{outtype}.gguf" for outtype in outtypes}
    for outtype, out in baked.items():
        llama_jola("bake", "-m", base, "--jola", edit, "-o", out, "--outtype", outtype)
    for name, tokens in json.loads(Path(texts).read_text()).items():
        run = lambda model, *options: predictions(folder, model, tokens[: int(n)], *options)
        exact = run(floats, "--jola", edit, *EXACT)
        live, again = run(base, "--jola", edit), run(base, "--jola", edit, "-ub", 16)
        print(f"{name}: effect {kl(exact, run(base)):.3f}; to exact: live {kl(exact, live):.2e}, "
              f"-ub 16 {kl(exact, again):.2e}; live to itself {kl(live, again):.2e}")
        for outtype, out in baked.items():
            found = run(out)
            print(f"    {outtype}: to exact {kl(exact, found):.2e}, to live {kl(live, found):.2e}")


if __name__ == "__main__":
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary), *sys.argv[1:])
