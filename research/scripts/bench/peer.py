#!/usr/bin/env python3
"""The Python stack that a user would take instead: transformers' model, edits as hooks.

usage: peer.py convert BASE.gguf FOLDER     the base as transformers keeps it, once for each DTYPE
       peer.py train FOLDER ROWS.jsonl DTYPE STEPS
       peer.py products FOLDER DTYPE TOKENS RESPONSE

`train` takes optimiser steps of 8 rows with all gates open, padded to the longest row as the
stack does it, and prints one JSON object with the seconds of each step and the peak memory in
MiB before the model is read. `products` times the matrix products of such a step alone:
forwards, and backwards to their inputs. No training whose weights are frozen can be faster
than they are. DTYPE is f32 or bf16; FOLDER holds a model in each, since the mapped file of
another one would count as memory.

It runs in the environment of `scripts/setup.sh peer`; research/scripts/bench/training.py calls it.
"""

import json
import math
import resource
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
ROWS = 8
TEMPERATURE, LOW, HIGH = 0.33, -0.1, 1.1  # of the hard-concrete gates


class HeadEdits(torch.nn.Module):
    """Gated scales and offsets of one layer's heads, before the output projection."""

    def __init__(self, n_head, head_dim):
        super().__init__()
        self.shape = (n_head, head_dim)
        self.vectors = torch.nn.Parameter(0.001 * torch.randn(2, n_head, head_dim))
        self.log_alpha = torch.nn.Parameter(torch.full((2, n_head, 1), 2.0))

    def forward(self, _projection, inputs):
        noise = torch.empty_like(self.log_alpha).uniform_(1e-6, 1 - 1e-6).logit()
        soft = ((noise + self.log_alpha) / TEMPERATURE).sigmoid()
        gates = (LOW + (HIGH - LOW) * soft).clamp(0, 1)
        scale, offset = (gates * self.vectors).to(inputs[0].dtype)
        heads = inputs[0].unflatten(-1, self.shape)
        return (((1 + scale) * heads + offset).flatten(-2),)

    def expected_open(self):
        return (self.log_alpha - TEMPERATURE * math.log(-LOW / HIGH)).sigmoid().sum()


def load(folder, dtype):
    path = Path(folder) / dtype
    model = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[dtype])
    return model.requires_grad_(False), AutoTokenizer.from_pretrained(path)


def convert(gguf, folder):
    parent, _, name = gguf.rpartition("/")
    model = AutoModelForCausalLM.from_pretrained(parent or ".", gguf_file=name, dtype=torch.float32)
    # It is dequantised; transformers still takes it for quantised and refuses to save it.
    model.hf_quantizer = None
    for holder, name_of_it in ((model.config, "quantization_config"), (model, "is_quantized")):
        if hasattr(holder, name_of_it):
            delattr(holder, name_of_it)
    tokenizer = AutoTokenizer.from_pretrained(parent or ".", gguf_file=name)
    for dtype, torch_dtype in DTYPES.items():
        model.to(torch_dtype).save_pretrained(Path(folder) / dtype)
        tokenizer.save_pretrained(Path(folder) / dtype)


def encoded(tokenizer, path):
    for line in open(path):
        row = json.loads(line)
        prompt, response = (
            tokenizer(row[part], add_special_tokens=False).input_ids
            for part in ("prompt", "completion")
        )
        yield prompt, response + [tokenizer.eos_token_id]


def batch(rows, padding):
    longest = max(len(prompt) + len(response) for prompt, response in rows)
    ids = torch.full((len(rows), longest), padding)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for i, (prompt, response) in enumerate(rows):
        begin, end = len(prompt), len(prompt) + len(response)
        ids[i, :end] = torch.tensor(prompt + response)
        labels[i, begin:end] = torch.tensor(response)
        mask[i, :end] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def train(folder, path, dtype, steps):
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    model, tokenizer = load(folder, dtype)
    edits = []
    for layer in model.model.layers:
        # Not every architecture's configuration names head_dim.
        edits.append(HeadEdits(model.config.num_attention_heads, layer.self_attn.head_dim))
        layer.self_attn.o_proj.register_forward_pre_hook(edits[-1])
    edits = torch.nn.ModuleList(edits)
    optimiser = torch.optim.AdamW(edits.parameters(), lr=0.01, weight_decay=0)
    rows = list(encoded(tokenizer, path))
    seconds, tokens = [], []
    for step in range(steps):
        chosen = [rows[(step * ROWS + i) % len(rows)] for i in range(ROWS)]
        begun = time.perf_counter()
        loss = model(**batch(chosen, tokenizer.eos_token_id)).loss
        loss = loss + 1e-4 * sum(edit.expected_open() for edit in edits)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(edits.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.perf_counter() - begun)
        tokens.append(sum(len(prompt) + len(response) for prompt, response in chosen))
    return {"seconds": seconds, "tokens": tokens, "imported_mib": imported}


def products(folder, dtype, tokens, response):
    model, _ = load(folder, dtype)
    weights = [module.weight for module in model.model.modules() if isinstance(module, torch.nn.Linear)]
    head = model.lm_head.weight
    inputs = {}
    for rows, matrices in ((tokens, weights), (response, [head])):
        for matrix in matrices:
            for size in matrix.shape:
                inputs[rows, size] = torch.randn(rows, size, dtype=DTYPES[dtype])

    def step():
        for rows, matrices in ((tokens, weights), (response, [head])):
            for matrix in matrices:
                inputs[rows, matrix.shape[1]] @ matrix.T
                inputs[rows, matrix.shape[0]] @ matrix

    seconds = []
    for _ in range(4):
        begun = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begun)
    multiplied = 2 * 2 * (tokens * sum(w.numel() for w in weights) + response * head.numel())
    return {"seconds": seconds, "tokens": tokens, "operations": multiplied}


def main():
    match sys.argv[1:]:
        case ["convert", gguf, folder]:
            convert(gguf, folder)
        case ["train", folder, path, dtype, steps]:
            print(json.dumps(train(folder, path, dtype, int(steps))))
        case ["products", folder, dtype, tokens, response]:
            with torch.no_grad():
                print(json.dumps(products(folder, dtype, int(tokens), int(response))))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
