"""What a column of scores holds, and which of its values count.

Rules: values are little-endian numbers, one row each, of any fixed shape (a score, an embedding, the features of a
gradient). `flags` says of each row whether it was scored; a row that was not is stored as 0, and every other value is
finite. So nobody has to look for NaN, and a sort never meets one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.records import dataclass
from mixstream.selection.npy import refuse

SCORED, TOO_SHORT, FAILED = 1, 2, 4
"""The bits of `flags`: the row has values; it was too short for any; computing them failed."""

FLAGS = "flags"
FLAGS_DTYPE = np.dtype("|u1")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,119}", re.ASCII)
_DTYPES = frozenset(
    {"|b1", "|i1", "|u1", *(f"<{kind}{size}" for kind in "iu" for size in (2, 4, 8)), "<f2", "<f4", "<f8"}
)
_MOST = 1 << 40  # bytes of one row, far more than fit into memory: products of sizes stay small


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of scores.

    >>> Column(name="embedding", dtype="float16", shape=(384,))
    Column(name='embedding', dtype='<f2', shape=(384,), higher_is_better=None)

    Args:
        name: letters, digits and `_.=+-`; the file is called `NAME.npy`.
        dtype: a bool, an integer or a float of numpy, by name; kept as little-endian.
        shape: of one row; () for a number.
        higher_is_better: which end of a score is to be kept; None if it is no score.

    Raises:
        ConfigError: a name or a dtype that no column can have.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    higher_is_better: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or self.name.lower() == FLAGS:
            raise ConfigError(
                f"a column cannot be called {self.name!r:.80}; use at most 120 letters, digits and _.=+-, and not "
                f"{FLAGS!r}"
            )
        try:
            dtype = np.dtype(self.dtype).newbyteorder("<").str
        except (TypeError, ValueError):
            dtype = ""
        if dtype not in _DTYPES:
            raise ConfigError(f"column {self.name!r} has dtype {self.dtype!r:.80}; choose among {sorted(_DTYPES)}")
        shape = tuple(int(size) for size in self.shape)
        if len(shape) > 3 or any(size < 1 for size in shape) or math.prod(shape) * 8 > _MOST:
            raise ConfigError(f"column {self.name!r} has rows of shape {shape}; give up to three positive sizes")
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "shape", shape)

    @property
    def type(self) -> np.dtype[Any]:
        """Its dtype."""
        return np.dtype(self.dtype)

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.name}.npy"

    def bad_rows(self, values: NDArray[Any], flags: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the rows of a block, from 0, that were scored and have a value that is not finite, int64 [n]."""
        if self.type.kind != "f" or not len(values):
            return np.empty(0, np.int64)
        finite = np.isfinite(values)
        if finite.all():
            return np.empty(0, np.int64)
        return np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1) & ((flags & SCORED) > 0))


def check_columns(columns: Iterable[Column]) -> dict[str, Column]:
    """Return columns by name.

    Raises:
        ConfigError: there is none, or two names are equal (on a file system that ignores case).
    """
    by_name: dict[str, Column] = {}
    for column in columns:
        if any(column.name.lower() == name.lower() for name in by_name):
            raise ConfigError(
                f"two columns are called {column.name!r} (on some file systems, case is ignored); rename one"
            )
        by_name[column.name] = column
    if not by_name:
        raise ConfigError("there is no column; give at least one")
    return by_name


def stored(column: Column, values: NDArray[Any], flags: NDArray[np.uint8], *, begin: int) -> NDArray[Any]:
    """Return the rows of a block as they are stored: checked, of the column's dtype, 0 where they were not scored.

    Args:
        column: whose values these are.
        values: [n, *shape].
        flags: uint8 [n].
        begin: ordinal of the first row, for errors.

    Raises:
        ConfigError: another shape, or values that the dtype cannot hold, or not finite ones in a row that was scored.
    """
    values = np.asarray(values)
    expected = (len(flags), *column.shape)
    if values.shape != expected:
        raise ConfigError(f"column {column.name!r}: values of shape {values.shape}, {expected} belong to these rows")
    scored = (flags & SCORED) > 0
    if not scored.all():
        values = np.where(scored.reshape(-1, *(1,) * len(column.shape)), values, np.zeros((), values.dtype))
    integers = values.dtype.kind in "iu" and column.type.kind in "iu"
    if not integers and not np.can_cast(values.dtype, column.type, casting="same_kind"):
        raise ConfigError(f"column {column.name!r} holds {column.dtype}, the values are {values.dtype}; convert them")
    if integers and values.size:
        bounds = np.iinfo(column.type)
        if int(values.min()) < bounds.min or int(values.max()) > bounds.max:
            raise ConfigError(
                f"column {column.name!r} holds {column.dtype}, the values reach from {values.min()} to {values.max()}; "
                "declare a larger dtype"
            )
    with np.errstate(over="ignore", invalid="ignore"):
        made = values.astype(column.type, copy=False)
    bad = column.bad_rows(made, flags)
    if len(bad):
        raise ConfigError(
            f"column {column.name!r}: the value of ordinal {begin + int(bad[0])} is not finite as {column.dtype} "
            f"({values[bad[0]]!r:.80}), and so are {len(bad) - 1} more; give these rows a flag without bit 0 "
            "(not scored), or declare a larger dtype"
        )
    return made


class ColumnRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A column in a manifest."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    higher_is_better: bool | None = None


def read_columns(records: Sequence[ColumnRecord], *, where: str) -> dict[str, Column]:
    """Return the columns of a manifest.

    Raises:
        SelectionError: one is invalid.
    """
    try:
        return check_columns(Column(**msgspec.structs.asdict(record)) for record in records)
    except ConfigError as error:
        refuse(where, str(error))


def column_files(columns: Mapping[str, Column]) -> list[str]:
    """Return the names of the files of scores, flags first."""
    return [f"{FLAGS}.npy", *(column.file for column in columns.values())]


def columns_json(columns: Mapping[str, Column]) -> list[dict[str, Any]]:
    """Return columns as JSON values, in their order."""
    return [
        {"name": c.name, "dtype": c.dtype, "shape": list(c.shape), "higher_is_better": c.higher_is_better}
        for c in columns.values()
    ]
