"""Files below a SRC directory or of a pattern, in the order of their names, and what of them is skipped and why.

Rules. A directory is walked to the bottom. What lies around data and is none is skipped: hidden files, marks and
checksums of other programs, backups. Symbolic links below a directory are not followed: what they lead to inside it is
read where it lies, and what they lead to elsewhere was not named. Whatever is skipped is counted.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from mixstream.errors import ConfigError

Skipped = Counter[tuple[str, str]]
"""How many files were skipped: (reason, kind) → number; the kind is a suffix or a name, or empty."""

_AROUND_DATA = re.compile(
    r"__MACOSX|__pycache__|_temporary|_delta_log|lost\+found|\$RECYCLE\.BIN|Thumbs\.db|desktop\.ini|Icon\r"
    r"|_SUCCESS|_(common_)?metadata|_(committed|started)_.*"
    r"|.*\.(crc|md5|sha1|sha256|sha512|sig|asc|bak|swp|swo)|.*~|(md5|sha(1|224|256|384|512))sums?(\.txt)?",
    re.IGNORECASE,
)
_PATTERN = re.compile(r"[*?\[]")
_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which files are read, and as what.

    Attributes:
        include: in directories, only files that match one of these.
        exclude: no files that match one of these.
        format: a key of `READERS`, for every file; "auto" decides by content and suffix.
        as_text: files that match one of these are text, whatever they hold.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    format: str = "auto"
    as_text: tuple[str, ...] = ()

    def takes(self, name: str, *, named: bool = False) -> bool:
        """Whether a file with this path below its SRC is read; one that is `named` need not match `include`."""
        return (named or not self.include or _matches(name, self.include)) and not _matches(name, self.exclude)

    def is_text(self, name: str) -> bool:
        """Whether the file is text, whatever it holds."""
        return _matches(name, self.as_text)


def walk(root: Path, skipped: Skipped) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield the files below a directory, each with its path below it, with `/`."""
    yield from _walk(str(root.absolute()), "", os.path.realpath(root), skipped)


def expand(pattern: str) -> list[Path]:
    """Return what a path names: itself if it exists, else what matches it as a pattern, in the order of names.

    `*`, `?` and `[…]` match inside a name, `**` any directories; as in a shell, `*` does not match a leading dot.

    Raises:
        ConfigError: there is nothing.
    """
    path = Path(pattern).expanduser() if pattern.startswith("~") else Path(pattern)
    if path.exists():
        return [path]
    if not _PATTERN.search(pattern):
        raise ConfigError(f"SRC {path}: there is no such file or directory.")
    base, wild = Path(), list(path.parts)
    while wild and (not _PATTERN.search(wild[0]) or (base / wild[0]).exists()):
        base /= wild.pop(0)
    found = sorted(base.glob("/".join(wild)), key=lambda match: match.parts) if base.is_dir() else []
    asked = any(part.startswith(".") for part in wild)
    matches: list[Path] = []
    for match in found:
        inside = matches and match.is_relative_to(matches[-1])  # the directory that holds it comes first
        if not inside and (asked or not _is_around(match.relative_to(base).parts)):
            matches.append(match)
    if not matches:
        raise ConfigError(f"SRC {pattern}: no file below {base} matches this pattern.")
    return matches


def describe_skipped(skipped: Skipped) -> str:
    """`3 hidden, 14 not text (.so 12, .png 2)`."""
    parts: list[str] = []
    for reason in dict.fromkeys(reason for reason, _ in skipped):
        kinds = Counter({kind: count for (why, kind), count in skipped.items() if why == reason})
        named = [f"{kind} {count:,}" for kind, count in kinds.most_common(_SHOWN) if kind]
        named += [f"{len(kinds) - _SHOWN} others"] if len(kinds) > _SHOWN else []
        parts.append(f"{kinds.total():,} {reason}" + (f" ({', '.join(named)})" if named else ""))
    return ", ".join(parts)


def _walk(directory: str, prefix: str, root: str, skipped: Skipped) -> Iterator[tuple[os.DirEntry[str], str]]:
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        name = prefix + entry.name
        if entry.name.startswith("."):
            skipped["hidden", ""] += 1
        elif _AROUND_DATA.fullmatch(entry.name):
            skipped["marks, checksums or backups", ""] += 1
        elif entry.is_symlink():
            skipped[_link(entry.path, root), name] += 1
        elif entry.is_dir():
            yield from _walk(entry.path, f"{name}/", root, skipped)
        elif entry.is_file():
            yield entry, name
        else:
            skipped["devices or pipes", name] += 1


def _link(path: str, root: str) -> str:
    """Why a link is skipped."""
    target = os.path.realpath(path)
    if not os.path.exists(target):  # noqa: PTH110  # paths are strings here: a corpus may have millions of files
        return "broken links"
    inside = target == root or target.startswith(f"{root}{os.sep}")
    return "links inside the source" if inside else "links out of the source, which are not followed"


def _is_around(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") or _AROUND_DATA.fullmatch(part) for part in parts)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file matches a pattern. One with a slash is for the path below SRC, else for the name."""
    base = name.rpartition("/")[2]
    return any(fnmatchcase(name if "/" in pattern else base, pattern) for pattern in patterns)
