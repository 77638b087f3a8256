"""How a dataset is iterated, and the state of that: what users, trainers and loaders call, in front of its `order`.

Here is what does not depend on the order of the samples: who calls, which loader reads, how often a state was loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch.utils.data import get_worker_info

from mixstream.arguments import MOST, whole
from mixstream.data.collate import warn_of_none
from mixstream.data.domains import Domains
from mixstream.distributed import detect_world, job
from mixstream.errors import ConfigError, MixstreamError
from mixstream.lazy import later
from mixstream.loader.callers import check_epoch_can_be_asked_for, check_not_divided, check_not_skipping
from mixstream.loader.iteration import raising
from mixstream.loader.run import Run
from mixstream.types import Addresses, Weights
from mixstream.world import World

if TYPE_CHECKING:
    from mixstream.loader.order import Order
    from mixstream.loader.orphans import end_with_parent
    from mixstream.loader.rank_check import RankCheck
    from mixstream.loader.worker_meters import WorkerMeters
    from mixstream.plan.state import unpacked
else:
    (Order,) = later("mixstream.loader.order", "Order")
    (end_with_parent,) = later("mixstream.loader.orphans", "end_with_parent")
    (RankCheck,) = later("mixstream.loader.rank_check", "RankCheck")
    (WorkerMeters,) = later("mixstream.loader.worker_meters", "WorkerMeters")
    (unpacked,) = later("mixstream.plan.state", "unpacked")


class ResumableIteration:
    """The part of `StreamingDataset` that begins epochs, yields their samples, and saves and loads states."""

    domains: Domains
    streams: Any
    batch_size: int | None
    predownload: int
    mixer: Any
    _given_world: tuple[int | None, int | None, int | None]

    def _begin_run(self, order: Order) -> None:
        self._order = order
        self.loader = ""  # the class of a loader over this dataset, if there is one
        self.read_by = ""  # the class of the loader that hands out this dataset's samples and keeps the position
        self.saver: Callable[[], Any] | None = None  # a weak reference to the StreamingDataLoader that began last
        self.first_step = 0  # the first step that a loader hands out, if it leaves out those before
        self.places_begun = 0  # how many places loaders have begun at; the same on all ranks
        self.announce = True  # whether iterating warns of domains that leave; a loader over the dataset warns itself
        self.loads = 0  # how often a state was loaded, by which loaders notice it
        self.weights_source: Weights | None = None  # set by a loader that runs a learning mixer
        self.worker_meters: WorkerMeters | None = None  # set by a loader that counts what its workers do

    def samples_at(self, at: Addresses) -> list[Any]:
        """Return the samples at these addresses."""
        raise NotImplementedError

    def places(self) -> list[tuple[str, str]]:
        """Return each domain's name and where it is, as it was given."""
        raise NotImplementedError

    @property
    def run(self) -> Run:
        """The run, for the ranks that there are now; workers keep the run of their parent."""
        return self.position.run

    @property
    def position(self) -> Any:
        """Where the run goes on: step 0, or the state that was loaded."""
        return self._order.position(self)

    def forget_run(self) -> None:
        """Let the run be assembled again, because an option that it depends on has changed."""
        self._order.forget_run()

    def note_load(self) -> None:
        """Note that the run goes on from another place, which loaders take over before their next batch."""
        self.loads, self.read_by = self.loads + 1, ""

    def ranks(self) -> World:
        """Return the ranks that there are now."""
        return detect_world(*self._given_world)

    def reading(self, world: World) -> World:
        """Return the ranks of the run, of which each reads other rows, that the ranks `world` of the job make."""
        raise NotImplementedError

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
        self._order.check_begins(self)
        if get_worker_info() is None:
            return self._order.samples(self, None)
        end_with_parent()
        if self.worker_meters is not None:
            self.worker_meters.begin()
        try:  # begin now, since a worker is asked for its state before any sample, and workers of one iterator together
            return self._order.samples(self, self._order.begin(self))
        except MixstreamError as error:  # torch lets a worker die of what is raised here
            return raising(error)

    def begin_check(self, run: Any, facts: Callable[[], Mapping[str, Any]]) -> RankCheck | None:
        """Post what this rank begins to read; return a check of what other ranks do, if it has to be made.

        Args:
            run: what it reads.
            facts: returns what must be the same on all ranks, by name; it is called only for a check.
        """
        if (rank := self.job_rank(run)) is None:
            return None
        return RankCheck.begin(
            facts(),
            dataset=f"{type(self).__name__} {self.places()} {run.run_plan.shuffle}",
            rank=rank,
            in_worker=get_worker_info() is not None,
        )

    def job_rank(self, run: Any) -> int | None:
        """Return this rank's number in the job; None if it reads `run` alone, or with some of the job's ranks only."""
        rank, ranks = job(self._order.world(self))
        world = run.run_plan.world
        alone = ranks == 1 or self._given_world[1] is not None or world.size * world.replicas != ranks
        return None if alone else rank

    def sample_at(self, at: Addresses) -> Any:
        """Return the sample at one address."""
        if (sample := self.samples_at(at)[0]) is None and self.announce:
            warn_of_none(self)
        return sample

    def begin_at(self, cursor: Any) -> None:
        """Let the next `iter()` begin at `cursor`; for loaders, which keep the position themselves."""
        self._order.begin_at(self, cursor)
        self.announce = False

    @property
    def next_epoch(self) -> int:
        """The epoch that the next `iter()` begins; it may be set."""
        return self._order.next_epoch(self)

    @next_epoch.setter
    def next_epoch(self, epoch: int) -> None:
        """Let the next `iter()` begin `epoch` at its beginning, an earlier one too; nothing if it does anyway.

        Raises:
            ConfigError: `epoch` is not a whole number of at least 0, or a loader keeps the position.
        """
        epoch = whole("next_epoch", epoch, least=0, most=MOST)
        if self.loader or self.read_by:
            raise ConfigError(
                f"a {self.loader or self.read_by} reads this dataset and keeps the position: call its "
                f"set_epoch({epoch}) instead of setting next_epoch"
            )
        self._order.begin_epoch(self, epoch)

    def set_epoch(self, epoch: int) -> None:
        """Let the next `iter()` begin `epoch` if it would begin an earlier one; accelerate calls this at each `iter()`.

        It never goes back, since accelerate counts from 0 again after a state was loaded.

        Raises:
            ConfigError: `epoch` is not a whole number of at least 0; or accelerate divides the samples among ranks once
                more (as for `iter()`), or would read or skip batches of another epoch.
        """
        check_not_divided(self.run.run_plan.world)
        epoch = whole("epoch", epoch, least=0, most=MOST)
        if self.loader:
            return
        check_epoch_can_be_asked_for(epoch, following=self.next_epoch)
        if epoch > self.next_epoch:
            self._order.begin_epoch(self, epoch)

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
        return self._order.state_dict(self, num_samples, from_beginning=from_beginning)

    def check_keeps_position(self) -> None:
        """Check that no loader reads this dataset and keeps the position.

        Raises:
            ConfigError: one does.
        """
        if self.read_by and get_worker_info() is None:
            raise ConfigError(
                f"a {self.read_by} reads this dataset and keeps the position: save state_dict() of that loader instead"
            )

    def load_state_dict(self, obj: Mapping[str, Any], strict: bool = True) -> None:
        """Go on from a state, saved by any rank of a run with any number of ranks and workers.

        Args:
            obj: from `state_dict`.
            strict: refuse a state of another run (other domains, seed, batch size, lanes, …); False keeps the positions
                of the domains that are still there.

        Raises:
            StateError: the state does not fit; the message says why.
        """
        self._order.load_state_dict(self, unpacked(obj), strict=strict)

    def check_between_steps(self, obj: Mapping[str, Any], loader: str) -> None:
        """Check that `loader`, which hands out whole batches of all workers, can begin at a state's place.

        Raises:
            StateError: it cannot.
        """
        self._order.check_between_steps(unpacked(obj), loader)
