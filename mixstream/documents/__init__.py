"""Documents of a dataset: where in its samples each document lies, and what is known of it.

`mixstream convert` writes a *sidecar* beside the shards, Parquet files below `documents/`, which the index names.
Shards stay as they are, and programs that read MDS ignore it. In the order of the flow:

    schema     the columns, and what the index says of the files
    stored     a file in a store, as a file object that reads ranges
    reading    the sidecar of a dataset: blocks of lines, and the borders between documents in rows
    border_file  these borders as one mapped file of integers, for a lookup in every batch

Other packages and tools import from here only.
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream.documents.border_file import BorderPositions
    from mixstream.documents.reading import Borders, Documents
    from mixstream.documents.schema import (
        COLUMNS,
        DIRECTORY,
        FILES,
        ROW_KIND,
        DocumentsFile,
        RowKind,
        dump_files,
        parse_files,
    )

__getattr__, __dir__ = lazily(
    __name__,
    {
        "border_file": ["BorderPositions"],
        "reading": ["Borders", "Documents"],
        "schema": [
            "COLUMNS",
            "DIRECTORY",
            "DocumentsFile",
            "FILES",
            "ROW_KIND",
            "RowKind",
            "dump_files",
            "parse_files",
        ],
    },
)


__all__ = [
    "COLUMNS",
    "DIRECTORY",
    "FILES",
    "ROW_KIND",
    "BorderPositions",
    "Borders",
    "Documents",
    "DocumentsFile",
    "RowKind",
    "dump_files",
    "parse_files",
]
