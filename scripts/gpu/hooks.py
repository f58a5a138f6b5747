#!/usr/bin/env python3
"""The Python stack on a card: transformers' Llama of a shape, random weights, edits as hooks.

usage: hooks.py SHAPE DEVICE DTYPE ROWS LENGTH RESPONSE STEPS
       hooks.py products DEVICE SIZE

SHAPE is a JSON object: d, layers, heads, kv, f, vocab, tied. Prints one JSON object. A step is
that of research/scripts/bench/peer.py, whose edits it trains, without a tokenizer.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import torch

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def settled(device):
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def build(shape, device, dtype):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=shape["d"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv"],
        intermediate_size=shape["f"],
        vocab_size=shape["vocab"],
        tie_word_embeddings=shape["tied"],
        max_position_embeddings=8192,
        attn_implementation="sdpa",
    )
    # Made where they stay: 8 billion numbers would take minutes on the CPU.
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model.requires_grad_(False), config


def train(shape, device, dtype, rows, length, response, steps):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "research/scripts/bench"))
    from peer import HeadEdits

    model, config = build(shape, device, dtype)
    edits = []
    for layer in model.model.layers:
        edits.append(HeadEdits(config.num_attention_heads, shape["d"] // shape["heads"]).to(device))
        layer.self_attn.o_proj.register_forward_pre_hook(edits[-1])
    edits = torch.nn.ModuleList(edits)
    optimiser = torch.optim.AdamW(edits.parameters(), lr=0.01, weight_decay=0)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps):
        begun = settled(device)
        ids = torch.randint(0, shape["vocab"], (rows, length)).to(device)
        labels = ids.clone()
        labels[:, : length - response] = -100
        loss = model(input_ids=ids, labels=labels).loss
        loss = loss + 1e-4 * sum(edit.expected_open() for edit in edits)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(edits.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(settled(device) - begun)
    found = {"step_s": statistics.median(seconds[len(seconds) // 2 :]), "seconds": seconds}
    if device == "cuda":
        found["allocated_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def products(device, dtype, size):
    """Operations per second."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(12):
        begun = settled(device)
        a @ b
        seconds.append(settled(device) - begun)
    return 2 * size**3 / statistics.median(seconds[2:])


def main():
    match sys.argv[1:]:
        case ["products", device, size]:
            print(json.dumps({name: products(device, dtype, int(size)) for name, dtype in DTYPES.items()}))
        case [shape, device, dtype, *numbers] if len(numbers) == 4:
            print(json.dumps(train(json.loads(shape), device, DTYPES[dtype], *map(int, numbers))))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
