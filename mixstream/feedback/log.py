"""The mixing log: what every step was drawn by and what it cost, as JSONL that any tool reads, and to TensorBoard.

Rule 1: one line of JSON for each step, appended with one write and never changed. A process may be killed at any
instant; whatever does not end in a newline is no line, readers pass it over and the next writer cuts it off.
Rule 2: exact. A weight is written as the float that is its whole parts of `WEIGHT_UNIT`, so a log replays bit for bit
(`mixstream.feedback.replay`); a mean loss is for people. Equal runs write equal lines, but for `time` in the header.
Rule 3: the later wins. Each run or resume writes a header with the step that it begins at; lines above it, of that
step and later, are of a run that was cut short, and count no more.

    {"event":"begin","mixstream":1,"step":0,"time":…,"domains":["code","web"],"mixer":"ADO","lag":16,
     "global_batch_size":256,"row_tokens":2048,"samples":{"code":81000,"web":977000}}
    {"event":"step","step":0,"weights":{"code":0.25,"web":0.75},"rows":{"code":64,"web":192},
     "loss":{"code":10.8,"web":10.9},"count":{"code":131008,"web":393024}}
    {"event":"validation","step":99,"loss":{"code":5.1,"web":6.2}}

Everything by domain is an object by name. A domain that is not in `rows` had none in that batch; one that is not in
`loss` has none that is known. `explained` has what a mixer tells of itself (`mixers.Explaining`), each entry where it
changed. `validation` is measured after its step and before the next; step -1 is before training.

Shape suffixes: K domains, V validation groups.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np

from mixstream.errors import ConfigError
from mixstream.feedback.tensorboard import TensorBoardWriter
from mixstream.plan.weights import WEIGHT_UNIT
from mixstream.types import Float64, Int64

VERSION = 1
FILE = "mixture.jsonl"
_OPENING = b'{"event":"begin","mixstream":'
_BLOCK = 1 << 16


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="begin"):
    """The header of a run, or of a resume: what it draws from, and how."""

    mixstream: int
    step: int
    time: float
    domains: list[str]
    mixer: str
    lag: int | None
    global_batch_size: int
    row_tokens: int | None
    samples: dict[str, int]


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="step"):
    """One step: the weights that it was drawn by, what was drawn, and its losses over all ranks."""

    step: int
    weights: dict[str, float]
    rows: dict[str, int]
    loss: dict[str, float | None] = {}
    count: dict[str, float] = {}
    explained: dict[str, Any] = {}


class Validation(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="validation"):
    """Mean validation losses of the model after `step`, by group."""

    step: int
    loss: dict[str, float | None]


def log_file(path: str | os.PathLike[str]) -> Path:
    """Return the file of a log: `path` itself if it is a file or called *.jsonl, else `mixture.jsonl` below it."""
    path = Path(path)
    return path if path.suffix == ".jsonl" or path.is_file() else path / FILE


class MixingLog:
    """Writes the mixing log of a run. One process does (rank 0), one thread at a time; nothing is open before `begin`.

    Args:
        path: directory for `mixture.jsonl`, or a file called *.jsonl. A log that is there is gone on with.
        names: the domains, in the order of all arrays.
        tensorboard: write the same numbers as event files beside the log, a point every 10 steps, with the mean losses
            of these; None does if tensorboard is installed.

    Raises:
        ConfigError: `tensorboard=True` and it is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        names: Sequence[str],
        tensorboard: bool | None = None,
    ) -> None:
        self.file = log_file(path)
        self._names = list(names)
        self._encode = msgspec.json.Encoder().encode
        self._lines: _Lines | None = None
        self._header: Begin | None = None
        self._begun = False
        self._explained: dict[str, bytes] = {}
        self._board = (
            None if tensorboard is False else TensorBoardWriter.installed(self.file.parent, required=bool(tensorboard))
        )

    def begin(
        self,
        *,
        step: int,
        mixer: str,
        lag: int | None,
        global_batch_size: int,
        samples_K: Int64,
        row_tokens: int | None = None,
    ) -> None:
        """Say that what follows are the steps from `step` on. The header is written with the first line.

        So whoever begins and then goes on from a checkpoint instead leaves no trace.

        Args:
            step: the first step to come; later than 0 where a run is resumed.
            mixer: what mixes, as a name for people.
            lag: of the run; None where the mixer needs no losses.
            global_batch_size: rows of a step, over all ranks.
            samples_K: int64 [K], samples that each domain has.
            row_tokens: tokens of a row; None where rows are not all as long.

        Raises:
            ConfigError: the file that is there is no mixing log.
        """
        header = Begin(
            mixstream=VERSION,
            step=step,
            time=round(time.time(), 3),
            domains=self._names,
            mixer=mixer,
            lag=lag,
            global_batch_size=global_batch_size,
            row_tokens=row_tokens,
            samples=dict(zip(self._names, np.asarray(samples_K).tolist())),
        )
        if self._lines is None:
            self._lines = _Lines(self.file)
        self._header, self._begun = header, True
        self._explained = {}  # the lines that told it may count no more

    def write(
        self,
        step: int,
        *,
        weights_K: Int64,
        rows_K: Int64 | Float64,
        loss_sum_K: Float64 | None = None,
        count_K: Float64 | None = None,
        validation_V: Float64 | None = None,
        explained: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one step.

        Args:
            step: whose batch it was.
            weights_K: int64 [K], the weights that the step was drawn by, in parts of `WEIGHT_UNIT`.
            rows_K: [K], rows that each domain had in the global batch.
            loss_sum_K: float64 [K], summed losses over all ranks, in nats; None where none were reported.
            count_K: float64 [K], tokens (or rows) that the sums are over.
            validation_V: float64 [V], mean validation losses after the step.
            explained: what the mixer tells (`mixers.Explaining`); only what changed is written.
        """
        weights = dict(zip(self._names, (np.asarray(weights_K) / WEIGHT_UNIT).tolist()))
        rows = {name: int(rows) for name, rows in zip(self._names, np.asarray(rows_K).tolist()) if rows}
        loss, count = {}, {}
        if loss_sum_K is not None and count_K is not None:
            count = {name: n for name, n in zip(self._names, np.asarray(count_K).tolist()) if n > 0}
            sums = dict(zip(self._names, np.asarray(loss_sum_K).tolist()))
            loss = {name: sums[name] / n for name, n in count.items()}
        news = self._news(explained or {})
        self._append(Step(step=step, weights=weights, rows=rows, loss=loss, count=count, explained=news))
        if self._board is not None:
            self._board.collect(step, weights=weights, loss=loss, count=count, explained=news)
        if validation_V is not None:
            self.write_validation(step, validation_V)

    def write_validation(self, step: int, validation_V: Float64) -> None:
        """Write mean validation losses, float64 [V], measured after `step`; -1 is before any training.

        Groups that are not the domains, one for one, are called "group 0" and so on.
        """
        losses = np.asarray(validation_V, dtype=np.float64).tolist()
        groups = self._names if len(losses) == len(self._names) else [f"group {at}" for at in range(len(losses))]
        loss = dict(zip(groups, losses))
        self._append(Validation(step=step, loss=loss))
        if self._board is not None:
            self._board.add(step, {"validation": loss})

    def close(self) -> None:
        """Close the files; the log is whole without it. A later line opens them again."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, line: Begin | Step | Validation) -> None:
        if self._lines is None:
            if not self._begun:
                raise ConfigError(f"{self.file}: the log was not begun: call begin(...) before write(...)")
            self._lines = _Lines(self.file)
        if self._header is not None:
            self._lines.append(self._encode(self._header) + b"\n")
            if self._board is not None:
                self._board.begin(self._header.step)
            self._header = None
        self._lines.append(self._encode(line) + b"\n")

    def _news(self, explained: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries that are not as they were last written."""
        news = {}
        for key, value in explained.items():
            array = np.asarray(value)
            plain = dict(zip(self._names, array.tolist())) if array.shape == (len(self._names),) else array.tolist()
            text = self._encode(plain)
            if self._explained.get(key) != text:
                self._explained[key], news[key] = text, plain
        return news


class _Lines:
    """A file that grows by whole lines."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            self._size = self._cut()
        except BaseException:
            self.close()
            raise

    def _cut(self) -> int:
        """Cut off what follows the last newline; return the size that is left."""
        size = os.fstat(self._fd).st_size
        if not os.pread(self._fd, len(_OPENING), 0).startswith(_OPENING[:size]):
            raise ConfigError(f"{self._file} is there and is no mixing log: choose another path for the log")
        end = size
        while end > 0:
            start = max(end - _BLOCK, 0)
            if (at := os.pread(self._fd, end - start, start).rfind(b"\n")) >= 0:
                end = start + at + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._fd, end)
        return end

    def append(self, line: bytes) -> None:
        rest = line
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)  # no half of a line stays before the next
            error.add_note(f"writing the mixing log {self._file}; training does not need it")
            raise
        self._size += len(line)

    def close(self) -> None:
        os.close(self._fd)
