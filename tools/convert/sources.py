"""SRC arguments → domains and their files, in an order that depends on names alone.

The domain of each SRC:

    NAME=PATH                   the domain NAME; several SRC with one NAME are one domain
    a file                      a domain named after it, without its suffixes: web.jsonl.gz → web
    a directory                 a domain named after it
    one directory alone that    a domain for each of them
    holds only directories
    with --domain-key FIELD     none: every document of JSON says its own

PATH may be a pattern (listing.py). What can be known before anything is converted is refused here: formats that no
reader has, fields that no document has, files that would be read for two domains.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mixstream.errors import ConfigError
from mixstream.storage import is_local, local_path, redact

from .domain_names import check_domain_name
from .files import SourceFile, split_name
from .listing import Choice, Skipped, describe_skipped, expand, walk
from .readers import READERS, Fields
from .refused import Refused, explain_refused
from .sniff import field_fault, sniff

BY_KEY = ".by-key"
"""Name of the group of all files if --domain-key is given; no domain of the command line can have this name."""

_ABOUT = re.compile(
    r"(readme|licen[sc]e|copying|notice|citation|changelog|changes|authors|contributors|datasheet|(data(set)?|model)_?card)"
    r"([._-].*)?",
    re.IGNORECASE,
)
_SUPPORTED = "Sources are text, JSON Lines or JSON arrays, plain, .gz, .zst, .bz2 or .xz."


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
    """All groups, in the order of the command line, and how many files were skipped, by reason and suffix."""

    groups: tuple[Group, ...]
    skipped: Skipped


class _Found(NamedTuple):
    """A file that a SRC names or holds."""

    domain: str
    path: str
    name: str
    stat: os.stat_result
    named: bool
    """Whether it is a SRC itself, so that it cannot be skipped."""


def find_sources(
    sources: Sequence[str], *, out: Path, choice: Choice, by_key: bool, fields: Fields | None = None, skip: bool = False
) -> Sources:
    """List the files of the SRC arguments, and look at the beginning of each.

    Args:
        sources: the SRC arguments.
        out: the output directory, which cannot be a source.
        choice: which files are read, and as what.
        by_key: whether a field names the domain.
        fields: what documents have; the first ones are checked. None for no check.
        skip: whether documents that lack a field are skipped; then it is enough if some file's have it.

    Raises:
        ConfigError: a path does not exist, a file holds no documents, two domains have one name, a domain has no file,
            a file belongs to two domains, or no document has the fields.
    """
    if not sources:
        raise ConfigError("no SRC: name at least one file or directory to convert.")
    skipped: Skipped = Counter()
    named, matched = [], set[Path]()
    for name, pattern in map(_split_name, sources):
        paths = expand(pattern)
        named += [(name, path) for path in paths]
        matched |= {path for path in paths if str(path) != pattern}
    if by_key and any(name for name, _ in named):
        raise ConfigError("--domain-key and NAME=PATH both name domains. Leave out one of them.")
    _check_apart([path for _, path in named], out)
    domains = [(BY_KEY, path) for _, path in named] if by_key else _name_domains(named)
    files = _sniffed(_once(_files(domains, matched, choice, skipped), skipped), choice, skipped)
    groups: dict[str, list[tuple[_Found, SourceFile]]] = {name: [] for name, _ in domains}
    for found, file in files:
        groups[found.domain].append((found, file))
    made = tuple(
        Group(name=name, files=tuple(_without_about(group, choice, skipped))) for name, group in groups.items()
    )
    for group in made:
        _check_group(group, skipped, by_key=by_key)
    if fields is not None:
        _check_fields([file for group in made for file in group.files], fields, skip=skip)
    return Sources(groups=made, skipped=skipped)


def list_file(path: str, stat: os.stat_result, *, name: str, format: str = "auto") -> SourceFile:  # noqa: A002
    """Describe a file as it is now; `format` as in `Choice`.

    Paths are plain strings here: a corpus may have millions of files, and each start lists them all.
    """
    return sniff(_described(path, stat, name, format), forced=format != "auto").file


# -- naming --------------------------------------------------------------------------------------------------------


def _split_name(source: str) -> tuple[str | None, str]:
    """Split `NAME=PATH`; the name is None for `PATH`. What a directory begins is no name: `./a=b` is a path."""
    name, sign, path = source.partition("=")
    given, path = (name, path) if sign and not _is_path(name, source) else (None, source)
    if not path:
        raise ConfigError(f"SRC {source!r}: no path follows the name. Write NAME=PATH, or ./{source} for a path.")
    if not is_local(path):
        raise ConfigError(
            f"SRC {redact(path)}: sources in a store cannot be read yet, only local files. Copy it to a directory "
            "first (`aws s3 sync`, `gcloud storage rsync`, `hf download --local-dir`), and give that."
        )
    if given is not None and check_domain_name(given) == BY_KEY:
        raise ConfigError(f"SRC {source!r}: a domain cannot be called {BY_KEY!r}. Give it another name.")
    return given, str(local_path(path))


def _is_path(name: str, source: str) -> bool:
    """Whether what stands before `=` is the beginning of a path, as in `./a=b` and `data/lang=en`, and not a domain."""
    head = name.rpartition("/")[0]
    return "/" in name and (
        Path(head).expanduser().is_dir() or name.startswith((".", "~", "/")) or Path(source).exists()
    )


def _check_apart(paths: Sequence[Path], out: Path) -> None:
    """Refuse an output directory that would be read as a source."""
    target = out.resolve()
    for path in paths:
        if not path.exists():
            raise ConfigError(f"SRC {path}: it is a link to a file that does not exist.")
        if target.is_relative_to(path.resolve()):
            raise ConfigError(
                f"--out {out} lies inside SRC {path}, and would be read as a source. Choose another directory."
            )


def _name_domains(named: Sequence[tuple[str | None, Path]]) -> list[tuple[str, Path]]:
    """Domain and path of each SRC, by the table at the top of this file."""
    (name, path), *others = named
    if name is None and not others and path.is_dir():
        children = [child for child in sorted(path.iterdir()) if not child.name.startswith(".")]
        if children and all(child.is_dir() and not child.is_symlink() for child in children):
            named = [(None, child) for child in children]
    domains: list[tuple[str, Path]] = []
    unnamed: dict[str, Path] = {}
    for given, at in named:
        name = given if given is not None else at.resolve().name if at.is_dir() else split_name(at.name)[0]
        if given is None and unnamed.setdefault(name, at) is not at:
            raise ConfigError(
                f"SRC {unnamed[name]} and {at} would both be the domain {name!r}. Give one of them another name, "
                f"OTHER={at}, or say that they belong together: {name}={unnamed[name]} {name}={at}"
            )
        domains.append((check_domain_name(name), at))
    if both := [name for name, _ in named if name is not None and name in unnamed]:
        at = unnamed[both[0]]
        raise ConfigError(f"SRC {at} would be the domain {both[0]!r} too. If they belong together: {both[0]}={at}")
    seen: dict[str, str] = {}
    for name, _ in domains:
        if seen.setdefault(name.casefold(), name) != name:
            raise ConfigError(
                f"domains {seen[name.casefold()]!r} and {name!r} would be one directory on file systems where case is "
                f"ignored. Give one of them another name: NAME=PATH"
            )
    return domains


# -- files ---------------------------------------------------------------------------------------------------------


def _files(
    domains: Sequence[tuple[str, Path]], matched: AbstractSet[Path], choice: Choice, skipped: Skipped
) -> Iterator[_Found]:
    """Yield the files of each SRC, as they are listed; those of `matched` were found by a pattern."""
    for domain, path in domains:
        if path.is_file():
            named = path not in matched
            if choice.takes(path.name, named=named):
                yield _Found(domain, str(path.absolute()), path.name, path.stat(), named)
            else:
                skipped["left out by --include or --exclude", ""] += 1
        elif not path.is_dir():
            raise ConfigError(f"SRC {path}: neither a file nor a directory.")
        else:
            for entry, name in walk(path, skipped):
                if choice.takes(name):
                    yield _Found(domain, entry.path, name, entry.stat(), False)
                else:
                    skipped["left out by --include or --exclude", ""] += 1


def _once(files: Iterator[_Found], skipped: Skipped) -> Iterator[_Found]:
    """Yield each file once, however many SRC and links lead to it. Raises ConfigError if they are different domains."""
    first: dict[tuple[int, int], _Found] = {}
    for found in files:
        other = first.setdefault((found.stat.st_dev, found.stat.st_ino), found)
        if other is found or not _is_same(found, other):
            yield found
        elif found.domain == other.domain:
            skipped["named twice, and read once", ""] += 1
        else:
            also = "" if found.path == other.path else f", as {found.path},"
            raise ConfigError(
                f"{other.path} would be read twice: in domain {other.domain!r}, and{also} in domain {found.domain!r}. "
                "Leave out one SRC, or --exclude the file."
            )


def _is_same(one: _Found, other: _Found) -> bool:
    """Whether two files are one. Equal inodes alone do not say it: some network file systems use them again."""
    if os.path.realpath(one.path) == os.path.realpath(other.path):
        return True
    return one.stat.st_nlink > 1 and os.path.samefile(one.path, other.path)  # noqa: PTH121  # paths are strings here


def _described(path: str, stat: os.stat_result, name: str, format_: str) -> SourceFile:
    return SourceFile(
        path=path,
        name=name,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        format=format_,
        compression=split_name(path)[2],
    )


def _sniffed(files: Iterator[_Found], choice: Choice, skipped: Skipped) -> list[tuple[_Found, SourceFile]]:
    """The files that a reader can read. Raises ConfigError, once all were looked at, if others may hold documents."""
    taken: list[tuple[_Found, SourceFile]] = []
    refused: dict[str, list[Refused]] = {}
    for found in files:
        if not found.stat.st_size and not found.named:
            skipped["empty", split_name(found.name)[1]] += 1
            continue
        described = _described(found.path, found.stat, found.name, choice.format)
        file, foreign = sniff(described, forced=choice.format != "auto", as_text=choice.is_text(found.name))
        if foreign is None:
            taken.append((found, file))
        elif foreign.data or found.named:
            refused.setdefault(foreign.name, []).append(Refused(found.path, found.name, foreign))
        else:
            skipped["not text", split_name(found.name)[1] or "no suffix"] += 1
    if refused:
        raise ConfigError(explain_refused(refused, [found.name for found, _ in taken]))
    return taken


def _without_about(
    group: Sequence[tuple[_Found, SourceFile]], choice: Choice, skipped: Skipped
) -> Iterator[SourceFile]:
    """Yield the files of a group, without a README and its kind where the group is data and not a tree of texts."""
    about = {
        id(found)
        for found, file in group
        if not found.named
        and not READERS[file.format].has_fields
        and _ABOUT.fullmatch(file.name.rpartition("/")[2])
        and not choice.is_text(found.name)
    }
    others = [file for found, file in group if id(found) not in about]
    is_data = all(READERS[file.format].has_fields for file in others)
    if not others:  # what it describes was no text
        is_data = any(reason == "not text" for reason, _ in skipped)
    for found, file in group:
        if is_data and id(found) in about:
            skipped["about the data", file.name] += 1
        else:
            yield file


def _check_group(group: Group, skipped: Skipped, *, by_key: bool) -> None:
    label = "the sources" if by_key else f"domain {group.name!r}"
    if not group.files:
        seen = f" (skipped: {describe_skipped(skipped)})" if skipped else ""
        links = (
            " Name the targets of links as SRC, or as a pattern." if any("links" in why for why, _ in skipped) else ""
        )
        raise ConfigError(f"{label}: no file to convert{seen}.{links} {_SUPPORTED}")
    stray = next((file for file in group.files if not READERS[file.format].has_fields), None) if by_key else None
    if stray is not None:
        raise ConfigError(
            f"{stray.path}: a file of format {stray.format} has no fields, so --domain-key cannot name its domain. "
            f"Leave it out with --exclude, or pass --format jsonl if its lines are JSON."
        )


def _check_fields(files: Sequence[SourceFile], fields: Fields, *, skip: bool) -> None:
    """Refuse fields that the first documents do not have: of any file, or with `skip` of all files."""
    fault = None
    for file in files:
        if not READERS[file.format].has_fields:
            continue
        found = field_fault(file, fields)
        if found is None and skip:
            return
        if found is not None and fault is None:
            fault = f"{file.path}: {found}"
            if not skip:
                break
    if fault is not None:
        raise ConfigError(
            f"{fault}. Give the field with the text as --text-key and that with the domain as --domain-key; or leave "
            "the file out with --exclude, or take it as text with --as-text. Nothing was converted."
        )
