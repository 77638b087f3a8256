from __future__ import annotations

import math

import pytest
import torch

import mixstream as ms
from mixstream.errors import ConfigError


def test_rows_are_summed_by_domain():
    sums, counts = ms.domain_sums(torch.tensor([1.0, 2.0, 4.0, 8.0]), [2, 0, 2, 2], 4)
    assert (sums.dtype, counts.dtype) == (torch.float64, torch.float64)
    assert sums.tolist() == [2, 0, 13, 0]
    assert counts.tolist() == [1, 0, 3, 0]


def test_tokens_are_summed_by_domain():
    sums, counts = ms.domain_sums(torch.arange(6.0).reshape(2, 3), torch.tensor([1, 0]), 2)
    assert sums.tolist() == [12, 3]
    assert counts.tolist() == [3, 3]


def test_what_is_not_finite_is_left_out():
    loss = torch.tensor([[1.0, math.nan], [math.inf, -math.inf], [5.0, 6.0]])
    sums, counts = ms.domain_sums(loss, [0, 1, 0], 2)
    assert sums.tolist() == [12, 0]
    assert counts.tolist() == [3, 0]


def test_sums_are_exact_and_keep_no_graph():
    loss = torch.full((1000,), 1 + 1 / 128, dtype=torch.bfloat16, requires_grad=True)
    sums, _ = ms.domain_sums(loss, [0] * 1000, 1)
    assert sums.tolist() == [1000 + 1000 / 128]
    assert not sums.requires_grad


@pytest.mark.parametrize("loss", [torch.tensor(1.0), torch.ones(3), torch.ones(2, 4)])
def test_a_loss_must_have_a_row_per_row(loss):
    with pytest.raises(ConfigError, match=r'per row \[B\] or per token \[B, T\], that is with reduction="none"'):
        ms.domain_sums(loss, [0, 0, 0, 0], 1)
