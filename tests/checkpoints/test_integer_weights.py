from __future__ import annotations

import pytest
import torch

from llmapi_kit.checkpoints.integer_weights import ROUNDED, ZERO_BITS, RoundedMatrix, round_rows


@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("inputs", [7, 64, 200])
def test_a_rounded_weight_is_off_by_half_a_step_of_its_group_at_most(name, inputs):
    form = ROUNDED[name]
    rows = torch.randn(5, inputs, generator=torch.Generator().manual_seed(0))
    rounded = round_rows(rows, form.bits, form.group)
    scales = (rounded.scales & ~ZERO_BITS).view(torch.float32).repeat_interleave(form.group, 1)[:, :inputs]
    assert rounded.values.shape == rows.shape
    assert bool(((rounded.widened() - rows).abs() <= scales * 0.51).all())


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_stay_zeros(bits):
    rows = torch.randn(3, 64)
    rows[0], rows[1, ::2] = 0, 0
    widened = round_rows(rows, bits, 32).widened()
    assert bool((widened[rows == 0] == 0).all())


def test_a_weight_that_is_no_number_stays_one():
    rows = torch.randn(2, 64)
    rows[1, 5] = torch.nan
    assert not RoundedMatrix(rows, 8, 64).is_finite()
    assert bool(round_rows(rows, 8, 64).widened()[1].isnan().any())


def test_a_matrix_tells_what_it_takes():
    matrix = RoundedMatrix(torch.zeros(10, 64), 4, 32)
    assert matrix.nbytes == 10 * 64 * 5 // 8
