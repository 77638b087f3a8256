"""SRC arguments → domains and their files, in an order that depends on names alone.

The domain of each SRC:

    NAME=PATH                   the domain NAME
    a file                      a domain named after it, without its suffixes: web.jsonl.gz → web
    a directory                 a domain named after it
    one directory alone that    a domain for each of them
    holds only directories
    with --domain-key FIELD     none: every line of JSONL says its own

Directories are walked recursively, in the order of names; symbolic links are followed. Skipped and counted are hidden
files (a leading dot), files that --include and --exclude leave out, and files that are not text (a NUL byte near the
beginning).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path

from mixstream.errors import ConfigError

from .domain_names import check_domain_name
from .files import DamagedFileError, SourceFile, open_slice, split_name
from .readers import DEFAULT, READERS

BY_KEY = ".by-key"
"""Name of the group of all files if --domain-key is given; no domain can have this name."""

_SUFFIXES_SHOWN = 5
_SNIFFED = 8000  # bytes; git calls a file binary if there is a NUL in the first 8000
_SUPPORTED = f"Sources are {' or '.join(READERS)}, plain, .gz or .zst."


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which files below a directory are read, and as what."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    format: str = "auto"
    """A key of `READERS`; "auto" decides by suffix and content."""


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
    skipped: Counter[tuple[str, str]]


def find_sources(sources: Sequence[str], *, out: Path, choice: Choice, by_key: bool) -> Sources:
    """List the files of the SRC arguments; only files with an unknown suffix, and .json files, are opened.

    Raises:
        ConfigError: a path does not exist, two domains have one name, a domain has no file, or a SRC contains another.
    """
    if not sources:
        raise ConfigError("no SRC: name at least one file or directory to convert.")
    named = [_split_name(source) for source in sources]
    if by_key and any(given for given, _ in named):
        raise ConfigError("--domain-key and NAME=PATH both name domains. Leave out one of them.")
    _check_apart([path for _, path in named], out)
    skipped: Counter[tuple[str, str]] = Counter()
    found: dict[str, list[SourceFile]] = {}
    for name, path in [(BY_KEY, path) for _, path in named] if by_key else _name_domains(named):
        if name in found and not by_key:
            raise ConfigError(f"two SRC have the domain {name!r}. Give one of them another name: NAME={path}")
        found.setdefault(name, []).extend(_list_files(path, choice, skipped))
    for name, files in found.items():
        _check_group(name, files, skipped, by_key=by_key)
    groups = tuple(Group(name=name, files=tuple(files)) for name, files in found.items())
    return Sources(groups=groups, skipped=skipped)


def describe_skipped(skipped: Counter[tuple[str, str]]) -> str:
    """`3 hidden, 14 not text (.so 12, .png 2)`."""
    parts: list[str] = []
    for reason in dict.fromkeys(reason for reason, _ in skipped):
        kinds = Counter({kind: count for (why, kind), count in skipped.items() if why == reason})
        named = [f"{kind} {count:,}" for kind, count in kinds.most_common(_SUFFIXES_SHOWN) if kind]
        named += [f"{len(kinds) - _SUFFIXES_SHOWN} other suffixes"] if len(kinds) > _SUFFIXES_SHOWN else []
        parts.append(f"{kinds.total():,} {reason}" + (f" ({', '.join(named)})" if named else ""))
    return ", ".join(parts)


# -- naming --------------------------------------------------------------------------------------------------------


def _split_name(source: str) -> tuple[str | None, Path]:
    """Split `NAME=PATH`; the name is None for `PATH`. Text with a slash is never a name: `./a=b` is a path."""
    name, sign, path = source.partition("=")
    if not sign or "/" in name:
        return None, Path(source)
    if not path:
        raise ConfigError(f"SRC {source!r}: no path follows the name. Write NAME=PATH, or ./{source} for a path.")
    return name, Path(path)


def _check_apart(paths: Sequence[Path], out: Path) -> None:
    """Refuse a SRC that would be read twice, and an output directory that would be read as a source."""
    target = out.resolve()
    resolved: list[tuple[tuple[str, ...], Path]] = []
    for path in paths:
        if not path.exists():
            raise ConfigError(f"SRC {path}: there is no such file or directory.")
        here = path.resolve()
        if target.is_relative_to(here):
            raise ConfigError(
                f"--out {out} lies inside SRC {path}, and would be read as a source. Choose another directory."
            )
        resolved.append((here.parts, path))
    # Sorted by their parts, a directory comes right before the paths inside it: comparing neighbours covers all pairs.
    for (above, path), (here, other) in pairwise(sorted(resolved)):
        if here[: len(above)] == above:
            raise ConfigError(f"SRC {other} would be read twice: it lies inside SRC {path}. Leave out one of them.")


def _name_domains(named: Sequence[tuple[str | None, Path]]) -> list[tuple[str, Path]]:
    """Domain and path of each SRC, by the table at the top of this file."""
    (name, path), *others = named
    if name is None and not others and path.is_dir():
        children = [child for child in sorted(path.iterdir()) if not child.name.startswith(".")]
        if children and all(child.is_dir() for child in children):
            named = [(None, child) for child in children]
    domains: list[tuple[str, Path]] = []
    for given, at in named:
        name = given if given is not None else at.resolve().name if at.is_dir() else split_name(at.name)[0]
        try:
            domains.append((check_domain_name(name), at))
        except ConfigError as error:
            error.add_note(f"Name the domain yourself: NAME={at}")
            raise
    seen: dict[str, str] = {}
    for name, _ in domains:
        if seen.setdefault(name.casefold(), name) != name:
            raise ConfigError(
                f"domains {seen[name.casefold()]!r} and {name!r} would be one directory on file systems where case is "
                f"ignored. Give one of them another name: NAME=PATH"
            )
    return domains


def _check_group(name: str, files: list[SourceFile], skipped: Counter[tuple[str, str]], *, by_key: bool) -> None:
    label = "the sources" if by_key else f"domain {name!r}"
    if not files:
        seen = f" (skipped: {describe_skipped(skipped)})" if skipped else ""
        raise ConfigError(f"{label}: no file to convert{seen}. {_SUPPORTED}")
    stray = next((file for file in files if not READERS[file.format].has_fields), None) if by_key else None
    if stray is not None:
        raise ConfigError(
            f"{stray.path}: a file of format {stray.format} has no fields, so --domain-key cannot name its domain. "
            f"Leave it out with --exclude, or pass --format jsonl if its lines are JSON."
        )


# -- listing -------------------------------------------------------------------------------------------------------


def list_file(path: str, stat: os.stat_result, *, name: str, format: str = "auto") -> SourceFile:  # noqa: A002
    """Describe a file as it is now; `format` as in `Choice`.

    Paths are plain strings here: a corpus may have millions of files, and each start lists them all.
    """
    _, suffix, compression = split_name(path)
    forced = format != "auto"
    file = SourceFile(
        path=path,
        name=name,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        format=format if forced else _format_of(suffix) or DEFAULT,
        compression=compression,
    )
    return file if forced or READERS[file.format].accepts(file) else replace(file, format=DEFAULT)


def _format_of(suffix: str) -> str | None:
    """The first format whose reader has this suffix; None if it is unknown."""
    return next((name for name, reader in READERS.items() if suffix in reader.suffixes), None)


def _is_binary(file: SourceFile) -> bool:
    """Whether there is a NUL byte near the beginning of a file. Files with a known suffix are not opened."""
    if _format_of(split_name(file.path)[1]) is not None:
        return False
    try:
        with open_slice(file.whole) as stream:
            return b"\0" in stream.read(_SNIFFED)
    except DamagedFileError:
        return False  # the reader meets the damage again and reports it


def _list_files(path: Path, choice: Choice, skipped: Counter[tuple[str, str]]) -> Iterator[SourceFile]:
    if not path.is_dir():
        if not path.is_file():
            raise ConfigError(f"SRC {path}: neither a file nor a directory.")
        file = list_file(str(path.absolute()), path.stat(), name=path.name, format=choice.format)
        if _is_binary(file):
            raise ConfigError(f"SRC {path}: not text (it holds a NUL byte). {_SUPPORTED}")
        yield file
        return
    for entry, name in _walk(str(path.absolute()), "", skipped, ()):
        if not _is_chosen(name, choice):
            skipped["left out by --include or --exclude", ""] += 1
            continue
        file = list_file(entry.path, entry.stat(), name=name, format=choice.format)
        if _is_binary(file):
            skipped["not text", split_name(name)[1] or "no suffix"] += 1
        else:
            yield file


def _walk(
    directory: str, prefix: str, skipped: Counter[tuple[str, str]], above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield files below `directory` and their names below the SRC. A link to a directory above is not followed."""
    here = Path(directory).stat()
    if (here.st_dev, here.st_ino) in above:
        skipped["links to a directory above", ""] += 1
        return
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            skipped["hidden", ""] += 1
        elif entry.is_dir():
            below = (*above, (here.st_dev, here.st_ino))
            yield from _walk(entry.path, f"{prefix}{entry.name}/", skipped, below)
        elif entry.is_file():
            yield entry, prefix + entry.name
        else:
            skipped["broken links or devices", ""] += 1


def _is_chosen(name: str, choice: Choice) -> bool:
    """Whether a file matches the patterns. A pattern with a slash is for the path below SRC, else for the name."""

    def matches(patterns: Iterable[str]) -> bool:
        base = name.rpartition("/")[2]
        return any(fnmatchcase(name if "/" in pattern else base, pattern) for pattern in patterns)

    return (not choice.include or matches(choice.include)) and not matches(choice.exclude)
