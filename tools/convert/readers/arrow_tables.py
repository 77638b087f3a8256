"""What the readers of Parquet and of Arrow share: which columns are read, which groups of rows a slice has, and errors.

Rule: what pyarrow raises becomes an error that names the file. A file whose bytes are not as its format says is
damaged, so what was read before stays; one that pyarrow does not read, though it is whole, stops the conversion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mixstream.errors import MixstreamError

from ..files.source_files import DamagedFileError, OnBytes, Slice, SourceError, SourceFile
from .reader import Columns


@contextmanager
def named_errors(file: SourceFile, kind: str) -> Iterator[None]:
    """Turn errors of pyarrow into SourceError and DamagedFileError; `kind` names the format, as in `Parquet`."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowNotImplementedError, NotImplementedError) as error:
        raise SourceError(f"{file.path}: this {kind} data cannot be read: {_head(error)}") from error
    except MemoryError as error:
        raise SourceError(
            f"{file.path}: there is not enough memory to read this {kind} data: {_head(error)}"
        ) from error
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        if isinstance(error, MixstreamError) or (isinstance(error, OSError) and error.errno is not None):
            raise  # of the store, or of the system; those of pyarrow have no number
        if "crypt" in str(error):
            raise SourceError(f"{file.path}: it is encrypted {kind}. Write it without encryption first") from error
        raise DamagedFileError(f"{file.path}: the {kind} data is damaged or cut short: {_head(error)}") from error


def columns_to_read(file: SourceFile, names: Sequence[str], wanted: Columns) -> list[str] | None:
    """The columns of a table that are needed, in the table's order; None for all.

    All are read where the table lacks one, so that errors can name those that it has; which of them a document needs,
    is not known here. Raises SourceError if two columns have the name of one that is needed.
    """
    twice = {name for name, count in Counter(names).items() if count > 1}
    if clash := sorted(twice if wanted is None else twice & wanted):
        raise SourceError(
            f"{file.path}: {Counter(names)[clash[0]]} columns are called {clash[0]!r}, so it is not clear which one is "
            "meant. Rename them"
        )
    if wanted is None:
        return None
    there = set(names)
    for name in wanted:
        inside = "." in name and name.partition(".")[0] in there
        begins = any(other.startswith(f"{name}.") and other in there for other in wanted)
        if not (name in there or inside or begins):
            return None
    return [name for name in names if name in wanted]


def groups_of(source: Slice, count: int) -> range:
    """The groups of rows that a slice has, of `count` in the file: group `k` begins at byte `size * k // count`."""
    size = source.file.size
    if not size:
        return range(0)

    def first_from(byte: int) -> int:
        """The first group that begins at this byte or behind it."""
        return min(-(-byte * count // size), count)

    return range(first_from(source.start), first_from(source.stop) if source.stop < size else count)


def _head(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


class Progress:
    """Reports the bytes of a slice as its rows are read, since not all of its columns are."""

    def __init__(self, on_bytes: OnBytes, source: Slice, rows: int) -> None:
        self._on_bytes, self._size, self._rows = on_bytes, source.stop - source.start, max(rows, 1)
        self._reported = 0

    def read(self, rows: int) -> None:
        """So many rows were read."""
        now = self._size * min(rows, self._rows) // self._rows
        if now > self._reported:
            self._on_bytes(now - self._reported)
            self._reported = now

    def end(self) -> None:
        """All were read."""
        self.read(self._rows)
