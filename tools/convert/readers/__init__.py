"""Source formats: one reader a file, listed in `READERS`.

A new format is one new file and one line of the table. If `.para` files are to hold documents separated by blank lines:

    # readers/paragraphs.py
    def read_paragraphs(source: Slice, fields: Fields, on_bad: OnBad, on_bytes: OnBytes) -> Iterator[Piece]:
        try:
            with open_slice(source, on_bytes) as stream:
                texts = stream.read().decode().split("\\n\\n")
        except UnicodeDecodeError as error:
            on_bad(f"{source.file.path}: {error}")
            return
        for text in texts:
            yield from pieces_of(text)

    PARAGRAPHS = Reader(suffixes=frozenset({".para"}), read=read_paragraphs)

    # here
    READERS = {..., "paragraphs": PARAGRAPHS}

Then `notes.para` and `notes.para.gz` are recognised by their suffixes, and `--format paragraphs` is accepted.
"""

from .documents import FieldError, document_of
from .json_values import JSON, values_of
from .jsonl import JSONL, is_blank
from .reader import Fields, OnBad, Piece, Reader, pattern_of
from .text import TEXT

__all__ = [
    "DEFAULT",
    "READERS",
    "FieldError",
    "Fields",
    "OnBad",
    "Piece",
    "Reader",
    "document_of",
    "is_blank",
    "pattern_of",
    "values_of",
]

DEFAULT = "text"
"""The format of text whose suffix no reader has."""
READERS: dict[str, Reader] = {DEFAULT: TEXT, "jsonl": JSONL, "json": JSON}
"""Format, as `--format` names it → its reader."""
