"""A selection: which rows of each shard count, as its reader sees it (format `mixstream.selection/1`).

Rules: a selection may have several buckets, disjoint sets of rows that are read as domains of their own; a plain one
has a single bucket called "". A directory holds `manifest.json` and three arrays, S shards and Kb buckets:

    counts.npy  u4 [S, Kb]  rows that are kept
    hashes.npy  u8 [S, Kb]  xxh3_64 of the bytes of these rows
    rows.npy    u4 [N]      rows within their shard, by (shard, bucket), ascending in each

The id covers shards, buckets, counts and hashes, so it binds every row, and opening checks it in O(S * Kb). The rows of
a shard are compared with their hash when they are first read. Nothing is held in memory per row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import partial
from hashlib import blake2b
from os import PathLike
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mixstream.cached import cached_property
from mixstream.errors import ConfigError, SelectionError
from mixstream.formats import ShardEntry
from mixstream.plan.selection import KeptRows
from mixstream.records import dataclass
from mixstream.selection.artefact_files import ArtefactFiles, check_files, open_files
from mixstream.selection.changed_shards import OnMismatch, Unlisted
from mixstream.selection.fit import Fit, fit_shards, refuse_missing
from mixstream.selection.manifest import SELECTION, decode_manifest
from mixstream.selection.npy import refuse
from mixstream.selection.selection_record import (
    COUNTS,
    HASHES,
    ROWS,
    U4,
    U8,
    SelectionRecord,
    Tokens,
    check_counts,
    checked_id,
    hash_rows,
    read_tokens,
)
from mixstream.selection.shard_table import Match, ShardTable
from mixstream.selection.staging import MANIFEST
from mixstream.storage import Retry
from mixstream.types import Int64


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """The kept rows of one domain. Make it with `write_selection` or `write_buckets`.

    Attributes:
        path: the directory or URL that it was read from.
        domain: whose rows it names.
        table: the shards of the domain when it was made.
        buckets: their names.
        counts_SK: uint32 [S, Kb], kept rows of each shard and bucket.
        rule: what decided, as its command wrote it down.
        parents: name -> id of what it was made from.
        made: how it was made (`provenance`).
        tokens: of all rows and of the kept ones; None if nobody counted.
        id: hexadecimal of 128 bits, over shards, buckets and rows.
        files: where its files are.
    """

    path: str
    domain: str
    table: ShardTable
    buckets: tuple[str, ...]
    counts_SK: NDArray[np.uint32]
    rule: Mapping[str, Any]
    parents: Mapping[str, str]
    made: Mapping[str, Any]
    tokens: Tokens | None
    id: str
    files: ArtefactFiles = field(repr=False)
    _record: SelectionRecord = field(repr=False)
    _hashes_SK: NDArray[np.uint64] = field(repr=False)
    _verified_SK: NDArray[np.bool_] = field(repr=False)

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        domain: str | None = None,
        local: str | None = None,
        retry: Retry = Retry(),  # noqa: B008 - frozen
    ) -> Selection:
        """Open a selection, and check all of it but its rows.

        Args:
            path: of the artefact, or of a directory that has it as `domain`: a path, or the URL of a store.
            domain: name of the sub-directory, where `path` itself is no artefact.
            local: cache directory for the files of a store; None for one below the temp dir.
            retry: of requests to a store.

        Raises:
            SelectionError: there is none, or it is damaged.
            StoreError: the store cannot be read.
        """
        files, data = open_files(path, domain=domain, local=local, kind="selection", retry=retry)
        where = f"{files.place}/{MANIFEST}"
        if data is None:
            raise SelectionError(f"{files.place} holds parts of scores, not a selection; make one of them first")
        record = decode_manifest(data, SelectionRecord, (SELECTION,), where=where)
        table = ShardTable.from_json(msgspec.to_builtins(record.shards), where=where)
        if not record.buckets or len(set(record.buckets)) < len(record.buckets):
            refuse(where, f"its buckets are {list(record.buckets)[:8]!r}; one or more different names are needed")
        check_files(record.files, (COUNTS, HASHES, ROWS), where=where)
        shape = len(table.shards), len(record.buckets)
        counts_SK = files.array(COUNTS, record.files[COUNTS], dtype=U4, shape=shape)
        hashes_SK = files.array(HASHES, record.files[HASHES], dtype=U8, shape=shape)
        check_counts(table, counts_SK, record, where)
        return cls(
            path=files.place, domain=record.domain, table=table, buckets=record.buckets, counts_SK=counts_SK,
            rule=record.rule, parents=record.parents, made=record.made, tokens=read_tokens(record, where),
            id=checked_id(table, counts_SK, hashes_SK, record, where), files=files,
            _record=record, _hashes_SK=hashes_SK, _verified_SK=np.zeros(shape, dtype=np.bool_),
        )  # fmt: skip

    @property
    def kept(self) -> int:
        """Kept rows, over all buckets."""
        return int(self._begin_SK[-1])

    @property
    def kept_K(self) -> Int64:
        """Kept rows of each bucket, int64 [Kb]."""
        return self.counts_SK.sum(axis=0, dtype=np.int64)

    def bucket(self, name: str) -> int:
        """Return the number of a bucket.

        Raises:
            ConfigError: there is none of this name.
        """
        if name not in self.buckets:
            raise ConfigError(f"{self.path} has no bucket {name!r}; it has {list(self.buckets)[:40]}")
        return self.buckets.index(name)

    def rows_of(self, shard: int, bucket: int = 0) -> NDArray[np.uint32]:
        """Return the kept rows of a shard of the table, uint32 [n], ascending, mapped; checked when first read.

        Raises:
            SelectionError: they do not match their hash, or are no rows of the shard.
            ConfigError: there is no such shard or bucket.
        """
        self._check_bucket(bucket)
        if not 0 <= shard < len(self.table.shards):
            raise ConfigError(f"shard {shard}; {self.path} has the shards 0 to {len(self.table.shards) - 1}")
        at = shard * len(self.buckets) + bucket
        rows = self._rows[self._begin_SK[at] : self._begin_SK[at + 1]]
        if not self._verified_SK[shard, bucket]:
            self._check_rows(shard, bucket, rows)
            self._verified_SK[shard, bucket] = True
        return rows

    def ordinals(self, bucket: int = 0) -> Int64:
        """Return the kept ordinals of a bucket, int64 [n], ascending: 8 bytes a row in memory."""
        self._check_bucket(bucket)
        made = np.empty(int(self.kept_K[bucket]), dtype=np.int64)
        at = 0
        for shard, rows in self._each(bucket):
            np.add(rows, self.table.start_S[shard], out=made[at : at + len(rows)], casting="unsafe")
            at += len(rows)
        return made

    def mask(self, bucket: int = 0) -> NDArray[np.bool_]:
        """Return which rows a bucket keeps, bool [rows]: one byte per stored row in memory."""
        self._check_bucket(bucket)
        made = np.zeros(self.table.rows, dtype=np.bool_)
        for shard, rows in self._each(bucket):
            made[self.table.start_S[shard] : self.table.start_S[shard + 1]][rows] = True
        return made

    def verify(self) -> None:
        """Read everything, and compare it with its hashes.

        Raises:
            SelectionError: a file is damaged, or a row is in two buckets.
        """
        self.files.verify(self._record.files)
        for shard, identity in enumerate(self.table.shards):
            seen = np.zeros(identity.samples, dtype=np.bool_)
            for bucket, name in enumerate(self.buckets):
                rows = self.rows_of(shard, bucket)
                if seen[rows].any():
                    row = int(rows[seen[rows]][0])
                    refuse(
                        self._place, f"row {row} of shard {identity.name!r} is in the bucket {name!r} and in another"
                    )
                seen[rows] = True

    def match(self, entries: Sequence[ShardEntry]) -> Match:
        """Return which of its shards each shard of a dataset is. See `ShardTable.match`."""
        return self.table.match(entries)

    def view(
        self,
        entries: Sequence[ShardEntry],
        *,
        bucket: int = 0,
        on_mismatch: OnMismatch = "error",
        unlisted: Unlisted = "error",
    ) -> KeptRows:
        """Return which rows of a dataset count.

        Args:
            entries: shards of the dataset, in its order.
            bucket: number of the bucket that is read.
            on_mismatch: what happens to a shard that was changed, or that the dataset lacks: `"error"`, `"drop"` (no
                row of it counts) or `"keep_all"` (all rows that it has now count).
            unlisted: what happens to a shard that the selection does not know: `"error"`, `"drop"` or `"keep"`.

        Raises:
            SelectionError: a shard does not fit, and the option for it is `"error"`; or all rows of a shard would count
                in each of several buckets.
            ConfigError: an option has another value.
        """
        self._check_bucket(bucket)
        return self._view(self._fit(entries, on_mismatch, unlisted), bucket, on_mismatch)

    def views(
        self, entries: Sequence[ShardEntry], *, on_mismatch: OnMismatch = "error", unlisted: Unlisted = "error"
    ) -> list[KeptRows]:
        """Return which rows of a dataset count, for each bucket; see `view`. The shards are matched once."""
        fit = self._fit(entries, on_mismatch, unlisted)
        return [self._view(fit, bucket, on_mismatch) for bucket in range(len(self.buckets))]

    def _fit(self, entries: Sequence[ShardEntry], on_mismatch: OnMismatch, unlisted: Unlisted) -> Fit:
        fit = fit_shards(
            self.table, entries, on_mismatch=on_mismatch, unlisted=unlisted, domain=self.domain, path=self.path
        )
        if len(self.buckets) > 1 and fit.whole_S.any():  # each bucket would read all of it
            raise SelectionError(
                f"shard {entries[int(fit.whole_S.argmax())].raw.basename!r} was changed or added since the buckets "
                f"{self.path} were made, so which of them its rows belong to is unknown; split again, or pass 'drop'"
            )
        return fit

    def _view(self, fit: Fit, bucket: int, on_mismatch: OnMismatch) -> KeptRows:
        lacking = [number for number in fit.missing if self.counts_SK[number, bucket]]
        if on_mismatch == "error":
            refuse_missing(self.table, lacking, path=self.path)
        deviations = [*fit.deviations, *(("lacks", self.table.shards[number].name) for number in lacking)]
        begin_SK = self._begin_SK[:-1].reshape(self.counts_SK.shape)
        begin_S, kept_S = (_listed(of_SK[:, bucket], fit.of_S) for of_SK in (begin_SK, self.counts_SK))
        return KeptRows(
            id=self._view_id(bucket, deviations),
            map_rows=self._map_rows,
            begin_S=np.where(fit.whole_S, -1, begin_S).astype(np.int64),
            samples_S=np.where(fit.whole_S, fit.stored_S, kept_S).astype(np.int64),
            stored_S=fit.stored_S,
            hash_S=_listed(self._hashes_SK[:, bucket], fit.of_S).astype(np.uint64),
            header_S=fit.header_S,
            where=f"the selection {self.path}",
        )

    @cached_property
    def _begin_SK(self) -> Int64:
        """Where the rows of each (shard, bucket) begin in `rows.npy`, int64 [S * Kb + 1]."""
        return np.concatenate(([0], np.cumsum(self.counts_SK.reshape(-1), dtype=np.int64)))

    @cached_property
    def _rows(self) -> NDArray[np.uint32]:
        return self._map_rows()

    @property
    def _map_rows(self) -> Callable[[], NDArray[np.uint32]]:
        """Maps `rows.npy`; it can be pickled."""
        return partial(self.files.array, ROWS, self._record.files[ROWS], dtype=U4, shape=(self.kept,))

    def _view_id(self, bucket: int, deviations: Sequence[tuple[str, str]]) -> str:
        """Return what identifies the rows that count, where shards deviate or there are several buckets."""
        if not deviations and len(self.buckets) == 1:
            return self.id
        facts = msgspec.json.encode([self.id, self.buckets[bucket], sorted(deviations)])
        return blake2b(facts, digest_size=16).hexdigest()

    @property
    def _place(self) -> str:
        return f"{self.path}/{ROWS}"

    def __getstate__(self) -> dict[str, Any]:
        # A copy maps the rows itself: they are not pickled.
        return {name: value for name, value in vars(self).items() if name != "_rows"}

    def _check_bucket(self, bucket: int) -> None:
        if not 0 <= bucket < len(self.buckets):
            raise ConfigError(f"bucket {bucket}; {self.path} has {len(self.buckets)}, by number from 0")

    def _each(self, bucket: int) -> Iterator[tuple[int, NDArray[np.uint32]]]:
        for shard in np.flatnonzero(self.counts_SK[:, bucket]).tolist():
            yield shard, self.rows_of(shard, bucket)

    def _check_rows(self, shard: int, bucket: int, rows: NDArray[np.uint32]) -> None:
        identity = self.table.shards[shard]
        found, expected = hash_rows(rows), int(self._hashes_SK[shard, bucket])
        if found != expected:
            refuse(self._place, f"the rows of shard {identity.name!r} hash to {found:016x}, expected {expected:016x}")
        if len(rows) and (rows[-1] >= identity.samples or (rows[1:] <= rows[:-1]).any()):
            refuse(
                self._place, f"the rows of shard {identity.name!r} are not ascending numbers below {identity.samples}"
            )


def _listed(of_table: NDArray[Any], of_S: Int64) -> NDArray[Any]:
    """Return what a table has for each shard of a dataset; 0 for shards that it does not list, whose number is -1."""
    return np.append(of_table, np.zeros(1, of_table.dtype))[of_S]
