"""How far a loader has come in the run of its dataset. `Loader` and `StreamingDataLoader` share it.

It begins at the dataset's position and counts the batches that were handed out. If the dataset's position changes, the
loader replaces it by a new one.
"""

from __future__ import annotations

from mixstream.errors import ExhaustedError
from mixstream.loader.dataset import StreamingDataset
from mixstream.plan.walk import ExhaustionWarnings


class Place:
    """A loader's place in a run.

    Args:
        dataset: whose position it begins at: step 0, or a state that was loaded.

    Attributes:
        run: the run.
        cursor: the place in its plan after the last batch that was handed out.
        loop: the loader's own feedback loop; None where nothing learns.
        exhaustion: warns when a domain leaves the mix.
    """

    def __init__(self, dataset: StreamingDataset) -> None:
        position = dataset.position
        self.run, self.cursor, self.loop = position.run, position.cursor, position.begin_loop()
        self.exhaustion = ExhaustionWarnings(self.run.plan, self.cursor)
        self._loads, self._origin, self._ended = dataset.loads, position.cursor, False

    def is_outdated(self, dataset: StreamingDataset) -> bool:
        """Return whether a state was loaded into the dataset, or its ranks changed before the first batch."""
        unmoved = self.cursor is self._origin  # once batches were handed out, the position does not change with ranks
        return dataset.loads != self._loads or (unmoved and dataset.run is not self.run)

    def end(self) -> str:
        """Note that too few domains are left to fill a batch; return the message."""
        self._ended = True
        return self.exhaustion.end(self.cursor)

    def check_not_ended(self) -> None:
        """Check that there may be another batch.

        Raises:
            ExhaustedError: `end` was called.
        """
        if self._ended:
            raise ExhaustedError(self.exhaustion.end(self.cursor))
