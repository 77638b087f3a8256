"""`SplitInfo`: the entry of a JSON, CSV, TSV or XSV shard in an `index.json`, checked before anything is used.

Rule: an entry is untrusted. `check_entry` raises plain `ValueError` with the fact, which `mds.index` turns into
`IndexCorruptError`.
"""

from typing import Any, Protocol

from mixstream.formats.container import FileInfo
from mixstream.formats.entry import MAX_OFFSET, VERSION, ShardInfo
from mixstream.formats.split.encodings import MDS_NAMES, is_json_encoding
from mixstream.records import dataclass

SEPARATORS = {"csv": ",", "tsv": "\t"}  # of these formats, an index does not say it
META = ".meta"  # what the name of a meta file has behind that of its data file


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitInfo(ShardInfo):
    """One shard's entry; its columns are sorted by name.

    `column_encodings` are those of MDS whose values are the same (`str_int` for `int`).

    Attributes:
        name: of the format: json, csv, tsv or xsv.
        encodings: aligned with the column names, each by its name in the format: str, int or float.
        newline: what each line ends with.
        separator: what stands between the values of a line; empty for json.
    """

    name: str
    encodings: tuple[str, ...]
    newline: str
    separator: str = ""

    @property
    def format(self) -> str:
        """See `ShardInfo.format`."""
        return self.name

    @property
    def written_columns(self) -> dict[str, str]:
        """See `ShardInfo.written_columns`."""
        return dict(zip(self.column_names, self.encodings))

    def config(self) -> dict[str, Any]:
        """See `ShardInfo.config`."""
        config: dict[str, Any] = {
            "version": VERSION,
            "format": self.name,
            "compression": self.compression,
            "hashes": list(self.hashes),
            "size_limit": self.size_limit,
            "newline": self.newline,
        }
        if self.name == "json":
            return config | {"columns": self.written_columns}
        config |= {"column_names": list(self.column_names), "column_encodings": list(self.encodings)}
        return config if self.name in SEPARATORS else config | {"separator": self.separator}


class Entry(Protocol):
    """An entry as it stands in the index."""

    format: str
    samples: int
    raw_data: FileInfo
    zip_data: FileInfo | None
    raw_meta: FileInfo | None
    zip_meta: FileInfo | None
    columns: dict[str, str] | None
    column_names: tuple[str, ...] | None
    column_encodings: tuple[str, ...] | None
    newline: str | None
    separator: str | None
    compression: str | None
    hashes: tuple[str, ...]
    size_limit: int | None


def check_entry(entry: Entry) -> SplitInfo:
    """Check what only these formats have, and return the entry.

    Raises:
        ValueError: it is not valid; without the shard's name.
    """
    names, encodings = _columns(entry)
    newline, separator = entry.newline, SEPARATORS.get(entry.format, entry.separator or "")
    if newline is None or (entry.format != "json" and not (newline and separator)):
        raise ValueError(f"is of format {entry.format!r} and lacks newline or separator")
    meta = entry.raw_meta
    if meta is None or meta.basename != entry.raw_data.basename + META:
        found = "none" if meta is None else repr(meta.basename)
        raise ValueError(f"has as raw_meta {found}; it is named {entry.raw_data.basename + META!r}")
    least = len(newline.encode()) + max(len(names) - 1, 0) * len(separator.encode())
    for what, file, size in (
        ("raw_meta", meta, 8 + 4 * entry.samples),
        ("raw_data", entry.raw_data, entry.samples * least),
    ):
        if not size <= file.bytes <= MAX_OFFSET:
            raise ValueError(
                f"says {what} takes {file.bytes} bytes; {entry.samples} samples of its columns take at least {size}, "
                f"and a file at most {MAX_OFFSET}"
            )
    return SplitInfo(
        name=entry.format,
        samples=entry.samples,
        column_names=names,
        column_encodings=tuple(MDS_NAMES[encoding] for encoding in encodings),
        column_sizes=(None,) * len(names),
        encodings=encodings,
        newline=newline,
        separator="" if entry.format == "json" else separator,
        compression=entry.compression,
        hashes=entry.hashes,
        size_limit=entry.size_limit,
        raw=entry.raw_data,
        zip=entry.zip_data,
        meta=meta,
        meta_zip=entry.zip_meta,
    )


def _columns(entry: Entry) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if entry.format == "json":
        if entry.columns is None:
            raise ValueError("is of format 'json' and lacks columns")
        names = tuple(sorted(entry.columns))
        encodings = tuple(entry.columns[name] for name in names)
    else:
        if entry.column_names is None or entry.column_encodings is None:
            raise ValueError("lacks column_names or column_encodings")
        names, encodings = entry.column_names, entry.column_encodings
        if len(names) != len(encodings):
            raise ValueError(f"has {len(names)} column names and {len(encodings)} encodings")
        if list(names) != sorted(set(names)):
            raise ValueError(f"has columns {list(names)}; names must be sorted and unique")
    for name, encoding in zip(names, encodings):
        if not is_json_encoding(encoding):
            raise ValueError(
                f"has column {name!r} of encoding {encoding!r}, which format {entry.format!r} does not have; known are "
                "float, int, str"
            )
    return names, encodings
