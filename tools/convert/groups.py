"""What an output holds already, and what a command adds, replaces or removes of it.

Rules. What is replaced or removed is noted as unfinished before anything of it goes, and dropped from run.json only
after all of it is gone: after `kill -9` at any instant a group is as it was, or unfinished and the same command goes
on. Domains of other groups are never touched, except those that `--overwrite` or `--remove` names, or that the lines of
`--overwrite --domain-key` do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixstream.errors import ConfigError, StateError
from mixstream.storage import SUMMARY, domain_directory, domain_name

from ..shared.cards import TOKENIZER
from .ledger.finished import Groups, is_summed_up, owners_of, read_published, taken_from
from .ledger.ledger import TAIL, Ledger
from .ledger.records import PartRecord
from .ledger.run_file import (
    PARTS_OF_A_GROUP,
    DomainTakenError,
    Run,
    is_by_key,
    is_same,
    name_groups,
    refuse_changes,
    refuse_similar,
)
from .parts import Part
from .publish.remote import Remote
from .recipe import Recipe
from .sources.sources import BY_KEY

Done = Sequence[tuple[Part, PartRecord]]


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is there.

    Args:
        run: the groups; without any if the place is new.
        published: those that are published.
    """

    run: Run
    published: Groups

    @property
    def begun(self) -> frozenset[str]:
        """The groups that are not published: they were interrupted, or are being replaced."""
        return frozenset(self.run.groups) - frozenset(self.published)

    @property
    def owners(self) -> dict[str, str]:
        """Domain to group."""
        return owners_of(self.published)


def read_known(ledger: Ledger, remote: Remote | None, theirs: Run | None, asked: Run) -> Known:
    """Return what this directory, and the store that it is uploaded to, hold; of a group in both, the store's."""
    local = ledger.read_run()
    published = read_published(ledger.out, local) if local is not None else {}
    run = local or Run(recipe=asked.recipe, groups={})
    if remote is None or theirs is None:
        return Known(run=run, published=published)
    run = run.joined(theirs)
    ours = {name: group for name, group in published.items() if is_same(run.groups[name], group)}
    return Known(run=run, published={**remote.published(theirs), **ours})


def plan_command(
    ledger: Ledger,
    remote: Remote | None,
    theirs: Run | None,
    *,
    recipe: Recipe,
    known: Known,
    asked: Run,
    planned: Mapping[str, Sequence[Part]],
    overwrite: bool,
) -> tuple[Run, list[Part], Known]:
    """Return the groups that a command makes, their parts, and what there is to be in the end; nothing is changed yet.

    Raises:
        StateError: a domain that is there would become another one, and not `overwrite`.
        ConfigError: a domain's directory holds what convert did not write.
    """
    new = name_groups(known.run, asked, begun=known.begun)
    named = {BY_KEY if is_by_key(name) else name: name for name in new.groups}
    parts = [part for name, each in planned.items() for part in new.parts_of(named[name], each)]
    free = find_free(ledger, recipe, known, parts)
    place = ledger.out if remote is None else remote.store.url
    target = begin(known, new, place=place, free=free, overwrite=overwrite)
    refuse_foreign(ledger, known, new)
    if remote is not None:
        remote.refuse_foreign(known.owners, known.run, new, theirs)
    return new, parts, target


def begin(known: Known, new: Run, *, place: object, free: frozenset[str], overwrite: bool) -> Known:
    """Return what there is to be in the end; nothing is changed yet.

    Args:
        known: what is there.
        new: the groups that a command makes.
        place: of the output, for errors.
        free: groups that may become others (`find_free`).
        overwrite: whether all may.

    Raises:
        StateError: a domain that is there would become another one.
    """
    refuse_similar(place, new, known.owners)
    if not overwrite:
        refuse_changes(place, known.run, new, known.owners, begun=known.begun, free=free)
    kept = {
        name: group
        for name, group in known.published.items()
        if name not in new.groups or is_same(group, new.groups[name])
    }
    for name in new.groups:
        if not is_by_key(name):
            kept = taken_from(kept, [name], by=name)
    return Known(run=known.run.joined(new), published=kept)


def find_free(ledger: Ledger, recipe: Recipe, known: Known, parts: Sequence[Part]) -> frozenset[str]:
    """Return the groups of which nothing is lost if other options or sources go on with them.

    They were begun here and not published, and have no finished part; or one that these parts (`parts`) have too. So a
    conversion that met a bad file goes on once the file was mended.
    """
    local = ledger.read_run()
    here = {
        name for name in known.begun if local is not None and is_same(local.groups.get(name), known.run.groups[name])
    }
    return frozenset(
        name
        for name in here
        if not ledger.records_of(name)
        or any(ledger.load(part, recipe) is not None for part in parts if part.group == name)
    )


def refuse_foreign(ledger: Ledger, known: Known, new: Run) -> None:
    """Refuse to write into the directory of a domain that convert did not make.

    Raises:
        ConfigError: there is such a directory.
    """
    ours = {*known.owners, *known.run.groups}
    for name in new.groups:
        place = ledger.out / domain_directory(name)
        if name not in ours and place.is_dir() and (found := next(_datasets_at(place), None)):
            raise ConfigError(
                f"--out {ledger.out}: {place.name}/ holds {found.name!r}, which convert did not write. Name the domain "
                f"otherwise (NAME=PATH), or choose another --out."
            )


def records_of(ledger: Ledger, recipe: Recipe, parts: Sequence[Part], *, overwrite: bool) -> list[PartRecord | None]:
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


def _datasets_at(place: Path) -> Iterator[Path]:
    """What lies in the directory of a domain, except the copy of the tokenizer."""
    return (path for path in place.iterdir() if place.name != TOKENIZER or path.is_dir())


def clear(ledger: Ledger, now: Known, name: str, done: Done) -> None:
    """Remove what a group has of parts that are not `done`, with the indexes that name them."""
    ledger.drop_records(name, keep=[part for part, _ in done])
    kept = {(domain_directory(output.domain), part.name) for part, record in done for output in record.outputs}
    if not is_by_key(name):
        place = domain_directory(name)
        ledger.drop_parts(place, lambda part: (place, part) not in kept)
        return
    names = _PartNames(now.run, name)
    others = _places({domain for domain, group in now.owners.items() if group != name} | {*now.run.groups})
    for place in ledger.places():
        other = place in others
        if (names.first or not other) and ledger.has_parts(place, names):
            ledger.drop_parts(place, lambda part, at=place: part in names and (at, part) not in kept, keep_index=other)


def name_taken(ledger: Ledger, now: Known, name: str, *, before: Known, overwrite: bool) -> dict[str, str]:
    """Return the domains that the lines of a group's files may not name, with the reason.

    Raises:
        DomainTakenError: they did name one when the group was made; what the group still has would be lost.
    """
    if not is_by_key(name):
        return {}
    rest = "Nothing that was there is changed, and what this run wrote is removed."
    if name in before.begun:
        rest = "Finished domains stay as they are, and what was written of these sources is removed."
    mine = {output.domain for record in ledger.records_of(name).values() for output in record.outputs}
    known = _places({*mine, *now.owners, *now.run.groups})
    taken = {
        domain_name(place): f"domain {domain_name(place)!r}: {ledger.out / place} holds a dataset that convert did not "
        f"write. {rest} Choose another --out."
        for place in ledger.places()
        if place not in known and ledger.has_index(place)
    }
    others = {domain for domain, group in now.owners.items() if group != name and not overwrite}
    for domain in others | {group for group in now.begun if group != name}:
        how = "is there already" if domain in others else "is unfinished"
        taken[domain] = (
            f"domain {domain!r} {how}, of other sources. {rest} Choose another --out, or pass --overwrite, which "
            "replaces the finished domains that the lines name."
        )
    if name in before.published and (lost := sorted(mine & taken.keys())):
        raise DomainTakenError(taken[lost[0]])
    return taken


def forget(ledger: Ledger, new: Run, name: str, before: Known) -> None:
    """Take back a group of --domain-key that cannot be added: all of it goes, and what was there stays."""
    if not is_by_key(name):
        return
    names = _PartNames(new, name)
    for place in ledger.places():
        ledger.drop_parts(place, lambda part: part in names, keep_index=True)
    ledger.drop_records(name)
    ledger.write_run(before.run.without([name] if name in before.begun else []), before.published)


def settle(ledger: Ledger, now: Known, name: str) -> None:
    """Remove the parts that the domains of a published group had of other groups."""
    names = _PartNames(now.run, name)
    for domain in now.published[name]["domains"] if is_by_key(name) else ():
        place = domain_directory(domain)
        ledger.drop_parts(place, lambda part: part not in names and part != TAIL, keep_index=True)


def drop_replaced(ledger: Ledger, now: Known) -> Known:
    """Return what is left without the groups of which other groups have replaced all domains."""
    for name in now.begun:
        mine = {output.domain for record in ledger.records_of(name).values() for output in record.outputs}
        if (name in now.owners) if not is_by_key(name) else (mine and mine <= {*now.owners}):
            ledger.drop_rejects(name)
            now = Known(run=now.run.without([name]), published=now.published)
            ledger.write_run(now.run, now.published)
    ledger.drop_strays(now.run)
    return now


def remove_domains(
    ledger: Ledger, remote: Remote | None, theirs: Run | None, known: Known, domains: Sequence[str]
) -> Known:
    """Remove domains from the output; what a store has of them goes with the upload.

    The command may have been killed before: what it has removed already is no fault as long as it is not finished.

    Raises:
        ConfigError: there is no such domain.
    """
    run, published = known.run, known.published
    owners = {**_left_over(ledger, known), **{name: name for name in known.begun}, **known.owners}
    there = owners_of(remote.published(theirs)) if remote is not None and theirs is not None else {}
    is_whole = is_summed_up(ledger.out, run) and (theirs is None or remote is None or remote.is_summed_up(theirs))
    if is_whole and (unknown := sorted({*domains} - {*owners, *there})):
        raise ConfigError(
            f"--remove {unknown[0]}: {ledger.out} has no such domain. It has {', '.join(sorted(owners)) or 'none'}."
        )
    (ledger.out / SUMMARY).unlink(missing_ok=True)
    for domain in dict.fromkeys(domain for domain in domains if domain in owners):
        group = owners[domain]
        published = taken_from(published, [domain], by="")
        ledger.write_run(run, published)
        if is_by_key(domain):  # an interrupted group, whose domains are not known
            names = _PartNames(run, group)
            for place in ledger.places():
                if place not in _places({*known.begun, *known.owners}):
                    ledger.drop_parts(place, lambda part, names=names: part in names, keep_index=True)
        else:
            ledger.drop_parts(domain_directory(domain), lambda part: True)
        is_gone = group not in published and group in run.groups
        if is_gone and (is_by_key(domain) or not _has_parts(ledger, run, published, group)):
            ledger.drop_rejects(group)  # as long as the group is known, a command that is killed here goes on
            run = run.without([group])
            ledger.write_run(run, published)
    ledger.drop_strays(run)
    return Known(run=run, published=published)


def _left_over(ledger: Ledger, known: Known) -> dict[str, str]:
    """Domain to group, of what a command that was killed may not have removed to the end."""
    found: dict[str, str] = {}
    for group in filter(is_by_key, known.run.groups):
        mine = {output.domain for record in ledger.records_of(group).values() for output in record.outputs}
        is_begun = group in known.begun
        found |= {domain: group for domain in mine if is_begun or ledger.has_parts(domain_directory(domain))}
    return found


def _has_parts(ledger: Ledger, run: Run, published: Groups, group: str) -> bool:
    """Whether any domain has parts of a group; those of other groups may have parts of the same numbers."""
    names = _PartNames(run, group)
    if not is_by_key(group):
        return ledger.has_parts(domain_directory(group), names)
    others = {domain for domain, owner in owners_of(published).items() if owner != group} | {*run.groups}
    places = {*ledger.places()} - (set() if names.first else _places(others))
    return any(ledger.has_parts(place, names) for place in places)


def describe_unfinished(ledger: Ledger, now: Known) -> list[str]:
    """Return a sentence for each group that is not published."""
    found = []
    for name in sorted(now.begun):
        parts, done = now.run.groups[name].get("parts"), len(ledger.records_of(name))
        what = "the job with --domain-key" if is_by_key(name) else f"domain {name!r}"
        amount = f"{done} of {parts} parts" if parts else f"{done} parts"
        found.append(f"{what} is unfinished ({amount}). Run its command again to its end, or pass --remove {name}.")
    return found


def _places(domains: Iterable[str]) -> set[str]:
    return set(map(domain_directory, domains))


class _PartNames:
    """The names of the parts of a group."""

    def __init__(self, run: Run, name: str) -> None:
        self.first = run.first_of(name)

    def __contains__(self, part: object) -> bool:
        number = str(part).removeprefix("part-")
        return number.isdecimal() and self.first <= int(number) < self.first + PARTS_OF_A_GROUP
