"""`mixstream select export`: scores or a selection as a table for other programs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
from cyclopts import Parameter

from mixstream.errors import ConfigError, OutputExistsError
from mixstream.selection import Scores, Selection, kept_mask, same_shards
from mixstream.storage import move_whole

from ..shared.artefacts import open_either, within_of
from ..shared.console import Console
from ..shared.options import Flag, Json, Many
from ..shared.outputs import DryRun
from .tables import PLACE
from .where import categories_of

_BLOCK = 1 << 16  # rows
_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")
Block = dict[str, Any]


def export(
    source: Annotated[str, Parameter(name="SCORES|SEL")],
    /,
    *,
    to: str,
    columns: Many = (),
    within: str | None = None,
    unscored: Flag = False,
    overwrite: Flag = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Write scores or a selection as parquet or JSONL.

    mixstream select export scores/dsdm --to dsdm.parquet
    mixstream select export scores/edu --columns int_score,language --to e.jsonl
    mixstream select export sel/top20 --to top20.jsonl.zst

    Each line has the domain, the shard's file, the row in it, its ordinal in
    the domain, and the columns; of a selection, it has the bucket, if there are
    several. Rows without a score are left out; --unscored writes them with
    nulls. `select import --key shard,row` reads such a table back, of several
    domains too. Memory is that of one block of rows.

    Exit status: 0, 1 if an artefact is damaged, 2 wrong use.

    Args:
        source: scores or a selection, or a directory with one for each domain.
        to: file that ends in .parquet, .jsonl, .jsonl.gz or .jsonl.zst.
        columns: of scores; default: all.
        within: only rows that this selection keeps.
        unscored: write rows without a score too.
        overwrite: replace the file.
        dry_run: count the rows, write nothing.
        as_json: print one JSON document.
    """
    path = Path(to)
    if not path.name.lower().endswith(_SUFFIXES):
        raise ConfigError(f"--to {to}: give a name that ends in {', '.join(_SUFFIXES)}")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists already; nothing was written; give another name, or --overwrite")
    console, artefacts = Console(as_json=as_json), open_either(source)
    names = [part for text in columns for part in text.split(",") if part]
    inside = within_of(source, within)
    blocks = []
    for name, each in artefacts.items():
        only = inside(name)
        blocks.append(_blocks(each, names, only, unscored=unscored))
    total = sum(each.table.rows for each in artefacts.values())
    rows = 0
    with console.progress("export", total=total, unit="rows") as advance, ExitStack() as stack:
        write = None if dry_run else stack.enter_context(_Writer(path))
        for some in blocks:
            for looked_at, block in some:
                count = len(block["row"])
                rows += count
                if write is not None and count:
                    write.put(block)
                advance(looked_at)
        if write is not None:
            write.publish()
    document = {"status": "dry run" if dry_run else "ok", "rows": rows, "path": None if dry_run else str(path)}
    console.result(document, f"{rows:,} rows{'' if dry_run else f' in {path}'}")
    return 0


def _blocks(
    artefact: Scores | Selection, names: Sequence[str], only: Selection | None, *, unscored: bool
) -> Iterator[tuple[int, Block]]:
    """Return what yields (rows that were looked at, block of those that are written)."""
    if only is not None:
        same_shards(only.path, only.table, artefact.path, artefact.table)
    if isinstance(artefact, Scores):
        if unknown := [name for name in names if name not in artefact.columns]:
            raise ConfigError(
                f"{artefact.path} has no column {', '.join(unknown)}; it has {', '.join(artefact.columns)}"
            )
        if hidden := [name for name in names or artefact.columns if name in PLACE]:
            raise ConfigError(
                f"{artefact.path} has a column {hidden[0]!r}, which is the name of a place in such a table; leave it "
                "out: name other --columns"
            )
        return _of_scores(artefact, names, only, unscored=unscored)
    if names:
        raise ConfigError("a selection has no columns: leave out --columns")
    return _of_selection(artefact, only)


def _of_scores(
    scores: Scores, names: Sequence[str], only: Selection | None, *, unscored: bool
) -> Iterator[tuple[int, Block]]:
    chosen, texts = list(names or scores.columns), categories_of(scores)
    mask_N = None if only is None else kept_mask(only)
    for begin, found in scores.blocks("flags", *chosen, size=_BLOCK):
        scored_B = (found["flags"] & 1) > 0
        rows_B = np.ones(len(scored_B), dtype=bool) if unscored else scored_B
        if mask_N is not None:
            rows_B = rows_B & mask_N[begin : begin + len(rows_B)]
        at = np.flatnonzero(rows_B)
        block = _places(scores.domain, scores, begin + at)
        for name in chosen:
            values: Any = found[name][at]
            if name in texts:
                values = [texts[name][code] if 0 <= code < len(texts[name]) else None for code in values.tolist()]
            block[name] = _Nullable(values, scored_B[at]) if unscored else values
        yield len(scored_B), block


def _of_selection(selection: Selection, only: Selection | None) -> Iterator[tuple[int, Block]]:
    several = len(selection.buckets) > 1
    mask_N = None if only is None else kept_mask(only)
    for shard, identity in enumerate(selection.table.shards):
        begin = int(selection.table.start_S[shard])
        for number, bucket in enumerate(selection.buckets):
            ordinals = selection.rows_of(shard, number).astype(np.int64) + begin
            if mask_N is not None:
                ordinals = ordinals[mask_N[ordinals]]
            for at in range(0, len(ordinals), _BLOCK):
                block = _places(selection.domain, selection, ordinals[at : at + _BLOCK])
                if several:
                    block["bucket"] = [bucket] * len(block["row"])
                yield 0, block
        yield identity.samples, {"row": []}


def _places(domain: str, artefact: Scores | Selection, ordinals: np.ndarray) -> Block:
    shard_B, row_B = artefact.table.home(ordinals)
    names = [shard.name for shard in artefact.table.shards]
    shards = [names[at] for at in shard_B.tolist()]
    return dict(zip(PLACE, ([domain] * len(ordinals), shards, row_B, ordinals.astype(np.int64))))


class _Nullable:
    """Values of which some do not count."""

    def __init__(self, values: Any, valid_B: np.ndarray) -> None:
        self.values, self.valid_B = values, valid_B


class _Writer:
    """A table that appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, path.with_name(f".{path.name}.partial")
        self._parquet: Any = None
        self._lines: IO[bytes] | None = None

    def __enter__(self) -> _Writer:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.name.lower().endswith(".parquet"):
            self._lines = _open_lines(self._partial, self._path.name.lower())
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
        self._partial.unlink(missing_ok=True)

    def put(self, block: Mapping[str, Any]) -> None:
        """Write a block: column -> values."""
        if self._lines is not None:
            columns = {name: _listed(values) for name, values in block.items()}
            for line in zip(*columns.values()):
                self._lines.write(json.dumps(dict(zip(columns, line)), ensure_ascii=False).encode() + b"\n")
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        batch = pa.table({name: _arrow(values) for name, values in block.items()})
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(self._partial, batch.schema)
        self._parquet.write_table(batch.cast(self._parquet.schema))

    def publish(self) -> None:
        """Close the file and give it its name."""
        if self._lines is None and self._parquet is None:
            raise ConfigError("there is no row to write; nothing was written; --unscored writes rows without a score")
        self._close()
        move_whole(self._partial, self._path)

    def _close(self) -> None:
        for file in (self._lines, self._parquet):
            if file is not None:
                file.close()


def _open_lines(path: Path, name: str) -> IO[bytes]:
    if name.endswith(".gz"):
        return gzip.open(path, "wb")  # type: ignore[return-value]
    if name.endswith(".zst"):
        import zstandard

        return zstandard.open(path, "wb")  # type: ignore[return-value]
    return path.open("wb")


def _listed(values: Any) -> list[Any]:
    if isinstance(values, _Nullable):
        return [value if valid else None for value, valid in zip(_listed(values.values), values.valid_B.tolist())]
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _arrow(values: Any) -> Any:
    import pyarrow as pa

    invalid_B = None
    if isinstance(values, _Nullable):
        invalid_B, values = ~values.valid_B, values.values
    if isinstance(values, np.ndarray):
        if values.ndim > 1:
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            lists = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))
            return lists if invalid_B is None else lists.take(pa.array(np.arange(len(lists)), mask=invalid_B))
        return pa.array(values, mask=invalid_B)
    return pa.array(values, pa.string())
