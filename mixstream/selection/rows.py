"""The stored rows of one domain, in order: as texts, token arrays, or whole samples.

Rules: shards are read one after the other, and one is mapped at a time; blocks never span two shards, so they do not
depend on how the shards are divided among workers. A shard of which no row is wanted is not fetched. Remote shards go
through the cache, which a limit keeps small. The fingerprint of every shard that was read is noted.

Shape suffixes: N rows of a block, S shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixstream.data.domain import Domain
from mixstream.data.token_place import locate, names_token_files, open_domain
from mixstream.errors import ConfigError
from mixstream.formats import Options, ShardEntry, ndarray_dtype
from mixstream.records import dataclass
from mixstream.selection.shard_table import ShardTable, fingerprint
from mixstream.storage import CacheLimit, Retry
from mixstream.types import Int64

Wanted = Callable[[int], NDArray[np.integer] | None]
"""Shard -> the rows of it that are wanted, ascending; None for all."""
_TOKENS, _TEXT = "tokens", "text"


@dataclass(frozen=True, kw_only=True, slots=True)
class RowBlock:
    """Some rows of one shard.

    Attributes:
        shard: number of the shard.
        ordinal_N: int64 [N], ascending.
        values: of the column, one for each row: `str`, a token array, or a dict of all columns.
    """

    shard: int
    ordinal_N: Int64
    values: list[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextColumn:
    """A column that can be read as text.

    Attributes:
        name: of the column.
        kind: `"text"`, or `"tokens"` for one-dimensional arrays of integers.
    """

    name: str
    kind: Literal["text", "tokens"]


@dataclass(kw_only=True)
class DomainRows:
    """Reads the stored rows of a domain.

    >>> from tempfile import TemporaryDirectory
    >>> from mixstream import MDSWriter
    >>> with TemporaryDirectory() as place:
    ...     with MDSWriter(out=place, columns={"text": "str"}) as writer:
    ...         for text in ("red", "green", "blue"):
    ...             writer.write({"text": text})
    ...     rows = DomainRows.open(place, name="colours")
    ...     [(block.ordinal_N.tolist(), block.values) for block in rows.blocks(column="text", size=2)]
    [([0, 1], ['red', 'green']), ([2], ['blue'])]

    Args:
        domain: the shards.

    Attributes:
        table: their identities, without fingerprints.
        fingerprints: of the shards that `blocks` read so far, by number.
    """

    domain: Domain
    table: ShardTable = field(init=False, repr=False)
    fingerprints: dict[int, str] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.table = ShardTable.of(self.domain.shards)

    @classmethod
    def open(
        cls,
        url: str,
        *,
        name: str,
        local: str | None = None,
        cache_limit: int | None = None,
        retry: Retry = Retry(),  # noqa: B008  # frozen
        options: Options = Options(),  # noqa: B008  # frozen
    ) -> DomainRows:
        """Read the index of the dataset at `url`.

        Args:
            url: its directory, on local disk or in a store; or a token file.
            name: of the domain, for errors.
            local: cache directory of remote shards; None for one below the temp dir.
            cache_limit: bytes that the cache directory may hold; None for no limit.
            retry: attempts and timeout of requests.
            options: how token files are read; they say nothing about other datasets.

        Raises:
            IndexNotFoundError: there is no dataset.
            IndexCorruptError: its index is not valid.
            UnsafeEncodingError: a column is pickled.
        """
        told = options if names_token_files(url) else Options()
        files = locate(remote=url, local=local, retry=retry, options=told)
        domain = open_domain(name=name, files=files, otherwise=options)
        return cls(domain=domain.within(CacheLimit(limit=cache_limit)))

    def text_column(self, name: str | None = None) -> TextColumn:
        """Return the column `name`, or the one that holds the text: `text`, `tokens`, or the only one of texts.

        Raises:
            ConfigError: a shard lacks it, it is of another kind, or several are possible.
        """
        return choose_column(self.domain.shards, name, where=f"domain {self.domain.name!r}")

    def blocks(
        self,
        first: int = 0,
        end: int | None = None,
        *,
        column: str | None = None,
        size: int = 1024,
        wanted: Wanted | None = None,
    ) -> Iterator[RowBlock]:
        """Yield the rows of the shards [first, end), in order.

        Args:
            first: number of the first shard.
            end: number after the last one; None for all shards.
            column: whose values are wanted; None for dicts of all columns.
            size: maximum of rows in a block.
            wanted: which rows; None for all.

        Raises:
            ShardCorruptError, ShardNotFoundError, StoreError: a shard cannot be read.
        """
        for shard in range(first, len(self.domain.shards) if end is None else end):
            rows = wanted(shard) if wanted is not None else None
            if rows is None:
                rows = np.arange(self.domain.shards[shard].samples, dtype=np.int64)
            if len(rows):
                yield from self._shard(shard, np.asarray(rows, dtype=np.int64), column, size)

    def _shard(self, shard: int, rows: Int64, column: str | None, size: int) -> Iterator[RowBlock]:
        data = self.domain.map(shard)
        if shard not in self.fingerprints:
            self.fingerprints[shard] = fingerprint(self.domain.container, shard, data)
        for at in range(0, len(rows), size):
            some = rows[at : at + size]
            samples = (self.domain.decode(shard, row, data) for row in some.tolist())
            values = [sample if column is None else sample[column] for sample in samples]
            yield RowBlock(shard=shard, ordinal_N=some + self.table.start_S[shard], values=values)


def choose_column(shards: Sequence[ShardEntry], name: str | None, *, where: str) -> TextColumn:
    """Return the column of all `shards` that can be read as text. See `DomainRows.text_column`."""
    if not shards:  # no row will ask for it
        return TextColumn(name=name or _TEXT, kind="text")
    layouts = {(shard.column_names, shard.column_encodings): shard.columns for shard in shards}
    kinds = [
        {key: kind for key, encoding in columns.items() if (kind := _kind(encoding))} for columns in layouts.values()
    ]
    names = sorted({key for columns in layouts.values() for key in columns})
    shared = {key: kind for key, kind in kinds[0].items() if all(k.get(key) == kind for k in kinds)}
    texts = [key for key, kind in shared.items() if kind == "text"]
    if name is None:
        name = next((key for key in (_TEXT, _TOKENS) if key in shared), texts[0] if len(texts) == 1 else None)
        if name is None:
            raise ConfigError(
                f"{where}: none of the columns {names} is clearly the text; name one of str, or of token arrays "
                "(--column)"
            )
    if name not in shared:
        found = sorted({columns.get(name, "missing") for columns in layouts.values()})
        raise ConfigError(
            f"{where}: column {name!r} is {' and '.join(found)}; a column of str or of one-dimensional "
            f"integer arrays is needed, in all shards; there are {names}"
        )
    return TextColumn(name=name, kind="text" if shared[name] == "text" else "tokens")


def _kind(encoding: str) -> Literal["text", "tokens"] | None:
    if encoding == "str":
        return "text"
    dtype = ndarray_dtype(encoding)
    return "tokens" if dtype is not None and dtype.kind in "iu" and encoding.count(",") == 0 else None
