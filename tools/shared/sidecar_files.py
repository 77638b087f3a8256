"""Writes the files of a sidecar of documents (`mixstream.documents`): Parquet, in row groups of bounded size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xxhash

from mixstream.documents import COLUMNS, DIRECTORY, DocumentsFile
from mixstream.storage import Retry, Store, named_full_disk

_GROUP_LINES, _GROUP_BYTES = 1 << 16, 32 << 20
_BLOCK = 1 << 22


class SidecarFile:
    """One file of a sidecar, which is made with its first line.

    Args:
        path: where it is written.
        part: its name in the dataset, such as `part-00000` or `part-tail`.
        first_row: the first sample whose segments it holds.
        rows: how many samples.
    """

    def __init__(self, path: Path, part: str, *, first_row: int, rows: int) -> None:
        self.path, self.name = path, f"{DIRECTORY}/{part}.parquet"
        self._first_row, self._rows = first_row, rows
        self._held: list[Any] = []
        self._lines = self._held_lines = self._held_bytes = 0
        self._writer: Any = None

    def add(self, lines: Any) -> None:
        """Add a pyarrow table of lines."""
        if lines.num_rows:
            self._held.append(lines)
            self._held_lines += lines.num_rows
            self._held_bytes += lines.nbytes
        if self._held_lines >= _GROUP_LINES or self._held_bytes >= _GROUP_BYTES:
            self._flush()

    def finish(self) -> list[DocumentsFile]:
        """Finish the file; returns its entry in the index, and none if it has no line."""
        if self._held:
            self._flush()
        if self._writer is None:
            return []
        with named_full_disk(self.path):
            self._writer.close()
        digest = xxhash.xxh3_64()
        with self.path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return [
            DocumentsFile(
                basename=self.name,
                bytes=self.path.stat().st_size,
                hash=digest.hexdigest(),
                lines=self._lines,
                first_row=self._first_row,
                rows=self._rows,
            )
        ]

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.concat_tables(self._held, promote_options="default")
        if self._writer is None:
            few: Any = [name for name in table.schema.names if name == "file" or name not in COLUMNS]
            with named_full_disk(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._writer = pq.ParquetWriter(
                    self.path,
                    table.schema,
                    version="2.6",
                    compression="zstd",
                    compression_level=3,
                    use_dictionary=few,
                    write_statistics=True,
                    data_page_size=1 << 20,
                    store_schema=False,
                )
        with named_full_disk(self.path):
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._lines += table.num_rows
        self._held, self._held_lines, self._held_bytes = [], 0, 0


def store_file(file: SidecarFile, store: Store, *, retry: Retry) -> list[DocumentsFile]:
    """Finish a file, move it into the store of its dataset, and return its entry in the index; none without lines."""
    made = file.finish()
    if made:
        place = f"{store.url}/{file.name}"
        retry.call(f"writing {place}", lambda: store.write(file.name, file.path), renew=store.renew)
        file.path.unlink()
    return made
