"""A packing: rows of one length as spans of documents, shard by shard (format `mixstream.packing/1`).

A directory holds `manifest.json` and four arrays, for S shards, R rows and N spans:

    counts.npy  u4 [S, 2]  rows and spans of each shard
    hashes.npy  u8 [S]     xxh3_64 of the shard's numbers in the next two files
    begins.npy  u4 [R + S] of each shard: where the spans of each row begin, from 0, and where the last ones end
    spans.npy   u4 [N, 3]  sample, first token in it, tokens; bit 31 of the tokens: goes on with the document before

A shard of bare tokens is one sample. The id covers shards, settings, counts and hashes, so it binds every row, and
opening checks it in O(S). The rows of a shard are compared with their hash when the shard is first opened. Nothing is
held in memory per row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from os import PathLike
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mixstream.cached import cached_property
from mixstream.data.packed import Packed
from mixstream.data.span_table import JOINED, StoredSpans
from mixstream.errors import SelectionError
from mixstream.formats import Container, ShardEntry
from mixstream.packing.record import (
    BEGINS,
    COUNTS,
    FILES,
    HASHES,
    PACKING,
    SPANS,
    U4,
    U8,
    PackingRecord,
    Totals,
    hash_rows,
    packing_id,
)
from mixstream.packing.settings import PackingSettings
from mixstream.records import dataclass
from mixstream.selection.artefact_files import ArtefactFiles, check_files, open_files
from mixstream.selection.manifest import decode_manifest
from mixstream.selection.npy import refuse
from mixstream.selection.shard_table import Match, ShardTable
from mixstream.selection.staging import MANIFEST
from mixstream.storage import Retry
from mixstream.types import Int64

_AGAIN = "pack it again with `mixstream pack`"


@dataclass(frozen=True, kw_only=True, eq=False)
class Packing:
    """The packed rows of one domain. `mixstream pack` makes them.

    Attributes:
        path: the directory or URL that it was read from.
        domain: whose documents it packs.
        table: the shards of the domain when it was made.
        settings: how documents were packed.
        totals: what became of them.
        made: how it was made (`mixstream.selection.provenance`).
        id: hexadecimal of 128 bits, over shards, settings and rows.
        files: where its files are.
    """

    path: str
    domain: str
    table: ShardTable
    settings: PackingSettings
    totals: Totals
    made: Mapping[str, Any]
    id: str
    files: ArtefactFiles = field(repr=False)
    _record: PackingRecord = field(repr=False)
    _counts_S2: NDArray[np.uint32] = field(repr=False)
    _hashes_S: NDArray[np.uint64] = field(repr=False)
    _verified_S: NDArray[np.bool_] = field(repr=False)

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        domain: str | None = None,
        local: str | None = None,
        retry: Retry = Retry(),  # noqa: B008 - frozen
    ) -> Packing:
        """Open a packing, and check all of it but its rows.

        Args:
            path: of the artefact, or of a directory that has it as `domain`: a path, or the URL of a store.
            domain: name of the sub-directory, where `path` itself is no artefact.
            local: cache directory for the files of a store; None for one below the temp dir.
            retry: of requests to a store.

        Raises:
            SelectionError: there is none, or it is damaged.
            StoreError: the store cannot be read.
        """
        files, data = open_files(path, domain=domain, kind="packing", local=local, retry=retry)
        where = f"{files.place}/{MANIFEST}"
        if data is None:
            raise SelectionError(
                f"{files.place} holds parts of a packing: give it to `mixstream pack` again, to end it"
            )
        record = decode_manifest(data, PackingRecord, (PACKING,), where=where)
        table = ShardTable.from_json(msgspec.to_builtins(record.shards), where=where)
        check_files(record.files, FILES, where=where)
        shards = len(table.shards)
        counts_S2 = files.array(COUNTS, record.files[COUNTS], dtype=U4, shape=(shards, 2))
        hashes_S = files.array(HASHES, record.files[HASHES], dtype=U8, shape=(shards,))
        rows, spans = counts_S2.sum(axis=0, dtype=np.int64).tolist() if shards else (0, 0)
        if (rows, spans) != (record.totals.rows, record.totals.spans):
            refuse(
                where, f"its totals are {record.totals.rows} rows and {record.totals.spans} spans, its counts differ"
            )
        if record.id != (found := packing_id(table, record.settings, counts_S2, hashes_S)):
            refuse(where, f"its id is {record.id[:40]!r}, its content has {found}")
        return cls(
            path=files.place, domain=record.domain, table=table, settings=record.settings, totals=record.totals,
            made=record.made, id=found, files=files, _record=record, _counts_S2=counts_S2, _hashes_S=hashes_S,
            _verified_S=np.zeros(shards, dtype=np.bool_),
        )  # fmt: skip

    @property
    def rows_S(self) -> Int64:
        """Packed rows of each shard of the table, int64 [S]."""
        return self._counts_S2[:, 0].astype(np.int64)

    @property
    def padding(self) -> int:
        """Tokens of padding, over all rows."""
        return self.totals.padding(self.settings.seq_len)

    @property
    def waste(self) -> float:
        """The share of padding in the tokens of all rows."""
        return self.padding / max(self.totals.rows * self.settings.seq_len, 1)

    def spans_of(self, shard: int) -> StoredSpans:
        """Return the rows of a shard of the table, mapped; checked when they are first read.

        Raises:
            SelectionError: they do not match their hash, or are no rows of this length.
        """
        rows, spans = self._counts_S2[shard].tolist()
        begin, first = int(self._begin_S[shard]) + shard, int(self._first_S[shard])
        found = StoredSpans(
            begin_R1=self._arrays[0][begin : begin + rows + 1], span_N3=self._arrays[1][first : first + spans]
        )
        if not self._verified_S[shard]:
            self._check(shard, found)
            self._verified_S[shard] = True
        return found

    def verify(self) -> None:
        """Read everything, and compare it with its hashes.

        Raises:
            SelectionError: a file is damaged.
        """
        self.files.verify(self._record.files)
        for shard in range(len(self.table.shards)):
            self.spans_of(shard)

    def match(self, entries: Sequence[ShardEntry]) -> Match:
        """Return which of its shards each shard of a dataset is. See `ShardTable.match`."""
        return self.table.match(entries)

    def rows_over(self, container: Container) -> Packed:
        """Return the packed rows as a container over the shards of a dataset.

        Raises:
            SelectionError: its shards are not those that were packed.
        """
        of_S = self._fit(container.shards)
        return Packed(
            inner=container,
            id=self.id,
            seq_len=self.settings.seq_len,
            columns=self.settings.columns,
            rows_S=self.rows_S[of_S],
            rows_of=_RowsOf(self, of_S),
            pad_id=self.settings.pad_id if self.padding else None,
            padding=self.padding,
            dropped=self.totals.dropped,
            knows_documents=self.settings.documents != "unknown",
            header_S=tuple(self.table.shards[number].fingerprint for number in of_S.tolist()),
            where=f"the packing {self.path}",
        )

    def _fit(self, entries: Sequence[ShardEntry]) -> Int64:
        """Return the number in the table of each shard of a dataset, int64 [S]."""
        match, what = self.match(entries), f"the packing {self.path} of the domain {self.domain!r}"
        if match.changed:
            _, expected, found = match.changed[0]
            more = f", and {len(match.changed) - 1} shards more" if len(match.changed) > 1 else ""
            raise SelectionError(
                f"{what} was made for shard {expected}, the dataset has {found}{more}: it was rewritten, so its "
                f"documents may be others now; {_AGAIN}"
            )
        if (match.of_S < 0).any():
            number = int((match.of_S < 0).argmax())
            raise SelectionError(
                f"{what} does not know shard {entries[number].raw.basename!r} of the dataset, nor "
                f"{int((match.of_S < 0).sum()) - 1} others: it was made for other shards, or before these were added; "
                f"{_AGAIN}"
            )
        if match.missing:
            raise SelectionError(
                f"the dataset lacks {len(match.missing)} shards that {what} has rows of, first "
                f"{self.table.shards[match.missing[0]]}; restore them, or {_AGAIN}"
            )
        return match.of_S

    def _check(self, shard: int, rows: StoredSpans) -> None:
        name, where = self.table.shards[shard].name, f"{self.path}/{SPANS}"
        found, expected = hash_rows(rows.begin_R1, rows.span_N3), int(self._hashes_S[shard])
        if found != expected:
            refuse(where, f"the rows of shard {name!r} hash to {found:016x}, expected {expected:016x}")
        begin_R1 = rows.begin_R1.astype(np.int64)
        if begin_R1[0] or begin_R1[-1] != len(rows.span_N3) or (np.diff(begin_R1) < 1).any():
            refuse(where, f"the rows of shard {name!r} do not share out its {len(rows.span_N3)} spans")
        tokens_N = (rows.span_N3[:, 2] & np.uint32(JOINED - 1)).astype(np.int64)
        tokens_R = np.add.reduceat(tokens_N, begin_R1[:-1]) if len(tokens_N) else tokens_N
        least = 1 if self.settings.pads else self.settings.seq_len
        if (tokens_N < 1).any() or (tokens_R < least).any() or (tokens_R > self.settings.seq_len).any():
            refuse(where, f"a row of shard {name!r} has spans of no tokens, or too few or too many for a row")

    @cached_property
    def _begin_S(self) -> Int64:
        """Rows before each shard, int64 [S + 1]."""
        return np.concatenate(([0], np.cumsum(self._counts_S2[:, 0], dtype=np.int64)))

    @cached_property
    def _first_S(self) -> Int64:
        """Spans before each shard, int64 [S + 1]."""
        return np.concatenate(([0], np.cumsum(self._counts_S2[:, 1], dtype=np.int64)))

    @cached_property
    def _arrays(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """`begins.npy` and `spans.npy`, mapped."""
        shapes = {BEGINS: (self.totals.rows + len(self.table.shards),), SPANS: (self.totals.spans, 3)}
        begins, spans = (
            self.files.array(name, self._record.files[name], dtype=U4, shape=shape) for name, shape in shapes.items()
        )
        return begins, spans

    def __getstate__(self) -> dict[str, Any]:
        # A copy maps the rows itself, and checks them again: they are not pickled.
        kept = {name: value for name, value in vars(self).items() if name != "_arrays"}
        return kept | {"_verified_S": np.zeros_like(self._verified_S)}


@dataclass(frozen=True)
class _RowsOf:
    """The rows of each shard of a dataset (`Packed.rows_of`)."""

    packing: Packing
    of_S: Int64

    def __call__(self, shard: int) -> StoredSpans:
        return self.packing.spans_of(int(self.of_S[shard]))
