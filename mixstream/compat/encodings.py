"""`streaming.base.format.{mds,json,xsv}.encodings`: encodings as functions, and as objects with `encode` and `decode`.

Everything is encoded by `mixstream.formats`. What is added: objects by that package's class names, and an error that
programs catch as AttributeError or ValueError, as there, and as `mixstream.errors.EncodingError`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from mixstream import formats
from mixstream.errors import EncodingError


class ValueRefusedError(EncodingError, AttributeError, ValueError):
    """A value that an encoding cannot hold."""


@contextmanager
def _renamed() -> Iterator[None]:
    try:
        yield
    except ValueRefusedError:
        raise
    except EncodingError as error:
        raise ValueRefusedError(*error.args) from error.__cause__


def mds_encode(encoding: str, obj: Any) -> bytes:
    """Return `mixstream.formats.mds_encode` of a value.

    >>> mds_encode("int", 5)
    b'\\x05\\x00\\x00\\x00\\x00\\x00\\x00\\x00'

    Raises:
        ValueRefusedError: there is no such encoding, or it cannot hold the value.
    """
    with _renamed():
        return formats.mds_encode(encoding, obj)


def xsv_encode(encoding: str, value: Any) -> str:
    """Return `mixstream.formats.xsv_encode` of a value.

    Raises:
        ValueRefusedError: there is no such encoding, or it cannot hold the value.
    """
    with _renamed():
        return formats.xsv_encode(encoding, value)


def is_json_encoded(encoding: str, value: Any) -> bool:
    """Return whether a value may stand in a column of JSON of this encoding.

    Raises:
        ValueRefusedError: there is no such encoding.
    """
    with _renamed():
        return formats.is_json_encoded(encoding, value)


class Encoding:
    """An encoding of MDS as an object.

    >>> Int().encode(5), Int().decode(Int().encode(5)), Int().size
    (b'\\x05\\x00\\x00\\x00\\x00\\x00\\x00\\x00', 5, 8)

    Attributes:
        name: of the encoding.
        size: bytes of each value; None if they vary.
    """

    name: ClassVar[str]
    size: int | None

    def __init_subclass__(cls, *, name: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if name:
            cls.name, cls.size = name, formats.get_mds_encoded_size(name)

    def encode(self, obj: Any) -> bytes:
        """Return the bytes of a value; bytes count as a value, and not as encoded ones."""
        if isinstance(obj, bytes) and self.name not in ("bytes", "pkl"):
            raise ValueRefusedError(
                f"encoding {self.name!r}: bytes are no value of it: give the value that they encode"
            )
        return mds_encode(self.name, obj)

    def decode(self, data: bytes) -> Any:
        """Return the value of some bytes."""
        return formats.mds_decode(self.name, data)


class Bytes(Encoding, name="bytes"):
    """Bytes as they are."""


class Str(Encoding, name="str"):
    """Text."""


class Int(Encoding, name="int"):
    """An integer of 64 bits."""


class NDArray(Encoding, name="ndarray"):
    """An array; dtype and shape are stored with each value unless they are given.

    Args:
        dtype: of every array.
        shape: of every array.
    """

    def __init__(self, dtype: str | None = None, shape: tuple[int, ...] | None = None) -> None:
        parts = ["ndarray", *([dtype] if dtype else []), *([",".join(map(str, shape))] if shape else [])]
        self.dtype, self.shape = dtype, shape
        self.name = ":".join(parts)  # type: ignore[misc] - an instance has its own
        self.size = formats.get_mds_encoded_size(self.name)


def _scalar(encoding: str) -> Callable[[], Encoding]:
    return type(_CLASS_OF[encoding], (Encoding,), {"__doc__": f"`{encoding}`."}, name=encoding)


_CLASS_OF = {
    **{f"uint{bits}": f"UInt{bits}" for bits in (8, 16, 32, 64)},
    **{f"int{bits}": f"Int{bits}" for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"Float{bits}" for bits in (16, 32, 64)},
    "str_int": "StrInt",
    "str_float": "StrFloat",
    "str_decimal": "StrDecimal",
    "pil": "PIL",
    "jpeg": "JPEG",
    "jpeg_array": "JPEGArray",
    "png": "PNG",
    "list[pil]": "PILList",
    "list[jpeg]": "JPEGList",
    "list[png]": "PNGList",
    "pkl": "Pickle",
    "json": "JSON",
}
globals().update({name: _scalar(encoding) for encoding, name in _CLASS_OF.items()})
MDS_CLASSES = ("Encoding", "Bytes", "Str", "Int", "NDArray", *_CLASS_OF.values())


class JSONEncoding:
    """A type of JSON columns as an object; `XSVEncoding` is one of CSV, TSV and XSV columns."""

    name: ClassVar[str]

    def __init_subclass__(cls, *, name: str) -> None:
        super().__init_subclass__()
        cls.name = name

    @classmethod
    def is_encoded(cls, obj: Any) -> bool:
        """Return True if a value is of the type.

        Raises:
            ValueRefusedError: it is not.
        """
        if not is_json_encoded(cls.name, obj):
            raise ValueRefusedError(f"{obj!r} is no {cls.name}: convert it before it is written")
        return True


class JSONStr(JSONEncoding, name="str"):
    """Text."""


class JSONInt(JSONEncoding, name="int"):
    """An integer."""


class JSONFloat(JSONEncoding, name="float"):
    """A float."""


class XSVEncoding:
    """A type of CSV, TSV and XSV columns as an object."""

    name: ClassVar[str]

    def __init_subclass__(cls, *, name: str) -> None:
        super().__init_subclass__()
        cls.name = name

    @classmethod
    def encode(cls, obj: Any) -> str:
        """Return the text of a value."""
        return xsv_encode(cls.name, obj)

    @classmethod
    def decode(cls, obj: str) -> Any:
        """Return the value of a text."""
        return formats.xsv_decode(cls.name, obj)


class XSVStr(XSVEncoding, name="str"):
    """Text."""


class XSVInt(XSVEncoding, name="int"):
    """An integer."""


class XSVFloat(XSVEncoding, name="float"):
    """A float."""
