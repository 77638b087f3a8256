"""What to say of files in formats that no reader has: what each kind is, the way in, and how to leave them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from ..files.source_files import split_name
from ..readers.foreign import Foreign

_KINDS_SHOWN = 8
_PATTERNS_SHOWN = 30  # so that the command can be typed; a tree has few more kinds of files


class Refused(NamedTuple):
    """A file, its path below its SRC, and what it is."""

    path: str
    name: str
    foreign: Foreign


def explain_refused(refused: Mapping[str, Sequence[Refused]], taken: Sequence[str]) -> str:
    """Return what is wrong with files, and the options that leave them out, or take them as text.

    Args:
        refused: kind to files.
        taken: names of the files that can be read, which no option may leave out.
    """
    count = sum(map(len, refused.values()))
    lines = [f"{count:,} file{'s are' if count > 1 else ' is'} in no format that convert reads. Nothing was converted."]
    patterns: dict[str, bool] = {}
    for kind, found in list(refused.items())[:_KINDS_SHOWN]:
        (path, _, foreign), *more = found
        others = f" and {len(more):,} more" if more else ""
        lines.append(f"{path}{others}: {kind}. Way in: {foreign.way.replace('FILE', path)}")
    suffixes = {_suffixes(name) for name in taken}
    for each in (file for files in refused.values() for file in files):
        patterns.setdefault(_pattern_of(each.name, suffixes), each.foreign.is_text)
    shown = list(patterns)[:_PATTERNS_SHOWN]
    rest = f" (and {len(patterns) - len(shown):,} more)" if len(patterns) > len(shown) else ""
    remedy = "Leave them out: " + " ".join(f"--exclude '{pattern}'" for pattern in shown) + rest
    if texts := [pattern for pattern, is_text in patterns.items() if is_text][:_PATTERNS_SHOWN]:
        remedy += ". Or take their source as text: " + " ".join(f"--as-text '{pattern}'" for pattern in texts)
    return "\n  ".join([*lines, f"{remedy}."])


def _suffixes(name: str) -> str:
    """The suffixes of a file, with that of its compression: `.txt.gz`."""
    base = name.rpartition("/")[2]
    return base[len(split_name(base)[0]) :]


def _pattern_of(name: str, taken: AbstractSet[str]) -> str:
    """A pattern for a file and its kind; for the file alone if files with its suffixes are taken."""
    suffixes = _suffixes(name)
    return f"*{suffixes}" if suffixes and suffixes not in taken else name
