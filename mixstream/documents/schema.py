"""The columns of a sidecar, and what the index says of its files.

A line of a sidecar is a *segment*: tokens of one document that follow each other in the samples. A document has one
segment, or several where its tokens do not lie together: the last tokens of a part of a conversion lie in the joined
tails, behind the rows of all parts, and what fills no row at the very end is in no sample. Rules:

- lines are in the order of the samples: `row`, then `token`; what was dropped comes last;
- segments touch: each begins where the one before it ends, from the first token of the dataset to its last;
- in a dataset of documents (`row_kind` "documents"), line k is sample k.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mixstream.errors import IndexCorruptError
from mixstream.records import dataclass

RowKind = Literal["packed", "documents"]
"""What a sample holds: cuts of the joined documents, all of one length, or one document."""
DIRECTORY = "documents"
"""The directory of a dataset's sidecar, below the dataset's."""
ROW_KIND, FILES = "row_kind", "documents_files"
"""Keys of the entry `mixstream` of an index: a `RowKind`, and the files (`dump_files`)."""
COLUMNS = {
    "document": "int64",
    "id": "string",
    "file": "string",
    "record": "int64",
    "row": "int64",
    "token": "int32",
    "tokens": "int64",
    "begin": "int64",
    "length": "int64",
    "bytes": "int64",
    "hash": "uint64",
}
"""Name and Arrow type of each column of its own; the columns of `--keep` follow.

    document    number of the document in the dataset, from 0
    id          a field of the document, or xxh3_128 of its text in hexadecimal
    file        the source file: its path below its SRC
    record      number of the document in that file, from 0; blank and bad ones are counted too
    row         the sample in which the segment begins, counted over the dataset; null if the tokens were dropped
    token       the token of that sample with which it begins; null likewise
    tokens      how many tokens the segment has
    begin       how many tokens of the document lie before it
    length      how many tokens the document has, with those that begin and end it
    bytes       how many UTF-8 bytes its text has; 0 on further segments of a document, so that a sum is right
    hash        xxh3_64 of the text
"""
_NAME = re.compile(rf"{DIRECTORY}/part-(\d{{5,}}|tail)\.parquet", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentsFile:
    """One file of a sidecar.

    Attributes:
        basename: its path below the dataset's directory, with `/`.
        bytes: its size.
        hash: xxh3_64 of its bytes, in hexadecimal.
        lines: how many it has.
        first_row: the first sample whose first token it holds.
        rows: how many samples' first tokens it holds; they follow each other.
    """

    basename: str
    bytes: int
    hash: str
    lines: int
    first_row: int
    rows: int


def dump_files(files: Sequence[DocumentsFile]) -> list[dict[str, Any]]:
    """Return what the index says of the files."""
    return [
        {
            "basename": file.basename,
            "bytes": file.bytes,
            "hashes": {"xxh3_64": file.hash},
            "lines": file.lines,
            "first_row": file.first_row,
            "rows": file.rows,
        }
        for file in files
    ]


def parse_files(about: Mapping[str, Any], *, where: str) -> tuple[DocumentsFile, ...] | None:
    """Return the files of a sidecar, in order; None if the dataset has none.

    Args:
        about: the entry `mixstream` of an index.
        where: the index, for errors.

    Raises:
        IndexCorruptError: the entry is not what convert writes.
    """
    if FILES not in about:
        return None
    try:
        files = tuple(
            DocumentsFile(
                basename=str(each["basename"]),
                bytes=_count(each["bytes"]),
                hash=str(each["hashes"]["xxh3_64"]),
                lines=_count(each["lines"]),
                first_row=_count(each["first_row"]),
                rows=_count(each["rows"]),
            )
            for each in about[FILES]
        )
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise IndexCorruptError(f"{where}: its {FILES!r} cannot be read ({error!r}); {_REMEDY}") from None
    row = 0
    for file in files:
        if not _NAME.fullmatch(file.basename):
            raise IndexCorruptError(f"{where}: its {FILES!r} names {file.basename!r}, no file of documents; {_REMEDY}")
        if file.first_row != row:
            raise IndexCorruptError(
                f"{where}: {file.basename} begins with row {file.first_row}, the file before it ends with row "
                f"{row - 1}; {_REMEDY}"
            )
        row += file.rows
    return files


_REMEDY = "copy index.json again from where it was made, or convert the domain again with --overwrite"


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value
