"""Blocks of a GGUF file as integers with scales: the numbers that the gguf package makes of them."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from llmapi_kit.checkpoints.gguf_decoder import BITS, StoredTensor
from llmapi_kit.checkpoints.gguf_header import GgufHeader, GgufTensor
from llmapi_kit.checkpoints.gguf_weights import UNPACK, GgufMatrix

from .gguf_files import quantize

ROWS, INPUTS = 24, 512
EXACT = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


def matrix(kind, values, num_heads_in_pairs=0):
    """A matrix in a number format, and what the gguf package reads in it."""
    form = gguf.GGMLQuantizationType[kind]
    raw = np.frombuffer(quantize(values, form).tobytes(), np.uint8).copy()
    stored = GgufTensor(values.shape, kind, 0, raw.size)
    header = GgufHeader(None, {}, {})
    expected = torch.from_numpy(gguf.dequantize(raw, form).reshape(values.shape))
    return (
        GgufMatrix(
            torch.from_numpy(raw).view(len(values), -1),
            StoredTensor("x", header, stored, BITS[kind], num_heads_in_pairs),
        ),
        expected,
    )


def random_values(seed=0):
    return (np.random.default_rng(seed).standard_normal((ROWS, INPUTS)) * 0.02).astype(np.float32)


def test_every_format_that_has_bits_can_be_unpacked():
    assert UNPACK.keys() == BITS.keys()


@pytest.mark.parametrize("kind", sorted(BITS))
def test_weights_are_what_the_file_stores(kind):
    values = random_values()
    found, expected = matrix(kind, values)
    rows = found.rows(0, ROWS)
    lost = (expected - torch.from_numpy(values)).square().mean().sqrt()  # by the file's own format
    assert int(rows.values.max()) < 2 ** BITS[kind]
    error = (rows.widened() - expected).square().mean().sqrt()
    if kind in EXACT:
        assert error == 0
    else:  # scales in half precision; of Q6_K, one for 32 weights and not for 16
        assert error < (0.6 if kind == "Q6_K" else 0.04) * lost
    assert found.is_finite()


@pytest.mark.parametrize("kind", ["Q4_1", "Q4_K", "Q8_0"])
def test_rows_in_pairs_come_as_halves(kind):
    found, expected = matrix(kind, random_values(), num_heads_in_pairs=3)
    halves = expected.view(3, ROWS // 6, 2, INPUTS).transpose(1, 2).reshape(ROWS, INPUTS)
    whole = matrix(kind, random_values())[0].rows(0, ROWS).widened()
    assert not torch.equal(found.rows(0, ROWS).widened(), whole)
    torch.testing.assert_close(found.rows(5, 17).widened(), halves[5:17], atol=1e-4, rtol=1e-2)


@pytest.mark.parametrize("kind", sorted(BITS))
def test_a_row_of_zeros_is_one(kind):
    found, _ = matrix(kind, np.zeros((2, INPUTS), np.float32))
    assert not found.rows(0, 2).widened().any()


def test_a_scale_that_is_no_number_is_found():
    found, _ = matrix("Q8_0", random_values())
    found._raw[3, 0:2] = torch.tensor([0, 0x7E], dtype=torch.uint8)
    assert not found.is_finite()
