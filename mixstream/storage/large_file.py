"""A large file on local disk that is read in blocks, so that it is never in memory as a whole."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

from mixstream.storage.disk_errors import named_disk_errors

_BLOCK = 1 << 18  # bytes


class LargeFile:
    """A file that is read in blocks, any number of times, while its context lasts; one put in its place is not seen.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     _ = Path(place, "index.json").write_bytes(b"12345")
    ...     with LargeFile(Path(place, "index.json")) as file:
    ...         print(list(file.blocks(size=3)), file.read())
    [b'123', b'45'] b'12345'

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO

    def __enter__(self) -> Self:
        """Open the file.

        Raises:
            StoreError: the disk does not let it be read.
        """
        with named_disk_errors(self._path, "read"):
            self._file = self._path.open("rb", buffering=0)
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def blocks(self, *, size: int = _BLOCK) -> Iterator[bytes]:
        """Yield all of it, `size` bytes at a time.

        Raises:
            StoreError: the disk does not let it be read.
        """
        at = 0
        while True:
            with named_disk_errors(self._path, "read"):
                block = os.pread(self._file.fileno(), size, at)
            if not block:
                return
            at += len(block)
            yield block

    def read(self) -> bytes:
        """Return all of it; errors are those of `blocks`."""
        return b"".join(self.blocks())
