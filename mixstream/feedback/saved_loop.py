"""What a state says of a feedback loop (`loop.FeedbackLoop.document`), parsed and checked whole.

Rule: every entry is one that a loop about to draw a step can have, and none is missing. Weights of steps that are not
known yet would otherwise be drawn by, and rows of steps that were reported be reported again.

Shape suffixes: K domains, V validation groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, Self

import numpy as np

from mixstream.errors import StateError
from mixstream.feedback.json_arrays import from_json
from mixstream.plan.weights import WEIGHT_UNIT
from mixstream.records import dataclass
from mixstream.types import Float64, Int64

_KEYS = ("lag", "origin", "reported", "state", "log", "drawn", "waiting")
_MOST = 1 << 53


@dataclass(frozen=True, kw_only=True)
class SavedLoop:
    """A feedback loop of two domains, that waits for the report of step 7 with a lag of 1:

        >>> half, rows = [WEIGHT_UNIT // 2] * 2, [4.0, 4.0]
        >>> document = {"lag": 1, "origin": 0, "reported": 7, "state": {}, "log": [[7, half], [8, half]],
        ...             "drawn": [[7, rows]], "waiting": None}
        >>> saved = SavedLoop.parse(document, step=8, domains=2, lag=1, rows=8)
        >>> saved.reported, sorted(saved.log), saved.drawn
        (7, [7, 8], {7: array([4., 4.])})

    Attributes:
        origin: the first step whose losses count.
        reported: the next step to be reported.
        state: of the mixer, as JSON.
        log: int64 [K], weights of the steps that are known, by step.
        drawn: float64 [K], rows of the steps that were handed out, by step.
        drawn_by: int64 [K], the weights by which some of these were drawn.
        waiting: arguments of the losses that wait for an evaluation; None if none do.
    """

    origin: int
    reported: int
    state: Any
    log: dict[int, Int64]
    drawn: dict[int, Float64]
    drawn_by: dict[int, Int64]
    waiting: dict[str, Any] | None

    @classmethod
    def parse(cls, document: Mapping[str, Any], step: int, *, domains: int, lag: int, rows: int | None) -> Self:
        """Return what `document` says of a loop that is about to draw `step`.

        Args:
            document: as a state has it.
            step: the next step to be drawn.
            domains: K.
            lag: of the run.
            rows: of a global batch; None if not known.

        Raises:
            StateError: it is damaged.
        """
        if missing := [key for key in _KEYS if key not in document]:
            _refuse(f"has no {missing[0]!r}")
        origin, reported = (_whole(document[key], key) for key in ("origin", "reported"))
        waiting, held = document["waiting"], document["waiting"] is not None
        first, known = reported - held, reported + lag + (not held)
        if document["lag"] != lag or not origin <= reported <= step <= known:
            _refuse(
                f"has a lag of {document['lag']!r}, began at step {origin} and waits for the report of step "
                f"{reported}, and the run, of lag {lag}, is at step {step}"
            )
        log = _table(document["log"], "log", range(max(first, origin), known))
        drawn = _table(document["drawn"], "drawn", range(first, step))
        drawn_by = _table(document.get("drawn_by", []), "drawn_by", range(first, step), whole=False)
        for name, table in (("log", log), ("drawn_by", drawn_by)):
            for at, parts in table.items():
                if not (_are_numbers(parts, domains, whole=True) and sum(parts) in (WEIGHT_UNIT, 0 * (name == "log"))):
                    _refuse(f"has weights of step {at} in {name!r} that are not {domains} parts of {WEIGHT_UNIT}")
        for at, each in drawn.items():
            total = 0 if at < origin else rows
            if not (_are_numbers(each, domains, whole=False) and total in (None, sum(each))):
                _refuse(f"has rows of step {at} in 'drawn' that are not {total} rows of {domains} domains")
        return cls(
            origin=origin,
            reported=reported,
            state=document["state"],
            log={at: np.array(parts, dtype=np.int64) for at, parts in log.items()},
            drawn={at: np.array(each, dtype=np.float64) for at, each in drawn.items()},
            drawn_by={at: np.array(parts, dtype=np.int64) for at, parts in drawn_by.items()},
            waiting=_losses(from_json(waiting), domains) if held else None,
        )


def _losses(waiting: Any, domains: int) -> dict[str, Any]:
    if not isinstance(waiting, Mapping) or set(waiting) != {"sum_K", "count_K", "matrix_VK"}:
        _refuse("waits for an evaluation without losses of the step before it")
    for name in ("sum_K", "count_K", "matrix_VK"):
        value, axes = waiting[name], 2 if name == "matrix_VK" else 1
        if value is None and name == "matrix_VK":
            continue
        if not (isinstance(value, np.ndarray) and value.ndim == axes and value.shape[-1] == domains):
            _refuse(f"waits for an evaluation with a {name} that has not one number for each of {domains} domains")
        if value.dtype != np.float64 or (name == "count_K" and not (value >= 0).all()):
            _refuse(f"waits for an evaluation with a {name} that is no array of float64")
    return dict(waiting)


def _table(entries: Any, name: str, steps: range, *, whole: bool = True) -> dict[int, Any]:
    """Return entries [step, numbers] by step: of all `steps`, or, if not `whole`, of some."""
    pairs = isinstance(entries, list) and all(isinstance(entry, list | tuple) and len(entry) == 2 for entry in entries)
    found = {_whole(entry[0], name, least=-1): entry[1] for entry in entries} if pairs else {}
    if not pairs or len(found) < len(entries):
        _refuse(f"has a {name!r} that is no list of steps, each once")
    if len(found) > len(steps) or any(at not in steps for at in found) or (whole and len(found) < len(steps)):
        what = {"log": "log of weights", "drawn": "rows", "drawn_by": "weights drawn by"}[name]
        there = f"from step {steps.start} to {steps.stop - 1}: {sorted(found)[:8]}"
        _refuse(f"lacks steps, since its {what} does not reach {there}")
    return found


def _are_numbers(values: Any, count: int, *, whole: bool) -> bool:
    kinds = (int,) if whole else (int, float)
    return (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(type(value) in kinds and 0 <= value < _MOST for value in values)
    )


def _whole(value: Any, name: str, *, least: int = 0) -> int:
    if type(value) is not int or not least <= value < _MOST:
        _refuse(f"has {str(value)[:40]!r} for {name!r}, which is no step")
    return value


def _refuse(what: str) -> NoReturn:
    raise StateError(
        f"the state is damaged: what it says of the mixer {what}; load an older checkpoint, or pass strict=False to "
        "restart the mixer"
    )
