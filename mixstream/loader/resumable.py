"""How a dataset is iterated, and the state of that: the epochs that were begun, here and in workers, and how far.

`workers.EpochClaims` says which epoch an `iter()` is, `checkpoint.Epochs` where it begins, and `iteration.Iteration`
how far this process has come in it.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from torch.utils.data import get_worker_info

from mixstream.arguments import MOST, whole
from mixstream.data.bad_samples import Quarantine
from mixstream.data.collate import warn_of_none
from mixstream.data.domains import Domains
from mixstream.data.predownload import Predownloader
from mixstream.distributed import detect_world
from mixstream.errors import ConfigError, MixstreamError
from mixstream.loader.callers import check_epoch_can_be_asked_for, check_not_divided, check_not_skipping, fetching
from mixstream.loader.checkpoint import Checkpoint, Epochs, Position, counted
from mixstream.loader.handover import Handover
from mixstream.loader.iteration import Iteration, check_counted_here, check_place, raising
from mixstream.loader.run import Run
from mixstream.loader.workers import EpochClaims
from mixstream.mixers import Mixer
from mixstream.plan.state import RunState, parse_state
from mixstream.plan.state_record import IteratorState
from mixstream.types import Addresses, Cursor, Weights
from mixstream.world import World


class ResumableIteration:
    """The part of `StreamingDataset` that begins epochs, yields their samples, and saves and loads states."""

    domains: Domains
    batch_size: int | None
    predownload: int
    mixer: Any
    _policy: Any
    _quarantine: Quarantine
    _given_world: tuple[int | None, int | None, int | None]

    def _begin_run(self) -> None:
        self._checkpoint: Checkpoint | None = None
        self._epochs: Epochs | None = None  # from the start or the checkpoint on; None until they are asked for
        self._claims, self._handover = EpochClaims(), Handover()
        self._iteration: Iteration | None = None  # the newest in this process
        self._to_hand_over: dict[str, Any] | None = None  # in a worker: the state that it loaded, until it is iterated
        self.loader = ""  # the class of a loader over this dataset, if there is one
        self.read_by = ""  # the class of the loader that hands out this dataset's samples and keeps the position
        self.announce = True  # whether iterating warns of domains that leave; a loader over the dataset warns itself
        self.loads = 0  # how often a state was loaded, by which loaders notice it
        self.weights_source: Weights | None = None  # set by a loader that runs a learning mixer

    def _position_of(self, world: World, checkpoint: Checkpoint | None, quarantine: Quarantine) -> Position:
        """Return the place of `checkpoint`, or step 0, in the run that the ranks `world` make of it."""
        raise NotImplementedError

    def samples_at(self, at: Addresses) -> list[Any]:
        """Return the samples at these addresses."""
        raise NotImplementedError

    @property
    def run(self) -> Run:
        """The run, for the ranks that there are now; workers keep the run of their parent."""
        return self.position.run

    @property
    def position(self) -> Position:
        """Where the run goes on: step 0, or the state that was loaded."""
        return self._current_epochs().position

    def _current_epochs(self) -> Epochs:
        if (news := self._handover.news()) is not None:
            self._load(parse_state(news["state"]), self._world(), claim=news["claim"])
            self.read_by = "DataLoader whose workers loaded a state"
        epochs, world = self._epochs, self._world()
        if epochs is None or epochs.world != world:
            epochs = self._epochs = Epochs(world, self._position_of(world, self._checkpoint, self._quarantine))
        return epochs

    def _world(self) -> World:
        """Return the ranks that there are now; a worker has those that its parent knew of."""
        if self._epochs is not None and get_worker_info() is not None:
            return self._epochs.world
        return detect_world(*self._given_world)

    # --- iteration ------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator over this rank's (and, in a DataLoader worker, this worker's) samples of the next epoch.

        The workers of a DataLoader share the samples so that its batches have them in the same order for any number of
        workers, whatever its `batch_size` is. Every `iter()` from which a sample is taken is an epoch, also one that is
        abandoned, and also a look at the first batch by another DataLoader over the same dataset.

        Raises:
            ConfigError: the mixer learns, which a plain DataLoader cannot serve; or accelerate divides the samples
                among ranks once more.
        """
        check_not_divided(self.run.run_plan.world)
        if self.loader:
            check_not_skipping()
        if isinstance(self._policy, Mixer) and self.weights_source is None:
            raise ConfigError(
                f"{type(self.mixer).__name__} learns from losses, which a plain DataLoader cannot report: "
                "use mixstream.Loader or mixstream.StreamingDataLoader"
            )
        if get_worker_info() is None:
            return self._samples()
        try:
            return self._samples(self._begin())  # now, since a worker is asked for its state before any sample
        except MixstreamError as error:  # torch lets a worker die of what is raised here
            return raising(error)

    def _begin(self) -> Iteration:
        """Begin the next epoch in this process."""
        claim = self._claims.claim()
        epochs = self._current_epochs()
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
            weights=self.weights_source or epochs.position.run.weights(None),
        )
        return self._iteration

    def _samples(self, iteration: Iteration | None = None) -> Iterator[Any]:
        iteration = iteration or self._begin()
        iteration.serve(fetching())
        ahead, epochs = self.predownload * iteration.share.workers, self._current_epochs()
        run_plan = iteration.run.run_plan
        with closing(Predownloader(run_plan=run_plan, domains=self.domains, ahead=ahead)) as predownloader:
            yield from iteration.samples(
                reader=iteration.run.reader(self.domains),
                look_ahead=predownloader.look_ahead,
                make=self._sample_at,
                warn=self.announce and iteration.share.worker == 0,
            )
        if iteration.ended:
            epochs.reach(iteration.claim + 1, iteration.walk.cursor)

    def _sample_at(self, at: Addresses) -> Any:
        if (sample := self.samples_at(at)[0]) is None and self.announce:
            warn_of_none(self)
        return sample

    def begin_at(self, cursor: Cursor) -> None:
        """Let the next `iter()` begin at `cursor`; for loaders, which keep the position themselves."""
        epochs = self._current_epochs()
        self._epochs, self.announce = Epochs(epochs.world, epochs.position, start=cursor), False
        self._claims, self._iteration = EpochClaims(), None  # workers of earlier iterators go on with theirs

    @property
    def next_epoch(self) -> int:
        """The epoch that the next `iter()` begins."""
        return self._current_epochs().number(self._claims.count)

    def set_epoch(self, epoch: int) -> None:
        """Let the next `iter()` begin `epoch` if it would begin an earlier one; accelerate calls this at each `iter()`.

        It never goes back, since accelerate counts from 0 again after a state was loaded.

        Raises:
            ConfigError: `epoch` is not a whole number of at least 0; or accelerate divides the samples among ranks once
                more (as for `iter()`), or would read or skip batches of another epoch.
        """
        check_not_divided(self.run.run_plan.world)
        epoch, epochs = whole("epoch", epoch, least=0, most=MOST), self._current_epochs()
        if self.loader:
            return
        check_epoch_can_be_asked_for(epoch, following=self.next_epoch)
        if epoch <= self.next_epoch:
            return
        start = epochs.position.run.walk_to_epoch(epochs.start, epoch)
        self._epochs, self._iteration = Epochs(epochs.world, epochs.position, start=start), None
        self._claims.end()
        self._claims = EpochClaims()

    # --- state ----------------------------------------------------------------------------------------------------

    def state_dict(self, num_samples: int | None = None, from_beginning: bool = True) -> dict[str, Any]:
        """Return the state after the samples that this process took from the dataset, or after `num_samples`.

        Without `num_samples`, it is the state after the samples that this process's newest iterator has yielded: for
        loaders that ask in the process that iterates, such as torchdata's StatefulDataLoader, which asks each worker
        for its own place. The state of a single worker can only be loaded by that worker.

        Args:
            num_samples: samples of the running epoch that were handed to the model, over all ranks; for trainers with a
                plain DataLoader, which count them. `StreamingDataLoader` and `Loader` know their position.
            from_beginning: count them from the epoch's beginning, not from a loaded state's place in it.

        Raises:
            ConfigError: the position is not known here: a loader keeps it, or DataLoader workers read the samples.
        """
        if isinstance(self._policy, Mixer):
            raise ConfigError(
                f"{type(self.mixer).__name__} learns from losses, and the loader has what it learned: save "
                "loader.state_dict() of mixstream.Loader or mixstream.StreamingDataLoader"
            )
        run, epochs = self.run, self._current_epochs()
        if self.read_by and get_worker_info() is None:
            raise ConfigError(
                f"a {self.read_by} reads this dataset and keeps the position: save state_dict() of that loader instead"
            )
        if num_samples is None:
            check_counted_here(self._iteration, self._claims.count)
            return self._iteration.document() if self._iteration is not None else epochs.document()
        claim, rows = max(self._claims.count - 1, 0), whole("num_samples", num_samples, least=0, of="samples")
        return counted(run, epochs.begin(claim), epochs.place(claim), rows, from_beginning=from_beginning)

    def load_state_dict(self, obj: Mapping[str, Any], strict: bool = True) -> None:
        """Go on from a state, saved by any rank of a run with any number of ranks and workers.

        Args:
            obj: from `state_dict`.
            strict: refuse a state of another run (other domains, seed, batch size, lanes, …); False keeps the positions
                of the domains that are still there.

        Raises:
            StateError: the state does not fit; the message says why.
        """
        state = parse_state(obj)
        check_place(state.iterator, batch_rows=self.batch_size or 0)
        self._load(state, self._world(), strict=strict)
        if get_worker_info() is not None:
            self._to_hand_over = dict(obj)
            self._handover.ignore()
            return
        self._claims.end()
        self._claims = EpochClaims()

    def _load(self, state: RunState, world: World, *, strict: bool = True, claim: int = 0) -> None:
        """Go on from `state`, which lies in the epoch of `claim`."""
        within = isinstance(state.iterator, IteratorState)  # which has no meaning in another run
        checkpoint = Checkpoint(state=state, strict=strict or within)
        quarantine = Quarantine.restored(self.domains, state, load=self.loads + 1)
        position = self._position_of(world, checkpoint, quarantine)
        _ = position.found  # refuses a state of another run, before anything has changed
        epochs = Epochs(world, position, claim=claim)
        self._checkpoint, self._quarantine, self.loads = checkpoint, quarantine, self.loads + 1
        self._epochs = epochs
        self._iteration, self.read_by = None, ""
