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
from pathlib import Path

from mixstream.errors import ConfigError

Skipped = Counter[tuple[str, str]]
"""How many files were skipped: (reason, kind) → number; the kind is a suffix or a name, or empty."""

_AROUND_DATA = re.compile(
    r"__MACOSX|__pycache__|_temporary|lost\+found|\$RECYCLE\.BIN|Thumbs\.db|desktop\.ini|Icon\r"
    r"|_SUCCESS|_(common_)?metadata|_(committed|started)_.*"
    r"|.*\.(crc|md5|sha1|sha256|sha512|sig|asc|bak|swp|swo)|.*~|(md5|sha(1|224|256|384|512))sums?(\.txt)?",
    re.IGNORECASE,
)
DELTA_LOG = "_delta_log"
"""A directory beside the tables of Delta Lake, which says which of them count."""
_PATTERN = re.compile(r"[*?\[]")
_SHOWN = 5


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
        if not inside and (asked or not is_around_data(match.relative_to(base).parts)):
            matches.append(match)
    if not matches:
        raise ConfigError(f"SRC {pattern}: no file below {base} matches this pattern.")
    return matches


def why_around(part: str) -> str:
    """Why a file or directory of this name is skipped; empty if its name says nothing against it."""
    if part.startswith("."):
        return "hidden"
    return "marks, checksums or backups" if _AROUND_DATA.fullmatch(part) else ""


def is_around_data(parts: Iterable[str]) -> bool:
    """Whether a path below a SRC has a part that is skipped."""
    return any(part == DELTA_LOG or why_around(part) for part in parts)


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
        if why := why_around(entry.name):
            skipped[why, ""] += 1
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
