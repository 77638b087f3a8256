"""The numbers of the mixing log for TensorBoard. Needs the package tensorboard; the log itself does not.

Written through torch's `FileWriter`: `SummaryWriter.add_scalar` takes about 100 us per number.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Self

from mixstream.records import dataclass
from mixstream.storage import named_disk_errors

Numbers = Mapping[str, float]
_STEPS = 10


@dataclass(slots=True)
class _Window:
    """The steps since the last point."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    explained: dict[str, Any] = field(default_factory=dict)


class TensorBoardWriter:
    """Writes every tenth step, since an event takes about a millisecond; losses are means over the steps between."""

    def __init__(self, directory: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2  # pyright: ignore[reportMissingImports]
        from torch.utils.tensorboard import FileWriter

        self._directory, self._open = directory, FileWriter
        self._event: Any = event_pb2
        self._summary: Any = getattr(summary_pb2, "Summary")  # noqa: B009 - generated, so not visible to a type checker
        self._writer: Any = None
        self._window = _Window()

    @classmethod
    def installed(cls, directory: Path) -> Self | None:
        """Return a writer to `directory`; None if tensorboard is not installed."""
        try:
            return cls(directory)
        except ImportError:
            return None

    def begin(self, step: int) -> None:
        """Make TensorBoard drop what an earlier run wrote for `step` and later."""
        event, log = self._event.Event, self._event.SessionLog
        with named_disk_errors(self._directory, "write"):
            self._window, writer = _Window(), self._opened()
            writer.add_event(event(file_version="brain.Event:2"), step)
            writer.add_event(event(session_log=log(status=log.START)), step)

    def add_step(
        self, step: int, *, weights: Numbers, loss: Numbers, count: Numbers, explained: Mapping[str, Any]
    ) -> None:
        """Take in a step, and write the point if it is due."""
        window = self._window
        for name in (name for name, mean in loss.items() if math.isfinite(mean)):
            window.sums[name] = window.sums.get(name, 0.0) + loss[name] * count[name]
            window.counts[name] = window.counts.get(name, 0.0) + count[name]
        window.explained |= explained
        if step % _STEPS == 0:
            means = {name: window.sums[name] / n for name, n in window.counts.items()}
            self.add(step, {"weight": weights, "loss": means, "explained": window.explained})
            self._window = _Window()

    def add(self, step: int, tables: Mapping[str, Any]) -> None:
        """Write one event."""
        values = [self._summary.Value(tag=tag, simple_value=number) for tag, number in _scalars(tables)]
        with named_disk_errors(self._directory, "write"):
            self._opened().add_summary(self._summary(value=values), step)

    def _opened(self) -> Any:
        if self._writer is None:
            self._writer = self._open(str(self._directory))
        return self._writer

    def close(self) -> None:
        """Flush and close the event file; the next event opens another."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with named_disk_errors(self._directory, "write"):
                writer.close()


def _scalars(tables: Mapping[str, Any], prefix: str = "mixture") -> Iterator[tuple[str, float]]:
    """Yield (tag, number) for every number in the nested `tables`; TensorBoard cannot show lists."""
    for name, value in tables.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}/{name}")
        elif isinstance(value, int | float) and math.isfinite(value):
            yield f"{prefix}/{name}", float(value)
