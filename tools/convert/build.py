"""What a command has left to do: its parts are converted, its groups published, and the output summed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from mixstream.storage import SUMMARY

from ..shared.cards import CARD
from ..shared.console import Console
from ..shared.parts import PartOptions
from .card.written import write_card
from .groups import (
    Known,
    clear,
    describe_unfinished,
    drop_replaced,
    forget,
    name_taken,
    settle,
)
from .ledger.durable import write_durably
from .ledger.finished import Groups, compose, dump_summary, taken_from
from .ledger.ledger import PARTS, Ledger
from .ledger.records import PartRecord
from .ledger.run_file import DomainTakenError, Run, is_by_key
from .parts import Part
from .publish.publish import dataset_directory, is_whole, publish
from .publish.remote import Remote
from .recipe import Recipe
from .work.placement import run_tasks
from .work.rejects import MaxRejects
from .work.work import PartTask, convert_part


@dataclass(frozen=True, kw_only=True)
class Build:
    """The parts of a command, from sources to published datasets.

    Args:
        ledger: of the output.
        recipe: how documents become shards.
        parts: of the groups that the command names.
        before: what was there before the command.
        options: where the work runs.
        overwrite: whether domains of other groups may be replaced.
        max_rejects: stop if more documents cannot be read.
        console: where progress is shown.
    """

    ledger: Ledger
    recipe: Recipe
    parts: Sequence[Part]
    before: Known
    options: PartOptions
    overwrite: bool
    max_rejects: MaxRejects | None
    console: Console

    def make(self, new: Run, target: Known, records: Sequence[PartRecord | None]) -> tuple[Known, int | None]:
        """Convert and publish what is left to do; returns what is there then, and the bytes of source, None for none.

        Args:
            new: the groups of this command.
            target: what is to be in the end.
            records: of each part; None for one that has to be converted.
        """
        each = list(zip(self.parts, records))
        left = [
            name
            for name in new.groups
            if not self._is_made(target.published, name, [record for part, record in each if part.group == name])
        ]
        now = replace(target, published={name: g for name, g in target.published.items() if name not in left})
        # What an earlier version left unfinished has no documents beside it: all of a dataset has them, or none.
        records = [
            None if part.group in left and record is not None and record.sidecar is None else record
            for part, record in each
        ]
        taken: dict[str, str] = {}
        for name in left:
            taken |= name_taken(self.ledger, now, name, before=self.before, overwrite=self.overwrite)
        self.ledger.write_run(now.run, now.published)
        converted = None
        if left:
            converted = self._convert(left, new, now, records, taken)
            for name in left:
                now = self._publish(name, now)
        else:  # an earlier run may have allowed more
            self._check_rejects([record for record in records if record is not None], last=True)
        for name in new.groups:
            settle(self.ledger, now, name)
        return drop_replaced(self.ledger, now), converted

    def sum_up(
        self, now: Known, converted: int | None, remote: Remote | None = None
    ) -> tuple[dict[str, Any], int | None]:
        """Write the card and domains.json, if all groups are published; returns the summary, and `converted`.

        The latter is 0 if only that was left. Cards that are not here are read from the store.
        """
        summary, path = compose(now.run, now.published), self.ledger.out / SUMMARY
        if missing := describe_unfinished(self.ledger, now):
            path.unlink(missing_ok=True)
            (self.ledger.out / CARD).unlink(missing_ok=True)
            return {**summary, "faults": [*summary["faults"], *missing]}, converted
        finds = (self._card, *(() if remote is None else (remote.read_card,)))
        if summary["domains"] and write_card(self.ledger.out, summary, self.recipe, finds):
            converted = converted or 0
        data = dump_summary(summary)
        if not path.is_file() or path.read_bytes() != data:
            write_durably(path, data)
            converted = converted or 0
        return summary, converted

    def _card(self, domain: str, split: str) -> bytes | None:
        with suppress(FileNotFoundError, NotADirectoryError):
            return (self.ledger.out / dataset_directory(domain, split) / CARD).read_bytes()
        return None

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
        tasks = [
            PartTask(out=self.ledger.out, part=part, recipe=self.recipe, taken=taken, max_rejects=self.max_rejects)
            for part in todo
        ]
        finished = [record for _, record in done]
        self._check_rejects(finished, last=not tasks)
        try:
            with self.console.progress("convert", total=total, done=total - size) as advance:
                for record in run_tasks(convert_part, tasks, self.options, advance):
                    finished.append(record)  # what it wrote is on disk, and recorded there
                    self._check_rejects(finished, last=len(finished) == len(self.parts))
        except DomainTakenError:
            for name in left:
                forget(self.ledger, new, name, self.before)
            raise
        return size

    def _check_rejects(self, records: Sequence[PartRecord], *, last: bool) -> None:
        """Stop if there are more rejects than allowed; a share of all documents is known with the last part."""
        if self.max_rejects is None or (self.max_rejects.count is None and not last):
            return
        rejects = sum(record.skipped for record in records)
        read = sum(output.documents for record in records for output in record.outputs)
        self.max_rejects.check(rejects, of=rejects + read, where=f"{self.ledger.out / PARTS}/*/*.rejects")

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


def _all_done(ledger: Ledger, recipe: Recipe, parts: Sequence[Part]) -> list[tuple[Part, PartRecord]]:
    done = [(part, record) for part in parts if (record := ledger.load(part, recipe)) is not None]
    if len(done) < len(parts):
        raise FileNotFoundError(
            f"{ledger.out}: {len(parts)} parts were written, but only {len(done)} still exist. Another program may "
            f"have removed files, or, with --engine ray, a node does not share this disk. Run the same command again."
        )
    return done
