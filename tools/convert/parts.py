"""Groups of files → parts, the units of work that are done, repeated and lost as a whole.

Invariant: parts depend on the sources alone, on names, sizes and order, never on workers or on what was done before.
So any number of workers writes the same shards, and a domain's shards do not change when another domain joins it.

A part is about a sixteenth of its group, from 8 MB (less makes shards small) to 256 MB (more makes a restart repeat
much). A plain JSONL file is cut where needed; a compressed file cannot be entered in the middle, so it stays whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .files import Slice, SourceFile
from .sources import Group

_LEAST, _MOST = 8 << 20, 256 << 20
_PARTS_IN_A_GROUP = 16
_GROWTH = 4  # bytes of text in a byte of compressed text, about


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Slices of a group's files that are converted in one go."""

    group: str
    number: int
    slices: tuple[Slice, ...]

    @property
    def name(self) -> str:
        """Name of its directories and files."""
        return f"part-{self.number:05}"

    @property
    def bytes(self) -> int:
        """Size of the slices as they are stored."""
        return sum(piece.stop - piece.start for piece in self.slices)


def plan_parts(group: Group, part_bytes: int | None = None) -> list[Part]:
    """Cut a group into parts of at most `part_bytes` bytes of text, or one file that is larger and cannot be cut."""
    if part_bytes is None:
        part_bytes = min(max(sum(map(_weight, group.files)) // _PARTS_IN_A_GROUP, _LEAST), _MOST)
    parts: list[list[Slice]] = [[]]
    weight = 0
    for file in group.files:
        for piece in _slices(file, part_bytes):
            size = (piece.stop - piece.start) * (_GROWTH if file.compression else 1)
            if parts[-1] and weight + size > part_bytes:
                parts.append([])
                weight = 0
            parts[-1].append(piece)
            weight += size
    return [Part(group=group.name, number=at, slices=tuple(slices)) for at, slices in enumerate(parts)]


def _weight(file: SourceFile) -> int:
    return file.size * (_GROWTH if file.compression else 1)


def _slices(file: SourceFile, part_bytes: int) -> Iterator[Slice]:
    pieces = 1 if file.compression or file.format != "jsonl" else -(-file.size // part_bytes)
    pieces = max(pieces, 1)
    for at in range(pieces):
        yield Slice(file=file, start=file.size * at // pieces, stop=file.size * (at + 1) // pieces)
