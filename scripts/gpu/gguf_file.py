"""GGUF files: metadata read and written, tensors written one after the other."""

import struct

import numpy as np

U32, F32, STRING, ARRAY = 4, 6, 8, 9
NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
ALIGNMENT = 32
# ggml's type number, values and bytes of a block.
TYPES = {"F32": (0, 1, 4), "I32": (26, 1, 4), "Q4_K": (12, 256, 144), "Q6_K": (14, 256, 210)}


class Reader:
    """Metadata of a file, as {key: (type, value)}; an array's value is (element type, list)."""

    def __init__(self, path):
        self.data = np.memmap(path, np.uint8, "r")
        self.at = 0
        magic, version = self.take("<4sI")
        if magic != b"GGUF" or version not in (2, 3):
            raise SystemExit(f"{path} is no GGUF file of version 2 or 3")
        _tensors, entries = self.take("<QQ")
        self.metadata = {}
        for _ in range(entries):
            key = self.string().decode()
            (kind,) = self.take("<I")
            self.metadata[key] = (kind, self.value(kind))

    def take(self, layout):
        found = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return found

    def string(self):
        (length,) = self.take("<Q")
        self.at += length
        return self.data[self.at - length : self.at].tobytes()

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            element, length = self.take("<IQ")
            return element, [self.value(element) for _ in range(length)]
        return self.take(NUMBERS[kind])[0]


def encoded(kind, value):
    if kind == STRING:
        value = value.encode() if isinstance(value, str) else value
        return struct.pack("<Q", len(value)) + value
    if kind == ARRAY:
        element, values = value
        return struct.pack("<IQ", element, len(values)) + b"".join(encoded(element, v) for v in values)
    return struct.pack(NUMBERS[kind], value)


def size_of(kind, shape):
    _, values, size = TYPES[kind]
    return int(np.prod(shape)) // values * size


def padding(size):
    return b"\0" * (-size % ALIGNMENT)


def write(path, metadata, tensors):
    """`tensors` lists (name, type, shape with the fastest dimension first, data): data is a
    function that yields the tensor's bytes in pieces."""
    head = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))]
    for key, (kind, value) in metadata.items():
        head += [encoded(STRING, key), struct.pack("<I", kind), encoded(kind, value)]
    offset = 0
    for name, kind, shape, _ in tensors:
        head += [encoded(STRING, name), struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, TYPES[kind][0], offset)]
        offset += size_of(kind, shape)
        offset += -offset % ALIGNMENT
    head = b"".join(head)
    with open(path, "wb", buffering=0) as file:
        file.write(head + padding(len(head)))
        for name, kind, shape, data in tensors:
            size = 0
            for piece in data():
                view = memoryview(piece).cast("B")
                size += len(view)
                while view:
                    view = view[file.write(view) :]
            if size != size_of(kind, shape):
                raise SystemExit(f"{name}: {size} bytes instead of {size_of(kind, shape)}")
            file.write(padding(size))
