"""Column encodings of JSON, CSV, TSV and XSV shards: `str`, `int` and `float`, by name.

The functions have the names and arguments of their namesakes in mosaicml-streaming. A value is stored only if the same
value is read again: `True` is no `int` in XSV, whose text `True` no reader could parse.
"""

from typing import Any

import numpy as np

from mixstream.errors import EncodingError, ShardCorruptError

_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int, np.integer), "float": (float, np.floating)}
FORMATS = ("json", "csv", "tsv", "xsv")
_KINDS: dict[str, type] = {"str": str, "int": int, "float": float}
MDS_NAMES = {"str": "str", "int": "str_int", "float": "str_float"}
"""The encodings of MDS that hold the same values, as text too."""


def get_json_encodings() -> set[str]:
    """Return the names of the encodings of JSON columns."""
    return {*_TYPES}


def get_xsv_encodings() -> set[str]:
    """Return the names of the encodings of CSV, TSV and XSV columns."""
    return {*_TYPES}


def is_json_encoding(encoding: str) -> bool:
    """Return whether a JSON column can have this encoding."""
    return encoding in _TYPES


def is_xsv_encoding(encoding: str) -> bool:
    """Return whether a CSV, TSV or XSV column can have this encoding."""
    return encoding in _TYPES


def is_json_encoded(encoding: str, value: Any) -> bool:
    """Return True if a JSON column of this encoding can hold `value`.

    Raises:
        EncodingError: it cannot, or there is no such encoding.
    """
    plain_value(encoding, value)
    return True


def xsv_encode(encoding: str, value: Any) -> str:
    """Return the text of a value in a CSV, TSV or XSV column.

    >>> xsv_encode("float", 1.25), xsv_decode("float", "1.25")
    ('1.25', 1.25)

    Raises:
        EncodingError: there is no such encoding, or it cannot hold the value.
    """
    if isinstance(value, bool | np.bool_):
        raise EncodingError(
            f"encoding {encoding!r} needs {encoding}, got bool: its text {value} is none; store int(value)"
        )
    return str(plain_value(encoding, value))


def xsv_decode(encoding: str, value: str) -> Any:
    """Return the value that a text in a CSV, TSV or XSV column stands for.

    Raises:
        EncodingError: there is no such encoding.
        ShardCorruptError: the text is no such value.
    """
    _require(encoding)
    try:
        return _KINDS[encoding](value)
    except ValueError as error:
        raise ShardCorruptError(f"not a value of encoding {encoding!r}: {error}") from error


def plain_value(encoding: str, value: Any) -> str | int | float:
    """Return a value as Python's own str, int or float.

    Raises:
        EncodingError: there is no such encoding, or the value is of another type.
    """
    _require(encoding)
    if not isinstance(value, _TYPES[encoding]):
        raise EncodingError(f"encoding {encoding!r} needs {encoding}, got {type(value).__name__}")
    return value if isinstance(value, _KINDS[encoding]) else _KINDS[encoding](value)


def is_value(encoding: str, value: Any) -> bool:
    """Return whether `value`, as JSON was parsed, is one of this encoding."""
    return isinstance(value, _KINDS[encoding])


def _require(encoding: str) -> None:
    if encoding not in _TYPES:
        raise EncodingError(f"encoding {encoding!r} is not known; choose among {', '.join(sorted(_TYPES))}")
