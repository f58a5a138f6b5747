#!/usr/bin/env python3
"""The model of tests/golden/make.py in float64, on a base with biases and on a baked file.

    PYTHONPATH=tests/golden float64.py BASE.gguf BAKED.gguf TOKENS.json OUT EDIT.gguf:S ...

Writes OUT/live.npy and OUT/baked.npy, logits [tokens, vocabulary]. Both files are in 32-bit
floats.
"""

import json
import sys
from pathlib import Path

import make
import numpy as np
from gguf import GGUFReader


class Model(make.Model):
    def attention(self, layer, x, edits):
        projected = super().attention(layer, x, edits)
        bias = self.tensors.get(f"blk.{layer}.attn_output.bias")
        return projected if bias is None else projected + bias.data.astype(np.float64)


def sidecar(path):
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
    halves = {"mul": {}, "add": {}}
    for name in tensors:
        if name.endswith("_heads"):
            continue
        heads = tensors[name + "_heads"].tolist()
        half = halves[name.rsplit("_", 1)[1]]
        half[int(name.split(".")[1])] = (heads, tensors[name].reshape(len(heads), -1))
    return make.Sidecar(**halves)


def main(base, baked, tokens, out, *specs):
    tokens = json.loads(Path(tokens).read_text())
    specs = (spec.rsplit(":", 1) for spec in specs)
    edits = [(sidecar(path), np.float64(strength)) for path, strength in specs]
    np.save(Path(out) / "live.npy", Model(base).logits(tokens, edits))
    np.save(Path(out) / "baked.npy", Model(baked).logits(tokens, []))


if __name__ == "__main__":
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    main(*sys.argv[1:])
