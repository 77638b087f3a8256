"""The few numbers of a Parquet footer that are needed, read from its bytes: Thrift's compact protocol.

pyarrow ends the process where the metadata of a row group is damaged or encrypted, instead of raising an error.

    https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
    https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift

Rule. Nothing that the bytes say is believed: what does not fit raises ValueError.
"""

from collections.abc import Mapping
from typing import Any

_TRUE, _FALSE, _BYTE, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 6, 7, 8, 9, 10, 12
_FIXED = {_TRUE: 0, _FALSE: 0, _BYTE: 1, _DOUBLE: 8}  # bytes of a value; those of booleans are in their field's head
_DEEPEST = 24

Wanted = Mapping[int, Any]
"""Fields of a struct by number: None for an integer, the `Wanted` of a struct, or `Each` for a list of structs."""


class Each:
    """The structs of a list, and what is wanted of each."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted


def read_struct(data: bytes, wanted: Wanted, at: int = 0, deep: int = 0) -> tuple[dict[int, Any], int]:
    """Return the wanted fields of the struct at byte `at`, and the byte behind it.

    Values are integers; of a list, the wanted structs in their order.

    >>> read_struct(bytes([0x15, 0x06, 0x19, 0x1C, 0x16, 0x04, 0x00, 0x00]), {1: None, 2: Each({1: None})})
    ({1: 3, 2: [{1: 2}]}, 8)

    Raises:
        ValueError: the bytes are no struct.
    """
    found: dict[int, Any] = {}
    number = 0
    if deep > _DEEPEST:
        raise ValueError("structs are nested too deep")
    try:
        while head := data[at]:
            at, kind = at + 1, head & 15
            if head >> 4:
                number += head >> 4
            else:
                number, at = _signed(data, at)
            if number not in wanted:
                at = _skip(data, at, kind, deep)
            else:
                found[number], at = _read(data, at, kind, wanted[number], deep)
    except IndexError as error:
        raise ValueError("it is cut short") from error
    return found, at + 1


def _read(data: bytes, at: int, kind: int, wanted: Any, deep: int) -> tuple[Any, int]:
    if wanted is None and _BYTE < kind <= _I64:
        return _signed(data, at)
    if isinstance(wanted, Each) and kind == _LIST:
        size, element, at = _list(data, at)
        if element != _STRUCT and size:
            raise ValueError(f"a list of kind {element} where structs are expected")
        listed = []
        for _ in range(size):
            each, at = read_struct(data, wanted.wanted, at, deep + 1)
            listed.append(each)
        return listed, at
    if isinstance(wanted, Mapping) and kind == _STRUCT:
        return read_struct(data, wanted, at, deep + 1)
    raise ValueError(f"a field of kind {kind} where another one is expected")


def _skip(data: bytes, at: int, kind: int, deep: int) -> int:
    if kind in _FIXED:
        return at + _FIXED[kind]
    if _BYTE < kind <= _I64:
        while data[at] > 127:
            at += 1
        return at + 1
    if kind == _BINARY:
        size, at = _unsigned(data, at)
        return at + size
    if kind == _STRUCT:
        return read_struct(data, {}, at, deep + 1)[1]
    if kind in {_LIST, _SET}:
        size, element, at = _list(data, at)
        for _ in range(size):
            at = at + 1 if element in {_TRUE, _FALSE} else _skip(data, at, element, deep + 1)
        return at
    raise ValueError(f"a field of kind {kind}, which is not known")


def _list(data: bytes, at: int) -> tuple[int, int, int]:
    """Return size and kind of the elements of a list, and the byte behind its head."""
    size, kind = data[at] >> 4, data[at] & 15
    at += 1
    if size == 15:
        size, at = _unsigned(data, at)
    if size > len(data) - at or not kind:
        raise ValueError(f"a list of {size} elements does not fit into it")
    return size, kind, at


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := data[at]) > 127:
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
    return value | byte << shift, at + 1


def _signed(data: bytes, at: int) -> tuple[int, int]:
    value, at = _unsigned(data, at)
    return value >> 1 ^ -(value & 1), at
