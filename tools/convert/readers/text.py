"""Text files, in UTF-8: a file is one document, or with `--document-separator` several.

A document is text to its last byte: one that is not UTF-8, or that holds a NUL byte, is bad as a whole.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO

from mixstream.units import show_bytes

from ..files import OnBytes, Slice, SourceFile, lines_before, open_slice
from . import reader
from .reader import Fields, OnBad, Piece, Reader, cut_blocks, pieces_of

_BLOCK = 1 << 20
_MAX_DOCUMENT = 256 << 20  # bytes, of a document between separators, which is held in memory


def read_text(source: Slice, fields: Fields, on_bad: OnBad, on_bytes: OnBytes) -> Iterator[Piece]:
    """Yield the documents of the file; they have no fields."""
    if fields.separator:
        yield from _read_separated(source, fields, fields.separator.encode(), on_bad, on_bytes)
        return
    path = source.file.path
    try:
        blocks = _checked(_decoded(source, None), fields)
        held = next(blocks, ""), next(blocks, None)
        if held[1] is None:
            on_bytes(source.stop - source.start)
            yield from pieces_of(held[0])
            return
        # A piece that was yielded cannot be withdrawn: a longer file is read to its end first, then read again.
        for _ in blocks:
            pass
        yield from cut_blocks(_decoded(source, on_bytes))
    except UnicodeDecodeError as error:
        on_bad(f"{path}: not UTF-8: {_where(source.file, error)}")
    except _NotTextError as error:
        on_bad(f"{path}: {error}")


TEXT = Reader(
    suffixes=frozenset(
        f".{suffix}"
        for line in (
            "txt text md rst tex css yaml yml toml ini cfg sh sql",
            "py pyi c h cc cpp hpp cu cuh java js jsx ts tsx go rs rb php cs swift kt scala",
        )
        for suffix in line.split()
    ),
    read=read_text,
)


class _NotTextError(ValueError):
    """Decoded text that cannot be a document."""


def _read_separated(
    source: Slice, fields: Fields, separator: bytes, on_bad: OnBad, on_bytes: OnBytes
) -> Iterator[Piece]:
    with open_slice(source, on_bytes) as stream:
        for offset, content, ends in _split(stream, separator):
            try:
                if content is None:
                    raise _NotTextError(f"it is longer than {show_bytes(_MAX_DOCUMENT)}")
                text = content.decode()
                text = text.removeprefix("\ufeff") if not offset else text
                if text.isspace():
                    continue
                for piece in pieces_of("".join(_checked(iter([text]), fields))):
                    yield piece._replace(separated=ends and piece.ends)
            except UnicodeDecodeError as error:
                on_bad(f"{source.file.path}: not UTF-8: byte {offset + error.start}, {error.reason}")
            except _NotTextError as error:
                on_bad(f"{source.file.path}, the document at byte {offset}: {error}")


def _split(stream: BinaryIO, separator: bytes) -> Iterator[tuple[int, bytes | None, bool]]:
    """The bytes between separators, where they begin, and whether a separator follows; None for too many bytes.

    UTF-8 allows to split bytes: no character holds the bytes of another.
    """
    held, offset, searched, too_long = bytearray(), 0, 0, False
    while block := stream.read(_BLOCK):
        held += block
        while (at := held.find(separator, searched)) >= 0:
            yield offset, None if too_long or at > _MAX_DOCUMENT else bytes(held[:at]), True
            del held[: at + len(separator)]
            offset, searched, too_long = offset + at + len(separator), 0, False
        searched = max(0, len(held) - len(separator) + 1)
        if len(held) > _MAX_DOCUMENT or too_long:
            too_long = True
            del held[:searched]
            offset, searched = offset + searched, 0
    if held or too_long:
        yield offset, None if too_long else bytes(held), False


def _checked(blocks: Iterator[str], fields: Fields) -> Iterator[str]:
    """Yield the blocks of a document; raises _NotTextError at what no document may hold."""
    overlap = max(map(len, fields.forbidden), default=1) - 1
    before, passed = "", 0
    for block in blocks:
        if (at := block.find("\0")) >= 0:
            raise _NotTextError(f"it holds a NUL byte, at character {passed + at}, so it is not text")
        if fields.forbidden and (found := fields.find_forbidden(before + block)):
            at = passed - len(before) + found[1]
            raise _NotTextError(f"it holds the special token {found[0]!r} at character {at} (--special-tokens)")
        passed += len(block)
        before = (before + block)[-overlap:] if overlap else ""
        yield block


def _decoded(source: Slice, on_bytes: OnBytes | None) -> Iterator[str]:
    """The text of a file, block by block. Raises UnicodeDecodeError with `start` counted from the file's beginning."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    consumed = 0
    with open_slice(source, on_bytes) as stream:
        while True:
            block = stream.read(reader.PIECE_CHARS)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                error.start += consumed - pending
                raise
            consumed += len(block)
            if text := text.removeprefix("\ufeff") if consumed == len(block) else text:
                yield text
            if not block:
                return


def _where(file: SourceFile, error: UnicodeDecodeError) -> str:
    """The place and the reason of a decoding error, with the line number if the file is not compressed."""
    line = "" if file.compression else f", line {lines_before(file, error.start) + 1}"
    return f"byte {error.start}{line}, {error.reason}"
