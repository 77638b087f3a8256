"""A file below the temporary directory that saves a later process some work.

Rules. It is there, whole, or not there: that it cannot be read or written is no error. The directory is private to the
user, and nothing is read of it, or written, before that was checked. There is one for each key, the latest: so what is
left below the temporary directory does not grow with the number of versions.
"""

from contextlib import suppress

from mixstream.errors import MixstreamError
from mixstream.storage.cache.own_files import read_own
from mixstream.storage.cache.owner import CacheOwner, private_directory


class KeptFile:
    """The file of a key.

    Args:
        key: names what it is about.
        name: of the file, in a directory of its own.
    """

    def __init__(self, key: str, name: str) -> None:
        self._key, self._name = key, name

    def read(self) -> bytes | None:
        """Return its content; None if there is none that this user has written."""
        with suppress(MixstreamError, OSError):
            if (owner := self._owner()).directory.parent.is_dir():
                owner.make_private()
                return read_own(owner.directory.parent, self._name)
        return None

    def write(self, data: bytes) -> None:
        """Write its content, if it can be written; what another process writes at the same time may stay instead."""
        with suppress(MixstreamError, OSError):
            owner = self._owner()
            owner.make_private()
            owner.put(owner.directory.parent, self._name, data)

    def _owner(self) -> CacheOwner:
        """Return what checks the directory. Raises OSError if there is no temporary directory at all."""
        directory = private_directory(self._key) / self._name
        return CacheOwner(directory=directory, origin=None, digest="", private="keep a file")
