"""A file's bytes as an array, mapped instead of read.

Rule: a mapping holds no descriptor, since a run maps thousands of shards, and lives exactly as long as its last view.
Of a file that is opened as a range of it (`FileRange`), the range alone is mapped.
"""

import ctypes
import errno
import io
import mmap
import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


class FileRange(io.FileIO):
    """An open file of which only the bytes [begin, begin + size) are there: read, sought and mapped from `begin` on.

    `fileno` is that of the whole file.

    Args:
        path: of the file.
        begin: the first byte.
        size: bytes.
        opener: as that of `open`.
    """

    def __init__(self, path: str, begin: int, size: int, *, opener: Callable[[str, int], int] | None = None) -> None:
        super().__init__(path, "rb", opener=opener)
        self.begin, self.size = begin, size
        super().seek(begin)

    def tell(self) -> int:
        """Return where the next byte is read, from the beginning of the range."""
        return super().tell() - self.begin

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to an offset from the beginning of the range, from here or from its end."""
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self.size}[whence]
        if at < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(self.name))
        return super().seek(self.begin + at) - self.begin

    def readinto(self, buffer: Any, /) -> int:
        """Read the next bytes into a buffer; none where the range ends."""
        view = memoryview(buffer).cast("B")
        return super().readinto(view[: max(0, self.size - self.tell())]) or 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes, by default all that are left of the range."""
        left = max(0, self.size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left)) or b""

    def readall(self) -> bytes:
        """Return all bytes that are left of the range."""
        parts = []
        while part := self.read():
            parts.append(part)
        return b"".join(parts)


def range_of(file: BinaryIO) -> FileRange | None:
    """Return the range that `file`, which may be buffered, is of a larger file; None if it is a whole one."""
    raw = getattr(file, "raw", file)
    return raw if isinstance(raw, FileRange) else None


def map_file(file: BinaryIO | Path) -> NDArray[np.uint8]:
    """Return the bytes of a file, uint8 [bytes], mapped and read-only; unmapped when the last view is gone.

    An open file may be closed, and its name removed, while the array is in use. Python's own mmap keeps a descriptor
    open for every mapping. Of a `FileRange`, only the pages are mapped that its bytes lie in.

    Raises:
        OSError: the file cannot be opened or mapped.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return map_file(opened)
    part = range_of(file)
    begin, size = (0, os.fstat(file.fileno()).st_size) if part is None else (part.begin, part.size)
    if size == 0:
        return np.empty(0, dtype=np.uint8)
    page = begin - begin % mmap.ALLOCATIONGRANULARITY
    reach = begin + size - page
    return _as_array(_mapped(None, reach, mmap.MAP_SHARED, file, page), reach)[begin - page :]


def map_files(files: Sequence[BinaryIO], *, part: int) -> NDArray[np.uint8]:
    """Return the bytes of several files as one array, as `map_file`: each begins at a multiple of `part`.

    What lies between two files is zero.

    Args:
        files: in order.
        part: bytes; a multiple of the page size.

    Raises:
        OSError: a file cannot be mapped.
    """
    if len(files) == 1:
        return map_file(files[0])
    sizes = [os.fstat(file.fileno()).st_size for file in files]
    begins = [0]
    for size in sizes[:-1]:
        begins.append(begins[-1] + -(-size // part) * part)
    total = begins[-1] + sizes[-1]
    if total == 0:
        return np.empty(0, dtype=np.uint8)
    # A range of addresses that nothing else takes; the files are mapped over it.
    base = _mapped(None, total, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, None)
    data = _as_array(base, total)
    for begin, size, file in zip(begins, sizes, files):
        if size:
            _mapped(base + begin, size, mmap.MAP_SHARED | _MAP_FIXED, file)
    return data


def _mapped(address: int | None, size: int, flags: int, file: BinaryIO | None, begin: int = 0) -> int:
    number = -1 if file is None else file.fileno()
    found = _LIBC.mmap(address, size, mmap.PROT_READ, flags, number, begin)
    if found == ctypes.c_void_p(-1).value:
        code = ctypes.get_errno()
        name = None if file is None else str(file.name)
        raise OSError(code, f"{os.strerror(code)}; could not map {size} bytes", name)
    return found


def _as_array(address: int, size: int) -> NDArray[np.uint8]:
    """Return the mapping at `address`, which ends with the array."""
    memory = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(memory, _LIBC.munmap, address, size).atexit = False  # threads may still read at exit
    data = np.frombuffer(memoryview(memory), dtype=np.uint8)
    data.flags.writeable = False
    return data


_MAP_FIXED = 0x10  # on Linux and macOS; Python does not name it
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
