"""NumPy values as MDS bytes: scalars, and arrays in their three forms (`specs/mds.md` section 3).

    ndarray:DT:d0,d1,…   the values alone, in C order: fixed size
    ndarray:DT           u8 (axes << 2) + log2(width of a dim), the dims, the values
    ndarray              u8 dtype code, then as ndarray:DT

Everything is little-endian. Sizes that the bytes declare are checked before anything is allocated.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.records import dataclass

_DTYPE_OF_CODE = {
    8: "uint8",
    9: "int8",
    16: "uint16",
    17: "int16",
    18: "float16",
    32: "uint32",
    33: "int32",
    34: "float32",
    64: "uint64",
    65: "int64",
    66: "float64",
}
_CODE_OF_DTYPE = {name: code for code, name in _DTYPE_OF_CODE.items()}

DTYPE_NAMES = tuple(_CODE_OF_DTYPE)
_MAX_AXES = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayForm:
    """What an `ndarray…` encoding fixes: nothing, the dtype, or dtype and shape."""

    dtype: np.dtype | None = None
    shape: tuple[int, ...] | None = None

    @property
    def size(self) -> int | None:
        """The size of every value in bytes, or None if it varies."""
        if self.dtype is None or self.shape is None:
            return None
        return self.dtype.itemsize * math.prod(self.shape)


def little_endian(name: str) -> np.dtype:
    """Return the little-endian dtype of this name."""
    return np.dtype(name).newbyteorder("<")


def parse_form(text: str) -> ArrayForm | None:
    """Parse the text after `ndarray:`, which is `""`, `"DT"` or `"DT:d0,d1,…"`; None if it is none of these."""
    if not text:
        return ArrayForm()
    name, colon, dims = text.partition(":")
    if name not in _CODE_OF_DTYPE:
        return None
    if not colon:
        return ArrayForm(dtype=little_endian(name))
    shape = []
    for word in dims.split(","):
        dim = word.strip()
        if not (dim.isascii() and dim.isdecimal() and len(dim) <= 10 and int(dim) > 0):
            return None
        shape.append(int(dim))
    form = ArrayForm(dtype=little_endian(name), shape=tuple(shape))
    return form if len(shape) <= _MAX_AXES and form.size is not None and form.size < 1 << 32 else None


def encode_array(form: ArrayForm, value: object) -> bytes:
    """Encode an array: what `form` leaves open, then the values."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"needs a numpy array, got {type(value).__name__}; convert it with numpy.asarray")
    code = _CODE_OF_DTYPE.get(value.dtype.name)
    if code is None:
        raise ValueError(f"dtype {value.dtype.name} cannot be stored; convert to one of {', '.join(DTYPE_NAMES)}")
    if form.dtype is not None and form.dtype.name != value.dtype.name:
        raise ValueError(f"dtype is {value.dtype.name}, the column holds {form.dtype.name}; convert with astype")
    if value.ndim == 0:
        raise ValueError(
            "Attempting to encode a scalar with NDArray encoding: the array has no axis; use a scalar encoding"
        )
    if value.size == 0:
        raise ValueError(
            f"Attempting to encode a numpy array with 0 elements, of shape {value.shape}, which MDS cannot hold; leave "
            "the sample out"
        )
    head = b""
    if form.shape is not None:
        if value.shape != form.shape:
            raise ValueError(f"shape is {value.shape}, the column holds {form.shape}")
    else:
        head = _encode_shape(value.shape)
    if form.dtype is None:
        head = bytes([code]) + head
    return head + np.asarray(value, dtype=little_endian(value.dtype.name)).tobytes()


def decode_array(form: ArrayForm, data: memoryview) -> NDArray:
    """Decode an array as a copy: writable, aligned, contiguous."""
    start, dtype, shape = 0, form.dtype, form.shape
    if dtype is None:
        name = _DTYPE_OF_CODE.get(_byte(data, start, "its dtype"))
        if name is None:
            raise ValueError(f"dtype code {data[start]} is not known")
        dtype, start = little_endian(name), start + 1
    if shape is None:
        shape, start = _decode_shape(data, start)
    expected = math.prod(shape) * dtype.itemsize
    if len(data) - start != expected:
        raise ValueError(f"{len(data) - start} bytes of values where {dtype.name}{list(shape)} takes {expected}")
    return np.frombuffer(bytearray(data[start:]), dtype).reshape(shape)


def encode_scalar(dtype: np.dtype, value: Any) -> bytes:
    """Encode one number: integers exactly, floats rounded to the nearest value of `dtype`."""
    if np.ndim(value) != 0:
        raise TypeError(f"needs one number, got {type(value).__name__} of shape {np.shape(value)}")
    with np.errstate(all="ignore"):
        stored = dtype.type(value)
    if dtype.kind in "iu" and stored != value:
        raise ValueError(f"{value!r} is not a whole number that {dtype.name} holds")
    if dtype.kind == "f" and np.isinf(stored) and not np.isinf(np.float64(value)):
        raise ValueError(f"{value!r} is beyond the largest {dtype.name}")
    return stored.astype(dtype).tobytes()


def decode_scalar(dtype: np.dtype, data: memoryview) -> np.generic:
    """Decode one number as a NumPy scalar."""
    if len(data) != dtype.itemsize:
        raise ValueError(f"{len(data)} bytes where {dtype.name} takes {dtype.itemsize}")
    return np.frombuffer(data, dtype)[0]


def _encode_shape(shape: tuple[int, ...]) -> bytes:
    if len(shape) > _MAX_AXES:
        raise ValueError(f"the array has {len(shape)} axes, at most {_MAX_AXES} can be stored")
    width = max(1, (max(shape).bit_length() + 7) // 8)
    log_width = (width - 1).bit_length()
    return bytes([len(shape) << 2 | log_width]) + b"".join(dim.to_bytes(1 << log_width, "little") for dim in shape)


def _decode_shape(data: memoryview, start: int) -> tuple[tuple[int, ...], int]:
    head = _byte(data, start, "its shape")
    axes, width = head >> 2, 1 << (head & 3)
    end = start + 1 + axes * width
    if len(data) < end:
        raise ValueError(f"it ends inside the shape of {axes} axes")
    shape = tuple(int.from_bytes(data[at : at + width], "little") for at in range(start + 1, end, width))
    if not shape or 0 in shape:
        raise ValueError(f"shape {list(shape)} has no element, which MDS cannot hold")
    return shape, end


def _byte(data: memoryview, at: int, what: str) -> int:
    if len(data) <= at:
        raise ValueError(f"it ends before {what}")
    return data[at]
