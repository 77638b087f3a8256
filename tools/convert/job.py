"""A conversion from sources to published datasets: connects the other files, computes nothing.

SRC ─ sources ─► groups ─ parts ─► tasks ─ executor(work) ─► records ─ publish ─► DIR/<domain>/<split>/index.json
                                               │
                   readers ─► pieces ─ tokenizer ─► ids ─ packer ─► shards and tails

With --out URL, DIR is the work directory, and the datasets published there are uploaded to the store (remote.py).
`DIR/domains.json`, over all groups, is written last, and only if all of them are published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mixstream.errors import StateError
from mixstream.storage import SUMMARY

from ..shared.console import Console, show_bytes
from ..shared.executors import choose_executor
from .durable import write_durably
from .finished import Groups, compose, dump_summary, taken_from
from .groups import (
    Known,
    begin,
    clear,
    describe_unfinished,
    drop_replaced,
    find_free,
    forget,
    name_taken,
    read_known,
    refuse_foreign,
    remove_domains,
    settle,
)
from .ledger import Ledger, PartRecord, describe_run
from .listing import Choice, describe_skipped
from .parts import Part, plan_parts
from .publish import is_whole, publish
from .recipe import Recipe
from .remote import Remote, plan_uploads
from .run_file import DomainTakenError, Run, is_by_key, name_groups
from .sources import BY_KEY, Sources, find_sources
from .uploads import Uploads
from .work import PartTask, convert_part


def run_conversion(
    sources: Sequence[str],
    *,
    out: Path,
    recipe: Recipe,
    choice: Choice | None = None,
    workers: int = 1,
    overwrite: bool = False,
    remove: Sequence[str] = (),
    remote: Remote | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Convert `sources` into `out`, or resume a conversion there; returns the summary, and what this run did.

    The latter is `status`, `converted_bytes` (of sources) and `uploaded_bytes`. The status is `converted`, or `nothing
    to do` if the output was complete. The caller has to check `faults`: a domain without a row is a fault, but all
    other domains are published.

    Args:
        sources: files, directories, or NAME=PATH (sources.py); none if domains are only removed.
        out: directory of the datasets, `out/<domain>/<split>`; with `remote`, the work directory.
        recipe: how documents become shards.
        choice: which files below a directory are read, and as which format.
        workers: number of processes; 1 works in this process. The output does not depend on it.
        overwrite: replace domains that `sources` name and that other options or sources made; the others are kept.
        remove: domains to remove from the output.
        remote: the store to upload to; None if `out` is the result.
        console: where progress is shown; None for a new one.

    Raises:
        MixstreamError: see `mixstream.errors`. The user fixes a ConfigError; a StateError asks for `overwrite`.
        OSError: reading or writing failed.
    """
    console = console or Console()
    recipe = recipe.checked()
    listed = _list_sources(sources, recipe, out=out, choice=choice, console=console, may_be_none=bool(remove))
    planned = {group.name: plan_parts(group, recipe.part_bytes) for group in listed.groups}
    asked = describe_run(recipe, listed, planned)
    theirs = remote.read_run() if remote is not None else None
    ledger = Ledger(out)
    with ledger.locked(), ledger.bound(remote.store.url if remote else None) as uploads:
        known = read_known(ledger, remote, theirs, asked)
        known = remove_domains(ledger, remote, theirs, known, remove) if remove else known
        if not listed.groups:
            asked = Run(recipe=known.run.recipe, groups={})
        new = name_groups(known.run, asked, begun=known.begun)
        named = {BY_KEY if is_by_key(name) else name: name for name in new.groups}
        parts = [part for name, each in planned.items() for part in new.parts_of(named[name], each)]
        free = find_free(ledger, recipe, known, parts)
        place = out if remote is None else remote.store.url
        target = begin(known, new, place=place, free=free, overwrite=overwrite)
        refuse_foreign(ledger, known, new)
        if remote is not None and uploads is not None:
            remote.refuse_foreign(known.owners, known.run, new, theirs)
            found = _prepare_uploads(remote, uploads, new, target, theirs, console=console)
            if found is not None and not remove and not _lacks(found, recipe):
                return _outcome(found, None, 0)
        records = _records(ledger, recipe, parts, overwrite=overwrite)
        job = _Job(ledger=ledger, recipe=recipe, parts=parts, before=known, overwrite=overwrite, console=console)
        try:
            done, converted = job.make(new, target, records, workers=workers)
            summary, converted = job.sum_up(done, converted)
            sent = 0
            if remote is not None and uploads is not None:
                wanted = plan_uploads(ledger, done.run, done.published)
                sent = remote.upload(
                    ledger, uploads, wanted, removed={*remove}, run=done.run, published=done.published, console=console
                )
                if not remote.keep_work:
                    ledger.drop_shards()
        except DomainTakenError:
            raise
        except BaseException as error:
            error.add_note(job.kept())
            raise
        return _outcome(summary, 0 if remove and converted is None else converted, sent)


def _prepare_uploads(
    remote: Remote, uploads: Uploads, new: Run, target: Known, theirs: Run | None, *, console: Console
) -> dict[str, Any] | None:
    """Claim a free URL, and check which of the noted uploads are still there; returns the summary if all is there."""
    if theirs is None:
        remote.claim(target.run)
    elif not any(uploads) and (found := remote.finished(theirs, new)) is not None:
        return found  # uploaded from another work directory, or this one was emptied
    remote.confirm(uploads)
    if there := sum(1 for _ in uploads):
        console.note(f"going on: {there:,} objects are at {remote.store.url} already")
    return None


def _outcome(summary: dict[str, Any], converted: int | None, sent: int) -> dict[str, Any]:
    """The summary, and what this run did; `converted` is None if nothing was left to convert."""
    status = "nothing to do" if converted is None and not sent else "converted"
    return {**summary, "status": status, "converted_bytes": converted or 0, "uploaded_bytes": sent}


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The parts of a command, from sources to published datasets."""

    ledger: Ledger
    recipe: Recipe
    parts: Sequence[Part]
    before: Known
    overwrite: bool
    console: Console

    def make(
        self, new: Run, target: Known, records: Sequence[PartRecord | None], *, workers: int
    ) -> tuple[Known, int | None]:
        """Convert and publish what is left to do; returns what is there then, and the bytes of source, None for none.

        Args:
            new: the groups of this command.
            target: what is to be in the end.
            records: of each part; None for one that has to be converted.
            workers: number of processes.
        """
        each = list(zip(self.parts, records))
        left = [
            name
            for name in new.groups
            if not self._is_made(target.published, name, [record for part, record in each if part.group == name])
        ]
        now = replace(target, published={name: g for name, g in target.published.items() if name not in left})
        taken: dict[str, str] = {}
        for name in left:
            taken |= name_taken(self.ledger, now, name, before=self.before, overwrite=self.overwrite)
        self.ledger.write_run(now.run, now.published)
        converted = None
        if left:
            converted = self._convert(left, new, now, records, taken, workers=workers)
            for name in left:
                now = self._publish(name, now)
        for name in new.groups:
            settle(self.ledger, now, name)
        return drop_replaced(self.ledger, now), converted

    def sum_up(self, now: Known, converted: int | None) -> tuple[dict[str, Any], int | None]:
        """Write domains.json, if all groups are published; returns the summary, and `converted`, 0 if that was left."""
        summary, path = compose(now.run, now.published), self.ledger.out / SUMMARY
        if missing := describe_unfinished(self.ledger, now):
            path.unlink(missing_ok=True)
            return {**summary, "faults": [*summary["faults"], *missing]}, converted
        data = dump_summary(summary)
        if not path.is_file() or path.read_bytes() != data:
            write_durably(path, data)
            converted = converted or 0
        return summary, converted

    def kept(self) -> str:
        """What an interrupted command leaves, and how to go on."""
        done = sum(self.ledger.load(part, self.recipe) is not None for part in self.parts)
        return f"Finished parts are kept ({done:,} of {len(self.parts):,}): the same command goes on from there."

    def _is_made(self, published: Groups, name: str, records: Sequence[PartRecord | None]) -> bool:
        if None in records or name not in published or not is_whole(self.ledger, published[name]):
            return False
        domains = {output.domain for record in records if record is not None for output in record.outputs}
        return domains <= {*published[name]["domains"]}

    def _convert(
        self,
        left: Sequence[str],
        new: Run,
        now: Known,
        records: Sequence[PartRecord | None],
        taken: Mapping[str, str],
        *,
        workers: int,
    ) -> int:
        """Convert the parts that have no record yet; returns their size in bytes of source."""
        done = [(part, record) for part, record in zip(self.parts, records) if record is not None]
        todo = [part for part, record in zip(self.parts, records) if record is None]
        if any(name in self.before.published for name in left):
            (self.ledger.out / SUMMARY).unlink(missing_ok=True)
        for name in left:
            clear(self.ledger, now, name, [(part, record) for part, record in done if part.group == name])
        if done:
            self.console.note(f"going on: {len(done):,} of {len(self.parts):,} parts are done")
        total, size = sum(part.bytes for part in self.parts), sum(part.bytes for part in todo)
        tasks = [PartTask(out=self.ledger.out, part=part, recipe=self.recipe, taken=taken) for part in todo]
        try:
            with self.console.progress("convert", total=total, done=total - size) as advance:
                for _ in choose_executor(workers, len(tasks)).run(convert_part, tasks, advance):
                    pass  # the result is on disk, and recorded there
        except DomainTakenError:
            for name in left:
                forget(self.ledger, new, name, self.before)
            raise
        return size

    def _publish(self, name: str, now: Known) -> Known:
        """Write the datasets of a group; domains that it takes from other groups are no longer theirs."""
        (self.ledger.out / SUMMARY).unlink(missing_ok=True)
        done = _all_done(self.ledger, self.recipe, [part for part in self.parts if part.group == name])
        domains = {output.domain for _, record in done for output in record.outputs}
        published = taken_from(now.published, domains, by=name)
        self.ledger.write_run(now.run, published)
        made = publish(
            self.ledger, self.recipe, None if is_by_key(name) else name, done, now.run.groups[name]["identity"]
        )
        now = Known(run=now.run, published={**published, name: made})
        self.ledger.write_run(now.run, now.published)
        return now


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


def _list_sources(
    sources: Sequence[str], recipe: Recipe, *, out: Path, choice: Choice | None, console: Console, may_be_none: bool
) -> Sources:
    """List the files of the sources, and show how many there are."""
    if not sources and may_be_none:
        return Sources(groups=(), skipped=Counter())
    by_key = recipe.fields.domain is not None
    listed = find_sources(
        sources,
        out=out,
        choice=choice or Choice(),
        by_key=by_key,
        fields=recipe.fields,
        skip=recipe.on_bad_document == "skip",
    )
    _show_sources(listed, console)
    return listed


def _show_sources(sources: Sources, console: Console) -> None:
    for group in sources.groups:
        label = "domains by key" if group.name == BY_KEY else f"domain {group.name}"
        formats = Counter(file.format for file in group.files)
        kinds = ", ".join(f"{count:,} {name}" for name, count in formats.most_common())
        mixed = f" ({kinds})" if len(formats) > 1 else ""
        console.note(f"{label}: {len(group.files):,} files{mixed}, {show_bytes(group.bytes)}")
    if sources.skipped:
        console.note(f"skipped: {describe_skipped(sources.skipped)}")
