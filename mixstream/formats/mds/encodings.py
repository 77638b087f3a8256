"""Column encodings of MDS: one Python value to bytes and back, by the encoding's name (`specs/mds.md` section 3).

This file is the table and its doors. A codec raises plain `TypeError` or `ValueError` with the bare fact; the doors
turn it into `EncodingError` (a value that its column cannot hold) or `ShardCorruptError` (bytes that are not what the
column says). Decoding never trusts a size that the bytes declare, and `pkl`, which can run any code, is marked unsafe:
who may decode it is decided by the caller.
"""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache, partial
from typing import Any

import numpy as np

from mixstream.errors import EncodingError, MixstreamError, ShardCorruptError
from mixstream.formats.mds import images
from mixstream.formats.mds.ndarrays import (
    DTYPE_NAMES,
    ArrayForm,
    decode_array,
    decode_scalar,
    encode_array,
    encode_scalar,
    little_endian,
    parse_form,
)

Bytes = bytes | bytearray | memoryview

_INT64 = little_endian("int64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """Both directions of one encoding, and its fixed size in bytes (None where it varies)."""

    encode: Callable[[Any], bytes]
    decode: Callable[[memoryview], Any]
    size: int | None = None


def get_mds_encodings() -> set[str]:
    """List the names of all encodings; `ndarray` also takes `ndarray:DTYPE` and `ndarray:DTYPE:DIM,DIM,…`."""
    return {*_CODECS, "ndarray"}


def is_mds_encoding(encoding: str) -> bool:
    """Tell whether a column can have this encoding."""
    return _find(encoding) is not None


def is_mds_encoding_safe(encoding: str) -> bool:
    """Tell whether decoding it cannot run code out of the data; False for `pkl` alone."""
    return encoding != "pkl"


def get_mds_encoded_size(encoding: str) -> int | None:
    """Return the bytes that every value takes under this encoding, or None where they vary.

    Raises:
        EncodingError: no such encoding.
    """
    return require_codec(encoding).size


def mds_encode(encoding: str, obj: Any) -> bytes:
    """Encode one value. A `bytes` object passes unchanged under every encoding: it is taken as already encoded.

    Raises:
        EncodingError: no such encoding, or a value that it cannot hold.
    """
    codec = require_codec(encoding)
    if isinstance(obj, bytes):
        return obj
    try:
        return encode_value(codec, obj)
    except MixstreamError:
        raise
    except ValueError as error:
        raise EncodingError(f"encoding {encoding!r}: {error}") from error


def mds_decode(encoding: str, data: Bytes) -> Any:
    """Decode one value. Arrays come in memory of their own and writable, scalars as NumPy scalars, `int` as int.

    `pkl` is unpickled, which runs whatever code the data says: ask `is_mds_encoding_safe` first.

    Raises:
        EncodingError: no such encoding.
        ShardCorruptError: the bytes are not a value of this encoding.
    """
    codec = require_codec(encoding)
    try:
        return decode_value(codec, memoryview(data))
    except MixstreamError:
        raise
    except ValueError as error:
        raise ShardCorruptError(f"not a value of encoding {encoding!r}: {error}") from error


def fixed_array(encoding: str) -> tuple[np.dtype, tuple[int, ...]] | None:
    """Return dtype and shape of a numeric encoding whose values all take the same bytes, else None.

    `"ndarray:uint16:2048"` gives `(uint16, (2048,))`, `"int"` gives `(int64, ())`. The payload is the values alone.
    """
    if encoding == "int":
        return _INT64, ()
    if encoding in DTYPE_NAMES:
        return little_endian(encoding), ()
    form = _array_form(encoding)
    return None if form is None or form.dtype is None or form.shape is None else (form.dtype, form.shape)


def ndarray_dtype(encoding: str) -> np.dtype | None:
    """Return the dtype that an `ndarray:DTYPE…` encoding fixes; None for any other, plain `ndarray` included."""
    form = _array_form(encoding)
    return None if form is None else form.dtype


def require_codec(encoding: str) -> Codec:
    """Find the codec of an encoding.

    Raises:
        EncodingError: no such encoding.
    """
    codec = _find(encoding)
    if codec is None:
        raise EncodingError(
            f"encoding {encoding!r} is not known; choose among {', '.join(sorted(get_mds_encodings()))}, "
            f"ndarray:DTYPE and ndarray:DTYPE:DIM,DIM with a dtype of {', '.join(DTYPE_NAMES)}"
        )
    return codec


def encode_value(codec: Codec, value: object) -> bytes:
    """Encode with a codec that was found before; ValueError with the bare fact where the value does not fit."""
    try:
        return codec.encode(value)
    except MixstreamError:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError, OSError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def decode_value(codec: Codec, data: memoryview) -> Any:
    """Decode with a codec that was found before; ValueError with the bare fact where the bytes do not fit."""
    try:
        return codec.decode(data)
    except MixstreamError:
        raise
    except (ValueError, OverflowError, RecursionError, InvalidOperation) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _array_form(encoding: str) -> ArrayForm | None:
    name, _, form = encoding.partition(":")
    return parse_form(form) if name == "ndarray" else None


@lru_cache(maxsize=1024)
def _find(encoding: str) -> Codec | None:
    codec = _CODECS.get(encoding)
    if codec is None and (form := _array_form(encoding)) is not None:
        codec = Codec(encode=partial(encode_array, form), decode=partial(decode_array, form), size=form.size)
    return codec


def _expect(kind: type, value: object) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"needs {kind.__name__}, got {type(value).__name__}")
    return value


def _encode_bytes(value: object) -> bytes:
    # `bytes` itself never comes here (`mds_encode`); its mutable sisters are copied.
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"needs bytes, got {type(value).__name__}")
    return bytes(value)


def _encode_int(value: object) -> bytes:
    if not isinstance(value, int | np.integer):
        raise TypeError(f"needs int, got {type(value).__name__}")
    return encode_scalar(_INT64, value)


def _decode_int(data: memoryview) -> int:
    return int(decode_scalar(_INT64, data))


def _encode_json(value: object) -> bytes:
    return json.dumps(value.tolist() if isinstance(value, np.ndarray) else value).encode()


def _encode_pickle(value: object) -> bytes:
    try:
        return pickle.dumps(value)
    except (pickle.PicklingError, AttributeError) as error:
        raise ValueError(str(error)) from error


def _decode_pickle(data: memoryview) -> Any:
    try:
        return pickle.loads(data)  # noqa: S301 (reached only where the user has asked for it)
    except Exception as error:  # what it runs may raise anything
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _text(data: memoryview) -> str:
    return str(data, "utf-8")


def _as_text(kind: type) -> Codec:
    """Numbers of any precision as the text that `str` gives."""
    return Codec(encode=lambda value: str(_expect(kind, value)).encode(), decode=lambda data: kind(_text(data)))


def _scalar(name: str) -> Codec:
    dtype = little_endian(name)
    return Codec(encode=partial(encode_scalar, dtype), decode=partial(decode_scalar, dtype), size=dtype.itemsize)


_JPEG_ARRAY = Codec(encode=images.encode_jpeg_array, decode=images.decode_jpeg_array)
_IMAGES = {
    "pil": Codec(encode=images.encode_pil, decode=images.decode_pil),
    "jpeg": Codec(encode=images.encode_jpeg, decode=images.decode_file),
    "png": Codec(encode=images.encode_png, decode=images.decode_file),
}
_CODECS: dict[str, Codec] = {
    "bytes": Codec(encode=_encode_bytes, decode=bytes),
    "str": Codec(encode=lambda value: _expect(str, value).encode(), decode=_text),
    "int": Codec(encode=_encode_int, decode=_decode_int, size=_INT64.itemsize),
    **{name: _scalar(name) for name in DTYPE_NAMES},
    "str_int": _as_text(int),
    "str_float": _as_text(float),
    "str_decimal": _as_text(Decimal),
    "json": Codec(encode=_encode_json, decode=lambda data: json.loads(_text(data))),
    "pkl": Codec(encode=_encode_pickle, decode=_decode_pickle),
    **_IMAGES,
    "jpeg_array": _JPEG_ARRAY,
    "jpegarray": _JPEG_ARRAY,
    **{
        f"list[{name}]": Codec(
            encode=partial(images.encode_list, codec.encode),
            decode=images.decode_pil_list if name == "pil" else images.decode_file_list,
        )
        for name, codec in _IMAGES.items()
    },
}
