"""The weights of a GGUF file as the step in C takes them: mapped, and unpacked some rows at a time.

Values stay what they are in the file, with its scales; a scale and a minimum that llama.cpp keeps as products of two
numbers are rounded to half precision. Q6_K, whose scales hold for 16 weights, is rounded to 8 bits with one for 32.

Source: https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/quants.py for how blocks are laid out.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from llmapi_kit.checkpoints.decoder_families import EMBEDDING, HEAD
from llmapi_kit.checkpoints.decoder_weights import DecoderWeights
from llmapi_kit.checkpoints.gguf_decoder import GROUP, GgufDecoder, StoredTensor
from llmapi_kit.checkpoints.gguf_header import GgufHeader, GgufTensor
from llmapi_kit.checkpoints.integer_weights import IntegerFormat, IntegerMatrix, IntegerRows
from llmapi_kit.checkpoints.low_rank import LowRank
from llmapi_kit.checkpoints.mapped_files import drop_pages
from llmapi_kit.checkpoints.rotation import Rotation, rotation_of
from llmapi_kit.errors import UnsupportedModelError

FORMAT = IntegerFormat(4, GROUP, has_minima=True)
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
BLOCK = 256  # weights of a K-quant's block

# Values (rows, inputs) of a byte each; scales and minima (rows, inputs / GROUP), in float32 or half precision
Unpacked = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def read_gguf_weights(decoder: GgufDecoder) -> DecoderWeights:
    """Map a file's weights.

    Args:
        decoder: what the file is understood as.
    """
    mapped = {path: _map(path) for path in {each.header.path for each in decoder.tensors.values()}}
    tensors = {name: _weight(stored, mapped) for name, stored in decoder.tensors.items()}
    rotations = [rotation_of(rope, decoder.config.head_dim) for rope in decoder.config.ropes]
    if decoder.frequencies is not None:
        factors = _raw(decoder.frequencies, mapped).view(torch.float32)
        rotations = [Rotation(each.inv_freq / factors, each.scale) for each in rotations]
    weights = DecoderWeights(decoder.config, tensors, rotations)
    if decoder.has_integers:
        weights.integers = FORMAT
    return weights


def read_gguf_adapter(header: GgufHeader, decoder: GgufDecoder) -> dict[str, LowRank]:
    """What a LoRA adapter changes, by the layer's name.

    Args:
        header: of the adapter.
        decoder: the model that it is to go on.

    Raises:
        UnsupportedModelError: it is of another model, or changes what llama.cpp alone changes.
    """
    matrices = {
        each.stored: name
        for name, each in decoder.tensors.items()
        if len(each.tensor.shape) == 2 and ".experts." not in name
    }
    whole, alpha = _map(header.path), header.one("adapter.lora.alpha", 0.0)
    changes: dict[str, LowRank] = {}
    for stored in sorted({name.rpartition(".lora_")[0] for name in header.tensors}):
        parts = [header.tensors.get(f"{stored}.lora_{part}") for part in "ab"]
        name = matrices.get(stored, "")
        if name in ("", EMBEDDING, HEAD) or any(part is None or part.kind not in DTYPES for part in parts):
            raise UnsupportedModelError(
                f"The adapter {header.path.name} changes {stored!r}, or is in a number format, as llama.cpp alone "
                "computes it. Load the model with native=False."
            )
        down, up = (_floats(whole, part) for part in parts if part is not None)
        outputs, inputs = decoder.tensors[name].tensor.shape
        if down.ndim != 2 or down.shape[1] != inputs or up.shape != (outputs, len(down)):
            raise UnsupportedModelError(
                f"The adapter {header.path.name} does not go on the model: {stored} is ({outputs:,}, {inputs:,}), and "
                f"it has {tuple(down.shape)} and {tuple(up.shape)} for it."
            )
        order = _order(decoder.tensors[name])
        up = (up if order is None else up[order]) * (alpha / len(down) if alpha else 1.0)
        changes[name.removesuffix(".weight")] = LowRank(down.contiguous(), torch.zeros(len(down)), up.contiguous())
    return changes


def _floats(whole: torch.Tensor, tensor: GgufTensor) -> torch.Tensor:
    """A tensor of a file in float32."""
    raw = whole[tensor.offset : tensor.offset + tensor.size_bytes]
    return raw.view(DTYPES[tensor.kind]).view(tensor.shape).float()


def _map(path: Path) -> torch.Tensor:
    """A file's bytes; writing to them would change no file."""
    with path.open("rb") as file:
        return torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)


def _raw(stored: StoredTensor, mapped: Mapping[Path, torch.Tensor]) -> torch.Tensor:
    tensor = stored.tensor
    whole = mapped.get(stored.header.path)
    whole = _map(stored.header.path) if whole is None else whole
    return whole[tensor.offset : tensor.offset + tensor.size_bytes]


def _weight(stored: StoredTensor, mapped: Mapping[Path, torch.Tensor]) -> torch.Tensor | IntegerMatrix:
    raw, shape = _raw(stored, mapped), stored.tensor.shape
    if stored.bits:
        return GgufMatrix(raw.view(shape[0], -1), stored)
    values = raw.view(DTYPES[stored.tensor.kind]).view(shape)
    order = _order(stored)
    return values if order is None else values[order]


def _order(stored: StoredTensor) -> torch.Tensor | None:
    """Which row of the file each row is; None for the same."""
    heads, num_rows = stored.num_heads_in_pairs, stored.tensor.shape[0]
    if not heads:
        return None
    return torch.arange(num_rows).view(heads, num_rows // heads // 2, 2).transpose(1, 2).flatten()


class GgufMatrix(IntegerMatrix):
    """A matrix in blocks of integers.

    Args:
        raw: (outputs, bytes of a row).
        stored: how.
    """

    def __init__(self, raw: torch.Tensor, stored: StoredTensor) -> None:
        super().__init__(torch.Size(stored.tensor.shape), stored.bits, GROUP)
        self._raw, self._unpack, self._order = raw, UNPACK[stored.tensor.kind], _order(stored)

    def rows(self, begin: int, end: int) -> IntegerRows:
        """See `IntegerMatrix.rows`."""
        raw = self._raw[begin:end] if self._order is None else self._raw[self._order[begin:end]]
        values, scales, minima = self._unpack(raw)
        words = torch.stack((scales.half(), minima.half()), -1).view(torch.int32).squeeze(-1)
        return IntegerRows(values.reshape(len(raw), -1).contiguous(), words, GROUP, has_minima=True)

    def is_finite(self) -> bool:
        """See `IntegerMatrix.is_finite`."""
        return all(bool(self.rows(row, row + 1).widened().isfinite().all()) for row in range(self.shape[0]))

    def release(self) -> None:
        """See `IntegerMatrix.release`."""
        drop_pages(self._raw)


def _blocks(raw: torch.Tensor, num_bytes: int) -> torch.Tensor:
    """Rows as (rows, blocks, bytes of a block)."""
    return raw.view(len(raw), -1, num_bytes)


def _halves(blocks: torch.Tensor, at: int) -> torch.Tensor:
    """A number in half precision of each block: (rows, blocks) in float32."""
    return blocks[..., at : at + 2].contiguous().view(torch.float16)[..., 0].float()


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    """The lower halves of bytes, and then the upper ones, in place of the last dimension."""
    return torch.cat((packed & 15, packed >> 4), -1)


def _q8_0(raw: torch.Tensor) -> Unpacked:
    blocks = _blocks(raw, 34)
    scales = _halves(blocks, 0)
    return blocks[..., 2:] ^ 0x80, scales, 128 * scales  # a number with a sign, plus 128


def _q4_0(raw: torch.Tensor) -> Unpacked:
    blocks = _blocks(raw, 18)
    scales = _halves(blocks, 0)
    return _nibbles(blocks[..., 2:]), scales, 8 * scales


def _q4_1(raw: torch.Tensor) -> Unpacked:
    blocks = _blocks(raw, 20)
    return _nibbles(blocks[..., 4:]), _halves(blocks, 0), -_halves(blocks, 2)


def _fifth_bits(packed: torch.Tensor) -> torch.Tensor:
    """Four bytes as 32 values: 16 or 0."""
    bits = packed[..., None] >> torch.arange(8, dtype=torch.uint8) & 1
    return bits.flatten(-2) << 4


def _q5_0(raw: torch.Tensor) -> Unpacked:
    blocks = _blocks(raw, 22)
    scales = _halves(blocks, 0)
    return _nibbles(blocks[..., 6:]) | _fifth_bits(blocks[..., 2:6]), scales, 16 * scales


def _q5_1(raw: torch.Tensor) -> Unpacked:
    blocks = _blocks(raw, 24)
    return _nibbles(blocks[..., 8:]) | _fifth_bits(blocks[..., 4:8]), _halves(blocks, 0), -_halves(blocks, 2)


def _scales_and_minima(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the eight groups of a block of Q4_K or Q5_K, which has 6 bits for each: (rows, groups) in float32."""
    low, middle, high = blocks[..., 4:8], blocks[..., 8:12], blocks[..., 12:16]
    scales = torch.cat((low & 63, (high & 15) | (low >> 6) << 4), -1)
    minima = torch.cat((middle & 63, high >> 4 | (middle >> 6) << 4), -1)
    wide = scales.float() * _halves(blocks, 0)[..., None], minima.float() * _halves(blocks, 2)[..., None]
    return wide[0].flatten(1), wide[1].flatten(1)


def _k_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """128 bytes of a block as (rows, blocks, 8, 32): of 32 bytes, the lower halves are a group and the upper ones."""
    return _nibbles(packed.reshape(*packed.shape[:-1], 4, 32)).view(*packed.shape[:-1], 8, 32)


def _q4_k(raw: torch.Tensor) -> Unpacked:
    blocks = _blocks(raw, 144)
    return _k_nibbles(blocks[..., 16:]), *_scales_and_minima(blocks)


def _q5_k(raw: torch.Tensor) -> Unpacked:
    blocks = _blocks(raw, 176)
    fifth = blocks[..., None, 16:48] >> torch.arange(8, dtype=torch.uint8)[:, None] & 1  # (rows, blocks, 8, 32)
    return _k_nibbles(blocks[..., 48:]) | fifth << 4, *_scales_and_minima(blocks)


def _q6_k(raw: torch.Tensor) -> Unpacked:
    blocks = _blocks(raw, 210)
    low = _nibbles(blocks[..., :128].reshape(*blocks.shape[:-1], 2, 64)).view(*blocks.shape[:-1], 2, 4, 32)
    high = blocks[..., 128:192].reshape(*blocks.shape[:-1], 2, 1, 32)
    high = high >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None] & 3
    integers = (low | high << 4).float() - 32
    factors = blocks[..., 192:208].contiguous().view(torch.int8).float() * _halves(blocks, 208)[..., None]
    wide = integers.reshape(len(raw), -1, 16) * factors.reshape(len(raw), -1, 1)
    return _rounded(wide.view(len(raw), -1, GROUP))


def _rounded(wide: torch.Tensor) -> Unpacked:
    """Floats (rows, groups, GROUP) to the nearest integers of 8 bits."""
    scales = (wide.abs().amax(-1) / 127).half().float()
    inverse = torch.where(scales > 0, 1 / scales, 0.0)
    values = (wide * inverse[..., None]).round_().clamp_(-128, 127).add_(128)
    return values.to(torch.uint8), scales, 128 * scales


UNPACK: dict[str, Callable[[torch.Tensor], Unpacked]] = {
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
