"""`ShardInfo`: a shard's entry in an `index.json`, as mosaicml-streaming writes it (`specs/mds.md` section 1).

Entries of MDS shards are of this class; those of JSON, CSV, TSV and XSV shards of a subclass (`split.info`). The index
itself is read and written in `mds.index`.
"""

from typing import Any

from mixstream.formats.container import ShardEntry
from mixstream.records import dataclass

VERSION = 2
MAX_OFFSET = (1 << 32) - 1  # offsets inside a shard are u32


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo(ShardEntry):
    """One shard's entry; its columns are sorted by name.

    Attributes:
        size_limit: the writer's limit for the size of a shard in bytes, or None.
    """

    size_limit: int | None

    @property
    def format(self) -> str:
        """The name of its format: mds, json, csv, tsv or xsv."""
        return "mds"

    @property
    def written_columns(self) -> dict[str, str]:
        """Encoding of each column, by its name in the shard's own format."""
        return self.columns

    def config(self) -> dict[str, Any]:
        """Return the part of this entry that the shard file repeats: all but samples and files."""
        return {
            "version": VERSION,
            "format": self.format,
            "compression": self.compression,
            "hashes": list(self.hashes),
            "size_limit": self.size_limit,
            "column_names": list(self.column_names),
            "column_encodings": list(self.column_encodings),
            "column_sizes": list(self.column_sizes),
        }
