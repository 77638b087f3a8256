"""Token files get an index, and the borders of their documents.

Rules. The index is made from headers and sizes, a few reads a file. Border files may have gigabytes: each is mapped
where it is, or fetched once for all processes of the machine, and checked as a whole when a process first needs it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import field, replace
from typing import TYPE_CHECKING

import numpy as np

from mixstream.errors import ConfigError
from mixstream.formats import FORMATS, SHARD_BYTES, Container, Look, Options
from mixstream.lazy import later
from mixstream.records import dataclass
from mixstream.storage import DatasetFiles, map_file
from mixstream.types import Int64, UInt8

if TYPE_CHECKING:
    from mixstream.data.column_index import make_column_index
    from mixstream.formats.columns.files import find_column_files
    from mixstream.formats.cuts import Cuts
    from mixstream.formats.tokens.container import TokenFiles
    from mixstream.formats.tokens.index import TokenIndex, dump_token_index
    from mixstream.formats.tokens.kinds import find_files
else:
    (make_column_index,) = later("mixstream.data.column_index", "make_column_index")
    (find_column_files,) = later("mixstream.formats.columns.files", "find_column_files")
    (Cuts,) = later("mixstream.formats.cuts", "Cuts")
    (TokenFiles,) = later("mixstream.formats.tokens.container", "TokenFiles")
    TokenIndex, dump_token_index = later("mixstream.formats.tokens.index", "TokenIndex", "dump_token_index")
    (find_files,) = later("mixstream.formats.tokens.kinds", "find_files")


@dataclass(frozen=True, kw_only=True)
class TokenIndexMaker:
    """Makes the index of a store of token files. See `storage.IndexMaker`.

    Args:
        name: one of the store's files, or what the files of a pair begin with; None for all files of the directory.
        options: what the user says of them.
        shard_bytes: `SHARD_BYTES`; tests take less.
    """

    name: str | None
    options: Options
    shard_bytes: int = field(default_factory=lambda: SHARD_BYTES)

    @property
    def about(self) -> str:
        """See `IndexMaker.about`."""
        options = self.options
        rows = "documents" if options.seq_len is None else f"rows={options.seq_len} overlap={options.overlap}"
        dtype = f" dtype={options.dtype}" if options.dtype is not None else ""
        column = f" column={options.column}" if options.column is not None else ""
        return f"{self.name or '*'} {rows}{dtype}{column}"

    def make(self, look: Look) -> bytes:
        """See `IndexMaker.make`.

        Raises:
            IndexNotFoundError: there are no token files.
            IndexCorruptError, ShardCorruptError: headers, sizes and files do not belong together.
            ConfigError: the files do not say what they are, nor do the options; or they have no rows.
        """
        if columns := find_column_files(look, self.name):
            listed = self.name is None
            return make_column_index(look, columns, self.options, listed=listed, shard_bytes=self.shard_bytes)
        kind, names = find_files(look, self.name)
        if self.options.column is not None:
            raise ConfigError(
                f"{look.place}: column={self.options.column!r} is given, and there are no Parquet or Arrow files: "
                "leave it out"
            )
        files = tuple(look.each(lambda name: kind.describe(look, name, self.options), names))
        length, overlap = self.options.seq_len, self.options.overlap
        if length is None and (bare := [file.name for file in files if file.borders is None]):
            raise ConfigError(
                f"{look.place}/{bare[0]}: where its documents begin is not stored, so they cannot be read one by one: "
                "give seq_len=... to read rows of that many tokens, and eos_id=... too to pack what it ends"
            )
        longest = max(files, key=lambda file: file.tokens)
        if length is not None and longest.tokens < length + overlap:
            raise ConfigError(
                f"{look.place}: the longest of {len(files)} token files, {longest.name}, has {longest.tokens:,}, "
                f"and a row of seq_len={length} takes {length + overlap}: give a smaller seq_len"
            )
        index = TokenIndex(kind=kind.name, seq_len=length, overlap=overlap, shard_bytes=self.shard_bytes, files=files)
        return dump_token_index(index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Borders:
    """Opens the borders of documents of a store's files: number of the file -> `Cuts`. Picklable without them.

    Args:
        files: where they are.
        index: of the store.
    """

    files: DatasetFiles
    index: TokenIndex
    _known: dict[int, Cuts] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, number: int) -> Cuts | None:
        """Return the borders of a file, checked; None if they are not stored.

        Raises:
            IndexCorruptError: they are inconsistent.
            StoreError: they cannot be read.
        """
        if (known := self._known.get(number)) is not None:
            return known
        file, read = self.index.files[number], FORMATS[self.index.kind].cuts
        if file.borders is None or read is None:
            return None
        data = self.files.companion(file.borders.name, file.borders.bytes)
        return self._known.setdefault(number, read(file, data, _kept))

    def __reduce__(self) -> tuple[object, ...]:
        return _borders, (self.files, self.index)  # mappings belong to their process


def with_borders(container: Container, files: DatasetFiles) -> Container:
    """Return a store of token files with the borders of its documents; other containers as they are."""
    if not isinstance(container, TokenFiles):
        return container
    known = container.cuts_of._known if isinstance(container.cuts_of, Borders) else {}
    borders = Borders(files=files, index=container.index, _known=known)
    if container.cuts_of is None and container.index.seq_len is None:  # only the borders tell which shards there are
        return TokenFiles.of(container.index, borders)
    return replace(container, cuts_of=borders)


def _borders(files: DatasetFiles, index: TokenIndex) -> Borders:
    return Borders(files=files, index=index)


def _kept(parts: Iterable[Int64]) -> UInt8:
    """Return the bytes of arrays behind each other, mapped from a file without a name: it ends with the mapping."""
    with tempfile.TemporaryFile(prefix="mixstream-") as file:
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype="<i8").data)
        file.flush()
        return map_file(file)  # pyright: ignore[reportArgumentType] - tempfile's wrapper of a file
