"""Arrays in `.npy` files: mapped when read, written piece by piece.

Rules: a file is untrusted; its dtype, order, shape and size are compared with what the manifest says before a value of
it is used, and nothing is ever unpickled. Files hold little-endian numbers in C order behind a header of 128 bytes,
whose text is fixed here, so that equal arrays are equal files. A hash of a file is xxh3_128 of all its bytes.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import xxhash
from numpy.typing import NDArray

from mixstream.errors import SelectionError
from mixstream.storage import map_file
from mixstream.types import Buffer

HEADER_BYTES = 128
REMEDY = "it was not used; copy it again from its origin, or make it again"
_PIECE = 1 << 20  # bytes that are hashed at a time


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the first 128 bytes of a `.npy` file (version 1.0) of an array in C order.

    >>> header = npy_header(np.dtype("<u4"), (3,))
    >>> len(header), header[8:68]
    (128, b"v\\x00{'descr': '<u4', 'fortran_order': False, 'shape': (3,), }  ")
    """
    text = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    room = HEADER_BYTES - 10
    assert len(text) < room, "shapes of at most a few dimensions fit"
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + text.encode().ljust(room - 1) + b"\n"


def npy_bytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Return the size of the file of an array."""
    return HEADER_BYTES + dtype.itemsize * math.prod(shape)


def map_npy(file: BinaryIO, *, dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> NDArray[Any]:
    """Return the array of a `.npy` file, mapped and read-only.

    Args:
        file: open for reading; it may be closed while the array is in use.
        dtype: what it must be.
        shape: what it must be.
        where: names the file in errors.

    Raises:
        SelectionError: the file is something else, or is damaged.
    """
    begin = _check_header(file, dtype, shape, where)
    size, expected = os.fstat(file.fileno()).st_size, begin + dtype.itemsize * math.prod(shape)
    if size != expected:
        refuse(where, f"it has {size} bytes, an array of {dtype.str} {shape} takes {expected}")
    if 0 in shape:
        return np.empty(shape, dtype)
    return map_file(file)[begin:].view(dtype).reshape(shape)


def _check_header(file: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> int:
    """Return where the values begin."""
    try:
        file.seek(0)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        begin = file.tell()
        try:
            found_shape, fortran, found = read(file, max_header_size=10_000)
        except SystemError:
            file.seek(begin)  # Python 3.11's parser reads the header, and at times stumbles over other threads
            found_shape, fortran, found = read(file, max_header_size=10_000)
    except Exception as error:
        refuse(where, f"not an .npy file ({str(error)[:200] or type(error).__name__})")
    if found.hasobject or found != dtype or found.str != dtype.str:
        refuse(where, f"it holds {found.str}, the manifest says {dtype.str}")
    if found_shape != shape:
        refuse(where, f"it has the shape {found_shape}, the manifest says {shape}")
    if fortran and len(shape) > 1:
        refuse(where, "its values are in Fortran order; only C order is read (np.ascontiguousarray)")
    return file.tell()


class ArrayWriter:
    """Writes an array to a new `.npy` file, rows in any order or one block after the other.

    Args:
        path: of the file; one that exists is replaced.
        dtype: of the array.
        row_shape: its shape without the first dimension.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...] = ()) -> None:
        self.path, self._dtype, self._row_shape = path, dtype, row_shape
        self._row_bytes = dtype.itemsize * math.prod(row_shape)
        self._end = 0
        self._file = path.open("wb", buffering=0)

    def write(self, rows: NDArray[Any], begin: int | None = None) -> None:
        """Write rows, [n, *row_shape], at row `begin`, by default after the last one."""
        begin = self._end if begin is None else begin
        data = np.ascontiguousarray(rows, dtype=self._dtype)
        assert data.shape[1:] == self._row_shape
        self._put(HEADER_BYTES + begin * self._row_bytes, data.reshape(-1).view(np.uint8).data)
        self._end = max(self._end, begin + len(data))

    def close(self, rows: int | None = None) -> None:
        """Write the header; the file is complete. Rows that were not written are zeros."""
        if self._file.closed:
            return
        rows = self._end if rows is None else rows
        self._put(0, npy_header(self._dtype, (rows, *self._row_shape)))
        self._file.truncate(npy_bytes(self._dtype, (rows, *self._row_shape)))
        self._file.close()

    def abort(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _put(self, at: int, data: Buffer) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self._file.fileno(), view, at)
            view, at = view[done:], at + done


def hash_file(file: BinaryIO | Path) -> str:
    """Return xxh3_128 of a file, in hexadecimal; it is read in pieces."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return hash_file(opened)
    digest = xxhash.xxh3_128()
    while data := file.read(_PIECE):
        digest.update(data)
    return digest.hexdigest()


def refuse(where: str, fact: str) -> NoReturn:
    """Raise SelectionError for a file that is not used."""
    raise SelectionError(f"{where}: {fact}; {REMEDY}")
