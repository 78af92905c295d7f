"""What a GGUF file says of its model: kind, sizes, chat template, what its makers recommend. No weights.

Every part of it was checked by `gguf_header` before it gets here, and all parts of a model in several files are. Which
architectures there are is llama.cpp's business; refused here is what can't continue a text. Free of torch.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md for names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmapi_kit.checkpoints.gguf_header import GgufHeader, read_header
from llmapi_kit.checkpoints.gguf_vocabulary import check_vocabulary
from llmapi_kit.errors import ModelLoadError, ModelNotFoundError, UnsupportedModelError

PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.ASCII)
MAX_PARTS = 1000
MAX_LAYERS = 10_000
CONTROL, USER_DEFINED = 3, 4
TEMPLATE = "tokenizer.chat_template"
# What its makers recommend: the name of a sampling parameter in the file
SAMPLING_KEYS = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A model's files, understood but not loaded.

    Attributes:
        headers: of each part; one for a model in one file.
        architecture: as llama.cpp names it.
    """

    headers: Sequence[GgufHeader]
    architecture: str

    @property
    def header(self) -> GgufHeader:
        """Of the first part, which has the metadata."""
        return self.headers[0]

    @property
    def path(self) -> Path:
        """Of the first part, by which the others are found."""
        return self.header.path

    @property
    def weights_bytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.size_bytes for header in self.headers for tensor in header.tensors.values())

    @property
    def dtype(self) -> str:
        """The number format of most of the weights, such as ``q4_k``."""
        sizes: dict[str, int] = {}
        for header in self.headers:
            for tensor in header.tensors.values():
                sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.num_elements
        return max(sizes, key=lambda kind: sizes[kind]).lower() if sizes else ""

    @property
    def context_length(self) -> int:
        """Tokens it was trained with; 0 where the file does not say."""
        return self._whole("context_length") or 0

    @property
    def vocab_size(self) -> int:
        """Tokens that there are."""
        tokens = self.header.metadata.get("tokenizer.ggml.tokens")
        return len(tokens) if isinstance(tokens, list) else 0

    @property
    def hidden_size(self) -> int:
        """Width of a hidden state."""
        return self._whole("embedding_length") or 0

    @property
    def chat_template(self) -> str | Mapping[str, str] | None:
        """Its chat template; several by name, or none."""
        found = {
            key.removeprefix(TEMPLATE).removeprefix(".") or "default": value
            for key, value in self.header.metadata.items()
            if key == TEMPLATE or key.startswith(f"{TEMPLATE}.")
        }
        for name, value in found.items():
            if not isinstance(value, str):
                raise ModelLoadError(f"{self.path.name}: the chat template {name!r} is not text.")
        return found if len(found) > 1 else found.get("default")

    @property
    def added_tokens(self) -> set[str]:
        """Texts of the tokens beside the trained vocabulary."""
        tokens = self.header.metadata.get("tokenizer.ggml.tokens")
        kinds = self.header.metadata.get("tokenizer.ggml.token_type")
        if not isinstance(tokens, list) or not isinstance(kinds, np.ndarray):
            return set()
        pairs = zip(tokens, kinds.tolist(), strict=False)
        return {token for token, kind in pairs if kind in (CONTROL, USER_DEFINED)}

    @property
    def sampling_defaults(self) -> dict[str, float]:
        """What its makers recommend, such as `temperature`."""
        found = {name: self.header.metadata.get(f"general.sampling.{key}") for name, key in SAMPLING_KEYS.items()}
        return {name: value for name, value in found.items() if isinstance(value, int | float) and math.isfinite(value)}

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes that keys and values of one token take in all layers; 0 where the model keeps none.

        Args:
            dtype: their number format, such as ``f16`` or ``q8_0``.
        """
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        heads = self._whole("attention.head_count") or 0
        if not heads:  # it remembers a text as a state
            return 0
        size = self.hidden_size // heads
        width = (self._whole("attention.key_length") or size) + (self._whole("attention.value_length") or size)
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[dtype.upper()]]
        return sum(self._kv_heads(heads)) * width * block_bytes // block

    def state_bytes(self) -> int:
        """Bytes of the state that a slot of a recurrent model has, however long its text is."""
        inner, state = self._whole("ssm.inner_size") or 0, self._whole("ssm.state_size") or 0
        kernel = self._whole("ssm.conv_kernel") or 0
        layers = self._whole("block_count") or 0
        head = self._whole("wkv.head_size") or 0
        hidden = self.hidden_size
        return 4 * layers * (inner * (state + kernel) + 2 * bool(head) * hidden + hidden * head)

    def _kv_heads(self, heads: int) -> list[int]:
        """Heads of keys and values in each layer."""
        layers = self._whole("block_count") or 0
        value = self.header.metadata.get(f"{self.architecture}.attention.head_count_kv", heads)
        if isinstance(value, np.ndarray):
            return [int(each) for each in value[:layers]]
        return [value if isinstance(value, int) else heads] * layers

    def _whole(self, key: str) -> int | None:
        """A whole number of the architecture's; of a list with an entry a layer, the largest."""
        value = self.header.metadata.get(f"{self.architecture}.{key}")
        if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "iu":
            value = int(value.max())
        if value is None:
            return None
        if not isinstance(value, int) or not 0 <= value < 2**31:
            raise ModelLoadError(f"{self.path.name}: {key} is {str(value)[:80]}; it must be a whole number.")
        return value


def open_gguf(path: Path) -> GgufFile:
    """Read the heads of a model's files and understand them.

    Args:
        path: of the file; of a model in several, of any part.

    Raises:
        ModelNotFoundError: a part is missing.
        ModelLoadError: it is damaged.
        UnsupportedModelError: it is a model that can't be served; the message says why.
        MissingDependencyError: the package gguf is not installed.
    """
    headers = [read_header(part) for part in parts_of(path)]
    header, name = headers[0], path.name
    _check_parts(headers)
    architecture = header.one("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise ModelLoadError(f"{name} does not say of what architecture it is.")
    if architecture == "clip":
        raise UnsupportedModelError(f"{name} is the image part of a model: load the model and pass mmproj={name!r}.")
    if header.one("general.type", "model") == "adapter":
        raise UnsupportedModelError(f"{name} is a LoRA adapter: load its base model and pass lora={name!r}.")
    if header.one(f"{architecture}.attention.causal", True) is not True:
        raise UnsupportedModelError(f"{name} reads a text in both directions, so it can't write one.")
    if not any(each.tensors for each in headers):
        raise UnsupportedModelError(f"{name} has no weights: it is a vocabulary alone.")
    opened = GgufFile(headers, architecture)
    check_vocabulary(header)
    if (opened._whole("block_count") or 0) > MAX_LAYERS:
        raise ModelLoadError(f"{name} declares {opened._whole('block_count'):,} layers.")
    return opened


def parts_of(path: Path) -> list[Path]:
    """All files of a model: llama.cpp's names of parts are ``name-00001-of-00003.gguf``.

    Raises:
        ModelNotFoundError: one of them is missing.
        ModelLoadError: the name tells of more parts than a model can have.
    """
    found = PART.fullmatch(path.name)
    if found is None:
        return [path]
    count = int(found["count"])
    if not 0 < count <= MAX_PARTS:
        raise ModelLoadError(f"{path.name} says that it is one of {count:,} parts; up to {MAX_PARTS:,} are read.")
    parts = [path.with_name(f"{found['name']}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
    for part in parts:
        if not part.is_file():
            raise ModelNotFoundError(f"{path.name} is one of {count} parts, and {part.name} is not beside it.")
    return parts


def _check_parts(headers: Sequence[GgufHeader]) -> None:
    """Raise unless the parts are those of one model, in their order."""
    for number, header in enumerate(headers):
        count = header.one("split.count", 1)
        if count not in (0, len(headers)) or header.one("split.no", number) != number:
            raise ModelLoadError(
                f"{header.path.name} is part {header.one('split.no', 0)} of {count} and has the name of part {number} "
                f"of {len(headers)}: parts keep the names they came with, as in name-00001-of-00003.gguf."
            )
    names = [name for header in headers for name in header.tensors]
    if len(set(names)) != len(names):
        raise ModelLoadError(f"{headers[0].path.name}: two of its parts have the same tensor.")
