"""Models that are known without asking the hub: their shapes, sizes and licences, from the table beside this module.

What they need is computed from their shape by `llmapi_kit.checkpoints.needs`. Reads one file, once; asks nobody. The
table is YAML, as Python 3.10 reads no TOML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

TABLE = Path(__file__).parent / "recommended.yaml"
STORED_BYTES = 2  # of a parameter: the hub has all of these in bfloat16


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder's numbers, named as in its config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    tie_word_embeddings: bool = False
    model_type: str = ""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A row of the table.

    Attributes:
        name: on the hub.
        num_parameters: each counted once.
        shape: from its config.json.
        download_bytes: its weights on the hub.
        licence: of the weights.
        is_gated: whether its terms have to be accepted on the hub first, so that a token is needed.
        is_checked: whether its own page has said so of licence and gate.
        published: year and month of its config.json.
        rank: the higher, the better its answers; 0 for one that is never recommended.
        good_for: in a few words.
    """

    name: str
    num_parameters: int
    shape: ModelShape
    download_bytes: int
    licence: str
    is_gated: bool
    is_checked: bool
    published: str
    rank: int
    good_for: str

    @property
    def source(self) -> str:
        """Where its numbers are from."""
        return f"https://huggingface.co/{self.name}/blob/main/config.json"


@dataclass(frozen=True, slots=True)
class ModelTable:
    """The table.

    Attributes:
        reviewed: the day on which somebody last went through it.
        models: from the smallest to the largest.
    """

    reviewed: str
    models: tuple[KnownModel, ...]


@cache
def read_table() -> ModelTable:
    """The table that ships with the kit."""
    content = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return ModelTable(str(content["reviewed"]), tuple(_row(each) for each in content["models"]))


def known_models() -> tuple[KnownModel, ...]:
    """All rows, from the smallest to the largest."""
    return read_table().models


def _row(values: Mapping[str, Any]) -> KnownModel:
    return KnownModel(
        name=values["name"],
        num_parameters=values["num_parameters"],
        shape=ModelShape(
            **values["shape"],
            tie_word_embeddings=values.get("tie_word_embeddings", False),
            model_type=values["model_type"],
        ),
        download_bytes=values.get("download", STORED_BYTES * values["num_parameters"]),
        licence=values["licence"],
        is_gated=values.get("gated", False),
        is_checked=values.get("checked", False),
        published=str(values["published"]),
        rank=values["rank"],
        good_for=values["good_for"],
    )
