"""Selections as sets: and, or, minus, complement, and how much two of them share.

Rules. Two selections combine only if they are of the same shards, since a row is a row of a shard: otherwise nothing
is computed, and the error says which shards differ (`select rebase` moves a selection to other shards). `and` and
`minus` keep the buckets of the first one; `or` merges all buckets. Memory: at most 4 bytes a stored row.

Shape suffixes: N stored rows, S shards, K buckets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.records import dataclass
from mixstream.selection.manifest import provenance
from mixstream.selection.selection import Selection
from mixstream.selection.selection_writer import write_buckets, write_selection
from mixstream.selection.shard_table import ShardTable

Operation = Literal["and", "or", "minus"]
_Mask = NDArray[np.bool_]
_ON_MASKS: dict[str, Callable[[_Mask, _Mask], _Mask]] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "minus": lambda one, other: one & ~other,
}


def combine(
    one: Selection,
    operation: Operation,
    other: Selection,
    *,
    out: str | PathLike[str],
    tokens: NDArray[Any] | None = None,
    made: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Selection:
    """Write the rows that are in both selections (`and`), in either (`or`), or in `one` only (`minus`).

    >>> from tempfile import TemporaryDirectory
    >>> from mixstream.selection import ShardIdentity
    >>> table = ShardTable(shards=(ShardIdentity(name="shard.00000.mds", samples=4, raw_bytes=90),))
    >>> given = {"domain": "web", "table": table, "rule": {}, "parents": {}, "made": provenance({})}
    >>> with TemporaryDirectory() as place:
    ...     one = write_selection(f"{place}/one", kept=[0, 1, 2], **given)
    ...     other = write_selection(f"{place}/other", kept=[1, 3], **given)
    ...     combine(one, "minus", other, out=f"{place}/out").ordinals().tolist()
    [0, 2]

    Args:
        one: the first selection; `and` and `minus` keep its buckets.
        operation: `"and"`, `"or"` or `"minus"`.
        other: of the same domain and the same shards.
        out: directory of the new selection.
        tokens: of each stored row, int [N], to record what is kept; None if unknown.
        made: how it is made (`provenance`); default: what is known here.
        overwrite: whether a selection in `out` may be replaced.

    Raises:
        ConfigError: they are of different shards, or the operation is unknown.
        OutputExistsError: `out` exists.
    """
    if operation not in _ON_MASKS:
        raise ConfigError(f"operation {operation!r}: give one of {', '.join(_ON_MASKS)}")
    same_shards(one.path, one.table, other.path, other.table)
    rule = {"kind": operation, "of": [dict(one.rule), dict(other.rule)]}
    parents = {"one": one.id, "other": other.id}
    made = provenance({"rule": rule, "parents": parents}) if made is None else made
    head: dict[str, Any] = {"domain": one.domain, "table": one.table.knowing(other.table), "made": made}
    head |= {"rule": rule, "parents": parents, "tokens": tokens, "overwrite": overwrite}
    if operation == "or" or len(one.buckets) == 1:
        kept_N = _ON_MASKS[operation](kept_mask(one), kept_mask(other))
        return write_selection(out, kept=kept_N, **head)
    bucket_N = bucket_numbers(one)
    other_N = kept_mask(other)
    bucket_N[~other_N if operation == "and" else other_N] = -1
    return write_buckets(out, bucket=bucket_N, names=one.buckets, **head)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How many rows two selections share.

    >>> Difference(both=2, only_one=1, only_other=1).jaccard
    0.5

    Attributes:
        both: rows in both.
        only_one: rows in the first one only.
        only_other: rows in the second one only.
    """

    both: int
    only_one: int
    only_other: int

    @property
    def jaccard(self) -> float:
        """Rows in both over rows in either, from 0 to 1; 1 for two empty selections."""
        either = self.both + self.only_one + self.only_other
        return self.both / either if either else 1.0


def difference(one: Selection, other: Selection) -> Difference:
    """Return how many rows two selections of the same shards share.

    Raises:
        ConfigError: they are of different shards.
    """
    same_shards(one.path, one.table, other.path, other.table)
    one_N, other_N = kept_mask(one), kept_mask(other)
    both = int(np.count_nonzero(one_N & other_N))
    return Difference(
        both=both,
        only_one=int(np.count_nonzero(one_N)) - both,
        only_other=int(np.count_nonzero(other_N)) - both,
    )


def kept_mask(selection: Selection) -> _Mask:
    """Return which rows a selection keeps in any of its buckets, bool [N]."""
    if len(selection.buckets) == 1:
        return selection.mask()
    return bucket_numbers(selection) >= 0


def bucket_numbers(selection: Selection) -> NDArray[np.int32]:
    """Return the bucket of each row, int32 [N]; -1 for a row that is not kept."""
    bucket_N = np.full(selection.table.rows, -1, dtype=np.int32)
    for shard, begin in enumerate(selection.table.start_S[:-1].tolist()):
        for bucket in range(len(selection.buckets)):
            bucket_N[begin + selection.rows_of(shard, bucket).astype(np.int64)] = bucket
    return bucket_N


def same_shards(one: str, one_table: ShardTable, other: str, other_table: ShardTable) -> None:
    """Check that two artefacts, named `one` and `other`, describe the same shards in the same order.

    Raises:
        ConfigError: they do not; the message says which shards differ.
    """
    if (what := one_table.differs_from(other_table)) is None:
        return
    raise ConfigError(
        f"{one} and {other} are not of the same shards ({what}), so their rows cannot be compared; make both over one "
        "dataset, or move one of them with `mixstream select rebase`"
    )
