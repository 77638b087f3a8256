"""Vectors that exist already: a `.npy` file of the rows in stored order, or Parquet files with a key in each row.

Rule: the files are untrusted: nothing is unpickled, shapes are compared with the dataset, and a vector that cannot be
attributed to one row is refused. They are read for a range of rows at a time; memory is that of the range.

Shape suffixes: D dimensions, M rows of a row group, N rows of the range, S shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.records import dataclass
from mixstream.selection.shard_table import ShardTable
from mixstream.types import Int64

EMBEDDING = "embedding"
_ORDINAL, _SHARD, _ROW = "ordinal", "shard", "row"


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundVectors:
    """The vectors of a range of rows.

    Attributes:
        vectors_ND: float [N, D].
        there_N: bool [N], which rows have one.
    """

    vectors_ND: NDArray
    there_N: NDArray[np.bool_]


class ExistingVectors(Protocol):
    """Vectors of the rows of a domain.

    Attributes:
        key: the column by whose value a vector is found; None if its place or an ordinal tells.
        at_once: whether to ask for a whole part at once, since each call looks through all files.
    """

    key: str | None
    at_once: bool

    @property
    def dimensions(self) -> int:
        """Dimensions of a vector."""
        ...

    def range(self, begin: int, end: int, keys: Sequence[Any] | None = None) -> FoundVectors:
        """Return the vectors of the ordinals [begin, end); `keys` are their values of the column `key`."""
        ...


class NpyVectors:
    """A `.npy` file with one vector per stored row of the domain, in stored order.

    Args:
        path: of the file.
        table: the shards of the domain.

    Raises:
        ConfigError: it is no array of numbers of shape [rows, dimensions].
    """

    key: str | None = None
    at_once: bool = False

    def __init__(self, path: Path, *, table: ShardTable) -> None:
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ConfigError(
                f"npy:{path} cannot be read: {error}. Write it with numpy.save, without objects"
            ) from error
        if found.ndim != 2 or not found.shape[1] or found.dtype.kind not in "fiu":
            raise ConfigError(f"npy:{path} holds {found.dtype} {found.shape}; floats [rows, dimensions] are needed")
        if len(found) != table.rows:
            raise ConfigError(
                f"npy:{path} has {len(found):,} vectors, the dataset has {table.rows:,} rows: which belong together "
                "is unknown. Give one vector for each stored row, or parquet: with a key"
            )
        self._vectors = found

    @property
    def dimensions(self) -> int:
        """Of a vector."""
        return self._vectors.shape[1]

    def range(self, begin: int, end: int, keys: Sequence[Any] | None = None) -> FoundVectors:
        """See `ExistingVectors`. Every row has one."""
        del keys
        return FoundVectors(vectors_ND=np.array(self._vectors[begin:end]), there_N=np.ones(end - begin, dtype=np.bool_))


class ParquetVectors:
    """Parquet files with a column `embedding` (a list of floats), and a key in each row, in any order.

    The key is a column `ordinal`; or `shard` (name of a raw file, or its number) and `row`; or, with `key`, the column
    of that name, which the samples of the dataset have too.

    Args:
        paths: of the files.
        table: the shards of the domain.
        key: name of the column that samples and files share; None for ordinals, or shards and rows.

    Raises:
        ConfigError: a file cannot be read, or lacks a column.
    """

    at_once: bool = True

    def __init__(self, paths: Sequence[Path], *, table: ShardTable, key: str | None = None) -> None:
        self._paths, self._table, self.key = paths, table, key
        self._numbers: dict[object, int] = {shard.name: number for number, shard in enumerate(table.shards)}
        for path in paths:
            names = set(_open(path).schema_arrow.names)
            given = [{EMBEDDING, key}] if key else [{EMBEDDING, _ORDINAL}, {EMBEDDING, _SHARD, _ROW}]
            if not any(needed <= names for needed in given):
                raise ConfigError(
                    f"parquet:{path} has the columns {sorted(names)}; needed are {EMBEDDING} and "
                    + (f"{key} (--key)" if key else f"{_ORDINAL}, or {_SHARD} and {_ROW} (or --key COLUMN)")
                )
        self._dimensions: int | None = None

    @property
    def dimensions(self) -> int:
        """Of a vector: that of the first one."""
        if self._dimensions is None:
            self._dimensions = self._first_dimensions()
        return self._dimensions

    def range(self, begin: int, end: int, keys: Sequence[Any] | None = None) -> FoundVectors:
        """See `ExistingVectors`.

        Raises:
            ConfigError: a row has two vectors, a key names no row of the dataset or two, or a vector has another
                dimension than the first.
        """
        vectors_ND = np.zeros((end - begin, self.dimensions), dtype=np.float32)
        there_N = np.zeros(end - begin, dtype=np.bool_)
        place_of = _places(keys, self.key) if keys is not None else None
        for file, group in self._groups():
            at_M = self._at(file, group, begin, end, place_of)
            here = np.flatnonzero(at_M >= 0)
            if not here.size:
                continue
            at = at_M[here]
            twice = there_N[at] | (np.bincount(at, minlength=end - begin)[at] > 1)
            if twice.any():
                raise ConfigError(
                    f"parquet: the row of ordinal {begin + int(at[twice][0])} has two vectors; which counts is "
                    "unknown. Remove one of them"
                )
            column = file.read_row_group(group, columns=[EMBEDDING]).column(0)
            found = _matrix(column.take(here), str(self._paths[0]))
            if found.shape[1] != self.dimensions:
                raise ConfigError(
                    f"parquet: vectors of {found.shape[1]} and of {self.dimensions} dimensions; all must have the same"
                )
            vectors_ND[at], there_N[at] = found, True
        return FoundVectors(vectors_ND=vectors_ND, there_N=there_N)

    def _first_dimensions(self) -> int:
        for file, group in self._groups():
            for batch in file.iter_batches(batch_size=1, row_groups=[group], columns=[EMBEDDING]):
                return _matrix(batch.column(0), str(self._paths[0])).shape[1]
        raise ConfigError(f"parquet:{self._paths[0]} has no rows, so no vectors; give files that have some")

    def _at(self, file: Any, group: int, begin: int, end: int, place_of: dict[Any, int] | None) -> Int64:
        """Return the place in [begin, end) of each row of a group, less `begin`; -1 for rows elsewhere. int64 [M]."""
        if place_of is not None:
            values = file.read_row_group(group, columns=[self.key]).column(0).to_pylist()
            return np.array([place_of.get(value, -1) for value in values], dtype=np.int64)
        ordinal_M = self._ordinals(file, group)
        return np.where((ordinal_M >= begin) & (ordinal_M < end), ordinal_M - begin, -1)

    def _ordinals(self, file: Any, group: int) -> Int64:
        if _ORDINAL in file.schema_arrow.names:
            ordinal_M = _integers(file.read_row_group(group, columns=[_ORDINAL]).column(0), _ORDINAL)
            if ordinal_M.size and not 0 <= ordinal_M.min() <= ordinal_M.max() < self._table.rows:
                raise ConfigError(
                    f"parquet: ordinals {ordinal_M.min()} to {ordinal_M.max()}, the dataset has 0 to "
                    f"{self._table.rows - 1}; the vectors belong to another dataset"
                )
            return ordinal_M
        read = file.read_row_group(group, columns=[_SHARD, _ROW])
        shards, row_M = read.column(_SHARD), _integers(read.column(_ROW), _ROW)
        texts = shards.to_pylist()
        number_M = np.array([self._number(each) for each in texts], dtype=np.int64)
        samples_S = np.diff(self._table.start_S)
        wrong = np.flatnonzero((row_M < 0) | (row_M >= samples_S[number_M]))
        if wrong.size:
            raise ConfigError(
                f"parquet: row {row_M[wrong[0]]} of shard {texts[wrong[0]]!r}, which has "
                f"{samples_S[number_M[wrong[0]]]} rows; the vectors belong to another dataset"
            )
        return self._table.start_S[number_M] + row_M

    def _number(self, shard: object) -> int:
        number = self._numbers.get(shard, shard) if isinstance(shard, str | int) else None
        if not isinstance(number, int) or not 0 <= number < len(self._numbers):
            raise ConfigError(
                f"parquet: the dataset has no shard {shard!r}; give names of its raw files, or numbers from 0 to "
                f"{len(self._numbers) - 1}"
            )
        return number

    def _groups(self) -> Iterator[tuple[Any, int]]:
        for path in self._paths:
            file = _open(path)
            with file:
                for group in range(file.num_row_groups):
                    yield file, group


def _places(keys: Sequence[Any], name: str | None) -> dict[Any, int]:
    """Return key -> place of its row."""
    plain = [key.item() if isinstance(key, np.generic) else key for key in keys]
    place_of = {key: at for at, key in enumerate(plain)}
    if len(place_of) < len(plain):
        twice = next(key for at, key in enumerate(plain) if place_of[key] != at)
        raise ConfigError(
            f"--key {name}: two rows of the dataset have {twice!r}; a key must tell rows apart. Choose another column, "
            "or give ordinals"
        )
    return place_of


def _open(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"parquet:{path} cannot be read as Parquet: {error}") from error


def _integers(column: Any, name: str) -> Int64:
    values = column.to_numpy()
    if values.dtype.kind not in "iu":  # null values make floats
        raise ConfigError(f"parquet: column {name} is {column.type}, or has gaps; whole numbers are needed")
    return values.astype(np.int64)


def _matrix(column: Any, where: str) -> NDArray[np.float32]:
    """Return a column of lists of equal length as float32 [M, D]."""
    import pyarrow as pa

    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kinds = pa.types.is_list(flat.type) or pa.types.is_large_list(flat.type) or pa.types.is_fixed_size_list(flat.type)
    if not kinds or not (pa.types.is_floating(flat.type.value_type) or pa.types.is_integer(flat.type.value_type)):
        raise ConfigError(f"parquet:{where}: column {EMBEDDING} is {flat.type}; lists of floats are needed")
    values = flat.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    if flat.null_count or not len(flat) or len(values) % len(flat) or not len(values):
        raise ConfigError(f"parquet:{where}: column {EMBEDDING} has gaps or empty lists; each row needs one vector")
    if not pa.types.is_fixed_size_list(flat.type):
        lengths = np.diff(flat.offsets.to_numpy())
        if (lengths != lengths[0]).any():
            raise ConfigError(
                f"parquet:{where}: column {EMBEDDING} has lists of {lengths.min()} to {lengths.max()} numbers; all "
                "vectors must have the same dimension"
            )
    return values.reshape(len(flat), -1)
