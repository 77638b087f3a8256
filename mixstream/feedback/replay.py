"""Reads the mixing log (`mixstream.feedback.log`): for tables and pictures, and to replay a run.

Rules: a torn last line is skipped; any other line that cannot be read is an error with its number. A log whose weights
are no longer whole parts of `WEIGHT_UNIT` is an error.

Shape suffixes: T logged steps, K domains, V validation groups, C changes of the weights.
"""

import os
import warnings
from collections.abc import Mapping
from dataclasses import field
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np

from mixstream.argument_kinds import checked
from mixstream.cached import cached_property
from mixstream.errors import ConfigError, StateError
from mixstream.feedback.log import Begin, Skip, Step, Validation, log_file
from mixstream.feedback.log_lines import check_line
from mixstream.feedback.logged_plan import LoggedPlan, other_samples, warn_of_others
from mixstream.mixers.static import by_name
from mixstream.plan.skips import Skips
from mixstream.plan.weights import WEIGHT_UNIT, normalise
from mixstream.records import dataclass
from mixstream.types import Float64, Int64


@dataclass(frozen=True)
class Replay:
    """An `OpenLoop` mixer that draws by logged weights, bit for bit; after the end of the log the last ones stay.

    Of a run with fixed weights, a dataset takes the rows of its epochs from the `plan`, and no weights by step.

    Args:
        names: the domains.
        step_C: int64 [C], steps at which weights change, rising from 0.
        weights_CK: int64 [C, K], in parts of `WEIGHT_UNIT`.
        selections: ids of the selections by which the logged run read domains.
        plan: what else decided its rows; None for a log of an earlier version.
        global_batch_size: rows of its steps; None if not known.
        mixer: the name of its mixer.
        skips: the steps that it left out, which a replay leaves out too.
        samples: samples that each of its domains had; empty if not known.

        >>> quarter = WEIGHT_UNIT // 4
        >>> mixer = Replay(("code", "web"), np.array([0, 8]), quarter * np.array([[2, 2], [1, 3]]))
        >>> mixer.weights_at(7, ("code", "web")).tolist(), mixer.weights_at(8, ("code", "web")).tolist()
        ([0.5, 0.5], [0.25, 0.75])
    """

    names: tuple[str, ...]
    step_C: Int64 = field(repr=False, compare=False)
    weights_CK: Int64 = field(repr=False, compare=False)
    digest: str = field(init=False, default="")
    selections: Mapping[str, str] = field(repr=False, compare=False, kw_only=True, default_factory=dict)
    plan: LoggedPlan | None = field(repr=False, compare=False, kw_only=True, default=None)
    global_batch_size: int | None = field(repr=False, compare=False, kw_only=True, default=None)
    mixer: str = field(repr=False, compare=False, kw_only=True, default="")
    skips: Skips = field(repr=False, compare=False, kw_only=True, default=Skips())  # frozen
    samples: Mapping[str, int] = field(repr=False, compare=False, kw_only=True, default_factory=dict)

    def __post_init__(self) -> None:
        skipped = str(self.skips).encode()  # nothing where no step is left out
        content = blake2b(self.step_C.tobytes() + self.weights_CK.tobytes() + skipped, digest_size=8)
        object.__setattr__(self, "digest", content.hexdigest())  # so that replays differ in the state of a run

    def weights_at(self, step: int, names: tuple[str, ...]) -> Float64:
        """Return the weights of `step`, float64 [K], in the order of `names`.

        Raises:
            ConfigError: `names` are not the domains of the log.
        """
        at = int(np.searchsorted(self.step_C, step, side="right")) - 1
        weights = dict(zip(self.names, (self.weights_CK[at] / WEIGHT_UNIT).tolist()))
        return normalise(by_name(weights, names, what="the log"))

    def warn_of_other_rows(self, selections: Mapping[str, str | None]) -> None:
        """Warn if a run that reads domains by `selections` draws other rows than the logged one did.

        The weights fit any rows of these domains, so replaying them on others may be what the user wants.

        Args:
            selections: for every domain of the run, the id of its selection; None for a domain that is read whole.
        """
        if self.plan is None and self.mixer in ("none", "Static"):
            warnings.warn(
                "the log that is replayed was written by an earlier version, which did not log what an epoch takes of "
                "each domain under fixed weights: the weights of each step are the same, its rows may not be; for the "
                "batches of that run, give the dataset the same weights instead of the log",
                stacklevel=4,
            )
        other = [name for name in sorted(selections) if name in self.names]
        other = [name for name in other if self.selections.get(name) != selections[name]]
        if not other:
            return
        more = f"; so with {len(other) - 1} more domains" if len(other) > 1 else ""
        warnings.warn(
            f"the log that is replayed was written by a run that read the domain {other[0]!r} "
            f"{_how_read(self.selections.get(other[0]))}, and this run reads it {_how_read(selections[other[0]])}"
            f"{more}: the weights of each step are the same, its rows are not; for the batches of that run, give the "
            "stream the same selection",
            stacklevel=4,
        )

    def warn_of_another_plan(self, now: LoggedPlan, global_batch_size: int, *, samples: Mapping[str, int]) -> None:
        """Warn if a run draws other rows whose plan is `now`, with so many rows a step and `samples` by domain."""
        found = list(self.plan.others(now)) if self.plan is not None else []
        if self.plan is not None and self.global_batch_size not in (None, global_batch_size):
            was = self.global_batch_size
            found.append(
                (f"global_batch_size was {was}, now {global_batch_size}", f"batch_size x ranks that make {was}")
            )
        views = self.plan.views if self.plan is not None else self.selections
        same = {name: size for name, size in self.samples.items() if views.get(name) == now.views.get(name)}
        warn_of_others([*found, *other_samples(same, samples)])


@dataclass(frozen=True, kw_only=True, eq=False)
class LoggedRun:
    """The content of a log by step; a step that was run again after a resume counts as it was run last.

    Attributes:
        path: the file.
        headers: of the run and its resumes, without those of runs that were cut short.
        names: the domains of all headers, in the order of all arrays.
        step_T: int64 [T], the logged steps, rising.
        weights_TK: int64 [T, K], the weights that each step was drawn by, in parts of `WEIGHT_UNIT`.
        given_TK: int64 [T, K], the weights that the plan was given: with those of domains that had left the mix.
        rows_TK: int64 [T, K], rows of each domain in the global batch.
        loss_TK: float64 [T, K], mean loss in nats; NaN where none is known.
        count_TK: float64 [T, K], tokens (or rows) that the means are over.
        validation: step -> group -> mean validation loss after it.
        explained: step -> what the mixer explained: the entries that changed there.
        skips: the steps that were left out; they are among the logged steps.
    """

    path: str
    headers: tuple[Begin, ...]
    names: tuple[str, ...]
    step_T: Int64
    weights_TK: Int64
    given_TK: Int64
    rows_TK: Int64
    loss_TK: Float64
    count_TK: Float64
    validation: Mapping[int, Mapping[str, float]]
    explained: Mapping[int, Mapping[str, Any]]
    skips: Skips = Skips()  # frozen

    @property
    def header(self) -> Begin:
        """The newest header."""
        return self.headers[-1]

    @cached_property
    def samples_K(self) -> Int64:
        """Samples that each domain has, int64 [K]."""
        known = {name: size for header in self.headers for name, size in header.samples.items()}
        return np.array([known.get(name, 0) for name in self.names], dtype=np.int64)

    def replay(self) -> Replay:
        """Return the mixer that draws these weights again.

        Raises:
            StateError: the log lacks a step, or domains changed during the run.
        """
        if not len(self.step_T):
            raise StateError(f"{self.path}: the log has no steps yet, so there is nothing to replay")
        if (missing := np.flatnonzero(self.step_T != np.arange(len(self.step_T)))).size:
            lost = Skips.of([(int(missing[0]), int(self.step_T[missing[0]]))])
            raise StateError(
                f"{self.path}: the log lacks the steps {lost}, so the run cannot be replayed from it: give the log "
                "that has them"
            )
        if other := [header.step for header in self.headers if set(header.domains) != set(self.names)]:
            raise StateError(
                f"{self.path}: the domains changed in mid-run (the header of step {other[0]} has not all of "
                f"{list(self.names)}), and no single run draws that"
            )
        if moved := [header.step for header in self.headers if header.selections != self.header.selections]:
            raise StateError(
                f"{self.path}: the selections changed in mid-run (between the headers of step {moved[-1]} and of step "
                f"{self.header.step}), and no single run draws that"
            )
        if carried := [header.step for header in self.headers if header.plan is not None and header.plan.carried]:
            raise StateError(
                f"{self.path}: at step {carried[-1]} the run went on from a state of another run (strict=False), and "
                "no single run draws that"
            )
        plans = [header.plan for header in self.headers]
        if moved := [header.step for header in self.headers if None not in plans and header.plan != plans[-1]]:
            raise StateError(
                f"{self.path}: settings changed in mid-run (between the headers of step {moved[-1]} and of step "
                f"{self.header.step}), and no single run draws that"
            )
        change_T = np.ones(len(self.step_T), dtype=bool)
        change_T[1:] = (self.given_TK[1:] != self.given_TK[:-1]).any(axis=1)
        return Replay(
            names=self.names,
            step_C=self.step_T[change_T],
            weights_CK=self.given_TK[change_T],
            selections=self.header.selections,
            plan=None if None in plans else plans[-1],
            global_batch_size=self.header.global_batch_size,
            mixer=self.header.mixer,
            skips=self.skips,
            samples=self.header.samples,
        )


@checked
def replay(path: str | os.PathLike[str]) -> Replay:
    """Return a mixer that draws by the weights of a logged run again: the same batches, without its losses.

    Args:
        path: the log, or the directory with its `mixture.jsonl`.

    Raises:
        StateError: the log is damaged or lacks steps.
    """
    return read_log(path).replay()


def read_log(path: str | os.PathLike[str]) -> LoggedRun:
    """Read a log, which may be in use by a run; `path` is as for `replay`.

    Raises:
        FileNotFoundError: there is none.
        ConfigError: the file is not a mixing log.
        StateError: a line of it is damaged.
    """
    file, pages = log_file(path), _Pages()
    decode = msgspec.json.Decoder(Begin | Step | Skip | Validation).decode
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break  # torn: the writer was killed, or is writing it now
            try:
                pages.add(decode(line))
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                if number == 1:
                    raise ConfigError(
                        f"{file} is not a mixing log: its first line is not a header ({error})"
                    ) from error
                raise StateError(
                    f"{file}: line {number} of the log is damaged ({error}); remove it and the lines from it on, or "
                    "take a copy of the log"
                ) from error
    if not pages.pages:
        raise StateError(f"{file}: the log is empty: its run has not begun, or has reported no step (`loader.report`)")
    return pages.logged_run(str(file))


class _Pages:
    """The lines that count so far: by header a page, step -> float64 [5, K]: weights, rows, loss, count, given."""

    def __init__(self) -> None:
        self.pages: list[tuple[Begin, dict[int, Float64]]] = []
        self.validation: dict[int, dict[str, float]] = {}
        self.explained: dict[int, dict[str, Any]] = {}
        self.skipped: dict[int, bool] = {}

    def add(self, line: Begin | Step | Skip | Validation) -> None:
        """Take in the next line."""
        check_line(line, self.pages[-1][0] if self.pages else None)
        if isinstance(line, Begin):
            self._open(line)
        elif isinstance(line, Step | Skip):
            header, page = self.pages[-1]
            weights, given = line.weights, line.given or line.weights
            self.skipped[line.step] = isinstance(line, Skip)
            loss, count = ({}, {}) if isinstance(line, Skip) else (line.loss, line.count)
            values = [
                [
                    weights.get(name, 0.0),
                    line.rows.get(name, 0),
                    loss.get(name),
                    count.get(name, 0.0),
                    given.get(name, 0.0),
                ]
                for name in header.domains
            ]
            page[line.step] = np.array(values, dtype=np.float64).T  # None, where no loss is known, becomes NaN
            if line.explained:
                self.explained[line.step] = line.explained
        else:
            self.validation[line.step] = {k: float("nan") if v is None else v for k, v in line.loss.items()}

    def _open(self, header: Begin) -> None:
        kept = [(begun, _before(header.step, page)) for begun, page in self.pages if begun.step < header.step]
        self.pages = [*kept, (header, {})]
        self.validation = _before(header.step, self.validation)
        self.explained = _before(header.step, self.explained)
        self.skipped = _before(header.step, self.skipped)

    def logged_run(self, path: str) -> LoggedRun:
        """Return all pages as arrays."""
        headers = tuple(header for header, _ in self.pages)
        names = tuple(dict.fromkeys(name for header in headers for name in header.domains))
        steps = sorted((step, at) for at, (_, page) in enumerate(self.pages) for step in page)
        step_T = np.array([step for step, _ in steps], dtype=np.int64)
        value_5TK = np.zeros((5, len(steps), len(names)))
        value_5TK[2] = np.nan
        columns = [[names.index(name) for name in header.domains] for header in headers]
        for t, (step, at) in enumerate(steps):
            value_5TK[:, t, columns[at]] = self.pages[at][1][step]
        return LoggedRun(
            path=path,
            headers=headers,
            names=names,
            step_T=step_T,
            weights_TK=_whole_parts(value_5TK[0], step_T, path),
            given_TK=_whole_parts(value_5TK[4], step_T, path),
            rows_TK=value_5TK[1].astype(np.int64),
            loss_TK=value_5TK[2],
            count_TK=value_5TK[3],
            validation=self.validation,
            explained=self.explained,
            skips=Skips.of((step, step + 1) for step, skipped in self.skipped.items() if skipped),
        )


def _how_read(selection: str | None) -> str:
    if selection is None:
        return "whole"
    return f"by the {selection}" if selection.startswith("packing ") else f"by the selection {selection}"


def _before(step: int, table: dict[int, Any]) -> dict[int, Any]:
    return {at: value for at, value in table.items() if at < step}


def _whole_parts(weights_TK: Float64, step_T: Int64, path: str) -> Int64:
    """Return weights in parts of `WEIGHT_UNIT`, int64 [T, K]."""
    parts_TK = np.clip(weights_TK * WEIGHT_UNIT, 0, WEIGHT_UNIT).astype(np.int64)
    wrong_T = (parts_TK / WEIGHT_UNIT != weights_TK).any(axis=1) | (parts_TK.sum(axis=1) != WEIGHT_UNIT)
    if wrong_T.any():
        raise StateError(
            f"{path}: the weights of step {int(step_T[wrong_T][0])} are not multiples of 2**-32 that sum to 1: they "
            "were rounded since they were written; use the log as the run wrote it"
        )
    return parts_TK
