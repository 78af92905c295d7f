"""Makes a model and a draft of it, for the row of draft models: nothing is downloaded, and nothing was trained.

The draft is the first layers of the model. The model's other layers add little, so that the two mostly agree, as a
large and a small model of one family do; how far they agree is measured and stands beside each figure. What the layers
add changes no cost: the model computes all of them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.models import TOKENIZER_FILES, BenchModel

KEPT_SHARE = 6  # the draft has one layer of so many
ADDED = 0.3  # of what the other layers add


def make_pair(model: BenchModel, work: Path) -> tuple[Path, Path]:
    """Folders of the model with quiet layers and of its draft; made once."""
    import torch
    import transformers

    large, small = work / "models" / f"{model.name}-quiet", work / "models" / f"{model.name}-draft"
    stamp = small / "stamp"
    recipe = f"{(model.folder / 'stamp.json').read_text()} {KEPT_SHARE} {ADDED}"
    if stamp.is_file() and stamp.read_text() == recipe:
        return large, small
    print(f"Making a draft of {model.name} ...", flush=True)
    network = transformers.AutoModelForCausalLM.from_pretrained(model.folder, dtype="auto")
    num_kept = max(1, len(network.model.layers) // KEPT_SHARE)
    with torch.no_grad():
        for layer in network.model.layers[num_kept:]:
            layer.self_attn.o_proj.weight *= ADDED
            layer.mlp.down_proj.weight *= ADDED
    _save(network, model.folder, large)
    network.model.layers = network.model.layers[:num_kept]
    network.config.num_hidden_layers = num_kept
    if getattr(network.config, "layer_types", None):
        network.config.layer_types = network.config.layer_types[:num_kept]
    _save(network, model.folder, small)
    stamp.write_text(recipe)
    return large, small


def _save(network: object, source: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    network.save_pretrained(folder)  # type: ignore[attr-defined]
    for file in TOKENIZER_FILES:
        shutil.copy(source / file, folder)
