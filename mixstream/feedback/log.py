"""The mixing log: the weights, rows and losses of every step as JSONL that any tool reads, and for TensorBoard.

Rule 1: one line of JSON for each step, appended with one write and never changed. A process may be killed at any time:
bytes after the last newline are not a line, readers skip them and the next writer removes them.
Rule 2: exact. A weight is written as the float that is its whole parts of `WEIGHT_UNIT`, so a log replays bit for bit
(`mixstream.feedback.replay`); a mean loss is for people. Equal runs write equal lines, except for `time`.
Rule 3: the later line counts. Each run or resume writes a header with the step that it begins at; lines above it for
that step and later belong to a run that was cut short, and are ignored.

    {"event":"begin","mixstream":1,"step":0,"time":…,"domains":["code","web"],"mixer":"ADO","lag":16,
     "global_batch_size":256,"row_tokens":2048,"samples":{"code":81000,"web":977000}}
    {"event":"step","step":0,"weights":{"code":0.25,"web":0.75},"rows":{"code":64,"web":192},
     "loss":{"code":10.8,"web":10.9},"count":{"code":131008,"web":393024}}
    {"event":"validation","step":99,"loss":{"code":5.1,"web":6.2}}
    {"event":"skip","step":100,"weights":{"code":0.25,"web":0.75},"rows":{"code":64,"web":192}}

Everything by domain is an object by name. A domain that is missing from `rows` had none in that batch; one that is
missing from `loss` has no known loss. `given`, where domains have left the mix, are the weights before they were taken
out, by which a replay draws. `explained` holds what the mixer explains (`Explaining`), each entry at the
steps where it changed. `validation` is measured after its step and before the next; step -1 is before training. A
`skip` stands in the place of `step` where a step was left out (`Loader.skip`): its rows count as drawn, and were not
trained on.

Shape suffixes: K domains, V validation groups.
"""

import contextlib
import os
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mixstream.errors import ConfigError
from mixstream.feedback.logged_plan import LoggedPlan
from mixstream.feedback.tensorboard import TensorBoardWriter
from mixstream.plan.weights import WEIGHT_UNIT
from mixstream.storage import absolute, local_path, named_disk_errors, sync
from mixstream.threads import Owner
from mixstream.types import Float64, Int64

VERSION = 1
FILE = "mixture.jsonl"
_OPENING = b'{"event":"begin","mixstream":'
_BLOCK = 1 << 16


class Begin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="begin"):
    """The header of a run or resume: what it draws from, and how.

    Args:
        mixstream: `VERSION`.
        step: the first step to come; later than 0 where a run is resumed.
        time: in seconds since 1970.
        domains: in the order of all arrays.
        mixer: the name of the mixer.
        lag: of the run; None if the mixer needs no losses.
        global_batch_size: rows of a step, over all ranks.
        row_tokens: tokens of a row; None if rows differ in length.
        samples: of each domain.
        selections: ids of the selections by which domains are read; a domain that is read whole is not among them.
        plan: what decides the rows besides the weights; None in logs of earlier versions.
    """

    mixstream: int
    step: int
    time: float
    domains: list[str]
    mixer: str
    lag: int | None
    global_batch_size: int
    row_tokens: int | None
    samples: dict[str, int]
    selections: dict[str, str] = {}
    plan: LoggedPlan | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="step"):
    """One step: the weights that it was drawn by, its rows, and its losses over all ranks.

    Where domains have left the mix (`max_epochs`), `weights` are without them, and `given` are those with them.
    """

    step: int
    weights: dict[str, float]
    rows: dict[str, int]
    loss: dict[str, float | None] = {}
    count: dict[str, float] = {}
    explained: dict[str, Any] = {}
    given: dict[str, float] = {}


class Skip(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="skip"):
    """One step that was left out: the weights and rows that it has in the plan; as `Step`, without losses."""

    step: int
    weights: dict[str, float]
    rows: dict[str, int]
    explained: dict[str, Any] = {}
    given: dict[str, float] = {}


class Validation(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="validation"):
    """Mean validation losses of the model after `step`, by group."""

    step: int
    loss: dict[str, float | None]


def log_file(path: str | os.PathLike[str]) -> Path:
    """Return the file of a log: `path` if it is a file or its name ends in .jsonl, else `mixture.jsonl` in it."""
    path = local_path(absolute(path, "the path of the log"))
    return path if path.suffix == ".jsonl" or path.is_file() else path / FILE


class _Lines:
    """A file that grows by whole lines; it is open from `open` or the first line to `close`."""

    def __init__(self, file: Path, *, durable: bool) -> None:
        self._file, self._durable = file, durable
        self._opened: tuple[int, int] | None = None  # its descriptor, and its size up to the last whole line

    def open(self) -> tuple[int, int]:
        """Open the file, remove what follows its last newline, and return (descriptor, size)."""
        if self._opened is not None:
            return self._opened
        with named_disk_errors(self._file, "write"):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        try:
            self._opened = fd, self._cut(fd)
            if self._durable:
                sync(self._file.parent)
        except BaseException:
            os.close(fd)
            raise
        return self._opened

    def _cut(self, fd: int) -> int:
        found = os.fstat(fd)
        size = found.st_size
        if not stat.S_ISREG(found.st_mode) or not os.pread(fd, len(_OPENING), 0).startswith(_OPENING[:size]):
            raise ConfigError(f"{self._file} exists and is not a mixing log: choose another path for the log")
        end = size
        while end > 0:
            start = max(end - _BLOCK, 0)
            if (at := os.pread(fd, end - start, start).rfind(b"\n")) >= 0:
                end = start + at + 1
                break
            end = start
        if end < size:
            os.ftruncate(fd, end)
        return end

    def append(self, line: Begin | Step | Skip | Validation) -> None:
        fd, size = self.open()
        data = rest = msgspec.json.encode(line) + b"\n"
        try:
            with named_disk_errors(self._file, "write"):
                while rest:
                    rest = rest[os.write(fd, rest) :]
            if self._durable:
                sync(fd, self._file)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, size)  # so that the next line does not follow a part of this one
            error.add_note(f"writing the mixing log {self._file}; training does not need it")
            raise
        self._opened = fd, size + len(data)

    def close(self) -> None:
        if self._opened is not None:
            os.close(self._opened[0])
            self._opened = None


class MixingLog:
    """Writes the mixing log of a run: in one process (rank 0), from one thread at a time.

    If tensorboard is installed, the same numbers are written as event files beside the log: a point every 10 steps,
    with the mean losses of these.

    Args:
        path: directory for `mixture.jsonl`, or a file whose name ends in .jsonl. An existing log is continued.
        names: the domains, in the order of all arrays.
        durable: whether each line is on the disk before the next one, so that a power cut takes none.

    A step that drew 1 row of code and 3 of web by the weights 0.25 and 0.75:

        >>> import tempfile
        >>> log = MixingLog(tempfile.mkdtemp(), names=["code", "web"])
        >>> samples_K = np.array([81, 977])
        >>> log.begin(step=0, mixer="ADO", lag=16, global_batch_size=4, row_tokens=4, samples_K=samples_K)
        >>> quarter = WEIGHT_UNIT // 4
        >>> log.write(0, weights_K=np.array([quarter, 3 * quarter]), rows_K=np.array([1, 3]),
        ...           loss_sum_K=np.array([8.0, 12.0]), count_K=np.array([4.0, 12.0]))
        >>> log.close()
        >>> print(log.file.read_text().splitlines()[1])  # doctest: +NORMALIZE_WHITESPACE
        {"event":"step","step":0,"weights":{"code":0.25,"web":0.75},"rows":{"code":1,"web":3},"loss":{"code":2.0,"web":1.0},"count":{"code":4.0,"web":12.0}}
    """

    def __init__(self, path: str | os.PathLike[str], *, names: Sequence[str], durable: bool = False) -> None:
        self.file = log_file(path)
        self._names = list(names)
        self._lines = _Lines(self.file, durable=durable)
        self._begun = False
        self._header: Begin | None = None  # until it is written
        self._explained: dict[str, bytes] = {}  # as last written
        self._tensorboard = TensorBoardWriter.installed(self.file.parent)
        self._owner = Owner(f"the mixing log {self.file}", remedy="write it there, or another log in the child")

    def begin(self, *, samples_K: Int64, **facts: Any) -> None:
        """Start with the steps from `step` on.

        The header is written with the first line, so a run that begins and then loads a checkpoint leaves no trace.

        Args:
            samples_K: int64 [K], samples of each domain.
            facts: `step`, `mixer`, `lag`, `global_batch_size`, `row_tokens`, `plan` and, if there are any,
                `selections` of the header (`Begin`).

        Raises:
            ConfigError: the file exists and is not a mixing log.
            ForkedError: another process, of which this is a forked child, made this object.
        """
        self._owner.check()
        self._lines.open()
        samples = dict(zip(self._names, np.asarray(samples_K).tolist()))
        now = round(time.time(), 3)
        self._header = Begin(mixstream=VERSION, time=now, domains=self._names, samples=samples, **facts)
        self._begun, self._explained = True, {}  # nothing explained: earlier lines may be ignored from now on

    def write(
        self,
        step: int,
        *,
        weights_K: Int64,
        rows_K: Int64 | Float64,
        given_K: Int64 | None = None,
        loss_sum_K: Float64 | None = None,
        count_K: Float64 | None = None,
        explained: Mapping[str, Any] | None = None,
        skipped: bool = False,
    ) -> None:
        """Write one step.

        Args:
            step: the step.
            weights_K: int64 [K], the weights that it was drawn by, in parts of `WEIGHT_UNIT`.
            rows_K: [K], rows of each domain in the global batch.
            given_K: int64 [K], the weights that were given to the plan, from which those of domains that have left the
                mix were taken; `weights_K` if not given.
            loss_sum_K: float64 [K], summed losses over all ranks, in nats; None if none were reported.
            count_K: float64 [K], tokens (or rows) that the sums are over.
            explained: what the mixer explains (`mixers.Explaining`); only entries that changed are written.
            skipped: whether the step was left out; it has no losses then.
        """
        weights = dict(zip(self._names, (np.asarray(weights_K) / WEIGHT_UNIT).tolist()))
        given: dict[str, float] = {}
        if given_K is not None and not np.array_equal(given_K, weights_K):
            given = dict(zip(self._names, (np.asarray(given_K) / WEIGHT_UNIT).tolist()))
        rows = {name: int(rows) for name, rows in zip(self._names, np.asarray(rows_K).tolist()) if rows}
        loss, count = {}, {}
        if loss_sum_K is not None and count_K is not None:
            count = {name: n for name, n in zip(self._names, np.asarray(count_K).tolist()) if n > 0}
            sums = dict(zip(self._names, np.asarray(loss_sum_K).tolist()))
            loss = {name: sums[name] / n for name, n in count.items()}
        changed = self._changed(explained or {})
        facts: dict[str, Any] = {"step": step, "weights": weights, "rows": rows, "explained": changed, "given": given}
        self._append(Skip(**facts) if skipped else Step(**facts, loss=loss, count=count))
        if self._tensorboard is not None:
            self._tensorboard.add_step(step, weights=weights, loss=loss, count=count, explained=changed)

    def write_validation(self, step: int, validation_V: Float64) -> None:
        """Write mean validation losses, float64 [V], measured after `step`; -1 is before any training.

        Groups are named after the domains if there are as many, else "group 0", "group 1", ….
        """
        losses = np.asarray(validation_V, dtype=np.float64).tolist()
        groups = self._names if len(losses) == len(self._names) else [f"group {at}" for at in range(len(losses))]
        loss = dict(zip(groups, losses))
        self._append(Validation(step=step, loss=loss))
        if self._tensorboard is not None:
            self._tensorboard.add(step, {"validation": loss})

    def close(self) -> None:
        """Close the files, which are complete at any time. The next line opens them again. Not in a forked child."""
        if not self._owner.here:
            return  # the event file would be flushed twice
        self._lines.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _append(self, line: Step | Skip | Validation) -> None:
        self._owner.check()
        if not self._begun:
            raise ConfigError(f"{self.file}: the log was not begun: call begin(...) before write(...)")
        if self._header is not None:
            self._lines.append(self._header)
            if self._tensorboard is not None:
                self._tensorboard.begin(self._header.step)
            self._header = None
        self._lines.append(line)

    def _changed(self, explained: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries that differ from what was last written."""
        last, changed = self._explained, {}
        for key, value in explained.items():
            array = np.asarray(value)
            plain = dict(zip(self._names, array.tolist())) if array.shape == (len(self._names),) else array.tolist()
            text = msgspec.json.encode(plain)
            if last.get(key) != text:
                last[key], changed[key] = text, plain
        return changed
