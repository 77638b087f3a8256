"""Text files of several documents, with `--document-separator` between them.

A slice has the documents whose first byte lies in it. Separators are found from the beginning of the file on and do
not overlap; where they could (two newlines in three), a slice looks back to where a chain of them begins, so that it
finds those that a reader of the whole file finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_BLOCK = 1 << 20
MAX_DOCUMENT = 256 << 20  # bytes, of a document between separators, which is held in memory


class Separated(NamedTuple):
    """The bytes of a document."""

    offset: int
    """Where they begin in the file."""
    content: bytes | None
    """None for more than MAX_DOCUMENT."""
    ends: bool
    """Whether a separator follows."""


def split_documents(stream: BinaryIO, separator: bytes, start: int, stop: int | None) -> Iterator[Separated]:
    """Yield the documents that begin at bytes `start` to `stop` of a file; to its end, if `stop` is None.

    UTF-8 allows to split bytes: no character holds the bytes of another.

    >>> import io
    >>> [each.content for each in split_documents(io.BytesIO(b"a--b--c"), b"--", 1, None)]
    [b'b', b'c']
    """
    begin = _first_after(stream, separator, start) if start else 0
    held, searched, passed = bytearray(), 0, 0  # `passed`: bytes of a document that is too long, which are forgotten
    while begin is not None and (stop is None or begin < stop):
        if (at := held.find(separator, searched)) >= 0:
            yield Separated(begin, _copy(held, at, passed), True)
            del held[: at + len(separator)]
            begin, searched, passed = begin + passed + at + len(separator), 0, 0
            continue
        searched = max(0, len(held) - len(separator) + 1)
        if passed or len(held) > MAX_DOCUMENT:
            del held[:searched]
            passed, searched = passed + searched, 0
        if not (block := stream.read(_BLOCK)):
            if held or passed:
                yield Separated(begin, _copy(held, len(held), passed), False)
            return
        held += block


def _copy(held: bytearray, size: int, passed: int) -> bytes | None:
    """The first bytes of `held`; None if they are too many."""
    if passed or size > MAX_DOCUMENT:
        return None
    with memoryview(held) as view:
        return view[:size].tobytes()


def _first_after(stream: BinaryIO, separator: bytes, start: int) -> int | None:
    """Move to the first document that begins at byte `start` or later, and return that byte; None if there is none."""
    offset = _independent(stream, separator, max(0, start - len(separator)))
    stream.seek(offset)
    held = bytearray()
    while block := stream.read(_BLOCK):
        held += block
        searched = 0
        while (at := held.find(separator, searched)) >= 0:
            searched = at + len(separator)
            if offset + searched >= start:
                stream.seek(offset + searched)
                return offset + searched
        passed = max(searched, len(held) - len(separator) + 1)
        del held[:passed]
        offset += passed
    return None


def _independent(stream: BinaryIO, separator: bytes, at: int) -> int:
    """The last place up to `at` that no separator spans: what is found from there on does not depend on the rest."""
    size = len(separator)
    begin, data = at, b""
    while at:
        low = max(0, at - size + 1)
        if low < begin:
            begin = max(0, at - max(_BLOCK, size))
            stream.seek(begin)
            data = stream.read(at - begin + size - 1)
        found = data.rfind(separator, low - begin, at - 1 - begin + size)
        if found < 0:
            break
        at = begin + found
    return at
