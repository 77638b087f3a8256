"""A conversion from sources to published datasets: connects the other files, computes nothing.

SRC ─ sources ─► groups ─ parts ─► tasks ─ executor(work) ─► records ─ publish ─► DIR/<domain>/<split>/index.json
                                               │
                   readers ─► pieces ─ tokenizer ─► ids ─ packer ─► shards and tails

With --out URL, DIR is the work directory, and the datasets published there are uploaded to the store (remote.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mixstream.errors import StateError

from ..shared.console import Console, show_bytes
from ..shared.executors import choose_executor
from .ledger import Ledger, PartRecord, describe_run
from .parts import Part, plan_parts
from .publish import publish, published
from .recipe import Recipe
from .remote import Remote, plan_uploads
from .sources import BY_KEY, Choice, Sources, describe_skipped, find_sources
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
    """Convert `sources` into `out`, or resume a conversion there; returns the summary, and what this run did.

    The latter is `status`, `converted_bytes` (of sources) and `uploaded_bytes`. The status is `converted`, or `nothing
    to do` if the output was complete. The caller has to check `faults`: a domain without a row is a fault, but all
    other domains are published.

    Args:
        sources: files, directories, or NAME=PATH (sources.py).
        out: directory of the datasets, `out/<domain>/<split>`; with `remote`, the work directory.
        recipe: how documents become shards.
        choice: which files below a directory are read, and as which format.
        workers: number of processes; 1 works in this process. The output does not depend on it.
        overwrite: replace output of other options or sources; unchanged domains are kept.
        remote: the store to upload to; None if `out` is the result.
        console: where progress is shown; None for a new one.

    Raises:
        MixstreamError: see `mixstream.errors`. The user fixes a ConfigError; a StateError asks for `overwrite`.
        OSError: reading or writing failed.
    """
    console = console or Console()
    recipe = recipe.checked()
    by_key = recipe.fields.domain is not None
    listed = find_sources(sources, out=out, choice=choice or Choice(), by_key=by_key)
    _show_sources(listed, console)
    run = describe_run(recipe, listed)
    identity = hashlib.sha256(run).hexdigest()
    ours = remote is not None and remote.check(run, overwrite=overwrite)
    ledger = Ledger(out)
    with ledger.locked(), ledger.bound(remote.store.url if remote else None) as uploads:
        ledger.begin(run, overwrite=overwrite)
        if remote is not None and uploads is not None:
            if ours and not any(uploads) and (found := remote.finished(identity)) and not _lacks(found, recipe):
                return _outcome(found, None, 0)  # uploaded from another work directory, or this one was emptied
            _prepare_uploads(remote, uploads, run, ours=ours, console=console)
        parts = [part for group in listed.groups for part in plan_parts(group, recipe.part_bytes)]
        records = _records(ledger, recipe, parts, overwrite=overwrite)
        converted, sent = None, 0
        try:
            if None in records or (summary := published(ledger, identity)) is None:
                named = [group.name for group in listed.groups if group.name != BY_KEY]
                converted = _convert(ledger, recipe, parts, records, workers=workers, console=console)
                summary = publish(ledger, recipe, named, _all_done(ledger, recipe, parts), identity)
            if remote is not None and uploads is not None:
                wanted = plan_uploads(ledger, summary, _all_done(ledger, recipe, parts), identity)
                sent = remote.upload(ledger, uploads, wanted, console)
                if not remote.keep_work:
                    ledger.drop_shards()
        except BaseException as error:
            error.add_note(_RESUME)
            raise
        return _outcome(summary, converted, sent)


def _prepare_uploads(remote: Remote, uploads: Uploads, run: bytes, *, ours: bool, console: Console) -> None:
    """Claim the URL if this conversion has not yet, and check which of the noted uploads are still at the store."""
    if not ours:
        remote.claim(run)
    remote.confirm(uploads)
    if there := sum(1 for _ in uploads):
        console.note(f"going on: {there:,} objects are at {remote.store.url} already")


def _outcome(summary: dict[str, Any], converted: int | None, sent: int) -> dict[str, Any]:
    """The summary, and what this run did; `converted` is None if nothing was left to convert."""
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
    """Convert the parts that have no record yet; returns their size in bytes of source."""
    done = [(part, record) for part, record in zip(parts, records) if record is not None]
    todo = [part for part, record in zip(parts, records) if record is None]
    ledger.clear(done)
    if done:
        console.note(f"going on: {len(done):,} of {len(parts):,} parts are done")
    total, size = sum(part.bytes for part in parts), sum(part.bytes for part in todo)
    tasks = [PartTask(out=ledger.out, part=part, recipe=recipe) for part in todo]
    with console.progress("convert", total=total, done=total - size) as advance:
        for _ in choose_executor(workers, len(tasks)).run(convert_part, tasks, advance):
            pass  # the result is on disk, and recorded there
    return size


def _records(ledger: Ledger, recipe: Recipe, parts: Sequence[Part], *, overwrite: bool) -> list[PartRecord | None]:
    """The record of each part; with --on-bad-document raise, parts that left out documents count as not converted."""
    records = [ledger.load(part, recipe) for part in parts]
    if recipe.on_bad_document == "skip" or not any(record is not None and record.skipped for record in records):
        return records
    if not overwrite:
        raise StateError(
            f"{ledger.out} was made with --on-bad-document skip, which left out documents. Pass that again, or "
            f"--overwrite, which converts the parts with such documents again."
        )
    return [None if record is not None and record.skipped else record for record in records]


def _lacks(summary: dict[str, Any], recipe: Recipe) -> bool:
    """Whether documents were left out although `recipe` does not allow it."""
    return recipe.on_bad_document != "skip" and bool(summary["skipped"]["documents"])


def _all_done(ledger: Ledger, recipe: Recipe, parts: Sequence[Part]) -> list[tuple[Part, PartRecord]]:
    done = [(part, record) for part in parts if (record := ledger.load(part, recipe)) is not None]
    if len(done) < len(parts):
        raise FileNotFoundError(
            f"{ledger.out}: {len(parts)} parts were written, but only {len(done)} still exist. Another program may "
            f"have removed files; run the same command again."
        )
    return done


def _show_sources(sources: Sources, console: Console) -> None:
    for group in sources.groups:
        label = "domains by key" if group.name == BY_KEY else f"domain {group.name}"
        console.note(f"{label}: {len(group.files):,} files, {show_bytes(group.bytes)}")
    if sources.skipped:
        console.note(f"skipped: {describe_skipped(sources.skipped)}")
