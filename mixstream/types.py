"""The frozen records that layers hand to each other. Plain values: no I/O, no torch, no behaviour beyond checks.

Domains have one numbering, the plan's: sorted by name, or, where domains are read one after the other, as `streams`
lists them. Shards have one numbering: those of domain 0, then those of domain 1, and so on. The order of `streams` is
seen at three doors only: `Batch.domain`, what `Loader.report` takes, and the sample numbers of the mosaic interface.

Shape suffixes: B rows of the global batch, K domains, L lanes, V validation groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
UInt8 = NDArray[np.uint8]

Weights = Callable[[int], Int64 | None]
"""Step to weights, int64 [K], in whole parts of `plan.weights.WEIGHT_UNIT`; None while they are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What one optimiser step told, over all ranks.

    Attributes:
        step: the step whose losses these are, counted from 0. The step before a run's first, -1, brings a
            `validation_V` that was measured before any training, and nothing else.
        effective: the first step that weights computed from this will shape (`step + 1 + lag`).
        rows_K: float64 [K], rows of the step's global batch that each domain had.
        weights_K: float64 [K], the weights that the step was drawn by.
        loss_sum_K: float64 [K], summed training loss per domain, in nats.
        count_K: float64 [K], tokens (or rows) that the sums are over; 0 where a domain was not in the batch.
        validation_V: float64 [V], mean validation losses of the model after this step and before the next, one per
            group (usually the domains, in their order); None where none was due.
        matrix_VK: float64 [V, K], what the trainer measured of how training on domain k helps group v, positive where
            it does (`mixers.LMO`); None where it measured nothing.
    """

    step: int
    effective: int
    rows_K: Float64
    weights_K: Float64
    loss_sum_K: Float64
    count_K: Float64
    validation_V: Float64 | None = None
    matrix_VK: Float64 | None = None

    @property
    def loss_K(self) -> Float64:
        """Mean loss per term, float64 [K]; NaN where the domain was not in the batch or its loss is not finite."""
        known_K = (self.count_K > 0) & np.isfinite(self.loss_sum_K)
        return np.where(known_K, self.loss_sum_K, np.nan) / np.where(known_K, self.count_K, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows of one global batch, as addresses: integers only.

    Attributes:
        step: the step they are for.
        domain_B: int32 [B], each row's domain, in the plan's order.
        draw_B: int64 [B], which draw of that domain in that row's lane. Lanes stand side by side, B / L rows each.
        repeats: how many rows at the end only fill up the epoch's last batch.
    """

    step: int
    domain_B: NDArray[np.int32]
    draw_B: Int64
    repeats: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where rows lie, int64 [B] each.

    Attributes:
        domain_B: the domain, in the plan's order.
        shard_B: the shard, counted over all domains.
        row_B: the row as the shard stores it.
    """

    domain_B: Int64
    shard_B: Int64
    row_B: Int64

    def __getitem__(self, part: slice) -> Addresses:
        return Addresses(domain_B=self.domain_B[part], shard_B=self.shard_B[part], row_B=self.row_B[part])

    def __len__(self) -> int:
        return len(self.domain_B)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """A run's position in its plan; with the plan, it determines every later row under given weights.

    Attributes:
        step: steps planned so far, over all epochs.
        epoch: epochs completed.
        step_in_epoch: steps of the running epoch.
        drawn_LK: int64 [L, K], draws so far.
        base_LK: int64 [L, K], draws when the epoch began.
        credit_LK: int64 [L, K], the rounding carry, in units of 1 / total row (`mixstream.plan.weights`).
        total_L: int64 [L], that total.
        repeats: rows so far that only filled up an epoch's last batch.
    """

    step: int
    epoch: int
    step_in_epoch: int
    drawn_LK: Int64
    base_LK: Int64
    credit_LK: Int64
    total_L: Int64
    repeats: int = 0
