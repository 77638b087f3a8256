"""What is reported from a GPU: nothing waits for the device but what the host itself has to read, and that does.

On a simulated GPU (`fake_gpu`); the last tests need a real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import FakeGpu, fake_gpu
from harness import make_dataset

import mixstream as ms
from mixstream.data.segments import Segments
from mixstream.feedback.labelled import labelled
from mixstream.feedback.losses import domain_cross_entropy, domain_sums


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    with fake_gpu() as simulated:
        yield simulated


def test_losses_on_the_host_wait_for_domains_and_masks_on_the_gpu(gpu):
    domain, mask = torch.tensor([1, 0, 1]), torch.tensor([True, True, False])
    found = domain_sums(torch.tensor([1.0, 2.0, 4.0]), gpu.on(domain), 2, mask=gpu.on(mask))
    assert [each.tolist() for each in found] == [[2.0, 1.0], [1.0, 1.0]]


def test_losses_on_the_host_wait_for_labels_on_the_gpu(gpu):
    batch = ms.Batch({"labels": gpu.on(torch.tensor([[-100, 6, -100, 8]] * 2))})
    batch.segments = Segments(ends_D1=np.array([0, 2, 4, 6, 8], np.int32), rows=2)
    _, mask = labelled(batch, torch.ones(2, 3), None)
    assert mask.tolist() == [[True, False, True]] * 2


def run(library: Any, device: str, *, on: Any, within: Any) -> list[dict[str, float]]:
    """Train five steps; return the weights after each."""
    dataset = make_dataset(library, mixer=ms.mixers.MatrixMixer(), lag=2)
    with ms.Loader(dataset, prefetch=2, device=device) as loader:
        weights = []
        for batch, scale in zip(loader, range(1, 6), strict=False):
            hidden = on(torch.arange(8.0 * 4 * 3).reshape(8, 4, 3) / 64)
            head, targets = on(torch.arange(15.0).reshape(5, 3) / 8), on(torch.arange(32).reshape(8, 4) % 5)
            matrix = on(torch.arange(9.0).reshape(3, 3) * scale)
            with within():
                loss, sums, counts = domain_cross_entropy(hidden, head, targets, batch["domain"], domains=3)
                first, second = batch.split(2)
                half = domain_sums(on(torch.ones(4, 4)), first.domain, 3, mask=targets[:4] != 0)
                loader.report(first, half, matrix=matrix)
                loader.report(second, (loss, sums, counts))
            weights.append(loader.state_dict()["mixing"]["state"] | loader.weights)
        return weights


def test_a_report_waits_for_no_device(gpu, library):
    found = run(library, "cuda", on=gpu.on, within=gpu.hurried)
    assert found == run(library, "cpu", on=lambda values: values, within=nullcontext)


def test_a_matrix_that_changes_after_its_report_counts_as_it_was(library):
    def weights(*, change: bool) -> list[dict[str, float]]:
        dataset = make_dataset(library, mixer=ms.mixers.MatrixMixer(), lag=2)
        with ms.Loader(dataset, prefetch=2) as loader:
            found, matrix = [], torch.empty(3, 3, dtype=torch.float64)
            for batch, scale in zip(loader, range(1, 6), strict=False):
                matrix.copy_(torch.arange(9.0).reshape(3, 3) * scale)
                loader.report(batch, torch.ones(8), matrix=matrix)
                if change:
                    matrix.fill_(torch.nan)
                found.append(loader.state_dict()["mixing"]["state"] | loader.weights)
            return found

    assert weights(change=True) == weights(change=False)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
def test_a_report_synchronises_no_real_gpu(library):
    def hurried() -> Any:
        torch.cuda.set_sync_debug_mode("error")
        return _Calm()

    run(library, "cuda", on=lambda values: values.to("cuda"), within=hurried)


class _Calm:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_loss_on_a_gpu_is_that_of_all_logits(dtype):
    torch.manual_seed(0)
    hidden = torch.randn(512, 64, device="cuda", dtype=dtype, requires_grad=True)
    head = (torch.randn(1000, 64, device="cuda", dtype=dtype) / 8).requires_grad_()
    targets = torch.randint(1000, (512,), device="cuda")
    targets[::7] = -100
    domain = torch.randint(5, (512,), device="cuda")
    loss, sums, counts = domain_cross_entropy(hidden, head, targets, domain, domains=5, chunk=100)
    loss.backward()
    found = [loss.double(), hidden.grad.double(), head.grad.double(), sums, counts]
    exact_hidden, exact_head = (each.detach().double().requires_grad_() for each in (hidden, head))
    each = torch.nn.functional.cross_entropy(exact_hidden @ exact_head.t(), targets, reduction="none")
    expected_sums, expected_counts = domain_sums(each, domain, 5, mask=targets != -100)
    mean = each.sum() / (targets != -100).sum()
    mean.backward()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    expected = [mean, exact_hidden.grad, exact_head.grad, expected_sums, expected_counts]
    for got, exact in zip(found, expected):
        assert float((got - exact).norm()) <= tolerance * float(exact.norm())
