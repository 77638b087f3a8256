"""Losses of a batch, summed by domain, as `loader.report` takes them.

Rules. Results are sums and counts, never means: sums of micro-batches and ranks add up, means do not. Nothing waits for
the device of the losses: values stay there. The result does not depend on how rows are split over ranks and
micro-batches, nor on the order of additions, so a mixer learns the same under any world size: the sum of each row is
rounded to a grid on which float64 adds exactly (up to 2**33 nats).

Shape suffixes: B rows, T tokens of a row, K domains, N terms.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from numpy.typing import NDArray

from mixstream.arguments import shown, whole
from mixstream.errors import ConfigError
from mixstream.feedback.cross_entropy import linear_cross_entropy
from mixstream.feedback.numbers import as_numbers, moved

_GRID = 1 << 20
"""Parts of a nat to which a row's sum is rounded."""
_MASKED_TERMS = 1 << 22
"""Elements of the [K, N] table that `masked_sums` holds at a time: 32 MB of float64."""


def domain_sums(
    loss: torch.Tensor, domain: Any, domains: int, *, mask: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (sums, counts), float64 [K] on the device of `loss`: the summed loss and the number of terms by domain.

    A term with mask w adds w * loss to the sum and w to the count. Terms that are not finite are left out. The host
    does not wait for the device.

    Args:
        loss: [B] per row, [B, T] per token, or [B * T] per token and flattened row by row; in nats.
        domain: [B], the domain of each row, as in `batch["domain"]`; or of each token, in the shape of `loss` or
            flattened, if rows are packed from several domains.
        domains: K, the number of domains.
        mask: which terms count: bool, or a weight >= 0 for each; in the shape of `loss` or flattened, [B] per row, or
            anything that broadcasts to it. All terms count if not given.

    Raises:
        ConfigError: the shapes do not fit, or a domain that is known on the host is not in [0, K).

    Losses of three rows, of which two are of domain 1:

        >>> sums, counts = domain_sums(torch.tensor([2.0, 3.0, 5.0]), [0, 1, 1], domains=2)
        >>> sums.tolist(), counts.tolist()
        ([2.0, 8.0], [1.0, 2.0])
    """
    if not isinstance(loss, torch.Tensor) or loss.is_complex():
        kind = loss.dtype if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise ConfigError(
            f"loss is a {kind}: give the tensor of losses per row [B] or per token [B, T], that is with "
            'reduction="none"'
        )
    index = _domain_ids(domain, domains, loss.device)
    rows = _rows(loss, index)
    values = loss.detach().reshape(rows, -1)
    counted = torch.isfinite(values)
    if mask is None:
        sums_N = torch.where(counted, values, 0).sum(dim=1, dtype=torch.float64)
        counts_N = counted.sum(dim=1, dtype=torch.float64)
    else:
        weight = _term_weights(mask, loss, len(index)).reshape(rows, -1)
        counted &= torch.isfinite(weight) & (weight != 0)
        sums_N = torch.where(counted, values.double() * weight, 0.0).sum(dim=1)
        counts_N = torch.where(counted, weight, 0.0).sum(dim=1)
    both = torch.round(torch.stack([sums_N, counts_N]) * _GRID) / _GRID
    by_domain = indexed_sums if loss.device.type == "cpu" else masked_sums
    sums, counts = by_domain(both, index.reshape(-1), domains)
    return sums, counts


def domain_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    domain: Any,
    *,
    domains: int,
    bias: torch.Tensor | None = None,
    ignore_index: int = -100,
    reduction: Literal["mean", "sum"] = "mean",
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (loss, sums, counts): the cross-entropy of `hidden @ weight.T + bias`, and its sums by domain.

    The logits are never held whole and never computed twice: they are computed `chunk` tokens at a time, together with
    the gradients, which backward only has to scale by one number. `reduction="none"` would cost a second product with
    `weight` in backward, or all logits in memory. `targets` are not shifted here: shift them first.

    Args:
        hidden: [B, T, D] or [N, D], the last layer's output; float16, bfloat16, float32 or float64.
        weight: [V, D], of the output projection; under autocast it is used in autocast's dtype.
        targets: [B, T] or [N], ids in [0, V), or `ignore_index` where there is nothing to predict.
        domain: as in `domain_sums`: [B] per row (also for flattened [N], of equally long rows), or per token.
        domains: K, the number of domains.
        bias: [V], of the output projection, if it has one.
        ignore_index: target that is neither counted nor trained on.
        reduction: "mean" over the counted tokens, or their "sum".
        chunk: tokens whose logits are held at a time; those of 2**24 logits (2**26 on a GPU) if not given.

    Returns:
        loss: scalar, float32 (float64 for float64 inputs), that can be differentiated once. If every target is
            ignored, it and its gradients are 0 (torch's mean is NaN there).
        sums: float64 [K], summed loss by domain in nats, and
        counts: float64 [K], counted tokens by domain; both without gradients, on the device of `hidden`.

    Raises:
        ConfigError: shapes or dtypes do not fit, or (checked on the CPU only) an id is out of range.
    """
    check_tensors(hidden=hidden, weight=weight, targets=targets, bias=bias)
    index = _domain_ids(domain, domains, hidden.device)
    if hidden.ndim < 2 or targets.shape != hidden.shape[:-1]:
        raise ConfigError(
            f"targets have shape {tuple(targets.shape)} for hidden of shape {tuple(hidden.shape)}: every token needs "
            "one target, hidden [B, T, D] with targets [B, T], or [N, D] with [N]; shift both by one token beforehand"
        )
    _rows(targets, index)
    loss, loss_N = linear_cross_entropy(
        hidden.reshape(-1, hidden.shape[-1]),
        weight,
        targets.reshape(-1),
        bias=bias,
        ignore_index=ignore_index,
        reduction=reduction,
        chunk=chunk,
    )
    sums, counts = domain_sums(loss_N.reshape(targets.shape), index, domains, mask=targets != ignore_index)
    return loss, sums, counts


def check_tensors(**given: Any) -> None:
    """Raise ConfigError if one of some arguments is neither a tensor nor None."""
    for name, value in given.items():
        if not (isinstance(value, torch.Tensor) or (value is None and name == "bias")):
            raise ConfigError(f"`{name}` is a tensor, got {shown(value)}")


def indexed_sums(values: torch.Tensor, index_N: torch.Tensor, domains: int) -> torch.Tensor:
    """Return `values`, [M, N], summed by domain: [M, K]. One pass; on a GPU with atomic additions in any order."""
    return values.new_zeros(len(values), domains).index_add_(1, index_N, values)


def masked_sums(values: torch.Tensor, index_N: torch.Tensor, domains: int) -> torch.Tensor:
    """As `indexed_sums`, by one masked sum per domain: no atomics, so the same bits in every run.

    Terms of domains outside [0, K) are in no sum.
    """
    out = values.new_empty(len(values), domains)
    step = max(_MASKED_TERMS // max(len(index_N), 1), 1)
    for first in range(0, domains, step):
        number = torch.arange(first, min(first + step, domains), device=values.device)
        here = index_N == number[:, None]
        for m, row in enumerate(values):
            out[m, first : first + step] = torch.where(here, row, 0.0).sum(dim=1)
    return out


def _domain_ids(domain: Any, domains: int, device: torch.device) -> torch.Tensor:
    """Return `domain` as int64 on `device`, with a range check if it is on the CPU."""
    whole("domains", domains, least=1, most=1 << 32)  # rows of sums that a device may hold
    try:
        index = torch.as_tensor(domain)
    except Exception:  # torch raises TypeError, ValueError and RuntimeError
        raise ConfigError(
            f'`domain` is the rows\' domain numbers, as in batch["domain"], got {shown(domain)}'
        ) from None
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise ConfigError(f'domain has dtype {index.dtype}: give the rows\' domain numbers, as in batch["domain"]')
    if index.device.type == "cpu" and index.numel():
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= domains:
            raise ConfigError(
                f"domain holds numbers from {low} to {high}, and there are {domains} domains, counted from 0: pass "
                "domains=len(dataset.streams)"
            )
    return moved(index, device, torch.int64)


def _rows(loss: torch.Tensor, index: torch.Tensor) -> int:
    """Return the number of rows to fold `loss` into, so that the terms of a row have one domain."""
    if loss.ndim and index.ndim:
        flat = loss.ndim == 1 or index.ndim == 1
        if loss.shape == index.shape or (flat and loss.numel() == index.numel()):
            return index.numel()
        by_row = index.ndim == 1 and len(index) and (len(loss) == len(index) or (loss.ndim == 1 and len(loss)))
        if by_row and loss.numel() % len(index) == 0:
            return len(index)
    raise ConfigError(
        f"loss has shape {tuple(loss.shape)} for domains of shape {tuple(index.shape)}, a batch of "
        f"{len(index) if index.ndim else 1} rows: give it per row [B] or per token [B, T], that is with "
        'reduction="none"'
    )


def _term_weights(mask: Any, loss: torch.Tensor, rows: int) -> torch.Tensor:
    """Return `mask` as float64 in the shape of `loss`."""
    form = "give the mask in the shape of the loss, or one value per row"
    weight = as_numbers(mask, what="a mask", form=form, traced=loss.device.type == "meta")
    weight = moved(weight, loss.device, torch.float64)
    if weight.numel() == loss.numel():
        return weight.reshape(loss.shape)
    if weight.ndim == 1 and len(weight) == rows and loss.numel() % rows == 0:  # per row, whatever T is
        return weight[:, None].expand(rows, loss.numel() // rows).reshape(loss.shape)
    try:
        return weight.broadcast_to(loss.shape)
    except RuntimeError:
        shape = tuple(weight.shape)
    raise ConfigError(f"mask has shape {shape} and loss {tuple(loss.shape)}, {math.prod(loss.shape)} terms: {form}")


def fetch(values: torch.Tensor) -> Callable[[], NDArray[Any]]:
    """Start a copy of `values` to the CPU; return a function that waits for it and returns the array."""
    if not values.is_cuda:
        array = values.detach().cpu().numpy()
        return lambda: array
    pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    pinned.copy_(values.detach(), non_blocking=True)
    copied = torch.cuda.Event(blocking=True)  # a thread that waits does not use its core
    copied.record(torch.cuda.current_stream(values.device))

    def wait() -> NDArray[Any]:
        copied.synchronize()
        return pinned.numpy()

    return wait
