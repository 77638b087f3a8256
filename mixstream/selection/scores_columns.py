"""Adding columns to scores that exist.

Rule: until the manifest is replaced, the last step, the scores are what they were; columns that exist never change.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.errors import ConfigError
from mixstream.selection.column import Column, check_columns, stored
from mixstream.selection.manifest import FileRecord, check_made, directory_of
from mixstream.selection.merge import merge_scores
from mixstream.selection.npy import ArrayWriter, hash_file
from mixstream.selection.scores import Scores
from mixstream.selection.scores_writer import scores_manifest
from mixstream.selection.staging import StagedFiles

_ROWS = 65536  # at a time


def add_columns(
    path: str | PathLike[str],
    columns: Mapping[str, ArrayLike],
    made: Mapping[str, Any],
    *,
    higher_is_better: Mapping[str, bool] | None = None,
) -> Scores:
    """Add columns to scores on local disk, and return them as they are then; their id is another one.

    >>> from tempfile import TemporaryDirectory
    >>> from mixstream.selection import ScoresWriter, ShardIdentity, ShardTable, provenance
    >>> table = ShardTable(shards=(ShardIdentity(name="shard.00000.mds", samples=3, raw_bytes=90),))
    >>> with TemporaryDirectory() as place:
    ...     columns = [Column(name="quality", dtype="f4")]
    ...     with ScoresWriter(place, domain="web", table=table, columns=columns, made=provenance({})) as writer:
    ...         writer.write(0, {"quality": [0.5, 0.25, 1.0]})
    ...     scores = add_columns(place, {"rank": np.array([1, 2, 0])}, provenance({"of": "quality"}))
    ...     list(scores.columns), scores.column("rank").tolist()
    (['quality', 'rank'], [1, 2, 0])

    Args:
        path: directory of the scores.
        columns: name -> values of all rows, [rows, *shape]; those of rows that were not scored are stored as 0.
        made: how the columns were made (`provenance`); kept below `made["added"]` of the scores, by name.
        higher_is_better: of the columns that are scores.

    Raises:
        ConfigError: a column exists, or a value cannot be stored.
        SelectionError: the scores are damaged, or their parts are missing.
    """
    place, made = directory_of(path), check_made(made)
    scores = merge_scores(place)
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    sides = higher_is_better or {}
    added = [
        Column(name=name, dtype=array.dtype.str, shape=array.shape[1:], higher_is_better=sides.get(name))
        for name, array in arrays.items()
    ]
    if taken := sorted(arrays.keys() & scores.columns.keys()):
        raise ConfigError(f"{place} has a column {taken[0]!r} already; a column never changes: choose another name")
    every = check_columns([*scores.columns.values(), *added])
    (piece,) = scores.pieces
    records = dict(piece.records)
    with StagedFiles(place, overwrite=True) as staged:
        for column in added:
            path_of = staged.directory / column.file
            _write(path_of, column, arrays[column.name], scores)
            records[column.file] = FileRecord(bytes=path_of.stat().st_size, xxh3_128=hash_file(path_of))
        known = {**scores.made, "added": {**scores.made.get("added", {}), **dict.fromkeys(arrays, made)}}
        manifest = scores_manifest(scores.domain, scores.table, every, records, known)
        staged.add([column.file for column in added], manifest=manifest)
    return Scores.open(place)


def _write(path: Path, column: Column, values: NDArray[Any], scores: Scores) -> None:
    if len(values) != scores.rows:
        raise ConfigError(
            f"column {column.name!r} has {len(values)} rows, the scores have {scores.rows}; give all rows"
        )
    writer = ArrayWriter(path, column.type, column.shape)
    try:
        for begin in range(0, scores.rows, _ROWS):
            flags = scores.flags[begin : begin + _ROWS]
            writer.write(stored(column, values[begin : begin + _ROWS], flags, begin=begin), begin)
        writer.close(scores.rows)
    finally:
        writer.abort()
