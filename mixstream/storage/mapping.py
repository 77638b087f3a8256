"""A file's bytes as an array, mapped instead of read.

Rule: a mapping holds no descriptor, since a run maps thousands of shards, and lives exactly as long as its last view.
"""

import ctypes
import mmap
import os
import weakref
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray


def map_file(file: BinaryIO | Path) -> NDArray[np.uint8]:
    """Return the bytes of a file, uint8 [bytes], mapped and read-only; unmapped when the last view is gone.

    An open file may be closed, and its name removed, while the array is in use. Python's own mmap keeps a descriptor
    open for every mapping.

    Raises:
        OSError: the file cannot be opened or mapped.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return map_file(opened)
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        return np.empty(0, dtype=np.uint8)
    address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)}; could not map {size} bytes", str(file.name))
    memory = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(memory, _LIBC.munmap, address, size).atexit = False  # threads may still read at exit
    data = np.frombuffer(memoryview(memory), dtype=np.uint8)
    data.flags.writeable = False
    return data


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
