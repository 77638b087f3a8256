"""SRC arguments → domains and their files, in an order that depends on names alone.

What a SRC says of its domain:

    NAME=PATH                   the domain NAME
    a file                      a domain named after it, without its suffixes: web.jsonl.gz → web
    a directory                 a domain named after it
    one directory alone that    a domain for each of them
    holds only directories
    with --domain-key FIELD     none: every line of JSONL says its own

Directories are walked to the bottom, in the order of names; symbolic links are followed. Passed over, and counted: what
is hidden (a leading dot), what --include and --exclude say, what is not text (a NUL byte near the beginning).

Invariant: a name is never changed to make it fit. A name that cannot be a directory everywhere is refused.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Literal

from mixstream.errors import ConfigError

from .files import SourceFile, is_binary, list_file, split_name

BY_KEY = ".by-key"
"""Name of the one group of files whose lines say their own domain; no domain can have it."""

_UNSAFE = re.compile(r"""[\x00-\x1f\x7f/\\:*?"<>|#%]""")
_MAX_NAME_BYTES = 200
_KINDS_TOLD = 5
_RESERVED = frozenset({"domains.json", "con", "prn", "aux", "nul"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which files below a directory are read, and as what."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    format: Literal["auto", "text", "jsonl"] = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Files that are converted together: those of one domain, or with `--domain-key` all of them (`BY_KEY`)."""

    name: str
    files: tuple[SourceFile, ...]

    @property
    def bytes(self) -> int:
        """Size of the files as they are stored."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """All groups, in the order of the command line, and how many files were passed over, by reason and suffix."""

    groups: tuple[Group, ...]
    passed_over: Counter[tuple[str, str]]


def find_sources(sources: Sequence[str], *, out: Path, choice: Choice, by_key: bool) -> Corpus:
    """Look through the SRC arguments; of the files only those of unknown suffix are opened.

    Raises:
        ConfigError: a path that is not there, two domains of one name, a domain without a file, one SRC inside another.
    """
    if not sources:
        raise ConfigError("no SRC: name at least one file or directory to convert.")
    named = [_split_name(source) for source in sources]
    if by_key and any(given for given, _ in named):
        raise ConfigError("--domain-key and NAME=PATH both name domains. Leave out the NAME= or the --domain-key.")
    _check_apart([path for _, path in named], out)
    passed_over: Counter[tuple[str, str]] = Counter()
    found: dict[str, list[SourceFile]] = {}
    for name, path in [(BY_KEY, path) for _, path in named] if by_key else _name_domains(named):
        if name in found and not by_key:
            raise ConfigError(f"two SRC make the domain {name!r}. Name one of them otherwise: NAME={path}")
        found.setdefault(name, []).extend(_list_files(path, choice, passed_over))
    for name, files in found.items():
        _check_group(name, files, passed_over, by_key=by_key)
    groups = tuple(Group(name=name, files=tuple(files)) for name, files in found.items())
    return Corpus(groups=groups, passed_over=passed_over)


def check_domain_name(name: str) -> str:
    """Return `name` if it can be a directory on every file system and part of a URL; raises ConfigError."""
    fault = None
    if not name or name[0] in ".- " or name[-1] in ". ":
        fault = "it is empty, or begins or ends with a dot, a space or a hyphen"
    elif found := _UNSAFE.search(name):
        fault = f"it holds {found.group()!r}"
    elif not name.isprintable() or unicodedata.normalize("NFC", name) != name:
        fault = "it holds a character that not all file systems keep"
    elif len(name.encode()) > _MAX_NAME_BYTES:
        fault = f"it is longer than {_MAX_NAME_BYTES} bytes"
    elif name.lower() in _RESERVED:
        fault = "it is reserved"
    if fault:
        raise ConfigError(f"{name!r} cannot be the name of a domain, which is also a directory: {fault}.")
    return name


def describe_passed_over(passed_over: Counter[tuple[str, str]]) -> str:
    """`3 hidden, 14 not text (.so 12, .png 2)`."""
    told: list[str] = []
    for reason in dict.fromkeys(reason for reason, _ in passed_over):
        kinds = Counter({kind: count for (why, kind), count in passed_over.items() if why == reason})
        named = [f"{kind} {count:,}" for kind, count in kinds.most_common(_KINDS_TOLD) if kind]
        named += [f"{len(kinds) - _KINDS_TOLD} other suffixes"] if len(kinds) > _KINDS_TOLD else []
        told.append(f"{kinds.total():,} {reason}" + (f" ({', '.join(named)})" if named else ""))
    return ", ".join(told)


# -- naming --------------------------------------------------------------------------------------------------------


def _split_name(source: str) -> tuple[str | None, Path]:
    """`NAME=PATH` or `PATH`. What stands before the sign is a path if it holds a slash: `./a=b` is a file."""
    name, sign, path = source.partition("=")
    if not sign or "/" in name:
        return None, Path(source)
    if not path:
        raise ConfigError(f"SRC {source!r}: no path follows the name. Write NAME=PATH, or ./{source} for a path.")
    return name, Path(path)


def _check_apart(paths: Sequence[Path], out: Path) -> None:
    """No SRC is read twice, and the output is not read at all."""
    target = out.resolve()
    resolved: list[tuple[tuple[str, ...], Path]] = []
    for path in paths:
        if not path.exists():
            raise ConfigError(f"SRC {path}: there is no such file or directory.")
        here = path.resolve()
        if target.is_relative_to(here):
            raise ConfigError(
                f"--out {out} lies inside SRC {path}, and would be read as a source. Choose another place."
            )
        resolved.append((here.parts, path))
    # Sorted by their parts, a directory stands right before what lies in it: neighbours tell of all pairs.
    for (above, path), (here, other) in pairwise(sorted(resolved)):
        if here[: len(above)] == above:
            raise ConfigError(f"SRC {other} would be read twice, as it lies in SRC {path}. Leave one of them out.")


def _name_domains(named: Sequence[tuple[str | None, Path]]) -> list[tuple[str, Path]]:
    """Domain and path of each SRC, after the table at the top."""
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
                f"domains {seen[name.casefold()]!r} and {name!r} are one directory where case is ignored."
            )
    return domains


def _check_group(name: str, files: list[SourceFile], passed_over: Counter[tuple[str, str]], *, by_key: bool) -> None:
    label = "the sources" if by_key else f"domain {name!r}"
    if not files:
        seen = f" (passed over: {describe_passed_over(passed_over)})" if passed_over else ""
        raise ConfigError(f"{label}: no file to convert{seen}. Sources are text and JSONL, plain, .gz or .zst.")
    stray = next((file for file in files if file.format != "jsonl"), None) if by_key else None
    if stray is not None:
        raise ConfigError(
            f"{stray.path}: text has no fields, so --domain-key cannot name its domain. "
            f"Leave it out with --exclude, or say --format jsonl if its lines are JSON."
        )


# -- listing -------------------------------------------------------------------------------------------------------


def _list_files(path: Path, choice: Choice, passed_over: Counter[tuple[str, str]]) -> Iterator[SourceFile]:
    if not path.is_dir():
        if not path.is_file():
            raise ConfigError(f"SRC {path}: neither a file nor a directory.")
        file = list_file(str(path.absolute()), path.stat(), name=path.name, forced=choice.format)
        if is_binary(file):
            raise ConfigError(
                f"SRC {path}: not text (it holds a NUL byte). Sources are text and JSONL, plain, .gz or .zst."
            )
        yield file
        return
    for entry, name in _walk(str(path.absolute()), "", passed_over, ()):
        if not _is_chosen(name, choice):
            passed_over["left out by --include or --exclude", ""] += 1
            continue
        file = list_file(entry.path, entry.stat(), name=name, forced=choice.format)
        if is_binary(file):
            passed_over["not text", split_name(name)[1] or "no suffix"] += 1
        else:
            yield file


def _walk(
    directory: str, prefix: str, passed_over: Counter[tuple[str, str]], above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Files below `directory`, with their names below the SRC. A link back to a directory above is not followed."""
    here = Path(directory).stat()
    if (here.st_dev, here.st_ino) in above:
        passed_over["links to a directory above", ""] += 1
        return
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            passed_over["hidden", ""] += 1
        elif entry.is_dir():
            below = (*above, (here.st_dev, here.st_ino))
            yield from _walk(entry.path, f"{prefix}{entry.name}/", passed_over, below)
        elif entry.is_file():
            yield entry, prefix + entry.name
        else:
            passed_over["broken links or devices", ""] += 1


def _is_chosen(name: str, choice: Choice) -> bool:
    """Whether the patterns let a file in. A pattern with a slash is for the path below SRC, else for the name."""

    def matches(patterns: Iterable[str]) -> bool:
        base = name.rpartition("/")[2]
        return any(fnmatchcase(name if "/" in pattern else base, pattern) for pattern in patterns)

    return (not choice.include or matches(choice.include)) and not matches(choice.exclude)
