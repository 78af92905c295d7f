"""Tensors of experts, one by one, by the names of `decoder_families`: whatever a model or a file calls and joins.

A model of transformers has those of a layer's experts in one tensor, as files of GPT-OSS do; most files have them
apart, and Mixtral's under names of its own. All are views: nothing is copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import torch

from llmapi_kit.checkpoints.decoder_families import ROUTER

JOINED = re.compile(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)(?:_(bias|blocks|scales))?")
OF_MIXTRAL = re.compile(r"(.*)\.block_sparse_moe\.(?:experts\.(\d+)\.w([123])|gate)\.(\w+)")
MATRICES_OF_MIXTRAL = {"1": "gate_proj", "2": "down_proj", "3": "up_proj"}


def apart(tensors: Iterable[tuple[str, torch.Tensor]], *, are_transposed: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors by the names of `decoder_families`, those of experts one by one.

    Args:
        tensors: of a model or a file, by the names there.
        are_transposed: whether joined matrices are (inputs, outputs), with the rows of gate and up by turns.
    """
    for name, tensor in tensors:
        if (match := OF_MIXTRAL.fullmatch(name)) is not None:
            start, expert, number, kind = match.groups()
            part = ROUTER if expert is None else f"mlp.experts.{expert}.{MATRICES_OF_MIXTRAL[number]}"
            yield f"{start}.{part}.{kind}", tensor
        elif (match := JOINED.fullmatch(name)) is not None:
            for index, own in enumerate(tensor):
                yield from _of_expert(f"{match[1]}.{index}", match[2], match[3], own, are_transposed=are_transposed)
        else:
            yield name.replace(".mlp.router.", f".{ROUTER}."), tensor


def _of_expert(
    start: str, part: str, kind: str | None, tensor: torch.Tensor, *, are_transposed: bool
) -> Iterator[tuple[str, torch.Tensor]]:
    """A tensor of one expert as those of its matrices (outputs, inputs), or what else belongs to these."""
    rows = tensor.t() if kind is None and are_transposed else tensor
    kind = kind or "weight"
    if part == "down_proj":
        yield f"{start}.{part}.{kind}", rows
        return
    pair = (rows[::2], rows[1::2]) if are_transposed else rows.chunk(2)
    yield from zip((f"{start}.gate_proj.{kind}", f"{start}.up_proj.{kind}"), pair, strict=True)
