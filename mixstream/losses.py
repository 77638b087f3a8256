"""Losses of a batch, summed by domain."""

from __future__ import annotations

from typing import Any

import torch

from mixstream.errors import ConfigError


def domain_sums(loss: torch.Tensor, domain: Any, domains: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (sums, counts), float64 [K] on the loss's device: each domain's summed loss and how many terms it has.

    Args:
        loss: [B] per row or [B, T] per token, in nats; terms that are not finite are left out.
        domain: [B], each row's domain.
        domains: K, how many there are.

    Raises:
        ConfigError: `loss` does not have a row per row of the batch.
    """
    index = torch.as_tensor(domain, device=loss.device, dtype=torch.int64)
    if loss.ndim < 1 or len(loss) != len(index):
        raise ConfigError(
            f"loss has shape {tuple(loss.shape)} for a batch of {len(index)} rows: give it per row [B] or per token "
            '[B, T], that is with reduction="none"'
        )
    values = loss.detach().reshape(len(index), -1).double()
    counted = torch.isfinite(values)
    sums = torch.zeros(domains, dtype=torch.float64, device=loss.device)
    counts = torch.zeros_like(sums)
    sums.index_add_(0, index, torch.where(counted, values, 0.0).sum(dim=1))
    counts.index_add_(0, index, counted.sum(dim=1).double())
    return sums, counts
