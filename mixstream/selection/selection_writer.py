"""Writes selections (format `mixstream.selection/1`): shard by shard, so that memory is that of the largest shard.

Rules: a selection appears whole or not at all. What is given may be a mask or ordinals in any order; what is written is
the same for the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.errors import ConfigError
from mixstream.selection.manifest import SELECTION, as_json, check_made, directory_of, encode_manifest
from mixstream.selection.npy import ArrayWriter, hash_file
from mixstream.selection.rules import check_tokens
from mixstream.selection.selection import Selection
from mixstream.selection.selection_record import COUNTS, HASHES, ROWS, U4, U8, hash_rows, selection_id
from mixstream.selection.shard_table import ShardTable
from mixstream.selection.staging import StagedFiles
from mixstream.types import Int64

_Split = Callable[[int, int, int], tuple[NDArray[np.uint32], Int64]]
"""(shard, first ordinal, end ordinal) -> (its kept rows by bucket, uint32 [n]; how many in each bucket, int64 [Kb])."""


def write_selection(
    path: str | PathLike[str],
    *,
    domain: str,
    table: ShardTable,
    kept: ArrayLike,
    rule: Mapping[str, Any],
    parents: Mapping[str, str],
    made: Mapping[str, Any],
    tokens: ArrayLike | None = None,
    overwrite: bool = False,
) -> Selection:
    """Write which rows of a domain are kept, and return the selection.

    >>> from tempfile import TemporaryDirectory
    >>> from mixstream.selection import ShardIdentity, provenance
    >>> table = ShardTable(shards=(ShardIdentity(name="shard.00000.mds", samples=4, raw_bytes=90),))
    >>> with TemporaryDirectory() as place:
    ...     made = provenance({"seed": 0})
    ...     kept = write_selection(place, domain="web", table=table, kept=[1, 3], rule={}, parents={}, made=made)
    ...     kept.kept, kept.mask().tolist(), kept.id
    (2, [False, True, False, True], '...')

    Args:
        path: directory of the artefact.
        domain: whose rows these are.
        table: the shards of the domain.
        kept: bool [rows], or the ordinals that are kept, int [n], in any order.
        rule: what decided, for people.
        parents: name -> id of the scores and selections that it was made from.
        made: how (`provenance`).
        tokens: of each stored row, int [rows]; None if unknown.
        overwrite: replace an artefact that is there.

    Raises:
        ConfigError: an argument is invalid.
        OutputExistsError: an artefact is there, and not `overwrite`.
    """
    kept_N = np.asarray(kept)
    if kept_N.dtype == np.bool_:
        _check_length("kept", kept_N, table)
        split = _split_mask(kept_N)
    else:
        split = _split_ordinals(_checked_ordinals(kept_N, table))
    return _write(
        path, domain=domain, table=table, names=("",), split=split, rule=rule, parents=parents, made=made,
        tokens=tokens, overwrite=overwrite,
    )  # fmt: skip


def write_buckets(
    path: str | PathLike[str],
    *,
    domain: str,
    table: ShardTable,
    bucket: ArrayLike,
    names: Sequence[str],
    rule: Mapping[str, Any],
    parents: Mapping[str, str],
    made: Mapping[str, Any],
    tokens: ArrayLike | None = None,
    overwrite: bool = False,
) -> Selection:
    """Write which bucket each row of a domain is in, and return the selection. See `write_selection`.

    >>> from tempfile import TemporaryDirectory
    >>> from mixstream.selection import ShardIdentity, provenance
    >>> table = ShardTable(shards=(ShardIdentity(name="shard.00000.mds", samples=4, raw_bytes=90),))
    >>> with TemporaryDirectory() as place:
    ...     made = write_buckets(place, domain="web", table=table, bucket=[1, 0, -1, 1], names=["low", "high"],
    ...                          rule={}, parents={}, made=provenance({}))
    ...     made.buckets, made.kept_K.tolist(), made.ordinals(1).tolist()
    (('low', 'high'), [1, 2], [0, 3])

    Args:
        path: directory of the artefact.
        domain: whose rows these are.
        table: the shards of the domain.
        bucket: int [rows], the number of each row's bucket; -1 if it is left out.
        names: of the buckets.
        rule: what decided, for people.
        parents: name -> id of the scores and selections that it was made from.
        made: how (`provenance`).
        tokens: of each stored row, int [rows]; None if unknown.
        overwrite: replace an artefact that is there.

    Raises:
        ConfigError: an argument is invalid.
        OutputExistsError: an artefact is there, and not `overwrite`.
    """
    bucket_N = np.asarray(bucket)
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"the buckets are called {list(names)[:8]!r}; give each a name of its own")
    if bucket_N.dtype.kind not in "iu":
        raise ConfigError(f"bucket has dtype {bucket_N.dtype}; give the number of each row's bucket, or -1")
    _check_length("bucket", bucket_N, table)
    if bucket_N.size and not (int(bucket_N.min()) >= -1 and int(bucket_N.max()) < len(names)):
        raise ConfigError(
            f"bucket reaches from {bucket_N.min()} to {bucket_N.max()}, there are {len(names)} names; give -1 to "
            f"{len(names) - 1}"
        )
    return _write(
        path, domain=domain, table=table, names=tuple(names), split=_split_buckets(bucket_N, len(names)), rule=rule,
        parents=parents, made=made, tokens=tokens, overwrite=overwrite,
    )  # fmt: skip


def _write(
    path: str | PathLike[str],
    *,
    domain: str,
    table: ShardTable,
    names: tuple[str, ...],
    split: _Split,
    rule: Mapping[str, Any],
    parents: Mapping[str, str],
    made: Mapping[str, Any],
    tokens: ArrayLike | None,
    overwrite: bool,
) -> Selection:
    place = directory_of(path)
    content = {"rule": as_json(rule, "rule"), "parents": as_json(parents, "parents"), "made": check_made(made)}
    tokens_N = None if tokens is None else np.asarray(tokens)
    if tokens_N is not None:
        _check_length("tokens", tokens_N, table)
        check_tokens(tokens_N)
    with StagedFiles(place, overwrite=overwrite) as staged:
        counts_SK = np.zeros((len(table.shards), len(names)), dtype=U4)
        hashes_SK = np.zeros((len(table.shards), len(names)), dtype=U8)
        after, writer = 0, ArrayWriter(staged.directory / ROWS, U4)
        try:
            for shard in range(len(table.shards)):
                begin, end = table.start_S[shard : shard + 2].tolist()
                rows, count_K = split(shard, begin, end)
                counts_SK[shard] = count_K
                edges = np.concatenate(([0], np.cumsum(count_K))).tolist()
                hashes_SK[shard] = [hash_rows(rows[a:b]) for a, b in pairwise(edges)]
                writer.write(rows)
                if tokens_N is not None:
                    after += int(tokens_N[begin:end][rows].sum(dtype=np.int64))
            writer.close()
        finally:
            writer.abort()
        for name, array in ((COUNTS, counts_SK), (HASHES, hashes_SK)):
            small = ArrayWriter(staged.directory / name, array.dtype, array.shape[1:])
            small.write(array)
            small.close()
        files = {
            name: {"bytes": (staged.directory / name).stat().st_size, "xxh3_128": hash_file(staged.directory / name)}
            for name in (COUNTS, HASHES, ROWS)
        }
        content |= {
            "format": SELECTION,
            "domain": domain,
            "shards": table.to_json(),
            "buckets": list(names),
            "rows": {"before": table.rows, "after": int(counts_SK.sum(dtype=np.int64))},
            "tokens": None if tokens_N is None else {"before": int(tokens_N.sum(dtype=np.int64)), "after": after},
            "files": files,
            "id": selection_id(table, names, counts_SK, hashes_SK),
        }
        staged.publish(files, manifest=encode_manifest(content))
    return Selection.open(place)


def _split_mask(kept_N: NDArray[np.bool_]) -> _Split:
    def split(shard: int, begin: int, end: int) -> tuple[NDArray[np.uint32], Int64]:
        del shard
        rows = np.flatnonzero(kept_N[begin:end]).astype(U4)
        return rows, np.array([len(rows)])

    return split


def _split_ordinals(ordinal_N: Int64) -> _Split:
    def split(shard: int, begin: int, end: int) -> tuple[NDArray[np.uint32], Int64]:
        del shard
        first, last = np.searchsorted(ordinal_N, [begin, end])
        rows = (ordinal_N[first:last] - begin).astype(U4)
        return rows, np.array([len(rows)])

    return split


def _split_buckets(bucket_N: NDArray[np.integer], buckets: int) -> _Split:
    def split(shard: int, begin: int, end: int) -> tuple[NDArray[np.uint32], Int64]:
        del shard
        bucket_R = bucket_N[begin:end].astype(np.int64)
        count_K = np.bincount(bucket_R + 1, minlength=buckets + 1)
        order_R = np.argsort(bucket_R, kind="stable")
        return order_R[count_K[0] :].astype(U4), count_K[1:]

    return split


def _checked_ordinals(ordinal_N: NDArray[Any], table: ShardTable) -> Int64:
    """Return ordinals ascending; a copy is made only if they are not."""
    if ordinal_N.ndim != 1 or (ordinal_N.size and ordinal_N.dtype.kind not in "iu"):
        raise ConfigError(
            f"kept has dtype {ordinal_N.dtype} and shape {ordinal_N.shape}; give a bool per row, or a list of ordinals"
        )
    ordinal_N = ordinal_N.astype(np.int64, copy=False)
    if (ordinal_N[1:] <= ordinal_N[:-1]).any():
        ordinal_N = np.sort(ordinal_N)
        twice = np.flatnonzero(ordinal_N[1:] == ordinal_N[:-1])
        if len(twice):
            raise ConfigError(
                f"ordinal {ordinal_N[twice[0]]} is kept twice; a selection keeps a row once; remove repeats"
            )
    if ordinal_N.size and not (ordinal_N[0] >= 0 and ordinal_N[-1] < table.rows):
        raise ConfigError(f"ordinals {ordinal_N[0]} to {ordinal_N[-1]}, the table has {table.rows} rows from 0")
    return ordinal_N


def _check_length(what: str, array_N: NDArray[Any], table: ShardTable) -> None:
    if array_N.shape != (table.rows,):
        raise ConfigError(f"{what} has shape {array_N.shape}, the table has {table.rows} rows; give one value per row")
