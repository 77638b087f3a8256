"""`.convert/run.json`: the groups of sources that an output was made of, and what a command may change of them.

    {"recipe": {"seq-len": 16, …}, "groups": {"web": {"files": 3, "bytes": 900, "identity": "…", "parts": 1}}}

Rules. A group is what is converted together: a domain, or all files of a command with --domain-key. A command adds and
replaces the groups of its own sources and leaves the others alone: their sources are not at hand. A conversion is
finished if `domains.json` has the identity of its run.json, so whatever changes a group makes it unfinished first.
A group that was made by another recipe than the last command's has its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from mixstream.errors import ConfigError, StateError

from ..parts import Part
from ..recipe import LATER
from ..sources.sources import BY_KEY

PARTS_OF_A_GROUP = 100_000
"""A later group of --domain-key numbers its parts from a multiple of this, since it may share domains with others."""


class DomainTakenError(StateError):
    """A line names a domain that is there already, of other sources."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The content of run.json.

    Args:
        recipe: of the last command (`Recipe.describe`).
        groups: name of a group to its files, bytes, identity and parts; `first` is the number of its first part if that
            is not 0, `recipe` its own recipe if that is another one, `cut` whether text files were cut at separators.
    """

    recipe: Mapping[str, Any]
    groups: Mapping[str, Mapping[str, Any]]

    @classmethod
    def parse(cls, data: bytes, place: object) -> Self:
        """Read run.json; ConfigError, with `place`, if convert did not write it."""
        try:
            found = json.loads(data)
            groups = {
                str(name): {**group, "identity": str(group["identity"])} for name, group in found["groups"].items()
            }
            return cls(recipe=dict(found["recipe"]), groups=groups)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"--out {place}: its .convert/run.json was not written by convert ({error!r}). Give another place."
            ) from error

    def dump(self) -> bytes:
        """The bytes of run.json."""
        return json.dumps({"recipe": self.recipe, "groups": self.groups}, indent=1, sort_keys=True).encode()

    @property
    def identity(self) -> str:
        """What `domains.json` repeats once everything is published."""
        return hashlib.sha256(self.dump()).hexdigest()

    def recipe_of(self, name: str) -> Mapping[str, Any]:
        """The recipe of a group."""
        return self.groups[name].get("recipe", self.recipe)

    def first_of(self, name: str) -> int:
        """The number of a group's first part."""
        return self.groups[name].get("first", 0)

    def parts_of(self, name: str, planned: Sequence[Part]) -> list[Part]:
        """Parts as they were planned, with the group's name and numbers."""
        first = self.first_of(name)
        return [replace(part, group=name, number=first + part.number) for part in planned]

    def joined(self, newer: Run) -> Run:
        """Return the run with the groups of a newer one too; of a group that both have, with the newer's."""
        mine, theirs = self._each(), newer._each()
        same = {name for name, group in theirs.items() if is_same(mine.get(name), group)}
        for name in same:  # the recipe of an earlier version does not name the options that it did not have
            theirs[name]["recipe"] = mine[name]["recipe"]
        return Run._of(self.recipe if len(same) == len(theirs) else newer.recipe, {**mine, **theirs})

    def without(self, names: Iterable[str]) -> Run:
        """Return the run without these groups."""
        gone = set(names)
        return Run._of(self.recipe, {name: group for name, group in self._each().items() if name not in gone})

    def _each(self) -> dict[str, dict[str, Any]]:
        return {name: {**group, "recipe": self.recipe_of(name)} for name, group in self.groups.items()}

    @classmethod
    def _of(cls, recipe: Mapping[str, Any], groups: Mapping[str, dict[str, Any]]) -> Run:
        """Return a run of groups that all say their recipe; only those of another one keep it."""
        return cls(
            recipe=recipe,
            groups={
                name: {key: value for key, value in group.items() if key != "recipe" or value != recipe}
                for name, group in groups.items()
            },
        )


def is_by_key(group: str) -> bool:
    """Whether the lines of a group's files name its domains."""
    return group.startswith(BY_KEY)


def is_same(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> bool:
    """Whether two entries of a group are of the same sources and recipe."""
    return old is not None and old["identity"] == new["identity"]


def name_groups(old: Run, new: Run, *, begun: frozenset[str]) -> Run:
    """Return `new` with a free name and free numbers for its group of --domain-key, if it has one.

    A group of the same sources keeps its name. Parts of such a group lie in the directories of domains that are not
    known before its files are read, so its numbers are its own.

    Args:
        old: what is there.
        new: as the command line says.
        begun: groups of `old` that are not finished.
    """
    if BY_KEY not in new.groups:
        return new
    mine = new.groups[BY_KEY]
    keyed = [name for name in old.groups if is_by_key(name)]
    if same := [name for name in keyed if is_same(old.groups[name], mine)]:
        name, group = same[0], {**mine, "first": old.first_of(same[0])}
        if not group["first"] and name in begun and len(old.groups) > 1:  # numbers from 0 are no longer its own
            group["first"] = _free(old)
    elif begun & {*keyed}:
        name = min(begun & {*keyed})
        group = {**mine, "first": _free(old) if len(old.groups) > 1 else old.first_of(name)}
    else:
        first = _free(old) if old.groups else 0
        name, group = f"{BY_KEY}-{first // PARTS_OF_A_GROUP}" if first else BY_KEY, {**mine, "first": first}
    if not group["first"]:
        del group["first"]
    return Run(recipe=new.recipe, groups={name: group})


def _free(run: Run) -> int:
    return max((run.first_of(name) for name in run.groups), default=0) + PARTS_OF_A_GROUP


def refuse_changes(
    place: object, old: Run, new: Run, owners: Mapping[str, str], *, begun: frozenset[str], free: frozenset[str]
) -> None:
    """Check that `new` only adds to `old`, or goes on with it.

    Args:
        place: of the output, for the error.
        old: what is there.
        new: what a command would make; its groups have the names of `name_groups`.
        owners: domain to group, of the domains that are there.
        begun: groups of `old` that are not finished.
        free: those of which nothing is lost if they become others.

    Raises:
        StateError: a domain that is there would become another one, or the options are others.
    """
    if all(is_same(old.groups.get(name), group) for name, group in new.groups.items()):
        return
    known = [old.recipe_of(name) for name in old.groups if name not in free]
    last = old.recipe if old.recipe in known else next(iter(known), {})
    changes = [*_options(last, new.recipe)] if known and new.recipe not in known else []
    for name, group in new.groups.items():
        if name in old.groups and name not in free and not is_same(old.groups[name], group) and not changes:
            changes.append(_sources(name, old.groups[name], group))
        elif name not in old.groups and name in owners:
            changes.append(f"domain {name!r} is there already, of files whose lines name their domain")
    if not changes:
        return
    named = sorted(domain for domain, group in owners.items() if domain in new.groups or group in new.groups)
    named += [name for name in new.groups if name in begun and name not in named and not is_by_key(name)]
    kept = sorted({*owners} - {*named})
    what = f"rebuilds {', '.join(named) or 'the domains that it reads'}"
    rest = f" and leaves {_some(kept)} as it is" if kept else ""
    raise StateError(
        f"{place} was begun with other options or sources: {'; '.join(changes)}. Continue with the old ones, choose "
        f"another --out, or pass --overwrite, which {what}{rest}."
    )


def refuse_similar(place: object, new: Run, owners: Mapping[str, str]) -> None:
    """Refuse a domain whose directory would be that of another one where case is ignored."""
    known = {name.casefold(): name for name in owners}
    for name in new.groups:
        if (other := known.get(name.casefold(), name)) != name:
            raise ConfigError(
                f"{place} has the domain {other!r}, and {name!r} would be the same directory on file systems where "
                f"case is ignored. Name it otherwise: NAME=PATH"
            )


def _options(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in [*new, *(key for key in old if key not in new)]:
        was, now = old.get(key, LATER.get(key)), new.get(key)
        if was != now and key == "layout":
            yield "another version of mixstream began it, which would write other tokens"
        elif was != now:
            yield f"--{key} was {json.dumps(was)}, is {json.dumps(now)}"


def _sources(name: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    label = "the sources" if is_by_key(name) else f"domain {name!r}"
    counts = [f"{group['files']} files of {group['bytes']} bytes" for group in (was, now)]
    more = " with other names, times, formats or options" if counts[0] == counts[1] else ""
    return f"{label}: {counts[0]}, now {counts[1]}{more}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
