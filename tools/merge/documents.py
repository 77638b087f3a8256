"""The documents of joined datasets: the lines of their sidecars one after the other, rows and documents renumbered.

Rules. Lines of tokens that are in no row come last, as everywhere, so those of all members lie in the last file. The
columns of `--keep` are those of any member, null where another lacks one; a column of two types is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixstream.documents import FILES, Documents, DocumentsFile, dump_files
from mixstream.errors import ConfigError
from mixstream.storage import Retry, Store

from ..shared.datasets import Dataset
from ..shared.sidecar_files import SidecarFile, store_file


def has_documents(members: Sequence[Dataset], *, drop: bool) -> bool:
    """Return whether the joined dataset gets a sidecar.

    Raises:
        ConfigError: some members have one and some have not, and not `drop`.
    """
    having = [FILES in member.about for member in members]
    if drop or not any(having):
        return False
    if not all(having):
        lacking = next(member.shown for member, has in zip(members, having) if not has)
        raise ConfigError(
            f"{lacking} keeps no documents, and {members[having.index(True)].shown} does: of the rows of both it would "
            "not be known which documents they hold. Convert the first again, or give --without-documents."
        )
    return True


def join_documents(members: Sequence[Dataset], new: Store, work: Path, *, retry: Retry) -> dict[str, Any]:
    """Write the sidecar of a joined dataset; returns its entry in the index.

    Args:
        members: the datasets, in order.
        new: where the joined dataset lies.
        work: a directory on disk.
        retry: of requests.
    """
    found = [(member, Documents.of(member.store, member.about, retry=retry)) for member in members]
    schema = _schema([(member.store.url, each) for member, each in found if each is not None and each.files])
    shutil.rmtree(work, ignore_errors=True)
    made: list[DocumentsFile] = []
    rows = sum(info.samples for member in members for info in member.shards)
    dropped = SidecarFile(work / "tail.parquet", "part-tail", first_row=rows, rows=0)
    row = document = 0
    for member, documents in found:
        assert documents is not None, "checked by `has_documents`"
        own = sum(info.samples for info in member.shards)
        part = f"part-{len(made):05}"
        file = SidecarFile(work / "file.parquet", part, first_row=row, rows=own)
        for block in documents.blocks():
            lines = _renumbered(block, schema, row=row, document=document)
            there = lines["row"].is_valid()
            file.add(lines.filter(there))
            dropped.add(lines.filter(lines["row"].is_null()))
        made += store_file(file, new, retry=retry)
        row += own
        document += member.about["documents"]
    made += store_file(dropped, new, retry=retry)
    shutil.rmtree(work, ignore_errors=True)
    return {FILES: dump_files(made)}


def _schema(found: Sequence[tuple[str, Documents]]) -> Any:
    """Return the columns of all, each with one type."""
    import pyarrow as pa

    types: dict[str, tuple[str, Any]] = {}
    for name, documents in found:
        for column, stored in documents.columns.items():
            kind = pa.string() if pa.types.is_dictionary(stored) else stored
            other, known = types.setdefault(column, (name, kind))
            if known != kind:
                raise ConfigError(
                    f"the column {column!r} of the documents is of type {kind} in {name}, and {known} in {other}. "
                    "Convert one of them again, or give --without-documents."
                )
    return pa.schema([(column, kind) for column, (_, kind) in types.items()])


def _renumbered(block: Any, schema: Any, *, row: int, document: int) -> Any:
    import pyarrow as pa

    columns = []
    for field in schema:
        if field.name not in block.schema.names:
            columns.append(pa.nulls(block.num_rows, field.type))
            continue
        values = block[field.name]
        if field.name in ("row", "document"):
            first = row if field.name == "row" else document
            gone = values.is_null().to_numpy(zero_copy_only=False)
            moved = values.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64) + first
            values = pa.array(moved, pa.int64(), mask=gone)
        columns.append(values.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)
