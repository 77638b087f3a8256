"""The artefacts that commands read: one, or one for each domain below a directory.

Rule: a domain that one input has and another lacks is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError, SelectionError, StoreError
from mixstream.selection import Scores, Selection, find_artefacts, kept_mask, same_shards
from mixstream.storage import is_local, local_path, place_of

from .remote_artefacts import find_remote

_Artefact = TypeVar("_Artefact")


def find_domains_of(path: str, kind: str, names: Sequence[str] = ()) -> dict[str, Path]:
    """Return the directories of the artefacts at a path by domain, sorted by its name; those of `names`, if any.

    Raises:
        SelectionError: there are none.
        ConfigError: a name without an artefact.
    """
    found = find_artefacts(path, kind)
    if missing := [name for name in names if name not in found]:
        raise ConfigError(f"{path} has no {kind} of domain {missing[0]!r}; it has {sorted(found)}")
    return {name: place for name, place in sorted(found.items()) if not names or name in names}


def places_of(path: str, kind: str) -> dict[str, str]:
    """Return where the artefacts at a path or at a URL are, by domain, sorted by its name; the library opens either.

    Raises:
        SelectionError: there are none.
        StoreError: the store cannot be read.
    """
    if not is_local(path):
        return dict(sorted(find_remote(path, kind).items()))
    return {name: str(place) for name, place in find_domains_of(path, kind).items()}


def open_scores(path: str) -> dict[str, Scores]:
    """Return the scores at a path or at a URL by domain, sorted by its name.

    Raises:
        SelectionError: there are none, or they are damaged.
        StoreError: the store cannot be read.
    """
    return {name: Scores.open(place) for name, place in places_of(path, "scores").items()}


def open_selections(path: str) -> dict[str, Selection]:
    """Return the selections at a path or at a URL by domain, sorted by its name.

    Raises:
        SelectionError: there are none, or they are damaged.
        StoreError: the store cannot be read.
    """
    return {name: Selection.open(place) for name, place in places_of(path, "selection").items()}


def open_either(path: str) -> dict[str, Scores] | dict[str, Selection]:
    """Return the scores or the selections at a path."""
    return open_selections(path) if is_kind(path, "selection") else open_scores(path)


def is_kind(path: str, kind: str) -> bool:
    """Return whether there are artefacts of a kind at a path or at a URL: `"scores"` or `"selection"`."""
    try:
        return bool(places_of(path, kind))
    except (SelectionError, StoreError):  # of a store that cannot be read, whoever reads on says so
        return False


def partner(of: str, domain: str, others: Mapping[str, _Artefact], path: str) -> _Artefact:
    """Return the artefact of a domain among `others`, which lie at `path`; `of` is what it is wanted for.

    Raises:
        ConfigError: there is none.
    """
    if domain not in others:
        raise ConfigError(
            f"{of} has the domain {domain!r}, {path} has {', '.join(others)}: give artefacts of the same domains, or "
            "the path of one domain on both sides"
        )
    return others[domain]


def is_alone(path: str, artefacts: Mapping[str, Any]) -> bool:
    """Return whether `path` is the artefact itself, and not a directory with one for each domain."""
    return [_place(str(each.path)) for each in artefacts.values()] == [_place(path)]


def _place(path: str) -> str:
    """Return a path or a URL in the form in which two can be compared."""
    return str(local_path(path).resolve()) if is_local(path) else place_of(path).rstrip("/")


def dataset_of(artefact: Scores | Selection) -> str | None:
    """Return the URL of the dataset that an artefact was made over, as its maker wrote it down; None if unknown."""
    found = artefact.made.get("dataset")
    return found if isinstance(found, str) else None


def facts_of_rows(artefact: Scores | Selection) -> dict[str, Any]:
    """Return the facts in `made` that are about the rows, whatever is computed from an artefact."""
    return {name: artefact.made[name] for name in ("dataset", "categories", "row_tokens") if name in artefact.made}


def lineage(artefact: Scores | Selection) -> dict[str, Any]:
    """Return the facts in `made` that go on to a selection which is made of an artefact: also where its scores are."""
    kept = facts_of_rows(artefact)
    if isinstance(artefact, Scores):
        return {**kept, "scores": _place(str(artefact.path))}
    return {**kept, **({"scores": artefact.made["scores"]} if "scores" in artefact.made else {})}


def within_of(of: str, path: str | None) -> Callable[[str], Selection | None]:
    """Return what returns the selection of a domain that `--within` names; it returns None without that option.

    Raises:
        SelectionError: there is no selection at `path`. ConfigError, when it is called: there is none of the domain.
    """
    found = open_selections(path) if path is not None else {}
    return lambda domain: None if path is None else partner(of, domain, found, path)


def allowed_rows(scores: Scores, within: Selection | None) -> NDArray[np.bool_]:
    """Return the rows that have a score, and that `within` keeps in any of its buckets, bool [rows].

    Raises:
        ConfigError: `within` is of other shards.
    """
    allowed_N = scores.scored
    if within is None:
        return allowed_N
    same_shards(within.path, within.table, scores.path, scores.table)
    return allowed_N & kept_mask(within)
