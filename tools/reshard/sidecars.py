"""The documents of a dataset whose rows were written anew: in the old order, or shuffled.

Rules. In the old order no line changes, so files are copied. Shuffled, a segment that spans several rows becomes one
for each of them, since these no longer follow each other; then all lines are sorted by their new row, in buckets, so
that memory is that of a bucket. A line says which document it is of and how many of its tokens lie before, so nothing
is lost.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixstream.documents import FILES, Documents, DocumentsFile, dump_files, parse_files
from mixstream.errors import ShardCorruptError
from mixstream.formats import hash_hex
from mixstream.storage import Retry, Store, read_object

from ..shared.sidecar_files import SidecarFile, store_file

_LINES = 1 << 20  # of a bucket, about
_MOST_BUCKETS = 256


def copy_documents(old: Store, about: Mapping[str, Any], new: Store, *, retry: Retry) -> dict[str, Any]:
    """Copy the sidecar of a dataset; returns its entry in the index, which is the old one.

    Raises:
        ShardCorruptError: a file is not what the old index says.
    """
    for file in parse_files(about, where=f"{old.url}/index.json") or ():
        data = read_object(old, file.basename, size=file.bytes, retry=retry)
        assert data is not None, "without `into`, the bytes are returned"
        content = bytes(data)
        if hash_hex("xxh3_64", content) != file.hash:
            raise ShardCorruptError(f"{old.url}/{file.basename}: its hash is not that in the index. Fetch it again.")
        _write(new, file.basename, content, retry)
    return {FILES: about[FILES]}


def _write(store: Store, name: str, data: bytes, retry: Retry) -> None:
    retry.call(f"writing {store.url}/{name}", lambda: store.write(name, data), renew=store.renew)


def shuffle_documents(
    old: Store, about: Mapping[str, Any], new: Store, orders: Sequence[Path], work: Path, *, retry: Retry
) -> dict[str, Any]:
    """Write the sidecar of shuffled rows; returns its entry in the index.

    Args:
        old: the old dataset.
        about: its entry `mixstream`.
        new: where the new one is written.
        orders: files of the old numbers of the new rows, in order.
        work: directory for the buckets.
        retry: of requests.
    """
    documents = Documents.of(old, about, retry=retry)
    if documents is None or not documents.files:
        return {}
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    places = _inverse(orders, work / "places.npy")
    lines = sum(file.lines for file in documents.files) + (0 if documents.seq_len is None else len(places))
    buckets = min(max(-(-lines // _LINES), 1), _MOST_BUCKETS)
    borders = [len(places) * at // buckets for at in range(buckets + 1)]
    paths = [work / f"{at:05}.arrow" for at in range(buckets + 1)]  # the last one holds what was dropped
    _fill(documents, places, borders, paths)
    made: list[DocumentsFile] = []
    for at, path in enumerate(paths):
        last = at == buckets
        file = SidecarFile(
            work / "file.parquet",
            "part-tail" if last else f"part-{at:05}",
            first_row=borders[min(at, buckets)],
            rows=0 if last else borders[at + 1] - borders[at],
        )
        for table in _sorted(path, sort=not last):
            file.add(table)
        made += store_file(file, new, retry=retry)
    shutil.rmtree(work)
    return {FILES: dump_files(made)}


def _inverse(orders: Sequence[Path], path: Path) -> np.ndarray:
    """Return the new number of each old row, as a mapped file."""
    rows = sum(len(np.load(each, mmap_mode="r")) for each in orders)
    places = np.lib.format.open_memmap(path, mode="w+", dtype=np.int64, shape=(rows,))
    first = 0
    for each in orders:
        numbers = np.load(each)
        places[numbers] = np.arange(first, first + len(numbers))
        first += len(numbers)
    return places


def _fill(documents: Documents, places: np.ndarray, borders: Sequence[int], paths: Sequence[Path]) -> None:
    import pyarrow as pa

    writers: list[Any] = [None] * len(paths)
    try:
        for block in documents.blocks():
            for lines in _lines(pa.table(block), documents.seq_len, places):
                row_G = lines["row"].fill_null(-1).to_numpy()
                bucket_G = np.where(row_G < 0, len(paths) - 1, np.searchsorted(borders, row_G, side="right") - 1)
                for bucket in np.unique(bucket_G):
                    chosen = lines.take(pa.array(np.flatnonzero(bucket_G == bucket)))
                    if writers[bucket] is None:
                        writers[bucket] = pa.ipc.new_file(pa.OSFile(str(paths[bucket]), "wb"), lines.schema)
                    writers[bucket].write_table(chosen)
    finally:
        for writer in writers:
            if writer is not None:
                writer.close()


def _lines(block: Any, seq_len: int | None, places: np.ndarray) -> Iterator[Any]:
    """Yield the lines of a block with their new rows, cut where a row ends."""
    import pyarrow as pa

    row_G, token_G = block["row"].fill_null(-1).to_numpy(), block["token"].fill_null(0).to_numpy().astype(np.int64)
    tokens_G, begin_G = block["tokens"].to_numpy(), block["begin"].to_numpy()
    there_G = row_G >= 0
    if seq_len is None:
        count_G = np.ones(len(row_G), np.int64)
    else:  # the rows that each segment touches
        count_G = np.where(there_G, np.maximum(-(-(token_G + tokens_G) // seq_len), 1), 1)
    of_M = np.repeat(np.arange(len(row_G)), count_G)
    step_M = np.arange(len(of_M)) - np.repeat(np.cumsum(count_G) - count_G, count_G)
    from_M = np.where(step_M == 0, 0, step_M * (seq_len or 0) - token_G[of_M])  # tokens of the segment before it
    to_M = tokens_G[of_M]
    if seq_len is not None:
        to_M = np.where(there_G[of_M], np.minimum((step_M + 1) * seq_len - token_G[of_M], to_M), to_M)
    old_M = row_G[of_M] + step_M
    new_M = np.where(there_G[of_M], places[np.where(there_G[of_M], old_M, 0)] if len(places) else -1, -1)
    lines = block.take(pa.array(of_M))
    gone_M = ~there_G[of_M]
    changed = {
        "row": pa.array(new_M, pa.int64(), mask=gone_M),
        "token": pa.array(np.where(step_M == 0, token_G[of_M], 0).astype(np.int32), pa.int32(), mask=gone_M),
        "tokens": pa.array(to_M - from_M, pa.int64()),
        "begin": pa.array(begin_G[of_M] + from_M, pa.int64()),
        "bytes": pa.array(np.where(step_M == 0, lines["bytes"].to_numpy(), 0), pa.int64()),
    }
    for name, values in changed.items():
        lines = lines.set_column(lines.schema.get_field_index(name), name, values)
    yield lines


def _sorted(path: Path, *, sort: bool) -> Iterator[Any]:
    import pyarrow as pa

    if not path.exists():
        return
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
        yield table.sort_by([("row", "ascending"), ("token", "ascending")]) if sort else table
    path.unlink()
