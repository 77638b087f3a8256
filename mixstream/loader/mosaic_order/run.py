"""One run in the order of mosaicml-streaming: the counterpart of `run.Run` and `checkpoint.Position`, with their faces.

Loaders use both alike. Nothing learns here, and nothing is set aside: that order's states could not say so.
"""

from collections.abc import Callable
from typing import Any

from mixstream.data.bad_samples import Quarantine, RowReader
from mixstream.data.domains import Domains
from mixstream.feedback.loop import FeedbackLoop
from mixstream.plan.mosaic.forecast import EpochForecast
from mixstream.plan.mosaic.run_plan import MosaicRunPlan
from mixstream.plan.mosaic.state import MosaicState
from mixstream.plan.mosaic.steps import MosaicCursor, MosaicPlan, MosaicWalk
from mixstream.plan.skips import Skips
from mixstream.plan.weights import quantise
from mixstream.records import dataclass
from mixstream.types import Cursor, Int64


@dataclass(frozen=True, kw_only=True)
class MosaicRun:
    """A plan and the domains that it draws from.

    Args:
        run_plan: what is drawn, and which rows of it are this rank's.
        domains: in the order of `streams`.
        on_bad_sample: "raise" or "refetch".
        quarantine: empty.
    """

    run_plan: MosaicRunPlan
    domains: Domains
    on_bad_sample: str
    quarantine: Quarantine

    mixer = None
    can_skip = False

    @property
    def plan(self) -> MosaicPlan:
        """What the run draws, step by step."""
        return self.run_plan.plan

    def reader(self, domains: Domains) -> RowReader:
        """Return a reader of rows of `domains`."""
        return RowReader(
            policy=self.on_bad_sample,
            domains=domains,
            run_plan=self.run_plan,  # type: ignore[arg-type] - asked only where samples are set aside
            quarantine=self.quarantine,
        )

    def loop(self) -> None:
        """Return None: nothing learns."""

    def weights(self, loop: FeedbackLoop | None) -> None:
        """Return None: weights are those of the streams."""
        del loop

    def fixed(self, step: int) -> Int64:
        """Return the streams' weights in whole parts, int64 [K]; the same for every step."""
        del step
        return quantise(self.run_plan.prior_K)

    def facts(self, cursor: MosaicCursor, loop: FeedbackLoop | None, skips: Skips | None = None) -> dict[str, Any]:
        """Return what must be the same on all ranks of the run at `cursor`, by name."""
        del loop, skips
        cursor = self.plan.settle(cursor)
        return self.facts_at(cursor.epoch, self.plan.samples_read(cursor))

    def facts_at(self, epoch: int, sample_in_epoch: int) -> dict[str, Any]:
        """Return these facts after so many samples of an epoch, whose order need not be computed for it."""
        return {
            **self.state(epoch, sample_in_epoch).document(),
            "order": "mosaic",
            "ranks of the same rows (replication)": self.run_plan.world.groups,
            "loss_parts": self.run_plan.world.parts,
        }

    def log_header(self, *, carried: bool) -> dict[str, Any]:
        """Return the facts of the run in the header of a log; without its plan, which a replay could not follow."""
        del carried
        return {
            "mixer": "none",
            "lag": None,
            "global_batch_size": self.plan.global_batch_size,
            "samples_K": self.plan.samples_K,
            "row_tokens": self.domains.row_tokens,
            "selections": {domain.name: domain.kept.id for domain in self.domains if domain.kept is not None},
        }

    def start(self) -> MosaicCursor:
        """Return the cursor of step 0."""
        return self.plan.start()

    def walk(self, cursor: MosaicCursor, weights: None = None) -> MosaicWalk:
        """Return a walk from `cursor`."""
        del weights
        return MosaicWalk(plan=self.plan, cursor=cursor)

    def walk_to_epoch(self, cursor: MosaicCursor, epoch: int) -> MosaicCursor:
        """Return the cursor at the beginning of `epoch`."""
        return self.plan.at_epoch(cursor, epoch)

    def forecast(self) -> EpochForecast:
        """Return a forecast of what this rank reads."""
        return EpochForecast(_Coming(self.plan))

    def state(self, epoch: int, sample_in_epoch: int) -> MosaicState:
        """Return the state after so many samples of an epoch."""
        epochs = self.run_plan.epochs
        return MosaicState(
            epoch=epoch,
            sample_in_epoch=sample_in_epoch,
            num_canonical_nodes=epochs.num_canonical_nodes,
            shuffle_seed=epochs.shuffle_seed,
            initial_physical_nodes=epochs.initial_physical_nodes or self.run_plan.topology.num_nodes,
            facts=self.run_plan.facts,
        )

    def document(
        self, cursor: MosaicCursor, loop: FeedbackLoop | None = None, skips: Skips | None = None
    ) -> dict[str, Any]:
        """Return the state at `cursor`: that of mosaicml-streaming, with some numbers of ours; nothing is left out."""
        del loop, skips
        cursor = self.plan.settle(cursor)
        return self.state(cursor.epoch, self.plan.samples_read(cursor)).document()


class _Coming:
    """The shards of the running epoch's rows of this rank; computed once for each epoch."""

    def __init__(self, plan: MosaicPlan) -> None:
        self._plan = plan
        self._known: tuple[tuple[int, int], Int64] | None = None

    def __call__(self, cursor: Cursor) -> tuple[Int64, int]:
        assert isinstance(cursor, MosaicCursor)
        cursor = self._plan.settle(cursor)
        epoch = cursor.epoch, cursor.begun
        if self._known is None or self._known[0] != epoch:
            ids_QB = self._plan.table(*epoch)[:, self._plan.world.rank]
            self._known = epoch, shards_of(self._plan, ids_QB)
        return self._known[1], cursor.taken


def shards_of(plan: MosaicPlan, ids_QB: Int64) -> Int64:
    """Return the shard of each sample, int64 [Q, B]; -1 where there is none."""
    shard_QB = plan.numbers.shards(ids_QB.clip(min=0))
    shard_QB[ids_QB < 0] = -1
    return shard_QB


class MosaicPosition:
    """A place in a run in that order; its faces are those of `checkpoint.Position`.

    Args:
        run: the run.
        begin: returns the place.
    """

    place = None
    skips = Skips()

    def __init__(self, run: MosaicRun, begin: Callable[[], MosaicCursor]) -> None:
        self.run, self._begin = run, begin
        self._cursor: MosaicCursor | None = None

    @property
    def cursor(self) -> MosaicCursor:
        """The place in the run's plan; computing it takes O(samples)."""
        if self._cursor is None:
            self._cursor = self._begin()
        return self._cursor

    @property
    def found(self) -> tuple[MosaicCursor, None, bool]:
        """The place, no feedback loop, and True."""
        return self.cursor, None, True

    def at_epoch(self, cursor: MosaicCursor, epoch: int) -> MosaicCursor:
        """Return where `epoch` begins."""
        return self.run.walk_to_epoch(cursor, epoch)

    def begin_loop(self) -> None:
        """Return None: nothing learns."""
