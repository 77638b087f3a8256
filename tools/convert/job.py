"""A conversion from sources to published datasets: wires the other files together, computes nothing.

SRC ─ sources ─► groups ─ parts ─► tasks ─ executor(work) ─► records ─ publish ─► DIR/<domain>/<split>/index.json
                                               │
                   readers ─► pieces ─ tokenizer ─► ids ─ packer ─► shards and tails

With --out URL, DIR is the work directory, and what is published there goes on to the store (remote.py).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixstream.errors import StateError

from ..shared.console import Console, show_bytes
from .executors.local import Executor, InProcess, Processes
from .ledger import Ledger, PartRecord, describe_run
from .parts import Part, plan_parts
from .publish import publish, published
from .recipe import Recipe
from .remote import Remote, plan_uploads
from .sources import BY_KEY, Choice, Corpus, describe_passed_over, find_sources
from .uploads import Uploads
from .work import PartTask, convert_part

_RESUME = "Finished parts are kept: the same command goes on from there."


def run_conversion(
    sources: Sequence[str],
    *,
    out: Path,
    recipe: Recipe,
    choice: Choice | None = None,
    workers: int = 1,
    overwrite: bool = False,
    remote: Remote | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Convert `sources` into `out`, or go on with it; returns the summary, and what was done.

    That is `status`, `converted_bytes` (of sources) and `uploaded_bytes`. The status is `converted`, or `nothing to do`
    if all of it was there. The summary's `faults` are for the caller to act on: a domain without a row is one,
    everything else is published nevertheless.

    Args:
        sources: files, directories, or NAME=PATH (sources.py).
        out: where the datasets go: `out/<domain>/<split>`; with `remote`, where they are made.
        recipe: how documents become shards.
        choice: which files below a directory are read, and as what.
        workers: processes; 1 stays in this one. The output does not depend on it.
        overwrite: replace what other options or sources made; domains that are as before are kept.
        remote: the store to upload to; None for `out` itself being the result.
        console: where progress is told; None for a new one.

    Raises:
        MixstreamError: see `mixstream.errors`. ConfigError is the user's to mend, StateError asks for `overwrite`.
        OSError: reading or writing failed.
    """
    console = console or Console()
    recipe = recipe.checked()
    by_key = recipe.fields.domain is not None
    corpus = find_sources(sources, out=out, choice=choice or Choice(), by_key=by_key)
    _tell(corpus, console)
    run = describe_run(recipe, corpus)
    identity = hashlib.sha256(run).hexdigest()
    ours = remote is not None and remote.check(run, overwrite=overwrite)
    ledger = Ledger(out)
    with ledger.locked(), ledger.bound(remote.store.url if remote else None) as uploads:
        ledger.begin(run, overwrite=overwrite)
        if remote is not None and uploads is not None:
            if ours and not any(uploads) and (found := remote.finished(identity)) and not _lacks(found, recipe):
                return _told(found, None, 0)  # uploaded from another work directory, or this one was emptied
            _arrive(remote, uploads, run, ours=ours, console=console)
        parts = [part for group in corpus.groups for part in plan_parts(group, recipe.part_bytes)]
        records = _records(ledger, recipe, parts, overwrite=overwrite)
        converted, sent = None, 0
        with _resumable():
            if None in records or (summary := published(ledger, identity)) is None:
                named = [group.name for group in corpus.groups if group.name != BY_KEY]
                converted = _convert(ledger, recipe, parts, records, workers=workers, console=console)
                summary = publish(ledger, recipe, named, _all_done(ledger, recipe, parts), identity)
            if remote is not None and uploads is not None:
                wanted = plan_uploads(ledger, summary, _all_done(ledger, recipe, parts), identity)
                sent = remote.upload(ledger, uploads, wanted, console)
                if not remote.keep_work:
                    ledger.drop_shards()
        return _told(summary, converted, sent)


def _arrive(remote: Remote, uploads: Uploads, run: bytes, *, ours: bool, console: Console) -> None:
    """Take the place if it is not ours yet, and find out how much of what was uploaded is still there."""
    if not ours:
        remote.claim(run)
    remote.confirm(uploads)
    if there := sum(1 for _ in uploads):
        console.note(f"going on: {there:,} objects are at {remote.store.url} already")


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(_RESUME)
        raise


def _told(summary: dict[str, Any], converted: int | None, sent: int) -> dict[str, Any]:
    """The summary, and what was done; `converted` is None if nothing was left to convert."""
    status = "nothing to do" if converted is None and not sent else "converted"
    return {**summary, "status": status, "converted_bytes": converted or 0, "uploaded_bytes": sent}


def _convert(
    ledger: Ledger,
    recipe: Recipe,
    parts: Sequence[Part],
    records: Sequence[PartRecord | None],
    *,
    workers: int,
    console: Console,
) -> int:
    """Convert the parts that have no record yet; returns how many bytes of source they are."""
    done = [(part, record) for part, record in zip(parts, records) if record is not None]
    todo = [part for part, record in zip(parts, records) if record is None]
    ledger.clear(done)
    if done:
        console.note(f"going on: {len(done):,} of {len(parts):,} parts are done")
    total, size = sum(part.bytes for part in parts), sum(part.bytes for part in todo)
    tasks = [PartTask(out=ledger.out, part=part, recipe=recipe) for part in todo]
    with console.progress("convert", total=total, done=total - size) as advance:
        for _ in _executor(workers, len(tasks)).run(convert_part, tasks, advance):
            pass  # what it made is on disk, and recorded there
    return size


def _records(ledger: Ledger, recipe: Recipe, parts: Sequence[Part], *, overwrite: bool) -> list[PartRecord | None]:
    """What is done of each part. A part that left out bad documents is not done for who wants none left out."""
    records = [ledger.load(part, recipe) for part in parts]
    if recipe.on_bad_document == "skip" or not any(record is not None and record.skipped for record in records):
        return records
    if not overwrite:
        raise StateError(
            f"{ledger.out} was made with --on-bad-document skip, which left out documents. Pass that again, or "
            f"--overwrite, which converts the parts that they belong to anew."
        )
    return [None if record is not None and record.skipped else record for record in records]


def _lacks(summary: dict[str, Any], recipe: Recipe) -> bool:
    """Whether documents were left out for who wants none left out."""
    return recipe.on_bad_document != "skip" and bool(summary["skipped"]["documents"])


def _all_done(ledger: Ledger, recipe: Recipe, parts: Sequence[Part]) -> list[tuple[Part, PartRecord]]:
    done = [(part, record) for part in parts if (record := ledger.load(part, recipe)) is not None]
    if len(done) < len(parts):
        raise FileNotFoundError(
            f"{ledger.out}: of {len(parts)} parts that were written only {len(done)} are still there."
        )
    return done


def _executor(workers: int, tasks: int) -> Executor:
    if workers == 1:
        return InProcess()
    # Where there are fewer tasks than workers, the tokenizer's own threads use the cores that are left.
    threads = max(1, workers // max(tasks, 1))
    return Processes(
        workers=workers,
        environ={"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false"},
    )


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tell(corpus: Corpus, console: Console) -> None:
    for group in corpus.groups:
        label = "domains by key" if group.name == BY_KEY else f"domain {group.name}"
        console.note(f"{label}: {len(group.files):,} files, {show_bytes(group.bytes)}")
    if corpus.passed_over:
        console.note(f"passed over: {describe_passed_over(corpus.passed_over)}")
