"""Which joined dataset is made of which datasets.

every URL is a dataset                  one dataset, at OUT
every URL is a directory above several  OUT/DOMAIN/SPLIT for each of them; what two have is refused, or joined
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mixstream.errors import ConfigError
from mixstream.storage import Retry, place_of, redact

from ..shared.datasets import Dataset, find_datasets, refuse_unfinished
from .agreed import check_agreement


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A dataset that is made.

    Attributes:
        name: below the output; "" for the output itself.
        members: what it is made of, in order.
    """

    name: str
    members: tuple[Dataset, ...]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(info.samples for member in self.members for info in member.shards)


def plan_merge(urls: Sequence[str], retry: Retry, *, join: bool) -> tuple[list[Joined], list[str]]:
    """Return what is made, by name, and notes.

    Args:
        urls: of datasets, or of directories above several.
        retry: of requests.
        join: whether datasets of one name in several directories become one.

    Raises:
        ConfigError: URLs of both kinds, a name in several directories, or datasets that do not belong together.
        UnfinishedError: something is unfinished.
    """
    if twice := [url for at, url in enumerate(urls) if url.rstrip("/") in {each.rstrip("/") for each in urls[:at]}]:
        raise ConfigError(f"{redact(twice[0])} is given twice, so its rows would count twice. Give it once.")
    found, notes = _found(urls, retry)
    doubled = [name for name, members in found.items() if name and len(members) > 1]
    if doubled and not join:
        places = " and ".join(member.store.url for member in found[doubled[0]])
        raise ConfigError(
            f"{doubled[0]} is there several times: {places} ({len(doubled)} such names). Give --same-domain join, "
            "which makes one dataset of them, or leave out one URL. If they hold the same documents, these would "
            "count twice."
        )
    for name, members in found.items():
        notes += check_agreement([each for each in members if each.shards], of=name or "one dataset")
    every = [each for members in found.values() for each in members if each.shards]
    if not every:
        raise ConfigError(f"{', '.join(map(redact, urls))}: there is no row in any of them.")
    if len(found) > 1:
        notes = list(dict.fromkeys([*notes, *check_agreement(every, of="one output")]))
    return [Joined(name=name, members=tuple(members)) for name, members in sorted(found.items())], notes


def _found(urls: Sequence[str], retry: Retry) -> tuple[dict[str, list[Dataset]], list[str]]:
    """Return the datasets at all URLs by the name of what is made of them, and notes."""
    found: dict[str, list[Dataset]] = {}
    notes: list[str] = []
    kinds: dict[bool, str] = {}
    for url in urls:
        datasets, more = find_datasets([url], retry, list_files=False)
        refuse_unfinished(datasets)
        if trouble := next((each.trouble for each in datasets if each.trouble is not None), None):
            raise trouble
        notes += more
        alone = len(datasets) == 1 and datasets[0].name == place_of(url)
        kinds.setdefault(alone, place_of(url))
        for dataset in datasets:
            found.setdefault("" if alone else dataset.name, []).append(dataset)
    if len(kinds) > 1:
        raise ConfigError(
            f"{kinds[True]} is a dataset, and {kinds[False]} is a directory above several. Give URLs of one kind."
        )
    return found, notes
