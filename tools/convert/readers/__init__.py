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

from .jsonl import JSONL
from .reader import Fields, OnBad, Piece, Reader
from .text import TEXT

__all__ = ["DEFAULT", "READERS", "Fields", "OnBad", "Piece", "Reader"]

DEFAULT = "text"
"""The format of files whose suffix no reader has, or whose content the reader of their suffix does not accept."""
READERS: dict[str, Reader] = {DEFAULT: TEXT, "jsonl": JSONL}
"""Format, as `--format` names it → its reader."""
