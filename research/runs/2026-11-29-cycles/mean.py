#!/usr/bin/env python3
"""Writes the mean of two sidecars with the same heads: mean.py A.gguf B.gguf OUT.gguf.

Each float32 tensor is the mean of both; all else is of the first.
"""

import math
import struct
import sys

FIXED = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def text(data, at):
    (length,) = struct.unpack_from("<Q", data, at)
    return data[at + 8 : at + 8 + length].decode(), at + 8 + length


def value(data, kind, at):
    """Where a value of the metadata ends."""
    if kind == 8:
        return text(data, at)[1]
    if kind != 9:
        return at + FIXED[kind]
    kind, count = struct.unpack_from("<IQ", data, at)
    at += 12
    for _ in range(count):
        at = value(data, kind, at)
    return at


def tensors(data):
    """Of each float32 tensor: name, where its numbers begin, how many there are."""
    n_tensors, n_keys = struct.unpack_from("<QQ", data, 8)
    at = 24
    for _ in range(n_keys):
        _, at = text(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        at = value(data, kind, at + 4)
    found = []
    for _ in range(n_tensors):
        name, at = text(data, at)
        (n_dims,) = struct.unpack_from("<I", data, at)
        dims = struct.unpack_from(f"<{n_dims}Q", data, at + 4)
        kind, offset = struct.unpack_from("<IQ", data, at + 4 + 8 * n_dims)
        at += 16 + 8 * n_dims
        found.append((name, kind, offset, math.prod(dims)))
    start = -(-at // 32) * 32
    return [(name, start + offset, count) for name, kind, offset, count in found if kind == 0]


first, second = (open(path, "rb").read() for path in sys.argv[1:3])
mean = bytearray(first)
for (name, at, count), (other, place, n_other) in zip(tensors(first), tensors(second), strict=True):
    assert (name, count) == (other, n_other), f"{name} and {other}"
    own, twin = (struct.unpack_from(f"<{count}f", data, p) for data, p in ((first, at), (second, place)))
    struct.pack_into(f"<{count}f", mean, at, *((a + b) / 2 for a, b in zip(own, twin)))
open(sys.argv[3], "wb").write(mean)
