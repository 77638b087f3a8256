"""Which positions epochs of fixed rows can come to (`Plan.choose_K`): what an epoch took, takes, and began with.

Rule 1: over all lanes, every epoch takes exactly its rows. A lane takes the same in every epoch, unless lanes take
turns in rows that do not divide by their number: then it is up to a row of a domain off in each epoch, and some lanes
are off to the same side for ever. Rule 2: where the run is counted from step 0, the beginning of an epoch is known, and
the numbers have to give exactly that. Elsewhere they give what so many epochs can come to; so they do where it would
take long to count.

Shape suffixes: K domains, L lanes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.arguments import counted
from mixstream.plan.plan import Plan
from mixstream.records import dataclass
from mixstream.types import Cursor, Int64

APART = 4
"""Rows that a lane may be ahead of another one in a domain, or owe it."""
_EXACT_ROWS = 1 << 22
"""Rows beyond the quotas of all epochs that are dealt to know how an epoch began."""
_EXACT_LANES, _EXACT_DOMAINS = 1 << 10, 1 << 13
"""Lanes and domains, times epochs, that are gone through where each epoch has another quota: tenths of a second."""


@dataclass(frozen=True)
class Where:
    """A domain in a lane."""

    at: tuple[int, int]
    name: str
    lanes: int

    def __str__(self) -> str:
        return f"domain {self.name!r}" + (f" in lane {self.at[0]}" if self.lanes > 1 else "")


def first(plan: Plan, wrong_LK: Any) -> Where | None:
    """Return the first domain and lane that is marked."""
    lanes, domains = np.nonzero(wrong_LK)
    if not len(lanes):
        return None
    return Where((int(lanes[0]), int(domains[0])), plan.names[int(domains[0])], len(wrong_LK))


def sums(rows_LK: Int64) -> list[int]:
    """Return the sums of the rows of a table as Python's integers, which do not overflow."""
    return [sum(row) for row in rows_LK.tolist()]


def complete(plan: Plan, cursor: Cursor) -> NDArray[np.bool_]:
    """Return in which lanes no domain has left, bool [L]."""
    return np.asarray(~(plan.left_LK(cursor) & (plan.last_LK < 1 << 62)).any(axis=1))


def most_owed(plan: Plan, cursor: Cursor) -> int:
    """Return how many rows a domain of a lane may be owed, or have too many, when an epoch begins."""
    assert plan.quotas is not None
    if not plan.quotas.take_turns:
        return APART
    # A row by its quota, one by the rows of its lane, and those that are dropped or added to fill the last batch.
    return APART + cursor.epoch * (2 + plan.quotas.step_rows)


def wrong_quotas(plan: Plan, cursor: Cursor) -> str:
    """Check that no lane has drawn more of a domain than its epoch takes."""
    assert cursor.quota_LK is not None
    drawn_LK, complete_L = cursor.drawn_LK - cursor.base_LK, complete(plan, cursor)
    rows = cursor.step_in_epoch * (plan.global_batch_size // plan.lanes)
    # A lane with fewer rows than others has dealt its quota before the last step, and fills up with repeats.
    full_L1 = (complete_L & (rows <= cursor.quota_LK.sum(axis=1)))[:, None]
    if (found := first(plan, (drawn_LK > cursor.quota_LK) & full_L1)) is not None:
        return (
            f"{found} has been drawn {drawn_LK[found.at]} times in this epoch, which takes "
            f"{cursor.quota_LK[found.at]} of it"
        )
    if plan.in_order and complete_L.all() and cursor.step_in_epoch < plan.steps_per_epoch:
        before_LK = np.cumsum(cursor.quota_LK, axis=1) - cursor.quota_LK
        there_LK = np.clip(rows - before_LK, 0, cursor.quota_LK)
        if (found := first(plan, there_LK != drawn_LK)) is not None:
            return (
                f"domains are read in order, and {found} has been drawn {drawn_LK[found.at]} times in this epoch, "
                f"not {there_LK[found.at]}"
            )
    return ""


def wrong_epochs(plan: Plan, cursor: Cursor) -> str:
    """Check what the epochs before have taken, since step 0 or since the run took over draws."""
    assert plan.quotas is not None
    assert plan.choose_K is not None
    epochs, complete_L = _epochs(cursor), complete(plan, cursor)
    moved_LK = cursor.base_LK - (0 if cursor.origin is None else cursor.origin.drawn_LK)
    if complete_L.all() and (moved_LK.sum(axis=0) != epochs * plan.choose_K.astype(object)).any():
        whole = [epochs * rows for rows in plan.choose_K.tolist()]
        return f"{epochs} epochs take {whole} samples of the domains, and {sums(moved_LK.T)} are taken"
    even_LK = plan.quotas.first_LK.astype(object) * epochs
    if plan.quotas.take_turns:
        even_LK = plan.quotas.part_LK.astype(object) * epochs // plan.lanes
    apart = epochs if plan.quotas.take_turns else 0
    wrong_LK = np.asarray(np.abs(moved_LK.astype(object) - even_LK) > apart, dtype=bool)
    if (found := first(plan, wrong_LK & complete_L[:, None])) is not None:
        return f"{found} was at draw {cursor.base_LK[found.at]} when the epoch began, not {even_LK[found.at]}"
    if cursor.origin is None and complete_L.all():
        spare = plan.steps_per_epoch * plan.global_batch_size - int(plan.choose_K.sum())
        if cursor.repeats > (most := 0 if plan.drop_last else epochs * max(spare, 0)):
            return f"{epochs} epochs repeat {most} rows, and it counts {cursor.repeats}"
    return ""


def wrong_beginning(plan: Plan, cursor: Cursor, *, plain: bool) -> str:
    """Check that draws and credits go back to those with which an epoch can have begun.

    >>> from dataclasses import replace
    >>> plan = Plan(names=("code", "web"), samples_K=np.array([30, 60]), choose_K=np.array([30, 60]), epoch_size=90,
    ...             global_batch_size=9)
    >>> cursor, _ = plan.advance(plan.start())
    >>> cursor.drawn_LK.tolist(), wrong_beginning(plan, cursor, plain=True)
    ([[3, 6]], '')
    >>> wrong_beginning(plan, replace(cursor, drawn_LK=np.array([[4, 5]])), plain=True)
    "domain 'code' is at draw 4 after 1 step of the epoch, which is not what its rows and the rounding carry make"

    Args:
        plan: a plan with quotas.
        cursor: the place.
        plain: whether it is counted from step 0, in parts of the plan's own weights.
    """
    assert plan.part_LK is not None
    if plan.in_order:
        return ""
    first_LK, complete_L = plan.first_credit(cursor), complete(plan, cursor)
    known = _beginning(plan, cursor.epoch) if plain and complete_L.all() else None
    if known is not None:
        moved_LK, known_LK = known
        afresh_L1 = (first_LK == plan.start().credit_LK).all(axis=1, keepdims=True)
        # Versions before carried nothing over the ends of epochs.
        wrong_LK = ((first_LK != known_LK) | (cursor.base_LK != moved_LK)) & ~afresh_L1
    else:
        most_L1 = most_owed(plan, cursor) * plan.part_LK.sum(axis=1, keepdims=True).astype(object)
        wrong_LK = np.asarray(np.abs(first_LK.astype(object)) > most_L1, dtype=bool) & complete_L[:, None]
    if (found := first(plan, wrong_LK)) is None:
        return ""
    return (
        f"{found} is at draw {cursor.drawn_LK[found.at]} after {counted(cursor.step_in_epoch, 'steps')} of the epoch, "
        "which is not what its rows and the rounding carry make"
    )


def _epochs(cursor: Cursor) -> int:
    """Return how many epochs are over since step 0, or since the run took over draws."""
    return cursor.epoch - (0 if cursor.origin is None else cursor.origin.epoch)


def _beginning(plan: Plan, epoch: int) -> tuple[Int64, Int64] | None:
    """Return draws and credits, int64 [L, K], with which an epoch of a run begins; None if that takes long to count."""
    quotas = plan.quotas
    assert quotas is not None
    spare_L = quotas.lane_rows - quotas.first_LK.sum(axis=1)
    if quotas.take_turns or (spare_L < 0).any():
        brief = epoch * plan.lanes <= _EXACT_LANES and epoch * len(plan.names) <= _EXACT_DOMAINS
        brief = brief and epoch * plan.global_batch_size <= _EXACT_ROWS
    else:
        brief = epoch * int(spare_L.sum()) <= _EXACT_ROWS
    return quotas.pass_epochs(plan.start().credit_LK, epoch) if brief else None
