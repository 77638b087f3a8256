from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from mixstream.errors import ConfigError
from mixstream.feedback.losses import domain_cross_entropy, domain_sums

IGNORED = -100


def inputs(rows: int = 3, tokens: int = 5, width: int = 4, vocab: int = 11, **make: Any) -> tuple[torch.Tensor, ...]:
    """Return hidden, weight, bias, targets (some of them ignored) and the rows' domains."""
    make = {"dtype": torch.float64, **make}
    random = torch.Generator().manual_seed(7)
    hidden = torch.randn(rows, tokens, width, generator=random).to(**make).requires_grad_()
    weight = torch.randn(vocab, width, generator=random).to(**make).requires_grad_()
    bias = torch.randn(vocab, generator=random).to(**make).requires_grad_()
    targets = torch.randint(vocab, (rows, tokens), generator=random)
    targets[torch.rand(rows, tokens, generator=random) < 0.3] = IGNORED
    return hidden, weight, bias, targets, torch.arange(rows) % 2


def reference(hidden, weight, bias, targets, reduction="mean"):
    """Return torch's loss, over all logits at once."""
    logits = F.linear(hidden, weight, bias).flatten(0, -2)
    return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction=reduction)


@given(
    rows=st.integers(1, 4),
    tokens=st.integers(1, 6),
    vocab=st.integers(1, 9),
    chunk=st.integers(1, 30),
    reduction=st.sampled_from(["mean", "sum"]),
    with_bias=st.booleans(),
    upstream=st.sampled_from([1.0, -0.37]),
)
@settings(max_examples=15)
def test_the_loss_and_its_gradients_are_torchs(rows, tokens, vocab, chunk, reduction, with_bias, upstream):
    hidden, weight, bias, targets, domain = inputs(rows, tokens, vocab=vocab)
    targets[0, 0] = 0  # something counts
    used = (hidden, weight, bias) if with_bias else (hidden, weight)
    expected = reference(hidden, weight, bias if with_bias else None, targets, reduction)
    expected_grads = torch.autograd.grad(upstream * expected, used)
    loss, _, _ = domain_cross_entropy(
        hidden,
        weight,
        targets,
        domain,
        domains=2,
        bias=bias if with_bias else None,
        reduction=reduction,
        chunk=chunk,
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(upstream * loss, used), expected_grads):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    hidden, weight, bias, targets, domain = inputs()

    def loss(*at: torch.Tensor) -> torch.Tensor:
        return domain_cross_entropy(at[0], at[1], targets, domain, domains=2, bias=at[2], chunk=4)[0]

    assert torch.autograd.gradcheck(loss, (hidden, weight, bias), fast_mode=True)


def test_losses_are_summed_by_domain():
    hidden, weight, bias, targets, domain = inputs()
    loss, sums, counts = domain_cross_entropy(hidden, weight, targets, domain, domains=3, bias=bias, chunk=4)
    each = reference(hidden, weight, bias, targets, "none").reshape(targets.shape)
    expected, terms = domain_sums(each, domain, 3, mask=targets != IGNORED)
    torch.testing.assert_close(sums, expected, rtol=1e-12, atol=0)
    assert counts.tolist() == terms.tolist()
    assert counts.sum() == (targets != IGNORED).sum()
    assert counts[2] == 0
    assert not sums.requires_grad
    torch.testing.assert_close(sums.sum() / counts.sum(), loss.detach(), rtol=0, atol=1e-6)  # sums are on a grid


def test_rows_may_be_flattened_or_packed():
    hidden, weight, _, targets, domain = inputs()
    flat = hidden.flatten(0, 1), weight, targets.flatten()
    results = [
        domain_cross_entropy(hidden, weight, targets, domain, domains=2),
        domain_cross_entropy(*flat, domain, domains=2),
        domain_cross_entropy(*flat, domain.repeat_interleave(5), domains=2),
        domain_cross_entropy(hidden, weight, targets, domain[:, None].expand(3, 5), domains=2),
        domain_cross_entropy(hidden, weight, targets, domain.numpy(), domains=2),
    ]
    for result in results[1:]:
        for ours, first in zip(result, results[0]):
            torch.testing.assert_close(ours, first, rtol=1e-14, atol=0)


def test_a_batch_without_targets_has_loss_zero_and_no_gradient():
    hidden, weight, _, targets, domain = inputs()
    loss, sums, counts = domain_cross_entropy(
        hidden, weight, torch.full_like(targets, IGNORED), domain, domains=2, chunk=4
    )
    loss.backward()
    assert (loss.item(), sums.tolist(), counts.tolist()) == (0, [0, 0], [0, 0])
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_another_index_may_be_the_ignored_one():
    hidden, weight, _, targets, domain = inputs()
    marked = torch.where(targets == IGNORED, 10**6, targets)
    ours = domain_cross_entropy(hidden, weight, marked, domain, domains=2, ignore_index=10**6)
    torch.testing.assert_close(ours, domain_cross_entropy(hidden, weight, targets, domain, domains=2))


def test_large_logits_do_not_overflow():
    hidden, weight, bias, targets, domain = inputs(dtype=torch.float32)
    scaled = (hidden * 1e4).detach().requires_grad_()
    loss, sums, _ = domain_cross_entropy(scaled, weight, targets, domain, domains=2, bias=bias, chunk=4)
    torch.testing.assert_close(loss, reference(scaled, weight, bias, targets))
    (grad,) = torch.autograd.grad(loss, scaled)
    assert grad.isfinite().all()
    assert sums.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_float32(dtype):
    hidden, weight, bias, targets, domain = inputs(rows=8, tokens=64, width=16, vocab=40, dtype=dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight, bias)]
    expected = torch.autograd.grad(reference(*exact, targets), exact)
    loss, sums, counts = domain_cross_entropy(hidden, weight, targets, domain, domains=2, bias=bias, chunk=7)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((sums.sum() / counts.sum()).item(), rel=1e-6)
    assert loss.item() == pytest.approx(reference(*exact, targets).item(), rel=1e-3)
    worst = 2 * torch.finfo(dtype).eps  # of the gradient's size; 74 chunks added up in `dtype` are far worse
    for ours, theirs, like in zip(torch.autograd.grad(loss, (hidden, weight, bias)), expected, (hidden, weight, bias)):
        assert ours.dtype == like.dtype
        assert (ours.double() - theirs).norm() < worst * theirs.norm()


def test_float16_keeps_small_gradients_without_a_loss_scale():
    tokens, vocab = 3000, 1000  # a logit's gradient of the mean is 3.3e-7, which float16 rounds by several percent
    hidden = torch.ones(1, tokens, 1, dtype=torch.float16)
    weight = torch.zeros(vocab, 1, dtype=torch.float16, requires_grad=True)
    targets = torch.zeros(1, tokens, dtype=torch.int64)
    loss, _, _ = domain_cross_entropy(hidden, weight, targets, [0], domains=1, chunk=500)
    loss.backward()
    assert weight.grad[1:].float().mean().item() == pytest.approx(1 / vocab, rel=1e-3)


def test_autocast_computes_in_its_dtype_and_keeps_gradients_in_the_weights():
    hidden, weight, bias, targets, domain = inputs(rows=4, tokens=32, width=16, vocab=40, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _, _ = domain_cross_entropy(hidden, weight, targets, domain, domains=2, bias=bias, chunk=16)
        mixed, _, _ = domain_cross_entropy(hidden.bfloat16(), weight, targets, domain, domains=2, bias=bias)
        expected = reference(hidden, weight, bias, targets)
    exact = reference(hidden, weight, bias, targets)
    torch.testing.assert_close(loss, expected, rtol=5e-3, atol=0)
    torch.testing.assert_close(mixed, loss, rtol=1e-5, atol=0)
    assert loss != exact  # bfloat16 products
    for ours, theirs in zip(torch.autograd.grad(loss, (hidden, weight)), torch.autograd.grad(exact, (hidden, weight))):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 2e-2 * theirs.norm()


@pytest.mark.parametrize("frozen", [("hidden",), ("weight",), ("weight", "bias"), ("hidden", "weight", "bias")])
def test_what_is_frozen_gets_no_gradient_and_costs_no_product(frozen):
    hidden, weight, bias, targets, domain = inputs()
    by_name = {"hidden": hidden, "weight": weight, "bias": bias}
    for name in frozen:
        by_name[name].requires_grad_(False)
    trained = [tensor for tensor in by_name.values() if tensor.requires_grad]
    with _Watch() as watch:
        loss, _, _ = domain_cross_entropy(hidden, weight, targets, domain, domains=2, bias=bias)
    assert watch.products == 1 + hidden.requires_grad + weight.requires_grad
    assert loss.requires_grad == bool(trained)
    if trained:
        expected = torch.autograd.grad(reference(hidden, weight, bias, targets), trained)
        torch.testing.assert_close(torch.autograd.grad(loss, trained), expected)


def test_without_gradients_only_losses_are_computed():
    hidden, weight, bias, targets, domain = inputs()
    with torch.no_grad(), _Watch() as watch:
        loss, _, _ = domain_cross_entropy(hidden, weight, targets, domain, domains=2, bias=bias, chunk=5)
    assert watch.products == 3  # one for each chunk
    assert not loss.requires_grad


def test_logits_are_never_held_whole_nor_made_twice():
    tokens, width, vocab, chunk = 512, 8, 1000, 64
    hidden, weight, bias, targets, domain = inputs(4, tokens // 4, width, vocab, dtype=torch.bfloat16)
    with _Watch() as watch:
        loss, _, _ = domain_cross_entropy(hidden, weight, targets, domain, domains=2, bias=bias, chunk=chunk)
        loss.backward()
    assert watch.largest == chunk * vocab  # and the weight's gradient is smaller
    assert watch.products == 3 * tokens // chunk


def test_the_default_chunk_bounds_memory():
    hidden, weight, _, targets, domain = inputs(2, 64, 1, 200_000, dtype=torch.float32)
    with torch.no_grad(), _Watch() as watch:
        domain_cross_entropy(hidden, weight, targets, domain, domains=2)
    assert watch.largest <= 1 << 24 < 128 * 200_000


def test_a_step_can_be_traced_without_data():
    hidden, weight, bias, targets, domain = (tensor.to("meta") for tensor in inputs())
    used = [tensor.detach().requires_grad_() for tensor in (hidden, weight, bias)]
    loss, sums, counts = domain_cross_entropy(*used[:2], targets, domain, domains=2, bias=used[2], chunk=4)
    loss.backward()
    assert (loss.shape, sums.shape, counts.shape) == ((), (2,), (2,))
    assert all(tensor.grad.shape == tensor.shape for tensor in used)


def test_a_checkpointed_head_gives_the_same_gradients():
    hidden, weight, _, targets, domain = inputs()

    def head(*at: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return domain_cross_entropy(*at, targets, domain, domains=2, chunk=4)

    direct = torch.autograd.grad(head(hidden, weight)[0], (hidden, weight))
    again = torch.autograd.grad(checkpoint(head, hidden, weight, use_reentrant=False)[0], (hidden, weight))
    torch.testing.assert_close(again, direct, rtol=0, atol=0)


def test_backward_may_be_called_again_and_adds_up():
    hidden, weight, _, targets, domain = inputs()
    loss, _, _ = domain_cross_entropy(hidden, weight, targets, domain, domains=2, chunk=4)
    loss.backward(retain_graph=True)
    once = weight.grad.clone()
    (2 * loss).backward()
    torch.testing.assert_close(weight.grad, 3 * once)


def test_micro_batches_add_up_to_the_batch():
    hidden, weight, _, targets, domain = inputs()
    expected = torch.autograd.grad(reference(hidden, weight, None, targets, "sum"), weight)[0]
    totals = torch.zeros(2, 2, dtype=torch.float64)
    for row in range(3):
        part = slice(row, row + 1)
        loss, sums, counts = domain_cross_entropy(
            hidden[part], weight, targets[part], domain[part], domains=2, reduction="sum"
        )
        loss.backward()
        totals += torch.stack([sums, counts])
    torch.testing.assert_close(weight.grad, expected)
    whole = torch.stack(domain_cross_entropy(hidden, weight, targets, domain, domains=2)[1:])
    torch.testing.assert_close(totals, whole)


def test_a_second_derivative_is_refused():
    hidden, weight, _, targets, domain = inputs()
    loss, _, _ = domain_cross_entropy(hidden, weight, targets, domain, domains=2)
    with pytest.raises(ConfigError, match="differentiated once, and create_graph=True asks for more"):
        torch.autograd.grad(loss, weight, create_graph=True)


def test_a_loss_that_is_not_a_number_is_told_apart():
    hidden, weight, _, targets, domain = inputs()
    targets[:] = 0
    with torch.no_grad():
        hidden[0, 0] = math.nan
        loss, sums, counts = domain_cross_entropy(hidden, weight, targets, domain, domains=2)
    assert loss.isnan()
    assert sums.isfinite().all()
    assert counts.tolist() == [9, 5]  # of 10 and 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.zeros(3, 4, dtype=int)}, r"targets have shape \(3, 4\) for hidden of shape \(3, 5, 4\)"),
        ({"targets": torch.zeros(3, 5)}, "targets have dtype torch.float32"),
        ({"targets": torch.full((3, 5), 11)}, "target 11 is no class of 11"),
        ({"targets": torch.full((3, 5), -1)}, "target -1 is no class of 11"),
        ({"weight": torch.ones(4, 11, dtype=torch.float64)}, r"as nn.Linear keeps it, \[V, D\]"),
        ({"weight": torch.ones(11, 4)}, "run the step under torch.autocast"),
        ({"bias": torch.ones(4)}, r"bias has shape \(4,\) for 11 classes"),
        ({"domain": [0, 1]}, r"domains of shape \(2,\)"),
        ({"domain": [0, 1, 2]}, "there are 2 domains, counted from 0"),
        ({"reduction": "none"}, "reduction='none'"),
        ({"chunk": 0}, "chunk must be at least 1 token"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    hidden, weight, bias, targets, domain = inputs()
    given_ = {"hidden": hidden, "weight": weight, "bias": bias, "targets": targets, "domain": domain, "domains": 2}
    with pytest.raises(ConfigError, match=message):
        domain_cross_entropy(**{**given_, **change})


class _Watch(TorchDispatchMode):
    """Notes the largest tensor that any operation returns, and how many matrix products there are."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_)
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result
