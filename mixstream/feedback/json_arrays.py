"""Arrays in JSON: a mixer's state as a document and back, bit for bit.

Numbers, strings, lists and dicts stay as they are. An array becomes {"dtype": …, "shape": …, "base64": …}, which is
exact for every value, NaN included, and a third larger than the array.

    >>> saved = to_json({"step": 7, "weights": np.array([0.25, 0.75])})
    >>> saved["weights"]
    {'dtype': '<f8', 'shape': [2], 'base64': 'AAAAAAAA0D8AAAAAAADoPw=='}
    >>> from_json(saved)["weights"].tolist()
    [0.25, 0.75]
"""

import base64
import binascii
import math
from collections.abc import Mapping
from operator import index
from typing import Any

import numpy as np

from mixstream.errors import StateError

_KEYS = {"dtype", "shape", "base64"}
_LONG = 16  # letters of a type's name
_KINDS = "biuf"  # no objects: nothing in a state is ever unpickled


def to_json(value: Any) -> Any:
    """Return `value`, a tree of dicts, lists, numbers, strings and arrays, with its arrays as JSON objects."""
    if isinstance(value, np.ndarray):
        data = value.astype(value.dtype.newbyteorder("<"))
        text = base64.b64encode(data.tobytes()).decode("ascii")
        return {"dtype": data.dtype.str, "shape": list(data.shape), "base64": text}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def from_json(value: Any) -> Any:
    """Return the value that `to_json` was given, with tuples as lists and numpy scalars as Python numbers.

    Raises:
        StateError: an array in it is damaged, or it is nested too deep.
    """
    try:
        return _value(value)
    except RecursionError as error:
        raise StateError("the saved mixer state is damaged: it is nested too deep; load an older checkpoint") from error


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) == _KEYS:
            return _array(value)
        return {key: _value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_value(item) for item in value]
    return value


def _array(saved: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    try:
        if not (isinstance(saved["dtype"], str) and isinstance(saved["shape"], list) and len(saved["dtype"]) < _LONG):
            raise TypeError(f"{str(saved['dtype'])[:_LONG]!r} is no type of numbers")
        dtype, shape = np.dtype(saved["dtype"]), tuple(index(size) for size in saved["shape"])
        data = base64.b64decode(saved["base64"], validate=True)
        if dtype.kind not in _KINDS or min(shape, default=0) < 0 or len(data) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(data)} bytes are no {dtype} array of shape {shape}")
    except (TypeError, ValueError, OverflowError, SyntaxError, binascii.Error) as error:
        raise StateError(
            f"an array in the saved mixer state is damaged ({error}); load an older checkpoint, or pass "
            "strict=False to restart the mixer"
        ) from error
    return np.frombuffer(data, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="))
