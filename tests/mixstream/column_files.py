"""Files with columns of token ids, written and read with pyarrow alone, as other programs do."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

KINDS = ("parquet", "stream", "file", "stream-zstd", "file-lz4")
"""How `write_table` writes a table; the first part of a kind is the format."""


def write_table(path: Path, table: pa.Table, kind: str, rows: int = 1000, **options: Any) -> Path:
    """Write a table with `rows` rows in each row group or batch; `path` gets the suffix of the kind."""
    path = path.with_name(path.name + (".parquet" if kind == "parquet" else ".arrow"))
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=rows, **options)
        return path
    form, _, codec = kind.partition("-")
    make = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
    with make(path, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec or None)) as writer:
        for batch in table.to_batches(max_chunksize=rows):
            writer.write_batch(batch)
    return path


def read_lists(path: Path, column: str = "input_ids") -> list[list[int]]:
    """Return the lists of a column, as pyarrow reads them; a null list is empty."""
    head = path.read_bytes()[:6]
    if head.startswith(b"PAR1"):
        table = pq.read_table(path, columns=[column])
    elif head == b"ARROW1":
        table = feather.read_table(path, columns=[column])
    else:
        table = pa.ipc.open_stream(path).read_all()
    return [each or [] for each in table[column].to_pylist()]


def token_lists(count: int, longest: int, *, seed: int = 0, top: int = 60000) -> list[list[int]]:
    """Return lists of random lengths, some of them empty."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, top, int(n)).tolist() for n in rng.integers(0, longest + 1, count)]


def saved_to_disk(directory: Path, tables: Sequence[pa.Table], *, rows: int = 1000, state: bool = True) -> Path:
    """Write a folder as `Dataset.save_to_disk` of Hugging Face does."""
    directory.mkdir(parents=True)
    names = [f"data-{at:05}-of-{len(tables):05}.arrow" for at in range(len(tables))]
    for name, table in zip(names, tables):
        write_table(directory / name.removesuffix(".arrow"), table, "stream", rows)
    if state:
        content = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0f", "_split": "train"}
        (directory / "state.json").write_text(json.dumps(content))
    (directory / "dataset_info.json").write_text("{}")
    return directory


class Known:
    """What a store says of a file."""

    def __init__(self, data: bytes) -> None:
        self.size, self.identity = len(data), "1"


def opened(path: Path) -> tuple[io.BytesIO, Known]:
    """Return a file in memory, and what is known of it."""
    data = path.read_bytes()
    return io.BytesIO(data), Known(data)
