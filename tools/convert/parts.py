"""Groups of files → parts, the units of work: a part is converted, repeated and lost as a whole.

Invariant: parts depend only on the names, sizes and order of the sources, never on workers or earlier runs. So any
number of workers writes the same shards, and a domain's shards do not change when another domain is added.

A part is about a sixteenth of its group, from 8 MiB (smaller parts make small shards) to 256 MiB (larger parts make a
restart repeat more). An uncompressed file whose format is divisible is cut where needed; other files stay whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .documents.fields import Fields
from .files.source_files import Slice, SourceFile
from .readers import READERS
from .sources.sources import Group

_LEAST, _MOST = 8 << 20, 256 << 20
_PARTS_IN_A_GROUP = 16
_GROWTH = 4  # about so many bytes of text in a byte of compressed text


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Slices of a group's files that are converted together."""

    group: str
    number: int
    slices: tuple[Slice, ...]

    @property
    def name(self) -> str:
        """Name of the part's directories and files."""
        return f"part-{self.number:05}"

    @property
    def bytes(self) -> int:
        """Size of the slices as stored."""
        return sum(piece.stop - piece.start for piece in self.slices)


def plan_parts(group: Group, part_bytes: int | None = None, fields: Fields | None = None) -> list[Part]:
    """Cut a group into parts of at most `part_bytes` bytes of text; a larger file that cannot be cut is one part.

    Without `fields` a text file is one document, as if there were no separator.
    """
    if part_bytes is None:
        part_bytes = min(max(sum(map(_weight, group.files)) // _PARTS_IN_A_GROUP, _LEAST), _MOST)
    parts: list[list[Slice]] = [[]]
    weight = 0
    for file in group.files:
        for piece in _slices(file, part_bytes, fields):
            size = (piece.stop - piece.start) * (_GROWTH if file.compression else 1)
            if parts[-1] and weight + size > part_bytes:
                parts.append([])
                weight = 0
            parts[-1].append(piece)
            weight += size
    return [Part(group=group.name, number=at, slices=tuple(slices)) for at, slices in enumerate(parts)]


def _weight(file: SourceFile) -> int:
    return file.size * (_GROWTH if file.compression else 1)


def is_cut_by_separator(part: Part) -> bool:
    """Whether a part has a piece of a text file, which only a separator allows."""
    return any(piece != piece.file.whole and READERS[piece.file.format].separable for piece in part.slices)


def _slices(file: SourceFile, part_bytes: int, fields: Fields | None) -> Iterator[Slice]:
    reader = READERS[file.format]
    separated = fields is not None and bool((file.fields or fields).separator)
    divisible = (reader.divisible or (reader.separable and separated)) and not file.compression
    pieces = max(-(-file.size // part_bytes), 1) if divisible else 1
    for at in range(pieces):
        yield Slice(file=file, start=file.size * at // pieces, stop=file.size * (at + 1) // pieces)
