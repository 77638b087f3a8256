"""Joining a table of other people's scores with the rows of domains, by keys, with bounded memory.

Rules. The rows of all domains stand one after the other: `begins` says where each begins. The keys of the domains are
held once, sorted (24 bytes a row); the table streams past them in blocks. A key that several rows have (the cuts of one
document, equal texts) meets all of them. What becomes of rows that several lines meet, and of lines that meet none, is
kept in `meetings`.

Shape suffixes: N rows of all domains, B lines of a block of the table, M meetings of a line with a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.records import dataclass
from mixstream.selection.keys import Keys, UInt64, parse_hashes, read_keys, value_keys
from mixstream.selection.rows import DomainRows
from mixstream.selection.shard_table import ShardTable
from mixstream.types import Int64

Lines = Mapping[str, Sequence[Any] | NDArray[Any]]
"""A block of a table: column -> values, all of one length."""


class Locator(Protocol):
    """Finds the rows that lines of a table are about."""

    def locate(self, lines: Lines) -> tuple[Int64, Int64]:
        """Return (line_M, row_M), int64 [M] each: which line meets which row, lines ascending."""
        ...


class RowKey(Protocol):
    """How the lines of a table say which row they are about. A new kind of key is a new implementation."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table that it needs."""
        ...

    def locator(self, domains: Sequence[DomainRows], *, advance: Any = lambda _: None) -> Locator:
        """Return what finds rows of these domains; it reads shards only if the key needs their content."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OrdinalKey:
    """Lines name the ordinal of a row in its domain, or lie in its order.

    Args:
        column: of the table; integers.
        domain: column with the name of the domain; None if the table is about the only domain.
    """

    column: str = "ordinal"
    domain: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """See `RowKey`."""
        return _with(self.domain, self.column)

    def locator(self, domains: Sequence[DomainRows], *, advance: Any = lambda _: None) -> Locator:
        """See `RowKey`."""
        del advance
        return _positions(domains, (self.column,), self.domain)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRowKey:
    """Lines name a shard, by number or by file name, and a row in it.

    Args:
        shard: column of the table with the shard.
        row: column with the row.
        domain: column with the name of the domain; None if the table is about the only domain.
    """

    shard: str = "shard"
    row: str = "row"
    domain: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """See `RowKey`."""
        return _with(self.domain, self.shard, self.row)

    def locator(self, domains: Sequence[DomainRows], *, advance: Any = lambda _: None) -> Locator:
        """See `RowKey`."""
        del advance
        return _positions(domains, (self.shard, self.row), self.domain)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentKey:
    """Lines have xxh3_64 of the stored bytes of a sample, or of one of its columns.

    Args:
        column: of the table; integers or hexadecimal texts.
        of: the sample's column that was hashed; None for all its stored bytes.
    """

    column: str = "key"
    of: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """See `RowKey`."""
        return (self.column,)

    def locator(self, domains: Sequence[DomainRows], *, advance: Any = lambda _: None) -> Locator:
        """See `RowKey`."""
        index = _index_of(domains, advance, column=self.of, text_hash=self.of is not None)
        return _Hashed(index=index, column=self.column)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnKey:
    """Lines have the value of one of the sample's columns, such as a document's id or its text.

    >>> from tempfile import TemporaryDirectory
    >>> from mixstream import MDSWriter
    >>> with TemporaryDirectory() as place:
    ...     with MDSWriter(out=place, columns={"id": "str"}) as writer:
    ...         for name in ("a", "b", "a"):
    ...             writer.write({"id": name})
    ...     locator = ColumnKey(column="url", of="id").locator([DomainRows.open(place, name="web")])
    ...     line_M, row_M = locator.locate({"url": ["b", "gone", "a"]})
    >>> line_M.tolist(), row_M.tolist()  # the third line is about two rows
    ([0, 2, 2], [1, 0, 2])

    Args:
        column: of the table; texts or integers.
        of: the sample's column; default: the one of the same name.
    """

    column: str
    of: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """See `RowKey`."""
        return (self.column,)

    def locator(self, domains: Sequence[DomainRows], *, advance: Any = lambda _: None) -> Locator:
        """See `RowKey`."""
        return _Valued(index=_index_of(domains, advance, column=self.of or self.column), column=self.column)


class KeyIndex:
    """The keys of rows, sorted, to be looked up: 24 bytes a row with checks, 16 without.

    >>> index = KeyIndex(value_keys(["a", "b", "a"]))
    >>> [found.tolist() for found in index.find(value_keys(["a", "x", "b"]))]
    [[0, 0, 2], [0, 2, 1]]

    Args:
        keys: of rows 0 to N - 1.
    """

    def __init__(self, keys: Keys) -> None:
        self._row_N = np.argsort(keys.key_B, kind="stable").astype(np.int64, copy=False)
        self._key_N: UInt64 = keys.key_B[self._row_N]
        self._check_N = None if keys.check_B is None else keys.check_B[self._row_N]

    def find(self, keys: Keys) -> tuple[Int64, Int64]:
        """Return (line_M, row_M): all rows that have the key of a line; lines ascending, rows ascending for each."""
        order_B = np.argsort(keys.key_B)  # neighbours in the index are looked up one after the other: 5 times as fast
        sorted_B = keys.key_B[order_B]
        first_B, count_B = np.empty((2, len(keys)), dtype=np.int64)
        first_B[order_B] = np.searchsorted(self._key_N, sorted_B, side="left")
        count_B[order_B] = np.searchsorted(self._key_N, sorted_B, side="right")
        count_B -= first_B
        line_M = np.repeat(np.arange(len(keys)), count_B)
        within_M = np.arange(len(line_M)) - np.repeat(np.cumsum(count_B) - count_B, count_B)
        at_M = np.repeat(first_B, count_B) + within_M
        if self._check_N is not None and keys.check_B is not None:
            same_M = self._check_N[at_M] == keys.check_B[line_M]
            line_M, at_M = line_M[same_M], at_M[same_M]
        return line_M, self._row_N[at_M]


@dataclass(frozen=True, kw_only=True)
class _ByDomain:
    """Ordinals, or shards and rows, of the domain that a line names. Shards of several domains have equal names."""

    domain: str
    columns: tuple[str, ...]
    positions: Mapping[str, _Positions]
    begins: Int64

    def locate(self, lines: Lines) -> tuple[Int64, Int64]:
        number = {name: at for at, name in enumerate(self.positions)}
        names = lines[self.domain]
        number_B = np.fromiter((number.get(str(name), -1) for name in names), dtype=np.int64, count=len(names))
        found: list[tuple[Int64, Int64]] = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        for at, positions in enumerate(self.positions.values()):
            own_B = np.flatnonzero(number_B == at)
            line_M, row_M = positions.locate({name: _taken(lines[name], own_B) for name in self.columns})
            found.append((own_B[line_M], row_M + self.begins[at]))
        line_M, row_M = (np.concatenate(each) for each in zip(*found))
        order_M = np.argsort(line_M, kind="stable")
        return line_M[order_M], row_M[order_M]


@dataclass(frozen=True, kw_only=True)
class _Positions:
    """Ordinals, or shards and rows, of one domain."""

    columns: tuple[str, ...]
    table: ShardTable
    _number: dict[str, int] = field(default_factory=dict)

    def locate(self, lines: Lines) -> tuple[Int64, Int64]:
        row_B = _integers(lines[self.columns[-1]], self.columns[-1])
        if len(self.columns) == 1:
            limit_B: Any = self.table.rows
            ordinal_B = row_B
        else:
            shard_B = self._shards(lines[self.columns[0]])
            known_B = (shard_B >= 0) & (shard_B < len(self.table.shards))
            shard_B = np.where(known_B, shard_B, 0)
            limit_B = np.where(known_B, np.diff(self.table.start_S)[shard_B], 0)
            ordinal_B = self.table.start_S[shard_B] + row_B
        line_M = np.flatnonzero((row_B >= 0) & (row_B < limit_B))
        return line_M, ordinal_B[line_M]

    def _shards(self, values: Sequence[Any] | NDArray[Any]) -> Int64:
        if not len(values) or not isinstance(values[0], str):
            return _integers(values, self.columns[0])
        if not self._number:
            self._number.update({shard.name: at for at, shard in enumerate(self.table.shards)})
        return np.fromiter((self._number.get(str(name), -1) for name in values), dtype=np.int64, count=len(values))


@dataclass(frozen=True, kw_only=True)
class _Hashed:
    index: KeyIndex
    column: str

    def locate(self, lines: Lines) -> tuple[Int64, Int64]:
        return self.index.find(Keys(key_B=parse_hashes(lines[self.column], what=f"column {self.column!r}")))


@dataclass(frozen=True, kw_only=True)
class _Valued:
    index: KeyIndex
    column: str

    def locate(self, lines: Lines) -> tuple[Int64, Int64]:
        try:
            keys = value_keys(lines[self.column])
        except ConfigError as error:
            error.add_note(f"in the column {self.column!r} of the table")
            raise
        return self.index.find(keys)


def index_keys(blocks: Iterable[tuple[int, Keys]], rows: int) -> Keys:
    """Return keys that come in blocks as one: of `rows` rows, each in its place.

    Args:
        blocks: (number of the first row, keys).
        rows: how many there are.
    """
    key_N = np.zeros(rows, dtype=np.uint64)
    check_N: UInt64 | None = None
    for begin, keys in blocks:
        key_N[begin : begin + len(keys)] = keys.key_B
        if keys.check_B is not None:
            check_N = np.zeros(rows, dtype=np.uint64) if check_N is None else check_N
            check_N[begin : begin + len(keys)] = keys.check_B
    return Keys(key_B=key_N, check_B=check_N)


def _index_of(domains: Sequence[DomainRows], advance: Any, *, column: str | None, text_hash: bool = False) -> KeyIndex:
    begins = begins_of(domains)

    def blocks() -> Iterable[tuple[int, Keys]]:
        for at, rows in enumerate(domains):
            for begin, keys in read_keys(rows, column=column, text_hash=text_hash, advance=advance):
                yield int(begins[at]) + begin, keys

    return KeyIndex(index_keys(blocks(), int(begins[-1])))


def _positions(domains: Sequence[DomainRows], columns: tuple[str, ...], domain: str | None) -> Locator:
    if domain is None and len(domains) != 1:
        raise ConfigError(
            f"{' and '.join(columns)} name rows of one domain, there are {len(domains)}: give the table a column with "
            "the name of the domain, as `mixstream select export` writes it, or import each domain by itself"
        )
    positions = {rows.domain.name: _Positions(columns=columns, table=rows.table) for rows in domains}
    if domain is None:
        return positions[domains[0].domain.name]
    return _ByDomain(domain=domain, columns=columns, positions=positions, begins=begins_of(domains))


def _with(domain: str | None, *columns: str) -> tuple[str, ...]:
    return columns if domain is None else (domain, *columns)


def _taken(values: Sequence[Any] | NDArray[Any], at_B: Int64) -> Sequence[Any] | NDArray[Any]:
    return values[at_B] if isinstance(values, np.ndarray) else [values[at] for at in at_B.tolist()]


def begins_of(domains: Sequence[DomainRows]) -> Int64:
    """Return where the rows of each domain begin among those of all, and how many there are, int64 [K + 1]."""
    return np.concatenate(([0], np.cumsum([rows.table.rows for rows in domains]))).astype(np.int64)


def _integers(values: Sequence[Any] | NDArray[Any], column: str) -> Int64:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ConfigError(f"column {column!r} has the value {values[0]!r:.80}; whole numbers are needed to name rows")
    return array.astype(np.int64)
