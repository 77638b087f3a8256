"""A run whose rows are computed again, from its log or a state: which samples were in a step.

Rules. Nothing is read but indexes and selections. What a step had is computed or refused, never guessed: rows depend on
the domains, the plan and the weights of all steps before, and each of these is compared with what the log or the state
says of it. A log knows the weights of its steps. A state knows where a run was, the weights of some later steps of a
mixer that learns, and all of a run with fixed weights.

Shape suffixes: B rows of the global batch, K domains, L lanes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mixstream.cached import cached_property
from mixstream.data.bad_samples import Quarantine, RowReader
from mixstream.data.domains import Domains
from mixstream.errors import ConfigError, StateError
from mixstream.formats import ARRIVAL
from mixstream.loader.opening import opened
from mixstream.loader.stream import Stream, prepared
from mixstream.plan.run_plan import RunPlan
from mixstream.plan.skips import Skips
from mixstream.plan.walk import Walk
from mixstream.records import dataclass
from mixstream.types import Addresses, Cursor, Int64, Rows

_STEPS_AT_ONCE = 64
_DEFAULTS = {"download_retry": 2, "download_timeout": 60.0, "validate_hash": ARRIVAL, "keep_zip": False}


@dataclass(frozen=True, kw_only=True)
class StepRows:
    """The rows of one step.

    Attributes:
        rows: as (domain, draw), in the plan's numbers.
        at: where they lie; of a row that was set aside, where the sample lies that takes its place.
        pass_B: int64 [B], how often the lane of the row had read its domain before.
        stand_in_B: bool [B], whether another sample took the place of the row's own, which could not be read.
        skipped: whether the step is left out.
    """

    rows: Rows
    at: Addresses
    pass_B: Int64
    stand_in_B: NDArray[np.bool_]
    skipped: bool


@dataclass(frozen=True, kw_only=True)
class PastRun:
    """A run whose rows are computed again.

    Args:
        run_plan: what it draws.
        domains: its domains, in the plan's order.
        where: the log or the state, for errors.
        weights: step -> int64 [K], where they are known; None if they are fixed.
        known: the step after the last that is known; None if all later ones are.
        origins: places of the run from which a step can be reached, by step.
        skips: the steps that are left out.
        quarantine: what is set aside; None if it is not known.
        unreached: why steps before the first origin are not known.
        beyond: what to do for steps that are not known yet.
    """

    run_plan: RunPlan
    domains: Domains
    where: str
    weights: Mapping[int, Int64] | None
    known: int | None
    origins: Mapping[int, Cursor]
    skips: Skips
    quarantine: Quarantine | None
    unreached: str = ""
    beyond: str = "give a later log, or an earlier step"

    @property
    def first(self) -> int:
        """The first step that can be computed."""
        return min(self.origins)

    @property
    def end(self) -> int:
        """The step after the last that is known without a gap; with fixed weights, that of the epoch after a state."""
        if self.weights is None and self.known is None:
            cursor, plan = self.origins[max(self.origins)], self.run_plan.plan
            return cursor.step + plan.steps_per_epoch - plan.settle(cursor).step_in_epoch
        last = self.first if self.known is None else self.known
        if self.weights is None:
            return last
        return next((step for step in range(self.first, last) if step not in self.weights), last)

    def rows(self, step: int) -> StepRows:
        """Return the rows of `step`.

        Raises:
            StateError: they are not known, or the run ended before.
        """
        (found,) = self.between(step, step + 1)
        return found

    def between(self, first: int, end: int) -> Iterator[StepRows]:
        """Yield the rows of the steps `first` to `end - 1`.

        Raises:
            StateError: they are not known, or the run ended before.
        """
        if first < end:
            self._check(first, end - 1)
            yield from self._between(self.walk_to(first), end)

    def _between(self, walk: Walk, end: int) -> Iterator[StepRows]:
        while walk.cursor.step < end:
            count = min(end - walk.cursor.step, _STEPS_AT_ONCE)
            batches = [self._advance(walk) for _ in range(count)]
            found = self.run_plan.addressing.locate(batches, slice(None))
            yield from (self._step(rows, at) for rows, at in zip(batches, found))

    def _step(self, rows: Rows, at: Addresses) -> StepRows:
        plan, size = self.run_plan.plan, len(rows.domain_B)
        lane_B = np.arange(size) // (size // plan.lanes)
        settled = at if self._reader is None else self._reader.settled(rows, slice(None), at)
        return StepRows(
            rows=rows,
            at=settled,
            pass_B=rows.draw_B // np.maximum(plan.owned_LK[lane_B, rows.domain_B], 1),
            stand_in_B=(settled.shard_B != at.shard_B) | (settled.row_B != at.row_B),
            skipped=rows.step in self.skips,
        )

    @cached_property
    def _reader(self) -> RowReader | None:
        if self.quarantine is None or not self.quarantine.entries:
            return None
        return RowReader(policy="raise", domains=self.domains, run_plan=self.run_plan, quarantine=self.quarantine)

    def _advance(self, walk: Walk) -> Rows:
        if (rows := walk.advance()) is None:
            raise StateError(
                f"{self.where}: the run ended at step {walk.cursor.step}, where its domains had been read max_epochs "
                "times: give an earlier step"
            )
        return rows

    def walk_to(self, step: int) -> Walk:
        """Return a walk that is about to draw `step`.

        Raises:
            StateError: the run ended before.
        """
        begun = max(origin for origin in self.origins if origin <= step)
        cursor, plan = self.origins[begun], self.run_plan.plan
        if self.weights is None and plan.max_epochs_K is None:  # whole epochs are passed at once
            cursor = plan.settle(cursor)
            epochs = (cursor.step_in_epoch + step - cursor.step) // plan.steps_per_epoch
            cursor = plan.at_epoch(cursor, cursor.epoch + epochs) if epochs else cursor
        walk = Walk(plan=plan, cursor=cursor, weights=None if self.weights is None else self.weights.get)
        while walk.cursor.step < step:
            self._advance(walk)
        return walk

    def _check(self, first: int, last: int) -> None:
        """Check that all that decides the steps `first` to `last` is known.

        Raises:
            StateError: it is not.
        """
        if self.known is not None and last >= self.known:
            end = f"the last step that it knows is {self.known - 1}" if self.known > self.first else "it knows no step"
            raise StateError(f"{self.where}: step {last} is not known: {end}; {self.beyond}")
        if first < self.first:
            raise StateError(f"{self.where}: step {first} is not known: {self.unreached}")
        if self.weights is None:
            return
        begun = max(origin for origin in self.origins if origin <= first)
        if lacking := next((step for step in range(begun, last + 1) if step not in self.weights), None):
            raise StateError(
                f"{self.where}: the weights of step {lacking} are missing, and the rows of step {last} depend on them: "
                "give the log that has them, or a state from after it"
            )


def open_domains(
    streams: Sequence[Stream], names: Sequence[str] | None, *, allow_unsafe_types: bool, where: str
) -> Domains:
    """Return the domains `names`, in this order, of these streams; no shard is read.

    Args:
        streams: the streams; buckets of a stream are domains.
        names: the domains of a run; all if not given, sorted.
        allow_unsafe_types: whether columns may be pickled.
        where: the log or the state that has them, for errors.

    Raises:
        ConfigError: the streams make other domains.
    """
    _, found = opened(prepared(streams, _DEFAULTS), allow_unsafe_types=allow_unsafe_types)
    by_name = {domain.name: domain for domain in found}
    names = sorted(by_name) if names is None else names
    if set(names) != set(by_name):
        raise ConfigError(
            f"{where} reads the domains {sorted(names)}, and here are {sorted(by_name)}: give the directory that the "
            "run reads, or each domain as NAME=URL; for its buckets, give --selection"
        )
    return Domains.of([by_name[name] for name in names], as_listed=True)
