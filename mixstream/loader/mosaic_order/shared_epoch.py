"""A rank's samples of an epoch, computed once for all its DataLoader workers.

The workers share an unlinked file that they inherit: the first that needs an epoch writes it, each reads its own part.
A process that dies leaves nothing behind, and the kernel releases its lock.

Shape suffixes: W workers, Q batches of a worker, B samples of a batch.
"""

from collections.abc import Callable

import numpy as np

from mixstream.inherited_file import InheritedFile
from mixstream.types import Int64

_HEAD = 8 * 8
_PIECE = 1 << 28  # bytes; the kernel moves less than 2 GiB at once


class SharedEpoch:
    """The newest epoch that a worker has computed.

    >>> shared = SharedEpoch()
    >>> shared.part((0, 0, 1), 1, lambda: np.arange(8).reshape(2, 2, 2)).tolist()
    [[4, 5], [6, 7]]
    """

    def __init__(self) -> None:
        self._file = InheritedFile(_HEAD)

    def part(self, key: tuple[int, int, int], worker: int, compute: Callable[[], Int64]) -> Int64:
        """Return the batches of one worker, int64 [Q, B].

        Args:
            key: whole numbers that identify the epoch and the number of workers.
            worker: which part.
            compute: returns the batches of all workers, int64 [W, Q, B].
        """
        name = np.array((1, *key), dtype=np.int64).tobytes()
        with self._file:
            head = self._file.read(_HEAD)
            if head[: len(name)] != name:
                ids_WQB = compute()
                self._file.write(bytes(_HEAD))
                self._write(ids_WQB)
                head = name + np.array(ids_WQB.shape, dtype=np.int64).tobytes()  # last: a part may have been written
                self._file.write(head)
            _, batches, batch_size = np.frombuffer(head, dtype=np.int64, count=3, offset=len(name)).tolist()
            size = 8 * batches * batch_size
            return self._read(_HEAD + worker * size, size).reshape(batches, batch_size)

    def _write(self, ids: Int64) -> None:
        data = np.ascontiguousarray(ids).reshape(-1).view(np.uint8)
        for at in range(0, len(data), _PIECE):
            self._file.write(data[at : at + _PIECE].tobytes(), _HEAD + at)

    def _read(self, begin: int, size: int) -> Int64:
        pieces = [self._file.read(min(_PIECE, size - at), begin + at) for at in range(0, size, _PIECE)]
        return np.frombuffer(b"".join(pieces), dtype=np.int64)
