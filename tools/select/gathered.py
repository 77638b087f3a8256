"""One column of scores while a table is imported: values find their rows in any order, and become a column at the end.

Rules. Values lie in an unnamed file that is mapped (8 bytes a row; 4 for texts), so memory does not bound the number of
rows. The first value decides what the column holds: whole numbers, numbers, or texts, which become categories: an
integer column, and the texts in `made["categories"]`, sorted. A value that does not fit is an error that names it. NaN
and null are no values.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import SelectionError
from mixstream.selection import Column
from mixstream.types import Int64

from .tables import is_spans

Spans = Literal["mean", "max", "min", "sum"]
Kind = Literal["whole", "number", "text"]
_MOST_CATEGORIES = 1 << 16
_EXACT = 1 << 53
_ROUNDED = "numbers with fractions too, and integers above 2**53 would be rounded"
_DTYPES: dict[Kind, str] = {"whole": "<i8", "number": "<f8", "text": "<i4"}


class Gathered:
    """Values of one column, by row.

    Args:
        name: of the column of scores.
        rows: N.
        spans: how dolma's spans of a document become one number.
    """

    def __init__(self, name: str, *, rows: int, spans: Spans = "mean") -> None:
        self.name = name
        self.has_N = np.zeros(rows, dtype=np.bool_)
        self.nulls = 0
        self.kind: Kind | None = None
        self._narrow = True  # float32 holds every value exactly, as the table's type says
        self._spans: Spans = spans
        self._codes: dict[str, int] = {}
        self._value_N: NDArray[Any] = np.empty(0)

    def put(self, values: Sequence[Any] | NDArray[Any], line_M: Int64, row_M: Int64) -> None:
        """Write the values of some lines to their rows.

        Raises:
            SelectionError: a value does not fit the column.
        """
        if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
            self._put_numbers(values[line_M], row_M)
            return
        chosen = [self._plain(values[line]) for line in line_M.tolist()]
        there = [at for at, value in enumerate(chosen) if value is not None]
        self._drop(row_M[[at for at, value in enumerate(chosen) if value is None]])
        row_M, chosen = row_M[there], [chosen[at] for at in there]
        if not chosen:
            return
        if any(isinstance(value, str) for value in chosen):
            if not all(isinstance(value, str) for value in chosen):
                number = next(value for value in chosen if not isinstance(value, str))
                self._refuse(
                    next(value for value in chosen if isinstance(value, str)), f"numbers too, such as {number}"
                )
            self._store("text", np.array([self._code(value) for value in chosen], dtype=np.int32), row_M)
        elif all(isinstance(value, int) for value in chosen):
            if large := [value for value in chosen if not -(1 << 63) <= value < 1 << 63]:
                self._refuse(large[0], "integers of 64 bits")
            self._put_numbers(np.array(chosen, dtype=np.int64), row_M)
        else:
            if large := [value for value in chosen if isinstance(value, int) and abs(value) > _EXACT]:
                self._refuse(large[0], _ROUNDED)
            self._narrow = False
            self._put_numbers(np.array(chosen, dtype=np.float64), row_M)

    @property
    def categories(self) -> list[str] | None:
        """The texts, sorted; None if the column holds numbers."""
        return sorted(self._codes) if self.kind == "text" else None

    def column(self, higher_is_better: bool | None) -> Column:
        """Return the column, as narrow as its values allow.

        Raises:
            SelectionError: there is no value at all.
        """
        if self.kind is None:
            raise SelectionError(f"column {self.name!r} has no value in any line that meets a row; leave it out")
        if self.kind == "number":
            return Column(name=self.name, dtype="<f4" if self._narrow else "<f8", higher_is_better=higher_is_better)
        if self.kind == "text":
            return Column(name=self.name, dtype="<i4")
        return Column(name=self.name, dtype=self._integers(), higher_is_better=higher_is_better)

    def values(self, begin: int, end: int) -> NDArray[Any]:
        """Return the values of some rows; 0, or -1 for texts, where there is none."""
        return self.values_at(slice(begin, end))

    def values_at(self, rows: slice | Int64) -> NDArray[Any]:
        """Return the values of some rows in any order, as `values` does."""
        some = self._value_N[rows]
        if self.kind != "text":
            return some
        order = np.argsort([text for text, _ in sorted(self._codes.items(), key=lambda item: item[1])], kind="stable")
        rank = np.empty(len(order) + 1, dtype=np.int32)
        rank[order], rank[-1] = np.arange(len(order)), -1
        return np.where(self.has_N[rows], rank[some], np.int32(-1))

    def missing(self, begin: int, end: int) -> NDArray[np.bool_]:
        """Return which rows have no number; a row without a text has the category -1, and is not missing."""
        if self.kind == "text":
            return np.zeros(end - begin, dtype=np.bool_)
        return ~self.has_N[begin:end]

    def _plain(self, value: Any) -> Any:
        """Return a value as int, float or str; None if it is none."""
        if isinstance(value, bool):
            return int(value)
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, list) and is_spans(value):
            return _of_spans(value, self._spans)
        if value is None or isinstance(value, int | float | str):
            return value
        return self._refuse(value, "numbers or texts")

    def _put_numbers(self, value_M: NDArray[Any], row_M: Int64) -> None:
        if value_M.dtype.kind == "f":
            finite_M = np.isfinite(value_M)
            if not finite_M.all():
                self._drop(row_M[~finite_M])
                value_M, row_M = value_M[finite_M], row_M[finite_M]
            self._narrow &= value_M.dtype.itemsize <= 4
            self._store("number", value_M, row_M)
            return
        if value_M.dtype == np.uint64 and len(value_M) and int(value_M.max()) >= 1 << 63:
            self._refuse(int(value_M.max()), "integers below 2**63")
        self._store("whole", value_M, row_M)

    def _store(self, kind: Kind, value_M: NDArray[Any], row_M: Int64) -> None:
        if not len(row_M):
            return
        if self.kind is None:
            self.kind, self._value_N = kind, _scratch(_DTYPES[kind], len(self.has_N))
        elif {self.kind, kind} == {"whole", "number"}:
            value_M = self._as_floats(value_M)
        elif self.kind != kind:
            self._refuse("a text" if kind == "text" else value_M[0], "texts" if self.kind == "text" else "numbers")
        self._value_N[row_M] = value_M
        self.has_N[row_M] = True

    def _as_floats(self, value_M: NDArray[Any]) -> NDArray[Any]:
        """Make the column one of floats, and return the values as such."""
        self._narrow = False
        if self.kind == "whole":
            floats = _scratch("<f8", len(self.has_N))
            for at in range(0, len(floats), 1 << 20):
                floats[at : at + (1 << 20)] = self._value_N[at : at + (1 << 20)]
                if (np.abs(self._value_N[at : at + (1 << 20)]) > _EXACT).any():
                    self._refuse("an integer above 2**53", _ROUNDED)
            self.kind, self._value_N = "number", floats
        if value_M.dtype.kind in "iu" and (np.abs(value_M) > _EXACT).any():
            self._refuse("an integer above 2**53", _ROUNDED)
        return value_M.astype(np.float64)

    def _drop(self, row_M: Int64) -> None:
        """Note rows whose line has no value: what an earlier line said no longer counts."""
        self.nulls += len(row_M)
        self.has_N[row_M] = False

    def _code(self, text: str) -> int:
        code = self._codes.setdefault(text, len(self._codes))
        if code >= _MOST_CATEGORIES:
            raise SelectionError(
                f"column {self.name!r} has more than {_MOST_CATEGORIES:,} different texts; only columns of few texts "
                "(a language, a label) are imported; leave it out"
            )
        return code

    def _integers(self) -> str:
        low = min(int(self._value_N.min(initial=0)), 0)
        high = max(int(self._value_N.max(initial=0)), 0)
        for dtype in ("|i1", "<i2", "<i4"):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return dtype
        return "<i8"

    def _refuse(self, value: Any, expected: str) -> Any:
        raise SelectionError(
            f"column {self.name!r} has the value {str(value)[:80]!r}, where it has {expected}; nothing was imported; "
            "correct the table, or leave the column out"
        )


def _of_spans(spans: list[list[float]], how: Spans) -> float | None:
    """Return one number for a document of dolma's spans [begin, end, score]; None without spans, but for a sum."""
    scores = [float(score) for _, _, score in spans]
    if any(map(math.isnan, scores)):  # max and min would depend on the order of the spans
        return None
    if how == "sum" or not scores:
        return sum(scores) if how == "sum" else None
    if how == "mean":
        lengths = [max(end - begin, 0) for begin, end, _ in spans]
        total = sum(lengths)
        return sum(n * score for n, score in zip(lengths, scores)) / total if total else sum(scores) / len(scores)
    return max(scores) if how == "max" else min(scores)


def _scratch(dtype: str, rows: int) -> NDArray[Any]:
    """Return an array of zeros in an unnamed file; the operating system keeps of it in memory what it can."""
    if not rows:
        return np.zeros(0, dtype=dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype=dtype, mode="w+", shape=(rows,))
