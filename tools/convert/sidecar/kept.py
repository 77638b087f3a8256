"""Values that `--keep` takes from documents → columns of the sidecar, of a type that does not depend on the parts.

A part cannot know what other parts hold, so it keeps each value as JSON and notes which kinds of values there were
(`kind_of`). When all parts are done, the kinds of all of them decide the type of the column (`type_of`):

    true, false                              bool
    whole numbers                            int64
    numbers, whole ones up to 2**53          float64
    texts, times, decimals, bytes            string
    anything else, or several of these       string: texts as they are, all other values as JSON

A value that is missing is null.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

_EXACT = 1 << 53
_LARGEST = 1 << 63
_TYPES: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"bool"}), "bool"),
    (frozenset({"int", "long"}), "int64"),
    (frozenset({"int", "float"}), "double"),
    (frozenset({"text"}), "string"),
)


class Kept(NamedTuple):
    """A value: its kind, and its JSON; None for a missing value."""

    kind: str
    text: str | None


def keep(value: object) -> Kept:
    """Return the kind of a value and its JSON.

    >>> keep(0.5), keep(None).text, keep(["a"])
    (Kept(kind='float', text='0.5'), None, Kept(kind='nested', text='["a"]'))
    """
    if value is None:
        return Kept("null", None)
    if isinstance(value, str):
        return Kept("text", json.dumps(_characters(value), ensure_ascii=False))
    if isinstance(value, bool | float):
        return Kept(type(value).__name__, json.dumps(value))
    if isinstance(value, int):
        kind = "int" if abs(value) <= _EXACT else "long" if -_LARGEST <= value < _LARGEST else "huge"
        return Kept(kind, str(value))
    if isinstance(value, dt.date | dt.time | dt.timedelta | decimal.Decimal | bytes):
        return Kept("text", json.dumps(_plain(value), ensure_ascii=False))
    return Kept("nested", _characters(json.dumps(value, ensure_ascii=False, default=_plain)))


def type_of(kinds: Iterable[str]) -> str:
    """Return the Arrow type of a column that holds values of these kinds.

    >>> type_of(["int", "float", "null"]), type_of(["int", "text"]), type_of([])
    ('double', 'string', 'string')
    """
    held = {*kinds} - {"null"}
    return next((name for allowed, name in _TYPES if held and held <= allowed), "string")


def is_mixed(kinds: Iterable[str]) -> bool:
    """Whether a column of text holds more than one kind of values."""
    held = {*kinds} - {"null"}
    return type_of(held) == "string" and len({"number" if k in {"int", "long", "float"} else k for k in held}) > 1


def value_of(kind: str) -> Callable[[str | None], Any]:
    """Return what makes of the JSON of a value the value of a column of this type."""
    if kind == "string":
        return lambda text: None if text is None else json.loads(text) if text.startswith('"') else text
    if kind == "double":
        return lambda text: None if text is None else float(json.loads(text))
    return lambda text: None if text is None else json.loads(text)


def _plain(value: object) -> str:
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    return str(value)


def _characters(text: str) -> str:
    """The text without halves of surrogate pairs, which no table can hold."""
    return text.encode(errors="replace").decode() if not text.isascii() else text
