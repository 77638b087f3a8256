"""A loader's steps without end, cut into a trainer's micro-batches; the position is that after the last finished step.

Rules. One step of the loader is one optimiser step, whatever micro-batches it is cut into. The trainer's adapter says
when a step is finished (`finish`); a step that was begun and not finished is in no state, and can be read again.
`loader` is a `Loader` or a `StreamingDataLoader`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mixstream.data.batch import Batch
from mixstream.errors import ConfigError, ExhaustedError, StateError


def steps(loader: Any, *, epochs: int | None = None) -> Iterator[Any]:
    """Yield the batches of `loader` from its position on, one epoch after the other.

    The end is the first of these: `epochs` epochs are over, counted from the start of the run; too few domains are
    left, of which the loader has warned.
    """
    while epochs is None or loader.epoch < epochs:
        try:
            yield from loader
        except ExhaustedError:
            return


class MicroBatches:
    """An iterator over the micro-batches of a loader's steps.

    Args:
        loader: the loader.
        parts: micro-batches of a step.
        remedy: the end of the error that a state within a step raises: how the trainer's user avoids it.
        epochs: as for `steps`.

    Attributes:
        batch: the step in hand, as `Batch.split` cuts it; None before the first.
        unfinished: whether the trainer has begun a step, and `finish` was not called for it.
        keep: whether to keep the state of each finished step, for a trainer that saves within the next. It costs a wait
            for the mixer at each step.

    >>> import numpy as np, mixstream as ms, tempfile
    >>> with ms.MDSWriter(columns={"tokens": "ndarray:uint16:5"}, out=(out := tempfile.mkdtemp())) as writer:
    ...     for number in range(8):
    ...         writer.write({"tokens": np.full(5, number, np.uint16)})
    >>> parts = MicroBatches(ms.Loader(ms.StreamingDataset(local=out, batch_size=4)), parts=2, remedy="")
    >>> next(parts)["tokens"][:, 0].tolist(), parts.left, parts.unfinished
    ([0, 1], 1, True)
    >>> parts.finish(next(parts))
    >>> parts.state_dict()["step"]
    1
    """

    def __init__(self, loader: Any, *, parts: int, remedy: str, epochs: int | None = None) -> None:
        self.loader, self.parts, self.remedy, self._epochs = loader, parts, remedy, epochs
        self.keep = False
        self._forget()

    def _forget(self) -> None:
        self.batch: Any = None
        self.unfinished, self._kept = False, None
        self._left: list[Batch] = []
        self._reported: set[tuple[Any, Any]] = set()  # rows of the step in hand
        self._steps: Iterator[Any] | None = None

    @property
    def left(self) -> int:
        """How many micro-batches of the step in hand were not returned yet."""
        return len(self._left)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Return the next micro-batch.

        Raises:
            ConfigError: the loader's batches do not say their step.
        """
        if not self._left:
            self.batch = self._next_step()
            self.unfinished, self._reported = True, set()
            self._left = self.batch.split(self.parts)
        return self._left.pop(0)

    def _next_step(self) -> Batch:
        if self.keep and not self.unfinished:
            self._kept = self.loader.state_dict()
        self._steps = steps(self.loader, epochs=self._epochs) if self._steps is None else self._steps
        batch = next(self._steps)
        if getattr(batch, "step", -1) < 0:
            raise ConfigError(
                f"the loader returned a {type(batch).__name__} that does not say its step, so its rows cannot be told "
                "apart: have collate_fn or transforms return a dict of columns with a row for each sample"
            )
        return batch

    def report(self, part: Batch, sums: Any) -> None:
        """Report the losses of a micro-batch, (sums, counts) of [K] each, once: also if its step is read again."""
        if (rows := (part.rows.start, part.rows.stop)) not in self._reported:
            self._reported.add(rows)
            self.loader.report(part, tuple(sums))

    def finish(self, part: Batch) -> None:
        """Note that the trainer has made the step of `part`, which is its last micro-batch."""
        self.unfinished = bool(self._left) or part.step != self.batch.step

    def rewind(self) -> None:
        """Read a step that was begun and not finished once more, from its first micro-batch.

        If the caller has loaded another state into the loader since, go on there.
        """
        moved = self.batch is not None and getattr(self.loader, "step", self.batch.step + 1) != self.batch.step + 1
        if moved:
            self._forget()
        self._left = self.batch.split(self.parts) if self.batch is not None and self.unfinished else []

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's state after the last finished step.

        Raises:
            StateError: the loader has passed it.
        """
        if not self.unfinished:
            return self.loader.state_dict()
        if self._kept is not None:  # steps may have been left out since
            skipped = [[steps.start, steps.stop] for steps in getattr(self.loader, "skipped", ())]
            return self._kept | ({"skipped": skipped} if skipped else {})
        left = (
            f"{len(self._left)} of its {self.parts} micro-batches were not read" if self._left else "all of it is read"
        )
        raise StateError(
            f"step {self.batch.step} is not finished ({left}), and a state counts whole steps: its rows would be lost "
            f"by a resume. {self.remedy}"
        )

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Go on from a state of any number of ranks and micro-batches; `strict` is as for `Loader.load_state_dict`."""
        self.loader.load_state_dict(state, strict=strict)
        self._forget()
