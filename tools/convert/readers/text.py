"""Text files: a file is one document, in UTF-8."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from itertools import islice

from ..files import OnBytes, Slice, SourceFile, lines_before, open_slice
from . import reader
from .reader import Fields, OnBad, Piece, Reader, cut_blocks


def read_text(source: Slice, fields: Fields, on_bad: OnBad, on_bytes: OnBytes) -> Iterator[Piece]:
    """Yield the file as one document; it has no fields."""
    del fields
    try:
        blocks = _decoded(source, None)
        held = list(islice(blocks, 2))
        if len(held) < 2:
            on_bytes(source.stop - source.start)
            yield from cut_blocks(iter(held))
            return
        # A piece that was yielded cannot be withdrawn: a longer file is decoded to its end first, then read again.
        for _ in blocks:
            pass
        yield from cut_blocks(_decoded(source, on_bytes))
    except UnicodeDecodeError as error:
        on_bad(f"{source.file.path}: not UTF-8: {_where(source.file, error)}")


TEXT = Reader(
    suffixes=frozenset(
        f".{suffix}"
        for line in (
            "txt text md rst tex html htm xml css csv tsv yaml yml toml ini cfg sh sql",
            "py pyi c h cc cpp hpp cu cuh java js jsx ts tsx go rs rb php cs swift kt scala",
        )
        for suffix in line.split()
    ),
    read=read_text,
)


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
