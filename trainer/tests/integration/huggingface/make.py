"""Makes golden/: what transformers computes with small seeded models, and what llama.cpp's
own converter makes of them.

    python make.py LLAMA_CPP_SOURCE

Needs torch, transformers, safetensors, gguf and sentencepiece, and llama.cpp's source for
its `conversion` package. Weights are a formula (`weights`), which the tests repeat: only
config.json, the tensors' names and shapes, logits and digests are kept.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).parent / "golden"
VOCABULARY = 96
TOKENS = [(7 * i * i + 11 * i + 5) % VOCABULARY for i in range(40)]
COMMON = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
YARN = dict(
    rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64
)
LONGROPE = dict(
    rope_type="longrope",
    rope_theta=10000.0,
    long_factor=[1.0, 1.5, 2.0, 3.0],
    short_factor=[1.0, 1.25, 1.5, 1.75],
    original_max_position_embeddings=128,
)
PLAIN = dict(rope_type="default", rope_theta=10000.0)
LINEAR = dict(rope_type="linear", rope_theta=10000.0, factor=4.0)
CASES = {
    "llama": ("Llama", dict(tie_word_embeddings=False, rope_parameters=PLAIN)),
    "llama-tied": ("Llama", dict(tie_word_embeddings=True, attention_bias=True, head_dim=16)),
    "llama3": ("Llama", dict(tie_word_embeddings=False, rope_parameters=LLAMA3)),
    "llama-linear": ("Llama", dict(tie_word_embeddings=False, rope_parameters=LINEAR)),
    "llama-yarn": ("Llama", dict(tie_word_embeddings=False, rope_parameters=YARN)),
    "mistral": ("Mistral", dict(sliding_window=None)),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True)),
    "qwen3": ("Qwen3", dict(head_dim=16, tie_word_embeddings=False)),
    "qwen3moe": (
        "Qwen3Moe",
        dict(
            head_dim=16,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=24,
            norm_topk_prob=True,
        ),
    ),
    "gemma2": (
        "Gemma2",
        dict(head_dim=16, query_pre_attn_scalar=16, sliding_window=16, attn_implementation="eager"),
    ),
    "gemma3": (
        "Gemma3",
        dict(num_hidden_layers=7, head_dim=16, query_pre_attn_scalar=16, sliding_window=16),
    ),
    "phi3": ("Phi3", dict(original_max_position_embeddings=256)),
    "phi3-longrope": ("Phi3", dict(rope_parameters=LONGROPE)),
    "olmo2": ("Olmo2", dict(tie_word_embeddings=False)),
    "smollm3": ("SmolLM3", dict(num_hidden_layers=5, use_sliding_window=False)),
    "granite": (
        "Granite",
        dict(
            attention_multiplier=0.25,
            embedding_multiplier=6.0,
            residual_multiplier=0.5,
            logits_scaling=4.0,
        ),
    ),
}


def weights(name, shape):
    """Numbers with few binary digits, so that bfloat16 and float16 hold them exactly."""
    state = np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    with np.errstate(over="ignore"):
        z = state + np.arange(1, 1 + int(np.prod(shape)), dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    digits = (z >> np.uint64(58)).astype(np.float32) - 32  # -32 … 31
    if name.endswith("norm.weight"):
        values = 1 + digits / 128
    elif len(shape) == 1:
        values = digits / 128
    else:
        values = digits / 128  # standard deviation 0.14, times √32 input numbers: 0.8
    return torch.from_numpy(values.reshape(shape))


def make(case, family, options, source):
    config_class = getattr(
        transformers, f"{family}TextConfig" if family == "Gemma3" else f"{family}Config"
    )
    config = config_class(**{**COMMON, **options})
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model.save_pretrained(folder)
        names = {
            name: list(tensor.shape)
            for name, tensor in load_file(folder / "model.safetensors").items()
        }
        save_file(
            {name: weights(name, shape) for name, shape in names.items()},
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )
        model = type(model).from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            logits = model(torch.tensor([TOKENS])).logits[0]
        metadata, tensors = convert(folder, source)
        out = GOLDEN / case
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text((folder / "config.json").read_text())
    golden = dict(shapes=names, metadata=metadata, tensors=tensors)
    (out / "golden.json").write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
    (out / "logits.f32").write_bytes(logits.numpy().astype("<f4").tobytes())
    print(case, "logits of deviation", float(logits.std()))


def convert(folder, source):
    """Metadata under the architecture's prefix, and tensors with a digest of their values."""
    sys.path[:0] = [str(source / "gguf-py"), str(source)]
    import conversion
    import gguf

    hparams = conversion.ModelBase.load_hparams(folder, False)
    name = conversion.get_model_architecture(hparams, conversion.ModelType.TEXT)
    # The Gemma 3 class counts rows of the vocabulary, Phi-3's insists on a tokenizer.
    vocabulary = {str(i): i for i in range(VOCABULARY)}
    tokenizer = {"model": {"vocab": vocabulary}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    model_class = conversion.get_model_class(name)
    model_class.set_vocab = lambda self: None
    out = folder / "out.gguf"
    model_class(folder, gguf.LlamaFileType.ALL_F32, out).write()
    reader = gguf.GGUFReader(out)
    architecture = reader.fields["general.architecture"].contents()
    metadata = {
        key: field.contents()
        for key, field in reader.fields.items()
        if key.startswith(architecture + ".")
    }
    metadata["general.architecture"] = architecture
    tensors = {}
    for tensor in reader.tensors:
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32, tensor
        digest = hashlib.sha256(np.ascontiguousarray(tensor.data).tobytes()).hexdigest()
        tensors[tensor.name] = [[int(dim) for dim in tensor.shape], digest]
    return metadata, tensors


if __name__ == "__main__":
    wanted = sys.argv[2:] or CASES
    for case in wanted:
        family, options = CASES[case]
        make(case, family, options, Path(sys.argv[1]))
