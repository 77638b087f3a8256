"""The mixing log's numbers for TensorBoard. Needs the package tensorboard; whoever has it not has the log all the same.

Written through torch's `FileWriter`: `SummaryWriter.add_scalar` costs some 100 us a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mixstream.errors import ConfigError

Numbers = Mapping[str, float]
_STEPS = 10


class TensorBoardWriter:
    """The same numbers for TensorBoard, at every tenth step: an event costs it about a millisecond."""

    def __init__(self, directory: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2  # pyright: ignore[reportMissingImports]
        from torch.utils.tensorboard import FileWriter

        self._directory, self._open = directory, FileWriter
        self._event: Any = event_pb2
        self._summary: Any = getattr(summary_pb2, "Summary")  # noqa: B009 - generated, so not visible to a type checker
        self._writer: Any = None
        self._forget()

    @classmethod
    def installed(cls, directory: Path, *, required: bool) -> TensorBoardWriter | None:
        """Return the board in `directory`; None where tensorboard is not installed, an error if it is `required`."""
        try:
            return cls(directory)
        except ImportError as error:
            if not required:
                return None
            raise ConfigError(
                f"tensorboard=True, and tensorboard cannot be imported ({error}): pip install tensorboard, or leave "
                "the option out"
            ) from error

    def begin(self, step: int) -> None:
        """Let TensorBoard drop what an earlier run wrote of `step` and later."""
        if self._writer is None:
            self._writer = self._open(str(self._directory))
        self._forget()
        event, log = self._event.Event, self._event.SessionLog
        self._writer.add_event(event(file_version="brain.Event:2"), step)
        self._writer.add_event(event(session_log=log(status=log.START)), step)

    def _forget(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}
        self._explained: dict[str, Any] = {}

    def collect(
        self, step: int, *, weights: Numbers, loss: Numbers, count: Numbers, explained: Mapping[str, Any]
    ) -> None:
        """Take in a step, and write the point if it is due."""
        for name in (name for name, mean in loss.items() if math.isfinite(mean)):
            self._sums[name] = self._sums.get(name, 0.0) + loss[name] * count[name]
            self._counts[name] = self._counts.get(name, 0.0) + count[name]
        self._explained |= explained
        if step % _STEPS == 0:
            means = {name: self._sums[name] / n for name, n in self._counts.items()}
            self.add(step, {"weight": weights, "loss": means, "explained": self._explained})
            self._forget()

    def add(self, step: int, tables: Mapping[str, Any]) -> None:
        """Write one event."""
        if self._writer is None:
            self._writer = self._open(str(self._directory))
        values = [self._summary.Value(tag=tag, simple_value=number) for tag, number in _scalars(tables)]
        self._writer.add_summary(self._summary(value=values), step)

    def close(self) -> None:
        """Let TensorBoard see all of it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _scalars(tables: Mapping[str, Any], prefix: str = "mixture") -> Iterator[tuple[str, float]]:
    """Yield (tag, number) of every number in `tables`, however deep its names; lists have no place in TensorBoard."""
    for name, value in tables.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}/{name}")
        elif isinstance(value, int | float) and math.isfinite(value):
            yield f"{prefix}/{name}", float(value)
