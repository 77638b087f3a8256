"""The result of `mixstream verify`: the same findings as a JSON document and as tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from mixstream.storage import INDEX, redact

from ..shared.console import show_bytes, show_seconds, table, text_lines
from ..shared.datasets import Dataset, shown_name
from .shard import UNCHECKED, Fault, Finding

_LEFT_OVER = re.compile(
    r"(.*/)?([^/]*(\.mds(\.\w+)?|\.tmp|\.partial)|shard\.\d{5,}\.(json|csv|tsv|xsv)(\.meta)?(\.\w+)?)", re.ASCII
)
"""Files that an interrupted writer leaves behind: shards, and temporary files."""
_SHOWN = 5
_ROWS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The results of a run.

    Attributes:
        datasets: all datasets found.
        findings: name of a dataset to the findings of its shards.
        faults: name of a dataset and a fault.
        notes: sentences for people.
        quick: whether only sizes were checked.
        seconds: duration.
    """

    datasets: Sequence[Dataset]
    findings: Mapping[str, Sequence[Finding]]
    faults: Sequence[tuple[str, Fault]]
    notes: Sequence[str]
    quick: bool
    seconds: float


def describe(report: Report) -> dict[str, Any]:
    """Return the report as a JSON document."""
    bad = [fault for _, fault in report.faults]
    status = "ok" if not bad else "unreachable" if all(fault.kind in UNCHECKED for fault in bad) else "faults"
    return {
        "status": status,
        "checked": "sizes" if report.quick else "contents",
        "datasets": [_dataset(report, dataset) for dataset in report.datasets],
        "faults": [
            {"dataset": shown_name(name), **asdict(fault), "notes": list(fault.notes)} for name, fault in report.faults
        ],
        "make_again": _make_again(report),
        "notes": list(report.notes),
        "seconds": round(report.seconds, 3),
    }


def show(report: Report, document: Mapping[str, Any]) -> Iterator[Table | str]:
    """Yield the tables of `describe`."""
    datasets = document["datasets"]
    rows = [
        [each["name"], *(each[key] for key in ("shards", "checked", "decoded")), show_bytes(each["bytes"]), each["bad"]]
        for each in datasets
    ]
    keys = ["dataset", "shards", "checked", "samples decoded", "read", "faults"]
    yield table(keys, rows)
    if orphans := [f"{each['name']}: {_some(each['orphans'])}" for each in datasets if each["orphans"]]:
        yield ""
        yield text_lines(["files that no index names, left by a writer; nothing reads them:", *_indented(orphans)])
    if report.faults:
        yield ""
        columns = ["dataset", "file", "what is wrong", "what to do"]
        shown = report.faults[:_ROWS]
        yield table(columns, [(shown_name(name), fault.file, fault.what, fault.todo) for name, fault in shown])
        if more := len(report.faults) - len(shown):
            yield f"and {more:,} more: --json has all of them"
    if document["make_again"]:
        yield ""
        yield text_lines(list(_remedy(document["make_again"])))
    yield ""
    yield _verdict(report, datasets)


def _dataset(report: Report, dataset: Dataset) -> dict[str, Any]:
    findings = report.findings[dataset.name]
    reached = [finding for finding in findings if finding.fault is None or finding.fault.kind not in UNCHECKED]
    return {
        "name": dataset.shown,
        "url": redact(dataset.store.url),
        "shards": len(dataset.shards if dataset.tokens is None else dataset.tokens.domain.shards),
        "samples": sum(info.samples for info in dataset.shards)
        if dataset.tokens is None
        else dataset.tokens.table.rows,
        "checked": len(reached) if dataset.tokens is None else len(dataset.tokens.domain.shards),
        "bytes": sum(finding.bytes for finding in findings),
        "decoded": sum(finding.decoded for finding in findings),
        "bad": sum(name == dataset.name for name, _ in report.faults),
        "orphans": list(_orphans(dataset)),
    }


def _orphans(dataset: Dataset) -> Iterator[str]:
    """Yield files of a writer that the index does not name."""
    if dataset.files is None or dataset.index is None:
        return
    files = (file for info in dataset.shards for pair in info.files for file in pair if file is not None)
    named = {file.basename for file in files}
    yield from sorted(name for name in dataset.files - named if _LEFT_OVER.fullmatch(name))


def _make_again(report: Report) -> dict[str, list[str]]:
    """Return the files to make again by place; two places that are shown alike have those of both."""
    found: dict[str, list[str]] = {}
    for dataset in report.datasets:
        if files := list(_to_rebuild(report, dataset.name)):
            found.setdefault(redact(dataset.store.url), []).extend(files)
    return found


def _to_rebuild(report: Report, dataset: str) -> Iterator[str]:
    told = (*UNCHECKED, "unfinished")
    faults = (fault for name, fault in report.faults if name == dataset and fault.kind not in told)
    yield from dict.fromkeys(INDEX if fault.kind == "index" else fault.file for fault in faults)


def _remedy(files: dict[str, list[str]]) -> Iterator[str]:
    yield "to rebuild:"
    for url, names in files.items():
        yield f"  {url}"
        yield from _indented(names[:_ROWS], by=4)
        if more := len(names[_ROWS:]):
            yield f"    and {more:,} more: --json has all of them"
    yield "copy these files from an undamaged copy; or delete them where they were written, and write them again:"
    yield "`mixstream convert` with the same arguments as before rebuilds only what is missing."


def _verdict(report: Report, datasets: Sequence[dict[str, Any]]) -> str:
    took = show_seconds(report.seconds)
    unreached = sum(fault.kind in UNCHECKED for _, fault in report.faults)
    if bad := len(report.faults) - unreached:
        more = f", and {unreached} that could not be read" if unreached else ""
        return f"{bad:,} fault{'s' * (bad > 1)}{more}; in {took}"
    if unreached:
        return f"no faults in what was read, but {unreached} could not be read; in {took}"
    shards = sum(each["checked"] for each in datasets)
    depth = "exists and has its size" if report.quick else "matches its index"
    return f"no faults: each of {shards:,} shards {depth}; in {took}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _indented(lines: Sequence[str], *, by: int = 2) -> list[str]:
    return [" " * by + line for line in lines]
