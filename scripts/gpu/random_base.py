#!/usr/bin/env python3
"""Writes a random base model of Llama 3 8B's shape, in the types of Q4_K_M.

usage: random_base.py OUT.gguf --like BASE.gguf [--edit EDIT.gguf] [--layers N] …

The tokenizer is that of BASE.gguf, a Llama, lengthened by fillers. The weights have a standard
deviation of about 0.02. --edit also writes a random edit of every head. Such a model answers
nonsense: it is there to measure time and memory, and whether two programs agree.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from gguf_file import F32, STRING, U32, Reader, size_of, write

DEVIATION = 0.02
UNUSED = 5  # llama.cpp's kind of a token that stands for nothing
PIECE = 1 << 16  # blocks written at once

# A block of Q4_K holds d·scale·q − dmin·min with q of 4 bits and scales of 6. With dmin = 7.5 d
# and min = scale the mean is 0, and this the standard deviation for d = 1.
Q4_K_DEVIATION = (63 * 127 / 6 * (16**2 - 1) / 12) ** 0.5
# A block of Q6_K holds d·scale·(q − 32) with q of 6 bits and scales of 8, signed.
Q6_K_DEVIATION = ((256**2 - 1) / 12 * (64**2 - 1) / 12) ** 0.5


def q4_k(rng, shape):
    """Blocks: d, dmin, 12 bytes of scales and minima, 128 bytes of numbers."""
    d = np.array([DEVIATION / Q4_K_DEVIATION, 7.5 * DEVIATION / Q4_K_DEVIATION], "<f2").view(np.uint8)
    for blocks in pieces(rng, shape, "Q4_K"):
        blocks[:, :4] = d
        # Minima equal to the scales: the first four as they are, the other four by nibbles.
        blocks[:, 8:12] = blocks[:, 4:8]
        blocks[:, 12:16] = (blocks[:, 12:16] & 15) * 17
        yield blocks


def q6_k(rng, shape):
    """Blocks: 192 bytes of numbers, 16 scales, d."""
    d = np.array([DEVIATION / Q6_K_DEVIATION], "<f2").view(np.uint8)
    for blocks in pieces(rng, shape, "Q6_K"):
        blocks[:, 208:] = d
        yield blocks


def pieces(rng, shape, kind):
    size = size_of(kind, (256,))
    left = size_of(kind, shape) // size
    while left:
        count = min(left, PIECE)
        words = rng.integers(0, 2**64, -(-count * size // 8), np.uint64)
        yield words.view(np.uint8)[: count * size].reshape(count, size)
        left -= count


def ones(rng, shape):
    """The weights of a norm."""
    yield (1 + 0.05 * rng.standard_normal(shape[0])).astype("<f4")


def more_bits(layer, layers):
    """Where llama.cpp's quantiser takes Q6_K for attn_v and ffn_down in a Q4_K_M."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def tensors(args):
    d, width = args.embedding, args.embedding // args.heads
    kv = width * args.key_value_heads
    yield "token_embd.weight", "Q4_K", (d, args.vocabulary)
    for layer in range(args.layers):
        better = "Q6_K" if more_bits(layer, args.layers) else "Q4_K"
        for name, kind, shape in (
            ("attn_norm", "F32", (d,)),
            ("attn_q", "Q4_K", (d, d)),
            ("attn_k", "Q4_K", (d, kv)),
            ("attn_v", better, (d, kv)),
            ("attn_output", "Q4_K", (d, d)),
            ("ffn_norm", "F32", (d,)),
            ("ffn_gate", "Q4_K", (d, args.feed_forward)),
            ("ffn_up", "Q4_K", (d, args.feed_forward)),
            ("ffn_down", better, (args.feed_forward, d)),
        ):
            yield f"blk.{layer}.{name}.weight", kind, shape
    yield "output_norm.weight", "F32", (d,)
    yield "output.weight", "Q6_K", (d, args.vocabulary)


def metadata(args):
    found = Reader(args.like).metadata
    if found["general.architecture"][1] != b"llama":
        sys.exit(f"random_base: {args.like} is no Llama")
    kept = {key: value for key, value in found.items() if not key.startswith(("llama.", "general."))}
    _, (_, tokens) = kept["tokenizer.ggml.tokens"]
    fillers = args.vocabulary - len(tokens)
    if fillers < 0:
        sys.exit(f"random_base: the tokenizer alone has {len(tokens)} tokens")
    for key, filler in (
        ("tokenizer.ggml.tokens", [f"<filler {i}>".encode() for i in range(fillers)]),
        ("tokenizer.ggml.token_type", [UNUSED] * fillers),
        ("tokenizer.ggml.scores", [0.0] * fillers),
    ):
        if key in kept:
            kind, (element, values) = kept[key]
            kept[key] = (kind, (element, values + filler))
    return {
        "general.architecture": (STRING, "llama"),
        "general.name": (STRING, "random"),
        "general.file_type": (U32, 15),  # mostly Q4_K_M
        "llama.block_count": (U32, args.layers),
        "llama.context_length": (U32, 8192),
        "llama.embedding_length": (U32, args.embedding),
        "llama.feed_forward_length": (U32, args.feed_forward),
        "llama.attention.head_count": (U32, args.heads),
        "llama.attention.head_count_kv": (U32, args.key_value_heads),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
        "llama.rope.dimension_count": (U32, args.embedding // args.heads),
        "llama.rope.freq_base": (F32, 500000.0),
        "llama.vocab_size": (U32, args.vocabulary),
        **kept,
    }


def write_edit(args, rng):
    """A scale and an offset of every head, by docs/reference/sidecar-format.md."""
    width = args.embedding // args.heads
    listed = []
    for layer in range(args.layers):
        for half, deviation in (("mul", 0.1), ("add", 0.01)):
            values = (deviation * rng.standard_normal((args.heads, width))).astype("<f4")
            heads = np.arange(args.heads, dtype="<i4")
            name = f"blk.{layer}.attn_output.jola_{half}"
            listed.append((name, "F32", (width, args.heads), lambda values=values: [values]))
            listed.append((f"{name}_heads", "I32", (args.heads,), lambda heads=heads: [heads]))
    entries = {
        "general.type": (STRING, "adapter"),
        "general.architecture": (STRING, "llama"),
        "general.name": (STRING, "random"),
        "general.base_model.0.name": (STRING, "random"),
        "adapter.type": (STRING, "jola"),
        "jola.format_version": (U32, 1),
        "jola.block_count": (U32, args.layers),
        "jola.head_count": (U32, args.heads),
        "jola.head_dim": (U32, width),
        "jola.method": (STRING, "jola"),
    }
    write(args.edit, entries, listed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--like", required=True, metavar="BASE.gguf")
    parser.add_argument("--edit", metavar="EDIT.gguf")
    for option, default in (
        ("layers", 32),
        ("embedding", 4096),
        ("heads", 32),
        ("key-value-heads", 8),
        ("feed-forward", 14336),
        ("vocabulary", 128256),
        ("seed", 0),
    ):
        parser.add_argument(f"--{option}", type=int, default=default, metavar="N")
    args = parser.parse_args()
    if args.embedding % 256 or args.feed_forward % 256 or args.embedding % args.heads:
        sys.exit("random_base: rows are in blocks of 256, and heads divide the embedding")
    begun = time.perf_counter()
    rng = np.random.Generator(np.random.SFC64(args.seed))
    makers = {"F32": ones, "Q4_K": q4_k, "Q6_K": q6_k}
    listed = [
        (name, kind, shape, lambda kind=kind, shape=shape: makers[kind](rng, shape))
        for name, kind, shape in tensors(args)
    ]
    # Under another name until it is whole: others wait for the file.
    part = f"{args.out}.part"
    write(part, metadata(args), listed)
    if args.edit:
        write_edit(args, rng)
    Path(part).replace(args.out)
    size = Path(args.out).stat().st_size
    print(f"random_base: {args.out}, {size / 1e9:.2f} GB in {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
