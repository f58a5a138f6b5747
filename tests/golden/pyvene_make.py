#!/usr/bin/env python3
"""Writes the folders `import/pyvene_*`: interventions that pyvene itself saved.

Run once, by hand; the files are committed. Needs pyvene, which brings torch and transformers:

    python3 -m venv VENV && VENV/bin/pip install pyvene==0.1.8 torch==2.13.0 transformers==5.24.0
    VENV/bin/python tests/golden/pyvene_make.py

The model is a random Llama of 2 layers with 4 heads of width 4. `outputs.json` in each folder
holds what pyvene made of the heads' outputs: by layer and position, before and after.
"""

import json
import pathlib
import shutil

import pyvene
import torch
from transformers import LlamaConfig, LlamaForCausalLM

LAYERS, HEADS, WIDTH, POSITIONS = 2, 4, 4, 3
OUT = pathlib.Path(__file__).parent / "import"


def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16,
            hidden_size=HEADS * WIDTH,
            head_dim=WIDTH,
            intermediate_size=8,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
        )
    ).eval()


class Recorder(torch.nn.Linear):
    """Keeps its input as it was before pyvene's hooks and after them. (pyvene takes away hooks
    that are not its own.)"""

    def __call__(self, values):
        self.before = values[0].clone()
        return super().__call__(values)

    def forward(self, values):
        self.after = values[0].clone()
        return super().forward(values)


def write(name, representations, locations=None):
    """Saves interventions with pyvene and runs them with it at every position."""
    llama = model()
    edited = pyvene.IntervenableModel(pyvene.IntervenableConfig(representations), model=llama)
    for block in llama.model.layers:
        block.self_attn.o_proj.__class__ = Recorder
    tokens = torch.arange(POSITIONS).unsqueeze(0)
    with torch.no_grad():
        edited({"input_ids": tokens}, unit_locations=locations)
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    edited.save(str(folder))
    outputs = {
        name: [getattr(block.self_attn.o_proj, name).tolist() for block in llama.model.layers]
        for name in ("before", "after")
    }
    (folder / "outputs.json").write_text(json.dumps(outputs) + "\n")


def main():
    torch.manual_seed(1)
    width = HEADS * WIDTH
    named = {"component": "attention_value_output", "unit": "pos"}
    # All heads of a layer: two edits of one layer, and a module given by its path.
    write(
        "pyvene_layers",
        [
            {
                **named,
                "layer": 0,
                "intervention_type": pyvene.VanillaIntervention,
                "source_representation": torch.randn(width),
            },
            {
                **named,
                "layer": 0,
                "intervention_type": pyvene.AdditionIntervention,
                "source_representation": torch.randn(width),
            },
            {
                "component": "model.layers[1].self_attn.o_proj.input",
                "intervention_type": pyvene.SubtractionIntervention,
                "source_representation": torch.randn(width),
            },
        ],
    )
    # Single heads: which ones is said when the interventions are run.
    heads = {"component": "head_attention_value_output", "unit": "h.pos"}
    positions = [list(range(POSITIONS))]
    write(
        "pyvene_heads",
        [
            {
                **heads,
                "layer": 0,
                "intervention_type": pyvene.AdditionIntervention,
                "source_representation": torch.randn(WIDTH),
            },
            {
                **heads,
                "layer": 1,
                "max_number_of_units": 2,
                "intervention_type": pyvene.ZeroIntervention,
            },
        ],
        {"base": [[[[2]], positions], [[[0, 3]], positions]]},
    )


if __name__ == "__main__":
    main()
