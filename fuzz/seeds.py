#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets, fuzz/seeds/<target>/, from the golden files and by hand.

Seeds are small valid inputs: the fuzzer begins with what works and breaks it.
"""

import pathlib
import struct
import zipfile

FUZZ = pathlib.Path(__file__).parent
GOLDEN = FUZZ.parent / "tests" / "golden"
IMPORT = GOLDEN / "import"


def write(target, name, data):
    folder = FUZZ / "seeds" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(entries, tensors=(), version=3):
    """A GGUF file of (key, type id, encoded value) and (name, dims, type id, data)."""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries))
    for key, kind, value in entries:
        out += text(key) + struct.pack("<I", kind) + value
    offset, data = 0, b""
    for name, dims, kind, values in tensors:
        out += text(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        out += struct.pack("<IQ", kind, offset)
        values += bytes(-len(values) % 32)
        data += values
        offset += len(values)
    return out + bytes(-len(out) % 32) + data


def u32(key, value):
    return key, 4, struct.pack("<I", value)


def string(key, value):
    return key, 8, text(value)


def array(key, kind, values):
    return key, 9, struct.pack("<IQ", kind, len(values)) + b"".join(values)


def sidecar(heads, tensors):
    return gguf(
        [
            string("general.type", "adapter"),
            string("general.architecture", "llama"),
            string("general.name", "x"),
            string("general.base_model.0.name", "y"),
            string("adapter.type", "jola"),
            u32("jola.format_version", 1),
            u32("jola.block_count", 3),
            heads,
            u32("jola.head_dim", 2),
            string("jola.method", "jola"),
            string("jola.train.data", "rows.jsonl"),
        ],
        tensors,
    )


def main():
    numbers = zip(range(13), "<B <b <H <h <I <i <f <B".split() + [None, None] + "<Q <q <d".split())
    values = [(f"k{kind}", kind, struct.pack(code, 1)) for kind, code in numbers if code]
    arrays = [array(f"a{kind}", kind, [value]) for _, kind, value in values]
    arrays += [array("texts", 8, [text("a"), text("b")]), string("s", "text")]
    write("gguf", "values", gguf(values + arrays, version=2))
    base = [string("general.architecture", "llama"), u32("llama.block_count", 2)]
    base += [u32("llama.embedding_length", 8), u32("llama.attention.head_count", 4)]
    base += [array("llama.attention.head_count_kv", 4, [struct.pack("<I", n) for n in (2, 0)])]
    data = struct.pack("<8f", *range(8))
    write("gguf", "base", gguf(base, [("token_embd.weight", (4, 2), 0, data)]))
    write("gguf", "blocks", gguf(base, [("b", (32, 1), 8, bytes(34)), ("h", (2,), 1, bytes(4))]))

    golden = (GOLDEN / "edit.gguf").read_bytes()
    write("sidecar", "golden", golden)
    write("gguf", "sidecar", golden)
    layer = "blk.0.attn_output.jola_"
    pair = [
        (layer + "mul", (2, 1), 0, struct.pack("<2f", 0.5, -0.5)),
        (layer + "mul_heads", (1,), 26, struct.pack("<i", 1)),
    ]
    write("sidecar", "uniform", sidecar(u32("jola.head_count", 4), pair))
    counts = [struct.pack("<I", n) for n in (4, 0, 4)]
    offset = [(name.replace("mul", "add"), *rest) for name, *rest in pair]
    write("sidecar", "per_layer", sidecar(array("jola.head_count", 4, counts), pair + offset))

    write("specs", "one", "a.gguf:0.5")
    write("specs", "two", "a.gguf,C:\\b.gguf:-1e3,a:b")

    for path in sorted(IMPORT.glob("*.pt")):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                entry = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
                write("pickle", path.stem, archive.read(entry))
    for name in ("iti.npy", "iti_fortran.npy", "iti.npz", "jola_stacked.pt", "lofit_offsets.pt"):
        write("arrays", name, (IMPORT / name).read_bytes())
    with zipfile.ZipFile(FUZZ / "seeds" / "arrays" / "stored.npz", "w") as archive:
        for name, entry in (("iti.npy", "std.npy"), ("iti_fortran.npy", "direction.npy")):
            archive.writestr(zipfile.ZipInfo(entry), (IMPORT / name).read_bytes())
    # The target reads a byte from the end, and puts the length before the header itself.
    stored = (IMPORT / "jola.safetensors").read_bytes()
    (size,) = struct.unpack_from("<Q", stored)
    write("safetensors", "golden", stored[8 : 8 + size])
    one = '{"x":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}'
    write("safetensors", "one", one.encode() + bytes([8]))

    write("rows", "plain", '{"prompt": "a", "completion": "b", "references": ["c"]}')
    write("rows", "instruction", '{"instruction": "a", "input": "b", "output": "c", "answer": "d"}')
    messages = (
        '[{"role": "system", "content": "s"}, {"role": "user", "content": "a"},'
        ' {"role": "assistant", "content": "b", "weight": 0}]'
    )
    write("rows", "messages", messages)
    write("rows", "chat", f'{{"messages": {messages}, "tools": [], "choices": ["b", "c"]}}')

    chatml = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m.content | trim }}"
        "{% if not loop.last %}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ bos_token ~ 'assistant' }}{% endif %}"
    )
    write("template", "chatml", f"{chatml}\0{messages}")
    macro = (
        "{% set ns = namespace(x=[]) %}{% macro f(a, b=2) %}{{ a | tojson(indent=2) }}{% endmacro %}"
        "{% generation %}{{ f({'a': [1, none]}) }}{% endgeneration %}{% set ns.x = ns.x + [1] %}"
        "{{ messages[0].content.split('a')[-1].strip() }}{{ raise_exception('no') if ns.x is none }}"
        "{{ strftime_now('%Y') }}{{ messages | selectattr('role', 'equalto', 'user') | list }}"
    )
    write("template", "macro", macro)


main()
