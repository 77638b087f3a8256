"""Many steps of a plan, dealt in one pass: under fixed weights, within an epoch, while no domain can leave the mix.

`dealing.deal_rows` deals rows one after the other and knows nothing of steps, so it may deal those of many. The cursors
between them follow from how many rows each domain has had by then: the credits are

    c_k(n) = c_k(0) + n w_k - W n_k    after n rows of a lane, n_k of them of domain k (`plan.Plan`).

Rule: what is returned here is what `Plan.advance` returns, step by step. All that is not so simple, such as an epoch's
last batch that is filled up, is left to it.

Shape suffixes: B rows of the global batch, G steps, K domains, L lanes, N rows of one lane in all steps.
"""

from __future__ import annotations

from itertools import count, repeat
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mixstream.plan.dealing import deal_rows
from mixstream.plan.stretches import Stretch
from mixstream.types import Cursor, Int64, Rows, record_maker

_NEVER = np.int64(1) << 62
_POSITIONS = 1 << 18  # numbers in the cursors of one pass, which live as long as any of them
_make_cursor, _make_rows = record_maker(Cursor), record_maker(Rows)


class PlannedSteps(Protocol):
    """What is needed of a plan; see `plan.Plan`."""

    @property
    def global_batch_size(self) -> int: ...  # noqa: D102
    @property
    def lanes(self) -> int: ...  # noqa: D102
    @property
    def in_order(self) -> bool: ...  # noqa: D102
    @property
    def max_epochs_K(self) -> tuple[float | None, ...] | None: ...  # noqa: D102
    @property
    def stretch(self) -> Stretch | None: ...  # noqa: D102
    @property
    def steps_per_epoch(self) -> Any: ...  # noqa: D102
    @property
    def part_LK(self) -> Any: ...  # noqa: D102
    @property
    def last_LK(self) -> Any: ...  # noqa: D102


def advance_steps(plan: PlannedSteps, cursor: Cursor, most: int) -> list[tuple[Rows, Cursor]]:
    """Return the rows of some of the `most` next steps of the epoch, at least one, each with the cursor after it.

    Empty if the next step has to be planned by itself.

    Args:
        plan: the plan.
        cursor: a position in it, not at the end of an epoch.
        most: how many steps at most.
    """
    part_LK, share = plan.part_LK, plan.global_batch_size // plan.lanes
    if part_LK is None or plan.stretch is not None or plan.max_epochs_K is not None:
        return []
    if (part_LK.sum(axis=1) != cursor.total_L).any():  # credits are in units of other weights
        return []
    steps = min(most, plan.steps_per_epoch - cursor.step_in_epoch, max(_POSITIONS // cursor.drawn_LK.size, 1))
    limit_LK = np.full_like(part_LK, _NEVER)
    if plan.in_order or cursor.quota_LK is not None:
        limit_LK = cursor.base_LK + (part_LK if cursor.quota_LK is None else cursor.quota_LK)
    domain_LN = np.empty((plan.lanes, steps * share), dtype=np.int32)
    draw_LN = np.empty((plan.lanes, steps * share), dtype=np.int64)
    for lane, part_K in enumerate(part_LK):
        books = cursor.credit_LK[lane].copy(), cursor.drawn_LK[lane].copy(), limit_LK[lane], plan.last_LK[lane]
        filled = deal_rows(part_K, *books, plan.in_order, domain_LN[lane], draw_LN[lane])
        steps = min(steps, int(filled) // share)  # a lane whose quota is dealt goes on by other rules
    if not steps:
        return []
    domain_LGb = domain_LN[:, : steps * share].reshape(plan.lanes, steps, share)
    draw_LGb = draw_LN[:, : steps * share].reshape(plan.lanes, steps, share)
    domain_GB, draw_GB = (each.swapaxes(0, 1).reshape(steps, -1) for each in (domain_LGb, draw_LGb))
    drawn_GLK, credit_GLK = _books(cursor, part_LK, domain_LGb)
    rows = map(_make_rows, count(cursor.step), domain_GB, draw_GB, repeat(0), repeat(None), repeat(None))
    fixed = map(repeat, (cursor.total_L, cursor.quota_LK, cursor.repeats, cursor.origin))
    at = count(cursor.step + 1), repeat(cursor.epoch), count(cursor.step_in_epoch + 1)
    return list(zip(rows, map(_make_cursor, *at, drawn_GLK, repeat(cursor.base_LK), credit_GLK, *fixed)))


def _books(cursor: Cursor, part_LK: Int64, domain_LGb: NDArray[np.int32]) -> tuple[Int64, Int64]:
    """Return the draws and the credits after each step, int64 [G, L, K] both."""
    (lanes, steps, share), K = domain_LGb.shape, part_LK.shape[1]
    cell_LGb = domain_LGb + K * np.arange(lanes * steps).reshape(lanes, steps, 1)
    count_LGK = np.bincount(cell_LGb.reshape(-1), minlength=lanes * steps * K).reshape(lanes, steps, K)
    taken_GLK = count_LGK.cumsum(axis=1).swapaxes(0, 1)
    dealt_G11 = (share * np.arange(1, steps + 1))[:, None, None]
    credit_GLK = cursor.credit_LK + dealt_G11 * part_LK - taken_GLK * cursor.total_L[:, None]
    return cursor.drawn_LK + taken_GLK, credit_GLK
