"""The weights of a decoder by name, as they are mapped from files.

This is what `runners/native` computes with. From files it needs none of transformers' classes, whose import takes
twice as long as all the rest of a small model's load. Files are taken only where they hold exactly the tensors that
the configuration asks for; whatever is missing, has no place or has another shape is for transformers' loader to
find, and for `checkpoint_check` to name. Part of loading: blocking, but reads hardly more than headers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open

from llmapi_kit.checkpoints.decoder_config import DecoderConfig
from llmapi_kit.checkpoints.decoder_families import EMBEDDING, FAMILIES, HEAD, NORM, ROUTER, SHARED_GATE, layer_shapes
from llmapi_kit.checkpoints.expert_tensors import apart
from llmapi_kit.checkpoints.integer_weights import IntegerFormat, IntegerMatrix, RoundedMatrix
from llmapi_kit.checkpoints.mapped_files import drop_pages
from llmapi_kit.checkpoints.model_files import weight_files
from llmapi_kit.checkpoints.packed_checkpoint import Packing, packing_of, unpack
from llmapi_kit.checkpoints.rotation import Rotation, rotation_of

HEAD_BITS = 8  # of integers, in embedding and output layer
KEPT = tuple(f".{name}.weight" for name in (ROUTER, SHARED_GATE))  # few numbers that decide much: never integers


class DecoderWeights:
    """Tensors of a decoder, each of which leaves as it is taken.

    Args:
        config: what the tensors are for.
        tensors: by their names in transformers, on the CPU, matrices of one type; without an output layer where that
            is the embedding. Owned from now on.
        rotations: the rotary embeddings that layers have; all turn as many numbers.

    Attributes:
        config: as given.
        dtype: of the matrices, or of what is not a matrix where those are integers.
        tensors: those that were not taken yet.
        integers: how the matrices are stored; None where they are tensors.
    """

    def __init__(
        self,
        config: DecoderConfig,
        tensors: dict[str, torch.Tensor | IntegerMatrix],
        rotations: Sequence[Rotation],
    ) -> None:
        self.config = config
        self.tensors = tensors
        embedding = tensors[EMBEDDING]
        self.dtype = (self.tensor(NORM) if isinstance(embedding, IntegerMatrix) else embedding).dtype
        self.integers: IntegerFormat | None = None
        self._rotations = tuple(rotations)
        self._num_parameters = sum(tensor.numel() for tensor in tensors.values())
        self.num_bytes = sum(tensor.nbytes for tensor in tensors.values())

    @property
    def is_tied(self) -> bool:
        """Whether the output layer is the embedding."""
        return self.config.tie_word_embeddings

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return self.config.vocab_size

    def num_parameters(self) -> int:
        """As a model of transformers tells it: also of those that were taken."""
        return self._num_parameters

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor that was not taken yet, and that is not a matrix of integers."""
        return cast(torch.Tensor, self.tensors[name])

    def take(self, name: str) -> torch.Tensor:
        """Such a tensor, which is the caller's from now on."""
        taken = self.tensor(name)
        del self.tensors[name]
        return taken

    def round_to(self, integers: IntegerFormat) -> None:
        """Let all matrices be integers; those that are floats are rounded as they are packed."""
        self.integers = integers
        for name, tensor in self.tensors.items():
            bits = HEAD_BITS if name in (EMBEDDING, HEAD) else integers.bits
            if isinstance(tensor, IntegerMatrix):
                tensor.bits = bits  # of a value in memory, which may have more than in a file
            elif tensor.ndim == 2 and not name.endswith(KEPT):
                self.tensors[name] = RoundedMatrix(tensor, bits, integers.group)
        self.num_bytes = sum(tensor.nbytes for tensor in self.tensors.values())

    def add_mean_rows(self, num_rows: int) -> None:
        """Give the embedding, and the output layer, so many rows; new ones are the mean of those there are."""
        for name in (EMBEDDING,) if self.is_tied else (EMBEDDING, HEAD):
            rows = self.tensor(name)
            more = torch.cat((rows, rows.mean(0).expand(num_rows - len(rows), -1)))
            self.tensors[name] = more
            self._num_parameters += more.numel() - rows.numel()
            self.num_bytes += more.nbytes - rows.nbytes
        self.config = replace(self.config, vocab_size=num_rows)

    @property
    def num_rotated(self) -> int:
        """How many numbers of a head are turned by its position."""
        return 2 * len(self._rotations[0].inv_freq)

    @property
    def original_length(self) -> int:
        """Up to which a sequence is short; see `Rotation`. 0 where a sequence's length changes nothing."""
        return self._rotations[0].original_length

    def rotaries(self, length: int, *, is_long: bool = False) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Cosines and sines of each rotary embedding, (length, num_rotated) each; see `Rotation`."""
        return [rotation.cosines_and_sines(length, is_long=is_long) for rotation in self._rotations]


def layer_name(index: int, part: str) -> str:
    """The name of a layer's tensor: ``self_attn.q_proj.weight`` for `part`."""
    return f"model.layers.{index}.{part}"


def read_decoder_weights(folder: Path, config: DecoderConfig) -> DecoderWeights | None:
    """Map a folder's weights; None where transformers has to load them.

    Args:
        folder: whose files of weights were looked at.
        config: of the folder.
    """
    try:
        are_transposed = FAMILIES[config.architecture].experts_are_transposed
        tensors = dict(apart(_mapped(folder), are_transposed=are_transposed))
    except SafetensorError:
        return None
    if config.num_hidden_layers > len(tensors):  # a million layers are not worth naming
        return None
    shapes = dict(tensor_shapes(config))
    packing = packing_of(config.quantization)
    if config.quantization is not None and packing is None:
        return None
    if config.tie_word_embeddings and HEAD in tensors:
        head = tensors.pop(HEAD)
        if EMBEDDING not in tensors or not _is_same(head, tensors[EMBEDDING]):
            return None
    found = dict[str, torch.Tensor | IntegerMatrix](tensors) if packing is None else unpack(packing, tensors, shapes)
    if found is None or {name: tuple(each.shape) for name, each in found.items()} != shapes:
        return None
    if len({each.dtype for each in found.values() if isinstance(each, torch.Tensor)}) != 1:
        return None
    ordered = {name: found[name] for name in shapes}
    weights = DecoderWeights(config, ordered, [rotation_of(rope, config.head_dim) for rope in config.ropes])
    if packing is not None and any(isinstance(each, IntegerMatrix) for each in found.values()):
        weights.integers = _integers(packing, found)
    return weights


def _integers(packing: Packing, found: Mapping[str, torch.Tensor | IntegerMatrix]) -> IntegerFormat:
    """What all matrices of layers fit into: 8 bits where some of them came as floats."""
    floats = (EMBEDDING, HEAD, *KEPT)
    layers = [each for name, each in found.items() if len(each.shape) == 2 and not name.endswith(floats)]
    bits = packing.bits if all(isinstance(each, IntegerMatrix) for each in layers) else 8
    return IntegerFormat(bits, packing.step_group)


def _mapped(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for path in weight_files(folder):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                if not name.endswith("rotary_emb.inv_freq"):  # old files have it, and it is computed today
                    yield name, file.get_tensor(name)


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    is_same = one.dtype == other.dtype and torch.equal(one, other)
    for tensor in (one, other):
        drop_pages(tensor)
    return is_same


def tensor_shapes(config: DecoderConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor that a configuration asks for, in the order of transformers' modules."""
    yield EMBEDDING, (config.vocab_size, config.hidden_size)
    for index in range(config.num_hidden_layers):
        for part, shape in layer_shapes(config, index).items():
            yield layer_name(index, part), shape
    yield NORM, (config.hidden_size,)
    if not config.tie_word_embeddings:
        yield HEAD, (config.vocab_size, config.hidden_size)
