"""Makes the golden files of e2e/tests/both/parity.rs, without llama.cpp and torch.

    make golden            (python tests/golden/make.py [BASE.gguf])

BASE.gguf is SmolLM2-135M-Instruct Q4_1, by default $JOLA_TEST_MODEL. The packages and their
versions stand in scripts/golden-requirements.txt (NumPy 2, gguf 0.19.0). Everything random
comes from the seeds below, so a second run gives the same sidecar byte for byte, and the
same logits up to the last bits of the machine's BLAS.

The model is computed in float64 from the weights as `gguf` dequantises them. Sidecars edit
z, the heads' outputs before W_O, one after the other: z' = (1 + s*mul) * z + s*add.

Written beside this script:

    edit.gguf    a sidecar, by gguf's own writer
    golden.json  text, tokens, columns of the vocabulary; per case the sidecars, and per
                 position the most likely token and the norm of all logits
    logits.npy   float32 [cases, positions, columns]
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter, dequantize

HERE = Path(__file__).parent

TEXT = (
    "The ferry to the island leaves at seven unless the fog is thick. On such mornings the "
    "captain pours a second cup of tea, counts the gulls on the pier (there are 23 today), "
    "and waits for the bell."
)
# What the model's tokenizer makes of TEXT; the test checks that.
TOKENS = [
    504, 31936, 288, 260, 5432, 3711, 418, 4962, 6365, 260, 19998, 314, 4943, 30, 1985, 715,
    42236, 260, 20222, 273, 1970, 253, 1796, 7118, 282, 7188, 28, 11002, 260, 310, 32942, 335,
    260, 19189, 365, 11527, 359, 216, 34, 35, 1834, 643, 284, 43910, 327, 260, 13095, 30,
]  # fmt: skip

EDIT_SEED = 1  # the numbers of edit.gguf
COLUMN_SEED = 2  # which columns of the vocabulary are kept
EVERY_HEAD_SEED = 3  # the sidecar that edits every head; the test makes it by the same rule
N_COLUMNS = 128

# Heads of edit.gguf, layer -> heads: the first layer, the last, scale only, offset only, both.
EDIT_MUL = {0: [0, 4], 11: [2, 3, 8], 29: [1]}
EDIT_ADD = {0: [4, 7], 17: [0, 5], 29: [1, 6]}
EDIT_MUL_STD = 0.5
EDIT_ADD_STD = 0.2

EVERY_HEAD_MUL = 0.3  # largest absolute scale
EVERY_HEAD_ADD = 0.02  # largest absolute offset

# Per case: sidecars with their scales in the order of application.
CASES = {
    "unedited": [],
    "edit": [("edit", 1.0)],
    "every_head": [("every_head", 1.0)],
    "several": [("every_head", 1.0), ("edit", 0.5)],
    "several_reversed": [("edit", 0.5), ("every_head", 1.0)],
}


class Model:
    """A llama model, weights and metadata as they stand in the GGUF file."""

    def __init__(self, path):
        reader = GGUFReader(path)
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        field = lambda name: reader.fields[name].contents()
        assert field("general.architecture") == "llama"
        self.n_layer = field("llama.block_count")
        self.n_head = field("llama.attention.head_count")
        self.n_head_kv = field("llama.attention.head_count_kv")
        self.n_embd = field("llama.embedding_length")
        self.head_dim = self.n_embd // self.n_head
        self.eps = field("llama.attention.layer_norm_rms_epsilon")
        self.rope_base = field("llama.rope.freq_base")
        assert field("llama.rope.dimension_count") == self.head_dim

    def weight(self, name):
        """A tensor [out, in] or [n] in float64."""
        tensor = self.tensors[name + ".weight"]
        return dequantize(tensor.data, tensor.tensor_type).astype(np.float64)

    def logits(self, tokens, edits):
        """Logits [T, V] of all positions; `edits` is a list of (sidecar, scale)."""
        embedding = self.weight("token_embd")
        x = embedding[tokens]
        for layer in range(self.n_layer):
            x = x + self.attention(layer, x, edits)
            x = x + self.feed_forward(layer, x)
        assert "output.weight" not in self.tensors, "the output matrix is the embedding"
        return self.rms_norm(x, "output_norm") @ embedding.T

    def attention(self, layer, x, edits):
        blk = f"blk.{layer}."
        t = len(x)
        h = self.rms_norm(x, blk + "attn_norm")
        heads = lambda name, n: (h @ self.weight(blk + name).T).reshape(t, n, self.head_dim)
        q = self.rope(heads("attn_q", self.n_head))
        k = self.rope(heads("attn_k", self.n_head_kv))
        v = heads("attn_v", self.n_head_kv)
        # Each key-value head serves a run of neighbouring query heads.
        k, v = (np.repeat(a, self.n_head // self.n_head_kv, axis=1) for a in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(self.head_dim)
        scores = np.where(np.tri(t, dtype=bool), scores, -np.inf)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        z = np.einsum("hij,jhd->ihd", scores, v)
        for sidecar, scale in edits:
            z = sidecar.apply(layer, z, scale)
        return z.reshape(t, -1) @ self.weight(blk + "attn_output").T

    def feed_forward(self, layer, x):
        blk = f"blk.{layer}."
        h = self.rms_norm(x, blk + "ffn_norm")
        gate = h @ self.weight(blk + "ffn_gate").T
        up = h @ self.weight(blk + "ffn_up").T
        return (gate / (1 + np.exp(-gate)) * up) @ self.weight(blk + "ffn_down").T

    def rms_norm(self, x, name):
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.eps) * self.weight(name)

    def rope(self, x):
        """Rotates the pairs (0, 1), (2, 3), ... of each head: GGUF's order for llama."""
        t, _, d = x.shape
        angle = np.arange(t)[:, None] * self.rope_base ** (-np.arange(0, d, 2) / d)
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)[:, None, :]
        return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


class Sidecar:
    """mul and add: layer -> (heads, float32 vectors [heads, head_dim])."""

    def __init__(self, mul, add):
        self.mul, self.add = mul, add

    def apply(self, layer, z, scale):
        z = z.copy()  # [T, H, D]
        if layer in self.mul:
            heads, vectors = self.mul[layer]
            z[:, heads] *= 1 + scale * vectors.astype(np.float64)
        if layer in self.add:
            heads, vectors = self.add[layer]
            z[:, heads] += scale * vectors.astype(np.float64)
        return z

    def write(self, path, model):
        writer = GGUFWriter(path, "llama")
        writer.add_type("adapter")
        writer.add_name("golden edit")
        writer.add_string("general.base_model.0.name", "SmolLM2 135M Instruct")
        writer.add_string("adapter.type", "jola")
        writer.add_uint32("jola.format_version", 1)
        writer.add_uint32("jola.block_count", model.n_layer)
        writer.add_uint32("jola.head_count", model.n_head)
        writer.add_uint32("jola.head_dim", model.head_dim)
        writer.add_string("jola.method", "random")
        writer.add_uint64("jola.train.seed", EDIT_SEED)
        for half, layers in (("mul", self.mul), ("add", self.add)):
            for layer, (heads, vectors) in layers.items():
                name = f"blk.{layer}.attn_output.jola_{half}"
                writer.add_tensor(name, vectors)
                writer.add_tensor(name + "_heads", np.array(heads, dtype=np.int32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def random_edit(model):
    rng = np.random.default_rng(EDIT_SEED)
    draw = lambda layers, std: {
        layer: (heads, rng.normal(0, std, (len(heads), model.head_dim)).astype(np.float32))
        for layer, heads in layers.items()
    }
    return Sidecar(draw(EDIT_MUL, EDIT_MUL_STD), draw(EDIT_ADD, EDIT_ADD_STD))


def every_head(model):
    """Scale and offset of every head from splitmix64: layer by layer, scales first."""
    uniform = splitmix_uniform(EVERY_HEAD_SEED)
    heads = list(range(model.n_head))
    size = model.n_head * model.head_dim
    mul, add = {}, {}
    for layer in range(model.n_layer):
        for half, limit in ((mul, EVERY_HEAD_MUL), (add, EVERY_HEAD_ADD)):
            values = [next(uniform) * np.float32(limit) for _ in range(size)]
            vectors = np.array(values, dtype=np.float32).reshape(model.n_head, -1)
            half[layer] = (heads, vectors)
    return Sidecar(mul, add)


def splitmix_uniform(state):
    """Float32 numbers of [-1, 1): the top 24 bits of splitmix64 (Steele et al. 2014)."""
    mask = (1 << 64) - 1
    while True:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
        yield np.float32((z >> 40) - (1 << 23)) / np.float32(1 << 23)


def main():
    base = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("JOLA_TEST_MODEL")
    if not base:
        sys.exit("usage: make.py BASE.gguf (or set JOLA_TEST_MODEL); `make golden` does it")
    model = Model(base)
    sidecars = {"edit": random_edit(model), "every_head": every_head(model)}
    sidecars["edit"].write(HERE / "edit.gguf", model)

    n_vocab = model.tensors["token_embd.weight"].shape[1]
    rng = np.random.default_rng(COLUMN_SEED)
    columns = np.sort(rng.choice(int(n_vocab), N_COLUMNS, replace=False))
    golden = {"text": TEXT, "tokens": TOKENS, "columns": columns.tolist(), "cases": []}
    kept = []
    for name, edits in CASES.items():
        logits = model.logits(TOKENS, [(sidecars[file], scale) for file, scale in edits])
        best = np.sort(logits, axis=-1)[:, -2:]
        norms = np.linalg.norm(logits, axis=-1)
        print(f"{name}: the best token leads by at least {(best[:, 1] - best[:, 0]).min():.4f}")
        golden["cases"].append({
            "name": name,
            "sidecars": edits,
            "argmax": logits.argmax(axis=-1).tolist(),
            "norm": [float(f"{norm:.9g}") for norm in norms],
        })
        kept.append(logits[:, columns].astype("<f4"))
    np.save(HERE / "logits.npy", np.stack(kept))
    # One line per entry: a change of one case is one changed line.
    with open(HERE / "golden.json", "w") as file:
        lines = [f"{json.dumps(key)}: {json.dumps(golden[key])}" for key in list(golden)[:-1]]
        cases = ",\n".join(json.dumps(case) for case in golden["cases"])
        file.write("{" + ",\n".join(lines) + ',\n"cases": [\n' + cases + "\n]}\n")


if __name__ == "__main__":
    main()
