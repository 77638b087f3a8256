"""What `mixstream plan` says: the same numbers as a JSON document and as tables.

Shape suffixes: K domains, T logged steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from mixstream.plan.weights import apportion

from ..shared.console import table
from .course import Course, Float64, Int64, Outlook
from .source import Domains, Source

MANY_EPOCHS = 4
"""Up to so many passes, repeated data is nearly as good as new data (Muennighoff et al. 2023, arXiv 2305.16264)."""
_WINDOW = 100  # steps that a first or last loss is the mean of, at most


def describe_source(source: Source, domains: Domains, *, points: int) -> dict[str, Any]:
    """Return what the run has done so far.

    Args:
        source: the run.
        domains: how much there is of its domains.
        points: at how many steps to tell the weights.
    """
    document: dict[str, Any] = {
        "kind": source.kind,
        "where": source.where,
        "mixer": source.mixer,
        "learns": source.learns,
        "global_batch_size": source.batch,
        "step": source.step,
        "epoch": source.epoch,
        "domains": _rows_by_domain(domains, np.rint(source.drawn_K).astype(np.int64)),
        "weights": [],
    }
    for at, told in enumerate(document["domains"]):
        told["max_epochs"] = source.max_epochs_K[at]
    if source.course is not None:
        for step in _spread(source, source.course, points):
            document["weights"].append({"step": step, "weights": _by_name(domains, source.course.at(step))})
    if source.recorded is not None:
        first, last = _losses(source)
        for told, (begin, end) in zip(document["domains"], zip(first, last)):
            told.update({"loss_first": begin, "loss_last": end, **_validation(source, told["name"])})
        document["resumed_at"] = [header.step for header in source.recorded.headers[1:]]
        document["loss_steps"] = _window(len(source.recorded.step_T))
        document["first_step"] = int(source.recorded.step_T[0]) if len(source.recorded.step_T) else None
    return document


def describe_preview(
    outlook: Outlook, domains: Domains, *, drawn_K: Float64, batch: int, asked: int, counts_steps: bool
) -> dict[str, Any]:
    """Return what a run will have read at its end.

    Args:
        outlook: what is still drawn.
        domains: how much there is.
        drawn_K: float64 [K], rows before.
        batch: rows of a step.
        asked: the step that was to be reached.
        counts_steps: whether a step is one of a run, and not just a row.
    """
    done = outlook.end >= asked
    total = batch * (outlook.end - outlook.first) if done else round(float(outlook.rows_K.sum()))
    ahead_K = apportion(total, outlook.rows_K) if total else np.zeros(len(drawn_K), dtype=np.int64)
    entries = _rows_by_domain(domains, np.rint(drawn_K).astype(np.int64) + ahead_K)
    for at, told in enumerate(entries):
        told["leaves_at"] = outlook.left.get(at) if counts_steps else None
        told["leaves"] = at in outlook.left
    return {
        "first_step": outlook.first if counts_steps else None,
        "end_step": outlook.end if counts_steps else None,
        "asked_steps": asked if counts_steps else None,
        "global_batch_size": batch if counts_steps else None,
        "reaches_the_end": done,
        "domains": entries,
    }


def warnings_of(entries: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a sentence for every domain that is read more often than does good."""
    for told in entries:
        if told["epochs"] is not None and told["epochs"] > MANY_EPOCHS:
            yield (
                f"domain {told['name']!r} is read {told['epochs']:.1f} times; beyond {MANY_EPOCHS} passes repeated "
                "data is worth less and less (Muennighoff et al. 2023, arXiv 2305.16264): lower its weight, or limit "
                f"it with max_epochs={MANY_EPOCHS}"
            )


def show_source(document: dict[str, Any]) -> list[Table | str]:
    """Return the tables of `describe_source`."""
    head = f"{document['where']}: {document['mixer']}, {document['step']:,} steps"
    head += f" of {document['global_batch_size']:,} rows"
    if document["epoch"] is not None:
        head += f", epoch {document['epoch']}"
    if resumed := document.get("resumed_at"):
        head += f", resumed at step {', '.join(f'{step:,}' for step in resumed)}"
    entries, points = document["domains"], document["weights"]
    columns = _common_columns(entries)
    if document["kind"] == "log":
        columns |= {
            "loss first": [_number(told["loss_first"], ".3f") for told in entries],
            "loss last": [_number(told["loss_last"], ".3f") for told in entries],
        }
    if any("validation_first" in told for told in entries):
        columns |= {
            "validation first": [_number(told.get("validation_first"), ".3f") for told in entries],
            "validation last": [_number(told.get("validation_last"), ".3f") for told in entries],
        }
    if any(told["max_epochs"] for told in entries):
        columns["max epochs"] = [_number(told["max_epochs"], "g") for told in entries]
    parts: list[Table | str] = [head, "", _drawn(columns)]
    if points:
        by_step = {"weight at step": [told["name"] for told in entries]}
        for point in points:
            by_step[f"{point['step']:,}"] = [f"{point['weights'][told['name']]:.1%}" for told in entries]
        parts += ["", _drawn(by_step)]
    return parts


def show_preview(document: dict[str, Any]) -> list[Table | str]:
    """Return the table of `describe_preview`."""
    entries = document["domains"]
    columns = _common_columns(entries)
    if any(told["leaves"] for told in entries):
        columns["leaves the mix"] = [_leaving(told) for told in entries]
    if document["end_step"] is None:
        head = f"preview: a run of {sum(told['rows'] for told in entries):,} rows"
    else:
        head = f"preview: at step {document['end_step']:,}, of {document['global_batch_size']:,} rows each"
    return [head, "", _drawn(columns)]


def _leaving(told: dict[str, Any]) -> str:
    if not told["leaves"]:
        return ""
    return "yes" if told["leaves_at"] is None else f"in step {told['leaves_at']:,}"


def _rows_by_domain(domains: Domains, rows_K: Int64) -> list[dict[str, Any]]:
    total, entries = max(int(rows_K.sum()), 1), []
    for k, (name, rows) in enumerate(zip(domains.names, rows_K.tolist())):
        samples = int(domains.samples_K[k])
        entries.append(
            {
                "name": name,
                "samples": samples,
                "rows": rows,
                "tokens": rows * domains.row_tokens if domains.row_tokens is not None else None,
                "share": rows / total,
                "epochs": rows / samples if samples else None,
            }
        )
    return entries


def _common_columns(entries: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Columns by title; those of which nothing is known are left out."""
    columns: dict[str, list[Any]] = {"domain": [told["name"] for told in entries]}
    for key in ("samples", "rows", "tokens"):
        if any(told[key] is not None for told in entries):
            columns[key] = [told[key] if told[key] is not None else "-" for told in entries]
    columns["share"] = [f"{told['share']:.1%}" for told in entries]
    if any(told["epochs"] is not None for told in entries):
        columns["epochs"] = [_number(told["epochs"], ".2f") for told in entries]
    return columns


def _drawn(columns: dict[str, list[Any]]) -> Table:
    """A table of columns; numbers that are text already stand right-aligned too."""
    first, *rest = columns
    width = {title: max(len(title), *(len(str(cell)) for cell in columns[title])) for title in rest}
    cells = [
        [cell if isinstance(cell, int) else str(cell).rjust(width[title]) for cell in columns[title]] for title in rest
    ]
    titles = [title if isinstance(columns[title][0], int) else title.rjust(width[title]) for title in rest]
    return table([first, *titles], list(zip(columns[first], *cells)))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _by_name(domains: Domains, weights_K: Float64) -> dict[str, float]:
    return dict(zip(domains.names, weights_K.tolist()))


def _spread(source: Source, course: Course, points: int) -> list[int]:
    """Steps, evenly spaced, at which to tell the weights: of the log, or of what a state knows ahead."""
    first = int(course.step_C[0]) if source.recorded is not None else source.step
    last = max(course.known_to, first)
    return sorted({int(step) for step in np.linspace(first, last, min(points, last - first + 1)).round()})


def _window(steps: int) -> int:
    return min(_WINDOW, max(steps // 10, 1))


def _losses(source: Source) -> tuple[list[float | None], list[float | None]]:
    """Mean losses per domain over the first and over the last steps; None where none is known."""
    recorded = source.recorded
    assert recorded is not None
    steps = _window(len(recorded.step_T))
    sum_TK = np.nan_to_num(recorded.loss_TK) * recorded.count_TK
    count_TK = np.where(np.isnan(recorded.loss_TK), 0.0, recorded.count_TK)

    def mean(part: slice) -> list[float | None]:
        sums, counts = sum_TK[part].sum(axis=0).tolist(), count_TK[part].sum(axis=0).tolist()
        return [total / count if count else None for total, count in zip(sums, counts)]

    return mean(slice(steps)), mean(slice(-steps, None))


def _validation(source: Source, name: str) -> dict[str, float]:
    """The first and the last validation loss of a domain; empty if there was none."""
    assert source.recorded is not None
    known = [
        loss[name] for _, loss in sorted(source.recorded.validation.items()) if np.isfinite(loss.get(name, np.nan))
    ]
    return {"validation_first": known[0], "validation_last": known[-1]} if known else {}
