"""Arrays in JSON: what a mixer remembers, as a document and back, bit for bit.

Numbers, strings, lists and dicts stay as they are. An array becomes {"dtype": …, "shape": …, "base64": …}: exact for
every value, NaN among them, and a third larger than its bytes.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mixstream.errors import StateError

_KEYS = {"dtype", "shape", "base64"}
_KINDS = "biuf"  # no objects: nothing in a state is ever unpickled


def pack(value: Any) -> Any:
    """Return `value`, a tree of dicts, lists, numbers, strings and arrays, with plain JSON in the place of arrays."""
    if isinstance(value, np.ndarray):
        data = value.astype(value.dtype.newbyteorder("<"))
        text = base64.b64encode(data.tobytes()).decode("ascii")
        return {"dtype": data.dtype.str, "shape": list(data.shape), "base64": text}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): pack(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [pack(item) for item in value]
    return value


def unpack(value: Any) -> Any:
    """Return what `pack` was given; tuples come back as lists, numpy's numbers as Python's.

    Raises:
        StateError: an array in it is damaged.
    """
    if isinstance(value, Mapping):
        if set(value) == _KEYS:
            return _array(value)
        return {key: unpack(item) for key, item in value.items()}
    if isinstance(value, list):
        return [unpack(item) for item in value]
    return value


def _array(packed: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    try:
        dtype, shape = np.dtype(packed["dtype"]), tuple(int(size) for size in packed["shape"])
        data = base64.b64decode(packed["base64"], validate=True)
        if dtype.kind not in _KINDS or min(shape, default=0) < 0 or len(data) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(data)} bytes are no {dtype} array of shape {shape}")
    except (TypeError, ValueError, binascii.Error) as error:
        raise StateError(f"an array in the saved mixer state is damaged ({error}); load an older checkpoint") from error
    return np.frombuffer(data, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="))
