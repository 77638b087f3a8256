"""All domains of a dataset: addresses become bytes.

Domains are in the plan's order, and shards are numbered over all domains in that order (`types`). Domains that read
the same files have one source, and its shards one number each: a file is mapped and fetched once, whatever number of
domains read it. Rows are returned as gathered columns or as decoded samples.

Shape suffixes: B rows, F sources, K domains, S shards of one source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from mixstream.cached import cached_property
from mixstream.data import compiling
from mixstream.data.collate import Column, batch_columns
from mixstream.data.domain import Domain
from mixstream.data.gather import Field, gather
from mixstream.data.gather_together import Together
from mixstream.data.mixable import common_dtypes
from mixstream.data.open_shards import OpenShards
from mixstream.data.record_kinds import field_of, record_kinds
from mixstream.data.sources import find_sources, first_of_each, header_checks, used_shards
from mixstream.errors import CacheFullError, MixstreamError, SelectionError, ShardCorruptError, ShardNotFoundError
from mixstream.formats import ShardEntry, fixed_row_tokens
from mixstream.lazy import later
from mixstream.plan import compiled
from mixstream.plan.addressing import shard_offsets
from mixstream.records import dataclass
from mixstream.storage import unforked
from mixstream.types import Addresses, Int64, UInt8

if TYPE_CHECKING:
    import torch

    from mixstream.data.packed_rows import PackedRows
else:
    (PackedRows,) = later("mixstream.data.packed_rows", "PackedRows")


compiled.load_by(compiling.begin, whole=unforked)  # a process that reads rows goes on meanwhile

Alloc = Callable[[np.dtype[Any], tuple[int, ...]], NDArray[Any]]
"""(dtype, shape) -> array to write a column into."""

_LARGE = 1 << 26  # elements; a larger column of a batch is allocated only once all of its rows were looked at


@dataclass(frozen=True, kw_only=True)
class Domains:
    """The domains of a dataset, in the plan's order, with the shards that are open.

    Streams may be listed in any order; the plan sorts them by name. Here "web" has one shard of two samples, and "code"
    two shards of one sample each:

    >>> import tempfile
    >>> from mixstream import MDSWriter, Stream
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name, limit in {"web": None, "code": 1}.items():
    ...         with MDSWriter(columns={"x": "int"}, out=f"{root}/{name}", size_limit=limit) as writer:
    ...             for number in range(2):
    ...                 writer.write({"x": number})
    ...     streams = [Stream(remote=f"{root}/{name}", name=name) for name in ("web", "code")]
    ...     listed = [stream.open(allow_unsafe_types=False) for stream in streams]
    >>> domains = Domains.of(listed, as_listed=False)
    >>> [domain.name for domain in domains], [domain.name for domain in domains.listed]
    (['code', 'web'], ['web', 'code'])
    >>> domains.listed_K.tolist(), domains.shard_offset_K.tolist()
    ([1, 0], [0, 2, 3])
    >>> [(domain.name, number) for domain, number in map(domains.home, range(3))]
    [('code', 0), ('code', 1), ('web', 0)]

    Args:
        domains: the domains.
        listed_K: int64 [K], the place of each in the user's list of streams.
        unmap_after_read: unmap shards as soon as their rows are read, but for those that the next steps read again; a
            mapped file takes disk space even after it was evicted.
    """

    domains: tuple[Domain, ...]
    listed_K: Int64
    unmap_after_read: bool = False
    _fields: dict[tuple[int, str], tuple[Field, tuple[int, ...]]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, domains: Sequence[Domain], *, as_listed: bool) -> Self:
        """Return `domains` in the plan's order.

        Args:
            domains: in the order of the user's list.
            as_listed: keep that order instead of sorting by name; for domains that are read one after the other.
        """
        order = list(range(len(domains)))
        if not as_listed:
            order.sort(key=lambda k: domains[k].name)
        return cls(domains=tuple(domains[k] for k in order), listed_K=np.array(order, dtype=np.int64))

    def __iter__(self) -> Iterator[Domain]:
        return iter(self.domains)

    def __len__(self) -> int:
        return len(self.domains)

    def __getitem__(self, k: int) -> Domain:
        return self.domains[k]

    @cached_property
    def plan_K(self) -> Int64:
        """The place in the plan's order of each domain of the user's list, int64 [K]; the inverse of `listed_K`."""
        return np.argsort(self.listed_K)

    @property
    def listed(self) -> list[Domain]:
        """The domains in the order of the user's list."""
        return [self.domains[k] for k in self.plan_K.tolist()]

    def reopened(self) -> Self:
        """Return the same domains with no shard open, for use by another thread."""
        return replace(self, _fields={})

    @cached_property
    def opened(self) -> OpenShards:
        """The shards that are mapped."""
        return OpenShards(self.shards, unmap_after_read=self.unmap_after_read)

    @cached_property
    def source_K(self) -> tuple[int, ...]:
        """The source of each domain: the files that it reads (`sources`)."""
        return find_sources(self.domains)

    @cached_property
    def sources(self) -> tuple[Domain, ...]:
        """A domain for each source, which has its files and its index."""
        return first_of_each(self.domains, self.source_K)

    @cached_property
    def used(self) -> tuple[NDArray[np.bool_], ...]:
        """Which shards of each source have samples that count, bool [S]; the others are never fetched."""
        return used_shards(self.domains, self.source_K)

    @property
    def shards(self) -> int:
        """How many shards there are, over all sources."""
        return int(self.shard_offset_K[-1])

    @cached_property
    def shard_offset_K(self) -> Int64:
        """The number of each domain's first shard, over all domains, int64 [K + 1]."""
        return shard_offsets([len(domain.shards) for domain in self.domains], self.source_K)

    @cached_property
    def shard_offset_F(self) -> Int64:
        """The number of each source's first shard, int64 [F + 1]."""
        return shard_offsets([len(source.shards) for source in self.sources])

    @cached_property
    def _kinds(self) -> tuple[list[ShardEntry], Int64]:
        return record_kinds(source.container for source in self.sources)

    @property
    def row_tokens(self) -> int | None:
        """Tokens of a row, if every record has a column `tokens` of the same fixed length; None otherwise."""
        return fixed_row_tokens(shard.columns for shard in self._kinds[0])

    @property
    def records(self) -> list[dict[str, str]]:
        """The columns of each kind of record: column -> encoding."""
        return [shard.columns for shard in self._kinds[0]]

    def columns(self, *, widen: bool) -> dict[str, Column] | None:
        """Return the columns of a gathered batch; None if samples have to be collated one by one."""
        return batch_columns([shard.columns for shard in self._kinds[0]], widen=widen)

    def home(self, shard: int) -> tuple[Domain, int]:
        """Return the source that has shard `shard`, and its number there."""
        f = self._source_of(shard)
        return self.sources[f], shard - int(self.shard_offset_F[f])

    def _source_of(self, shard: int) -> int:
        return int(np.searchsorted(self.shard_offset_F, shard, side="right")) - 1

    def sample(self, shard: int, row: int) -> dict[str, Any]:
        """Return one decoded sample."""
        data = self.opened.get(shard, self._open)
        domain, number = self.home(shard)
        try:
            found = domain.decode(number, row, data)
        except ShardCorruptError as error:
            error.bad = shard, row
            self.opened.drop(shard)  # `renew` may be called on other `Domains`, which would leave this mapping
            raise
        finally:
            self.opened.release((shard,))
        if domain.files.is_in_place and self.opened.due(np.array([shard])):
            domain.check_mapped(number)
        return found

    def samples(self, at: Addresses) -> list[dict[str, Any]]:
        """Return the decoded samples at these addresses; a column that is stored in several dtypes has one of them."""
        found = [self.sample(shard, row) for shard, row in zip(at.shard_B.tolist(), at.row_B.tolist())]
        for column, dtype in self._common_dtypes.items():
            for sample in found:
                sample[column] = np.asarray(sample[column]).astype(dtype, copy=False)[()]
        return found

    @cached_property
    def _common_dtypes(self) -> dict[str, np.dtype[Any]]:
        return common_dtypes([shard.columns for shard in self._kinds[0]])

    def fetch(self, shard: int, need: float) -> bool:
        """Fetch shard `shard` to local disk before it is read, as `Domain.fetch`."""
        domain, number = self.home(shard)
        return domain.fetch(number, need)

    def renew(self, shard: int) -> bool:
        """Fetch shard `shard` again, as `Domain.renew`."""
        self.opened.drop(shard)
        domain, number = self.home(shard)
        return domain.renew(number)

    def gather(self, at: Addresses, columns: Mapping[str, Column], alloc: Alloc) -> dict[str, NDArray[Any]] | None:
        """Return the columns of the rows at `at`; None if the rows do not all have one shape.

        Args:
            at: the rows' addresses.
            columns: from `columns`.
            alloc: allocates the arrays that are returned.
        """
        try:
            found = self._gather(at, columns, alloc)
        except CacheFullError:
            if self.opened.unmap_after_read:
                raise
            self.opened.close()  # mapped files take disk space, even after they were evicted
            self.opened.unmap_after_read = True
            found = self._gather(at, columns, alloc)
        if found is None and self._fields:  # the shape may differ from that of earlier batches
            self._fields.clear()
            found = self._gather(at, columns, alloc)
        self._check_mapped(at.shard_B)
        return found

    def gather_batches(
        self, at: Addresses, batches: int, columns: Mapping[str, Column], alloc: Alloc, two_threads: bool = False
    ) -> dict[str, list[torch.Tensor]] | None:
        """Return the columns of several batches, as `gather` does for each; None if that takes one call for each.

        Args:
            at: the addresses of the rows of all batches, one batch after the other, as many rows each.
            batches: how many these are.
            columns: from `columns`.
            alloc: allocates the memory of the tensors that are returned.
            two_threads: whether a second thread copies half of the rows.
        """
        known = Together(opened=self.opened, kinds=self._kinds, fields=self._fields)
        found = known.gather(at.shard_B, at.row_B, batches, columns, alloc, two_threads)
        try:
            self._check_mapped(at.shard_B)
        except MixstreamError:  # `gather` raises it again, at the batch that it belongs to
            self.opened.look_again()
            return None
        return found

    def _check_mapped(self, shard_B: Int64) -> None:
        """Check that the files of these shards, whose rows were read, are not written to: mappings would change."""
        for domain, number in map(self.home, self.opened.due(shard_B)):
            domain.check_mapped(number)

    def _gather(self, at: Addresses, columns: Mapping[str, Column], alloc: Alloc) -> dict[str, NDArray[Any]] | None:
        out: dict[str, NDArray[Any]] = {}
        for here_B in self.opened.portions(at.shard_B, self._present):
            self.opened.need(at.shard_B[here_B], self._open)
            # Loops read addresses: what another thread unmaps meanwhile stays mapped until these rows are read.
            held = [self.opened.table.data.get(shard) for shard in set(at.shard_B[here_B].tolist())]
            read = self._gather_open(at, here_B, columns, alloc, out)
            del held
            self.opened.release(set(at.shard_B[here_B].tolist()) if self.opened.unmap_after_read else ())
            if not read:
                return None
        return out

    def _present(self, shard: int) -> bool:
        domain, number = self.home(shard)
        return domain.present(number)

    def _gather_open(
        self,
        at: Addresses,
        here_B: Int64,
        columns: Mapping[str, Column],
        alloc: Alloc,
        out: dict[str, NDArray[Any]],
    ) -> bool:
        """Write the rows `here_B`, whose shards are mapped, to `out`; return False if their shapes differ."""
        kind_B = self._kinds[1][at.shard_B[here_B]]
        for kind in np.unique(kind_B).tolist() if len(self._kinds[0]) > 1 else [0]:
            to_B = here_B[kind_B == kind]
            domain, number = self.home(int(at.shard_B[to_B[0]]))
            if (packed := domain.packed) is not None:
                form = self._packed.form(kind, partial(packed.forms, number))
                if not self._packed.gather(self.opened.table, at, to_B, form, columns, alloc, out):
                    return False
                continue
            for name, column in columns.items():
                if (found := self._field(kind, name, int(at.shard_B[to_B[0]]), int(at.row_B[to_B[0]]))) is None:
                    return False
                form, shape = found
                if name not in out:
                    if column.varies and form.elements * len(at) > _LARGE and not self._alike(at, form):
                        return False
                    out[name] = alloc(column.dtype, (len(at), *shape))
                if out[name].shape[1:] != shape:
                    return False
                rows = out[name].reshape(len(at), form.elements)
                if gather(self.opened.table, at.shard_B[to_B], at.row_B[to_B], form, rows, to_B) >= 0:
                    return False
        return True

    def _alike(self, at: Addresses, form: Field) -> bool:
        """Return whether every mapped row has the bytes that the first implies, so that one row cannot size a batch."""
        least = form.elements * form.dtype.itemsize
        return all(
            len(self._record(shard, row)) >= least
            for shard, row in zip(at.shard_B.tolist(), at.row_B.tolist())
            if shard in self.opened.table.data
        )

    def _record(self, shard: int, row: int) -> UInt8:
        """Return the stored bytes of a row of a mapped shard."""
        domain, number = self.home(shard)
        return domain.record(number, row, self.opened.table.data[shard])

    def _field(self, kind: int, name: str, shard: int, row: int) -> tuple[Field, tuple[int, ...]] | None:
        """Return how to gather column `name` of this kind of record, and the shape of a row.

        A shape that is not part of the encoding is read from the given row, once.
        """
        if (known := self._fields.get((kind, name))) is not None:
            return known
        domain, number = self.home(shard)
        record = partial(self._record, shard, row)
        if (found := field_of(self._kinds[0][kind], name, domain.container.rows(number), record)) is not None:
            self._fields[kind, name] = found
        return found

    def _open(self, shard: int) -> UInt8:
        domain, number = self.home(shard)
        try:
            data = domain.map(number)
        except (ShardCorruptError, ShardNotFoundError) as error:
            error.bad = shard, None
            raise
        if domain.packed is not None:
            self._packed.put(shard, domain.packed.rows_of(number))
        checks = self._selected[self._source_of(shard)]
        try:
            for selected in checks:
                selected.check_header(number, data)
        except SelectionError:  # the copy on local disk may be damaged, and the original what it was
            if not domain.renew(number):
                raise
            data = domain.map(number)
            for selected in checks:
                selected.check_header(number, data)
        return data

    @cached_property
    def _packed(self) -> PackedRows:
        return PackedRows(self.shards)

    @cached_property
    def _selected(self) -> list[list[Domain]]:
        return header_checks(self.domains, self.source_K)
