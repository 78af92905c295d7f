"""Reads the head of a GGUF file: its metadata, and where each tensor lies. No weights.

The file may come from anywhere, so nothing it declares is believed before it was compared with the bytes that are
there: counts and lengths are bounded by what is left of the file, tensors lie inside it and apart from each other.
Takes bounded time and memory, whatever the file says. Knows nothing of models.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmapi_kit.checkpoints.model_files import check_file
from llmapi_kit.errors import MissingDependencyError, ModelLoadError, UnsupportedModelError

MAX_HEADER_BYTES = 64 * 2**20  # real ones have up to about 20 MB: a vocabulary and its merges
MAX_STRINGS = 2_000_000
MAX_KEY_BYTES, MAX_TEXT_BYTES = 65_535, 2_000_000
MAX_DIMENSIONS = 4
VERSIONS = (2, 3)
STRING, ARRAY, BOOL = 8, 9, 7
NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "<u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where a tensor lies and how it is stored.

    Attributes:
        shape: as torch has it, the fastest-moving dimension last.
        kind: name of its number format, such as ``Q8_0``.
        offset: first byte in the file.
        size_bytes: in the file.
    """

    shape: tuple[int, ...]
    kind: str
    offset: int
    size_bytes: int

    @property
    def num_elements(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a file says of itself.

    Attributes:
        path: of the file.
        metadata: numbers, texts and lists, by key; lists of numbers are arrays of numpy.
        tensors: by name.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    def one(self, key: str, default: Any = None) -> Any:
        """A number or a text of the metadata.

        Raises:
            ModelLoadError: it is a list.
        """
        value = self.metadata.get(key, default)
        if isinstance(value, list | np.ndarray):
            raise ModelLoadError(f"{self.path.name}: {key} is a list; it must be one value.")
        return value


def read_header(path: Path) -> GgufHeader:
    """Read and check the head of a GGUF file.

    Raises:
        ModelLoadError: it is not a GGUF file, or damaged; the message says where.
        UnsupportedModelError: it is of a version, or has a number format, that is not known here.
        MissingDependencyError: the package that knows the formats is not installed.
    """
    check_gguf_begin(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(MAX_HEADER_BYTES)
    except OSError as exc:
        raise ModelLoadError(f"{path} can't be read: {exc}") from exc
    try:
        return _read(path, _Cursor(head, size), size)
    except _DamageError as exc:
        raise ModelLoadError(f"{path.name} is damaged: {exc}.") from exc
    except UnicodeDecodeError as exc:
        raise ModelLoadError(f"{path.name} is damaged: a text in its header is not UTF-8.") from exc


def check_gguf_begin(path: Path) -> None:
    """Raise `ModelLoadError` unless a file begins as GGUF does."""
    if not check_file(path).startswith(b"GGUF"):
        raise ModelLoadError(f"{path.name} is not a GGUF file: it does not begin with 'GGUF'.")


class _DamageError(Exception):
    """What is wrong with the file."""


class _Cursor:
    """Reads on from a place in the header and never past its end."""

    def __init__(self, head: bytes, file_size: int) -> None:
        self._head = head
        self._is_whole = len(head) == file_size
        self._num_strings = 0
        self.at = 4

    def take(self, size: int, what: str) -> bytes:
        """The next bytes."""
        if size > len(self._head) - self.at:
            if self._is_whole:
                raise _DamageError(f"{what} at byte {self.at:,} goes on past the end of the file")
            raise _DamageError(f"its header is larger than {MAX_HEADER_BYTES:,} bytes")
        self.at += size
        return self._head[self.at - size : self.at]

    def number(self, form: str, what: str) -> Any:
        """The next number, in a format of `struct`."""
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form), what))[0]

    def text(self, limit: int, what: str) -> str:
        """The next text: its length in bytes, then UTF-8."""
        length = self.number("Q", what)
        if length > limit:
            raise _DamageError(f"{what} at byte {self.at - 8:,} has {length:,} bytes; at most {limit:,} are read")
        self._num_strings += 1
        if self._num_strings > MAX_STRINGS:
            raise _DamageError(f"it has more than {MAX_STRINGS:,} texts")
        return self.take(length, what).decode()

    def value(self, key: str) -> Any:
        """The next value of the metadata."""
        kind = self.number("I", key)
        if kind == STRING:
            return self.text(MAX_TEXT_BYTES, key)
        if kind != ARRAY:
            values = self._numbers(kind, 1, key)
            return bool(values[0]) if kind == BOOL else values[0].item()
        kind, count = self.number("I", key), self.number("Q", key)
        if kind == STRING:
            return [self.text(MAX_TEXT_BYTES, key) for _ in range(min(count, MAX_STRINGS + 1))]
        return self._numbers(kind, count, key)

    def _numbers(self, kind: int, count: int, key: str) -> np.ndarray[Any, Any]:
        if kind not in NUMBERS:
            raise _DamageError(f"{key} is of the type {kind}, which there is not")
        dtype = np.dtype(NUMBERS[kind])
        values = np.frombuffer(self.take(count * dtype.itemsize, key), dtype)
        if kind == BOOL and values.size and values.max() > 1:
            raise _DamageError(f"{key} is neither true nor false")
        return values


def _read(path: Path, cursor: _Cursor, size: int) -> GgufHeader:
    version = cursor.number("I", "the version")
    if version not in VERSIONS:
        raise UnsupportedModelError(f"{path.name} is GGUF of version {version}; versions 2 and 3 can be read.")
    num_tensors, num_values = cursor.number("Q", "the number of tensors"), cursor.number("Q", "the number of keys")
    metadata: dict[str, Any] = {}
    for _ in range(num_values):  # an absurd number ends at the header's end
        key = cursor.text(MAX_KEY_BYTES, "a key")
        if key in metadata:
            raise _DamageError(f"it has the key {key[:80]!r} twice")
        metadata[key] = cursor.value(key[:80])
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 8 <= alignment <= 65536 or alignment & (alignment - 1):
        raise _DamageError(f"general.alignment is {str(alignment)[:80]}")
    places: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(num_tensors):
        name = cursor.text(MAX_KEY_BYTES, "a tensor's name")[:200]
        if name in places:
            raise _DamageError(f"it has the tensor {name!r} twice")
        num_dimensions = cursor.number("I", name)
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            raise _DamageError(f"the tensor {name} has {num_dimensions} dimensions")
        shape = tuple(cursor.number("Q", name) for _ in range(num_dimensions))
        places[name] = shape[::-1], cursor.number("I", name), cursor.number("Q", name)
    start = -(-cursor.at // alignment) * alignment
    return GgufHeader(path, metadata, _tensors(path, places, start, alignment, size))


def _tensors(
    path: Path, places: Mapping[str, tuple[tuple[int, ...], int, int]], start: int, alignment: int, size: int
) -> dict[str, GgufTensor]:
    """Tensors of the file, each checked to lie inside it and apart from the others."""
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    except ModuleNotFoundError as exc:
        raise MissingDependencyError("gguf", "gguf", f"Loading {path.name}") from exc
    tensors: dict[str, GgufTensor] = {}
    for name, (shape, kind, offset) in places.items():
        try:
            form = GGMLQuantizationType(kind)
            block, block_bytes = GGML_QUANT_SIZES[form]
        except (ValueError, KeyError):
            raise UnsupportedModelError(
                f"{path.name}: the tensor {name} is in the number format {kind}, which is not known here."
            ) from None
        if 0 in shape or shape[-1] % block:
            raise _DamageError(f"the tensor {name} has the shape {shape}, which {form.name} can't store")
        size_bytes = math.prod(shape) // block * block_bytes
        if offset % alignment:
            raise _DamageError(f"the tensor {name} begins at {offset:,}, which is not a multiple of {alignment}")
        if start + offset + size_bytes > size:
            raise _DamageError(f"the tensor {name} goes on past the end of the file")
        tensors[name] = GgufTensor(shape, form.name, start + offset, size_bytes)
    end, before = 0, ""
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
        if tensor.offset < end:
            raise _DamageError(f"the tensors {before} and {name} overlap")
        end, before = tensor.offset + tensor.size_bytes, name
    return tensors
