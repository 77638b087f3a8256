"""The frozen records that layers hand to each other. Plain values: no I/O, no torch, no behaviour beyond checks.

Shape suffixes: B rows of the global batch, K domains, L lanes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """Losses of one optimiser step, summed over all ranks.

    Attributes:
        step: the step whose losses these are, counted from 0.
        effective: the first step that weights computed from this will shape (`step + 1 + lag`).
        loss_sum_K: float64 [K], summed loss per domain, in nats.
        count_K: float64 [K], tokens (or rows) that the sums are over; 0 where a domain was not in the batch.
    """

    step: int
    effective: int
    loss_sum_K: Float64
    count_K: Float64


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows of one global batch, as addresses: integers only.

    Attributes:
        step: the step they are for.
        domain_B: int32 [B], index of each row's domain in the order of `streams`.
        draw_B: int64 [B], which draw of that domain in that row's lane. Lanes stand side by side, B / L rows each.
        repeats: how many rows at the end only fill up the epoch's last batch.
    """

    step: int
    domain_B: NDArray[np.int32]
    draw_B: Int64
    repeats: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """A run's position in its plan; with the plan, it determines every later row under given weights.

    Attributes:
        step: steps planned so far, over all epochs.
        epoch: epochs completed.
        step_in_epoch: steps of the running epoch.
        drawn_LK: int64 [L, K], draws so far.
        base_LK: int64 [L, K], draws when the epoch began.
        credit_LK: int64 [L, K], the rounding carry, in units of 1 / total row (`mixstream.weights`).
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
