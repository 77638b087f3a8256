"""Column encodings of MDS: one Python value to bytes and back, by the encoding's name (`specs/mds.md` section 3).

This file is the table of codecs and the functions that look them up. A codec raises plain `TypeError` or `ValueError`
with the bare fact; `mds_encode` and `mds_decode` turn these into `EncodingError` (a value that the column cannot hold)
or `ShardCorruptError` (bytes that are not a value of the column). Decoding checks each size that the bytes declare.
`pkl` can run any code and is marked unsafe; callers decide whether to decode it.
"""

import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache, partial
from typing import Any

import numpy as np

from mixstream.errors import EncodingError, MixstreamError, ShardCorruptError
from mixstream.formats.mds import images, ndarrays
from mixstream.records import dataclass

Bytes = bytes | bytearray | memoryview

_INT64 = ndarrays.little_endian("int64")


class CodecError(ValueError):
    """The bare fact: what is wrong with a value or with its bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """Both directions of one encoding, and its size in bytes (None if it varies)."""

    encode: Callable[[Any], bytes]
    decode: Callable[[memoryview], Any]
    size: int | None = None


def get_mds_encodings() -> set[str]:
    """Return the names of all encodings; `ndarray` also takes `ndarray:DTYPE` and `ndarray:DTYPE:DIM,DIM,…`."""
    return {*_CODECS, "ndarray"}


def is_mds_encoding(encoding: str) -> bool:
    """Return whether a column can have this encoding."""
    return _find(encoding) is not None


def is_mds_encoding_safe(encoding: str) -> bool:
    """Return whether decoding is safe for untrusted data; False only for `pkl`, which runs code of the data."""
    return encoding != "pkl"


def get_mds_encoded_size(encoding: str) -> int | None:
    """Return the size in bytes of every value under this encoding, or None if it varies.

    Raises:
        EncodingError: there is no such encoding.
    """
    return require_codec(encoding).size


def mds_encode(encoding: str, obj: Any) -> bytes:
    """Encode one value. A `bytes` object counts as already encoded, under every encoding, and is returned unchanged.

    >>> mds_encode("ndarray:uint16:3", np.array([1, 2, 3], dtype=np.uint16)), mds_encode("str", "red")
    (b'\\x01\\x00\\x02\\x00\\x03\\x00', b'red')

    Raises:
        EncodingError: there is no such encoding, or it cannot hold the value.
    """
    codec = require_codec(encoding)
    if isinstance(obj, bytes):
        return obj
    try:
        return encode_value(codec, obj)
    except CodecError as error:
        raise EncodingError(f"encoding {encoding!r}: {error}") from error


def mds_decode(encoding: str, data: Bytes) -> Any:
    """Decode one value. Arrays are writable copies, scalars are NumPy scalars, and `int` gives int.

    `pkl` is unpickled, which runs any code in the data: check `is_mds_encoding_safe` first.

    Raises:
        EncodingError: there is no such encoding.
        ShardCorruptError: the bytes are not a value of this encoding.
    """
    codec = require_codec(encoding)
    try:
        return decode_value(codec, memoryview(data))
    except CodecError as error:
        raise ShardCorruptError(f"not a value of encoding {encoding!r}: {error}") from error


def fixed_array(encoding: str) -> tuple[np.dtype, tuple[int, ...]] | None:
    """Return dtype and shape of a numeric encoding of fixed size, else None. The bytes are the values alone.

    `"ndarray:uint16:2048"` gives `(uint16, (2048,))`, `"int"` gives `(int64, ())`.
    """
    if encoding == "int":
        return _INT64, ()
    if encoding in ndarrays.DTYPE_NAMES:
        return ndarrays.little_endian(encoding), ()
    form = _array_form(encoding)
    return None if form is None or form.dtype is None or form.shape is None else (form.dtype, form.shape)


def fixed_row_tokens(shards: Iterable[Mapping[str, str]]) -> int | None:
    """Return the tokens of a row if every shard's columns (name -> encoding) have `tokens` of one fixed length."""
    found = [fixed_array(encoding) for encoding in {columns.get("tokens", "") for columns in shards}]
    lengths = {array[1][0] if array is not None and len(array[1]) == 1 else None for array in found}
    return lengths.pop() if len(lengths) == 1 else None


def ndarray_dtype(encoding: str) -> np.dtype | None:
    """Return the dtype of an `ndarray:DTYPE…` encoding; None for other encodings and for plain `ndarray`."""
    form = _array_form(encoding)
    return None if form is None else form.dtype


def require_codec(encoding: str) -> Codec:
    """Return the codec of an encoding.

    Raises:
        EncodingError: there is no such encoding.
    """
    codec = _find(encoding)
    if codec is None:
        raise EncodingError(
            f"encoding {encoding!r} is not known; choose among {', '.join(sorted(get_mds_encodings()))}, "
            f"ndarray:DTYPE and ndarray:DTYPE:DIM,DIM with a dtype of {', '.join(ndarrays.DTYPE_NAMES)}"
        )
    return codec


def encode_value(codec: Codec, value: object) -> bytes:
    """Encode with a codec; CodecError with the bare fact if it cannot hold the value."""
    try:
        return codec.encode(value)
    except MixstreamError:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError, OSError) as error:
        raise CodecError(str(error) or type(error).__name__) from error


def decode_value(codec: Codec, data: memoryview) -> Any:
    """Decode with a codec; CodecError with the bare fact if the bytes are not such a value."""
    try:
        return codec.decode(data)
    except MixstreamError:
        raise
    except (ValueError, OverflowError, RecursionError, InvalidOperation) as error:
        raise CodecError(str(error) or type(error).__name__) from error


def _array_form(encoding: str) -> ndarrays.ArrayForm | None:
    name, _, form = encoding.partition(":")
    return ndarrays.parse_form(form) if name == "ndarray" else None


@lru_cache(maxsize=1024)
def _find(encoding: str) -> Codec | None:
    codec = _CODECS.get(encoding)
    if codec is None and (form := _array_form(encoding)) is not None:
        codec = Codec(
            encode=partial(ndarrays.encode_array, form), decode=partial(ndarrays.decode_array, form), size=form.size
        )
    return codec


def _expect(value: object, kind: type, *also: type) -> Any:
    if not isinstance(value, (kind, *also)):
        raise TypeError(f"needs {kind.__name__}, got {type(value).__name__}")
    return value


def _encode_bytes(value: object) -> bytes:
    # `mds_encode` handles `bytes` itself; mutable buffers are copied.
    return bytes(_expect(value, bytes, bytearray, memoryview))


def _encode_int(value: object) -> bytes:
    return ndarrays.encode_scalar(_INT64, _expect(value, int, np.integer))


def _decode_int(data: memoryview) -> int:
    return int(ndarrays.decode_scalar(_INT64, data))


def _encode_json(value: object) -> bytes:
    return json.dumps(value.tolist() if isinstance(value, np.ndarray) else value).encode()


def _encode_pickle(value: object) -> bytes:
    try:
        return pickle.dumps(value)
    except (pickle.PicklingError, AttributeError) as error:
        raise ValueError(str(error)) from error


def _decode_pickle(data: memoryview) -> Any:
    try:
        return pickle.loads(data)  # noqa: S301 (callers ask the user for permission)
    except Exception as error:  # the code that it runs may raise anything
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _text(data: memoryview) -> str:
    return str(data, "utf-8")


def _as_text(kind: type) -> Codec:
    """Return the codec of numbers of any precision, stored as text."""
    return Codec(encode=lambda value: str(_expect(value, kind)).encode(), decode=lambda data: kind(_text(data)))


def _scalar(name: str) -> Codec:
    dtype = ndarrays.little_endian(name)
    encode, decode = partial(ndarrays.encode_scalar, dtype), partial(ndarrays.decode_scalar, dtype)
    return Codec(encode=encode, decode=decode, size=dtype.itemsize)


_JPEG_ARRAY = Codec(encode=images.encode_jpeg_array, decode=images.decode_jpeg_array)
_CODECS: dict[str, Codec] = {
    "bytes": Codec(encode=_encode_bytes, decode=bytes),
    "str": Codec(encode=lambda value: _expect(value, str).encode(), decode=_text),
    "int": Codec(encode=_encode_int, decode=_decode_int, size=_INT64.itemsize),
    **{name: _scalar(name) for name in ndarrays.DTYPE_NAMES},
    "str_int": _as_text(int),
    "str_float": _as_text(float),
    "str_decimal": _as_text(Decimal),
    "json": Codec(encode=_encode_json, decode=lambda data: json.loads(_text(data))),
    "pkl": Codec(encode=_encode_pickle, decode=_decode_pickle),
    "pil": Codec(encode=images.encode_pil, decode=images.decode_pil),
    "jpeg": Codec(encode=images.encode_jpeg, decode=images.decode_file),
    "png": Codec(encode=images.encode_png, decode=images.decode_file),
    "jpeg_array": _JPEG_ARRAY,
    "jpegarray": _JPEG_ARRAY,
    "list[pil]": Codec(encode=partial(images.encode_list, images.encode_pil), decode=images.decode_pil_list),
    "list[jpeg]": Codec(encode=partial(images.encode_list, images.encode_jpeg), decode=images.decode_file_list),
    "list[png]": Codec(encode=partial(images.encode_list, images.encode_png), decode=images.decode_file_list),
}
