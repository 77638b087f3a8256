"""All domains together: (domain, draw) -> address -> bytes.

The plan speaks of domains in its canonical order and of draws; here they become (domain as the user listed it, shard,
row), and rows of columns or decoded samples.

Shape suffixes: B rows, K domains, L lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.collate import Column, batch_columns
from mixstream.domain import Domain
from mixstream.errors import CacheFullError, ShardCorruptError, ShardNotFoundError
from mixstream.formats import ShardInfo, fixed_array, mds_decode
from mixstream.gather import Field, ShardTable, field_span, gather
from mixstream.order import Order
from mixstream.types import Int64, Rows

Alloc = Callable[[np.dtype[Any], tuple[int, ...]], NDArray[Any]]
"""(dtype, shape) -> array to write a column into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where rows lie: int64 [B] each; `domain_B` counts domains as the user listed them."""

    domain_B: Int64
    shard_B: Int64
    row_B: Int64

    def __getitem__(self, part: slice) -> Addresses:
        return Addresses(domain_B=self.domain_B[part], shard_B=self.shard_B[part], row_B=self.row_B[part])

    def __len__(self) -> int:
        return len(self.domain_B)


_LARGE = 1 << 26  # elements of a batch's column that one row may call for without the others being looked at


class OpenShards:
    """The shards that are mapped now, over all domains; those unused for longest are closed first.

    Used by one thread, but for `get`.

    Args:
        shards: how many there are.
        capacity: how many stay mapped; below the kernel's limit on mappings per process (65,530 by default).
        frugal: as `Corpus`; also from a full disk on.
    """

    def __init__(self, shards: int, capacity: int = 4096, frugal: bool = False) -> None:
        self.table, self._capacity, self.frugal = ShardTable(shards), capacity, frugal
        self._used_S, self._turn = np.zeros(shards, dtype=np.int64), 0

    def get(self, number: int, opener: Callable[[int], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return the bytes of a shard, opened with `opener` if it is not mapped."""
        if (data := self.table.data.get(number)) is None:
            data = opener(number)
            self._turn += 1
            self.table.put(number, data)
            self._used_S[number] = self._turn
            self._make_room()
        self._used_S[number] = self._turn
        return data

    def need(self, number_B: Int64, opener: Callable[[int], NDArray[np.uint8]]) -> None:
        """Map the shards `number_B`, all at once; they stay in the table until the next call at least."""
        self._turn += 1
        self._used_S[number_B] = self._turn
        missing_B = number_B[self.table.size_S[number_B] == 0]
        for number in np.unique(missing_B).tolist():
            self.table.put(number, opener(number))
        self._make_room()

    def drop(self, number: int) -> None:
        """Let go of one shard."""
        self.table.drop(number)

    def close(self) -> None:
        """Let go of all shards; each is unmapped once nothing refers to its bytes."""
        self.table = ShardTable(len(self._used_S))

    def _make_room(self) -> None:
        if (excess := len(self.table.data) - self._capacity) <= 0:
            return
        idle = sorted((int(self._used_S[number]), number) for number in list(self.table.data))
        for turn, number in idle[: excess + self._capacity // 8]:
            if turn < self._turn:
                self.table.drop(number)

    def __getstate__(self) -> dict[str, Any]:
        # mappings stay in their process
        return {"shards": len(self._used_S), "capacity": self._capacity, "frugal": self.frugal}

    def __setstate__(self, state: dict[str, Any]) -> None:
        OpenShards.__init__(self, **state)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The domains of a dataset, as the user listed them, with the shards that are open.

    Args:
        domains: the domains.
        frugal: keep no shard mapped that is not being read, since a mapped file takes disk even when it is evicted.
    """

    domains: tuple[Domain, ...]
    frugal: bool = False
    _fields: dict[tuple[int, str], tuple[Field, tuple[int, ...]]] = field(default_factory=dict, repr=False)

    def reopened(self) -> Corpus:
        """Return the same corpus with no shard open: for another thread."""
        return Corpus(domains=self.domains, frugal=self.frugal)

    @cached_property
    def opened(self) -> OpenShards:
        """The shards that are mapped."""
        return OpenShards(self.shards, frugal=self.frugal)

    @property
    def shards(self) -> int:
        """How many shards there are, over all domains."""
        return int(self.shard_offset_K[-1])

    @cached_property
    def shard_offset_K(self) -> Int64:
        """Number of each domain's first shard when all are counted through, int64 [K + 1]."""
        counts = [len(domain.index.shards) for domain in self.domains]
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    @cached_property
    def _kinds(self) -> tuple[list[ShardInfo], Int64]:
        """Distinct record layouts (one shard of each), and which one every shard of the corpus has."""
        kinds: dict[tuple[Any, ...], int] = {}
        examples, of_shard = [], []
        for domain in self.domains:
            for shard in domain.index.shards:
                layout = (shard.column_names, shard.column_encodings)
                if layout not in kinds:
                    kinds[layout] = len(kinds)
                    examples.append(shard)
                of_shard.append(kinds[layout])
        return examples, np.asarray(of_shard, dtype=np.int64)

    @property
    def row_tokens(self) -> int | None:
        """Tokens of a row, where every record has a column `tokens` of one fixed length."""
        found = [fixed_array(shard.columns.get("tokens", "")) for shard in self._kinds[0]]
        lengths = {array[1][0] if array is not None and len(array[1]) == 1 else None for array in found}
        return lengths.pop() if len(lengths) == 1 else None

    def columns(self, *, widen: bool) -> dict[str, Column] | None:
        """Return the columns of a gathered batch; None if samples have to be collated one by one."""
        return batch_columns([shard.columns for shard in self._kinds[0]], widen=widen)

    def home(self, number: int) -> tuple[int, int]:
        """Return (domain, shard) of shard `number`, counted over all domains."""
        domain = int(np.searchsorted(self.shard_offset_K, number, side="right")) - 1
        return domain, number - int(self.shard_offset_K[domain])

    def sample(self, domain: int, shard: int, row: int) -> dict[str, Any]:
        """Return one decoded sample."""
        number = int(self.shard_offset_K[domain]) + shard
        data = self.opened.get(number, self._open)
        try:
            return self.domains[domain].decode(shard, row, data)
        except ShardCorruptError as error:
            error.bad = domain, shard, row
            self.opened.drop(number)  # whoever renews the shard may know of another corpus' mappings only
            raise
        finally:
            if self.opened.frugal:
                self.opened.drop(number)

    def fetch(self, number: int, need: float) -> bool:
        """Bring shard `number` to local disk ahead of its use, as `Domain.fetch`."""
        domain, shard = self.home(number)
        return self.domains[domain].fetch(shard, need)

    def renew(self, domain: int, shard: int) -> bool:
        """Fetch a shard anew, as `Domain.renew`."""
        self.opened.drop(int(self.shard_offset_K[domain]) + shard)
        return self.domains[domain].renew(shard)

    def gather(self, at: Addresses, columns: Mapping[str, Column], alloc: Alloc) -> dict[str, NDArray[Any]] | None:
        """Return the columns of the rows at `at`; None if some row does not have the others' shape.

        Args:
            at: the rows' addresses.
            columns: from `columns`.
            alloc: where the rows are written.
        """
        try:
            found = self._gather(at, columns, alloc)
        except CacheFullError:
            if self.opened.frugal:
                raise
            self.opened.close()  # what is mapped takes room on the disk, evicted or not
            self.opened.frugal = True
            found = self._gather(at, columns, alloc)
        if found is None and self._fields:  # rows of another shape than those of the batches before?
            self._fields.clear()
            found = self._gather(at, columns, alloc)
        return found

    def _gather(self, at: Addresses, columns: Mapping[str, Column], alloc: Alloc) -> dict[str, NDArray[Any]] | None:
        number_B = self.shard_offset_K[at.domain_B] + at.shard_B
        out: dict[str, NDArray[Any]] = {}
        for here_B in self._portions(number_B):
            self.opened.need(number_B[here_B], self._open)
            read = self._gather_open(at, here_B, columns, alloc, out)
            if self.opened.frugal:
                self.opened.drop(int(number_B[here_B[0]]))
            if not read:
                return None
        return out

    def _portions(self, number_B: Int64) -> list[Int64]:
        """Return the rows that are read together: all, or, when frugal, shard by shard, those on disk first."""
        if not self.opened.frugal:
            return [np.arange(len(number_B), dtype=np.int64)]
        by_shard = np.argsort(number_B, kind="stable")
        portions = np.split(by_shard, np.flatnonzero(np.diff(number_B[by_shard])) + 1)
        return sorted(portions, key=lambda here_B: not self._present(int(number_B[here_B[0]])))

    def _present(self, number: int) -> bool:
        domain, shard = self.home(number)
        return self.domains[domain].present(shard)

    def _gather_open(
        self,
        at: Addresses,
        here_B: Int64,
        columns: Mapping[str, Column],
        alloc: Alloc,
        out: dict[str, NDArray[Any]],
    ) -> bool:
        """Write the rows `here_B`, whose shards are mapped, into `out`; False if they do not have the others' shape."""
        number_B = self.shard_offset_K[at.domain_B] + at.shard_B
        kind_B = self._kinds[1][number_B[here_B]]
        for kind in np.unique(kind_B).tolist():
            to_B = here_B[kind_B == kind]
            for name, column in columns.items():
                if (found := self._field(kind, name, int(number_B[to_B[0]]), int(at.row_B[to_B[0]]))) is None:
                    return False
                form, shape = found
                if name not in out:
                    if column.varies and form.elements * len(at) > _LARGE and not self._alike(at, number_B, form):
                        return False
                    out[name] = alloc(column.dtype, (len(at), *shape))
                if out[name].shape[1:] != shape:
                    return False
                rows = out[name].reshape(len(at), form.elements)
                if gather(self.opened.table, number_B[to_B], at.row_B[to_B], form, rows, to_B) >= 0:
                    return False
        return True

    def _alike(self, at: Addresses, number_B: Int64, form: Field) -> bool:
        """Tell whether all mapped rows are stored in as many bytes as the first says: one must not size the others."""
        least = form.elements * form.dtype.itemsize
        for number, row in zip(number_B.tolist(), at.row_B.tolist()):
            if (data := self.opened.table.data.get(number)) is not None:
                domain, shard = self.home(number)
                if len(self.domains[domain].record(shard, row, data)) < least:
                    return False
        return True

    def _field(self, kind: int, name: str, number: int, row: int) -> tuple[Field, tuple[int, ...]] | None:
        """Return how to gather column `name` of this kind of record, and the shape of a row.

        Where the encoding leaves the shape open, it is looked up in the row given, once.
        """
        if (known := self._fields.get((kind, name))) is not None:
            return known
        info = self._kinds[0][kind]
        column = info.column_names.index(name)
        encoding = info.column_encodings[column]
        sizes_C = np.array([-1 if size is None else size for size in info.column_sizes], dtype=np.int64)
        if (fixed := fixed_array(encoding)) is not None:
            dtype, shape = fixed
            form = Field(column=column, sizes_C=sizes_C, dtype=dtype, elements=int(np.prod(shape, dtype=np.int64)))
        else:
            domain, shard = self.home(number)
            record = self.domains[domain].record(shard, row, self.opened.table.data[number])
            span = field_span(record, Field(column=column, sizes_C=sizes_C, dtype=np.dtype(np.uint8), elements=0))
            if span is None:
                return None
            payload = record[span[0] : span[1]].tobytes()
            try:
                value = mds_decode(encoding, payload)
            except ShardCorruptError:  # whoever reads the rows one by one says which of them it is
                return None
            shape, header = value.shape, payload[: len(payload) - value.nbytes]
            form = Field(column=column, sizes_C=sizes_C, dtype=value.dtype, elements=value.size, header=header)
        self._fields[kind, name] = form, shape
        return form, shape

    def _open(self, number: int) -> NDArray[np.uint8]:
        domain, shard = self.home(number)
        try:
            return self.domains[domain].map(shard)
        except (ShardCorruptError, ShardNotFoundError) as error:
            error.bad = domain, shard, None
            raise


@dataclass(frozen=True, kw_only=True)
class Addressing:
    """draw -> address, for the plan's domains.

    Args:
        orders: one per domain, in the plan's order.
        domain_K: int64 [K], the index of each as the user listed them.
        lanes: lanes of the plan.
    """

    orders: tuple[Order, ...]
    domain_K: Int64
    lanes: int

    def locate(self, batches: Sequence[Rows], part: slice) -> list[Addresses]:
        """Return the addresses of the rows `part` of each global batch.

        Batches are taken together, so that the cost per domain is shared by all of them.
        """
        domain_B = np.concatenate([rows.domain_B[part] for rows in batches]).astype(np.int64)
        draw_B = np.concatenate([rows.draw_B[part] for rows in batches])
        total = len(batches[0].domain_B)
        lane_B = np.tile((np.arange(total) // (total // self.lanes))[part], len(batches))
        group_B = domain_B * self.lanes + lane_B
        by_group = np.argsort(group_B, kind="stable")
        bounds = np.flatnonzero(np.diff(group_B[by_group], prepend=-1))
        shard_B, row_B = np.empty_like(draw_B), np.empty_like(draw_B)
        for here in np.split(by_group, bounds[1:]):
            domain, lane = divmod(int(group_B[here[0]]), self.lanes)
            _, shard_B[here], row_B[here] = self.orders[domain].locate(lane=lane, draw_B=draw_B[here])
        found = Addresses(domain_B=self.domain_K[domain_B], shard_B=shard_B, row_B=row_B)
        size = len(found) // len(batches)
        return [found[i * size : (i + 1) * size] for i in range(len(batches))]
