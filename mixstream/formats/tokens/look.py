"""How formats look at the files of a store: through a small protocol, since nothing here opens a file."""

from collections.abc import Callable, Iterable
from typing import BinaryIO, Protocol, TypeVar

from mixstream.errors import ConfigError, StoreNotFoundError
from mixstream.records import dataclass
from mixstream.types import Int64, UInt8

T = TypeVar("T")

Keep = Callable[[Iterable[Int64]], UInt8]
"""Stores int64 arrays behind each other, outside of this process's memory, and returns their bytes, mapped."""

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
"""Dtypes of tokens; all are little-endian."""


class Described(Protocol):
    """What is known of a file."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    @property
    def identity(self) -> str:
        """What changes whenever the file does."""
        ...


class Look(Protocol):
    """The files of a store: local ones, or objects."""

    @property
    def place(self) -> str:
        """The store, for errors."""
        ...

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of all files that begin with `prefix`, sorted."""
        ...

    def info(self, name: str) -> Described:
        """Return what is known of a file; raise StoreNotFoundError if there is none."""
        ...

    def read(self, name: str, begin: int, end: int) -> bytes:
        """Return the bytes [begin, end) of a file."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Return a file, of which only those bytes are fetched that are read."""
        ...

    def each(self, act: Callable[[str], T], names: Iterable[str]) -> list[T]:
        """Return what `act` returns for each of the names, in their order; several may be looked at at once."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user says of token files.

    Args:
        seq_len: tokens from the begin of a row to that of the next; None if samples are documents.
        overlap: tokens of a row beyond that: 0 or 1.
        dtype: of the tokens; None if the files say it.
        column: of Parquet and Arrow files, the one that has the tokens; None for input_ids or tokens.
    """

    seq_len: int | None = None
    overlap: int = 0
    dtype: str | None = None
    column: str | None = None


def size_of(look: Look, name: str) -> Described | None:
    """Return what is known of a file; None if there is none."""
    try:
        return look.info(name)
    except StoreNotFoundError:
        return None


def agreed(name: str, stored: str, given: str | None, *, says: str) -> str:
    """Return the dtype that a file says it has, which the user may repeat.

    Raises:
        ConfigError: the user gave another one.
    """
    if given not in (None, stored):
        raise ConfigError(f"{name}: dtype={given!r} is given, and {says} {stored}: leave dtype out")
    return stored
