"""Text files, in UTF-8: a file is one document, or with `--document-separator` several.

A document is text to its last byte: one that is not UTF-8, or that holds a NUL byte, is bad as a whole.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from mixstream.units import show_bytes

from ..documents.fields import Fields
from ..files.source_files import OnBytes, Slice, SourceFile, lines_before, open_slice
from . import reader
from .field_values import BadDocumentError
from .reader import OnBad, Origin, Pieces, Reader, cut_blocks, pieces_of
from .separated import MAX_DOCUMENT, split_documents

_BLOCK = 1 << 20
_EXCERPT = 200  # bytes


def read_text(source: Slice, fields: Fields, on_bad: OnBad, on_bytes: OnBytes) -> Pieces:
    """Yield the documents of the file; they have no fields."""
    if fields.separator:
        return (yield from _read_separated(source, fields, fields.separator.encode(), on_bad, on_bytes))
    path = source.file.path
    try:
        blocks = _checked(_decoded(source, None), fields)
        held = next(blocks, ""), next(blocks, None)
        if held[1] is None:
            on_bytes(source.stop - source.start)
            yield from pieces_of(held[0], None, Origin(0))
            return 1
        # A piece that was yielded cannot be withdrawn: a longer file is read to its end first, then read again.
        for _ in blocks:
            pass
        yield from cut_blocks(_decoded(source, on_bytes), None, Origin(0))
    except UnicodeDecodeError as error:
        on_bad(f"{path}: not UTF-8: {_where(source.file, error)}", record=0, reason="not-utf8")
    except _NotTextError as error:
        on_bad(f"{path}: {error}", record=0, reason=error.reason)
    return 1


TEXT = Reader(
    suffixes=frozenset(
        f".{suffix}"
        for line in (
            "txt text md rst tex css yaml yml toml ini cfg sh sql",
            "py pyi c h cc cpp hpp cu cuh java js jsx ts tsx go rs rb php cs swift kt scala",
        )
        for suffix in line.split()
    ),
    pieces=read_text,
    separable=True,
    numbered_by="slice",
)


class _NotTextError(BadDocumentError):
    """Decoded text that cannot be a document."""


def _read_separated(source: Slice, fields: Fields, separator: bytes, on_bad: OnBad, on_bytes: OnBytes) -> Pieces:
    number = -1
    stop = None if source.file.compression else source.stop
    with open_slice(source, on_bytes) as stream:
        found = split_documents(stream, separator, source.start, stop)
        for number, (offset, content, ends) in enumerate(found):
            try:
                if content is None:
                    raise _NotTextError(f"it is longer than {show_bytes(MAX_DOCUMENT)}", "too-long")
                text = content.decode()
                text = text.removeprefix("\ufeff") if not offset else text
                if text.isspace():
                    continue
                for piece in pieces_of("".join(_checked(iter([text]), fields)), None, Origin(number)):
                    yield piece._replace(separated=ends and piece.ends)
            except UnicodeDecodeError as error:
                on_bad(
                    f"{source.file.path}: not UTF-8: byte {offset + error.start}, {error.reason}",
                    record=number,
                    excerpt=(content or b"")[:_EXCERPT].decode(errors="replace"),
                    reason="not-utf8",
                )
            except _NotTextError as error:
                on_bad(
                    f"{source.file.path}, the document at byte {offset}: {error}", record=number, reason=error.reason
                )
    return number + 1


def _checked(blocks: Iterator[str], fields: Fields) -> Iterator[str]:
    """Yield the blocks of a document; raises _NotTextError at what no document may hold."""
    overlap = max(map(len, fields.forbidden), default=1) - 1
    before, passed = "", 0
    for block in blocks:
        if (at := block.find("\0")) >= 0:
            raise _NotTextError(f"it holds a NUL byte, at character {passed + at}, so it is not text", "binary")
        if fields.forbidden and (found := fields.find_forbidden(before + block)):
            at = passed - len(before) + found[1]
            raise _NotTextError(
                f"it holds the special token {found[0]!r} at character {at} (--special-tokens)", "special-token"
            )
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
    """The place and the reason of a decoding error, with the line number if it costs little to count."""
    before = None if file.compression else lines_before(file, error.start)
    line = "" if before is None else f", line {before + 1}"
    return f"byte {error.start}{line}, {error.reason}"
