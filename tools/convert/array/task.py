"""One task of a job array, from the sources to the parts of its share; it publishes nothing.

    SRC ─ sources ─► parts ─ deal ─► its share ─ executor(work) ─► records, here or at the store ─► the run that merges

Rules. A task looks at what is there, and changes what all tasks share, while no other one does (locks.py). It
removes leftovers of its own parts only. What a merge run would refuse, a task refuses before it converts anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixstream.errors import ConfigError, StateError
from mixstream.storage import SUMMARY

from ...shared.console import Console
from ..files.choice import Choice
from ..groups import Known, clear, name_taken, plan_command, read_known, records_of
from ..ledger.identity import describe_run, identify
from ..ledger.ledger import Ledger
from ..ledger.part_files import drop_part, drop_shards_of
from ..ledger.records import PartRecord
from ..ledger.run_file import Run, is_same
from ..ledger.uploads import Uploads
from ..listed import list_sources, plan_groups
from ..parts import Part
from ..publish.remote import Remote
from ..recipe import Recipe
from ..sources.config import Source
from ..sources.stdin import takes_stdin
from ..work.placement import run_tasks
from ..work.rejects import MaxRejects
from ..work.work import PartTask, convert_part
from .locks import TaskLocks
from .part_store import PartStore
from .shares import ArrayOptions, Share, deal


def convert_share(
    sources: Sequence[str | Source],
    *,
    out: Path,
    recipe: Recipe,
    options: ArrayOptions,
    choice: Choice | None = None,
    overwrite: bool = False,
    max_rejects: MaxRejects | None = None,
    remote: Remote | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Convert the share of `--part I/N`; returns what this run did, and what its share holds.

    Four tasks on any machines make the share, and `run_conversion` with the same arguments publishes them:
    `for i in range(4): convert_share(["web/"], ..., options=ArrayOptions(part=f"{i}/4"))`.

    Args:
        sources: files, directories, or NAME=PATH; the same for all tasks.
        out: directory of the datasets, on a disk that all tasks share; with `remote`, a work directory.
        recipe: how documents become shards; the same for all tasks.
        options: the share, and where its work runs.
        choice: which files below a directory are read, and as which format.
        overwrite: replace domains that `sources` name and that other options or sources made.
        max_rejects: stop if more documents of a part cannot be read; the merge run counts those of all parts.
        remote: the store that the parts are uploaded to, where the merge run finds them.
        console: where progress is shown; None for a new one.

    Raises:
        ConfigError: a whole run or this number is at work already, or tasks of another N are.
        StateError: tasks of other options or sources are at work here; or as for `run_conversion`.
    """
    share = options.share
    if share is None:
        raise ConfigError("convert_share needs a share: give options=ArrayOptions(part='0/4').")
    console = console or Console()
    recipe = recipe.checked()
    if takes_stdin(sources):
        raise ConfigError(f"--part {share} and SRC -: standard input is not the same for all tasks. Name files.")
    by_task = list_sources(
        sources, recipe, out=out, url=remote.store.url if remote is not None else None, stdin=None, choice=choice,
        console=console, may_be_none=False,
    )  # fmt: skip
    ledger = Ledger(out)
    with TaskLocks(ledger, share) as locks, ExitStack() as held:
        with ledger.bound(remote.store.url if remote is not None else None):
            pass  # refuses a directory of the other kind
        uploads = held.enter_context(closing(_uploads(ledger, share, remote))) if remote is not None else None
        ledger = Ledger(out, uploads)
        store = PartStore.of(remote) if remote is not None else None
        theirs = remote.read_run() if remote is not None else None
        planned = plan_groups(by_task, recipe, [theirs, ledger.read_run()])
        asked = describe_run(recipe, by_task, planned)
        known = read_known(ledger, remote, theirs, asked)
        new, parts, target = plan_command(
            ledger, remote, theirs, recipe=recipe, known=known, asked=asked, planned=planned, overwrite=overwrite
        )
        task = _Task(
            ledger=ledger, recipe=recipe, share=share, max_rejects=max_rejects, uploads=uploads, store=store,
            console=console,
        )  # fmt: skip
        mine = [part for part in deal(parts, share.of)[share.number] if part.group not in target.published]
        left = [name for name in new.groups if name not in target.published]
        taken: dict[str, str] = {}
        if mine:
            taken = task.begin(locks, left, parts, known=known, target=target, new=new, overwrite=overwrite)
            if store is not None:
                store.begin(theirs, known, target, new)
        locks.begun()
        return task.convert(mine, taken, options, run=target.run, overwrite=overwrite)


def _uploads(ledger: Ledger, share: Share, remote: Remote) -> Uploads:
    return Uploads(ledger.out / ".convert" / share.uploads, remote.store.url)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A task at work."""

    ledger: Ledger
    recipe: Recipe
    share: Share
    max_rejects: MaxRejects | None
    uploads: Uploads | None
    store: PartStore | None
    console: Console

    def begin(
        self,
        locks: TaskLocks,
        left: Sequence[str],
        parts: Sequence[Part],
        *,
        known: Known,
        target: Known,
        new: Run,
        overwrite: bool,
    ) -> dict[str, str]:
        """Put in order what all tasks share; returns the domains that lines may not name, with the reason."""
        taken: dict[str, str] = {}
        for name in left:
            taken |= name_taken(self.ledger, target, name, before=known, overwrite=overwrite)
        local = self.ledger.read_run()
        is_begun = local is not None and all(
            is_same(local.groups.get(name), new.groups[name]) and name not in known.published for name in left
        )
        if is_begun:
            return taken
        if not locks.alone:
            raise StateError(
                f"{self.ledger.out}: tasks of other options or sources are at work here. Give all tasks the same "
                "ones, or wait until those have ended."
            )
        self.ledger.write_run(target.run, target.published)
        if any(name in known.published for name in left):
            (self.ledger.out / SUMMARY).unlink(missing_ok=True)
        for name in left:
            done = [
                (part, record)
                for part in parts
                if part.group == name
                and (record := self.ledger.records_of(name).get(part.name)) is not None
                and record.identity == identify(self.recipe, part.slices)
            ]
            clear(self.ledger, target, name, done)
        return taken

    def convert(
        self, mine: Sequence[Part], taken: dict[str, str], options: ArrayOptions, *, run: Run, overwrite: bool
    ) -> dict[str, Any]:
        """Convert the parts of the share that are not done, and upload them."""
        if self.store is not None and self.uploads is not None:
            self.store.confirm(self.uploads)
            self.store.fetch(self.ledger, self.uploads, self.recipe, mine)
        records = records_of(self.ledger, self.recipe, mine, overwrite=overwrite)
        todo = [part for part, record in zip(mine, records) if record is None]
        if mine and not todo:
            self.console.note(f"going on: all {len(mine):,} parts of --part {self.share} are converted")
        total, size = sum(part.bytes for part in mine), sum(part.bytes for part in todo)
        for part in todo:
            drop_part(self.ledger, part)
        tasks = [
            PartTask(
                out=self.ledger.out,
                part=part,
                recipe=self.recipe,
                taken=taken,
                max_rejects=self.max_rejects,
                locks=(self.share.workers_lock,),
            )
            for part in todo
        ]
        try:
            with self.console.progress("convert", total=total, done=total - size) as advance:
                for _ in run_tasks(convert_part, tasks, options, advance):
                    pass
            done = [(part, record) for part in mine if (record := self.ledger.load(part, self.recipe)) is not None]
            if len(done) < len(mine):
                raise StateError(
                    f"{self.ledger.out}: --part {self.share} has {len(mine)} parts, and only {len(done)} are there "
                    "after they were written. Another program may have removed files, or a node does not share this "
                    "disk. Run the same command again."
                )
            sent = self._send(mine, done, run)
        except BaseException as error:
            error.add_note(f"Finished parts are kept: run --part {self.share} again, and it goes on from there.")
            raise
        return {**_summary(done), "share": len(mine), "converted_bytes": size, "uploaded_bytes": sent} | {
            "status": "converted" if todo or sent else "nothing to do",
            "part": str(self.share),
        }

    def _send(self, mine: Sequence[Part], done: Sequence[tuple[Part, PartRecord]], run: Run) -> int:
        if self.store is None or self.uploads is None or not mine:
            return 0
        if self.store.is_published(run, {part.group for part in mine}):
            self.console.note(f"--part {self.share}: {self.store.store.url} was published meanwhile, with these parts")
            return 0
        sent = self.store.send(self.ledger, self.uploads, done, console=self.console)
        self.store.check_run(run)
        if not self.store.keep_work:
            for part in mine:
                drop_shards_of(self.ledger, part)
        return sent


def _summary(done: Sequence[tuple[Part, PartRecord]]) -> dict[str, Any]:
    outputs = [output for _, record in done for output in record.outputs]
    return {
        "parts": sorted(f"{part.group}/{part.name}" for part, _ in done),
        "documents": sum(output.documents for output in outputs),
        "rows": sum(output.rows for output in outputs),
        "skipped": sum(record.skipped for _, record in done),
        "examples": [example for _, record in done for example in record.examples][:5],
    }
