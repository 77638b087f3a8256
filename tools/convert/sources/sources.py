"""SRC arguments → domains and their files, in an order that depends on names alone.

A SRC is a file, a directory, a pattern, a URL or standard input; naming.py says which domain it is, places.py and
store_places.py which files it has. What can be known before anything is converted is refused here: formats that no
reader has, fields that no document has, files that would be read for two domains.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixstream.errors import ConfigError
from mixstream.storage import is_local

from ..documents.fields import Fields
from ..files.choice import Choice
from ..files.source_files import SourceFile
from ..readers import FieldError
from .checks import check_apart, check_fields, check_files
from .config import Source
from .found import Found, Progress, files_below, once, sniffed_files, without_about
from .listing import Skipped
from .naming import BY_KEY, STDIN, name_domains, split_source
from .places import Place, SpooledPlace, describe, find_local
from .saved_datasets import describe_joined_splits
from .sniff import sniff
from .store_places import find_stored

__all__ = ["BY_KEY", "Group", "Sources", "find_sources", "list_file"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Files that are converted together: those of one domain, or with `--domain-key` all files (`BY_KEY`)."""

    name: str
    files: tuple[SourceFile, ...]

    @property
    def bytes(self) -> int:
        """Size of the files as stored."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """All groups, in the order of the command line, and how many files were skipped, by reason and suffix.

    Groups that join files of several splits are told in `warnings`, each in a sentence.
    """

    groups: tuple[Group, ...]
    skipped: Skipped
    warnings: tuple[str, ...] = ()


def find_sources(
    sources: Sequence[str | Source],
    *,
    out: Path,
    choice: Choice,
    by_key: bool,
    fields: Fields | None = None,
    skip: bool = False,
    url: str | None = None,
    stdin: SourceFile | None = None,
    progress: Progress | None = None,
) -> Sources:
    """List the files of the SRC arguments, and look at the beginning of each.

    Args:
        sources: the SRC arguments, or those of a config.
        out: the output directory, which cannot be a source.
        choice: which files are read, and as what.
        by_key: whether a field names the domain.
        fields: what documents have; the first ones are checked. None for no check.
        skip: whether documents that lack a field are skipped; then it is enough if some file's have it.
        url: where the output is uploaded, which cannot be a source either.
        stdin: the copy of standard input, for a SRC `-`.
        progress: shows how many files were looked at, as `Console.progress` does.

    Raises:
        ConfigError: a path does not exist, a file holds no documents, two domains have one name, a domain has no file,
            a file belongs to two domains, or no document has the fields.
        StoreError: a store cannot be read.
    """
    if not sources:
        raise ConfigError("no SRC: name at least one file or directory to convert.")
    placed = _placed([Source.of(source) for source in sources], out, url, stdin, by_key=by_key)
    skipped: Skipped = Counter()
    faults: dict[str, FieldError | None] = {}
    listed = once(files_below(placed, choice, skipped), choice, skipped)
    groups: dict[str, list[tuple[Found, SourceFile]]] = {name: [] for name, _, _ in placed}
    for found, file in sniffed_files(listed, choice, skipped, fields, faults, progress=progress):
        groups[found.domain].append((found, file))
    made = tuple(Group(name=name, files=tuple(without_about(group, choice, skipped))) for name, group in groups.items())
    for group in made:
        check_files(_label(group.name, by_key=by_key), group.files, skipped, by_key=by_key, fields=fields)
    if fields is not None:
        check_fields([file for group in made for file in group.files], fields, faults, skip=skip)
    joined = (
        describe_joined_splits([file for found, file in group if not found.named], _label(name, by_key=by_key))
        for name, group in groups.items()
    )
    return Sources(groups=made, skipped=skipped, warnings=tuple(filter(None, joined)))


def list_file(path: str, stat: os.stat_result, *, name: str, format: str = "auto") -> SourceFile:  # noqa: A002
    """Describe a local file as it is now; `format` as in `Choice`."""
    return sniff(describe(path, stat, name=name, format=format), forced=format != "auto").file


def _places(path: str, stdin: SourceFile | None) -> Sequence[Place]:
    if path == STDIN and stdin is not None:
        return [SpooledPlace(file=stdin)]
    return find_local(path) if is_local(path) else find_stored(path)


def _placed(
    given: Sequence[Source], out: Path, url: str | None, stdin: SourceFile | None, *, by_key: bool
) -> list[tuple[str, Place, Source]]:
    """The places that the sources name, each with its domain."""
    if any(source.fields is not None and source.fields.names_domains != by_key for source in given):
        raise ConfigError(
            "some sources have documents that name their domain, and some have not. Give all of them --domain-key, "
            "--domain-map or --domain-function (also of __file__), or none."
        )
    named: list[tuple[str | None, Place]] = []
    own: dict[int, Source] = {}
    for source in given:
        name, path = split_source(source.typed)
        for place in _places(path, stdin):
            named.append((name, place))
            own[id(place)] = source
    if by_key and any(name for name, _ in named):
        raise ConfigError("--domain-key (or -map, -function) and NAME=PATH both name domains. Leave out one of them.")
    check_apart([place for _, place in named], out, url)
    domains = [(BY_KEY, place) for _, place in named] if by_key else name_domains(named)
    # A place that is not of `own` is a directory below the only SRC.
    return [(domain, place, own.get(id(place), given[0])) for domain, place in domains]


def _label(domain: str, *, by_key: bool) -> str:
    return "the sources" if by_key else f"domain {domain!r}"
