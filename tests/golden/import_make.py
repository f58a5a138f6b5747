#!/usr/bin/env python3
"""Writes the files in `import/`: small checkpoints in the layouts of other projects.

Run once, by hand; the files are committed. Needs torch, numpy and safetensors:

    python3 -m venv VENV && VENV/bin/pip install torch==2.13.0 numpy safetensors
    VENV/bin/python tests/golden/import_make.py

The model they are for has 2 layers, 4 heads of width 3. The layouts are those of the released
code: JoLA and LoFiT keep one parameter list entry per head under
`model.layers.<l>.self_attn`, with z' = (1 + g2 * A) * z + g1 * v (LoFiT: no gates).
Values are exact in bfloat16, so that every element type holds the same numbers.
"""

import json
import pathlib
from collections import OrderedDict

import numpy as np
import torch
from safetensors.torch import save_file

LAYERS, HEADS, WIDTH = 2, 4, 3
OUT = pathlib.Path(__file__).parent / "import"


def vector(layer, head, sign):
    """Eighths, different for each head."""
    start = 1 + WIDTH * (HEADS * layer + head)
    return sign * torch.arange(start, start + WIDTH, dtype=torch.float32) / 8


# Closed (<= -2.398), open (>= 2.398) and in between; by layer, then head.
LOG_G1 = torch.tensor([[-3.0, 3.0, 0.0, 1.0], [2.5, -2.5, 4.0, -1.0]])
LOG_G2 = torch.tensor([[3.0, -3.0, 0.5, -4.0], [-3.0, -3.0, -3.0, 3.0]])


def gate(log_alpha):
    return torch.clamp(torch.sigmoid(log_alpha) * 1.2 - 0.1, 0, 1)


class Attention(torch.nn.Module):
    def __init__(self, layer, gates):
        super().__init__()
        parameters = lambda sign: torch.nn.ParameterList(
            torch.nn.Parameter(vector(layer, head, sign)) for head in range(HEADS)
        )
        self.q_proj = torch.nn.Linear(2, 2, bias=False)
        self.q_proj.weight.data.fill_(0.5)
        self.attn_A = parameters(1)
        self.attn_v = parameters(-1)
        if gates:
            self.log_g1 = torch.nn.Parameter(LOG_G1[layer].reshape(HEADS, 1).clone())
            self.log_g2 = torch.nn.Parameter(LOG_G2[layer].reshape(HEADS, 1).clone())


class Model(torch.nn.Module):
    def __init__(self, gates):
        super().__init__()
        self.model = torch.nn.Module()
        self.model.layers = torch.nn.ModuleList()
        for layer in range(LAYERS):
            block = torch.nn.Module()
            block.self_attn = Attention(layer, gates)
            self.model.layers.append(block)


def main():
    OUT.mkdir(exist_ok=True)
    jola = Model(gates=True).state_dict()
    torch.save(jola, OUT / "jola.pt")
    torch.save(dict(Model(gates=True).named_parameters()), OUT / "jola_parameters.pt")
    torch.save({k: v.bfloat16() for k, v in jola.items()}, OUT / "jola_bf16.pt")
    save_file(jola, OUT / "jola.safetensors")

    # One tensor for all heads instead of a list, and one of them not contiguous.
    stacked = OrderedDict()
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}.self_attn."
        rows = lambda sign: torch.stack([vector(layer, head, sign) for head in range(HEADS)])
        stacked[prefix + "attn_A"] = rows(1).T.contiguous().T
        stacked[prefix + "attn_v"] = rows(-1).reshape(-1)
        stacked[prefix + "log_g1"] = LOG_G1[layer].double()
        stacked[prefix + "log_g2"] = LOG_G2[layer].double()
    torch.save(stacked, OUT / "jola_stacked.pt")

    # LoFiT, second stage: offsets of two heads, all else as initialised.
    lofit = Model(gates=False).state_dict()
    for name, value in lofit.items():
        if "attn_A" in name or ("attn_v" in name and not name.endswith(("0.self_attn.attn_v.1", "1.self_attn.attn_v.3"))):
            value.zero_()
    torch.save(lofit, OUT / "lofit.pt")
    torch.save(
        {f"layer_{l}": {f"head_{h}": vector(l, h, -1) for h in range(HEADS)} for l in range(LAYERS)},
        OUT / "lofit_offsets.pt",
    )

    # ITI: directions and standard deviations by layer and head; alpha is given on import.
    direction = np.zeros((LAYERS, HEADS, WIDTH), np.float32)
    direction[0, 2] = [0, 3, 4]
    direction[1, 0] = [2, 0, 0]
    std = np.full((LAYERS, HEADS), 0.5)
    np.savez_compressed(OUT / "iti.npz", direction=direction, std=std)
    np.save(OUT / "iti.npy", direction.reshape(LAYERS * HEADS, WIDTH).astype(np.float64))
    np.save(OUT / "iti_fortran.npy", np.asfortranarray(direction))

    # What must be refused: a pickle that calls something else.
    torch.save({"when": __import__("datetime").date(2025, 1, 1), "a": torch.zeros(1)}, OUT / "calls.pt")
    torch.save(jola, OUT / "legacy.pt", _use_new_zipfile_serialization=False)

    expected = [
        {
            "mul": [[(gate(LOG_G2[l][h]) * vector(l, h, 1)).tolist() for h in range(HEADS)] for l in range(LAYERS)],
            "add": [[(gate(LOG_G1[l][h]) * vector(l, h, -1)).tolist() for h in range(HEADS)] for l in range(LAYERS)],
        }
    ][0]
    (OUT / "jola.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
