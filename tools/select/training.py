"""One training of the user's own, as a command: it gets a selection, and writes a loss.

Rules. The command is split into words and run without a shell. A run has a directory: its selection, the command's log,
what it wrote, and `run.json`, which appears last and says what the loss belongs to. A run whose `run.json` is of the
same selection, seed and command is not repeated.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from mixstream.errors import ConfigError, MixstreamError
from mixstream.selection import discard
from mixstream.storage import write_whole

from ..shared.safe_text import printable
from .kept import Kept

_LOG = 2000  # bytes of a log that an error shows
_PLACE = re.compile(r"\{(\w*)\}")
_KNOWN = ("selection", "out", "seed", "name")


class TrainingError(MixstreamError, RuntimeError):
    """The user's training command failed, or wrote no loss."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training.

    Attributes:
        name: of its directory.
        kind: what it is for.
        seed: of the training.
        choose: returns the rows, by domain, and the sum of their scores, higher is better; called when it is trained,
            so that the rows of one run at a time are in memory.
    """

    name: str
    kind: str
    seed: int
    choose: Callable[[], tuple[Sequence[Kept], float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a training gave.

    Attributes:
        rows: how many rows it was trained on.
        predicted: the sum of their scores, higher is better.
        loss: on the target.
    """

    rows: int
    predicted: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Command:
    """The user's command.

    Args:
        words: with places such as `{selection}`.
        loss_key: name of the loss in what it writes.
    """

    words: tuple[str, ...]
    loss_key: str
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set, repr=False)

    @classmethod
    def parse(cls, text: str, *, loss_key: str) -> Command:
        """Return the command of `--train-cmd`.

        Raises:
            ConfigError: it cannot be split, or lacks {selection} or {out}, or has an unknown place.
        """
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise ConfigError(f"--train-cmd {text}: {error}; quote it as for a shell") from None
        found = {name for word in words for name in _PLACE.findall(word)}
        if lacking := [name for name in ("selection", "out") if name not in found]:
            raise ConfigError(f"--train-cmd has no {{{lacking[0]}}}: {text}; the command has to be told where that is")
        if unknown := sorted(found - set(_KNOWN)):
            raise ConfigError(f"--train-cmd has {{{unknown[0]}}}; known are {', '.join(f'{{{n}}}' for n in _KNOWN)}")
        return cls(words=words, loss_key=loss_key)

    def train(self, run: Run, work: Path, *, alone: bool) -> Outcome:
        """Return the outcome of a run, from its directory if it is there already.

        Args:
            run: what is trained on.
            work: above the directories of all runs; absolute.
            alone: whether the selection is one artefact, and not one for each domain.

        Raises:
            TrainingError: the command failed, or wrote no loss.
        """
        place = work / run.name
        place.mkdir(parents=True, exist_ok=True)
        selection, out, done = place / "selection", place / "out.json", place / "run.json"
        ids = {}
        kept, predicted = run.choose()
        rows = sum(each.count for each in kept)
        for each in kept:
            to = selection if alone else selection / each.domain
            discard(to)
            ids[each.domain] = each.write(to, overwrite=True).id
        facts = {"selection": ids, "seed": run.seed, "command": list(self.words), "loss_key": self.loss_key}
        if (known := _read(done)) is not None and known.get("of") == facts:
            return Outcome(rows=rows, predicted=predicted, loss=float(known["loss"]))
        for path in (done, out):
            path.unlink(missing_ok=True)
        values = {"selection": str(selection), "out": str(out), "seed": str(run.seed), "name": run.name}
        words = [_PLACE.sub(lambda found: values[found[1]], word) for word in self.words]
        self._run(words, place / "log.txt", run.name)
        loss = self._loss(out, run.name)
        with write_whole(done) as file:
            file.write(json.dumps({"of": facts, "loss": loss, "predicted": predicted}, indent=1).encode() + b"\n")
        return Outcome(rows=rows, predicted=predicted, loss=loss)

    def stop(self) -> None:
        """End the trainings that still run, since another one failed."""
        for process in list(self._running):
            process.terminate()

    def _run(self, words: Sequence[str], log: Path, name: str) -> None:
        with log.open("wb") as file:
            try:
                process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
            except OSError as error:
                raise ConfigError(f"--train-cmd: {words[0]} cannot be run ({error.strerror}); check its path") from None
            self._running.add(process)
            try:
                status = process.wait()
            finally:
                self._running.discard(process)
        if status:
            end = log.read_bytes()[-_LOG:].decode(errors="replace")
            error = TrainingError(
                f"the training {name} ended with status {status}; its log is {log}; correct it and run again"
            )
            error.add_note(" / ".join(printable(line) for line in end.splitlines()[-8:]))
            raise error

    def _loss(self, out: Path, name: str) -> float:
        content = _read(out)
        loss = content.get(self.loss_key) if content is not None else None
        if isinstance(loss, bool) or not isinstance(loss, int | float) or not math.isfinite(loss):
            _refuse(f"the training {name} wrote no finite number {self.loss_key!r} as JSON to {out}")
        return float(loss)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _refuse(fact: str) -> NoReturn:
    raise TrainingError(f"{fact}; name the loss with --loss-key, or correct the command, and run again")
