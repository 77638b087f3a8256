"""Columns of token ids in Parquet and Arrow files, such as Hugging Face's `save_to_disk` writes, read as they are.

files           which files of a directory there are
schema          which column has the token ids
parquet, arrow  where its lists lie, and what is in them; arrow_messages: the batches of Arrow files
lists           lists in memory become tokens
describe        what a file has, without its tokens
index           that of all files, as JSON
shards          parts of files of a usual size
making, raw     a shard that is computed, and its bytes
container       all of that as a `Container`
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream.formats.columns.arrow_messages import (
        CONTINUED,
        FILE_MAGIC,
        Batch,
        BatchFields,
        Layout,
        fields_of,
        layout_of,
    )
    from mixstream.formats.columns.container import Columns
    from mixstream.formats.columns.describe import ColumnFacts, begins_with_lists_of, check_others
    from mixstream.formats.columns.files import column_directories, find_column_files, is_column_file
    from mixstream.formats.columns.index import (
        ColumnFile,
        ColumnIndex,
        Group,
        dump_column_index,
        parse_column_index,
    )

__getattr__, __dir__ = lazily(
    __name__,
    {
        "arrow_messages": ["Batch", "BatchFields", "CONTINUED", "FILE_MAGIC", "Layout", "fields_of", "layout_of"],
        "container": ["Columns"],
        "describe": ["ColumnFacts", "begins_with_lists_of", "check_others"],
        "files": ["column_directories", "find_column_files", "is_column_file"],
        "index": ["ColumnFile", "ColumnIndex", "Group", "dump_column_index", "parse_column_index"],
    },
)


__all__ = [
    "CONTINUED",
    "FILE_MAGIC",
    "Batch",
    "BatchFields",
    "ColumnFacts",
    "ColumnFile",
    "ColumnIndex",
    "Columns",
    "Group",
    "Layout",
    "begins_with_lists_of",
    "check_others",
    "column_directories",
    "dump_column_index",
    "fields_of",
    "find_column_files",
    "is_column_file",
    "layout_of",
    "parse_column_index",
]
