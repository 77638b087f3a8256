"""Our own order of samples: the epochs that were begun, here and in workers, and how far.

`workers.EpochClaims` says which epoch an `iter()` is, `checkpoint.Epochs` where it begins, and `iteration.Iteration`
how far this process has come in it.

Shape suffixes: N samples of an epoch, S shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import get_worker_info

from mixstream.arguments import MOST, flag, whole
from mixstream.data.bad_samples import Quarantine
from mixstream.data.predownload import Predownloader
from mixstream.errors import ConfigError
from mixstream.lazy import later
from mixstream.loader import composer_calls
from mixstream.loader.callers import check_place_in_lightning, fetching
from mixstream.loader.checkpoint import Checkpoint, Epochs, Position, counted
from mixstream.loader.epoch_counts import EpochCounts
from mixstream.loader.handover import Handover
from mixstream.loader.iteration import Iteration, check_between_steps, check_counted_here, check_place
from mixstream.loader.mosaic_order.switch import epoch_after, is_mosaic_state
from mixstream.loader.replayed import logged_skips
from mixstream.loader.run_setup import Mixing, run_of
from mixstream.loader.workers import EpochClaims
from mixstream.mixers import Mixer
from mixstream.plan.skips import Skips
from mixstream.plan.state_record import IteratorState
from mixstream.types import Cursor, Int64
from mixstream.world import World

if TYPE_CHECKING:
    from mixstream.plan.state import parse_state
    from mixstream.plan.state_record import RunState
else:
    (parse_state,) = later("mixstream.plan.state", "parse_state")
    (RunState,) = later("mixstream.plan.state_record", "RunState")


class OwnOrder:
    """The `order.Order` of a `StreamingDataset(order="mixstream")`.

    Args:
        dataset: the dataset; it is not kept.
        mixing: how its domains are mixed.
        counts: what an epoch takes from each of them.
    """

    initial_physical_nodes = None

    def __init__(self, dataset: Any, *, mixing: Mixing, counts: EpochCounts) -> None:
        self._mixing, self._counts, self._quarantine = mixing, counts, Quarantine(dataset.domains)
        self._checkpoint: Checkpoint | None = None
        self._first_epoch = 0  # where the run goes on, if there is no checkpoint
        self._epochs: Epochs | None = None  # from the start or the checkpoint on; None until they are asked for
        self._claims, self._handover = EpochClaims(), Handover()
        self._iteration: Iteration | None = None  # the newest in this process
        self._to_hand_over: dict[str, Any] | None = None  # in a worker: the state that it loaded, until it is iterated

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_iteration": None}

    # --- the run --------------------------------------------------------------------------------------------------

    def world(self, dataset: Any) -> World:
        """Return the ranks that there are now; a worker has those that its parent knew of."""
        if self._epochs is not None and get_worker_info() is not None:
            return self._epochs.world
        return dataset.ranks()

    def position(self, dataset: Any) -> Position:
        """Return where the run goes on: step 0, or the state that was loaded."""
        return self._current(dataset).position

    def forget_run(self) -> None:
        """Let the run be assembled again, because an option that it depends on has changed."""
        self._epochs = None

    def _current(self, dataset: Any) -> Epochs:
        if (news := self._handover.news()) is not None:
            self._load(dataset, parse_state(news["state"]), claim=news["claim"])
            dataset.read_by = "DataLoader whose workers loaded a state"
        epochs, world = self._epochs, self.world(dataset)
        if epochs is None or epochs.world != world:
            epochs = self._epochs = Epochs(world, self._position_of(dataset, world, self._checkpoint, self._quarantine))
        return epochs

    def _position_of(
        self, dataset: Any, world: World, checkpoint: Checkpoint | None, quarantine: Quarantine
    ) -> Position:
        """Return the place of `checkpoint`, or the first one, in the run that the ranks `world` make of it."""
        state = checkpoint.state if checkpoint is not None else None
        run = run_of(dataset, self._mixing, self._counts, world, state=state, quarantine=quarantine)
        return Position(run, checkpoint, self._first_epoch, planned=logged_skips(dataset.mixer))

    # --- iteration ------------------------------------------------------------------------------------------------

    def check_begins(self, dataset: Any) -> None:
        """Check that nothing learns, unless a loader does that reads this dataset.

        Raises:
            ConfigError: the mixer learns, which a plain DataLoader cannot serve.
        """
        if self._learns and dataset.weights_source is None:
            raise ConfigError(
                f"{type(dataset.mixer).__name__} learns from losses, which a plain DataLoader cannot report: "
                "use mixstream.Loader or mixstream.StreamingDataLoader"
            )

    @property
    def _learns(self) -> bool:
        return isinstance(self._mixing.policy, Mixer)

    def begin(self, dataset: Any) -> Iteration:
        """Begin the next epoch in this process."""
        claim = self._claims.claim()
        epochs = self._current(dataset)
        composer_calls.check_claim(claim, epochs.number(claim), begun_here=self._claims.begun)
        if self._to_hand_over is not None:
            epochs = self._epochs = Epochs(epochs.world, epochs.position, claim=claim)
            self._handover.put({"claim": claim, "state": self._to_hand_over})
            self._to_hand_over = None
        self._iteration = Iteration(
            run=epochs.position.run,
            cursor=epochs.begin(claim),
            claim=claim,
            epoch=epochs.number(claim),
            place=epochs.place(claim),
            weights=dataset.weights_source or epochs.position.run.weights(None),
            skips=epochs.skips,
        )
        return self._iteration

    def samples(self, dataset: Any, begun: Iteration | None) -> Iterator[Any]:
        """Yield the samples of an epoch that has begun; None begins the next one at the first sample."""
        iteration = begun or self.begin(dataset)
        at_start = not dataset.loads and iteration.walk.cursor.step in (0, dataset.first_step)
        check_place_in_lightning(at_start=at_start, at_end=iteration.is_over)
        iteration.serve(how := fetching())
        ahead, epochs, run = dataset.predownload * iteration.share.workers, self._current(dataset), iteration.run
        check, first = None, iteration.walk.cursor
        if not dataset.loader and iteration.share.worker == 0 and epochs.is_first(iteration.claim):
            check = dataset.begin_check(run, lambda: run.facts(first, None, epochs.skips))
        with closing(Predownloader(run_plan=run.run_plan, domains=dataset.domains, ahead=ahead)) as predownloader:
            samples = iteration.samples(
                server=dataset.serving(run, how),
                look_ahead=predownloader.look_ahead,
                warn=dataset.announce and iteration.share.worker == 0,
            )
            yield from samples if check is None else check.watch(samples, rows=run.run_plan.batch_size)
        if iteration.ended:
            epochs.reach(iteration.claim + 1, iteration.walk.cursor)

    def begin_at(self, dataset: Any, cursor: Cursor) -> None:
        """Let the next `iter()` begin at `cursor`; workers of earlier iterators go on with theirs.

        The loader that calls it leaves steps out by itself.
        """
        epochs = self._current(dataset)
        self._epochs = Epochs(epochs.world, epochs.position, start=cursor, skips=Skips())
        self._claims, self._iteration = EpochClaims(), None

    def next_epoch(self, dataset: Any) -> int:
        """Return the epoch that the next `iter()` begins."""
        return self._current(dataset).number(self._claims.count)

    def begin_epoch(self, dataset: Any, epoch: int) -> None:
        """Let the next `iter()` begin `epoch` at its beginning; nothing if it goes on in it anyway."""
        if epoch == self.next_epoch(dataset):
            return
        epochs = self._current(dataset)
        start = epochs.position.at_epoch(epochs.start, epoch)
        self._epochs, self._iteration = Epochs(epochs.world, epochs.position, start=start), None
        self._end_claims()

    def _end_claims(self) -> None:
        """Refuse further epochs to running workers, since the dataset goes on from a place that they do not know."""
        self._claims.end()
        self._claims = EpochClaims()

    # --- state ----------------------------------------------------------------------------------------------------

    def state_dict(self, dataset: Any, num_samples: int | None, *, from_beginning: bool) -> dict[str, Any]:
        """Return the state after the samples that this process took from the dataset, or after `num_samples`.

        Raises:
            ConfigError: the position is not known here: a loader keeps it, or DataLoader workers read the samples.
        """
        if num_samples is not None and from_beginning:
            loader = dataset.saver() if dataset.saver is not None else None
            saved = loader.state_after(num_samples, begun=self._claims.count > 0) if loader is not None else None
            if saved is not None:
                return saved
        if self._learns:
            raise ConfigError(
                f"{type(dataset.mixer).__name__} learns from losses, and the loader has what it learned: save "
                "loader.state_dict() of mixstream.Loader or mixstream.StreamingDataLoader"
            )
        epochs = self._current(dataset)
        dataset.check_keeps_position()
        if num_samples is None:
            check_counted_here(self._iteration, self._claims.count)
            return self._iteration.document() if self._iteration is not None else epochs.document()
        claim, rows = (
            max(self._claims.count - 1, 0),
            whole("num_samples", num_samples, least=0, most=MOST, of="samples"),
        )
        if not rows and from_beginning and self._claims.count:
            claim += composer_calls.between_epochs()
        run, cursor, place = epochs.position.run, epochs.begin(claim), epochs.place(claim)
        return counted(run, cursor, place, rows, from_beginning=from_beginning, skips=epochs.skips)

    def load_state_dict(self, dataset: Any, state: Mapping[str, Any], *, strict: bool) -> None:
        """Go on from `state`, or at the beginning of an epoch, from a state of mosaicml-streaming that lies there.

        Raises:
            StateError: the state does not fit; the message says why.
        """
        strict = flag("strict", strict)
        if is_mosaic_state(state):
            self._begin_run_at(dataset, epoch_after(dataset, state))
            return
        parsed = parse_state(state)
        check_place(parsed.iterator, batch_rows=dataset.batch_size or 0)
        self._load(dataset, parsed, strict=strict)
        if get_worker_info() is not None:
            self._to_hand_over = dict(state)
            self._handover.ignore()
            return
        self._end_claims()

    def check_between_steps(self, state: Mapping[str, Any], loader: str) -> None:
        """Check that `loader`, which hands out whole batches of all workers, can begin at the place of `state`.

        Raises:
            StateError: it cannot.
        """
        if not is_mosaic_state(state):
            check_between_steps(parse_state(state).iterator, loader)

    def _begin_run_at(self, dataset: Any, epoch: int) -> None:
        """Go on at the beginning of an epoch, in a run that has not drawn before."""
        self._checkpoint, self._quarantine = None, Quarantine(dataset.domains, load=dataset.loads + 1)
        self._first_epoch, self._epochs, self._iteration = epoch, None, None
        dataset.note_load()
        self._end_claims()

    def _load(self, dataset: Any, state: RunState, *, strict: bool = True, claim: int = 0) -> None:
        """Go on from `state`, which lies in the epoch of `claim`."""
        world = self.world(dataset)
        within = isinstance(state.iterator, IteratorState)  # which has no meaning in another run
        checkpoint = Checkpoint(state=state, strict=strict or within)
        quarantine = Quarantine.restored(dataset.domains, state, load=dataset.loads + 1)
        position = self._position_of(dataset, world, checkpoint, quarantine)
        _ = position.found  # refuses a state of another run, before anything has changed
        self._checkpoint, self._quarantine, self._iteration = checkpoint, quarantine, None
        self._epochs = Epochs(world, position, claim=claim)
        dataset.note_load()

    # --- epochs in numbers ----------------------------------------------------------------------------------------

    def samples_per_rank(self, dataset: Any, *, filled: bool) -> int:
        """Return the samples that this rank gets per epoch; `filled` counts the step that is filled with repeats."""
        run_plan = self.position(dataset).run.run_plan
        plan, steps = run_plan.plan, run_plan.plan.steps_per_epoch
        if plan.choose_K is not None and not filled:
            steps = plan.epoch_size // plan.global_batch_size
        return steps * run_plan.batch_size

    def resample_streams(self, dataset: Any, epoch: int, stream_id: int | None) -> tuple[Int64, Int64]:
        """Return how many samples an epoch takes from each shard, int64 [S], and their numbers, int64 [N], ascending.

        Raises:
            ConfigError: the mixer learns, so what a later epoch takes is not known.
        """
        if self._learns:
            raise ConfigError(
                f"{type(dataset.mixer).__name__} learns from losses, so what epoch {epoch} takes is known only when it "
                "is read: look at the batches of the loader"
            )
        run, found = self.position(dataset).run, []
        walk = run.walk(run.walk_to_epoch(run.start(), epoch), run.weights(None))
        while walk.cursor.epoch == epoch and (rows := walk.advance()) is not None:
            (at,) = run.run_plan.addressing.locate([rows], slice(None))
            found.append(dataset.number(at))
        number_N = np.sort(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)
        shard_N = np.searchsorted(dataset.sample_offset_per_shard, number_N, side="right") - 1
        count_S = np.bincount(shard_N, minlength=len(dataset.sample_offset_per_shard)).astype(np.int64)
        if stream_id is None:
            return count_S, number_N
        first = int(dataset.shard_offset_per_stream[stream_id])
        last = first + int(dataset.shards_per_stream[stream_id])
        return count_S[first:last], number_N[(shard_N >= first) & (shard_N < last)]
