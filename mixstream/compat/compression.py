"""`streaming.base.compression`: compressions as functions, and as objects with a level.

Everything is computed by `mixstream.formats`; of the functions, only the wording of errors is that package's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from mixstream import formats
from mixstream.errors import ConfigError, EncodingError


class NoSuchCompressionError(ConfigError):
    """There is no compression of this name."""


def is_compression(algo: str | None) -> bool:
    """Return whether a compression is known; None, for none, is."""
    return algo is None or formats.is_compression(algo)


def get_compression_extension(algo: str) -> str:
    """Return the extension of files, `zstd` of `zstd:7`."""
    _check(algo)
    return formats.extension(algo)


def compress(algo: str | None, data: bytes) -> bytes:
    """Return `data` compressed; as it is with None."""
    _check(algo)
    return formats.compress(algo, data)


def decompress(algo: str | None, data: bytes) -> bytes:
    """Return what was compressed into `data`, of any size: leave untrusted data alone."""
    _check(algo)
    return formats.decompress(algo, data)


def _check(algo: str | None) -> None:
    if not is_compression(algo):
        raise NoSuchCompressionError(
            f"{algo} is not a supported compression algorithm; choose one of {', '.join(formats.compression_names())}"
        )


class Compression:
    """A compression as an object.

    >>> Zstandard(7).decompress(Zstandard(7).compress(b"tokens"))
    b'tokens'
    """

    extension: ClassVar[str]

    @property
    def algo(self) -> str:
        """The name, with the level if there is one."""
        return self.extension

    @classmethod
    def each(cls) -> Iterator[tuple[str, "Compression"]]:
        """Yield each level by its name, and the default one by that of the family."""
        yield cls.extension, cls()

    def compress(self, data: bytes) -> bytes:
        """Return `data` compressed; raise EncodingError, a TypeError, if it is no bytes."""
        with _bytes(data):
            return formats.compress(self.algo, data)

    def decompress(self, data: bytes) -> bytes:
        """Return what was compressed into `data`; raise EncodingError, a TypeError, if it is no bytes."""
        with _bytes(data):
            return formats.decompress(self.algo, data)


@contextmanager
def _bytes(data: object) -> Iterator[None]:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise EncodingError(f"{type(data).__name__} cannot be compressed: give bytes")
    yield


class LevelledCompression(Compression):
    """A compression that has levels.

    Args:
        level: which; the family's own if not given.
    """

    levels: ClassVar[list[int]]
    default: ClassVar[int]

    def __init__(self, level: int | None = None) -> None:
        self.level = self.default if level is None else level
        _check(self.algo)

    @property
    def algo(self) -> str:
        """The name with the level."""
        return f"{self.extension}:{self.level}"

    @classmethod
    def each(cls) -> Iterator[tuple[str, Compression]]:
        """Yield each level by its name, and the default one by that of the family."""
        yield cls.extension, cls()
        for level in cls.levels:
            yield f"{cls.extension}:{level}", cls(level)


class Brotli(LevelledCompression):
    """Brotli."""

    extension, levels, default = "br", [*range(12)], 11


class Bzip2(LevelledCompression):
    """Bzip2."""

    extension, levels, default = "bz2", [*range(1, 10)], 9


class Gzip(LevelledCompression):
    """Gzip."""

    extension, levels, default = "gz", [*range(10)], 9


class Snappy(Compression):
    """Snappy."""

    extension = "snappy"


class Zstandard(LevelledCompression):
    """Zstandard."""

    extension, levels, default = "zstd", [*range(1, 23)], 3
