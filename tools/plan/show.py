"""The result of `mixstream plan`: the same numbers as a JSON document and as tables.

Shape suffixes: K domains, T logged steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from mixstream.plan import apportion

from ..shared.console import table
from .course import Course, Float64, Int64, Outlook
from .source import Sizes, Source

MANY_EPOCHS = 4
"""Up to so many epochs, repeated data is nearly as good as new data (Muennighoff et al. 2023, arXiv 2305.16264)."""
_WINDOW = 100  # maximum number of steps in the mean of a first or last loss


def describe_source(source: Source, domains: Sizes, *, points: int) -> dict[str, Any]:
    """Return the document of the run so far.

    Args:
        source: the run.
        domains: the sizes of its domains.
        points: at how many steps to show the weights.
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
    for at, entry in enumerate(document["domains"]):
        entry["max_epochs"] = source.max_epochs_K[at]
    if source.skipped:
        document["skipped"] = source.skipped
    if source.course is not None:
        for step in _spread(source, source.course, points):
            weights = dict(zip(domains.names, source.course.at(step).tolist()))
            document["weights"].append({"step": step, "weights": weights})
    if source.logged is not None:
        first, last = _losses(source)
        for entry, (begin, end) in zip(document["domains"], zip(first, last)):
            entry.update({"loss_first": begin, "loss_last": end, **_validation(source, entry["name"])})
        document["resumed_at"] = [header.step for header in source.logged.headers[1:]]
        document["loss_steps"] = _window(len(source.logged.step_T))
        document["first_step"] = int(source.logged.step_T[0]) if len(source.logged.step_T) else None
    return document


def describe_preview(
    outlook: Outlook, domains: Sizes, *, drawn_K: Float64, batch: int, asked: int, counts_steps: bool
) -> dict[str, Any]:
    """Return the document of a run at its end.

    Args:
        outlook: the rows that are still drawn.
        domains: the sizes of its domains.
        drawn_K: float64 [K], rows drawn before.
        batch: rows of a step.
        asked: the requested last step.
        counts_steps: whether a step is a step of a run; False if it is only a row.
    """
    done = outlook.end >= asked
    total = batch * (outlook.end - outlook.first) if done else round(float(outlook.rows_K.sum()))
    ahead_K = apportion(total, outlook.rows_K) if total else np.zeros(len(drawn_K), dtype=np.int64)
    entries = _rows_by_domain(domains, np.rint(drawn_K).astype(np.int64) + ahead_K)
    for at, entry in enumerate(entries):
        entry["leaves_at"] = outlook.left.get(at) if counts_steps else None
        entry["leaves"] = at in outlook.left
    return {
        "first_step": outlook.first if counts_steps else None,
        "end_step": outlook.end if counts_steps else None,
        "asked_steps": asked if counts_steps else None,
        "global_batch_size": batch if counts_steps else None,
        "reaches_the_end": done,
        "domains": entries,
    }


def warnings_of(entries: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a warning for every domain that is read for more than `MANY_EPOCHS` epochs."""
    for entry in entries:
        if entry["epochs"] is not None and entry["epochs"] > MANY_EPOCHS:
            yield (
                f"domain {entry['name']!r} is read {entry['epochs']:.1f} times; after {MANY_EPOCHS} epochs repeated "
                "data has less and less value (Muennighoff et al. 2023, arXiv 2305.16264): lower its weight, or limit "
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
    for key in ("loss_first", "loss_last", "validation_first", "validation_last"):
        if any(key in entry for entry in entries):
            columns[key.replace("_", " ")] = [_number(entry.get(key), ".3f") for entry in entries]
    if any(entry["max_epochs"] for entry in entries):
        columns["max epochs"] = [_number(entry["max_epochs"], "g") for entry in entries]
    parts: list[Table | str] = [head, "", _aligned(columns)]
    if points:
        by_step = {"weight at step": [entry["name"] for entry in entries]}
        for point in points:
            by_step[f"{point['step']:,}"] = [f"{point['weights'][entry['name']]:.1%}" for entry in entries]
        parts += ["", _aligned(by_step)]
    return parts


def show_preview(document: dict[str, Any]) -> list[Table | str]:
    """Return the table of `describe_preview`."""
    entries = document["domains"]
    columns = _common_columns(entries)
    if any(entry["leaves"] for entry in entries):
        columns["leaves the mix"] = [_leaving(entry) for entry in entries]
    if document["end_step"] is None:
        head = f"preview: a run of {sum(entry['rows'] for entry in entries):,} rows"
    else:
        head = f"preview: at step {document['end_step']:,}, of {document['global_batch_size']:,} rows each"
    return [head, "", _aligned(columns)]


def _leaving(entry: dict[str, Any]) -> str:
    if not entry["leaves"]:
        return ""
    return "yes" if entry["leaves_at"] is None else f"in step {entry['leaves_at']:,}"


def _rows_by_domain(domains: Sizes, rows_K: Int64) -> list[dict[str, Any]]:
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
    """Columns by title; columns without a known value are left out."""
    columns: dict[str, list[Any]] = {"domain": [entry["name"] for entry in entries]}
    for key in ("samples", "rows", "tokens"):
        if any(entry[key] is not None for entry in entries):
            columns[key] = [entry[key] if entry[key] is not None else "-" for entry in entries]
    columns["share"] = [f"{entry['share']:.1%}" for entry in entries]
    if any(entry["epochs"] is not None for entry in entries):
        columns["epochs"] = [_number(entry["epochs"], ".2f") for entry in entries]
    return columns


def _aligned(columns: dict[str, list[Any]]) -> Table:
    """A table of columns; all but the first are right-aligned, formatted numbers too."""
    first, *rest = columns
    width = {title: max(len(title), *(len(str(cell)) for cell in columns[title])) for title in rest}
    cells = [
        [cell if isinstance(cell, int) else str(cell).rjust(width[title]) for cell in columns[title]] for title in rest
    ]
    titles = [title if isinstance(columns[title][0], int) else title.rjust(width[title]) for title in rest]
    return table([first, *titles], list(zip(columns[first], *cells)))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _spread(source: Source, course: Course, points: int) -> list[int]:
    """Evenly spaced steps at which to show the weights: over the log, or over the future weights in a state."""
    first = int(course.step_C[0]) if source.logged is not None else source.step
    last = max(course.known_to, first)
    return sorted({int(step) for step in np.linspace(first, last, min(points, last - first + 1)).round()})


def _window(steps: int) -> int:
    return min(_WINDOW, max(steps // 10, 1))


def _losses(source: Source) -> tuple[list[float | None], list[float | None]]:
    """Mean losses per domain over the first and over the last steps; None where none is known."""
    run = source.logged
    assert run is not None
    steps = _window(len(run.step_T))
    sum_TK = np.nan_to_num(run.loss_TK) * run.count_TK
    count_TK = np.where(np.isnan(run.loss_TK), 0.0, run.count_TK)

    def mean(part: slice) -> list[float | None]:
        sums, counts = sum_TK[part].sum(axis=0).tolist(), count_TK[part].sum(axis=0).tolist()
        return [total / count if count else None for total, count in zip(sums, counts)]

    return mean(slice(steps)), mean(slice(-steps, None))


def _validation(source: Source, name: str) -> dict[str, float]:
    """The first and the last validation loss of a domain; empty if there is none."""
    assert source.logged is not None
    losses = (loss.get(name, np.nan) for _, loss in sorted(source.logged.validation.items()))
    known = [loss for loss in losses if np.isfinite(loss)]
    return {"validation_first": known[0], "validation_last": known[-1]} if known else {}
