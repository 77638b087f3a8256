"""Which positions a run can have: what its plan guarantees of a cursor, checked before a state is believed.

Rule 1: everything follows from sums. Every step draws B / L rows in each lane, and every row adds each domain's weight
to its credit and takes the sum of the weights W off that of its own domain. So, counted from where the run began,

    sum_k drawn = steps x B / L                                              in every lane
    credit_k = credit_k(0) + rows w_k - drawn_k W                            where weights are fixed

and an epoch of fixed rows moves each domain on by exactly these. Rule 2: no check takes longer for a later step. Rule
3: a run begins at step 0, or where it took over the draws of another run (`Cursor.origin`). Earlier versions did not
write the latter down, so what would only refuse their states is checked with `strict` alone.

Once a domain has used up its `max_epochs`, the weights of a lane change, and less is known of it.

Shape suffixes: K domains, L lanes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mixstream.arguments import counted
from mixstream.cached import cached_property
from mixstream.plan.megatron.run_plan import MegatronPlan
from mixstream.plan.plan import Plan
from mixstream.plan.state_epochs import (
    APART,
    complete,
    first,
    most_owed,
    sums,
    wrong_beginning,
    wrong_epochs,
    wrong_quotas,
)
from mixstream.plan.weights import WEIGHT_UNIT
from mixstream.records import dataclass
from mixstream.types import Cursor, Int64, Origin

_EXACT_ROWS = 1 << 22
"""Samples of a blend that are counted one by one; of more, only the sum is checked."""


def resumed(plan: Plan, cursor: Cursor, *, began: int | None, strict: bool, shares: bool) -> tuple[Cursor, str]:
    """Return the place of a state in its plan (`Plan.resume`), and what cannot be of it; the latter empty if all can.

    Args:
        plan: the plan.
        cursor: the place, as the state has it.
        began: the step at which a learning mixer began; None if there is none.
        strict: whether a state that does not say where it took over draws is one of a run from step 0.
        shares: whether the state has the weights in whole parts; those of earlier versions do not, and may count their
            rounding carry in other parts and have rounded every epoch.
    """
    found = _resumed(plan, cursor, began=began, strict=strict, shares=shares)
    if found[1] and strict and _took_over(plan, cursor, shares=shares):
        return _resumed(plan, cursor, began=began, strict=False, shares=shares)
    return found


def _took_over(plan: Plan, cursor: Cursor, *, shares: bool) -> bool:
    """Return whether steps and draws both say that a run took over draws. If one of them does, a number is wrong."""
    if cursor.origin is not None or plan.part_LK is None or isinstance(plan, MegatronPlan):
        return False
    epochs, odd = divmod(cursor.step - cursor.step_in_epoch, plan.steps_per_epoch)
    if (epochs, odd) == (cursor.epoch, 0):
        return False
    for epoch in [cursor.epoch] if odd or epochs < 0 else [cursor.epoch, epochs]:
        there = replace(cursor, epoch=epoch, step=epoch * plan.steps_per_epoch + cursor.step_in_epoch)
        if not _resumed(plan, there, began=None, strict=True, shares=shares)[1]:
            return False
    return True


def _resumed(plan: Plan, cursor: Cursor, *, began: int | None, strict: bool, shares: bool) -> tuple[Cursor, str]:
    if other := not shares and _has_other_parts(plan, cursor):
        cursor = replace(cursor, origin=_here(plan, cursor))
    before = _Counts(plan=plan, cursor=cursor, began=began, strict=strict, shares=shares, other_parts=other)
    if wrong := before.wrong_rows() or before.wrong_credit():
        return cursor, wrong
    after = replace(before, cursor=plan.resume(cursor), other_parts=False)
    if not strict and cursor.origin is None and replace(after, strict=True).wrong():
        after = replace(after, cursor=replace(after.cursor, origin=_here(plan, cursor)))
    return after.cursor, after.wrong()


def _has_other_parts(plan: Plan, cursor: Cursor) -> bool:
    """Return whether the rounding carry is in parts of an epoch's rows, as earlier versions counted it."""
    if plan.part_LK is None:
        return False
    other_L = (cursor.total_L != plan.part_LK.sum(axis=1)) & complete(plan, cursor)
    rows = plan.epoch_size // plan.lanes
    return bool(other_L.any() and set(cursor.total_L[other_L].tolist()) <= {rows, rows + 1})


def _here(plan: Plan, cursor: Cursor) -> Origin:
    """Return a beginning of the run at the draws from which the cursor counts: those of its epoch, or of all steps."""
    steps = cursor.step_in_epoch
    if plan.part_LK is None:
        steps = sums(cursor.drawn_LK - cursor.base_LK)[0] * plan.lanes // plan.global_batch_size
    return Origin(step=max(cursor.step - steps, 0), epoch=cursor.epoch, drawn_LK=cursor.base_LK)


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """A cursor of a state, compared with its plan; arguments as for `resumed`.

    Attributes:
        other_parts: whether the rounding carry is in parts of an epoch's rows.
    """

    plan: Plan
    cursor: Cursor
    began: int | None
    strict: bool
    shares: bool
    other_parts: bool = False

    def wrong(self) -> str:
        """Return what cannot be of a cursor with the quota of its epoch; empty if all can."""
        if found := self.wrong_rows() or self.wrong_credit():
            return found
        if isinstance(self.plan, MegatronPlan):
            return self._wrong_blend(self.plan)
        if found := self._wrong_epoch() or self._wrong_repeats():
            return found
        return self._wrong_by_step() if self.plan.part_LK is None else self._wrong_fixed()

    def wrong_rows(self) -> str:
        """Return what cannot be of draws and steps."""
        return self._wrong_order() or self._wrong_steps()

    # --- from where it is counted ---------------------------------------------------------------------------------

    @cached_property
    def _plain(self) -> bool:
        """Whether the run is counted from step 0."""
        return self.cursor.origin is None and self.strict and not self.began

    @cached_property
    def _first_LK(self) -> Int64:
        """Draws where the run began, int64 [L, K]."""
        if self.cursor.origin is not None:
            return self.cursor.origin.drawn_LK
        return np.zeros_like(self.cursor.drawn_LK)

    @property
    def _share(self) -> int:
        return self.plan.global_batch_size // self.plan.lanes

    @cached_property
    def _complete_L(self) -> NDArray[np.bool_]:
        """In which lanes no domain has left, bool [L]."""
        return complete(self.plan, self.cursor)

    # --- all runs -------------------------------------------------------------------------------------------------

    def _wrong_order(self) -> str:
        base_LK, drawn_LK = self.cursor.base_LK, self.cursor.drawn_LK
        if (found := first(self.plan, base_LK > drawn_LK)) is not None:
            return f"{found} was at draw {base_LK[found.at]} when the epoch began, and is at draw {drawn_LK[found.at]}"
        if (found := first(self.plan, self._first_LK > base_LK)) is not None:
            return (
                f"{found} was at draw {self._first_LK[found.at]} when the run began, and at draw {base_LK[found.at]} "
                "in a later epoch"
            )
        if self._plain and (found := first(self.plan, drawn_LK > self.plan.last_LK)) is not None:
            return f"{found} is at draw {drawn_LK[found.at]}, and leaves the mix after {self.plan.last_LK[found.at]}"
        return ""

    def _wrong_steps(self) -> str:
        """Check steps and epochs, and the rows of each lane."""
        cursor, plan, origin = self.cursor, self.plan, self.cursor.origin
        if origin is not None and not (origin.step <= cursor.step and origin.epoch <= cursor.epoch):
            return f"it is at step {cursor.step} of epoch {cursor.epoch}, and its run began at step {origin.step}"
        if plan.part_LK is not None:
            first = (0, 0) if origin is None else (origin.step, origin.epoch)
            steps = (cursor.epoch - first[1]) * plan.steps_per_epoch + cursor.step_in_epoch
            if cursor.step - first[0] != steps and (origin is not None or self.strict):
                return (
                    f"it is at step {cursor.step}, and {counted(cursor.step_in_epoch, 'steps')} into epoch "
                    f"{cursor.epoch}, whose epochs have {counted(plan.steps_per_epoch, 'steps')}"
                )
            rows_L = sums(cursor.drawn_LK - cursor.base_LK)
            if not isinstance(plan, MegatronPlan) and set(rows_L) != {cursor.step_in_epoch * self._share}:
                return (
                    f"{cursor.step_in_epoch} steps draw {cursor.step_in_epoch * self._share} rows in each lane, and "
                    f"its lanes have drawn {rows_L} in this epoch"
                )
        return ""

    def _wrong_by_step(self) -> str:
        """Check a cursor under weights that are given step by step."""
        cursor, origin = self.cursor, self.cursor.origin
        rows_L = sums(cursor.drawn_LK - cursor.base_LK)
        steps, odd = divmod(rows_L[0], self._share)
        if odd or len(set(rows_L)) > 1:
            return f"every step draws {self._share} rows in each lane, and its lanes have drawn {rows_L}"
        begun = self.began if self.began is not None else None if origin is None else origin.step
        if origin is not None and self.began is not None and origin.step != self.began:
            return f"its run began at step {origin.step}, and its mixer at step {self.began}"
        if begun is None and self.strict and not cursor.base_LK.any():
            begun = 0
        if steps > cursor.step or (begun is not None and steps != cursor.step - begun):
            of = counted(steps, "steps")
            return f"it is at step {cursor.step}, and its lanes have drawn {rows_L} rows, which are those of {of}"
        if self._plain and (found := first(self.plan, cursor.base_LK > 0)) is not None:
            return f"{found} was at draw {cursor.base_LK[found.at]} when the run began"
        drawn_LK = (cursor.drawn_LK - cursor.base_LK)[self._complete_L]
        if (
            self.plan.stretch is None
            and len(drawn_LK)
            and (found := first(self.plan, (np.ptp(drawn_LK, axis=0) > APART)[None]))
        ):
            return f"domain {found.name!r} has been drawn {drawn_LK[:, found.at[1]].tolist()} times in the lanes"
        return ""

    def _wrong_fixed(self) -> str:
        """Check a cursor under fixed weights, or fixed rows of an epoch."""
        plan, cursor = self.plan, self.cursor
        if plan.quotas is None:
            return self._wrong_carry(cursor.drawn_LK, cursor.credit_LK, cursor.step) if self._counted else ""
        epochs = wrong_epochs(plan, cursor) if self._counted else ""
        return wrong_quotas(plan, cursor) or epochs or wrong_beginning(plan, cursor, plain=self._plain)

    @property
    def _counted(self) -> bool:
        """Whether it is known from where the run is counted."""
        return self._plain or self.cursor.origin is not None

    def _wrong_epoch(self) -> str:
        """Check that the epoch is no further than the run; under weights by step, nothing else follows from the step.

        Fewer steps of the epoch are possible: `set_epoch` begins it anew and keeps the draws. So are more in the epoch
        in which a run took over draws, if it went on in it.
        """
        cursor, origin = self.cursor, self.cursor.origin
        begun = origin.step if origin is not None and cursor.epoch > origin.epoch else 0
        if self.plan.part_LK is None and cursor.step_in_epoch > cursor.step - begun:
            since = f", of a run that began at step {begun}" if begun else ""
            into = f"{counted(cursor.step_in_epoch, 'steps')} into epoch {cursor.epoch}"
            return f"it is at step {cursor.step}{since}, and {into}"
        return ""

    def _wrong_repeats(self) -> str:
        """Check that nothing is repeated under weights: their last batch is filled with the next draws.

        A run that took over draws goes on with the count of the other, and versions before rounded shares.
        """
        weights = self.plan.quotas is None and (self.plan.part_LK is None or self.shares)
        if self._plain and weights and self.cursor.repeats:
            return f"under weights no rows are repeated, and it counts {self.cursor.repeats}"
        return ""

    # --- credits --------------------------------------------------------------------------------------------------

    def wrong_credit(self) -> str:
        """Return what cannot be of the rounding carry: it is some rows, in parts of the sum of the weights."""
        cursor, plan = self.cursor, self.plan
        whole_L = np.full(plan.lanes, WEIGHT_UNIT) if plan.part_LK is None else plan.part_LK.sum(axis=1)
        odd_L = self._complete_L & (cursor.total_L != whole_L) & (not self.other_parts)
        if odd_L.any() or (cursor.total_L > np.maximum(whole_L, self._largest)).any():
            parts = f"{cursor.total_L.tolist()}, and the weights sum to {whole_L.tolist()}"
            return f"its rounding carry is in parts of {parts}"
        rows = APART if plan.quotas is None else 2 * self._share + 4 + most_owed(plan, cursor)
        rows += cursor.step_in_epoch * self._share if plan.in_order else 0  # it decides nothing there
        most_L = cursor.total_L.astype(object) * rows
        if (found := first(self.plan, np.abs(cursor.credit_LK.astype(object)) > most_L[:, None])) is not None:
            return f"the rounding carry of {found} is {cursor.credit_LK[found.at]}, which is several rows"
        return ""

    @property
    def _largest(self) -> int:
        """The largest sum that the weights of a lane have besides that of all domains, once one has left it."""
        if self.plan.part_LK is None:
            return 0
        rows = 0 if self.plan.choose_K is None else int(self.plan.choose_K.sum())
        return rows if self.shares else max(rows, self.plan.epoch_size)

    def _wrong_carry(self, drawn_LK: Int64, credit_LK: Int64, step: int) -> str:
        """Check that credits are those after the draws of `step`, under fixed shares."""
        plan, origin = self.plan, self.cursor.origin
        assert plan.part_LK is not None
        unit = 1 if plan.stretch is None else plan.stretch.rows
        rows = (step - (0 if origin is None else origin.step)) * self._share // unit
        whole_L1 = plan.part_LK.sum(axis=1).astype(object)[:, None]
        drawn_LK, parts = drawn_LK - self._first_LK, plan.part_LK.astype(object) * rows
        first_LK = credit_LK.astype(object) - parts + (drawn_LK // unit).astype(object) * whole_L1
        start_LK = plan.start().credit_LK
        wrong_LK = np.abs(first_LK) > 2 * whole_L1 if origin is not None else first_LK != start_LK
        if (found := first(self.plan, np.asarray(wrong_LK & self._complete_L[:, None], dtype=bool))) is not None:
            return (
                f"{found} is at draw {self.cursor.drawn_LK[found.at]} after {counted(step, 'steps')}, which is not "
                "what its weight and the rounding carry make"
            )
        return ""

    # --- others ---------------------------------------------------------------------------------------------------

    def _wrong_blend(self, plan: MegatronPlan) -> str:
        """Check what is taken of a blend, which follows from the step."""
        cursor, step = self.cursor, self.cursor.step
        rows, taken_K = step * plan.global_batch_size, cursor.drawn_LK[0]
        if int(taken_K.sum()) != rows or (rows <= _EXACT_ROWS and (plan.blend.taken(rows) != taken_K).any()):
            return f"{step} steps take other samples of the blend than {taken_K.tolist()}"
        return ""
