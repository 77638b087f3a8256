"""Scores as domains: which bucket a row belongs to, so that each bucket can be mixed as a domain of its own.

Rules. An integer column gives one bucket for each of its values: clusters, labels, languages. Any column can also be
cut into quantiles: N buckets of equally many rows, ordered by (value, ordinal), lowest first. Rows without a score are
in no bucket. The result depends on the scores alone. Memory: at most 24 bytes a row for quantiles, 12 for values.

Shape suffixes: N rows, E eligible rows, K buckets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.selection.manifest import provenance
from mixstream.selection.scores import Scores
from mixstream.selection.selection import Selection
from mixstream.selection.selection_writer import write_buckets

MOST_BUCKETS = 4096


def split(
    scores: Scores,
    column: str,
    *,
    buckets: int | None = None,
    within: Selection | None = None,
    out: str | PathLike[str],
    made: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Selection:
    """Write a selection whose buckets are the values, or the quantiles, of a column.

    A bucket is called `COLUMN=VALUE`, with the name of the category if the column has names (`select import` keeps
    those of texts), or `COLUMN=q00`, `COLUMN=q01`, … for quantiles.

    >>> from tempfile import TemporaryDirectory
    >>> from mixstream.selection import Column, ScoresWriter, ShardIdentity, ShardTable
    >>> table = ShardTable(shards=(ShardIdentity(name="shard.00000.mds", samples=4, raw_bytes=90),))
    >>> columns = [Column(name="quality", dtype="f4")]
    >>> with TemporaryDirectory() as place:
    ...     with ScoresWriter(f"{place}/s", domain="web", table=table, columns=columns, made=provenance({})) as writer:
    ...         writer.write(0, {"quality": [0.9, 0.1, 0.5, 0.4]})
    ...     made = split(Scores.open(f"{place}/s"), "quality", buckets=2, out=f"{place}/out")
    ...     [(name, made.ordinals(at).tolist()) for at, name in enumerate(made.buckets)]
    [('quality=q0', [1, 3]), ('quality=q1', [0, 2])]

    Args:
        scores: whose rows are split.
        column: name of a column of numbers.
        buckets: number of quantiles; None for one bucket for each value of an integer column.
        within: only rows that this selection keeps; it must be of the same shards.
        out: directory of the new selection.
        made: how it is made (`provenance`); default: what is known here.
        overwrite: whether a selection in `out` may be replaced.

    Raises:
        ConfigError: no such column, or one that cannot be split this way, or too many buckets.
        OutputExistsError: `out` exists.
    """
    bucket_N, names = divide(scores, column, buckets=buckets, within=within)
    parents = {"scores": scores.id, **({"within": within.id} if within is not None else {})}
    rule = {"kind": "split", "column": column, "buckets": buckets}
    made = provenance({"rule": rule, "parents": parents}) if made is None else made
    return write_buckets(
        out,
        domain=scores.domain,
        table=scores.table if within is None else scores.table.knowing(within.table),
        bucket=bucket_N,
        names=names,
        rule=rule,
        parents=parents,
        made=made,
        overwrite=overwrite,
    )


def divide(
    scores: Scores, column: str, *, buckets: int | None = None, within: Selection | None = None
) -> tuple[NDArray[np.int32], list[str]]:
    """Return (bucket_N, names) that `split` writes: the bucket of each row, -1 for none, and what each is called.

    Args:
        scores: whose rows are split.
        column: name of a column of numbers.
        buckets: number of quantiles; None for one bucket for each value of an integer column.
        within: only rows that this selection keeps; it must be of the same shards.

    Raises:
        ConfigError: no such column, or one that cannot be split this way, or too many buckets.
    """
    if column not in scores.columns:
        raise ConfigError(f"{scores.path} has no column {column!r}; it has {sorted(scores.columns)}")
    allowed_N = np.array(scores.scored)
    if within is not None:
        if (what := within.table.differs_from(scores.table)) is not None:
            raise ConfigError(
                f"{within.path} selects rows of other shards than {scores.path} describes ({what}); make both over one "
                "dataset"
            )
        allowed_N &= within.mask()
    value_N = scores.column(column)
    if buckets is None:
        bucket_N, value_K = by_value(value_N, allowed_N, name=column)
        names = [f"{column}={name}" for name in _named(scores, column, value_K)]
    else:
        bucket_N = by_quantile(value_N, allowed_N, buckets=buckets, name=column)
        names = [f"{column}=q{at:0{len(str(buckets - 1))}d}" for at in range(buckets)]
    return bucket_N, names


def by_value(
    value_N: NDArray[Any], allowed_N: NDArray[np.bool_], *, name: str
) -> tuple[NDArray[np.int32], NDArray[np.integer]]:
    """Return (bucket_N, value_K): the bucket of each row, -1 for none, and the value of each bucket, ascending.

    >>> bucket_N, value_K = by_value(np.array([7, 3, 7, 9]), np.array([True, True, True, False]), name="cluster")
    >>> bucket_N.tolist(), value_K.tolist()
    ([1, 0, 1, -1], [3, 7])

    Args:
        value_N: [N], integers.
        allowed_N: bool [N], rows that are in a bucket.
        name: of the column, for errors.

    Raises:
        ConfigError: not integers, no row, or too many values.
    """
    if value_N.ndim != 1 or value_N.dtype.kind not in "iub":
        raise ConfigError(
            f"column {name!r} holds {value_N.dtype} of shape {value_N.shape[1:]}: one bucket for each value needs "
            f"integers; give a number of buckets for quantiles, as in {name}:20"
        )
    value_K: NDArray[Any] = np.empty(0, value_N.dtype)
    for at in range(0, len(value_N), _BLOCK):  # the values are few, and a block at a time needs little memory
        value_K = np.union1d(value_K, value_N[at : at + _BLOCK][allowed_N[at : at + _BLOCK]])
        if len(value_K) > MOST_BUCKETS:
            raise ConfigError(
                f"column {name!r} has more than {MOST_BUCKETS:,} values, each would be a domain; give a number of "
                f"buckets for quantiles, as in {name}:20"
            )
    if not len(value_K):
        raise ConfigError(f"no row has a value in the column {name!r}: there is nothing to split")
    bucket_N = np.searchsorted(value_K, value_N).astype(np.int32)
    bucket_N[~allowed_N] = -1
    return bucket_N, value_K.astype(np.uint64 if value_K.dtype == np.uint64 else np.int64)


def by_quantile(value_N: NDArray[Any], allowed_N: NDArray[np.bool_], *, buckets: int, name: str) -> NDArray[np.int32]:
    """Return the quantile of each row, int32 [N], lowest values first; -1 for rows that are not allowed.

    The E allowed rows are ordered by (value, ordinal); of K buckets, the one at position p is in p·K // E, so sizes
    differ by at most 1.

    >>> by_quantile(np.array([0.5, 0.1, 0.9, 0.1]), np.ones(4, dtype=bool), buckets=2, name="quality").tolist()
    [1, 0, 1, 0]

    Args:
        value_N: [N], finite numbers.
        allowed_N: bool [N].
        buckets: K, from 1 to 4,096.
        name: of the column, for errors.

    Raises:
        ConfigError: not a column of single numbers, or fewer rows than buckets.
    """
    if not 1 <= buckets <= MOST_BUCKETS:
        raise ConfigError(f"{buckets} buckets of {name!r}: give 1 to {MOST_BUCKETS:,}")
    if value_N.ndim != 1:
        raise ConfigError(f"column {name!r} holds rows of shape {value_N.shape[1:]}: quantiles need one number a row")
    index_E = np.flatnonzero(allowed_N).astype(np.int64)
    if len(index_E) < buckets:
        raise ConfigError(f"{len(index_E):,} rows have a value in {name!r}, too few for {buckets} buckets; give fewer")
    bucket_N = np.full(len(value_N), -1, dtype=np.int32)
    order_E = np.argsort(value_N[index_E], kind="stable")
    index_E = index_E[order_E]
    del order_E
    border_K = -(-np.arange(buckets + 1, dtype=np.int64) * len(index_E) // buckets)
    for at in range(buckets):
        bucket_N[index_E[border_K[at] : border_K[at + 1]]] = at
    return bucket_N


_BLOCK = 1 << 20


def _named(scores: Scores, column: str, value_K: NDArray[np.integer]) -> Sequence[str]:
    """Return the names of values: those of the categories, where the column has names, or the numbers."""
    categories = scores.made.get("categories")
    names = categories.get(column) if isinstance(categories, Mapping) else None
    if not isinstance(names, list):
        return [str(value) for value in value_K.tolist()]
    return [str(names[value]) if 0 <= value < len(names) else str(value) for value in value_K.tolist()]
