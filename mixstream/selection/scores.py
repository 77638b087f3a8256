"""Scores: mapped columns over the rows of one domain, as their reader sees them (format `mixstream.scores/1`).

Rules: a directory holds `manifest.json`, `flags.npy`, and one `.npy` per column, rows in the order of the shard table.
Opening costs O(shards), and values are mapped when they are asked for. What is read from files is checked as it is
read: no value of a scored row is NaN or infinite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError, SelectionError
from mixstream.records import dataclass
from mixstream.selection.artefact_files import check_files, open_files
from mixstream.selection.column import FLAGS, SCORED, Column, ColumnRecord, column_files, columns_json, read_columns
from mixstream.selection.manifest import SCORES, FileRecord, decode_manifest
from mixstream.selection.npy import refuse
from mixstream.selection.parts import Piece, find_parts
from mixstream.selection.shard_table import ShardIdentity, ShardTable
from mixstream.selection.staging import MANIFEST
from mixstream.storage import Retry

_BLOCK = 65536


class ScoresRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of scores."""

    format: str
    domain: str
    shards: tuple[ShardIdentity, ...]
    rows: int
    columns: tuple[ColumnRecord, ...]
    files: dict[str, FileRecord]
    made: dict[str, Any]
    id: str


msgspec.json.Decoder(ScoresRecord)  # made here: threads that are the first to decode one type can crash


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Scores of the rows of one domain. Make them with `ScoresWriter`.

    Attributes:
        path: the directory or URL that they were read from.
        domain: whose rows they describe.
        table: the shards of the domain when they were made.
        columns: by name.
        made: how they were made (`provenance`).
        id: hexadecimal of 128 bits, over shards, columns and values; empty while only parts exist.
        pieces: the files, by rows.
    """

    path: str
    domain: str
    table: ShardTable
    columns: Mapping[str, Column]
    made: Mapping[str, Any]
    id: str
    pieces: Sequence[Piece] = field(repr=False)
    _checked: set[str] = field(default_factory=set, repr=False)

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        domain: str | None = None,
        local: str | None = None,
        retry: Retry = Retry(),  # noqa: B008 - frozen
    ) -> Scores:
        """Open scores; no value is read.

        Args:
            path: of the artefact, or of a directory that has it as `domain`: a path, or the URL of a store.
            domain: name of the sub-directory, where `path` itself is no artefact.
            local: cache directory for the files of a store; None for one below the temp dir.
            retry: of requests to a store.

        Raises:
            SelectionError: there are none, or the manifest is damaged, or parts are missing.
            StoreError: the store cannot be read.
        """
        files, data = open_files(path, domain=domain, local=local, kind="scores", retry=retry)
        if data is None:
            found = find_parts(Path(files.place))
            return cls(
                path=files.place, domain=found.domain, table=found.table, columns=found.columns, made=found.made, id="",
                pieces=found.pieces,
            )  # fmt: skip
        where = f"{files.place}/{MANIFEST}"
        record = decode_manifest(data, ScoresRecord, (SCORES,), where=where)
        table = ShardTable.from_json(msgspec.to_builtins(record.shards), where=where)
        columns = read_columns(record.columns, where=where)
        check_files(record.files, column_files(columns), where=where)
        if record.rows != table.rows:
            refuse(where, f"it says {record.rows} rows, its shards have {table.rows}")
        if record.id != (found := scores_id(table, columns, record.files)):
            refuse(where, f"its id is {record.id[:40]!r}, its content has {found}")
        return cls(
            path=files.place, domain=record.domain, table=table, columns=columns, made=record.made, id=record.id,
            pieces=[Piece(begin=0, end=table.rows, files=files, records=record.files)],
        )  # fmt: skip

    @property
    def rows(self) -> int:
        """Stored rows of the domain."""
        return self.table.rows

    @property
    def merged(self) -> bool:
        """Whether it is one artefact; False while only its parts exist."""
        return bool(self.id)

    @property
    def flags(self) -> NDArray[np.uint8]:
        """Per row, uint8 [rows], mapped: bit 0 scored, bit 1 too short, bit 2 failed; compared with its hash once."""
        flags = self._whole(FLAGS)
        self._verify_once(FLAGS)
        return flags

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which rows have values, bool [rows]; one byte per row in memory."""
        return (self.flags & SCORED) > 0

    def column(self, name: str) -> NDArray[Any]:
        """Return a column, [rows, *shape], mapped and read-only; 0 in rows that were not scored.

        A column of numbers is compared with its hash once, and looked through for values that are not finite. One with
        a shape (embeddings) is too large for that: `blocks` checks its values as it reads them, and `verify` all.

        Raises:
            ConfigError: there is no such column.
            SelectionError: its file is missing or damaged, or only parts exist.
        """
        column = self._column(name)
        values = self._whole(name)
        if not column.shape and name not in self._checked:
            if column.type.kind == "f":
                for _ in self.blocks(name, size=1 << 20):
                    pass
            self._verify_once(name)
        return values

    def blocks(
        self, *names: str, size: int = _BLOCK, begin: int = 0, end: int | None = None
    ) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Yield (ordinal of the first row, {name: array [n, *shape]}) for consecutive rows, `size` at a time.

        Works over parts that are not merged yet, too: borders of blocks do not depend on the parts.

        Args:
            names: columns, or `"flags"`; none for all columns.
            size: rows in a block.
            begin: first ordinal.
            end: ordinal after the last one; None for all rows.

        Raises:
            ConfigError: there is no such column.
            SelectionError: a file is missing or damaged, or a scored row has a value that is not finite.
        """
        end = self.rows if end is None else end
        if not 0 <= begin <= end <= self.rows or size < 1:
            raise ConfigError(f"rows {begin} to {end}, {size} at a time; there are {self.rows} rows")
        columns = {name: None if name == FLAGS else self._column(name) for name in names or self.columns}
        return self._blocks(columns, size, begin, end)

    def verify(self) -> None:
        """Read everything, and compare it with its hashes.

        Raises:
            SelectionError: a file differs from what the manifest says, or a value is not finite.
        """
        for piece in self.pieces:
            piece.files.verify(piece.records)
        for _ in self.blocks():
            pass

    def _blocks(
        self, columns: Mapping[str, Column | None], size: int, begin: int, end: int
    ) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        for at in range(begin, end, size):
            until = min(at + size, end)
            flags = self._slice(FLAGS, None, at, until)
            block = {name: self._slice(name, column, at, until) for name, column in columns.items()}
            for name, column in columns.items():
                if column is not None and len(bad := column.bad_rows(block[name], flags)):
                    refuse(
                        f"{self.path}/{column.file}",
                        f"the value of ordinal {at + int(bad[0])} is not finite, and its row counts as scored",
                    )
            yield at, block

    def _slice(self, name: str, column: Column | None, begin: int, end: int) -> NDArray[Any]:
        """Return some rows of a column; they are copied where parts meet."""
        found = [
            piece.array(name, column)[max(begin - piece.begin, 0) : end - piece.begin]
            for piece in self.pieces
            if piece.begin < end and begin < piece.end
        ]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _verify_once(self, name: str) -> None:
        """Compare a file with its hash, unless that was done: a flipped bit would choose other rows without a word."""
        if name not in self._checked:
            (piece,) = self.pieces
            piece.files.verify({f"{name}.npy": piece.records[f"{name}.npy"]})
            self._checked.add(name)

    def _whole(self, name: str) -> NDArray[Any]:
        column = None if name == FLAGS else self._column(name)
        if len(self.pieces) != 1:
            raise SelectionError(
                f"{self.path}: {name!r} lies in {len(self.pieces)} parts; merge them first "
                "(mixstream.selection.merge_scores), or read `blocks`"
            )
        return self.pieces[0].array(name, column)

    def _column(self, name: str) -> Column:
        if name not in self.columns:
            raise ConfigError(f"{self.path} has no column {name!r}; it has {list(self.columns)}")
        return self.columns[name]


def scores_id(table: ShardTable, columns: Mapping[str, Column], files: Mapping[str, FileRecord]) -> str:
    """Return the id of scores: equal for equal values over equal shards."""
    hashes = [(name, files[name].xxh3_128) for name in column_files(columns)]
    text = msgspec.json.encode([table.digest, columns_json(columns), hashes])
    return blake2b(text, digest_size=16).hexdigest()
