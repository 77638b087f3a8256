"""A conversion from sources to published datasets: connects the other files, computes nothing.

SRC ─ sources ─► groups ─ parts ─► tasks ─ executor(work) ─► records ─ publish ─► DIR/<domain>/<split>/index.json
                                               │
                   readers ─► pieces ─ tokenizer ─► ids ─ packer ─► shards and tails

With --out URL, DIR is the work directory, and the datasets published there are uploaded to the store (remote.py).
`DIR/domains.json`, over all groups, is written last, and only if all of them are published.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..shared.console import Console, show_bytes
from ..shared.parts import PartOptions
from .array.part_store import PartStore
from .array.shares import forget_tasks, report_missing
from .build import Build
from .files.choice import Choice
from .groups import Known, plan_command, read_known, records_of, remove_domains
from .ledger.identity import describe_run
from .ledger.ledger import Ledger
from .ledger.run_file import DomainTakenError, Run
from .ledger.uploads import Uploads
from .listed import list_sources, plan_groups
from .parts import Part
from .publish.remote import Remote, plan_uploads
from .recipe import Recipe
from .sources.config import Source
from .sources.sources import Sources
from .sources.stdin import discard, spool, takes_stdin
from .train_bpe import BpeTraining
from .work.rejects import MaxRejects


def run_conversion(
    sources: Sequence[str | Source],
    *,
    out: Path,
    recipe: Recipe,
    choice: Choice | None = None,
    workers: int = 1,
    options: PartOptions | None = None,
    overwrite: bool = False,
    remove: Sequence[str] = (),
    max_rejects: MaxRejects | None = None,
    remote: Remote | None = None,
    train: BpeTraining | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Convert `sources` into `out`, or resume a conversion there; returns the summary, and what this run did.

    The latter is `status`, `converted_bytes` (of sources) and `uploaded_bytes`. The status is `converted`, or `nothing
    to do` if the output was complete. The caller has to check `faults`: a domain without a row is a fault, but all
    other domains are published.

    Args:
        sources: files, directories, URLs, `-` or NAME=PATH (naming.py); none if domains are only removed.
        out: directory of the datasets, `out/<domain>/<split>`; with `remote`, the work directory.
        recipe: how documents become shards.
        choice: which files below a directory are read, and as which format.
        workers: number of processes; 1 works in this process. The output does not depend on it.
        options: where the work runs, instead of `workers`: more processes, or a Ray cluster.
        overwrite: replace domains that `sources` name and that other options or sources made; the others are kept.
        remove: domains to remove from the output.
        max_rejects: stop if more documents cannot be read; None for any number. It needs a recipe that skips them.
        remote: the store to upload to; None if `out` is the result.
        train: the tokenizer to train and use, whatever the recipe's is.
        console: where progress is shown; None for a new one.

    Raises:
        MixstreamError: see `mixstream.errors`. The user fixes a ConfigError; a StateError asks for `overwrite`.
        OSError: reading or writing failed.
    """
    command = _Command(
        ledger=Ledger(out),
        recipe=recipe.checked(),
        options=options or PartOptions(workers=workers),
        overwrite=overwrite,
        remove=remove,
        max_rejects=max_rejects,
        remote=remote,
        train=train,
        console=console or Console(),
    )
    return command.run(sources, choice)


@dataclass(frozen=True, kw_only=True)
class _Command:
    """What is asked for; see `run_conversion`."""

    ledger: Ledger
    recipe: Recipe
    options: PartOptions
    overwrite: bool
    remove: Sequence[str]
    max_rejects: MaxRejects | None
    remote: Remote | None
    train: BpeTraining | None
    console: Console

    @property
    def url(self) -> str | None:
        return None if self.remote is None else self.remote.store.url

    def run(self, sources: Sequence[str | Source], choice: Choice | None) -> dict[str, Any]:
        """List the sources, lock the output, and convert."""
        with ExitStack() as held:
            stdin = None
            if takes_stdin(sources):  # its copy is a file of the output, which is locked first
                held.enter_context(self.ledger.locked())
                stdin = spool(self.ledger.stdin)
                self.console.note(f"standard input: {show_bytes(stdin.size)}")
            listed = list_sources(
                sources, self.recipe, out=self.ledger.out, url=self.url, stdin=stdin, choice=choice,
                console=self.console, may_be_none=bool(self.remove),
            )  # fmt: skip
            theirs = self.remote.read_run() if self.remote is not None else None
            if stdin is None:
                held.enter_context(self.ledger.locked())
            with self.ledger.bound(self.url) as uploads:
                outcome = self._convert(listed, theirs, uploads)
            discard(self.ledger.stdin)
            return outcome

    def _convert(self, listed: Sources, theirs: Run | None, uploads: Uploads | None) -> dict[str, Any]:
        """Convert the files that were listed.

        Args:
            listed: the files.
            theirs: run.json of the store.
            uploads: what this directory has uploaded to it.
        """
        ledger, remote, recipe = self.ledger, self.remote, self.recipe
        planned = plan_groups(listed, recipe, [theirs, ledger.read_run()])
        if self.train is not None:
            recipe = self._trained(self.train, [part for each in planned.values() for part in each], theirs)
        asked = describe_run(recipe, listed, planned)
        known = read_known(ledger, remote, theirs, asked)
        known = remove_domains(ledger, remote, theirs, known, self.remove) if self.remove else known
        if not listed.groups:
            asked = Run(recipe=known.run.recipe, groups={})
        new, parts, target = plan_command(
            ledger, remote, theirs, recipe=recipe, known=known, asked=asked, planned=planned, overwrite=self.overwrite
        )
        if remote is not None and uploads is not None:
            found = _prepare_uploads(remote, uploads, new, target, theirs, console=self.console)
            if found is not None and not self.remove and not _lacks(found, recipe):
                _check_finished(found, new, self.max_rejects, where=remote.store.url)
                return _outcome(found, None, 0)
            if theirs is not None:
                PartStore.of(remote).fetch(ledger, uploads, recipe, parts)
        records = records_of(ledger, recipe, parts, overwrite=self.overwrite)
        report_missing(ledger, parts, records, of=self.options.parts, console=self.console)
        build = Build(
            ledger=ledger, recipe=recipe, parts=parts, before=known, options=self.options, overwrite=self.overwrite,
            max_rejects=self.max_rejects, console=self.console,
        )  # fmt: skip
        try:
            done, converted = build.make(new, target, records)
            if not done.begun:
                forget_tasks(ledger)
            summary, converted = build.sum_up(done, converted, remote)
            sent = 0 if remote is None or uploads is None else self._upload(remote, uploads, done)
        except DomainTakenError:
            raise
        except BaseException as error:
            error.add_note(build.kept())
            raise
        return _outcome(summary, 0 if self.remove and converted is None else converted, sent)

    def _trained(self, train: BpeTraining, parts: Sequence[Part], theirs: Run | None) -> Recipe:
        """The recipe with the tokenizer that is trained, now or by an earlier command."""
        return train.recipe(
            self.recipe,
            out=self.ledger.out,
            parts=parts,
            runs=(self.ledger.read_run(), theirs),
            overwrite=self.overwrite,
            elsewhere=self.remote,
            console=self.console,
        )

    def _upload(self, remote: Remote, uploads: Uploads, done: Known) -> int:
        """Bring what is done to the store; returns the bytes sent."""
        sent = remote.upload(
            self.ledger, uploads, plan_uploads(self.ledger, done.run, done.published), removed={*self.remove},
            run=done.run, published=done.published, console=self.console,
        )  # fmt: skip
        if not remote.keep_work:
            self.ledger.drop_shards()
        return sent


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


def _lacks(summary: dict[str, Any], recipe: Recipe) -> bool:
    """Whether documents were left out although `recipe` does not allow it."""
    return recipe.on_bad_document != "skip" and bool(summary["skipped"]["documents"])


def _check_finished(summary: dict[str, Any], new: Run, most: MaxRejects | None, *, where: str) -> None:
    """Stop if an output that is finished elsewhere left out more documents than allowed."""
    groups = [summary["groups"][name] for name in new.groups]
    rejects = sum(group["skipped"]["documents"] for group in groups)
    splits = [summary["domains"][domain] for group in groups for domain in group["domains"]]
    read = sum(counts["documents"] for each in splits for counts in each.values())
    if most is not None:
        most.check(rejects, of=rejects + read, where=f"{where}/{', '.join(summary['skipped'].get('files', []))}")
