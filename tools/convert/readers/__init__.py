"""Source formats: one reader a file, listed in `READERS`.

A new format is one new file and one line of the table. A format with fields yields records, and documents.py makes
documents of them; one without yields the pieces of its documents. If each line of a `.kv` file is `key<TAB>text`:

    # readers/kv.py
    def read_kv(source: Slice, columns: Columns, on_bad: OnBad, on_bytes: OnBytes) -> Records:
        number = 0
        with open_slice(source, on_bytes) as stream:
            for number, line in enumerate(stream, 1):
                try:
                    key, text = line.decode().rstrip("\\n").split("\\t", 1)
                except ValueError as error:
                    on_bad(f"{source.file.path}, record {number - 1}: {error}", record=number - 1)
                    continue
                yield Record({"key": key, "text": text}, number - 1)
        return number

    KV = Reader(suffixes=frozenset({".kv"}), records=read_kv)

    # here
    READERS = {..., "kv": KV}

Then `notes.kv` and `notes.kv.gz` are recognised by their suffixes, and `--format kv` is accepted.
"""

from .arrow import ARROW
from .csv import CSV, TSV
from .documents import document_of, read_documents, text_id
from .field_values import BadDocumentError, FieldError
from .json_values import JSON, values_of
from .jsonl import JSONL, is_blank
from .kinds import by_magic, holds_nul, judge, says_nothing
from .mds import MDS
from .mds_dataset import as_dataset
from .parquet import PARQUET
from .reader import MAX_RECORD, Columns, Html, OnBad, Origin, Piece, Pieces, Reader, Record, Records
from .tar import TAR, WEBDATASET, is_webdataset
from .text import TEXT
from .warc import WARC
from .zip import ZIP

__all__ = [
    "DEFAULT",
    "MAX_RECORD",
    "READERS",
    "BadDocumentError",
    "Columns",
    "FieldError",
    "Html",
    "OnBad",
    "Origin",
    "Piece",
    "Pieces",
    "Reader",
    "Record",
    "Records",
    "as_dataset",
    "by_magic",
    "document_of",
    "holds_nul",
    "is_blank",
    "is_webdataset",
    "judge",
    "read_documents",
    "says_nothing",
    "text_id",
    "values_of",
]

DEFAULT = "text"
"""The format of text whose suffix no reader has."""
READERS: dict[str, Reader] = {
    DEFAULT: TEXT,
    "jsonl": JSONL,
    "json": JSON,
    "parquet": PARQUET,
    "arrow": ARROW,
    "csv": CSV,
    "tsv": TSV,
    "tar": TAR,
    "webdataset": WEBDATASET,
    "zip": ZIP,
    "warc": WARC,
    "mds": MDS,
}
"""Format, as `--format` names it → its reader."""
