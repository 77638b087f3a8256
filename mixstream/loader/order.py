"""What a dataset asks of the order of its samples: our own (`own_order`) or that of mosaicml-streaming.

A dataset chooses its order once (`StreamingDataset(order=...)`), and neither it nor a loader asks again which one it
is. An order holds the position: the epochs that were begun, here and in workers, and how far. It does not hold the
dataset, which holds it, but is given it at each call: a dataset that is dropped unmaps its shards at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from mixstream.types import Int64
from mixstream.world import World


class Order(Protocol):
    """Begins epochs, yields their samples, saves and loads states. `dataset` is the one that this order belongs to."""

    def world(self, dataset: Any) -> World:
        """Return the ranks that there are now; a worker has those that its parent knew of."""
        ...

    def position(self, dataset: Any) -> Any:
        """Return where the run goes on, for these ranks: a `checkpoint.Position`, or what has its faces."""
        ...

    def forget_run(self) -> None:
        """Let the run be assembled again, because an option that it depends on has changed."""
        ...

    # --- iteration ------------------------------------------------------------------------------------------------

    def check_begins(self, dataset: Any) -> None:
        """Check that a plain DataLoader can read this order.

        Raises:
            ConfigError: it cannot.
        """
        ...

    def begin(self, dataset: Any) -> Any:
        """Begin the next epoch in this process; return it for `samples`."""
        ...

    def samples(self, dataset: Any, begun: Any) -> Iterator[Any]:
        """Yield the samples of an epoch that has begun; None begins the next one at the first sample."""
        ...

    def begin_at(self, dataset: Any, cursor: Any) -> None:
        """Let the next `iter()` begin at `cursor`."""
        ...

    def next_epoch(self, dataset: Any) -> int:
        """Return the epoch that the next `iter()` begins."""
        ...

    def begin_epoch(self, dataset: Any, epoch: int) -> None:
        """Let the next `iter()` begin `epoch`."""
        ...

    # --- state ----------------------------------------------------------------------------------------------------

    def state_dict(self, dataset: Any, num_samples: int | None, *, from_beginning: bool) -> dict[str, Any]:
        """Return the state after `num_samples` samples of the running epoch; `StreamingDataset.state_dict`."""
        ...

    def load_state_dict(self, dataset: Any, state: Mapping[str, Any], *, strict: bool) -> None:
        """Go on from `state`; `StreamingDataset.load_state_dict`."""
        ...

    def check_between_steps(self, state: Mapping[str, Any], loader: str) -> None:
        """Check that `loader`, which hands out whole batches of all workers, can begin at the place of `state`.

        Raises:
            StateError: it cannot.
        """
        ...

    # --- epochs in numbers ----------------------------------------------------------------------------------------

    def samples_per_rank(self, dataset: Any, *, filled: bool) -> int:
        """Return the samples that this rank gets per epoch.

        Args:
            dataset: the dataset.
            filled: count the step that is filled up with repeats.
        """
        ...

    def resample_streams(self, dataset: Any, epoch: int, stream_id: int | None) -> tuple[Int64, Int64]:
        """Return what an epoch takes; `EpochTables.resample_streams`."""
        ...

    @property
    def initial_physical_nodes(self) -> int | None:
        """The nodes on which a run began that was resumed; None if the order does not depend on them."""
        ...
