from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mixstream as ms
from mixstream.errors import ConfigError
from mixstream.feedback.losses import indexed_sums, masked_sums
from mixstream.types import Feedback


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


@pytest.mark.parametrize("mask", [None, torch.ones(2, 4)])
def test_the_terms_of_a_row_are_summed_in_float64(mask):
    loss = torch.tensor([[2.0**26, 1.0, 1.0, 1.0]] * 2)
    assert ms.domain_sums(loss, [0, 1], 2, mask=mask)[0].tolist() == [2**26 + 3] * 2  # no float32 is that


@pytest.mark.parametrize("loss", [torch.tensor(1.0), torch.ones(3), torch.ones(2, 4)])
def test_a_loss_must_have_a_row_per_row(loss):
    with pytest.raises(ConfigError, match=r'per row \[B\] or per token \[B, T\], that is with reduction="none"'):
        ms.domain_sums(loss, [0, 0, 0, 0], 1)


def test_the_mean_over_a_batch_of_one_row_is_refused():
    with pytest.raises(ConfigError, match='reduction="none"'):
        ms.domain_sums(torch.tensor(1.0), [0], 1)


def test_flattened_tokens_are_summed_as_if_they_were_not():
    loss, domain = torch.arange(12.0).reshape(3, 4), [1, 0, 1]
    together = ms.domain_sums(loss, domain, 2)
    flat = ms.domain_sums(loss.reshape(-1), domain, 2)
    assert [part.tolist() for part in flat] == [part.tolist() for part in together] == [[22, 44], [4, 8]]


@pytest.mark.parametrize("flat_loss", [False, True])
@pytest.mark.parametrize("flat_domain", [False, True])
def test_packed_rows_give_a_domain_for_every_token(flat_loss, flat_domain):
    loss, domain = torch.arange(6.0).reshape(2, 3), torch.tensor([[0, 0, 2], [2, 1, 1]], dtype=torch.uint8)
    loss, domain = loss.reshape(-1) if flat_loss else loss, domain.reshape(-1) if flat_domain else domain
    sums, counts = ms.domain_sums(loss, domain, 3)
    assert sums.tolist() == [1, 9, 5]
    assert counts.tolist() == [2, 2, 2]


def test_a_table_of_domains_must_have_the_shape_of_the_losses():
    with pytest.raises(ConfigError, match=r"\(3, 2\) for domains of shape \(2, 3\)"):
        ms.domain_sums(torch.ones(3, 2), torch.zeros(2, 3, dtype=torch.int64), 1)


def test_masked_terms_do_not_count_whatever_they_hold():
    loss = torch.tensor([[1.0, math.nan], [4.0, 8.0]])
    sums, counts = ms.domain_sums(loss, [0, 1], 2, mask=torch.tensor([[True, False], [False, True]]))
    assert sums.tolist() == [1, 8]
    assert counts.tolist() == [1, 1]


def test_a_mask_may_weigh():
    loss = torch.tensor([[1.0, 2.0], [4.0, math.inf]])
    sums, counts = ms.domain_sums(loss, [0, 0], 1, mask=torch.tensor([[0.5, 2.0], [0.25, 3.0]]))
    assert sums.tolist() == [5.5]  # 0.5 + 4 + 1; what is infinite brings no weight either
    assert counts.tolist() == [2.75]


@pytest.mark.parametrize(
    ("mask", "expected", "flat"),
    [
        ([[1, 0], [1, 1]], [1, 12], False),
        ([[1, 0], [1, 1]], [1, 12], True),
        ([1, 0, 1, 1], [1, 12], False),
        ([1, 0, 1, 1], [1, 12], True),
        ([1, 0], [3, 0], False),  # per row, though there are as many tokens to a row
        ([1, 0], [3, 0], True),
        ([[1], [0]], [3, 0], False),
        ([[1, 0]], [1, 4], False),
    ],
)
def test_masks_are_spread_over_the_losses(mask, expected, flat):
    loss = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    sums, _ = ms.domain_sums(loss.reshape(-1) if flat else loss, [0, 1], 2, mask=mask)
    assert sums.tolist() == expected


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ConfigError, match=r"mask has shape \(3,\) and loss \(2, 2\), 4 terms"):
        ms.domain_sums(torch.ones(2, 2), [0, 0], 1, mask=[1, 1, 1])


@pytest.mark.parametrize("domain", [[0, 3], np.array([-1, 0]), torch.tensor([0, 9])])
def test_a_domain_that_does_not_exist_is_refused(domain):
    with pytest.raises(ConfigError, match="there are 3 domains, counted from 0"):
        ms.domain_sums(torch.ones(2), domain, 3)


def test_domains_are_numbers():
    with pytest.raises(ConfigError, match="domain numbers"):
        ms.domain_sums(torch.ones(2), torch.ones(2), 3)


@given(st.data())
@settings(max_examples=25)
def test_both_ways_of_summing_agree(data):
    terms, domains = data.draw(st.integers(0, 50)), data.draw(st.integers(1, 40))
    index = torch.tensor(data.draw(st.lists(st.integers(0, domains - 1), min_size=terms, max_size=terms)), dtype=int)
    values = torch.tensor(
        data.draw(st.lists(st.integers(-999, 999), min_size=2 * terms, max_size=2 * terms)), dtype=torch.float64
    ).reshape(2, terms)
    expected = np.zeros((2, domains))
    np.add.at(expected, (slice(None), index.numpy()), values.numpy())
    assert np.array_equal(indexed_sums(values, index, domains), expected)
    assert np.array_equal(masked_sums(values, index, domains), expected)


def test_many_domains_are_summed_in_parts():
    index, values = torch.arange(10_000) % 1000, torch.ones(2, 10_000, dtype=torch.float64)
    assert torch.equal(masked_sums(values, index, 1000), torch.full((2, 1000), 10.0, dtype=torch.float64))


@given(st.integers(1, 40), st.integers(1, 8), st.randoms(use_true_random=False))
def test_sums_do_not_depend_on_how_rows_are_split(rows, parts, random):
    """So a run learns the same from 1 rank and from 64, to the bit."""
    loss = torch.tensor([[random.uniform(0, 12) for _ in range(5)] for _ in range(rows)], dtype=torch.float32)
    domain = torch.tensor([random.randrange(3) for _ in range(rows)])
    whole = torch.stack(ms.domain_sums(loss, domain, 3))
    split = sum(torch.stack(ms.domain_sums(loss[at::parts], domain[at::parts], 3)) for at in range(min(parts, rows)))
    assert torch.equal(whole, split)
    assert torch.allclose(whole[0].sum(), loss.double().sum(), atol=1e-4)


def test_a_loss_that_is_no_tensor_is_refused():
    with pytest.raises(ConfigError, match=r'loss is a float: .* reduction="none"'):
        ms.domain_sums(2.3, [0], 1)  # type: ignore[arg-type]


def test_a_mean_loss_that_overflows_is_missing():
    one_K = np.ones(2)
    sums_K, counts_K = np.array([1e308, 4.0]), np.array([1e-300, 2.0])
    feedback = Feedback(step=0, effective=1, rows_K=one_K, weights_K=one_K / 2, loss_sum_K=sums_K, count_K=counts_K)
    np.testing.assert_array_equal(feedback.loss_K, [np.nan, 2.0])
